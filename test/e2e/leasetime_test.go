// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/vaulttest"
)

const tenHours = 10 * 60 * 60 // in seconds

var halfMinute = "30s"

// leaseTimes returns when, according to Vault, a lease was issued and when it ends.
func (e *engine) leaseTimes(lease *api.Secret) (issued, end time.Time) {
	e.t.Helper()
	found, err := e.vault.Sys().Lookup(lease.LeaseID)
	if err != nil {
		e.t.Fatal(err)
	}
	return e.timeIn(found, "issue_time"), e.timeIn(found, "expire_time")
}

func (e *engine) timeIn(secret *api.Secret, member string) time.Time {
	e.t.Helper()
	text, _ := secret.Data[member].(string)
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		e.t.Fatalf("%s: %v", member, err)
	}
	return at
}

// checkTTL checks the duration of a lease, in seconds.
func (e *engine) checkTTL(what string, lease *api.Secret, least, most int) {
	e.t.Helper()
	if lease.LeaseDuration < least || lease.LeaseDuration > most {
		e.t.Errorf("%s: the lease lasts %d s, not %d to %d", what, lease.LeaseDuration, least, most)
	}
}

// checkEndsBeforeToken checks that the lease ends, according to Vault, before its token expires.
func (e *engine) checkEndsBeforeToken(what string, lease *api.Secret) {
	e.t.Helper()
	_, end := e.leaseTimes(lease)
	if dies := e.timeIn(lease, "expires_at"); end.After(dies) {
		e.t.Errorf("%s: the lease outlives its token by %s", what, end.Sub(dies))
	}
}

// checkRenewalRejected checks that renewing a lease returns a 400 that says why.
func (e *engine) checkRenewalRejected(lease *api.Secret, words ...string) {
	e.t.Helper()
	_, err := e.vault.Sys().Renew(lease.LeaseID, 0)
	e.checkRejection(err, words...)
}

func (e *engine) checkRejection(err error, words ...string) {
	e.t.Helper()
	var refusal *api.ResponseError
	if !errors.As(err, &refusal) {
		e.t.Fatalf("the renewal is not rejected: %v", err)
	}
	if refusal.StatusCode != http.StatusBadRequest {
		e.t.Errorf("the renewal returns %d", refusal.StatusCode)
	}
	e.checkSays(strings.Join(refusal.Errors, "\n"), words...)
}

func TestLeaseTimes(t *testing.T) {
	t.Parallel()
	server := vaulttest.Start(t, vaulttest.Options{})
	mounted := func(sub *testing.T, mount string, tokenLifetime time.Duration) *engine {
		return mountEngine(t, server, mount, tokenLifetime).in(sub)
	}

	t.Run("a token of 600 s", func(t *testing.T) {
		e := mounted(t, "long", 600*time.Second)
		e.ask("shop-income", nil)
		lease := e.read("shop-income")
		e.checkTTL("read", lease, 590, 595)
		e.checkEndsBeforeToken("read", lease)
	})

	t.Run("increments", func(t *testing.T) {
		e := mounted(t, "short", 60*time.Second)
		e.ask("shop-income", nil)
		lease := e.read("shop-income")
		e.checkTTL("read", lease, 50, 55)
		for range 3 {
			lease = e.runJSON("lease renew", "-increment=10h", lease.LeaseID)
			e.checkTTL("renewal on the command line", lease, 50, 55)
			e.checkEndsBeforeToken("renewal on the command line", lease)
			lease = e.renew(lease, tenHours)
			e.checkTTL("renewal", lease, 50, 55)
			e.checkEndsBeforeToken("renewal", lease)
		}
		lease = e.renew(lease, 5)
		e.checkTTL("a small increment", lease, 5, 5)
		e.checkEndsBeforeToken("a small increment", lease)
	})

	// However often it is renewed, a lease ends that long after it was issued.
	for name, limit := range map[string]func(t *testing.T, e *engine){
		"the mount's limit": func(t *testing.T, e *engine) {
			if err := e.vault.Sys().TuneMountAllowNil(e.mount, api.TuneMountConfigInput{MaxLeaseTTL: &halfMinute}); err != nil {
				t.Fatal(err)
			}
		},
		"the grant's max_ttl": func(_ *testing.T, e *engine) {
			e.write("grants/shop-income", map[string]any{"max_ttl": halfMinute})
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := mounted(t, strings.NewReplacer(" ", "-", "'", "").Replace(name), 0)
			e.ask("shop-income", nil)
			limit(t, e)
			lease := e.read("shop-income")
			e.checkTTL("read", lease, 25, 30)
			for range 3 {
				lease = e.renew(lease, tenHours)
				e.checkTTL("renewal", lease, 20, 30)
				if issued, end := e.leaseTimes(lease); end.Sub(issued) > 30*time.Second {
					t.Errorf("the lease ends %s after it was issued", end.Sub(issued))
				}
			}
		})
	}

	t.Run("the end of max_ttl", func(t *testing.T) {
		e := mounted(t, "end", 0)
		e.ask("shop-income", map[string]any{"max_ttl": "3s"})
		lease := e.read("shop-income")
		e.checkTTL("read", lease, 2, 3)
		e.waitUntilNearlyOver(lease)
		rotations := e.countRequests("rotate")
		e.checkRenewalRejected(lease, "max_ttl", "read end/token/shop-income again")
		e.checkLive(e.tokenOf(lease))
		if n := rotations(); n != 0 {
			t.Errorf("%d rotations for a rejected renewal", n)
		}
	})

	// How long a rotation takes cannot be known in advance.
	t.Run("the end of max_ttl during a renewal", func(t *testing.T) {
		e := mounted(t, "late", 0)
		e.ask("shop-income", map[string]any{"max_ttl": "3s"})
		lease := e.read("shop-income")
		rotation := e.hold("rotate", false)
		refusal := make(chan error, 1)
		go func() {
			_, err := e.vault.Sys().Renew(lease.LeaseID, 0)
			refusal <- err
		}()
		rotation.await(t)
		e.waitUntilNearlyOver(lease)
		rotation.release()
		e.checkRejection(<-refusal, "max_ttl", "read late/token/shop-income again")
		e.checkLive(e.tokenOf(e.read("shop-income")))
	})
}

