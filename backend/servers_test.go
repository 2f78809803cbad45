// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/authserver"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
)

// What real servers, proxies and caches do to a grant.

func on(op string, m sandbox.Misbehaviour) sandbox.Misbehaviour {
	m.On = []string{op}
	return m
}

// isActive checks that a grant is not lost, and that its token is live once it is read again.
func (r *rig) isActive(name string) {
	r.Helper()
	if g := r.stored(name); g.Status != statusActive {
		r.Fatalf("%s is %s: %s", name, g.Status, g.Lost.Cause)
	}
	r.sandbox.Misbehave()
	r.clock.Advance(failureMax)
	r.live(<-r.goRead(r.ctx, name))
}

// A database that cannot be written to, as after a failover, is not the end of any grant.
func TestServerWhoseDatabaseIsReadOnly(t *testing.T) {
	for name, make := range map[string]func(r *rig){
		"consented": func(r *rig) { r.consented("g") },
		"imported":  func(r *rig) { r.imported("g", nil) },
		"asked for": func(r *rig) { r.ask("g") },
	} {
		t.Run(name, func(t *testing.T) {
			r := configured(t)
			make(r)
			lease := r.read("g")
			r.sandbox.Misbehave(sandbox.Misbehaviour{ReadOnly: true})
			for range 3 {
				r.fails(502, logical.ReadOperation, "token/g", nil, r.sandbox.URL())
				r.clock.Advance(failureMax)
			}
			if name != "asked for" {
				r.fails(502, logical.ReadOperation, "token/g", nil, "ask_again", "grant is kept")
				r.clock.Advance(failureMax)
			}
			r.fails(502, logical.UpdateOperation, "rotate/g", nil)
			r.clock.Advance(failureMax)
			if _, err := r.renew(lease); err == nil {
				t.Error("a renewal has succeeded")
			}
			r.clock.Advance(failureMax)
			if _, err := r.revoke(lease); err == nil {
				t.Error("a revocation has succeeded, and the token lives")
			}
			r.noSecretIn("the log", r.log.String())
			r.isActive("g")
		})
	}
}

// A server that can grant but not rotate: what needed no consent is requested anew, and the former
// grant is cancelled.
func TestServerThatCannotRotate(t *testing.T) {
	r := withGrant(t)
	before := r.stored("income")
	r.sandbox.Misbehave(on("rotate", sandbox.Misbehaviour{Status: 404, JSON: `{"error":{"code":"invalid_rotation","description":"lock time-out"}}`}))
	r.live(<-r.goRead(r.ctx, "income"))
	if g := r.stored("income"); r.sandbox.Live(before.Token) || g.Continue == before.Continue || len(g.Formers) != 0 {
		t.Error("the former grant is not cancelled")
	}
	// Within a minute it is not asked again.
	r.fails(502, logical.ReadOperation, "token/income", nil)
	if n := r.sandbox.Count("grant"); n != 2 {
		t.Errorf("%d grants were asked for", n)
	}
	if g := r.stored("income"); g.Status != statusActive || !r.sandbox.Live(g.Token) {
		t.Error("the grant is gone")
	}
}

