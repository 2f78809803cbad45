// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
)

// What stops an engine at any point of an operation, starts another one on the same storage, and
// judges what has become of the grant.

// pointKind is what happens at a point of an operation.
type pointKind int

const (
	atNoPoint pointKind = iota

	// The engine ends at a storage operation.
	stopBefore // it was not done
	stopAfter  // it was done; that never reached the engine

	// The engine ends at a request.
	stopUnsent // before it was sent
	stopUnread // it was sent; the server works on it only after the next engine has recovered
	stopUnanswered
	stopHalf  // a half of the answer came
	stopWhole // the answer came; nothing was made of it

	// Storage fails, and the engine lives.
	failOnce
	failCommitted // the write was done, and reported as failed
	failForLong   // every operation from here on, until the caller has an answer

	// The network fails, and the engine lives.
	netUnsent
	netUnanswered // the server has worked on it
	netHalf

	// The engine is paused, and goes on after another one has taken over.
	pauseBefore // a storage operation
	pauseAfter
	pauseUnread   // the server has not read the request yet
	pauseAnswered // the answer is on its way
)

var pointNames = map[pointKind]string{
	stopBefore: "stop before storage operation", stopAfter: "stop after storage operation",
	stopUnsent: "stop before request", stopUnread: "stop after sending request", stopUnanswered: "stop without the answer to request",
	stopHalf: "stop after a half of the answer to request", stopWhole: "stop after the answer to request",
	failOnce: "failure of storage operation", failCommitted: "reported failure of storage operation",
	failForLong: "failures from storage operation",
	pauseBefore: "pause before storage operation", pauseAfter: "pause after storage operation",
	pauseUnread: "pause before the server reads request", pauseAnswered: "pause before the answer to request",
	netUnsent: "no connection for request", netUnanswered: "no answer to request", netHalf: "a half of the answer to request",
}

// point is the n-th storage operation or request, counted from 1, and what happens there.
type point struct {
	kind pointKind
	n    int
}

func (p point) String() string { return fmt.Sprintf("%s %d", pointNames[p.kind], p.n) }

func (p point) remote() bool {
	switch p.kind {
	case stopBefore, stopAfter, failOnce, failCommitted, failForLong, pauseBefore, pauseAfter:
		return false
	}
	return true
}

func (p point) stops() bool { return p.kind >= stopBefore && p.kind <= stopWhole }

// group names the row of the table that a point belongs to.
func (p point) group() string {
	switch {
	case p.stops() && p.remote():
		return "stopped at a request"
	case p.stops():
		return "stopped at a storage operation"
	case p.remote():
		return "the network fails at a request"
	}
	return "storage fails"
}

var errDead = errors.New("the engine has ended")

// step is a storage operation or a request, with what was done before it.
type step struct {
	key            string // of a storage operation; the server's operation of a request
	write          bool   // it changes something
	ops            int    // storage operations before it
	writes, worked int
}

// breaker counts what one engine does, and breaks in at a point.
type breaker struct {
	mu      sync.Mutex
	at      point
	paused  chan struct{}      // closed when the engine is paused
	resume  chan struct{}      // closed when it goes on
	keep    func(value []byte) // is told what was written
	ops     []step             // the storage operations so far
	calls   []step             // the requests so far
	reached bool
	dead    bool // the engine's storage and network are cut off
	away    bool // storage fails for long

	committed int // writes so far, and
	worked    int // requests that the server has worked on: what both leave is the same
}

// arm begins to count anew. The zero point only counts.
func (b *breaker) arm(at point) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.at, b.ops, b.calls, b.reached, b.away, b.committed, b.worked = at, nil, nil, false, false, 0, 0
	b.paused, b.resume = make(chan struct{}), make(chan struct{})
}

// hit reports whether the n-th storage operation or request is the point.
func (b *breaker) hit(n int, remote bool) bool {
	hit := b.at.kind != atNoPoint && b.at.remote() == remote && b.at.n == n
	b.reached = b.reached || hit
	return hit
}

func (b *breaker) storage(op storageOp) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.dead {
		return errDead
	}
	if b.away {
		return errDisk
	}
	b.ops = append(b.ops, step{op.key, op.write, len(b.ops), b.committed, b.worked})
	kind := atNoPoint
	if b.hit(len(b.ops), false) {
		kind = b.at.kind
	}
	switch kind {
	case stopBefore:
		b.dead = true
		return errDead
	case failForLong:
		b.away = true
		return errDisk
	case failOnce:
		return errDisk
	case pauseBefore:
		b.pause()
	}
	err := op.do()
	if op.write && err == nil {
		b.committed++
		b.keep(op.value)
	}
	switch kind {
	case stopAfter:
		b.dead = true
		return errDead
	case failCommitted:
		return errDisk
	case pauseAfter:
		b.pause()
	}
	return err
}

