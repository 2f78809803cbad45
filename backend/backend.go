// SPDX-License-Identifier: MPL-2.0

// Package backend is the Open Payments secrets engine: it keeps grants and the
// client's key in Vault and hands out access tokens as leased secrets.
//
// Data flows one way. A path parses and answers; it asks for a rotation
// (rotation.go), which asks the port (port.go) for a remote call and the
// storage for a write.
package backend

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/jonboulle/clockwork"
)

const help = `
The Open Payments secrets engine acts as one Open Payments client. It keeps the
client's private key and its grants, and hands out access tokens: each read of
token/NAME rotates the grant's token at the authorization server and answers the
new one as a lease. Renewing the lease rotates again and answers the new token;
revoking it makes the handed-out value worthless. The grant lives on.

Begin with config, then write a grant to grants/NAME, then read token/NAME. Where
rights need no consent, many readers are better served by a role: write it to
roles/NAME, and each read of creds/NAME is a lease with a grant of its own.
`

// Backend is the secrets engine as Vault sees it. Requests are checked here,
// before the framework sees them, because the framework ignores fields that it
// does not know and repeats mistyped values in its errors.
type Backend struct {
	*framework.Backend

	clock clockwork.Clock
	sleep func(ctx context.Context, d time.Duration) error

	holds      holds
	transports transports
	signers    signers
	outages    sync.Map // a set: origins of servers that were last asked in vain
	patterns   map[*framework.Path]*regexp.Regexp

	// configMu keeps the client from changing between the moment a grant is
	// begun for it and the moment that the grant is in the list.
	configMu sync.RWMutex

	inFlight inFlight
	tending  worker // looks after keys
	keeping  worker // keeps grants alive
}

// Factory returns the constructor that Vault calls for each mount. The version
// (vX.Y.Z) is what Vault shows as the plugin's running version.
func Factory(version string) logical.Factory {
	return func(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
		b := newBackend(version, clockwork.NewRealClock())
		if err := b.Setup(ctx, conf); err != nil {
			return nil, fmt.Errorf("set up the engine: %w", err)
		}
		return b, nil
	}
}

func newBackend(version string, clock clockwork.Clock) *Backend {
	b := &Backend{clock: clock}
	b.sleep = b.wait
	b.inFlight.closing = make(chan struct{})
	b.Backend = &framework.Backend{
		Help:           help,
		BackendType:    logical.TypeLogical,
		RunningVersion: version,
		PathsSpecial: &logical.Paths{
			SealWrapStorage: []string{configKey, keysPrefix, grantsPrefix, framework.WALPrefix},
			Unauthenticated: []string{"jwks.json"},
		},
		Paths: []*framework.Path{
			b.pathConfig(),
			b.pathGrantsList(),
			b.pathContinue(),
			b.pathGrant(),
			b.pathTokenDefault(),
			b.pathToken(),
			b.pathRotate(),
			b.pathSign(),
			b.pathRolesList(),
			b.pathRole(),
			b.pathCreds(),
			b.pathKeys(),
			b.pathKeysRotate(),
			b.pathJWKS(),
		},
		Secrets: []*framework.Secret{b.secretToken(), b.secretCreds()},
		Invalidate: func(_ context.Context, key string) {
			if key == configKey {
				b.signers.forget()
			}
		},
		PeriodicFunc:      b.tick,
		WALRollback:       b.rollBack,
		WALRollbackMinAge: rollbackAge,
		Clean:             func(context.Context) { b.inFlight.close() },
	}
	b.patterns = make(map[*framework.Path]*regexp.Regexp, len(b.Paths))
	for _, p := range b.Paths {
		b.patterns[p] = regexp.MustCompile(p.Pattern)
	}
	return b
}