// invalid_rotation is believed only when it has been the only answer for long, and the server rotates
// others.
func TestDoubtIsOver(t *testing.T) {
	start := time.Now()
	for name, row := range map[string]struct {
		count  int
		age    time.Duration
		others bool
		want   bool
	}{
		"an hour, three times, others rotate": {3, time.Hour, true, true},
		"less than an hour":                   {30, time.Hour - 1, true, false},
		"twice":                               {2, 2 * time.Hour, true, false},
		"no other has rotated":                {30, 23 * time.Hour, false, false},
		"a day":                               {30, 24 * time.Hour, false, true},
	} {
		g := &grant{Doubt: &doubt{Since: start, Count: row.count}}
		if got := g.doubtIsOver(start.Add(row.age), row.others); got != row.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if (&grant{}).doubtIsOver(start, true) {
		t.Error("without any doubt")
	}
}

func TestGrantThatTheServerNeverRotatesAgain(t *testing.T) {
	r := configured(t)
	r.imported("payer", nil)
	r.ask("income")
	fault := on("rotate", sandbox.Misbehaviour{Status: 404, JSON: `{"error":{"code":"invalid_rotation"}}`})
	read := func(status int) {
		t.Helper()
		r.sandbox.Misbehave(fault)
		r.fails(status, logical.ReadOperation, "token/payer", nil)
		r.sandbox.Misbehave()
	}
	read(502)
	r.clock.Advance(30 * time.Minute)
	// Another answer shows that it was the server's trouble: the hour begins anew.
	r.sandbox.Misbehave(on("rotate", sandbox.Misbehaviour{Status: 500}))
	r.fails(502, logical.ReadOperation, "token/payer", nil)
	r.clock.Advance(31 * time.Minute)
	read(502)
	r.clock.Advance(time.Hour)
	read(502) // nobody knows whether the server rotates at all
	r.read("income")
	r.clock.Advance(time.Minute)
	read(400)
	if g := r.stored("payer"); g.Status != statusLost || !strings.Contains(g.Lost.Cause, "invalid_rotation") {
		t.Errorf("%s: %s", g.Status, g.Lost.Cause)
	}
	// It was wrong: the worker finds out.
	r.clock.Advance(61 * time.Second)
	r.tick()
	if g := r.stored("payer"); g.Status != statusActive || g.LastRotation.Cause != string(causeRecover) {
		t.Errorf("%s since %s", g.Status, g.LastRotation.Cause)
	}
}

// Ten rotations at once block the server, and destroy grants.
func TestOwnLoadDestroysNoGrant(t *testing.T) {
	for _, grants := range []int{24, 500} {
		t.Run(fmt.Sprint(grants), func(t *testing.T) {
			r := configured(t)
			for i := range grants {
				r.ask(fmt.Sprintf("g%d", i))
			}
			r.sandbox.Misbehave(on("rotate", sandbox.Misbehaviour{Pool: 10, PoolTimeout: 300 * time.Millisecond}))
			var all sync.WaitGroup
			for i := range grants {
				all.Go(func() {
					resp, err := r.do(r.ctx, logical.ReadOperation, fmt.Sprintf("token/g%d", i), nil)
					if err != nil || resp.IsError() {
						t.Errorf("g%d: %v %v", i, err, resp)
					}
				})
			}
			all.Wait()
			if n := r.sandbox.Count("grant"); n != grants {
				t.Errorf("%d grants were lost and requested anew", n-grants)
			}
			for i := range grants {
				g := r.stored(fmt.Sprintf("g%d", i))
				if g.Generation != 2 || g.LastRotation.Cause != string(causeRead) || !r.sandbox.Live(g.Token) {
					t.Errorf("g%d: generation %d, %s", i, g.Generation, g.Status)
				}
			}
		})
	}
}

// Readers of one grant wait for each other, and hold nobody else up.
func TestReadersOfOneGrantStarveNoOther(t *testing.T) {
	r := configured(t)
	r.ok(logical.UpdateOperation, "config", map[string]any{"max_requests_per_server": 2})
	r.ask("busy")
	r.ask("other")
	busy := r.stored("busy").Manage
	arrived, release := make(chan struct{}, 100), make(chan struct{})
	r.on("rotate", func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if strings.HasSuffix(busy, req.URL.Path) {
			arrived <- struct{}{}
			<-release
		}
		next.ServeHTTP(w, req)
	})
	var reads []<-chan result
	for range 20 {
		reads = append(reads, r.goRead(r.ctx, "busy"))
	}
	<-arrived
	r.live(<-r.goRead(r.ctx, "other"))
	close(release)
	for _, read := range reads {
		if res := <-read; res.err != nil {
			t.Error(res.err)
		}
	}
}

// Who gets no place in time is told so, and nothing is begun.
func TestNoPlaceAtTheServer(t *testing.T) {
	r := configured(t)
	r.ok(logical.UpdateOperation, "config", map[string]any{"max_requests_per_server": 1})
	r.ask("a")
	r.ask("b")
	lease := r.read("b")
	arrived, release := r.hang(false)
	first := r.goRead(r.ctx, "a")
	<-arrived
	second := r.goRead(r.ctx, "b")
	r.awaitPlace()
	r.clock.Advance(10 * time.Second)
	res := <-second
	r.failed(503, res.resp, res.err, "max_requests_per_server")
	if g := r.stored("b"); g.Intent != nil || !g.LastFailure.At.IsZero() {
		t.Error("something was begun")
	}
	release()
	r.live(<-first)
	if resp, err := r.renew(lease); err != nil {
		t.Errorf("%v %v", resp, err) // at once: it was no failure of the grant
	}
	for what, bad := range map[string]any{"none": 0, "too many": 1000, "negative": -1, "a word": "many"} {
		t.Run(what, func(t *testing.T) {
			r.fails(400, logical.PatchOperation, "config", map[string]any{"max_requests_per_server": bad}, "max_requests_per_server: ")
		})
	}
}

// awaitPlace waits until somebody waits for a place at the sandbox.
func (r *rig) awaitPlace() {
	for r.b.network.Waiting(r.sandbox.URL()) == 0 {
		time.Sleep(time.Millisecond)
	}
}

