// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/authserver"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
)

const (
	statefulURI = "https://shop.example/back?state=Zm9vYmFyYmF6cXV1eDEyMw"
	continueAt  = "grants/payer/continue"
)

func (r *rig) continueWith(redirect string) *logical.Response {
	r.Helper()
	return r.ok(logical.UpdateOperation, continueAt, map[string]any{"redirect": redirect})
}

// granted checks that the owner's consent has become a token.
func (r *rig) granted() {
	r.Helper()
	if g := r.stored("payer"); g.Status != statusActive || g.Pending != nil || g.Intent != nil {
		r.Fatalf("status %s, still asked: %t, intent: %t", g.Status, g.Pending != nil, g.Intent != nil)
	}
	r.live(<-r.goRead(r.ctx, "payer"))
}

// noReferenceTold checks that what the engine has written for people lacks a redirect's reference.
func (r *rig) noReferenceTold(redirect string, told ...any) {
	r.Helper()
	u, err := url.Parse(redirect)
	if err != nil || u.Query().Get("interact_ref") == "" {
		r.Fatal("no reference in the redirect")
	}
	text, err := json.Marshal(told)
	if err != nil {
		r.Fatal(err)
	}
	if all := string(text) + r.log.String(); strings.Contains(all, u.Query().Get("interact_ref")) {
		r.Error("the reference is told")
	}
}

// A consent counts however late it is handed in, and whatever anybody read meanwhile.
func TestLateConsent(t *testing.T) {
	for name, late := range map[string]time.Duration{
		"at once": 0, "in the last second": pendingTTL - time.Second, "a second too late": pendingTTL + time.Second,
		"three hours": 3 * time.Hour,
	} {
		t.Run(name, func(t *testing.T) {
			r := configured(t)
			redirect := r.decided(r.asked("payer", finishURI), true)
			r.clock.Advance(late)
			r.fails(400, logical.ReadOperation, "token/payer", nil, "consent")
			if r.stored("payer").Pending == nil || r.sandbox.Count("cancel") != 0 {
				t.Fatal("a read has ended the interaction")
			}
			r.continueWith(redirect)
			r.granted()
		})
	}
	t.Run("polled", func(t *testing.T) {
		r := configured(t)
		link := r.asked("payer", "")
		r.decided(link, true)
		r.clock.Advance(3 * time.Hour)
		r.ok(logical.UpdateOperation, continueAt, nil)
		r.granted()
	})
	t.Run("after a first 503", func(t *testing.T) {
		r := configured(t)
		redirect := r.decided(r.asked("payer", finishURI), true)
		r.sandbox.Misbehave(sandbox.Misbehaviour{Status: 503, On: []string{"continue"}})
		r.fails(502, logical.UpdateOperation, continueAt, map[string]any{"redirect": redirect}, "503")
		r.sandbox.Misbehave()
		r.clock.Advance(3 * time.Hour)
		r.continueWith(redirect)
		r.granted()
	})
}

// A clock that was set back does not hold a consent up: no server was heard to want so long a pause.
func TestConsentAfterTheClockWasSetBack(t *testing.T) {
	for name, finish := range map[string]string{"by redirect": finishURI, "polled": ""} {
		t.Run(name, func(t *testing.T) {
			r := configured(t)
			link := r.asked("payer", finish)
			r.ahead.Add(int64(-3 * time.Hour))
			r.clock.Advance(-3 * time.Hour)
			if redirect := r.decided(link, true); finish != "" {
				r.continueWith(redirect)
			} else {
				r.ok(logical.UpdateOperation, continueAt, nil)
			}
			r.granted()
		})
	}
}

