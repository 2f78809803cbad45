// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/vaulttest"
)

// result is the outcome of a request that ran in the background.
type result struct {
	reply
	err error
}

// startRequest sends a request in the background.
func (e *engine) startRequest(ctx context.Context, method, path, body string) <-chan result {
	results := make(chan result, 1)
	go func() {
		got, err := e.send(ctx, method, path, body)
		results <- result{got, err}
	}()
	return results
}

// startRead reads a token in the background.
func (e *engine) startRead(ctx context.Context, name string) <-chan result {
	return e.startRequest(ctx, "GET", "token/"+name, "")
}

// startAsk asks for a grant in the background.
func (e *engine) startAsk(ctx context.Context, name string) <-chan result {
	e.t.Helper()
	return e.startRequest(ctx, "POST", "grants/"+name,
		asJSON(e.t, map[string]any{"wallet_address": e.wallet.WalletAddress("shop"), "access": access}))
}

// awaitResult waits for the outcome of such a request.
func (e *engine) awaitResult(results <-chan result) result {
	e.t.Helper()
	select {
	case got := <-results:
		return got
	case <-time.After(soon):
		e.t.Fatalf("no response within %s", soon)
		return result{}
	}
}

// checkHealthy checks that the next read needs one rotation and no new grant, so that the grant's
// only manage URL has not been lost.
func (e *engine) checkHealthy(name string, generation int64) {
	e.t.Helper()
	rotations, grants := e.countRequests("rotate"), e.countRequests("grant")
	lease := e.read(name)
	e.checkLive(e.tokenOf(lease))
	if rotations() != 1 || grants() != 0 {
		e.t.Errorf("the next read of %s makes %d rotations and %d grant requests", name, rotations(), grants())
	}
	if got := number(e.t, lease.Data["generation"]); got != generation {
		e.t.Errorf("the next read of %s returns generation %d, not %d", name, got, generation)
	}
	e.checkData(e.grant(name), map[string]any{"status": "active", "intent_open": false})
}

// A caller that hangs up has no effect: the rotation is completed and stored.
func TestCallerHangsUp(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	for name, answered := range map[string]bool{"asked": false, "answered": true} {
		t.Run(name, func(t *testing.T) {
			e := e.in(t)
			e.write("grants/"+name, e.obtain())
			before := e.generation(name)
			rotation := e.hold("rotate", answered)
			ctx, hangUp := context.WithCancel(t.Context())
			results := e.startRead(ctx, name)
			rotation.await(t)
			hangUp()
			if got := e.awaitResult(results); !errors.Is(got.err, context.Canceled) {
				t.Fatalf("the caller has not hung up: %v", got.err)
			}
			e.checkData(e.grant(name), map[string]any{"intent_open": true, "generation": before})
			rotation.release()
			e.eventually("the rotation", func() bool { return e.generation(name) == before+1 })
			e.checkHealthy(name, before+2)
		})
	}

	t.Run("renewal", func(t *testing.T) {
		e := e.in(t)
		e.ask("renewed", nil)
		lease := e.read("renewed")
		rotation := e.hold("rotate", false)
		ctx, hangUp := context.WithCancel(t.Context())
		renewed := make(chan error, 1)
		go func() {
			_, err := e.vault.Sys().RenewWithContext(ctx, lease.LeaseID, 0)
			renewed <- err
		}()
		rotation.await(t)
		hangUp()
		if err := <-renewed; !errors.Is(err, context.Canceled) {
			t.Fatalf("the caller has not hung up: %v", err)
		}
		rotation.release()
		e.eventually("the rotation", func() bool { return e.generation("renewed") == 3 })
		e.checkRenewalRejected(lease, "superseded")
		e.checkHealthy("renewed", 4)
	})

	t.Run("new grant", func(t *testing.T) {
		e := e.in(t)
		live := e.wallet.LiveTokens()
		request := e.hold("grant", true)
		ctx, hangUp := context.WithCancel(t.Context())
		results := e.startAsk(ctx, "new")
		request.await(t)
		hangUp()
		if got := e.awaitResult(results); !errors.Is(got.err, context.Canceled) {
			t.Fatalf("the caller has not hung up: %v", got.err)
		}
		request.release()
		e.eventually("the grant", func() bool { return e.generation("new") == 1 })
		e.checkHealthy("new", 2)
		if n := e.wallet.LiveTokens(); n != live+1 {
			t.Errorf("%d tokens are live at the sandbox, not %d", n, live+1)
		}
	})
}