// Servers keep a copy of the client's key set for a while.
func TestServerThatKeepsTheKeySet(t *testing.T) {
	cached := func(t *testing.T, unknown int) *rig {
		r := configured(t)
		r.imported("payer", nil)
		r.ask("income")
		r.sandbox.SetDialect(sandbox.Dialect{KeyCache: 30 * time.Minute, UnknownKey: unknown})
		r.read("payer") // so that it has a copy
		return r
	}
	for _, unknown := range []int{0, 401} {
		t.Run(fmt.Sprintf("the next key, %d", unknown), func(t *testing.T) {
			r := cached(t, unknown)
			next := r.ok(logical.UpdateOperation, "keys/rotate", map[string]any{"activate_after": 0})
			r.publishJWK(next.Data["public_key"])
			r.ok(logical.UpdateOperation, "keys/rotate", nil)
			r.want("keys", r.states(), next.Data["key_id"].(string)+" active", testKeyID+" retiring")
			for _, name := range []string{"payer", "income"} {
				r.live(<-r.goRead(r.ctx, name)) // signed with the key before
			}
			r.clock.Advance(31 * time.Minute)
			r.live(<-r.goRead(r.ctx, "payer")) // signed with the new one
		})
		t.Run(fmt.Sprintf("by force, %d", unknown), func(t *testing.T) {
			r := cached(t, unknown)
			next := r.ok(logical.UpdateOperation, "keys/rotate", map[string]any{"force": true})
			r.publishJWK(next.Data["public_key"])
			r.fails(502, logical.ReadOperation, "token/payer", nil, r.sandbox.URL())
			r.clock.Advance(31 * time.Minute)
			r.isActive("payer")
		})
	}
	t.Run("and the clock is set back", func(t *testing.T) {
		r := cached(t, 401)
		next := r.ok(logical.UpdateOperation, "keys/rotate", map[string]any{"activate_after": 0})
		r.publishJWK(next.Data["public_key"])
		r.ok(logical.UpdateOperation, "keys/rotate", nil)
		r.ahead.Add(int64(-3 * time.Hour))
		r.clock.Advance(-3 * time.Hour)
		r.live(<-r.goRead(r.ctx, "payer"))
		r.tick() // from now on the time is right
		if c, err := loadConfig(r.ctx, r.storage); err != nil || !c.KeyChangedAt.Equal(r.clock.Now()) {
			t.Errorf("the key has changed at %s: %v", c.KeyChangedAt, err)
		}
		r.live(<-r.goRead(r.ctx, "payer"))
		r.clock.Advance(time.Hour)
		r.on("rotate", knowsNoToken)
		r.fails(400, logical.ReadOperation, "token/payer", nil, "lost")
	})
	t.Run("another key under the same id", func(t *testing.T) {
		r := cached(t, 0)
		lease := r.read("payer")
		key, err := authserver.NewPrivateKey()
		if err != nil {
			t.Fatal(err)
		}
		jwk, err := authserver.PublicJWK(testKeyID, key)
		if err != nil {
			t.Fatal(err)
		}
		r.publishJWK(jwk)
		r.ok(logical.UpdateOperation, "config", map[string]any{"private_key": key})
		r.fails(502, logical.ReadOperation, "token/payer", nil)
		r.clock.Advance(failureMax)
		if _, err := r.revoke(lease); err == nil {
			t.Error("a revocation has succeeded, and the token lives")
		}
		r.clock.Advance(31 * time.Minute)
		r.isActive("payer")
	})
}

// Within an hour after the client's key has changed no rejection is believed.
func TestRejectionAfterAKeyChange(t *testing.T) {
	r := configured(t)
	r.imported("payer", nil)
	next := r.ok(logical.UpdateOperation, "keys/rotate", map[string]any{"activate_after": 0})
	r.publishJWK(next.Data["public_key"])
	r.ok(logical.UpdateOperation, "keys/rotate", nil)
	r.on("rotate", knowsNoToken)
	r.fails(502, logical.ReadOperation, "token/payer", nil, "less than an hour ago", "grant is kept")
	r.clock.Advance(time.Hour)
	r.fails(400, logical.ReadOperation, "token/payer", nil, "lost")
}

// "invalid signature" says nothing about the token, whenever it comes.
func TestInvalidSignatureIsNoRejection(t *testing.T) {
	for _, description := range []string{"invalid signature", "invalid signature headers", "Invalid Signature"} {
		r := configured(t)
		r.imported("payer", nil)
		r.sandbox.Misbehave(on("rotate", sandbox.Misbehaviour{Status: 401, JSON: `{"error":{"code":"invalid_client","description":"` + description + `"}}`}))
		r.fails(502, logical.ReadOperation, "token/payer", nil)
		if strings.Contains(r.log.String(), description) {
			t.Error("the description is copied")
		}
		r.isActive("payer")
	}
}

