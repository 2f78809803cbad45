// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// publish puts the public_key of a response into the key set of the client's wallet.
func (e *engine) publish(publicKey any) {
	e.t.Helper()
	jwk, _ := publicKey.(map[string]any)
	x, _ := jwk["x"].(string)
	key, err := base64.RawURLEncoding.DecodeString(x)
	if err != nil || len(key) != ed25519.PublicKeySize {
		e.t.Fatalf("no public key in the response: %v", err)
	}
	kid, _ := jwk["kid"].(string)
	e.wallet.PublishKey(kid, ed25519.PublicKey(key))
}

// publicKeys reads jwks.json as a wallet would, without a token, and returns the key ids.
func (e *engine) publicKeys() (ids []string) {
	e.t.Helper()
	request, err := http.NewRequestWithContext(e.t.Context(), http.MethodGet, e.Address+"/v1/"+e.at("jwks.json"), nil)
	if err != nil {
		e.t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		e.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		e.t.Fatal(err)
	}
	if response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != "application/json" ||
		response.Header.Get("Cache-Control") != "public, max-age=60" {
		e.t.Errorf("status %d, content type %q, cache %q", response.StatusCode, response.Header.Get("Content-Type"),
			response.Header.Get("Cache-Control"))
	}
	var set map[string][]map[string]string
	if err := json.Unmarshal(body, &set); err != nil || len(set) != 1 {
		e.t.Fatalf("not just a JWK Set: %v", err)
	}
	for _, key := range set["keys"] {
		ids = append(ids, key["kid"])
	}
	return ids
}

// Vault generates keys, and replaces them while tokens are read.
func TestKeysUnderLoad(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	for _, name := range []string{"a", "b", "c", "d"} {
		e.ask(name, nil)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var readers sync.WaitGroup
	var mu sync.Mutex
	reads := map[string]int{}
	failures := map[string]int{}
	for _, name := range []string{"a", "b", "c", "d"} {
		readers.Go(func() {
			for ctx.Err() == nil {
				got, err := e.send(context.WithoutCancel(ctx), http.MethodGet, "token/"+name, "")
				mu.Lock()
				if err != nil || got.status != http.StatusOK {
					failures[strings.Join(got.errors, "; ")]++
				}
				reads[name]++
				mu.Unlock()
			}
		})
	}
	more := func() {
		mu.Lock()
		before := reads["a"] + reads["b"] + reads["c"] + reads["d"]
		mu.Unlock()
		e.eventually("further reads", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return reads["a"]+reads["b"]+reads["c"]+reads["d"] >= before+8
		})
	}
	want := []string{keyID}
	for range 3 {
		more()
		made := e.write("keys/rotate", map[string]any{"activate_after": 0})
		e.checkData(made.Data, map[string]any{"state": "pending"})
		more()
		e.publish(made.Data["public_key"])
		e.checkData(e.write("keys/rotate", nil).Data, map[string]any{"state": "active", "key_id": made.Data["key_id"]})
		want = append(want, made.Data["key_id"].(string))
	}
	more()
	stop()
	readers.Wait()
	for text, n := range failures {
		t.Errorf("%d reads failed: %s", n, text)
	}
	if got := e.publicKeys(); len(got) != len(want) || got[0] != want[len(want)-1] {
		t.Errorf("jwks.json holds %v; the keys were %v", got, want)
	}
	e.checkNoSecret("the server's log", e.Log())
}

// A client whose private key has never been outside Vault.
func TestKeyMadeByVault(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	if err := e.vault.Sys().Unmount(e.mount); err != nil {
		t.Fatal(err)
	}
	e.Mount(e.mount)
	if got := e.publicKeys(); len(got) != 0 {
		t.Errorf("a mount without a client publishes %v", got)
	}
	made := e.write("config", map[string]any{"wallet_address": e.wallet.WalletAddress("client")})
	if len(made.Warnings) == 0 {
		t.Error("no warning says that the key has to be published")
	}
	e.publish(made.Data["public_key"])
	e.ask("shop-income", nil)
	e.checkLive(e.tokenOf(e.read("shop-income")))
	if got := e.publicKeys(); len(got) != 1 || got[0] != made.Data["key_id"] {
		t.Errorf("jwks.json holds %v", got)
	}
	for _, path := range []string{"keys", "config"} {
		if text := e.run("read", "-format=json", e.at(path)); strings.Contains(text, "PRIVATE") ||
			strings.Contains(text, `"d"`) {
			t.Errorf("%s contains a private key", path)
		}
	}
}
