// SPDX-License-Identifier: MPL-2.0

package sandbox_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
)

func TestRotate(t *testing.T) {
	w := newWorld(t)
	old := w.grant()
	r := w.ask(w.rotate(old))
	fresh := w.decode(r)
	if fresh.AccessToken.Manage == old.AccessToken.Manage || fresh.AccessToken.Value == old.AccessToken.Value {
		t.Error("the value or the manage URL is the old one")
	}
	if fresh.AccessToken.ExpiresIn != 600 || strings.Contains(r.body, `"continue"`) {
		t.Errorf("expires_in is %d, or there is a continue", fresh.AccessToken.ExpiresIn)
	}
	if fmt.Sprintf("%s", fresh.AccessToken.Access) != fmt.Sprintf("%s", old.AccessToken.Access) {
		t.Error("the rights have changed")
	}
	if w.Live(old.AccessToken.Value) || !w.Live(fresh.AccessToken.Value) {
		t.Error("the old value lives or the new one does not")
	}
	w.wantLive(1)
}

func TestRotateExpired(t *testing.T) {
	w := newWorldWith(t, sandbox.Options{TokenLifetime: 90 * time.Second})
	g := w.grant()
	if g.AccessToken.ExpiresIn != 90 {
		t.Errorf("expires_in is %d", g.AccessToken.ExpiresIn)
	}
	w.clock.pass(90*time.Second - 1)
	w.wantLive(1)
	w.clock.pass(1)
	w.wantLive(0)
	g = w.decode(w.ask(w.rotate(g)))
	w.clock.pass(89 * time.Second)
	if !w.Live(g.AccessToken.Value) {
		t.Error("a rotated token did not get a full new life")
	}
	w.clock.pass(time.Second)
	w.want(w.ask(w.revoke(g)), http.StatusNoContent, "")
}

// A token is deleted 30 days after it expired, and its manage URL with it.
func TestForgotten(t *testing.T) {
	w := newWorld(t)
	g := w.grant()
	w.clock.pass(10*time.Minute + 30*24*time.Hour)
	g = w.decode(w.ask(w.rotate(g)))
	w.clock.pass(10*time.Minute + 30*24*time.Hour + 1)
	w.want(w.ask(w.rotate(g)), http.StatusUnauthorized, invalidAccessToken)
}

// Stale, revoked, cancelled and unknown manage URLs cannot be told apart.
func TestDeadManageURL(t *testing.T) {
	w := newWorld(t)
	stale, revoked, cancelled, unknown := w.grant(), w.grant(), w.grant(), w.grant()
	w.want(w.ask(w.rotate(stale)), http.StatusOK, "")
	w.want(w.ask(w.revoke(revoked)), http.StatusNoContent, "")
	w.want(w.ask(w.cancel(cancelled)), http.StatusNoContent, "")
	unknown.AccessToken.Manage = w.AuthServer() + "/token/a2f4ca38-8bbd-4b23-9b45-0d2e8a1d6f10"
	w.wantLive(2) // the one that replaced stale, and unknown's, whose true URL nobody called
	for name, g := range map[string]granted{
		"stale": stale, "revoked": revoked, "cancelled": cancelled, "unknown": unknown,
	} {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			w.want(w.ask(w.rotate(g)), http.StatusUnauthorized, invalidAccessToken)
			w.want(w.ask(w.revoke(g)), http.StatusUnauthorized, invalidAccessToken)
		})
	}
	w.wantLive(2)
}

func TestManageIDNotUUID(t *testing.T) {
	w := newWorld(t)
	for _, method := range []string{"POST", "DELETE"} {
		w.wantText(w.ask(ask{method: method, url: w.AuthServer() + "/token/mine"}), http.StatusInternalServerError)
		w.want(w.ask(ask{method: method, url: w.AuthServer() + "/token/mine", unsigned: true}), 401, invalidHeaders)
	}
}

// The token's value is never compared: the manage URL and the key are the credential.
func TestTokenValueNotCompared(t *testing.T) {
	w := newWorld(t)
	g := w.grant()
	a := w.rotate(g)
	a.token = "wrong"
	g = w.decode(w.ask(a))
	a = w.revoke(g)
	a.token = ""
	r := w.ask(a)
	w.want(r, http.StatusNoContent, "")
	if r.body != "" {
		t.Error("a revocation has a body")
	}
	w.wantLive(0)
}

