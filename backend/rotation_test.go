// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/authserver"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
)

// result of a request that runs beside the test.
type result struct {
	resp *logical.Response
	err  error
}

func (r *rig) goRead(ctx context.Context, name string) <-chan result {
	c := make(chan result, 1)
	go func() {
		resp, err := r.do(ctx, logical.ReadOperation, "token/"+name, nil)
		c <- result{resp, err}
	}()
	return c
}

// hang makes the sandbox hold the next rotation until release is called. The work is done before
// the answer is held if after is true.
func (r *rig) hang(after bool) (arrived <-chan struct{}, release func()) {
	return r.hangOn("rotate", after)
}

func (r *rig) hangOn(op string, after bool) (arrived <-chan struct{}, release func()) {
	in, out := make(chan struct{}), make(chan struct{})
	var first, last sync.Once
	r.on(op, func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		mine := false
		first.Do(func() { mine = true })
		if !mine {
			next.ServeHTTP(w, req)
			return
		}
		if after {
			held := &heldAnswer{ResponseWriter: w}
			next.ServeHTTP(held, req)
			close(in)
			<-out
			held.send()
			return
		}
		close(in)
		<-out
		next.ServeHTTP(w, req)
	})
	release = func() { last.Do(func() { close(out) }) }
	r.Cleanup(release)
	return in, release
}

// knowsNoToken answers a rotation as a server does that has forgotten the token.
func knowsNoToken(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
	w.WriteHeader(401)
	_, _ = w.Write([]byte(`{"error":{"code":"invalid_client"}}`))
}

// heldAnswer keeps an answer back.
type heldAnswer struct {
	http.ResponseWriter
	status int
	body   []byte
}

func (h *heldAnswer) WriteHeader(status int)      { h.status = status }
func (h *heldAnswer) Write(p []byte) (int, error) { h.body = append(h.body, p...); return len(p), nil }
func (h *heldAnswer) send() {
	if h.status != 0 {
		h.ResponseWriter.WriteHeader(h.status)
	}
	_, _ = h.ResponseWriter.Write(h.body)
}

// awaitUsers waits until so many requests hold or wait for a grant's lock.
func (r *rig) awaitUsers(name string, n int) {
	for {
		r.b.locks.mu.Lock()
		one := r.b.locks.byName[name]
		there := one != nil && one.users == n
		r.b.locks.mu.Unlock()
		if there {
			return
		}
		runtime.Gosched()
	}
}

func (r *rig) live(res result) {
	r.Helper()
	if res.err != nil || res.resp.IsError() {
		r.Fatalf("the read failed: %v %v", res.err, res.resp)
	}
	if !r.sandbox.Live(tokenOf(res.resp)) {
		r.Error("the token that was answered is not live")
	}
}

func TestHangingServerDelaysNoOtherGrant(t *testing.T) {
	r := withGrant(t)
	r.ask("other")
	arrived, release := r.hang(false)
	slow := r.goRead(r.ctx, "income")
	<-arrived
	r.live(<-r.goRead(r.ctx, "other"))
	release()
	r.live(<-slow)
}

func TestReadersAreServedOneAfterTheOther(t *testing.T) {
	r := withGrant(t)
	const readers = 8
	var mu sync.Mutex
	inside := 0
	r.on("rotate", func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		mu.Lock()
		inside++
		if inside > 1 {
			t.Error("two rotations of one grant at the same time")
		}
		mu.Unlock()
		next.ServeHTTP(w, req)
		mu.Lock()
		inside--
		mu.Unlock()
	})
	reads := make([]<-chan result, readers)
	for i := range reads {
		reads[i] = r.goRead(r.ctx, "income")
	}
	last := r.stored("income").Generation + readers
	for _, read := range reads {
		res := <-read
		if res.err != nil || res.resp.IsError() {
			t.Fatalf("a reader got no token: %v %v", res.err, res.resp)
		}
		if res.resp.Data["generation"] == last && !r.sandbox.Live(tokenOf(res.resp)) {
			t.Error("the last reader's token is dead")
		}
	}
	if g := r.stored("income"); g.Generation != last {
		t.Errorf("generation %d, want %d", g.Generation, last)
	}
}

