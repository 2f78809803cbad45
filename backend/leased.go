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
)

// leased is a grant that belongs to a lease, whose internal data is all that
// remembers it.
type leased struct {
	Role  string `json:"role"`
	Grant *grant `json:"grant"`
}

// text is JSON, in which numbers and times come through Vault as they are.
func (l leased) text() (string, error) {
	text, err := json.Marshal(l)
	if err != nil {
		return "", fmt.Errorf("encode the lease's grant: %w", err)
	}
	return string(text), nil
}

func parseLeased(text string) (l leased, err error) {
	switch {
	case json.Unmarshal([]byte(text), &l) != nil || l.Grant == nil || l.Role == "":
		return l, errors.New("what is remembered of the lease's grant is damaged")
	case l.Grant.Version > grantVersion:
		return l, fmt.Errorf("the lease's grant was written by a newer version of the engine (layout %d)", l.Grant.Version)
	}
	return l, nil
}

// internal is the lease's internal data. The token is in its data.
func (l leased) internal() (map[string]any, error) {
	bare := *l.Grant
	bare.Token = ""
	text, err := leased{l.Role, &bare}.text()
	return map[string]any{"leased": text}, err
}

func readLeased(req *logical.Request) (leased, error) {
	text, _ := req.Secret.InternalData["leased"].(string)
	l, err := parseLeased(text)
	if err == nil {
		l.Grant.Token, _ = req.Data["access_token"].(string)
	}
	return l, err
}

// lock is the name by which the grant is locked. No stored grant has such a name.
func (l leased) lock() string { return credsPrefix + l.Grant.ID }

func (l leased) path(mount string) string { return mount + credsPrefix + l.Role }

// about is what the log tells of it.
func (l leased) about(err error) []any {
	about := []any{"role", l.Role, "auth_server", l.Grant.AuthOrigin}
	if err != nil {
		about = append(about, "error", err)
	}
	return about
}

// rotate gets a new token for the grant. It is as irreversible as any rotation, but
// nobody can store its answer before Vault does: if the answer does not get so
// far, the next renewal is refused, and the lease's revocation cancels the grant.
func (l leased) rotate(ctx context.Context, h *hold, mount string) (*attempt, error) {
	c, err := client(ctx, h.storage, mount)
	if err != nil {
		return nil, err
	}
	if err := l.Grant.rotatable(c, "the lease's grant", mount); err != nil {
		return nil, err
	}
	if l.Grant.Manage == "" {
		return nil, refuse("the authorization server named no manage URL for this lease's grant; read %s again", l.path(mount))
	}
	if h.b.clock.Now().Before(h.failure.until) {
		return nil, h.failure.err
	}
	next := *l.Grant
	a := &attempt{hold: h, grant: &next, port: h.b.port(c, next.TypedHosts...), why: causeRenew, mount: mount}
	out, err := a.insist(context.WithoutCancel(ctx))
	token, ok := out.(done)
	if err == nil && !ok {
		err = refuse("the authorization server %s no longer accepts the token of this lease; read %s again", next.AuthOrigin, l.path(mount))
	}
	if err != nil {
		h.failure = h.failure.next(err, h.b.clock.Now())
		return nil, err
	}
	h.failure = failure{}
	next.accept(token, string(causeRenew))
	return a, nil
}

// cancelUnused cancels a grant whose new token nobody gets to see.
func (a *attempt) cancelUnused(ctx context.Context) {
	if err := a.port.cancelGrant(ctx, a.grant, a.mount); err != nil {
		a.b.Logger().Warn("a lease's grant could not be cancelled; its revocation tries again", "auth_server", a.grant.AuthOrigin, "error", err)
	}
}

// endLeased cancels the grant as the client that obtained it.
func (b *Backend) endLeased(ctx context.Context, req *logical.Request, l leased) error {
	c, err := client(ctx, req.Storage, req.MountPoint)
	if err != nil {
		return err
	}
	if l.Grant.Client != c.WalletAddress {
		return l.Grant.foreign(c, "the lease's grant")
	}
	return b.port(c, l.Grant.TypedHosts...).cancelGrant(ctx, l.Grant, req.MountPoint)
}