// pause waits, without the lock, until the engine may go on.
func (b *breaker) pause() {
	paused, resume := b.paused, b.resume
	b.mu.Unlock()
	close(paused)
	<-resume
	b.mu.Lock()
}

// call returns what happens to a request. dead: it never gets to the server.
func (b *breaker) call(op string) (kind pointKind, dead bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.dead {
		return atNoPoint, true
	}
	b.calls = append(b.calls, step{key: op, ops: len(b.ops), writes: b.committed, worked: b.worked})
	if b.hit(len(b.calls), true) {
		return b.at.kind, false
	}
	return atNoPoint, false
}

func (b *breaker) die() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dead = true
}

func (b *breaker) hasWorked() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.worked++
}

func (b *breaker) isDead() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.dead
}

// points lists every point that was counted. A read of storage changes nothing: after it is before what
// follows.
func (b *breaker) points(kinds ...pointKind) (all []point) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, kind := range kinds {
		steps := b.ops
		if (point{kind: kind}).remote() {
			steps = b.calls
		}
		for n, s := range steps {
			if s.write || kind != failCommitted && kind != failForLong && kind != stopAfter {
				all = append(all, point{kind, n + 1})
			}
		}
	}
	return all
}

// left is what an engine leaves behind when it is stopped: how many writes, and how many requests that
// the server has worked on, or is going to.
type left struct {
	writes, worked int
	unread         bool
}

// leaves returns what is left behind by an engine that is stopped at a point that was counted.
func (b *breaker) leaves(p point) left {
	b.mu.Lock()
	defer b.mu.Unlock()
	steps := b.ops
	if p.remote() {
		steps = b.calls
	}
	l := left{writes: steps[p.n-1].writes, worked: steps[p.n-1].worked}
	switch p.kind {
	case stopAfter:
		l.writes++
	case stopUnread:
		l.unread = true
	case stopUnanswered, stopHalf, stopWhole:
		l.worked++
	}
	return l
}

// stops lists the points at which the engine can be stopped, one of those each that leave the same
// behind.
func (b *breaker) stops() (distinct []point) {
	seen := map[left]bool{}
	for _, p := range b.points(stopKinds...) {
		if l := b.leaves(p); !seen[l] {
			seen[l] = true
			distinct = append(distinct, p)
		}
	}
	return distinct
}

var (
	stopKinds = []pointKind{stopBefore, stopAfter, stopUnsent, stopUnread, stopUnanswered, stopHalf, stopWhole}
	allKinds  = append([]pointKind{failOnce, failCommitted, failForLong, netUnsent, netUnanswered, netHalf}, stopKinds...)
)

// scenario is an operation that an engine is stopped in the middle of.
type scenario struct {
	name        string
	prepare     func(c *crash)       // what there is before
	act         func(c *crash)       // the operation; what it returns is for whoever asked
	again       func(c *crash) error // what they do after a crash, or after an error; nil: nothing
	done        func(c *crash) error // whether it has come to its end; nil: the grant "g" can be read
	lostBecause string               // a part of the cause with which a grant may be lost; empty: it must not be
	keyChanges  bool                 // the client's key does
	pairs       bool                 // it is stopped once more during the recovery
	unended     int                  // how many points leave a grant at the server that was stored and nobody can end
}

// crash is an engine that is stopped, and those that follow it on the same storage.
type crash struct {
	*rig
	scenario
	breaker *breaker // of the engine that runs now

	lease    *logical.Response   // that the operation is about
	leases   []*logical.Response // all that Vault has
	redirect string              // of the owner's browser
	fields   map[string]any      // of an import
	paused   bool                // what the operation returns may be out of date

	mu        sync.Mutex
	working   bool     // the server works on a request of the engine's: its own requests are not counted
	unread    []func() // requests that the server has not read yet
	committed []string // what storage and Vault's leases have ever held
	issued    []string // the tokens that the server has issued
}

// newCrash starts an engine with all that the operation needs.
func newCrash(t testing.TB, s scenario) *crash {
	t.Helper()
	c := &crash{rig: newRig(t), scenario: s}
	c.wrap = func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { c.serve(w, req, next) })
	}
	// The index is by hour: what is done is the same at whatever time of day the test runs.
	c.clock.Advance(c.clock.Now().Truncate(time.Hour).Add(time.Hour + 5*time.Minute).Sub(c.clock.Now()))
	if !s.keyChanges {
		c.sandbox.SetDialect(sandbox.Dialect{KeyCache: 24 * time.Hour}) // saves it a request to itself each time
	}
	c.start()
	fields := c.clientFields()
	fields["verify"] = false
	c.ok(logical.UpdateOperation, "config", fields)
	c.prepare(c)
	return c
}