func TestSlowAnswerIsWaitedFor(t *testing.T) {
	for _, after := range []bool{false, true} {
		r := withGrant(t)
		arrived, release := r.hang(after)
		read := r.goRead(r.ctx, "income")
		<-arrived
		r.clock.Advance(12 * time.Second)
		select {
		case res := <-read:
			t.Fatalf("the answer was not waited for: %v", res.err)
		default:
		}
		release()
		r.live(<-read)
		if n := r.sandbox.Count("rotate"); n != 1 {
			t.Errorf("%d requests, want 1", n)
		}
	}
}

func TestNoAnswerWithinAMinuteIsATimeout(t *testing.T) {
	r := withGrant(t)
	arrived, release := r.hang(false)
	read := r.goRead(r.ctx, "income")
	<-arrived
	r.clock.Advance(authserver.AnswerTimeout + time.Second)
	res := <-read
	r.failed(504, res.resp, res.err, r.sandbox.URL(), "in time")
	release()
	if g := r.stored("income"); g.Intent == nil || g.Status != statusActive {
		t.Error("the intent has to stay, and the grant with it")
	}
}

func TestCallerWhoHangsUpChangesNothing(t *testing.T) {
	r := withGrant(t)
	ctx, hangUp := context.WithCancel(r.ctx)
	arrived, release := r.hang(true)
	read := r.goRead(ctx, "income")
	<-arrived
	hangUp()
	release()
	<-read
	if g := r.stored("income"); g.Intent != nil || !r.sandbox.Live(g.Token) {
		t.Error("the answer was abandoned")
	}
}

func TestWaitingForTheLockEndsInTime(t *testing.T) {
	r := withGrant(t)
	arrived, release := r.hang(false)
	first := r.goRead(r.ctx, "income")
	<-arrived
	second := r.goRead(r.ctx, "income")
	ctx, cancel := context.WithCancel(r.ctx)
	third := r.goRead(ctx, "income")
	r.awaitUsers("income", 3)
	cancel()
	if res := <-third; !errors.Is(res.err, context.Canceled) {
		t.Errorf("a caller who has gone waits on: %v", res.err)
	}
	r.clock.Advance(lockTimeout + time.Second)
	res := <-second
	r.failed(503, res.resp, res.err, "busy")
	release()
	r.live(<-first)
	if n := len(r.b.locks.byName); n != 0 {
		t.Errorf("%d locks are remembered", n)
	}
}

// Whatever a server does once, the grant survives it and the read with it, except where the answer
// itself is gone.
func TestServerMisbehavesOnce(t *testing.T) {
	for name, m := range map[string]sandbox.Misbehaviour{
		"reset":     {Reset: true},
		"500":       {Status: 500},
		"503":       {Status: 503},
		"429":       {Status: 429},
		"403":       {Status: 403},
		"not JSON":  {NotJSON: true},
		"keys down": {KeysDown: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := withGrant(t)
			r.imported("payer", nil)
			for _, grant := range []string{"income", "payer"} {
				m.On, m.Times = []string{"rotate"}, 1
				r.sandbox.Misbehave(m)
				r.live(<-r.goRead(r.ctx, grant))
			}
		})
	}
}

func TestServerMisbehavesForLong(t *testing.T) {
	for name, row := range map[string]struct {
		m      sandbox.Misbehaviour
		status int
		words  string
	}{
		"reset":     {sandbox.Misbehaviour{Reset: true}, 502, "could not be reached"},
		"500":       {sandbox.Misbehaviour{Status: 500}, 502, "answered 500"},
		"429":       {sandbox.Misbehaviour{Status: 429}, 502, "answered 429"},
		"404":       {sandbox.Misbehaviour{Status: 404}, 502, "answered 404"},
		"not JSON":  {sandbox.Misbehaviour{NotJSON: true}, 502, "could not be read"},
		"keys down": {sandbox.Misbehaviour{KeysDown: true}, 502, "answered 400 (invalid_client)"},
	} {
		t.Run(name, func(t *testing.T) {
			r := configured(t)
			r.imported("payer", nil)
			before := r.stored("payer")
			row.m.On = []string{"rotate"}
			r.sandbox.Misbehave(row.m)
			begun := r.clock.Now()
			r.fails(row.status, logical.ReadOperation, "token/payer", nil, r.sandbox.URL(), row.words)
			if d := r.clock.Since(begun); d > retryWindow {
				t.Errorf("went on asking for %s", d)
			}
			if n := r.sandbox.Count("rotate"); n < 3 {
				t.Errorf("asked %d times only", n)
			}
			g := r.stored("payer")
			if g.Intent == nil || g.Status != statusActive || g.Manage != before.Manage {
				t.Error("the grant has to stay as it was, with the intent")
			}
			if g.LastFailure.Cause == "" {
				t.Error("the failure's cause is not told")
			}
			r.sandbox.Misbehave(sandbox.Misbehaviour{})
			r.clock.Advance(failureMax)
			r.live(<-r.goRead(r.ctx, "payer"))
		})
	}
}

