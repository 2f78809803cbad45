// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"hash/fnv"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/errgroup"
)

// Servers delete tokens some time after they expired (Rafiki: 30 days), and the grant with them. So
// a grant that nobody uses is rotated now and then. Which ones are due is in an index: see
// keepalive_index.go.

const (
	// keptAtOnce is how many grants are rotated in the background at a time.
	keptAtOnce = 8

	keepaliveRetryMin, keepaliveRetryMax = 5 * time.Minute, 12 * time.Hour
)

// due returns when a grant is to be rotated if nobody has done it by then. While its token lives,
// it is in use.
func (g *grant) due() time.Time {
	due := g.lastActivity().Add(g.Settings.Keepalive)
	if g.ExpiresAt.After(due) {
		due = g.ExpiresAt
	}
	return due.Add(g.spread())
}

// lastActivity returns when a grant was last rotated, or written if it never was.
func (g *grant) lastActivity() time.Time {
	if g.LastRotation.At.After(g.CreatedAt) {
		return g.LastRotation.At
	}
	return g.CreatedAt
}

func (g *grant) spread() time.Duration { return spread(g.ID, g.Settings.Keepalive/10) }

// spread returns a part of d, always the same for one seed: what was begun together is not due
// together.
func spread(seed string, d time.Duration) time.Duration {
	sum := fnv.New32a()
	_, _ = sum.Write([]byte(seed))
	return time.Duration(float64(sum.Sum32()) / (1 << 32) * float64(d))
}

// keepaliveAction decides what there is to do about a grant whose slot has come: rotate it, or
// check it again at a later time; zero: never, because it is gone or not to be kept alive. It is
// checked every keepalive even if it is due much later: a lost grant may be found again, and the
// next token may live shorter than this one.
func keepaliveAction(g *grant, now time.Time) (rotate bool, again time.Time) {
	if g == nil || g.Settings.Keepalive == 0 {
		return false, time.Time{}
	}
	again = g.lastActivity().Add(g.Settings.Keepalive + g.spread())
	if late := now.Sub(again); late >= 0 {
		again = now.Add(g.Settings.Keepalive - late%g.Settings.Keepalive)
	}
	if g.Status != statusActive {
		return false, again
	}
	switch due := g.due(); {
	case !due.After(now):
		return true, time.Time{}
	case due.Before(again):
		again = due
	}
	return false, again
}

// nextCheck returns when a grant is to be checked next; zero: not at all.
func nextCheck(g *grant, now time.Time) time.Time {
	rotate, again := keepaliveAction(g, now)
	if rotate {
		return now
	}
	return again
}

// retryAfter returns how long a grant is left alone that could not be kept alive so many times in a
// row.
func retryAfter(name string, failures uint) time.Duration {
	delay := min(keepaliveRetryMin<<min(failures-1, 8), keepaliveRetryMax)
	return delay + spread(name, delay/4)
}

// keepAlive checks every grant whose slot has come.
func (b *Backend) keepAlive(ctx context.Context, s logical.Storage) error {
	now := b.clock.Now()
	from, known, err := loadCursor(ctx, s)
	if err != nil {
		return err
	}
	hours, err := hoursUntil(ctx, s, hourOf(now), from, known)
	if err != nil {
		return err
	}
	var group errgroup.Group
	group.SetLimit(keptAtOnce)
	defer func() { _ = group.Wait() }()
	done := hours[0]
	for _, hour := range hours {
		if b.inFlight.isClosing() {
			return nil
		}
		slots, err := listSlots(ctx, s, hour)
		if err != nil {
			return err
		}
		if len(slots) == 0 && hour == done && hour < hourOf(now) {
			done++
		}
		for _, one := range slots {
			when, name, found := strings.Cut(one, "-")
			if !found || hour == hourOf(now) && when > now.UTC().Format(slotTime) {
				continue
			}
			group.Go(func() error {
				b.keepOneAlive(ctx, s, hourPrefix(hour)+one, name)
				return nil
			})
		}
	}
	if known && done == from {
		return nil
	}
	return storeCursor(ctx, s, done)
}

// keepOneAlive handles one slot. A slot that could not be handled stays for the next tick.
func (b *Backend) keepOneAlive(ctx context.Context, s logical.Storage, key, name string) {
	l, err := b.lockGrant(ctx, s, name)
	if err == nil {
		if !b.inFlight.isClosing() { // nothing is begun that Clean would have to wait for
			err = l.keepAlive(ctx, key)
		}
		l.release()
	}
	if err != nil && !errors.Is(err, logical.ErrReadOnly) {
		b.Logger().
			Warn("the grant's keep-alive slot could not be handled; it is tried again in a "+
				"minute", "grant", name, "error", err)
	}
}

func (l *grantLock) keepAlive(ctx context.Context, key string) error {
	g, err := l.rotate(ctx, causeKeepalive, func(g *grant) (bool, error) {
		rotate, _ := keepaliveAction(g, l.b.clock.Now())
		return rotate, nil
	})
	var next slot
	again := nextCheck(g, l.b.clock.Now())
	if err != nil {
		l.b.Logger().Warn("the grant could not be kept alive", "grant", l.name, "error", err)
		if next.Failures, err = l.failures(ctx, key); err != nil {
			return err
		}
		next.Failures++
		again = l.b.clock.Now().Add(retryAfter(l.name, next.Failures))
	}
	if !again.IsZero() {
		put, err := l.putSlot(ctx, again, next)
		if err != nil || put == key { // the clock went back: it is not due after all
			return err
		}
	}
	return l.storage.Delete(ctx, key)
}
