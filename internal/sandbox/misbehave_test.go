// SPDX-License-Identifier: MPL-2.0

package sandbox_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
)

func TestMisbehaviours(t *testing.T) {
	isEOF := func(err error) bool { return errors.Is(err, io.EOF) }
	isReset := func(err error) bool { return errors.Is(err, syscall.ECONNRESET) }
	for name, row := range map[string]struct {
		m      sandbox.Misbehaviour
		broken func(error) bool // how the connection breaks, if it does
		status int
		media  string
		done   bool // has the work been done?
	}{
		"drop":        {sandbox.Misbehaviour{Drop: true}, isEOF, 0, "", true},
		"reset":       {sandbox.Misbehaviour{Reset: true}, isReset, 0, "", false},
		"done, reset": {sandbox.Misbehaviour{Reset: true, After: true}, isReset, 0, "", true},
		"late reset":  {sandbox.Misbehaviour{Reset: true, Delay: time.Millisecond}, isReset, 0, "", false},
		"status":      {sandbox.Misbehaviour{Status: 500}, nil, 500, "text/plain", false},
		"rate limit":  {sandbox.Misbehaviour{Status: 429}, nil, 429, "text/plain", false},
		"not JSON":    {sandbox.Misbehaviour{NotJSON: true}, nil, 200, "text/html", false},
		"delay":       {sandbox.Misbehaviour{Delay: time.Millisecond}, nil, 200, "application/json", true},
		"keys down":   {sandbox.Misbehaviour{KeysDown: true}, nil, 400, "application/json", false},
		"other ones":  {sandbox.Misbehaviour{Reset: true, On: []string{"grant", "continue", "cancel", "revoke", "wallet", "resource"}}, nil, 200, "application/json", true},
		"all of them": {sandbox.Misbehaviour{Status: 503, On: []string{"rotate", "keys"}}, nil, 503, "text/plain", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			g := w.grant()
			w.Misbehave(row.m)
			r, err := w.try(w.rotate(g))
			switch {
			case row.broken == nil && err != nil, row.broken != nil && (err == nil || !row.broken(err)):
				t.Errorf("the connection: %T", errors.Unwrap(err))
			case r.status != row.status || !strings.HasPrefix(r.header.Get("Content-Type"), row.media):
				t.Errorf("got %s, want %d %s", r, row.status, row.media)
			}
			if w.Live(g.AccessToken.Value) == row.done {
				t.Errorf("rotated is %v, want %v", !row.done, row.done)
			}
			w.wantLive(1)
			if w.Count("rotate") != 1 {
				t.Errorf("%d rotations have arrived", w.Count("rotate"))
			}
			w.Misbehave(sandbox.Misbehaviour{})
			if !row.done {
				w.want(w.ask(w.rotate(g)), http.StatusOK, "")
			}
		})
	}
}

// A fault can answer anything, before or after the work is done.
func TestAnswerInstead(t *testing.T) {
	for name, row := range map[string]struct {
		m           sandbox.Misbehaviour
		status      int
		media, body string
	}{
		"a proxy's 401":           {sandbox.Misbehaviour{Status: 401}, 401, "text/plain", "Unauthorized"},
		"an ingress's 404":        {sandbox.Misbehaviour{Status: 404, Text: "default backend - 404"}, 404, "text/plain", "default backend - 404"},
		"a maintenance page":      {sandbox.Misbehaviour{NotJSON: true}, 200, "text/html", ""},
		"a page of its own":       {sandbox.Misbehaviour{Text: "<p>Soon", Header: map[string]string{"Content-Type": "text/html"}}, 200, "text/html", "<p>Soon"},
		"a stale key set":         {sandbox.Misbehaviour{Status: 401, JSON: invalidSignature}, 401, "application/json", invalidSignature},
		"gone":                    {sandbox.Misbehaviour{Status: 410}, 410, "text/plain", "Gone"},
		"continuation, 400":       {sandbox.Misbehaviour{Status: 400, JSON: errorBody("invalid_continuation", "x")}, 400, "application/json", errorBody("invalid_continuation", "x")},
		"an error that is a word": {sandbox.Misbehaviour{Status: 400, JSON: `{"error":"too_fast"}`}, 400, "application/json", `{"error":"too_fast"}`},
		"no body":                 {sandbox.Misbehaviour{Status: 204}, 204, "", ""},
		"200, no body":            {sandbox.Misbehaviour{Status: 200}, 200, "", ""},
		"redirect":                {sandbox.Misbehaviour{Status: 302, Header: map[string]string{"Location": "/elsewhere"}}, 302, "", ""},
		"any JSON":                {sandbox.Misbehaviour{JSON: ` [1, null] `}, 200, "application/json", ` [1, null] `},
	} {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/after=%v", name, after), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				g := w.grant()
				m := row.m
				m.After = after
				w.Misbehave(m)
				for _, a := range []ask{w.revoke(g), w.cancel(g), w.rotate(g)} {
					r := w.ask(a)
					w.want(r, row.status, row.body)
					if !strings.HasPrefix(r.header.Get("Content-Type"), row.media) || r.header.Get("Location") != row.m.Header["Location"] {
						t.Errorf("the media type is %q", r.header.Get("Content-Type"))
					}
				}
				if w.Live(g.AccessToken.Value) == after {
					t.Errorf("the work is done: %v, want %v", !after, after)
				}
			})
		}
	}
}

