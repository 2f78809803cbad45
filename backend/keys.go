// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

const (
	keysPrefix = "keys/"
	keyVersion = 1

	keyPending  = "pending"  // generated, and not used before the client's wallet publishes it
	keyActive   = "active"   // config's
	keyRetiring = "retiring" // no longer used, and still to be published for a while

	defaultRetireAfter = 24 * time.Hour
)

// clientKey is a stored key other than the active one, which is in config.
type clientKey struct {
	Version     int           `json:"version"`
	KeyID       string        `json:"key_id"`
	PrivateKey  string        `json:"private_key"` // PEM, PKCS#8
	State       string        `json:"state"`
	CreatedAt   time.Time     `json:"created_at"`
	RetireAfter time.Duration `json:"retire_after"` // pending: how long the key before it retires
	RetiresAt   time.Time     `json:"retires_at"`   // retiring: when it is destroyed
}

// activeKey returns config's own key.
func (c *config) activeKey() *clientKey {
	return &clientKey{KeyID: c.KeyID, PrivateKey: c.PrivateKey, State: keyActive, CreatedAt: c.KeyCreatedAt}
}

func newKeyID() string { return "vault-" + strings.ToLower(newID()[:12]) }

// loadKeys reads the keys other than the active one. A key that bears the active one's id was left
// by a crash during its activation.
func loadKeys(ctx context.Context, s logical.Storage, c *config) ([]*clientKey, error) {
	ids, err := s.List(ctx, keysPrefix)
	if err != nil {
		return nil, fmt.Errorf("list the stored keys: %w", err)
	}
	var keys []*clientKey
	for _, id := range ids {
		entry, err := s.Get(ctx, keysPrefix+id)
		if err != nil {
			return nil, fmt.Errorf("read a stored key: %w", err)
		}
		if entry == nil {
			continue // gone since
		}
		var k clientKey
		if entry.DecodeJSON(&k) != nil || k.Version > keyVersion {
			return nil, fmt.Errorf("the stored key %q is damaged, or was written by a newer version of the "+
				"engine", id)
		}
		if k.KeyID != c.KeyID {
			keys = append(keys, &k)
		}
	}
	return keys, nil
}

// storageKey names the entry: key ids may hold what storage cannot.
func (k *clientKey) storageKey() string {
	return keysPrefix + base64.RawURLEncoding.EncodeToString([]byte(k.KeyID))
}

func (k *clientKey) store(ctx context.Context, s logical.Storage) error {
	entry, err := logical.StorageEntryJSON(k.storageKey(), k)
	if err != nil {
		return fmt.Errorf("encode the key: %w", err)
	}
	return s.Put(ctx, entry)
}

func pendingKey(keys []*clientKey) *clientKey {
	for _, k := range keys {
		if k.State == keyPending {
			return k
		}
	}
	return nil
}

// activate makes a pending key the one that signs. The key before it is stored as retiring first:
// whatever a crash leaves, config says which is active.
func (b *Backend) activate(ctx context.Context, s logical.Storage, c *config, k *clientKey) error {
	now := b.clock.Now()
	old := &clientKey{
		Version:    keyVersion,
		KeyID:      c.KeyID,
		PrivateKey: c.PrivateKey,
		State:      keyRetiring,
		CreatedAt:  c.KeyCreatedAt,
		RetiresAt:  now.Add(k.RetireAfter),
	}
	if err := old.store(ctx, s); err != nil {
		return err
	}
	next := *c
	next.KeyID, next.PrivateKey, next.KeyCreatedAt = k.KeyID, k.PrivateKey, k.CreatedAt
	err := next.store(ctx, s)
	b.clientChanged()
	if err != nil {
		return err
	}
	*c = next
	b.Logger().Info("the client signs with a new key", "key_id", k.KeyID, "before", old.KeyID)
	return s.Delete(ctx, k.storageKey())
}

// advanceKeys activates a pending key once the client's wallet publishes it, and destroys retired
// ones. force does not ask the wallet. The caller holds configMu.
func (b *Backend) advanceKeys(ctx context.Context, s logical.Storage, c *config, force bool) error {
	keys, err := loadKeys(ctx, s, c)
	if err != nil {
		return err
	}
	now := b.clock.Now()
	for _, k := range keys {
		if k.State == keyRetiring && !now.Before(k.RetiresAt) {
			if err := s.Delete(ctx, k.storageKey()); err != nil {
				return err
			}
			b.Logger().Info("a retired key is destroyed", "key_id", k.KeyID)
		}
	}
	k := pendingKey(keys)
	if k == nil {
		return nil
	}
	if !force {
		next := *c
		next.KeyID, next.PrivateKey = k.KeyID, k.PrivateKey
		published, err := b.clientFor(&next).KeyPublished(ctx)
		if err != nil {
			return fmt.Errorf("whether the client's wallet publishes the pending key cannot be told: %w", err)
		}
		if !published {
			return nil
		}
	}
	return b.activate(ctx, s, c, k)
}

// maintainKeys advances the client's keys in the background.
func (b *Backend) maintainKeys(ctx context.Context, s logical.Storage) error {
	b.configMu.Lock()
	defer b.configMu.Unlock()
	c, err := loadConfig(ctx, s)
	if err != nil || c == nil {
		return err
	}
	return b.advanceKeys(ctx, s, c, false)
}
