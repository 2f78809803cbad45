// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// How the engine's work ends, and the work that it does unasked.

// errClosing is returned for what arrives after Vault has begun to take the engine down.
var errClosing = logical.CodedError(http.StatusServiceUnavailable, "the engine is shutting down; try again")

// inFlight counts the work that must end before the process may: Vault waits for Clean, with
// storage working, on reload, step-down, seal and SIGTERM.
type inFlight struct {
	mu      sync.Mutex
	closed  bool
	closing chan struct{} // closed when no new work is accepted
	work    sync.WaitGroup
}

// begin reports whether new work may begin. The caller calls end when it is done.
func (f *inFlight) begin() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	f.work.Add(1)
	return true
}

func (f *inFlight) end() { f.work.Done() }

func (f *inFlight) isClosing() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.closed
}

// close refuses new work and waits for what is in flight.
func (f *inFlight) close() {
	f.mu.Lock()
	if !f.closed {
		f.closed = true
		close(f.closing)
	}
	f.mu.Unlock()
	f.work.Wait()
}

// untilClosing returns ctx, cancelled when the engine begins to close.
func (b *Backend) untilClosing(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-b.inFlight.closing:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// worker does one piece of background work at a time.
type worker struct{ busy atomic.Bool }

// start begins the work, unless it is going on or the engine is shutting down.
func (b *Backend) start(w *worker, name string, work func() error) {
	if !w.busy.CompareAndSwap(false, true) {
		return
	}
	if !b.inFlight.begin() {
		w.busy.Store(false)
		return
	}
	go func() {
		defer b.inFlight.end()
		defer w.busy.Store(false)
		if err := b.surviving(name, work); err != nil {
			b.Logger().Warn("background work failed; it runs again in a minute", "work", name, "error", err)
		}
	}()
}

// surviving does some work. A panic becomes its error.
func (b *Backend) surviving(name string, work func() error) (err error) {
	defer b.survive(name, &err)
	return work()
}

// tick starts the workers. Vault calls it once a minute and holds a lock meanwhile, so they work in
// the background.
func (b *Backend) tick(ctx context.Context, req *logical.Request) error {
	if !b.WriteSafeReplicationState() {
		return nil
	}
	b.locks.forgetOldFailures(b.clock.Now())
	ctx = context.WithoutCancel(ctx) // the tick's own ends with it
	b.start(&b.keyWorker, "maintain the client's keys", func() error { return b.maintainKeys(ctx, req.Storage) })
	b.start(&b.upkeepWorker, "work on grants", func() error { return b.upkeep(ctx, req.Storage) })
	return nil
}

// sleepOnClock sleeps on the engine's clock.
func (b *Backend) sleepOnClock(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-b.clock.After(d):
		return nil
	}
}