// What ends an interaction that nobody brings to an end: the worker, an hour after its time.
func TestForgottenInteraction(t *testing.T) {
	for name, row := range map[string]struct {
		finish, status string
		decide         func(r *rig, link string)
		polls          int
	}{
		"by redirect": {finishURI, statusLost, nil, 0},
		"polled":      {"", statusLost, nil, 1},
		"polled, consented after all": {"", statusActive, func(r *rig, link string) {
			r.decided(link, true)
		}, 1},
		"polled, declined": {"", statusLost, func(r *rig, link string) { r.decided(link, false) }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := configured(t)
			link := r.asked("payer", row.finish)
			if row.decide != nil {
				row.decide(r, link)
			}
			r.clock.Advance(pendingTTL + time.Hour - time.Minute)
			r.tick()
			if g := r.stored("payer"); g.Pending == nil || r.sandbox.Count("continue")+r.sandbox.Count("cancel") != 0 {
				t.Fatalf("too early: status %s", g.Status)
			}
			r.clock.Advance(2 * time.Minute)
			r.tick()
			g := r.stored("payer")
			if g.Status != row.status || g.Pending != nil || r.sandbox.Count("continue") != row.polls {
				t.Fatalf("status %s after %d polls", g.Status, r.sandbox.Count("continue"))
			}
			if live := r.sandbox.LiveTokens(); row.status == statusLost && (live != 0 || r.sandbox.Count("cancel") != 1) {
				t.Errorf("%d live tokens, %d cancellations", live, r.sandbox.Count("cancel"))
			}
		})
	}
	t.Run("the server is away", func(t *testing.T) {
		r := configured(t)
		link := r.asked("payer", "")
		r.decided(link, true)
		r.sandbox.Misbehave(sandbox.Misbehaviour{Status: 503})
		r.clock.Advance(pendingTTL + time.Hour + time.Minute)
		r.tick()
		if g := r.stored("payer"); g.Pending == nil || r.sandbox.Count("cancel") != 0 {
			t.Fatal("ended without the last poll")
		}
		r.sandbox.Misbehave()
		r.clock.Advance(time.Hour)
		r.tick()
		r.granted()
	})
	t.Run("beside an active grant", func(t *testing.T) {
		r := configured(t)
		r.consented("payer")
		r.asked("payer", finishURI)
		r.clock.Advance(pendingTTL + time.Hour + time.Minute)
		r.tick()
		if r.sandbox.Count("cancel") != 1 {
			t.Errorf("%d cancellations", r.sandbox.Count("cancel"))
		}
		r.granted()
	})
	t.Run("that cannot be cancelled", func(t *testing.T) {
		r := configured(t)
		r.asked("payer", finishURI)
		r.sandbox.Misbehave(sandbox.Misbehaviour{Status: 500, On: []string{"cancel"}})
		r.clock.Advance(pendingTTL + time.Hour + time.Minute)
		r.tick()
		if g := r.stored("payer"); g.Status != statusLost || len(g.Formers) != 1 {
			t.Fatalf("status %s, %d to cancel", g.Status, len(g.Formers))
		}
		r.sandbox.Misbehave()
		r.clock.Advance(time.Hour)
		r.tick()
		if g := r.stored("payer"); len(g.Formers) != 0 {
			t.Error("it is not cancelled later")
		}
	})
}

