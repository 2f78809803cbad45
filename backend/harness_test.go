// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/helper/testhelpers/schema"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/jonboulle/clockwork"
	"pgregory.net/rapid"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
)

const testKeyID = "key-1"

// incomingAccess are rights that need no consent.
const incomingAccess = `[{"type":"incoming-payment","actions":["create","read","list"]}]`

// rig is an engine as Vault drives it, with a sandbox to talk to over HTTP. Its clock moves when
// the engine sleeps, so that no test waits.
type rig struct {
	testing.TB
	ctx     context.Context
	b       *Backend
	storage *testStorage
	clock   *clockwork.FakeClock
	sandbox *sandbox.Server
	key     string // PEM
	public  ed25519.PublicKey
	log     *lockedBuffer
	system  *logical.StaticSystemView

	ahead atomic.Int64 // of the sandbox's clock; a time.Duration

	mu   sync.Mutex
	wrap func(http.Handler) http.Handler // changes what the sandbox does
}

// newRig starts an engine that is not configured yet.
func newRig(t testing.TB) *rig {
	t.Helper()
	// Real time to begin with: net/http compares deadlines with it.
	r := &rig{TB: t, ctx: context.Background(), clock: clockwork.NewFakeClockAt(time.Now().Truncate(time.Second)), log: &lockedBuffer{}}
	var err error
	r.sandbox, err = sandbox.Start(sandbox.Options{Now: r.serverNow, Wrap: r.wrapped})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.sandbox.Close)

	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r.key, r.public = pemOf(t, private), public
	r.sandbox.PublishKey(testKeyID, public)
	r.storage = &testStorage{InmemStorage: &logical.InmemStorage{}}
	r.restart()
	return r
}

func (r *rig) serverNow() time.Time { return r.clock.Now().Add(-time.Duration(r.ahead.Load())) }

// restart replaces the engine by a new one on the same storage, as after a crash.
func (r *rig) restart() {
	r.Helper()
	r.system = logical.TestSystemView()
	r.system.MaxLeaseTTLVal = 24 * time.Hour
	r.b = newBackend("v0.0.1", r.clock)
	r.b.sleep = func(_ context.Context, d time.Duration) error {
		r.clock.Advance(d)
		return nil
	}
	logger := hclog.New(&hclog.LoggerOptions{Output: r.log, Level: hclog.Trace})
	err := r.b.Setup(r.ctx, &logical.BackendConfig{Logger: logger, System: r.system, StorageView: r.storage})
	if err != nil {
		r.Fatal(err)
	}
}

// configured starts an engine with a client.
func configured(t testing.TB) *rig {
	t.Helper()
	r := newRig(t)
	r.ok(logical.UpdateOperation, "config", r.clientFields())
	return r
}

// withGrant starts an engine with a client and a grant that was asked for.
func withGrant(t testing.TB) *rig {
	t.Helper()
	r := configured(t)
	r.ask("income")
	return r
}

func (r *rig) clientFields() map[string]any {
	return map[string]any{"wallet_address": r.sandbox.WalletAddress("client"), "key_id": testKeyID, "private_key": r.key}
}

func (r *rig) ask(name string) *logical.Response {
	r.Helper()
	return r.ok(logical.UpdateOperation, "grants/"+name, map[string]any{
		"wallet_address": r.sandbox.WalletAddress("shop"), "access": incomingAccess, "ask_again": true,
	})
}

// imported writes what another grant holds as an import under name, and forgets the other: to the
// engine an imported grant is an interactive one.
func (r *rig) imported(name string, more map[string]any) {
	r.Helper()
	r.ask("elsewhere")
	g := r.stored("elsewhere")
	fields := map[string]any{
		"access_token": g.Token, "manage_url": g.Manage, "expires_in": 600,
		"continue_url": g.Continue.URL, "continue_token": g.Continue.Token,
	}
	for k, v := range more {
		if fields[k] = v; v == nil {
			delete(fields, k)
		}
	}
	for _, key := range []string{grantsPrefix + "elsewhere", slotKey(nextCheck(g, r.clock.Now()), "elsewhere")} {
		if err := r.storage.InmemStorage.Delete(r.ctx, key); err != nil {
			r.Fatal(err)
		}
	}
	r.ok(logical.UpdateOperation, "grants/"+name, fields)
}

