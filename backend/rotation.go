// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/helper/backoff"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/uri"
)

const (
	// insistence is how long after the first request a further one is begun.
	insistence = 10 * time.Second
	// doubt is how long a refusal is doubted before the server is asked once
	// more: its own lock time-out looks the same.
	doubt = time.Second

	// With its jitter the first pause is more than a second: a failing grant
	// sends no more than one request a second.
	retryMin, retryMax     = 1500 * time.Millisecond, 4 * time.Second
	failureMin, failureMax = time.Second, 30 * time.Second

	// savePatience is how long a caller waits for storage to take an answer.
	savePatience = 30 * time.Second
	saveInterval = time.Second
	saveAttempt  = 10 * time.Second
	// lastSaves is how often storage is tried after the engine was told to end.
	lastSaves = 10

	// askInterval keeps a server that takes its grants back from being asked
	// for new ones all the time.
	askInterval = time.Minute
)

var (
	// errTakenOver: another node has begun something with the grant; what it
	// stored is newer than what we know.
	errTakenOver = errors.New("another node has taken the grant over; try again")
	// errUnsaved and errStorage hide the storage's own error, which is in the log:
	// Vault would take the words of logical.ErrReadOnly, even inside a longer
	// text, for a wish to have the request forwarded to another node, which would
	// begin the rotation anew.
	errUnsaved = errors.New("the authorization server has answered, but storage does not take the answer; it is kept in memory: try again")
	errStorage = errors.New("storage does not answer: try again")
	// errNothingToDo ends a rotation before it is begun, as asked by its permit.
	errNothingToDo = errors.New("nothing to do")
)

// rotate gets a new token for a grant and answers the grant with it.
//
// A rotation is irreversible and cannot be repeated: once the server has done
// it, the only copy of the new manage URL is in its answer. Hence the order of
// the steps, which is the same for everyone who wants a new token. permit looks
// at the grant (nil: there is none) under the lock, before anything is begun.
func (b *Backend) rotate(ctx context.Context, req *logical.Request, name string, why cause, permit func(*grant) error) (*grant, error) {
	h, err := b.hold(ctx, req.Storage, name) // 1. lock
	if err != nil {
		return nil, err
	}
	defer h.release() // 7. unlock
	return h.rotate(ctx, req.MountPoint, why, permit)
}

// rotate is what the one who holds the grant does of it.
func (h *hold) rotate(ctx context.Context, mount string, why cause, permit func(*grant) error) (*grant, error) {
	g, err := h.load(ctx) // 2. load
	if err != nil {
		return nil, err
	}
	if err := permit(g); err != nil {
		return nil, err
	}
	if g == nil {
		return nil, unknownGrant(h.name, mount)
	}
	c, err := client(ctx, h.storage, mount)
	if err != nil {
		return nil, err
	}
	if g.Status == statusPending && g.Pending.expired(h.b.clock.Now()) {
		a, err := h.consent(ctx, g, c, mount, "")
		if err != nil {
			return nil, err
		}
		return nil, a.end(context.WithoutCancel(ctx), tooLate)
	}
	if err := mayRotate(g, c, why, h.name, mount); err != nil {
		return nil, err
	}
	if h.b.clock.Now().Before(h.failure.until) {
		return nil, h.failure.err
	}

	g.begin(why, h.b.clock.Now())
	if err := h.store(ctx, g); err != nil { // 3. write the intent
		return nil, err
	}
	ctx = context.WithoutCancel(ctx) // 4. detach
	a := &attempt{hold: h, grant: g, port: h.b.port(c, g.TypedHosts...), why: why, mount: mount}
	return a.run(ctx) // 5. call, 6. store
}

// mayRotate says why a grant cannot be rotated as things are. Nothing has been
// begun.
func mayRotate(g *grant, c *config, why cause, name, mount string) error {
	switch {
	case g.Status == statusPending:
		return pendingError(name, mount)
	case g.Status == statusLost && why != causeRotate:
		return lostError(g, name, mount)
	}
	return g.rotatable(c, fmt.Sprintf("grant %q", name), mount)
}

