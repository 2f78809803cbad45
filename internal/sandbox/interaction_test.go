// SPDX-License-Identifier: MPL-2.0

package sandbox_test

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
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

// The redirect sets what it tells in the query of the client's URI, and writes the rest of it anew.
func TestFinishURI(t *testing.T) {
	w := newWorld(t)
	for name, row := range map[string]struct{ uri, accepted, declined string }{
		"plain":           {app, app + "?HASH&REF", app + "?result=grant_rejected"},
		"empty query":     {app + "?", app + "?HASH&REF", app + "?result=grant_rejected"},
		"query":           {app + "?a=1&b=2", app + "?a=1&b=2&HASH&REF", app + "?a=1&b=2&result=grant_rejected"},
		"own hash":        {app + "?hash=own&a=1", app + "?HASH&a=1&REF", app + "?hash=own&a=1&result=grant_rejected"},
		"own reference":   {app + "?interact_ref=own", app + "?REF&HASH", app + "?interact_ref=own&result=grant_rejected"},
		"own result":      {app + "?result=own", app + "?result=own&HASH&REF", app + "?result=grant_rejected"},
		"own names twice": {app + "?hash=1&a=1&hash=2&result=1&result=2", app + "?HASH&a=1&result=1&result=2&REF", app + "?hash=1&a=1&hash=2&result=grant_rejected"},
		"escapes":         {app + "?a=%20b~*-._&x&y=%2f%C3%A9", app + "?a=+b%7E*-._&x=&y=%2F%C3%A9&HASH&REF", app + "?a=+b%7E*-._&x=&y=%2F%C3%A9&result=grant_rejected"},
		"odd query":       {app + "?a=%2f+;&&b=%zz&=c", app + "?a=%2F+%3B&b=%25zz&=c&HASH&REF", app + "?a=%2F+%3B&b=%25zz&=c&result=grant_rejected"},
		"fragment":        {app + "?a=1#part", app + "?a=1&HASH&REF#part", app + "?a=1&result=grant_rejected#part"},
		"no path":         {"https://app.example", "https://app.example/?HASH&REF", "https://app.example/?result=grant_rejected"},
		"application":     {"app.example:/done?x=y", "app.example:/done?x=y&HASH&REF", "app.example:/done?x=y&result=grant_rejected"},
	} {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			g := w.pending(w.outgoing(""), row.uri)
			location := w.consent(g, true)
			w.reference(g, location)
			for name, told := range map[string]*regexp.Regexp{"HASH": hashInQuery, "REF": referenceInQuery} {
				location = told.ReplaceAllString(location, name)
			}
			if location != row.accepted {
				t.Errorf("accepted, the location is %s", location)
			}
			if location := w.consent(w.pending(w.outgoing(""), row.uri), false); location != row.declined {
				t.Errorf("declined, the location is %s", location)
			}
		})
	}
}

var (
	hashInQuery      = regexp.MustCompile(`hash=([A-Za-z0-9]|%2B|%2F)+%3D`)
	referenceInQuery = regexp.MustCompile(`interact_ref=[A-Z0-9]{20,}`)
)

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

// located checks where the owner is sent: to the client, with a result and, unless it is empty,
// with a message.
func (w *world) located(r reply, result, message string) {
	w.t.Helper()
	want := app + "?a=1&result=" + result
	if message != "" {
		want += "&message=" + url.QueryEscape(message)
	}
	if r.status != http.StatusFound || r.header.Get("Location") != want {
		w.t.Errorf("got %s, want 302 with %s", r, result)
	}
}

func TestInteractionsWithoutDecision(t *testing.T) {
	w := newWorld(t)
	page := func(g granted) reply { return w.ask(ask{method: "GET", url: g.Interact.Redirect, unsigned: true}) }
	g := w.pending(w.outgoing(""), app+"?a=1")
	w.located(w.finishPage(g), "grant_invalid", "the owner has not decided")
	w.clock.pass(10*time.Minute - 1)
	w.want(page(g), http.StatusOK, "")
	w.clock.pass(1)
	w.located(page(g), "invalid_interaction", "the interaction has expired")
	w.located(w.finishPage(g), "invalid_interaction", "the interaction has expired")
	w.want(w.ask(w.poll(g)), http.StatusUnauthorized, "")

	unopened, opened := w.pending(w.outgoing(""), app+"?a=1"), w.pending(w.outgoing(""), app+"?a=1")
	w.want(page(opened), http.StatusOK, "")
	for _, g := range []granted{unopened, opened} {
		w.want(w.ask(w.cancel(g)), http.StatusNoContent, "")
	}
	for range 2 {
		w.located(page(unopened), "invalid_interaction", "the grant was cancelled")
		w.located(w.finishPage(unopened), "invalid_interaction", "the grant was cancelled")
		w.located(w.finishPage(opened), "unknown_interaction", "there is no such interaction")
		w.located(page(opened), "unknown_interaction", "there is no such interaction")
	}
	w.wantLive(0)
}