// start starts an engine on what is stored, as after a crash. The one before has ended.
func (c *crash) start() {
	b := &breaker{keep: c.keep}
	c.mu.Lock()
	c.breaker = b
	c.mu.Unlock()
	c.storage = &testStorage{InmemStorage: c.storage.InmemStorage, around: b.storage}
	c.restart()
	c.b.sleep = func(_ context.Context, d time.Duration) error {
		if b.isDead() {
			return errDead
		}
		c.clock.Advance(d)
		return nil
	}
}

// keep remembers what was written to storage, or to a lease.
func (c *crash) keep(value []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.committed = append(c.committed, string(value))
}

// kept reports whether a secret was ever in storage or in a lease.
func (c *crash) kept(secret string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(c.committed, func(value string) bool { return strings.Contains(value, secret) })
}

// serve lets the sandbox work, unless the engine is stopped, or the network is, before or after it.
func (c *crash) serve(w http.ResponseWriter, req *http.Request, next http.Handler) {
	op := sandbox.Operation(req)
	c.mu.Lock()
	own, b := c.working || op == "interact", c.breaker
	c.mu.Unlock()
	if own {
		next.ServeHTTP(w, req)
		return
	}
	kind, dead := b.call(op)
	if dead || kind == netUnsent {
		panic(http.ErrAbortHandler)
	}
	switch kind {
	case stopUnsent, stopUnread, stopUnanswered, stopHalf, stopWhole:
		b.die()
	}
	if kind == stopUnsent {
		panic(http.ErrAbortHandler)
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	work := func() *httptest.ResponseRecorder {
		again := req.WithContext(context.WithoutCancel(req.Context()))
		again.Body = io.NopCloser(bytes.NewReader(body))
		return c.work(next, again)
	}
	if kind == pauseUnread {
		close(b.paused)
		<-b.resume
	}
	if kind == stopUnread {
		c.mu.Lock()
		c.unread = append(c.unread, func() { work() })
		c.mu.Unlock()
		panic(http.ErrAbortHandler)
	}
	answer := work()
	b.hasWorked()
	if kind == stopUnanswered || kind == netUnanswered {
		panic(http.ErrAbortHandler)
	}
	if kind == pauseAnswered {
		close(b.paused)
		<-b.resume
	}
	maps.Copy(w.Header(), answer.Header())
	if kind == stopHalf || kind == netHalf {
		sendHalf(w, answer)
	}
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes())
}

// sendHalf sends a half of an answer and closes the connection.
func sendHalf(w http.ResponseWriter, answer *httptest.ResponseRecorder) {
	if body := answer.Body.Bytes(); len(body) > 0 {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		w.WriteHeader(answer.Code)
		_, _ = w.Write(body[:len(body)/2])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	if connection, _, err := http.NewResponseController(w).Hijack(); err == nil {
		_, _ = io.WriteString(connection, "HTTP/1.1 "+strconv.Itoa(answer.Code)[:2])
		_ = connection.Close()
	}
	panic(http.ErrAbortHandler)
}

// work has the sandbox work on a request, and notes what it issues.
func (c *crash) work(next http.Handler, req *http.Request) *httptest.ResponseRecorder {
	set := func(working bool) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.working = working
	}
	answer := httptest.NewRecorder()
	set(true)
	next.ServeHTTP(answer, req)
	set(false)
	var told struct {
		Token struct{ Value string } `json:"access_token"`
	}
	if json.Unmarshal(answer.Body.Bytes(), &told) == nil && told.Token.Value != "" {
		c.mu.Lock()
		c.issued = append(c.issued, told.Token.Value)
		c.mu.Unlock()
	}
	return answer
}

// settle ends what a point has begun: the engine that was stopped is replaced, and storage works again.
func (c *crash) settle() {
	c.Helper()
	b := c.breaker
	b.mu.Lock()
	at, reached, dead := b.at, b.reached, b.dead
	b.mu.Unlock()
	if at.kind != atNoPoint && !reached {
		c.Fatalf("the point is not reached any more")
	}
	if !dead {
		b.arm(point{})
		return
	}
	c.b.Cleanup(c.ctx)
	c.start()
}

// try sends a request, and returns as an error whatever is wrong with its answer.
func (c *crash) try(op logical.Operation, path string, data map[string]any) (*logical.Response, error) {
	resp, err := c.do(c.ctx, op, path, data)
	if err == nil && resp.IsError() {
		err = resp.Error()
	}
	return resp, err
}

// hold has Vault store a lease that the engine has returned.
func (c *crash) hold(lease *logical.Response, err error) error {
	if err != nil || c.breaker.isDead() {
		return err
	}
	if !c.paused && !c.sandbox.Live(tokenOf(lease)) {
		c.Error("the token that is handed out is dead")
	}
	c.lease = lease
	c.leases = append(c.leases, lease)
	stored, err := json.Marshal([]any{lease.Data, lease.Secret.InternalData})
	if err != nil {
		c.Fatal(err)
	}
	c.keep(stored)
	return nil
}

