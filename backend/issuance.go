// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/authserver"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/uri"
)

// Grants of a role's leases: each belongs to one lease, whose internal data is all that remembers
// it.

// leaseGrant is a grant that belongs to a lease.
type leaseGrant struct {
	Role  string `json:"role"`
	Grant *grant `json:"grant"`
}

// encode returns JSON, in which numbers and times come through Vault unchanged.
func (l leaseGrant) encode() (string, error) {
	encoded, err := json.Marshal(l)
	if err != nil {
		return "", fmt.Errorf("encode the lease's grant: %w", err)
	}
	return string(encoded), nil
}

func parseLeaseGrant(encoded string) (l leaseGrant, err error) {
	var parts struct {
		Role  string          `json:"role"`
		Grant json.RawMessage `json:"grant"`
	}
	if json.Unmarshal([]byte(encoded), &parts) != nil || parts.Role == "" || parts.Grant == nil {
		return l, errors.New("what is remembered of the lease's grant is damaged")
	}
	l = leaseGrant{parts.Role, new(grant)}
	return l, decode(parts.Grant, "the lease's grant", l.Grant, &l.Grant.Version, grantVersion)
}

// internal returns the lease's internal data. The token is in the lease's data.
func (l leaseGrant) internal() (map[string]any, error) {
	bare := *l.Grant
	bare.Token = ""
	encoded, err := leaseGrant{l.Role, &bare}.encode()
	return map[string]any{"leased": encoded}, err
}

func readLeaseGrant(req *logical.Request) (leaseGrant, error) {
	encoded, _ := req.Secret.InternalData["leased"].(string)
	l, err := parseLeaseGrant(encoded)
	if err == nil {
		l.Grant.Token, _ = req.Data["access_token"].(string)
	}
	return l, err
}

// lockName returns the name by which the grant is locked. No stored grant has such a name.
func (l leaseGrant) lockName() string { return credsPrefix + l.Grant.ID }

// path returns where another lease is read.
func (l leaseGrant) path(ctx context.Context) string { return mountPath(ctx, credsPrefix+l.Role) }

// logFields returns what the log says of it.
func (l leaseGrant) logFields(err error) []any {
	fields := []any{"role", l.Role, "auth_server", l.Grant.AuthOrigin}
	if err != nil {
		fields = append(fields, "error", err)
	}
	return fields
}

// rotate gets a new token for the grant. It is as irreversible as any rotation, but nobody can
// store its answer before Vault does: if the answer does not get so far, the next renewal is
// rejected, and the lease's revocation cancels the grant.
func (l leaseGrant) rotate(ctx context.Context, lock *grantLock) (*attempt, error) {
	c, err := loadClient(ctx, lock.storage)
	if err != nil {
		return nil, err
	}
	if err := checkManageURL(ctx, l.Grant, c, "the lease's grant"); err != nil {
		return nil, err
	}
	if l.Grant.Manage == "" || l.Grant.ManageOld {
		return nil, userErrorf(
			"the authorization server named no manage URL for this lease's grant; read %s again",
			l.path(ctx),
		)
	}
	if err := lock.recentError(); err != nil {
		return nil, err
	}
	next := *l.Grant
	a, err := lock.newAttempt(ctx, c, &next, causeRenew, next.rotationOrigin(), next.OperatorHosts)
	if err != nil {
		return nil, err
	}
	defer a.leave()
	a.role = l.Role
	out, err := a.rotateWithRetry(context.WithoutCancel(ctx))
	token, ok := out.(authserver.TokenIssued)
	if err == nil && !ok {
		err = userErrorf("the authorization server %s no longer accepts the token of this lease; read %s again",
			next.AuthOrigin, l.path(ctx))
	}
	if err != nil {
		return nil, a.fail(ctx, err)
	}
	lock.entry.failure = recentFailure{}
	next.accept(token, causeRenew)
	a.record(resultIssued, nil)
	return a, nil
}

// cancelUnused cancels a grant whose new token nobody gets to see.
func (a *attempt) cancelUnused(ctx context.Context) {
	if err := a.lock.b.endNow(ctx, a.config, a.grant.ending(), false); err != nil {
		a.lock.b.Logger().Warn("a lease's grant could not be cancelled; its revocation tries again",
			"auth_server", a.grant.AuthOrigin, "error", err)
	}
}

// cancelLeaseGrant cancels the grant as the client that obtained it.
func (b *Backend) cancelLeaseGrant(ctx context.Context, s logical.Storage, l leaseGrant) error {
	c, err := loadClient(ctx, s)
	if err != nil {
		return err
	}
	return b.endNow(ctx, c, l.Grant.ending(), false)
}

// issuance is an attempt at a grant for a new lease. Nobody else knows of the grant, so it is not
// locked.
type issuance struct {
	attempt   *attempt
	wal       string        // id of the WAL's entry
	ttl       time.Duration // of the lease
	ticketKey ticketKey
}

func (i *issuance) leaseGrant() leaseGrant { return leaseGrant{i.attempt.role, i.attempt.grant} }

