// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/authserver"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
)

// idleTime is after which a grant is due that nobody has used, whatever its id.
const idleTime = defaultKeepalive + defaultKeepalive/10 + time.Minute

// slots lists the index: "name in 3h0m0s", from now on.
func (r *rig) slots() (list []string) {
	r.Helper()
	for _, one := range r.slotsAt() {
		list = append(list, one.name+" in "+one.at.Sub(r.clock.Now()).String())
	}
	return list
}

type slotAt struct {
	at   time.Time
	name string
}

func (r *rig) slotsAt() (list []slotAt) {
	r.Helper()
	keys, err := logical.CollectKeysWithPrefix(r.ctx, r.storage.InmemStorage, keepalivePrefix)
	if err != nil {
		r.Fatal(err)
	}
	slices.Sort(keys)
	for _, key := range keys {
		if key == cursorKey {
			continue
		}
		var hour, minute, second int64
		var name string
		if _, err := fmt.Sscanf(key, keepalivePrefix+"%d/%2d%2d-%s", &hour, &minute, &second, &name); err != nil {
			r.Fatalf("%s: %v", key, err)
		}
		list = append(list, slotAt{time.Unix(hour*3600+minute*60+second, 0), name})
	}
	return list
}

// indexed checks that each of the stored grants has one slot, in the future and not later than it
// should be.
func (r *rig) indexed() {
	r.Helper()
	want := r.grants()
	var got []string
	now := r.clock.Now()
	for _, one := range r.slotsAt() {
		got = append(got, one.name)
		if limit := now.Add(idleTime); one.at.Before(now) || one.at.After(limit) {
			r.Errorf("the slot of %s is in %s", one.name, one.at.Sub(now))
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	r.want("slots", got, want...)
}

func (r *rig) grants() []string {
	r.Helper()
	names, err := r.storage.InmemStorage.List(r.ctx, grantsPrefix)
	if err != nil {
		r.Fatal(err)
	}
	return names
}

// rotations counts what is sent while something is done.
func (r *rig) rotations(do func()) int {
	before := r.sandbox.Count("rotate")
	do()
	return r.sandbox.Count("rotate") - before
}

func TestLook(t *testing.T) {
	const keepalive = 10 * time.Hour
	start := time.Unix(1_800_000_000, 0)
	// The grant was asked for at start, with a token of ten minutes.
	fresh := func() *grant {
		g := newGrant("https://wallet.example/client", start)
		g.Settings.Keepalive = keepalive
		g.accept(authserver.TokenIssued{Value: "t", Manage: "m", Lifetime: 10 * time.Minute, SentAt: start}, causeAsk)
		return g
	}
	const never = -1
	lives := func(d time.Duration) func(*grant) {
		return func(g *grant) { g.ExpiresAt, g.Lifetime = start.Add(d), d }
	}
	for name, row := range map[string]struct {
		change  func(*grant)
		at      time.Duration // after start, and after the grant's own share of the spread
		rotates bool
		again   time.Duration // likewise
	}{
		"not due yet":                         {nil, time.Hour, false, keepalive},
		"a moment before it is due":           {nil, keepalive - 1, false, keepalive},
		"due":                                 {nil, keepalive, true, never},
		"long due":                            {nil, 1000 * keepalive, true, never},
		"never":                               {func(g *grant) { g.Settings.Keepalive = 0 }, keepalive, false, never},
		"rotated since":                       {func(g *grant) { g.LastRotation.At = start.Add(3 * time.Hour) }, keepalive, false, keepalive + 3*time.Hour},
		"its token lives":                     {lives(keepalive + time.Hour), keepalive, false, keepalive + time.Hour},
		"its token expires now":               {lives(keepalive), keepalive, true, never},
		"its token lives for long":            {lives(25 * time.Hour), keepalive, false, 2 * keepalive},
		"its token lives for long, once more": {lives(25 * time.Hour), 2 * keepalive, false, 25 * time.Hour},
		"its token has lived for long":        {lives(25 * time.Hour), 25 * time.Hour, true, never},
		"lost":                                {func(g *grant) { g.Status = statusLost }, keepalive, false, 2 * keepalive},
		"lost, later":                         {func(g *grant) { g.Status = statusLost }, 2*keepalive - 1, false, 2 * keepalive},
		"pending":                             {func(g *grant) { g.Status, g.LastRotation, g.ExpiresAt = statusPending, event{}, time.Time{} }, 3 * keepalive, false, 4 * keepalive},
		"never got a token":                   {func(g *grant) { g.LastRotation, g.ExpiresAt = event{}, time.Time{} }, keepalive, true, never},
		"another one is being asked for meanwhile": {func(g *grant) { g.Pending = &pending{} }, keepalive, true, never},
		"a rotation was begun":                     {func(g *grant) { g.begin(causeRead, start) }, keepalive, true, never},
		"the clock went back":                      {nil, -5 * keepalive, true, never},
		"rotated by a clock that was ahead":        {func(g *grant) { g.LastRotation.At = start.Add(1000 * time.Hour) }, time.Hour, true, never},
		"without a manage URL":                     {func(g *grant) { g.Manage, g.Interactive = "", true }, keepalive, false, 2 * keepalive},
	} {
		g := fresh()
		if row.change != nil {
			row.change(g)
		}
		rotates, again := keepaliveAction(g, start.Add(row.at+g.spread()))
		want := time.Time{}
		if row.again != never {
			want = start.Add(row.again + g.spread())
		}
		if rotates != row.rotates || !again.Equal(want) {
			t.Errorf("%s: rotates %v, again after %s; want %v, %s", name, rotates, again.Sub(start)-g.spread(), row.rotates, row.again)
		}
	}
	if rotates, again := keepaliveAction(nil, start); rotates || !again.IsZero() {
		t.Error("a grant that is gone is looked at")
	}
}

func TestSpread(t *testing.T) {
	parts := make([]int, 10)
	for range 1000 {
		g := newGrant("https://wallet.example/client", time.Now())
		same := grant{ID: g.ID, Settings: g.Settings}
		if g.spread() != same.spread() || g.spread() < 0 || g.spread() >= defaultKeepalive/10 {
			t.Fatalf("%s", g.spread())
		}
		parts[int(g.spread()/(defaultKeepalive/100))]++
	}
	for i, n := range parts {
		if n < 50 || n > 200 {
			t.Errorf("of 1000 grants, %d are in part %d of 10", n, i)
		}
	}
	if spread("x", 0) != 0 {
		t.Error("a part of nothing is nothing")
	}
}

func TestRetryAfter(t *testing.T) {
	for failures, want := range map[uint]time.Duration{
		1: 5 * time.Minute, 2: 10 * time.Minute, 3: 20 * time.Minute, 8: 640 * time.Minute, 9: 12 * time.Hour, 10: 12 * time.Hour, 1 << 40: 12 * time.Hour,
	} {
		one, other := retryAfter("one", failures), retryAfter("other", failures)
		if one < want || one > want+want/4 || one == other {
			t.Errorf("%d: %s and %s, want %s and up to a quarter more", failures, one, other, want)
		}
	}
}

func TestSlotKey(t *testing.T) {
	for at, want := range map[string]string{
		"2026-08-01T00:00:00Z":      "keepalive/0000495984/0001-a.b-c",
		"2026-08-01T00:00:00.5Z":    "keepalive/0000495984/0001-a.b-c",
		"2026-08-01T02:41:58+02:00": "keepalive/0000495984/4159-a.b-c",
		"2026-08-01T00:59:59.999Z":  "keepalive/0000495985/0000-a.b-c",
	} {
		parsed, err := time.Parse(time.RFC3339Nano, at)
		if err != nil {
			t.Fatal(err)
		}
		if got := slotKey(parsed, "a.b-c"); got != want {
			t.Errorf("%s: %s, want %s", at, got, want)
		}
	}
}

func TestGrantsThatNobodyUsesAreKeptAlive(t *testing.T) {
	r := configured(t)
	r.ask("income")
	r.imported("payer", nil)
	r.indexed()
	r.tick()
	r.clock.Advance(defaultKeepalive - time.Minute)
	if n := r.rotations(r.tick); n != 0 {
		t.Errorf("%d rotations before anything was due", n)
	}
	for week := 1; week <= 3; week++ {
		r.clock.Advance(idleTime - (defaultKeepalive - time.Minute))
		if n := r.rotations(r.tick); n != 2 {
			t.Errorf("%d rotations, want 2", n)
		}
		for _, name := range []string{"income", "payer"} {
			data := r.ok(logical.ReadOperation, "grants/"+name, nil).Data
			if data["generation"] != 1+week || data["last_rotation_cause"] != "keepalive" || data["intent_open"] != false {
				t.Errorf("%s: %v %v", name, data["generation"], data["last_rotation_cause"])
			}
			if !r.sandbox.Live(r.stored(name).Token) {
				t.Errorf("%s: the stored token is dead", name)
			}
		}
		if n := r.rotations(r.tick); n != 0 {
			t.Errorf("%d rotations, twice in a minute", n)
		}
		r.indexed()
		r.clock.Advance(defaultKeepalive - time.Minute)
	}
	r.noSecretIn("the log", r.log.String())
	for _, one := range r.slots() {
		r.noSecretIn("the index", one)
	}
}

// Whoever uses a grant keeps it alive: nothing is sent, and what is rotated by others in the
// meantime is only moved.
func TestGrantInUseIsNotTouched(t *testing.T) {
	t.Run("used now and then", func(t *testing.T) {
		r := withGrant(t)
		r.tick()
		for range 20 {
			r.clock.Advance(50 * time.Hour)
			r.read("income")
			if n := r.rotations(r.tick); n != 0 {
				t.Fatal("rotated in the background")
			}
			r.indexed()
		}
	})
	t.Run("its token lives", func(t *testing.T) {
		r := withGrant(t)
		r.tick()
		r.ok(logical.UpdateOperation, "grants/income", map[string]any{"keepalive": "1m"})
		lease := r.read("income")
		for range 8 {
			r.clock.Advance(67 * time.Second)
			r.tick()
		}
		if !r.sandbox.Live(tokenOf(lease)) {
			t.Error("the token was taken from its reader")
		}
		r.clock.Advance(2 * 67 * time.Second)
		if n := r.rotations(r.tick); n != 1 {
			t.Errorf("%d rotations after its end, want 1", n)
		}
	})
	t.Run("being read", func(t *testing.T) {
		r := withGrant(t)
		r.tick()
		r.clock.Advance(idleTime)
		arrived, release := r.hang(false)
		read := r.goRead(r.ctx, "income")
		<-arrived
		r.wake()
		r.awaitUsers("income", 2)
		release()
		r.live(<-read)
		for r.b.upkeepWorker.busy.Load() {
			runtime.Gosched()
		}
		if g := r.stored("income"); g.Generation != 2 || g.LastRotation.Cause != string(causeRead) {
			t.Errorf("generation %d, by %s", g.Generation, g.LastRotation.Cause)
		}
		r.indexed()
	})
	t.Run("being read for long", func(t *testing.T) {
		r := withGrant(t)
		r.tick()
		r.clock.Advance(idleTime)
		arrived, release := r.hang(false)
		read := r.goRead(r.ctx, "income")
		<-arrived
		r.wake()
		r.awaitUsers("income", 2)
		r.clock.Advance(lockTimeout + time.Second)
		for r.b.upkeepWorker.busy.Load() {
			runtime.Gosched()
		}
		release()
		r.live(<-read)
		if n := r.rotations(r.tick); n != 0 {
			t.Error("rotated once more")
		}
		r.indexed()
	})
}

func TestGrantsThatCannotBeKeptAliveAreMoved(t *testing.T) {
	for name, row := range map[string]struct {
		change func(r *rig)
		stays  bool
	}{
		"lost": {func(r *rig) {
			g := r.stored("income")
			g.Status, g.Recovered = statusLost, len(recoverAfter) // it was tried again often enough
			r.put("income", g)
		}, true},
		"deleted":     {func(r *rig) { r.ok(logical.DeleteOperation, "grants/income", nil) }, false},
		"keepalive=0": {func(r *rig) { r.ok(logical.UpdateOperation, "grants/income", map[string]any{"keepalive": 0}) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := withGrant(t)
			r.tick()
			row.change(r)
			for range 3 {
				r.clock.Advance(idleTime)
				sent := r.requests()
				r.tick()
				if n := r.requests() - sent; n != 0 {
					t.Errorf("%d requests", n)
				}
				if row.stays {
					r.indexed()
				} else if left := r.slots(); len(left) != 0 {
					t.Errorf("%v", left)
				}
			}
		})
	}
}

// A lost grant that is found again is kept alive like any other.
func TestLostGrantThatIsFoundAgain(t *testing.T) {
	r := configured(t)
	r.imported("payer", nil)
	r.tick()
	r.on("rotate", knowsNoToken)
	r.clock.Advance(idleTime)
	r.tick()
	if g := r.stored("payer"); g.Status != statusLost {
		t.Fatalf("status %s", g.Status)
	}
	r.noSecretIn("the log", r.log.String())
	lost := r.stored("payer").Lost
	sent := r.sandbox.Count("rotate")
	for range len(recoverAfter) + 2 { // no longer than a server remembers a token
		r.clock.Advance(24 * time.Hour)
		r.tick()
	}
	if n := r.sandbox.Count("rotate") - sent; n != 2*len(recoverAfter) { // each rejection is checked once more
		t.Errorf("%d rotations of a lost grant", n)
	}
	if now := r.stored("payer").Lost; now != lost {
		t.Errorf("%v, but it is lost since %v", now, lost)
	}
	r.on("rotate", nil)
	r.ok(logical.UpdateOperation, "rotate/payer", nil)
	for range 2 {
		r.clock.Advance(idleTime)
		r.tick()
	}
	if g := r.stored("payer"); g.LastRotation.Cause != string(causeKeepalive) || !r.sandbox.Live(g.Token) {
		t.Error("not kept alive any more")
	}
	r.indexed()
}

// The server has forgotten the grant after all: what needed no consent is asked for again.
func TestKeepAliveFindsTheTokenDead(t *testing.T) {
	r := withGrant(t)
	r.tick()
	r.cancelAtServer("income")
	r.clock.Advance(idleTime)
	r.tick()
	if g := r.stored("income"); g.Generation != 2 || !r.sandbox.Live(g.Token) {
		t.Errorf("generation %d", g.Generation)
	}
	r.indexed()
}

func TestKeepaliveSetting(t *testing.T) {
	r := withGrant(t)
	r.tick()
	if d := r.ok(logical.ReadOperation, "grants/income", nil).Data["keepalive"]; d != int64(168*3600) {
		t.Errorf("%v", d)
	}
	set := func(value any) { r.ok(logical.PatchOperation, "grants/income", map[string]any{"keepalive": value}) }
	kept := func(after time.Duration, want ...int) {
		t.Helper()
		if n := r.rotations(func() {
			for end := r.clock.Now().Add(after); r.clock.Now().Before(end); {
				r.clock.Advance(time.Minute)
				r.tick()
			}
		}); !slices.Contains(want, n) {
			t.Errorf("%d rotations in %s, want %d", n, after, want)
		}
	}
	set("1h")
	kept(67*time.Minute, 1) // up to a tenth more, and a minute
	kept(10*67*time.Minute, 10, 11)
	set(0)
	kept(10*time.Hour, 0)
	r.clock.Advance(idleTime)
	kept(time.Minute, 0)
	if left := r.slots(); len(left) != 0 {
		t.Errorf("%v", left)
	}
	set("1h") // it is overdue
	kept(2*time.Minute, 1)
	set("4h")
	set("2h")
	set("3h")
	set("2h")
	kept(2*time.Hour+13*time.Minute, 1)
	kept(4*time.Hour+30*time.Minute, 2)
	r.indexed()
	set(nil)
	if d := r.ok(logical.ReadOperation, "grants/income", nil).Data["keepalive"]; d != int64(168*3600) {
		t.Errorf("%v", d)
	}
	kept(10*time.Hour, 0)
	r.indexed()
	// Setting what is set already writes nothing.
	puts := r.storage.putsSoFar()
	set("168h")
	if n := r.storage.putsSoFar() - puts; n != 0 {
		t.Errorf("%d writes", n)
	}
}

// A grant that was stored before there was such a thing has none, until it is told.
func TestStoredWithoutKeepalive(t *testing.T) {
	r := withGrant(t)
	entry, err := r.storage.Get(r.ctx, grantsPrefix+"income")
	if err != nil {
		t.Fatal(err)
	}
	entry.Value = []byte(strings.Replace(string(entry.Value), `,"keepalive":604800000000000`, "", 1))
	if err := r.storage.Put(r.ctx, entry); err != nil || strings.Contains(string(entry.Value), "keepalive") {
		t.Fatalf("%v", err)
	}
	if d := r.ok(logical.ReadOperation, "grants/income", nil).Data["keepalive"]; d != int64(0) {
		t.Errorf("%v", d)
	}
	r.clock.Advance(3 * idleTime)
	if n := r.rotations(r.tick); n != 0 {
		t.Errorf("%d rotations", n)
	}
	r.ok(logical.UpdateOperation, "grants/income", map[string]any{"keepalive": "168h"})
	r.clock.Advance(time.Minute)
	if n := r.rotations(r.tick); n != 1 {
		t.Errorf("%d rotations", n)
	}
	r.indexed()
}

// Two slots of one grant: it is rotated once, and one of them is left.
func TestSlotsOfOneGrantFallTogether(t *testing.T) {
	r := withGrant(t)
	r.tick()
	h := &grantLock{b: r.b, storage: r.storage, name: "income"}
	for _, early := range []time.Duration{0, time.Second, time.Hour, 30 * time.Hour} {
		if _, err := h.putSlot(r.ctx, r.clock.Now().Add(defaultKeepalive-early), slot{}); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(r.slots()); n != 5 {
		t.Fatalf("%d slots", n)
	}
	r.clock.Advance(idleTime)
	if n := r.rotations(r.tick); n != 1 {
		t.Errorf("%d rotations, want 1", n)
	}
	r.indexed()
}

// Slots of a grant that was made again under its name are moved to where its own is.
func TestSlotOfAFormerGrant(t *testing.T) {
	r := withGrant(t)
	r.tick()
	r.clock.Advance(100 * time.Hour)
	r.ok(logical.DeleteOperation, "grants/income", nil)
	r.ask("income")
	if n := len(r.slots()); n != 2 {
		t.Fatalf("%d slots", n)
	}
	r.clock.Advance(idleTime - 100*time.Hour)
	if n := r.rotations(r.tick); n != 0 {
		t.Errorf("%d rotations", n)
	}
	r.indexed()
}

// The clock goes back between listing a slot and looking at its grant, which is then not due yet:
// the slot stays where it is.
func TestSlotThatIsNotDueAfterAll(t *testing.T) {
	r := withGrant(t)
	one := r.slotsAt()[0]
	l := &grantLock{b: r.b, entry: &lockEntry{}, storage: r.storage, name: "income"}
	if err := l.upkeep(r.ctx, slotKey(one.at.Add(-time.Second), "income")); err != nil {
		t.Fatal(err)
	}
	r.indexed()
	if left := r.slotsAt(); len(left) != 1 || left[0] != one {
		t.Errorf("%v", left)
	}
}

// A failed attempt at a grant leaves no slot behind.
func TestGrantThatIsNotGiven(t *testing.T) {
	r := configured(t)
	r.sandbox.Misbehave(sandbox.Misbehaviour{Status: 400, On: []string{"grant"}})
	r.fails(400, logical.UpdateOperation, "grants/income", map[string]any{"wallet_address": r.sandbox.WalletAddress("shop"), "access": incomingAccess})
	if left := r.slots(); len(left) != 0 {
		t.Errorf("%v", left)
	}
}

// The slot is there before the grant is: whichever write fails, no grant is without one.
func TestSlotIsPutBeforeTheGrant(t *testing.T) {
	for name, write := range map[string]func(r *rig) error{
		"ask": func(r *rig) error {
			_, err := r.do(r.ctx, logical.UpdateOperation, "grants/income", map[string]any{"wallet_address": r.sandbox.WalletAddress("shop"), "access": incomingAccess})
			return err
		},
		"import": func(r *rig) error {
			_, err := r.do(r.ctx, logical.UpdateOperation, "grants/income", map[string]any{"access_token": "t", "manage_url": r.sandbox.AuthServer() + "/token/1"})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			for failing := 1; failing <= 2; failing++ {
				r := configured(t)
				r.storage.failPuts(failing, logical.ErrReadOnly)
				if err := write(r); err != logical.ErrReadOnly { //nolint:errorlint // Vault compares it like this
					t.Errorf("write %d: %v", failing, err)
				}
				if n := len(r.slots()); n != failing-1 || r.requests() != 0 {
					t.Errorf("write %d: %d slots, %d requests", failing, n, r.requests())
				}
				r.storage.heal()
				r.clock.Advance(idleTime)
				r.tick()
				if left := r.slots(); len(left) != 0 {
					t.Errorf("write %d: %v", failing, left)
				}
			}
		})
	}
	t.Run("settings", func(t *testing.T) {
		r := withGrant(t)
		before := len(r.slots())
		r.storage.failPuts(2, errDisk)
		r.fails(500, logical.UpdateOperation, "grants/income", map[string]any{"keepalive": "1h"})
		if len(r.slots()) != before+1 || r.stored("income").Settings.Keepalive != defaultKeepalive {
			t.Error("the slot has to be put first")
		}
		r.storage.heal()
		r.clock.Advance(idleTime)
		r.tick()
		r.indexed()
	})
}

// One row for each thing that can fail while a grant is kept alive. Afterwards it has been rotated
// once, and is in the index once.
func TestKeepAliveFails(t *testing.T) {
	on := func(prefix string) func(string) error {
		return func(key string) error {
			if strings.HasPrefix(key, prefix) {
				return errDisk
			}
			return nil
		}
	}
	for name, row := range map[string]struct {
		fail  func(r *rig)
		heal  func(r *rig)
		sent  bool // something is sent before it fails
		retry time.Duration
	}{
		"reading the cursor":       {func(r *rig) { r.storage.onRead = on(cursorKey) }, nil, false, time.Minute},
		"listing":                  {func(r *rig) { r.storage.onList = on(keepalivePrefix) }, nil, false, time.Minute},
		"reading the grant":        {func(r *rig) { r.storage.onRead = on(grantsPrefix) }, nil, false, 7 * time.Minute},
		"reading the grant's slot": {func(r *rig) { r.storage.onRead = on(keepalivePrefix + "0"); r.sandbox.UnpublishKeys() }, (*rig).publish, true, time.Minute},
		"reading config":           {func(r *rig) { r.storage.onRead = on(configKey) }, nil, false, 7 * time.Minute},
		"writing the intent":       {func(r *rig) { r.storage.onPut = func(_ int, key string) error { return on(grantsPrefix)(key) } }, nil, false, 7 * time.Minute},
		"writing the answer": {func(r *rig) {
			intents := 0
			r.storage.onPut = func(_ int, key string) error {
				if intents == 0 && strings.HasPrefix(key, grantsPrefix) {
					intents++
					return nil
				}
				return on(grantsPrefix)(key)
			}
		}, nil, true, 7 * time.Minute},
		"writing the next slot": {func(r *rig) {
			r.storage.onPut = func(_ int, key string) error { return on(keepalivePrefix + "0")(key) }
		}, nil, true, time.Minute},
		"deleting the slot":  {func(r *rig) { r.storage.onDelete = on(keepalivePrefix) }, nil, true, time.Minute},
		"writing the cursor": {func(r *rig) { r.storage.onPut = func(_ int, key string) error { return on(cursorKey)(key) } }, nil, true, time.Minute},
		"the server":         {func(r *rig) { r.sandbox.Misbehave(sandbox.Misbehaviour{Status: 503}) }, func(r *rig) { r.sandbox.Misbehave(sandbox.Misbehaviour{}) }, true, 7 * time.Minute},
		"the client's key":   {func(r *rig) { r.sandbox.UnpublishKeys() }, (*rig).publish, true, 7 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			r := withGrant(t)
			r.tick()
			r.clock.Advance(idleTime)
			row.fail(r)
			if n := r.rotations(r.tick); n > 0 != row.sent {
				t.Errorf("%d rotations", n)
			}
			r.storage.heal()
			if row.heal != nil {
				row.heal(r)
			}
			r.clock.Advance(row.retry)
			r.tick()
			r.clock.Advance(time.Minute)
			r.tick()
			if g := r.stored("income"); g.Generation != 2 || g.Intent != nil || !r.sandbox.Live(g.Token) {
				t.Errorf("generation %d", g.Generation)
			}
			r.indexed()
			if n := r.sandbox.Count("grant"); n != 1 {
				t.Error("the grant was asked for again")
			}
			r.noSecretIn("the log", r.log.String())
		})
	}
}

// A damaged entry does not keep the others from being looked at, nor the log full.
func TestDamagedEntries(t *testing.T) {
	r := withGrant(t)
	r.ask("other")
	r.tick()
	for _, key := range []string{cursorKey, grantsPrefix + "income"} {
		if err := r.storage.Put(r.ctx, &logical.StorageEntry{Key: key, Value: []byte("{")}); err != nil {
			t.Fatal(err)
		}
	}
	r.clock.Advance(idleTime)
	if n := r.rotations(r.tick); n != 1 {
		t.Errorf("%d rotations, want that of the other", n)
	}
	for range 24 * 60 {
		r.clock.Advance(time.Minute)
		r.tick()
	}
	if n := strings.Count(r.log.String(), "damaged"); n < 5 || n > 12 {
		t.Errorf("told %d times in a day", n)
	}
}

// crashBefore lets the engine do something up to the n-th write besides the cursor's, and starts
// another one on what is stored by then. The old one never comes back.
func (r *rig) crashBefore(n int, do func()) {
	r.Helper()
	var mu sync.Mutex
	stopped, gone := make(chan struct{}), make(chan struct{})
	r.Cleanup(func() { close(gone) })
	writes := 0
	write := func(key string) error {
		if key == cursorKey {
			return nil
		}
		mu.Lock()
		writes++
		now := writes
		mu.Unlock()
		if now < n {
			return nil
		}
		if now == n {
			close(stopped)
		}
		<-gone
		return errDisk
	}
	crashed := r.storage
	crashed.mu.Lock()
	crashed.onPut, crashed.onDelete = func(_ int, key string) error { return write(key) }, write
	crashed.mu.Unlock()
	do()
	<-stopped
	r.storage = &testStorage{InmemStorage: &logical.InmemStorage{}}
	copyStorage(r.TB.(*testing.T), crashed.InmemStorage, r.storage.InmemStorage)
	r.restart()
}

// The engine ends before each of the writes of a keep-alive rotation in turn, and is started again:
// the grant is alive, has been rotated once, and is in the index.
func TestCrashWhileKeepingAlive(t *testing.T) {
	for point, name := range []string{"the intent", "the answer", "the next slot", "the end of the old slot"} {
		for _, interactive := range []bool{false, true} {
			t.Run(fmt.Sprintf("before %s, interactive %v", name, interactive), func(t *testing.T) {
				r := configured(t)
				if interactive {
					r.imported("income", nil)
				} else {
					r.ask("income")
				}
				r.tick()
				r.clock.Advance(idleTime)
				r.crashBefore(point+1, r.wake)
				r.tick()
				r.indexed()
				if g := r.stored("income"); interactive && name == "the answer" { // which cannot be had again
					if g.Status != statusLost {
						t.Errorf("status %s", g.Status)
					}
					return
				}
				if g := r.stored("income"); g.Generation != 2 || !r.sandbox.Live(g.Token) || g.Status != statusActive {
					t.Errorf("generation %d, status %s", g.Generation, g.Status)
				}
				r.clock.Advance(idleTime)
				if n := r.rotations(r.tick); n != 1 {
					t.Errorf("%d rotations a week later, want 1", n)
				}
				r.indexed()
			})
		}
	}
}

// The same for what puts a grant into the index.
func TestCrashWhileAGrantIsWritten(t *testing.T) {
	for name, row := range map[string]struct {
		op     logical.Operation
		path   string
		fields func(r *rig) map[string]any
		writes int
	}{
		"ask": {logical.CreateOperation, "grants/income", func(r *rig) map[string]any {
			return map[string]any{"wallet_address": r.sandbox.WalletAddress("shop"), "access": incomingAccess}
		}, 3},
		"import": {logical.CreateOperation, "grants/income", func(r *rig) map[string]any {
			return map[string]any{"access_token": "t", "manage_url": r.sandbox.AuthServer() + "/token/1"}
		}, 2},
		"ask in its place": {logical.UpdateOperation, "grants/other", func(r *rig) map[string]any {
			return map[string]any{"wallet_address": r.sandbox.WalletAddress("alice"), "access": incomingAccess, "keepalive": "24h"}
		}, 3},
		"settings": {logical.UpdateOperation, "grants/other", func(*rig) map[string]any { return map[string]any{"keepalive": "24h"} }, 2},
		"delete":   {logical.DeleteOperation, "grants/other", func(*rig) map[string]any { return nil }, 1},
	} {
		for point := 1; point <= row.writes; point++ {
			t.Run(fmt.Sprintf("%s, before write %d", name, point), func(t *testing.T) {
				r := configured(t)
				r.ask("other")
				r.tick()
				engine := r.b
				req := &logical.Request{Operation: row.op, Path: row.path, Data: row.fields(r), Storage: r.storage, MountPoint: "op/"}
				r.crashBefore(point, func() { go func() { _, _ = engine.HandleRequest(r.ctx, req) }() })
				for range 2 { // slots without a grant are gone, and all grants alive
					r.clock.Advance(idleTime)
					r.tick()
				}
				for _, one := range r.grants() {
					if g := r.stored(one); g.LastRotation.Cause != string(causeKeepalive) || !r.sandbox.Live(g.Token) {
						t.Errorf("%s is not kept alive", one)
					}
				}
				r.indexed()
			})
		}
	}
}

func TestBackgroundWorkHasHalfOfAServersPlaces(t *testing.T) {
	const grants, share = 100, defaultMaxRequests / 2
	r := configured(t)
	for i := range grants {
		r.ask(fmt.Sprintf("g%d", i))
	}
	r.tick()
	r.clock.Advance(idleTime)
	var mu sync.Mutex
	inside, most, arrived := 0, 0, 0
	full := sync.NewCond(&mu)
	r.on("rotate", func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		mu.Lock()
		inside, arrived = inside+1, arrived+1
		most = max(most, inside)
		full.Broadcast()
		for inside < share && arrived <= grants-share { // so that a third has every chance
			full.Wait()
		}
		mu.Unlock()
		for range 1000 {
			runtime.Gosched()
		}
		next.ServeHTTP(w, req)
		mu.Lock()
		inside--
		mu.Unlock()
	})
	if n := r.rotations(r.tick); n != grants || most != share {
		t.Errorf("%d rotations, %d at once", n, most)
	}
	r.indexed()
}

