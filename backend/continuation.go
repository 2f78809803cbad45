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

const (
	// consentTimeout is how long one request waits for the time at which the server may be asked.
	consentTimeout = 45 * time.Second
	// defaultWait is assumed where a server says "too fast" and not how long to wait.
	defaultWait = 5 * time.Second

	tooLate = "its owner was not asked, or did not decide, in time"
)

// continued is what came of continuing a pending grant.
type continued struct {
	grant *grant
	hint  string    // what a redirect says that anybody could have made up; nothing was done
	again time.Time // when it may be tried again; zero: it is done
}

// continueGrant continues a pending grant. It waits for the moment at which the server may be asked
// without holding the grant's lock.
func (b *Backend) continueGrant(ctx context.Context, s logical.Storage, name string, r reply) (continued, error) {
	until := b.clock.Now().Add(consentTimeout)
	for {
		done, err := b.continueOnce(ctx, s, name, r)
		if err != nil || done.again.IsZero() {
			return done, err
		}
		if done.again.After(until) {
			return continued{}, userErrorf(
				"the authorization server wants a pause until %s; write this again then",
				done.again.UTC().Format(time.RFC3339),
			)
		}
		if err := b.sleep(ctx, done.again.Sub(b.clock.Now())); err != nil {
			return continued{}, err
		}
	}
}

// continueOnce continues a pending grant, or returns when it may be tried again. A continuation is
// as irreversible as a rotation, and goes by the same steps.
func (b *Backend) continueOnce(
	ctx context.Context, s logical.Storage, name string, r reply,
) (done continued, err error) {
	l, err := b.lockGrant(ctx, s, name) // 1. lock
	if err != nil {
		return done, err
	}
	defer l.release()
	g, err := l.load(ctx) // 2. load
	if err != nil {
		return done, err
	}
	if g == nil || g.Pending == nil {
		return done, userErrorf(
			"grant %q does not wait for anybody's consent; write %s with access to ask for it",
			name,
			mountPath(ctx, grantsPrefix+name),
		)
	}
	said, err := g.Pending.read(r)
	if err != nil || said.hint != "" {
		return continued{grant: g, hint: said.hint}, err
	}
	if err := l.keepReference(ctx, g, said.ref); err != nil {
		return done, err
	}
	c, err := loadClient(ctx, s)
	if err != nil {
		return done, err
	}
	if err := l.recentError(); err != nil {
		return done, err
	}
	if said.declined {
		return done, l.endInteraction(ctx, g, c, "its owner declined")
	}
	if at := g.Pending.notBefore(b.clock.Now()); at.After(b.clock.Now()) {
		return continued{again: at}, nil
	}
	return l.continueInteraction(ctx, g, c, false)
}

// keepReference stores that the owner has consented. From then on the worker sends the reference if
// nobody else does.
func (l *grantLock) keepReference(ctx context.Context, g *grant, ref string) error {
	p := g.Pending
	if ref == p.Ref {
		return nil
	}
	p.Ref, p.Tries, p.TryAt = ref, 0, l.b.clock.Now().Add(formerRetryMin)
	if _, err := l.putSlot(ctx, interactionDue(g, l.b.clock.Now()), slot{}); err != nil {
		return err
	}
	return l.store(ctx, g)
}

// beginContinuation returns an attempt to do something about a pending grant, which bears an intent.
// The caller leaves its place.
func (l *grantLock) beginContinuation(
	ctx context.Context, g *grant, c *config, background bool,
) (*attempt, error) {
	place, err := l.b.enter(ctx, c, uri.OriginOf(g.Pending.Continue.URL), background)
	if err != nil {
		return nil, err
	}
	g.begin(causeConsent, l.b.clock.Now())
	if err := l.store(ctx, g); err != nil {
		place.Leave()
		return nil, err
	}
	return &attempt{
		lock: l, grant: g, config: c, client: l.b.clientFor(c, g.Pending.Source.OperatorHosts...), place: place,
		cause: causeConsent,
	}, nil
}