// do sends a request as Vault does: the existence check first where there is one, and answers
// checked against the path's response schema.
func (r *rig) do(ctx context.Context, op logical.Operation, path string, data map[string]any) (*logical.Response, error) {
	req := &logical.Request{Operation: op, Path: path, Data: data, Storage: r.storage, MountPoint: "op/"}
	if op == logical.UpdateOperation {
		found, exists, err := r.b.HandleExistenceCheck(ctx, req)
		if err != nil && !errors.Is(err, logical.ErrUnsupportedPath) {
			return nil, err
		}
		if found && !exists {
			req.Operation = logical.CreateOperation
		}
	}
	resp, err := r.b.HandleRequest(ctx, req)
	if t, ok := r.TB.(*testing.T); ok && err == nil && resp != nil && !resp.IsError() {
		schema.ValidateResponse(t, schema.GetResponseSchema(t, r.b.Route(path), op), resp, true)
	}
	return resp, err
}

// ok sends a request that has to succeed.
func (r *rig) ok(op logical.Operation, path string, data map[string]any) *logical.Response {
	r.Helper()
	resp, err := r.do(r.ctx, op, path, data)
	if err == nil && resp.IsError() {
		err = resp.Error()
	}
	if err != nil {
		r.Fatalf("%s %s: %v", op, path, err)
	}
	return resp
}

// fails sends a request that has to fail with a status and a text that holds all of the given
// words.
func (r *rig) fails(status int, op logical.Operation, path string, data map[string]any, words ...string) {
	r.Helper()
	resp, err := r.do(r.ctx, op, path, data)
	r.failed(status, resp, err, words...)
}

func (r *rig) failed(status int, resp *logical.Response, err error, words ...string) {
	r.Helper()
	got, text := 200, ""
	var coded logical.HTTPCodedError
	switch {
	case err == nil && resp.IsError():
		got, text = 400, resp.Error().Error()
	case errors.As(err, &coded):
		got, text = coded.Code(), err.Error()
	case err != nil:
		got, text = 500, err.Error()
	}
	if got != status {
		r.Fatalf("status %d (%s), want %d", got, text, status)
	}
	for _, word := range words {
		if !strings.Contains(text, word) {
			r.Errorf("the error %q does not say %q", text, word)
		}
	}
	r.noSecretIn("an error", text)
}

// noSecretIn checks that a text holds no stored secret.
func (r *rig) noSecretIn(what, text string) {
	r.Helper()
	names, _ := r.storage.InmemStorage.List(r.ctx, grantsPrefix)
	for _, name := range names {
		g, err := loadGrant(r.ctx, r.storage.InmemStorage, name)
		if err != nil {
			continue
		}
		secrets := []string{g.Token, g.Manage, g.Continue.URL, g.Continue.Token}
		if p := g.Pending; p != nil {
			secrets = append(secrets, p.Ref, p.ClientNonce, p.ServerNonce, p.Continue.URL, p.Continue.Token)
		}
		for _, secret := range secrets {
			if secret != "" && strings.Contains(text, secret) {
				r.Errorf("%s holds a secret of grant %s", what, name)
			}
		}
	}
	if lines := strings.Split(strings.TrimSpace(r.key), "\n"); strings.Contains(text, lines[1]) {
		r.Errorf("%s holds the private key", what)
	}
}

func (r *rig) read(name string) *logical.Response {
	r.Helper()
	return r.ok(logical.ReadOperation, "token/"+name, nil)
}