// One grant's server is down for a day: it is asked less and less, the others are kept alive all
// along, and when it is up again, so is the grant.
func TestServerThatIsDownForHours(t *testing.T) {
	r := configured(t)
	for _, name := range []string{"down", "up"} {
		r.ok(logical.UpdateOperation, "grants/"+name, map[string]any{"wallet_address": r.sandbox.WalletAddress("shop"), "access": incomingAccess, "keepalive": "1h"})
	}
	r.clock.Advance(67 * time.Minute)
	down := strings.TrimPrefix(r.stored("down").Manage, r.sandbox.URL())
	var attempts []time.Time
	r.on("rotate", func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if req.URL.Path != down {
			next.ServeHTTP(w, req)
			return
		}
		if n := len(attempts); n == 0 || r.clock.Since(attempts[n-1]) > retryWindow {
			attempts = append(attempts, r.clock.Now())
		}
		w.WriteHeader(503)
	})
	begun := r.clock.Now()
	for r.clock.Since(begun) < 24*time.Hour {
		r.tick()
		r.clock.Advance(time.Minute)
	}
	if n := len(attempts); n != 9 { // 0, 5, 15, 35, … minutes, and a part more
		t.Errorf("%d attempts in a day", n)
	}
	for i := 1; i < len(attempts); i++ {
		gap, least := attempts[i].Sub(attempts[i-1]), keepaliveRetryMin<<(i-1)
		if gap < min(least, keepaliveRetryMax) {
			t.Errorf("attempt %d comes %s after the one before", i+1, gap)
		}
	}
	if g := r.stored("down"); g.Status != statusActive || g.LastFailure.Cause == "" {
		t.Errorf("status %s", g.Status)
	}
	if g := r.stored("up"); r.clock.Since(g.LastRotation.At) > 70*time.Minute {
		t.Error("the other grant was not kept alive meanwhile")
	}
	r.noSecretIn("the log", r.log.String())

	r.on("rotate", nil)
	for r.stored("down").Generation == 1 && r.clock.Since(begun) < 48*time.Hour {
		r.clock.Advance(time.Minute)
		r.tick()
	}
	if g := r.stored("down"); g.Generation != 2 || !r.sandbox.Live(g.Token) || r.clock.Since(begun) > 40*time.Hour {
		t.Errorf("generation %d after %s", g.Generation, r.clock.Since(begun))
	}
	r.indexed()
	// The next time is the first again.
	r.clock.Advance(67 * time.Minute)
	r.sandbox.UnpublishKeys()
	r.tick()
	if slots := r.slotsAt(); slots[0].at.Sub(r.clock.Now()) > 7*time.Minute {
		t.Errorf("the next attempt is in %s", slots[0].at.Sub(r.clock.Now()))
	}
}

