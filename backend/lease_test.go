// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
)

// expiresIn makes the sandbox answer rotations with another expires_in (JSON); empty leaves it out.
func (r *rig) expiresIn(value string) {
	r.answers("rotate", func(body string) string {
		if value == "" {
			return strings.NewReplacer(`"expires_in":600,`, "", `,"expires_in":600`, "").Replace(body)
		}
		return strings.Replace(body, `"expires_in":600`, `"expires_in":`+value, 1)
	})
}

func TestLeaseNeverOutlivesItsToken(t *testing.T) {
	for _, row := range []struct {
		expiresIn string
		ttl       time.Duration // 0: refused with 502
		warns     bool
	}{
		{"600", 595 * time.Second, false},
		{"20", 15 * time.Second, false},
		{"9", 6 * time.Second, false}, // margin: a quarter of the life
		{"5", 3 * time.Second, false},
		{"2", 1 * time.Second, false},
		{"1", 0, false},
		{"0", 595 * time.Second, true},
		{"-1", 595 * time.Second, true},
		{"", 595 * time.Second, true},
		{"1000000000000", 595 * time.Second, true},
		{"null", 595 * time.Second, true},
		{`"600"`, 595 * time.Second, false},
		{`"soon"`, 595 * time.Second, true},
		{"[1]", 595 * time.Second, true},
		{"20.9", 15 * time.Second, false},
		{"1e400", 595 * time.Second, true},
	} {
		t.Run("expires_in "+row.expiresIn, func(t *testing.T) {
			r := withGrant(t)
			r.expiresIn(row.expiresIn)
			if row.ttl == 0 {
				r.fails(502, logical.ReadOperation, "token/income", nil, "too short")
				if g := r.stored("income"); g.Intent != nil || !r.sandbox.Live(g.Token) {
					t.Error("a token that is too short for a lease is kept all the same")
				}
				return
			}
			resp := r.read("income")
			s := resp.Secret
			if s.TTL != row.ttl || s.MaxTTL != row.ttl {
				t.Errorf("TTL %s, MaxTTL %s, want %s", s.TTL, s.MaxTTL, row.ttl)
			}
			if got := len(resp.Warnings) > 0; got != row.warns {
				t.Errorf("warnings %v", resp.Warnings)
			}
			expires, err := time.Parse(time.RFC3339, resp.Data["expires_at"].(string))
			if err != nil || expires.Before(r.clock.Now().Add(s.TTL)) {
				t.Errorf("expires_at %s: %v", expires, err)
			}
		})
	}
}

func TestTTLOfALease(t *testing.T) {
	for name, row := range map[string]struct {
		settings  map[string]any
		mount     time.Duration
		expiresIn string
		want      time.Duration
	}{
		"the token's life":              {nil, time.Hour, "600", 595 * time.Second},
		"the grant's ttl":               {map[string]any{"ttl": "60s"}, time.Hour, "600", time.Minute},
		"a ttl longer than the token":   {map[string]any{"ttl": "1h"}, 2 * time.Hour, "600", 595 * time.Second},
		"the grant's max_ttl":           {map[string]any{"max_ttl": 30}, time.Hour, "600", 30 * time.Second},
		"the mount's limit":             {map[string]any{"ttl": "1h"}, 45 * time.Second, "600", 45 * time.Second},
		"life not told: the ttl":        {map[string]any{"ttl": "20m"}, time.Hour, "", 20*time.Minute - 5*time.Second},
		"life not told: ten minutes":    {nil, time.Hour, "", 595 * time.Second},
		"a long life under the mount's": {nil, time.Hour, "86400", time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			r := withGrant(t)
			if row.settings != nil {
				r.ok(logical.UpdateOperation, "grants/income", row.settings)
			}
			r.system.MaxLeaseTTLVal = row.mount
			r.expiresIn(row.expiresIn)
			if got := r.read("income").Secret.TTL; got != row.want {
				t.Errorf("TTL %s, want %s", got, row.want)
			}
		})
	}
}

