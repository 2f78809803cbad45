//go:build !race

// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
)

const deadToken = "no longer accepts its token"

// asked and imported are grants that need no consent, and such that count as having needed it.
func asked(c *crash) {
	c.ok(logical.UpdateOperation, "grants/g", map[string]any{
		"auth_server": c.sandbox.AuthServer(), "access": incomingAccess, "ask_again": true,
	})
}

func imported(c *crash) {
	elsewhere(c)
	c.ok(logical.UpdateOperation, "grants/g", c.fields)
}

// read is a read of the grant. A grant that is lost is not read again.
func read(c *crash) error {
	lease, err := c.try(logical.ReadOperation, "token/g", nil)
	if g, _ := loadGrant(c.ctx, c.storage, "g"); g != nil && g.Status == statusLost {
		return nil
	}
	return c.hold(lease, err)
}

// revoke revokes the lease. Once that is done, its value is worthless.
func revoke(c *crash) error {
	_, err := c.revoke(c.lease)
	if err == nil && c.sandbox.Live(tokenOf(c.lease)) {
		c.Error("the value of a revoked lease is live")
	}
	return err
}

func rotations() (all []scenario) {
	for _, kind := range []struct {
		name    string
		make    func(*crash)
		because string
	}{{"no consent", asked, ""}, {"consent", imported, deadToken}} {
		leased := func(c *crash) {
			kind.make(c)
			_ = c.hold(c.read("g"), nil)
		}
		all = append(all,
			scenario{
				name: "read, " + kind.name, prepare: kind.make, lostBecause: kind.because,
				act: func(c *crash) { _ = read(c) }, again: read,
			},
			scenario{
				name: "renewal, " + kind.name, prepare: leased, lostBecause: kind.because,
				act: func(c *crash) { _ = c.renewed(c.renew(c.lease)) },
				again: func(c *crash) error {
					if c.renewed(c.renew(c.lease)) == nil {
						return nil
					}
					return read(c)
				},
			},
			scenario{
				name: "revocation, " + kind.name, prepare: leased, lostBecause: kind.because,
				act: act(revoke), again: revoke,
			},
			scenario{
				name: "explicit rotation, " + kind.name, prepare: kind.make, lostBecause: kind.because, pairs: true,
				act:   func(c *crash) { _, _ = c.try(logical.UpdateOperation, "rotate/g", nil) },
				again: read,
			},
			scenario{
				name: "keep-alive, " + kind.name, lostBecause: kind.because,
				prepare: func(c *crash) {
					kind.make(c)
					c.clock.Advance(idleTime + 2*time.Hour)
				},
				act: func(c *crash) { c.tend(0) },
			},
		)
	}
	return all
}

// asking returns what is written to ask for rights that need no consent, or an owner's consent.
func asking(c *crash, consent, anew bool) map[string]any {
	fields := map[string]any{"wallet_address": c.sandbox.WalletAddress("shop"), "access": incomingAccess}
	if consent {
		fields = map[string]any{
			"wallet_address": c.sandbox.WalletAddress("alice"), "access": c.outgoing(), "finish_uri": finishURI,
		}
	}
	if anew {
		fields["ask_again"] = true
	}
	return fields
}

func write(fields func(c *crash) map[string]any) func(c *crash) error {
	return func(c *crash) error {
		_, err := c.try(logical.UpdateOperation, "grants/g", fields(c))
		return err
	}
}

func act(do func(c *crash) error) func(c *crash) { return func(c *crash) { _ = do(c) } }

// isPending gets the consent of the owner who is being asked, again if the time was over, and then a
// token.
func isPending(c *crash) error {
	if err := c.again(c); err != nil {
		return err
	}
	told, err := c.try(logical.ReadOperation, "grants/g", nil)
	if err != nil {
		return err
	}
	link, _ := told.Data["interact_url"].(string)
	if link == "" {
		return fmt.Errorf("the owner is not asked: %v", told.Data["status"])
	}
	c.redirect = c.decided(link, true)
	if err := continueWith(c); err != nil {
		return err
	}
	return read(c)
}

