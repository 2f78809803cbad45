// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
)

func TestConfig(t *testing.T) {
	r := newRig(t)
	if resp, err := r.do(r.ctx, logical.ReadOperation, "config", nil); resp != nil || err != nil {
		t.Fatalf("%v %v", resp, err)
	}
	r.fails(400, logical.ReadOperation, "token/income", nil, "no grant named")
	r.fails(400, logical.UpdateOperation, "grants/income", map[string]any{"wallet_address": r.sandbox.WalletAddress("shop"), "access": incomingAccess}, "op/config")

	fields := r.clientFields()
	fields["private_key"] = base64.StdEncoding.EncodeToString([]byte(r.key)) // as the SDK's users have it in their environment
	fields["allowed_auth_servers"] = r.sandbox.AuthServer() + ", https://auth.example:443/path"
	r.ok(logical.UpdateOperation, "config", fields)
	resp := r.ok(logical.ReadOperation, "config", nil)
	for name, want := range map[string]any{
		"wallet_address": r.sandbox.WalletAddress("client"), "key_id": testKeyID, "request_timeout": int64(10), "verify": true, "default_grant": "",
	} {
		if resp.Data[name] != want {
			t.Errorf("%s: %v, want %v", name, resp.Data[name], want)
		}
	}
	if got := strings.Join(resp.Data["allowed_auth_servers"].([]string), " "); got != r.sandbox.URL()+" https://auth.example" {
		t.Errorf("allowed_auth_servers: %s", got)
	}
	if _, has := resp.Data["private_key"]; has {
		t.Error("the private key is read back")
	}
	jwk := resp.Data["public_key"].(map[string]any)
	if jwk["kid"] != testKeyID || jwk["kty"] != "OKP" || jwk["crv"] != "Ed25519" || jwk["alg"] != "EdDSA" || len(jwk["x"].(string)) != 43 {
		t.Errorf("public_key: %v", jwk)
	}

	// Later writes merge; PATCH takes null for a default.
	r.ok(logical.UpdateOperation, "config", map[string]any{"default_grant": "income", "request_timeout": "20s"})
	r.ok(logical.PatchOperation, "config", map[string]any{"request_timeout": nil, "allowed_auth_servers": nil})
	resp = r.ok(logical.ReadOperation, "config", nil)
	if resp.Data["request_timeout"] != int64(10) || len(resp.Data["allowed_auth_servers"].([]string)) != 0 || resp.Data["default_grant"] != "income" {
		t.Errorf("%v", resp.Data)
	}
	r.ask("income")
	r.ok(logical.ReadOperation, "token", nil)

	// A grant belongs to its client.
	r.fails(400, logical.PatchOperation, "config", map[string]any{"wallet_address": r.sandbox.WalletAddress("alice"), "verify": false}, "wallet_address", "op/grants/")
	r.fails(400, logical.DeleteOperation, "config", nil, "op/grants/")
	r.ok(logical.DeleteOperation, "grants/income", nil)
	r.ok(logical.PatchOperation, "config", map[string]any{"wallet_address": r.sandbox.WalletAddress("alice"), "verify": false})
	r.ok(logical.DeleteOperation, "config", nil)
	if resp := r.ok(logical.ReadOperation, "config", nil); resp != nil {
		t.Error("the config is still there")
	}
}

func TestConfigVerifies(t *testing.T) {
	t.Run("the key is not published", func(t *testing.T) {
		r := newRig(t)
		r.sandbox.UnpublishKeys()
		r.fails(400, logical.UpdateOperation, "config", r.clientFields(), "jwks.json", "verify=false")
		fields := r.clientFields()
		fields["verify"] = false
		r.ok(logical.UpdateOperation, "config", fields)
		// Not asked for again when something else changes.
		r.ok(logical.UpdateOperation, "config", map[string]any{"default_grant": "x"})
	})
	t.Run("the wallet cannot be reached", func(t *testing.T) {
		r := newRig(t)
		r.sandbox.Close()
		r.fails(400, logical.UpdateOperation, "config", r.clientFields(), "could not be reached")
	})
	t.Run("the key set cannot be reached", func(t *testing.T) {
		r := newRig(t)
		r.sandbox.Misbehave(sandbox.Misbehaviour{KeysDown: true})
		r.fails(400, logical.UpdateOperation, "config", r.clientFields(), "answered 503")
		if c, _ := loadConfig(r.ctx, r.storage); c != nil {
			t.Error("something is stored")
		}
	})
	t.Run("the wallet has no public name", func(t *testing.T) {
		r := newRig(t)
		r.on("wallet", func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			_, _ = w.Write([]byte(`{"id":"x","authServer":"` + r.sandbox.AuthServer() + `","resourceServer":"` + r.sandbox.ResourceServer() + `","assetCode":"USD","assetScale":2}`))
		})
		resp := r.ok(logical.UpdateOperation, "config", r.clientFields())
		if resp == nil || len(resp.Warnings) != 1 || !strings.Contains(resp.Warnings[0], "publicName") {
			t.Errorf("%v", resp)
		}
	})
}

func TestNewerLayoutIsNotTouched(t *testing.T) {
	r := withGrant(t)
	g := r.stored("income")
	g.Version = grantVersion + 1
	r.put("income", g)
	if _, err := r.do(r.ctx, logical.ReadOperation, "token/income", nil); err == nil || !strings.Contains(err.Error(), "newer version") {
		t.Errorf("%v", err)
	}
	if err := r.storage.Put(r.ctx, &logical.StorageEntry{Key: grantsPrefix + "income", Value: []byte(`{"token":"s3cr3t`)}); err != nil {
		t.Fatal(err)
	}
	_, err := r.do(r.ctx, logical.ReadOperation, "token/income", nil)
	if err == nil || strings.Contains(err.Error(), "s3cr3t") {
		t.Errorf("%v", err)
	}
}