// A write may succeed and report an error.
func TestWriteThatSucceedsAndReportsAnError(t *testing.T) {
	for name, row := range map[string]struct {
		write int
		do    func(r *rig) *logical.Response
	}{
		"a rotation's answer": {2, func(r *rig) *logical.Response { return r.read("g") }},
		"a grant's":           {2, func(r *rig) *logical.Response { r.ask("g"); return r.read("g") }},
		"what the owner has consented to": {2, func(r *rig) *logical.Response {
			redirect := r.decided(r.asked("g", finishURI), true)
			r.storage.failAfterPut(3, "g") // after the reference and the intent
			r.ok(logical.UpdateOperation, "grants/g/continue", map[string]any{"redirect": redirect})
			return r.read("g")
		}},
		"that the owner is being asked": {2, func(r *rig) *logical.Response {
			r.ok(logical.DeleteOperation, "grants/g", nil)
			r.storage.failAfterPut(2, "g")
			link := r.asked("g", finishURI)
			r.ok(logical.UpdateOperation, "grants/g/continue", map[string]any{"redirect": r.decided(link, true)})
			return r.read("g")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r := configured(t)
			r.consented("g")
			r.storage.failAfterPut(row.write, "g")
			lease := row.do(r)
			if !r.sandbox.Live(tokenOf(lease)) {
				t.Error("the token is dead")
			}
			if n := r.sandbox.LiveTokens(); n != 1 {
				t.Errorf("%d tokens live: a former grant is not cancelled", n)
			}
			if strings.Contains(r.log.String(), "another node") {
				t.Error("the log speaks of another node")
			}
		})
	}
}

// A clock that was a month ahead is set right.
func TestClockThatWasAhead(t *testing.T) {
	ahead := func(t *testing.T) *rig {
		r := configured(t)
		r.imported("payer", nil)
		r.ok(logical.PatchOperation, "grants/payer", map[string]any{"shared": true})
		r.tick()
		r.clock.Advance(29 * 24 * time.Hour)
		r.tick()
		r.read("payer")
		r.clock.Advance(-29 * 24 * time.Hour)
		return r
	}
	t.Run("keep-alive", func(t *testing.T) {
		r := ahead(t)
		r.tick()
		if g := r.stored("payer"); g.LastRotation.At.After(r.clock.Now()) {
			t.Error("not rotated since")
		}
		for range 2 {
			r.clock.Advance(idleTime)
			if n := r.rotations(r.tick); n != 1 {
				t.Errorf("%d rotations in a week", n)
			}
		}
		if hour, known, err := loadCursor(r.ctx, r.storage); err != nil || !known || hour > hourOf(r.clock.Now()) {
			t.Errorf("the cursor is ahead of the clock: %v", err)
		}
	})
	t.Run("a shared token", func(t *testing.T) {
		r := ahead(t)
		lease := r.read("payer")
		if lease.Secret.TTL > 10*time.Minute || lease.Data["generation"] != 3 {
			t.Errorf("TTL %s, generation %v", lease.Secret.TTL, lease.Data["generation"])
		}
	})
	t.Run("remaining life", func(t *testing.T) {
		now := time.Now()
		g := &grant{ExpiresAt: now.Add(29 * 24 * time.Hour), Lifetime: 10 * time.Minute}
		if got := g.remaining(now); got != 10*time.Minute {
			t.Errorf("%s", got)
		}
	})
}

// A server that config no longer allows is not asked for anything.
func TestServerThatIsNoLongerAllowed(t *testing.T) {
	r := withGrant(t)
	r.ok(logical.PatchOperation, "config", map[string]any{"allowed_auth_servers": "https://auth.example"})
	r.on("rotate", knowsNoToken)
	sent := r.sandbox.Count("grant")
	r.fails(400, logical.ReadOperation, "token/income", nil, "allowed_auth_servers")
	if r.sandbox.Count("grant") != sent || r.stored("income").Status != statusActive {
		t.Error("it was asked")
	}
}

// A grant that is requested anew has nothing in common with the one before.
func TestGrantRequestedAnewWithoutAContinuation(t *testing.T) {
	r := withGrant(t)
	before := r.stored("income")
	r.on("rotate", knowsNoToken)
	r.sandbox.SetDialect(sandbox.Dialect{Continue: sandbox.ContinueMissing})
	r.live(<-r.goRead(r.ctx, "income"))
	if g := r.stored("income"); g.Continue.URL != "" || r.sandbox.Live(before.Token) {
		t.Error("the continuation is the former grant's, or that still lives")
	}
	r.on("rotate", nil)
	r.ok(logical.DeleteOperation, "grants/income", nil)
	if r.sandbox.LiveTokens() != 0 {
		t.Error("the wrong grant was ended")
	}
}

