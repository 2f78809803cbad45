// SPDX-License-Identifier: MPL-2.0

package client_test

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/client"
)

func TestNewWithoutRequiredOptions(t *testing.T) {
	vault := newVault("http://vault.example", nil)
	if _, err := client.New(nil, client.Options{Grant: "shop-income"}); err == nil {
		t.Error("New succeeds without a Vault client")
	}
	if _, err := client.New(vault, client.Options{}); err == nil {
		t.Error("New succeeds without a grant and a role")
	}
	if _, err := client.New(vault, client.Options{Grant: "shop-income", Role: "till"}); err == nil {
		t.Error("New succeeds with a grant and a role")
	}
}

// Nothing is read before the first use, and then all callers share one read.
func TestCallersShareOneRead(t *testing.T) {
	inWorld(t, func(w *world) {
		time.Sleep(time.Hour)
		w.checkCounts(0, 0)
		var callers sync.WaitGroup
		for range 20 {
			callers.Go(func() { w.checkLive() })
		}
		callers.Wait()
		w.checkCounts(1, 0)

		token, err := w.client.Token(w.Context())
		if err != nil {
			w.Fatal(err)
		}
		want := client.Token{
			Value: "TokenSecret1", Generation: 1, ExpiresAt: time.Now().Add(lifetime).UTC(),
			ResourceServer: resourceServer, WalletAddress: "https://wallet.example/shop",
		}
		if token != want {
			w.Errorf("the token is %+v, want %+v", token, want)
		}
	})
}

// A token in use is replaced before it expires, and no caller waits for that; a fresh one is left
// alone.
func TestTokenIsReplacedInTime(t *testing.T) {
	for name, fixed := range map[string]bool{"renewable": false, "not renewable": true} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.fixed = fixed
				for begun := time.Now(); time.Since(begun) < 5*lifetime; time.Sleep(time.Second) {
					synctest.Wait()
					if waited := w.checkLive(); waited > 0 {
						w.Fatalf("waited for %s", waited)
					}
				}
				// Two thirds of 595 s are 396.7 s: the eighth is due after 2777 s.
				if fixed {
					w.checkCounts(8, 0)
				} else {
					w.checkCounts(1, 7)
				}
			})
		})
	}
}

// With a role, each token is signed with under its own ticket, over renewals, reads and a rejection.
func TestRole(t *testing.T) {
	for name, fixed := range map[string]bool{"renewable": false, "not renewable": true} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.useRole()
				w.fixed = fixed
				for begun := time.Now(); time.Since(begun) < 2*lifetime; time.Sleep(10 * time.Second) {
					synctest.Wait()
					w.createPayment(201)
				}
				if reads, renewals := w.count("read"), w.count("renew"); reads+renewals != 4 || (renewals == 0) != fixed {
					w.Errorf("%d reads and %d renewals", reads, renewals)
				}
				refused, reads := w.count("sign"), w.count("read")
				w.set(w.rotate) // as when the ticket's key is gone: what Vault says begins with the field
				w.createPayment(201)
				if w.count("sign") != refused+2 || w.count("read") != reads+1 {
					w.Error("a refused token is not replaced")
				}
			})
		})
	}
}

// A refused ticket is replaced like a refused token.
func TestRefusedTicket(t *testing.T) {
	inWorld(t, func(w *world) {
		w.useRole()
		w.createPayment(201)
		w.set(func() { w.badTicket = true })
		w.createPayment(201)
		w.checkCounts(2, 0)
	})
}

// An engine of before roles could sign returns no ticket.
func TestNoTicket(t *testing.T) {
	inWorld(t, func(w *world) {
		w.useRole()
		w.noTicket = true
		_, err := w.client.Token(w.Context())
		w.checkError(err, "read op/creds/till", "signing_ticket", "upgrade")
	})
}

// A client that is not used does nothing; its last lease expires.
func TestIdleClientIsSilent(t *testing.T) {
	inWorld(t, func(w *world) {
		w.checkLive()
		time.Sleep(24 * time.Hour)
		w.checkCounts(1, 1) // it had been used since its read
		w.checkLive()
		w.checkCounts(2, 1)
		if err := w.client.Close(w.Context()); err != nil {
			w.Error(err)
		}
		time.Sleep(24 * time.Hour)
		w.checkCounts(2, 1)
	})
}

// An idle client whose token is due for a refresh when it is used again returns that token, and
// refreshes it in the background.
func TestUseAfterIdleTime(t *testing.T) {
	inWorld(t, func(w *world) {
		w.checkLive()
		time.Sleep(leaseTime*2/3 + time.Second) // renewed; not used since then
		time.Sleep(leaseTime*2/3 + time.Second) // due
		w.checkCounts(1, 1)
		before, err := w.client.Token(w.Context())
		if err != nil || before.Generation != 2 {
			w.Errorf("generation %d, %v", before.Generation, err)
		}
		synctest.Wait()
		w.checkCounts(1, 2)
		w.checkLive()
	})
}

