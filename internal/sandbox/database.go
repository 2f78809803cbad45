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

// database is what is wrong with the database that a request meets; the zero value is a sound one.
type database struct {
	readOnly bool
	killed   bool   // in the middle of a rotation
	pool     *pool  // nil if there are connections for all
	arrive   func() // tells the pool that a rotation has come
}

type databaseKey struct{}

func databaseOf(r *http.Request) database {
	d, _ := r.Context().Value(databaseKey{}).(database)
	return d
}

// Errors of the database, in its own words, which Rafiki copies into its answer to a rotation.
var (
	errReadOnly    = errors.New("cannot execute UPDATE in a read-only transaction")
	errNoneFree    = errors.New("no database connection was free in time")
	errLostHalfWay = errors.New("no second database connection was free in time")
)

// checkWritable is asked before anything but a rotation changes the database.
func checkWritable(r *http.Request) error {
	if databaseOf(r).readOnly {
		return errReadOnly
	}
	return nil
}

const (
	defaultPoolTimeout = time.Minute

	// A rotation keeps its first connection for rotationTime before it takes the second, and up to longestRotation while
	// others are on their way to theirs: so those that were sent at the same instant meet, however slow the machine is.
	rotationTime    = 30 * time.Millisecond
	longestRotation = time.Second
)

// pool are the database connections of all rotations. Each rotation takes two, one after the other, as Rafiki's do. When
// as many rotations as there are connections have their first one, each waits for a second that none gives back, until
// they time out. Then some have revoked the old token and made no new one, and the others go on with the connections
// that these give back. With fewer at once there is always one left to go on with.
type pool struct {
	free     chan struct{}
	timeout  time.Duration
	coming   atomic.Int64 // how many rotations have arrived and not reached the database yet
	timedOut atomic.Int64 // how many rotations had to give up their second connection
}

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

// take waits for a connection and reports whether there was one in time.
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

// expecting serves a rotation that is on its way to the database until it gets there or is refused before.
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

// rotate does a rotation's work with two connections. Its error is errNoneFree if nothing was done, and errLostHalfWay if
// the old token is to be revoked without a new one.
func (p *pool) rotate(s *Server, arrive, work func()) error {
	arrive()
	if !p.take(s.running) {
		return errNoneFree
	}
	defer p.give()
	for busy := time.Duration(0); busy == 0 || busy < longestRotation && p.coming.Load() > 0; busy += rotationTime {
		if !s.sleep(rotationTime) {
			return errNoneFree
		}
	}
	if p.take(s.running) {
		defer p.give()
	} else if p.timedOut.Add(1)%2 == 1 {
		return errLostHalfWay
	}
	work()
	return nil
}

func withDatabase(d database, work http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		work.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), databaseKey{}, d)))
	})
}
