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

// lease is a token with Vault's lease of it.
type lease struct {
	Token
	id        string
	renewable bool
	due       time.Time // when the next token is to be got
	ends      time.Time // when this one must not be used any more
	used      bool      // since it was got
}

// newLease reads Vault's answer to a read or a renewal that was sent at a time. The
// lease began after that, so it is over here before it is at Vault, and there before
// the token is; the two clocks need not agree.
func newLease(secret *api.Secret, sent time.Time) (*lease, error) {
	if secret == nil {
		return nil, errors.New("there is nothing; is the secrets engine mounted there?")
	}
	l := &lease{id: secret.LeaseID, renewable: secret.Renewable}
	raw, err := json.Marshal(secret.Data)
	if err != nil || json.Unmarshal(raw, &l.Token) != nil || l.Value == "" || l.id == "" {
		return nil, errors.New("the answer is none of an Open Payments secrets engine")
	}
	life := time.Duration(secret.LeaseDuration) * time.Second
	l.due, l.ends = sent.Add(life*2/3), sent.Add(life)
	return l, nil
}

// holds tells whether a lease's token is the one that was refused: of a shared grant
// several leases hold the same.
func (l *lease) holds(refused *lease) bool { return refused != nil && l.Value == refused.Value }

// flight is a renewal or a read that is under way. There is one at a time: unless
// the grant is shared, each kills the token that the one before has got.
type flight struct {
	begun   time.Time
	awaited bool          // somebody waits for it
	done    chan struct{} // closed at its end, after lease and err were set
	lease   *lease
	err     error
}

// live answers the lease to use. Where there is none, or where its token was
// refused (nil: none was), it waits for the next.
func (c *Client) live(ctx context.Context, refused *lease) (*lease, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", c.tokenPath, err)
	}
	asked := time.Now()
	for {
		l, f, err := c.current(refused)
		if f == nil {
			return l, err
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for %s: %w", c.tokenPath, ctx.Err())
		}
		// A read of a shared grant that was under way already may have been answered
		// before another reader got the next token.
		if f.err != nil || !f.begun.Before(asked) || !f.lease.holds(refused) {
			return f.lease, f.err
		}
	}
}

// current answers the lease to use, or else the flight to wait for.
func (c *Client) current(refused *lease) (*lease, *flight, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.lease
	switch {
	case c.closed:
		return nil, nil, fmt.Errorf("read %s: %w", c.tokenPath, ErrClosed)
	case l != nil && !l.holds(refused) && time.Now().Before(l.ends):
		l.used = true
		c.refresh()
		return l, nil, nil
	case c.flight == nil && c.failing.lasts():
		return nil, nil, c.failure
	}
	f := c.begin(nil)
	f.awaited = true
	return nil, f, nil
}

// refresh begins to get the next token if it is due and this one is in use.
// Nobody waits for it. The caller holds the lock.
func (c *Client) refresh() {
	l, now := c.lease, time.Now()
	if c.closed || l == nil || !l.used || now.Before(l.due) || !now.Before(l.ends) || c.failing.lasts() {
		return
	}
	c.begin(l)
}

// begin begins a flight, unless one is under way: with a renewal if there is a
// lease for it. It does not end with the caller who began it, for a rotation goes
// on and kills the token before it, whether its answer is seen or not. The caller
// holds the lock.
func (c *Client) begin(renewed *lease) *flight {
	if c.flight == nil {
		c.flight = &flight{begun: time.Now(), done: make(chan struct{})}
		go c.fly(c.flight, renewed)
	}
	return c.flight
}

func (c *Client) fly(f *flight, renewed *lease) {
	f.lease, f.err = c.next(renewed)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flight = nil
	if f.err != nil {
		c.failure = f.err
		c.failing.begin()
	} else {
		c.lease = f.lease
		c.lease.used = f.awaited
		c.failing.end()
	}
	c.arm()
	close(f.done)
}

// arm sets the timer for the next refresh. The caller holds the lock.
func (c *Client) arm() {
	if c.timer != nil {
		c.timer.Stop()
	}
	if c.closed || c.lease == nil {
		return
	}
	at := c.lease.due
	if c.failing.until.After(at) {
		at = c.failing.until
	}
	c.timer = time.AfterFunc(time.Until(at), func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.refresh()
	})
}

// next gets the next token. A renewal fails if another reader got a token, or at
// the lease's max_ttl, or its answer was lost: a read helps in each case.
func (c *Client) next(renewed *lease) (*lease, error) {
	if renewed != nil && renewed.renewable {
		if l := c.renew(renewed); l != nil {
			return l, nil
		}
	}
	sent := time.Now()
	secret, err := c.vault.Logical().ReadWithContext(context.Background(), c.tokenPath)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", c.tokenPath, err)
	}
	l, err := newLease(secret, sent)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", c.tokenPath, err)
	}
	return l, nil
}

// renew renews a lease, and answers nil if that fails. A LifetimeWatcher renews when it is started, which would
// kill a token that was just read, and later without a word before. So it is
// started when a renewal is due and stopped after it: then it is known when one is
// under way, and who is refused meanwhile waits for its answer and does not read.
func (c *Client) renew(l *lease) *lease {
	watcher, err := c.vault.NewLifetimeWatcher(&api.LifetimeWatcherInput{
		// Without a duration: when Vault denies a renewal, a watcher does not tell
		// before the lease is nearly over.
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
		if renewed, err := newLease(renewal.Secret, sent); err == nil {
			return renewed
		}
	case <-watcher.DoneCh(): //nolint:errcheck // Whatever it is, a read comes next.
	}
	return nil
}

// pause is how long something that has failed is left alone.
type pause struct {
	growth *backoff.ExponentialBackOff
	until  time.Time
}

func newPause() pause {
	return pause{growth: backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(time.Second),
		backoff.WithMultiplier(2),
		backoff.WithMaxInterval(30*time.Second),
		backoff.WithMaxElapsedTime(0), // it never gives up
	)}
}

// begin begins a pause, a longer one than before.
func (p *pause) begin() { p.until = time.Now().Add(p.growth.NextBackOff()) }

func (p *pause) end() {
	p.growth.Reset()
	p.until = time.Time{}
}

func (p *pause) lasts() bool { return time.Now().Before(p.until) }
