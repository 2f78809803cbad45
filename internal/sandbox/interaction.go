// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"time"
)

// interactionLifetime is how long an owner has for a decision.
const interactionLifetime = 10 * time.Minute

// finish is how a client wants to be called back (interact.finish of the OpenAPI document): not at all if zero.
type finish struct {
	uri   string
	nonce string
}

// outcome is what has become of an interaction.
type outcome int

const (
	outcomeUndecided outcome = iota
	outcomeAccepted
	outcomeDeclined
	outcomeExpired
	outcomeCancelled // its grant was, after the owner had opened the page
	outcomeUnopened  // its grant was cancelled before
)

// interaction is the question to an owner whether a client may have a grant.
type interaction struct {
	grant      *grant
	id         string
	nonce      string // which the client knows as interact.finish
	reference  string // interact_ref, which only a redirect tells the client
	clientName string
	finish     finish
	expires    time.Time
	opened     bool    // the owner has seen the page
	decision   outcome // undecided, accepted or declined
}

// path is where the interaction's page is, below the origin.
func (i *interaction) path() string { return authPath + "/interact/" + i.id + "/" + i.nonce }

// addInteractive keeps a new grant with its interaction.
func (s *store) addInteractive(g *grant, i *interaction) {
	i.grant, i.id, i.nonce, i.reference = g, newID(), newSecret(), newSecret()
	g.interaction = i
	s.add(g)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.interactions[i.id] = i
}

// byInteraction finds an interaction by the last two parts of its path: both must fit. Those of cancelled grants are
// found too, so that the owner can be told.
func (s *store) byInteraction(id, nonce string) (*interaction, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, ok := s.interactions[id]
	return i, ok && i.nonce == nonce
}

// open is the owner's look at the page.
func (s *store) open(i *interaction, now time.Time) outcome {
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

// decide is the owner's answer. Only the first one counts, and only in time. The grant knows nothing of it until the
// owner's browser has come to finish.
func (s *store) decide(i *interaction, decision outcome, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.outcomeLocked(i, now) == outcomeUndecided {
		i.decision = decision
	}
}

// finish is the end of an interaction: the owner's decision becomes that of the grant. Coming here again approves a grant
// again whose token was issued: so it is at Rafiki.
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

// continueWith continues a grant with an interaction reference. One that comes too fast is not used up.
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

// finishLocation is where the owner is sent when an interaction has ended: the client's URI with what has become of the
// interaction in its query. It is empty if the client does not want to be called back.
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

// interactionHash proves to a client that the redirect belongs to the grant that it has asked for (RFC 9635 section
// 4.2.3). The RFC has it in base64url without padding; Rafiki in standard base64 with padding.
func interactionHash(clientNonce, serverNonce, reference, grantEndpoint string) string {
	sum := sha256.Sum256([]byte(strings.Join([]string{clientNonce, serverNonce, reference, grantEndpoint}, "\n")))
	return base64.StdEncoding.EncodeToString(sum[:])
}
