// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/authserver"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
)

const finishURI = "https://shop.example/back?a=1&b=2&hash=its-own"

func (r *rig) outgoing() string {
	return `[{"type":"outgoing-payment","actions":["create","read"],"identifier":"` + r.sandbox.WalletAddress("alice") +
		`","limits":{"debitAmount":{"value":"500","assetCode":"USD","assetScale":2},"interval":"R12/2026-01-01T00:00:00Z/P1M"}}]`
}

// asked begins an interactive grant and answers what the owner opens.
func (r *rig) asked(name, finish string) (interactURL string) {
	r.Helper()
	fields := map[string]any{"wallet_address": r.sandbox.WalletAddress("alice"), "access": r.outgoing(), "ask_again": true}
	if finish != "" {
		fields["finish_uri"] = finish
	}
	resp := r.ok(logical.UpdateOperation, "grants/"+name, fields)
	interactURL, _ = resp.Data["interact_url"].(string)
	if interactURL == "" || resp.Data["next"] == nil || resp.Data["pending_until"] == nil {
		r.Fatalf("the answer does not say what to do: status %v", resp.Data["status"])
	}
	return interactURL
}

// decided is the URL that the owner's browser is sent to.
func (r *rig) decided(interactURL string, accept bool) string {
	r.Helper()
	location, err := r.sandbox.Consent(interactURL, accept)
	if err != nil {
		r.Fatal(err)
	}
	return location
}

// consented gets a grant with its owner's consent.
func (r *rig) consented(name string) {
	r.Helper()
	r.ok(logical.UpdateOperation, "grants/"+name+"/continue", map[string]any{"redirect": r.decided(r.asked(name, finishURI), true)})
}

func mustParse(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestConsent(t *testing.T) {
	t.Run("by redirect", func(t *testing.T) {
		r := configured(t)
		link := r.asked("payer", finishURI)
		if g := r.stored("payer"); g.Status != statusPending || g.Token != "" {
			t.Errorf("status %s", g.Status)
		}
		r.fails(400, logical.ReadOperation, "token/payer", nil, "consent", "op/grants/payer/continue")
		r.fails(400, logical.UpdateOperation, "rotate/payer", nil, "consent")
		redirect := r.decided(link, true)
		want, got := mustParse(t, finishURI), mustParse(t, redirect) // servers write the query anew
		if got.Host != want.Host || got.Path != want.Path || got.Query().Get("a") != want.Query().Get("a") {
			t.Fatalf("the sandbox redirects elsewhere")
		}
		resp := r.ok(logical.UpdateOperation, "grants/payer/continue", map[string]any{"redirect": redirect})
		if resp.Data["status"] != statusActive || resp.Data["interactive"] != true || resp.Data["generation"] != 1 || resp.Data["interact_url"] != nil {
			t.Errorf("%v", resp.Data["status"])
		}
		r.live(<-r.goRead(r.ctx, "payer"))
		r.ok(logical.DeleteOperation, "grants/payer", nil)
		if r.sandbox.LiveTokens() != 0 {
			t.Error("deleting has not cancelled the grant")
		}
	})
	t.Run("by reference and hash", func(t *testing.T) {
		r := configured(t)
		u, err := url.Parse(r.decided(r.asked("payer", "https://shop.example/back"), true))
		if err != nil {
			t.Fatal(err)
		}
		r.ok(logical.UpdateOperation, "grants/payer/continue", map[string]any{"interact_ref": u.Query().Get("interact_ref"), "hash": u.Query().Get("hash")})
		r.live(<-r.goRead(r.ctx, "payer"))
	})
	t.Run("by polling", func(t *testing.T) {
		r := configured(t)
		link := r.asked("payer", "")
		resp := r.ok(logical.UpdateOperation, "grants/payer/continue", nil)
		if resp.Data["status"] != statusPending {
			t.Errorf("status %v", resp.Data["status"])
		}
		r.decided(link, true)
		resp = r.ok(logical.UpdateOperation, "grants/payer/continue", nil)
		if resp.Data["status"] != statusActive {
			t.Errorf("status %v", resp.Data["status"])
		}
		r.live(<-r.goRead(r.ctx, "payer"))
	})
}

// The server's wait is kept, without the lock.
func TestWaitIsHonoured(t *testing.T) {
	r := configured(t)
	redirect := r.decided(r.asked("payer", finishURI), true)
	begun := r.clock.Now()
	r.ok(logical.UpdateOperation, "grants/payer/continue", map[string]any{"redirect": redirect})
	if d := r.clock.Since(begun); d < 5*time.Second {
		t.Errorf("continued after %s", d)
	}
	if n := r.sandbox.Count("continue"); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
}

func TestTooFastIsWaitedOut(t *testing.T) {
	r := configured(t)
	redirect := r.decided(r.asked("payer", finishURI), true)
	g := r.stored("payer")
	g.Pending.NotBefore = time.Time{} // the engine does not know of the wait
	r.put("payer", g)
	r.ok(logical.UpdateOperation, "grants/payer/continue", map[string]any{"redirect": redirect})
	if n := r.sandbox.Count("continue"); n != 2 {
		t.Errorf("%d requests, want 2: too fast, and then in time", n)
	}
	r.live(<-r.goRead(r.ctx, "payer"))

	link := r.asked("other", "")
	_ = link
	r.on("continue", func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.WriteHeader(400)
		_, _ = w.Write([]byte(`{"error":{"code":"too_fast"}}`))
	})
	r.fails(400, logical.UpdateOperation, "grants/other/continue", nil, "pause")
	if g := r.stored("other"); g.Intent != nil || g.Pending == nil {
		t.Error("too fast uses nothing up")
	}
}

