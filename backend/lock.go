// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/semaphore"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/deadline"
)

const (
	// lockTimeout is how long a request waits for others on the same grant.
	lockTimeout = 10 * time.Second

	failureMin, failureMax = time.Second, 30 * time.Second
)

// lockTable holds the locks of grants, by name, with what is known of a grant in memory alone.
// Vault's locksutil shares a lock between names that hash alike, and a grant whose server hangs
// must not delay another one.
type lockTable struct {
	mu     sync.Mutex
	byName map[string]*lockEntry
}

type lockEntry struct {
	turn  *semaphore.Weighted // first come, first served
	users int                 // holding or waiting; guarded by lockTable.mu

	// guarded by turn
	unsaved *unsavedAnswer
	failure recentFailure
}

// unsavedAnswer is a grant with an answer in it that storage has not accepted. It is the only copy
// of a live manage URL.
type unsavedAnswer struct {
	grant    *grant
	intentID string
}

// recentFailure makes a grant return its last error at once for a while.
type recentFailure struct {
	err   error
	delay time.Duration
	until time.Time
}

// next returns the failure that follows this one: its delay is twice as long.
func (f recentFailure) next(err error, now time.Time) recentFailure {
	delay := min(max(2*f.delay, failureMin), failureMax)
	return recentFailure{err: err, delay: delay, until: now.Add(delay)}
}

// acquire returns the entry of a name for one more user, who has to wait for the turn.
func (t *lockTable) acquire(name string) *lockEntry {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byName == nil {
		t.byName = map[string]*lockEntry{}
	}
	e := t.byName[name]
	if e == nil {
		e = &lockEntry{turn: semaphore.NewWeighted(1)}
		t.byName[name] = e
	}
	e.users++
	return e
}

// release drops an entry that nobody uses and that says nothing. Without users nobody has the turn,
// so all of it may be read.
func (t *lockTable) release(name string, e *lockEntry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e.users--
	if e.users == 0 && e.unsaved == nil && e.failure.err == nil {
		delete(t.byName, name)
	}
}

// forgetFailures lets every grant try again at once, because the client has changed.
func (t *lockTable) forgetFailures() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, e := range t.byName {
		if !e.turn.TryAcquire(1) {
			continue // it is trying right now
		}
		e.failure = recentFailure{}
		if e.users == 0 && e.unsaved == nil {
			delete(t.byName, name)
		}
		e.turn.Release(1)
	}
}

// forgetOldFailures drops the failures that have been over for so long that a further one would not follow
// on them. Nobody may ever come back to the grant.
func (t *lockTable) forgetOldFailures(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, e := range t.byName {
		if e.users == 0 && e.unsaved == nil && !now.Before(e.failure.until.Add(failureMax)) {
			delete(t.byName, name)
		}
	}
}

// clientLock keeps the client from changing while a grant is written for it. Unlike a sync.RWMutex it
// is waited for no longer than the caller's context lasts. It is never held over the network.
type clientLock struct{ weight *semaphore.Weighted }

const exclusive = 1 << 30

func newClientLock() clientLock { return clientLock{semaphore.NewWeighted(exclusive)} }

// read keeps the client from changing until unlock is called.
func (l clientLock) read(ctx context.Context) (unlock func(), err error) { return l.acquire(ctx, 1) }

// write keeps others from reading and changing the client until unlock is called.
func (l clientLock) write(ctx context.Context) (unlock func(), err error) {
	return l.acquire(ctx, exclusive)
}

func (l clientLock) acquire(ctx context.Context, n int64) (unlock func(), err error) {
	if err := l.weight.Acquire(ctx, n); err != nil {
		return nil, err
	}
	return func() { l.weight.Release(n) }, nil
}

// grantLock is the lock on one grant, and the only way to its stored entry.
type grantLock struct {
	b       *Backend
	entry   *lockEntry
	storage logical.Storage
	name    string

	lookedAt time.Time // when the stored grant was last read or written; zero: never
	seen     []byte    // what was stored then
}

// lockGrant locks a grant, waiting no longer than the caller does and at most 10 s (503 then). On a
// node that may not write it returns logical.ErrReadOnly. The caller releases the lock.
func (b *Backend) lockGrant(ctx context.Context, s logical.Storage, name string) (*grantLock, error) {
	if !b.WriteSafeReplicationState() {
		return nil, logical.ErrReadOnly
	}
	waiting, stop := deadline.After(ctx, b.clock, lockTimeout)
	defer stop()
	l := &grantLock{b: b, entry: b.locks.acquire(name), storage: s, name: name}
	if err := l.entry.turn.Acquire(waiting, 1); err != nil {
		b.locks.release(name, l.entry)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, errBusy
	}
	return l, nil
}

func (l *grantLock) release() {
	l.entry.turn.Release(1)
	l.b.locks.release(l.name, l.entry)
}

// recentError returns the grant's last error for as long as it is repeated; nil otherwise.
func (l *grantLock) recentError() error {
	if l.b.clock.Now().Before(l.entry.failure.until) {
		return l.entry.failure.err
	}
	return nil
}