// After a failed renewal the token is read at once, in the background.
func TestRenewalThatFails(t *testing.T) {
	for name, fail := range map[string]func(*world){
		"superseded": func(w *world) { w.rotate() },
		"refused":    func(w *world) { w.fault["renew"] = errors.New("the lease has reached its max_ttl") },
		"denied":     func(w *world) { w.fault["renew"] = logical.CodedError(http.StatusForbidden, "permission denied") },
		"broken":     func(w *world) { w.fault["renew"] = logical.CodedError(http.StatusInternalServerError, "broken") },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.checkLive()
				w.set(func() { fail(w) })
				time.Sleep(leaseTime*2/3 + time.Second)
				w.checkCounts(2, 1)
				if waited := w.checkLive(); waited > 0 {
					w.Errorf("waited for %s", waited)
				}
			})
		})
	}
}

// While reads fail, the pauses between them grow; callers get the error at once, or the token as
// long as it is live.
func TestReadsThatFail(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(func() {
			w.fault["read"] = logical.CodedError(http.StatusBadGateway, "the authorization server answered 500")
		})
		for begun := time.Now(); time.Since(begun) < time.Minute; time.Sleep(10 * time.Millisecond) {
			asked := time.Now()
			_, err := w.client.Token(w.Context())
			var refusal *api.ResponseError
			if !errors.As(err, &refusal) || refusal.StatusCode != http.StatusBadGateway {
				w.Fatalf("%v", err)
			}
			w.checkError(err, "op/token/shop-income", "answered 500")
			if waited := time.Since(asked); waited > 0 {
				w.Fatalf("waited for %s", waited)
			}
		}
		if n := w.count("read"); n < 4 || n > 8 {
			w.Errorf("%d reads in a minute", n)
		}
		w.set(func() { clear(w.fault) })
		time.Sleep(time.Minute)
		w.checkLive()

		reads := w.count("read")
		w.set(func() {
			w.fault["read"], w.fault["renew"] = errors.New("broken"), errors.New("broken")
		})
		time.Sleep(leaseTime*2/3 + 5*time.Second)
		if n := w.count("read") - reads; n < 2 {
			w.Errorf("%d reads in 5 s", n)
		}
		for begun := time.Now(); time.Since(begun) < leaseTime/3-6*time.Second; time.Sleep(time.Second) {
			if waited := w.checkLive(); waited > 0 {
				w.Fatalf("waited for %s", waited)
			}
		}
		if n := w.count("read") - reads; n < 6 || n > 16 { // in the last third: 198 s
			w.Errorf("%d reads", n)
		}
		time.Sleep(2 * time.Second)
		_, err := w.client.Token(w.Context())
		w.checkError(err, "broken")
		w.set(func() { clear(w.fault) })
		time.Sleep(time.Minute)
		w.checkLive()
	})
}

// A client whose reads fail stops reading once it is no longer used.
func TestIdleClientThatFailsIsSilent(t *testing.T) {
	inWorld(t, func(w *world) {
		w.checkLive()
		w.set(func() {
			w.fault["read"], w.fault["renew"] = errors.New("broken"), errors.New("broken")
		})
		time.Sleep(leaseTime)
		reads := w.count("read")
		time.Sleep(24 * time.Hour)
		if w.count("read") != reads {
			w.Errorf("%d reads since its token ended", w.count("read")-reads)
		}
	})
}

// A caller whose context ends stops waiting; the read goes on, and its token is kept.
func TestCallerWhoGivesUp(t *testing.T) {
	inWorld(t, func(w *world) {
		release := make(chan struct{})
		w.hang["read"] = release
		ctx, cancel := context.WithTimeout(w.Context(), time.Second)
		defer cancel()
		if _, err := w.client.Token(ctx); !errors.Is(err, context.DeadlineExceeded) {
			w.Errorf("%v", err)
		}
		close(release)
		w.checkLive()
		w.checkCounts(1, 0)

		gone, cancel := context.WithCancel(w.Context())
		cancel()
		time.Sleep(24 * time.Hour)
		if _, err := w.client.Token(gone); !errors.Is(err, context.Canceled) {
			w.Errorf("%v", err)
		}
		synctest.Wait()
		w.checkCounts(1, 1)
	})
}

// A grant that was deleted and created again starts a new numbering of its tokens.
func TestGrantMadeAgain(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(func() { w.generation = 100 })
		w.checkLive()
		w.set(func() { w.generation = 1 })
		w.createPayment(http.StatusCreated)
		w.checkLive()
		w.checkCounts(2, 0)
	})
}

