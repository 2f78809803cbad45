// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
)

// wire lies between an engine and its sandbox. It remembers every secret that the
// sandbox has told, and holds requests up for tests.
type wire struct {
	mu      sync.Mutex
	secrets map[string]string    // by value: what it is
	asked   map[string]time.Time // by token: when the request arrived that it answers
	halts   map[string]*halt     // by operation
}

// halt holds up one request.
type halt struct {
	done     bool // the work is done first, and the answer held up
	arrived  chan struct{}
	released chan struct{}
	once     sync.Once
}

// holdUp makes the wire hold up the next request of an operation: before the
// sandbox has heard of it, or, if done, when it has done the work and not yet
// answered. If whoever sent it hangs up meanwhile, nothing more happens.
func (e *engine) holdUp(operation string, done bool) *halt {
	e.t.Helper()
	h := &halt{done: done, arrived: make(chan struct{}), released: make(chan struct{})}
	// The engine waits for an answer before it ends, and Vault for the engine.
	e.t.Cleanup(h.release)
	e.wire.mu.Lock()
	defer e.wire.mu.Unlock()
	if e.wire.halts == nil {
		e.wire.halts = map[string]*halt{}
	}
	e.wire.halts[operation] = h
	return h
}

func (h *halt) release() { h.once.Do(func() { close(h.released) }) }

// await waits until a request is being held up.
func (h *halt) await(t *testing.T) {
	t.Helper()
	select {
	case <-h.arrived:
	case <-time.After(soon):
		t.Fatalf("no request has arrived after %s", soon)
	}
}

func (w *wire) take(operation string) *halt {
	w.mu.Lock()
	defer w.mu.Unlock()
	h := w.halts[operation]
	delete(w.halts, operation)
	return h
}

// wrap is for sandbox.Options.
func (w *wire) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		answer, arrived := &copied{ResponseWriter: rw}, time.Now()
		h := w.take(sandbox.Operation(r))
		if h == nil {
			next.ServeHTTP(answer, r)
		} else {
			h.serve(answer, r, next)
		}
		w.remember(answer.body.Bytes(), arrived)
	})
}

// askedAt is when the engine asked for a token, and so no later than the moment in
// which the one before it died; zero if the sandbox has told no such token.
func (w *wire) askedAt(token string) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked[token]
}

func (h *halt) serve(w http.ResponseWriter, r *http.Request, next http.Handler) {
	held := httptest.NewRecorder()
	if h.done {
		next.ServeHTTP(held, r)
	}
	close(h.arrived)
	select {
	case <-h.released:
	case <-r.Context().Done():
		panic(http.ErrAbortHandler)
	}
	if !h.done {
		next.ServeHTTP(w, r)
		return
	}
	maps.Copy(w.Header(), held.Header())
	w.WriteHeader(held.Code)
	_, _ = w.Write(held.Body.Bytes())
}

// copied keeps a copy of the answer.
type copied struct {
	http.ResponseWriter
	body bytes.Buffer
}

func (c *copied) Write(p []byte) (int, error) {
	c.body.Write(p)
	return c.ResponseWriter.Write(p)
}

// Unwrap lets the sandbox reach the connection, which it has to for its misbehaviour.
func (c *copied) Unwrap() http.ResponseWriter { return c.ResponseWriter }

func (w *wire) remember(body []byte, arrived time.Time) {
	var answer struct {
		AccessToken struct{ Value, Manage string } `json:"access_token"`
		Continue    struct {
			URI         string
			AccessToken struct{ Value string } `json:"access_token"`
		}
	}
	if json.Unmarshal(body, &answer) != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.secrets == nil {
		w.secrets, w.asked = map[string]string{}, map[string]time.Time{}
	}
	if answer.AccessToken.Value != "" {
		w.asked[answer.AccessToken.Value] = arrived
	}
	// Of a URL its end is what nobody may know.
	for value, what := range map[string]string{
		answer.AccessToken.Value:            "an access token",
		lastPart(answer.AccessToken.Manage): "a manage URL",
		lastPart(answer.Continue.URI):       "a continue URL",
		answer.Continue.AccessToken.Value:   "a continue token",
	} {
		if value != "" {
			w.secrets[value] = what
		}
	}
}

func lastPart(url string) string { return url[strings.LastIndexByte(url, '/')+1:] }

// noSecretIn checks that a text holds nothing that the sandbox has told, and no
// private key. It never shows what it finds.
func (e *engine) noSecretIn(where, text string, keys ...string) {
	e.t.Helper()
	e.wire.mu.Lock()
	defer e.wire.mu.Unlock()
	for value, what := range e.wire.secrets {
		if strings.Contains(text, value) {
			e.t.Errorf("%s holds %s", where, what)
		}
	}
	e.noKeyIn(where, text, keys...)
}

// noKeyIn checks that a text holds no private key.
func (e *engine) noKeyIn(where, text string, keys ...string) {
	e.t.Helper()
	for _, key := range append(keys, e.key) {
		for _, form := range []string{keyLine(key), base64.StdEncoding.EncodeToString([]byte(key))} {
			if strings.Contains(text, form) {
				e.t.Errorf("%s holds a private key", where)
			}
		}
	}
}

// keyLine is the one line of a key's PEM text that says which key it is.
func keyLine(key string) string { return strings.Split(key, "\n")[1] }
