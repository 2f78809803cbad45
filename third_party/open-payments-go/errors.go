// SPDX-License-Identifier: MPL-2.0

package openpayments

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// OpenPaymentsClientError is an answer that is not the one that was asked for. Its text holds the server's description
// and the full URL, which for a manage or a continue URL is a secret.
type OpenPaymentsClientError struct {
	// Description is the server's, or the whole body if that has not the shape of the OpenAPI document's errors.
	Description string
	// Status is the HTTP status.
	Status int
	// Code is one of the OpenAPI document's, such as invalid_client; empty if the server did not say.
	Code             string
	ValidationErrors []string
	Details          map[string]any
	Method, URL      string
}

// Error holds all but ValidationErrors and Details.
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
	// Details of another type than an object do not make the code and the description worthless.
	_ = json.Unmarshal(answer.Error.Details, &e.Details)
	return e
}