// rotatable says why the token cannot be rotated by this client at its manage
// URL; what names the grant.
func (g *grant) rotatable(c *config, what, mount string) error {
	switch {
	case g.Client != c.WalletAddress:
		return g.foreign(c, what)
	case g.Manage == "":
		return nil // never got a token: asked for again
	case !c.sameOrigin(g.Manage, g.AuthOrigin):
		return refuse("the manage URL of %s is on %q, not on its authorization server %s: if that is right, add it to allowed_auth_servers in %sconfig",
			what, uri.OriginOf(g.Manage), g.AuthOrigin, mount)
	case !strings.Contains(g.Manage, "token/"):
		return refuse("the manage URL that the authorization server gave for %s has no token/ in its path, which Open Payments requires", what)
	}
	return nil
}

func (g *grant) foreign(c *config, what string) error {
	return refuse("%s belongs to the client %s, but config names %s", what, g.Client, c.WalletAddress)
}

func unknownGrant(name, mount string) error {
	return refuse("no grant named %q: write %sgrants/%s first", name, mount, name)
}

func lostError(g *grant, name, mount string) error {
	return refuse("grant %q is lost since %s (%s): its owner has to be asked again; write access, or a new grant's access_token and manage_url, to %sgrants/%s, or try the server once more with %srotate/%s",
		name, g.Lost.At.UTC().Format(time.RFC3339), g.Lost.Cause, mount, name, mount, name)
}

// attempt is one way to a new token, with the grant locked and the intent
// written.
type attempt struct {
	*hold
	grant *grant
	port  *port
	why   cause
	mount string
}

func (a *attempt) run(ctx context.Context) (*grant, error) {
	if a.grant.Manage == "" {
		return a.askAgain(ctx)
	}
	out, err := a.insist(ctx)
	if err != nil {
		return nil, a.fail(ctx, err)
	}
	if token, ok := out.(done); ok {
		return a.keep(ctx, token)
	}
	return a.dead(ctx)
}

// insist asks for the rotation until there is an answer to believe: done, or
// refused twice. Asking again is safe: either it rotates now, or it is refused,
// which tells that an earlier request had been heard.
//
// A revocation asks a server once that was last asked in vain: Vault revokes many
// leases one after the other, and asks again by itself.
func (a *attempt) insist(ctx context.Context) (outcome, error) {
	begun, origin := a.b.clock.Now(), uri.OriginOf(a.grant.Manage)
	_, down := a.b.outages.Load(origin)
	retry := backoff.NewBackoff(math.MaxInt, retryMin, retryMax)
	doubted := false
	for {
		var pause time.Duration
		switch out := a.port.rotate(ctx, a.grant.Manage, a.grant.Token).(type) {
		case done:
			a.b.outages.Delete(origin)
			return out, nil
		case refused:
			a.b.outages.Delete(origin)
			if doubted {
				return out, nil
			}
			published, err := a.port.keyPublished(ctx)
			if err != nil {
				return nil, logical.CodedError(http.StatusBadGateway, fmt.Sprintf("the server refused the token, and whether the client's key is published cannot be told: %s; try again later", err))
			}
			if !published {
				return nil, a.notPublished()
			}
			doubted, pause = true, doubt
		case failed:
			if out.unknownClient() {
				if err := a.keyMissing(ctx); err != nil {
					return nil, err
				}
			}
			pause, _ = retry.Next()
			if down && a.why == causeRevoke || a.b.clock.Since(begun)+pause > insistence {
				a.b.outages.Store(origin, true)
				return nil, serverError(out)
			}
		}
		if err := a.rest(ctx, pause); err != nil {
			return nil, err
		}
	}
}

// rest pauses before the server is asked again; an error: somebody else may have
// taken the grant over meanwhile.
func (a *attempt) rest(ctx context.Context, pause time.Duration) error {
	if err := a.b.sleep(ctx, pause); err != nil {
		return err
	}
	return a.stillOurs(ctx)
}

// stillOurs tells whether the stored grant still bears this attempt's intent.
func (a *attempt) stillOurs(ctx context.Context) error {
	if a.grant.Intent == nil {
		return nil // a lease's grant: stored nowhere, so nobody else can have it
	}
	stored, err := loadGrant(ctx, a.storage, a.name)
	switch {
	case err != nil:
		a.b.Logger().Error("the grant cannot be read while its rotation is under way", "grant", a.name, "error", err)
		return errStorage
	case !stored.bears(a.grant.Intent.ID):
		return errTakenOver
	}
	return nil
}

