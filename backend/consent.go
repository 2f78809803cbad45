// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/helper/backoff"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/uri"
)

const (
	// pendingTTL is how long an owner may take to decide.
	pendingTTL = 10 * time.Minute
	// consentPatience is how long one request waits for the time at which the
	// server may be asked.
	consentPatience = 45 * time.Second
	// defaultWait is assumed where a server says "too fast" and not for how long.
	defaultWait = 5 * time.Second
)

// pending is a grant that its owner is being asked for. Until the owner has
// consented, the grant that is stored besides it, if any, stays in use.
type pending struct {
	Source      source       `json:"source"`
	Continue    continuation `json:"continue"`
	InteractURL string       `json:"interact_url"`
	ClientNonce string       `json:"client_nonce"`
	ServerNonce string       `json:"server_nonce"`         // interact.finish
	FinishURI   string       `json:"finish_uri,omitempty"` // empty: the server is polled
	Since       time.Time    `json:"since"`
	NotBefore   time.Time    `json:"not_before"` // the server asked for a pause
}

func pendingError(name, mount string) error {
	return refuse("grant %q waits for its owner's consent: the owner opens the interact_url that a read of %sgrants/%s tells, then write %sgrants/%s/continue", name, mount, name, mount, name)
}

// grant is what there is of it to cancel.
func (p *pending) grant() *grant { return &grant{source: p.Source, Continue: p.Continue} }

// next says what there is to do for a consent.
func (p *pending) next() string {
	if p.FinishURI == "" {
		return "the owner opens interact_url and decides; then poll with a write to continue, without fields"
	}
	return "the owner opens interact_url and decides; then write the URL that the browser was sent to, as redirect, to continue"
}

// reply is what came back from the owner: the finish redirect's parameters.
// Without a reference the server is polled.
type reply struct {
	ref, hash string
	result    string // why there is no reference
	landed    string // where the browser was sent to, without the query
	resumed   bool   // ref comes from an open intent: its hash was checked
}

// parseReply reads a reply, or takes apart the URL that the owner's browser
// landed on.
func parseReply(ref, hash, redirect string) (reply, error) {
	if redirect == "" {
		if (ref == "") != (hash == "") {
			return reply{}, refuse("hash: goes together with interact_ref; both are in the URL that the owner's browser was sent to")
		}
		return reply{ref: ref, hash: hash}, nil
	}
	if ref != "" || hash != "" {
		return reply{}, refuse("redirect: holds interact_ref and hash; give it alone")
	}
	u, err := url.Parse(redirect)
	if err != nil {
		return reply{}, refuse("redirect: must be the whole URL that the owner's browser was sent to")
	}
	// The finish URI's own parameters come first; the server's are the last.
	query := u.Query()
	last := func(name string) string {
		if all := query[name]; len(all) > 0 {
			return all[len(all)-1]
		}
		return ""
	}
	r := reply{ref: last("interact_ref"), hash: last("hash"), landed: uri.Origin(u) + u.Path}
	if r.ref == "" || r.hash == "" {
		r = reply{result: last("result"), landed: r.landed}
	}
	if r.ref == "" && r.result == "" {
		return reply{}, refuse("redirect: has neither interact_ref and hash nor a result in it")
	}
	return r, nil
}

// hashMatches checks the hash that proves that a reference comes from the
// authorization server and belongs to this interaction (RFC 9635 section
// 4.2.3). Rafiki encodes it in standard base64, the RFC in base64url.
func (p *pending) hashMatches(r reply) bool {
	base := strings.Join([]string{p.ClientNonce, p.ServerNonce, r.ref, strings.TrimSuffix(p.Source.AuthServer, "/")}, "\n")
	want := sha256.Sum256([]byte(base))
	text := strings.TrimRight(r.hash, "=")
	text = strings.NewReplacer(" ", "+", "-", "+", "_", "/").Replace(text) // a "+" that came through a query is a space
	got, err := base64.RawStdEncoding.DecodeString(text)
	return err == nil && subtle.ConstantTimeCompare(got, want[:]) == 1
}