// Vault's own arithmetic (framework.CalculateTTL) must not let a lease outlive its token, whatever
// increment a caller asks for.
func TestIncrementsAreCapped(t *testing.T) {
	for _, increment := range []time.Duration{0, time.Second, time.Hour, 1000 * time.Hour} {
		r := withGrant(t)
		lease := r.read("income")
		lease.Secret.IssueTime = r.clock.Now()
		for range 5 {
			r.clock.Advance(400*time.Second + 700*time.Millisecond)
			renewed, err := r.renew(lease)
			if err != nil {
				t.Fatal(err)
			}
			if !renewed.Secret.IssueTime.Equal(lease.Secret.IssueTime) || renewed.Secret.LeaseID != lease.Secret.LeaseID {
				t.Error("the lease's own options are gone")
			}
			// CalculateTTL reads the real clock, so the times are put relative to it.
			shift := time.Since(r.clock.Now())
			ttl, _, err := framework.CalculateTTL(r.system, increment, renewed.Secret.TTL, 0, renewed.Secret.MaxTTL, 0, renewed.Secret.IssueTime.Add(shift))
			if err != nil {
				t.Fatal(err)
			}
			if limit := 596 * time.Second; ttl > limit { // a second for the rounding of shift
				t.Errorf("increment %s: the lease lives for %s, the token for 600s", increment, ttl)
			}
			lease = renewed
		}
	}
}

func TestRenewalEndsBeforeItRotates(t *testing.T) {
	r := withGrant(t)
	r.ok(logical.UpdateOperation, "grants/income", map[string]any{"max_ttl": "15m"})
	lease := r.read("income")
	lease.Secret.IssueTime = r.clock.Now()
	r.clock.Advance(9 * time.Minute)
	renewed, err := r.renew(lease)
	if err != nil {
		t.Fatal(err)
	}
	if renewed.Secret.TTL != 6*time.Minute {
		t.Errorf("TTL %s, want what is left of max_ttl", renewed.Secret.TTL)
	}
	r.clock.Advance(6*time.Minute - 500*time.Millisecond)
	before := r.sandbox.Count("rotate")
	resp, err := r.renew(renewed)
	if err == nil || resp != nil || !strings.Contains(err.Error(), "max_ttl") {
		t.Errorf("%v %v", resp, err)
	}
	if r.sandbox.Count("rotate") != before {
		t.Error("rotated for a lease that is over")
	}

	r.system.MaxLeaseTTLVal = time.Minute
	lease = r.read("income")
	lease.Secret.IssueTime = r.clock.Now().Add(-time.Minute)
	if _, err := r.renew(lease); err == nil {
		t.Error("renewed beyond the mount's limit")
	}
}

// The lease ends while the server is waited for.
func TestLeaseThatEndsDuringItsRenewal(t *testing.T) {
	r := withGrant(t)
	r.ok(logical.UpdateOperation, "grants/income", map[string]any{"max_ttl": 60})
	lease := r.read("income")
	lease.Secret.IssueTime = r.clock.Now()
	r.clock.Advance(50 * time.Second)
	r.on("rotate", func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		r.clock.Advance(10 * time.Second)
		next.ServeHTTP(w, req)
	})
	if _, err := r.renew(lease); err == nil || !strings.Contains(err.Error(), "max_ttl") {
		t.Errorf("%v", err)
	}
}

func TestRenewalsRefused(t *testing.T) {
	for name, row := range map[string]struct {
		between func(r *rig)
		words   string
	}{
		"superseded by a reader":   {func(r *rig) { r.read("income") }, "superseded"},
		"superseded by a rotation": {func(r *rig) { r.ok(logical.UpdateOperation, "rotate/income", nil) }, "superseded"},
		"deleted":                  {func(r *rig) { r.ok(logical.DeleteOperation, "grants/income", nil) }, "deleted"},
		"made again": {func(r *rig) {
			r.ok(logical.DeleteOperation, "grants/income", nil)
			r.ask("income")
			g := r.stored("income")
			g.Generation = 2 // as the lease remembers it
			r.put("income", g)
		}, "deleted"},
		"lost": {func(r *rig) {
			g := r.stored("income")
			g.Status = statusLost
			r.put("income", g)
		}, "lost"},
		"lost, and its owner is asked again": {func(r *rig) {
			g := r.stored("income")
			g.Status, g.Manage, g.Token = statusPending, "", ""
			r.put("income", g)
		}, "waits for its owner's consent"},
	} {
		t.Run(name, func(t *testing.T) {
			r := withGrant(t)
			lease := r.read("income")
			row.between(r)
			before := r.sandbox.Count("rotate")
			resp, err := r.renew(lease)
			if err == nil || resp != nil {
				t.Fatal("an error of a renewal has to be plain")
			}
			if !strings.Contains(err.Error(), row.words) || !strings.Contains(err.Error(), "income") {
				t.Errorf("%v", err)
			}
			if r.sandbox.Count("rotate") != before {
				t.Error("rotated")
			}
		})
	}
}