// Misbehaviours on one operation are done one after the other, those on different ones at once.
func TestQueue(t *testing.T) {
	w := newWorld(t)
	g := w.grant()
	w.Misbehave(
		sandbox.Misbehaviour{On: []string{"rotate"}, Times: 2, Status: 503},
		sandbox.Misbehaviour{On: []string{"rotate"}, Times: 1},
		sandbox.Misbehaviour{On: []string{"cancel"}, Status: 404},
		sandbox.Misbehaviour{On: []string{"rotate"}, Status: 429},
	)
	for i, status := range []int{503, 503, 200, 429, 429} {
		if i == 3 {
			w.want(w.ask(w.cancel(g)), http.StatusNotFound, "Not Found")
		}
		w.want(w.ask(w.rotate(g)), status, "")
	}
	w.wantLive(1)
	w.Misbehave()
	w.want(w.ask(w.cancel(g)), http.StatusNoContent, "")
}

// A lost answer: the repeat is refused, and only cancelling the grant kills the token that nobody
// has seen.
func TestLostAnswer(t *testing.T) {
	w := newWorld(t)
	g := w.grant()
	w.Misbehave(sandbox.Misbehaviour{Drop: true, On: []string{"rotate"}, Times: 1})
	if r, err := w.try(w.rotate(g)); err == nil {
		t.Fatalf("got %s, want no answer", r)
	}
	w.want(w.ask(w.rotate(g)), http.StatusUnauthorized, invalidAccessToken)
	w.wantLive(1)
	w.want(w.ask(w.cancel(g)), http.StatusNoContent, "")
	w.wantLive(0)
}

// A process that is killed in the middle of a rotation has revoked the token, and made no other.
func TestKilled(t *testing.T) {
	w := newWorld(t)
	g := w.grant()
	w.Misbehave(sandbox.Misbehaviour{Killed: true, Times: 1})
	if r, err := w.try(w.rotate(g)); err == nil {
		t.Fatalf("got %s, want no answer", r)
	}
	w.wantLive(0)
	w.want(w.ask(w.rotate(g)), http.StatusUnauthorized, invalidAccessToken)
	polled := w.pending(w.outgoing(""), app)
	reference := w.reference(polled, w.consent(polled, true))
	w.clock.pass(5 * time.Second)
	w.Misbehave(sandbox.Misbehaviour{Killed: true, Times: 1})
	if r, err := w.try(w.finish(polled, reference)); err == nil {
		t.Fatalf("got %s, want no answer", r)
	}
	w.wantLive(1)
	w.want(w.ask(w.finish(polled, reference)), http.StatusUnauthorized, "")
}

func TestTimes(t *testing.T) {
	w := newWorld(t)
	g := w.grant()
	w.Misbehave(sandbox.Misbehaviour{Status: 500, Times: 2})
	w.want(w.ask(ask{method: "GET", url: w.WalletAddress("alice")}), http.StatusOK, "") // not counted: not misbehaved
	for _, status := range []int{500, 500, 200} {
		w.want(w.ask(w.rotate(g)), status, "")
	}
}

// A delay ends with the server, and the work is not done.
func TestDelayEndsWithServer(t *testing.T) {
	arrived := make(chan struct{})
	w := newWorldWith(t, sandbox.Options{Wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if sandbox.Operation(r) == "rotate" {
				close(arrived)
			}
			next.ServeHTTP(rw, r)
		})
	}})
	g := w.grant()
	w.Misbehave(sandbox.Misbehaviour{Delay: time.Hour})
	ended := make(chan error)
	go func() { _, err := w.try(w.rotate(g)); ended <- err }()
	<-arrived
	w.Close()
	if err := <-ended; err == nil {
		t.Error("the request was answered")
	}
	w.Close()
	w.wantLive(1)
	if !w.Live(g.AccessToken.Value) {
		t.Error("the work was done")
	}
}