// The reference is kept from the moment its hash was verified.
func TestReferenceIsKept(t *testing.T) {
	broken := sandbox.Misbehaviour{Reset: true, On: []string{"continue"}}
	t.Run("and sent by the worker, however late", func(t *testing.T) {
		r := configured(t)
		redirect := r.decided(r.asked("payer", finishURI), true)
		r.sandbox.Misbehave(broken)
		r.fails(502, logical.UpdateOperation, continueAt, map[string]any{"redirect": redirect})
		r.restart()
		for range 20 { // more than a day: the worker backs off, and does not give up
			r.clock.Advance(2 * time.Hour)
			r.tick()
		}
		if g := r.stored("payer"); g.Pending == nil || r.sandbox.Count("cancel") != 0 {
			t.Fatal("a consent was thrown away")
		}
		told := r.ok(logical.ReadOperation, "grants/payer", nil)
		r.sandbox.Misbehave()
		r.clock.Advance(keepaliveRetryMax * 2)
		r.tick()
		r.granted()
		r.noReferenceTold(redirect, told.Data)
	})
	t.Run("a minute after a crash", func(t *testing.T) {
		r := configured(t)
		redirect := r.decided(r.asked("payer", finishURI), true)
		r.on("continue", func(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) })
		r.fails(502, logical.UpdateOperation, continueAt, map[string]any{"redirect": redirect})
		r.on("", nil)
		r.restart()
		r.clock.Advance(10 * time.Minute)
		r.tick()
		r.granted()
	})
	t.Run("while the active grant is read", func(t *testing.T) {
		r := configured(t)
		r.consented("payer")
		redirect := r.decided(r.asked("payer", finishURI), true)
		r.sandbox.Misbehave(broken)
		r.fails(502, logical.UpdateOperation, continueAt, map[string]any{"redirect": redirect})
		r.sandbox.Misbehave()
		r.clock.Advance(failureMax)
		r.read("payer")
		r.ok(logical.UpdateOperation, continueAt, nil)
		r.granted()
		if r.sandbox.LiveTokens() != 1 {
			t.Error("the former grant lives")
		}
	})
	t.Run("though the server wants a pause", func(t *testing.T) {
		r := configured(t)
		redirect := r.decided(r.asked("payer", finishURI), true)
		g := r.stored("payer")
		g.Pending.NotBefore, g.Pending.Wait = r.clock.Now().Add(time.Hour), time.Hour
		r.put("payer", g)
		r.fails(400, logical.UpdateOperation, continueAt, map[string]any{"redirect": redirect}, "pause")
		r.clock.Advance(61 * time.Minute)
		r.ok(logical.UpdateOperation, continueAt, nil)
		r.granted()
	})
	t.Run("though there is no client", func(t *testing.T) {
		r := configured(t)
		redirect := r.decided(r.asked("payer", finishURI), true)
		config, err := r.storage.Get(r.ctx, configKey)
		if err != nil || r.storage.Delete(r.ctx, configKey) != nil {
			t.Fatal(err)
		}
		r.fails(400, logical.UpdateOperation, continueAt, map[string]any{"redirect": redirect})
		if err := r.storage.Put(r.ctx, config); err != nil {
			t.Fatal(err)
		}
		r.ok(logical.UpdateOperation, continueAt, nil)
		r.granted()
	})
	t.Run("as version 0.1.0 kept it", func(t *testing.T) {
		r := configured(t)
		redirect := r.decided(r.asked("payer", finishURI), true)
		g := r.stored("payer")
		g.begin(causeConsent, r.clock.Now())
		g.Intent.Ref = mustParse(t, redirect).Query().Get("interact_ref")
		r.put("payer", g)
		r.ok(logical.UpdateOperation, continueAt, nil)
		r.granted()
	})
	t.Run("until the server has answered", func(t *testing.T) {
		r := configured(t)
		redirect := r.decided(r.asked("payer", finishURI), true)
		r.continueWith(redirect)
		entry, err := r.storage.Get(r.ctx, grantsPrefix+"payer")
		if err != nil || strings.Contains(string(entry.Value), mustParse(t, redirect).Query().Get("interact_ref")) {
			t.Errorf("it is still there: %v", err)
		}
	})
}

