// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"strings"
	"time"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/authserver"
)

// What is known of an owner who is being asked, and what came back from the owner's browser. All of
// it is pure; continuation.go acts on it.

// pendingTTL is how long an owner may take to decide. It limits how long anybody is waited for, not
// what a consent is worth.
const pendingTTL = 10 * time.Minute

// pending is a grant that its owner is being asked for. Until the owner has consented, the grant
// that is stored alongside it, if there is one, stays in use.
type pending struct {
	Source      source                  `json:"source"`
	Continue    authserver.Continuation `json:"continue"`
	InteractURL string                  `json:"interact_url"`
	ClientNonce string                  `json:"client_nonce"`
	ServerNonce string                  `json:"server_nonce"`         // interact.finish
	FinishURI   string                  `json:"finish_uri,omitempty"` // empty: the server is polled
	Since       time.Time               `json:"since"`
	NotBefore   time.Time               `json:"not_before"` // the server asked for a pause
	Wait        time.Duration           `json:"wait"`       // how long the pause was to be

	// Ref is the interaction reference, a secret, from the moment its hash was verified until the
	// server has answered: the owner has consented, and cannot be asked to do it again.
	Ref        string    `json:"ref,omitempty"`
	AnswerLost bool      `json:"answer_lost,omitempty"` // a continuation may have been done, and its answer was lost
	Tries      uint      `json:"tries,omitempty"`       // of the worker
	TryAt      time.Time `json:"try_at"`                // before that the worker leaves it alone
}

// ending returns what it takes to cancel what the owner is being asked for.
func (p *pending) ending() ending {
	return ending{AuthOrigin: p.Source.AuthOrigin, OperatorHosts: p.Source.OperatorHosts, Continue: p.Continue}
}

// until returns when the owner's time is over. A consent that comes later counts all the same.
func (p *pending) until() time.Time { return p.Since.Add(pendingTTL) }

// notBefore returns when the server may be asked: at once if the clock was set back, because the pause
// was never to be so long.
func (p *pending) notBefore(now time.Time) time.Time {
	if p.NotBefore.Sub(now) > p.Wait {
		return now
	}
	return p.NotBefore
}

// next returns what there is to do for a consent.
func (p *pending) next() string {
	switch {
	case p.Ref != "":
		return "the owner has decided, and the authorization server has not answered yet: it is asked again in the " +
			"background; a write to continue, without fields, asks it now"
	case p.FinishURI == "":
		return "the owner opens interact_url and decides; then poll with a write to continue, without fields"
	}
	return "the owner opens interact_url and decides; then write the URL that the browser was sent to, as " +
		"redirect, to continue"
}

const (
	// endUndecidedAfter is how long after the owner's time the worker ends an interaction.
	endUndecidedAfter = time.Hour
	// maxTryAfter is more than any back-off of the worker's.
	maxTryAfter = 2 * keepaliveRetryMax
)

// interactionDue returns when the worker brings an interaction to an end: it sends the reference if
// there is one, and otherwise takes the owner for undecided. A time that a clock has left which was
// set back counts as now.
func interactionDue(g *grant, now time.Time) time.Time {
	p := g.Pending
	if p == nil {
		return time.Time{}
	}
	due := p.until().Add(endUndecidedAfter)
	if p.Ref != "" {
		due = p.Since
	}
	for _, at := range []time.Time{p.notBefore(now), p.TryAt} {
		if at.After(due) {
			due = at
		}
	}
	if p.Ref != "" && due.Sub(now) > max(maxTryAfter, p.NotBefore.Sub(p.Since)) {
		return now
	}
	return due
}

// postpone has the worker leave the interaction alone while somebody else is at it.
func (p *pending) postpone(until time.Time) {
	if until.After(p.TryAt) {
		p.TryAt = until
	}
}

// adoptReference moves a reference to where this version keeps it: version 0.1.0 had it in the
// intent, and wrote that before it sent the reference.
func (g *grant) adoptReference() {
	if g.Intent == nil || g.Pending == nil || g.Intent.Ref == "" {
		return
	}
	if g.Pending.Ref == "" {
		g.Pending.Ref, g.Pending.AnswerLost = g.Intent.Ref, true
	}
	g.Intent.Ref = ""
}

// reply is what is handed in after the owner's decision: the reference and its hash, or the URL
// that the browser was sent to. The zero value sends the reference that is kept, or polls.
type reply struct{ ref, hash, redirect string }