// renewed has Vault store what the engine has returned to the renewal of its lease.
func (c *crash) renewed(lease *logical.Response, err error) error {
	before := c.lease
	if err = c.hold(lease, err); err == nil && c.lease != before {
		c.leases = slices.DeleteFunc(c.leases, func(other *logical.Response) bool { return other == before })
	}
	return err
}

// tend is a tick whose work is done step by step, each worker after the other.
func (c *crash) tend(after time.Duration) {
	if c.breaker.isDead() {
		return
	}
	c.clock.Advance(after)
	_ = c.b.maintainKeys(c.ctx, c.storage)
	_ = c.b.upkeep(c.ctx, c.storage)
}

// recover does what happens after a crash: whoever asked asks again, and the workers go on.
func (c *crash) recover() {
	for range 6 {
		if c.again == nil || c.again(c) == nil || c.breaker.isDead() {
			break
		}
		c.tend(failureMax + time.Second)
	}
	c.mu.Lock()
	unread := c.unread
	c.unread = nil
	c.mu.Unlock()
	for _, read := range unread { // only now
		read()
	}
	for _, d := range []time.Duration{61 * time.Second, 61 * time.Second, 11 * time.Minute} {
		c.tend(d)
	}
}

// scheduled checks that the worker comes to each grant in time.
func (c *crash) scheduled() {
	c.Helper()
	slots := c.slotsAt()
	for _, name := range c.grants() {
		at := nextCheck(c.stored(name), c.clock.Now())
		if !at.IsZero() && !slices.ContainsFunc(slots, func(one slotAt) bool {
			return one.name == name && !one.at.After(at.Add(time.Second))
		}) {
			c.Errorf("the worker does not come to %s", name)
		}
	}
}

// finish ends everything as its owners would, and returns how many grants are open at the server all the
// same, and how many of them were stored.
func (c *crash) finish() (orphans, unended int) {
	c.Helper()
	until := func(what string, do func() error) {
		var err error
		for range 6 {
			if err = do(); err == nil {
				return
			}
			c.tend(time.Minute)
		}
		c.Errorf("%s: %v", what, err)
	}
	for _, lease := range c.leases {
		until("revoke a lease", func() error { _, err := c.revoke(lease); return err })
	}
	for _, name := range c.grants() {
		until("delete "+name, func() error { _, err := c.try(logical.DeleteOperation, "grants/"+name, nil); return err })
	}
	c.rollBackWAL()
	c.tend(2 * time.Hour)
	for _, open := range c.sandbox.OpenGrants() {
		if orphans++; c.kept(open) {
			unended++
		}
	}
	if n := len(c.walEntries()); n != 0 {
		c.Errorf("%d entries are left in the WAL", n)
	}
	return orphans, unended
}

// rollBackWAL has Vault roll back what is in the WAL, without the workers.
func (c *crash) rollBackWAL() {
	c.b.keyWorker.busy.Store(true)
	c.b.upkeepWorker.busy.Store(true)
	defer c.b.keyWorker.busy.Store(false)
	defer c.b.upkeepWorker.busy.Store(false)
	c.rollback(rollbackAge + time.Second)
}

// fate is what has become of a grant.
type fate struct {
	lost    bool // and the engine says so, and why
	orphans int  // open at the server, and nobody can end them
	unended int  // those of them that were stored
}

// left returns what the engine that was stopped has left behind.
func (c *crash) left() left {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.breaker.mu.Lock()
	defer c.breaker.mu.Unlock()
	return left{c.breaker.committed, c.breaker.worked, len(c.unread) > 0}
}

// judge reports whether the grant is lost: anything else than usable and lost is an error.
func (c *crash) judge() (lost bool) {
	c.Helper()
	if c.done != nil {
		if err := c.done(c); err != nil {
			c.Errorf("not done: %v", err)
		}
		if c.lostBecause == "" {
			return false
		}
	}
	err := c.hold(c.try(logical.ReadOperation, "token/g", nil))
	if err == nil {
		return false
	}
	info, readErr := c.try(logical.ReadOperation, "grants/g", nil)
	if readErr != nil || info == nil || info.Data["status"] != statusLost || info.Data["lost_at"] == nil {
		c.Errorf("neither usable nor lost: %v", err)
		return true
	}
	cause, _ := info.Data["lost_cause"].(string)
	c.mu.Lock()
	issued := slices.Clone(c.issued)
	c.mu.Unlock()
	unsaved := slices.ContainsFunc(issued, func(token string) bool { return !c.kept(token) })
	if !unsaved || c.lostBecause == "" || !strings.Contains(cause, c.lostBecause) {
		c.Errorf("lost without need, or not for this cause: %s", cause)
	}
	return true
}
