// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/backend"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/vaulttest"
)

const (
	callerSecret = "CallerSecret"
	vaultToken   = "VaultTokenSecret"
	soon         = 20 * time.Second // nothing that a test waits for takes nearly as long
)

// rig is a proxy with all that is around it: the engine behind Vault's API, and the sandbox.
type rig struct {
	*testing.T
	engine  logical.Backend
	storage logical.Storage
	vault   *httptest.Server
	wallet  *sandbox.Server
	log     *vaulttest.Output
	url     string // of the proxy
	adminAt string
	stop    context.CancelFunc
	done    chan error // what serve returns

	mu       sync.Mutex
	refuse   func(token string) int
	calls    []string                        // the engine's paths, in the order of the requests
	hold     map[string]chan struct{}        // by the first word of a path: held until it is closed
	wrap     func(http.Handler) http.Handler // changes what the wallet does
	received []*http.Request                 // by the wallet's resource server; their bodies have been read
	bodies   []string
	fault    func(path string) (*logical.Response, error) // what the engine answers instead
}

// newRig starts all but the proxy. The grant shop-income may create, read, list and complete
// incoming payments; other is another one.
func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{T: t, storage: &logical.InmemStorage{}, log: &vaulttest.Output{}, hold: map[string]chan struct{}{}}
	var err error
	if r.wallet, err = sandbox.Start(sandbox.Options{Wrap: r.wrapWallet}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.wallet.Close)
	r.engine, err = backend.Factory("v0.0.1")(t.Context(), &logical.BackendConfig{
		Logger: hclog.NewNullLogger(), System: logical.TestSystemView(), StorageView: r.storage,
	})
	if err != nil {
		t.Fatal(err)
	}
	r.vault = httptest.NewServer(&vaulttest.API{Engine: r.handle, Refuse: func(token string) int {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.refuse == nil {
			return 0
		}
		return r.refuse(token)
	}})
	t.Cleanup(r.vault.Close)
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	r.wallet.PublishKey("key-1", public)
	r.write("config", map[string]any{"wallet_address": r.wallet.WalletAddress("client"), "key_id": "key-1",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))})
	for _, name := range []string{"shop-income", "other"} {
		r.write("grants/"+name, map[string]any{"wallet_address": r.wallet.WalletAddress("shop"),
			"access": `[{"type":"incoming-payment","actions":["create","read","list","complete"]}]`})
	}
	return r
}

func (r *rig) write(path string, data map[string]any) {
	r.Helper()
	resp, err := r.engine.HandleRequest(r.Context(), &logical.Request{
		Operation: logical.UpdateOperation, Path: path, Data: data, Storage: r.storage, MountPoint: "op/",
	})
	if err != nil || resp.IsError() {
		r.Fatalf("write %s: %v %v", path, err, resp)
	}
}

// handle handles a request of Vault's to the engine.
func (r *rig) handle(ctx context.Context, req *logical.Request) (*logical.Response, error) {
	req.Storage = r.storage
	word, _, _ := strings.Cut(req.Path, "/")
	r.mu.Lock()
	r.calls = append(r.calls, req.Path)
	hold, fault := r.hold[word], r.fault
	r.mu.Unlock()
	if fault != nil {
		if resp, err := fault(req.Path); resp != nil || err != nil {
			return resp, err
		}
	}
	// As Vault's core does it, work goes on although the caller hangs up: the engine detaches it.
	resp, err := r.engine.HandleRequest(ctx, req)
	if hold != nil {
		<-hold
	}
	return resp, err
}

// holdBack makes the engine hold the answers to requests to a path until the returned function is
// called.
func (r *rig) holdBack(word string) (release func()) {
	hold := make(chan struct{})
	r.set(func() { r.hold[word] = hold })
	return sync.OnceFunc(func() {
		r.set(func() { delete(r.hold, word) })
		close(hold)
	})
}

func (r *rig) wrapWallet(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if strings.HasPrefix(req.URL.Path, "/op/") {
			body, _ := io.ReadAll(req.Body)
			req.Body = io.NopCloser(bytes.NewReader(body))
			r.set(func() { r.received, r.bodies = append(r.received, req), append(r.bodies, string(body)) })
		}
		r.mu.Lock()
		wrap := r.wrap
		r.mu.Unlock()
		if wrap != nil {
			wrap(next).ServeHTTP(w, req)
			return
		}
		next.ServeHTTP(w, req)
	})
}

