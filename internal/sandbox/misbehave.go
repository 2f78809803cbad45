// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Misbehaviour says what a sandbox is to do wrong. The zero value behaves. At most one of Drop, Reset, Status and
// NotJSON may be set; Delay and KeysDown go with any. In JSON the members are on, times, delay, drop, reset, status,
// not_json and keys_down.
type Misbehaviour struct {
	// On are the operations it applies to; empty means all that clients ask of the authorization server: "grant",
	// "continue", "cancel", "rotate" and "revoke".
	On []string
	// Times is how many requests it applies to; then it ends. Zero means until it is switched off.
	Times int
	// Delay is waited for before anything else is done; in JSON a Go duration such as "1.5s". It is not cut short by a
	// client that hangs up: the work is done all the same.
	Delay time.Duration
	// Drop does the work and then closes the connection without an answer.
	Drop bool
	// Reset closes the connection with a TCP reset; no work is done.
	Reset bool
	// Status is answered, with a text/plain body, instead of doing the work: 400 to 599.
	Status int
	// NotJSON answers 200 with an HTML page instead of doing the work.
	NotJSON bool
	// KeysDown answers 503 to whoever fetches the client's key set, whatever On says.
	KeysDown bool
}

// misbehaviourJSON is how a Misbehaviour is written.
type misbehaviourJSON struct {
	On       []string `json:"on,omitempty"`
	Times    int      `json:"times,omitempty"`
	Delay    string   `json:"delay,omitempty"`
	Drop     bool     `json:"drop,omitempty"`
	Reset    bool     `json:"reset,omitempty"`
	Status   int      `json:"status,omitempty"`
	NotJSON  bool     `json:"not_json,omitempty"`
	KeysDown bool     `json:"keys_down,omitempty"`
}

// MarshalJSON writes what UnmarshalJSON reads.
func (m Misbehaviour) MarshalJSON() ([]byte, error) {
	out := misbehaviourJSON{
		On: m.On, Times: m.Times, Drop: m.Drop, Reset: m.Reset, Status: m.Status, NotJSON: m.NotJSON, KeysDown: m.KeysDown,
	}
	if m.Delay != 0 {
		out.Delay = m.Delay.String()
	}
	return json.Marshal(out)
}

// UnmarshalJSON refuses unknown members and what cannot be, with a sentence.
func (m *Misbehaviour) UnmarshalJSON(text []byte) error {
	var in misbehaviourJSON
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&in); err != nil {
		return fmt.Errorf("the misbehaviour could not be read: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	read := Misbehaviour{
		On: in.On, Times: in.Times, Drop: in.Drop, Reset: in.Reset, Status: in.Status, NotJSON: in.NotJSON, KeysDown: in.KeysDown,
	}
	if in.Delay != "" {
		delay, err := time.ParseDuration(in.Delay)
		if err != nil {
			return errors.New(`"delay" must be a duration such as "1.5s"`)
		}
		read.Delay = delay
	}
	if err := read.check(); err != nil {
		return err
	}
	*m = read
	return nil
}

// check says what is wrong, in a sentence.
func (m Misbehaviour) check() error {
	for _, name := range m.On {
		if !slices.Contains(operations, name) {
			return fmt.Errorf(`"on" knows no operation %q, only %s`, name, strings.Join(operations, ", "))
		}
	}
	if m.Times < 0 || m.Delay < 0 {
		return errors.New(`"times" and "delay" must not be negative`)
	}
	if m.Status != 0 && (m.Status < 400 || m.Status > 599) {
		return errors.New(`"status" must be from 400 to 599`)
	}
	faults := 0
	for _, set := range []bool{m.Drop, m.Reset, m.Status != 0, m.NotJSON} {
		if set {
			faults++
		}
	}
	if faults > 1 {
		return errors.New(`only one of "drop", "reset", "status" and "not_json" can be done at once`)
	}
	return nil
}

// faultFor is what is to be done wrong to a request: the zero value if nothing.
func (m Misbehaviour) faultFor(r *http.Request) Misbehaviour {
	operation := Operation(r)
	if m.KeysDown && operation == opKeys && r.URL.Path == clientKeysPath {
		return Misbehaviour{KeysDown: true, Delay: m.Delay}
	}
	on := m.On
	if len(on) == 0 {
		on = []string{opGrant, opContinue, opCancel, opRotate, opRevoke}
	}
	if !slices.Contains(on, operation) {
		return Misbehaviour{}
	}
	return Misbehaviour{Delay: m.Delay, Drop: m.Drop, Reset: m.Reset, Status: m.Status, NotJSON: m.NotJSON}
}

