// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// fetchTimeout is how long the sandbox waits for a client's wallet address.
const fetchTimeout = 2 * time.Second

var (
	errNoKey      = errors.New("the client's key cannot be fetched")
	errUnknownKey = fmt.Errorf("%w: its key set has no such key id", errNoKey)
)

// client is who asked for a grant: a wallet address, whose key set is fetched whenever the client
// signs, or a key that came with the request ("directed identity" in the OpenAPI document).
type client struct {
	wallet string
	key    *jwk
}

// name returns a string that identifies the client.
func (c client) name() string {
	if c.key != nil {
		return "jwk:" + c.key.X
	}
	return c.wallet
}

// jwk is a public Ed25519 key as the OpenAPI document defines it.
type jwk struct {
	KID string `json:"kid"`
	Alg string `json:"alg"`
	Use string `json:"use,omitempty"`
	KTY string `json:"kty"`
	CRV string `json:"crv"`
	X   string `json:"x"`
}

func newJWK(kid string, key ed25519.PublicKey) jwk {
	x := base64.RawURLEncoding.EncodeToString(key)
	return jwk{KID: kid, Alg: "EdDSA", Use: "sig", KTY: "OKP", CRV: "Ed25519", X: x}
}

// check returns an error that says what is wrong with the key.
func (k jwk) check() error {
	if k.KID == "" || k.Alg != "EdDSA" || k.KTY != "OKP" || k.CRV != "Ed25519" || (k.Use != "" && k.Use != "sig") {
		return errors.New(`a key needs "kid" and must have "alg":"EdDSA", "kty":"OKP" and "crv":"Ed25519"`)
	}
	if _, err := k.public(); err != nil {
		return err
	}
	return nil
}

func (k jwk) public() (ed25519.PublicKey, error) {
	x, err := base64.RawURLEncoding.DecodeString(k.X)
	if err != nil || len(x) != ed25519.PublicKeySize {
		return nil, fmt.Errorf(`"x" of a key must be %d bytes in base64url without padding`, ed25519.PublicKeySize)
	}
	return x, nil
}

// newFetcher returns the HTTP client that fetches documents of wallet addresses. It follows no
// redirects and keeps no connections, so each fetch sees the wallet address as it is now. It trusts
// roots, or the system's certificates if nil.
func newFetcher(roots *x509.CertPool) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DisableKeepAlives: true,
			TLSClientConfig:   &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// fetch fetches a JSON document; fetchTimeout limits the whole exchange.
func (s *Server) fetch(url string, into any) error {
	ctx, cancel := context.WithTimeout(s.running, fetchTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	request.Header.Set("Accept", "application/json")
	response, err := s.fetcher.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", response.StatusCode)
	}
	return json.NewDecoder(io.LimitReader(response.Body, maxBody)).Decode(into)
}

// publicKey returns the client's public key with that id, from the key set as it is published now
// or from the cached copy (Dialect.KeyCache).
func (s *Server) publicKey(c client, keyID string) (ed25519.PublicKey, error) {
	if c.key != nil {
		if c.key.KID != keyID {
			return nil, errUnknownKey
		}
		return c.key.public()
	}
	set, err := s.keySetOf(c.wallet)
	if err != nil {
		return nil, err
	}
	for _, raw := range set {
		var key jwk
		// A key that cannot be parsed belongs to somebody else and must not hide the others.
		if json.Unmarshal(raw, &key) == nil && key.KID == keyID && key.KTY == "OKP" && key.CRV == "Ed25519" {
			return key.public()
		}
	}
	return nil, errUnknownKey
}

// keySetOf returns the key set of a wallet address: the cached copy, if there is one, or else what
// it fetches.
func (s *Server) keySetOf(wallet string) ([]json.RawMessage, error) {
	keep := s.dialect.get().KeyCache
	now := s.now()
	if set, ok := s.keyCache.get(wallet, now.Add(-keep)); ok && keep > 0 {
		return set, nil
	}
	var document struct {
		Keys []json.RawMessage `json:"keys"`
	}
	// As at Rafiki, a wallet address with a trailing slash gives //jwks.json, which does not exist.
	if err := s.fetch(wallet+"/jwks.json", &document); err != nil {
		s.log.Info("the client's key set could not be fetched", "error", err)
		return nil, errNoKey
	}
	if keep > 0 {
		s.keyCache.put(wallet, document.Keys, now)
	}
	return document.Keys, nil
}

// keyCache holds fetched key sets by wallet address.
type keyCache struct {
	mu   sync.Mutex
	sets map[string]cachedKeys
}

type cachedKeys struct {
	keys    []json.RawMessage
	fetched time.Time
}

// get returns a key set that was fetched after the given time.
func (c *keyCache) get(wallet string, after time.Time) ([]json.RawMessage, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	set, ok := c.sets[wallet]
	return set.keys, ok && set.fetched.After(after)
}

func (c *keyCache) put(wallet string, keys []json.RawMessage, fetched time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sets == nil {
		c.sets = make(map[string]cachedKeys)
	}
	c.sets[wallet] = cachedKeys{keys, fetched}
}

func (c *keyCache) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sets = nil
}
