// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/jonboulle/clockwork"
)

// One tick on which 50 grants are due, besides so many stored ones that are not: what it costs in
// time, allocations (the server's part among them) and storage operations, and what the engine
// needs to start and holds in memory. It must not grow with what is stored.
func BenchmarkKeepAlive(b *testing.B) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.WriteString(w, `{"access_token":{"value":"v","manage":"http://`+req.Host+`/token/1","expires_in":600,"access":[{"type":"incoming-payment","actions":["read"]}]}}`)
	}))
	defer server.Close()
	for _, stored := range []int{10, 10_000, 100_000} {
		b.Run(fmt.Sprint(stored), func(b *testing.B) {
			k := newCrowd(b, server.URL, stored)
			k.start(b)
			before, ticks := k.storage.opsSoFar(), 0
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				written := k.storage.opsSoFar()
				k.makeDue(b, 50)
				before += k.storage.opsSoFar() - written
				b.StartTimer()
				k.tick(b)
				ticks++
			}
			b.StopTimer()
			b.ReportMetric(float64(k.storage.opsSoFar()-before)/float64(ticks), "storage-ops/tick")
			b.ReportMetric(float64(k.started.Nanoseconds()), "start-ns")
			b.ReportMetric(float64(k.heap), "heap-B")
			for i := range 50 {
				if g, err := loadGrant(b.Context(), k.storage, fmt.Sprintf("due-%d", i)); err != nil || g.Generation != ticks {
					b.Fatalf("rotated %d times in %d ticks: %v", g.Generation, ticks, err)
				}
			}
		})
	}
}

// crowd is an engine on a storage with many grants.
type crowd struct {
	b       *Backend
	storage *testStorage
	clock   *clockwork.FakeClock
	model   grant
	started time.Duration
	heap    int64
}

func newCrowd(b *testing.B, server string, stored int) *crowd {
	k := &crowd{storage: &testStorage{InmemStorage: &logical.InmemStorage{}}, clock: clockwork.NewFakeClockAt(time.Now().Truncate(time.Hour).Add(time.Hour / 2))}
	c := newConfig()
	c.WalletAddress, c.KeyID, c.PrivateKey, c.Verify = server+"/client", testKeyID, newRig(b).key, false
	if err := c.store(b.Context(), k.storage); err != nil {
		b.Fatal(err)
	}
	k.model = *newGrant(c.WalletAddress, k.clock.Now().Add(-30*24*time.Hour))
	k.model.Access, k.model.Requested = []byte(incomingAccess), []byte(incomingAccess)
	k.model.AuthOrigin, k.model.Status, k.model.Token, k.model.Manage = server, statusActive, "t", server+"/token/1"
	now := k.clock.Now()
	for i := range stored { // used at one time or another of the last week
		g := k.model
		g.ID, g.LastRotation.At = newID(), now.Add(-time.Duration(i+1)*defaultKeepalive/time.Duration(stored+1))
		k.put(b, fmt.Sprintf("grant-%d", i), &g, nextCheck(&g, now))
	}
	return k
}

// put stores a grant and its slot.
func (k *crowd) put(b *testing.B, name string, g *grant, at time.Time) {
	h := &grantLock{b: &Backend{clock: k.clock}, storage: k.storage, name: name}
	if _, err := h.putSlot(b.Context(), at, slot{}); err != nil {
		b.Fatal(err)
	}
	if err := h.store(b.Context(), g); err != nil {
		b.Fatal(err)
	}
}

// makeDue lets so many grants be due now. The slots that they have got go.
func (k *crowd) makeDue(b *testing.B, n int) {
	for i := range n {
		name, g := fmt.Sprintf("due-%d", i), k.model
		if old, err := loadGrant(b.Context(), k.storage, name); err != nil {
			b.Fatal(err)
		} else if old != nil {
			g = *old
			if err := k.storage.Delete(b.Context(), slotKey(nextCheck(old, k.clock.Now()), name)); err != nil {
				b.Fatal(err)
			}
		}
		g.ExpiresAt, g.LastRotation.At = time.Time{}, time.Time{}
		k.put(b, name, &g, k.clock.Now().Add(-time.Minute))
	}
}

// start is what Vault does when it mounts the engine on what is stored. The heap is that of an
// engine that has ticked once.
func (k *crowd) start(b *testing.B) {
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	begun := time.Now()
	k.b = newBackend("v0.0.1", k.clock)
	err := k.b.Setup(b.Context(), &logical.BackendConfig{Logger: hclog.NewNullLogger(), System: logical.TestSystemView(), StorageView: k.storage})
	if err == nil {
		err = k.b.Initialize(b.Context(), &logical.InitializationRequest{Storage: k.storage})
	}
	k.started = time.Since(begun)
	if err != nil {
		b.Fatal(err)
	}
	k.tick(b)
	runtime.GC()
	runtime.ReadMemStats(&after)
	k.heap = int64(after.HeapAlloc) - int64(before.HeapAlloc)
}

func (k *crowd) tick(b *testing.B) {
	_, err := k.b.HandleRequest(context.Background(), &logical.Request{Operation: logical.RollbackOperation, Storage: k.storage, MountPoint: "op/"})
	if err != nil {
		b.Fatal(err)
	}
	k.b.inFlight.work.Wait() // for the workers
}
