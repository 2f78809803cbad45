// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// jsonDuration is a time.Duration that is a string such as "1.5s" in JSON.
type jsonDuration time.Duration

// MarshalJSON implements json.Marshaler.
func (d jsonDuration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

// UnmarshalJSON implements json.Unmarshaler.
func (d *jsonDuration) UnmarshalJSON(text []byte) error {
	var written string
	if json.Unmarshal(text, &written) != nil {
		return errors.New(`a duration must be a string such as "1.5s"`)
	}
	parsed, err := time.ParseDuration(written)
	if err != nil {
		return errors.New(`a duration must be a string such as "1.5s"`)
	}
	*d = jsonDuration(parsed)
	return nil
}

// misbehaviourJSON is the JSON form of a Misbehaviour: its tags, except for members of another
// type.
type (
	taggedMisbehaviour Misbehaviour
	misbehaviourJSON   struct {
		*taggedMisbehaviour
		Delay       jsonDuration    `json:"delay,omitempty"`
		PoolTimeout jsonDuration    `json:"pool_timeout,omitempty"`
		JSON        json.RawMessage `json:"json,omitempty"`
	}
)

// MarshalJSON implements json.Marshaler.
func (m Misbehaviour) MarshalJSON() ([]byte, error) {
	tagged := taggedMisbehaviour(m)
	return json.Marshal(misbehaviourJSON{
		&tagged, jsonDuration(m.Delay), jsonDuration(m.PoolTimeout), json.RawMessage(m.JSON),
	})
}

// UnmarshalJSON implements json.Unmarshaler. It rejects unknown members and combinations that are
// not allowed; its errors are sentences.
func (m *Misbehaviour) UnmarshalJSON(text []byte) error {
	in := misbehaviourJSON{taggedMisbehaviour: &taggedMisbehaviour{}}
	if err := decodeStrictly(text, &in); err != nil {
		return fmt.Errorf("the misbehaviour could not be read: %w", err)
	}
	read := Misbehaviour(*in.taggedMisbehaviour)
	read.Delay, read.PoolTimeout, read.JSON = time.Duration(in.Delay), time.Duration(in.PoolTimeout), string(in.JSON)
	if err := read.check(); err != nil {
		return err
	}
	*m = read
	return nil
}

// decodeStrictly decodes a JSON object and rejects members that the struct does not have.
func decodeStrictly(text []byte, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}

// check returns an error that says what is not allowed.
func (m Misbehaviour) check() error {
	for _, name := range m.On {
		if !slices.Contains(operations, name) {
			return fmt.Errorf(`"on" contains %q, which is none of %s`, name, strings.Join(operations, ", "))
		}
	}
	if m.Times < 0 || m.Delay < 0 || m.PoolTimeout < 0 {
		return errors.New(`"times", "delay" and "pool_timeout" must not be negative`)
	}
	if m.Pool != 0 && m.Pool < 2 {
		return errors.New(`"pool" must be at least 2: each rotation takes two connections`)
	}
	if m.Wire != "" && wires[m.Wire] == nil {
		return fmt.Errorf(`"wire" must be one of %s`, strings.Join(WireNames(), ", "))
	}
	if err := m.checkAnswer(); err != nil {
		return err
	}
	return m.checkKinds()
}

// checkAnswer checks the answer to give instead of the server's own.
func (m Misbehaviour) checkAnswer() error {
	switch {
	case m.Status != 0 && (m.Status < 200 || m.Status > 599):
		return errors.New(`"status" must be from 200 to 599`)
	case m.JSON != "" && m.Text != "":
		return errors.New(`"json" and "text" are two bodies: there can be one`)
	case m.JSON != "" && !json.Valid([]byte(m.JSON)):
		return errors.New(`"json" is not JSON: send it as "text", with a Content-Type in "header"`)
	case m.Header != nil && !m.answers():
		return errors.New(`"header" needs "status", "json" or "text"`)
	case (m.Status == http.StatusNoContent || m.Status == http.StatusNotModified) && m.JSON+m.Text != "":
		return fmt.Errorf(`an answer of status %d has no body`, m.Status)
	default:
		return nil
	}
}

// checkKinds checks that the kinds of misbehaviour go together.
func (m Misbehaviour) checkKinds() error {
	set := m.kindsSet()
	if len(set) > 1 && !slices.Equal(set, []string{"status", "wire"}) {
		return fmt.Errorf(`only one of %s can be set`, strings.Join(set, ", "))
	}
	return nil
}

// kindsSet returns the kinds of misbehaviour that are set, by their JSON members, except keys_down,
// which goes with any.
func (m Misbehaviour) kindsSet() []string {
	var set []string
	for _, k := range kinds {
		if k.isSet(m) && k.member != "keys_down" {
			set = append(set, k.member)
		}
	}
	return set
}

// MisbehaviourKinds returns the JSON members that each are a way to misbehave.
func MisbehaviourKinds() []string {
	var all []string
	for _, k := range kinds {
		all = append(all, k.member)
	}
	return all
}

// fault is a Misbehaviour that is switched on.
type fault struct {
	Misbehaviour
	pool *pool
}

// isFor reports whether the fault applies to requests of an operation. A fault that has Times and
// does nothing lets that many requests through.
func (f *fault) isFor(operation string) bool {
	on := f.On
	if len(on) == 0 {
		on = []string{opGrant, opContinue, opCancel, opRotate, opRevoke}
	}
	if !slices.Contains(on, operation) {
		return false
	}
	misbehaves := f.Delay != 0 || len(f.kindsSet()) > 0
	return misbehaves || (f.Times > 0 && !f.KeysDown)
}

// faults are the faults that are switched on. A request gets the first one that applies.
type faults struct {
	mu  sync.Mutex
	now []*fault
}

func (f *faults) set(list []Misbehaviour) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = nil
	for _, m := range list {
		one := &fault{Misbehaviour: m}
		if m.Pool != 0 {
			one.pool = newPool(m.Pool, m.PoolTimeout)
		}
		f.now = append(f.now, one)
	}
}

