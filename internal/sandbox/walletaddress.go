// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// The asset of every account in the sandbox.
const (
	assetCode  = "USD"
	assetScale = 2
)

const (
	clientName     = "client"
	clientKeysPath = "/" + clientName + "/jwks.json"
)

// walletNames maps the wallet addresses to their public names.
var walletNames = map[string]string{"alice": "Alice", "shop": "Shop", clientName: "Client"}

// isWallet reports whether a URL is, byte for byte, one of the sandbox's wallet addresses.
func (s *Server) isWallet(url string) bool {
	name, ok := strings.CutPrefix(url, s.origin+"/")
	return ok && walletNames[name] != ""
}

// walletDocument serves get-wallet-address of the OpenAPI document.
func (s *Server) walletDocument(w http.ResponseWriter, r *http.Request) error {
	name := strings.TrimPrefix(r.URL.Path, "/")
	writeJSON(w, http.StatusOK, struct {
		ID             string `json:"id"`
		PublicName     string `json:"publicName"`
		AssetCode      string `json:"assetCode"`
		AssetScale     int    `json:"assetScale"`
		AuthServer     string `json:"authServer"`
		ResourceServer string `json:"resourceServer"`
	}{s.WalletAddress(name), walletNames[name], assetCode, assetScale, s.AuthServer(), s.ResourceServer()})
	return nil
}

// walletKeys serves get-wallet-address-keys of the OpenAPI document. Only the client has keys.
func (s *Server) walletKeys(w http.ResponseWriter, r *http.Request) error {
	keys := []any{}
	if r.URL.Path == clientKeysPath {
		keys = s.keys.all()
	}
	writeJSON(w, http.StatusOK, struct {
		Keys []any `json:"keys"`
	}{keys})
	return nil
}

// putClientKeys sets the client's key set. The request is not part of Open Payments: real wallets
// have a page for this.
func (s *Server) putClientKeys(w http.ResponseWriter, r *http.Request) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return textError(http.StatusBadRequest, "the body could not be read")
	}
	if err := s.SetClientKeys(body); err != nil {
		return textError(http.StatusBadRequest, err.Error()+"\n")
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// SetClientKeys replaces the client's key set with a JSON Web Key Set (RFC 7517) of Ed25519 public
// keys. If it returns an error, nothing has changed; the error never contains a part of the set.
func (s *Server) SetClientKeys(jwks []byte) error {
	var set struct {
		Keys []struct {
			jwk
			D json.RawMessage `json:"d"`
		} `json:"keys"`
	}
	if err := json.Unmarshal(jwks, &set); err != nil {
		return errors.New(`a key set must be JSON of the form {"keys":[…]}`)
	}
	if set.Keys == nil {
		return errors.New(`a key set needs "keys", a list`)
	}
	keys := make([]jwk, 0, len(set.Keys))
	for _, key := range set.Keys {
		if key.D != nil {
			return errors.New(`a key set that is published must hold no private key ("d")`)
		}
		if err := key.check(); err != nil {
			return err
		}
		keys = append(keys, key.jwk)
	}
	s.keys.replace(keys)
	return nil
}

// keySet is the client's key set.
type keySet struct {
	mu   sync.Mutex
	keys []jwk
	raw  []json.RawMessage // in odd forms, before the others
}

// all returns all keys, raw ones first, so that a reader comes across them.
func (k *keySet) all() []any {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := make([]any, 0, len(k.raw)+len(k.keys))
	for _, key := range k.raw {
		all = append(all, key)
	}
	for _, key := range k.keys {
		all = append(all, key)
	}
	return all
}

func (k *keySet) replace(keys []jwk) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.keys, k.raw = keys, nil
}

func (k *keySet) publish(key jwk) {
	k.mu.Lock()
	defer k.mu.Unlock()
	others := slices.DeleteFunc(slices.Clone(k.keys), func(o jwk) bool { return o.KID == key.KID })
	k.keys = append(others, key)
}

func (k *keySet) publishRaw(key json.RawMessage) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.raw = append(k.raw, key)
}
