//go:build !race

// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// pausedFor is how long the former leader is paused: longer than maxPause, and not so long that a time
// limit of its own ends what it is about.
const pausedFor = 5 * time.Second

// takeover is what the next leader does with the grant while the former one is paused.
type takeover struct {
	name string
	do   func(c *crash)
}

func takeovers() []takeover {
	send := func(c *crash, op logical.Operation, path string, data map[string]any) {
		_, _ = c.try(op, path, data) // what it cannot do it leaves as it is
	}
	imports := func(c *crash) {
		elsewhere(c)
		send(c, logical.UpdateOperation, "grants/g", c.fields)
	}
	return []takeover{
		{"rotates", func(c *crash) { send(c, logical.UpdateOperation, "rotate/g", nil) }},
		{"deletes", func(c *crash) { send(c, logical.DeleteOperation, "grants/g", nil) }},
		{"deletes, and imports another grant", func(c *crash) {
			send(c, logical.DeleteOperation, "grants/g", nil)
			imports(c)
		}},
		{"asks again", func(c *crash) { send(c, logical.UpdateOperation, "grants/g", asking(c, false, true)) }},
	}
}

// A former leader is paused at each point of an operation, and goes on, with its storage and its network,
// after the next one has changed the grant.
func TestTwoMasters(t *testing.T) {
	names := []string{
		"explicit rotation, no consent", "explicit rotation, consent", "asking anew, the token is dead",
		"asking, no consent, while a grant is active", "continuation", "deletion, consent",
	}
	rows := make([]pauses, len(names))
	t.Run("points", func(t *testing.T) {
		for i, name := range names {
			all := scenarios()
			s := all[slices.IndexFunc(all, func(s scenario) bool { return s.name == name })]
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				rows[i] = s.pauseEverywhere(t)
			})
		}
	})
	if t.Failed() || slices.ContainsFunc(rows, func(p pauses) bool { return p.all == 0 }) { // -run named a part
		return
	}
	var table strings.Builder
	table.WriteString("\n| operation | pauses | nothing changed | overwritten | of those lost |\n")
	table.WriteString("| --- | ---: | ---: | ---: | ---: |\n")
	for i, p := range rows {
		fmt.Fprintf(&table, "| %s | %d | %d | %d | %d |\n", names[i], p.all, p.all-p.overwritten, p.overwritten, p.lost)
	}
	table.WriteString("\n")
	isDocumented(t, table.String())
}

// pauses is a row of the table.
type pauses struct{ all, overwritten, lost int }

// pauseEverywhere tries all points after the former leader has looked at the grant.
func (s scenario) pauseEverywhere(t *testing.T) (p pauses) {
	var dry *breaker
	t.Run("dry run", func(t *testing.T) { dry = s.count(t) })
	for _, at := range dry.points(pauseBefore, pauseAfter, pauseUnread, pauseAnswered) {
		if !dry.hasLooked(at) {
			continue
		}
		for _, next := range takeovers() {
			t.Run(at.String()+"; the next one "+next.name, func(t *testing.T) {
				overwritten, lost := s.takeOver(t, at, next, dry.cannotBeFenced(at))
				p.all++
				if overwritten {
					p.overwritten++
				}
				if overwritten && lost {
					p.lost++
				}
			})
		}
	}
	return p
}

// isGrant reports whether a storage operation is about the grant's own entry.
func (s step) isGrant() bool { return s.key == grantsPrefix+"g" }

// hasLooked reports whether the engine has looked at the grant before a point, in order to change it.
func (b *breaker) hasLooked(at point) bool {
	look, first := 0, slices.IndexFunc(b.ops, func(s step) bool { return s.write })
	for n, s := range b.ops[:first] {
		if s.isGrant() {
			look = n + 1
		}
	}
	if at.remote() {
		return b.calls[at.n-1].ops >= look
	}
	return at.n > look || at.n == look && at.kind == pauseAfter
}

// cannotBeFenced reports whether the pause is in the middle of a write of the grant's entry.
func (b *breaker) cannotBeFenced(at point) bool {
	return at.kind == pauseBefore && b.ops[at.n-1].write && b.ops[at.n-1].isGrant()
}

// entry returns what is stored of the grant.
func (c *crash) entry() []byte {
	c.Helper()
	entry, err := c.storage.InmemStorage.Get(c.ctx, grantsPrefix+"g")
	switch {
	case err != nil:
		c.Fatal(err)
	case entry != nil:
		return entry.Value
	}
	return nil
}

// asked counts the requests so far that ask the server for something.
func (b *breaker) asked() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, call := range b.calls {
		if slices.Contains([]string{"rotate", "grant", "continue"}, call.key) {
			n++
		}
	}
	return n
}

// takeOver pauses the former leader at a point, lets the next one change the grant, and reports whether
// the former one has overwritten that, and whether the grant is lost then.
func (s scenario) takeOver(t *testing.T, at point, next takeover, unfenced bool) (overwritten, lost bool) {
	c := newCrash(t, s)
	defer c.sandbox.Close()
	defer func() {
		if t.Failed() {
			t.Log(c.log.String())
		}
	}()
	former, formerEngine := c.breaker, c.b
	former.arm(at)
	c.paused = true
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.act(c)
	}()
	select {
	case <-former.paused:
	case <-done:
		t.Fatal("the point is not reached any more")
	}
	c.start()
	c.clock.Advance(pausedFor)
	untouched := c.entry()
	next.do(c)
	before, asked := c.entry(), c.breaker.asked()
	close(former.resume)
	<-done
	c.paused = false
	if bytes.Equal(untouched, before) { // the former one goes on with what is still its own
		formerEngine.Cleanup(c.ctx)
		return false, false
	}
	if overwritten = !bytes.Equal(before, c.entry()); overwritten && !unfenced {
		t.Error("a late write has changed the grant")
	}
	if n := c.breaker.asked() - asked; n > 0 && !unfenced {
		t.Errorf("%d late requests", n)
	}
	formerEngine.Cleanup(c.ctx)
	c.again = read
	c.recover()
	lost = len(c.grants()) != 0 && c.stored("g").Status == statusLost
	if orphans, _ := c.finish(); orphans > 0 && !unfenced {
		t.Errorf("%d grants are left open at the server", orphans)
	}
	return overwritten, lost
}
