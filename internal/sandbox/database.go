// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// database is the state of the database for one request; the zero value works.
type database struct {
	readOnly bool
	killed   bool   // the process is killed in the middle of a rotation
	pool     *pool  // nil if connections are unlimited
	arrive   func() // tells the pool that the rotation has reached the database
}

type databaseKey struct{}

func databaseOf(r *http.Request) database {
	d, _ := r.Context().Value(databaseKey{}).(database)
	return d
}

// Errors of the database, in its own words, which Rafiki copies into its answer to a rotation.
var (
	errReadOnly    = errors.New("cannot execute UPDATE in a read-only transaction")
	errPoolTimeout = errors.New("no database connection was free in time")
	errHalfRotated = errors.New("no second database connection was free in time")
)

// checkWritable returns an error if the database is read-only. Everything that changes the database
// calls it, except a rotation.
func checkWritable(r *http.Request) error {
	if databaseOf(r).readOnly {
		return errReadOnly
	}
	return nil
}

const (
	defaultPoolTimeout = time.Minute

	// A rotation holds its first connection for rotationTime before it takes the second, and for up
	// to longestRotation while other rotations have arrived and not taken their first one. So
	// rotations that were sent at the same instant overlap even on a slow machine.
	rotationTime    = 30 * time.Millisecond
	longestRotation = time.Second
)

// pool is the pool of database connections for rotations. As at Rafiki, each rotation takes two
// connections, one after the other. When as many rotations as there are connections hold their
// first one, all of them wait for a second one until they time out. Then some have revoked the old
// token without making a new one, and the others finish with the connections that these return.
// With fewer rotations at once there is always a connection left.
type pool struct {
	free     chan struct{}
	timeout  time.Duration
	coming   atomic.Int64 // rotations that have arrived and not reached the database
	timedOut atomic.Int64 // rotations that timed out waiting for their second connection
}

// newPool returns a pool of so many connections.
func newPool(connections int, timeout time.Duration) *pool {
	if timeout == 0 {
		timeout = defaultPoolTimeout
	}
	p := &pool{free: make(chan struct{}, connections), timeout: timeout}
	for range connections {
		p.give()
	}
	return p
}

func (p *pool) give() { p.free <- struct{}{} }

// take takes a connection and reports whether one was free in time.
func (p *pool) take(ctx context.Context) bool {
	select {
	case <-p.free:
		return true
	default:
	}
	timer := time.NewTimer(p.timeout)
	defer timer.Stop()
	select {
	case <-p.free:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// expecting counts a rotation as coming until it reaches the database or is rejected before that.
func (p *pool) expecting(work http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if Operation(r) != opRotate {
			work.ServeHTTP(w, r)
			return
		}
		p.coming.Add(1)
		arrive := sync.OnceFunc(func() { p.coming.Add(-1) })
		defer arrive()
		withDatabase(database{pool: p, arrive: arrive}, work).ServeHTTP(w, r)
	})
}

// rotate runs a rotation's work with two connections. It returns errPoolTimeout if nothing was
// done, and errHalfRotated if the old token has to be revoked without a new one.
func (p *pool) rotate(s *Server, arrive, work func()) error {
	arrive()
	if !p.take(s.running) {
		return errPoolTimeout
	}
	defer p.give()
	for busy := time.Duration(0); busy == 0 || busy < longestRotation && p.coming.Load() > 0; busy += rotationTime {
		if !s.sleep(rotationTime) {
			return errPoolTimeout
		}
	}
	if p.take(s.running) {
		defer p.give()
	} else if p.timedOut.Add(1)%2 == 1 {
		return errHalfRotated
	}
	work()
	return nil
}

// withDatabase serves requests with a database in the given state.
func withDatabase(d database, work http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		work.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), databaseKey{}, d)))
	})
}
