// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/hashicorp/vault/sdk/helper/backoff"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/authserver"
)

const (
	// retryWindow is how long after the first request a further one is begun.
	retryWindow = 10 * time.Second
	// recheckDelay is waited for before a rejection is believed: the server's own lock time-out
	// looks the same.
	recheckDelay = time.Second

	// With its jitter the first pause is more than a second: a failing grant sends no more than one
	// request a second.
	retryMin, retryMax = 1500 * time.Millisecond, 4 * time.Second
)

// attempt is one try at a new token: for a stored grant, which is locked and bears an intent, or
// for the grant of a role's lease, which is stored nowhere.
type attempt struct {
	lock   *grantLock
	role   string // of the lease that the grant is for; empty: the grant is stored
	grant  *grant
	config *config
	client *authserver.Client
	place  *authserver.Place // at the server, left during pauses
	cause  cause

	former   *grant             // asking: what was stored before; nil: nothing
	finish   *authserver.Finish // asking: nil: the server is polled for the owner's decision
	slot     string             // asking: the slot of the index that was put for this grant; empty: it has one
	answered bool               // continuing: the server may have answered a request whose answer was lost
}

// newAttempt returns an attempt that has a place at an origin. Nothing has been begun: an error means
// that the grant is as it was. The caller leaves the place.
func (l *grantLock) newAttempt(
	ctx context.Context, c *config, g *grant, why cause, origin string, operatorHosts []string,
) (*attempt, error) {
	background := why == causeKeepalive || why == causeRecover
	place, err := l.b.enter(ctx, c, origin, background)
	if err != nil {
		return nil, err
	}
	client := l.b.clientFor(c, operatorHosts...)
	return &attempt{lock: l, grant: g, config: c, client: client, place: place, cause: why}, nil
}

// leave gives back whatever place the attempt has by then.
func (a *attempt) leave() { a.place.Leave() }

// requestGrant requests the attempt's grant.
func (a *attempt) requestGrant(ctx context.Context, finish *authserver.Finish) authserver.Outcome {
	a.client.TypedEndpoint = a.grant.TypedAuthServer // else a document named it
	return a.client.RequestGrant(ctx, a.grant.AuthServer, a.grant.Requested, finish)
}

// verdict is what an outcome means for repeating a request.
type verdict int

const (
	settled verdict = iota // it decides
	recheck                // it is believed if it comes again
	retry                  // it says nothing
)

// sendWithRetry sends a request until judge takes its outcome for settled, judge returns an error,
// or no further request may be begun.
//
// A revocation requests once from a server that last gave no answer: Vault revokes many leases one
// after the other, and asks again by itself.
func (a *attempt) sendWithRetry(
	ctx context.Context, send func() authserver.Outcome, judge func(authserver.Outcome) (verdict, error),
) (authserver.Outcome, error) {
	b, origin := a.lock.b, a.place.Origin()
	begun := b.clock.Now()
	_, down := b.outages.Load(origin)
	pauses := backoff.NewBackoff(math.MaxInt, retryMin, retryMax)
	for {
		if err := a.checkPause(ctx); err != nil {
			return nil, err
		}
		out := send()
		v, err := judge(out)
		failed, noAnswer := out.(authserver.RequestFailed)
		if !noAnswer || v == settled {
			b.outages.Delete(origin)
		}
		if err != nil || v == settled {
			return out, err
		}
		pause := recheckDelay
		if v == retry {
			pause, _ = pauses.Next()
			if down && a.cause == causeRevoke || b.clock.Since(begun)+pause > retryWindow {
				b.outages.Store(origin, true)
				return out, serverError(failed)
			}
		}
		if err := a.pause(ctx, pause); err != nil {
			return nil, err
		}
		back := a.place.Return
		if v == recheck { // a dead token is to be found out, however busy the server is
			back = func() bool { return a.place.Await(ctx) }
		}
		if !back() {
			return out, serverError(failureOf(out))
		}
	}
}

// failureOf returns what a failed or rejected request has in common.
func failureOf(out authserver.Outcome) authserver.RequestFailed {
	switch out := out.(type) {
	case authserver.RequestFailed:
		return out
	case authserver.TokenRejected:
		return out.RequestFailed
	}
	return authserver.RequestFailed{}
}

// pause gives the place to others and waits before the server is asked again. An error means that
// somebody else may have taken the grant over meanwhile.
func (a *attempt) pause(ctx context.Context, d time.Duration) error {
	a.place.Leave()
	if err := a.lock.b.sleep(ctx, d); err != nil {
		return err
	}
	return a.checkOwnership(ctx)
}

