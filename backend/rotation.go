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
	if err := checkRotatable(ctx, g, c, why, l.name, l.b.clock.Now()); err != nil {
		return nil, err
	}
	if err := l.recentError(); err != nil {
		return nil, err
	}
	a, err := l.newAttempt(ctx, c, g, why, g.rotationOrigin(), g.OperatorHosts)
	if err != nil {
		return nil, err
	}
	defer a.leave()

	g.begin(why, l.b.clock.Now())
	if err := l.store(ctx, g); err != nil { // 3. write the intent
		return nil, err
	}
	return a.rotate(context.WithoutCancel(ctx)) // 4. detach; 5. call, 6. store
}

// rotationOrigin returns the server that a rotation asks: of a grant without a token, where it is
// requested.
func (g *grant) rotationOrigin() string {
	if g.Manage == "" {
		return uri.OriginOf(g.AuthServer)
	}
	return uri.OriginOf(g.Manage)
}

// checkRotatable returns why a grant cannot be rotated as things are. Nothing has been begun.
func checkRotatable(ctx context.Context, g *grant, c *config, why cause, name string, now time.Time) error {
	switch {
	case g.Status == statusPending:
		return pendingError(ctx, name)
	case g.Status == statusLost && (why != causeRotate && why != causeRecover || g.Manage == ""):
		return lostError(ctx, g, name)
	case g.unmanaged(now):
		return userErrorf(
			"the authorization server named no manage URL with the current token of grant %q, so that it "+
				"can be neither rotated nor revoked before it expires at %s",
			name,
			g.ExpiresAt.UTC().Format(time.RFC3339),
		)
	}
	return checkManageURL(ctx, g, c, fmt.Sprintf("grant %q", name))
}

// checkManageURL returns why this client cannot rotate the token at its manage URL. what names the
// grant.
func checkManageURL(ctx context.Context, g *grant, c *config, what string) error {
	switch {
	case g.Client != c.WalletAddress:
		return otherClientError(g.Client, c, what)
	case g.Manage == "":
		return nil // it has nothing to rotate, and is requested anew
	case !c.identity().SameOrigin(g.Manage, g.AuthOrigin):
		return userErrorf("the manage URL of %s is on %q, not on its authorization server %s: if that is right, "+
			"add it to allowed_auth_servers in "+
			"%s", what, uri.OriginOf(g.Manage), g.AuthOrigin, mountPath(ctx, configKey))
	case !strings.Contains(g.Manage, "token/"):
		return userErrorf("the manage URL that the authorization server gave for %s has no token/ in its path, "+
			"which Open Payments requires", what)
	}
	return nil
}

// rotate gets a new token for the attempt's grant, which bears the intent.
func (a *attempt) rotate(ctx context.Context) (*grant, error) {
	switch {
	case a.grant.Manage == "" && a.grant.Interactive:
		return nil, a.lose(
			ctx,
			"its token has expired, and the authorization server named no manage URL to rotate it at",
		)
	case a.grant.Manage == "":
		return a.requestAnew(ctx, nil)
	}
	out, err := a.rotateWithRetry(ctx)
	if err != nil {
		return nil, a.rotationFailed(ctx, out, err)
	}
	switch out := out.(type) {
	case authserver.TokenIssued:
		return a.storeToken(ctx, out)
	case authserver.RequestFailed: // it cannot rotate, but may be able to grant
		return a.requestAnew(ctx, serverError(out))
	default:
		return a.tokenDead(ctx)
	}
}

// rotateWithRetry requests the rotation until there is an answer to believe: issued, or rejected
// twice. Asking again is safe: either it rotates now, or it is rejected, which shows that an
// earlier request had been heard. A RequestFailed without an error means that a new grant is to be
// requested.
func (a *attempt) rotateWithRetry(ctx context.Context) (authserver.Outcome, error) {
	rejected := false
	return a.sendWithRetry(ctx, func() authserver.Outcome {
		return a.client.Rotate(ctx, a.grant.Manage, a.grant.Token)
	}, func(out authserver.Outcome) (verdict, error) {
		switch out := out.(type) {
		case authserver.TokenRejected:
			if !rejected {
				rejected = true
				return recheck, a.checkKeyPublished(ctx)
			}
			if a.config.keyChangedRecently(a.lock.b.clock.Now()) {
				return a.retireKey(ctx)
			}
			return settled, nil
		case authserver.RequestFailed:
			return a.judgeFailedRotation(ctx, out)
		}
		return settled, nil
	})
}

// judgeFailedRotation decides about an answer that is no rejection.
func (a *attempt) judgeFailedRotation(ctx context.Context, f authserver.RequestFailed) (verdict, error) {
	a.grant.Unread = a.grant.Unread || f.Unreadable
	a.grant.note(f, a.lock.b.clock.Now())
	switch {
	case f.RotationRefused() && a.mayRequestAnew():
		return settled, nil
	case (f.UnknownClient() || f.BadSignature()) && a.client.KeyID == a.config.KeyID:
		if err := a.keyMissing(ctx); err != nil {
			return retry, err
		}
		if a.useRetiringKey(ctx) {
			return recheck, nil
		}
	}
	return retry, nil
}