// What answers a DELETE, and whether the grant is ended then.
func TestEndings(t *testing.T) {
	gnap := func(code, description string) string {
		return `{"error":{"code":"` + code + `","description":"` + description + `"}}`
	}
	for name, row := range map[string]struct {
		answer       sandbox.Misbehaviour
		grant, token bool // counts as ended, of a continuation and of a manage URL
	}{
		"an ingress":                     {sandbox.Misbehaviour{Status: 404, Text: "default backend - 404"}, false, false},
		"a proxy":                        {sandbox.Misbehaviour{Status: 401, Text: "Unauthorized"}, false, false},
		"a maintenance page":             {sandbox.Misbehaviour{NotJSON: true}, false, false},
		"accepted, with words":           {sandbox.Misbehaviour{Status: 202, JSON: `{"status":"queued"}`}, false, false},
		"invalid signature":              {sandbox.Misbehaviour{Status: 401, JSON: gnap("invalid_client", "invalid signature")}, false, false},
		"an error of its own":            {sandbox.Misbehaviour{Status: 500}, false, false},
		"too many requests":              {sandbox.Misbehaviour{Status: 429}, false, false},
		"could not determine client":     {sandbox.Misbehaviour{Status: 400, JSON: gnap("invalid_client", "could not determine client")}, false, false},
		"invalid rotation":               {sandbox.Misbehaviour{Status: 404, JSON: gnap("invalid_rotation", "read-only")}, false, false},
		"invalid_client":                 {sandbox.Misbehaviour{Status: 401, JSON: gnap("invalid_client", "invalid access token")}, false, true},
		"invalid_continuation":           {sandbox.Misbehaviour{Status: 401, JSON: gnap("invalid_continuation", "invalid grant")}, true, false},
		"invalid_continuation as 400":    {sandbox.Misbehaviour{Status: 400, JSON: gnap("invalid_continuation", "invalid grant")}, true, false},
		"invalid_continuation as 404":    {sandbox.Misbehaviour{Status: 404, JSON: gnap("invalid_continuation", "invalid grant")}, true, false},
		"invalid_continuation, RFC 9635": {sandbox.Misbehaviour{Status: 401, JSON: `{"error":"invalid_continuation"}`}, true, false},
		"invalid_request as 404":         {sandbox.Misbehaviour{Status: 404, JSON: gnap("invalid_request", "grant not found")}, true, false},
		"gone":                           {sandbox.Misbehaviour{Status: 410}, true, true},
	} {
		check := func(what, op string, counts bool, more map[string]any) {
			t.Run(name+", "+what, func(t *testing.T) {
				r := configured(t)
				r.imported("g", more)
				r.sandbox.Misbehave(on(op, row.answer))
				resp, err := r.do(r.ctx, logical.DeleteOperation, "grants/g", nil)
				if ended := err == nil && !resp.IsError(); ended != counts {
					t.Fatalf("ended %v: %v %v", ended, err, resp)
				}
				r.sandbox.Misbehave()
				if !counts {
					r.ok(logical.DeleteOperation, "grants/g", nil)
					if r.sandbox.LiveTokens() != 0 {
						t.Error("the token lives on, out of reach")
					}
				}
			})
		}
		check("continuation", "cancel", row.grant, nil)
		check("manage URL", "revoke", row.token, map[string]any{"continue_url": nil, "continue_token": nil})
		t.Run(name+", lease of a role", func(t *testing.T) {
			r := withRole(t)
			lease := r.creds("till")
			r.sandbox.Misbehave(on("cancel", row.answer))
			if _, err := r.revoke(lease); (err == nil) != row.grant {
				t.Errorf("revoked: %v", err)
			}
		})
	}
}

// An import replaces a grant whose token a lease still holds.
func TestRevocationOfALeaseThatAnImportHasReplaced(t *testing.T) {
	for name, row := range map[string]struct {
		settings map[string]any
		dies     bool
	}{
		"rotate": {nil, true},
		"keep":   {map[string]any{"on_revoke": "keep"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := configured(t)
			r.imported("payer", row.settings)
			lease := r.read("payer")
			r.imported("payer", nil)
			r.sandbox.Misbehave(on("revoke", sandbox.Misbehaviour{Status: 500}))
			if _, err := r.revoke(lease); (err != nil) != row.dies {
				t.Errorf("%v", err)
			}
			r.sandbox.Misbehave()
			if _, err := r.revoke(lease); err != nil {
				t.Error(err)
			}
			if r.sandbox.Live(tokenOf(lease)) == row.dies {
				t.Errorf("the replaced token lives: %v", !row.dies)
			}
			r.live(<-r.goRead(r.ctx, "payer"))
		})
	}
}

