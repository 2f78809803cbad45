// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"errors"
	"flag"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"pgregory.net/rapid"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/authserver"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
)

// What TestModel does, and what fails meanwhile.

func newModel(t *testing.T, rt *rapid.T) *model {
	m := &model{
		crash: newCrash(rapidTB{t, rt}, scenario{prepare: func(*crash) {}, keyChanges: true}), t: rt,
		grants: map[string]*grant{}, tokens: map[string]*grant{}, generations: map[generation]string{}, newest: map[string]int{},
		owners: map[string]string{}, certain: map[string]int{}, waived: map[string]bool{}, redirects: map[string]string{},
	}
	for role, onRevoke := range map[string]string{"ends": revokeRotates, "keeps": revokeKeeps} {
		fields := m.roleFields()
		fields["on_revoke"] = onRevoke
		m.ok(logical.UpdateOperation, "roles/"+role, fields)
	}
	return m
}

// do does something about a grant (or all: about is empty) while something may fail, and checks what has
// become of it. An error means that whoever asked got no answer.
func (m *model) do(what, about string, operation func() error) error {
	if !m.healthy && pick(m, "fails", false, false, true) {
		m.breaker.arm(point{pick(m, "how", allKinds...), rapid.IntRange(1, 25).Draw(m.t, "at")})
	}
	before := len(m.tokensIssued())
	err := operation()
	if m.breaker.isDead() {
		err = errDead
	} else if !m.healthy && rapid.IntRange(0, 9).Draw(m.t, "stopped after it") == 9 {
		m.breaker.die()
	}
	arrived := what != "late" && about != "leases" && !m.breaker.isDead() && !m.breaker.lostAnswer()
	if m.breaker.isDead() {
		go m.b.Cleanup(m.ctx)
		m.start()
	}
	m.breaker.arm(point{})
	for _, name := range names { // what is in memory alone is stored
		l := must(m.b.lockGrant(m.ctx, m.storage, name))
		_, _ = l.load(m.ctx)
		l.release()
	}
	for _, token := range m.tokensIssued()[before:] {
		if m.owners[token] = about; arrived {
			m.checkKept(token)
		}
	}
	for _, name := range names {
		m.check(what, about, name)
	}
	m.checkTokens()
	return err
}

func (m *model) request(what, name, path string, op logical.Operation, data map[string]any) (resp *logical.Response, err error) {
	err = m.do(what, name, func() error {
		resp, err = m.try(op, path, data)
		return err
	})
	return resp, err
}

// tokensIssued returns all tokens that the server has issued, in order.
func (m *model) tokensIssued() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.issued)
}

// lostAnswer reports whether the answer to a request was lost since the breaker was armed.
func (b *breaker) lostAnswer() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.reached && (b.at.kind == netUnanswered || b.at.kind == netHalf)
}

func pick[T any](m *model, what string, from ...T) T { return rapid.SampledFrom(from).Draw(m.t, what) }

func (m *model) name() string { return pick(m, "name", names...) }

// operations returns all that is done, by name. It counts what is done.
func (m *model) operations(count *int) map[string]func(*rapid.T) {
	all := map[string]func(*rapid.T){}
	for name, operation := range map[string]func(){
		"ask": m.ask, "import": m.importToken, "decide": m.decide, "continue": m.goOn, "settings": m.set, "delete": m.remove,
		"read": m.readToken, "rotate": m.rotate, "creds": m.readRole, "renew": m.renewLease, "revoke": m.revokeLease,
		"tick": m.tick, "roll back": m.rollBack, "wait": m.wait, "step the clock": m.stepClock,
		"late requests": m.late, "trouble": m.trouble, "dialect": m.speak, "replace the key": m.replaceKey,
	} {
		all[name] = func(*rapid.T) {
			operation()
			*count++
		}
	}
	return all
}

func (m *model) ask() {
	name := m.name()
	fields := map[string]any{"wallet_address": m.sandbox.WalletAddress("shop"), "access": incomingAccess}
	if pick(m, "consent", true, false) {
		fields = map[string]any{"wallet_address": m.sandbox.WalletAddress("alice"), "access": m.outgoing()}
		if finish := pick(m, "finish", "", finishURI, statefulURI); finish != "" {
			fields["finish_uri"] = finish
		}
	}
	fields["ask_again"] = pick(m, "again", true, false)
	_, _ = m.request("ask", name, "grants/"+name, logical.UpdateOperation, fields)
}