// continueInteraction sends the reference that is kept, or polls if there is none.
func (l *grantLock) continueInteraction(
	ctx context.Context, g *grant, c *config, background bool,
) (done continued, err error) {
	p, now := g.Pending, l.b.clock.Now()
	if why := p.unusable(ctx, l.b, c); why != "" {
		return done, userErrorf("the continue URI that the authorization server gave for grant %q %s", l.name, why)
	}
	answered := p.AnswerLost
	p.AnswerLost = true // until there is an answer
	if background {
		p.Tries++
		p.postpone(now.Add(retryAfter(l.name, p.Tries)))
	} else {
		p.postpone(now.Add(formerRetryMin))
	}
	a, err := l.beginContinuation(ctx, g, c, background) // 3. write the intent
	if err != nil {
		return done, err
	}
	defer func() { a.place.Leave() }()
	a.answered = answered
	return a.continueInteraction(context.WithoutCancel(ctx)) // 4. detach; 5. call, 6. store
}

func (a *attempt) continueInteraction(ctx context.Context) (done continued, err error) {
	p := a.grant.Pending
	out, err := a.continueWithRetry(ctx)
	if err != nil {
		p.AnswerLost = a.answered
		return done, a.fail(ctx, err)
	}
	switch out := out.(type) {
	case authserver.TokenIssued:
		done.grant, err = a.storeGranted(ctx, out)
		return done, err
	case authserver.ConsentPending:
		p.Continue, p.AnswerLost = out.Continue, false
		done.grant, err = a.storePause(ctx, out.Wait)
		a.record(resultPending, err)
		return done, err
	case authserver.RequestFailed:
		return a.continuationRefused(ctx, out)
	default:
		return done, unexpectedOutcome(out)
	}
}