func TestSignatureOfRotate(t *testing.T) {
	_, stranger, _ := ed25519.GenerateKey(rand.Reader)
	for name, row := range map[string]struct {
		change func(*ask)
		status int
		body   string
	}{
		"unsigned":                  {func(a *ask) { a.unsigned = true }, 401, invalidHeaders},
		"authorization not covered": {func(a *ask) { a.covered = []string{"@method", "@target-uri"} }, 401, invalidHeaders},
		"method not covered":        {func(a *ask) { a.covered = []string{"@target-uri", "authorization"} }, 401, invalidHeaders},
		"target not covered":        {func(a *ask) { a.covered = []string{"@method", "authorization"} }, 401, invalidHeaders},
		"covered twice": {func(a *ask) {
			a.covered = []string{"@method", "@method", "@target-uri", "authorization"}
		}, 401, invalidHeaders},
		"digest of nothing": {func(a *ask) {
			a.covered = []string{"@method", "@target-uri", "authorization", "content-digest"}
		}, 401, invalidHeaders},
		"other label": {func(a *ask) { a.label = "sig" }, 401, invalidHeaders},
		"two signatures": {func(a *ask) {
			a.afterward = func(r *http.Request) {
				r.Header.Set("Signature", r.Header.Get("Signature")+", sig2=:AAAA:")
			}
		}, 401, invalidHeaders},
		"space after a semicolon": {func(a *ask) {
			a.afterward = func(r *http.Request) {
				r.Header.Set("Signature-Input", strings.Replace(r.Header.Get("Signature-Input"), ";keyid", "; keyid", 1))
			}
		}, 401, invalidHeaders},
		"no key id": {func(a *ask) {
			a.afterward = func(r *http.Request) {
				r.Header.Set("Signature-Input", strings.Replace(r.Header.Get("Signature-Input"), ";keyid=", ";kid=", 1))
			}
		}, 401, errorBody("invalid_client", "invalid signature input")},
		"other algorithm": {func(a *ask) {
			a.afterward = func(r *http.Request) {
				r.Header.Set("Signature-Input", strings.Replace(r.Header.Get("Signature-Input"), "ed25519", "hmac-sha256", 1))
			}
		}, 401, invalidHeaders},
		"other key":       {func(a *ask) { a.key = stranger }, 401, invalidSignature},
		"other key id":    {func(a *ask) { a.keyID = "key-2" }, 400, noClient},
		"other token":     {func(a *ask) { a.afterward = func(r *http.Request) { r.Header.Set("Authorization", "GNAP x") } }, 401, invalidSignature},
		"other query":     {func(a *ask) { a.afterward = func(r *http.Request) { r.URL.RawQuery = "a=b" } }, 401, invalidSignature},
		"other host":      {func(a *ask) { a.afterward = func(r *http.Request) { r.Host = "localhost" } }, 401, invalidSignature},
		"not JSON":        {func(a *ask) { a.setHeader = map[string]string{"Accept": "text/html"} }, 406, ""},
		"not JSON at all": {func(a *ask) { a.setHeader = map[string]string{"Accept": "application/json;q=0"} }, 406, ""},
		"any":             {func(a *ask) { a.setHeader = map[string]string{"Accept": "text/html, */*;q=0.1"} }, 200, ""},
		"a query, signed": {func(a *ask) { a.url += "?a=%2f&b=%C3%A9" }, 200, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			g := w.grant()
			a := w.rotate(g)
			row.change(&a)
			w.want(w.ask(a), row.status, row.body)
			if row.status != http.StatusOK {
				w.want(w.ask(w.rotate(g)), http.StatusOK, "") // the token was not touched
			}
		})
	}
}

// The order of the checks shows in what is answered to a request that is wrong in several ways.
func TestOrderOfChecks(t *testing.T) {
	w := newWorld(t)
	dead := w.grant()
	w.want(w.ask(w.revoke(dead)), http.StatusNoContent, "")
	_, stranger, _ := ed25519.GenerateKey(rand.Reader)

	a := w.rotate(dead)
	a.unsigned = true
	w.want(w.ask(a), http.StatusUnauthorized, invalidHeaders)
	a.setHeader = map[string]string{"Accept": "text/plain"}
	w.want(w.ask(a), http.StatusNotAcceptable, "")
	a = w.rotate(dead)
	a.key = stranger
	w.want(w.ask(a), http.StatusUnauthorized, invalidAccessToken)
	w.UnpublishKeys()
	w.want(w.ask(w.rotate(dead)), http.StatusUnauthorized, invalidAccessToken)
}