// replace stores the grant over the entry that bears this attempt's intent, and
// over no other: a node that has lost leadership may get its storage back.
func (a *attempt) replace(ctx context.Context, g *grant) error {
	if err := a.stillOurs(ctx); err != nil {
		return err
	}
	return a.store(ctx, g)
}

func (g *grant) bears(intentID string) bool {
	return g != nil && g.Intent != nil && g.Intent.ID == intentID
}

func (a *attempt) notPublished() error {
	return refuse("%s/jwks.json does not hold the public key of %sconfig under key_id, so the authorization server cannot check our signature; publish it or correct config; the grant is kept",
		a.port.client.WalletAddress, a.mount)
}

// keyMissing is notPublished if the client's key set can be had and lacks the
// key; nil where that is not so, or cannot be told.
func (a *attempt) keyMissing(ctx context.Context) error {
	if published, err := a.port.keyPublished(ctx); err == nil && !published {
		return a.notPublished()
	}
	return nil
}

// serverError is the server's trouble: 502, or 504 where it was waited for in
// vain; or ours, where our own rules forbade the request.
func serverError(f failed) error {
	switch {
	case f.Cause != nil:
		return refuse("the authorization server %s", f)
	case f.Timeout:
		return logical.CodedError(http.StatusGatewayTimeout, fmt.Sprintf("the authorization server %s; try again later", f))
	}
	return logical.CodedError(http.StatusBadGateway, fmt.Sprintf("the authorization server %s; try again later", f))
}

// dead deals with a token that the server has twice refused, although it can
// check our signature.
func (a *attempt) dead(ctx context.Context) (*grant, error) {
	switch {
	case a.grant.Interactive:
		err := a.lose(ctx, "the authorization server no longer accepts its token")
		if a.why == causeRevoke {
			return a.grant, nil // the value is dead, which is all that was asked for
		}
		return nil, err
	case a.why == causeRevoke:
		return a.grant, nil
	}
	return a.askAgain(ctx)
}

// askAgain asks for a new grant with the stored rights at the stored endpoint.
func (a *attempt) askAgain(ctx context.Context) (*grant, error) {
	now := a.b.clock.Now()
	if wait := a.grant.AskedAt.Add(askInterval).Sub(now); wait > 0 {
		return nil, a.fail(ctx, logical.CodedError(http.StatusBadGateway,
			fmt.Sprintf("the authorization server %s refuses the token, and was asked for a new grant less than a minute ago; try again in %s", a.grant.AuthOrigin, wait.Round(time.Second))))
	}
	a.grant.AskedAt = now
	left := a.grant.Continue
	switch out := a.port.ask(ctx, a.grant.AuthServer, a.grant.Requested, nil).(type) {
	case done:
		g, err := a.keep(ctx, out)
		if err == nil && left.URL != "" && left.URL != g.Continue.URL {
			a.cancelQuietly(ctx, left)
		}
		return g, err
	case interaction:
		a.cancelQuietly(ctx, out.Continue)
		a.grant.Interactive = true
		return nil, a.lose(ctx, "the authorization server now wants the owner's consent")
	case failed:
		return nil, a.fail(ctx, a.askError(ctx, out))
	}
	return nil, errors.New("unknown outcome")
}

// askError says why asking for a grant has failed.
func (a *attempt) askError(ctx context.Context, f failed) error {
	if f.Code == "invalid_client" {
		if err := a.keyMissing(ctx); err != nil {
			return err
		}
	}
	return serverError(f)
}

// cancelQuietly cancels what is left of a grant that is of no use any more.
func (a *attempt) cancelQuietly(ctx context.Context, c continuation) {
	if c.URL == "" || !a.port.client.sameOrigin(c.URL, a.grant.AuthOrigin) {
		return
	}
	var f failed
	if err := a.port.cancel(ctx, c); err != nil && !(errors.As(err, &f) && f.gone()) {
		a.b.Logger().Warn("what is left of a former grant could not be cancelled", "grant", a.name, "error", err)
	}
}

