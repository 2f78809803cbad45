// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/authserver"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/uri"
)

// ending is what it takes to end a grant at its server, or a token where there is no continuation.
type ending struct {
	Client        string                  `json:"client"` // wallet address of the client that obtained it
	AuthOrigin    string                  `json:"auth_origin"`
	OperatorHosts []string                `json:"operator_hosts,omitempty"`
	Continue      authserver.Continuation `json:"continue"`
	Manage        string                  `json:"manage,omitempty"`
	Token         string                  `json:"token,omitempty"`
	ExpiresAt     time.Time               `json:"expires_at"` // of the token, as far as it is known
	Tries         uint                    `json:"tries,omitempty"`
	TryAt         time.Time               `json:"try_at"` // when the worker tries next
}

// ending returns what it takes to end the grant. One that never got a token has an empty one.
func (g *grant) ending() ending {
	return ending{
		Client: g.Client, AuthOrigin: g.AuthOrigin, OperatorHosts: g.OperatorHosts,
		Continue: g.Continue, Manage: g.Manage, Token: g.Token, ExpiresAt: g.ExpiresAt,
	}
}

// url returns where the grant is ended; empty if there is nothing to end.
func (e ending) url() string {
	if e.Continue.URL != "" {
		return e.Continue.URL
	}
	return e.Manage
}

func (e ending) origin() string { return uri.OriginOf(e.url()) }

// end ends a grant at its server. A server that says so in the words of its document has ended it
// before, unless it may have said so because it could not check our signature. Nothing else counts as
// ended. The caller has a place at the origin.
func (b *Backend) end(ctx context.Context, c *config, e ending) error {
	client := b.clientFor(c, e.OperatorHosts...)
	var err error
	switch target := e.url(); {
	case target == "":
		return nil
	case e.Client != "" && e.Client != c.WalletAddress:
		return otherClientError(e.Client, c, "the grant")
	case !client.SameOrigin(target, e.AuthOrigin):
		return endsElsewhere(ctx, e)
	case e.Continue.URL != "":
		err = client.Cancel(ctx, e.Continue)
	default:
		err = client.Revoke(ctx, e.Manage, e.Token)
	}
	var f authserver.RequestFailed
	if err == nil || !errors.As(err, &f) {
		return err
	}
	if f.Code == authserver.InvalidClient || f.Gone {
		if published, err := client.KeyPublished(ctx); err == nil && !published {
			return keyNotPublished(ctx, client.Identity)
		}
	}
	now := b.clock.Now()
	switch {
	case !f.Gone, f.Code == authserver.InvalidClient && c.keyChangedRecently(now):
		return serverError(f)
	case e.Continue.URL != "" && e.Token != "" && uri.OriginOf(e.Manage) == e.origin() && now.Before(e.ExpiresAt):
		// A server may have ended the continuation, and not the grant, when it issued the token (RFC 9635
		// section 3.1).
		e.Continue = authserver.Continuation{}
		return b.end(ctx, c, e)
	}
	return nil
}

// endNow ends a grant, waiting for a place at its server.
func (b *Backend) endNow(ctx context.Context, c *config, e ending, background bool) error {
	if e.url() == "" {
		return nil
	}
	place, err := b.enter(ctx, c, e.origin(), background)
	if err != nil {
		return err
	}
	defer place.Leave()
	return b.end(ctx, c, e)
}

// enter waits for a place at a server. 503: there was none in time, which says nothing about the
// grant.
func (b *Backend) enter(ctx context.Context, c *config, origin string, background bool) (*authserver.Place, error) {
	waiting := ctx
	if background {
		var stop context.CancelFunc
		waiting, stop = b.untilClosing(ctx)
		defer stop()
	}
	place, ok := b.clientFor(c).Enter(waiting, origin, background)
	switch {
	case ok && background && b.inFlight.isClosing():
		place.Leave()
		return nil, errClosing
	case ok:
		return place, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	return nil, logical.CodedError(http.StatusServiceUnavailable,
		fmt.Sprintf("%d requests to %s are under way, which is all that max_requests_per_server allows; try again",
			c.maxRequests(), origin))
}

func endsElsewhere(ctx context.Context, e ending) error {
	return userErrorf("the grant's URLs are on %q, not on its authorization server %s: if that is right, add it to "+
		"allowed_auth_servers in %s", e.origin(), e.AuthOrigin, mountPath(ctx, configKey))
}

// endings returns all that there is to end of a grant: what its owner is being asked for, the grant
// itself, those that it has replaced, and the tokens that imports have replaced.
func (g *grant) endings(now time.Time) []ending {
	var all []ending
	if g.Pending != nil {
		all = append(all, g.Pending.ending())
	}
	all = append(all, g.ending())
	all = append(all, g.Formers...)
	for _, r := range g.Replaced.still(now) {
		all = append(all, r.Ending)
	}
	return all
}

const (
	// maxFormers is how many former grants are remembered under one name.
	maxFormers = 32

	formerRetryMin = time.Minute
)

// replace remembers that a grant which this one replaces is to be cancelled. The worker tries if
// nobody has done it by then.
func (g *grant) replace(e ending, now time.Time) {
	if e.url() == "" {
		return
	}
	e.TryAt = now.Add(formerRetryMin)
	g.Formers = append(g.Formers[:len(g.Formers):len(g.Formers)], e)
	if len(g.Formers) > maxFormers {
		g.Formers = g.Formers[1:]
	}
}

// endFormers cancels the grants that the attempt's grant has replaced, as far as that can be done
// with its place, and stores that they are ended. The others are the worker's.
func (a *attempt) endFormers(ctx context.Context, g *grant) error {
	var failed error
	next := *g
	next.Formers = nil
	for _, e := range g.Formers {
		switch err := a.endFormer(ctx, e); {
		case err == nil:
			continue
		case failed == nil:
			failed = err
		}
		next.Formers = append(next.Formers, e)
	}
	if len(next.Formers) == len(g.Formers) {
		return failed
	}
	if err := a.lock.storeOver(ctx, g, &next); err != nil {
		a.lock.b.Logger().Warn("a former grant is cancelled, but that could not be stored; the worker finds it gone",
			"grant", a.lock.name, "error", err)
		return failed
	}
	g.Formers = next.Formers
	return failed
}

func (a *attempt) endFormer(ctx context.Context, e ending) error {
	if e.origin() != a.place.Origin() {
		return userErrorf("it is at another server, %s, and is cancelled in the background", e.origin())
	}
	if !a.place.Return() {
		return errors.New("the server is busy; it is cancelled in the background")
	}
	return a.lock.b.end(ctx, a.config, e)
}

// endHere ends a grant with the attempt's place if it is at the same server and free, and waits for
// another one otherwise.
func (a *attempt) endHere(ctx context.Context, e ending) error {
	if e.origin() == a.place.Origin() && a.place.Return() {
		return a.lock.b.end(ctx, a.config, e)
	}
	a.place.Leave()
	return a.lock.b.endNow(ctx, a.config, e, false)
}

// warnFormers tells who asked that a former grant still lives.
func warnFormers(resp *logical.Response, err error) {
	if err != nil {
		resp.AddWarning("the former grant could not be cancelled yet at the authorization server, and its limits " +
			"may " +
			"count alongside the new one's; it is tried again in the background: " + err.Error())
	}
}
