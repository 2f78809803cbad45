// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/errgroup"
)

// Servers delete tokens some time after they expired (Rafiki: 30 days), and the
// grant with them. So a grant that nobody uses is rotated now and then.
//
// Which ones are due is told by an index in storage, so that a tick costs what is
// due and not what is stored:
//
//	keepalive/HOUR/MMSS-NAME  a slot: when the grant is looked at (HOUR since 1970)
//	keepalive/cursor          the first hour that is not done yet
//
// Reads, renewals and revocations leave it alone: a grant that has been rotated
// since is moved when its slot comes. A slot is put before the grant's entry, and
// before the slot that it follows is deleted. So a crash may leave one too many,
// which soon falls together with the right one, since slots follow from what is
// stored; it never leaves one too few.
const (
	keepalivePrefix = "keepalive/"
	cursorKey       = keepalivePrefix + "cursor"

	defaultKeepalive = 168 * time.Hour
	minKeepalive     = time.Minute

	// keptAtOnce is how many grants are rotated in the background at a time.
	keptAtOnce = 8

	keepaliveRetryMin, keepaliveRetryMax = 5 * time.Minute, 12 * time.Hour
)

// due is when a grant is to be rotated if nobody has done it by then. While its
// token lives, it is in use.
func (g *grant) due() time.Time {
	due := g.base().Add(g.Settings.Keepalive)
	if g.ExpiresAt.After(due) {
		due = g.ExpiresAt
	}
	return due.Add(g.spread())
}

// base is when a grant was last rotated, or written if it never was.
func (g *grant) base() time.Time {
	if g.LastRotation.At.After(g.CreatedAt) {
		return g.LastRotation.At
	}
	return g.CreatedAt
}

func (g *grant) spread() time.Duration { return spread(g.ID, g.Settings.Keepalive/10) }

// spread is a part of d, always the same for one seed: what was begun together
// is not due together.
func spread(seed string, d time.Duration) time.Duration {
	sum := fnv.New32a()
	_, _ = sum.Write([]byte(seed))
	return time.Duration(float64(sum.Sum32()) / (1 << 32) * float64(d))
}

// look decides what there is to do about a grant whose slot has come: rotate it, or
// look again at a later time; zero: never, it is gone or not to be kept alive. It
// is looked at every keepalive even if it is due much later: a lost grant may be
// found again, and the next token may live shorter than this one.
func look(g *grant, now time.Time) (rotate bool, again time.Time) {
	if g == nil || g.Settings.Keepalive == 0 {
		return false, time.Time{}
	}
	again = g.base().Add(g.Settings.Keepalive + g.spread())
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

// lookNext is when a grant is to be looked at next; zero: not at all.
func lookNext(g *grant, now time.Time) time.Time {
	rotate, again := look(g, now)
	if rotate {
		return now
	}
	return again
}

// retryAfter is how long a grant is left alone that could not be kept alive so
// many times in a row.
func retryAfter(name string, failures uint) time.Duration {
	delay := min(keepaliveRetryMin<<min(failures-1, 8), keepaliveRetryMax)
	return delay + spread(name, delay/4)
}

func hourOf(t time.Time) int64 { return t.Unix() / 3600 }

func hourPrefix(hour int64) string { return fmt.Sprintf("%s%010d/", keepalivePrefix, hour) }

// slotKey names the first slot after a time. It tells when the grant is due, so
// that a listing is enough to pass over the others.
func slotKey(at time.Time, name string) string {
	at = at.UTC().Truncate(time.Second).Add(time.Second)
	return hourPrefix(hourOf(at)) + at.Format("0405") + "-" + name
}

// slot is what an entry of the index holds.
type slot struct {
	Failures uint `json:"failures"` // in a row
}

// schedule puts a grant into the index that is about to be stored, if it is a new
// one or its keepalive has changed, and answers the slot's key.
func (h *hold) schedule(ctx context.Context, old, g *grant) (string, error) {
	now := h.b.clock.Now()
	at := lookNext(g, now)
	if at.IsZero() || old != nil && old.Settings.Keepalive == g.Settings.Keepalive {
		return "", nil
	}
	return h.putSlot(ctx, at, slot{})
}

// putSlot returns errors as they are: logical.ErrReadOnly makes Vault forward the
// request.
func (h *hold) putSlot(ctx context.Context, at time.Time, s slot) (string, error) {
	key := slotKey(at, h.name)
	entry, err := logical.StorageEntryJSON(key, s)
	if err != nil {
		return "", fmt.Errorf("encode the index: %w", err)
	}
	return key, h.storage.Put(ctx, entry)
}

// failures reads how often the grant could not be kept alive.
func (h *hold) failures(ctx context.Context, key string) (uint, error) {
	var s slot
	entry, err := h.storage.Get(ctx, key)
	if err != nil {
		return 0, fmt.Errorf("read how often the grant could not be kept alive: %w", err)
	}
	if entry != nil {
		_ = entry.DecodeJSON(&s) // a damaged one counts for nothing
	}
	return s.Failures, nil
}

// keepAlive looks at every grant whose slot has come.
func (b *Backend) keepAlive(ctx context.Context, s logical.Storage, mount string) error {
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
		slots, err := s.List(ctx, hourPrefix(hour))
		if err != nil {
			return fmt.Errorf("list the grants that are due: %w", err)
		}
		if len(slots) == 0 && hour == done && hour < hourOf(now) {
			done++
		}
		for _, one := range slots {
			when, name, found := strings.Cut(one, "-")
			if !found || hour == hourOf(now) && when > now.UTC().Format("0405") {
				continue
			}
			group.Go(func() error {
				b.keepOneAlive(ctx, s, mount, hourPrefix(hour)+one, name)
				return nil
			})
		}
	}
	if known && done == from {
		return nil
	}
	return storeCursor(ctx, s, done)
}

