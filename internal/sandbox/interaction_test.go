// SPDX-License-Identifier: MPL-2.0

package sandbox_test

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

const (
	clientNonce = "client-nonce"
	app         = "https://app.example/done"
)

// pending asks for an interactive grant; without a finish URI it is one to be polled.
func (w *world) pending(access, finishURI string) granted {
	w.t.Helper()
	back := ""
	if finishURI != "" {
		back = fmt.Sprintf(`,"finish":{"method":"redirect","uri":%q,"nonce":%q}`, finishURI, clientNonce)
	}
	return w.decode(w.requestGrant(w.grantBody(access, `,"interact":{"start":["redirect"]`+back+`}`)))
}

func (w *world) consent(g granted, accept bool) string {
	w.t.Helper()
	location, err := w.Consent(g.Interact.Redirect, accept)
	if err != nil {
		w.t.Fatal(err)
	}
	return location
}

// reference is the interaction reference of a redirect after consent, whose hash must be right.
func (w *world) reference(g granted, location string) string {
	w.t.Helper()
	u, err := url.Parse(location)
	if err != nil {
		w.t.Fatal("the location is no URL")
	}
	hashes := u.Query()["hash"]
	reference := u.Query().Get("interact_ref")
	sum := sha256.Sum256([]byte(clientNonce + "\n" + g.Interact.Finish + "\n" + reference + "\n" + w.AuthServer()))
	if len(hashes) == 0 || hashes[len(hashes)-1] != base64.StdEncoding.EncodeToString(sum[:]) || reference == "" {
		w.t.Error("the hash or the reference is missing or wrong")
	}
	return reference
}

func (w *world) finish(g granted, reference string) ask {
	a := w.poll(g)
	a.body = fmt.Sprintf(`{"interact_ref":%q}`, reference)
	return a
}

// consented is a token that alice has agreed to.
func (w *world) consented(access string) granted {
	w.t.Helper()
	g := w.pending(access, app)
	reference := w.reference(g, w.consent(g, true))
	w.clock.pass(5 * time.Second)
	return w.decode(w.ask(w.finish(g, reference)))
}

func TestFinish(t *testing.T) {
	w := newWorld(t)
	g := w.pending(w.outgoing(""), app)
	reference := w.reference(g, w.consent(g, true))
	w.wantLive(0)

	if r := w.ask(w.finish(g, reference)); r.status != 400 || !strings.Contains(r.body, `"too_fast"`) || r.header.Get("Retry-After") != "" {
		t.Errorf("got %s, want 400 too_fast", r)
	}
	w.clock.pass(5 * time.Second)
	w.want(w.ask(w.poll(g)), http.StatusUnauthorized, errorBody("request_denied", "grant cannot be polled"))
	w.want(w.ask(w.finish(g, "wrong")), http.StatusNotFound, errorBody("invalid_continuation", "grant not found"))
	token := w.decode(w.ask(w.finish(g, reference)))
	if token.Continue.URI != g.Continue.URI || token.Continue.AccessToken != g.Continue.AccessToken || token.Continue.Wait != nil {
		t.Error("the continuation has changed or has a wait")
	}
	if !w.Live(token.AccessToken.Value) || token.AccessToken.ExpiresIn != 600 {
		t.Error("the token is not live")
	}
	for range 2 {
		if r := w.ask(w.finish(g, reference)); r.status != 401 || !strings.Contains(r.body, `"request_denied"`) {
			t.Errorf("got %s, want 401 request_denied", r)
		}
		w.clock.pass(5 * time.Second)
	}
	w.wantLive(1)
	if w.reference(g, w.consent(g, false)) != reference {
		t.Error("a second decision changes the first")
	}
	w.want(w.ask(w.rotate(token)), http.StatusOK, "")
	w.want(w.ask(w.cancel(g)), http.StatusNoContent, "")
	w.wantLive(0)
}

// A reference continues its own grant only.
func TestFinishOfAnotherGrant(t *testing.T) {
	w := newWorld(t)
	one, other := w.pending(w.outgoing(""), app), w.pending(w.outgoing(""), app)
	reference := w.reference(one, w.consent(one, true))
	w.clock.pass(5 * time.Second)
	w.want(w.ask(w.finish(other, reference)), http.StatusNotFound, "")
	w.want(w.ask(w.finish(w.grant(), reference)), http.StatusNotFound, "")
	w.want(w.ask(w.finish(one, reference)), http.StatusOK, "")
}

// The client's own query stays as it is written.
func TestFinishURI(t *testing.T) {
	w := newWorld(t)
	for name, row := range map[string]struct{ uri, before, after string }{
		"plain":       {app, app + "?", ""},
		"empty query": {app + "?", app + "?", ""},
		"query":       {app + "?a=1&b=2", app + "?a=1&b=2&", ""},
		"own hash":    {app + "?hash=own", app + "?hash=own&", ""},
		"odd query":   {app + "?a=%2f+;&&b", app + "?a=%2f+;&&b&", ""},
		"fragment":    {app + "#part", app + "?", "#part"},
		"application": {"app.example:/done?x=y", "app.example:/done?x=y&", ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			g := w.pending(w.outgoing(""), row.uri)
			location := w.consent(g, true)
			added, ok := strings.CutPrefix(strings.TrimSuffix(location, row.after), row.before)
			if !ok || !strings.HasSuffix(location, row.after) || !strings.HasPrefix(added, "hash=") || strings.ContainsAny(added, "+/?") ||
				!strings.Contains(added, "%3D&interact_ref=") {
				t.Error("the location is not the client's URI with what was added")
			}
			w.reference(g, strings.Replace(location, ";", "%3B", 1)) // net/url does not read a semicolon
		})
	}
}

