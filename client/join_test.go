// SPDX-License-Identifier: MPL-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/sdk/logical"
)

// busy has a call of op/sign in progress, whose response is held until release is called. What is
// sent meanwhile waits.
func (w *world) busy() (release func()) {
	w.Helper()
	w.checkLive()
	held := make(chan struct{})
	w.set(func() { w.hang["sign"] = held })
	first := w.sendLater(w.Context(), "/first", "")
	synctest.Wait()
	w.set(func() { w.hang["sign"], w.batches, w.signed = nil, nil, nil })
	return func() {
		close(held)
		if got := <-first; got.err != nil {
			w.Errorf("the call that was held: %v", got.err)
		}
	}
}

type sent struct {
	status int
	err    error
}

// sendLater sends a POST to a path below the resource server, and goes on when it waits.
func (w *world) sendLater(ctx context.Context, path, body string) <-chan sent {
	w.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, resourceServer+path, strings.NewReader(body))
	if err != nil {
		w.Fatal(err)
	}
	results := make(chan sent, 1)
	go func() {
		resp, err := w.client.RoundTrip(req)
		got := sent{err: err}
		if err == nil {
			got.status = resp.StatusCode
			_ = resp.Body.Close()
		}
		results <- got
	}()
	synctest.Wait()
	return results
}

// checkBatches checks how many requests each call of op/sign had; 0 for one that was no batch.
func (w *world) checkBatches(want ...int) {
	w.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Equal(w.batches, want) {
		w.Errorf("calls with %v requests, want %v", w.batches, want)
	}
}

func (w *world) checkCreated(all ...<-chan sent) {
	w.Helper()
	for i, results := range all {
		if got := <-results; got.err != nil || got.status != http.StatusCreated {
			w.Errorf("request %d: %d %v", i, got.status, got.err)
		}
	}
}

// While a call is in progress, requests wait, and go together in the next ones, first in, first out.
func TestSignaturesAreJoined(t *testing.T) {
	for name, role := range map[string]bool{"grant": false, "role": true} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				if role {
					w.useRole()
				}
				release := w.busy()
				var all []<-chan sent
				var want []string
				for i := range 301 {
					path := fmt.Sprintf("/incoming-payments/%d", i)
					all, want = append(all, w.sendLater(w.Context(), path, `{"n": 1}`)), append(want, resourceServer+path)
				}
				w.checkBatches()
				release()
				w.checkCreated(all...)
				w.checkBatches(250, 51)
				if !slices.Equal(w.signed, want) {
					w.Error("not first in, first out")
				}
				seen := map[string]int{}
				for _, r := range w.requests {
					if r.Header.Get("Signature") != fmt.Sprintf("sig1=:POST %s:", r.URL) {
						w.Fatalf("%s has the signature of another", r.URL)
					}
					seen[r.URL.Path]++
				}
				if len(seen) != 302 {
					w.Errorf("%d requests have arrived", len(seen))
				}
			})
		})
	}
}

// One caller alone has a call for each request, as has each of two who do not meet.
func TestSignatureAlone(t *testing.T) {
	inWorld(t, func(w *world) {
		for range 3 {
			w.createPayment(http.StatusCreated)
		}
		w.checkBatches(0, 0, 0)
		release := w.busy()
		one := w.sendLater(w.Context(), "/quotes", `{}`)
		release()
		w.checkCreated(one)
		w.checkBatches(0)
	})
}

// A batch has up to 512 KiB; what is longer goes alone, and nothing overtakes it.
func TestLongRequests(t *testing.T) {
	inWorld(t, func(w *world) {
		release := w.busy()
		body := func(kib int) string { return `{"x":"` + strings.Repeat("x", kib<<10) + `"}` }
		var all []<-chan sent
		for i, kib := range []int{1, 300, 300, 600, 1, 1} {
			all = append(all, w.sendLater(w.Context(), fmt.Sprintf("/quotes/%d", i), body(kib)))
		}
		release()
		w.checkCreated(all...)
		w.checkBatches(2, 0, 0, 2)
		if !slices.IsSorted(w.signed) {
			w.Errorf("not first in, first out: %v", w.signed)
		}
	})
}

// A call that takes longer than 100 ms holds up nobody any more.
func TestSlowCall(t *testing.T) {
	inWorld(t, func(w *world) {
		release := w.busy()
		all := []<-chan sent{w.sendLater(w.Context(), "/quotes/1", ""), w.sendLater(w.Context(), "/quotes/2", "")}
		time.Sleep(99 * time.Millisecond)
		synctest.Wait()
		w.checkBatches()
		time.Sleep(2 * time.Millisecond)
		w.checkCreated(all...)
		w.checkBatches(2)
		w.checkCreated(w.sendLater(w.Context(), "/quotes/3", "")) // at once
		w.checkBatches(2, 0)
		release()
	})
}

