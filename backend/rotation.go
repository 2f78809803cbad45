// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/authserver"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/uri"
)

// askInterval keeps a server that withdraws its grants from being asked for new ones all the time.
const askInterval = time.Minute

// rotateGrant gets a new token for a stored grant and returns the grant with it.
//
// A rotation is irreversible and cannot be repeated: once the server has done it, the only copy of
// the new manage URL is in its answer. Hence the order of the steps, which is the same for everyone
// who wants a new token. check looks at the grant (nil: there is none) under the lock, before
// anything is begun; unless it returns true, the grant is returned as it is.
func (b *Backend) rotateGrant(
	ctx context.Context, s logical.Storage, name string, why cause, check func(*grant) (bool, error),
) (*grant, error) {
	l, err := b.lockGrant(ctx, s, name) // 1. lock
	if err != nil {
		return nil, err
	}
	defer l.release() // 7. unlock
	return l.rotate(ctx, why, check)
}

// rotate rotates a grant that is locked.
func (l *grantLock) rotate(ctx context.Context, why cause, check func(*grant) (bool, error)) (*grant, error) {
	g, err := l.load(ctx) // 2. load
	if err != nil {
		return nil, err
	}
	if proceed, err := check(g); err != nil || !proceed {
		return g, err
	}
	if g == nil {
		return nil, unknownGrant(ctx, l.name)
	}
	c, err := loadClient(ctx, l.storage)
	if err != nil {
		return nil, err
	}
	if g.Status == statusPending && g.Pending.expired(l.b.clock.Now()) {
		return nil, l.endExpired(ctx, g, c)
	}
	if err := checkRotatable(ctx, g, c, why, l.name); err != nil {
		return nil, err
	}
	if err := l.recentError(); err != nil {
		return nil, err
	}

	g.begin(why, l.b.clock.Now())
	if err := l.store(ctx, g); err != nil { // 3. write the intent
		return nil, err
	}
	ctx = context.WithoutCancel(ctx) // 4. detach
	a := &attempt{lock: l, grant: g, client: l.b.clientFor(c, g.OperatorHosts...), cause: why}
	return a.rotate(ctx) // 5. call, 6. store
}

// checkRotatable returns why a grant cannot be rotated as things are. Nothing has been begun.
func checkRotatable(ctx context.Context, g *grant, c *config, why cause, name string) error {
	switch {
	case g.Status == statusPending:
		return pendingError(ctx, name)
	case g.Status == statusLost && why != causeRotate:
		return lostError(ctx, g, name)
	}
	return checkManageURL(ctx, g, c, fmt.Sprintf("grant %q", name))
}

// checkManageURL returns why this client cannot rotate the token at its manage URL. what names the
// grant.
func checkManageURL(ctx context.Context, g *grant, c *config, what string) error {
	switch {
	case g.Client != c.WalletAddress:
		return otherClientError(g, c, what)
	case g.Manage == "":
		return nil // it never got a token, and is requested anew
	case !c.identity().SameOrigin(g.Manage, g.AuthOrigin):
		return userErrorf(
			"the manage URL of %s is on %q, not on its authorization server %s: if that is right, add it to "+
				"allowed_auth_servers in %s",
			what,
			uri.OriginOf(g.Manage),
			g.AuthOrigin,
			mountPath(ctx, configKey),
		)
	case !strings.Contains(g.Manage, "token/"):
		return userErrorf(
			"the manage URL that the authorization server gave for %s has no token/ in its path, which Open "+
				"Payments requires",
			what,
		)
	}
	return nil
}

// rotate gets a new token for the attempt's grant, which bears the intent.
func (a *attempt) rotate(ctx context.Context) (*grant, error) {
	if a.grant.Manage == "" {
		return a.requestAnew(ctx)
	}
	out, err := a.rotateWithRetry(ctx)
	if err != nil {
		return nil, a.fail(ctx, err)
	}
	if token, ok := out.(authserver.TokenIssued); ok {
		return a.storeToken(ctx, token)
	}
	return a.tokenDead(ctx)
}