// continueWith hands in the redirect.
func continueWith(c *crash) error {
	fields := map[string]any{}
	if c.redirect != "" {
		fields["redirect"] = c.redirect
	}
	_, err := c.try(logical.UpdateOperation, "grants/g/continue", fields)
	return err
}

// continueAgain hands the redirect in until nobody is asked any more.
func continueAgain(c *crash) error {
	err := continueWith(c)
	if g, loadErr := loadGrant(c.ctx, c.storage, "g"); loadErr == nil && g.Pending == nil {
		return nil
	}
	return err
}

func consenting(c *crash) {
	c.redirect = c.decided(c.rig.asked("g", finishURI), true)
}

func polled(c *crash) { c.decided(c.rig.asked("g", ""), true) }

func asks() []scenario {
	const answerLost = "answer to the consent was lost"
	forIncome := func(c *crash) map[string]any { return asking(c, false, false) }
	incomeAnew := func(c *crash) map[string]any { return asking(c, false, true) }
	forPayments := func(c *crash) map[string]any { return asking(c, true, false) }
	paymentsAnew := func(c *crash) map[string]any { return asking(c, true, true) }
	nothing := func(*crash) {}
	return []scenario{
		{
			name: "asking anew, the token is dead", act: act(read), again: read,
			prepare: func(c *crash) { asked(c); c.cancelAtServer("g"); c.clock.Advance(askInterval) },
		},
		{name: "asking, no consent", prepare: nothing, act: act(write(forIncome)), again: write(forIncome)},
		{name: "asking, no consent, nobody asks again", prepare: nothing, act: act(write(forIncome)), done: func(c *crash) error {
			if len(c.grants()) == 0 {
				return nil
			}
			return read(c)
		}},
		{name: "asking, no consent, while a grant is active", prepare: asked, act: act(write(incomeAnew)), again: read},
		{name: "asking, consent", prepare: nothing, act: act(write(forPayments)), again: write(forPayments), done: isPending},
		{
			name: "asking, consent, while a grant is active", prepare: imported, act: act(write(paymentsAnew)),
			again: write(forPayments), done: func(c *crash) error {
				if err := read(c); err != nil {
					return err
				}
				return isPending(c)
			},
		},
		{
			name: "asking, consent, while the grant is lost", act: act(write(forPayments)), again: write(forPayments),
			prepare: func(c *crash) { imported(c); c.cancelAtServer("g"); _ = read(c); c.clock.Advance(time.Minute) }, done: isPending,
		},
		{name: "continuation", prepare: consenting, act: act(continueWith), again: continueAgain, lostBecause: answerLost},
		{name: "continuation, by the worker", prepare: consenting, act: act(continueWith), lostBecause: answerLost, done: workedOn},
		{name: "continuation, polled", prepare: polled, act: act(continueWith), again: continueAgain, lostBecause: answerLost},
		{
			name: "continuation, while a grant is active", prepare: func(c *crash) { imported(c); consenting(c) },
			act: act(continueWith), again: continueAgain,
		},
		{
			name: "interaction that nobody ends", act: func(c *crash) { c.tend(0) }, done: nobodyAsked,
			prepare: func(c *crash) {
				c.rig.asked("g", finishURI)
				c.clock.Advance(pendingTTL + endUndecidedAfter + time.Minute)
			},
		},
	}
}

// remove deletes the grant.
func remove(c *crash) error {
	_, err := c.try(logical.DeleteOperation, "grants/g", nil)
	if err == nil && !c.paused && isGone(c) != nil {
		c.Error("a deleted grant lives")
	}
	return err
}

// isGone checks that a deleted grant is over, here and at the server.
func isGone(c *crash) error {
	if len(c.grants()) != 0 || len(c.sandbox.OpenGrants()) != 0 {
		return errors.New("the grant is not gone")
	}
	return nil
}

func deletions() (all []scenario) {
	for _, kind := range []struct {
		name string
		make func(c *crash)
	}{
		{"no consent", asked},
		{"consent", imported},
		{"its owner is being asked", consenting},
		{"active, and its owner is being asked", func(c *crash) { imported(c); consenting(c) }},
		{"lost", func(c *crash) { imported(c); c.loseAnswer() }},
	} {
		all = append(all, scenario{
			name: "deletion, " + kind.name, prepare: kind.make, act: act(remove), again: remove, done: isGone,
		})
	}
	return all
}

