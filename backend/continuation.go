// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"net/http"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/authserver"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/uri"
)

const (
	// consentTimeout is how long one request waits for the time at which the server may be asked.
	consentTimeout = 45 * time.Second
	// defaultWait is assumed where a server says "too fast" and not how long to wait.
	defaultWait = 5 * time.Second

	tooLate = "its owner was not asked, or did not decide, in time"
)

// continueGrant continues a pending grant. It waits for the moment at which the server may be asked
// without holding the grant's lock.
func (b *Backend) continueGrant(ctx context.Context, s logical.Storage, name string, r reply) (*grant, error) {
	until := b.clock.Now().Add(consentTimeout)
	for {
		g, again, err := b.continueOnce(ctx, s, name, r)
		if err != nil || again.IsZero() {
			return g, err
		}
		if again.After(until) {
			return nil, userErrorf(
				"the authorization server wants a pause until %s; write this again then",
				again.UTC().Format(time.RFC3339),
			)
		}
		if err := b.sleep(ctx, again.Sub(b.clock.Now())); err != nil {
			return nil, err
		}
	}
}

// continueOnce continues a pending grant, or returns when it may be tried again. A continuation is
// as irreversible as a rotation, and goes by the same steps.
func (b *Backend) continueOnce(
	ctx context.Context, s logical.Storage, name string, r reply,
) (_ *grant, again time.Time, err error) {
	l, err := b.lockGrant(ctx, s, name) // 1. lock
	if err != nil {
		return nil, again, err
	}
	defer l.release()
	g, err := l.load(ctx) // 2. load
	if err != nil {
		return nil, again, err
	}
	if g == nil || g.Pending == nil {
		return nil, again, userErrorf(
			"grant %q does not wait for anybody's consent; write %s with access to ask for it",
			name,
			mountPath(ctx, grantsPrefix+name),
		)
	}
	if r == (reply{}) && g.Intent != nil && g.Intent.Ref != "" {
		r = reply{ref: g.Intent.Ref, resumed: true} // a crash came between
	}
	if err := g.Pending.check(r); err != nil {
		return nil, again, err
	}
	c, err := loadClient(ctx, s)
	if err != nil {
		return nil, again, err
	}
	if err := l.recentError(); err != nil {
		return nil, again, err
	}
	now := b.clock.Now()
	if r.result == "" && g.Pending.NotBefore.After(now) && !g.Pending.expired(now) {
		return nil, g.Pending.NotBefore, nil
	}
	a, err := l.beginContinuation(ctx, g, c, r.ref) // 3. write the intent
	if err != nil {
		return nil, again, err
	}
	defer a.leave()
	ctx = context.WithoutCancel(ctx) // 4. detach
	if why := cannotContinue(g.Pending, c, r, now); why != "" {
		return nil, again, a.endInteraction(ctx, why)
	}
	return a.continueInteraction(ctx, r) // 5. call, 6. store; 7. unlock and return
}

// cannotContinue returns why an interaction is over; empty: it is not.
func cannotContinue(p *pending, c *config, r reply, now time.Time) string {
	switch {
	case p.expired(now):
		return tooLate
	case r.result == "grant_rejected":
		return "its owner declined"
	case r.result != "":
		return "the interaction with its owner has expired or was broken off"
	case !c.identity().SameOrigin(p.Continue.URL, p.Source.AuthOrigin):
		return "the authorization server named a continuation on another origin"
	}
	return ""
}

// beginContinuation writes the intent to do something about a pending grant.
func (l *grantLock) beginContinuation(ctx context.Context, g *grant, c *config, ref string) (*attempt, error) {
	origin := uri.OriginOf(g.Pending.Continue.URL)
	a, err := l.newAttempt(ctx, c, g, causeConsent, origin, g.Pending.Source.OperatorHosts)
	if err != nil {
		return nil, err
	}
	a.answered = g.Intent != nil && g.Intent.Cause == causeConsent // an answer may have been lost
	g.begin(causeConsent, l.b.clock.Now())
	g.Intent.Ref = ref
	if err := l.store(ctx, g); err != nil {
		a.place.Leave()
		return nil, err
	}
	return a, nil
}

// endExpired ends an interaction whose owner did not decide in time, and returns the error for
// whoever wanted a token.
func (l *grantLock) endExpired(ctx context.Context, g *grant, c *config) error {
	a, err := l.beginContinuation(ctx, g, c, "")
	if err != nil {
		return err
	}
	defer a.leave()
	return a.endInteraction(context.WithoutCancel(ctx), tooLate)
}

func (a *attempt) continueInteraction(ctx context.Context, r reply) (_ *grant, again time.Time, err error) {
	p := a.grant.Pending
	out, err := a.continueWithRetry(ctx, r)
	if err != nil {
		return nil, again, a.fail(ctx, err)
	}
	switch out := out.(type) {
	case authserver.TokenIssued:
		g, err := a.storeGranted(ctx, out)
		return g, again, err
	case authserver.ConsentPending:
		p.Continue = out.Continue
		g, err := a.storePause(ctx, out.Wait)
		a.record(resultPending, err)
		return g, again, err
	case authserver.RequestFailed:
		if out.Code == authserver.TooFast {
			_, err := a.storePause(ctx, 0)
			return nil, p.NotBefore, err
		}
		return nil, again, a.interactionFailed(ctx, out, r)
	default:
		return nil, again, unexpectedOutcome(out)
	}
}