// Whoever leaves cancels nobody else. A call is cancelled when all have left it, and a request that
// nobody waits for is not signed.
func TestMemberWhoLeaves(t *testing.T) {
	inWorld(t, func(w *world) {
		release := w.busy()
		ctx, leave := context.WithCancel(w.Context())
		before := w.sendLater(ctx, "/quotes/before", "")
		staying := w.sendLater(w.Context(), "/quotes/staying", "")
		another := w.sendLater(w.Context(), "/quotes/another", "")
		leave()
		if got := <-before; !errors.Is(got.err, context.Canceled) {
			w.Errorf("who left: %v", got.err)
		}
		release()
		w.checkCreated(staying, another)
		w.checkBatches(2)

		for _, all := range []bool{false, true} {
			release := w.busy()
			held := make(chan struct{})
			w.set(func() { w.hang["sign"] = held })
			ctx, leave := context.WithCancel(w.Context())
			otherCtx := w.Context()
			if all {
				otherCtx = ctx
			}
			first, second := w.sendLater(ctx, "/quotes/first", ""), w.sendLater(otherCtx, "/quotes/second", "")
			release()
			synctest.Wait()
			w.checkBatches(2)
			cancelled := w.count("cancelled sign")
			leave()
			synctest.Wait()
			if n := w.count("cancelled sign") - cancelled; (n == 1) != all {
				w.Errorf("all have left: %t, %d calls cancelled", all, n)
			}
			w.set(func() { delete(w.hang, "sign") })
			close(held)
			if got := <-first; !errors.Is(got.err, context.Canceled) {
				w.Errorf("who left: %v", got.err)
			}
			if got := <-second; !all && got.status != http.StatusCreated {
				w.Errorf("who stayed: %v", got.err)
			}
		}
	})
}

// The error of a request in a batch is what it is alone: of the same type, with the same content, in
// the same words.
func TestErrorsInABatch(t *testing.T) {
	inWorld(t, func(w *world) {
		alone := map[string]error{}
		for _, path := range []string{"/unknown", "/broken"} {
			got := <-w.sendLater(w.Context(), path, "")
			w.checkError(got.err, "write op/sign/shop-income")
			alone[path] = got.err
		}
		release := w.busy()
		good := w.sendLater(w.Context(), "/quotes/1", "")
		bad := map[string]<-chan sent{}
		for path := range alone {
			bad[path] = w.sendLater(w.Context(), path, "")
		}
		release()
		w.checkCreated(good)
		for path, results := range bad {
			got := <-results
			var want, is *api.ResponseError
			if !errors.As(alone[path], &want) || !errors.As(got.err, &is) || !reflect.DeepEqual(is, want) ||
				got.err.Error() != alone[path].Error() {
				w.Errorf("%s: %v, alone %v", path, got.err, alone[path])
			}
		}
		w.checkBatches(3, 0) // what cannot be told from the batch goes alone
	})
}

// In a batch too, a token that is not the current one is replaced, once for all.
func TestSupersededInABatch(t *testing.T) {
	inWorld(t, func(w *world) {
		w.useRole()
		release := w.busy()
		var all []<-chan sent
		for range 5 {
			all = append(all, w.sendLater(w.Context(), "/quotes/1", ""))
		}
		w.set(w.rotate) // by somebody else
		release()
		w.checkCreated(all...)
		w.checkCounts(2, 0)
	})
}

// If Vault refuses a batch because it is one, its requests go one by one, and so do others for a while.
func TestBatchIsRefused(t *testing.T) {
	for name, fault := range map[string]error{
		"by a policy":     logical.CodedError(http.StatusForbidden, "permission denied"),
		"for its length":  logical.CodedError(http.StatusRequestEntityTooLarge, "request body too large"),
		"by its field":    logical.CodedError(http.StatusBadRequest, `unknown field "batch_input"`),
		"for its content": logical.CodedError(http.StatusBadRequest, "batch_input: must be a JSON list"),
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				three := func() []<-chan sent {
					return []<-chan sent{
						w.sendLater(w.Context(), "/quotes/1", ""), w.sendLater(w.Context(), "/quotes/2", ""),
						w.sendLater(w.Context(), "/quotes/3", ""),
					}
				}
				w.batchFault = fault
				release := w.busy()
				all := three()
				release()
				w.checkCreated(all...)
				w.checkBatches(0, 0, 0)
				refused := w.count("sign")

				held := make(chan struct{})
				w.set(func() { w.hang["sign"] = held })
				all = three()
				if n := w.count("sign") - refused; n != 3 {
					w.Errorf("%d of 3 requests went at once", n)
				}
				w.set(func() { delete(w.hang, "sign") })
				close(held)
				w.checkCreated(all...)

				time.Sleep(2 * time.Second)
				w.set(func() { w.batchFault = nil })
				release = w.busy()
				all = three()
				release()
				w.checkCreated(all...)
				w.checkBatches(3)
			})
		})
	}
}

// A failure that has nothing to do with batches is that of all their requests: nothing is repeated.
func TestBatchThatFails(t *testing.T) {
	for status, text := range map[int]string{
		400: `grant "shop-income" is lost`, 429: "too many requests", 500: "storage failed", 503: "sealed",
	} {
		t.Run(text, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.batchFault = logical.CodedError(status, text)
				release := w.busy()
				all := []<-chan sent{w.sendLater(w.Context(), "/quotes/1", ""), w.sendLater(w.Context(), "/quotes/2", "")}
				calls := w.count("sign")
				release()
				for _, results := range all {
					got := <-results
					w.checkError(got.err, "write op/sign/shop-income", text)
					var refusal *api.ResponseError
					if !errors.As(got.err, &refusal) || refusal.StatusCode != status {
						w.Errorf("%v is not the %d", got.err, status)
					}
				}
				if n := w.count("sign") - calls; n != 1 {
					w.Errorf("%d calls", n)
				}
			})
		})
	}
}

// Something else than the engine at op/sign is told from it in batches, too.
func TestBatchAnsweredBySomethingElse(t *testing.T) {
	inWorld(t, func(w *world) {
		release := w.busy()
		all := []<-chan sent{w.sendLater(w.Context(), "/quotes/1", ""), w.sendLater(w.Context(), "/quotes/2", "")}
		w.set(func() { w.noResults = true })
		release()
		for _, results := range all {
			w.checkError((<-results).err, "does not come from an Open Payments secrets engine")
		}
	})
}
