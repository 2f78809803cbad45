// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
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

	keyUnreadable = "unreadable" // for another version; nothing but its id is known

	defaultRetireAfter = 24 * time.Hour
	// defaultActivateAfter is longer than servers are told to keep our jwks.json.
	defaultActivateAfter = 2 * time.Minute
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

	ActivateAfter time.Duration `json:"activate_after"` // pending: how long it must have been published
	SeenAt        time.Time     `json:"seen_at"`        // pending: since when it is known to be published
	Usable        bool          `json:"usable"`         // retiring: for servers with an older key set
}

// activeKey returns config's own key.
func (c *config) activeKey() *clientKey {
	return &clientKey{KeyID: c.KeyID, PrivateKey: c.PrivateKey, State: keyActive, CreatedAt: c.KeyCreatedAt}
}

func newKeyID() string { return "vault-" + strings.ToLower(newID()[:12]) }

// loadKeys reads the keys other than the active one. A key that bears the active one's id was left
// by a crash during its activation. Of a key that this version cannot read only the id is returned.
func loadKeys(ctx context.Context, s logical.Storage, c *config) ([]*clientKey, error) {
	ids, err := s.List(ctx, keysPrefix)
	if err != nil {
		return nil, fmt.Errorf("list the stored keys: %w", err)
	}
	var keys []*clientKey
	for _, id := range ids {
		k, err := loadKey(ctx, s, id)
		switch {
		case errors.Is(err, errUnreadable):
			keys = append(keys, &clientKey{KeyID: keyIDOf(id), State: keyUnreadable})
		case err != nil:
			return nil, err
		case k != nil && k.KeyID != c.KeyID:
			keys = append(keys, k)
		}
	}
	return keys, nil
}

// loadClientKeys reads the client and its keys; a nil client if none is configured.
func loadClientKeys(ctx context.Context, s logical.Storage) (*config, []*clientKey, error) {
	c, err := loadConfig(ctx, s)
	if err != nil || c == nil {
		return nil, nil, err
	}
	keys, err := loadKeys(ctx, s, c)
	return c, keys, err
}

// loadKey reads the stored key of a storage id; nil if it is gone.
func loadKey(ctx context.Context, s logical.Storage, id string) (*clientKey, error) {
	entry, err := s.Get(ctx, keysPrefix+id)
	if err != nil {
		return nil, fmt.Errorf("read a stored key: %w", err)
	}
	if entry == nil {
		return nil, nil
	}
	var k clientKey
	what := fmt.Sprintf("the stored key %q", keyIDOf(id))
	if err := decode(entry.Value, what, &k, &k.Version, keyVersion); err != nil {
		return nil, err
	}
	return &k, nil
}

// warnUnreadableKeys warns of stored keys that this version cannot read.
func warnUnreadableKeys(ctx context.Context, s logical.Storage, resp *logical.Response) {
	ids, _ := s.List(ctx, keysPrefix) // an error has been seen by loadKeys
	for _, id := range ids {
		if _, err := loadKey(ctx, s, id); errors.Is(err, errUnreadable) {
			resp.AddWarning(err.Error())
		}
	}
}

// storageKey names the entry: key ids may hold what storage cannot.
func (k *clientKey) storageKey() string {
	return keysPrefix + base64.RawURLEncoding.EncodeToString([]byte(k.KeyID))
}

// keyIDOf returns the key id that a storage id stands for, or that itself if it stands for none.
func keyIDOf(id string) string {
	keyID, err := base64.RawURLEncoding.DecodeString(id)
	if err != nil {
		return id
	}
	return string(keyID)
}

func (k *clientKey) store(ctx context.Context, s logical.Storage) error {
	entry, err := logical.StorageEntryJSON(k.storageKey(), k)
	if err != nil {
		return fmt.Errorf("encode the key: %w", err)
	}
	return s.Put(ctx, entry)
}

// readable returns the active key and those others that this version can read.
func (c *config) readable(others []*clientKey) []*clientKey {
	keys := append([]*clientKey{c.activeKey()}, others...)
	return slices.DeleteFunc(keys, func(k *clientKey) bool { return k.State == keyUnreadable })
}

// refuseNewerKeys returns an error if a newer version has stored a key.
func refuseNewerKeys(ctx context.Context, s logical.Storage) error {
	ids, err := s.List(ctx, keysPrefix)
	if err != nil {
		return fmt.Errorf("list the stored keys: %w", err)
	}
	for _, id := range ids {
		if _, err := loadKey(ctx, s, id); err != nil && !isDamaged(err) {
			return err
		}
	}
	return nil
}

func pendingKey(keys []*clientKey) *clientKey {
	for _, k := range keys {
		if k.State == keyPending {
			return k
		}
	}
	return nil
}

