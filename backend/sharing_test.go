// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/authserver"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
)

// shared asks for a grant that is shared.
func (r *rig) shared(name string, more map[string]any) {
	r.Helper()
	r.ask(name)
	settings := map[string]any{"shared": true}
	for k, v := range more {
		settings[k] = v
	}
	r.ok(logical.UpdateOperation, "grants/"+name, settings)
}

func TestHandsOutAgain(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	left := func(life, left time.Duration) func(*grant) {
		return func(g *grant) { g.Lifetime, g.ExpiresAt = life, now.Add(left) }
	}
	both := func(changes ...func(*grant)) func(*grant) {
		return func(g *grant) {
			for _, change := range changes {
				change(g)
			}
		}
	}
	minTTL := func(d time.Duration) func(*grant) { return func(g *grant) { g.Settings.MinTTL = d } }
	intends := func(why cause) func(*grant) { return func(g *grant) { g.begin(why, now) } }
	for name, row := range map[string]struct {
		change func(*grant)
		limit  time.Duration
		want   bool
	}{
		"fresh":                          {func(*grant) {}, time.Hour, true},
		"not shared":                     {func(g *grant) { g.Settings.Shared = false }, time.Hour, false},
		"a quarter of its life left":     {left(600*time.Second, 150*time.Second), time.Hour, true},
		"less than a quarter left":       {left(600*time.Second, 150*time.Second-1), time.Hour, false},
		"min_ttl left":                   {both(minTTL(time.Minute), left(600*time.Second, time.Minute)), time.Hour, true},
		"less than min_ttl left":         {both(minTTL(time.Minute), left(600*time.Second, time.Minute-1)), time.Hour, false},
		"min_ttl longer than its life":   {minTTL(time.Hour), time.Hour, false},
		"expired":                        {left(600*time.Second, -time.Second), time.Hour, false},
		"worth a lease of two seconds":   {both(minTTL(time.Second), left(600*time.Second, 7*time.Second)), time.Hour, true},
		"worth less than that":           {both(minTTL(time.Second), left(600*time.Second, 7*time.Second-1)), time.Hour, false},
		"no mount allows such leases":    {func(*grant) {}, time.Second - 1, false},
		"max_ttl of a second":            {func(g *grant) { g.Settings.MaxTTL = time.Second }, time.Hour, true},
		"lost":                           {func(g *grant) { g.Status = statusLost }, time.Hour, false},
		"pending":                        {func(g *grant) { g.Status = statusPending }, time.Hour, false},
		"another one is being asked for": {func(g *grant) { g.Pending = &pending{} }, time.Hour, true},
		"never got a token":              {func(g *grant) { g.Token = "" }, time.Hour, false},
		"held by who does not share":     {func(g *grant) { g.NotReusable = true }, time.Hour, false},
		"intent to read":                 {intends(causeRead), time.Hour, false},
		"intent to renew":                {intends(causeRenew), time.Hour, false},
		"intent to revoke":               {intends(causeRevoke), time.Hour, false},
		"intent to rotate":               {intends(causeRotate), time.Hour, false},
		"intent to ask for another":      {intends(causeAsk), time.Hour, true},
		"intent to continue":             {intends(causeConsent), time.Hour, true},
		"doubts under another intent":    {both(intends(causeRead), intends(causeConsent)), time.Hour, false},
	} {
		g := newGrant("https://wallet.example/client", now)
		g.Settings.Shared = true
		g.accept(authserver.TokenIssued{Value: "t", Manage: "m", Lifetime: 600 * time.Second, SentAt: now}, causeAsk)
		row.change(g)
		if got := canReuse(g, now, row.limit); got != row.want {
			t.Errorf("%s: %v, want %v", name, got, row.want)
		}
	}
	if canReuse(nil, now, time.Hour) {
		t.Error("a grant that is not there is handed out")
	}
}