func TestUnreachableServer(t *testing.T) {
	r := withGrant(t)
	r.sandbox.Close()
	r.fails(502, logical.ReadOperation, "token/income", nil, r.sandbox.URL(), "could not be reached")
	r.noSecretIn("the log", r.log.String())
}

// A server's own lock time-out looks like a refusal.
func TestOneRefusalIsDoubted(t *testing.T) {
	for name, answer := range map[string]struct {
		status int
		body   string
	}{
		"invalid_client":         {401, `{"error":{"code":"invalid_client","description":"invalid access token"}}`},
		"RFC 9635's plain error": {401, `{"error":"invalid_client"}`},
	} {
		t.Run(name, func(t *testing.T) {
			r := configured(t)
			r.imported("payer", nil)
			refusals := 1
			r.on("rotate", func(w http.ResponseWriter, req *http.Request, next http.Handler) {
				if refusals--; refusals >= 0 {
					w.WriteHeader(answer.status)
					_, _ = w.Write([]byte(answer.body))
					return
				}
				next.ServeHTTP(w, req)
			})
			begun := r.clock.Now()
			r.live(<-r.goRead(r.ctx, "payer"))
			if d := r.clock.Since(begun); d < recheckDelay {
				t.Errorf("asked again after %s", d)
			}
			refusals = 2
			r.fails(400, logical.ReadOperation, "token/payer", nil, "lost", "owner has to be asked again")
		})
	}
}

// What is in an answer is stored, whatever else is wrong with it.
func TestAnswersAreReadLeniently(t *testing.T) {
	type checks func(t *testing.T, r *rig, resp *logical.Response, before *grant)
	edit := func(change func(token map[string]any)) func(string) string {
		return func(body string) string {
			var answer map[string]map[string]any
			_ = json.Unmarshal([]byte(body), &answer)
			change(answer["access_token"])
			changed, _ := json.Marshal(answer)
			return string(changed)
		}
	}
	for name, row := range map[string]struct {
		change func(string) string
		check  checks
	}{
		"expires_in as text": {edit(func(a map[string]any) { a["expires_in"] = "300" }), func(t *testing.T, r *rig, resp *logical.Response, _ *grant) {
			if resp.Secret.TTL != 295*time.Second {
				t.Errorf("TTL %s", resp.Secret.TTL)
			}
		}},
		"no manage": {edit(func(a map[string]any) { delete(a, "manage") }), func(t *testing.T, r *rig, _ *logical.Response, before *grant) {
			if r.stored("payer").Manage != before.Manage {
				t.Error("the old URL has to be kept")
			}
		}},
		"manage is a number": {edit(func(a map[string]any) { a["manage"] = 7 }), func(t *testing.T, r *rig, _ *logical.Response, before *grant) {
			if r.stored("payer").Manage != before.Manage {
				t.Error("the old URL has to be kept")
			}
		}},
		"foreign manage": {edit(func(a map[string]any) { a["manage"] = "https://elsewhere.example/token/1" }), func(t *testing.T, r *rig, _ *logical.Response, _ *grant) {
			if r.stored("payer").Manage != "https://elsewhere.example/token/1" {
				t.Error("the foreign URL has to be stored")
			}
			n := r.sandbox.Count("rotate")
			r.fails(400, logical.ReadOperation, "token/payer", nil, "https://elsewhere.example", "allowed_auth_servers")
			if r.sandbox.Count("rotate") != n || r.stored("payer").Intent != nil {
				t.Error("nothing may be begun")
			}
		}},
		"no rights": {edit(func(a map[string]any) { delete(a, "access") }), func(t *testing.T, r *rig, resp *logical.Response, _ *grant) {
			if resp.Data["access"] == nil {
				t.Error("access has to be answered, if empty")
			}
		}},
		"unknown members": {edit(func(a map[string]any) { a["flags"] = []string{"durable"}; a["label"] = map[string]any{"x": 1} }), func(*testing.T, *rig, *logical.Response, *grant) {}},
	} {
		t.Run(name, func(t *testing.T) {
			r := configured(t)
			r.imported("payer", nil)
			before := r.stored("payer")
			r.answers("rotate", row.change)
			resp := r.read("payer")
			if !r.sandbox.Live(tokenOf(resp)) || r.stored("payer").Token != tokenOf(resp) {
				t.Error("the token was not kept")
			}
			row.check(t, r, resp, before)
		})
	}
}