// importToken imports a token that somebody else has obtained for the client.
func (m *model) importToken() {
	name, c := m.name(), must(loadConfig(m.ctx, m.storage.InmemStorage))
	out := authserver.NewNetwork(m.clock).Client(c.identity()).RequestGrant(m.ctx, m.sandbox.AuthServer(), []byte(incomingAccess), nil)
	issued, ok := out.(authserver.TokenIssued)
	if !ok || issued.Manage == "" {
		m.t.Skip("there is no token to import")
	}
	fields := map[string]any{"access_token": issued.Value, "manage_url": issued.Manage, "expires_in": 600}
	if issued.Continue.URL != "" {
		fields["continue_url"], fields["continue_token"] = issued.Continue.URL, issued.Continue.Token
	}
	if g := m.grants[name]; g != nil { // may be the one that is imported: its token is revoked, it is not cancelled
		m.waived[g.Continue.URL], m.waived[g.Token] = true, m.waived[g.Token] || g.Manage == "" || g.ManageOld
	}
	_, _ = m.request("import", name, "grants/"+name, logical.UpdateOperation, fields)
}

func (m *model) decide() {
	name := m.name()
	if g := m.grants[name]; g != nil && g.Pending != nil {
		m.redirects[name], _ = m.sandbox.Consent(g.Pending.InteractURL, pick(m, "accepts", true, true, false))
	}
}

func (m *model) goOn() {
	name, fields := m.name(), map[string]any{}
	if at := m.redirects[name]; at != "" && pick(m, "with the redirect", true, false) {
		fields["redirect"] = at
	}
	_, _ = m.request("continue", name, "grants/"+name+"/continue", logical.UpdateOperation, fields)
}

func (m *model) set() {
	name := m.name()
	_, _ = m.request("settings", name, "grants/"+name, logical.PatchOperation, map[string]any{
		"on_revoke": pick(m, "on revoke", revokeRotates, revokeKeeps), "shared": pick(m, "shared", true, false),
		"keepalive": pick(m, "keepalive", 0, 60, 168*3600), "ttl": pick(m, "ttl", 0, 60),
	})
}

func (m *model) remove() {
	name, force := m.name(), pick(m, "force", false, false, true)
	if force {
		m.waive(m.grants[name])
	}
	_, _ = m.request("delete", name, "grants/"+name, logical.DeleteOperation, map[string]any{"force": force})
}

// waive notes that what a grant has at the server may live on.
func (m *model) waive(g *grant) {
	if g == nil {
		return
	}
	for _, e := range g.endings(m.clock.Now()) {
		m.waived[e.Token], m.waived[e.Continue.URL] = true, true
	}
}

func (m *model) readToken() {
	name := m.name()
	if lease, err := m.request("read", name, "token/"+name, logical.ReadOperation, nil); err == nil {
		m.handOut(name, lease)
	}
}

func (m *model) rotate() {
	name := m.name()
	_, _ = m.request("rotate", name, "rotate/"+name, logical.UpdateOperation, nil)
}

func (m *model) readRole() {
	role, before := pick(m, "role", "ends", "keeps"), m.sandbox.OpenGrants()
	lease, err := m.request("creds", "leases", "creds/"+role, logical.ReadOperation, nil)
	switch {
	case err == nil:
		m.handOut("leases", lease)
	case errors.Is(err, errDead) && len(m.walEntries()) == 0: // after the WAL's entry was deleted, and before there is a lease
		for _, open := range m.sandbox.OpenGrants() {
			m.waived[open] = m.waived[open] || !slices.Contains(before, open)
		}
	}
}

// drawLease draws a lease, and returns the name of its grant: "leases" for one of a role.
func (m *model) drawLease() (i int, lease *logical.Response, name string) {
	if len(m.leases) == 0 {
		m.t.Skip("there is no lease")
	}
	i = rapid.IntRange(0, len(m.leases)-1).Draw(m.t, "lease")
	if name, _ = m.leases[i].Secret.InternalData["grant"].(string); name == "" {
		name = "leases"
	}
	return i, m.leases[i], name
}

func (m *model) renewLease() {
	i, lease, name := m.drawLease()
	var renewed *logical.Response
	if m.do("renew", name, func() (err error) { renewed, err = m.answered(m.renew(lease)); return err }) == nil {
		m.leases = slices.Delete(m.leases, i, i+1)
		m.dead(name, lease)
		m.handOut(name, renewed)
	}
}

func (m *model) revokeLease() {
	i, lease, name := m.drawLease()
	if m.do("revoke", name, func() error { _, err := m.answered(m.revoke(lease)); return err }) == nil {
		m.leases = slices.Delete(m.leases, i, i+1)
		if role := lease.Data["role"]; role == "keeps" || role != nil && m.left(lease) <= 0 {
			m.waive(m.grantOf(lease)) // of an expired token nobody insists that its grant is cancelled
		}
		m.dead(name, lease)
	}
}

func (m *model) answered(resp *logical.Response, err error) (*logical.Response, error) {
	if err == nil && resp.IsError() {
		err = resp.Error()
	}
	return resp, err
}