// renew renews the lease that a read or renewal answered.
func (r *rig) renew(lease *logical.Response) (*logical.Response, error) {
	return r.b.HandleRequest(r.ctx, r.leaseRequest(logical.RenewOperation, lease))
}

func (r *rig) revoke(lease *logical.Response) (*logical.Response, error) {
	return r.b.HandleRequest(r.ctx, r.leaseRequest(logical.RevokeOperation, lease))
}

// leaseRequest is what Vault sends for a lease: its data and its internal data as they come back
// from storage.
func (r *rig) leaseRequest(op logical.Operation, lease *logical.Response) *logical.Request {
	secret := *lease.Secret
	secret.InternalData = map[string]any{}
	for k, v := range lease.Secret.InternalData {
		if n, ok := v.(int); ok {
			v = float64(n)
		}
		secret.InternalData[k] = v
	}
	if secret.IssueTime.IsZero() {
		secret.IssueTime = r.clock.Now()
	}
	return &logical.Request{Operation: op, Path: "token/x", Data: lease.Data, Storage: r.storage, MountPoint: "op/", Secret: &secret}
}

func (r *rig) stored(name string) *grant {
	r.Helper()
	g, err := loadGrant(r.ctx, r.storage.InmemStorage, name)
	if err != nil {
		r.Fatal(err)
	}
	if g == nil {
		r.Fatalf("no grant %q is stored", name)
	}
	return g
}

func (r *rig) put(name string, g *grant) {
	r.Helper()
	l := &grantLock{b: r.b, storage: r.storage.InmemStorage, name: name}
	if err := l.store(r.ctx, g); err != nil {
		r.Fatal(err)
	}
}

// wake is a tick as Vault sends it: its context ends with it.
func (r *rig) wake() {
	r.Helper()
	ctx, end := context.WithCancel(r.ctx)
	defer end()
	_, err := r.b.HandleRequest(ctx, &logical.Request{Operation: logical.RollbackOperation, Storage: r.storage, MountPoint: "op/"})
	if err != nil {
		r.Fatal(err)
	}
}

// tick is one whose work is done.
func (r *rig) tick() {
	r.Helper()
	r.wake()
	for r.b.keyWorker.busy.Load() || r.b.upkeepWorker.busy.Load() {
		runtime.Gosched()
	}
}

// locked returns the names of the locks that are remembered, sorted.
func (r *rig) locked() []string {
	r.b.locks.mu.Lock()
	defer r.b.locks.mu.Unlock()
	return slices.Sorted(maps.Keys(r.b.locks.byName))
}

func tokenOf(resp *logical.Response) string { return resp.Data["access_token"].(string) }

// wrapped lets a test put itself before the sandbox.
func (r *rig) wrapped(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		wrap := r.wrap
		r.mu.Unlock()
		if wrap == nil {
			next.ServeHTTP(w, req)
			return
		}
		wrap(next).ServeHTTP(w, req)
	})
}

// on replaces the sandbox's handling of one operation; nil ends it.
func (r *rig) on(op string, handle func(w http.ResponseWriter, req *http.Request, next http.Handler)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wrap = func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if sandbox.Operation(req) == op && handle != nil {
				handle(w, req, next)
				return
			}
			next.ServeHTTP(w, req)
		})
	}
}

// answers lets the sandbox do the work and changes the text of its answer.
func (r *rig) answers(op string, change func(body string) string) {
	r.on(op, func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		seen := httptest.NewRecorder()
		next.ServeHTTP(seen, req)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(seen.Code)
		_, _ = io.WriteString(w, change(seen.Body.String()))
	})
}

func pemOf(t testing.TB, key any) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// testStorage fails and blocks on demand.
type testStorage struct {
	*logical.InmemStorage
	mu       sync.Mutex
	ops      int // of all kinds
	puts     int
	onPut    func(n int, key string) error // n counts from 1
	afterPut func(key string) error        // of a write that has succeeded
	onRead   func(key string) error
	onDelete func(key string) error
	onList   func(prefix string) error
	around   func(op storageOp) error // does the operation, or does not
}