// A redirect is believed as far as it proves where it comes from.
func TestResultOfARedirect(t *testing.T) {
	const rejected = "result=grant_rejected"
	for name, row := range map[string]struct {
		finish   string
		redirect func(r *rig, link string) string
		status   int // of the write to continue
		words    string
		ended    bool
	}{
		"declined, with a state":    {statefulURI, declining, 400, "declined", true},
		"declined, hash of its own": {statefulURI + "&hash=its-own&interact_ref=x", declining, 400, "declined", true},
		"declined, no state":        {finishURI, declining, 200, "the owner declined", false},
		"declined, a short state":   {"https://shop.example/back?state=1234567", declining, 200, "the owner declined", false},
		"forged, without the state": {statefulURI, func(*rig, string) string {
			return "https://shop.example/back?" + rejected
		}, 400, "finish_uri", false},
		"forged, another state": {statefulURI, func(*rig, string) string {
			return "https://shop.example/back?state=other&" + rejected
		}, 400, "finish_uri", false},
		"forged, where there is no state": {"https://shop.example/back", func(*rig, string) string {
			return "https://shop.example/back?" + rejected
		}, 200, "the owner declined", false},
		"expired": {statefulURI, func(*rig, string) string {
			return statefulURI + "&result=invalid_interaction&message=x"
		}, 200, "expired", false},
		"undecided": {statefulURI, func(*rig, string) string {
			return statefulURI + "&result=grant_invalid"
		}, 200, "not decided", false},
		"unknown": {statefulURI, func(*rig, string) string {
			return statefulURI + "&result=unknown_interaction"
		}, 200, "cancelled", false},
		"something else": {statefulURI, func(*rig, string) string {
			return statefulURI + "&result=Ask+Mallory"
		}, 200, "no consent", false},
	} {
		t.Run(name, func(t *testing.T) {
			r := configured(t)
			link := r.asked("payer", row.finish)
			before := r.storage.putsSoFar()
			fields := map[string]any{"redirect": row.redirect(r, link)}
			if row.status == 200 {
				resp := r.ok(logical.UpdateOperation, continueAt, fields)
				next, _ := resp.Data["next"].(string)
				if !strings.Contains(next, row.words) || strings.Contains(next, "Mallory") || resp.Data["status"] != statusPending {
					t.Errorf("status %v, next %q", resp.Data["status"], next)
				}
			} else {
				r.fails(row.status, logical.UpdateOperation, continueAt, fields, row.words)
			}
			g := r.stored("payer")
			if row.ended {
				if g.Status != statusLost || g.Pending != nil || r.sandbox.Count("cancel") != 1 {
					t.Errorf("status %s", g.Status)
				}
				return
			}
			if g.Pending == nil || r.storage.putsSoFar() != before || r.sandbox.Count("continue")+r.sandbox.Count("cancel") != 0 {
				t.Error("a hint has changed something")
			}
			if location := r.decided(link, true); strings.Contains(location, "interact_ref=") && !strings.Contains(location, rejected) {
				r.continueWith(location) // a genuine one still counts
				r.granted()
			}
		})
	}
}

func declining(r *rig, link string) string {
	r.Helper()
	return r.decided(link, false)
}

// Once there is a proof that the owner has consented, no result ends the interaction.
func TestDeclinedAfterConsent(t *testing.T) {
	r := configured(t)
	redirect := r.decided(r.asked("payer", statefulURI), true)
	r.sandbox.Misbehave(sandbox.Misbehaviour{Status: 503, On: []string{"continue"}})
	r.fails(502, logical.UpdateOperation, continueAt, map[string]any{"redirect": redirect})
	r.continueWith(statefulURI + "&result=grant_rejected")
	r.sandbox.Misbehave()
	r.clock.Advance(failureMax)
	r.ok(logical.UpdateOperation, continueAt, nil)
	r.granted()
}