// A grant that was replaced by two imports, and one that is deleted after an import: the tokens that
// leases still hold die with the leases, or with the grant.
func TestTokensThatImportsHaveReplaced(t *testing.T) {
	replaced := func(t *testing.T) (r *rig, leases []*logical.Response) {
		r = configured(t)
		r.ask("payer")
		for range 2 {
			leases = append(leases, r.read("payer"))
			r.imported("payer", nil)
		}
		return r, leases
	}
	t.Run("revoked", func(t *testing.T) {
		r, leases := replaced(t)
		for _, lease := range leases {
			if _, err := r.revoke(lease); err != nil || r.sandbox.Live(tokenOf(lease)) {
				t.Errorf("the token of generation %v lives: %v", lease.Data["generation"], err)
			}
		}
		r.live(<-r.goRead(r.ctx, "payer"))
	})
	t.Run("deleted", func(t *testing.T) {
		r, _ := replaced(t)
		r.ok(logical.DeleteOperation, "grants/payer", nil)
		if n := r.sandbox.LiveTokens(); n != 0 {
			t.Errorf("%d tokens live on", n)
		}
	})
	t.Run("of which the server does not say how long they live", func(t *testing.T) {
		r := configured(t)
		r.imported("payer", map[string]any{"expires_in": nil})
		r.sandbox.SetDialect(sandbox.Dialect{ExpiresIn: sandbox.ExpiresMissing})
		lease := r.read("payer")
		r.sandbox.SetDialect(sandbox.Dialect{})
		r.imported("payer", nil)
		r.clock.Advance(defaultLifetime)
		revocations := r.sandbox.Count("revoke")
		if _, err := r.revoke(lease); err != nil || r.sandbox.Count("revoke") == revocations {
			t.Errorf("the server was not asked to revoke it: %v", err)
		}
	})
}

// Of an answer without a manage URL the token is handed out for as long as it lives.
func TestTokenWithoutAManageURL(t *testing.T) {
	for name, make := range map[string]func(r *rig){
		"from the beginning": func(r *rig) {
			r.sandbox.SetDialect(sandbox.Dialect{Manage: sandbox.ManageMissing})
			r.consented("payer")
		},
		"from a rotation on": func(r *rig) {
			r.consented("payer")
			r.sandbox.SetDialect(sandbox.Dialect{Manage: sandbox.ManageMissing})
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := configured(t)
			make(r)
			lease := r.read("payer")
			for range 2 {
				if again := r.read("payer"); tokenOf(again) != tokenOf(lease) || !r.sandbox.Live(tokenOf(again)) {
					t.Fatal("the token is not handed out again")
				}
			}
			if lease.Secret.Renewable || !strings.Contains(strings.Join(lease.Warnings, " "), "manage URL") {
				t.Errorf("renewable %v, %v", lease.Secret.Renewable, lease.Warnings)
			}
			if _, err := r.renew(lease); err == nil || !strings.Contains(err.Error(), "manage URL") {
				t.Errorf("%v", err)
			}
			if _, err := r.revoke(lease); err != nil {
				t.Errorf("%v", err)
			}
			r.fails(400, logical.UpdateOperation, "rotate/payer", nil, "manage URL")
			if !r.sandbox.Live(tokenOf(lease)) || r.stored("payer").Status != statusActive {
				t.Error("a living grant is lost")
			}
			r.clock.Advance(10 * time.Minute)
			r.fails(400, logical.ReadOperation, "token/payer", nil, "lost")
		})
	}
	t.Run("asked for", func(t *testing.T) {
		r := configured(t)
		r.sandbox.SetDialect(sandbox.Dialect{Manage: sandbox.ManageMissing})
		r.ask("income")
		first := r.read("income")
		r.clock.Advance(10 * time.Minute)
		if again := r.read("income"); tokenOf(again) == tokenOf(first) || !r.sandbox.Live(tokenOf(again)) {
			t.Error("no new grant")
		}
	})
}

// A server may end the continuation when it issues the token (RFC 9635 section 3.1): that it is gone does
// not mean that the token is.
func TestContinuationThatEndsWithTheToken(t *testing.T) {
	r := configured(t)
	link := r.asked("payer", finishURI)
	r.sandbox.SetDialect(sandbox.Dialect{NewContinue: true, Continue: sandbox.ContinueMissing})
	r.continueWith(r.decided(link, true))
	r.sandbox.SetDialect(sandbox.Dialect{})
	r.ok(logical.DeleteOperation, "grants/payer", nil)
	if n := r.sandbox.LiveTokens(); n != 0 {
		t.Errorf("%d tokens live on", n)
	}
}

// A token that nobody can end is not forgotten while it lives, except by force.
func TestDeletionOfATokenThatCannotBeEnded(t *testing.T) {
	neither := sandbox.Dialect{Manage: sandbox.ManageMissing, Continue: sandbox.ContinueMissing}
	for name, row := range map[string]struct {
		begin, then sandbox.Dialect
		force       bool
	}{
		"from the beginning":   {neither, neither, false},
		"from a rotation on":   {sandbox.Dialect{Continue: sandbox.ContinueMissing}, neither, false},
		"by force":             {neither, neither, true},
		"by force, from later": {sandbox.Dialect{Continue: sandbox.ContinueMissing}, neither, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := configured(t)
			r.sandbox.SetDialect(row.begin)
			r.ask("income")
			r.sandbox.SetDialect(row.then)
			r.read("income")
			if row.force {
				r.ok(logical.DeleteOperation, "grants/income", map[string]any{"force": true})
				return
			}
			r.fails(400, logical.DeleteOperation, "grants/income", nil, "expires at", "force=true")
			r.clock.Advance(defaultLifetime)
			r.ok(logical.DeleteOperation, "grants/income", nil)
		})
	}
}

