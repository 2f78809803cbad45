// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"bytes"
	"io"
	"net/http"
	"time"
)

// Misbehaviour says what a sandbox does wrong. The zero value behaves.
//
// One of these can be done at once: an answer of its own (Status, JSON and Text), NotJSON, ReadOnly, Pool, Killed, Drop, Reset,
// Silent or Wire. Wire also goes with an answer of its own. Delay and KeysDown go with any.
type Misbehaviour struct {
	// On are the operations that it applies to; empty means all that clients ask of the authorization server: "grant",
	// "continue", "cancel", "rotate" and "revoke".
	On []string `json:"on,omitempty"`
	// Times is how many requests it applies to; then it ends. Zero means until it is switched off.
	Times int `json:"times,omitempty"`
	// Delay passes before anything else is done; "delay" in JSON, a Go duration such as "1.5s". A client that hangs up
	// does not end it: the work is done all the same.
	Delay time.Duration `json:"-"`
	// After does the work before Status, JSON, Text, NotJSON, Reset or Silent, which otherwise take its place.
	After bool `json:"after,omitempty"`

	// Status is the status of an answer of its own, 200 to 599; 200 if zero while JSON or Text is set.
	Status int `json:"status,omitempty"`
	// Header are headers of the answer, such as Location or Content-Type. They go with Status, JSON or Text.
	Header map[string]string `json:"header,omitempty"`
	// JSON is the body of the answer, any JSON value, sent as application/json; "json" in JSON, the value itself.
	JSON string `json:"-"`
	// Text is the body of the answer, sent as text/plain if Header does not say otherwise. An error without a body has
	// the name of its status there.
	Text string `json:"text,omitempty"`
	// NotJSON answers 200 with an HTML page.
	NotJSON bool `json:"not_json,omitempty"`

	// ReadOnly refuses whatever changes the database, after all checks: a rotation with 404 invalid_rotation, all else
	// with 500. Nothing is lost: the token lives, and rotates once this has ended.
	ReadOnly bool `json:"read_only,omitempty"`
	// Pool is how many database connections all rotations share, of which each takes two, one after the other: so many
	// rotations at the same instant block each other. See pool.
	Pool int `json:"pool,omitempty"`
	// PoolTimeout is how long a rotation waits for a connection, 60 s if zero; "pool_timeout" in JSON, a Go duration.
	PoolTimeout time.Duration `json:"-"`

	// Killed ends in the middle of the work, as a server does whose process is killed, and closes the connection without an
	// answer: a rotation has revoked the old token and made no new one. Of other operations the work is done.
	Killed bool `json:"killed,omitempty"`
	// Drop does the work and then closes the connection without an answer.
	Drop bool `json:"drop,omitempty"`
	// Reset closes the connection with a TCP reset.
	Reset bool `json:"reset,omitempty"`
	// Silent keeps the connection open, and neither reads from it nor writes to it any more. On HTTP/2 that is also the
	// end of all other requests on the same connection.
	Silent bool `json:"silent,omitempty"`
	// Wire is how the answer is broken on its way: one of the Wire constants. The work is done.
	Wire string `json:"wire,omitempty"`

	// KeysDown answers 503 to whoever fetches the client's key set, whatever On says.
	KeysDown bool `json:"keys_down,omitempty"`
}

// kind is one way to misbehave.
type kind struct {
	member string // of the JSON form
	isSet  func(Misbehaviour) bool
	// serve makes the handler that misbehaves out of the one that does the work.
	serve func(s *Server, f *fault, work http.Handler) http.Handler
}