// Finish URIs as people have them, through a server that writes their query anew.
func TestFinishURIs(t *testing.T) {
	for _, finish := range []string{
		"https://shop.example", "https://shop.example/back?x", "https://shop.example/back?x=&x=1&x=2",
		"https://shop.example/back?q=a%20b&r=a+b&s=~&t=%7E&u=%C3%A4", "https://shop.example/back?a=1;b=2",
		"https://SHOP.example:443/back?hash=a&hash=b&interact_ref=c&result=d&message=e",
		"https://shop.example/a%2Fb/%7Ec?%FF%FF=%E2%82", "http://127.0.0.1:4711/back?state=1",
		"myapp:/back", "com.example.app:/cb?a=1", "myapp://cb/x?state=1",
	} {
		t.Run(finish, func(t *testing.T) {
			r := configured(t)
			r.continueWith(r.decided(r.asked("payer", finish), true))
			r.granted()
		})
	}
	r := configured(t)
	for _, finish := range []string{
		"javascript:/alert(1)", "JavaScript:/%2Falert(1)", "data:/text", "file:/etc/x", "file:///etc/x", "vbscript:/x", "blob:/x",
		"about:/x", "myapp:back", "myapp:", "/back", "back", "http://shop.example/back", "https://user@shop.example/",
		"https://shop.example/#x", "myapp:/back#x", "my app:/x", "myapp:/ x", "ws://shop.example/", "view-source:/x",
		"filesystem:/x", "1app:/x", "ftp://shop.example/x", "mailto:/x",
	} {
		r.fails(400, logical.UpdateOperation, "grants/payer", map[string]any{
			"wallet_address": r.sandbox.WalletAddress("alice"), "access": r.outgoing(), "finish_uri": finish,
		}, "finish_uri")
	}
}

// Each continuation is the only way to the grant from then on.
func TestNewContinuations(t *testing.T) {
	t.Run("at each poll", func(t *testing.T) {
		r := configured(t)
		r.sandbox.SetDialect(sandbox.Dialect{NewContinue: true})
		link := r.asked("payer", "")
		for range 2 {
			before := r.stored("payer").Pending.Continue
			r.ok(logical.UpdateOperation, continueAt, nil)
			if r.stored("payer").Pending.Continue == before {
				t.Fatal("the new continuation is not stored")
			}
		}
		r.decided(link, true)
		r.ok(logical.UpdateOperation, continueAt, nil)
		r.granted()
		r.ok(logical.DeleteOperation, "grants/payer", nil)
		if r.sandbox.LiveTokens() != 0 {
			t.Error("the continuation of the token's answer is not stored")
		}
	})
	t.Run("while storage fails", func(t *testing.T) {
		r := configured(t)
		r.sandbox.SetDialect(sandbox.Dialect{NewContinue: true})
		link := r.asked("payer", "")
		r.storage.failPuts(2, errDisk)
		r.fails(500, logical.UpdateOperation, continueAt, nil, "kept in memory")
		r.storage.heal()
		r.decided(link, true)
		r.ok(logical.UpdateOperation, continueAt, nil)
		r.granted()
	})
	t.Run("in an answer to a reference", func(t *testing.T) {
		r := configured(t)
		redirect := r.decided(r.asked("payer", finishURI), true)
		at := r.stored("payer").Pending.Continue
		moved := authserver.Continuation{URL: strings.Replace(at.URL, "continue/", "x/../continue/", 1), Token: at.Token}
		r.on("continue", func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			_ = json.NewEncoder(w).Encode(map[string]any{"continue": map[string]any{
				"uri": moved.URL, "access_token": map[string]string{"value": moved.Token}, "wait": 5,
			}})
		})
		resp := r.continueWith(redirect)
		if p := r.stored("payer").Pending; resp.Data["status"] != statusPending || p == nil || p.Continue != moved {
			t.Fatalf("status %v: the continuation is not stored", resp.Data["status"])
		}
		r.on("", nil)
		g := r.stored("payer")
		g.Pending.Continue = at
		r.put("payer", g)
		r.ok(logical.UpdateOperation, continueAt, nil) // the reference is kept until the server has decided
		r.granted()
	})
}