// loseAnswer makes the grant lost: it lives at the server, with a token that nobody knows.
func (c *crash) loseAnswer() {
	c.Helper()
	c.breaker.arm(point{netUnanswered, 1})
	_ = read(c)
	c.settle()
	if c.stored("g").Status != statusLost {
		c.Fatal("the grant is not lost")
	}
}

// elsewhere obtains the token of a grant that is imported then.
func elsewhere(c *crash) {
	c.ok(logical.UpdateOperation, "grants/elsewhere", map[string]any{
		"auth_server": c.sandbox.AuthServer(), "access": incomingAccess,
	})
	g := c.stored("elsewhere")
	c.fields = map[string]any{
		"access_token": g.Token, "manage_url": g.Manage, "expires_in": 600,
		"continue_url": g.Continue.URL, "continue_token": g.Continue.Token,
	}
	for _, key := range []string{grantsPrefix + "elsewhere", slotKey(nextCheck(g, c.clock.Now()), "elsewhere")} {
		if err := c.storage.InmemStorage.Delete(c.ctx, key); err != nil {
			c.Fatal(err)
		}
	}
}

func imports() []scenario {
	importing := write(func(c *crash) map[string]any { return c.fields })
	return []scenario{
		{name: "import", prepare: elsewhere, act: act(importing), again: importing},
		{
			name: "import, in the place of a grant whose owner is being asked", act: act(importing), again: importing,
			prepare: func(c *crash) { consenting(c); elsewhere(c) },
		},
	}
}

func creds(c *crash) error {
	lease, err := c.try(logical.ReadOperation, "creds/till", nil)
	return c.hold(lease, err)
}

// hasNewLease reads a role once more and checks the token of the lease.
func hasNewLease(c *crash) error {
	if err := creds(c); err != nil {
		return err
	}
	if !c.sandbox.Live(tokenOf(c.lease)) {
		return errors.New("the token that is handed out is dead")
	}
	return nil
}

func withTill(c *crash) { c.ok(logical.UpdateOperation, "roles/till", c.roleFields()) }

func roleLeases() []scenario {
	leased := func(c *crash) {
		withTill(c)
		if err := creds(c); err != nil {
			c.Fatal(err)
		}
	}
	renew := func(c *crash) error { return c.renewed(c.renew(c.lease)) }
	leftBehind := func(c *crash) {
		leased(c) // the first one makes the key of tickets
		_ = revoke(c)
		c.breaker.arm(point{})
		_ = creds(c)
		last := len(c.breaker.points(stopBefore))
		_ = revoke(c)
		c.leases, c.lease = nil, nil
		c.breaker.arm(point{stopBefore, last}) // the deletion of the WAL's entry
		_ = creds(c)
		c.settle()
		c.clock.Advance(rollbackAge)
	}
	return []scenario{
		{name: "lease of a role: read", prepare: withTill, act: act(creds), again: creds, done: hasNewLease, unended: 1},
		{name: "lease of a role: renewal", prepare: leased, act: act(renew), done: hasNewLease, again: func(c *crash) error {
			if renew(c) == nil {
				return nil
			}
			return creds(c)
		}},
		{name: "lease of a role: revocation", prepare: leased, act: act(revoke), again: revoke, done: isGone},
		{name: "lease of a role: rollback of the WAL", prepare: leftBehind, act: (*crash).rollBackWAL, done: func(c *crash) error {
			c.rollBackWAL()
			return isGone(c)
		}},
	}
}

// replaceKey does what it takes to have the client's key replaced.
func replaceKey(c *crash) error {
	resp, err := c.try(logical.UpdateOperation, "keys/rotate", map[string]any{"key_id": "key-2"})
	if err != nil {
		return err
	}
	c.publishJWK(resp.Data["public_key"])
	c.tend(0)
	c.tend(defaultActivateAfter)
	return nil
}

