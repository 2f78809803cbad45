// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"crypto/sha256"
	"encoding/base64"
	"net/url"
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
	outcomeCancelled // its grant was
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

func (s *store) outcome(i *interaction, now time.Time) outcome {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.outcomeLocked(i, now)
}

func (s *store) outcomeLocked(i *interaction, now time.Time) outcome {
	switch {
	case s.grants[i.grant.continueID] != i.grant:
		return outcomeCancelled
	case i.decision == outcomeUndecided && !now.Before(i.expires):
		return outcomeExpired
	default:
		return i.decision
	}
}

// decide is the owner's answer. Only the first one counts, and only in time.
func (s *store) decide(i *interaction, accept bool, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.outcomeLocked(i, now) != outcomeUndecided:
	case accept:
		i.decision, i.grant.state = outcomeAccepted, stateApproved
	default:
		i.decision, i.grant.state = outcomeDeclined, stateRejected
	}
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

// finishLocation is where the owner is sent when an interaction has ended: the client's URI with its own query, as it is
// written, and what has become of the interaction. It is empty if the client does not want to be called back.
func (i *interaction) finishLocation(o outcome, grantEndpoint string) string {
	if i.finish.uri == "" {
		return ""
	}
	switch o {
	case outcomeAccepted:
		hash := interactionHash(i.finish.nonce, i.nonce, i.reference, grantEndpoint)
		return appendQuery(i.finish.uri, parameter{"hash", hash}, parameter{"interact_ref", i.reference})
	case outcomeDeclined:
		return appendQuery(i.finish.uri, parameter{"result", "grant_rejected"})
	case outcomeExpired:
		return appendQuery(i.finish.uri, parameter{"result", "invalid_interaction"},
			parameter{"message", "the interaction has expired"})
	case outcomeCancelled:
		return appendQuery(i.finish.uri, parameter{"result", "unknown_interaction"})
	default:
		return appendQuery(i.finish.uri, parameter{"result", "grant_invalid"})
	}
}

// interactionHash proves to a client that the redirect belongs to the grant that it has asked for (RFC 9635 section
// 4.2.3). The RFC has it in base64url without padding; Rafiki in standard base64 with padding.
func interactionHash(clientNonce, serverNonce, reference, grantEndpoint string) string {
	sum := sha256.Sum256([]byte(strings.Join([]string{clientNonce, serverNonce, reference, grantEndpoint}, "\n")))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// parameter is a name and a value of a query.
type parameter struct{ name, value string }

// appendQuery adds parameters behind what a URI's query has, even if that has the same names.
func appendQuery(uri string, added ...parameter) string {
	u, err := url.Parse(uri)
	if err != nil {
		return uri // it was parsed when the grant was asked for
	}
	var query strings.Builder
	query.WriteString(u.RawQuery)
	for _, p := range added {
		if query.Len() > 0 {
			query.WriteByte('&')
		}
		query.WriteString(url.QueryEscape(p.name) + "=" + url.QueryEscape(p.value))
	}
	u.RawQuery = query.String()
	return u.String()
}
