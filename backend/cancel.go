// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/authserver"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/uri"
)

// cancelGrant ends a grant at its server, or the token where it has no continuation. A grant that
// was gone before counts as ended, unless the server may have said so because it could not check our
// signature. A new grant that its owner is being asked for is also cancelled.
func (b *Backend) cancelGrant(ctx context.Context, client authserver.Identity, g *grant) error {
	if g.Pending != nil {
		if err := b.cancelGrant(ctx, client, g.Pending.grant()); err != nil {
			return err
		}
	}
	at := b.network.Client(client, g.OperatorHosts...)
	var err error
	switch target := g.endURL(); {
	case target == "":
		return nil // it never got a token
	case !client.SameOrigin(target, g.AuthOrigin):
		return endsElsewhere(ctx, g)
	case g.Continue.URL != "":
		err = at.Cancel(ctx, g.Continue)
	default:
		err = at.Revoke(ctx, g.Manage, g.Token)
	}
	var f authserver.RequestFailed
	if err == nil || !errors.As(err, &f) {
		return err
	}
	if f.Gone || f.UnknownClient() || f.BadSignature() {
		if published, err := at.KeyPublished(ctx); err == nil && !published {
			return userErrorf(
				"%s/jwks.json does not hold the public key of %s under key_id, so the authorization server cannot "+
					"check our signature",
				client.WalletAddress,
				mountPath(ctx, configKey),
			)
		}
		if f.Gone {
			return nil
		}
	}
	return serverError(f)
}

func endsElsewhere(ctx context.Context, g *grant) error {
	return userErrorf(
		"the grant's URLs are on %q, not on its authorization server %s: if that is right, add it to "+
			"allowed_auth_servers in %s",
		uri.OriginOf(g.endURL()),
		g.AuthOrigin,
		mountPath(ctx, configKey),
	)
}

// cancelFormer cancels the grant that a new one replaces.
func (a *attempt) cancelFormer(ctx context.Context, resp *logical.Response) {
	if err := a.lock.b.cancelGrant(ctx, a.client.Identity, a.former); err != nil {
		resp.AddWarning(
			"the former grant could not be cancelled at the authorization server, and its limits may count " +
				"alongside the new one's: " + err.Error(),
		)
	}
}

// cancelContinuation cancels what is left of a grant that is no longer of use.
func (a *attempt) cancelContinuation(ctx context.Context, at authserver.Continuation) {
	if at.URL == "" || !a.client.SameOrigin(at.URL, a.grant.AuthOrigin) {
		return
	}
	var f authserver.RequestFailed
	if err := a.client.Cancel(ctx, at); err != nil && !(errors.As(err, &f) && f.Gone) {
		a.lock.b.Logger().
			Warn("what is left of a former grant could not be cancelled", "grant", a.lock.name, "error", err)
	}
}

// withdraw cancels what an owner was being asked for, if that can be done.
func (a *attempt) withdraw(ctx context.Context, p *pending) {
	if err := a.lock.b.cancelGrant(ctx, a.client.Identity, p.grant()); err != nil {
		a.lock.b.Logger().
			Warn("what an owner was being asked for could not be cancelled", "grant", a.lock.name, "error", err)
	}
}
