// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/authserver"
)

const (
	grantsPrefix = "grants/"
	grantVersion = 1

	statusActive  = "active"
	statusPending = "pending"
	statusLost    = "lost"
)

// grant is a stored Open Payments grant: one storage entry.
type grant struct {
	Version     int    `json:"version"`
	ID          string `json:"id"`     // another one for a grant that is made again under the same name
	Client      string `json:"client"` // wallet address of the client that obtained it
	Status      string `json:"status"`
	Interactive bool   `json:"interactive"`

	source
	Access json.RawMessage `json:"access,omitempty"` // as the server last named it

	Token       string                  `json:"token,omitempty"`
	Manage      string                  `json:"manage,omitempty"`
	Continue    authserver.Continuation `json:"continue"`
	ExpiresAt   time.Time               `json:"expires_at"`
	LifeKnown   bool                    `json:"life_known"` // the server said how long the token lives
	Lifetime    time.Duration           `json:"lifetime"`
	Generation  int                     `json:"generation"`
	ManageOld   bool                    `json:"manage_old,omitempty"` // the manage URL is that of a token before
	NotReusable bool                    `json:"spent"`                // the token may be dead, or is held unshared

	Pending  *pending  `json:"pending,omitempty"` // the owner is being asked
	Intent   *intent   `json:"intent,omitempty"`
	AskedAt  time.Time `json:"asked_at"` // when it was last requested anew
	Settings settings  `json:"settings"`

	Imported     bool     `json:"imported,omitempty"`      // obtained elsewhere, not by asking
	ImportedWith []string `json:"imported_with,omitempty"` // SHA-256 of the tokens of imports, in hex

	Formers   []ending  `json:"formers,omitempty"`   // grants that this one has replaced, still to be cancelled
	Replaced  *replaced `json:"replaced,omitempty"`  // the token that the last import has replaced
	Doubt     *doubt    `json:"doubt,omitempty"`     // the server cannot rotate, and may never again
	Ending    bool      `json:"ending,omitempty"`    // its cancellation was begun
	Unread    bool      `json:"unread,omitempty"`    // an answer that may have held its token could not be read
	Recovered int       `json:"recovered,omitempty"` // lost: how often the worker has tried to rotate it since

	CreatedAt    time.Time `json:"created_at"`
	LastRotation event     `json:"last_rotation"`
	LastFailure  event     `json:"last_failure"`
	Lost         event     `json:"lost"`
}

// source is where a grant comes from, and what was asked for.
type source struct {
	Requested      json.RawMessage `json:"requested,omitempty"`
	AuthServer     string          `json:"auth_server,omitempty"` // the grant endpoint
	AuthOrigin     string          `json:"auth_origin"`           // where the grant's URLs have to be
	WalletAddress  string          `json:"wallet_address,omitempty"`
	ResourceServer string          `json:"resource_server,omitempty"`
	OperatorHosts  []string        `json:"typed_hosts,omitempty"` // named by an operator, not by a document

	// As an operator typed them: what is left out there was discovered.
	TypedWalletAddress  string `json:"typed_wallet_address,omitempty"`
	TypedAuthServer     string `json:"typed_auth_server,omitempty"`
	TypedResourceServer string `json:"typed_resource_server,omitempty"`
}

// intent marks that a new token is being requested. It is written before the request is sent, and
// goes with the answer.
type intent struct {
	ID         string    `json:"id"`
	Generation int       `json:"generation"` // being attempted
	At         time.Time `json:"at"`
	Cause      cause     `json:"cause"`
	Ref        string    `json:"ref,omitempty"` // read only, see adoptReference
}

// replaced is a token that an import has replaced, which leases may still hold.
type replaced struct {
	Generation int       `json:"generation"`
	Ending     ending    `json:"ending"`
	Before     *replaced `json:"before,omitempty"` // by the import before that
}

// still returns those replaced tokens that may be live, the last one first; at most maxFormers.
func (r *replaced) still(now time.Time) (live []*replaced) {
	for ; r != nil && len(live) < maxFormers; r = r.Before {
		if now.Before(r.Ending.ExpiresAt) {
			live = append(live, r)
		}
	}
	return live
}

// doubt counts the answers to rotations that may mean that the token is dead, or only that the
// server's database is in trouble.
type doubt struct {
	Since time.Time `json:"since"`
	Count int       `json:"count"`
}

// cause is why a new token is requested.
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
	causeRecover   cause = "recover"
)

type event struct {
	At    time.Time `json:"at"`
	Cause string    `json:"cause"`
}

func newGrant(client string, now time.Time) *grant {
	return &grant{Version: grantVersion, ID: newID(), Client: client, Settings: defaultSettings(), CreatedAt: now}
}

// newID returns an id that no other will have: 128 bits from the system.
func newID() string { return rand.Text() }

// inDoubt reports whether the server may have replaced the token without its answer reaching us.
// Asking an owner for another grant leaves this one alone.
func (g *grant) inDoubt() bool {
	return g.Intent != nil && g.Intent.Cause != causeAsk && g.Intent.Cause != causeConsent
}

// begin marks the grant with an intent of its own. It may take the place of one that leaves the
// token in doubt.
func (g *grant) begin(why cause, now time.Time) {
	g.NotReusable = g.NotReusable || g.inDoubt()
	g.Intent = &intent{ID: newID(), Generation: g.Generation + 1, At: now, Cause: why}
}