func (m *model) tick() { _ = m.do("tick", "", func() error { m.tend(0); return nil }) }

func (m *model) rollBack() { _ = m.do("tick", "", func() error { m.rollBackWAL(); return nil }) }

func (m *model) wait() {
	m.clock.Advance(pick(m, "for", time.Second, 31*time.Second, 2*time.Minute, 11*time.Minute, 61*time.Minute, 25*time.Hour))
}

// stepClock sets Vault's clock back or forth, and not the server's.
func (m *model) stepClock() {
	d := pick(m, "by", -25*time.Hour, -time.Minute, time.Minute, 25*time.Hour)
	m.ahead.Add(int64(d))
	m.clock.Advance(d)
	m.b.locks.forgetFailures() // what is in memory goes by the monotonic clock
	if d > 0 {                 // Vault takes tokens for expired that are not
		for _, one := range append(m.sandbox.OpenGrants(), m.tokensIssued()...) {
			m.waived[one] = true
		}
	}
}

// late has the server work on requests of an engine that has ended since.
func (m *model) late() {
	m.mu.Lock()
	unread := m.unread
	m.unread = nil
	m.mu.Unlock()
	_ = m.do("late", "", func() error {
		for _, work := range unread {
			work()
		}
		return nil
	})
}

func (m *model) trouble() {
	trouble := pick(m, "with", sandbox.Misbehaviour{}, sandbox.Misbehaviour{Status: 500}, sandbox.Misbehaviour{Status: 429},
		sandbox.Misbehaviour{Status: 401, Text: "Unauthorized"}, sandbox.Misbehaviour{Status: 404, Text: "default backend"},
		sandbox.Misbehaviour{NotJSON: true}, sandbox.Misbehaviour{ReadOnly: true}, sandbox.Misbehaviour{KeysDown: true})
	trouble.Times = pick(m, "times", 0, 1, 2, 9)
	m.sandbox.Misbehave(trouble)
}

func (m *model) speak() {
	m.sandbox.SetDialect(pick(m, "as", sandbox.Dialect{}, sandbox.Dialect{Manage: sandbox.ManageObject, NewContinue: true},
		sandbox.Dialect{Manage: sandbox.ManageMissing}, sandbox.Dialect{ExpiresIn: sandbox.ExpiresMissing},
		sandbox.Dialect{Continue: sandbox.ContinueMissing}, sandbox.Dialect{KeyCache: 30 * time.Minute},
		sandbox.Dialect{KeyCache: 30 * time.Minute, UnknownKey: 401}))
}

func (m *model) replaceKey() {
	fields := map[string]any{"activate_after": 0}
	if pick(m, "by force", false, true) {
		fields = map[string]any{"force": true}
	}
	if resp, err := m.request("key", "keys", "keys/rotate", logical.UpdateOperation, fields); err == nil {
		m.publishJWK(resp.Data["public_key"])
	}
}

// heal ends all that fails, and publishes the client's keys. Servers have forgotten the former ones.
func (m *model) heal() {
	m.healthy = true
	m.late()
	m.sandbox.Misbehave()
	m.sandbox.SetDialect(sandbox.Dialect{})
	for _, key := range m.ok(logical.ReadOperation, "keys", nil).Data["keys"].([]any) {
		m.publishJWK(key.(map[string]any)["public_key"])
	}
	for range 3 { // until a key that was pending has been in use for long
		m.tick()
		m.clock.Advance(keyCacheTime + time.Minute)
	}
}

// use reads each grant that is not lost.
func (m *model) use() {
	for _, name := range names {
		lease, err := m.request("read", name, "token/"+name, logical.ReadOperation, nil)
		switch status := statusOf(m.grants[name]); {
		case err == nil:
			m.handOut(name, lease)
		case status == statusActive || status == begun:
			m.Fatalf("%s cannot be read: %v", name, err)
		}
	}
}

// end ends everything, after which nothing that was stored is open at the server.
func (m *model) end() {
	for _, lease := range m.leases {
		if lease.Data["role"] == "keeps" {
			m.waive(m.grantOf(lease))
		}
	}
	for name, g := range m.grants {
		if g != nil && unendable(g) { // only force forgets it, while its token may live
			m.waive(g)
			m.ok(logical.DeleteOperation, "grants/"+name, map[string]any{"force": true})
		}
	}
	m.finish()
	for _, open := range m.sandbox.OpenGrants() {
		if m.kept(open) && !m.waived[open] {
			m.Fatal("a grant is open at the server, and nobody can end it")
		}
	}
}

// fewChecks makes a test of some seconds out of a property, unless -rapid.checks says how many checks it
// takes.
func fewChecks() {
	if checks := flag.Lookup("rapid.checks"); checks.Value.String() == checks.DefValue {
		_ = checks.Value.Set("50")
	}
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}