// Who got a token last says whether others may have it.
func TestTokenThatIsNotHandedOutAgain(t *testing.T) {
	for why, row := range map[cause]struct{ shared, alone bool }{
		causeRead:    {false, true},
		causeRenew:   {true, true},
		causeImport:  {true, true},
		causeRevoke:  {false, false},
		causeRotate:  {false, false},
		causeAsk:     {false, false},
		causeConsent: {false, false},
	} {
		for shared, want := range map[bool]bool{true: row.shared, false: row.alone} {
			g := newGrant("https://wallet.example/client", time.Now())
			g.Settings.Shared = shared
			g.NotReusable = !want
			g.accept(authserver.TokenIssued{Value: "t"}, why)
			if g.NotReusable != want {
				t.Errorf("%s, shared %v: %v, want %v", why, shared, g.NotReusable, want)
			}
		}
	}
}

// An entry of an earlier version does not say whether somebody has the token who does not share it.
func TestStoredWithoutSpent(t *testing.T) {
	r := withGrant(t)
	lease := r.read("income")
	g := r.stored("income")
	entry, err := r.storage.Get(r.ctx, grantsPrefix+"income")
	if err != nil {
		t.Fatal(err)
	}
	entry.Value = []byte(strings.Replace(string(entry.Value), `,"spent":true`, "", 1))
	if err := r.storage.Put(r.ctx, entry); err != nil || strings.Contains(string(entry.Value), "spent") {
		t.Fatalf("%v", err)
	}
	r.ok(logical.PatchOperation, "grants/income", map[string]any{"shared": true})
	if tokenOf(r.read("income")) == tokenOf(lease) {
		t.Error("a token is shared that its holder takes away with a renewal")
	}
	again := r.stored("income").Generation
	if r.read("income"); again != g.Generation+1 || r.stored("income").Generation != again {
		t.Errorf("generation %d", r.stored("income").Generation)
	}
}

func TestSharedReadersRotateOnce(t *testing.T) {
	const readers = 32
	r := configured(t)
	r.shared("income", nil)
	before := r.read("income")
	for _, pass := range []time.Duration{451 * time.Second, time.Hour} { // little life left; none
		r.clock.Advance(pass)
		rotated, puts := r.sandbox.Count("rotate"), r.storage.putsSoFar()
		arrived, release := r.hang(false)
		var reads [readers]<-chan result
		for i := range reads {
			reads[i] = r.goRead(r.ctx, "income")
		}
		<-arrived
		r.awaitUsers("income", readers)
		release()
		token := ""
		for _, read := range reads {
			res := <-read
			r.live(res)
			if token == "" {
				token = tokenOf(res.resp)
			}
			if tokenOf(res.resp) != token || token == tokenOf(before) {
				t.Fatal("the readers have not all got the same new token")
			}
		}
		if n := r.sandbox.Count("rotate") - rotated; n != 1 {
			t.Errorf("%d rotations, want 1", n)
		}
		if n := r.storage.putsSoFar() - puts; n != 2 {
			t.Errorf("%d writes, want 2", n)
		}
	}
}

func TestSharedLease(t *testing.T) {
	r := configured(t)
	r.shared("income", map[string]any{"min_ttl": 60})
	first := r.read("income")
	if first.Data["generation"] != 1 || r.sandbox.Count("rotate") != 0 {
		t.Error("a token that nobody has is handed out without a rotation")
	}
	r.clock.Advance(540 * time.Second)
	second := r.read("income")
	if tokenOf(first) != tokenOf(second) || second.Secret.TTL != 55*time.Second || second.Secret.MaxTTL != second.Secret.TTL {
		t.Errorf("TTL %s", second.Secret.TTL)
	}
	for _, lease := range []*logical.Response{first, second} {
		if lease.Secret.Renewable {
			t.Error("a shared lease is renewable")
		}
		if resp, err := r.renew(lease); err == nil || resp != nil || !strings.Contains(err.Error(), "shared") || !strings.Contains(err.Error(), "op/token/income") {
			t.Errorf("%v", err)
		}
	}
	if _, err := r.revoke(first); err != nil || !r.sandbox.Live(tokenOf(second)) || r.sandbox.Count("rotate") != 0 {
		t.Errorf("a revocation has not left the token alone: %v", err)
	}
	r.clock.Advance(time.Second)
	third := r.read("income")
	if third.Data["generation"] != 2 || third.Secret.Renewable || !r.sandbox.Live(tokenOf(third)) {
		t.Error("with less than min_ttl left, a read rotates")
	}
}