// What a revocation does, and that it never asks for a new grant.
func TestRevocations(t *testing.T) {
	for name, row := range map[string]struct {
		between  func(r *rig)
		rotates  bool // the server is asked
		fails    bool
		stillOut bool // the handed-out value stays alive
	}{
		"current":                  {func(*rig) {}, true, false, false},
		"superseded":               {func(r *rig) { r.read("income") }, false, false, false},
		"deleted":                  {func(r *rig) { r.ok(logical.DeleteOperation, "grants/income", nil) }, false, false, false},
		"made again":               {func(r *rig) { r.ok(logical.DeleteOperation, "grants/income", nil); r.ask("income"); r.read("income") }, false, false, false},
		"on_revoke=keep":           {func(r *rig) { r.ok(logical.UpdateOperation, "grants/income", map[string]any{"on_revoke": "keep"}) }, false, false, true},
		"nearly expired":           {func(r *rig) { r.clock.Advance(571 * time.Second) }, false, false, true},
		"expired":                  {func(r *rig) { r.clock.Advance(time.Hour) }, false, false, false},
		"lives for long":           {func(r *rig) { r.clock.Advance(569 * time.Second) }, true, false, false},
		"server down":              {func(r *rig) { r.sandbox.Close() }, false, true, true},
		"server down, but expired": {func(r *rig) { r.sandbox.Close(); r.clock.Advance(575 * time.Second) }, false, false, true},
		"lost": {func(r *rig) {
			g := r.stored("income")
			g.Status = statusLost
			r.put("income", g)
		}, false, false, true},
		"refused: dead already": {func(r *rig) {
			r.cancelAtServer("income")
		}, true, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := withGrant(t)
			lease := r.read("income")
			row.between(r)
			rotated, asked := r.sandbox.Count("rotate"), r.sandbox.Count("grant")
			resp, err := r.revoke(lease)
			if (err != nil) != row.fails || resp != nil {
				t.Fatalf("%v %v", resp, err)
			}
			if got := r.sandbox.Count("rotate") > rotated; got != row.rotates {
				t.Errorf("rotates: %v, want %v", got, row.rotates)
			}
			if r.sandbox.Count("grant") != asked {
				t.Error("a revocation has asked for a new grant")
			}
			if got := r.sandbox.Live(tokenOf(lease)); got != row.stillOut {
				t.Errorf("the value lives: %v, want %v", got, row.stillOut)
			}
		})
	}
}

// A token whose life nobody knows may outlive what is assumed of it.
func TestRevocationOfAnUnknownLife(t *testing.T) {
	r := withGrant(t)
	r.expiresIn("")
	lease := r.read("income")
	r.clock.Advance(defaultLifetime)
	before := r.sandbox.Count("rotate")
	if _, err := r.revoke(lease); err != nil {
		t.Fatal(err)
	}
	if r.sandbox.Count("rotate") == before {
		t.Error("the value may still be alive")
	}
}

// An interactive grant whose token is found dead by a revocation is lost, and the revocation is
// done.
func TestRevocationThatFindsTheGrantLost(t *testing.T) {
	r := configured(t)
	r.imported("payer", nil)
	lease := r.read("payer")
	r.cancelAtServer("payer")
	if _, err := r.revoke(lease); err != nil {
		t.Fatal(err)
	}
	if g := r.stored("payer"); g.Status != statusLost {
		t.Errorf("status %s", g.Status)
	}
}

