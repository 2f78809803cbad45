// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/semaphore"
)

const (
	grantsPrefix = "grants/"
	grantVersion = 1

	statusActive  = "active"
	statusPending = "pending"
	statusLost    = "lost"

	revokeRotates = "rotate"
	revokeKeeps   = "keep"

	// lockPatience is how long a request waits for others on the same grant.
	lockPatience = 10 * time.Second
)

// grant is a stored Open Payments grant: one storage entry.
type grant struct {
	Version     int    `json:"version"`
	ID          string `json:"id"`     // another one for a grant made again under the same name
	Client      string `json:"client"` // wallet address of the client that obtained it
	Status      string `json:"status"`
	Interactive bool   `json:"interactive"`

	source
	Access json.RawMessage `json:"access,omitempty"` // as the server last told it

	Token      string        `json:"token,omitempty"`
	Manage     string        `json:"manage,omitempty"`
	Continue   continuation  `json:"continue"`
	ExpiresAt  time.Time     `json:"expires_at"`
	LifeKnown  bool          `json:"life_known"` // the server said how long the token lives
	Lifetime   time.Duration `json:"lifetime"`
	Generation int           `json:"generation"`
	Spent      bool          `json:"spent"` // the token is not handed out again: it may be dead, or somebody has it who does not share it

	Pending  *pending  `json:"pending,omitempty"` // the owner is being asked
	Intent   *intent   `json:"intent,omitempty"`
	AskedAt  time.Time `json:"asked_at"` // when it was last asked for again
	Settings settings  `json:"settings"`

	CreatedAt    time.Time `json:"created_at"`
	LastRotation event     `json:"last_rotation"`
	LastFailure  event     `json:"last_failure"`
	Lost         event     `json:"lost"`
}

// source is where a grant comes from, and what was asked for.
type source struct {
	Requested      json.RawMessage `json:"requested,omitempty"`
	AuthServer     string          `json:"auth_server,omitempty"` // the grant endpoint
	AuthOrigin     string          `json:"auth_origin"`           // where the grant's URLs have to lie
	WalletAddress  string          `json:"wallet_address,omitempty"`
	ResourceServer string          `json:"resource_server,omitempty"`
	TypedHosts     []string        `json:"typed_hosts,omitempty"` // named by an operator, not by a document
}

// intent marks that a new token is being asked for. It is written before the
// request is sent, and goes with the answer.
type intent struct {
	ID         string    `json:"id"`
	Generation int       `json:"generation"` // being attempted
	At         time.Time `json:"at"`
	Cause      cause     `json:"cause"`
	Ref        string    `json:"ref,omitempty"` // interaction reference that is being handed in
}

// cause is why a new token is asked for.
type cause string

const (
	causeRead      cause = "read"
	causeRenew     cause = "renew"
	causeRevoke    cause = "revoke"
	causeRotate    cause = "rotate"
	causeAsk       cause = "ask"
	causeImport    cause = "import"
	causeConsent   cause = "consent"
	causeKeepalive cause = "keepalive"
)

type event struct {
	At    time.Time `json:"at"`
	Cause string    `json:"cause"`
}

// settings are what a grant's leases follow.
type settings struct {
	TTL       time.Duration `json:"ttl,omitempty"`     // 0: the token's life decides
	MaxTTL    time.Duration `json:"max_ttl,omitempty"` // 0: the mount's limit decides
	Renewable bool          `json:"renewable"`
	OnRevoke  string        `json:"on_revoke"`
	Shared    bool          `json:"shared,omitempty"`    // reads hand the current token out again
	MinTTL    time.Duration `json:"min_ttl,omitempty"`   // while so much of its life is left; 0: a quarter
	Keepalive time.Duration `json:"keepalive,omitempty"` // rotated if nobody has done it for so long; 0: never
}

func defaultSettings() settings {
	return settings{Renewable: true, OnRevoke: revokeRotates, Keepalive: defaultKeepalive}
}

func newGrant(client string, now time.Time) *grant {
	return &grant{Version: grantVersion, ID: newID(), Client: client, Settings: defaultSettings(), CreatedAt: now}
}

// newID makes an id that no other will have: 128 bits from the system.
func newID() string { return rand.Text() }

// inDoubt tells whether the server may have replaced the token and its answer not
// reached us. An owner who is asked for another grant leaves this one alone.
func (g *grant) inDoubt() bool {
	return g.Intent != nil && g.Intent.Cause != causeAsk && g.Intent.Cause != causeConsent
}

// begin marks the grant with an intent of its own. It may take the place of one
// that leaves the token in doubt.
func (g *grant) begin(why cause, now time.Time) {
	g.Spent = g.Spent || g.inDoubt()
	g.Intent = &intent{ID: newID(), Generation: g.Generation + 1, At: now, Cause: why}
}