// storageOp is one operation of the storage.
type storageOp struct {
	key   string
	value []byte // of a write
	write bool   // it changes something
	do    func() error
}

// run does an operation, or has the test do it.
func (s *testStorage) run(op storageOp) error {
	s.mu.Lock()
	around := s.around
	s.mu.Unlock()
	if around == nil {
		return op.do()
	}
	return around(op)
}

var errDisk = errors.New("the disk is full")

func (s *testStorage) Put(ctx context.Context, e *logical.StorageEntry) error {
	s.mu.Lock()
	s.ops++
	s.puts++
	n, hook := s.puts, s.onPut
	s.mu.Unlock()
	if hook != nil {
		if err := hook(n, e.Key); err != nil {
			return err
		}
	}
	err := s.run(storageOp{e.Key, e.Value, true, func() error { return s.InmemStorage.Put(ctx, e) }})
	s.mu.Lock()
	after := s.afterPut
	s.mu.Unlock()
	if err == nil && after != nil {
		err = after(e.Key)
	}
	return err
}

// failAfterPut has the n-th write of a grant from now on succeed and report an error.
func (s *testStorage) failAfterPut(n int, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.afterPut = func(key string) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if key != grantsPrefix+name {
			return nil
		}
		if n--; n == 0 {
			return errDisk
		}
		return nil
	}
}

func (s *testStorage) Get(ctx context.Context, key string) (entry *logical.StorageEntry, err error) {
	s.mu.Lock()
	s.ops++
	hook := s.onRead
	s.mu.Unlock()
	if hook != nil {
		if err := hook(key); err != nil {
			return nil, err
		}
	}
	err = s.run(storageOp{key: key, do: func() error {
		entry, err = s.InmemStorage.Get(ctx, key)
		return err
	}})
	if err != nil {
		return nil, err
	}
	return entry, nil
}

func (s *testStorage) Delete(ctx context.Context, key string) error {
	s.mu.Lock()
	s.ops++
	hook := s.onDelete
	s.mu.Unlock()
	if hook != nil {
		if err := hook(key); err != nil {
			return err
		}
	}
	return s.run(storageOp{key: key, write: true, do: func() error { return s.InmemStorage.Delete(ctx, key) }})
}

func (s *testStorage) List(ctx context.Context, prefix string) (keys []string, err error) {
	s.mu.Lock()
	s.ops++
	hook := s.onList
	s.mu.Unlock()
	if hook != nil {
		if err := hook(prefix); err != nil {
			return nil, err
		}
	}
	err = s.run(storageOp{key: prefix, do: func() error {
		keys, err = s.InmemStorage.List(ctx, prefix)
		return err
	}})
	if err != nil {
		return nil, err
	}
	return keys, nil
}

// failPuts makes the n-th and following puts fail, counted from now.
func (s *testStorage) failPuts(from int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.puts = 0
	s.onPut = func(n int, _ string) error {
		if n >= from {
			return err
		}
		return nil
	}
}

func (s *testStorage) heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onPut, s.afterPut, s.onRead, s.onDelete, s.onList, s.puts = nil, nil, nil, nil, nil, 0
}

func (s *testStorage) putsSoFar() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.puts
}

func (s *testStorage) opsSoFar() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ops
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// rapidTB lets a rig fail one check of a property.
type rapidTB struct {
	testing.TB
	t *rapid.T
}

func (r rapidTB) Helper()                           {}
func (r rapidTB) Cleanup(f func())                  { r.t.Cleanup(f) }
func (r rapidTB) Error(args ...any)                 { r.t.Error(args...) }
func (r rapidTB) Errorf(format string, args ...any) { r.t.Errorf(format, args...) }
func (r rapidTB) Fatal(args ...any)                 { r.t.Fatal(args...) }
func (r rapidTB) Fatalf(format string, args ...any) { r.t.Fatalf(format, args...) }