// lose marks the grant as lost, and answers what its readers are told.
func (a *attempt) lose(ctx context.Context, why string) error {
	next := *a.grant
	next.Lost = event{At: a.b.clock.Now(), Cause: why}
	next.LastFailure = next.Lost
	next.Status, next.Intent = statusLost, nil
	if err := a.replace(ctx, &next); err != nil {
		return err
	}
	a.b.Logger().Warn("the grant is lost: its owner has to be asked again", "grant", a.name, "cause", why)
	return lostError(&next, a.name, a.mount)
}

// fail makes the grant answer at once with the same error for a while, so that
// neither the server nor storage is hammered: Vault's LifetimeWatcher has been
// seen to retry hundreds of times a second. The intent stays.
func (a *attempt) fail(ctx context.Context, err error) error {
	if errors.Is(err, errTakenOver) {
		return err
	}
	now := a.b.clock.Now()
	a.failure = a.failure.next(err, now)
	a.grant.LastFailure = event{At: now, Cause: err.Error()}
	if err := a.replace(ctx, a.grant); err != nil {
		a.b.Logger().Warn("the cause of a failure could not be stored", "grant", a.name, "error", err)
	}
	return err
}

// keep stores the grant with its new token.
func (a *attempt) keep(ctx context.Context, token done) (*grant, error) {
	next := *a.grant
	next.accept(token, string(a.why))
	return a.keepAll(ctx, &next)
}

// keepAll stores a grant that holds an answer which cannot be had again. If
// storage will not have it, it stays in memory, and is stored before anything
// else happens to the grant.
func (a *attempt) keepAll(ctx context.Context, next *grant) (*grant, error) {
	a.failure = failure{}
	a.unsaved = &unsaved{grant: next, intentID: a.grant.Intent.ID}
	deadline := a.b.clock.Now().Add(savePatience)
	for {
		err := a.save(ctx)
		if err == nil {
			return next, nil
		}
		if errors.Is(err, errTakenOver) {
			a.b.Logger().Error("another node has taken the grant over while its new token was on the way; the token is dropped", "grant", a.name)
			return nil, err
		}
		if !a.b.clock.Now().Before(deadline) {
			a.b.Logger().Error("the grant has a new token that storage does not take; it is kept in memory and stored as soon as possible", "grant", a.name, "error", err)
			a.b.saveLater(a.storage, a.name)
			return nil, errUnsaved
		}
		if err := a.b.sleep(ctx, saveInterval); err != nil {
			return nil, err
		}
	}
}

// save stores an unsaved answer, over the entry that bears its intent and no
// other.
func (h *hold) save(ctx context.Context) error {
	ctx, stop := h.b.within(ctx, saveAttempt)
	defer stop()
	stored, err := loadGrant(ctx, h.storage, h.name)
	if err != nil {
		return err
	}
	if !stored.bears(h.unsaved.intentID) {
		h.unsaved = nil
		return errTakenOver
	}
	if err := h.store(ctx, h.unsaved.grant); err != nil {
		return err
	}
	h.unsaved = nil
	return nil
}

// saveLater goes on trying to store an unsaved answer, every second, for as
// long as the engine lives and a little longer.
func (b *Backend) saveLater(s logical.Storage, name string) {
	b.inFlight.work.Add(1) // the caller is in flight, so Clean still waits
	go func() {
		defer b.inFlight.leave()
		ctx, closing := context.Background(), b.inFlight.closing
		for left := lastSaves; left > 0; {
			select {
			case <-b.clock.After(saveInterval):
			case <-closing:
			}
			if b.saveNow(ctx, s, name) {
				return
			}
			select {
			case <-b.inFlight.closing:
				closing = nil
				left--
			default:
			}
		}
		b.Logger().Error("the engine ends with a grant's new token unsaved: the token is gone", "grant", name)
	}()
}

// saveNow tells whether nothing is left to save.
func (b *Backend) saveNow(ctx context.Context, s logical.Storage, name string) bool {
	h, err := b.hold(ctx, s, name)
	if err != nil {
		return false
	}
	defer h.release()
	if h.unsaved == nil {
		return true
	}
	err = h.save(ctx)
	return err == nil || errors.Is(err, errTakenOver)
}
