// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/authserver"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/uri"
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
	if !value[bool](d, "ask_again") {
		if g, done, err := b.repeatAsk(ctx, req.Storage, d, name, params, resp); err != nil || done {
			return g, err
		}
	}
	a, err := b.beginRequest(ctx, req, d, name, params)
	if err != nil {
		return nil, err
	}
	defer a.lock.release()
	defer a.leave()
	g, err := a.request(context.WithoutCancel(ctx), resp)
	if err == nil {
		a.grant.warn(resp)
	}
	return g, err
}

// beginRequest discovers the server, locks the grant and stores what is about to be asked. No lock is
// held while the wallet address is fetched.
func (b *Backend) beginRequest(
	ctx context.Context, req *logical.Request, d *framework.FieldData, name string, params grantParams,
) (*attempt, error) {
	c, err := loadClient(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	if params.authServer == "" {
		if err := params.discoverServers(ctx, b.clientFor(c, params.operatorHosts...)); err != nil {
			return nil, err
		}
	}
	if err := c.checkAllowed("auth_server", params.authServer); err != nil {
		return nil, err
	}
	l, err := b.lockGrant(ctx, req.Storage, name)
	if err != nil {
		return nil, err
	}
	a, err := l.prepareRequest(ctx, c, d, params)
	if err != nil {
		l.release()
		return nil, err
	}
	return a, nil
}

// prepareRequest stores an intent before anything is asked: a node that may not write finds out in
// time, and a new grant that a crash interrupts is requested when it is read.
func (l *grantLock) prepareRequest(
	ctx context.Context, c *config, d *framework.FieldData, params grantParams,
) (*attempt, error) {
	former, err := l.load(ctx)
	if err != nil {
		return nil, err
	}
	next := l.b.nextGrant(former, c)
	if err := next.Settings.apply(d); err != nil {
		return nil, err
	}
	a, err := l.newAttempt(ctx, c, next, causeAsk, uri.OriginOf(params.authServer), params.operatorHosts)
	if err != nil {
		return nil, err
	}
	a.former = former
	if params.finishURI != "" {
		a.finish = authserver.FinishAt(params.finishURI, newID())
	}
	next.source, next.Access = params.source(), params.access
	next.Status, next.Manage, next.Token, next.Continue = statusActive, "", "", authserver.Continuation{}
	next.Imported = false
	next.begin(causeAsk, l.b.clock.Now())
	if err := a.storeRequest(ctx); err != nil {
		a.place.Leave()
		return nil, err
	}
	return a, nil
}

// storeRequest marks the grant that is stored, or stores the new one, with the intent. The client must
// still be the one that asks: configMu keeps it from changing until the grant's entry says whose it is.
func (a *attempt) storeRequest(ctx context.Context) (err error) {
	unlock, err := a.lock.b.configMu.read(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := a.lock.checkClient(ctx, a.config); err != nil {
		return err
	}
	marked := a.grant
	if a.former != nil {
		copied := *a.former
		marked = &copied
		marked.Intent, marked.NotReusable = a.grant.Intent, a.grant.NotReusable
		marked.Ending = marked.Ending || marked.Status == statusLost
	}
	if a.slot, err = a.lock.schedule(ctx, a.former, a.grant); err != nil {
		return err
	}
	return a.lock.store(ctx, marked)
}

// checkClient returns an error if another client was configured since c was read.
func (l *grantLock) checkClient(ctx context.Context, c *config) error {
	now, err := loadClient(ctx, l.storage)
	if err == nil && now.WalletAddress != c.WalletAddress {
		err = userErrorf("the client was changed to %s meanwhile: write this again if that is meant", now.WalletAddress)
	}
	return err
}

// request requests the grant, stores what is granted, and then cancels the former grant. A lost one
// is cancelled first: limits are counted for each grant, and two would double the budget.
func (a *attempt) request(ctx context.Context, resp *logical.Response) (*grant, error) {
	a.replaceFormer(ctx)
	if err := a.checkPause(ctx); err != nil {
		a.undo(ctx)
		return nil, err
	}
	switch out := a.requestGrant(ctx, a.finish).(type) {
	case authserver.TokenIssued:
		if !authserver.IsToken(out.Value) {
			return nil, a.refuseOffer(ctx, ending{Continue: out.Continue, Manage: out.Manage, Token: out.Value},
				"answered with a token that cannot be sent in a header")
		}
		a.grant.Interactive, a.grant.Ending = false, false
		g, err := a.storeToken(ctx, out)
		if err == nil {
			warnFormers(resp, a.endFormers(ctx, g))
		}
		a.endDropped(ctx, err, ending{Continue: out.Continue, Manage: out.Manage, Token: out.Value})
		return g, err
	case authserver.ConsentRequired:
		g, err := a.storePending(ctx, out, resp)
		a.endDropped(ctx, err, ending{Continue: out.Continue})
		return g, err
	case authserver.RequestFailed:
		a.endBegun(ctx, ending{Continue: out.Begun})
		a.undo(ctx)
		err := a.requestRefused(ctx, out)
		a.record(resultFailed, err)
		return nil, err
	default:
		return nil, unexpectedOutcome(out)
	}
}

// replaceFormer remembers what is to be cancelled once the new grant is there. A lost grant is
// cancelled now; the question to its owner, if there is one, only when there is another one.
func (a *attempt) replaceFormer(ctx context.Context) {
	if a.former == nil {
		return
	}
	now := a.lock.b.clock.Now()
	a.grant.Pending = nil
	if a.former.Pending != nil {
		a.grant.replace(a.former.Pending.ending(), now)
	}
	if e := a.former.ending(); a.former.Status != statusLost || a.endFormer(ctx, e) != nil {
		a.grant.replace(e, now)
	}
}

// refuseOffer cancels what a server has offered and nobody could use, as far as that can be done,
// and puts back what was stored before the server was asked.
func (a *attempt) refuseOffer(ctx context.Context, e ending, why string) error {
	a.endBegun(ctx, e)
	a.undo(ctx)
	err := logical.CodedError(http.StatusBadGateway,
		fmt.Sprintf("the authorization server %s %s; nothing was stored", a.grant.AuthOrigin, why))
	a.record(resultFailed, err)
	return err
}

// endDropped cancels what a server has granted if its answer was dropped, because another node has taken
// the grant over: nobody else knows of it.
func (a *attempt) endDropped(ctx context.Context, err error, e ending) {
	if errors.Is(err, errTakenOver) {
		a.endBegun(ctx, e)
	}
}

// endBegun cancels what a server has begun in answer to a grant request that failed.
func (a *attempt) endBegun(ctx context.Context, e ending) {
	e.AuthOrigin, e.OperatorHosts = a.grant.AuthOrigin, a.grant.OperatorHosts
	if err := a.endHere(ctx, e); err != nil {
		a.lock.b.Logger().Warn("what the server has begun could not be cancelled; it expires", "grant", a.lock.name,
			"error", err)
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
		former := *a.former
		former.Ending = former.Ending || former.Status == statusLost
		err = a.lock.store(ctx, &former)
	}
	if err != nil {
		a.lock.b.Logger().
			Warn("what was stored before asking for a grant could not be "+
				"restored", "grant", a.lock.name, "error", err)
	}
}

// storePending stores that the owner is being asked, unless that could not lead to a token.
func (a *attempt) storePending(
	ctx context.Context, required authserver.ConsentRequired, resp *logical.Response,
) (*grant, error) {
	if why := a.unusableOffer(ctx, required); why != "" {
		return nil, a.refuseOffer(ctx, ending{Continue: required.Continue}, "wants the owner's consent, but "+why)
	}
	now := a.lock.b.clock.Now()
	next := *a.grant
	if a.former != nil {
		next = *a.former
		next.Settings, next.NotReusable = a.grant.Settings, a.grant.NotReusable
		switch {
		case a.former.Status == statusLost: // it is ended, or remembered as a former one
			next.Formers, next.Ending = a.grant.Formers, false
			next.Token, next.Manage, next.Continue = "", "", authserver.Continuation{}
		case a.former.Pending != nil:
			next.replace(a.former.Pending.ending(), now)
		}
	}
	if next.Token == "" || next.Status != statusActive {
		next.Status = statusPending
	}
	next.Intent = nil
	next.Pending = &pending{
		Source: a.grant.source, Continue: required.Continue, InteractURL: required.Redirect,
		ServerNonce: required.Finish, Since: now, NotBefore: now.Add(required.Wait), Wait: required.Wait,
	}
	if a.finish != nil {
		next.Pending.ClientNonce, next.Pending.FinishURI = a.finish.Nonce, a.finish.URI
	}
	a.record(resultPending, nil)
	g, err := a.storeAnswer(ctx, &next)
	if err == nil {
		warnFormers(resp, a.endFormers(ctx, g))
	}
	return g, err
}

// unusableOffer returns why an owner's consent to an offer could never become a token; empty: it
// can.
func (a *attempt) unusableOffer(ctx context.Context, offer authserver.ConsentRequired) string {
	page, err := url.Parse(offer.Redirect)
	if err == nil {
		_, err = authserver.ParseOrigin(uri.Origin(page)) // https, or plain http to loopback
	}
	switch {
	case offer.Redirect == "":
		return "does not say where: interact.redirect is missing"
	case err != nil || page.User != nil:
		return "interact.redirect is not an https URL that a browser could be sent to"
	case a.finish != nil && offer.Finish == "":
		return "interact.finish is missing, so that the owner's answer could not be verified"
	}
	if why := unusableContinuation(ctx, offer.Continue, a.client, a.grant.AuthOrigin); why != "" {
		return "its continue URI " + why
	}
	return ""
}