// A client that hangs up while the server is slow has asked for the work all the same.
func TestWorkDoneAfterHangUp(t *testing.T) {
	slow, fetched := make(chan struct{}), make(chan struct{}, 2)
	w := newWorldWith(t, sandbox.Options{Wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if sandbox.Operation(r) == "keys" {
				fetched <- struct{}{}
				<-slow
			}
			next.ServeHTTP(rw, r)
			if sandbox.Operation(r) == "rotate" {
				fetched <- struct{}{}
			}
		})
	}})
	go func() { slow <- struct{}{} }()
	g := w.grant()
	<-fetched
	request := w.build(w.rotate(g))
	ctx, hangUp := contextOf(t)
	go func() {
		<-fetched
		hangUp()
	}()
	if response, err := w.http.Do(request.WithContext(ctx)); err == nil {
		response.Body.Close()
		t.Fatal("the request was answered")
	}
	slow <- struct{}{}
	<-fetched
	if w.Live(g.AccessToken.Value) {
		t.Error("the rotation was not done")
	}
	w.wantLive(1)
}

func TestMisbehaveEndpoint(t *testing.T) {
	w := newWorld(t)
	url := w.URL() + "/misbehave"
	show := func(w *world, want string) {
		w.t.Helper()
		w.want(w.ask(ask{method: "GET", url: url, unsigned: true}), http.StatusOK, want)
	}
	put := func(w *world, body string) reply {
		w.t.Helper()
		return w.ask(ask{method: "PUT", url: url, body: body, unsigned: true})
	}
	show(w, `{}`)
	const all = `{"on":["rotate","keys"],"times":3,"status":500,"keys_down":true,"delay":"1ms"}`
	w.want(put(w, all), http.StatusOK, all)
	show(w, all)
	g := ask{method: "GET", url: w.WalletAddress("client") + "/jwks.json", unsigned: true}
	w.want(w.ask(g), http.StatusServiceUnavailable, "")
	show(w, strings.Replace(all, "3", "2", 1))
	for name, wrong := range map[string]string{
		"not JSON":        `drop`,
		"nothing":         ``,
		"a word":          `["drop"]`,
		"one of a list":   `[{"drop":true},{"crash":true}]`,
		"unknown member":  `{"crash":true}`,
		"other operation": `{"on":["token"]}`,
		"negative times":  `{"times":-1}`,
		"negative delay":  `{"delay":"-1s"}`,
		"delay, a number": `{"delay":1}`,
		"delay, no unit":  `{"delay":"1"}`,
		"status 199":      `{"status":199}`,
		"status 600":      `{"status":600}`,
		"body of a 204":   `{"status":204,"text":"a"}`,
		"two bodies":      `{"json":{},"text":"a"}`,
		"header alone":    `{"header":{"Location":"/"}}`,
		"small pool":      `{"pool":1}`,
		"other wire":      `{"wire":"wet"}`,
		"read-only, lost": `{"read_only":true,"drop":true}`,
		"two at once":     `{"drop":true,"reset":true}`,
		"two values":      `{} {}`,
	} {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			r := put(w, wrong)
			w.wantText(r, http.StatusBadRequest)
			if strings.TrimSpace(r.body) == "" {
				t.Error("there is no sentence")
			}
			show(w, strings.Replace(all, "3", "2", 1))
		})
	}
	const list = `[{"times":1},{"status":302,"header":{"Location":"/alice"}},{"on":["rotate"],"after":true,"json":{"a":[1]}}]`
	w.want(put(w, list), http.StatusOK, list)
	show(w, list)
	w.want(w.ask(ask{method: "DELETE", url: url, unsigned: true}), http.StatusNoContent, "")
	show(w, `{}`)
	w.want(put(w, `[]`), http.StatusOK, `{}`)
	w.want(w.ask(g), http.StatusOK, "")
}

func TestMisbehaviourJSON(t *testing.T) {
	m := sandbox.Misbehaviour{
		On: []string{"grant"}, Times: 1, Delay: 90 * time.Second, Status: 404, Header: map[string]string{"A": "b"},
		JSON: `{"a":1}`, PoolTimeout: time.Minute, After: true, Wire: sandbox.WireTwice, KeysDown: true,
	}
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var read sandbox.Misbehaviour
	if err := json.Unmarshal(text, &read); err != nil || !reflect.DeepEqual(read, m) {
		t.Errorf("%s was read as %+v, %v", text, read, err)
	}
	defer func() {
		if recover() == nil {
			t.Error("Misbehave took what cannot be")
		}
	}()
	newWorld(t).Misbehave(sandbox.Misbehaviour{On: []string{"token"}})
}
