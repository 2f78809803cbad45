// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
)

// scenario is an operation that an engine is stopped in the middle of.
type scenario struct {
	name        string
	prepare     func(c *crash)       // what there is before
	act         func(c *crash)       // the operation; what it returns is for whoever asked
	again       func(c *crash) error // what they do after a crash, or after an error; nil: nothing
	done        func(c *crash) error // whether it has come to its end; nil: the grant "g" can be read
	lostBecause string               // a part of the cause with which a grant may be lost; empty: it must not be
	pairs       bool                 // it is stopped once more during the recovery
}

const deadToken = "no longer accepts its token"

// asked and imported are grants that need no consent, and such that count as having needed it.
func asked(c *crash)    { c.ask("g") }
func imported(c *crash) { c.rig.imported("g", nil) }

// read is a read of the grant. A grant that is lost is not read again.
func read(c *crash) error {
	lease, err := c.try(logical.ReadOperation, "token/g", nil)
	if g, _ := loadGrant(c.ctx, c.storage, "g"); g != nil && g.Status == statusLost {
		return nil
	}
	return c.hold(lease, err)
}

func rotations() (all []scenario) {
	for _, kind := range []struct {
		name    string
		make    func(*crash)
		because string
	}{{"no consent", asked, ""}, {"consent", imported, deadToken}} {
		leased := func(c *crash) {
			kind.make(c)
			_ = c.hold(c.read("g"), nil)
		}
		all = append(all,
			scenario{
				name: "read, " + kind.name, prepare: kind.make, lostBecause: kind.because, pairs: true,
				act: func(c *crash) { _ = read(c) }, again: read,
			},
			scenario{
				name: "renewal, " + kind.name, prepare: leased, lostBecause: kind.because,
				act: func(c *crash) { _ = c.hold(c.renew(c.lease)) },
				again: func(c *crash) error {
					if c.hold(c.renew(c.lease)) == nil {
						return nil
					}
					return read(c)
				},
			},
			scenario{
				name: "revocation, " + kind.name, prepare: leased, lostBecause: kind.because,
				act: func(c *crash) { _, _ = c.revoke(c.lease) },
				again: func(c *crash) error {
					_, err := c.revoke(c.lease)
					if err == nil && c.sandbox.Live(tokenOf(c.lease)) {
						c.Error("the value of a revoked lease is live")
					}
					return err
				},
			},
			scenario{
				name: "explicit rotation, " + kind.name, prepare: kind.make, lostBecause: kind.because, pairs: true,
				act: func(c *crash) { _, _ = c.try(logical.UpdateOperation, "rotate/g", nil) },
				again: read,
			},
			scenario{
				name: "keep-alive, " + kind.name, lostBecause: kind.because,
				prepare: func(c *crash) {
					kind.make(c)
					c.clock.Advance(idleTime + 2*time.Hour)
				},
				act: func(c *crash) { c.tend(0) },
			},
		)
	}
	return all
}

func scenarios() []scenario { return rotations() }

// tally is a row of the table.
type tally struct {
	scenario, group              string
	points, usable, lost, orphans int
}

func (y *tally) count(e end, orphans int) {
	y.points++
	if e == endUsable {
		y.usable++
	} else {
		y.lost++
	}
	y.orphans += orphans
}

func TestCrashMatrix(t *testing.T) {
	all := scenarios()
	rows := make([][]*tally, len(all))
	t.Run("points", func(t *testing.T) {
		for i, s := range all {
			t.Run(s.name, func(t *testing.T) {
				t.Parallel()
				rows[i] = s.stopEverywhere(t)
			})
		}
	})
	for _, of := range rows {
		for _, y := range of {
			t.Logf("%+v", *y)
		}
	}
}

// stopEverywhere tries all points of a scenario, and returns its rows.
func (s scenario) stopEverywhere(t *testing.T) (rows []*tally) {
	row := func(group string) *tally {
		i := slices.IndexFunc(rows, func(y *tally) bool { return y.group == group })
		if i < 0 {
			rows = append(rows, &tally{scenario: s.name, group: group})
			i = len(rows) - 1
		}
		return rows[i]
	}
	var points []point
	t.Run("dry run", func(t *testing.T) { points = s.dryRun(t) })
	for _, p := range points {
		t.Run(p.String(), func(t *testing.T) {
			e, orphans := s.run(t, p)
			row(p.group()).count(e, orphans)
		})
	}
	return rows
}

// dryRun counts the points of the operation.
func (s scenario) dryRun(t *testing.T) []point {
	c := newCrash(t, s)
	defer c.sandbox.Close()
	c.breaker.arm(point{})
	s.act(c)
	return c.breaker.points(allKinds...)
}

// run stops the operation at a point, and the recovery at each further one.
func (s scenario) run(t *testing.T, at point, further ...point) (e end, orphans int) {
	c := newCrash(t, s)
	defer c.sandbox.Close()
	defer func() {
		if t.Failed() {
			t.Log(c.log.String())
		}
	}()
	c.breaker.arm(at)
	s.act(c)
	c.settle()
	for _, p := range further {
		c.breaker.arm(p)
		c.recover()
		c.settle()
	}
	c.recover()
	e = c.judge()
	orphans = c.finish()
	if orphans > 0 && !at.mayLoseAnswer() {
		t.Errorf("%d grants are left open at the server, and its answers came", orphans)
	}
	c.b.Cleanup(c.ctx)
	return e, orphans
}

// mayLoseAnswer reports whether an answer of the server's may never have come to a storage.
func (p point) mayLoseAnswer() bool { return p.stops() || p.kind == netUnanswered || p.kind == netHalf }

var _ = errors.New
var _ = fmt.Sprint
var _ sandbox.Misbehaviour