// check returns an error if the parts of a reply do not go together.
func (r reply) check() error {
	switch {
	case r.redirect != "" && (r.ref != "" || r.hash != ""):
		return userErrorf("redirect: holds interact_ref and hash; give it alone")
	case (r.ref == "") != (r.hash == ""):
		return userErrorf(
			"hash: goes together with interact_ref; both are in the URL that the owner's browser was sent to",
		)
	}
	return nil
}

// reading is what a reply says, as far as it proves where it comes from. The zero value says
// nothing: the server is polled.
type reading struct {
	ref      string // genuine: its hash was verified
	declined bool   // by the owner
	hint     string // what next says instead, because anybody could have made it up
}

// read returns what a reply says about this interaction, or why it cannot belong to it.
func (p *pending) read(r reply) (reading, error) {
	switch {
	case r.redirect != "":
		return p.readRedirect(r.redirect)
	case r.ref != "" && p.FinishURI == "":
		return reading{}, userErrorf(
			"interact_ref: this grant was asked for without a finish_uri; write without fields to poll the server",
		)
	case r.ref != "" && !p.hashMatches(r.ref, r.hash):
		return reading{}, errWrongHash
	case r.ref != "":
		return reading{ref: r.ref}, nil
	case p.Ref == "" && p.FinishURI != "":
		return reading{}, userErrorf(
			"interact_ref: is needed, with hash (or redirect): this grant was asked for with a finish_uri, and " +
				"such grants cannot be polled",
		)
	}
	return reading{ref: p.Ref}, nil
}

var errWrongHash = userErrorf(
	"hash: does not belong to this reference and this grant; nothing was sent to the server",
)

func (p *pending) readRedirect(redirect string) (reading, error) {
	if p.FinishURI == "" {
		return reading{}, userErrorf(
			"redirect: this grant was asked for without a finish_uri; write without fields to poll the server",
		)
	}
	at, err := parseLanding(redirect)
	if err != nil {
		return reading{}, userErrorf("redirect: must be the whole URL that the owner's browser was sent to")
	}
	finish, err := parseLanding(p.FinishURI)
	if err != nil || !at.isAt(finish) {
		return reading{}, userErrorf("redirect: is not the finish_uri that this grant was asked for with, with all " +
			"of its parameters; nothing was changed")
	}
	ref, hash, result := at.last(paramRef), at.last(paramHash), at.last(paramResult)
	switch {
	case ref != "" && hash != "" && p.hashMatches(ref, hash):
		return reading{ref: ref}, nil
	case result == grantRejected && finish.hasState() && finish.last(paramResult) != result && p.Ref == "":
		return reading{declined: true}, nil
	case result != "":
		return reading{hint: hintOf(result)}, nil
	case ref != "" && hash != "":
		return reading{}, errWrongHash
	}
	return reading{}, userErrorf("redirect: has neither interact_ref and hash nor a result in it")
}

// grantRejected is the result in a redirect of an owner who has declined, at Rafiki.
const grantRejected = "grant_rejected"

// results are what the other results mean. The words of a redirect are never copied.
var results = map[string]string{
	grantRejected:         "the owner declined",
	"invalid_interaction": "the interaction has expired or was cancelled",
	"unknown_interaction": "the interaction has expired or was cancelled",
	"grant_invalid":       "the owner has not decided",
}

func hintOf(result string) string {
	says, known := results[result]
	if !known {
		says = "there is no consent"
	}
	return "the redirect says that " + says + ", which is no proof, because anybody may write such a URL: nothing " +
		"was ended, and a redirect with interact_ref and hash still counts; to give up, write access again or " +
		"delete the grant"
}

// hashMatches reports whether the hash proves that a reference comes from the authorization server
// and belongs to this interaction (RFC 9635 section 4.2.3). Rafiki encodes it in standard base64,
// the RFC in base64url.
func (p *pending) hashMatches(ref, hash string) bool {
	base := strings.Join(
		[]string{p.ClientNonce, p.ServerNonce, ref, strings.TrimSuffix(p.Source.AuthServer, "/")},
		"\n",
	)
	want := sha256.Sum256([]byte(base))
	// A "+" that came through a query is a space.
	encoded := strings.NewReplacer(" ", "+", "-", "+", "_", "/").Replace(strings.TrimRight(hash, "="))
	got, err := base64.RawStdEncoding.DecodeString(encoded)
	return err == nil && subtle.ConstantTimeCompare(got, want[:]) == 1
}