// A grant that is lost while its owner is being asked for another one.
func TestLostWhileItsSuccessorIsPending(t *testing.T) {
	losing := func(t *testing.T) (*rig, string) {
		t.Helper()
		r := configured(t)
		r.consented("payer")
		link := r.asked("payer", statefulURI)
		r.sandbox.Misbehave(sandbox.Misbehaviour{Drop: true, On: []string{"rotate"}, Times: 1})
		r.fails(400, logical.ReadOperation, "token/payer", nil, "lost", "is being asked", "op/grants/payer/continue")
		resp := r.ok(logical.ReadOperation, "grants/payer", nil)
		if resp.Data["status"] != statusLost || resp.Data["interact_url"] != link || resp.Data["next"] == nil {
			t.Fatalf("%v", resp.Data["status"])
		}
		return r, link
	}
	t.Run("the owner consents", func(t *testing.T) {
		r, link := losing(t)
		r.continueWith(r.decided(link, true))
		r.granted()
		if r.sandbox.LiveTokens() != 1 {
			t.Error("the lost grant lives on")
		}
	})
	t.Run("the owner declines", func(t *testing.T) {
		r, link := losing(t)
		r.fails(400, logical.UpdateOperation, continueAt, map[string]any{"redirect": r.decided(link, false)}, "declined")
		if g := r.stored("payer"); g.Status != statusLost || g.Pending != nil || g.Manage == "" {
			t.Errorf("status %s", g.Status)
		}
	})
	t.Run("nobody decides", func(t *testing.T) {
		r, _ := losing(t)
		r.clock.Advance(pendingTTL + time.Hour + time.Minute)
		r.tick()
		if g := r.stored("payer"); g.Status != statusLost || g.Pending != nil || r.sandbox.Count("cancel") != 1 {
			t.Errorf("status %s, %d cancellations", g.Status, r.sandbox.Count("cancel"))
		}
	})
	t.Run("deleted", func(t *testing.T) {
		r, _ := losing(t)
		r.ok(logical.DeleteOperation, "grants/payer", nil)
		if r.sandbox.Count("cancel") != 2 || r.sandbox.LiveTokens() != 0 {
			t.Errorf("%d cancellations", r.sandbox.Count("cancel"))
		}
	})
	t.Run("asked again", func(t *testing.T) {
		r, _ := losing(t)
		link := r.asked("payer", finishURI)
		if r.sandbox.Count("cancel") != 2 || r.sandbox.LiveTokens() != 0 {
			t.Errorf("%d cancellations", r.sandbox.Count("cancel"))
		}
		r.continueWith(r.decided(link, true))
		r.granted()
	})
	t.Run("asked again without success", func(t *testing.T) {
		r, link := losing(t)
		r.sandbox.Misbehave(sandbox.Misbehaviour{Status: 503, On: []string{"grant"}})
		r.fails(502, logical.UpdateOperation, "grants/payer",
			map[string]any{"wallet_address": r.sandbox.WalletAddress("alice"), "access": r.outgoing()})
		r.sandbox.Misbehave()
		r.continueWith(r.decided(link, true)) // the earlier question still counts
		r.granted()
	})
}

