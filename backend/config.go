// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/authserver"
)

const (
	configKey     = "config"
	configVersion = 1

	defaultRequestTimeout = 10 * time.Second
	defaultMaxRequests    = 4
	maxMaxRequests        = 100

	// keyCacheTime is how long servers are taken to keep a copy of the client's key set.
	keyCacheTime = time.Hour
)

// config is the stored client and how it reaches servers.
type config struct {
	Version            int           `json:"version"`
	WalletAddress      string        `json:"wallet_address"`
	KeyID              string        `json:"key_id"`
	PrivateKey         string        `json:"private_key"` // PEM, PKCS#8
	KeyCreatedAt       time.Time     `json:"key_created_at"`
	RequestTimeout     time.Duration `json:"request_timeout"`
	CACert             string        `json:"ca_cert,omitempty"`
	EgressProxy        string        `json:"egress_proxy,omitempty"` // URL, with its password
	DefaultGrant       string        `json:"default_grant,omitempty"`
	AllowedAuthServers []string      `json:"allowed_auth_servers,omitempty"` // origins
	Verify             bool          `json:"verify"`
	MaxRequests        int           `json:"max_requests_per_server,omitempty"`
	KeyChangedAt       time.Time     `json:"key_changed_at,omitempty"` // when another key became this one
	ReplacedKeys       []replacedKey `json:"replaced_keys,omitempty"`
	Unpublished        bool          `json:"unpublished,omitempty"` // by any wallet: Vault has generated the key
}

func newConfig() *config {
	return &config{Version: configVersion, RequestTimeout: defaultRequestTimeout, Verify: true}
}

// identity returns the client as servers see it.
func (c *config) identity() authserver.Identity {
	return authserver.Identity{
		WalletAddress: c.WalletAddress, KeyID: c.KeyID, PrivateKey: c.PrivateKey,
		CACert: c.CACert, AllowedAuthServers: c.AllowedAuthServers, RequestTimeout: c.RequestTimeout,
		MaxRequestsPerServer: c.maxRequests(), EgressProxy: c.EgressProxy,
	}
}

// maxRequests returns max_requests_per_server, which an earlier version did not store.
func (c *config) maxRequests() int {
	if c.MaxRequests == 0 {
		return defaultMaxRequests
	}
	return c.MaxRequests
}

// keyChangedRecently reports whether a server may still have an older copy of the client's key set,
// and so reject a signature that is right. A change in the future counts, because nobody knows how long
// ago it was: the clock was set back.
func (c *config) keyChangedRecently(now time.Time) bool {
	return !c.KeyChangedAt.IsZero() && now.Sub(c.KeyChangedAt) < keyCacheTime
}

// clientFor returns what makes requests as the configured client. Hosts that an operator typed into
// a grant's own fields may be reached wherever they are.
func (b *Backend) clientFor(c *config, operatorHosts ...string) *authserver.Client {
	return b.network.Client(c.identity(), operatorHosts...)
}

// loadConfig reads the stored client; nil if there is none.
func loadConfig(ctx context.Context, s logical.Storage) (*config, error) {
	entry, err := s.Get(ctx, configKey)
	if err != nil {
		return nil, fmt.Errorf("read the stored config: %w", err)
	}
	if entry == nil {
		return nil, nil
	}
	var c config
	if err := decode(entry.Value, "the stored config", &c, &c.Version, configVersion); err != nil {
		return nil, err
	}
	return &c, nil
}

// loadClient reads the stored client, which every path but config itself needs.
func loadClient(ctx context.Context, s logical.Storage) (*config, error) {
	c, err := loadConfig(ctx, s)
	if err != nil {
		return nil, err
	}
	if c == nil {
		return nil, userErrorf(
			"no client is configured: write wallet_address, key_id and private_key to %s first",
			mountPath(ctx, configKey),
		)
	}
	return c, nil
}

// store returns errors as they are: logical.ErrReadOnly makes Vault forward the request.
func (c *config) store(ctx context.Context, s logical.Storage) error {
	entry, err := logical.StorageEntryJSON(configKey, c)
	if err != nil {
		return fmt.Errorf("encode the config: %w", err)
	}
	return s.Put(ctx, entry)
}

// clientChanged is called whenever config has been written, even without success. Every grant may
// try again at once.
func (b *Backend) clientChanged() {
	b.signers.forget()
	b.locks.forgetFailures()
}
