// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
)

// A server whose database is read-only for a while, as after a failover, loses no grant, and no
// revocation succeeds whose token lives.
func TestServerWhoseDatabaseIsReadOnly(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	names := []string{"a", "b", "c", "d"}
	e.importGrants(names...)
	leases := map[string]string{}
	for _, name := range names {
		lease := e.read(name)
		leases[name] = lease.LeaseID
	}
	e.wallet.Misbehave(sandbox.Misbehaviour{ReadOnly: true})
	for _, name := range names {
		got, err := e.send(t.Context(), http.MethodGet, "token/"+name, "")
		if err != nil || got.status != http.StatusBadGateway {
			t.Errorf("%s: %d %v", name, got.status, err)
		}
		if _, err := e.vault.Logical().Write("sys/leases/revoke", map[string]any{"lease_id": leases[name], "sync": true}); err == nil {
			t.Errorf("%s: a revocation has succeeded, and the token lives", name)
		}
	}
	e.wallet.Misbehave()
	for _, name := range names {
		e.eventually("a read of "+name, func() bool {
			got, err := e.send(t.Context(), http.MethodGet, "token/"+name, "")
			return err == nil && got.status == http.StatusOK
		})
		e.checkData(e.grant(name), map[string]any{"status": "active"})
	}
	e.checkNoSecret("the server's log", e.Log())
}

// Many applications read many grants of one server at the same instant: it is never asked for so much
// at once that it breaks.
func TestManyReadersBreakNoServer(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	const grants = 24
	for i := range grants {
		e.ask(fmt.Sprintf("g%d", i), nil)
	}
	e.wallet.Misbehave(sandbox.Misbehaviour{On: []string{"rotate"}, Pool: 10, PoolTimeout: time.Second})
	tokens := make([]string, grants)
	var readers sync.WaitGroup
	for i := range grants {
		readers.Go(func() {
			got, err := e.send(context.WithoutCancel(t.Context()), http.MethodGet, fmt.Sprintf("token/g%d", i), "")
			if err != nil || got.status != http.StatusOK {
				t.Errorf("g%d: %d %v %v", i, got.status, got.errors, err)
				return
			}
			tokens[i], _ = got.data["access_token"].(string)
		})
	}
	readers.Wait()
	for i, token := range tokens {
		if !e.wallet.Live(token) {
			t.Errorf("g%d: its token is dead", i)
		}
	}
}