// Vault ends the engine's process only once its requests in progress are done.
func TestReloadWaitsForRotation(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	const started = "serving the Open Payments secrets engine"
	for name, command := range map[string][]string{
		// What "vault plugin reload -mounts=op/" should do; Vault 1.21's CLI requests a path that
		// does not exist.
		"mount":  {"write", "sys/plugins/reload/backend", "mounts=op/"},
		"plugin": {"plugin", "reload", "-plugin=" + vaulttest.Plugin},
	} {
		t.Run(name, func(t *testing.T) {
			e := e.in(t)
			e.write("grants/"+name, e.obtain())
			before := e.generation(name)
			starts := strings.Count(e.Log(), started)
			rotation := e.hold("rotate", true)
			results := e.startRead(t.Context(), name)
			rotation.await(t)

			reloaded := make(chan string, 1)
			go func() {
				_, stderr, code := e.CLI(e.RootToken, command...)
				reloaded <- fmt.Sprintf("status %d %s", code, stderr)
			}()
			// Other requests wait for the reload, which waits for the rotation.
			e.eventually("the start of the reload", func() bool {
				ctx, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
				defer stop()
				_, err := e.send(ctx, "GET", "config", "")
				if len(reloaded) > 0 {
					t.Fatalf("the reload did not wait: %s", <-reloaded)
				}
				return errors.Is(err, context.DeadlineExceeded)
			})
			select {
			case got := <-results:
				t.Fatalf("the reload ended the read: %d %s, %v", got.status, got.errors, got.err)
			default:
			}
			rotation.release()
			got := e.awaitResult(results)
			if got.status != 200 {
				t.Fatalf("the read during the reload: %d %s, %v", got.status, got.errors, got.err)
			}
			e.checkLive(e.tokenOf(&api.Secret{Data: got.data}))
			if outcome := <-reloaded; outcome != "status 0 " {
				t.Fatalf("the reload: %s", outcome)
			}
			e.checkHealthy(name, before+2)
			if strings.Count(e.Log(), started) == starts {
				t.Error("no new process was started")
			}
		})
	}
}

// Vault waits for a rotation even if its caller does not.
func TestCallerHangsUpBeforeTheEngineEnds(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	for name, end := range map[string]func() error{
		"reload": func() error {
			_, err := e.vault.Logical().Write("sys/plugins/reload/backend", map[string]any{"plugin": vaulttest.Plugin})
			return err
		},
		"seal": e.vault.Sys().Seal,
	} {
		t.Run(name, func(t *testing.T) {
			e := e.in(t)
			e.importGrants(name)
			before := e.generation(name)
			rotation := e.hold("rotate", true)
			ctx, hangUp := context.WithCancel(t.Context())
			results := e.startRead(ctx, name)
			rotation.await(t)
			hangUp()
			e.awaitResult(results)

			ended := make(chan error, 1)
			go func() { ended <- end() }()
			select {
			case err := <-ended:
				t.Fatalf("Vault did not wait: %v", err)
			case <-time.After(time.Second): // without the rotation it takes a fraction of that
			}
			rotation.release()
			if err := <-ended; err != nil {
				t.Fatal(err)
			}
			if name == "seal" {
				e.Unseal()
			}
			e.checkHealthy(name, before+2)
		})
	}
}
