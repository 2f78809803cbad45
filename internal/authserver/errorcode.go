// SPDX-License-Identifier: MPL-2.0

package authserver

import (
	"net/http"
	"slices"
	"strings"
)

// ErrorCode is an error code of the authorization server's OpenAPI document. No other is ever taken
// from an answer: anything else is the server's own words.
type ErrorCode string

// The codes of the OpenAPI document and of RFC 9635 section 3.6 that servers use.
const (
	InvalidClient       ErrorCode = "invalid_client"
	InvalidContinuation ErrorCode = "invalid_continuation"
	InvalidRequest      ErrorCode = "invalid_request"
	InvalidRotation     ErrorCode = "invalid_rotation"
	RequestDenied       ErrorCode = "request_denied"
	TooFast             ErrorCode = "too_fast"
	UnknownInteraction  ErrorCode = "unknown_interaction"
	UserDenied          ErrorCode = "user_denied"
)

// knownCodes is the one table of error codes: what each means for a token that is being rotated,
// for an interaction that is being continued, and for what is being ended.
var knownCodes = map[ErrorCode]struct {
	rejectsToken    []int // the statuses with which it says that the token is dead
	refusesRotation bool  // it says that a rotation has failed, and nothing about the token
	settles         bool  // it says something about the interaction, so there is no point in asking again
	grantGone       []int // the statuses with which it says that there is no grant to cancel
	tokenGone       []int // the statuses with which it says that there is no token to revoke
}{
	InvalidClient: {
		rejectsToken: []int{http.StatusUnauthorized},
		tokenGone:    []int{http.StatusUnauthorized, http.StatusNotFound, http.StatusGone},
	},
	InvalidContinuation: {
		settles: true,
		grantGone: []int{
			http.StatusBadRequest, http.StatusUnauthorized, http.StatusNotFound, http.StatusGone,
		},
	},
	InvalidRequest:     {settles: true, grantGone: []int{http.StatusNotFound}},
	InvalidRotation:    {refusesRotation: true},
	RequestDenied:      {settles: true},
	TooFast:            {settles: true},
	UnknownInteraction: {settles: true},
	UserDenied:         {settles: true},
}

// rejects reports whether an answer to a rotation says that the token is dead.
func rejects(f RequestFailed) bool {
	return slices.Contains(knownCodes[f.Code].rejectsToken, f.Status) && !f.badSignature
}

// grantGone reports whether an answer to a cancellation says that there is no such grant. A proxy's
// or an ingress's answer has no code of the document's and says nothing. 410 needs none: it says
// that what was here is gone for good (RFC 9110 section 15.5.11).
func grantGone(f RequestFailed) bool {
	return f.Status == http.StatusGone || slices.Contains(knownCodes[f.Code].grantGone, f.Status) && !f.badSignature
}

// tokenGone is grantGone for the revocation of a token. A 400 invalid_client is not in the table:
// the server could not tell who asks.
func tokenGone(f RequestFailed) bool {
	return f.Status == http.StatusGone || slices.Contains(knownCodes[f.Code].tokenGone, f.Status) && !f.badSignature
}

// RotationRefused reports whether the server says that a rotation has failed (invalid_rotation).
// That says nothing about the token: Rafiki answers so for every error of its database.
func (f RequestFailed) RotationRefused() bool {
	return knownCodes[f.Code].refusesRotation && f.Status/100 == 4
}

// Settles reports whether an answer to a continuation says something about the interaction, so that
// there is no point in asking again.
func (f RequestFailed) Settles() bool {
	return knownCodes[f.Code].settles && f.Status/100 == 4
}

// errorAnswer is what the body of an error answer says.
type errorAnswer struct {
	code        string
	description string // never copied: it is the server's own words
}

// readErrorAnswer reads an error answer (OpenAPI error, RFC 9635 section 3.6): an object with code
// and description, or the plain code.
func readErrorAnswer(body []byte) errorAnswer {
	answer := membersOf(body)
	if code := stringOf(answer["error"]); code != "" {
		return errorAnswer{code, stringOf(answer["error_description"])}
	}
	nested := membersOf(answer["error"])
	return errorAnswer{stringOf(nested["code"]), stringOf(nested["description"])}
}

// known returns the code if it is one of the table's.
func (e errorAnswer) known() ErrorCode {
	if _, known := knownCodes[ErrorCode(e.code)]; known {
		return ErrorCode(e.code)
	}
	return ""
}

// aboutSignature reports whether the server found fault with the signature. Rafiki has one code for
// that and for a dead token, and only the description tells them apart.
func (e errorAnswer) aboutSignature() bool {
	return strings.Contains(strings.ToLower(e.description), "signature")
}