// issue is an attempt at a grant for a new lease. Nobody else knows of the grant, so
// there is no lock.
type issue struct {
	asking
	role string
	wal  string        // id of the WAL's entry
	ttl  time.Duration // of the lease
}

func (i *issue) leased() leased { return leased{i.role, i.grant} }

// beginIssue writes what is about to be asked for into the WAL before anything is
// sent: a node that may not write finds out in time.
func (b *Backend) beginIssue(ctx context.Context, req *logical.Request, name string) (*issue, error) {
	if !b.WriteSafeReplicationState() {
		return nil, logical.ErrReadOnly
	}
	r, err := loadRole(ctx, req.Storage, name)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, noRole(name, req.MountPoint)
	}
	c, err := client(ctx, req.Storage, req.MountPoint)
	if err != nil {
		return nil, err
	}
	if err := c.allowed("auth_server", r.AuthServer); err != nil {
		return nil, err
	}
	i := &issue{role: name, asking: asking{attempt: attempt{
		hold:  &hold{b: b, storage: req.Storage, name: credsPrefix + name},
		grant: r.grant(c, b.clock.Now()), port: b.port(c, r.TypedHosts...), why: causeAsk, mount: req.MountPoint,
	}}}
	text, err := i.leased().text()
	if err != nil {
		return nil, err
	}
	i.wal, err = framework.PutWAL(ctx, req.Storage, walKind, text)
	return i, err
}

// run asks for the grant. What goes wrong from then on, the caller's hanging up
// included, leaves no grant behind: for Vault makes no lease of it.
func (i *issue) run(caller context.Context) error {
	ctx := context.WithoutCancel(caller)
	switch out := i.port.ask(ctx, i.grant.AuthServer, i.grant.Requested, nil).(type) {
	case done:
		i.grant.accept(out, string(causeAsk))
		err := i.confirm(ctx, caller)
		if err != nil {
			i.abandon(ctx)
		}
		return err
	case interaction:
		i.cancelQuietly(ctx, out.Continue)
		i.forgetWAL(ctx)
		return refuse("the authorization server %s wants the owner's consent for the rights of role %q, and a read cannot wait for it: ask for a grant with a write to %sgrants/NAME, and read %stoken/NAME",
			i.grant.AuthOrigin, i.role, i.mount, i.mount)
	case failed:
		i.forgetWAL(ctx)
		if out.maybeHeard() {
			i.b.Logger().Warn("a grant may have been made whose answer was lost; it ends by itself", i.leased().about(out)...)
		}
		return i.refusal(ctx, out)
	}
	return errors.New("unknown outcome")
}

// confirm makes sure that the lease can be kept and ended. The WAL's entry goes
// before the answer, for its rollback would kill a live lease.
func (i *issue) confirm(ctx, caller context.Context) error {
	if err := i.replaceWAL(ctx); err != nil {
		return err
	}
	switch end := i.grant.end(); {
	case end == "":
		return logical.CodedError(http.StatusBadGateway, fmt.Sprintf("the authorization server %s names neither a continuation nor a manage URL, so that its grant could never be cancelled", i.grant.AuthOrigin))
	case !i.port.client.sameOrigin(end, i.grant.AuthOrigin):
		return i.grant.endsElsewhere(i.mount)
	case caller.Err() != nil:
		return caller.Err()
	}
	if err := framework.DeleteWAL(ctx, i.storage, i.wal); err != nil {
		return err
	}
	i.ttl = leaseTTL(i.grant, i.b.clock.Now(), leaseLimit(i.grant, i.b.System().MaxLeaseTTL()))
	if i.ttl < minLease {
		return logical.CodedError(http.StatusBadGateway, tooShort(i.grant).Error())
	}
	return caller.Err()
}

// abandon cancels a grant that becomes no lease. If that cannot be done now, the
// WAL's rollback does it.
func (i *issue) abandon(ctx context.Context) {
	if err := i.port.cancelGrant(ctx, i.grant, i.mount); err != nil {
		i.b.Logger().Warn("a grant that became no lease could not be cancelled", i.leased().about(err)...)
		if err := i.replaceWAL(ctx); err != nil { // it may be deleted already
			i.b.Logger().Warn("a grant that became no lease could not be put into the WAL", i.leased().about(err)...)
		}
		return
	}
	i.forgetWAL(ctx)
}
