// SPDX-License-Identifier: MPL-2.0

package sandbox_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
)

// jwk is the client's public key.
func (w *world) jwk() string {
	x := base64.RawURLEncoding.EncodeToString(w.key.Public().(ed25519.PublicKey))
	return fmt.Sprintf(`{"kid":%q,"alg":"EdDSA","use":"sig","kty":"OKP","crv":"Ed25519","x":%q}`, keyID, x)
}

func TestWalletAddresses(t *testing.T) {
	w := newWorld(t)
	for name, public := range map[string]string{"alice": "Alice", "shop": "Shop", "client": "Client"} {
		r := w.ask(ask{method: "GET", url: w.WalletAddress(name), unsigned: true})
		w.want(r, http.StatusOK, fmt.Sprintf(
			`{"id":%q,"publicName":%q,"assetCode":"USD","assetScale":2,"authServer":%q,"resourceServer":%q}`,
			w.URL()+"/"+name, public, w.URL()+"/auth", w.URL()+"/op"))
		keys := `{"keys":[]}`
		if name == "client" {
			keys = fmt.Sprintf(`{"keys":[%s]}`, w.jwk())
		}
		w.want(w.ask(ask{method: "GET", url: w.WalletAddress(name) + "/jwks.json", unsigned: true}), http.StatusOK, keys)
	}
}

func (w *world) putKeys(set string) reply {
	w.t.Helper()
	return w.ask(ask{method: "PUT", url: w.WalletAddress("client") + "/jwks.json", body: set, unsigned: true})
}

func TestPutClientKeys(t *testing.T) {
	w := newWorld(t)
	jwk := w.jwk()
	w.UnpublishKeys()
	url := w.WalletAddress("client") + "/jwks.json"
	// Vault and other tools add members; a wallet keeps those of the document.
	w.want(w.putKeys(`{"keys":[`+strings.Replace(jwk, "{", `{"key_ops":["verify"],`, 1)+`]}`), http.StatusNoContent, "")
	w.want(w.ask(ask{method: "GET", url: url, unsigned: true}), http.StatusOK, `{"keys":[`+jwk+`]}`)
	w.want(w.requestGrant(w.grantBody(w.right(`"read"`), "")), http.StatusOK, "")
	for name, set := range map[string]string{
		"not JSON":    `keys`,
		"a key":       jwk,
		"null":        `{"keys":null}`,
		"no key id":   `{"keys":[` + strings.Replace(jwk, keyID, "", 1) + `]}`,
		"other curve": `{"keys":[` + strings.Replace(jwk, `"Ed25519"`, `"X25519"`, 1) + `]}`,
		"other kind":  `{"keys":[` + strings.Replace(jwk, `"OKP"`, `"EC"`, 1) + `]}`,
		"no alg":      `{"keys":[` + strings.Replace(jwk, `"EdDSA"`, `""`, 1) + `]}`,
		"short":       `{"keys":[` + strings.Replace(jwk, `"x":"`, `"x":"AAAA","y":"`, 1) + `]}`,
		"private":     `{"keys":[` + strings.Replace(jwk, "{", `{"d":"c2VjcmV0",`, 1) + `]}`,
		"one of two":  `{"keys":[` + jwk + `,{}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			r := w.putKeys(set)
			w.wantText(r, http.StatusBadRequest)
			if strings.Contains(r.body, "c2VjcmV0") {
				t.Error("the answer holds a private key")
			}
			w.want(w.ask(ask{method: "GET", url: url, unsigned: true}), http.StatusOK, `{"keys":[`+jwk+`]}`)
		})
	}
	w.want(w.putKeys(`{"keys":[]}`), http.StatusNoContent, "")
	w.want(w.requestGrant(w.grantBody(w.right(`"read"`), "")), http.StatusBadRequest, noClient)
}

func TestPublishKey(t *testing.T) {
	w := newWorld(t)
	other, _, _ := ed25519.GenerateKey(nil)
	w.PublishKey("key-2", other)
	w.want(w.requestGrant(w.grantBody(w.right(`"read"`), "")), http.StatusOK, "")
	w.PublishKey(keyID, other)
	w.want(w.requestGrant(w.grantBody(w.right(`"read"`), "")), http.StatusUnauthorized, invalidSignature)
	w.PublishKey(keyID, w.key.Public().(ed25519.PublicKey))
	w.want(w.requestGrant(w.grantBody(w.right(`"read"`), "")), http.StatusOK, "")
}

func TestOperation(t *testing.T) {
	const origin = "http://127.0.0.1:1"
	for request, want := range map[string]string{
		"POST /auth": "grant", "POST /auth/": "grant", "POST /auth/continue/a": "continue", "DELETE /auth/continue/a": "cancel",
		"POST /auth/token/a": "rotate", "DELETE /auth/token/a": "revoke",
		"GET /alice": "wallet", "GET /shop": "wallet", "GET /client": "wallet", "GET /client/jwks.json": "keys", "GET /alice/jwks.json": "keys",
		"GET /op/incoming-payments?a=b": "resource", "POST /op/incoming-payments": "resource",
		"GET /op/incoming-payments/a": "resource", "POST /op/incoming-payments/a/complete": "resource",
		"GET /auth": "", "GET /alice/": "", "GET /client//jwks.json": "", "PUT /client/jwks.json": "", "GET /misbehave": "", "GET /": "",
		"POST /op/quotes": "resource", "GET /op/quotes/a": "resource", "POST /op/outgoing-payments": "resource",
		"GET /op/outgoing-payments?a=b": "resource", "GET /op/outgoing-payments/a": "resource", "GET /op/outgoing-payment-grant": "resource",
		"GET /auth/interact/a/b?c=d": "interact", "POST /auth/interact/a/b": "interact", "GET /auth/interact/a/b/finish": "interact",
		"GET /op/quotes": "", "GET /auth/interact/a": "", "POST /auth/token/a/b": "",
	} {
		method, path, _ := strings.Cut(request, " ")
		r, err := http.NewRequest(method, origin+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := sandbox.Operation(r); got != want {
			t.Errorf("%s is %q, want %q", request, got, want)
		}
	}
}