// Clean waits for what is being rotated, and nothing else is begun.
func TestCleanWhileKeepingAlive(t *testing.T) {
	const grants = 20
	r := configured(t)
	r.ok(logical.UpdateOperation, "config", map[string]any{"max_requests_per_server": 2 * keptAtOnce})
	for i := range grants {
		r.ask(fmt.Sprintf("g%d", i))
	}
	r.tick()
	r.clock.Advance(idleTime)
	arrived, release := make(chan struct{}, grants), make(chan struct{})
	r.on("rotate", func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		arrived <- struct{}{}
		<-release
		next.ServeHTTP(w, req)
	})
	r.wake()
	for range keptAtOnce {
		<-arrived
	}
	r.wake() // one at a time: nothing happens
	cleaned := make(chan struct{})
	go func() {
		r.b.Cleanup(r.ctx)
		close(cleaned)
	}()
	<-r.b.inFlight.closing
	select {
	case <-cleaned:
		t.Fatal("Clean did not wait")
	default:
	}
	close(release)
	<-cleaned
	if n := r.sandbox.Count("rotate"); n != keptAtOnce {
		t.Errorf("%d rotations, want the %d that were under way", n, keptAtOnce)
	}
	r.restart()
	if n := r.rotations(r.tick); n != grants-keptAtOnce {
		t.Errorf("%d rotations, want those that are left", n)
	}
	for _, name := range r.grants() {
		if g := r.stored(name); g.Generation != 2 || g.Intent != nil || !r.sandbox.Live(g.Token) {
			t.Errorf("%s: generation %d", name, g.Generation)
		}
	}
	r.indexed()
}

