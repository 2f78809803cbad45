// SPDX-License-Identifier: MPL-2.0

package authserver

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
)

func placesOf(t *testing.T, limit int) (*Client, *clockwork.FakeClock) {
	t.Helper()
	clock := clockwork.NewFakeClock()
	return NewNetwork(clock).Client(Identity{MaxRequestsPerServer: limit}), clock
}

const anOrigin = "https://auth.example"

// enterAll takes n places that have to be free.
func enterAll(t *testing.T, c *Client, n int, background bool) (held []*Place) {
	t.Helper()
	for range n {
		p, ok := c.Enter(context.Background(), anOrigin, background)
		if !ok {
			t.Fatal("no place is free")
		}
		held = append(held, p)
	}
	return held
}

// queued waits until n requests wait for a place.
func queued(c *Client, n int) {
	for {
		c.network.places.mu.Lock()
		got := len(c.network.places.byOrigin[anOrigin].waiting)
		c.network.places.mu.Unlock()
		if got == n {
			return
		}
	}
}

func TestPlacesAreLimitedForEachOrigin(t *testing.T) {
	c, clock := placesOf(t, 4)
	enterAll(t, c, 4, false)
	if p, ok := c.Enter(context.Background(), "https://other.example", false); !ok || p.Origin() != "https://other.example" {
		t.Error("another origin's places are taken")
	}
	done := make(chan bool)
	go func() {
		_, ok := c.Enter(context.Background(), anOrigin, false)
		done <- ok
	}()
	queued(c, 1)
	clock.Advance(placeTimeout)
	if <-done {
		t.Error("a fifth place was given")
	}
	queued(c, 0)
}

func TestPlaceIsWaitedForNoLongerThanTheCallerDoes(t *testing.T) {
	c, _ := placesOf(t, 1)
	enterAll(t, c, 1, false)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan bool)
	go func() {
		_, ok := c.Enter(ctx, anOrigin, false)
		done <- ok
	}()
	queued(c, 1)
	cancel()
	if <-done {
		t.Error("a place was given")
	}
}

func TestPlacesAreGivenInOrder(t *testing.T) {
	c, _ := placesOf(t, 1)
	held := enterAll(t, c, 1, false)[0]
	order := make(chan int, 5)
	for i := range 5 {
		go func() {
			p, ok := c.Enter(context.Background(), anOrigin, false)
			if ok {
				order <- i
				p.Leave()
			}
		}()
		queued(c, i+1)
	}
	held.Leave()
	for want := range 5 {
		if got := <-order; got != want {
			t.Errorf("%d before %d", got, want)
		}
	}
}

func TestBackgroundWorkHasHalfOfThePlaces(t *testing.T) {
	for limit, share := range map[int]int{1: 1, 2: 1, 3: 1, 4: 2, 9: 4} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			c, _ := placesOf(t, limit)
			held := enterAll(t, c, share, true)
			admitted := make(chan *Place)
			go func() {
				p, _ := c.Enter(context.Background(), anOrigin, true)
				admitted <- p
			}()
			queued(c, 1)
			// A waiting worker holds nobody else up.
			enterAll(t, c, limit-share, false)
			held[0].Leave()
			(<-admitted).Leave()
		})
	}
}

func TestPlaceIsTakenAgainAfterAPauseOnlyIfFree(t *testing.T) {
	c, _ := placesOf(t, 1)
	p := enterAll(t, c, 1, false)[0]
	p.Leave()
	if !p.Return() {
		t.Error("the free place was not given")
	}
	p.Leave()
	other := enterAll(t, c, 1, false)[0]
	if p.Return() {
		t.Error("a place was given that another has")
	}
	p.Leave() // is no place any more
	if _, ok := c.Enter(canceled(), anOrigin, false); ok {
		t.Error("leaving twice has freed a place")
	}
	other.Leave()
}

func canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// However many ask, no more than the limit are in, and all get in.
func TestManyWantPlaces(t *testing.T) {
	clock := clockwork.NewRealClock()
	c := NewNetwork(clock).Client(Identity{MaxRequestsPerServer: 4})
	var in, most, entered atomic.Int32
	var all sync.WaitGroup
	for i := range 200 {
		all.Go(func() {
			p, ok := c.Enter(context.Background(), anOrigin, i%3 == 0)
			if !ok {
				return
			}
			entered.Add(1)
			if n := in.Add(1); n > most.Load() {
				most.Store(n)
			}
			time.Sleep(time.Microsecond)
			in.Add(-1)
			p.Leave()
		})
	}
	all.Wait()
	if entered.Load() != 200 || most.Load() > 4 {
		t.Errorf("%d entered, %d at once", entered.Load(), most.Load())
	}
}