// The hash is checked before anything is sent.
func TestHash(t *testing.T) {
	r := configured(t)
	redirect := r.decided(r.asked("payer", finishURI), true)
	u, _ := url.Parse(redirect)
	ref := u.Query()["interact_ref"][0]
	hashes := u.Query()["hash"]
	good := hashes[len(hashes)-1]
	raw, err := base64.StdEncoding.DecodeString(good)
	if err != nil {
		t.Fatal(err)
	}
	for what, fields := range map[string]map[string]any{
		"another hash":       {"interact_ref": ref, "hash": base64.StdEncoding.EncodeToString(make([]byte, 32))},
		"cut off":            {"interact_ref": ref, "hash": good[:20]},
		"no base64":          {"interact_ref": ref, "hash": "§§§"},
		"another reference":  {"interact_ref": ref + "x", "hash": good},
		"no hash":            {"interact_ref": ref},
		"no reference":       {"hash": good},
		"its own hash alone": {"redirect": finishURI},
		"both":               {"redirect": redirect, "interact_ref": ref, "hash": good},
		"no URL":             {"redirect": "https://%zz"},
		"another URL":        {"redirect": strings.Replace(redirect, "shop.example", "another.example", 1)},
		"another's result":   {"redirect": "https://another.example/back?result=grant_rejected"},
		"a poll":             {},
		"mistyped":           {"interact_ref": []any{ref}},
		"unknown":            {"interact_ref": ref, "hash": good, "ref": "x"},
	} {
		resp, err := r.do(r.ctx, logical.UpdateOperation, "grants/payer/continue", fields)
		if err != nil || !resp.IsError() || strings.Contains(resp.Error().Error(), ref) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if r.sandbox.Count("continue") != 0 || r.stored("payer").Intent != nil {
		t.Fatal("something was sent")
	}
	for what, encoding := range map[string]*base64.Encoding{"RFC 9635": base64.RawURLEncoding, "Rafiki": base64.StdEncoding} {
		p := r.stored("payer").Pending
		if !p.hashMatches(ref, encoding.EncodeToString(raw)) {
			t.Errorf("%s's encoding is not taken", what)
		}
	}
	// As the documents have it.
	p := pending{ClientNonce: "LKLTI25DK82FX4T4QFZC", ServerNonce: "MBDOFXG4Y5CVJCX821LH", Source: source{AuthServer: "https://server.example.com/tx/"}}
	sum := sha256.Sum256([]byte("LKLTI25DK82FX4T4QFZC\nMBDOFXG4Y5CVJCX821LH\n4IFWWIKYB2PQ6U56NL1\nhttps://server.example.com/tx"))
	if !p.hashMatches("4IFWWIKYB2PQ6U56NL1", base64.RawURLEncoding.EncodeToString(sum[:])) {
		t.Error("the hash is not computed over the endpoint without its slash")
	}
	r.ok(logical.UpdateOperation, "grants/payer/continue", map[string]any{"interact_ref": ref, "hash": good})
}

func TestConsentIsNotGiven(t *testing.T) {
	for name, row := range map[string]struct {
		reply func(r *rig) map[string]any
		words string
	}{
		"declined": {func(r *rig) map[string]any {
			return map[string]any{"redirect": r.decided(r.asked("payer", statefulURI), false)}
		}, "declined"},
		"declined, polled": {func(r *rig) map[string]any {
			r.decided(r.asked("payer", ""), false)
			return nil
		}, "declined"},
		"cancelled at the server": {func(r *rig) map[string]any {
			r.asked("payer", "")
			c, _ := loadConfig(r.ctx, r.storage)
			if err := r.b.clientFor(c).Cancel(r.ctx, r.stored("payer").Pending.Continue); err != nil {
				r.Fatal(err)
			}
			return nil
		}, "no longer knows"},
	} {
		t.Run(name, func(t *testing.T) {
			r := configured(t)
			data := row.reply(r)
			r.fails(400, logical.UpdateOperation, "grants/payer/continue", data, row.words, "asked again", "op/grants/payer")
			g := r.stored("payer")
			if g.Status != statusLost || g.Pending != nil || g.Intent != nil || g.Lost.Cause == "" {
				t.Errorf("status %s", g.Status)
			}
			if r.sandbox.Count("cancel") == 0 || r.sandbox.LiveTokens() != 0 {
				t.Error("what was begun is not cancelled")
			}
			r.fails(400, logical.UpdateOperation, "grants/payer/continue", nil, "does not wait")
			r.consented("payer")
			r.live(<-r.goRead(r.ctx, "payer"))
		})
	}
}

// Somebody else has handed the reference in.
func TestUsedReference(t *testing.T) {
	r := configured(t)
	redirect := r.decided(r.asked("payer", finishURI), true)
	u, _ := url.Parse(redirect)
	r.clock.Advance(10 * time.Second)
	c, _ := loadConfig(r.ctx, r.storage)
	if _, ok := r.b.clientFor(c).Continue(r.ctx, r.stored("payer").Pending.Continue, u.Query().Get("interact_ref")).(authserver.TokenIssued); !ok {
		t.Fatal("the reference could not be used")
	}
	r.fails(400, logical.UpdateOperation, "grants/payer/continue", map[string]any{"redirect": redirect}, "used already", "asked again")
	if r.sandbox.LiveTokens() != 0 {
		t.Error("what somebody else was granted is not cancelled")
	}
}

func TestUnknownReference(t *testing.T) {
	r := configured(t)
	redirect := r.decided(r.asked("payer", finishURI), true)
	p := r.stored("payer").Pending
	sum := sha256.Sum256([]byte(p.ClientNonce + "\n" + p.ServerNonce + "\nanother\n" + p.Source.AuthServer))
	r.fails(400, logical.UpdateOperation, "grants/payer/continue", map[string]any{"interact_ref": "another", "hash": base64.StdEncoding.EncodeToString(sum[:])}, "interact_ref")
	r.ok(logical.UpdateOperation, "grants/payer/continue", map[string]any{"redirect": redirect})
}

// Deleting a pending grant cancels it.
func TestPendingGrantIsDeleted(t *testing.T) {
	r := configured(t)
	r.asked("payer", "")
	r.ok(logical.DeleteOperation, "grants/payer", nil)
	if r.sandbox.Count("cancel") != 1 {
		t.Error("deleting a pending grant has to cancel it")
	}
}

// A continuation survives what a rotation survives.
func TestContinuationMisbehaves(t *testing.T) {
	for name, row := range map[string]struct {
		m     sandbox.Misbehaviour
		ok    bool
		words string
	}{
		"reset":    {sandbox.Misbehaviour{Reset: true, Times: 1}, true, ""},
		"500":      {sandbox.Misbehaviour{Status: 500, Times: 1}, true, ""},
		"429":      {sandbox.Misbehaviour{Status: 429, Times: 1}, true, ""},
		"not JSON": {sandbox.Misbehaviour{NotJSON: true, Times: 1}, true, ""},
		"dropped":  {sandbox.Misbehaviour{Drop: true, Times: 1}, false, "was lost"},
	} {
		t.Run(name, func(t *testing.T) {
			r := configured(t)
			redirect := r.decided(r.asked("payer", finishURI), true)
			row.m.On = []string{"continue"}
			r.sandbox.Misbehave(row.m)
			if !row.ok {
				r.fails(400, logical.UpdateOperation, "grants/payer/continue", map[string]any{"redirect": redirect}, row.words, "asked again")
				if r.sandbox.LiveTokens() != 0 {
					t.Error("what was granted unheard is not cancelled")
				}
				return
			}
			r.ok(logical.UpdateOperation, "grants/payer/continue", map[string]any{"redirect": redirect})
			r.live(<-r.goRead(r.ctx, "payer"))
		})
	}
	t.Run("500 for long, then again", func(t *testing.T) {
		r := configured(t)
		redirect := r.decided(r.asked("payer", finishURI), true)
		r.sandbox.Misbehave(sandbox.Misbehaviour{Status: 500, On: []string{"continue"}})
		r.fails(502, logical.UpdateOperation, "grants/payer/continue", map[string]any{"redirect": redirect}, "answered 500")
		r.sandbox.Misbehave(sandbox.Misbehaviour{})
		r.clock.Advance(failureMax)
		r.ok(logical.UpdateOperation, "grants/payer/continue", map[string]any{"redirect": redirect})
	})
	t.Run("key not published", func(t *testing.T) {
		r := configured(t)
		redirect := r.decided(r.asked("payer", finishURI), true)
		r.sandbox.UnpublishKeys()
		r.fails(400, logical.UpdateOperation, "grants/payer/continue", map[string]any{"redirect": redirect}, "jwks.json")
		r.publish()
		r.clock.Advance(failureMax)
		r.ok(logical.UpdateOperation, "grants/payer/continue", map[string]any{"redirect": redirect})
	})
	t.Run("storage fails for a while", func(t *testing.T) {
		r := configured(t)
		redirect := r.decided(r.asked("payer", finishURI), true)
		r.storage.failPuts(4, errDisk) // after the slot, the reference and the intent
		r.fails(500, logical.UpdateOperation, "grants/payer/continue", map[string]any{"redirect": redirect}, "kept in memory")
		r.storage.heal()
		r.live(<-r.goRead(r.ctx, "payer"))
	})
	t.Run("a crash after the server has answered", func(t *testing.T) {
		r := configured(t)
		redirect := r.decided(r.asked("payer", finishURI), true)
		r.storage.failPuts(4, errDisk) // after the slot, the reference and the intent
		r.fails(500, logical.UpdateOperation, "grants/payer/continue", map[string]any{"redirect": redirect}, "kept in memory")
		r.storage.heal()
		r.restart() // the answer was in memory
		r.fails(400, logical.UpdateOperation, "grants/payer/continue", nil, "was lost", "asked again")
		if r.sandbox.LiveTokens() != 0 {
			t.Error("what was granted unheard is not cancelled")
		}
	})
}

// The stored grant holds the reference, so that nobody has to remember it.
func TestContinuationResumes(t *testing.T) {
	r := configured(t)
	redirect := r.decided(r.asked("payer", finishURI), true)
	r.sandbox.Misbehave(sandbox.Misbehaviour{Reset: true, On: []string{"continue"}})
	r.fails(502, logical.UpdateOperation, "grants/payer/continue", map[string]any{"redirect": redirect}, "could not be reached")
	r.sandbox.Misbehave(sandbox.Misbehaviour{})
	r.restart()
	r.ok(logical.UpdateOperation, "grants/payer/continue", nil)
	r.live(<-r.goRead(r.ctx, "payer"))
}

// An import ends what its owner was being asked for.
func TestImportInThePlaceOfAPendingGrant(t *testing.T) {
	r := configured(t)
	r.asked("payer", finishURI)
	r.imported("payer", nil)
	r.clock.Advance(time.Minute)
	r.tick()
	if g := r.stored("payer"); g.Pending != nil || g.Status != statusActive || r.sandbox.Count("cancel") != 1 {
		t.Errorf("status %s", g.Status)
	}
	r.live(<-r.goRead(r.ctx, "payer"))
}

// New rights for an active grant: it stays in use until the owner has consented.
func TestNewRightsForAnActiveGrant(t *testing.T) {
	r := configured(t)
	r.consented("payer")
	lease := r.read("payer")
	before := r.stored("payer")
	link := r.asked("payer", finishURI)
	if g := r.stored("payer"); g.Status != statusActive || g.Pending == nil {
		t.Fatalf("status %s", g.Status)
	}
	renewed, err := r.renew(lease)
	if err != nil {
		t.Fatal(err)
	}
	r.ok(logical.UpdateOperation, "grants/payer/continue", map[string]any{"redirect": r.decided(link, true)})
	g := r.stored("payer")
	if g.ID != before.ID || g.Generation != before.Generation+2 || g.Pending != nil {
		t.Errorf("generation %d", g.Generation)
	}
	if r.sandbox.Live(tokenOf(renewed)) || r.sandbox.LiveTokens() != 1 {
		t.Error("the old grant has to be cancelled, and the new one not")
	}
	r.live(<-r.goRead(r.ctx, "payer"))

	// If the owner declines, it goes on.
	r.fails(400, logical.UpdateOperation, "grants/payer/continue", map[string]any{"redirect": r.decided(r.asked("payer", statefulURI), false)}, "declined")
	r.live(<-r.goRead(r.ctx, "payer"))
}

// A lost grant is renewed in its place; what is left of it is cancelled first, because limits are
// counted for each grant.
func TestLostGrantIsRenewedInItsPlace(t *testing.T) {
	r := configured(t)
	r.consented("payer")
	r.ok(logical.PatchOperation, "grants/payer", map[string]any{"ttl": 60})
	before := r.stored("payer")
	r.sandbox.Misbehave(sandbox.Misbehaviour{Drop: true, On: []string{"rotate"}, Times: 1})
	r.fails(400, logical.ReadOperation, "token/payer", nil, "lost")
	if r.sandbox.LiveTokens() != 1 {
		t.Fatal("the unseen token lives")
	}
	link := r.asked("payer", finishURI)
	if r.sandbox.LiveTokens() != 0 {
		t.Error("the old grant has to be cancelled before its owner is asked again")
	}
	r.ok(logical.UpdateOperation, "grants/payer/continue", map[string]any{"redirect": r.decided(link, true)})
	if g := r.stored("payer"); g.ID != before.ID || g.Settings.TTL != time.Minute {
		t.Error("name and settings have to stay")
	}
	r.live(<-r.goRead(r.ctx, "payer"))

	g := r.stored("payer")
	g.Status = statusLost
	r.put("payer", g)
	r.sandbox.Misbehave(sandbox.Misbehaviour{Status: 500, On: []string{"cancel"}})
	resp := r.ok(logical.UpdateOperation, "grants/payer", map[string]any{"wallet_address": r.sandbox.WalletAddress("alice"), "access": r.outgoing(), "ask_again": true})
	if len(resp.Warnings) != 1 || !strings.Contains(resp.Warnings[0], "limits") {
		t.Errorf("%v", resp.Warnings)
	}
}
