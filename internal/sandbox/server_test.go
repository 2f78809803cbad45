// SPDX-License-Identifier: MPL-2.0

package sandbox_test

import (
	"bytes"
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
)

func contextOf(t *testing.T) (context.Context, context.CancelFunc) {
	return context.WithCancel(t.Context())
}

func TestStartRefuses(t *testing.T) {
	for name, o := range map[string]sandbox.Options{
		"all addresses":     {Addr: ":0"},
		"another address":   {Addr: "192.0.2.1:0"},
		"unspecified":       {Addr: "0.0.0.0:0"},
		"a name":            {Addr: "wallet.example:0"},
		"no port":           {Addr: "127.0.0.1"},
		"half a second":     {TokenLifetime: 1500 * time.Millisecond},
		"negative lifetime": {TokenLifetime: -time.Second},
		"wait of a moment":  {Wait: time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			if s, err := sandbox.Start(o); err == nil {
				s.Close()
				t.Error("it was started")
			}
		})
	}
}

func TestStartAnywhereOnLoopback(t *testing.T) {
	for _, addr := range []string{"", "127.0.0.1:0", "localhost:0"} {
		s, err := sandbox.Start(sandbox.Options{Addr: addr})
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.Get(s.WalletAddress("alice"))
		if err != nil || response.StatusCode != http.StatusOK {
			t.Errorf("on %q: %v", addr, err)
		}
		s.Close()
		if _, err := http.Get(s.WalletAddress("alice")); err == nil {
			t.Error("a closed sandbox answers")
		}
	}
}

// Wrap sees every request first and can change every answer.
func TestWrap(t *testing.T) {
	var seen []string
	var mu sync.Mutex
	w := newWorldWith(t, sandbox.Options{Wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			mu.Lock()
			seen = append(seen, sandbox.Operation(r))
			mu.Unlock()
			if sandbox.Operation(r) == "revoke" {
				rw.WriteHeader(http.StatusTeapot)
				return
			}
			next.ServeHTTP(rw, r)
		})
	}})
	g := w.grant()
	w.want(w.ask(w.revoke(g)), http.StatusTeapot, "")
	mu.Lock()
	defer mu.Unlock()
	if got := strings.Join(seen, " "); got != "grant keys revoke" {
		t.Errorf("seen: %s", got)
	}
	if w.Count("revoke") != 1 || w.Count("keys") != 1 || w.Count("rotate") != 0 {
		t.Error("Count does not agree")
	}
	w.wantLive(1)
}

// The log may be kept and shown: it holds nothing that gives access.
func TestLogHoldsNoSecret(t *testing.T) {
	var log bytes.Buffer
	w := newWorldWith(t, sandbox.Options{
		Logger: hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: &log, Mutex: new(sync.Mutex)}),
	})
	g := w.grant()
	fresh := w.decode(w.ask(w.rotate(g)))
	w.ask(w.rotate(g))
	w.ask(w.create(fresh.AccessToken.Value, w.toAlice()))
	w.ask(ask{method: "POST", url: w.AuthServer() + "/token/not-a-uuid"})
	w.Misbehave(sandbox.Misbehaviour{KeysDown: true})
	w.ask(w.rotate(fresh))
	w.Misbehave(sandbox.Misbehaviour{})
	w.ask(w.cancel(g))
	interactive := w.pending(w.outgoing(""), app)
	reference := w.reference(interactive, w.consent(interactive, true))
	w.ask(w.finish(interactive, reference))
	w.finishPage(interactive)
	w.Close()
	secrets := []string{
		g.AccessToken.Value, g.AccessToken.Manage, fresh.AccessToken.Value, fresh.AccessToken.Manage,
		g.Continue.AccessToken.Value, g.Continue.URI, "not-a-uuid", "/token/", "/continue/",
		reference, interactive.Interact.Finish, interactive.Continue.AccessToken.Value, "/interact/", "interact_ref", clientNonce,
	}
	for i, secret := range secrets {
		if strings.Contains(log.String(), secret) {
			t.Errorf("the log holds secret %d", i)
		}
	}
	if !strings.Contains(log.String(), "operation=rotate method=POST status=200") {
		t.Error("the log does not say what was asked")
	}
}
