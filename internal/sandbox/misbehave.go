// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"bytes"
	"io"
	"net/http"
	"time"
)

// Misbehaviour describes what the sandbox does wrong with a request. The zero value does nothing
// wrong.
//
// Only one of these can be set: a substitute answer (Status, JSON or Text), NotJSON, ReadOnly,
// Pool, Killed, Drop, Reset, Silent or Wire. Wire can be combined with a substitute answer. Delay
// and KeysDown can be combined with anything.
type Misbehaviour struct {
	// On lists the operations it applies to. Empty means the requests that clients send to the
	// authorization server: "grant", "continue", "cancel", "rotate" and "revoke".
	On []string `json:"on,omitempty"`
	// Times is how many requests it applies to. Zero means all requests until it is switched off.
	Times int `json:"times,omitempty"`
	// Delay is how long the server waits before it does anything else; "delay" in JSON, a Go
	// duration such as "1.5s". A client that hangs up does not cut it short: the work is still
	// done.
	Delay time.Duration `json:"-"`
	// After makes the server do the work before a substitute answer, NotJSON, Reset or Silent.
	// Otherwise these take the place of the work.
	After bool `json:"after,omitempty"`

	// Status is the status of the substitute answer, 200 to 599. Zero means 200 if JSON or Text is
	// set.
	Status int `json:"status,omitempty"`
	// Header contains headers of the substitute answer, such as Location or Content-Type.
	Header map[string]string `json:"header,omitempty"`
	// JSON is the body of the substitute answer, any JSON value, sent as application/json. In JSON
	// the member "json" is that value itself.
	JSON string `json:"-"`
	// Text is the body of the substitute answer, sent as text/plain unless Header has a
	// Content-Type. Without JSON and Text, the body of an error is the name of its status.
	Text string `json:"text,omitempty"`
	// NotJSON sends an HTML page with status 200.
	NotJSON bool `json:"not_json,omitempty"`

	// ReadOnly makes every change to the database fail, after all checks: a rotation returns 404
	// invalid_rotation, anything else 500. The token stays live and can be rotated afterwards.
	ReadOnly bool `json:"read_only,omitempty"`
	// Pool is the number of database connections that rotations share. Each rotation takes two, one
	// after the other, so this many rotations at the same instant block each other (see pool).
	Pool int `json:"pool,omitempty"`
	// PoolTimeout is how long a rotation waits for a connection, 60 s if zero; "pool_timeout" in
	// JSON, a Go duration.
	PoolTimeout time.Duration `json:"-"`

	// Killed closes the connection without an answer in the middle of the work, like a server whose
	// process is killed: a rotation has revoked the old token and has not issued a new one. The
	// work of other operations is done.
	Killed bool `json:"killed,omitempty"`
	// Drop does the work and then closes the connection without an answer.
	Drop bool `json:"drop,omitempty"`
	// Reset closes the connection with a TCP reset.
	Reset bool `json:"reset,omitempty"`
	// Silent keeps the connection open and stops reading from it and writing to it. On HTTP/2 this
	// affects all requests on the connection.
	Silent bool `json:"silent,omitempty"`
	// Wire does the work and damages the answer in transit, as one of the Wire constants says.
	Wire string `json:"wire,omitempty"`

	// KeysDown returns 503 to requests for the client's key set, regardless of On.
	KeysDown bool `json:"keys_down,omitempty"`
}

// kind is one way to misbehave.
type kind struct {
	member string // of the JSON form
	isSet  func(Misbehaviour) bool
	// serve makes the handler that misbehaves out of the one that does the work.
	serve func(s *Server, f *fault, work http.Handler) http.Handler
}

// kinds is the table of everything that can go wrong; later rows wrap earlier ones. A new row needs
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

// answers reports whether there is a substitute answer.
func (m Misbehaviour) answers() bool { return m.Status != 0 || m.JSON != "" || m.Text != "" }

// misbehaving applies the misbehaviour that is switched on to a request.
func (s *Server) misbehaving(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f := s.faults.take(r)
		if f.Reset && f.Delay == 0 && !f.After {
			reset(w, r)
			return
		}
		// The whole request is read before any delay, so that the work is done even if the client
		// hangs up during the delay.
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			writeText(w, http.StatusRequestEntityTooLarge, "the body is too large or broken off")
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

// instead returns a handler that answers in place of the work or, with After, once the work is
// done.
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
		writeText(w, http.StatusServiceUnavailable, "Service Unavailable")
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

// sleep waits. It reports false if the server is closed meanwhile.
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
