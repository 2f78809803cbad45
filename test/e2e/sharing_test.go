// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"testing"

	"github.com/hashicorp/vault/api"
)

// Two applications share a grant: what one does with its lease leaves the other's
// token alone.
func TestSharedGrant(t *testing.T) {
	t.Parallel()
	p := startPoliced(t)
	p.write("grants/shop-income", map[string]any{"shared": true})
	rotations := p.sent("rotate")
	var leases [2]*api.Secret
	var applications [2]*api.Client
	for i := range leases {
		applications[i] = p.Client(p.Token("application"))
		lease, err := applications[i].Logical().Read("op/token/shop-income")
		if err != nil {
			t.Fatal(err)
		}
		p.live(p.tokenOf(lease))
		p.beforeItsToken("a shared lease", lease)
		if lease.Renewable {
			t.Error("a shared lease is renewable")
		}
		leases[i] = lease
	}
	if p.tokenOf(leases[0]) != p.tokenOf(leases[1]) || rotations() != 0 {
		t.Errorf("the applications do not share a token; %d rotations", rotations())
	}

	p.refused(leases[0], "not renewable")
	if err := applications[0].Sys().Revoke(leases[0].LeaseID); err != nil {
		t.Fatal(err)
	}
	p.eventually("the revocation", func() bool {
		_, err := p.vault.Sys().Lookup(leases[0].LeaseID)
		return err != nil
	})
	p.live(p.tokenOf(leases[1]))
	if n := rotations(); n != 0 {
		t.Errorf("%d rotations", n)
	}

	p.write("rotate/shop-income", nil) // after a leak
	p.dead(p.tokenOf(leases[1]))
	p.live(p.tokenOf(p.read("shop-income")))
	if n := rotations(); n != 1 {
		t.Errorf("%d rotations, not the one that was asked for", n)
	}
}

// Many replicas find a token that is no good any more: one rotation for all.
func TestReadersOfASharedGrant(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	fields := e.obtain()
	fields["expires_in"], fields["shared"] = 1, true
	e.write("grants/payer", fields)
	rotations := e.sent("rotate")
	rotation := e.holdUp("rotate", false)
	var reading [32]<-chan result
	for i := range reading {
		reading[i] = e.reading(t.Context(), "payer")
	}
	rotation.await(t)
	rotation.release()
	tokens := map[string]bool{}
	for _, results := range reading {
		got := e.answered(results)
		if got.status != 200 {
			t.Fatalf("a reader gets %d %s, %v", got.status, got.errors, got.err)
		}
		token := fmt.Sprint(got.data["access_token"])
		e.live(token)
		tokens[token] = true
	}
	if len(tokens) != 1 || rotations() != 1 {
		t.Errorf("%d tokens and %d rotations", len(tokens), rotations())
	}
}
