// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"fmt"
	"net/http"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/authserver"
)

// askGrant requests a grant from an authorization server and stores it, or that its owner is being
// asked. A grant that was stored under the name is cancelled once the new one is there.
func (b *Backend) askGrant(
	ctx context.Context, req *logical.Request, d *framework.FieldData, name string, resp *logical.Response,
) (*grant, error) {
	params, err := parseGrantParams(d)
	if err == nil {
		err = params.validate()
	}
	if err != nil {
		return nil, err
	}
	b.configMu.RLock()
	a, err := b.beginRequest(ctx, req, d, name, params)
	b.configMu.RUnlock()
	if err != nil {
		return nil, err
	}
	defer a.lock.release()
	g, err := a.request(context.WithoutCancel(ctx), resp)
	if err == nil {
		a.grant.warn(resp)
	}
	return g, err
}

// beginRequest locks the grant and stores what is about to be asked.
func (b *Backend) beginRequest(
	ctx context.Context, req *logical.Request, d *framework.FieldData, name string, params grantParams,
) (*attempt, error) {
	l, former, c, err := b.openGrant(ctx, req.Storage, name)
	if err != nil {
		return nil, err
	}
	a := &attempt{
		lock:   l,
		grant:  b.nextGrant(former, c),
		former: former,
		client: b.clientFor(c, params.operatorHosts...),
		cause:  causeAsk,
	}
	if params.finishURI != "" {
		a.finish = authserver.FinishAt(params.finishURI, newID())
	}
	if err := a.prepare(ctx, c, d, params); err != nil {
		l.release()
		return nil, err
	}
	return a, nil
}

// prepare finds the server, and stores an intent before anything is asked: a node that may not
// write finds out in time, and a new grant that a crash interrupts is requested when it is read.
func (a *attempt) prepare(ctx context.Context, c *config, d *framework.FieldData, params grantParams) error {
	if params.authServer == "" {
		if err := params.discoverServers(ctx, a.client); err != nil {
			return err
		}
	}
	if err := c.checkAllowed("auth_server", params.authServer); err != nil {
		return err
	}
	if err := a.grant.Settings.apply(d); err != nil {
		return err
	}
	a.grant.source, a.grant.Access = params.source(), params.access
	a.grant.Status, a.grant.Manage, a.grant.Token, a.grant.Continue = statusActive, "", "", authserver.Continuation{}
	a.grant.begin(causeAsk, a.lock.b.clock.Now())
	var err error
	if a.slot, err = a.lock.schedule(ctx, a.former, a.grant); err != nil {
		return err
	}
	if a.former == nil {
		return a.lock.store(ctx, a.grant)
	}
	marked := *a.former
	marked.Intent, marked.NotReusable = a.grant.Intent, a.grant.NotReusable
	return a.lock.store(ctx, &marked)
}

// request requests the grant, stores what is granted, and then cancels the former grant. A lost one
// is cancelled first: limits are counted for each grant, and two would double the budget.
func (a *attempt) request(ctx context.Context, resp *logical.Response) (*grant, error) {
	if a.former != nil && a.former.Status == statusLost {
		a.cancelFormer(ctx, resp)
	}
	switch out := a.client.RequestGrant(ctx, a.grant.AuthServer, a.grant.Requested, a.finish).(type) {
	case authserver.TokenIssued:
		a.grant.Interactive, a.grant.Pending = false, nil
		g, err := a.storeToken(ctx, out)
		if err == nil && a.former != nil && a.former.Status != statusLost {
			a.cancelFormer(ctx, resp)
		}
		return g, err
	case authserver.ConsentRequired:
		return a.storePending(ctx, out)
	case authserver.RequestFailed:
		a.undo(ctx)
		err := a.requestRefused(ctx, out)
		a.record(resultFailed, err)
		return nil, err
	default:
		return nil, unexpectedOutcome(out)
	}
}

// requestRefused returns why there is no grant: what a server answers with 4xx can be corrected by
// whoever asked. Without a code it says nothing about the rights: an older server, or a proxy, may
// not understand the request at all.
func (a *attempt) requestRefused(ctx context.Context, f authserver.RequestFailed) error {
	err := a.requestError(ctx, f)
	switch {
	case f.IsRedirect():
		return userErrorf("auth_server: the authorization server %s", f)
	case f.Status/100 != 4 || f.Status == http.StatusTooManyRequests || isUserError(err):
		return err
	case f.Code == authserver.InvalidClient:
		return userErrorf("the authorization server %s: it does not accept the client of config", f)
	case !f.HasCode:
		return userErrorf("the authorization server %s and gave no code that says why: check auth_server and access", f)
	}
	return userErrorf("access: the authorization server %s: it does not give this client these rights", f)
}

// undo puts back what was stored before the server was asked.
func (a *attempt) undo(ctx context.Context) {
	err := a.checkOwnership(ctx)
	switch {
	case err == nil && a.former == nil:
		if err = a.lock.delete(ctx); err == nil && a.slot != "" {
			err = a.lock.storage.Delete(ctx, a.slot)
		}
	case err == nil:
		err = a.lock.store(ctx, a.former)
	}
	if err != nil {
		a.lock.b.Logger().
			Warn("what was stored before asking for a grant could not be "+
				"restored", "grant", a.lock.name, "error", err)
	}
}

// storePending stores that the owner is being asked.
func (a *attempt) storePending(ctx context.Context, required authserver.ConsentRequired) (*grant, error) {
	if required.Redirect == "" || required.Continue.URL == "" {
		a.undo(ctx)
		return nil, logical.CodedError(
			http.StatusBadGateway,
			fmt.Sprintf(
				"the authorization server %s wants the owner's consent, but does not say where",
				a.grant.AuthOrigin,
			),
		)
	}
	now := a.lock.b.clock.Now()
	next := *a.grant
	if a.former != nil {
		next = *a.former
		next.Settings, next.NotReusable = a.grant.Settings, a.grant.NotReusable
	}
	if next.Token == "" || next.Status != statusActive {
		next.Status = statusPending
	}
	next.Intent, a.lock.entry.failure = nil, recentFailure{}
	next.Pending = &pending{
		Source: a.grant.source, Continue: required.Continue, InteractURL: required.Redirect,
		ServerNonce: required.Finish, Since: now, NotBefore: now.Add(required.Wait),
	}
	if a.finish != nil {
		next.Pending.ClientNonce, next.Pending.FinishURI = a.finish.Nonce, a.finish.URI
	}
	if err := a.storeIfOwned(ctx, &next); err != nil {
		a.cancelContinuation(ctx, required.Continue)
		return nil, err
	}
	a.record(resultPending, nil)
	if a.former != nil && a.former.Pending != nil {
		a.withdraw(ctx, a.former.Pending)
	}
	return &next, nil
}
