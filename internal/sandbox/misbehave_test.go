// SPDX-License-Identifier: MPL-2.0

package sandbox_test

import (
	"encoding/json"
	"errors"
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

// A lost answer: the repeat is refused, and only cancelling the grant kills the token that nobody has seen.
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
	const all = `{"on":["rotate","keys"],"times":3,"delay":"1ms","status":500,"keys_down":true}`
	w.want(put(w, all), http.StatusOK, all)
	show(w, all)
	g := ask{method: "GET", url: w.WalletAddress("client") + "/jwks.json", unsigned: true}
	w.want(w.ask(g), http.StatusServiceUnavailable, "")
	show(w, strings.Replace(all, "3", "2", 1))
	for name, wrong := range map[string]string{
		"not JSON":        `drop`,
		"nothing":         ``,
		"a list":          `[]`,
		"unknown member":  `{"crash":true}`,
		"other operation": `{"on":["token"]}`,
		"negative times":  `{"times":-1}`,
		"negative delay":  `{"delay":"-1s"}`,
		"delay, a number": `{"delay":1}`,
		"delay, no unit":  `{"delay":"1"}`,
		"status 200":      `{"status":200}`,
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
	w.want(w.ask(ask{method: "DELETE", url: url, unsigned: true}), http.StatusNoContent, "")
	show(w, `{}`)
	w.want(w.ask(g), http.StatusOK, "")
}

func TestMisbehaviourJSON(t *testing.T) {
	m := sandbox.Misbehaviour{
		On: []string{"grant"}, Times: 1, Delay: 90 * time.Second, Drop: true, KeysDown: true,
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
