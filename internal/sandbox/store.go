// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/go-uuid"
)

// forgetAfter is how long after it expired a token can still be rotated. Then Rafiki deletes it.
const forgetAfter = 30 * 24 * time.Hour

// grantState is the state of a grant. Cancelled grants are not kept.
type grantState int

const (
	statePending  grantState = iota // the owner has not decided
	stateApproved                   // the continue URI returns a token
	stateIssued                     // the continue URI has returned a token
	stateRejected                   // the owner declined
)

// grant is what a client was granted.
type grant struct {
	client        client
	access        []json.RawMessage
	interaction   *interaction // nil if the grant needs no consent
	state         grantState
	hasFinish     bool // the client wants to be called back, and so cannot poll
	continueID    string
	continueToken string
	continued     time.Time // when the last wait began
}

// token is one access token of a grant. Tokens that were rotated, revoked or cancelled are not
// kept; expired ones are.
type token struct {
	grant    *grant
	value    string
	manageID string
	expires  time.Time
}

// store holds grants and tokens. One lock for all makes each change atomic, as a database
// transaction does.
type store struct {
	mu           sync.Mutex
	grants       map[string]*grant       // by continue id
	interactions map[string]*interaction // by id
	byManage     map[string]*token
	byValue      map[string]*token
}

func newStore() store {
	return store{
		grants: map[string]*grant{}, interactions: map[string]*interaction{},
		byManage: map[string]*token{}, byValue: map[string]*token{},
	}
}

// newSecret returns a value of 130 random bits.
func newSecret() string { return rand.Text() }

func newID() string {
	id, err := uuid.GenerateUUID()
	if err != nil {
		panic(err) // crypto/rand does not fail
	}
	return id
}

// add stores a new grant.
func (s *store) add(g *grant) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g.continueID, g.continueToken = newID(), newSecret()
	s.grants[g.continueID] = g
}

// byContinuation finds a grant by its continue id and continue token, both of which must match.
func (s *store) byContinuation(id, continueToken string) (*grant, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, ok := s.grants[id]
	return g, ok && g.continueToken == continueToken
}

// continuation returns the continue id and continue token of a grant.
func (s *store) continuation(g *grant) (id, continueToken string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return g.continueID, g.continueToken
}

// renewContinuation replaces the continue id and continue token, unless the grant was cancelled.
func (s *store) renewContinuation(g *grant) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.grants[g.continueID] != g {
		return
	}
	delete(s.grants, g.continueID)
	g.continueID, g.continueToken = newID(), newSecret()
	s.grants[g.continueID] = g
}

// issue adds a token to a grant.
func (s *store) issue(g *grant, expires time.Time) *token {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.issueLocked(g, expires)
}

func (s *store) issueLocked(g *grant, expires time.Time) *token {
	t := &token{grant: g, value: newSecret(), manageID: newID(), expires: expires}
	s.byManage[t.manageID], s.byValue[t.value] = t, t
	return t
}

func (s *store) dropLocked(t *token) {
	delete(s.byManage, t.manageID)
	delete(s.byValue, t.value)
}

// byManageID finds a token that can be rotated or revoked, whether live or expired.
func (s *store) byManageID(id string, now time.Time) (*token, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.byManage[id]
	if ok && now.After(t.expires.Add(forgetAfter)) {
		s.dropLocked(t)
		return nil, false
	}
	return t, ok
}

// rotate replaces a token. It reports false if another request was faster.
func (s *store) rotate(old *token, expires time.Time) (*token, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byManage[old.manageID] != old {
		return nil, false
	}
	s.dropLocked(old)
	return s.issueLocked(old.grant, expires), true
}

// revoke ends a token. As at Rafiki, if a rotation was faster, the token that replaced this one
// stays live.
func (s *store) revoke(t *token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropLocked(t)
}

// cancel ends a grant with all its tokens. It reports false if the grant was already cancelled.
func (s *store) cancel(g *grant) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.grants[g.continueID] != g {
		return false
	}
	delete(s.grants, g.continueID)
	for _, t := range s.byManage {
		if t.grant == g {
			s.dropLocked(t)
		}
	}
	return true
}

// The ways in which a continuation can fail.
var (
	errGrantGone     = errors.New("the grant was cancelled")
	errNoInteraction = errors.New("the interaction reference is not that of the grant")
	errTooFast       = errors.New("the wait is not over")
	errHasFinish     = errors.New("the grant has a finish method")
	errDone          = errors.New("the owner has declined, or the grant's token was issued")
)

// poll continues a grant without an interaction reference. It returns a token, or nil while the
// owner has not decided.
func (s *store) poll(g *grant, now time.Time, wait, lifetime time.Duration) (*token, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.grants[g.continueID] != g:
		return nil, errGrantGone
	case now.Before(g.continued.Add(wait)):
		return nil, errTooFast
	case g.hasFinish:
		return nil, errHasFinish
	case g.state == statePending:
		g.continued = now
		return nil, nil
	case g.state == stateApproved:
		g.state = stateIssued
		return s.issueLocked(g, now.Add(lifetime)), nil
	default:
		return nil, errDone
	}
}

// introspect finds a token by its value and reports whether the token is live.
func (s *store) introspect(value string, now time.Time) (*token, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.byValue[value]
	return t, ok && now.Before(t.expires)
}

func (s *store) liveTokens(now time.Time) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	live := 0
	for _, t := range s.byValue {
		if now.Before(t.expires) {
			live++
		}
	}
	return live
}

// openGrants returns the continue ids of the grants that are not over.
func (s *store) openGrants(now time.Time) (ids []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rotatable := map[*grant]bool{}
	for _, t := range s.byManage {
		rotatable[t.grant] = rotatable[t.grant] || !now.After(t.expires.Add(forgetAfter))
	}
	for id, g := range s.grants {
		if rotatable[g] || s.consentableLocked(g, now) {
			ids = append(ids, id)
		}
	}
	return ids
}

// consentableLocked reports whether a grant's owner can still consent, or has consented and the grant's
// token was not issued yet.
func (s *store) consentableLocked(g *grant, now time.Time) bool {
	if g.interaction == nil {
		return false
	}
	outcome := s.outcomeLocked(g.interaction, now)
	return g.state == stateApproved ||
		g.state == statePending && (outcome == outcomeUndecided || outcome == outcomeAccepted)
}
