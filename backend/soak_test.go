// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"go.uber.org/goleak"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
)

// soakNames are what differs in errors of one kind.
var soakNames = regexp.MustCompile(`http://\S+|"?g\d+"?|\d{4}-\S+Z|r\d`)

var soakLong = flag.Bool("soak", false, "TestSoak: 50 000 rotations of 500 grants")

// soakForm is how long an engine is soaked.
type soakForm struct{ grants, rotations int }

const (
	soakServers = 8
	soakClients = 32
	// soakPace is how fast the clock of engine and servers runs.
	soakPace = 20
	// soakKeyCache is how long servers keep a copy of the client's key set.
	soakKeyCache = 30 * time.Minute
)

// soaked is an engine that many clients use while its servers, its storage and its clock are bad.
type soaked struct {
	*rig
	form    soakForm
	trouble *trouble
	servers []*sandbox.Server
	slots   []*soakSlot
	stop    func()       // of the clock
	lost    atomic.Int64 // interactive grants
	full    atomic.Bool  // every grant has had a lease
	noKeys  atomic.Bool  // no server can tell who the client is: owners are not asked to the end

	mu   sync.Mutex
	told map[string]int // errors, by kind
}

type slotKind int

const (
	slotConsented slotKind = iota
	slotAsked
	slotLease // of a role; each has a grant of its own
	slotKinds
)

// soakSlot is a grant of the soak's, with the lease that was handed out last.
type soakSlot struct {
	kind   slotKind
	name   string // of the grant, or of the role
	server *sandbox.Server

	owner     sync.Mutex // held while the owner of a lost grant is asked again, or the lease of a role is used
	continued string     // the continue URL of the last interaction
	lostAt    time.Time  // when the grant was lost, the last time
	ended     bool       // Vault has begun to revoke the lease of a role, and goes on until that is done

	mu    sync.Mutex
	lease *logical.Response
}

// Fifty thousand rotations against bad servers, on bad storage: each interactive grant that is lost is
// one whose answer was lost after the server had done the work; nothing else is lost, and nothing is left
// behind.
func TestSoak(t *testing.T) {
	form := soakForm{grants: 48, rotations: 1000}
	if *soakLong {
		form = soakForm{grants: 500, rotations: 50_000}
	}
	s := newSoaked(t, form)
	stored, leaks := s.keys(), goleak.IgnoreCurrent()
	s.run("every grant is asked for", s.full.Load)
	heap := heapInUse()
	begun := time.Now()
	s.until("bad answers and storage", 40)
	s.keySetDown()
	s.setClock(-2 * time.Hour)
	s.until("the clock was set back", 55)
	s.setClock(2 * time.Hour)
	s.until("and forth", 70)
	s.replaceKey()
	s.turns("old copies of the key set")
	s.noKeys.Store(false)
	s.pass(time.Hour + time.Minute) // from now on rejections are believed again
	s.until("the new key", 100)
	took := time.Since(begun)
	s.trouble.heal()
	s.pass(askInterval)
	s.allWork()
	grown := heapInUse() - heap
	if most := int64(2<<20 + form.rotations*100); grown > most {
		t.Errorf("the heap has grown by %d bytes, more than %d", grown, most)
	}
	s.endAll()
	s.nothingLeft(stored, leaks)
	t.Logf("%d rotations in %s; heap %+.1f MB; %d interactive grants lost, each by an answer that was lost; %s",
		s.trouble.rotations.Load(), took.Round(time.Second), float64(grown)/1e6, s.lost.Load(), s.trouble)
	for kind, n := range s.told {
		t.Logf("%6d × %s", n, kind)
	}
}