// kinds is the table of all that can go wrong. Of several, the later one is done around the earlier one. A new row needs
// a member of Misbehaviour and a function.
var kinds = []kind{
	{"status", Misbehaviour.answers, answerInstead},
	{"not_json", func(m Misbehaviour) bool { return m.NotJSON }, answerPage},
	{"read_only", func(m Misbehaviour) bool { return m.ReadOnly }, workReadOnly},
	{"pool", func(m Misbehaviour) bool { return m.Pool != 0 }, workWithPool},
	{"keys_down", func(m Misbehaviour) bool { return m.KeysDown }, answerKeysDown},
	{"killed", func(m Misbehaviour) bool { return m.Killed }, killWork},
	{"drop", func(m Misbehaviour) bool { return m.Drop }, dropAnswer},
	{"reset", func(m Misbehaviour) bool { return m.Reset }, resetConnection},
	{"silent", func(m Misbehaviour) bool { return m.Silent }, silenceConnection},
	{"wire", func(m Misbehaviour) bool { return m.Wire != "" }, breakAnswer},
}

// answers reports whether there is an answer of its own.
func (m Misbehaviour) answers() bool { return m.Status != 0 || m.JSON != "" || m.Text != "" }

// misbehaving does what is switched on, and otherwise what it should.
func (s *Server) misbehaving(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f := s.faults.take(r)
		if f.Reset && f.Delay == 0 && !f.After {
			reset(w, r)
			return
		}
		// All of the request is read before any delay, so that a client that hangs up in between has asked for the work.
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			answerText(w, http.StatusRequestEntityTooLarge, "the body is too large or broken off")
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		if !s.sleep(f.Delay) {
			panic(http.ErrAbortHandler)
		}
		handler := next
		for _, k := range kinds {
			if k.isSet(f.Misbehaviour) {
				handler = k.serve(s, f, handler)
			}
		}
		handler.ServeHTTP(w, r)
	})
}

// instead answers in place of the work, or after it.
func instead(f *fault, work http.Handler, answer http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f.After {
			work.ServeHTTP(new(recorded), r)
		}
		answer(w, r)
	})
}

func answerInstead(_ *Server, f *fault, work http.Handler) http.Handler {
	return instead(f, work, func(w http.ResponseWriter, _ *http.Request) {
		status, media, body := f.Status, "text/plain; charset=utf-8", f.Text
		if status == 0 {
			status = http.StatusOK
		}
		switch {
		case f.JSON != "":
			media, body = "application/json; charset=utf-8", f.JSON
		case body == "" && status >= 400:
			body = http.StatusText(status)
		}
		if body != "" {
			w.Header().Set("Content-Type", media)
		}
		for name, value := range f.Header {
			w.Header().Set(name, value)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	})
}

func answerPage(_ *Server, f *fault, work http.Handler) http.Handler {
	return instead(f, work, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = io.WriteString(w, "<!doctype html><title>Sandbox</title><p>This is not JSON.")
	})
}

func answerKeysDown(_ *Server, f *fault, work http.Handler) http.Handler {
	return instead(f, work, func(w http.ResponseWriter, _ *http.Request) {
		answerText(w, http.StatusServiceUnavailable, "Service Unavailable")
	})
}

func workReadOnly(_ *Server, _ *fault, work http.Handler) http.Handler {
	return withDatabase(database{readOnly: true}, work)
}

func workWithPool(_ *Server, f *fault, work http.Handler) http.Handler {
	return f.pool.expecting(work)
}

func killWork(s *Server, f *fault, work http.Handler) http.Handler {
	return dropAnswer(s, f, withDatabase(database{killed: true}, work))
}

func dropAnswer(_ *Server, _ *fault, work http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		work.ServeHTTP(new(recorded), r)
		hangUp(w, r)
	})
}

func resetConnection(_ *Server, f *fault, work http.Handler) http.Handler {
	return instead(f, work, reset)
}

func silenceConnection(s *Server, f *fault, work http.Handler) http.Handler {
	return instead(f, work, s.silence)
}

func breakAnswer(_ *Server, f *fault, work http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var whole recorded
		work.ServeHTTP(&whole, r)
		wires[f.Wire](w, r, whole)
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
