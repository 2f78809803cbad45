// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
)

// wire lies between an engine and its sandbox. It records every secret that the sandbox issues, and
// holds requests for tests.
type wire struct {
	mu      sync.Mutex
	secrets map[string]string       // by value: what it is
	asked   map[string]time.Time    // by token: when the request for it arrived
	held    map[string]*heldRequest // by operation
	issued  []issued                // in this order
	linger  time.Duration           // how long an answer with a token is held back
}

// issued is a token that the sandbox has issued.
type issued struct {
	token, manage     string // manage is the last part of the manage URL
	replaces          string // the manage of the token before; empty for the first one of a grant
	arrived, answered time.Time
}

// heldRequest is a request that the wire holds.
type heldRequest struct {
	done     bool // the sandbox handles it first, and its response is held
	arrived  chan struct{}
	released chan struct{}
	once     sync.Once
}

// hold makes the wire hold the next request of an operation: before it reaches the sandbox, or, if
// done, after the sandbox has handled it and before its response. If the sender hangs up meanwhile,
// nothing more happens.
func (e *engine) hold(operation string, done bool) *heldRequest {
	e.t.Helper()
	h := &heldRequest{done: done, arrived: make(chan struct{}), released: make(chan struct{})}
	// The engine waits for a response before it stops, and Vault for the engine.
	e.t.Cleanup(h.release)
	e.wire.mu.Lock()
	defer e.wire.mu.Unlock()
	if e.wire.held == nil {
		e.wire.held = map[string]*heldRequest{}
	}
	e.wire.held[operation] = h
	return h
}

func (h *heldRequest) release() { h.once.Do(func() { close(h.released) }) }

// await waits until the request has arrived and is held.
func (h *heldRequest) await(t *testing.T) {
	t.Helper()
	select {
	case <-h.arrived:
	case <-time.After(soon):
		t.Fatalf("no request has arrived within %s", soon)
	}
}

func (w *wire) take(operation string) *heldRequest {
	w.mu.Lock()
	defer w.mu.Unlock()
	h := w.held[operation]
	delete(w.held, operation)
	return h
}

// wrap is the Wrap of sandbox.Options.
func (w *wire) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		answer, arrived := &recordingWriter{ResponseWriter: rw}, time.Now()
		w.recordRequest(r)
		h := w.take(sandbox.Operation(r))
		if h == nil {
			next.ServeHTTP(answer, r)
		} else {
			h.serve(answer, r, next)
		}
		w.recordSecrets(answer.body.Bytes(), arrived)
		w.recordRedirect(answer.Header().Get("Location"))
		time.Sleep(w.recordIssued(r, answer.body.Bytes(), arrived)) // what is left is sent when this returns
	})
}

// askedAt returns when the request for a token arrived, which is no later than the moment at which
// the previous token died; zero if the sandbox has issued no such token.
func (w *wire) askedAt(token string) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked[token]
}