// A manage URL on an allowed origin is used again.
func TestForeignManageURLOnceAllowed(t *testing.T) {
	r := configured(t)
	r.imported("payer", nil)
	other := strings.Replace(r.sandbox.URL(), "127.0.0.1", "localhost", 1)
	r.answers("rotate", func(body string) string { return strings.Replace(body, r.sandbox.URL(), other, 1) })
	r.read("payer")
	r.on("rotate", nil)
	r.fails(400, logical.ReadOperation, "token/payer", nil, other)
	r.ok(logical.PatchOperation, "config", map[string]any{"allowed_auth_servers": other})
	// The sandbox knows itself by one name only, so it cannot check a signature over the other one;
	// but it is asked.
	n := r.sandbox.Count("rotate")
	_, _ = r.do(r.ctx, logical.ReadOperation, "token/payer", nil)
	if r.sandbox.Count("rotate") == n {
		t.Error("the allowed origin is not asked")
	}
}

func TestSettingsWrittenDuringARotation(t *testing.T) {
	r := withGrant(t)
	before := r.stored("income").Manage
	arrived, release := r.hang(true)
	read := r.goRead(r.ctx, "income")
	<-arrived
	written := make(chan result, 1)
	go func() {
		resp, err := r.do(r.ctx, logical.UpdateOperation, "grants/income", map[string]any{"ttl": 60})
		written <- result{resp, err}
	}()
	release()
	r.live(<-read)
	if res := <-written; res.err != nil || res.resp.IsError() {
		t.Fatalf("%v %v", res.err, res.resp)
	}
	g := r.stored("income")
	if g.Manage == before || !r.sandbox.Live(g.Token) || g.Settings.TTL != time.Minute {
		t.Error("the settings' write brought an old URL back, or was lost")
	}
	r.live(<-r.goRead(r.ctx, "income"))
}

// Whatever is wrong with the client's key, no grant is lost by it.
func TestKeyTroubleLosesNoGrant(t *testing.T) {
	other := newRig(t)
	for name, row := range map[string]struct {
		trouble func(r *rig)
		mended  func(r *rig)
		status  int
		words   []string
	}{
		"not published": {
			func(r *rig) { r.sandbox.UnpublishKeys() },
			func(r *rig) { r.publish() },
			400, []string{"jwks.json", "the grant is kept"},
		},
		"another key in config": {
			func(r *rig) {
				r.ok(logical.PatchOperation, "config", map[string]any{"private_key": other.key, "verify": false})
			},
			func(r *rig) { r.ok(logical.PatchOperation, "config", map[string]any{"private_key": r.key}) },
			400, []string{"jwks.json", "the grant is kept"},
		},
		"key set unreachable": {
			func(r *rig) { r.sandbox.Misbehave(sandbox.Misbehaviour{KeysDown: true, On: []string{"keys"}}) },
			func(r *rig) { r.sandbox.Misbehave(sandbox.Misbehaviour{}) },
			502, nil,
		},
		"refused while the key set is unreachable": {
			func(r *rig) {
				r.sandbox.Misbehave(sandbox.Misbehaviour{KeysDown: true, On: []string{"keys"}})
				r.on("rotate", knowsNoToken)
			},
			func(r *rig) { r.on("rotate", nil); r.sandbox.Misbehave(sandbox.Misbehaviour{}) },
			502, []string{"try again later"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := configured(t)
			r.imported("payer", nil)
			row.trouble(r)
			for range 3 {
				r.fails(row.status, logical.ReadOperation, "token/payer", nil, row.words...)
				r.clock.Advance(failureMax)
			}
			if g := r.stored("payer"); g.Status != statusActive {
				t.Fatal("the grant is lost")
			}
			row.mended(r)
			r.live(<-r.goRead(r.ctx, "payer"))
		})
	}
}

func (r *rig) publish() {
	r.sandbox.PublishKey(testKeyID, r.public)
}

