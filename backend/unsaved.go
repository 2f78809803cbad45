// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/authserver"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/deadline"
)

const (
	// saveTimeout is how long a caller waits for storage to accept an answer.
	saveTimeout  = 30 * time.Second
	saveInterval = time.Second
	saveAttempt  = 10 * time.Second
	// lastSaves is how often storage is tried after the engine was told to end.
	lastSaves = 10
)

// persistUnsaved stores the unsaved answer, trying for 30 s. If storage does not accept it, it
// stays in memory, and is stored before anything else happens to the grant. The place at the server is
// given back if that takes longer.
func (l *grantLock) persistUnsaved(ctx context.Context, place *authserver.Place) error {
	until := l.b.clock.Now().Add(saveTimeout)
	for {
		err := l.save(ctx)
		if err == nil {
			return nil
		}
		if errors.Is(err, errTakenOver) {
			return err
		}
		if !l.b.clock.Now().Before(until) {
			l.b.Logger().
				Error("the grant has a new token that could not be stored; it is kept in memory and stored as "+
					"soon as possible", "grant", l.name, "error", err)
			l.b.saveLater(l.storage, l.name)
			return errUnsaved
		}
		place.Leave()
		if err := l.b.sleep(ctx, saveInterval); err != nil {
			return err
		}
	}
}

// save stores an unsaved answer, over the entry that bears its intent and no other.
func (l *grantLock) save(ctx context.Context) error {
	ctx, stop := deadline.After(ctx, l.b.clock, saveAttempt)
	defer stop()
	u := l.entry.unsaved
	err := l.storeOver(ctx, &grant{Intent: &intent{ID: u.intentID}}, u.grant)
	if errors.Is(err, errTakenOver) {
		l.b.Logger().Error("another node has taken the grant over while its new token was on the way; the token is "+
			"dropped", "grant", l.name)
	}
	if err == nil || errors.Is(err, errTakenOver) {
		l.entry.unsaved = nil
	}
	return err
}

// storeOver stores a grant over an entry that bears owner's intent or, if owner has none, is owner's; and
// over no other. An entry that holds the grant already counts as stored: a write may succeed and
// report an error.
func (l *grantLock) storeOver(ctx context.Context, owner, next *grant) error {
	stored, err := l.look(ctx)
	switch {
	case err != nil:
		return err
	case stored.equals(next):
		return nil
	case owner.Intent != nil && !stored.hasIntent(owner.Intent.ID), owner.Intent == nil && !stored.equals(owner):
		return errTakenOver
	}
	if _, err := l.schedule(ctx, stored, next); err != nil {
		return err
	}
	return l.store(ctx, next)
}

// equals reports whether two grants have the same entry in storage.
func (g *grant) equals(other *grant) bool {
	one, err := json.Marshal(g)
	two, otherErr := json.Marshal(other)
	return g != nil && err == nil && otherErr == nil && bytes.Equal(one, two)
}

// saveLater goes on trying to store an unsaved answer, every second, for as long as the engine
// lives and a little longer.
func (b *Backend) saveLater(s logical.Storage, name string) {
	b.inFlight.work.Add(1) // the caller is in flight, so Clean still waits
	go func() {
		defer b.inFlight.end()
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

// saveNow reports whether nothing is left to save.
func (b *Backend) saveNow(ctx context.Context, s logical.Storage, name string) bool {
	err := b.surviving("save a grant's new token", func() error {
		l, err := b.lockGrant(ctx, s, name)
		if err != nil {
			return err
		}
		defer l.release()
		if l.entry.unsaved == nil {
			return nil
		}
		return l.save(ctx)
	})
	return err == nil || errors.Is(err, errTakenOver)
}