// Vault revokes many leases one after the other ("lease revoke -force -prefix", "secrets disable").
// While their server is down, only the first one takes its time; yet each is tried.
func TestRevocationsWhileTheServerIsDown(t *testing.T) {
	r := configured(t)
	leases := map[string]*logical.Response{}
	for _, name := range []string{"a", "b", "c", "d"} {
		r.imported(name, nil)
		leases[name] = r.read(name)
	}
	down := func() { r.sandbox.Misbehave(sandbox.Misbehaviour{On: []string{"rotate"}, Status: 503}) }
	requests := func(do func() error) int {
		t.Helper()
		before := r.sandbox.Count("rotate")
		if err := do(); err == nil || !strings.Contains(err.Error(), "answered 503") {
			t.Errorf("the server is down: %v", err)
		}
		return r.sandbox.Count("rotate") - before
	}
	revoke := func(name string) int {
		return requests(func() error { _, err := r.revoke(leases[name]); return err })
	}

	down()
	if n := revoke("a"); n < 2 {
		t.Errorf("the first revocation has made %d requests", n)
	}
	for _, name := range []string{"b", "c"} {
		if n := revoke(name); n != 1 {
			t.Errorf("the revocation after it has made %d requests", n)
		}
	}
	if n := requests(func() error { _, err := r.do(r.ctx, logical.ReadOperation, "token/d", nil); return err }); n < 2 {
		t.Errorf("a read meanwhile has made %d requests", n)
	}
	r.clock.Advance(failureMax)

	r.sandbox.Misbehave(sandbox.Misbehaviour{})
	if _, err := r.revoke(leases["b"]); err != nil {
		t.Errorf("the server is back: %v", err)
	}
	down()
	if n := revoke("c"); n < 2 {
		t.Errorf("the first revocation of another outage has made %d requests", n)
	}
}

func TestRenewableSetting(t *testing.T) {
	r := withGrant(t)
	if !r.read("income").Secret.Renewable {
		t.Error("renewable is the default")
	}
	before := r.read("income")
	r.ok(logical.UpdateOperation, "grants/income", map[string]any{"renewable": false})
	// Who renewed before the setting was changed is told to read again.
	last, err := r.renew(before)
	if err != nil {
		t.Fatal(err)
	}
	for what, lease := range map[string]*logical.Response{"one renewed": last, "a new one": r.read("income")} {
		if lease.Secret.Renewable {
			t.Errorf("renewable=false has no effect on %s", what)
		}
	}
}

func TestTokenIsNowhereInTheInternalData(t *testing.T) {
	r := withGrant(t)
	lease := r.read("income")
	for name, v := range lease.Secret.InternalData {
		if text, ok := v.(string); ok && strings.Contains(text, tokenOf(lease)) {
			t.Errorf("internal data %q holds the token", name)
		}
	}
	for _, damaged := range []map[string]any{{}, {"grant": "income"}, {"grant": "income", "grant_id": "x", "generation": "many"}} {
		if _, err := readLeaseRef(damaged); err == nil {
			t.Errorf("%v", damaged)
		}
	}
	ref, err := readLeaseRef(map[string]any{"grant": "a", "grant_id": "b", "generation": float64(3)})
	if err != nil || ref != (leaseRef{"a", "b", 3, false}) {
		t.Errorf("%v %v", ref, err)
	}
}

func TestTokenOfTheDefaultGrant(t *testing.T) {
	r := withGrant(t)
	r.fails(400, logical.ReadOperation, "token", nil, "default_grant")
	r.ok(logical.PatchOperation, "config", map[string]any{"default_grant": "income"})
	resp := r.ok(logical.ReadOperation, "token", nil)
	if resp.Data["grant"] != "income" || !r.sandbox.Live(tokenOf(resp)) {
		t.Error("want the default grant's token")
	}
	if resp.Data["wallet_address"] != r.sandbox.WalletAddress("shop") || resp.Data["resource_server"] != r.sandbox.ResourceServer() || resp.Data["auth_server"] != r.sandbox.AuthServer() {
		t.Errorf("places are missing")
	}
	if resp.Data["authorization"] != "GNAP "+tokenOf(resp) {
		t.Error("authorization is not the header's value")
	}
}
