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

// What is done about grants in the background. Servers delete tokens some time after they expired
// (Rafiki: 30 days), and the grant with them: so a grant that nobody uses is rotated now and then.
// Former grants are cancelled, lost ones are tried again, and interactions with owners come to an end.
// When that is due is in an index: see upkeep_index.go.

const (
	// keptAtOnce is how many grants are worked on in the background at a time.
	keptAtOnce = 8

	keepaliveRetryMin, keepaliveRetryMax = 5 * time.Minute, 12 * time.Hour
)

// recoverAfter is when a lost grant is rotated again, counted from its loss: the server may have been
// wrong.
var recoverAfter = []time.Duration{time.Minute, 10 * time.Minute, time.Hour, 6 * time.Hour, 24 * time.Hour}

// task is what there is to do about a grant in the background.
type task int

const (
	taskKeepalive task = iota
	taskEndFormers
	taskInteraction
	taskRecover
)

// nextTask returns what there is to do about a grant next, and when: now, if it is due. The zero time
// means never.
func nextTask(g *grant, now time.Time) (next task, at time.Time) {
	if g == nil {
		return taskKeepalive, time.Time{}
	}
	next, at = taskKeepalive, keepaliveCheck(g, now)
	for _, other := range []struct {
		task task
		due  time.Time
	}{{taskEndFormers, formersDue(g)}, {taskInteraction, interactionDue(g, now)}, {taskRecover, recoverDue(g, now)}} {
		if !other.due.IsZero() && (at.IsZero() || other.due.Before(at)) {
			next, at = other.task, other.due
		}
	}
	if !at.IsZero() && at.Before(now) {
		at = now
	}
	return next, at
}

// nextCheck returns when there is something to do about a grant next; zero: never.
func nextCheck(g *grant, now time.Time) time.Time {
	_, at := nextTask(g, now)
	return at
}

// formersDue returns when the next former grant is to be cancelled.
func formersDue(g *grant) (due time.Time) {
	for _, e := range g.Formers {
		if due.IsZero() || e.TryAt.Before(due) {
			due = e.TryAt
		}
	}
	return due
}

// recoverDue returns when a lost grant is to be rotated again; a time in the future, which a clock has
// left that was set back, counts as now.
func recoverDue(g *grant, now time.Time) time.Time {
	if g.Status != statusLost || g.Manage == "" || g.Pending != nil || g.Ending || g.Recovered >= len(recoverAfter) {
		return time.Time{}
	}
	if g.Lost.At.After(now) {
		return now
	}
	return g.Lost.At.Add(recoverAfter[g.Recovered])
}

