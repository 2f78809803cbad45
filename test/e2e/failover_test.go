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

// leader is the server of a cluster that the others follow; nil while there is none.
func (e *engine) leader(cluster []*vaulttest.Server) *vaulttest.Server {
	e.t.Helper()
	for _, server := range cluster {
		if server.Leads() {
			return server
		}
	}
	return nil
}

// succession waits until one of the servers leads.
func (e *engine) succession(limit time.Duration, servers []*vaulttest.Server) {
	e.t.Helper()
	e.within(limit, "another leader", func() bool { return e.leader(servers) != nil })
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

// A leader gives its place away only when the rotations that it has begun are done
// and stored, however long the authorization server takes.
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
			e.succession(soon, without(cluster, leader))
			l.more()
		}
		leader := e.leader(cluster)
		if err := leader.Client(leader.RootToken).Sys().Seal(); err != nil {
			t.Fatal(err)
		}
		e.succession(time.Minute, without(cluster, leader))
		l.more()
		leader.Unseal()
		l.more()
		l.end()
	})

	for _, row := range []struct {
		name    string
		done    bool // the sandbox has rotated, and only its answer is missing
		standby bool // the caller reads through another server
		hangsUp bool // the caller does not wait
		forever bool // the sandbox never answers
		status  int  // that the caller gets
	}{
		{name: "before rotating", status: 200},
		{name: "after rotating", done: true, status: 200},
		{name: "read through a standby", done: true, standby: true, status: 200},
		{name: "nobody waits", done: true, hangsUp: true},
		{name: "for good", forever: true, status: 504},
	} {
		t.Run("the server hangs, "+row.name, func(t *testing.T) {
			e := e.in(t)
			leader := e.leader(cluster)
			others := without(cluster, leader)
			name := strings.ReplaceAll(row.name, " ", "-")
			e.imported(name)
			before := e.generation(name)

			reader := e.through(leader)
			if row.standby {
				reader = e.through(others[0])
			}
			rotation := e.holdUp("rotate", row.done)
			ctx, hangUp := context.WithCancel(t.Context())
			defer hangUp()
			results := reader.reading(ctx, name)
			rotation.await(t)
			if row.hangsUp {
				hangUp()
				e.answered(results)
			}
			e.stepDown(leader)
			time.Sleep(2 * time.Second) // Without the rotation it would take a fraction of that.
			if e.leader(others) != nil {
				t.Fatal("the step-down has not waited")
			}
			if !row.forever {
				rotation.release()
			}
			if !row.hangsUp {
				got := <-results
				if got.err != nil || got.status != row.status {
					t.Errorf("the read during the step-down: %d %s, %v", got.status, got.errors, got.err)
				}
			}
			e.succession(time.Minute, others)
			e = e.through(e.leader(others))
			after := before + 1
			if row.forever {
				after = before
			}
			e.expect(e.grant(name), map[string]any{"generation": after, "intent_open": row.forever})
			e.healthy(name, after+1)
		})
	}
	for _, server := range cluster {
		e.noSecretIn("the server's log", server.Log())
	}
}
