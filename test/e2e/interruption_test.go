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

// result is what a request has come to that went on while the test did other things.
type result struct {
	reply
	err error
}

// sending sends a request meanwhile.
func (e *engine) sending(ctx context.Context, method, path, body string) <-chan result {
	results := make(chan result, 1)
	go func() {
		got, err := e.send(ctx, method, path, body)
		results <- result{got, err}
	}()
	return results
}

// reading reads a token meanwhile.
func (e *engine) reading(ctx context.Context, name string) <-chan result {
	return e.sending(ctx, "GET", "token/"+name, "")
}

// asking asks for a grant meanwhile.
func (e *engine) asking(ctx context.Context, name string) <-chan result {
	e.t.Helper()
	return e.sending(ctx, "POST", "grants/"+name, asJSON(e.t, map[string]any{"wallet_address": e.wallet.WalletAddress("shop"), "access": access}))
}

// answered waits for its end.
func (e *engine) answered(results <-chan result) result {
	e.t.Helper()
	select {
	case got := <-results:
		return got
	case <-time.After(soon):
		e.t.Fatalf("no answer after %s", soon)
		return result{}
	}
}

// healthy checks that a read works with one request, and that nothing was asked
// for anew: so the grant's only manage URL was not lost.
func (e *engine) healthy(name string, generation int64) {
	e.t.Helper()
	rotations, grants := e.sent("rotate"), e.sent("grant")
	lease := e.read(name)
	e.live(e.tokenOf(lease))
	if rotations() != 1 || grants() != 0 {
		e.t.Errorf("the next read of %s has made %d rotations and asked for %d grants", name, rotations(), grants())
	}
	if got := number(e.t, lease.Data["generation"]); got != generation {
		e.t.Errorf("the next read of %s answers generation %d, not %d", name, got, generation)
	}
	e.expect(e.grant(name), map[string]any{"status": "active", "intent_open": false})
}

// A caller who hangs up changes nothing: the rotation is done and stored.
func TestCallerHangsUp(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	for name, answered := range map[string]bool{"asked": false, "answered": true} {
		t.Run(name, func(t *testing.T) {
			e := e.in(t)
			e.write("grants/"+name, e.obtain())
			before := e.generation(name)
			rotation := e.holdUp("rotate", answered)
			ctx, hangUp := context.WithCancel(t.Context())
			results := e.reading(ctx, name)
			rotation.await(t)
			hangUp()
			if got := e.answered(results); !errors.Is(got.err, context.Canceled) {
				t.Fatalf("the caller has not hung up: %v", got.err)
			}
			e.expect(e.grant(name), map[string]any{"intent_open": true, "generation": before})
			rotation.release()
			e.eventually("the rotation", func() bool { return e.generation(name) == before+1 })
			e.healthy(name, before+2)
		})
	}

	t.Run("renewal", func(t *testing.T) {
		e := e.in(t)
		e.ask("renewed", nil)
		lease := e.read("renewed")
		rotation := e.holdUp("rotate", false)
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
		e.refused(lease, "superseded")
		e.healthy("renewed", 4)
	})

	t.Run("new grant", func(t *testing.T) {
		e := e.in(t)
		live := e.wallet.LiveTokens()
		request := e.holdUp("grant", true)
		ctx, hangUp := context.WithCancel(t.Context())
		results := e.asking(ctx, "new")
		request.await(t)
		hangUp()
		if got := e.answered(results); !errors.Is(got.err, context.Canceled) {
			t.Fatalf("the caller has not hung up: %v", got.err)
		}
		request.release()
		e.eventually("the grant", func() bool { return e.generation("new") == 1 })
		e.healthy("new", 2)
		if n := e.wallet.LiveTokens(); n != live+1 {
			t.Errorf("%d tokens live at the sandbox, not %d", n, live+1)
		}
	})
}

// Vault ends the engine's process only when what is in flight has been done.
func TestReloadWaitsForRotation(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	const started = "serving the Open Payments secrets engine"
	for name, command := range map[string][]string{
		// What "vault plugin reload -mounts=op/" should do; Vault 1.21's CLI asks for a path that is not there.
		"mount":  {"write", "sys/plugins/reload/backend", "mounts=op/"},
		"plugin": {"plugin", "reload", "-plugin=" + vaulttest.Plugin},
	} {
		t.Run(name, func(t *testing.T) {
			e := e.in(t)
			e.write("grants/"+name, e.obtain())
			before := e.generation(name)
			starts := strings.Count(e.Log(), started)
			rotation := e.holdUp("rotate", true)
			results := e.reading(t.Context(), name)
			rotation.await(t)

			reloaded := make(chan string, 1)
			go func() {
				_, stderr, code := e.CLI(e.RootToken, command...)
				reloaded <- fmt.Sprintf("status %d %s", code, stderr)
			}()
			// Other requests wait for the reload, which waits for the rotation.
			e.eventually("the reload's begin", func() bool {
				ctx, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
				defer stop()
				_, err := e.send(ctx, "GET", "config", "")
				if len(reloaded) > 0 {
					t.Fatalf("the reload has not waited: %s", <-reloaded)
				}
				return errors.Is(err, context.DeadlineExceeded)
			})
			select {
			case got := <-results:
				t.Fatalf("the reload has ended the read: %d %s, %v", got.status, got.errors, got.err)
			default:
			}
			rotation.release()
			got := e.answered(results)
			if got.status != 200 {
				t.Fatalf("the read during the reload: %d %s, %v", got.status, got.errors, got.err)
			}
			e.live(e.tokenOf(&api.Secret{Data: got.data}))
			if outcome := <-reloaded; outcome != "status 0 " {
				t.Fatalf("the reload: %s", outcome)
			}
			e.healthy(name, before+2)
			if strings.Count(e.Log(), started) == starts {
				t.Error("no new process was started")
			}
		})
	}
}

// Vault waits for a rotation even if nobody else does.
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
			e.imported(name)
			before := e.generation(name)
			rotation := e.holdUp("rotate", true)
			ctx, hangUp := context.WithCancel(t.Context())
			results := e.reading(ctx, name)
			rotation.await(t)
			hangUp()
			e.answered(results)

			ended := make(chan error, 1)
			go func() { ended <- end() }()
			select {
			case err := <-ended:
				t.Fatalf("Vault has not waited: %v", err)
			case <-time.After(time.Second): // Without the rotation it would take a fraction of that.
			}
			rotation.release()
			if err := <-ended; err != nil {
				t.Fatal(err)
			}
			if name == "seal" {
				e.Unseal()
			}
			e.healthy(name, before+2)
		})
	}
}
