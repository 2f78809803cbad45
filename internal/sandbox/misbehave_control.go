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

// jsonDuration is a duration that JSON has as a string such as "1.5s".
type jsonDuration time.Duration

// MarshalJSON writes what UnmarshalJSON reads.
func (d jsonDuration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

// UnmarshalJSON reads a string of time.ParseDuration.
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

// members of a Misbehaviour that JSON has in another form; the others are as their tags say.
type (
	taggedMisbehaviour Misbehaviour
	misbehaviourJSON   struct {
		*taggedMisbehaviour
		Delay       jsonDuration    `json:"delay,omitempty"`
		PoolTimeout jsonDuration    `json:"pool_timeout,omitempty"`
		JSON        json.RawMessage `json:"json,omitempty"`
	}
)

// MarshalJSON writes what UnmarshalJSON reads.
func (m Misbehaviour) MarshalJSON() ([]byte, error) {
	tagged := taggedMisbehaviour(m)
	return json.Marshal(misbehaviourJSON{
		&tagged, jsonDuration(m.Delay), jsonDuration(m.PoolTimeout), json.RawMessage(m.JSON),
	})
}

// UnmarshalJSON refuses unknown members and what cannot be, with a sentence.
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

// decodeStrictly decodes an object that has no other members than those of a struct.
func decodeStrictly(text []byte, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}

// check says what is wrong, in a sentence.
func (m Misbehaviour) check() error {
	for _, name := range m.On {
		if !slices.Contains(operations, name) {
			return fmt.Errorf(`"on" knows no operation %q, only %s`, name, strings.Join(operations, ", "))
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

// checkAnswer checks the answer that is given instead of the true one.
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

// checkKinds checks that not too much is to be done at once.
func (m Misbehaviour) checkKinds() error {
	var set []string
	for _, k := range kinds {
		if k.isSet(m) && k.member != "keys_down" {
			set = append(set, k.member)
		}
	}
	if len(set) > 1 && !slices.Equal(set, []string{"status", "wire"}) {
		return fmt.Errorf(`only one of %s can be done at once`, strings.Join(set, ", "))
	}
	return nil
}

// fault is a Misbehaviour that is switched on.
type fault struct {
	Misbehaviour
	pool *pool
}

// isFor reports whether a request of an operation is to go wrong. A fault that does nothing wrong, but so many times,
// lets as many requests through.
func (f *fault) isFor(operation string) bool {
	on := f.On
	if len(on) == 0 {
		on = []string{opGrant, opContinue, opCancel, opRotate, opRevoke}
	}
	if !slices.Contains(on, operation) {
		return false
	}
	wrong := f.Delay != 0 || slices.ContainsFunc(kinds, func(k kind) bool { return k.member != "keys_down" && k.isSet(f.Misbehaviour) })
	return wrong || (f.Times > 0 && !f.KeysDown)
}

// faults are those that are switched on. A request gets the first that is for it.
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

// take returns what goes wrong with a request, and counts it: a fault that has been done as often as it should be ends.
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

// Misbehave switches misbehaviour on in place of what was on before, or off with none or the zero value. Of several, a
// request gets the first that applies to it; so those on one operation are done one after the other, each as many times
// as it says, and those on different operations at once. One that has Times and is zero otherwise lets so many requests
// through. It panics if one cannot be, as the HTTP endpoint would answer 400.
func (s *Server) Misbehave(list ...Misbehaviour) {
	for _, m := range list {
		if err := m.check(); err != nil {
			panic("sandbox: " + err.Error())
		}
	}
	s.faults.set(list)
}

// ParseMisbehaviours reads what PUT /misbehave takes: a Misbehaviour in JSON, or a list of them.
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

// answerMisbehaviours answers with an object if there is one or none, as it is put, and else with a list.
func answerMisbehaviours(w http.ResponseWriter, list []Misbehaviour) {
	switch len(list) {
	case 0:
		answer(w, http.StatusOK, Misbehaviour{})
	case 1:
		answer(w, http.StatusOK, list[0])
	default:
		answer(w, http.StatusOK, list)
	}
}

func (s *Server) showMisbehaviour(w http.ResponseWriter, _ *http.Request) error {
	answerMisbehaviours(w, s.faults.get())
	return nil
}

func (s *Server) putMisbehaviour(w http.ResponseWriter, r *http.Request) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return plain(http.StatusBadRequest, "the body could not be read\n")
	}
	list, err := ParseMisbehaviours(body)
	if err != nil {
		return plain(http.StatusBadRequest, err.Error()+"\n")
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
