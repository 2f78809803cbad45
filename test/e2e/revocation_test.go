// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/vaulttest"
)

// readThree reads a token of each of three grants.
func (e *engine) readThree() (leases []*api.Secret) {
	e.t.Helper()
	for _, name := range []string{"a", "b", "c"} {
		e.ask(name, nil)
		leases = append(leases, e.read(name))
	}
	return leases
}

func (e *engine) allDead(leases []*api.Secret) bool {
	e.t.Helper()
	for _, lease := range leases {
		if e.wallet.Live(e.tokenOf(lease)) {
			return false
		}
	}
	return true
}

func TestRevokeByPrefix(t *testing.T) {
	t.Parallel()
	e := startEngine(t)

	leases := e.readThree()
	e.run("lease", "revoke", "-sync", "-prefix", "op/token/b")
	e.checkDead(e.tokenOf(leases[1]))
	e.checkLive(e.tokenOf(leases[0]))
	e.checkLive(e.tokenOf(leases[2]))

	leases = e.readThree()
	e.run("lease", "revoke", "-sync", "-prefix", "op/token/")
	if !e.allDead(leases) {
		t.Error("a revoked token is live")
	}

	leases = e.readThree()
	e.run("lease", "revoke", "-prefix", "op/token/") // queued
	e.eventually("the revocations", func() bool { return e.allDead(leases) })
	e.checkLive(e.tokenOf(e.read("a")))
}

func TestDisableWithLiveLeases(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	leases := e.readThree()
	if output := e.run("secrets", "disable", "op"); !strings.Contains(output, "Success!") {
		t.Errorf("the command does not report success: %s", output)
	}
	if !e.allDead(leases) {
		t.Error("a token that the mount issued is live")
	}
	if strings.Contains(e.run("secrets", "list"), "op/") {
		t.Error("the mount is still listed")
	}
	if e.hasLeases() {
		t.Error("there are leases left")
	}
	e.checkNoIrrevocable()
}

// hasLeases reports whether Vault has leases of the mount.
func (e *engine) hasLeases() bool {
	e.t.Helper()
	list, err := e.vault.Logical().List("sys/leases/lookup/" + e.at("token"))
	if err != nil {
		e.t.Fatal(err)
	}
	return list != nil
}

// checkNoIrrevocable checks that there is no lease that Vault has given up revoking.
func (e *engine) checkNoIrrevocable() {
	e.t.Helper()
	count, err := e.vault.Logical().ReadWithData("sys/leases/count", map[string][]string{"type": {"irrevocable"}})
	if err != nil {
		e.t.Fatal(err)
	}
	e.checkData(count.Data, map[string]any{"lease_count": 0})
}

// Most of a thousand leases are superseded: revoking them takes no request, and revoking each of
// the others takes one.
func TestRevokeThousandLeases(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	const grants, readers = 200, 5
	handedOut := map[string]bool{}
	for i := range grants {
		name := fmt.Sprintf("shop-%d", i)
		e.importGrants(name)
		var reading [readers]<-chan result
		for j := range reading {
			reading[j] = e.startRead(t.Context(), name)
		}
		for _, results := range reading {
			got := e.awaitResult(results)
			if got.status != 200 {
				t.Fatalf("a reader gets %d %s, %v", got.status, got.errors, got.err)
			}
			handedOut[fmt.Sprint(got.data["access_token"])] = true
		}
	}
	if len(handedOut) != grants*readers {
		t.Fatalf("%d different tokens were issued", len(handedOut))
	}

	rotations, others := e.countRequests("rotate"), e.countRequests("grant", "continue", "cancel", "revoke")
	e.run("lease", "revoke", "-prefix", "op/token/")
	e.within(time.Minute, "the revocations", func() bool { return !e.hasLeases() })
	e.checkNoIrrevocable()
	for token := range handedOut {
		e.checkDead(token)
	}
	if rotations() != grants || others() != 0 || e.wallet.LiveTokens() != grants {
		t.Errorf("%d rotations, %d other requests; %d tokens are live at the sandbox",
			rotations(), others(), e.wallet.LiveTokens())
	}
	for i := range grants {
		e.checkHealthy(fmt.Sprintf("shop-%d", i), 1+readers+1+1)
	}
}

// Vault moves a mount after it has revoked its leases, and the grants move with it.
func TestMove(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	e.importGrants("a", "b", "c")
	leases := []*api.Secret{e.read("a"), e.read("a"), e.read("b"), e.read("c")}
	rotations, others := e.countRequests("rotate"), e.countRequests("grant", "continue", "cancel", "revoke")
	if err := e.vault.Sys().Remount("op", "moved"); err != nil {
		t.Fatal(err)
	}
	if !e.allDead(leases) {
		t.Error("a token issued before the move is live")
	}
	if rotations() != 3 || others() != 0 {
		t.Errorf("%d rotations and %d other requests", rotations(), others())
	}
	if e.hasLeases() {
		t.Error("there are leases left")
	}
	e.checkNoIrrevocable()
	e.request(404, "GET", "grants/a", "")

	e.mount = "moved"
	e.checkHealthy("a", 5)
	e.checkHealthy("b", 4)
	e.checkHealthy("c", 4)
	old := e.read("a")
	e.read("a")
	e.checkRenewalRejected(old, "read moved/token/a again")
}