// checkReply says what about a reply cannot be, before the server is asked.
func (p *pending) checkReply(r reply) error {
	switch finish, err := url.Parse(p.FinishURI); {
	case r.resumed:
		return nil
	case r.landed != "" && (err != nil || r.landed != uri.Origin(finish)+finish.Path):
		return refuse("redirect: is not the finish_uri that this grant was asked for with")
	case r.result != "":
		return nil
	case p.FinishURI != "" && r.ref == "":
		return refuse("interact_ref: is needed, with hash (or redirect): this grant was asked for with a finish_uri, and such grants cannot be polled")
	case p.FinishURI == "" && r.ref != "":
		return refuse("interact_ref: this grant was asked for without a finish_uri; write without fields to poll the server")
	case r.ref != "" && !p.hashMatches(r):
		return refuse("hash: does not belong to this reference and this grant; nothing was sent to the server")
	}
	return nil
}

// proceed continues a pending grant. It waits for the moment at which the server
// may be asked without holding the grant's lock.
func (b *Backend) proceed(ctx context.Context, req *logical.Request, name string, r reply) (*grant, error) {
	until := b.clock.Now().Add(consentPatience)
	for {
		g, again, err := b.proceedOnce(ctx, req, name, r)
		if err != nil || again.IsZero() {
			return g, err
		}
		if again.After(until) {
			return nil, refuse("the authorization server wants a pause until %s; write this again then", again.UTC().Format(time.RFC3339))
		}
		if err := b.sleep(ctx, again.Sub(b.clock.Now())); err != nil {
			return nil, err
		}
	}
}

// proceedOnce continues a pending grant, or answers when it may be tried again.
// A continuation is as irreversible as a rotation, and goes by the same steps.
func (b *Backend) proceedOnce(ctx context.Context, req *logical.Request, name string, r reply) (_ *grant, again time.Time, err error) {
	h, err := b.hold(ctx, req.Storage, name) // 1. lock
	if err != nil {
		return nil, again, err
	}
	defer h.release()
	g, err := h.load(ctx) // 2. load
	if err != nil {
		return nil, again, err
	}
	if g == nil || g.Pending == nil {
		return nil, again, refuse("grant %q does not wait for anybody's consent; write %sgrants/%s with access to ask for it", name, req.MountPoint, name)
	}
	if r == (reply{}) && g.Intent != nil && g.Intent.Ref != "" {
		r = reply{ref: g.Intent.Ref, resumed: true} // a crash came between
	}
	if err := g.Pending.checkReply(r); err != nil {
		return nil, again, err
	}
	c, err := client(ctx, req.Storage, req.MountPoint)
	if err != nil {
		return nil, again, err
	}
	now := b.clock.Now()
	if now.Before(h.failure.until) {
		return nil, again, h.failure.err
	}
	if r.result == "" && g.Pending.NotBefore.After(now) && !g.Pending.expired(now) {
		return nil, g.Pending.NotBefore, nil
	}
	heard := g.Intent != nil && g.Intent.Cause == causeConsent // an answer may have been lost
	a, err := h.consent(ctx, g, c, req.MountPoint, r.ref)      // 3. write the intent
	if err != nil {
		return nil, again, err
	}
	a.heard = heard
	ctx = context.WithoutCancel(ctx) // 4. detach
	switch {
	case g.Pending.expired(now):
		return nil, again, a.end(ctx, tooLate)
	case r.result == "grant_rejected":
		return nil, again, a.end(ctx, "its owner declined")
	case r.result != "":
		return nil, again, a.end(ctx, "the interaction with its owner has expired or was broken off")
	case !c.sameOrigin(g.Pending.Continue.URL, g.Pending.Source.AuthOrigin):
		return nil, again, a.end(ctx, "the authorization server named a continuation on another origin")
	}
	return a.run(ctx, r) // 5. call, 6. store; 7. unlock and answer
}

