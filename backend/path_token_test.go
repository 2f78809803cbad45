// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// A read is two writes and one request: the intent, the rotation, the answer.
func TestReadCostsTwoWritesAndOneRequest(t *testing.T) {
	r := withGrant(t)
	puts := r.storage.putsSoFar()
	requests := func() (n int) {
		for _, op := range []string{"grant", "continue", "cancel", "rotate", "revoke", "wallet"} {
			n += r.sandbox.Count(op)
		}
		return n
	}
	before := requests()
	first := r.read("income")
	if n := r.storage.putsSoFar() - puts; n != 2 {
		t.Errorf("%d writes, want 2", n)
	}
	if n := requests() - before; n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
	second := r.read("income")
	if r.sandbox.Live(tokenOf(first)) || !r.sandbox.Live(tokenOf(second)) {
		t.Error("the second read's token has to be the only live one")
	}
}

func TestSpine(t *testing.T) {
	r := withGrant(t)
	lease := r.read("income")
	renewed, err := r.renew(lease)
	if err != nil {
		t.Fatal(err)
	}
	if !r.sandbox.Live(tokenOf(renewed)) || r.sandbox.Live(tokenOf(lease)) {
		t.Error("a renewal has to answer the live token")
	}
	if _, err := r.revoke(renewed); err != nil {
		t.Fatal(err)
	}
	if r.sandbox.Live(tokenOf(renewed)) {
		t.Error("a revoked lease's token has to be dead")
	}
	r.ok(logical.UpdateOperation, "rotate/income", nil)
	r.ok(logical.PatchOperation, "config", map[string]any{"default_grant": "income"})
	r.ok(logical.ReadOperation, "token", nil)
	r.ok(logical.DeleteOperation, "grants/income", nil)
	if n := r.sandbox.LiveTokens(); n != 0 {
		t.Errorf("%d tokens live after the grant was deleted", n)
	}
	r.fails(400, logical.ReadOperation, "token/income", nil, `no grant named "income"`)
}