// One row per write of a read that fails.
func TestStorageFailsAtEachWrite(t *testing.T) {
	t.Run("the intent", func(t *testing.T) {
		for _, cause := range []error{errDisk, logical.ErrReadOnly} {
			r := withGrant(t)
			r.storage.failPuts(1, cause)
			_, err := r.do(r.ctx, logical.ReadOperation, "token/income", nil)
			if err != cause { //nolint:errorlint // Vault compares it like this
				t.Errorf("the error %v is not the storage's own", err)
			}
			if r.sandbox.Count("rotate") != 0 {
				t.Error("the server was asked without an intent")
			}
			r.storage.heal()
			r.live(<-r.goRead(r.ctx, "income"))
		}
	})
	t.Run("the answer, for a while", func(t *testing.T) {
		r := withGrant(t)
		begun := r.clock.Now()
		r.storage.onPut = func(n int, _ string) error {
			if n > 1 && r.clock.Since(begun) < 20*time.Second {
				return errDisk
			}
			return nil
		}
		r.storage.puts = 0
		r.live(<-r.goRead(r.ctx, "income"))
		if r.sandbox.Count("rotate") != 1 {
			t.Error("the rotation was asked for twice")
		}
	})
	t.Run("the answer, for long", func(t *testing.T) {
		r := withGrant(t)
		r.storage.failPuts(2, errDisk)
		r.fails(500, logical.ReadOperation, "token/income", nil, "kept in memory")
		// The next call cannot save it either, and asks nothing.
		r.fails(500, logical.ReadOperation, "token/income", nil, "kept in memory")
		r.fails(500, logical.UpdateOperation, "grants/income", map[string]any{"ttl": 9}, "kept in memory")
		r.fails(500, logical.DeleteOperation, "grants/income", nil, "kept in memory")
		if r.sandbox.Count("rotate") != 1 || r.sandbox.LiveTokens() != 1 {
			t.Error("the server was asked again")
		}
		r.storage.heal()
		r.live(<-r.goRead(r.ctx, "income"))
		r.noSecretIn("the log", r.log.String())
	})
	t.Run("the answer, saved in the background", func(t *testing.T) {
		r := withGrant(t)
		r.storage.failPuts(2, errDisk)
		r.fails(500, logical.ReadOperation, "token/income", nil, "kept in memory")
		r.storage.heal()
		if err := r.clock.BlockUntilContext(r.ctx, 1); err != nil {
			t.Fatal(err)
		}
		r.clock.Advance(saveInterval)
		for r.stored("income").Intent != nil {
			runtime.Gosched()
		}
		if g := r.stored("income"); !r.sandbox.Live(g.Token) {
			t.Error("what was saved is not the live token")
		}
	})
	t.Run("the answer, saved by Clean", func(t *testing.T) {
		r := withGrant(t)
		r.storage.failPuts(2, errDisk)
		r.fails(500, logical.ReadOperation, "token/income", nil, "kept in memory")
		r.storage.heal()
		r.b.Cleanup(r.ctx)
		if g := r.stored("income"); g.Intent != nil || !r.sandbox.Live(g.Token) {
			t.Error("Clean did not wait for the answer to be saved")
		}
	})
	t.Run("that a grant is lost", func(t *testing.T) {
		r := configured(t)
		r.imported("payer", nil)
		r.sandbox.Misbehave(sandbox.Misbehaviour{Drop: true, On: []string{"rotate"}, Times: 1})
		r.storage.failPuts(2, errDisk)
		r.fails(500, logical.ReadOperation, "token/payer", nil)
		r.storage.heal()
		r.fails(400, logical.ReadOperation, "token/payer", nil, "lost")
	})
}

func TestStorageUnreadableBeforeAskingAgain(t *testing.T) {
	r := withGrant(t)
	r.on("rotate", func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		r.storage.mu.Lock()
		r.storage.onRead = func(string) error { return errDisk }
		r.storage.mu.Unlock()
		w.WriteHeader(500)
	})
	r.fails(500, logical.ReadOperation, "token/income", nil, "could not be read from storage")
	if n := r.sandbox.Count("rotate"); n != 1 {
		t.Errorf("%d requests, want 1: a node without storage stops", n)
	}
}