// continueWithRetry sends the request until there is an answer that decides.
func (a *attempt) continueWithRetry(ctx context.Context) (authserver.Outcome, error) {
	p := a.grant.Pending
	return a.sendWithRetry(ctx, func() authserver.Outcome {
		return a.client.Continue(ctx, p.Continue, p.Ref)
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

// ruling is what a refusal to continue means for the interaction.
type ruling int

const (
	rulingOver    ruling = iota // it has ended
	rulingPause                 // too fast
	rulingUnknown               // the server does not know the reference
	rulingUnclear               // it goes on, and nothing is known
)

// judgeRefusal decides what a refusal means, and why the interaction has ended if it has. answered:
// an earlier request may have been done, so that a reference that is refused was used up by it.
func judgeRefusal(f authserver.RequestFailed, p *pending, answered bool) (r ruling, cause string) {
	denied := f.Code == authserver.RequestDenied
	switch {
	case f.BadSignature() || f.Code == authserver.InvalidRequest:
		return rulingUnclear, ""
	case f.Code == authserver.TooFast:
		return rulingPause, ""
	case f.Code == authserver.UserDenied:
		return rulingOver, "its owner declined"
	case denied && p.Ref == "" && p.FinishURI != "": // such grants cannot be polled, whatever the owner decided
		return rulingUnclear, ""
	case answered:
		return rulingOver, "the authorization server's answer to the consent was lost"
	case denied && p.Ref == "":
		return rulingOver, "its owner declined"
	case denied: // an owner who declines is sent back without a reference
		return rulingOver, "the reference was used already"
	case f.Code == authserver.InvalidContinuation && f.Status == http.StatusNotFound && p.Ref != "":
		return rulingUnknown, ""
	}
	return rulingOver, "the authorization server no longer knows the interaction"
}

// continuationRefused handles an answer that neither grants nor says that the owner has not decided.
func (a *attempt) continuationRefused(ctx context.Context, f authserver.RequestFailed) (done continued, err error) {
	p := a.grant.Pending
	p.AnswerLost = a.answered
	r, cause := judgeRefusal(f, p, a.answered)
	switch r {
	case rulingOver:
		return done, a.endInteraction(ctx, cause)
	case rulingUnknown:
		p.Ref = ""
	}
	g, err := a.storePause(ctx, 0)
	switch {
	case err != nil:
		return done, err
	case r == rulingPause:
		return continued{again: g.Pending.NotBefore}, nil
	case r == rulingUnknown:
		return done, userErrorf("interact_ref: the authorization server does not know this reference")
	}
	return done, serverError(f)
}

// storeGranted stores what the owner has consented to, and then cancels the grant that was in its
// place: an active one, or one that was lost since.
func (a *attempt) storeGranted(ctx context.Context, token authserver.TokenIssued) (*grant, error) {
	former, next := *a.grant, *a.grant
	next.source, next.Continue, next.Manage = a.grant.Pending.Source, a.grant.Pending.Continue, ""
	next.Access, next.Interactive, next.Pending = next.Requested, true, nil
	next.accept(token, causeConsent)
	next.replace(former.ending(), a.lock.b.clock.Now())
	g, err := a.storeIssued(ctx, &next)
	if err == nil {
		_ = a.endFormers(ctx, g) // or the worker does
	}
	return g, err
}

// storePause stores that the grant goes on waiting, without the intent: the server has answered. What
// it has answered is kept like a token, because a new continuation is the only way to the grant.
func (a *attempt) storePause(ctx context.Context, wait time.Duration) (*grant, error) {
	if wait == 0 {
		wait = defaultWait
	}
	next, still := *a.grant, *a.grant.Pending
	still.NotBefore, still.Wait = a.lock.b.clock.Now().Add(wait), wait
	next.Pending, next.Intent = &still, nil
	return a.storeAnswer(ctx, &next)
}

// endInteraction gives an interaction up, under an intent of its own.
func (l *grantLock) endInteraction(ctx context.Context, g *grant, c *config, why string) error {
	a, err := l.beginContinuation(ctx, g, c, false)
	if err != nil {
		return err
	}
	defer func() { a.place.Leave() }()
	return a.endInteraction(context.WithoutCancel(ctx), why)
}

// endInteraction gives the interaction up: what was begun is cancelled, and what is stored
// alongside it goes on; if that is nothing, the grant is lost.
func (a *attempt) endInteraction(ctx context.Context, why string) error {
	next, now := *a.grant, a.lock.b.clock.Now()
	next.Pending, next.Intent = nil, nil
	next.LastFailure = event{At: now, Cause: why}
	next.replace(a.grant.Pending.ending(), now)
	lost := next.Status == statusPending
	if lost {
		next.Status, next.Lost = statusLost, next.LastFailure
	}
	if err := a.storeIfOwned(ctx, &next); err != nil {
		return err
	}
	a.lock.entry.failure = recentFailure{}
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
	_ = a.endFormers(ctx, &next) // or the worker does
	return ended
}

// workInteraction brings an interaction to an end that nobody else has: it sends the reference, or
// polls once more where that can be done. A consent that was given is never thrown away, so an
// interaction is only given up if there is none, as far as can be told.
func (l *grantLock) workInteraction(ctx context.Context, g *grant) error {
	c, err := loadClient(ctx, l.storage)
	if err != nil {
		return err
	}
	p := g.Pending
	if p.Ref == "" && (p.FinishURI != "" || p.unusable(ctx, l.b, c) != "") {
		return overIsDone(l.endInteraction(ctx, g, c, tooLate))
	}
	done, err := l.continueInteraction(ctx, g, c, true)
	if err != nil {
		return overIsDone(err)
	}
	if still := done.grant; still != nil && still.Pending != nil && still.Pending.Ref == "" {
		return overIsDone(l.endInteraction(ctx, still, c, tooLate))
	}
	return nil
}

// overIsDone returns nil for what a caller would be told to correct: it is stored with the grant.
func overIsDone(err error) error {
	if isUserError(err) {
		return nil
	}
	return err
}

// unusable returns why the interaction cannot be continued; empty: it can.
func (p *pending) unusable(ctx context.Context, b *Backend, c *config) string {
	return unusableContinuation(ctx, p.Continue, b.clientFor(c, p.Source.OperatorHosts...), p.Source.AuthOrigin)
}

// unusableContinuation returns why a continuation cannot be used, as the rest of a sentence about
// its URI; empty: it can. home is the authorization server's origin.
func unusableContinuation(
	ctx context.Context, at authserver.Continuation, client *authserver.Client, home string,
) string {
	u, err := authserver.ParseURL(at.URL)
	switch {
	case at.URL == "":
		return "is missing"
	case err != nil:
		return "cannot be used: it " + err.Error()
	case !strings.Contains(u.EscapedPath(), "continue/"):
		return "has no continue/ in its path, which Open Payments requires"
	case !client.SameOrigin(at.URL, home):
		return fmt.Sprintf("is on %q, not on the authorization server %s: if that is right, add it to "+
			"allowed_auth_servers in %s", uri.Origin(u), home, mountPath(ctx, configKey))
	case !authserver.IsToken(at.Token):
		return "comes without a token that could be sent"
	}
	if err := client.CheckReach(u); err != nil {
		return err.Error()
	}
	return ""
}