// What could not be used later is refused before the owner is asked.
func TestUnusableOffers(t *testing.T) {
	replace := func(from, to string) func(string, *rig) string {
		return func(body string, _ *rig) string { return strings.Replace(body, from, to, 1) }
	}
	member := func(object, name string, value any) func(string, *rig) string {
		return func(body string, r *rig) string {
			var answer map[string]map[string]any
			if err := json.Unmarshal([]byte(body), &answer); err != nil {
				r.Error(err)
			}
			if answer[object][name] = value; value == nil {
				delete(answer[object], name)
			}
			changed, _ := json.Marshal(answer)
			return string(changed)
		}
	}
	for name, row := range map[string]struct {
		change    func(body string, r *rig) string
		words     string
		cancelled int
	}{
		"no continue/":         {replace("/continue/", "/grants/"), "continue/", 0},
		"foreign":              {replace(`"uri":"http://127.0.0.1`, `"uri":"http://localhost`), "allowed_auth_servers", 0},
		"no URL":               {member("continue", "uri", "continue/1"), "continu", 0},
		"with a fragment":      {member("continue", "uri", "https://auth.example/continue/1#x"), "continu", 0},
		"no token":             {member("continue", "access_token", map[string]string{"value": ""}), "continu", 0},
		"a token with a space": {member("continue", "access_token", map[string]string{"value": "a b"}), "continu", 0},
		"no continuation":      {member("continue", "uri", nil), "continu", 0},
		"no redirect":          {member("interact", "redirect", nil), "interact.redirect", 1},
		"javascript":           {member("interact", "redirect", "javascript:alert(1)"), "interact.redirect", 1},
		"plain http":           {member("interact", "redirect", "http://auth.example/interact"), "interact.redirect", 1},
		"no host":              {member("interact", "redirect", "https:///interact"), "interact.redirect", 1},
		"relative":             {member("interact", "redirect", "/interact"), "interact.redirect", 1},
		"user info":            {member("interact", "redirect", "https://auth.example@evil.example/"), "interact.redirect", 1},
		"no finish":            {member("interact", "finish", nil), "interact.finish", 1},
	} {
		for _, former := range []string{"", statusActive, statusPending} {
			t.Run(name+" "+former, func(t *testing.T) {
				r := configured(t)
				switch former {
				case statusActive:
					r.consented("payer")
				case statusPending:
					r.asked("payer", finishURI)
				}
				before, _ := r.storage.Get(r.ctx, grantsPrefix+"payer")
				r.on("grant", func(w http.ResponseWriter, req *http.Request, next http.Handler) {
					seen := httptest.NewRecorder()
					next.ServeHTTP(seen, req)
					w.Header().Set("Content-Type", "application/json")
					_, _ = io.WriteString(w, row.change(seen.Body.String(), r))
				})
				r.fails(502, logical.UpdateOperation, "grants/payer", map[string]any{
					"wallet_address": r.sandbox.WalletAddress("alice"), "access": r.outgoing(), "finish_uri": finishURI, "ask_again": true,
				}, "127.0.0.1", row.words)
				after, _ := r.storage.Get(r.ctx, grantsPrefix+"payer")
				if (before == nil) != (after == nil) || before != nil && string(before.Value) != string(after.Value) {
					t.Error("something is stored")
				}
				if n := r.sandbox.Count("cancel"); row.cancelled != 0 && n != row.cancelled {
					t.Errorf("%d cancellations", n)
				}
			})
		}
	}
}

// The sandbox can be such a server too; its offer is cancelled where that can be done.
func TestUnusableDialects(t *testing.T) {
	for dialect, cancelled := range map[string]int{sandbox.ContinueOtherPath: 1, sandbox.ContinueForeign: 0, sandbox.ContinueMissing: 0} {
		t.Run(dialect, func(t *testing.T) {
			r := configured(t)
			r.sandbox.SetDialect(sandbox.Dialect{Continue: dialect})
			r.fails(502, logical.UpdateOperation, "grants/payer", map[string]any{
				"wallet_address": r.sandbox.WalletAddress("alice"), "access": r.outgoing(),
			}, "continu")
			if g, err := loadGrant(r.ctx, r.storage, "payer"); g != nil || err != nil || r.sandbox.Count("cancel") != cancelled {
				t.Errorf("stored: %t, %d cancellations", g != nil, r.sandbox.Count("cancel"))
			}
		})
	}
	t.Run("foreign, and allowed", func(t *testing.T) {
		r := configured(t)
		r.ok(logical.PatchOperation, "config", map[string]any{"allowed_auth_servers": []string{
			originOf(t, r.sandbox.AuthServer()), strings.Replace(originOf(t, r.sandbox.AuthServer()), "127.0.0.1", "localhost", 1),
		}})
		r.sandbox.SetDialect(sandbox.Dialect{Continue: sandbox.ContinueForeign})
		r.continueWith(r.decided(r.asked("payer", finishURI), true))
		r.granted()
	})
	t.Run("not allowed any more", func(t *testing.T) {
		r := configured(t)
		allowed := []string{originOf(t, r.sandbox.AuthServer()),
			strings.Replace(originOf(t, r.sandbox.AuthServer()), "127.0.0.1", "localhost", 1)}
		r.ok(logical.PatchOperation, "config", map[string]any{"allowed_auth_servers": allowed})
		r.sandbox.SetDialect(sandbox.Dialect{Continue: sandbox.ContinueForeign})
		redirect := r.decided(r.asked("payer", finishURI), true)
		r.ok(logical.PatchOperation, "config", map[string]any{"allowed_auth_servers": nil})
		r.fails(400, logical.UpdateOperation, continueAt, map[string]any{"redirect": redirect}, "allowed_auth_servers")
		r.ok(logical.PatchOperation, "config", map[string]any{"allowed_auth_servers": allowed})
		r.ok(logical.UpdateOperation, continueAt, nil)
		r.granted()
	})
}