func TestTickWhileTheWorkerIsBusy(t *testing.T) {
	r := withGrant(t)
	r.tick()
	r.clock.Advance(idleTime)
	arrived, release := r.hang(false)
	r.wake()
	<-arrived
	for r.b.keyWorker.busy.Load() {
		runtime.Gosched()
	}
	before := r.storage.opsSoFar()
	for range 3 {
		r.wake()
		for r.b.keyWorker.busy.Load() {
			runtime.Gosched()
		}
	}
	if n := r.storage.opsSoFar() - before; n != 3*3 { // those of the client's keys, and the look at the WAL
		t.Errorf("%d storage operations", n)
	}
	release()
	r.tick()
	if g := r.stored("income"); g.Generation != 2 {
		t.Errorf("generation %d", g.Generation)
	}
}

func TestStandbyKeepsNothingAlive(t *testing.T) {
	r := withGrant(t)
	r.clock.Advance(idleTime)
	for _, state := range []consts.ReplicationState{consts.ReplicationPerformanceStandby, consts.ReplicationPerformanceSecondary, consts.ReplicationDRSecondary} {
		r.system.ReplicationStateVal = state
		before := r.storage.opsSoFar()
		// The framework looks at the WAL.
		if n := r.rotations(r.tick); n != 0 || r.storage.opsSoFar() != before+1 {
			t.Errorf("%s: %d rotations, %d storage operations", state.GetDRString(), n, r.storage.opsSoFar()-before)
		}
	}
	r.system.ReplicationStateVal = consts.ReplicationUnknown
	if n := r.rotations(r.tick); n != 1 {
		t.Errorf("%d rotations", n)
	}
	// It turns into one in the middle of the work.
	r.clock.Advance(idleTime)
	r.on("rotate", func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		r.system.ReplicationStateVal = consts.ReplicationPerformanceStandby
		next.ServeHTTP(w, req)
	})
	r.tick()
	if g := r.stored("income"); g.Generation != 3 || !r.sandbox.Live(g.Token) {
		t.Error("what was begun is not finished")
	}
}

