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

// leases reads a token of each of three grants.
func (e *engine) leases() (leases []*api.Secret) {
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

	leases := e.leases()
	e.run("lease", "revoke", "-sync", "-prefix", "op/token/b")
	e.dead(e.tokenOf(leases[1]))
	e.live(e.tokenOf(leases[0]))
	e.live(e.tokenOf(leases[2]))

	leases = e.leases()
	e.run("lease", "revoke", "-sync", "-prefix", "op/token/")
	if !e.allDead(leases) {
		t.Error("a revoked token lives")
	}

	leases = e.leases()
	e.run("lease", "revoke", "-prefix", "op/token/") // queued
	e.eventually("the revocations", func() bool { return e.allDead(leases) })
	e.live(e.tokenOf(e.read("a")))
}

func TestDisableWithLiveLeases(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	leases := e.leases()
	if output := e.run("secrets", "disable", "op"); !strings.Contains(output, "Success!") {
		t.Errorf("the mount is still there, or is not said to be gone: %s", output)
	}
	if !e.allDead(leases) {
		t.Error("a token lives that the mount handed out")
	}
	if strings.Contains(e.run("secrets", "list"), "op/") {
		t.Error("the mount is listed")
	}
	if e.hasLeases() {
		t.Error("there are leases left")
	}
	e.noneGivenUp()
}

// hasLeases tells whether Vault keeps leases of the mount.
func (e *engine) hasLeases() bool {
	e.t.Helper()
	list, err := e.vault.Logical().List("sys/leases/lookup/" + e.at("token"))
	if err != nil {
		e.t.Fatal(err)
	}
	return list != nil
}

// noneGivenUp checks that there is no lease that Vault has given up revoking.
func (e *engine) noneGivenUp() {
	e.t.Helper()
	count, err := e.vault.Logical().ReadWithData("sys/leases/count", map[string][]string{"type": {"irrevocable"}})
	if err != nil {
		e.t.Fatal(err)
	}
	e.expect(count.Data, map[string]any{"lease_count": 0})
}

// Of a thousand leases most are superseded: their end takes no request, and each of
// the others one.
func TestRevokeThousandLeases(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	const grants, readers = 200, 5
	handedOut := map[string]bool{}
	for i := range grants {
		name := fmt.Sprintf("shop-%d", i)
		e.imported(name)
		var reading [readers]<-chan result
		for j := range reading {
			reading[j] = e.reading(t.Context(), name)
		}
		for _, results := range reading {
			got := e.answered(results)
			if got.status != 200 {
				t.Fatalf("a reader gets %d %s, %v", got.status, got.errors, got.err)
			}
			handedOut[fmt.Sprint(got.data["access_token"])] = true
		}
	}
	if len(handedOut) != grants*readers {
		t.Fatalf("%d different tokens were handed out", len(handedOut))
	}

	rotations, others := e.sent("rotate"), e.sent("grant", "continue", "cancel", "revoke")
	e.run("lease", "revoke", "-prefix", "op/token/")
	e.within(time.Minute, "the revocations", func() bool { return !e.hasLeases() })
	e.noneGivenUp()
	for token := range handedOut {
		e.dead(token)
	}
	if rotations() != grants || others() != 0 || e.wallet.LiveTokens() != grants {
		t.Errorf("%d rotations, %d other requests; %d tokens live at the sandbox", rotations(), others(), e.wallet.LiveTokens())
	}
	for i := range grants {
		e.healthy(fmt.Sprintf("shop-%d", i), 1+readers+1+1)
	}
}

// Vault moves a mount when it has revoked its leases, and the grants go with it.
func TestMove(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	e.imported("a", "b", "c")
	leases := []*api.Secret{e.read("a"), e.read("a"), e.read("b"), e.read("c")}
	rotations, others := e.sent("rotate"), e.sent("grant", "continue", "cancel", "revoke")
	if err := e.vault.Sys().Remount("op", "moved"); err != nil {
		t.Fatal(err)
	}
	if !e.allDead(leases) {
		t.Error("a token lives that was handed out before the move")
	}
	if rotations() != 3 || others() != 0 {
		t.Errorf("%d rotations and %d other requests", rotations(), others())
	}
	if e.hasLeases() {
		t.Error("there are leases left")
	}
	e.noneGivenUp()
	e.gets(404, "GET", "grants/a", "")

	e.mount = "moved"
	e.healthy("a", 5)
	e.healthy("b", 4)
	e.healthy("c", 4)
	old := e.read("a")
	e.read("a")
	e.refused(old, "read moved/token/a again")
}