// One slow wallet holds up nobody else.
func TestSlowWalletHoldsUpNobody(t *testing.T) {
	r := withGrant(t)
	r.ok(logical.PatchOperation, "config", map[string]any{"verify": false})
	arrived, release := r.hangOn("wallet", false)
	write := make(chan error)
	go func() {
		_, err := r.do(r.ctx, logical.UpdateOperation, "config", map[string]any{"verify": true})
		write <- err
	}()
	<-arrived
	// A grant whose server is known, and the client's keys.
	r.ok(logical.UpdateOperation, "grants/other", map[string]any{"auth_server": r.sandbox.AuthServer(), "access": incomingAccess})
	r.ok(logical.ReadOperation, "keys", nil)
	r.live(<-r.goRead(r.ctx, "income"))
	release()
	if err := <-write; err != nil {
		t.Error(err)
	}
}

// Two who change the config at once: neither is lost.
func TestConfigIsChangedByTwo(t *testing.T) {
	r := configured(t)
	r.ok(logical.PatchOperation, "config", map[string]any{"verify": false})
	arrived, release := r.hangOn("wallet", false)
	write := make(chan error)
	go func() {
		_, err := r.do(r.ctx, logical.UpdateOperation, "config", map[string]any{"verify": true, "request_timeout": 20})
		write <- err
	}()
	<-arrived
	r.ok(logical.PatchOperation, "config", map[string]any{"default_grant": "income"})
	release()
	if err := <-write; err != nil {
		t.Fatal(err)
	}
	c, err := loadConfig(r.ctx, r.storage)
	if err != nil || c.DefaultGrant != "income" || c.RequestTimeout != 20*time.Second {
		t.Errorf("%+v %v", c.DefaultGrant, c.RequestTimeout)
	}
}