// accept puts a new token into the grant. What the answer lacks stays as it was.
func (g *grant) accept(t done, why string) {
	g.Token = t.Value
	if t.Manage != "" {
		g.Manage = t.Manage
	}
	if t.Access != nil {
		g.Access = t.Access
	}
	if t.Continue.URL != "" {
		g.Continue = t.Continue
	}
	g.Lifetime, g.LifeKnown = t.Lifetime, t.Lifetime > 0
	if !g.LifeKnown {
		if g.Lifetime = g.Settings.TTL; g.Lifetime == 0 {
			g.Lifetime = defaultLifetime
		}
	}
	g.ExpiresAt = t.SentAt.Add(g.Lifetime)
	g.Generation++
	g.Status, g.Lost = statusActive, event{}
	g.Intent = nil
	g.LastRotation = event{At: t.SentAt, Cause: why}
	switch cause(why) {
	case causeRead:
		g.Spent = !g.Settings.Shared
	case causeRenew, causeImport: // a shared lease is not renewed; who imports has seen the token
		g.Spent = true
	default:
		g.Spent = false
	}
}

// holds are the locks of grants, by name, with what is known of a grant in
// memory alone. Vault's locksutil shares a lock between names that hash alike,
// and a grant whose server hangs must not delay another one.
type holds struct {
	mu    sync.Mutex
	byKey map[string]*held
}

type held struct {
	turn  *semaphore.Weighted // first come, first served
	users int                 // holding or waiting; guarded by holds.mu

	// guarded by turn
	unsaved *unsaved
	failure failure
}

// unsaved is a grant with an answer in it that no storage would take. It is the
// only copy of a live manage URL.
type unsaved struct {
	grant    *grant
	intentID string
}

// failure makes a grant answer at once with its last error for a while.
type failure struct {
	err   error
	delay time.Duration
	until time.Time
}

// next makes the pause twice as long as the one before.
func (f failure) next(err error, now time.Time) failure {
	delay := min(max(2*f.delay, failureMin), failureMax)
	return failure{err: err, delay: delay, until: now.Add(delay)}
}

func (h *holds) enter(name string) *held {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.byKey == nil {
		h.byKey = map[string]*held{}
	}
	one := h.byKey[name]
	if one == nil {
		one = &held{turn: semaphore.NewWeighted(1)}
		h.byKey[name] = one
	}
	one.users++
	return one
}

// leave forgets what nobody uses and what says nothing. Without users nobody
// has the turn, so all of it may be read.
func (h *holds) leave(name string, one *held) {
	h.mu.Lock()
	defer h.mu.Unlock()
	one.users--
	if one.users == 0 && one.unsaved == nil && one.failure.err == nil {
		delete(h.byKey, name)
	}
}

// forgetFailures lets every grant try again at once: the client has changed.
func (h *holds) forgetFailures() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, one := range h.byKey {
		if !one.turn.TryAcquire(1) {
			continue // it is trying right now
		}
		one.failure = failure{}
		if one.users == 0 && one.unsaved == nil {
			delete(h.byKey, name)
		}
		one.turn.Release(1)
	}
}

// hold is the lock on one grant, and the only way to its stored entry.
type hold struct {
	*held
	b       *Backend
	storage logical.Storage
	name    string
}

var errBusy = logical.CodedError(http.StatusServiceUnavailable, "the grant is busy with another request; try again")

// hold locks a grant, waiting no longer than the caller does and at most 10 s.
func (b *Backend) hold(ctx context.Context, s logical.Storage, name string) (*hold, error) {
	if !b.WriteSafeReplicationState() {
		return nil, logical.ErrReadOnly
	}
	waiting, stop := b.within(ctx, lockPatience)
	defer stop()
	h := &hold{held: b.holds.enter(name), b: b, storage: s, name: name}
	if err := h.turn.Acquire(waiting, 1); err != nil {
		b.holds.leave(name, h.held)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, errBusy
	}
	return h, nil
}

func (h *hold) release() {
	h.turn.Release(1)
	h.b.holds.leave(h.name, h.held)
}

// load reads the grant, after saving what an earlier answer left unsaved; nil
// if there is none.
func (h *hold) load(ctx context.Context) (*grant, error) {
	if h.unsaved != nil {
		if err := h.save(ctx); err != nil && !errors.Is(err, errTakenOver) {
			return nil, errUnsaved
		}
	}
	return loadGrant(ctx, h.storage, h.name)
}

func loadGrant(ctx context.Context, s logical.Storage, name string) (*grant, error) {
	entry, err := s.Get(ctx, grantsPrefix+name)
	if err != nil {
		return nil, fmt.Errorf("read the stored grant: %w", err)
	}
	if entry == nil {
		return nil, nil
	}
	g := grant{Spent: true} // an earlier version did not say
	if err := entry.DecodeJSON(&g); err != nil {
		return nil, fmt.Errorf("decode the stored grant %q: it is damaged", name)
	}
	if g.Version > grantVersion {
		return nil, fmt.Errorf("the stored grant %q was written by a newer version of the engine (layout %d)", name, g.Version)
	}
	return &g, nil
}

// store returns errors as they are: logical.ErrReadOnly makes Vault forward
// the request.
func (h *hold) store(ctx context.Context, g *grant) error {
	entry, err := logical.StorageEntryJSON(grantsPrefix+h.name, g)
	if err != nil {
		return fmt.Errorf("encode the grant: %w", err)
	}
	return h.storage.Put(ctx, entry)
}

func (h *hold) forget(ctx context.Context) error {
	return h.storage.Delete(ctx, grantsPrefix+h.name)
}
