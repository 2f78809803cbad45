// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"time"
)

// interactionLifetime is how long an owner has to decide.
const interactionLifetime = 10 * time.Minute

// finish is how a client wants to be called back (interact.finish in the OpenAPI document); the
// zero value means not at all.
type finish struct {
	uri   string
	nonce string
}

// outcome is the state of an interaction.
type outcome int

const (
	outcomeUndecided outcome = iota
	outcomeAccepted
	outcomeDeclined
	outcomeExpired
	outcomeCancelled // its grant was cancelled after the owner opened the page
	outcomeUnopened  // its grant was cancelled before the owner opened the page
)

// interaction is the question to an owner whether to grant what a client asks for.
type interaction struct {
	grant      *grant
	id         string
	nonce      string // the client knows it as interact.finish
	reference  string // interact_ref, which only a redirect tells the client
	clientName string
	finish     finish
	expires    time.Time
	opened     bool    // the owner opened the page
	decision   outcome // undecided, accepted or declined
}

// path returns the path of the interaction's page.
func (i *interaction) path() string { return authPath + "/interact/" + i.id + "/" + i.nonce }

// addInteractive stores a new grant with its interaction.
func (s *store) addInteractive(g *grant, i *interaction) {
	i.grant, i.id, i.nonce, i.reference = g, newID(), newSecret(), newSecret()
	g.interaction = i
	s.add(g)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.interactions[i.id] = i
}

// byInteraction finds an interaction by the last two segments of its path, both of which must
// match. It also finds interactions of cancelled grants, so that the owner gets an explanation.
func (s *store) byInteraction(id, nonce string) (*interaction, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, ok := s.interactions[id]
	return i, ok && i.nonce == nonce
}

// openPage records that the owner opened the page.
func (s *store) openPage(i *interaction, now time.Time) outcome {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.outcomeLocked(i, now)
	i.opened = i.opened || o == outcomeUndecided
	return o
}

func (s *store) outcomeLocked(i *interaction, now time.Time) outcome {
	switch {
	case s.grants[i.grant.continueID] != i.grant && !i.opened:
		return outcomeUnopened
	case s.grants[i.grant.continueID] != i.grant:
		return outcomeCancelled
	case !now.Before(i.expires):
		return outcomeExpired
	default:
		return i.decision
	}
}

// decide records the owner's decision. Only the first decision counts, and only in time. The grant
// does not change until the owner's browser reaches the finish page.
func (s *store) decide(i *interaction, decision outcome, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.outcomeLocked(i, now) == outcomeUndecided {
		i.decision = decision
	}
}

// finish ends an interaction: the grant takes over the owner's decision. As at Rafiki, loading the
// finish page again approves the grant again even if its token was issued.
func (s *store) finish(i *interaction, now time.Time) outcome {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.outcomeLocked(i, now)
	switch o {
	case outcomeAccepted:
		i.grant.state = stateApproved
	case outcomeDeclined:
		i.grant.state = stateRejected
	}
	return o
}

// continueWith continues a grant with an interaction reference. A reference that is sent too early
// is not used up.
func (s *store) continueWith(g *grant, reference string, now time.Time, wait, lifetime time.Duration) (*token, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.grants[g.continueID] != g:
		return nil, errGrantGone
	case g.interaction == nil || g.interaction.reference != reference:
		return nil, errNoInteraction
	case now.Before(g.continued.Add(wait)):
		return nil, errTooFast
	case g.state != stateApproved:
		return nil, errDone
	default:
		g.state = stateIssued
		return s.issueLocked(g, now.Add(lifetime)), nil
	}
}

// finishLocation returns where to redirect the owner when an interaction has ended: the client's
// finish URI with the outcome in its query. It returns an empty string if the client gave no finish
// URI.
func (i *interaction) finishLocation(o outcome, grantEndpoint string) string {
	if i.finish.uri == "" {
		return ""
	}
	failed := func(result, message string) string {
		return setQuery(i.finish.uri, parameter{"result", result}, parameter{"message", message})
	}
	switch o {
	case outcomeAccepted:
		hash := interactionHash(i.finish.nonce, i.nonce, i.reference, grantEndpoint)
		return setQuery(i.finish.uri, parameter{"hash", hash}, parameter{"interact_ref", i.reference})
	case outcomeDeclined:
		return setQuery(i.finish.uri, parameter{"result", "grant_rejected"})
	case outcomeExpired:
		return failed("invalid_interaction", "the interaction has expired")
	case outcomeUnopened:
		return failed("invalid_interaction", "the grant was cancelled")
	case outcomeCancelled:
		return failed("unknown_interaction", "there is no such interaction")
	default:
		return failed("grant_invalid", "the owner has not decided")
	}
}

// interactionHash returns the hash that proves to a client that the redirect belongs to the grant
// that it asked for (RFC 9635 section 4.2.3). The RFC encodes it in base64url without padding,
// Rafiki in standard base64 with padding.
func interactionHash(clientNonce, serverNonce, reference, grantEndpoint string) string {
	sum := sha256.Sum256([]byte(strings.Join([]string{clientNonce, serverNonce, reference, grantEndpoint}, "\n")))
	return base64.StdEncoding.EncodeToString(sum[:])
}