// What takes a mount away revokes its leases first. While the authorization server
// is down, Vault keeps the mount, closed to requests, with its leases: until the
// server is back, or an operator gives the leases up.
func TestServerIsDownWhenAMountGoes(t *testing.T) {
	t.Parallel()
	const grants = 12 // If each took as long as the first, the CLI would give up.
	for name, row := range map[string]struct {
		moves  bool // or else it is disabled
		forced bool // the leases are given up
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
				e.imported(fmt.Sprintf("shop-%d", i))
				leases = append(leases, e.read(fmt.Sprintf("shop-%d", i)))
			}
			goes := func() error { return e.vault.Sys().Unmount("op") }
			if row.moves {
				goes = func() error { return e.vault.Sys().Remount("op", "moved") }
			}

			e.wallet.Misbehave(sandbox.Misbehaviour{Reset: true})
			switch err := goes(); {
			case err == nil:
				t.Fatal("the mount is gone, and its tokens live")
			case !row.moves: // The other way's cause is only in Vault's log.
				e.says(err.Error(), "the authorization server "+e.wallet.URL()+" could not be reached")
			}
			e.gets(404, "GET", "token/shop-0", "")
			if !e.hasLeases() {
				t.Error("the leases are gone, and their tokens live")
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
			e.noneGivenUp()
			// Nobody could tell the server: these tokens die when their time is over.
			for _, lease := range leases {
				if live := e.wallet.Live(e.tokenOf(lease)); live != row.forced {
					t.Errorf("a token that was handed out is live: %t", live)
				}
			}
			if e.wallet.LiveTokens() != grants {
				t.Errorf("%d tokens live at the sandbox", e.wallet.LiveTokens())
			}

			if row.moves {
				e.wallet.Misbehave(sandbox.Misbehaviour{})
				e.mount = "moved"
				generation := int64(3)
				if !row.forced {
					generation++ // The revocation has rotated.
				}
				e.write("config", e.config()) // The grants need not wait for their next try.
				for i := range grants {
					e.healthy(fmt.Sprintf("shop-%d", i), generation)
				}
			}
		})
	}
}

// Vault repeats the revocations that it was asked for while the server was down.
func TestRevocationsAreRepeated(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	e.imported("a", "b", "c")
	leases := []*api.Secret{e.read("a"), e.read("b"), e.read("c")}
	e.wallet.Misbehave(sandbox.Misbehaviour{Reset: true})
	e.run("lease", "revoke", "-prefix", "op/token/")
	e.eventually("failures", func() bool { return strings.Count(e.Log(), "failed to revoke lease") >= len(leases) })
	for _, lease := range leases {
		e.live(e.tokenOf(lease))
	}
	e.wallet.Misbehave(sandbox.Misbehaviour{})
	e.within(2*time.Minute, "the revocations", func() bool { return !e.hasLeases() })
	if !e.allDead(leases) {
		t.Error("a revoked token lives")
	}
	e.noneGivenUp()
	for _, name := range []string{"a", "b", "c"} {
		e.healthy(name, 4)
	}
}

// A lease ends by itself when its token is about to: nothing is left to be revoked
// then, and nobody is asked.
func TestLeasesThatEndByThemselves(t *testing.T) {
	t.Parallel()
	for name, sealed := range map[string]bool{"while Vault works": false, "while Vault is sealed": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// With half a minute left, a token is not left alone by a revocation.
			e := mountEngine(t, vaulttest.Start(t, vaulttest.Options{}), "op", 35*time.Second)
			e.imported("a", "b", "revoked")
			rotations := e.sent("rotate")
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
			requests := e.sent("rotate", "revoke", "cancel", "grant", "continue")
			if sealed {
				_, end := e.ends(last)
				if err := e.vault.Sys().Seal(); err != nil {
					t.Fatal(err)
				}
				e.within(time.Minute, "the time of the leases", func() bool { return time.Now().After(end) })
				e.Unseal()
			}
			e.within(time.Minute, "the end of the leases", func() bool { return !e.hasLeases() })
			if n := requests(); n != 0 {
				t.Errorf("%d requests for leases that ended by themselves", n)
			}
			e.noneGivenUp()
			e.healthy("a", 4)
			e.healthy("b", 4)
		})
	}
}