// What a tick costs does not depend on what is stored, nor on how long ago.
func TestIdleTickCostsTheSameWhateverIsStored(t *testing.T) {
	for _, grants := range []int{0, 1, 500} {
		r := configured(t)
		r.ask("model")
		g := r.stored("model")
		for i := range grants {
			g.ID = fmt.Sprint(i)
			h := &grantLock{b: r.b, storage: r.storage.InmemStorage, name: fmt.Sprintf("g%d", i)}
			if _, err := h.schedule(r.ctx, nil, g); err != nil {
				t.Fatal(err)
			}
			r.put(h.name, g)
		}
		r.tick()
		r.clock.Advance(100 * time.Hour)
		r.tick()
		puts, before := r.storage.putsSoFar(), r.storage.opsSoFar()
		r.tick()
		// The cursor, two hours; the client and its keys; the WAL.
		if n := r.storage.opsSoFar() - before; n != 6 || r.storage.putsSoFar() != puts {
			t.Errorf("%d grants: %d storage operations, %d writes", grants, n, r.storage.putsSoFar()-puts)
		}
	}
}

// The cursor may be missing or wrong, and clocks may differ by up to an hour.
func TestCursor(t *testing.T) {
	hour := func(r *rig) int64 { return hourOf(r.clock.Now()) }
	for name, row := range map[string]func(r *rig){
		"none": func(r *rig) { r.storage.InmemStorage.Delete(r.ctx, cursorKey) },
		"damaged": func(r *rig) {
			r.storage.InmemStorage.Put(r.ctx, &logical.StorageEntry{Key: cursorKey, Value: []byte("x")})
		},
		"of a clock that is fast": func(r *rig) { storeCursor(r.ctx, r.storage.InmemStorage, hour(r)+5) },
		"of weeks ago":            func(r *rig) { storeCursor(r.ctx, r.storage.InmemStorage, hour(r)-1000) },
		"of now":                  func(r *rig) { storeCursor(r.ctx, r.storage.InmemStorage, hour(r)) },
		"of now, and a slot that a slow clock has put": func(r *rig) {
			storeCursor(r.ctx, r.storage.InmemStorage, hour(r))
			r.moveSlot(-59 * time.Minute)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := withGrant(t)
			r.clock.Advance(idleTime)
			r.moveSlot(-time.Second)
			row(r)
			before := r.storage.opsSoFar()
			if n := r.rotations(r.tick); n != 1 {
				t.Errorf("%d rotations, want 1", n)
			}
			r.tick()
			if n := r.storage.opsSoFar() - before; n > 1100 {
				t.Errorf("%d storage operations", n)
			}
			if at, known, err := loadCursor(r.ctx, r.storage); err != nil || !known || at != hour(r) {
				t.Errorf("the cursor is %d hours behind: %v %v", hour(r)-at, known, err)
			}
			r.indexed()
		})
	}
}