// set runs change under the lock.
func (r *rig) set(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

// startRig starts all of it, the proxy with the grant shop-income alone and these options, which come
// last and win.
func startRig(t *testing.T, change ...func(*options)) *rig {
	t.Helper()
	r := newRig(t)
	r.start(change...)
	return r
}

func (r *rig) start(change ...func(*options)) {
	r.Helper()
	file := filepath.Join(r.TempDir(), "caller")
	if err := os.WriteFile(file, []byte(callerSecret+"\n"), 0o600); err != nil {
		r.Fatal(err)
	}
	r.Setenv("VAULT_ADDR", r.vault.URL)
	r.Setenv("VAULT_TOKEN", vaultToken)
	r.Setenv("VAULT_MAX_RETRIES", "0")
	o := options{
		mount: "op", grants: names{"shop-income"}, listen: "127.0.0.1:0", callerFile: file, admin: "127.0.0.1:0",
		wait: soon, answer: soon, logLevel: "trace",
	}
	for _, c := range change {
		c(&o)
	}
	log := hclog.New(&hclog.LoggerOptions{Output: r.log, Level: hclog.Trace})
	s, err := start(o, log)
	if err != nil {
		r.Fatal(err)
	}
	r.url = "http://" + s.sockets[0].Addr().String()
	if len(s.sockets) > 1 {
		r.adminAt = "http://" + s.sockets[1].Addr().String()
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.stop, r.done = cancel, make(chan error, 1)
	go func() { r.done <- s.serve(ctx) }()
	r.Cleanup(func() {
		cancel()
		if err := <-r.done; err != nil { // closed if the test has waited for it
			r.Errorf("serve: %v", err)
		}
		r.checkNoSecret("the log", r.log.String())
	})
}

// checkNoSecret checks that a text has none of the secrets of a test.
func (r *rig) checkNoSecret(what, text string) {
	r.Helper()
	for _, secret := range []string{callerSecret, vaultToken, "LeaseSecret", "wallet-address=", `"walletAddress"`} {
		if strings.Contains(text, secret) {
			r.Errorf("%s contains %q:\n%s", what, secret, text)
		}
	}
}

// answer is an answer of the proxy's.
type answer struct {
	*http.Response
	text string
}

// request returns a request of a caller's that knows the secret.
func (r *rig) request(method, path, body string) *http.Request {
	r.Helper()
	var content io.Reader
	if body != "" {
		content = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(r.Context(), method, r.url+path, content)
	if err != nil {
		r.Fatal(err)
	}
	req.Header.Set("Authorization", "GNAP shop-income."+callerSecret)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	return req
}

// callers are like curl: each request has a connection of its own.
var direct = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

func (r *rig) do(req *http.Request) answer {
	r.Helper()
	resp, err := direct.Do(req)
	if err != nil {
		r.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		r.Fatal(err)
	}
	return answer{resp, string(text)}
}

func (r *rig) send(method, path, body string) answer {
	r.Helper()
	return r.do(r.request(method, path, body))
}

// invoice is the body of a request that creates an incoming payment.
func (r *rig) invoice() string {
	return fmt.Sprintf(`{"walletAddress":%q}`, r.wallet.WalletAddress("shop"))
}

// create creates an incoming payment.
func (r *rig) create() answer {
	r.Helper()
	return r.send("POST", "/incoming-payments", r.invoice())
}

func (r *rig) check(a answer, status int) answer {
	r.Helper()
	if a.StatusCode != status {
		r.Errorf("%d %s, want %d", a.StatusCode, a.text, status)
	}
	return a
}

// checkFailure checks that an answer is the proxy's own, with this status and code.
func (r *rig) checkFailure(a answer, status int, code string) {
	r.Helper()
	var said struct {
		Error struct{ Code, Description string }
	}
	if err := json.Unmarshal([]byte(a.text), &said); err != nil || a.StatusCode != status || said.Error.Code != code ||
		said.Error.Description == "" {
		r.Errorf("%d %s, want %d %s", a.StatusCode, a.text, status, code)
	}
	if text := a.Header.Get("Proxy-Status"); !strings.HasPrefix(text, "open-payments-proxy;error=") {
		r.Errorf("Proxy-Status is %q", text)
	}
	if (status == 503) != (a.Header.Get("Retry-After") != "") {
		r.Errorf("%d with Retry-After: %q", status, a.Header.Get("Retry-After"))
	}
	r.checkNoSecret("an error", a.text)
}

// sent returns how many requests the resource server has received.
func (r *rig) sent() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.received)
}

// called returns how many requests with this path the engine has received.
func (r *rig) called(path string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, call := range r.calls {
		if call == path {
			n++
		}
	}
	return n
}

// eventually waits until something has happened.
func (r *rig) eventually(what string, happened func() bool) {
	r.Helper()
	for deadline := time.Now().Add(soon); !happened(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.Fatalf("%s: not within %s", what, soon)
		}
	}
}