const tooLate = "its owner was not asked, or did not decide, in time"

func (p *pending) expired(now time.Time) bool { return now.Sub(p.Since) >= pendingTTL }

// consent writes the intent to do something about a pending grant.
func (h *hold) consent(ctx context.Context, g *grant, c *config, mount, ref string) (*consenting, error) {
	g.begin(causeConsent, h.b.clock.Now())
	g.Intent.Ref = ref
	if err := h.store(ctx, g); err != nil {
		return nil, err
	}
	return &consenting{attempt: attempt{hold: h, grant: g, port: h.b.port(c, g.Pending.Source.TypedHosts...), why: causeConsent, mount: mount}}, nil
}

// consenting is an attempt to continue a pending grant.
type consenting struct {
	attempt
	heard bool // the server may have heard an earlier request whose answer was lost
}

func (a *consenting) run(ctx context.Context, r reply) (_ *grant, again time.Time, err error) {
	p := a.grant.Pending
	out, err := a.insist(ctx, r)
	if err != nil {
		return nil, again, a.fail(ctx, err)
	}
	switch out := out.(type) {
	case done:
		g, err := a.granted(ctx, out)
		return g, again, err
	case waiting:
		p.Continue = out.Continue
		g, err := a.pause(ctx, out.Wait)
		return g, again, err
	case failed:
		if out.Code == "too_fast" {
			_, err := a.pause(ctx, 0)
			return nil, p.NotBefore, err
		}
		return nil, again, a.refused(ctx, out, r)
	}
	return nil, again, errors.New("unknown outcome")
}

// insist sends the request until there is an answer that decides.
func (a *consenting) insist(ctx context.Context, r reply) (outcome, error) {
	begun := a.b.clock.Now()
	retry := backoff.NewBackoff(math.MaxInt, retryMin, retryMax)
	for {
		out := a.port.proceed(ctx, a.grant.Pending.Continue, r.ref)
		f, isFailed := out.(failed)
		if !isFailed || decides(f) {
			return out, nil
		}
		if f.Code == "invalid_client" {
			if err := a.keyMissing(ctx); err != nil {
				return nil, err
			}
		}
		a.heard = a.heard || f.maybeHeard()
		pause, _ := retry.Next()
		if a.b.clock.Since(begun)+pause > insistence {
			return nil, serverError(f)
		}
		if err := a.rest(ctx, pause); err != nil {
			return nil, err
		}
	}
}

// decides tells whether an answer says something about the interaction, so that
// there is no point in asking again.
func decides(f failed) bool {
	switch f.Code {
	case "too_fast", "request_denied", "invalid_continuation", "user_denied", "unknown_interaction", "invalid_request":
		return f.Status/100 == 4
	}
	return false
}

// refused deals with an answer that is none of the good ones.
func (a *consenting) refused(ctx context.Context, f failed, r reply) error {
	switch {
	case a.heard && f.Code != "invalid_request":
		// The reference is used up because an earlier request was heard. What
		// was granted then is of no use to anybody, and counts against limits.
		return a.end(ctx, "the authorization server's answer to the consent was lost")
	case f.Code == "invalid_continuation" && f.Status == http.StatusNotFound:
		if _, err := a.pause(ctx, 0); err != nil {
			return err
		}
		return refuse("interact_ref: the authorization server does not know this reference")
	case f.Code == "request_denied" && r.ref != "":
		// Whoever declines is sent back without a reference.
		return a.end(ctx, "the reference was used already")
	case f.Code == "request_denied" || f.Code == "user_denied":
		return a.end(ctx, "its owner declined")
	case f.Code == "invalid_request":
		if _, err := a.pause(ctx, 0); err != nil {
			return err
		}
		return serverError(f)
	}
	return a.end(ctx, "the authorization server no longer knows the interaction")
}