// hoursUntil lists the hours that may hold slots, up to now's. The one before from
// is among them: clocks of nodes differ. If from is not known, all hours are listed
// once, for which some storages read the whole index.
func hoursUntil(ctx context.Context, s logical.Storage, now, from int64, known bool) (hours []int64, err error) {
	if known {
		for hour := min(from, now) - 1; hour <= now; hour++ {
			hours = append(hours, hour)
		}
		return hours, nil
	}
	names, err := s.List(ctx, keepalivePrefix)
	if err != nil {
		return nil, fmt.Errorf("list the hours at which grants are due: %w", err)
	}
	hours = []int64{now}
	for _, name := range names {
		hour, err := strconv.ParseInt(strings.TrimSuffix(name, "/"), 10, 64)
		if err == nil && hour < now {
			hours = append(hours, hour)
		}
	}
	slices.Sort(hours)
	return hours, nil
}

// keepOneAlive deals with one slot. What cannot be dealt with stays for the next
// tick.
func (b *Backend) keepOneAlive(ctx context.Context, s logical.Storage, mount, key, name string) {
	h, err := b.hold(ctx, s, name)
	if err == nil {
		if !b.inFlight.isClosing() { // nothing is begun that Clean would have to wait for
			err = h.keepAlive(ctx, mount, key)
		}
		h.release()
	}
	if err != nil && !errors.Is(err, logical.ErrReadOnly) {
		b.Logger().Warn("whether the grant is to be kept alive could not be dealt with; it is looked at again in a minute", "grant", name, "error", err)
	}
}

func (h *hold) keepAlive(ctx context.Context, mount, key string) error {
	var again time.Time
	g, err := h.rotate(ctx, mount, causeKeepalive, func(g *grant) error {
		rotate, later := look(g, h.b.clock.Now())
		if rotate {
			return nil
		}
		again = later
		return errNothingToDo
	})
	var next slot
	switch {
	case err == nil:
		again = lookNext(g, h.b.clock.Now())
	case !errors.Is(err, errNothingToDo):
		h.b.Logger().Warn("the grant could not be kept alive", "grant", h.name, "error", err)
		if next.Failures, err = h.failures(ctx, key); err != nil {
			return err
		}
		next.Failures++
		again = h.b.clock.Now().Add(retryAfter(h.name, next.Failures))
	}
	if !again.IsZero() {
		put, err := h.putSlot(ctx, again, next)
		if err != nil || put == key { // the clock went back: it is not due after all
			return err
		}
	}
	return h.storage.Delete(ctx, key)
}

// cursor is where looking at the index goes on. (A bare number would not do: the
// SDK takes an entry that begins with a 4 for one that is compressed.)
type cursor struct {
	Hour int64 `json:"hour"`
}

// loadCursor answers the first hour that is not done, if that is known.
func loadCursor(ctx context.Context, s logical.Storage) (hour int64, known bool, err error) {
	entry, err := s.Get(ctx, cursorKey)
	if err != nil {
		return 0, false, fmt.Errorf("read until when grants were looked at: %w", err)
	}
	var c cursor
	known = entry != nil && entry.DecodeJSON(&c) == nil
	return c.Hour, known, nil
}

func storeCursor(ctx context.Context, s logical.Storage, hour int64) error {
	entry, err := logical.StorageEntryJSON(cursorKey, cursor{hour})
	if err == nil {
		err = s.Put(ctx, entry)
	}
	if err != nil {
		return fmt.Errorf("store until when grants were looked at: %w", err)
	}
	return nil
}