// What is scheduled while the clock is wrong, and no tick has found that out, is not left behind.
func TestClockSetBackAndForthBetweenTicks(t *testing.T) {
	r := configured(t)
	r.imported("payer", nil)
	r.tick()
	r.clock.Advance(-25 * time.Hour)
	r.on("rotate", knowsNoToken)
	r.fails(400, logical.ReadOperation, "token/payer", nil, "lost")
	r.on("rotate", nil)
	r.clock.Advance(25 * time.Hour)
	r.tick()
	if g := r.stored("payer"); g.Status != statusActive {
		t.Errorf("the grant is %s", g.Status)
	}
}

// moveSlot moves the only slot to some time from now.
func (r *rig) moveSlot(d time.Duration) {
	r.Helper()
	one := r.slotsAt()[0]
	h := &grantLock{b: r.b, storage: r.storage.InmemStorage, name: one.name}
	if err := r.storage.InmemStorage.Delete(r.ctx, slotKey(one.at.Add(-time.Second), one.name)); err != nil {
		r.Fatal(err)
	}
	if _, err := h.putSlot(r.ctx, r.clock.Now().Add(d-time.Second), slot{}); err != nil {
		r.Fatal(err)
	}
}

// A slot that cannot be dealt with keeps its hour from being passed over.
func TestCursorWaitsForWhatIsLeft(t *testing.T) {
	r := withGrant(t)
	r.tick()
	r.clock.Advance(idleTime)
	r.storage.onPut = func(_ int, key string) error {
		if strings.HasPrefix(key, keepalivePrefix+"0") {
			return errDisk
		}
		return nil
	}
	for range 5 {
		r.tick()
		r.clock.Advance(time.Hour)
	}
	r.storage.heal()
	r.tick()
	r.indexed()
	if n := r.sandbox.Count("rotate"); n != 1 {
		t.Errorf("%d rotations, want 1", n)
	}
}

// The engine was not running for weeks, as while Vault is sealed.
func TestKeepAliveCatchesUp(t *testing.T) {
	r := configured(t)
	for i := range 12 {
		r.ask(fmt.Sprintf("g%d", i))
		r.clock.Advance(5 * time.Hour)
	}
	r.tick()
	r.clock.Advance(20 * 24 * time.Hour)
	r.restart()
	if n := r.rotations(r.tick); n != 12 {
		t.Errorf("%d rotations, want 12", n)
	}
	r.indexed()
}
