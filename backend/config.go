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
	configKey     = "config"
	configVersion = 1

	defaultRequestTimeout = 10 * time.Second
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
	DefaultGrant       string        `json:"default_grant,omitempty"`
	AllowedAuthServers []string      `json:"allowed_auth_servers,omitempty"` // origins
	Verify             bool          `json:"verify"`
}

func newConfig() *config {
	return &config{Version: configVersion, RequestTimeout: defaultRequestTimeout, Verify: true}
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
	if err := entry.DecodeJSON(&c); err != nil {
		return nil, fmt.Errorf("decode the stored config: %w", err)
	}
	if c.Version > configVersion {
		return nil, fmt.Errorf("the stored config was written by a newer version of the engine (layout %d)", c.Version)
	}
	return &c, nil
}

// client reads the stored client, which all but config itself needs.
func client(ctx context.Context, s logical.Storage, mount string) (*config, error) {
	c, err := loadConfig(ctx, s)
	if err != nil {
		return nil, err
	}
	if c == nil {
		return nil, refuse("no client is configured: write wallet_address, key_id and private_key to %sconfig first", mount)
	}
	return c, nil
}

// store returns errors as they are: logical.ErrReadOnly makes Vault forward
// the request.
func (c *config) store(ctx context.Context, s logical.Storage) error {
	entry, err := logical.StorageEntryJSON(configKey, c)
	if err != nil {
		return fmt.Errorf("encode the config: %w", err)
	}
	return s.Put(ctx, entry)
}

// clientChanged is to be called when config has been written, whatever came of it.
// Every grant may try again at once.
func (b *Backend) clientChanged() {
	b.signers.forget()
	b.holds.forgetFailures()
}

// parsePrivateKey reads an Ed25519 key from PEM (PKCS#8) or from base64 of that
// PEM. It never takes a file's name: the engine must not read files for others.
func parsePrivateKey(field, text string) (ed25519.PrivateKey, error) {
	text = strings.TrimSpace(text)
	if !strings.HasPrefix(text, "-----BEGIN") {
		decoded, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(text), ""))
		if err != nil || !strings.HasPrefix(string(decoded), "-----BEGIN") {
			return nil, refuse("%s: must be the PEM text of an Ed25519 key (PKCS#8), or base64 of it, not a file's name; the CLI reads a file with %s=@key.pem", field, field)
		}
		text = strings.TrimSpace(string(decoded))
	}
	block, rest := pem.Decode([]byte(text))
	switch {
	case block == nil:
		return nil, refuse("%s: the PEM text is damaged or cut off", field)
	case len(rest) > 0:
		return nil, refuse("%s: there is more than one block of PEM", field)
	case block.Type == "ENCRYPTED PRIVATE KEY":
		return nil, refuse("%s: the key is encrypted; decrypt it first", field)
	case block.Type == "PUBLIC KEY":
		return nil, refuse("%s: this is a public key; the private key is needed", field)
	case block.Type != "PRIVATE KEY":
		return nil, refuse("%s: must be PKCS#8 (BEGIN PRIVATE KEY); openssl pkcs8 -topk8 -nocrypt converts other forms", field)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, refuse("%s: the PEM text holds no valid PKCS#8 key", field)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, refuse("%s: must be an Ed25519 key (openssl genpkey -algorithm ed25519)", field)
	}
	return key, nil
}

// normalizePrivateKey answers the key as PEM text, which is all that the SDK is
// ever handed: it would read anything else as a file's name.
func normalizePrivateKey(field, text string) (string, error) {
	key, err := parsePrivateKey(field, text)
	if err != nil {
		return "", err
	}
	return encodePrivateKey(key)
}

// checkKeyID refuses ids that servers cannot find in a signature: it travels as
// a structured field's string (RFC 8941 section 3.3.3), and servers cut the
// header at semicolons.
func checkKeyID(field, id string) error {
	bad := func(r rune) bool { return r < ' ' || r > '~' || strings.ContainsRune(`";\`, r) }
	if id == "" || len(id) > 256 || strings.ContainsFunc(id, bad) {
		return refuse(`%s: up to 256 printable ASCII characters without '"', ';' and '\'`, field)
	}
	return nil
}

func checkCACert(field, text string) error {
	rest := []byte(strings.TrimSpace(text))
	for len(rest) > 0 {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" {
			return refuse("%s: must be PEM certificates (BEGIN CERTIFICATE)", field)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return refuse("%s: holds a certificate that cannot be read", field)
		}
		rest = []byte(strings.TrimSpace(string(rest)))
	}
	return nil
}
