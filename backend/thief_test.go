// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/authserver"
)

// Whoever has an old snapshot of the storage and can decrypt it has a dead token and a dead manage URL. The
// client's key in it and the continuation are good until the key is replaced.
func TestThiefOfASnapshot(t *testing.T) {
	r := withGrant(t)
	stolen, client := r.stored("income"), r.clientFields()
	r.read("income")
	if r.sandbox.Live(stolen.Token) || r.sandbox.Rotatable(stolen.Manage) {
		t.Error("the token or the manage URL of an old snapshot is live")
	}
	thief := func() *authserver.Client {
		return r.b.network.Client(authserver.Identity{WalletAddress: client["wallet_address"].(string), KeyID: testKeyID,
			PrivateKey: r.key, MaxRequestsPerServer: 4, RequestTimeout: defaultRequestTimeout}, "127.0.0.1")
	}
	access := []byte(incomingAccess)
	if out, ok := thief().RequestGrant(r.ctx, r.sandbox.AuthServer(), access, nil).(authserver.TokenIssued); !ok {
		t.Errorf("the stolen key is of no use: docs/security.md says otherwise: %T", out)
	}
	rotated := r.ok(logical.UpdateOperation, "keys/rotate", map[string]any{"force": true})
	r.sandbox.UnpublishKeys()
	r.publishJWK(rotated.Data["public_key"])
	if out, ok := thief().RequestGrant(r.ctx, r.sandbox.AuthServer(), access, nil).(authserver.TokenIssued); ok {
		t.Errorf("the stolen key is still of use: %T", out)
	}
	if err := thief().Cancel(r.ctx, stolen.Continue); err == nil {
		t.Error("the thief has cancelled the grant with the key that was replaced")
	}
	r.read("income")
}
