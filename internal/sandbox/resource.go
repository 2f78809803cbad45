// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"encoding/json"
	"net/http"
	"strconv"
)

// denied is a refusal of the resource server, whose codes are the status in digits at Rafiki.
func denied(status int, description string) *refusal {
	return &refusal{
		status:      status,
		code:        strconv.Itoa(status),
		description: description,
		challenge:   status == http.StatusUnauthorized,
	}
}

// openResource is how every request to the resource server begins: the body and the Accept header.
func openResource(r *http.Request) (content, error) {
	body, err := readContent(r)
	if err != nil {
		return content{}, err
	}
	if !accepts(r) {
		return content{}, denied(http.StatusNotAcceptable, "the request must accept application/json")
	}
	return body, nil
}

// permission is what the resource server has found out about an authorized request.
type permission struct {
	client string
	grant  *grant
	all    bool // the right is the "-all" one: other clients' payments too
}

// authorize lets a request through that has a live token with the right for an action on a wallet address, signed by the
// client that the token was given to. It looks at the token first, as real resource servers do.
func (s *Server) authorize(r *http.Request, body content, kind, action, wallet string) (permission, error) {
	value, ok := gnapToken(r)
	if !ok {
		return permission{}, denied(http.StatusUnauthorized, "Missing or malformed Authorization: it must be GNAP and a token")
	}
	t, ok := s.store.introspect(value, s.now())
	if !ok {
		return permission{}, denied(http.StatusForbidden, "Inactive Token")
	}
	plain, all := rightsOf(t.grant.access, kind, action, wallet)
	if !plain && !all {
		return permission{}, denied(http.StatusForbidden, "Insufficient Grant")
	}
	sig, err := readSignature(r, body)
	if err != nil || sig.keyID == "" {
		return permission{}, denied(http.StatusUnauthorized, "Invalid signature: its headers are missing or malformed")
	}
	key, err := s.publicKey(t.grant.client, sig.keyID)
	if err != nil {
		return permission{}, denied(http.StatusUnauthorized, "Invalid signature: the client's key is not to be had")
	}
	if !sig.isBy(key) {
		return permission{}, denied(http.StatusUnauthorized, "Invalid signature")
	}
	return permission{client: t.grant.client.name(), grant: t.grant, all: all}, nil
}

// rightsOf reports whether a grant gives an action, and whether it gives its "-all" form.
func rightsOf(access []json.RawMessage, kind, action, wallet string) (plain, all bool) {
	for _, r := range parseRights(access) {
		plain = plain || r.gives(kind, action, wallet)
		all = all || r.gives(kind, action+"-all", wallet)
	}
	return plain, all
}
