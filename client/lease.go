// SPDX-License-Identifier: MPL-2.0

package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/hashicorp/vault/api"
)

// lease is a token and Vault's lease of it.
type lease struct {
	Token
	id          string
	ticket      string // what signing for a role takes besides the token
	renewable   bool
	refreshAt   time.Time // when to get the next token
	usableUntil time.Time
	used        bool // since it was issued
	replaced    bool // by another reader
}

// newLease parses Vault's response to a read or renewal that was sent at the given time. Vault
// starts the lease after that time, so here the lease ends before it ends at Vault, where it ends
// before the token does. This needs no agreement between the two clocks.
func (c *Client) newLease(secret *api.Secret, sent time.Time) (*lease, error) {
	if secret == nil {
		return nil, errors.New("there is nothing at this path: is the secrets engine mounted there?")
	}
	l := &lease{id: secret.LeaseID, renewable: secret.Renewable}
	l.ticket, _ = secret.Data["signing_ticket"].(string)
	raw, err := json.Marshal(secret.Data)
	if err != nil || json.Unmarshal(raw, &l.Token) != nil || l.Value == "" || l.id == "" {
		return nil, errNotTheEngine
	}
	if c.withTicket && l.ticket == "" {
		return nil, errNoTicket
	}
	ttl := time.Duration(secret.LeaseDuration) * time.Second
	l.refreshAt, l.usableUntil = sent.Add(ttl*2/3), sent.Add(ttl)
	return l, nil
}

var (
	errNotTheEngine = errors.New("the response does not come from an Open Payments secrets engine")
	errNoTicket     = errors.New("the response has no signing_ticket: this version of the secrets engine does not " +
		"sign for roles, so upgrade it")
)

// credentials returns the fields of op/sign that say which token to sign with.
func (l *lease) credentials() map[string]any {
	fields := map[string]any{"access_token": l.Value}
	if l.ticket != "" {
		fields["signing_ticket"] = l.ticket
	}
	return fields
}

// hasTokenOf reports whether both leases hold the same token: several leases of a shared grant do.
func (l *lease) hasTokenOf(other *lease) bool { return other != nil && l.Value == other.Value }

// refresh is a renewal or read in progress. There is one at a time: unless the grant is shared,
// each kills the token that the one before it returned.
type refresh struct {
	started time.Time
	awaited bool          // a caller waits for it
	done    chan struct{} // closed at the end, after lease and err have been set
	lease   *lease
	err     error
}

// usableLease returns a lease whose token can be used, and waits for the next one if there is none.
// If rejected is not nil, its token has been rejected and another one is needed.
func (c *Client) usableLease(ctx context.Context, rejected *lease) (*lease, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", c.tokenPath, err)
	}
	asked := time.Now()
	for {
		l, r, err := c.leaseOrRefresh(rejected)
		if r == nil {
			return l, err
		}
		select {
		case <-r.done:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for %s: %w", c.tokenPath, ctx.Err())
		}
		// If a read of a shared grant had already started, Vault may have answered it before
		// another reader got the next token: then it returns the rejected token again.
		if r.err != nil || !r.started.Before(asked) || !r.lease.hasTokenOf(rejected) {
			return r.lease, r.err
		}
	}
}

// leaseOrRefresh returns a usable lease, or else the refresh to wait for.
func (c *Client) leaseOrRefresh(rejected *lease) (*lease, *refresh, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.lease
	switch {
	case c.closed:
		return nil, nil, fmt.Errorf("read %s: %w", c.tokenPath, ErrClosed)
	case l != nil && !l.hasTokenOf(rejected) && time.Now().Before(l.usableUntil):
		l.used = true
		c.refreshIfDue()
		return l, nil, nil
	case c.refreshing == nil && c.reads.active():
		return nil, nil, c.readErr
	}
	r := c.startRefresh(nil)
	r.awaited = true
	return nil, r, nil
}

// refreshIfDue starts a refresh if it is time for one and the current token is in use. Nobody waits
// for it. The caller holds the lock.
func (c *Client) refreshIfDue() {
	l, now := c.lease, time.Now()
	if c.closed || l == nil || !l.used || now.Before(l.refreshAt) || !now.Before(l.usableUntil) || c.reads.active() {
		return
	}
	c.startRefresh(l)
}