// retiringKey returns the key that was in use before the active one, if it may still be used; nil
// otherwise.
func retiringKey(ctx context.Context, s logical.Storage, c *config) (last *clientKey, err error) {
	keys, err := loadKeys(ctx, s, c)
	for _, k := range keys {
		if k.State == keyRetiring && k.Usable && (last == nil || k.RetiresAt.After(last.RetiresAt)) {
			last = k
		}
	}
	return last, err
}

// activate makes a pending key the one that signs. The key before it is stored as retiring first:
// whatever a crash leaves, config says which is active. A key that is replaced by force may have been
// stolen, and is never used again. The key of signing tickets is replaced, too, and first: a crash in
// between only replaces it twice.
func (b *Backend) activate(ctx context.Context, s logical.Storage, c *config, k *clientKey, force bool) error {
	if err := b.replaceTicketKey(ctx, s); err != nil {
		return err
	}
	now := b.clock.Now()
	old := c.activeKey()
	old.Version, old.State, old.RetiresAt, old.Usable = keyVersion, keyRetiring, now.Add(k.RetireAfter), !force
	if err := old.store(ctx, s); err != nil {
		return err
	}
	next := *c
	next.rememberReplacedKey()
	next.KeyID, next.PrivateKey, next.KeyCreatedAt, next.KeyChangedAt = k.KeyID, k.PrivateKey, k.CreatedAt, now
	err := next.store(ctx, s)
	b.clientChanged()
	if err != nil {
		return err
	}
	b.Logger().Info("the client signs with a new key", "key_id", k.KeyID, "before", old.KeyID)
	return s.Delete(ctx, k.storageKey())
}

// advanceKeys activates a pending key once the client's wallet has published it for long enough, and
// destroys retired ones. force does not ask the wallet, and does not wait.
func (b *Backend) advanceKeys(ctx context.Context, s logical.Storage, force bool) error {
	c, keys, err := loadClientKeys(ctx, s)
	if err != nil || c == nil {
		return err
	}
	if c.KeyChangedAt.After(b.clock.Now()) {
		if err := b.correctKeyChange(ctx, s); err != nil {
			return err
		}
	}
	k, published := pendingKey(keys), false
	var unknown error
	if k != nil && !force {
		next := *c
		next.KeyID, next.PrivateKey = k.KeyID, k.PrivateKey
		if published, unknown = b.clientFor(&next).KeyPublished(ctx); unknown != nil {
			unknown = fmt.Errorf("whether the client's wallet publishes the pending key cannot be told: %w", unknown)
		}
	}
	unlock, err := b.configMu.write(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := b.destroyRetired(ctx, s, keys); err != nil || k == nil || unknown != nil {
		return errors.Join(err, unknown)
	}
	return b.advancePending(ctx, s, k, published, force)
}

func (b *Backend) destroyRetired(ctx context.Context, s logical.Storage, keys []*clientKey) error {
	if err := b.destroyRetiredTicketKeys(ctx, s); err != nil {
		return err
	}
	for _, k := range keys {
		if k.State != keyRetiring || b.clock.Now().Before(k.RetiresAt) {
			continue
		}
		if err := s.Delete(ctx, k.storageKey()); err != nil {
			return err
		}
		b.Logger().Info("a retired key is destroyed", "key_id", k.KeyID)
	}
	return nil
}

// advancePending notes since when a pending key is published, and activates it in time. The caller
// holds configMu; what was read before is read again.
func (b *Backend) advancePending(ctx context.Context, s logical.Storage, k *clientKey, published, force bool) error {
	c, keys, err := loadClientKeys(ctx, s)
	if err != nil || c == nil {
		return err
	}
	now := b.clock.Now()
	current := pendingKey(keys)
	switch {
	case current == nil || current.KeyID != k.KeyID:
		return nil // somebody else was faster
	case force:
		return b.activate(ctx, s, c, current, true)
	case !published && current.SeenAt.IsZero():
		return nil
	case !published:
		current.SeenAt = time.Time{}
	case current.SeenAt.IsZero() || current.SeenAt.After(now):
		current.SeenAt = now
	}
	if published && now.Sub(current.SeenAt) >= current.ActivateAfter {
		return b.activate(ctx, s, c, current, false)
	}
	return current.store(ctx, s)
}

// maintainKeys advances the client's keys in the background.
func (b *Backend) maintainKeys(ctx context.Context, s logical.Storage) error {
	return b.advanceKeys(ctx, s, false)
}

// correctKeyChange takes the key to have changed now if it has changed in the future, because the clock
// was set back: rejections are doubted for an hour from now on, and not for longer.
func (b *Backend) correctKeyChange(ctx context.Context, s logical.Storage) error {
	unlock, err := b.configMu.write(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	c, err := loadConfig(ctx, s)
	if err != nil || c == nil || !c.KeyChangedAt.After(b.clock.Now()) {
		return err
	}
	c.KeyChangedAt = b.clock.Now()
	err = c.store(ctx, s)
	b.clientChanged()
	return err
}