func keyReplacements() []scenario {
	isReplaced := func(c *crash) error {
		if states := strings.Join(c.states(), ", "); states != "key-2 active, "+testKeyID+" retiring" {
			return errors.New(states)
		}
		return read(c)
	}
	force := func(c *crash) error {
		resp, err := c.try(logical.UpdateOperation, "keys/rotate", map[string]any{"key_id": "key-2", "force": true})
		if err == nil {
			c.publishJWK(resp.Data["public_key"])
		}
		return err
	}
	return []scenario{
		{name: "replacement of the key", prepare: imported, act: act(replaceKey), again: replaceKey, done: isReplaced, keyChanges: true},
		{name: "replacement of the key by force", prepare: imported, act: act(force), again: force, done: isReplaced, keyChanges: true},
	}
}

func workers() []scenario {
	tend := func(c *crash) { c.tend(0) }
	return []scenario{
		{
			name: "lost grant that the server still knows, by the worker", act: tend, lostBecause: "a test",
			prepare: func(c *crash) {
				imported(c)
				g := c.stored("g")
				g.Status, g.Lost = statusLost, event{At: c.clock.Now(), Cause: "a test"}
				c.put("g", g)
				l := &grantLock{b: c.b, storage: c.storage, name: "g"}
				if _, err := l.putSlot(c.ctx, nextCheck(g, c.clock.Now()), slot{}); err != nil {
					c.Fatal(err)
				}
				c.clock.Advance(2 * recoverAfter[0])
			},
		},
		{
			name: "cancellation of a former grant, by the worker", act: tend,
			prepare: func(c *crash) {
				asked(c)
				c.sandbox.Misbehave(on("cancel", sandbox.Misbehaviour{Status: 500}))
				asked(c)
				c.sandbox.Misbehave()
				c.clock.Advance(2 * formerRetryMin)
			},
		},
	}
}

func scenarios() []scenario {
	return slices.Concat(rotations(), asks(), deletions(), imports(), roleLeases(), keyReplacements(), workers())
}

// tally is a row of the table.
type tally struct {
	scenario, group               string
	points, usable, lost, orphans int
}

func (y *tally) count(f fate) {
	y.points++
	if f.lost {
		y.lost++
	} else {
		y.usable++
	}
	y.orphans += f.orphans
}

var update = flag.Bool("update", false, "write the tables of docs/guarantees.md")

// A table of docs/guarantees.md stands between these lines.
const (
	tableBegin = "<!-- generated: go test ./backend -run %s -update -->\n"
	tableEnd   = "<!-- end of what is generated -->\n"
)

