// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/authserver"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/uri"
)

// askInterval keeps a server that withdraws its grants from being asked for new ones all the time.
const askInterval = time.Minute

// mayRequestAnew reports whether a new grant may be requested in the place of this one.
func (a *attempt) mayRequestAnew() bool {
	return a.role == "" && !a.grant.Interactive && a.cause != causeRevoke && a.grant.AuthServer != "" &&
		a.lock.b.clock.Since(a.grant.AskedAt) >= askInterval
}

// requestAnew requests a new grant with the stored rights at the stored endpoint, in the place of one
// whose token is dead; or cannot be rotated, for the reason doubtful, and then still counts if the
// request fails.
func (a *attempt) requestAnew(ctx context.Context, doubtful error) (*grant, error) {
	now := a.lock.b.clock.Now()
	if err := a.config.checkAllowed("auth_server", a.grant.AuthServer); err != nil {
		return nil, a.fail(ctx, err)
	}
	if wait := a.grant.AskedAt.Add(askInterval).Sub(now); wait > 0 && wait <= askInterval {
		return nil, a.fail(ctx, logical.CodedError(http.StatusBadGateway, fmt.Sprintf(
			"the authorization server %s rejects the token, and was asked for a new grant less than a minute ago; "+
				"try again in %s",
			a.grant.AuthOrigin,
			wait.Round(time.Second),
		)))
	}
	if !a.moveTo(ctx, uri.OriginOf(a.grant.AuthServer)) {
		return nil, a.fail(ctx, logical.CodedError(http.StatusBadGateway, fmt.Sprintf(
			"the authorization server %s rejects the token, and is too busy to be asked for a new grant; try again",
			a.grant.AuthOrigin,
		)))
	}
	if err := a.checkPause(ctx); err != nil {
		return nil, a.fail(ctx, err)
	}
	a.grant.AskedAt = now
	former := a.grant.ending()
	switch out := a.requestGrant(ctx, nil).(type) {
	case authserver.TokenIssued:
		return a.storeAnew(ctx, out, former, doubtful != nil)
	case authserver.ConsentRequired:
		a.endBegun(ctx, ending{Continue: out.Continue})
		if doubtful != nil {
			return nil, a.fail(ctx, doubtful)
		}
		a.grant.Interactive = true
		return nil, a.lose(ctx, "the authorization server now wants the owner's consent")
	case authserver.RequestFailed:
		a.endBegun(ctx, ending{Continue: out.Begun})
		if doubtful != nil {
			return nil, a.fail(ctx, doubtful)
		}
		return nil, a.fail(ctx, a.requestError(ctx, out))
	default:
		return nil, unexpectedOutcome(out)
	}
}

// storeAnew stores a grant that was requested in the place of former, whose token may live on.
func (a *attempt) storeAnew(
	ctx context.Context, out authserver.TokenIssued, former ending, livesOn bool,
) (*grant, error) {
	a.grant.Continue = authserver.Continuation{} // the former grant's
	if former.Continue.URL != out.Continue.URL && former.Continue.URL != "" || livesOn {
		a.grant.replace(former, a.grant.AskedAt)
	}
	g, err := a.storeToken(ctx, out)
	if err == nil {
		_ = a.endFormers(ctx, g) // or the worker does
	}
	a.endDropped(ctx, err, ending{Continue: out.Continue, Manage: out.Manage, Token: out.Value})
	return g, err
}

// moveTo exchanges the attempt's place for one at another server, and reports whether there was one in
// time. Without one the dead token would be found out again by each read.
func (a *attempt) moveTo(ctx context.Context, origin string) bool {
	if origin == a.place.Origin() {
		return a.place.Await(ctx)
	}
	a.place.Leave()
	place, ok := a.client.Enter(ctx, origin, false)
	if ok {
		a.place = place
	}
	return ok
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