// Disabling or moving a mount revokes its leases first. While the authorization server is down,
// Vault keeps the mount with its leases, and serves no requests for it: until the server is back,
// or an operator force-revokes the leases.
func TestServerIsDownWhenAMountGoes(t *testing.T) {
	t.Parallel()
	const grants = 12 // if each took as long as the first, the CLI would time out
	for name, row := range map[string]struct {
		moves  bool // otherwise it is disabled
		forced bool // the leases are force-revoked
	}{
		"disabled when it is back":   {},
		"disabled while it is down":  {forced: true},
		"moved when it is back":      {moves: true},
		"moved before it comes back": {moves: true, forced: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := startEngine(t)
			var leases []*api.Secret
			for i := range grants {
				e.importGrants(fmt.Sprintf("shop-%d", i))
				leases = append(leases, e.read(fmt.Sprintf("shop-%d", i)))
			}
			goes := func() error { return e.vault.Sys().Unmount("op") }
			if row.moves {
				goes = func() error { return e.vault.Sys().Remount("op", "moved") }
			}

			e.wallet.Misbehave(sandbox.Misbehaviour{Reset: true})
			switch err := goes(); {
			case err == nil:
				t.Fatal("the mount is gone while its tokens are live")
			case !row.moves: // the cause of a failed move is only in Vault's log
				e.checkSays(err.Error(), "the authorization server "+e.wallet.URL()+" could not be reached")
			}
			e.request(404, "GET", "token/shop-0", "")
			if !e.hasLeases() {
				t.Error("the leases are gone while their tokens are live")
			}

			if row.forced {
				e.run("lease", "revoke", "-force", "-prefix", "op/")
			} else {
				e.wallet.Misbehave(sandbox.Misbehaviour{})
			}
			e.eventually("the mount's end", func() bool { return goes() == nil })
			if e.hasLeases() {
				t.Error("there are leases left")
			}
			e.checkNoIrrevocable()
			// The server could not be told about force-revoked leases: their tokens live until they
			// expire.
			for _, lease := range leases {
				if live := e.wallet.Live(e.tokenOf(lease)); live != row.forced {
					t.Errorf("an issued token: live is %t, want %t", live, row.forced)
				}
			}
			if e.wallet.LiveTokens() != grants {
				t.Errorf("%d tokens are live at the sandbox", e.wallet.LiveTokens())
			}

			if row.moves {
				e.wallet.Misbehave(sandbox.Misbehaviour{})
				e.mount = "moved"
				generation := int64(3)
				if !row.forced {
					generation++ // the revocation has rotated
				}
				e.write("config", e.config()) // ends the grants' back-off
				for i := range grants {
					e.checkHealthy(fmt.Sprintf("shop-%d", i), generation)
				}
			}
		})
	}
}

// Vault retries revocations that failed while the server was down.
func TestRevocationsAreRetried(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	e.importGrants("a", "b", "c")
	leases := []*api.Secret{e.read("a"), e.read("b"), e.read("c")}
	e.wallet.Misbehave(sandbox.Misbehaviour{Reset: true})
	e.run("lease", "revoke", "-prefix", "op/token/")
	e.eventually("failures", func() bool { return strings.Count(e.Log(), "failed to revoke lease") >= len(leases) })
	for _, lease := range leases {
		e.checkLive(e.tokenOf(lease))
	}
	e.wallet.Misbehave(sandbox.Misbehaviour{})
	e.within(2*time.Minute, "the revocations", func() bool { return !e.hasLeases() })
	if !e.allDead(leases) {
		t.Error("a revoked token is live")
	}
	e.checkNoIrrevocable()
	for _, name := range []string{"a", "b", "c"} {
		e.checkHealthy(name, 4)
	}
}

// A lease expires just before its token does: there is nothing left to revoke then, and no request
// is sent.
func TestLeasesThatExpire(t *testing.T) {
	t.Parallel()
	for name, sealed := range map[string]bool{"while Vault works": false, "while Vault is sealed": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// With more than half a minute left, a token is rotated on revocation.
			e := mountEngine(t, vaulttest.Start(t, vaulttest.Options{}), "op", 35*time.Second)
			e.importGrants("a", "b", "revoked")
			rotations := e.countRequests("rotate")
			lease := e.read("revoked")
			if err := e.vault.Sys().RevokeWithOptions(&api.RevokeOptions{LeaseID: lease.LeaseID, Sync: true}); err != nil {
				t.Fatal(err)
			}
			if n := rotations(); n != 2 {
				t.Fatalf("%d rotations for a lease that is revoked at once, not two", n)
			}

			e.read("a")
			e.read("a")
			last := e.renew(e.read("b"), 0)
			requests := e.countRequests("rotate", "revoke", "cancel", "grant", "continue")
			if sealed {
				_, end := e.leaseTimes(last)
				if err := e.vault.Sys().Seal(); err != nil {
					t.Fatal(err)
				}
				e.within(time.Minute, "the time of the leases", func() bool { return time.Now().After(end) })
				e.Unseal()
			}
			e.within(time.Minute, "the end of the leases", func() bool { return !e.hasLeases() })
			if n := requests(); n != 0 {
				t.Errorf("%d requests for leases that expired", n)
			}
			e.checkNoIrrevocable()
			e.checkHealthy("a", 4)
			e.checkHealthy("b", 4)
		})
	}
}