// beginIssuance writes what is about to be asked into the WAL before anything is sent: a node that
// may not write finds out in time.
func (b *Backend) beginIssuance(ctx context.Context, s logical.Storage, name string) (*issuance, error) {
	if !b.WriteSafeReplicationState() {
		return nil, logical.ErrReadOnly
	}
	r, err := loadRole(ctx, s, name)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, noRole(ctx, name)
	}
	c, err := loadClient(ctx, s)
	if err != nil {
		return nil, err
	}
	if err := c.checkAllowed("auth_server", r.AuthServer); err != nil {
		return nil, err
	}
	key, err := b.ticketKeyInUse(ctx, s)
	if err != nil {
		return nil, err
	}
	lock := &grantLock{b: b, storage: s, name: credsPrefix + name}
	a, err := lock.newAttempt(ctx, c, r.grant(c, b.clock.Now()), causeAsk, uri.OriginOf(r.AuthServer), r.OperatorHosts)
	if err != nil {
		return nil, err
	}
	a.role = name
	i := &issuance{attempt: a, ticketKey: key}
	encoded, err := i.leaseGrant().encode()
	if err == nil {
		i.wal, err = framework.PutWAL(ctx, s, walKind, encoded)
	}
	if err != nil {
		a.place.Leave()
		return nil, err
	}
	return i, nil
}

// run requests the grant. Whatever goes wrong from then on, including a caller who hangs up, leaves
// no grant behind, because Vault makes no lease of it.
func (i *issuance) run(caller context.Context) error {
	err := i.request(context.WithoutCancel(caller), caller)
	i.attempt.place.Leave()
	if err != nil {
		i.attempt.record(resultFailed, err)
		return err
	}
	i.attempt.record(resultIssued, nil)
	return nil
}

func (i *issuance) request(ctx, caller context.Context) error {
	a := i.attempt
	switch out := a.requestGrant(ctx, nil).(type) {
	case authserver.TokenIssued:
		a.grant.accept(out, causeAsk)
		err := i.confirm(ctx, caller)
		if err != nil {
			i.abandon(ctx)
		}
		return err
	case authserver.ConsentRequired:
		a.endBegun(ctx, ending{Continue: out.Continue})
		i.deleteWAL(ctx)
		return userErrorf("the authorization server %s wants the owner's consent for the rights of role %q, and a "+
			"read cannot wait for it: "+
			"ask for a grant with a write to %s, and read %s",
			a.grant.AuthOrigin, a.role, mountPath(ctx, grantsPrefix+"NAME"), mountPath(ctx, tokenPrefix+"NAME"))
	case authserver.RequestFailed:
		a.endBegun(ctx, ending{Continue: out.Begun})
		i.deleteWAL(ctx)
		if out.MaybeHeard() {
			a.lock.b.Logger().Warn("a grant may have been made whose answer was lost; it "+
				"expires", i.leaseGrant().logFields(out)...)
		}
		return a.requestRefused(ctx, out)
	default:
		return unexpectedOutcome(out)
	}
}

// confirm makes sure that the lease can be kept and ended. The WAL's entry goes before the answer
// does, because its rollback would kill a live lease.
func (i *issuance) confirm(ctx, caller context.Context) error {
	a := i.attempt
	if err := i.replaceWAL(ctx); err != nil {
		return err
	}
	switch e := a.grant.ending(); {
	case e.url() == "":
		return logical.CodedError(
			http.StatusBadGateway,
			fmt.Sprintf(
				"the authorization server %s names neither a continuation nor a manage URL, so that its grant "+
					"could never be cancelled",
				a.grant.AuthOrigin,
			),
		)
	case !a.client.SameOrigin(e.url(), e.AuthOrigin):
		return endsElsewhere(ctx, e)
	case caller.Err() != nil:
		return caller.Err()
	}
	if err := framework.DeleteWAL(ctx, a.lock.storage, i.wal); err != nil {
		return err
	}
	system := a.lock.b.System()
	i.ttl = grantedTTL(
		a.grant,
		a.lock.b.clock.Now(),
		leaseLimit(a.grant, system.MaxLeaseTTL()),
		system.DefaultLeaseTTL(),
	)
	if i.ttl < minLease {
		return logical.CodedError(http.StatusBadGateway, tooShort(a.grant).Error())
	}
	return caller.Err()
}

// abandon cancels a grant that was never leased. If that cannot be done now, the WAL's rollback
// does it.
func (i *issuance) abandon(ctx context.Context) {
	b := i.attempt.lock.b
	if err := i.attempt.endHere(ctx, i.attempt.grant.ending()); err != nil {
		b.Logger().Warn("a grant that was never leased could not be cancelled", i.leaseGrant().logFields(err)...)
		if err := i.replaceWAL(ctx); err != nil { // it may be deleted already
			b.Logger().
				Warn("a grant that was never leased could not be put into the WAL", i.leaseGrant().logFields(err)...)
		}
		return
	}
	i.deleteWAL(ctx)
}
