// SPDX-License-Identifier: MPL-2.0

package authserver

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// MaxDuration is the longest time that is taken for one: what is longer is a mistake.
const MaxDuration = 10 * 365 * 24 * time.Hour

// Outcome is what came of a request for a token: TokenIssued, TokenRejected, ConsentRequired,
// ConsentPending or RequestFailed.
type Outcome interface{ outcome() }

// TokenIssued means that the server has made a new token. Nobody can request this answer again.
type TokenIssued struct {
	Value    string
	Manage   string          // empty: the server named none
	Access   json.RawMessage // nil: the server named none
	Lifetime time.Duration   // 0: not said, or unusable
	SentAt   time.Time       // when the request was sent
	Continue Continuation
}

// ConsentRequired means that the server wants the owner's consent first (OpenAPI
// interact-response).
type ConsentRequired struct {
	Continue Continuation
	Wait     time.Duration // before the continuation may be used
	Redirect string        // what the owner opens
	Finish   string        // the server's part of the hash
}

// ConsentPending means that the owner has not decided yet.
type ConsentPending struct {
	Continue Continuation
	Wait     time.Duration
}

// TokenRejected means that the server no longer knows the token, or could not check who asks.
type TokenRejected struct{ RequestFailed }

// RequestFailed is any other outcome. It says nothing about the token.
type RequestFailed struct {
	Origin     string
	Status     int       // 0: no answer
	Code       ErrorCode // empty: none that the documents have
	HasCode    bool      // the server gave a code, if only one that the documents do not have
	Timeout    bool
	Unreadable bool         // a 2xx that was cut off, or is no JSON: the server may have done what was asked
	Gone       bool         // of Cancel and Revoke: there was nothing left to end
	Redirect   string       // the address that a wallet or a grant endpoint redirects to, if it can be named
	Begun      Continuation // of RequestGrant: where what the server has begun all the same can be cancelled
	Rule       error        // why the request was not sent, if our own rules forbade it

	badSignature bool
}

func (TokenIssued) outcome()     {}
func (ConsentRequired) outcome() {}
func (ConsentPending) outcome()  {}
func (TokenRejected) outcome()   {}
func (RequestFailed) outcome()   {}

// Error names the origin and the status, never the server's own words nor the URL: the text is
// returned to Vault's clients, which match phrases.
func (f RequestFailed) Error() string {
	switch {
	case f.Rule != nil:
		return fmt.Sprintf("%s %s", f.Origin, f.Rule)
	case f.Unreadable:
		return fmt.Sprintf("%s answered %d without what was asked for: its answer could not be read",
			f.Origin, f.Status)
	case f.Status/100 == 2:
		return fmt.Sprintf("%s answered %d without what was asked for", f.Origin, f.Status)
	case f.Redirect != "":
		return fmt.Sprintf("%s answered %d: it redirects to %s; redirects are not followed, so write that address",
			f.Origin, f.Status, f.Redirect)
	case f.IsRedirect():
		return fmt.Sprintf("%s answered %d: it redirects, and redirects are not followed", f.Origin, f.Status)
	case f.Status != 0 && f.Code != "":
		return fmt.Sprintf("%s answered %d (%s)", f.Origin, f.Status, f.Code)
	case f.Status != 0:
		return fmt.Sprintf("%s answered %d", f.Origin, f.Status)
	case f.Timeout:
		return f.Origin + " did not answer in time"
	}
	return f.Origin + " could not be reached"
}

// IsRedirect reports whether the server wants the request to be sent to another URL.
func (f RequestFailed) IsRedirect() bool {
	switch f.Status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther,
		http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	}
	return false
}

// BadSignature reports whether the server says that it could not verify our signature. That is
// never a rejection of the token, whatever the code: the server may hold an older copy of the
// client's key set.
func (f RequestFailed) BadSignature() bool { return f.badSignature }

// UnknownClient reports whether the server may have been unable to find our key (OpenAPI
// error-invalid-client with 400). It has not looked at the token then.
func (f RequestFailed) UnknownClient() bool {
	return f.Status == http.StatusBadRequest && f.Code == InvalidClient
}

// MaybeHeard reports whether the server may have done what was asked, although its answer does not
// say so.
func (f RequestFailed) MaybeHeard() bool {
	return f.Status == 0 && f.Rule == nil || f.Status >= http.StatusInternalServerError || f.Status/100 == 2
}

// outcome reads an answer to a request for a token. It is lenient: what holds a token is stored
// first and judged later, even if the answer was cut off after it.
//
// former is the continuation that the request was sent to. What a new one lacks stays as it was.
func (x *exchange) outcome(former Continuation) Outcome {
	if x.status/100 != 2 {
		f := x.failure()
		if rejects(f) {
			return TokenRejected{f}
		}
		return f
	}
	answer := membersOf(x.body.text)
	next, wait := readContinuation(answer["continue"])
	next = next.completed(former)
	if token, ok := readToken(answer["access_token"]); ok {
		token.SentAt, token.Continue = x.sentAt, next
		return token
	}
	consent := ConsentRequired{Continue: next, Wait: wait}
	if isObject(answer["interact"]) {
		interact := membersOf(answer["interact"])
		consent.Redirect, consent.Finish = stringOf(interact["redirect"]), stringOf(interact["finish"])
	}
	switch {
	case !x.body.json && (next == Continuation{} || isObject(answer["interact"]) && consent.Finish == ""):
		return x.failure() // a part of what was asked for
	case isObject(answer["interact"]):
		return consent
	case isObject(answer["continue"]):
		return ConsentPending{next, wait}
	}
	return x.failure()
}

// readToken reads the access_token of an answer: an object, a list of objects of which the first
// with a value counts (RFC 9635 section 3.2.2), or the bare value. ok reports whether there is a
// value.
func readToken(raw json.RawMessage) (t TokenIssued, ok bool) {
	if value := stringOf(raw); value != "" {
		return TokenIssued{Value: value}, true
	}
	for _, element := range elementsOf(raw) {
		if t, ok := readToken(element); ok {
			return t, true
		}
	}
	token := membersOf(raw)
	t = TokenIssued{
		Value:    stringOf(token["value"]),
		Manage:   stringOf(token["manage"]),
		Access:   listOf(token["access"]),
		Lifetime: secondsOf(token["expires_in"]),
	}
	if t.Manage == "" { // RFC 9635 section 3.2.1
		t.Manage = stringOf(membersOf(token["manage"])["uri"])
	}
	return t, t.Value != ""
}

// readContinuation reads the continue of an answer (RFC 9635 section 3.1).
func readContinuation(raw json.RawMessage) (Continuation, time.Duration) {
	next := membersOf(raw)
	token, _ := readToken(next["access_token"])
	return Continuation{URL: stringOf(next["uri"]), Token: token.Value}, secondsOf(next["wait"])
}