// retireKey decides about a rejection that may only mean that the server has an older copy of the
// client's key set: it is asked once with the key that is in that copy, and never believed.
func (a *attempt) retireKey(ctx context.Context) (verdict, error) {
	if a.useRetiringKey(ctx) {
		return recheck, nil
	}
	return settled, logical.CodedError(http.StatusBadGateway, fmt.Sprintf(
		"the authorization server %s rejects the token, but the client's key has changed less than an hour ago, "+
			"and the "+
			"server may still check signatures with an older copy of the key set; the grant is kept: try again later",
		a.place.Origin(),
	))
}

// useRetiringKey has the attempt sign with the key that was in use before, once, if there is one that
// may still be used.
func (a *attempt) useRetiringKey(ctx context.Context) bool {
	if a.client.KeyID != a.config.KeyID || !a.config.keyChangedRecently(a.lock.b.clock.Now()) {
		return false // it has been tried
	}
	k, err := retiringKey(ctx, a.lock.storage, a.config)
	if err != nil || k == nil {
		return false
	}
	a.client.KeyID, a.client.PrivateKey = k.KeyID, k.PrivateKey
	return true
}

// rotationFailed ends an attempt that got no answer to believe.
func (a *attempt) rotationFailed(ctx context.Context, out authserver.Outcome, err error) error {
	f, failed := out.(authserver.RequestFailed)
	if !failed || !f.RotationRefused() {
		return a.fail(ctx, err)
	}
	if a.grant.Interactive && a.cause != causeRevoke &&
		a.grant.doubtIsOver(a.lock.b.clock.Now(), a.rotatedSince(a.grant.Doubt.Since)) {
		return a.lose(ctx, "the authorization server has answered every rotation with invalid_rotation since "+
			a.grant.Doubt.Since.UTC().Format(time.RFC3339))
	}
	return a.fail(ctx, logical.CodedError(http.StatusBadGateway, fmt.Sprintf(
		"the authorization server %s cannot rotate the token now, which it also says while its database is in "+
			"trouble; "+
			"the grant is kept: try again later, or have its owner asked again with a write of access and "+
			"ask_again=true",
		f,
	)))
}

const (
	doubtTime    = time.Hour
	doubtAnswers = 3
	doubtLimit   = 24 * time.Hour
)

// note counts an answer that may mean that the token is dead. Any other answer shows that the server
// is in some other trouble.
func (g *grant) note(f authserver.RequestFailed, now time.Time) {
	switch {
	case f.Status == 0: // no answer
	case !f.RotationRefused():
		g.Doubt = nil
	case g.Doubt == nil:
		g.Doubt = &doubt{Since: now, Count: 1}
	default:
		g.Doubt = &doubt{Since: g.Doubt.Since, Count: g.Doubt.Count + 1}
	}
}

// doubtIsOver reports whether invalid_rotation has been the only answer for so long that the token is
// dead. othersRotate: the server has rotated another grant meanwhile.
func (g *grant) doubtIsOver(now time.Time, othersRotate bool) bool {
	if g.Doubt == nil {
		return false
	}
	age := now.Sub(g.Doubt.Since)
	return age >= doubtLimit || age >= doubtTime && g.Doubt.Count >= doubtAnswers && othersRotate
}

// rotatedSince reports whether the attempt's server has issued a token to anybody since a time.
func (a *attempt) rotatedSince(since time.Time) bool {
	at, _ := a.lock.b.issuedAt.Load(a.grant.AuthOrigin)
	last, known := at.(time.Time)
	return known && last.After(since)
}

// checkKeyPublished returns an error unless the client's key set holds our key: without it a
// rejection says nothing about the token.
func (a *attempt) checkKeyPublished(ctx context.Context) error {
	published, err := a.client.KeyPublished(ctx)
	if err != nil {
		return logical.CodedError(http.StatusBadGateway, fmt.Sprintf(
			"the server rejected the token, and whether the client's key is published cannot be told: %s; try "+
				"again later",
			err,
		))
	}
	if !published {
		return a.keyError(ctx)
	}
	return nil
}

// keyError says that the client's key is not published, and what becomes of the grant if there is one.
func (a *attempt) keyError(ctx context.Context) error {
	err := keyNotPublished(ctx, a.client.Identity)
	if a.grant.Token != "" || a.former != nil {
		return userErrorf("%s; the grant is kept", err)
	}
	return err
}

// keyMissing returns an error if the client's key set can be fetched and lacks the key; nil where
// that is not so, or cannot be told.
func (a *attempt) keyMissing(ctx context.Context) error {
	if published, err := a.client.KeyPublished(ctx); err == nil && !published {
		return a.keyError(ctx)
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
	return a.requestAnew(ctx, nil)
}
