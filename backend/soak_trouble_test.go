// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jonboulle/clockwork"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
)

// fault is what goes wrong with a request.
type fault int

const (
	noFault fault = iota
	dropAnswer
	resetBefore
	resetAfter
	errorBefore
	errorAfter
	slowAnswer
	cutAnswer
)

// faultRates are per thousand requests. Those that say "after" come when the server has done the work.
var faultRates = []struct {
	fault    fault
	name     string
	thousand int
}{
	{dropAnswer, "dropped after", 20},
	{resetBefore, "reset before", 10},
	{resetAfter, "reset after", 10},
	{errorBefore, "500 before", 5},
	{errorAfter, "500 after", 5},
	{slowAnswer, "slow", 10},
	{cutAnswer, "cut off after", 5},
}

const slowTime = time.Second

// trouble makes requests and writes fail, and knows which answers were lost after the work.
type trouble struct {
	rotations atomic.Int64 // that a server has done

	mu        sync.Mutex
	random    *rand.Rand
	on        bool
	faults    map[fault]int
	failed    int             // writes
	committed int             // writes that were done, and reported as failed
	hungUp    int             // answers that came too late for the engine
	lost      map[string]bool // what was asked and done without an answer: the last part of its URL
	orphans   map[string]bool // grants whose answer was lost: the last part of their continue URL
}

func newTrouble() *trouble {
	return &trouble{random: rand.New(rand.NewPCG(1, 2)), on: true, faults: map[fault]int{}, lost: map[string]bool{}, orphans: map[string]bool{}}
}

func (t *trouble) set(on bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.on = on
}

func (t *trouble) begin() { t.set(true) }
func (t *trouble) heal()  { t.set(false) }

// String says what has gone wrong.
func (t *trouble) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []string
	for _, r := range faultRates {
		all = append(all, fmt.Sprintf("%d %s", t.faults[r.fault], r.name))
	}
	return fmt.Sprintf("answers: %s, %d too late; writes: %d failed, %d of them were done", strings.Join(all, ", "), t.hungUp, t.failed, t.committed)
}

// claim reports whether the answer to a request at a URL was lost; once.
func (t *trouble) claim(url string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	id := path.Base(url)
	was := t.lost[id]
	delete(t.lost, id)
	return was
}

// forget notes that nobody ends a grant any more.
func (t *trouble) forget(continueURL string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.orphans[path.Base(continueURL)] = true
}

func (t *trouble) isOrphan(continueURL string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.orphans[path.Base(continueURL)]
}

func (t *trouble) draw() fault {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.on {
		return noFault
	}
	dice := t.random.IntN(1000)
	for _, r := range faultRates {
		if dice -= r.thousand; dice < 0 {
			t.faults[r.fault]++
			return r.fault
		}
	}
	return noFault
}

// storage fails one write in two hundred, half of them although the write was done.
func (t *trouble) storage(op storageOp) error {
	t.mu.Lock()
	fails := op.write && t.on && t.random.IntN(200) == 0
	done := fails && t.random.IntN(2) == 0
	if fails {
		t.failed++
	}
	if done {
		t.committed++
	}
	t.mu.Unlock()
	if fails && !done {
		return errDisk
	}
	if err := op.do(); err != nil || !fails {
		return err
	}
	return errDisk
}

// wrap puts the trouble before a sandbox. A slow one is slow on the given clock.
func (t *trouble) wrap(clock clockwork.Clock) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			switch op := sandbox.Operation(req); op {
			case "grant", "continue", "cancel", "rotate", "revoke":
				t.serve(w, req, next, op, clock)
			default:
				next.ServeHTTP(w, req)
			}
		})
	}
}

func (t *trouble) serve(w http.ResponseWriter, req *http.Request, next http.Handler, op string, clock clockwork.Clock) {
	fault := t.draw()
	body, err := io.ReadAll(req.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	switch fault {
	case resetBefore:
		sandbox.Reset(w, req)
	case errorBefore:
		http.Error(w, "", http.StatusInternalServerError)
		return
	case slowAnswer:
		<-clock.After(slowTime)
	}
	answer := httptest.NewRecorder()
	worked := req.WithContext(context.WithoutCancel(req.Context()))
	worked.Body = io.NopCloser(bytes.NewReader(body))
	next.ServeHTTP(answer, worked)
	done := answer.Code/100 == 2
	if done && op == "rotate" {
		t.rotations.Add(1)
	}
	switch fault {
	case dropAnswer, resetAfter, errorAfter, cutAnswer:
		if done {
			t.lose(op, req, answer)
		}
	}
	switch fault {
	case dropAnswer:
		panic(http.ErrAbortHandler)
	case resetAfter:
		sandbox.Reset(w, req)
	case errorAfter:
		http.Error(w, "", http.StatusInternalServerError)
		return
	}
	maps.Copy(w.Header(), answer.Header())
	if fault == cutAnswer && answer.Body.Len() > 0 {
		w.Header().Set("Content-Length", strconv.Itoa(answer.Body.Len()))
		w.WriteHeader(answer.Code)
		_, _ = w.Write(answer.Body.Bytes()[:answer.Body.Len()/2])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes())
	if done && req.Context().Err() != nil {
		t.mu.Lock()
		t.hungUp++
		t.mu.Unlock()
		t.lose(op, req, answer)
	}
}

// lose notes that an answer was lost.
func (t *trouble) lose(op string, req *http.Request, answer *httptest.ResponseRecorder) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch op {
	case "rotate", "continue":
		t.lost[path.Base(req.URL.Path)] = true
	case "grant":
		var told struct{ Continue struct{ URI string } }
		_ = json.Unmarshal(answer.Body.Bytes(), &told)
		t.orphans[path.Base(told.Continue.URI)] = true
	}
}
