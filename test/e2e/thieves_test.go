// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/vaulttest"
)

// Whoever knows a lease's id gets its token with Vault's default policy, and not without it.
func TestThiefOfALeaseID(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	e.ask("shop-income", nil)
	lease := e.read("shop-income")
	policy := `path "` + e.at("grants/*") + `" { capabilities = ["list"] }`
	if err := e.vault.Sys().PutPolicy("nothing", policy); err != nil {
		t.Fatal(err)
	}
	without := e.Client(e.Token("nothing"))
	if _, err := without.Sys().Renew(lease.LeaseID, 60); !isDenied(err) {
		t.Errorf("a token without the default policy: %v", err)
	}
	with, err := e.vault.Auth().Token().Create(&api.TokenCreateRequest{Policies: []string{"default"}})
	if err != nil {
		t.Fatal(err)
	}
	thief := e.Client(with.Auth.ClientToken)
	stolen, err := thief.Sys().Renew(lease.LeaseID, 60)
	if err != nil {
		t.Fatalf("docs/security.md says that the default policy allows this: %v", err)
	}
	e.checkReplaced(lease, stolen)
	e.write("rotate/shop-income", nil) // what to do about it
	e.checkDead(e.tokenOf(stolen))
	if _, err := thief.Sys().Renew(lease.LeaseID, 60); err == nil || !strings.Contains(err.Error(), "superseded") {
		t.Errorf("the lease can still be renewed: %v", err)
	}
}

// A mount has nothing of its neighbour's: neither its grants nor the right to use its tokens.
func TestNeighbourMount(t *testing.T) {
	t.Parallel()
	server := vaulttest.Start(t, vaulttest.Options{})
	victim, neighbour := mountEngine(t, server, "op", 0), mountEngine(t, server, "neighbour", 0)
	victim.ask("shop-income", nil)
	neighbour.ask("shop-income", nil)
	lease := victim.read("shop-income")
	if err := server.Client(server.RootToken).Sys().PutPolicy("neighbour",
		`path "neighbour/*" { capabilities = ["create", "read", "update", "patch", "delete", "list"] }`); err != nil {
		t.Fatal(err)
	}
	client := server.Client(server.Token("neighbour"))
	for _, path := range []string{"op/token/shop-income", "op/grants/shop-income", "op/config"} {
		if _, err := client.Logical().Read(path); !isDenied(err) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := client.Sys().Renew(lease.LeaseID, 60); !isDenied(err) {
		t.Errorf("renewal: %v", err)
	}
	_, err := client.Logical().Write("neighbour/sign/shop-income", map[string]any{
		"access_token": victim.tokenOf(lease), "method": "GET", "url": victim.wallet.ResourceServer() + "/incoming-payments",
	})
	if !isRefused(err, "access_token: ") {
		t.Errorf("signed with the neighbour's key for a token that is not its own: %v", err)
	}
	if _, err := client.Logical().Delete("neighbour/grants/shop-income"); err != nil {
		t.Error(err)
	}
	victim.checkLive(victim.tokenOf(lease))
	victim.renew(lease, 60)
}
