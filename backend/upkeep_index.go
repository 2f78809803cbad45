// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// When there is something to do about a grant is in an index in storage, so that a tick costs what is
// due and not what is stored:
//
//	keepalive/HOUR/MMSS-NAME  a slot: when the grant is checked (HOUR since 1970)
//	keepalive/cursor          the first hour that is not done yet
//
// A write of a grant puts a slot only if there is something to do earlier than before. So reads,
// renewals and revocations leave the index alone: a grant that has been rotated since is moved when its
// slot comes. A slot is put before the grant's entry, and before the slot that it follows is deleted. So
// a crash may leave one too many, which soon coincides with the right one, since slots follow from what
// is stored; it never leaves one too few.
const (
	keepalivePrefix = "keepalive/"
	cursorKey       = keepalivePrefix + "cursor"

	slotTime = "0405" // minute and second
)

func hourOf(t time.Time) int64 { return t.Unix() / 3600 }

func hourPrefix(hour int64) string { return fmt.Sprintf("%s%010d/", keepalivePrefix, hour) }

// slotKey names the first slot after a time. The name holds when the grant is due, so that a
// listing is enough to pass over the others.
func slotKey(at time.Time, name string) string {
	at = at.UTC().Truncate(time.Second).Add(time.Second)
	return hourPrefix(hourOf(at)) + at.Format(slotTime) + "-" + name
}

// slot is what an entry of the index holds.
type slot struct {
	Failures uint `json:"failures"` // in a row
}

func listSlots(ctx context.Context, s logical.Storage, hour int64) ([]string, error) {
	slots, err := s.List(ctx, hourPrefix(hour))
	if err != nil {
		return nil, fmt.Errorf("list the grants that are due: %w", err)
	}
	return slots, nil
}

// schedule puts a grant into the index that is about to be stored, if there is something to do about
// it before the slot that the stored one (nil: none) has, and returns the slot's key. If the clock was set
// back since, that slot is not where it would be put now.
func (l *grantLock) schedule(ctx context.Context, stored, g *grant) (string, error) {
	now := l.b.clock.Now()
	at, before := nextCheck(g, now), nextCheck(stored, now)
	setBack := stored != nil && stored.lastActivity().After(now)
	if at.IsZero() || !setBack && !before.IsZero() && !at.Before(before) {
		return "", nil
	}
	return l.putSlot(ctx, at, slot{})
}

// putSlot returns errors as they are: logical.ErrReadOnly makes Vault forward the request. No slot is put
// before the cursor, where nobody would look once a clock that was set back is right again.
func (l *grantLock) putSlot(ctx context.Context, at time.Time, s slot) (string, error) {
	if from := time.Unix(l.b.cursor.Load()*3600, 0); at.Before(from) {
		at = from
	}
	key := slotKey(at, l.name)
	entry, err := logical.StorageEntryJSON(key, s)
	if err != nil {
		return "", fmt.Errorf("encode the index: %w", err)
	}
	return key, l.storage.Put(ctx, entry)
}

// failures reads how often the grant could not be kept alive.
func (l *grantLock) failures(ctx context.Context, key string) (uint, error) {
	var s slot
	entry, err := l.storage.Get(ctx, key)
	if err != nil {
		return 0, fmt.Errorf("read how often the grant could not be kept alive: %w", err)
	}
	if entry != nil {
		_ = entry.DecodeJSON(&s) // a damaged one counts for nothing
	}
	return s.Failures, nil
}

// hoursToCheck lists the hours that may hold slots, up to now's. The one before from is among them,
// because the clocks of nodes differ. If from is not known, all hours are listed once, for which some
// storages read the whole index. If it is ahead of now, the clock was set back, and slots may be
// anywhere: then the hours to come are listed as well.
func hoursToCheck(ctx context.Context, s logical.Storage, now, from int64, known bool) (hours []int64, err error) {
	if known && from <= now {
		for hour := from - 1; hour <= now; hour++ {
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
		if err == nil && (hour < now || known && hour > now) {
			hours = append(hours, hour)
		}
	}
	slices.Sort(hours)
	return hours, nil
}

// cursor is where checking the index goes on. (A bare number would not do: the SDK takes an entry
// that begins with a 4 for one that is compressed.)
type cursor struct {
	Hour int64 `json:"hour"`
}

// loadCursor returns the first hour that is not done, if that is known.
func loadCursor(ctx context.Context, s logical.Storage) (hour int64, known bool, err error) {
	entry, err := s.Get(ctx, cursorKey)
	if err != nil {
		return 0, false, fmt.Errorf("read until when grants were checked: %w", err)
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
		return fmt.Errorf("store until when grants were checked: %w", err)
	}
	return nil
}