// The owner who comes to finish too late has decided nothing; one who came in time has, for as long
// as the grant lasts.
func TestDecisionAndExpiry(t *testing.T) {
	w := newWorld(t)
	late, declined, early := w.pending(w.outgoing(""), app+"?a=1"), w.pending(w.outgoing(""), app+"?a=1"), w.pending(w.outgoing(""), app+"?a=1")
	w.want(w.ask(w.form(late, "accept")), http.StatusSeeOther, "")
	w.want(w.ask(w.form(declined, "decline")), http.StatusSeeOther, "")
	reference := w.reference(early, w.consent(early, true))
	w.clock.pass(10 * time.Minute)
	for _, g := range []granted{late, declined, early} {
		w.located(w.finishPage(g), "invalid_interaction", "the interaction has expired")
	}
	w.want(w.ask(w.finish(early, reference)), http.StatusOK, "")
}

// A decision counts once the owner's browser has come to finish, and not when it was taken.
func TestDecisionCountsAtFinish(t *testing.T) {
	w := newWorld(t)
	accepted, declined := w.pending(w.outgoing(""), ""), w.pending(w.outgoing(""), "")
	w.want(w.ask(w.form(accepted, "accept")), http.StatusSeeOther, "")
	w.want(w.ask(w.form(declined, "decline")), http.StatusSeeOther, "")
	for _, g := range []granted{accepted, declined} {
		w.clock.pass(5 * time.Second)
		if r := w.decode(w.ask(w.poll(g))); r.AccessToken.Value != "" || r.Continue.Wait == nil {
			t.Error("the decision counts already")
		}
		w.want(w.finishPage(g), http.StatusOK, "")
	}
	w.clock.pass(5 * time.Second)
	w.want(w.ask(w.poll(accepted)), http.StatusOK, "")
	w.want(w.ask(w.poll(declined)), http.StatusUnauthorized, "")
	w.wantLive(1)
}

// Loading finish again approves a grant again whose token was issued.
func TestFinishAgain(t *testing.T) {
	w := newWorld(t)
	g := w.pending(w.outgoing(""), app)
	reference := w.reference(g, w.consent(g, true))
	w.clock.pass(5 * time.Second)
	for issued := range 2 {
		w.want(w.ask(w.finish(g, reference)), http.StatusOK, "")
		w.want(w.ask(w.finish(g, reference)), http.StatusUnauthorized, "")
		w.wantLive(issued + 1)
		if w.reference(g, w.finishPage(g).header.Get("Location")) != reference {
			t.Error("the reference has changed")
		}
	}
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
	if still := w.decode(w.ask(w.poll(ended))); still.AccessToken.Value != "" || still.Continue.Wait == nil {
		t.Error("an expired interaction is not pending for who polls it")
	}
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

// A grant is open for as long as a token of it can be had or rotated.
func TestOpenGrants(t *testing.T) {
	w := newWorld(t)
	open := func(when string, want ...granted) {
		t.Helper()
		got := map[string]bool{}
		for _, one := range w.OpenGrants() {
			got[one] = true
		}
		for _, g := range want {
			if !got[g.Continue.URI] {
				t.Errorf("%s: a grant is not among the open ones", when)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%s: %d are open, want %d", when, len(got), len(want))
		}
	}
	income := w.grant()
	asked := w.pending(w.outgoing(""), app)
	open("asked for", income, asked)
	declined := w.pending(w.outgoing(""), app)
	w.consent(declined, false)
	open("one is declined", income, asked)
	reference := w.reference(asked, w.consent(asked, true))
	w.ask(w.revoke(income))
	open("one is revoked, the other consented to", asked)
	w.clock.pass(time.Hour)
	open("the interaction is over", asked)
	issued := w.decode(w.ask(w.finish(asked, reference)))
	open("issued", issued)
	w.ask(w.cancel(issued))
	open("cancelled")
	w.pending(w.outgoing(""), app)
	w.clock.pass(time.Hour)
	open("nobody has decided")
}
