// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
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
	if list, err := e.vault.Logical().List("sys/leases/lookup/op/token"); err != nil || list != nil {
		t.Errorf("there are leases left: %v", err)
	}
}