// checkPause returns an error if this node was paused before it sends a request, and another one has taken
// the grant over.
func (a *attempt) checkPause(ctx context.Context) error {
	if !a.lock.wasPaused() {
		return nil
	}
	return a.checkOwnership(ctx)
}

// checkOwnership returns an error unless the stored grant still bears this attempt's intent.
func (a *attempt) checkOwnership(ctx context.Context) error {
	if a.grant.Intent == nil {
		return nil // a lease's grant: stored nowhere, so nobody else can have it
	}
	stored, err := a.lock.look(ctx)
	switch {
	case err != nil:
		a.lock.b.Logger().
			Error("the grant could not be read while its rotation is under way", "grant", a.lock.name, "error", err)
		return errStorage
	case !stored.hasIntent(a.grant.Intent.ID):
		return errTakenOver
	}
	return nil
}

// storeIfOwned stores the grant over the entry that bears this attempt's intent, and over no other:
// a node that has lost leadership may get its storage back. It is tried twice: a write may succeed and
// report an error, which the second look finds.
func (a *attempt) storeIfOwned(ctx context.Context, g *grant) error {
	err := a.lock.storeOver(ctx, a.grant, g)
	if err != nil && !errors.Is(err, errTakenOver) {
		err = a.lock.storeOver(ctx, a.grant, g)
	}
	if err != nil && !errors.Is(err, errTakenOver) {
		a.lock.b.Logger().Error("the grant could not be stored", "grant", a.lock.name, "error", err)
		return errStorage
	}
	return err
}

// storeToken stores the grant with its new token.
func (a *attempt) storeToken(ctx context.Context, token authserver.TokenIssued) (*grant, error) {
	next := *a.grant
	next.accept(token, a.cause)
	return a.storeIssued(ctx, &next)
}

// storeIssued stores a grant with a new token, and records that the token was obtained.
func (a *attempt) storeIssued(ctx context.Context, next *grant) (*grant, error) {
	a.record(resultIssued, nil)
	return a.storeAnswer(ctx, next)
}

// storeAnswer stores a grant that holds an answer which cannot be requested again, trying for 30 s,
// and in the background from then on.
func (a *attempt) storeAnswer(ctx context.Context, next *grant) (*grant, error) {
	a.lock.entry.failure = recentFailure{}
	a.lock.entry.unsaved = &unsavedAnswer{grant: next, intentID: a.grant.Intent.ID}
	if err := a.lock.persistUnsaved(ctx, a.place); err != nil {
		return nil, err
	}
	return next, nil
}

// lose marks the grant as lost, and returns the error for its readers. One that is lost already stays
// lost since when it was, and for the same cause.
func (a *attempt) lose(ctx context.Context, why string) error {
	if a.grant.Unread {
		why += "; an answer of the server before that, which may have held its token, could not be read"
	}
	if a.grant.Ending {
		why += "; its cancellation had been begun"
	}
	next := *a.grant
	next.LastFailure = event{At: a.lock.b.clock.Now(), Cause: why}
	next.Intent = nil
	if a.grant.Status != statusLost {
		next.Status, next.Lost, next.Recovered, next.Doubt = statusLost, next.LastFailure, 0, nil
	}
	if err := a.storeIfOwned(ctx, &next); err != nil {
		return err
	}
	if a.grant.Status == statusLost {
		a.record(resultFailed, errors.New(why))
	} else {
		a.record(resultLost, errors.New(why))
	}
	return lostError(ctx, &next, a.lock.name)
}

// fail makes the grant return the same error at once for a while, so that neither the server nor
// storage is hammered: Vault's LifetimeWatcher has been seen to retry hundreds of times a second.
// The intent stays.
func (a *attempt) fail(ctx context.Context, err error) error {
	a.record(resultFailed, err)
	if errors.Is(err, errTakenOver) {
		return err
	}
	now := a.lock.b.clock.Now()
	a.lock.entry.failure = a.lock.entry.failure.next(err, now)
	if a.role != "" {
		return err // a lease's grant is stored nowhere
	}
	a.grant.LastFailure = event{At: now, Cause: err.Error()}
	if err := a.storeIfOwned(ctx, a.grant); err != nil {
		a.lock.b.Logger().Warn("the cause of a failure could not be stored", "grant", a.lock.name, "error", err)
	}
	return err
}

// unexpectedOutcome is for an outcome that its request cannot have.
func unexpectedOutcome(out authserver.Outcome) error {
	return fmt.Errorf("an outcome that this request cannot have: %T", out)
}
