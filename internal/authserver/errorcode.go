// SPDX-License-Identifier: MPL-2.0

package authserver

import (
	"encoding/json"
	"net/http"
	"slices"
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
// and for an interaction that is being continued.
var knownCodes = map[ErrorCode]struct {
	rejectsToken []int // the status classes or statuses with which it says that the token is dead
	settles      bool  // it says something about the interaction, so there is no point in asking again
}{
	InvalidClient:       {rejectsToken: []int{http.StatusUnauthorized}},
	InvalidContinuation: {settles: true},
	InvalidRequest:      {settles: true},
	InvalidRotation:     {rejectsToken: clientErrors()},
	RequestDenied:       {settles: true},
	TooFast:             {settles: true},
	UnknownInteraction:  {settles: true},
	UserDenied:          {settles: true},
}

func clientErrors() []int {
	var all []int
	for status := 400; status < 500; status++ {
		all = append(all, status)
	}
	return all
}

// rejects reports whether an answer to a rotation says that the token is dead.
func rejects(f RequestFailed) bool {
	return slices.Contains(knownCodes[f.Code].rejectsToken, f.Status)
}

// Settles reports whether an answer to a continuation says something about the interaction, so that
// there is no point in asking again.
func (f RequestFailed) Settles() bool {
	return knownCodes[f.Code].settles && f.Status/100 == 4
}

// errorCode reads error.code of an error answer (OpenAPI error), or the plain error of RFC 9635
// section 3.6.
func errorCode(body []byte) ErrorCode {
	var nested struct {
		Error struct{ Code string } `json:"error"`
	}
	var plain struct{ Error string }
	code := ""
	if json.Unmarshal(body, &nested) == nil {
		code = nested.Error.Code
	} else if json.Unmarshal(body, &plain) == nil {
		code = plain.Error
	}
	if _, known := knownCodes[ErrorCode(code)]; !known {
		return ""
	}
	return ErrorCode(code)
}