// isNothing reports whether a fault is none.
func (m Misbehaviour) isNothing() bool {
	return m.Delay == 0 && !m.Drop && !m.Reset && m.Status == 0 && !m.NotJSON && !m.KeysDown
}

// faults is what is switched on.
type faults struct {
	mu  sync.Mutex
	now Misbehaviour
}

func (f *faults) set(m Misbehaviour) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = m
}

func (f *faults) get() Misbehaviour {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

// take is what is to be done wrong to a request, which is counted if that is something.
func (f *faults) take(r *http.Request) Misbehaviour {
	f.mu.Lock()
	defer f.mu.Unlock()
	fault := f.now.faultFor(r)
	if fault.isNothing() || f.now.Times == 0 {
		return fault
	}
	f.now.Times--
	if f.now.Times == 0 {
		f.now = Misbehaviour{}
	}
	return fault
}

// Misbehave switches misbehaviour on, or off with the zero value. It panics if m cannot be, as the HTTP endpoint would
// answer 400.
func (s *Server) Misbehave(m Misbehaviour) {
	if err := m.check(); err != nil {
		panic("sandbox: " + err.Error())
	}
	s.faults.set(m)
}

func (s *Server) showMisbehaviour(w http.ResponseWriter, _ *http.Request) error {
	answer(w, http.StatusOK, s.faults.get())
	return nil
}

func (s *Server) putMisbehaviour(w http.ResponseWriter, r *http.Request) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return plain(http.StatusBadRequest, "the body could not be read\n")
	}
	var m Misbehaviour
	if err := json.Unmarshal(body, &m); err != nil {
		return plain(http.StatusBadRequest, err.Error()+"\n")
	}
	s.faults.set(m)
	answer(w, http.StatusOK, m)
	return nil
}

func (s *Server) endMisbehaviour(w http.ResponseWriter, _ *http.Request) error {
	s.faults.set(Misbehaviour{})
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// misbehaving does what is switched on, and otherwise what it should.
func (s *Server) misbehaving(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fault := s.faults.take(r)
		if fault.Reset && fault.Delay == 0 {
			reset(w)
			return
		}
		// All of the request is read before any delay, so that a client that hangs up in between has asked for the work.
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			answerText(w, http.StatusRequestEntityTooLarge, "the body is too large or broken off")
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		if !s.sleep(fault.Delay) {
			panic(http.ErrAbortHandler)
		}
		switch {
		case fault.Reset:
			reset(w)
		case fault.KeysDown:
			answerText(w, http.StatusServiceUnavailable, "Service Unavailable")
		case fault.Status != 0:
			answerText(w, fault.Status, http.StatusText(fault.Status))
		case fault.NotJSON:
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			_, _ = io.WriteString(w, "<!doctype html><title>Sandbox</title><p>This is not JSON.")
		case fault.Drop:
			next.ServeHTTP(&unheard{}, r)
			hangUp(w, -1)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// sleep waits and reports false if the server closes meanwhile.
func (s *Server) sleep(d time.Duration) bool {
	if d == 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-s.running.Done():
		return false
	}
}

// unheard takes an answer that nobody is to get.
type unheard struct{ header http.Header }

func (u *unheard) Header() http.Header {
	if u.header == nil {
		u.header = make(http.Header)
	}
	return u.header
}

func (u *unheard) Write(p []byte) (int, error) { return len(p), nil }

func (u *unheard) WriteHeader(int) {}

// reset closes the connection so that the client gets a TCP reset.
func reset(w http.ResponseWriter) { hangUp(w, 0) }

// hangUp closes the connection without an answer; linger is that of net.TCPConn.
func hangUp(w http.ResponseWriter, linger int) {
	connection, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // closes the connection too, if not as asked
	}
	if tcp, ok := connection.(*net.TCPConn); ok {
		_ = tcp.SetLinger(linger)
	}
	_ = connection.Close()
}