func originOf(t *testing.T, s string) string {
	t.Helper()
	u := mustParse(t, s)
	return u.Scheme + "://" + u.Host
}

// A token that cannot be sent is worth nothing, and its grant is not left behind.
func TestUnusableTokens(t *testing.T) {
	for name, value := range map[string]any{"a space": "a b", "empty": "", "a number": 7} {
		t.Run(name, func(t *testing.T) {
			r := configured(t)
			r.answers("grant", func(body string) string {
				var answer map[string]map[string]any
				if err := json.Unmarshal([]byte(body), &answer); err != nil {
					t.Error(err)
				}
				answer["access_token"]["value"] = value
				changed, _ := json.Marshal(answer)
				return string(changed)
			})
			r.fails(502, logical.UpdateOperation, "grants/income",
				map[string]any{"wallet_address": r.sandbox.WalletAddress("shop"), "access": incomingAccess}, "127.0.0.1")
			if g, err := loadGrant(r.ctx, r.storage, "income"); g != nil || err != nil || r.sandbox.LiveTokens() != 0 {
				t.Errorf("stored: %t, %d live tokens", g != nil, r.sandbox.LiveTokens())
			}
		})
	}
}

// A server whose answer was lost has used the reference up.
func TestAnswerToAConsentIsLost(t *testing.T) {
	for name, m := range map[string]sandbox.Misbehaviour{
		"killed": {Killed: true, Times: 1}, "503 after it": {After: true, Status: 503, Times: 1},
		"reset after it": {After: true, Reset: true, Times: 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := configured(t)
			redirect := r.decided(r.asked("payer", finishURI), true)
			m.On = []string{"continue"}
			r.sandbox.Misbehave(m)
			r.fails(400, logical.UpdateOperation, continueAt, map[string]any{"redirect": redirect}, "was lost", "asked again")
			if g := r.stored("payer"); g.Status != statusLost || r.sandbox.LiveTokens() != 0 {
				t.Errorf("status %s, %d live tokens", g.Status, r.sandbox.LiveTokens())
			}
		})
	}
	t.Run("and the active grant is read meanwhile", func(t *testing.T) {
		r := configured(t)
		r.consented("payer")
		redirect := r.decided(r.asked("payer", finishURI), true)
		r.sandbox.Misbehave(sandbox.Misbehaviour{After: true, Status: 503, On: []string{"continue"}, Times: 1},
			sandbox.Misbehaviour{Status: 503, On: []string{"continue"}})
		r.fails(502, logical.UpdateOperation, continueAt, map[string]any{"redirect": redirect})
		r.sandbox.Misbehave()
		r.clock.Advance(failureMax)
		r.read("payer")
		r.fails(400, logical.UpdateOperation, continueAt, nil, "was lost")
		r.granted() // the grant beside it goes on
	})
}
