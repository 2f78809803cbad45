// SPDX-License-Identifier: MPL-2.0

package authserver

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/deadline"
)

// A server may break under many requests at once: ten rotations at the same instant block a Rafiki
// for a minute and destroy grants. So requests that change something take a place at their origin
// first.

// placeTimeout is how long a request waits for a place.
const placeTimeout = 10 * time.Second

// Place is the right to have one request in flight to an origin. One place serves all that an
// attempt sends there, one request after the other.
type Place struct {
	network    *Network
	queue      *placeQueue
	origin     string
	limit      int
	background bool
	held       bool
}

// Origin returns the origin that the place is at.
func (p *Place) Origin() string { return p.origin }

// places are the queues of all origins. Entries of origins that nobody uses are dropped.
type places struct {
	mu       sync.Mutex
	byOrigin map[string]*placeQueue
}

// placeQueue hands out the places of one origin, first come, first served.
type placeQueue struct {
	mu         *sync.Mutex // that of places
	held       int
	background int // held by background work
	waiting    []*waiter
}

type waiter struct {
	place *Place
	ready chan struct{} // closed when the place is the waiter's
}

// Enter waits for a place at an origin, no longer than ctx and at most 10 s, and reports whether it
// has one. At most MaxRequestsPerServer are held at once, of which background work has at most half,
// and at least one. The caller calls Leave.
func (c *Client) Enter(ctx context.Context, origin string, background bool) (*Place, bool) {
	p := &Place{network: c.network, origin: origin, limit: c.MaxRequestsPerServer, background: background}
	if !p.Await(ctx) {
		return nil, false
	}
	return p, true
}

// Await waits in turn, as Enter does, for a place that was left, and reports whether it is held again.
func (p *Place) Await(ctx context.Context) bool {
	w := p.network.places.enter(p)
	if w == nil {
		return true
	}
	waiting, stop := deadline.After(ctx, p.network.clock, placeTimeout)
	defer stop()
	select {
	case <-w.ready:
		return true
	case <-waiting.Done():
		return p.queue.giveUp(w)
	}
}

// enter takes a place if one is free and nobody waits for it; otherwise it returns the waiter.
func (all *places) enter(p *Place) *waiter {
	all.mu.Lock()
	defer all.mu.Unlock()
	if p.held {
		return nil
	}
	if all.byOrigin == nil {
		all.byOrigin = map[string]*placeQueue{}
	}
	if len(all.byOrigin) > maxOrigins {
		all.dropIdle()
	}
	q := all.byOrigin[p.origin]
	if q == nil {
		q = &placeQueue{mu: &all.mu}
		all.byOrigin[p.origin] = q
	}
	p.queue = q
	if q.admits(p) && !slices.ContainsFunc(q.waiting, func(w *waiter) bool { return q.admits(w.place) }) {
		q.take(p)
		return nil
	}
	w := &waiter{place: p, ready: make(chan struct{})}
	q.waiting = append(q.waiting, w)
	return w
}

// maxOrigins is how many origins are remembered before idle ones are dropped.
const maxOrigins = 256

func (all *places) dropIdle() {
	for origin, q := range all.byOrigin {
		if q.held == 0 && len(q.waiting) == 0 {
			delete(all.byOrigin, origin)
		}
	}
}

// admits reports whether a place is free for p.
func (q *placeQueue) admits(p *Place) bool {
	return q.held < p.limit && (!p.background || q.background < max(1, p.limit/2))
}

func (q *placeQueue) take(p *Place) {
	p.held = true
	q.held++
	if p.background {
		q.background++
	}
}

// giveUp takes a waiter out of the queue. It reports false, which is what the caller returns: a place
// that came at the last moment is given on.
func (q *placeQueue) giveUp(w *waiter) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if w.place.held {
		q.release(w.place)
		return false
	}
	q.waiting = slices.DeleteFunc(q.waiting, func(other *waiter) bool { return other == w })
	q.admitWaiting()
	return false
}

func (q *placeQueue) release(p *Place) {
	p.held = false
	q.held--
	if p.background {
		q.background--
	}
	q.admitWaiting()
}

// admitWaiting gives free places to those who wait, in order; background work that has its share is
// passed over.
func (q *placeQueue) admitWaiting() {
	q.waiting = slices.DeleteFunc(q.waiting, func(w *waiter) bool {
		if !q.admits(w.place) {
			return false
		}
		q.take(w.place)
		close(w.ready)
		return true
	})
}

// Leave gives the place back. It may be called more than once, and on a nil place.
func (p *Place) Leave() {
	if p == nil {
		return
	}
	p.queue.mu.Lock()
	defer p.queue.mu.Unlock()
	if p.held {
		p.queue.release(p)
	}
}

// Return takes a place again that was left for a pause, without waiting, and reports whether one was
// free.
func (p *Place) Return() bool {
	if p == nil {
		return true
	}
	p.queue.mu.Lock()
	defer p.queue.mu.Unlock()
	if p.held {
		return true
	}
	if len(p.queue.waiting) > 0 || !p.queue.admits(p) {
		return false
	}
	p.queue.take(p)
	return true
}

// Waiting returns how many requests wait for a place at an origin.
func (n *Network) Waiting(origin string) int {
	n.places.mu.Lock()
	defer n.places.mu.Unlock()
	if q := n.places.byOrigin[origin]; q != nil {
		return len(q.waiting)
	}
	return 0
}
