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

// fetchTimeout is how long a client's wallet address may take to answer.
const fetchTimeout = 2 * time.Second

var (
	errNoKey      = errors.New("the client's key is not to be had")
	errUnknownKey = fmt.Errorf("%w: its key set has no such key id", errNoKey)
)

// client is who asked for a grant: a wallet address, whose key set is fetched whenever the client signs, or a key that
// came with the request ("directed identity" of the OpenAPI document).
type client struct {
	wallet string
	key    *jwk
}

// name tells clients apart.
func (c client) name() string {
	if c.key != nil {
		return "jwk:" + c.key.X
	}
	return c.wallet
}

// jwk is a public Ed25519 key as the OpenAPI document has it.
type jwk struct {
	KID string `json:"kid"`
	Alg string `json:"alg"`
	Use string `json:"use,omitempty"`
	KTY string `json:"kty"`
	CRV string `json:"crv"`
	X   string `json:"x"`
}

func newJWK(kid string, key ed25519.PublicKey) jwk {
	return jwk{KID: kid, Alg: "EdDSA", Use: "sig", KTY: "OKP", CRV: "Ed25519", X: base64.RawURLEncoding.EncodeToString(key)}
}

// check says what is wrong with a key, in a sentence.
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

// newFetcher is what gets documents of wallet addresses. It follows no redirects and keeps no connections, so that each
// fetch finds out how the wallet address is now.
func newFetcher(roots *x509.CertPool) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DisableKeepAlives: true,
			TLSClientConfig:   &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// fetch gets a JSON document, within fetchTimeout for all of it.
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

// publicKey is the client's key with that id, as it is published now, or was when the key set was fetched that is kept.
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
		// A key in a form of its own is somebody else's, and does not hide those that can be read.
		if json.Unmarshal(raw, &key) == nil && key.KID == keyID && key.KTY == "OKP" && key.CRV == "Ed25519" {
			return key.public()
		}
	}
	return nil, errUnknownKey
}

// keySetOf is the key set of a wallet address, fetched now unless it is kept.
func (s *Server) keySetOf(wallet string) ([]json.RawMessage, error) {
	keep := s.dialect.get().KeyCache
	now := s.now()
	if set, ok := s.keyCache.get(wallet, now.Add(-keep)); ok && keep > 0 {
		return set, nil
	}
	var document struct {
		Keys []json.RawMessage `json:"keys"`
	}
	// A wallet address with a slash at its end gives //jwks.json here, as it does at Rafiki: there is no such document.
	if err := s.fetch(wallet+"/jwks.json", &document); err != nil {
		s.log.Info("the client's key set could not be fetched", "error", err)
		return nil, errNoKey
	}
	if keep > 0 {
		s.keyCache.put(wallet, document.Keys, now)
	}
	return document.Keys, nil
}

// keyCache holds the key sets that were fetched, by wallet address.
type keyCache struct {
	mu   sync.Mutex
	sets map[string]cachedKeys
}

type cachedKeys struct {
	keys    []json.RawMessage
	fetched time.Time
}

// get returns a key set that was fetched after a moment.
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