// A lease stays what it was issued as; the settings are those of new ones.
func TestChangingSharedAffectsNewLeasesOnly(t *testing.T) {
	t.Run("shared, then not", func(t *testing.T) {
		r := configured(t)
		r.shared("income", nil)
		lease := r.read("income")
		r.ok(logical.PatchOperation, "grants/income", map[string]any{"shared": nil})
		if _, err := r.renew(lease); err == nil || !strings.Contains(err.Error(), "shared") {
			t.Errorf("%v", err)
		}
		if _, err := r.revoke(lease); err != nil || !r.sandbox.Live(tokenOf(lease)) {
			t.Errorf("revoking has not left the token alone: %v", err)
		}
		if next := r.read("income"); !next.Secret.Renewable || tokenOf(next) == tokenOf(lease) {
			t.Error("a new lease has to be renewable and to hold a token of its own")
		}
	})
	t.Run("not shared, then shared", func(t *testing.T) {
		r := withGrant(t)
		lease := r.read("income")
		r.ok(logical.UpdateOperation, "grants/income", map[string]any{"shared": true})
		renewed, err := r.renew(lease)
		if err != nil || !renewed.Secret.Renewable || !r.sandbox.Live(tokenOf(renewed)) {
			t.Fatalf("a lease from before has to be renewable: %v", err)
		}
		// Its next renewal or its end would take the token from the others, so they do not get this
		// one.
		other := r.read("income")
		if tokenOf(other) == tokenOf(renewed) || tokenOf(r.read("income")) != tokenOf(other) {
			t.Error("want one rotation and then the same token")
		}
		if _, err := r.renew(renewed); err == nil || !strings.Contains(err.Error(), "superseded") {
			t.Errorf("%v", err)
		}
		if _, err := r.revoke(renewed); err != nil || !r.sandbox.Live(tokenOf(other)) {
			t.Errorf("revoking has not left the others' token alone: %v", err)
		}
	})
	t.Run("not shared, then shared, then revoked", func(t *testing.T) {
		r := withGrant(t)
		lease := r.read("income")
		r.ok(logical.UpdateOperation, "grants/income", map[string]any{"shared": true})
		if _, err := r.revoke(lease); err != nil || r.sandbox.Live(tokenOf(lease)) {
			t.Errorf("revoking has to make the value worthless: %v", err)
		}
		if next := r.read("income"); next.Data["generation"] != 3 || !r.sandbox.Live(tokenOf(next)) {
			t.Error("the token of the revocation is nobody's, and may be shared")
		}
	})
	t.Run("imported", func(t *testing.T) {
		r := configured(t)
		r.imported("payer", map[string]any{"shared": true})
		imported := r.stored("payer").Token
		if first := r.read("payer"); tokenOf(first) == imported || tokenOf(r.read("payer")) != tokenOf(first) {
			t.Error("the token that somebody typed is handed out, or the next one is not")
		}
	})
}