// due returns when a grant is to be rotated if nobody has done it by then. While its token lives, it
// is in use.
func (g *grant) due(now time.Time) time.Time {
	due := g.lastActivity().Add(g.Settings.Keepalive)
	if end := now.Add(g.remaining(now)); end.After(due) {
		due = end
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

// keepaliveAction decides whether a grant is to be rotated to keep it alive, or when that is to be
// decided again; zero: never, because it is gone or not to be kept alive. It is checked every
// keepalive even if it is due much later: a lost grant may be found again, and the next token may live
// shorter than this one.
func keepaliveAction(g *grant, now time.Time) (rotate bool, again time.Time) {
	if g == nil || g.Settings.Keepalive == 0 {
		return false, time.Time{}
	}
	again = g.lastActivity().Add(g.Settings.Keepalive + g.spread())
	late := now.Sub(again)
	if g.lastActivity().After(now) { // the clock was set back
		late = 0
	}
	if late >= 0 {
		again = now.Add(g.Settings.Keepalive - late%g.Settings.Keepalive)
	}
	if g.Status != statusActive || g.Interactive && g.Token != "" && g.Manage == "" {
		return false, again
	}
	switch due := g.due(now); {
	case !due.After(now), g.lastActivity().After(now):
		return true, time.Time{}
	case due.Before(again):
		again = due
	}
	return false, again
}

// keepaliveCheck returns when a grant is to be checked for keep-alive; zero: not at all.
func keepaliveCheck(g *grant, now time.Time) time.Time {
	rotate, again := keepaliveAction(g, now)
	if rotate {
		return now
	}
	return again
}

// retryAfter returns how long is waited after a number of failures in a row.
func retryAfter(name string, failures uint) time.Duration {
	delay := min(keepaliveRetryMin<<min(failures-1, 8), keepaliveRetryMax)
	return delay + spread(name, delay/4)
}

// upkeep does what is due about all grants. The cursor moves when the slots are where they belong.
func (b *Backend) upkeep(ctx context.Context, s logical.Storage) error {
	now := b.clock.Now()
	from, known, err := loadCursor(ctx, s)
	if err != nil {
		return err
	}
	setBack := known && from > hourOf(now)
	b.cursor.Store(min(from, hourOf(now)))
	hours, err := hoursToCheck(ctx, s, hourOf(now), from, known)
	if err != nil {
		return err
	}
	due, done, failed := dueSlots(ctx, s, hours, now, setBack)
	var group errgroup.Group
	group.SetLimit(keptAtOnce)
	for _, key := range due {
		if b.inFlight.isClosing() {
			break
		}
		group.Go(func() error {
			b.upkeepSlot(ctx, s, key)
			return nil
		})
	}
	_ = group.Wait()
	if failed != nil || b.inFlight.isClosing() || known && done == from {
		return failed
	}
	b.cursor.Store(done)
	return storeCursor(ctx, s, done)
}

// dueSlots returns the keys of the slots that are due, and the first hour that is not done. With an
// error it returns those of the hours before the one that could not be listed.
func dueSlots(
	ctx context.Context, s logical.Storage, hours []int64, now time.Time, setBack bool,
) (due []string, done int64, err error) {
	done = hours[0]
	for _, hour := range hours {
		slots, err := listSlots(ctx, s, hour)
		if err != nil {
			return due, done, err
		}
		if len(slots) == 0 && hour == done && hour < hourOf(now) {
			done++
		}
		for _, one := range slots {
			when, _, found := strings.Cut(one, "-")
			if found && (setBack || hour < hourOf(now) || when <= now.UTC().Format(slotTime)) {
				due = append(due, hourPrefix(hour)+one)
			}
		}
	}
	return due, min(done, hourOf(now)), nil
}

// upkeepSlot handles one slot. A slot that could not be handled stays for the next tick.
func (b *Backend) upkeepSlot(ctx context.Context, s logical.Storage, key string) {
	_, name, _ := strings.Cut(key, "-")
	err := b.surviving("work on a grant", func() error {
		l, err := b.lockGrant(ctx, s, name)
		if err != nil {
			return err
		}
		defer l.release()
		if b.inFlight.isClosing() { // nothing is begun that Clean would have to wait for
			return nil
		}
		return l.upkeep(ctx, key)
	})
	if err != nil && !errors.Is(err, logical.ErrReadOnly) {
		b.Logger().
			Warn("the background work on a grant could not be done; it is tried again in a "+
				"minute", "grant", name, "error", err)
	}
}

// upkeep does what is due about a grant, and moves its slot to where the next work is.
func (l *grantLock) upkeep(ctx context.Context, key string) error {
	g, failed := l.doDue(ctx)
	if isBusy(failed) {
		return failed
	}
	now := l.b.clock.Now()
	again := nextCheck(g, now)
	var next slot
	if failed != nil {
		l.b.Logger().Warn("the background work on a grant has failed", "grant", l.name, "error", failed)
		failures, err := l.failures(ctx, key)
		if err != nil {
			return err
		}
		next.Failures = failures + 1
		if g == nil || !again.IsZero() && !again.After(now) {
			again = now.Add(retryAfter(l.name, next.Failures))
		}
	}
	if !again.IsZero() {
		put, err := l.putSlot(ctx, again, next)
		if err != nil || put == key { // the clock went back: it is not due after all
			return err
		}
	}
	return l.storage.Delete(ctx, key)
}

// doDue does what is due about the grant, if anything is, and returns the grant as it is then; nil if it
// is gone, or with an error if it cannot be read.
func (l *grantLock) doDue(ctx context.Context) (*grant, error) {
	g, err := l.load(ctx)
	if err != nil {
		return nil, err
	}
	now := l.b.clock.Now()
	what, at := nextTask(g, now)
	if at.IsZero() || at.After(now) {
		return g, nil
	}
	failed := l.do(ctx, g, what)
	if g, err = l.look(ctx); err != nil {
		return nil, err
	}
	return g, failed
}

func (l *grantLock) do(ctx context.Context, g *grant, what task) error {
	switch what {
	case taskEndFormers:
		return l.endFormers(ctx, g)
	case taskInteraction:
		return l.workInteraction(ctx, g)
	case taskRecover:
		return l.recover(ctx)
	default:
		_, err := l.rotate(ctx, causeKeepalive, func(g *grant) (bool, error) {
			rotate, _ := keepaliveAction(g, l.b.clock.Now())
			return rotate, nil
		})
		return err
	}
}

// recover rotates a lost grant again. It counts the try first, so that a crash does not repeat it.
func (l *grantLock) recover(ctx context.Context) error {
	_, err := l.rotate(ctx, causeRecover, func(g *grant) (bool, error) {
		if due := recoverDue(g, l.b.clock.Now()); due.IsZero() || due.After(l.b.clock.Now()) {
			return false, nil
		}
		g.Recovered++
		return true, nil
	})
	if isUserError(err) {
		return nil // lost as before
	}
	return err
}

// endFormers cancels those former grants whose time has come, each at its server.
func (l *grantLock) endFormers(ctx context.Context, g *grant) error {
	c, err := loadClient(ctx, l.storage)
	if err != nil {
		return err
	}
	next := *g
	next.Formers = nil
	for _, e := range g.Formers {
		if now := l.b.clock.Now(); !e.TryAt.After(now) {
			err := l.b.endNow(ctx, c, e, true)
			if err == nil {
				l.b.Logger().Info("a former grant is cancelled", "grant", l.name, "auth_server", e.AuthOrigin)
				continue
			}
			e.Tries++
			e.TryAt = now.Add(retryAfter(l.name, e.Tries))
			l.b.Logger().Warn("a former grant could not be cancelled; it is tried again", "grant", l.name,
				"auth_server", e.AuthOrigin, "at", e.TryAt.UTC().Format(time.RFC3339), "error", err)
		}
		next.Formers = append(next.Formers, e)
	}
	return l.storeOver(ctx, g, &next)
}