// HandleRequest checks a request's input and hands it to the framework.
func (b *Backend) HandleRequest(ctx context.Context, req *logical.Request) (*logical.Response, error) {
	if !b.inFlight.enter() {
		return nil, errClosing
	}
	defer b.inFlight.leave()

	if err := b.checkInput(req); err != nil {
		return logical.ErrorResponse(err.Error()), nil
	}
	if req.Operation == logical.RollbackOperation {
		var stop context.CancelFunc
		ctx, stop = b.within(ctx, rollbackPatience)
		defer stop()
	}
	return b.Backend.HandleRequest(ctx, req)
}

// HandleExistenceCheck answers whether what the request names is stored. It
// looks at the path alone, so that mistyped input is refused by HandleRequest,
// in our words and as a 400: an error here reaches the caller as a 500.
func (b *Backend) HandleExistenceCheck(ctx context.Context, req *logical.Request) (checkFound, exists bool, err error) {
	if !b.inFlight.enter() {
		return false, false, errClosing
	}
	defer b.inFlight.leave()

	if b.checkName(req) != nil {
		return true, false, nil
	}
	bare := *req
	bare.Data = nil
	return b.Backend.HandleExistenceCheck(ctx, &bare)
}

// wait sleeps on the engine's clock.
func (b *Backend) wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-b.clock.After(d):
		return nil
	}
}

// within is ctx, cancelled after d on the engine's clock.
func (b *Backend) within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := b.clock.AfterFunc(d, func() { cancel(context.DeadlineExceeded) })
	return ctx, func() {
		timer.Stop()
		cancel(nil)
	}
}

// errClosing answers what arrives after Vault has begun to take the engine down.
var errClosing = logical.CodedError(http.StatusServiceUnavailable, "the engine is shutting down; try again")

// inFlight counts work that must end before the process may: Vault waits for
// Clean, with storage working, on reload, step-down, seal and SIGTERM.
type inFlight struct {
	mu      sync.Mutex
	closed  bool
	closing chan struct{} // closed when no new work is taken
	work    sync.WaitGroup
}

func (f *inFlight) enter() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	f.work.Add(1)
	return true
}

func (f *inFlight) leave() { f.work.Done() }

func (f *inFlight) isClosing() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.closed
}

func (f *inFlight) close() {
	f.mu.Lock()
	if !f.closed {
		f.closed = true
		close(f.closing)
	}
	f.mu.Unlock()
	f.work.Wait()
}

// worker is work in the background, of which one at a time is done.
type worker struct{ busy atomic.Bool }

// wake begins the work, unless it is going on or the engine is shutting down.
func (b *Backend) wake(w *worker, what string, work func() error) {
	if !w.busy.CompareAndSwap(false, true) {
		return
	}
	if !b.inFlight.enter() {
		w.busy.Store(false)
		return
	}
	go func() {
		defer b.inFlight.leave()
		defer w.busy.Store(false)
		if err := work(); err != nil {
			b.Logger().Warn(what+" could not be looked after", "error", err)
		}
	}()
}

// tick wakes the workers. Vault calls it once a minute and holds a lock
// meanwhile, so they work beside it.
func (b *Backend) tick(ctx context.Context, req *logical.Request) error {
	if !b.WriteSafeReplicationState() {
		return nil
	}
	ctx = context.WithoutCancel(ctx) // the tick's ends with it
	b.wake(&b.tending, "the client's keys", func() error { return b.tendKeys(ctx, req.Storage) })
	b.wake(&b.keeping, "the grants to be kept alive", func() error { return b.keepAlive(ctx, req.Storage, req.MountPoint) })
	return nil
}

// callerError is a mistake of the caller's: a 400 with a sentence that says
// what to do.
type callerError string

func (e callerError) Error() string { return string(e) }

func refuse(format string, args ...any) error {
	return callerError(fmt.Sprintf(format, args...))
}

// answerError turns the caller's mistakes into a 400 and passes all else on as
// it is: Vault knows its own error values only when they are not wrapped.
func answerError(err error) (*logical.Response, error) {
	var mistake callerError
	if errors.As(err, &mistake) {
		return logical.ErrorResponse(err.Error()), nil
	}
	return nil, err
}
