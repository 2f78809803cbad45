// SPDX-License-Identifier: MPL-2.0

package openpayments

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// OpenPaymentsClientError is a response with an unexpected status. Its text contains the server's
// description and the full URL, which is a secret if it is a manage or continue URL.
type OpenPaymentsClientError struct {
	// Description is the server's, or the whole body if that does not have the form of the OpenAPI
	// document's errors.
	Description string
	// Status is the HTTP status.
	Status int
	// Code is one of the OpenAPI document's, such as invalid_client; empty if the response has
	// none.
	Code             string
	ValidationErrors []string
	Details          map[string]any
	Method, URL      string
}

// Error returns a text with everything but ValidationErrors and Details.
func (e *OpenPaymentsClientError) Error() string {
	text := fmt.Sprintf("%s %s: status %d", e.Method, e.URL, e.Status)
	if e.Code != "" {
		text += " " + e.Code
	}
	if e.Description != "" {
		text += ": " + e.Description
	}
	return text
}

func newClientError(req *http.Request, status int, body []byte) *OpenPaymentsClientError {
	e := &OpenPaymentsClientError{Status: status, Method: req.Method, URL: req.URL.String()}
	var answer struct {
		Error struct {
			Code        string          `json:"code"`
			Description string          `json:"description"`
			Details     json.RawMessage `json:"details"`
		} `json:"error"`
	}
	err := json.Unmarshal(body, &answer)
	if err != nil || answer.Error.Code == "" && answer.Error.Description == "" {
		e.Description = string(body)
		return e
	}
	e.Code = answer.Error.Code
	e.Description = answer.Error.Description
	// If details is not an object, the code and the description are still used.
	_ = json.Unmarshal(answer.Error.Details, &e.Details)
	return e
}
