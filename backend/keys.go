// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

const (
	keysPrefix = "keys/"
	keyVersion = 1

	keyPending  = "pending"  // made, and not used before the client's wallet publishes it
	keyActive   = "active"   // config's
	keyRetiring = "retiring" // not used any more, and still to be published for a while

	defaultRetireAfter = 24 * time.Hour
)

// clientKey is a stored key besides the active one, which is in config.
type clientKey struct {
	Version     int           `json:"version"`
	KeyID       string        `json:"key_id"`
	PrivateKey  string        `json:"private_key"` // PEM, PKCS#8
	State       string        `json:"state"`
	CreatedAt   time.Time     `json:"created_at"`
	RetireAfter time.Duration `json:"retire_after"` // pending: how long the key before it retires
	RetiresAt   time.Time     `json:"retires_at"`   // retiring: when it is destroyed
}

// newPrivateKey makes a key, as PEM.
func newPrivateKey() (string, error) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return "", fmt.Errorf("make a key: %w", err)
	}
	return encodePrivateKey(key)
}

func encodePrivateKey(key ed25519.PrivateKey) (string, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", fmt.Errorf("encode the key: %w", err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), nil
}

func newKeyID() string { return "vault-" + strings.ToLower(newID()[:12]) }

// publicJWK is a key as the client's wallet publishes it in its jwks.json
// (RFC 8037; json-web-key of the wallet address OpenAPI document).
func publicJWK(keyID, privateKey string) (map[string]any, error) {
	key, err := parsePrivateKey("private_key", privateKey)
	if err != nil {
		return nil, err
	}
	return map[string]any{
		"kid": keyID,
		"alg": "EdDSA",
		"use": "sig",
		"kty": "OKP",
		"crv": "Ed25519",
		"x":   base64.RawURLEncoding.EncodeToString(key.Public().(ed25519.PublicKey)),
	}, nil
}

// loadKeys reads the keys besides the active one. One that bears the active
// one's id is what a crash has left of its becoming active.
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
			return nil, fmt.Errorf("the stored key %q is damaged, or was written by a newer version of the engine", id)
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

// activate makes a pending key the one that signs. The one before it is stored as
// retiring first: whatever a crash leaves, config says which is active.
func (b *Backend) activate(ctx context.Context, s logical.Storage, c *config, k *clientKey) error {
	now := b.clock.Now()
	old := &clientKey{Version: keyVersion, KeyID: c.KeyID, PrivateKey: c.PrivateKey, State: keyRetiring, CreatedAt: c.KeyCreatedAt, RetiresAt: now.Add(k.RetireAfter)}
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

// tend uses a pending key once the client's wallet publishes it, and destroys
// retired ones. force does not ask the wallet. The caller holds configMu.
func (b *Backend) tend(ctx context.Context, s logical.Storage, c *config, force bool) error {
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
		as := *c
		as.KeyID, as.PrivateKey = k.KeyID, k.PrivateKey
		published, err := b.port(&as).keyPublished(ctx)
		if err != nil {
			return fmt.Errorf("whether the client's wallet publishes the pending key cannot be told: %w", err)
		}
		if !published {
			return nil
		}
	}
	return b.activate(ctx, s, c, k)
}

// tendKeys looks after the client's keys in the background.
func (b *Backend) tendKeys(ctx context.Context, s logical.Storage) error {
	b.configMu.Lock()
	defer b.configMu.Unlock()
	c, err := loadConfig(ctx, s)
	if err != nil || c == nil {
		return err
	}
	return b.tend(ctx, s, c, false)
}
