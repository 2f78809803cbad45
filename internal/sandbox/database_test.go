// SPDX-License-Identifier: MPL-2.0

package sandbox_test

import (
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
)

// While the database is read-only nothing is changed and nothing is lost; what is checked before is
// checked.
func TestReadOnly(t *testing.T) {
	w := newWorld(t)
	g, dead, polled := w.grant(), w.grant(), w.pending(w.outgoing(""), "")
	w.want(w.ask(w.revoke(dead)), http.StatusNoContent, "")
	w.clock.pass(5 * time.Second)
	w.Misbehave(sandbox.Misbehaviour{ReadOnly: true})
	for range 3 {
		w.want(w.ask(w.rotate(g)), http.StatusNotFound,
			errorBody("invalid_rotation", "cannot execute UPDATE in a read-only transaction"))
	}
	w.want(w.ask(w.rotate(dead)), http.StatusUnauthorized, invalidAccessToken)
	for _, a := range []ask{
		w.revoke(g), w.cancel(g), w.poll(polled),
		{method: "POST", url: w.AuthServer(), body: w.grantBody(w.right(`"read"`), "")},
	} {
		r := w.ask(a)
		w.wantText(r, http.StatusInternalServerError)
		if r.body != "Internal Server Error" {
			t.Error("the database's words are in the answer")
		}
	}
	w.wantLive(1)
	w.Misbehave()
	w.want(w.ask(w.revoke(w.decode(w.ask(w.rotate(g))))), http.StatusNoContent, "")
	w.want(w.ask(w.poll(polled)), http.StatusOK, "")
}

// rotateAll rotates so many grants at the same instant.
func (w *world) rotateAll(n int) (grants []granted, replies []reply) {
	w.t.Helper()
	for range n {
		grants = append(grants, w.grant())
	}
	replies = make([]reply, n)
	begin := make(chan struct{})
	var all sync.WaitGroup
	for i, g := range grants {
		request := w.build(w.rotate(g))
		all.Go(func() {
			<-begin
			response, err := w.http.Do(request)
			if err != nil {
				w.t.Errorf("a rotation was not answered: %v", err)
				return
			}
			defer response.Body.Close()
			replies[i] = reply{status: response.StatusCode, header: response.Header}
		})
	}
	close(begin)
	all.Wait()
	return grants, replies
}

// Ten rotations at once block each other until they time out; then some tokens are gone and some
// answers come.
func TestPool(t *testing.T) {
	const timeout = 700 * time.Millisecond
	w := newWorld(t)
	w.Misbehave(sandbox.Misbehaviour{On: []string{"rotate"}, Pool: 10, PoolTimeout: timeout})
	began := time.Now()
	grants, replies := w.rotateAll(10)
	if took := time.Since(began); took < timeout {
		t.Errorf("the answers came after %s", took)
	}
	w.Misbehave()
	answered, lost := 0, 0
	for i, r := range replies {
		switch r.status {
		case http.StatusOK:
			answered++
		case http.StatusNotFound:
			w.want(w.ask(w.rotate(grants[i])), http.StatusUnauthorized, invalidAccessToken)
			lost++
		default:
			t.Errorf("got %s", r)
		}
	}
	if answered == 0 || lost == 0 {
		t.Errorf("%d rotations were answered and %d tokens lost", answered, lost)
	}
	w.wantLive(answered)
}

// Fewer at once are fine, over and over.
func TestPoolNotExhausted(t *testing.T) {
	w := newWorld(t)
	w.Misbehave(sandbox.Misbehaviour{Pool: 10})
	for range 5 {
		_, replies := w.rotateAll(9)
		for _, r := range replies {
			if r.status != http.StatusOK {
				t.Errorf("got %s", r)
			}
		}
	}
	w.wantLive(45)
}

// A rotation that gets no connection at all has done nothing.
func TestPoolQueue(t *testing.T) {
	w := newWorld(t)
	w.Misbehave(sandbox.Misbehaviour{Pool: 2, PoolTimeout: 300 * time.Millisecond})
	grants, replies := w.rotateAll(8)
	w.Misbehave()
	lives := 0
	for i, r := range replies {
		if r.status == http.StatusNotFound && w.ask(w.rotate(grants[i])).status == http.StatusOK {
			lives++
		}
	}
	if lives == 0 {
		t.Error("each rotation that failed has lost its token")
	}
}

// A pool whose rotations are blocked ends with the server.
func TestPoolEndsWithServer(t *testing.T) {
	w := newWorld(t)
	w.Misbehave(sandbox.Misbehaviour{Pool: 2})
	ended := make(chan struct{})
	one, other := w.build(w.rotate(w.grant())), w.build(w.rotate(w.grant()))
	go func() {
		var both sync.WaitGroup
		for _, request := range []*http.Request{one, other} {
			both.Go(func() {
				if response, err := w.http.Do(request); err == nil {
					response.Body.Close()
				}
			})
		}
		both.Wait()
		close(ended)
	}()
	until(t, func() bool { return w.Count("rotate") == 2 })
	w.Close()
	<-ended
}