func (g *grant) hasIntent(id string) bool {
	return g != nil && g.Intent != nil && g.Intent.ID == id
}

// accept puts a new token into the grant. The rights and the continuation that the answer lacks stay
// as they were; and so does the manage URL, which is of doubtful use then: at most servers it is dead.
func (g *grant) accept(t authserver.TokenIssued, why cause) {
	g.Token, g.ManageOld = t.Value, t.Manage == ""
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
	g.Status, g.Lost, g.Recovered = statusActive, event{}, 0
	g.Intent, g.Doubt, g.Unread, g.Ending = nil, nil, false, false
	g.LastRotation = event{At: t.SentAt, Cause: string(why)}
	switch why {
	case causeRead:
		g.NotReusable = !g.Settings.Shared
	case causeRenew, causeImport: // a shared lease is not renewed; whoever imports has seen the token
		g.NotReusable = true
	default:
		g.NotReusable = false
	}
}

// rights returns the grant's access for a response: a list even where it is unknown.
func (g *grant) rights() []any {
	rights := []any{}
	_ = json.Unmarshal(g.Access, &rights) // checked when it was read
	return rights
}

// authServer returns the grant endpoint, or its origin where only that is known.
func (g *grant) authServer() string {
	if g.AuthServer != "" {
		return g.AuthServer
	}
	return g.AuthOrigin
}

// unmanaged reports whether the grant has a live token that can be neither rotated nor revoked, because
// the server named no manage URL with it. It is handed out for as long as it lives.
func (g *grant) unmanaged(now time.Time) bool {
	return g.Token != "" && (g.Manage == "" || g.ManageOld) && g.Status == statusActive && g.remaining(now) > 0
}

// remaining returns how much of the token's life is left: never more than its whole life, because a
// clock may have been set back.
func (g *grant) remaining(now time.Time) time.Duration {
	return min(g.ExpiresAt.Sub(now), g.Lifetime)
}

// load reads the grant, after saving what an earlier answer left unsaved; nil if there is none.
func (l *grantLock) load(ctx context.Context) (*grant, error) {
	if l.entry.unsaved != nil {
		if err := l.save(ctx); err != nil && !errors.Is(err, errTakenOver) {
			return nil, errUnsaved
		}
	}
	return l.look(ctx)
}

// maxPause is how long a node may take from a look at a stored grant to what it does about it. After
// more, it looks again: it may have been paused, or have waited, while another one became the leader.
const maxPause = time.Second

// look reads the stored grant as it is, and notes when; nil if there is none.
func (l *grantLock) look(ctx context.Context) (*grant, error) {
	l.lookedAt, l.seen = l.b.clock.Now(), nil
	entry, err := l.storage.Get(ctx, grantsPrefix+l.name)
	if entry != nil {
		l.seen = entry.Value
	}
	return readGrant(entry, err, l.name)
}

// wasPaused reports whether the last look at the stored grant was too long ago. The monotonic clock stops
// while a machine is suspended, and the wall clock may be set: the longer time counts.
func (l *grantLock) wasPaused() bool {
	now := l.b.clock.Now()
	took := max(now.Sub(l.lookedAt), now.Round(0).Sub(l.lookedAt.Round(0)))
	return !l.lookedAt.IsZero() && took > maxPause
}

// checkUnchanged returns an error if the stored grant has changed after a pause since it was looked at:
// another node has taken it over.
func (l *grantLock) checkUnchanged(ctx context.Context) error {
	if !l.wasPaused() {
		return nil
	}
	now, seen := l.b.clock.Now(), l.seen
	entry, err := l.storage.Get(ctx, grantsPrefix+l.name)
	switch {
	case err != nil:
		return fmt.Errorf("read the stored grant: %w", err)
	case (entry == nil) != (seen == nil) || entry != nil && !bytes.Equal(entry.Value, seen):
		return errTakenOver
	}
	l.lookedAt = now
	return nil
}

// loadGrant reads a stored grant; nil if there is none.
func loadGrant(ctx context.Context, s logical.Storage, name string) (*grant, error) {
	entry, err := s.Get(ctx, grantsPrefix+name)
	return readGrant(entry, err, name)
}

// readGrant reads what storage has returned for a grant.
func readGrant(entry *logical.StorageEntry, err error, name string) (*grant, error) {
	if err != nil {
		return nil, fmt.Errorf("read the stored grant: %w", err)
	}
	if entry == nil {
		return nil, nil
	}
	g := grant{NotReusable: true} // an earlier version did not say
	if err := decode(entry.Value, fmt.Sprintf("the stored grant %q", name), &g, &g.Version, grantVersion); err != nil {
		return nil, err
	}
	g.adoptReference()
	return &g, nil
}

// store returns errors as they are: logical.ErrReadOnly makes Vault forward the request.
func (l *grantLock) store(ctx context.Context, g *grant) error {
	entry, err := logical.StorageEntryJSON(grantsPrefix+l.name, g)
	if err != nil {
		return fmt.Errorf("encode the grant: %w", err)
	}
	if err := l.checkUnchanged(ctx); err != nil {
		return err
	}
	at := l.b.clock.Now()
	if err := l.storage.Put(ctx, entry); err != nil {
		return err
	}
	l.lookedAt, l.seen = at, entry.Value
	return nil
}

func (l *grantLock) delete(ctx context.Context) error {
	if err := l.checkUnchanged(ctx); err != nil {
		return err
	}
	return l.storage.Delete(ctx, grantsPrefix+l.name)
}