// isDocumented checks that a table of docs/guarantees.md is the one that a test has made, or writes it.
func isDocumented(t *testing.T, table string) {
	t.Helper()
	const path = "../docs/guarantees.md"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	begin := fmt.Sprintf(tableBegin, t.Name())
	before, rest, found := strings.Cut(string(text), begin)
	old, after, ended := strings.Cut(rest, tableEnd)
	switch {
	case !found || !ended:
		t.Fatalf("%s has no place for the table", path)
	case old == table:
	case !*update:
		t.Errorf("the table of %s is not what this test finds; write it with -update", path)
	default:
		if err := os.WriteFile(path, []byte(before+begin+table+tableEnd+after), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// An engine is stopped or disturbed at each point of each operation, and followed by another one.
func TestCrashMatrix(t *testing.T) {
	all := scenarios()
	rows := make([][]*tally, len(all))
	t.Run("points", func(t *testing.T) {
		for i, s := range all {
			t.Run(s.name, func(t *testing.T) {
				t.Parallel()
				rows[i] = s.stopEverywhere(t)
			})
		}
	})
	if t.Failed() || slices.ContainsFunc(rows, func(of []*tally) bool { return of == nil }) { // -run named a part
		return
	}
	var table strings.Builder
	table.WriteString("\n| operation | what happens | points | usable | lost, and says so | left at the server |\n")
	table.WriteString("| --- | --- | ---: | ---: | ---: | ---: |\n")
	sum := tally{scenario: "**all**"}
	for _, y := range append(slices.Concat(rows...), &sum) {
		fmt.Fprintf(&table, "| %s | %s | %d | %d | %d | %d |\n", y.scenario, y.group, y.points, y.usable, y.lost, y.orphans)
		sum.points, sum.usable, sum.lost, sum.orphans = sum.points+y.points, sum.usable+y.usable, sum.lost+y.lost, sum.orphans+y.orphans
	}
	table.WriteString("\n")
	isDocumented(t, table.String())
}

// secondStop is the row of those points of the recovery at which the next engine is stopped as well.
const secondStop = "stopped, and once more in the recovery"

// stopEverywhere tries all points of a scenario, and returns its rows.
func (s scenario) stopEverywhere(t *testing.T) (rows []*tally) {
	row := func(group string) *tally {
		i := slices.IndexFunc(rows, func(y *tally) bool { return y.group == group })
		if i < 0 {
			rows = append(rows, &tally{scenario: s.name, group: group})
			i = len(rows) - 1
		}
		return rows[i]
	}
	var dry *breaker
	t.Run("dry run", func(t *testing.T) { dry = s.count(t) })
	unended := 0
	known := map[left]fate{}
	for _, p := range dry.points(allKinds...) {
		t.Run(p.String(), func(t *testing.T) {
			if !p.stops() {
				row(p.group()).count(s.run(t, p))
				return
			}
			leaves := dry.leaves(p)
			r, again := known[leaves]
			if again {
				s.reach(t, p, leaves)
			} else {
				r = s.run(t, p)
				known[leaves] = r
			}
			unended += r.unended
			row(p.group()).count(r)
			if !s.pairs || again {
				return
			}
			for _, q := range s.count(t, p).stops() {
				t.Run(q.String(), func(t *testing.T) { row(secondStop).count(s.run(t, p, q)) })
			}
		})
	}
	if unended != s.unended {
		t.Errorf("%d grants that were stored are open at the server, and nobody can end them; want %d", unended, s.unended)
	}
	return rows
}

// count counts the points of the operation or, if that is stopped, of the recovery.
func (s scenario) count(t *testing.T, stopped ...point) *breaker {
	c := newCrash(t, s)
	defer c.sandbox.Close()
	for _, p := range stopped {
		c.breaker.arm(p)
		s.act(c)
		c.settle()
	}
	c.breaker.arm(point{})
	if len(stopped) == 0 {
		s.act(c)
	} else {
		c.recover()
	}
	return c.breaker
}

// reach stops the operation at a point which leaves behind what another one has, and checks that it does.
func (s scenario) reach(t *testing.T, at point, want left) {
	c := newCrash(t, s)
	defer c.sandbox.Close()
	c.breaker.arm(at)
	s.act(c)
	if got := c.left(); got != want {
		t.Errorf("%+v is left behind, want %+v", got, want)
	}
	c.settle()
}

// run stops the operation at a point, and the recovery at a further one.
func (s scenario) run(t *testing.T, at point, further ...point) (r fate) {
	c := newCrash(t, s)
	defer c.sandbox.Close()
	defer func() {
		if t.Failed() {
			t.Log(c.log.String())
		}
	}()
	c.breaker.arm(at)
	s.act(c)
	c.settle()
	for _, p := range further {
		c.breaker.arm(p)
		c.recover()
		c.settle()
	}
	c.recover()
	r.lost = c.judge()
	c.scheduled()
	r.orphans, r.unended = c.finish()
	if r.orphans > 0 && !at.mayLoseAnswer() {
		t.Errorf("%d grants are left open at the server, and its answers came", r.orphans)
	}
	c.b.Cleanup(c.ctx)
	return r
}

// mayLoseAnswer reports whether an answer of the server's may never have come to a storage.
func (p point) mayLoseAnswer() bool { return p.stops() || p.kind == netUnanswered || p.kind == netHalf }

// workedOn checks that the worker has sent the reference that was kept. If it never was, the owner's
// redirect is handed in.
func workedOn(c *crash) error {
	g, err := loadGrant(c.ctx, c.storage, "g")
	if err != nil || g.Pending == nil {
		return err
	}
	if g.Pending.Ref != "" {
		return errors.New("the owner's consent is left where it is")
	}
	return continueWith(c)
}

func nobodyAsked(c *crash) error {
	g := c.stored("g")
	if g.Pending != nil || g.Status != statusLost || !strings.Contains(g.Lost.Cause, tooLate) {
		return fmt.Errorf("status %s: %s", g.Status, g.Lost.Cause)
	}
	return nil
}