// rotateWithRetry requests the rotation until there is an answer to believe: issued, or rejected
// twice. Asking again is safe: either it rotates now, or it is rejected, which shows that an
// earlier request had been heard.
func (a *attempt) rotateWithRetry(ctx context.Context) (authserver.Outcome, error) {
	rejected := false
	return a.sendWithRetry(ctx, uri.OriginOf(a.grant.Manage), func() authserver.Outcome {
		return a.client.Rotate(ctx, a.grant.Manage, a.grant.Token)
	}, func(out authserver.Outcome) (verdict, error) {
		switch out := out.(type) {
		case authserver.TokenRejected:
			if rejected {
				return settled, nil
			}
			rejected = true
			return recheck, a.checkKeyPublished(ctx)
		case authserver.RequestFailed:
			if out.UnknownClient() || out.BadSignature() {
				return retry, a.keyMissing(ctx)
			}
			return retry, nil
		}
		return settled, nil
	})
}

// checkKeyPublished returns an error unless the client's key set holds our key: without it a
// rejection says nothing about the token.
func (a *attempt) checkKeyPublished(ctx context.Context) error {
	published, err := a.client.KeyPublished(ctx)
	if err != nil {
		return logical.CodedError(
			http.StatusBadGateway,
			fmt.Sprintf(
				"the server rejected the token, and whether the client's key is published cannot be told: %s; try "+
					"again later",
				err,
			),
		)
	}
	if !published {
		return keyNotPublished(ctx, a.client.Identity)
	}
	return nil
}

// keyMissing returns an error if the client's key set can be fetched and lacks the key; nil where
// that is not so, or cannot be told.
func (a *attempt) keyMissing(ctx context.Context) error {
	if published, err := a.client.KeyPublished(ctx); err == nil && !published {
		return keyNotPublished(ctx, a.client.Identity)
	}
	return nil
}

// tokenDead handles a token that the server has rejected twice, although it can check our
// signature.
func (a *attempt) tokenDead(ctx context.Context) (*grant, error) {
	switch {
	case a.grant.Interactive:
		err := a.lose(ctx, "the authorization server no longer accepts its token")
		if a.cause == causeRevoke {
			return a.grant, nil // the value is dead, which is all that was asked for
		}
		return nil, err
	case a.cause == causeRevoke:
		return a.grant, nil
	}
	return a.requestAnew(ctx)
}

// requestAnew requests a new grant with the stored rights at the stored endpoint.
func (a *attempt) requestAnew(ctx context.Context) (*grant, error) {
	now := a.lock.b.clock.Now()
	if wait := a.grant.AskedAt.Add(askInterval).Sub(now); wait > 0 {
		return nil, a.fail(ctx, logical.CodedError(
			http.StatusBadGateway,
			fmt.Sprintf(
				"the authorization server %s rejects the token, and was asked for a new grant less than a minute "+
					"ago; try again in %s",
				a.grant.AuthOrigin,
				wait.Round(time.Second),
			),
		))
	}
	a.grant.AskedAt = now
	before := a.grant.Continue
	switch out := a.client.RequestGrant(ctx, a.grant.AuthServer, a.grant.Requested, nil).(type) {
	case authserver.TokenIssued:
		g, err := a.storeToken(ctx, out)
		if err == nil && before.URL != "" && before.URL != g.Continue.URL {
			a.cancelContinuation(ctx, before)
		}
		return g, err
	case authserver.ConsentRequired:
		a.cancelContinuation(ctx, out.Continue)
		a.grant.Interactive = true
		return nil, a.lose(ctx, "the authorization server now wants the owner's consent")
	case authserver.RequestFailed:
		return nil, a.fail(ctx, a.requestError(ctx, out))
	default:
		return nil, unexpectedOutcome(out)
	}
}

// requestError returns why requesting a grant has failed.
func (a *attempt) requestError(ctx context.Context, f authserver.RequestFailed) error {
	if f.Code == authserver.InvalidClient {
		if err := a.keyMissing(ctx); err != nil {
			return err
		}
	}
	return serverError(f)
}
