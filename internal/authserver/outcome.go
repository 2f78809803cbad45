// SPDX-License-Identifier: MPL-2.0

package authserver

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
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
	Origin  string
	Status  int       // 0: no answer
	Code    ErrorCode // empty: none that the documents have
	Timeout bool
	Rule    error // why the request was not sent, if our own rules forbade it
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
	case f.Status/100 == 2:
		return fmt.Sprintf("%s answered %d without what was asked for", f.Origin, f.Status)
	case f.Status != 0 && f.Code != "":
		return fmt.Sprintf("%s answered %d (%s)", f.Origin, f.Status, f.Code)
	case f.Status != 0:
		return fmt.Sprintf("%s answered %d", f.Origin, f.Status)
	case f.Timeout:
		return f.Origin + " did not answer in time"
	}
	return f.Origin + " could not be reached"
}

// Gone reports whether the server has nothing left to cancel or revoke.
func (f RequestFailed) Gone() bool {
	return f.Status == http.StatusUnauthorized || f.Status == http.StatusNotFound
}

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
// first and judged later.
func (x *exchange) outcome() Outcome {
	var answer struct {
		AccessToken json.RawMessage            `json:"access_token"`
		Interact    map[string]json.RawMessage `json:"interact"`
		Continue    json.RawMessage            `json:"continue"`
	}
	if x.status/100 != 2 {
		f := x.failure()
		if rejects(f) {
			return TokenRejected{f}
		}
		return f
	}
	_ = json.Unmarshal(x.body, &answer) // member by member, as far as it goes
	next, wait := readContinuation(answer.Continue)
	if token, ok := readToken(answer.AccessToken); ok {
		token.SentAt, token.Continue = x.sentAt, next
		return token
	}
	if answer.Interact != nil {
		out := ConsentRequired{Continue: next, Wait: wait}
		_ = json.Unmarshal(answer.Interact["redirect"], &out.Redirect)
		_ = json.Unmarshal(answer.Interact["finish"], &out.Finish)
		return out
	}
	if next.URL != "" {
		return ConsentPending{next, wait}
	}
	return x.failure()
}

// readToken reads the access_token of an answer, member by member: a member of the wrong kind
// counts as absent. ok reports whether there is a value.
func readToken(raw json.RawMessage) (t TokenIssued, ok bool) {
	var members map[string]json.RawMessage
	if json.Unmarshal(raw, &members) != nil {
		return t, false
	}
	_ = json.Unmarshal(members["value"], &t.Value)
	_ = json.Unmarshal(members["manage"], &t.Manage)
	var rights []json.RawMessage
	if json.Unmarshal(members["access"], &rights) == nil && rights != nil {
		t.Access = members["access"]
	}
	t.Lifetime = readLifetime(members["expires_in"])
	return t, t.Value != ""
}

// readLifetime reads expires_in, a number of seconds or a string that holds one. It returns 0 for
// what is unusable: none, zero, negative, or more than ten years.
func readLifetime(raw json.RawMessage) time.Duration {
	number := strings.Trim(string(raw), `" `)
	seconds, err := strconv.ParseFloat(number, 64)
	if err != nil || !(seconds > 0) || seconds > MaxDuration.Seconds() {
		return 0
	}
	return time.Duration(math.Floor(seconds * float64(time.Second)))
}

func readContinuation(raw json.RawMessage) (Continuation, time.Duration) {
	var c struct {
		URI         string `json:"uri"`
		AccessToken struct {
			Value string `json:"value"`
		} `json:"access_token"`
		Wait json.RawMessage `json:"wait"`
	}
	if json.Unmarshal(raw, &c) != nil {
		return Continuation{}, 0
	}
	return Continuation{URL: c.URI, Token: c.AccessToken.Value}, readLifetime(c.Wait)
}