func (f *faults) get() []Misbehaviour {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := make([]Misbehaviour, 0, len(f.now))
	for _, one := range f.now {
		list = append(list, one.Misbehaviour)
	}
	return list
}

// take returns the fault for a request and counts it. A fault ends when it has been applied Times
// times.
func (f *faults) take(r *http.Request) *fault {
	operation := Operation(r)
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, one := range f.now {
		keysDown := one.KeysDown && operation == opKeys && r.URL.Path == clientKeysPath
		if !keysDown && !one.isFor(operation) {
			continue
		}
		taken := *one
		taken.KeysDown = false
		if keysDown {
			taken = fault{Misbehaviour: Misbehaviour{KeysDown: true, Delay: one.Delay}}
		}
		if one.Times > 0 {
			if one.Times--; one.Times == 0 {
				f.now = slices.Delete(f.now, i, i+1)
			}
		}
		return &taken
	}
	return &fault{}
}

// Misbehave switches on misbehaviour and replaces what was switched on before; none, or the zero
// value, switches everything off. A request gets the first of the list that applies to it: those
// for the same operation happen one after the other, each Times times, and those for different
// operations at the same time. A Misbehaviour with nothing but Times, and perhaps On, lets that
// many requests through. Misbehave panics on values for which the HTTP endpoint answers 400.
func (s *Server) Misbehave(list ...Misbehaviour) {
	for _, m := range list {
		if err := m.check(); err != nil {
			panic("sandbox: " + err.Error())
		}
	}
	s.faults.set(list)
}

// ParseMisbehaviours parses the body of PUT /misbehave: one Misbehaviour in JSON, or a list of
// them.
func ParseMisbehaviours(text []byte) ([]Misbehaviour, error) {
	if !bytes.HasPrefix(bytes.TrimSpace(text), []byte("[")) {
		var m Misbehaviour
		if err := json.Unmarshal(text, &m); err != nil {
			return nil, err
		}
		return []Misbehaviour{m}, nil
	}
	var list []Misbehaviour
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, err
	}
	return list, nil
}

// answerMisbehaviours writes an object for none or one, and a list for more, so that what was sent
// is what is shown.
func answerMisbehaviours(w http.ResponseWriter, list []Misbehaviour) {
	switch len(list) {
	case 0:
		writeJSON(w, http.StatusOK, Misbehaviour{})
	case 1:
		writeJSON(w, http.StatusOK, list[0])
	default:
		writeJSON(w, http.StatusOK, list)
	}
}

func (s *Server) showMisbehaviour(w http.ResponseWriter, _ *http.Request) error {
	answerMisbehaviours(w, s.faults.get())
	return nil
}

func (s *Server) putMisbehaviour(w http.ResponseWriter, r *http.Request) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return textError(http.StatusBadRequest, "the body could not be read\n")
	}
	list, err := ParseMisbehaviours(body)
	if err != nil {
		return textError(http.StatusBadRequest, err.Error()+"\n")
	}
	s.faults.set(list)
	answerMisbehaviours(w, list)
	return nil
}

func (s *Server) endMisbehaviour(w http.ResponseWriter, _ *http.Request) error {
	s.faults.set(nil)
	w.WriteHeader(http.StatusNoContent)
	return nil
}