// A leader that lost its quorum can write again when the quorum returns.
func TestFormerLeaderOverwritesNothing(t *testing.T) {
	r := withGrant(t)
	arrived, release := r.hang(true)
	read := r.goRead(r.ctx, "income")
	<-arrived
	// Another node has rotated meanwhile.
	newer := r.stored("income")
	newer.Generation, newer.Intent, newer.Token = newer.Generation+7, nil, "newer"
	r.put("income", newer)
	release()
	res := <-read
	r.failed(500, res.resp, res.err, "another node")
	if g := r.stored("income"); g.Token != "newer" {
		t.Error("a late write has overwritten a newer entry")
	}

	r = withGrant(t)
	r.storage.failPuts(2, errDisk)
	r.fails(500, logical.ReadOperation, "token/income", nil, "kept in memory")
	newer = r.stored("income")
	newer.begin(causeRead, r.clock.Now()) // another node's intent
	r.put("income", newer)
	r.storage.heal()
	_, _ = r.do(r.ctx, logical.ReadOperation, "grants/income", nil)
	r.ok(logical.UpdateOperation, "grants/income", map[string]any{"ttl": 9})
	if g := r.stored("income"); g.Token != newer.Token || g.Intent == nil {
		t.Error("an unsaved answer has overwritten a newer entry")
	}
}

// The other node has rotated meanwhile, so the former leader is refused: it must not call the grant
// lost.
func TestFormerLeaderLosesNothing(t *testing.T) {
	r := configured(t)
	r.imported("payer", nil)
	asked := 0
	r.on("rotate", func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		if asked++; asked == 2 {
			newer := r.stored("payer")
			newer.Generation, newer.Intent, newer.Token = newer.Generation+1, nil, "newer"
			r.put("payer", newer)
		}
		w.WriteHeader(401)
		_, _ = w.Write([]byte(`{"error":{"code":"invalid_client"}}`))
	})
	r.fails(500, logical.ReadOperation, "token/payer", nil, "another node")
	if g := r.stored("payer"); g.Status != statusActive || g.Token != "newer" {
		t.Error("a former leader has written over a newer entry")
	}
}

// An attempt stops asking once another node has taken over.
func TestTakenOverBeforeAskingAgain(t *testing.T) {
	r := withGrant(t)
	r.on("rotate", func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		newer := r.stored("income")
		newer.begin(causeRead, r.clock.Now())
		r.put("income", newer)
		w.WriteHeader(500)
	})
	r.fails(500, logical.ReadOperation, "token/income", nil, "another node")
	if n := r.sandbox.Count("rotate"); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
}

func TestFailingGrantAnswersAtOnce(t *testing.T) {
	r := configured(t)
	r.imported("payer", nil)
	lease := r.read("payer")
	r.sandbox.UnpublishKeys() // refused at once, so that each attempt is one request
	r.sandbox.Misbehave(sandbox.Misbehaviour{})
	begun, before := r.clock.Now(), r.sandbox.Count("rotate")
	puts := r.storage.putsSoFar()
	for r.clock.Since(begun) < time.Minute {
		if _, err := r.renew(lease); err == nil {
			t.Fatal("renewed without a key")
		}
		r.clock.Advance(10 * time.Millisecond)
	}
	// 0, 1, 3, 7, 15, 31 s: the pause doubles.
	if n := r.sandbox.Count("rotate") - before; n > 6 {
		t.Errorf("%d requests in a minute", n)
	}
	if n := r.storage.putsSoFar() - puts; n > 12 {
		t.Errorf("%d writes in a minute", n)
	}
	// A corrected config lets it try again at once.
	r.publish()
	r.ok(logical.UpdateOperation, "config", r.clientFields())
	if _, err := r.renew(lease); err != nil {
		t.Errorf("after the key was published: %v", err)
	}
}

func TestWaitersGetTheSameError(t *testing.T) {
	r := withGrant(t)
	arrived, release := r.hang(false)
	first := r.goRead(r.ctx, "income")
	<-arrived
	second := r.goRead(r.ctx, "income")
	r.awaitUsers("income", 2)
	r.sandbox.UnpublishKeys()
	release()
	one, two := <-first, <-second
	r.failed(400, one.resp, one.err, "jwks.json")
	r.failed(400, two.resp, two.err, "jwks.json")
	if n := r.sandbox.Count("rotate"); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
}

func TestCleanWaitsForARotationInFlight(t *testing.T) {
	r := withGrant(t)
	arrived, release := r.hang(true)
	read := r.goRead(r.ctx, "income")
	<-arrived
	cleaned := make(chan struct{})
	go func() {
		r.b.Cleanup(r.ctx)
		close(cleaned)
	}()
	<-r.b.inFlight.closing
	r.fails(503, logical.ReadOperation, "token/income", nil, "shutting down")
	select {
	case <-cleaned:
		t.Fatal("Clean did not wait")
	default:
	}
	release()
	<-cleaned
	r.live(<-read)
	if g := r.stored("income"); g.Intent != nil || !r.sandbox.Live(g.Token) {
		t.Error("the answer is not stored when Clean is done")
	}
}