// waitUntilNearlyOver waits until a lease has less than a second left.
func (e *engine) waitUntilNearlyOver(lease *api.Secret) {
	e.t.Helper()
	_, end := e.leaseTimes(lease)
	e.eventually("the end of the lease", func() bool { return time.Until(end) < 900*time.Millisecond })
}

func TestLeasesThatCannotBeRenewed(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	e.ask("shop-income", nil)

	t.Run("superseded", func(t *testing.T) {
		e := e.in(t)
		old, newest := e.read("shop-income"), e.read("shop-income")
		rotations := e.countRequests("rotate")
		e.checkRenewalRejected(old, "superseded", "read op/token/shop-income again")
		e.checkLive(e.tokenOf(newest))
		if err := e.vault.Sys().RevokeWithOptions(&api.RevokeOptions{LeaseID: old.LeaseID, Sync: true}); err != nil {
			t.Errorf("revoke a superseded lease: %v", err)
		}
		e.checkLive(e.tokenOf(newest))
		if n := rotations(); n != 0 {
			t.Errorf("%d rotations", n)
		}
	})

	t.Run("not renewable", func(t *testing.T) {
		e := e.in(t)
		e.ask("read-again", map[string]any{"renewable": false})
		lease := e.read("read-again")
		if lease.Renewable {
			t.Error("the lease is renewable")
		}
		e.checkRenewalRejected(lease, "not renewable")
		e.checkLive(e.tokenOf(lease))
	})

	for name, again := range map[string]bool{"deleted": false, "deleted and made again": true} {
		t.Run(name, func(t *testing.T) {
			e := e.in(t)
			e.ask("passing", nil)
			lease := e.read("passing")
			if _, err := e.vault.Logical().Delete("op/grants/passing"); err != nil {
				t.Fatal(err)
			}
			if again {
				e.ask("passing", nil)
				e.write("rotate/passing", nil) // reaches the old lease's generation again
			}
			live := e.wallet.LiveTokens()
			e.checkRenewalRejected(lease, "passing", "deleted")
			if err := e.vault.Sys().RevokeWithOptions(&api.RevokeOptions{LeaseID: lease.LeaseID, Sync: true}); err != nil {
				t.Errorf("revoke: %v", err)
			}
			if now := e.wallet.LiveTokens(); now != live {
				t.Errorf("%d tokens are live at the sandbox, not %d as before", now, live)
			}
		})
	}
}
