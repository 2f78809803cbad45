// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
)

// httpError is an error that says how the server answers it. Its JSON form is that of both servers'
// OpenAPI documents. An error without a code is what Rafiki answers to a request that does not
// match the document.
type httpError struct {
	status      int
	code        string
	description string
	text        bool // text/plain, not JSON
	challenge   bool // name the grant endpoint in WWW-Authenticate
}

func (r *httpError) Error() string { return r.description }

// codedError returns an error with a code.
func codedError(status int, code, description string) *httpError {
	return &httpError{status: status, code: code, description: description}
}

// schemaError returns the error, without a code, for a request that does not match the
// authorization server's OpenAPI document.
func schemaError(status int, description string) *httpError {
	return &httpError{status: status, description: description}
}

// textError returns an error that arises below the server's own error handling and is therefore not
// JSON.
func textError(status int, text string) *httpError {
	return &httpError{status: status, description: text, text: true}
}

// writeError writes an error as the answer.
func (s *Server) writeError(w http.ResponseWriter, err error) {
	var r *httpError
	if !errors.As(err, &r) {
		s.log.Error("request failed", "error", err)
		r = textError(http.StatusInternalServerError, "Internal Server Error")
	}
	if r.text {
		writeText(w, r.status, r.description)
		return
	}
	if r.challenge {
		w.Header().Set("WWW-Authenticate", "GNAP as_uri="+s.AuthServer())
	}
	type details struct {
		Code        string `json:"code,omitempty"`
		Description string `json:"description"`
	}
	writeJSON(w, r.status, struct {
		Error details `json:"error"`
	}{details{r.code, r.description}})
}

// writeJSON writes compact JSON, as JSON.stringify does: no HTML escapes, no newline at the end.
func writeJSON(w http.ResponseWriter, status int, v any) {
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		writeText(w, http.StatusInternalServerError, "Internal Server Error")
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(bytes.TrimRight(body.Bytes(), "\n"))
}

// writeText writes a text/plain answer.
func writeText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text))
}