func TestAnswerOfSomethingElse(t *testing.T) {
	for name, answer := range map[string]string{
		"another engine": `{"lease_id":"op/x","lease_duration":60,"data":{"password":"PasswordSecret"}}`,
		"no lease":       `{"data":{"access_token":"TokenSecret"}}`,
		"other types":    `{"lease_id":"op/x","data":{"access_token":["TokenSecret"]}}`,
		"nothing":        ``,
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				vault := http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
					if answer == "" {
						rw.WriteHeader(http.StatusNotFound)
					}
					_, _ = rw.Write([]byte(answer))
				})
				w.vault = newVault("http://vault.example", inProcess{vault})
				_, err := w.newClient(nil).Token(w.Context())
				w.checkError(err, "read op/token/shop-income: ")
			})
		})
	}
}

func TestClose(t *testing.T) {
	inWorld(t, func(w *world) {
		w.checkLive()
		for range 2 {
			if err := w.client.Close(w.Context()); err != nil {
				w.Fatal(err)
			}
		}
		if w.count("revoke") != 1 || w.generation != 2 {
			w.Errorf("%d revocations, generation %d", w.count("revoke"), w.generation)
		}
		_, err := w.client.Token(w.Context())
		w.checkError(err, "op/token/shop-income")
		for name, url := range map[string]string{"own": payments, "another's": "https://wallet.example/alice"} {
			_, sent := w.client.RoundTrip(w.request("GET", url, ""))
			if !errors.Is(err, client.ErrClosed) || !errors.Is(sent, client.ErrClosed) {
				w.Errorf("%s: %v, %v", name, err, sent)
			}
		}
		w.checkCounts(1, 0)
	})
}

// Where there is no lease, there is nothing to revoke.
func TestCloseWithoutLease(t *testing.T) {
	inWorld(t, func(w *world) {
		unused := w.newClient(nil)
		if err := unused.Close(w.Context()); err != nil {
			w.Error(err)
		}
		w.checkLive()
		time.Sleep(24 * time.Hour)
		w.set(func() { w.fault["revoke"] = errors.New("broken") })
		if err := w.client.Close(w.Context()); err != nil {
			w.Error(err)
		}
		if w.count("revoke") != 0 {
			w.Error("a lease that has ended is revoked")
		}
	})
}

// Close waits for a read in progress: its lease is the one to revoke.
func TestCloseDuringRead(t *testing.T) {
	inWorld(t, func(w *world) {
		release := make(chan struct{})
		w.hang["read"] = release
		go func() { _, _ = w.client.Token(w.Context()) }()
		synctest.Wait()

		ctx, cancel := context.WithTimeout(w.Context(), time.Second)
		defer cancel()
		if err := w.client.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			w.Errorf("%v", err)
		}
		time.AfterFunc(time.Second, func() { close(release) })
		if err := w.client.Close(w.Context()); err != nil {
			w.Error(err)
		}
		if w.count("revoke") != 1 {
			w.Errorf("%d revocations", w.count("revoke"))
		}
		time.Sleep(24 * time.Hour)
		w.checkCounts(1, 0)
	})
}

func TestCloseThatFails(t *testing.T) {
	inWorld(t, func(w *world) {
		w.checkLive()
		w.set(func() { w.fault["revoke"] = errors.New("the authorization server answered 500") })
		w.checkError(w.client.Close(w.Context()), "revoke the lease of op/token/shop-income", "answered 500")
		w.set(func() { clear(w.fault) })
		if err := w.client.Close(w.Context()); err != nil || w.count("revoke") != 2 {
			w.Errorf("%d revocations, %v", w.count("revoke"), err)
		}
	})
}

// Another reader that takes the token again and again is told of, once for each token of ours, and
// makes the client read no more than once a second.
func TestSecondReader(t *testing.T) {
	inWorld(t, func(w *world) {
		told := 0
		c, err := client.New(w.vault, client.Options{
			Grant: "shop-income", Base: inProcess{http.HandlerFunc(w.resource)}, TokenReplaced: func() { told++ },
		})
		if err != nil {
			w.Fatal(err)
		}
		w.client = c
		w.createPayment(http.StatusCreated)
		if told > 0 {
			w.Errorf("told of another reader %d times", told)
		}
		const seconds = 20
		for begun := time.Now(); time.Since(begun) < seconds*time.Second; time.Sleep(50 * time.Millisecond) {
			w.set(w.rotate)
			w.createPayment(http.StatusCreated)
		}
		if reads := w.count("read"); reads < seconds || reads > seconds+1 {
			w.Errorf("%d reads in %d s", reads, seconds)
		}
		if told < seconds-1 || told > w.count("read") {
			w.Errorf("told of another reader %d times, %d reads", told, w.count("read"))
		}
	})
}
