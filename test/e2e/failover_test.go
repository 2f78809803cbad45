// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/vaulttest"
)

// leader returns the leader among the servers; nil while there is none.
func (e *engine) leader(cluster []*vaulttest.Server) *vaulttest.Server {
	e.t.Helper()
	for _, server := range cluster {
		if server.Leads() {
			return server
		}
	}
	return nil
}

// waitForLeader waits until one of the servers is the leader, and returns it.
func (e *engine) waitForLeader(limit time.Duration, servers []*vaulttest.Server) (leader *vaulttest.Server) {
	e.t.Helper()
	e.within(limit, "a new leader", func() bool {
		leader = e.leader(servers)
		return leader != nil
	})
	return leader
}

func without(cluster []*vaulttest.Server, one *vaulttest.Server) []*vaulttest.Server {
	return slices.DeleteFunc(slices.Clone(cluster), func(s *vaulttest.Server) bool { return s == one })
}

func (e *engine) stepDown(leader *vaulttest.Server) {
	e.t.Helper()
	if err := leader.Client(leader.RootToken).Sys().StepDown(); err != nil {
		e.t.Fatal(err)
	}
}

// A leader steps down only once the rotations that it has started are done and stored, however long
// the authorization server takes.
func TestFailover(t *testing.T) {
	t.Parallel()
	cluster := vaulttest.StartCluster(t, 3)
	e := mountEngine(t, cluster[0], "op", 0)

	t.Run("under load", func(t *testing.T) {
		e := e.in(t)
		l := e.underLoad(cluster...)
		for range 2 {
			leader := e.leader(cluster)
			e.stepDown(leader)
			e.waitForLeader(soon, without(cluster, leader))
			l.waitForMore()
		}
		leader := e.leader(cluster)
		if err := leader.Client(leader.RootToken).Sys().Seal(); err != nil {
			t.Fatal(err)
		}
		e.waitForLeader(time.Minute, without(cluster, leader))
		l.waitForMore()
		leader.Unseal()
		l.waitForMore()
		l.finish()
		t.Logf("failed requests: %v", l.failures)
	})

	for _, row := range []slowRotation{
		{name: "before rotating", status: 200},
		{name: "after rotating", done: true, status: 200},
		{name: "read through a standby", done: true, standby: true, status: 200},
		{name: "nobody waits", done: true, hangsUp: true},
	} {
		t.Run("the server hangs, "+row.name, func(t *testing.T) { e.in(t).stepDownDuring(cluster, row) })
	}
	for _, server := range cluster {
		e.checkNoSecret("the server's log", server.Log())
	}
}

// If the authorization server never responds, a leader steps down once the engine stops waiting.
// That takes a minute, so it is a test of its own.
func TestFailoverWhileTheServerHangs(t *testing.T) {
	t.Parallel()
	cluster := vaulttest.StartCluster(t, 3)
	e := mountEngine(t, cluster[0], "op", 0)
	e.stepDownDuring(cluster, slowRotation{name: "for good", forever: true, status: 504})
	for _, server := range cluster {
		e.checkNoSecret("the server's log", server.Log())
	}
}

// slowRotation is a rotation during which the leader steps down.
type slowRotation struct {
	name    string
	done    bool // the sandbox has rotated, and its response is held
	standby bool // the caller reads through a standby
	hangsUp bool // the caller does not wait
	forever bool // the sandbox never responds
	status  int  // of the caller's response
}

// stepDownDuring has the leader step down during a rotation, and checks that the rotation is
// completed and stored first.
func (e *engine) stepDownDuring(cluster []*vaulttest.Server, r slowRotation) {
	e.t.Helper()
	leader := e.leader(cluster)
	others := without(cluster, leader)
	name := strings.ReplaceAll(r.name, " ", "-")
	e.importGrants(name)
	before := e.generation(name)

	reader := e.through(leader)
	if r.standby {
		reader = e.through(others[0])
	}
	rotation := e.hold("rotate", r.done)
	ctx, hangUp := context.WithCancel(e.t.Context())
	defer hangUp()
	results := reader.startRead(ctx, name)
	rotation.await(e.t)
	if r.hangsUp {
		hangUp()
		e.awaitResult(results)
	}
	e.stepDown(leader)
	time.Sleep(2 * time.Second) // without the rotation, a step-down takes a fraction of that
	if e.leader(others) != nil {
		e.t.Fatal("the step-down did not wait")
	}
	if !r.forever {
		rotation.release()
	}
	if !r.hangsUp {
		got := <-results
		if got.err != nil || got.status != r.status {
			e.t.Errorf("the read during the step-down: %d %s, %v", got.status, got.errors, got.err)
		}
	}
	e.waitForLeader(time.Minute, others)
	e = e.through(e.leader(others))
	after := before + 1
	if r.forever {
		after = before
	}
	e.checkData(e.grant(name), map[string]any{"generation": after, "intent_open": r.forever})
	e.checkHealthy(name, after+1)
}