// startRefresh starts a refresh, unless one is in progress. If renewed is not nil, the refresh
// renews that lease. It is independent of the caller's context: a rotation that has started
// completes and kills the previous token even if nobody waits for the response. The caller holds
// the lock.
func (c *Client) startRefresh(renewed *lease) *refresh {
	if c.refreshing == nil {
		c.refreshing = &refresh{started: time.Now(), done: make(chan struct{})}
		go c.runRefresh(c.refreshing, renewed)
	}
	return c.refreshing
}

func (c *Client) runRefresh(r *refresh, renewed *lease) {
	r.lease, r.err = c.nextLease(renewed)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refreshing = nil
	if r.err != nil {
		c.readErr = r.err
		c.reads.start()
	} else {
		c.lease = r.lease
		c.lease.used = r.awaited
		c.reads.reset()
	}
	c.scheduleRefresh()
	close(r.done)
}

// scheduleRefresh sets the timer for the next refresh. The caller holds the lock.
func (c *Client) scheduleRefresh() {
	if c.timer != nil {
		c.timer.Stop()
	}
	if c.closed || c.lease == nil {
		return
	}
	at := c.lease.refreshAt
	if c.reads.until.After(at) {
		at = c.reads.until
	}
	c.timer = time.AfterFunc(time.Until(at), func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.refreshIfDue()
	})
}

// readInterval is the least time from the beginning of a read that returns a token to the next read.
const readInterval = time.Second

// nextLease renews the given lease, if it can be renewed, and otherwise reads the token. A renewal
// fails if another reader has got a token, if the lease has reached its max_ttl, or if the response
// was lost: a read works in each of these cases.
func (c *Client) nextLease(renewed *lease) (*lease, error) {
	if renewed != nil && renewed.renewable {
		if l := c.renew(renewed); l != nil {
			return l, nil
		}
	}
	time.Sleep(time.Until(c.lastRead.Add(readInterval)))
	sent := time.Now()
	secret, err := c.vault.Logical().ReadWithContext(context.Background(), c.tokenPath)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", c.tokenPath, err)
	}
	l, err := c.newLease(secret, sent)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", c.tokenPath, err)
	}
	c.lastRead = sent
	return l, nil
}

// renew renews a lease, and returns nil if that fails. A LifetimeWatcher renews as soon as it is
// started, which would kill a token that was just read, and later it renews without announcing it.
// So renew starts a watcher when a renewal is due and stops it afterwards. That way the Client
// knows when a renewal is in progress, and a caller whose token is rejected meanwhile waits for the
// result instead of reading.
func (c *Client) renew(l *lease) *lease {
	watcher, err := c.vault.NewLifetimeWatcher(&api.LifetimeWatcherInput{
		// Without a duration: given one, a watcher reports a denied renewal only when the lease is
		// nearly over.
		Secret:        &api.Secret{LeaseID: l.id, Renewable: true},
		RenewBehavior: api.RenewBehaviorErrorOnErrors,
	})
	if err != nil {
		return nil
	}
	sent := time.Now()
	go watcher.Start()
	defer watcher.Stop()
	select {
	case renewal := <-watcher.RenewCh():
		if renewed, err := c.newLease(renewal.Secret, sent); err == nil {
			return renewed
		}
	case <-watcher.DoneCh(): //nolint:errcheck // Whatever the error is, a read comes next.
	}
	return nil
}

// backOff suspends an action that has failed: for a second, then for twice as long each time, up to
// half a minute.
type backOff struct {
	intervals *backoff.ExponentialBackOff
	until     time.Time
}

func newBackOff() backOff {
	return backOff{intervals: backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(time.Second),
		backoff.WithMultiplier(2),
		backoff.WithMaxInterval(30*time.Second),
		backoff.WithMaxElapsedTime(0), // it never gives up
	)}
}

// start suspends the action, for longer than the last time.
func (b *backOff) start() { b.until = time.Now().Add(b.intervals.NextBackOff()) }

func (b *backOff) reset() {
	b.intervals.Reset()
	b.until = time.Time{}
}

func (b *backOff) active() bool { return time.Now().Before(b.until) }