// While the client's key is not to be had, nothing happens to its tokens.
func TestKeysNotToBeHad(t *testing.T) {
	for name, row := range map[string]struct{ off, on func(*world) }{
		"unpublished": {
			func(w *world) { w.UnpublishKeys() },
			func(w *world) { w.PublishKey(keyID, w.key.Public().(ed25519.PublicKey)) },
		},
		"down": {
			func(w *world) { w.Misbehave(sandbox.Misbehaviour{KeysDown: true}) },
			func(w *world) { w.Misbehave(sandbox.Misbehaviour{}) },
		},
		"slow": {
			func(w *world) { w.Misbehave(sandbox.Misbehaviour{On: []string{"keys"}, Delay: time.Hour}) },
			func(w *world) { w.Misbehave(sandbox.Misbehaviour{}) },
		},
		"not JSON": {
			func(w *world) { w.Misbehave(sandbox.Misbehaviour{On: []string{"keys"}, NotJSON: true}) },
			func(w *world) { w.Misbehave(sandbox.Misbehaviour{}) },
		},
		"reset": {
			func(w *world) { w.Misbehave(sandbox.Misbehaviour{On: []string{"keys"}, Reset: true}) },
			func(w *world) { w.Misbehave(sandbox.Misbehaviour{}) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			g := w.grant()
			row.off(w)
			began := time.Now()
			w.want(w.ask(w.rotate(g)), http.StatusBadRequest, noClient)
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("a slow key set was waited for %s", took)
			}
			w.wantLive(1)
			row.on(w)
			w.want(w.ask(w.rotate(g)), http.StatusOK, "")
		})
	}
}

// A key set is fetched for every request, over HTTP.
func TestKeysFetchedEachTime(t *testing.T) {
	w := newWorld(t)
	g := w.grant()
	before := w.Count("keys")
	w.decode(w.ask(w.rotate(g)))
	if got := w.Count("keys") - before; got != 1 {
		t.Errorf("a rotation fetched the keys %d times", got)
	}
}

// Of concurrent rotations of one URL one is done.
func TestConcurrentRotations(t *testing.T) {
	w := newWorld(t)
	g := w.grant()
	const n = 8
	replies := make([]reply, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { replies[i], _ = w.try(w.rotate(g)) })
	}
	wg.Wait()
	done := 0
	for _, r := range replies {
		switch {
		case r.status == http.StatusOK:
			done++
		case r.status == http.StatusNotFound && r.body == errorBody("invalid_rotation", "invalid access token"):
		case r.status == http.StatusUnauthorized && r.body == invalidAccessToken:
		default:
			t.Errorf("got %s", r)
		}
	}
	if done != 1 {
		t.Errorf("%d rotations were done", done)
	}
	w.wantLive(1)
}

// held lets the fetches of keys wait, so that a test can bring requests into an order.
func held(arrived chan<- struct{}, release <-chan struct{}) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if sandbox.Operation(r) == "keys" {
				arrived <- struct{}{}
				<-release
			}
			next.ServeHTTP(rw, r)
		})
	}
}

// Two requests that both found the token, and then fetch the key: the slower one is told so.
func TestRaces(t *testing.T) {
	for name, row := range map[string]struct {
		first, second func(*world, granted) ask
		statuses      []int
		live          int
	}{
		"rotate and rotate": {(*world).rotate, (*world).rotate, []int{200, 404}, 1},
		"rotate and revoke": {(*world).rotate, (*world).revoke, []int{200, 204}, 1},
		"revoke and revoke": {(*world).revoke, (*world).revoke, []int{204, 204}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			arrived, release := make(chan struct{}, 8), make(chan struct{})
			w := newWorldWith(t, sandbox.Options{Wrap: held(arrived, release)})
			go func() { release <- struct{}{} }()
			g := w.grant()
			<-arrived

			first, second := make(chan reply), make(chan reply)
			go func() { r, _ := w.try(row.first(w, g)); first <- r }()
			<-arrived
			go func() { r, _ := w.try(row.second(w, g)); second <- r }()
			<-arrived
			// Both have found the token. Which fetch is released first is not known, so either may
			// be the faster.
			release <- struct{}{}
			release <- struct{}{}
			got := []int{(<-first).status, (<-second).status}
			if name == "rotate and revoke" {
				// If the revocation was faster, the rotation is refused and nothing lives.
				if slices.Equal(got, []int{404, 204}) {
					w.wantLive(0)
					return
				}
			} else {
				slices.Sort(got)
			}
			if !slices.Equal(got, row.statuses) {
				t.Errorf("got %v, want %v", got, row.statuses)
			}
			w.wantLive(row.live)
		})
	}
}
