// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"encoding/json"
	"net/http"
	"strconv"
)

// resourceError returns an error of the resource server, whose codes at Rafiki are the digits of
// the status.
func resourceError(status int, description string) *httpError {
	return &httpError{
		status:      status,
		code:        strconv.Itoa(status),
		description: description,
		challenge:   status == http.StatusUnauthorized,
	}
}

// readResourceRequest reads the body of a request to the resource server and checks its Accept
// header.
func readResourceRequest(r *http.Request) (content, error) {
	body, err := readContent(r)
	if err != nil {
		return content{}, err
	}
	if !acceptsJSON(r) {
		return content{}, resourceError(http.StatusNotAcceptable, "the request must accept application/json")
	}
	return body, nil
}

// permission is what the resource server knows about an authorized request.
type permission struct {
	client string
	grant  *grant
	all    bool // the right is an "-all" one and includes other clients' payments
}

// authorize accepts a request with a live token that has the right to an action on a wallet address
// and that is signed by the client to whom the token was issued. Like real resource servers it
// checks the token first.
func (s *Server) authorize(r *http.Request, body content, kind, action, wallet string) (permission, error) {
	value, ok := gnapToken(r)
	if !ok {
		return permission{}, resourceError(http.StatusUnauthorized,
			"Missing or malformed Authorization: it must be GNAP and a token")
	}
	t, ok := s.store.introspect(value, s.now())
	if !ok {
		return permission{}, resourceError(http.StatusForbidden, "Inactive Token")
	}
	plain, all := rightsOf(t.grant.access, kind, action, wallet)
	if !plain && !all {
		return permission{}, resourceError(http.StatusForbidden, "Insufficient Grant")
	}
	sig, err := readSignature(r, body)
	if err != nil || sig.keyID == "" {
		return permission{}, resourceError(http.StatusUnauthorized,
			"Invalid signature: its headers are missing or malformed")
	}
	key, err := s.publicKey(t.grant.client, sig.keyID)
	if err != nil {
		return permission{}, resourceError(http.StatusUnauthorized,
			"Invalid signature: the client's key cannot be fetched")
	}
	if !sig.isSignedWith(key) {
		return permission{}, resourceError(http.StatusUnauthorized, "Invalid signature")
	}
	return permission{client: t.grant.client.name(), grant: t.grant, all: all}, nil
}

// rightsOf reports whether a grant includes an action, and whether it includes the action's "-all"
// form.
func rightsOf(access []json.RawMessage, kind, action, wallet string) (plain, all bool) {
	for _, r := range parseRights(access) {
		plain = plain || r.gives(kind, action, wallet)
		all = all || r.gives(kind, action+"-all", wallet)
	}
	return plain, all
}