// The lock on the client is waited for no longer than the caller waits.
func TestClientLockHeedsTheContext(t *testing.T) {
	l := newClientLock()
	unlock, err := l.write(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := l.read(ctx); err == nil {
		t.Error("read")
	}
	unlock()
	done, err := l.read(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	done()
}

// An entry of a newer layout hides nothing else.
func TestUnreadableEntriesHideNothing(t *testing.T) {
	r := withGrant(t)
	r.ask("newer")
	g := r.stored("newer")
	g.Version = grantVersion + 1
	r.put("newer", g)
	r.ok(logical.UpdateOperation, "keys/rotate", nil)
	for _, key := range []string{keysPrefix + "bmV3ZXI", keysPrefix + "damaged"} {
		if err := r.storage.Put(r.ctx, &logical.StorageEntry{Key: key, Value: []byte(`{"version":99}`)}); err != nil {
			t.Fatal(err)
		}
	}
	info := r.ok(logical.ListOperation, "grants", nil).Data["key_info"].(map[string]any)
	for name, want := range map[string]string{"income": statusActive, "newer": "unreadable"} {
		if got := info[name].(map[string]any)["status"]; got != want {
			t.Errorf("%s: %v, want %s", name, got, want)
		}
	}
	if n := len(r.publishedKeys()); n != 2 {
		t.Errorf("jwks.json holds %d keys, want both that can be read", n)
	}
	keys := r.ok(logical.ReadOperation, "keys", nil)
	if n := len(keys.Data["keys"].([]any)); n != 2 || !strings.Contains(strings.Join(keys.Warnings, " "), "newer version") {
		t.Errorf("%d keys, %v", n, keys.Warnings)
	}
	r.fails(500, logical.ReadOperation, "grants/newer", nil, "newer version")
	r.live(<-r.goRead(r.ctx, "income"))
}

// The mount's default lease TTL counts where the grant has none; a cap is warned of.
func TestTTLIsCapped(t *testing.T) {
	r := withGrant(t)
	r.system.DefaultLeaseTTLVal = 2 * time.Minute
	lease := r.read("income")
	if lease.Secret.TTL != 2*time.Minute || len(lease.Warnings) != 0 {
		t.Errorf("TTL %s, %v", lease.Secret.TTL, lease.Warnings)
	}
	again, err := r.renew(lease)
	if err != nil || again.Secret.TTL != 2*time.Minute {
		t.Errorf("%v", err)
	}
	r.ok(logical.PatchOperation, "grants/income", map[string]any{"ttl": "1h"})
	if lease := r.read("income"); lease.Secret.TTL != 595*time.Second || !strings.Contains(strings.Join(lease.Warnings, " "), "ttl: ") {
		t.Errorf("TTL %s, %v", lease.Secret.TTL, lease.Warnings)
	}
	r.ok(logical.PatchOperation, "grants/income", map[string]any{"ttl": "3m"})
	if lease := r.read("income"); lease.Secret.TTL != 3*time.Minute || len(lease.Warnings) != 0 {
		t.Errorf("TTL %s, %v", lease.Secret.TTL, lease.Warnings)
	}
}

// A lost grant's cause tells of an answer that could not be read before.
func TestCauseOfALossTellsOfAnAnswerThatCouldNotBeRead(t *testing.T) {
	r := configured(t)
	r.imported("payer", nil)
	r.sandbox.Misbehave(on("rotate", sandbox.Misbehaviour{Times: 1, Wire: sandbox.WireCut}))
	r.fails(400, logical.ReadOperation, "token/payer", nil, "lost", "could not be read")
}

// A former grant that cannot be cancelled is remembered, and cancelled later.
func TestFormerGrantIsCancelledLater(t *testing.T) {
	r := withGrant(t)
	before := r.stored("income")
	r.sandbox.Misbehave(on("cancel", sandbox.Misbehaviour{Status: 500}))
	resp := r.ask("income")
	if !strings.Contains(strings.Join(resp.Warnings, " "), "background") || !r.sandbox.Live(before.Token) {
		t.Errorf("%v", resp.Warnings)
	}
	r.clock.Advance(formerRetryMin)
	r.tick() // without success
	r.sandbox.Misbehave()
	r.clock.Advance(12 * time.Hour)
	r.tick()
	if g := r.stored("income"); r.sandbox.Live(before.Token) || len(g.Formers) != 0 {
		t.Error("the former grant is not cancelled")
	}
	r.noSecretIn("the log", r.log.String())
	// Deleting cancels what is left of former grants, too.
	r.sandbox.Misbehave(on("cancel", sandbox.Misbehaviour{Status: 500, Times: 1}))
	r.ask("income")
	r.sandbox.Misbehave()
	r.ok(logical.DeleteOperation, "grants/income", nil)
	if n := r.sandbox.LiveTokens(); n != 0 {
		t.Errorf("%d tokens live", n)
	}
}

// Lost is not for ever: a lost grant is tried again five times within a day.
func TestLostGrantIsTriedAgain(t *testing.T) {
	lost := func(t *testing.T) *rig {
		r := configured(t)
		r.imported("payer", map[string]any{"keepalive": 0})
		r.on("rotate", knowsNoToken)
		r.fails(400, logical.ReadOperation, "token/payer", nil, "lost")
		return r
	}
	t.Run("on time", func(t *testing.T) {
		r := lost(t)
		at := r.stored("payer").Lost
		tried := 0
		for minute := 1; minute <= 25*60; minute++ {
			r.clock.Advance(time.Minute)
			if n := r.rotations(r.tick); n != 0 {
				tried++
			}
		}
		if g := r.stored("payer"); tried != len(recoverAfter) || g.Lost != at || g.Status != statusLost {
			t.Errorf("tried %d times, lost %v", tried, g.Lost)
		}
	})
	t.Run("and found", func(t *testing.T) {
		r := lost(t)
		r.on("rotate", nil)
		r.clock.Advance(61 * time.Second)
		r.tick()
		if g := r.stored("payer"); g.Status != statusActive || g.Lost.Cause != "" {
			t.Errorf("%s", g.Status)
		}
	})
	for name, change := range map[string]func(r *rig){
		"unless its cancellation was begun": func(r *rig) {
			r.sandbox.Misbehave(on("cancel", sandbox.Misbehaviour{Status: 500}))
			r.fails(502, logical.DeleteOperation, "grants/payer", nil)
			r.sandbox.Misbehave()
		},
		"unless its owner is being asked": func(r *rig) { r.asked("payer", finishURI) },
	} {
		t.Run(name, func(t *testing.T) {
			r := lost(t)
			change(r)
			r.on("rotate", nil)
			r.clock.Advance(2 * time.Minute)
			if n := r.rotations(r.tick); n != 0 {
				t.Errorf("%d rotations", n)
			}
		})
	}
}

// A server that redirects is told of with the address, if it is one that an operator typed.
func TestServersWordsAreNeverCopied(t *testing.T) {
	r := configured(t)
	r.imported("payer", nil)
	r.on("rotate", func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("Location", "https://elsewhere.example/s3cr3t?token=s3cr3t")
		w.WriteHeader(http.StatusFound)
		_, _ = io.WriteString(w, "s3cr3t")
	})
	resp, err := r.do(r.ctx, logical.ReadOperation, "token/payer", nil)
	if text := fmt.Sprint(resp, err, r.log.String()); strings.Contains(text, "s3cr3t") {
		t.Error("the location is copied")
	}
}