// The answer is gone: a grant without consent heals, one with consent is lost.
func TestLostAnswer(t *testing.T) {
	drop := sandbox.Misbehaviour{Drop: true, On: []string{"rotate"}, Times: 1}
	t.Run("non-interactive", func(t *testing.T) {
		r := withGrant(t)
		before := r.stored("income")
		r.sandbox.Misbehave(drop)
		resp := r.read("income")
		if !r.sandbox.Live(tokenOf(resp)) || r.sandbox.LiveTokens() != 1 {
			t.Error("want one live token: the old grant is cancelled, the new one handed out")
		}
		if g := r.stored("income"); g.Generation != before.Generation+1 || g.ID != before.ID {
			t.Errorf("generation %d", g.Generation)
		}
	})
	t.Run("interactive", func(t *testing.T) {
		r := configured(t)
		r.imported("payer", nil)
		r.sandbox.Misbehave(drop)
		r.fails(400, logical.ReadOperation, "token/payer", nil, "lost", "owner", "op/grants/payer")
		n := r.sandbox.Count("rotate")
		r.fails(400, logical.ReadOperation, "token/payer", nil, "lost")
		if r.sandbox.Count("rotate") != n {
			t.Error("reads of a lost grant have to answer at once")
		}
		data := r.ok(logical.ReadOperation, "grants/payer", nil).Data
		if data["status"] != statusLost || data["lost_at"] == nil || data["lost_cause"] == nil {
			t.Errorf("%v", data)
		}
		// rotate/ asks the server once more.
		r.fails(400, logical.UpdateOperation, "rotate/payer", nil, "lost")
		if r.sandbox.Count("rotate") == n {
			t.Error("rotate/ has to ask the server")
		}
		if !strings.Contains(r.log.String(), "payer") {
			t.Error("the log does not tell of it")
		}
		r.noSecretIn("the log", r.log.String())
	})
	t.Run("a lost grant that the server knows after all", func(t *testing.T) {
		r := configured(t)
		r.imported("payer", nil)
		g := r.stored("payer")
		g.Status, g.Lost = statusLost, event{At: r.clock.Now(), Cause: "a test"}
		r.put("payer", g)
		r.fails(400, logical.ReadOperation, "token/payer", nil, "lost")
		r.ok(logical.UpdateOperation, "rotate/payer", nil)
		r.live(<-r.goRead(r.ctx, "payer"))
	})
}

// A crash leaves an intent behind; the next attempt needs nothing special.
func TestCrashDuringARotation(t *testing.T) {
	for name, done := range map[string]bool{"before the server has rotated": false, "after": true} {
		t.Run(name, func(t *testing.T) {
			r := withGrant(t)
			arrived, release := r.hang(done)
			abandoned := r.goRead(r.ctx, "income")
			<-arrived
			crashed := r.storage
			r.storage = &testStorage{InmemStorage: &logical.InmemStorage{}}
			copyStorage(t, crashed.InmemStorage, r.storage.InmemStorage)
			r.restart()
			if r.stored("income").Intent == nil {
				t.Fatal("no intent to find")
			}
			// The old process's request may still be under way; its answer is for a storage that is
			// not there any more.
			r.on("rotate", nil)
			r.live(<-r.goRead(r.ctx, "income"))
			release()
			<-abandoned
		})
	}
}