func TestDecline(t *testing.T) {
	w := newWorld(t)
	g := w.pending(w.outgoing(""), app+"?a=1")
	for range 2 {
		if got := w.consent(g, false); got != app+"?a=1&result=grant_rejected" {
			t.Error("the location is not that of a rejected grant")
		}
	}
	if got := w.consent(g, true); got != app+"?a=1&result=grant_rejected" {
		t.Error("a second decision changes the first")
	}
	polled := w.pending(w.outgoing(""), "")
	if got := w.consent(polled, false); got != "" {
		t.Error("there is a location without a finish URI")
	}
	w.clock.pass(5 * time.Second)
	if r := w.ask(w.poll(polled)); r.status != 401 || !strings.Contains(r.body, `"request_denied"`) {
		t.Errorf("got %s, want 401 request_denied", r)
	}
	w.want(w.ask(w.poll(g)), http.StatusUnauthorized, "")
	w.wantLive(0)
}

// finishPage opens where the owner is sent after the decision.
func (w *world) finishPage(g granted) reply {
	page, _, _ := strings.Cut(g.Interact.Redirect, "?")
	return w.ask(ask{method: "GET", url: page + "/finish", unsigned: true})
}

func TestInteractionsWithoutDecision(t *testing.T) {
	w := newWorld(t)
	g := w.pending(w.outgoing(""), app+"?a=1")
	if r := w.finishPage(g); r.status != 302 || r.header.Get("Location") != app+"?a=1&result=grant_invalid" {
		t.Errorf("got %s, want 302 grant_invalid", r)
	}
	w.clock.pass(10*time.Minute - 1)
	w.want(w.ask(ask{method: "GET", url: g.Interact.Redirect, unsigned: true}), http.StatusOK, "")
	w.clock.pass(1)
	const expired = app + "?a=1&result=invalid_interaction&message=the+interaction+has+expired"
	if got := w.consent(g, true); got != expired {
		t.Error("an expired interaction can be decided")
	}
	if r := w.finishPage(g); r.status != 302 || r.header.Get("Location") != expired {
		t.Errorf("got %s, want 302 invalid_interaction", r)
	}
	if r := w.ask(w.poll(g)); r.status != 401 {
		t.Errorf("got %s, want 401", r)
	}
	g = w.pending(w.outgoing(""), app)
	w.want(w.ask(w.cancel(g)), http.StatusNoContent, "")
	if r := w.finishPage(g); r.status != 302 || r.header.Get("Location") != app+"?result=unknown_interaction" {
		t.Errorf("got %s, want 302 unknown_interaction", r)
	}
	if got := w.consent(g, true); got != app+"?result=unknown_interaction" {
		t.Error("a cancelled interaction can be decided")
	}
	w.wantLive(0)
}

// What was decided in time stays decided.
func TestDecisionOutlivesInteraction(t *testing.T) {
	w := newWorld(t)
	g := w.pending(w.outgoing(""), app)
	location := w.consent(g, true)
	w.clock.pass(11 * time.Minute)
	if w.consent(g, true) != location {
		t.Error("the location has changed")
	}
	w.want(w.ask(w.finish(g, w.reference(g, location))), http.StatusOK, "")
}

func TestPolling(t *testing.T) {
	w := newWorld(t)
	g := w.pending(w.outgoing(""), "")
	w.clock.pass(5 * time.Second)
	if pending := w.decode(w.ask(w.poll(g))); pending.AccessToken.Value != "" || pending.Continue.Wait == nil {
		t.Error("a pending grant has a token or no wait")
	}
	for range 2 {
		if w.consent(g, true) != "" {
			t.Error("there is a location without a finish URI")
		}
	}
	if r := w.ask(w.poll(g)); r.status != 400 || !strings.Contains(r.body, `"too_fast"`) {
		t.Errorf("got %s, want 400 too_fast", r)
	}
	w.clock.pass(5 * time.Second)
	token := w.decode(w.ask(w.poll(g)))
	if !w.Live(token.AccessToken.Value) || token.Continue.URI != g.Continue.URI || token.Continue.Wait != nil {
		t.Error("the token is not live, or the continuation has changed or has a wait")
	}
	if r := w.ask(w.poll(g)); r.status != 401 || !strings.Contains(r.body, `"request_denied"`) {
		t.Errorf("got %s, want 401 request_denied", r)
	}
	ended := w.pending(w.outgoing(""), "")
	w.clock.pass(10 * time.Minute)
	if _, err := w.Consent(ended.Interact.Redirect, true); err == nil || !strings.Contains(err.Error(), "410") {
		t.Error("an expired interaction can be decided")
	}
	w.wantLive(0) // the token above has expired meanwhile
}

func TestConsentRefuses(t *testing.T) {
	w := newWorld(t)
	g := w.pending(w.outgoing(""), app)
	for name, address := range map[string]string{
		"elsewhere":     "https://wallet.example/auth/interact/a/b",
		"other page":    w.WalletAddress("alice"),
		"unknown":       w.AuthServer() + "/interact/a/" + g.Interact.Finish,
		"other nonce":   strings.Replace(g.Interact.Redirect, g.Interact.Finish, "wrong", 1),
		"nothing":       "",
		"not even that": w.AuthServer() + "/interact/%zz" + g.Interact.Finish,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := w.Consent(address, true)
			if err == nil {
				t.Fatal("it was accepted")
			}
			if strings.Contains(err.Error(), g.Interact.Finish) {
				t.Error("the error holds the nonce")
			}
		})
	}
	w.Close()
	if _, err := w.Consent(g.Interact.Redirect, true); err == nil || strings.Contains(err.Error(), g.Interact.Finish) {
		t.Error("a closed sandbox gives no error, or one with the nonce")
	}
}
