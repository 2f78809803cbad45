// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

const (
	tokenPrefix = "token/"
	secretType  = "open_payments_token"

	tokenSynopsis    = `A fresh access token of a grant, as a lease.`
	tokenDescription = `
Reading rotates the grant's token at the authorization server and returns the
new one. The token before it is dead at that moment: a grant has one live token,
and the newest reader holds it. Two readers of one grant take it from each other,
unless the grant is shared: then they get the same token for as long as min_ttl of
its life is left, in leases that cannot be renewed and that leave the token alone.

The lease never outlives the token. Renewing it rotates again and returns the
new token in the renewal's response. Revoking it makes the value worthless; the
grant lives on.
`
	tokenDefaultSynopsis = `A fresh access token of the config's default_grant, as a lease.`
)

func (b *Backend) pathToken() *framework.Path {
	return &framework.Path{
		Pattern:      tokenPrefix + "(?P<name>.+)",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "token"},
		Fields:       map[string]*framework.FieldSchema{"name": nameField},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: operation(
				"Rotate a grant's token and hand it out as a lease.",
				http.StatusOK,
				tokenFields,
				b.readToken,
			),
		},
		HelpSynopsis:    tokenSynopsis,
		HelpDescription: tokenDescription,
	}
}

func (b *Backend) pathTokenDefault() *framework.Path {
	return &framework.Path{
		Pattern:      "token", // and not token/, which a policy for token/* would cover
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "default-token"},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: operation(
				"Rotate the default grant's token and hand it out as a lease.",
				http.StatusOK,
				tokenFields,
				b.readDefaultToken,
			),
		},
		HelpSynopsis:    tokenDefaultSynopsis,
		HelpDescription: tokenDescription,
	}
}

func (b *Backend) secretToken() *framework.Secret {
	return &framework.Secret{
		Type:   secretType,
		Fields: tokenFields,
		Renew:  b.renewToken,
		Revoke: b.revokeToken,
	}
}

func (b *Backend) readDefaultToken(
	ctx context.Context, req *logical.Request, _ *framework.FieldData,
) (*logical.Response, error) {
	c, err := loadClient(ctx, req.Storage)
	if err == nil && c.DefaultGrant == "" {
		err = userErrorf(
			"%s has no default_grant: set it, or read %s",
			mountPath(ctx, configKey),
			mountPath(ctx, tokenPrefix+"NAME"),
		)
	}
	if err != nil {
		return errorResponse(err)
	}
	return b.issueToken(ctx, req, c.DefaultGrant)
}

func (b *Backend) readToken(
	ctx context.Context, req *logical.Request, d *framework.FieldData,
) (*logical.Response, error) {
	return b.issueToken(ctx, req, d.Get("name").(string))
}

// issueToken hands out a token of a grant: a new one, or the current one again if it is shared.
func (b *Backend) issueToken(ctx context.Context, req *logical.Request, name string) (*logical.Response, error) {
	mountLimit := b.System().MaxLeaseTTL()
	g, err := b.rotateGrant(ctx, req.Storage, name, causeRead, func(g *grant) (bool, error) {
		if canReuse(g, b.clock.Now(), mountLimit) {
			b.record(tokenEvent{grant: name, server: g.AuthOrigin, cause: causeRead, result: resultReused})
			return false, nil
		}
		return true, nil
	})
	if err != nil {
		return errorResponse(err)
	}
	ttl := grantedTTL(g, b.clock.Now(), leaseLimit(g, mountLimit), b.System().DefaultLeaseTTL())
	if ttl < minLease {
		return nil, logical.CodedError(http.StatusBadGateway, tooShort(g).Error())
	}
	ref := leaseRef{Grant: name, GrantID: g.ID, Generation: g.Generation, Shared: g.Settings.Shared}
	resp := b.Secret(secretType).Response(tokenData(name, g), ref.internal())
	resp.Secret.TTL, resp.Secret.MaxTTL = ttl, ttl
	resp.Secret.Renewable = g.Settings.Renewable && !ref.Shared && !g.ManageOld
	warnLease(resp, g, ttl)
	if ref.Shared && g.Settings.MinTTL > g.Lifetime {
		resp.AddWarning(
			fmt.Sprintf(
				"every read rotates, and readers take the token from each other: min_ttl is %s, but a token lives "+
					"for %s",
				g.Settings.MinTTL,
				g.Lifetime,
			),
		)
	}
	return resp, nil
}

// renewToken rotates and returns the new token with the lease. Its errors are plain: Vault returns
// 400 with their text, and prints an ErrorResponse as a Go struct.
func (b *Backend) renewToken(
	ctx context.Context, req *logical.Request, _ *framework.FieldData,
) (*logical.Response, error) {
	ref, err := readLeaseRef(req.Secret.InternalData)
	if err != nil {
		return nil, err
	}
	path := mountPath(ctx, tokenPrefix+ref.Grant)
	end := func(g *grant) time.Time {
		return req.Secret.IssueTime.Add(leaseLimit(g, b.System().MaxLeaseTTL()))
	}
	g, err := b.rotateGrant(ctx, req.Storage, ref.Grant, causeRenew, func(g *grant) (bool, error) {
		var left time.Duration
		if g != nil {
			left = end(g).Sub(b.clock.Now())
		}
		return true, checkRenewable(g, ref, path, left)
	})
	if err != nil {
		return nil, err
	}
	now := b.clock.Now()
	left := end(g).Sub(now)
	ttl := grantedTTL(g, now, left, b.System().DefaultLeaseTTL())
	switch {
	case left < minLease: // it ended while the server was waited for
		return nil, leaseOver(path)
	case ttl < minLease:
		return nil, tooShort(g)
	}
	ref.Generation = g.Generation
	resp := b.Secret(secretType).Response(tokenData(ref.Grant, g), ref.internal())
	extend(resp.Secret, req.Secret, now, ttl)
	// A program that follows this reads again: so renewable=false reaches one that is running, such
	// as a Vault Agent.
	resp.Secret.Renewable = g.Settings.Renewable && !g.ManageOld
	warnLease(resp, g, ttl)
	return resp, nil
}

// revokeToken makes the handed-out value worthless. Vault also calls it at expiry, and again when
// it returns an error.
func (b *Backend) revokeToken(
	ctx context.Context, req *logical.Request, _ *framework.FieldData,
) (*logical.Response, error) {
	ref, err := readLeaseRef(req.Secret.InternalData)
	if err != nil {
		return nil, err
	}
	l, err := b.lockGrant(ctx, req.Storage, ref.Grant)
	if err != nil {
		return nil, err
	}
	defer l.release()
	g, err := l.load(ctx)
	if err != nil {
		return nil, err
	}
	if held := heldReplaced(g, ref, b.clock.Now()); held != nil {
		return nil, l.revokeReplaced(ctx, held)
	}
	_, err = l.rotate(ctx, causeRevoke, func(g *grant) (bool, error) {
		return revocationRotates(g, ref, b.clock.Now()), nil
	})
	return nil, err
}

// revokeReplaced revokes a token that an import has replaced.
func (l *grantLock) revokeReplaced(ctx context.Context, r *replaced) error {
	c, err := loadClient(ctx, l.storage)
	if err != nil {
		return err
	}
	return l.b.endNow(ctx, c, r.Ending, false)
}