func copyStorage(t *testing.T, from, to *logical.InmemStorage) {
	t.Helper()
	keys, err := logical.CollectKeys(context.Background(), from)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		entry, err := from.Get(context.Background(), key)
		if err == nil {
			err = to.Put(context.Background(), entry)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// A server may tell rights in a form that it would not take.
func TestAskedAgainWithTheRightsThatWereAskedFor(t *testing.T) {
	r := withGrant(t)
	r.answers("rotate", func(body string) string {
		return strings.Replace(body, `"type":"incoming-payment"`, `"type":"incoming-payment","note":"told otherwise"`, 1)
	})
	r.read("income")
	r.on("rotate", nil)
	r.sandbox.Misbehave(sandbox.Misbehaviour{Drop: true, On: []string{"rotate"}, Times: 1})
	r.live(<-r.goRead(r.ctx, "income"))
}

func TestAskedAgainAtMostOnceAMinute(t *testing.T) {
	r := withGrant(t)
	r.on("rotate", knowsNoToken)
	asked := r.sandbox.Count("grant")
	r.live(<-r.goRead(r.ctx, "income"))
	if n := r.sandbox.Count("grant") - asked; n != 1 {
		t.Fatalf("asked %d times", n)
	}
	r.clock.Advance(failureMax)
	r.fails(502, logical.ReadOperation, "token/income", nil, "less than a minute ago")
	if n := r.sandbox.Count("grant") - asked; n != 1 {
		t.Errorf("asked %d times", n)
	}
	r.clock.Advance(askInterval)
	r.live(<-r.goRead(r.ctx, "income"))
}

func TestServerNowWantsConsent(t *testing.T) {
	r := withGrant(t)
	r.on("rotate", knowsNoToken)
	r.mu.Lock()
	refuse := r.wrap
	r.wrap = func(next http.Handler) http.Handler {
		inner := refuse(next)
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if sandbox.Operation(req) == "grant" {
				_, _ = w.Write([]byte(`{"interact":{"redirect":"` + r.sandbox.URL() + `/x","finish":"f"},"continue":{"access_token":{"value":"c"},"uri":"` + r.sandbox.AuthServer() + `/continue/abc"}}`))
				return
			}
			inner.ServeHTTP(w, req)
		})
	}
	r.mu.Unlock()
	r.fails(400, logical.ReadOperation, "token/income", nil, "lost", "consent")
	if r.sandbox.Count("cancel") != 1 {
		t.Error("what was begun is not cancelled")
	}
	if g := r.stored("income"); g.Status != statusLost || !g.Interactive {
		t.Errorf("%s %v", g.Status, g.Interactive)
	}
}

// A node that may not write begins nothing.
func TestStandbyBeginsNothing(t *testing.T) {
	r := withGrant(t)
	lease := r.read("income")
	before := r.sandbox.Count("rotate")
	for _, state := range []consts.ReplicationState{consts.ReplicationPerformanceStandby, consts.ReplicationPerformanceSecondary} {
		r.system.ReplicationStateVal = state
		for what, call := range map[string]func() error{
			"read":   func() error { _, err := r.do(r.ctx, logical.ReadOperation, "token/income", nil); return err },
			"rotate": func() error { _, err := r.do(r.ctx, logical.UpdateOperation, "rotate/income", nil); return err },
			"delete": func() error { _, err := r.do(r.ctx, logical.DeleteOperation, "grants/income", nil); return err },
			"renew":  func() error { _, err := r.renew(lease); return err },
			"revoke": func() error { _, err := r.revoke(lease); return err },
		} {
			if err := call(); err != logical.ErrReadOnly { //nolint:errorlint // Vault compares it like this
				t.Errorf("%s: %v, want logical.ErrReadOnly", what, err)
			}
		}
	}
	if r.sandbox.Count("rotate") != before {
		t.Error("a standby has asked the server")
	}
}

// A rejection is asked about again in turn, however busy the server is: otherwise nobody would find out that
// the token is dead for as long as there is a queue.
func TestRejectionIsSettledAtABusyServer(t *testing.T) {
	r := withGrant(t)
	r.ok(logical.PatchOperation, "config", map[string]any{"max_requests_per_server": 1})
	r.ask("first")
	r.ask("second")
	r.sandbox.Misbehave(sandbox.Misbehaviour{On: []string{"rotate"}, Drop: true, Times: 1})
	arrived, release := make(chan struct{}), make(chan struct{})
	var others []<-chan result
	r.b.sleep = func(_ context.Context, d time.Duration) error {
		r.clock.Advance(d)
		if r.sandbox.Count("rotate") != 2 {
			return nil // the pause after the answer that was lost
		}
		r.on("rotate", func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			select {
			case arrived <- struct{}{}:
				<-release
			default:
			}
			next.ServeHTTP(w, req)
		})
		others = append(others, r.goRead(r.ctx, "first"))
		<-arrived
		others = append(others, r.goRead(r.ctx, "second"))
		for r.b.network.Waiting(r.sandbox.URL()) != 1 {
			runtime.Gosched()
		}
		go func() {
			for r.b.network.Waiting(r.sandbox.URL()) == 1 {
				runtime.Gosched()
			}
			close(release)
		}()
		return nil
	}
	r.live(<-r.goRead(r.ctx, "income"))
	for _, other := range others {
		r.live(<-other)
	}
}
