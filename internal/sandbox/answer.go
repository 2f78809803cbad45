// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
)

// refusal is an error that says how it is answered. Its JSON form is that of both servers' OpenAPI documents. Without a
// code it is what Rafiki answers to a request that does not fit the document.
type refusal struct {
	status      int
	code        string
	description string
	text        bool // text/plain, not JSON
	challenge   bool // name the grant endpoint in WWW-Authenticate
}

func (r *refusal) Error() string { return r.description }

// refused is a refusal with a code.
func refused(status int, code, description string) *refusal {
	return &refusal{status: status, code: code, description: description}
}

// mismatch refuses a request that does not fit the authorization server's OpenAPI document: no code.
func mismatch(status int, description string) *refusal {
	return &refusal{status: status, description: description}
}

// plain is a refusal that comes from below the server's own error handling and so is not JSON.
func plain(status int, text string) *refusal {
	return &refusal{status: status, description: text, text: true}
}

// refuse answers with an error.
func (s *Server) refuse(w http.ResponseWriter, err error) {
	var r *refusal
	if !errors.As(err, &r) {
		s.log.Error("request failed", "error", err)
		r = plain(http.StatusInternalServerError, "Internal Server Error")
	}
	if r.text {
		answerText(w, r.status, r.description)
		return
	}
	if r.challenge {
		w.Header().Set("WWW-Authenticate", "GNAP as_uri="+s.AuthServer())
	}
	type details struct {
		Code        string `json:"code,omitempty"`
		Description string `json:"description"`
	}
	answer(w, r.status, struct {
		Error details `json:"error"`
	}{details{r.code, r.description}})
}

// answer writes compact JSON, as JSON.stringify does: no HTML escapes, no newline at the end.
func answer(w http.ResponseWriter, status int, v any) {
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		answerText(w, http.StatusInternalServerError, "Internal Server Error")
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(bytes.TrimRight(body.Bytes(), "\n"))
}

func answerText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text))
}