func newSoaked(t *testing.T, form soakForm) *soaked {
	t.Helper()
	s := &soaked{rig: configured(t), form: form, trouble: newTrouble(), told: map[string]int{}}
	s.wrap = s.trouble.wrap(s.clock)
	s.storage.around = s.trouble.storage
	s.b = newBackend("v0.0.1", s.clock)
	err := s.b.Setup(s.ctx, &logical.BackendConfig{Logger: hclog.NewNullLogger(), System: s.system, StorageView: s.storage})
	if err != nil {
		t.Fatal(err)
	}
	s.servers = []*sandbox.Server{s.sandbox}
	for len(s.servers) < soakServers {
		server, err := sandbox.Start(sandbox.Options{Now: s.serverNow, Wrap: s.trouble.wrap(s.clock)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(server.Close)
		s.servers = append(s.servers, server)
	}
	for i, server := range s.servers {
		server.SetDialect(sandbox.Dialect{KeyCache: soakKeyCache})
		s.ok(logical.UpdateOperation, fmt.Sprintf("roles/r%d", i), map[string]any{
			"auth_server": server.AuthServer(), "access": incomingAccess,
		})
	}
	for i := range form.grants {
		slot := &soakSlot{kind: slotKind(i) % slotKinds, name: fmt.Sprintf("g%d", i), server: s.servers[i/3%soakServers]}
		if slot.kind == slotLease {
			slot.name = fmt.Sprintf("r%d", i/3%soakServers)
		}
		s.slots = append(s.slots, slot)
	}
	return s
}

// start lets the clock run, and Vault tick.
func (s *soaked) start() {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		step, ticked := time.NewTicker(2*time.Millisecond), s.clock.Now()
		defer step.Stop()
		for last := time.Now(); ; {
			select {
			case <-done:
				return
			case now := <-step.C:
				// While the machine is busy with others, time stands still: no request is too late.
				s.clock.Advance(min(now.Sub(last), 20*time.Millisecond) * soakPace)
				last = now
			}
			if s.clock.Since(ticked) >= time.Minute {
				ticked = s.clock.Now()
				s.wake()
				s.tell()
			}
		}
	}()
	s.stop = func() {
		close(done)
		<-ended
	}
}

// tell prints how far the long form is.
func (s *soaked) tell() {
	if *soakLong {
		s.Logf("%d of %d rotations, %d interactive grants lost, %.1f MB, %d goroutines", s.trouble.rotations.Load(),
			s.form.rotations, s.lost.Load(), float64(heapInUse())/1e6, runtime.NumGoroutine())
	}
}

// run has all clients work until that is enough, and then waits until the engine has nothing to do.
func (s *soaked) run(what string, enough func() bool) {
	s.Helper()
	s.start()
	var clients sync.WaitGroup
	for i := range soakClients {
		random := rand.New(rand.NewPCG(uint64(i), 1))
		clients.Go(func() {
			for !enough() && !s.Failed() {
				s.work(s.pick(random), random.IntN(100))
			}
		})
	}
	clients.Wait()
	s.await(s.isIdle)
	s.stop()
	s.Logf("%-28s %6d rotations, %4d interactive grants lost", what, s.trouble.rotations.Load(), s.lost.Load())
	if s.Failed() {
		s.FailNow()
	}
}

// pick returns a grant: one that has no lease yet, as long as there is one.
func (s *soaked) pick(random *rand.Rand) *soakSlot {
	if !s.full.Load() {
		from := random.IntN(len(s.slots))
		for _, slot := range slices.Concat(s.slots[from:], s.slots[:from]) {
			if slot.held() == nil {
				return slot
			}
		}
		s.full.Store(true)
	}
	return s.slots[random.IntN(len(s.slots))]
}

// held returns the last lease; nil: there is none.
func (slot *soakSlot) held() *logical.Response {
	slot.mu.Lock()
	defer slot.mu.Unlock()
	return slot.lease
}

// until runs until a part of all rotations is done.
func (s *soaked) until(what string, percent int) {
	s.Helper()
	s.run(what, func() bool { return s.trouble.rotations.Load() >= int64(s.form.rotations*percent/100) })
}

// turns runs while little can be rotated.
func (s *soaked) turns(what string) {
	s.Helper()
	var turns atomic.Int64
	s.run(what, func() bool { return turns.Add(1) > int64(10*s.form.grants) })
}

// await waits for what happens while the clock runs.
func (s *soaked) await(happened func() bool) {
	for !happened() {
		time.Sleep(time.Millisecond)
	}
}

// isIdle reports whether the engine does nothing in the background.
func (s *soaked) isIdle() bool {
	s.b.locks.mu.Lock()
	defer s.b.locks.mu.Unlock()
	for _, e := range s.b.locks.byName {
		if e.users > 0 || e.unsaved != nil {
			return false
		}
	}
	return !s.b.keyWorker.busy.Load() && !s.b.upkeepWorker.busy.Load()
}

// pass lets time pass in which nothing is asked for.
func (s *soaked) pass(d time.Duration) { s.clock.Advance(d) }

// keySetDown makes the client's key set unreachable, for servers that have no copy and for the engine.
func (s *soaked) keySetDown() {
	s.Helper()
	s.noKeys.Store(true)
	s.sandbox.Misbehave(sandbox.Misbehaviour{KeysDown: true})
	s.pass(soakKeyCache)
	s.turns("no key set")
	s.sandbox.Misbehave()
	s.noKeys.Store(false)
	s.pass(failureMax)
}

// setClock sets the engine's clock, and not the servers'.
// A failure is remembered by the time that has passed, which no clock is needed for.
func (s *soaked) setClock(d time.Duration) {
	s.b.locks.forgetFailures()
	s.ahead.Add(int64(d))
	s.clock.Advance(d)
}

// replaceKey replaces the client's key, while the servers have copies of the key set that lack the new one.
func (s *soaked) replaceKey() {
	s.Helper()
	s.trouble.heal()
	next := s.ok(logical.UpdateOperation, "keys/rotate", map[string]any{"activate_after": 0})
	s.publishJWK(next.Data["public_key"])
	s.ok(logical.UpdateOperation, "keys/rotate", nil)
	s.noKeys.Store(true)
	s.trouble.begin()
}

// work is one operation of a client.
func (s *soaked) work(slot *soakSlot, dice int) {
	if slot.kind == slotLease {
		if slot.owner.TryLock() { // Vault does one thing at a time with a lease
			defer slot.owner.Unlock()
			s.workLease(slot, dice)
		}
		return
	}
	lease, err := s.act(slot, slot.held(), dice)
	switch {
	case err != nil:
		s.failedWith(slot, err)
	case lease != nil:
		s.checkCurrent(slot, lease)
		slot.setLease(lease)
	}
}

// checkCurrent checks that a token that was handed out is live, unless it was replaced since.
func (s *soaked) checkCurrent(slot *soakSlot, lease *logical.Response) {
	if slot.server.Live(tokenOf(lease)) {
		return
	}
	g, err := loadGrant(s.ctx, s.storage.InmemStorage, slot.name)
	if err != nil || g.Generation == lease.Data["generation"] && g.Status == statusActive && g.Intent == nil {
		s.Errorf("%s: the token that is handed out is dead: %v", slot.name, err)
	}
}

// act does something with a stored grant, and returns the lease if there is a new one.
func (s *soaked) act(slot *soakSlot, lease *logical.Response, dice int) (*logical.Response, error) {
	switch {
	case lease == nil || dice < 45:
		return s.hold(s.try(logical.ReadOperation, "token/"+slot.name, nil))
	case dice < 75:
		return s.again(lease)
	case dice < 85:
		_, err := s.revoke(lease)
		return nil, err
	}
	_, err := s.try(logical.UpdateOperation, "rotate/"+slot.name, nil)
	return nil, err
}

// workLease does something with a lease of a role.
func (s *soaked) workLease(slot *soakSlot, dice int) {
	switch {
	case slot.lease == nil:
		lease, err := s.hold(s.try(logical.ReadOperation, "creds/"+slot.name, nil))
		s.count(slot, err)
		slot.setLease(lease)
	case dice < 90 && !slot.ended:
		s.renewLease(slot)
	default:
		s.revokeLease(slot)
	}
}

func (s *soaked) renewLease(slot *soakSlot) {
	manage := s.grantOf(slot.lease).Manage
	lease, err := s.again(slot.lease)
	s.count(slot, err)
	switch {
	case err == nil && !slot.server.Live(tokenOf(lease)):
		s.Errorf("a lease of %s: its new token is dead", slot.name)
	case err == nil:
		slot.setLease(lease)
	case isUserError(err) && strings.Contains(err.Error(), "no longer accepts"):
		if !s.trouble.claim(manage) {
			s.Errorf("a lease of %s is dead, and its answer was not lost", slot.name)
		}
		s.revokeLease(slot)
	}
}

func (s *soaked) revokeLease(slot *soakSlot) {
	_, err := s.revoke(slot.lease)
	s.count(slot, err)
	slot.ended = err != nil
	if err == nil {
		if slot.server.Live(tokenOf(slot.lease)) {
			s.Errorf("a lease of %s is revoked, and its token lives", slot.name)
		}
		if g := s.grantOf(slot.lease); !mayBeLive(g, s.clock.Now()) { // a server that does not answer then is not asked again
			s.trouble.forget(g.Continue.URL)
		}
		slot.setLease(nil)
	}
}

func (slot *soakSlot) setLease(lease *logical.Response) {
	slot.mu.Lock()
	defer slot.mu.Unlock()
	slot.lease = lease
}

// again renews a lease.
func (s *soaked) again(lease *logical.Response) (*logical.Response, error) {
	renewed, err := s.renew(lease)
	if err == nil {
		renewed.Secret.IssueTime = lease.Secret.IssueTime
	}
	return renewed, err
}

// hold is what Vault does with a lease that the engine has returned.
func (s *soaked) hold(lease *logical.Response, err error) (*logical.Response, error) {
	if err != nil {
		return nil, err
	}
	lease.Secret.IssueTime = s.clock.Now()
	return lease, nil
}

// try sends a request and returns an error for any answer that is one.
func (s *soaked) try(op logical.Operation, path string, data map[string]any) (*logical.Response, error) {
	resp, err := s.do(s.ctx, op, path, data)
	if err == nil && resp.IsError() {
		err = userError(resp.Error().Error())
	}
	return resp, err
}

// count counts an error.
func (s *soaked) count(slot *soakSlot, err error) {
	if err == nil {
		return
	}
	kind := soakNames.ReplaceAllString(err.Error(), "…")
	var coded logical.HTTPCodedError
	if errors.As(err, &coded) {
		kind = fmt.Sprint(coded.Code())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told[kind]++
}

// failedWith handles what a client of a stored grant is told. The owner of one that is lost is asked again.
func (s *soaked) failedWith(slot *soakSlot, err error) {
	s.count(slot, err)
	g, loadErr := loadGrant(s.ctx, s.storage.InmemStorage, slot.name)
	if loadErr != nil {
		s.Error(loadErr)
		return
	}
	if g == nil || g.Status != statusActive {
		s.consent(slot)
	}
}

// consent has a grant that is lost, or is not there yet, asked for.
func (s *soaked) consent(slot *soakSlot) {
	if !slot.owner.TryLock() {
		return // somebody else does
	}
	defer slot.owner.Unlock()
	g, err := loadGrant(s.ctx, s.storage.InmemStorage, slot.name)
	switch {
	case err != nil:
		s.Error(err)
		return
	case g != nil && g.Status == statusActive:
		return // somebody else was faster
	case g != nil && slot.kind != slotConsented:
		s.Errorf("%s needs no consent, and is lost: %s", slot.name, g.Lost.Cause)
		return
	case g != nil && g.Status == statusLost && g.Generation > 0 && !g.Lost.At.Equal(slot.lostAt):
		slot.lostAt = g.Lost.At
		s.lost.Add(1)
		if !s.answerWasLost(slot, g) {
			s.Errorf("%s is lost without need: %s", slot.name, g.Lost.Cause)
			return
		}
	}
	for !s.Failed() && !s.ask(slot) && !s.noKeys.Load() {
	}
}

// answerWasLost reports whether the answer to the last request for a token was lost: to a rotation or, if
// the half of an answer named no manage URL, to the consent.
func (s *soaked) answerWasLost(slot *soakSlot, g *grant) bool {
	if g.Manage == "" {
		return s.trouble.claim(slot.continued)
	}
	return s.trouble.claim(g.Manage) && strings.Contains(g.Lost.Cause, "no longer accepts its token")
}

// ask asks for a grant and reports whether it is active then.
func (s *soaked) ask(slot *soakSlot) bool {
	fields := map[string]any{"auth_server": slot.server.AuthServer(), "access": incomingAccess, "ask_again": true}
	if slot.kind == slotConsented {
		fields = map[string]any{"wallet_address": slot.server.WalletAddress("alice"), "access": outgoingOf(slot.server),
			"ask_again": true, "finish_uri": finishURI}
	}
	resp, err := s.try(logical.UpdateOperation, "grants/"+slot.name, fields)
	if err != nil {
		s.count(slot, err)
		s.pause()
		return false
	}
	if slot.kind != slotConsented {
		return true
	}
	redirect, err := slot.server.Consent(resp.Data["interact_url"].(string), true)
	if err != nil {
		s.Error(err)
		return false
	}
	pending := s.stored(slot.name).Pending
	if pending == nil {
		s.Errorf("%s is not pending", slot.name)
		return false
	}
	slot.continued = pending.Continue.URL
	return s.finish(slot, redirect)
}

// finish hands in the owner's consent until there is a token, or the answer is lost.
func (s *soaked) finish(slot *soakSlot, redirect string) bool {
	for {
		_, err := s.try(logical.UpdateOperation, "grants/"+slot.name+"/continue", map[string]any{"redirect": redirect})
		g, loadErr := loadGrant(s.ctx, s.storage.InmemStorage, slot.name)
		switch {
		case loadErr != nil || s.Failed():
			s.Error(loadErr)
			return false
		case g.Status == statusActive:
			return true
		case g.Pending == nil:
			slot.lostAt = g.Lost.At
			s.lost.Add(1)
			if !s.trouble.claim(slot.continued) {
				s.Errorf("the consent to %s is lost without need: %s", slot.name, g.LastFailure.Cause)
			}
			return false
		}
		s.count(slot, err)
		if s.noKeys.Load() {
			return false
		}
		s.pause()
	}
}

// pause lets a second of the engine's pass.
func (s *soaked) pause() { <-s.clock.After(time.Second) }

func outgoingOf(server *sandbox.Server) string {
	return `[{"type":"outgoing-payment","actions":["create","read"],"identifier":"` + server.WalletAddress("alice") +
		`","limits":{"debitAmount":{"value":"500","assetCode":"USD","assetScale":2}}}]`
}

// allWork checks that every grant works, or is lost truthfully and works once its owner has consented.
func (s *soaked) allWork() {
	s.Helper()
	s.start()
	defer s.stop()
	for _, slot := range s.slots {
		slot.lease = s.works(slot)
	}
}

func (s *soaked) works(slot *soakSlot) *logical.Response {
	s.Helper()
	if slot.kind == slotLease {
		if slot.lease != nil && !slot.ended {
			s.renewLease(slot)
		}
		if slot.ended {
			s.revokeLease(slot)
		}
		if slot.lease == nil {
			slot.lease = s.mustHold(slot, "creds/")
		}
		return slot.lease
	}
	if _, err := s.try(logical.ReadOperation, "token/"+slot.name, nil); err != nil {
		s.failedWith(slot, err)
	}
	return s.mustHold(slot, "token/")
}

// mustHold reads a live token.
func (s *soaked) mustHold(slot *soakSlot, path string) *logical.Response {
	s.Helper()
	lease, err := s.hold(s.try(logical.ReadOperation, path+slot.name, nil))
	if err != nil {
		s.Fatalf("%s%s: %v", path, slot.name, err)
	}
	if !slot.server.Live(tokenOf(lease)) {
		s.Errorf("%s%s: the token is dead", path, slot.name)
	}
	return lease
}

// endAll ends everything as its owners would, and checks that what is open at the servers then is what
// nobody knows of.
func (s *soaked) endAll() {
	s.Helper()
	s.start()
	for _, slot := range s.slots {
		if _, err := s.revoke(slot.lease); err != nil {
			s.Errorf("revoke a lease of %s: %v", slot.name, err)
		}
	}
	s.stop()
	s.pass(defaultLifetime) // half an answer may have held a token, and nothing to end it with
	s.start()
	for _, slot := range s.slots {
		if slot.kind != slotLease {
			s.ok(logical.DeleteOperation, "grants/"+slot.name, nil)
		}
	}
	s.stop()
	s.rollback(rollbackAge + time.Second)
	s.pass(2 * defaultSettings().Keepalive) // so that the index is done with, too
	s.tick()
	for _, server := range s.servers {
		for _, open := range server.OpenGrants() {
			if !s.trouble.isOrphan(open) {
				s.Error("a grant is left open at a server, and its answer was not lost")
			}
		}
	}
}

// nothingLeft checks that storage, locks, goroutines and connections are what they were.
func (s *soaked) nothingLeft(stored []string, leaks goleak.Option) {
	s.Helper()
	left := slices.DeleteFunc(s.keys(), func(key string) bool {
		return slices.Contains(stored, key) || strings.HasPrefix(key, keysPrefix) || key == ticketKeysKey
	})
	if len(left) > 0 {
		s.Errorf("left in storage: %v", left)
	}
	s.want("locks", s.locked())
	ctx, cancel := context.WithTimeout(s.ctx, 20*time.Second)
	defer cancel()
	for goleak.Find(leaks) != nil && ctx.Err() == nil { // connections are closed after a while
		time.Sleep(10 * time.Millisecond)
	}
	if err := goleak.Find(leaks); err != nil {
		s.Error(err)
	}
}

func heapInUse() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