// The doubtful token is not handed out, and the one that is good is not kept back.
func TestSharedReadsAfterAFailure(t *testing.T) {
	t.Run("of a rotation", func(t *testing.T) {
		r := configured(t)
		r.shared("income", nil)
		r.read("income")
		r.sandbox.Misbehave(sandbox.Misbehaviour{Status: 500, On: []string{"rotate"}})
		r.fails(502, logical.UpdateOperation, "rotate/income", nil)
		r.fails(502, logical.ReadOperation, "token/income", nil, "answered 500")
		r.sandbox.Misbehave(sandbox.Misbehaviour{})
		r.clock.Advance(failureMax)
		rotated := r.sandbox.Count("rotate")
		r.live(<-r.goRead(r.ctx, "income"))
		r.live(<-r.goRead(r.ctx, "income"))
		if n := r.sandbox.Count("rotate") - rotated; n != 1 {
			t.Errorf("%d rotations, want 1", n)
		}
	})
	t.Run("of a consent", func(t *testing.T) {
		r := configured(t)
		r.shared("income", nil)
		lease := r.read("income")
		r.asked("income", "")
		r.clock.Advance(defaultWait)
		r.sandbox.Misbehave(sandbox.Misbehaviour{Status: 500, On: []string{"continue"}})
		r.fails(502, logical.UpdateOperation, "grants/income/continue", nil)
		if r.b.locks.byName["income"].failure.err == nil || r.stored("income").Intent == nil {
			t.Fatal("the failure left nothing behind to get past")
		}
		if tokenOf(r.read("income")) != tokenOf(lease) {
			t.Error("another token was handed out")
		}
	})
	t.Run("of a rotation, then of asking for another grant", func(t *testing.T) {
		r := configured(t)
		r.shared("income", nil)
		r.sandbox.Misbehave(sandbox.Misbehaviour{Status: 500, On: []string{"rotate"}})
		r.fails(502, logical.UpdateOperation, "rotate/income", nil)
		r.sandbox.Misbehave(sandbox.Misbehaviour{})
		r.on("grant", func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			if canReuse(r.stored("income"), r.clock.Now(), time.Hour) {
				t.Error("what a crash would find now is handed out")
			}
			next.ServeHTTP(w, req)
		})
		r.asked("income", "") // in the place of the intent to rotate
		if r.stored("income").Intent != nil {
			t.Fatal("the intent to rotate is still there")
		}
		rotated := r.sandbox.Count("rotate")
		r.live(<-r.goRead(r.ctx, "income"))
		if r.sandbox.Count("rotate") == rotated {
			t.Error("a token was handed out that may be dead")
		}
	})
}

// All who wait get the failure of the one rotation.
func TestSharedReadersOfAServerThatFails(t *testing.T) {
	r := configured(t)
	r.shared("income", nil)
	r.clock.Advance(time.Hour)
	arrived, release := r.hang(false)
	var reads [8]<-chan result
	for i := range reads {
		reads[i] = r.goRead(r.ctx, "income")
	}
	<-arrived
	r.awaitUsers("income", len(reads))
	r.sandbox.UnpublishKeys()
	release()
	for _, read := range reads {
		res := <-read
		r.failed(400, res.resp, res.err, "jwks.json")
	}
	if n := r.sandbox.Count("rotate"); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
}

func TestMinTTLThatNoTokenHas(t *testing.T) {
	r := configured(t)
	r.shared("income", map[string]any{"min_ttl": "1h"})
	first, second := r.read("income"), r.read("income")
	if tokenOf(first) == tokenOf(second) || len(second.Warnings) != 1 || !strings.Contains(second.Warnings[0], "min_ttl") {
		t.Errorf("%v", second.Warnings)
	}
}

// The owner of a token's life that nobody knows is told so with each lease.
func TestSharedTokenOfAnUnknownLife(t *testing.T) {
	r := configured(t)
	r.shared("income", nil)
	r.clock.Advance(time.Hour)
	r.expiresIn("")
	first, second := r.read("income"), r.read("income")
	if tokenOf(first) != tokenOf(second) || len(second.Warnings) != 1 {
		t.Errorf("%v", second.Warnings)
	}
}

func TestStandbyHandsOutNothing(t *testing.T) {
	r := configured(t)
	r.shared("income", nil)
	r.system.ReplicationStateVal = consts.ReplicationPerformanceStandby
	if _, err := r.do(r.ctx, logical.ReadOperation, "token/income", nil); err != logical.ErrReadOnly { //nolint:errorlint // Vault compares it like this
		t.Errorf("%v, want logical.ErrReadOnly", err)
	}
}
