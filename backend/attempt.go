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
	client *authserver.Client
	cause  cause

	former   *grant             // asking: what was stored before; nil: nothing
	finish   *authserver.Finish // asking: nil: the server is polled for the owner's decision
	slot     string             // asking: the keep-alive slot that was put for this grant; empty: it has one
	answered bool               // continuing: the server may have answered a request whose answer was lost
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
func (a *attempt) sendWithRetry(ctx context.Context, origin string, send func() authserver.Outcome,
	judge func(authserver.Outcome) (verdict, error)) (authserver.Outcome, error) {
	b := a.lock.b
	begun := b.clock.Now()
	_, down := b.outages.Load(origin)
	pauses := backoff.NewBackoff(math.MaxInt, retryMin, retryMax)
	for {
		out := send()
		failed, noAnswer := out.(authserver.RequestFailed)
		v, err := judge(out)
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
				return nil, serverError(failed)
			}
		}
		if err := a.sleepThenCheckOwner(ctx, pause); err != nil {
			return nil, err
		}
	}
}

// sleepThenCheckOwner pauses before the server is asked again. An error means that somebody else
// may have taken the grant over meanwhile.
func (a *attempt) sleepThenCheckOwner(ctx context.Context, pause time.Duration) error {
	if err := a.lock.b.sleep(ctx, pause); err != nil {
		return err
	}
	return a.checkOwnership(ctx)
}

// checkOwnership returns an error unless the stored grant still bears this attempt's intent.
func (a *attempt) checkOwnership(ctx context.Context) error {
	if a.grant.Intent == nil {
		return nil // a lease's grant: stored nowhere, so nobody else can have it
	}
	stored, err := loadGrant(ctx, a.lock.storage, a.lock.name)
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
// a node that has lost leadership may get its storage back.
func (a *attempt) storeIfOwned(ctx context.Context, g *grant) error {
	if err := a.checkOwnership(ctx); err != nil {
		return err
	}
	return a.lock.store(ctx, g)
}

// storeToken stores the grant with its new token.
func (a *attempt) storeToken(ctx context.Context, token authserver.TokenIssued) (*grant, error) {
	next := *a.grant
	next.accept(token, a.cause)
	return a.storeIssued(ctx, &next)
}

// storeIssued stores a grant that holds an answer which cannot be requested again, and records that
// the token was obtained.
func (a *attempt) storeIssued(ctx context.Context, next *grant) (*grant, error) {
	a.record(resultIssued, nil)
	a.lock.entry.failure = recentFailure{}
	a.lock.entry.unsaved = &unsavedAnswer{grant: next, intentID: a.grant.Intent.ID}
	if err := a.lock.persistUnsaved(ctx); err != nil {
		return nil, err
	}
	return next, nil
}

// lose marks the grant as lost, and returns the error for its readers.
func (a *attempt) lose(ctx context.Context, why string) error {
	next := *a.grant
	next.Lost = event{At: a.lock.b.clock.Now(), Cause: why}
	next.LastFailure = next.Lost
	next.Status, next.Intent = statusLost, nil
	if err := a.storeIfOwned(ctx, &next); err != nil {
		return err
	}
	a.record(resultLost, errors.New(why))
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
