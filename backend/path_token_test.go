// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// A read is two writes and one request: the intent, the rotation, the answer. One that hands a
// shared token out again is none.
func TestReadCostsTwoWritesAndOneRequest(t *testing.T) {
	for name, row := range map[string]struct {
		settings map[string]any
		pass     time.Duration
		writes   int
		requests int
	}{
		"default":               {map[string]any{}, 0, 2, 1},
		"all but shared":        {map[string]any{"ttl": 60, "max_ttl": 120, "renewable": false, "on_revoke": "keep", "min_ttl": 1, "keepalive": 60}, 0, 2, 1},
		"not kept alive":        {map[string]any{"keepalive": 0}, 0, 2, 1},
		"overdue":               {map[string]any{}, 2 * idleTime, 2, 1},
		"shared":                {map[string]any{"shared": true}, 0, 0, 0},
		"shared, all settings":  {map[string]any{"shared": true, "min_ttl": 30, "ttl": 60, "max_ttl": 120, "on_revoke": "keep", "keepalive": "1h"}, 0, 0, 0},
		"shared, little left":   {map[string]any{"shared": true}, 500 * time.Second, 2, 1},
		"shared, nothing left":  {map[string]any{"shared": true}, time.Hour, 2, 1},
		"shared, a high limit":  {map[string]any{"shared": true, "min_ttl": 599}, 2 * time.Second, 2, 1},
		"shared, a lower limit": {map[string]any{"shared": true, "min_ttl": 90}, 500 * time.Second, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := withGrant(t)
			r.ok(logical.UpdateOperation, "grants/income", row.settings)
			r.clock.Advance(row.pass)
			requests := func() (n int) {
				for _, op := range []string{"grant", "continue", "cancel", "rotate", "revoke", "wallet"} {
					n += r.sandbox.Count(op)
				}
				return n
			}
			puts, before := r.storage.putsSoFar(), requests()
			first := r.read("income")
			if n := r.storage.putsSoFar() - puts; n != row.writes {
				t.Errorf("%d writes, want %d", n, row.writes)
			}
			if n := requests() - before; n != row.requests {
				t.Errorf("%d requests, want %d", n, row.requests)
			}
			second := r.read("income")
			if shared := row.settings["shared"] == true; r.sandbox.Live(tokenOf(first)) != shared || !r.sandbox.Live(tokenOf(second)) {
				t.Error("the second read's token has to be live, and the only one that is")
			}
		})
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