// continueWithRetry sends the request until there is an answer that decides.
func (a *attempt) continueWithRetry(ctx context.Context, r reply) (authserver.Outcome, error) {
	p := a.grant.Pending
	return a.sendWithRetry(ctx, func() authserver.Outcome {
		return a.client.Continue(ctx, p.Continue, r.ref)
	}, func(out authserver.Outcome) (verdict, error) {
		f, failed := out.(authserver.RequestFailed)
		if !failed || f.Settles() {
			return settled, nil
		}
		if f.Code == authserver.InvalidClient {
			if err := a.keyMissing(ctx); err != nil {
				return retry, err
			}
		}
		a.answered = a.answered || f.MaybeHeard()
		return retry, nil
	})
}

// interactionFailed handles an answer that neither grants nor asks to wait.
func (a *attempt) interactionFailed(ctx context.Context, f authserver.RequestFailed, r reply) error {
	switch {
	case a.answered && f.Code != authserver.InvalidRequest:
		// The reference is used up because an earlier request was heard. What was granted then is
		// of no use to anybody, and counts against limits.
		return a.endInteraction(ctx, "the authorization server's answer to the consent was lost")
	case f.Code == authserver.InvalidContinuation && f.Status == http.StatusNotFound:
		if _, err := a.storePause(ctx, 0); err != nil {
			return err
		}
		return userErrorf("interact_ref: the authorization server does not know this reference")
	case f.Code == authserver.RequestDenied && r.ref != "":
		// An owner who declines is sent back without a reference.
		return a.endInteraction(ctx, "the reference was used already")
	case f.Code == authserver.RequestDenied || f.Code == authserver.UserDenied:
		return a.endInteraction(ctx, "its owner declined")
	case f.Code == authserver.InvalidRequest:
		if _, err := a.storePause(ctx, 0); err != nil {
			return err
		}
		return serverError(f)
	}
	return a.endInteraction(ctx, "the authorization server no longer knows the interaction")
}

// storeGranted stores what the owner has consented to, and then cancels the grant that was in its
// place.
func (a *attempt) storeGranted(ctx context.Context, token authserver.TokenIssued) (*grant, error) {
	former, next := *a.grant, *a.grant
	former.Pending = nil
	next.source, next.Continue, next.Manage = a.grant.Pending.Source, a.grant.Pending.Continue, ""
	next.Access, next.Interactive, next.Pending = next.Requested, true, nil
	next.accept(token, causeConsent)
	if former.Status == statusActive {
		next.replace(former.ending(), a.lock.b.clock.Now())
	}
	g, err := a.storeIssued(ctx, &next)
	if err == nil {
		_ = a.endFormers(ctx, g) // or the worker does
	}
	return g, err
}

// storePause stores that the grant goes on waiting, without the intent: the server has answered,
// and nothing is used up.
func (a *attempt) storePause(ctx context.Context, wait time.Duration) (*grant, error) {
	if wait == 0 {
		wait = defaultWait
	}
	next := *a.grant
	still := *a.grant.Pending
	still.NotBefore = a.lock.b.clock.Now().Add(wait)
	next.Pending, next.Intent = &still, nil
	a.grant.Pending.NotBefore = still.NotBefore
	return a.storeAnswer(ctx, &next)
}

// endInteraction gives the interaction up: what was begun is cancelled, and what is stored
// alongside it goes on; if that is nothing, the grant is lost.
func (a *attempt) endInteraction(ctx context.Context, why string) error {
	next := *a.grant
	next.Pending, next.Intent = nil, nil
	next.LastFailure = event{At: a.lock.b.clock.Now(), Cause: why}
	lost := next.Status == statusPending
	if lost {
		next.Status, next.Lost = statusLost, next.LastFailure
	}
	if err := a.storeIfOwned(ctx, &next); err != nil {
		return err
	}
	ended := userErrorf(
		"%s: the owner has to be asked again; write %s with access",
		why,
		mountPath(ctx, grantsPrefix+a.lock.name),
	)
	if lost {
		a.record(resultLost, ended)
	} else {
		a.record(resultFailed, ended)
	}
	if a.place.Return() {
		a.withdraw(ctx, a.grant.Pending)
	}
	return ended
}

// interactionDue returns when the worker ends an interaction that nobody has brought to an end.
func interactionDue(g *grant) time.Time {
	if g.Pending == nil {
		return time.Time{}
	}
	return g.Pending.Since.Add(pendingTTL + time.Hour)
}

// workInteraction ends an interaction whose time is over.
func (l *grantLock) workInteraction(ctx context.Context, g *grant) error {
	c, err := loadClient(ctx, l.storage)
	if err != nil {
		return err
	}
	err = l.endExpired(ctx, g, c)
	if isUserError(err) {
		return nil // it is over
	}
	return err
}

// withdraw cancels what an owner was being asked for, if that can be done.
func (a *attempt) withdraw(ctx context.Context, p *pending) {
	if err := a.lock.b.end(ctx, a.config, p.ending()); err != nil {
		a.lock.b.Logger().Warn("what an owner was being asked for could not be cancelled", "grant", a.lock.name, "error", err)
	}
}