// granted stores what the owner has consented to, and then ends the grant that
// was in its place.
func (a *consenting) granted(ctx context.Context, token done) (*grant, error) {
	former, next := *a.grant, *a.grant
	former.Pending = nil
	next.source, next.Continue, next.Manage = a.grant.Pending.Source, a.grant.Pending.Continue, ""
	next.Access, next.Interactive, next.Pending = next.Requested, true, nil
	next.accept(token, string(causeConsent))
	g, err := a.keepAll(ctx, &next)
	if err == nil && former.Status == statusActive {
		if err := a.b.port(a.port.client, former.TypedHosts...).cancelGrant(ctx, &former, a.mount); err != nil {
			a.b.Logger().Warn("the former grant is replaced, but could not be cancelled", "grant", a.name, "error", err)
		}
	}
	return g, err
}

// pause stores that the grant goes on waiting, without the intent: the server has
// answered, and nothing is used up.
func (a *consenting) pause(ctx context.Context, wait time.Duration) (*grant, error) {
	if wait == 0 {
		wait = defaultWait
	}
	next := *a.grant
	still := *a.grant.Pending
	still.NotBefore = a.b.clock.Now().Add(wait)
	next.Pending, next.Intent = &still, nil
	if err := a.replace(ctx, &next); err != nil {
		return nil, err
	}
	a.grant.Pending.NotBefore = still.NotBefore
	return &next, nil
}

// end gives the interaction up: what was begun is cancelled, and what is stored
// besides it goes on; if that is nothing, the grant is lost.
func (a *consenting) end(ctx context.Context, why string) error {
	next := *a.grant
	next.Pending, next.Intent = nil, nil
	next.LastFailure = event{At: a.b.clock.Now(), Cause: why}
	if next.Status == statusPending {
		next.Status, next.Lost = statusLost, next.LastFailure
	}
	if err := a.replace(ctx, &next); err != nil {
		return err
	}
	a.withdraw(ctx, a.grant.Pending)
	return refuse("%s: the owner has to be asked again; write %sgrants/%s with access", why, a.mount, a.name)
}

// await stores that the owner is being asked.
func (a *asking) await(ctx context.Context, i interaction) (*grant, error) {
	if i.Redirect == "" || i.Continue.URL == "" {
		a.undo(ctx)
		return nil, logical.CodedError(http.StatusBadGateway, fmt.Sprintf("the authorization server %s wants the owner's consent, but does not say where", a.grant.AuthOrigin))
	}
	now := a.b.clock.Now()
	next := *a.grant
	if a.old != nil {
		next = *a.old
		next.Settings, next.Spent = a.grant.Settings, a.grant.Spent
	}
	if next.Token == "" || next.Status != statusActive {
		next.Status = statusPending
	}
	next.Intent, a.failure = nil, failure{}
	next.Pending = &pending{
		Source: a.grant.source, Continue: i.Continue, InteractURL: i.Redirect,
		ServerNonce: i.Finish, Since: now, NotBefore: now.Add(i.Wait),
	}
	if a.finish != nil {
		next.Pending.ClientNonce, next.Pending.FinishURI = a.finish.Nonce, a.finish.URI
	}
	if err := a.replace(ctx, &next); err != nil {
		a.cancelQuietly(ctx, i.Continue)
		return nil, err
	}
	if a.old != nil && a.old.Pending != nil {
		a.withdraw(ctx, a.old.Pending)
	}
	return &next, nil
}

// withdraw cancels what an owner was being asked for, if that can be done.
func (a *attempt) withdraw(ctx context.Context, p *pending) {
	if err := a.b.port(a.port.client, p.Source.TypedHosts...).cancelGrant(ctx, p.grant(), a.mount); err != nil {
		a.b.Logger().Warn("what an owner was being asked for could not be cancelled", "grant", a.name, "error", err)
	}
}