func (h *heldRequest) serve(w http.ResponseWriter, r *http.Request, next http.Handler) {
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

// recordingWriter keeps a copy of the response's body.
type recordingWriter struct {
	http.ResponseWriter
	body bytes.Buffer
}

func (c *recordingWriter) Write(p []byte) (int, error) {
	c.body.Write(p)
	return c.ResponseWriter.Write(p)
}

// Unwrap gives the sandbox access to the connection, which its misbehaviours need.
func (c *recordingWriter) Unwrap() http.ResponseWriter { return c.ResponseWriter }

func (w *wire) recordSecrets(body []byte, arrived time.Time) {
	var answer struct {
		AccessToken struct{ Value, Manage string } `json:"access_token"`
		Continue    struct {
			URI         string
			AccessToken struct{ Value string } `json:"access_token"`
		}
		Interact struct{ Finish string }
	}
	if json.Unmarshal(body, &answer) != nil {
		return
	}
	if answer.AccessToken.Value != "" {
		w.mu.Lock()
		if w.asked == nil {
			w.asked = map[string]time.Time{}
		}
		w.asked[answer.AccessToken.Value] = arrived
		w.mu.Unlock()
	}
	// The last segment of a URL is the secret.
	w.addSecret("an access token", answer.AccessToken.Value)
	w.addSecret("a manage URL", lastPart(answer.AccessToken.Manage))
	w.addSecret("a continue URL", lastPart(answer.Continue.URI))
	w.addSecret("a continue token", answer.Continue.AccessToken.Value)
	w.addSecret("the server's nonce", answer.Interact.Finish)
}

// recordRequest records the secrets in what the engine sends.
func (w *wire) recordRequest(r *http.Request) {
	body, err := io.ReadAll(r.Body)
	r.Body = io.NopCloser(io.MultiReader(bytes.NewReader(body), &failingReader{err}))
	var sent struct {
		Interact    struct{ Finish struct{ Nonce string } }
		InteractRef string `json:"interact_ref"`
	}
	if json.Unmarshal(body, &sent) == nil {
		w.addSecret("the client's nonce", sent.Interact.Finish.Nonce)
		w.addSecret("an interaction reference", sent.InteractRef)
	}
}

// failingReader is the end of a body whose sender hung up, if err is not nil.
type failingReader struct{ err error }

func (f *failingReader) Read([]byte) (int, error) {
	if f.err == nil {
		return 0, io.EOF
	}
	return 0, f.err
}

// recordRedirect records the secrets in what the owner's browser is sent to.
func (w *wire) recordRedirect(location string) {
	if to, err := url.Parse(location); err == nil {
		w.addSecret("an interaction reference", to.Query().Get("interact_ref"))
		w.addSecret("the hash of an interaction", to.Query().Get("hash"))
	}
}

// addSecret adds a value that must not leak, and what it is, with an article. Anything shorter than 16
// characters is none.
func (w *wire) addSecret(what, value string) {
	if len(value) < minSecret {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.secrets == nil {
		w.secrets = map[string]string{}
	}
	w.secrets[value] = what
}

// secretsSoFar returns the secrets that exist so far, by value: what each is.
func (w *wire) secretsSoFar() map[string]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.secrets)
}

// recordIssued records the token in an answer, and returns how long the answer is to be held back.
func (w *wire) recordIssued(r *http.Request, body []byte, arrived time.Time) time.Duration {
	var answer struct {
		AccessToken struct{ Value, Manage string } `json:"access_token"`
	}
	if json.Unmarshal(body, &answer) != nil || answer.AccessToken.Value == "" {
		return 0
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	one := issued{
		token: answer.AccessToken.Value, manage: lastPart(answer.AccessToken.Manage),
		arrived: arrived, answered: time.Now().Add(w.linger),
	}
	if sandbox.Operation(r) == "rotate" {
		one.replaces = lastPart(r.URL.Path)
	}
	w.issued = append(w.issued, one)
	return w.linger
}

// lingers has answers with a token be held back for so long.
func (w *wire) lingers(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.linger = d
}

// log returns the tokens that the sandbox has issued so far, in order.
func (w *wire) log() []issued {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.issued)
}

// chain is the tokens that have replaced each other, the last one first.
type chain []issued

// chains returns, of all that the sandbox has issued, what has replaced what.
func (w *wire) chains() (all []chain) {
	log, by, replaced := w.log(), map[string]issued{}, map[string]bool{}
	for _, one := range log {
		by[one.manage], replaced[one.replaces] = one, true
	}
	for _, last := range log {
		if replaced[last.manage] {
			continue
		}
		c := chain{last}
		for one, more := by[last.replaces]; more; one, more = by[one.replaces] {
			c = append(c, one)
		}
		all = append(all, c)
	}
	return all
}

// issuedAfter returns, by the first token of each grant at the sandbox, how many tokens have been issued for
// the grant.
func (w *wire) issuedAfter() map[string]int64 {
	tokens := map[string]int64{}
	for _, c := range w.chains() {
		tokens[c[len(c)-1].token] = int64(len(c))
	}
	return tokens
}

func lastPart(url string) string { return url[strings.LastIndexByte(url, '/')+1:] }

// checkNoSecret checks that a text contains no secret that the sandbox has issued, and no private
// key, in any form. It never prints what it finds.
func (e *engine) checkNoSecret(where, text string, keys ...string) {
	e.t.Helper()
	leaks := newSearch(e.wire.secretsSoFar())
	leaks.addKeys(append(keys, e.key)...)
	leaks.check(e.t, where, []byte(text))
}

// checkNoKey checks that a text contains no private key.
func (e *engine) checkNoKey(where, text string, keys ...string) {
	e.t.Helper()
	leaks := newSearch(nil)
	leaks.addKeys(append(keys, e.key)...)
	leaks.check(e.t, where, []byte(text))
}
