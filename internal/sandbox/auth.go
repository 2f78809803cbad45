// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
)

// Error codes of the authorization server's OpenAPI document.
const (
	codeInvalidClient       = "invalid_client"
	codeInvalidRequest      = "invalid_request"
	codeInvalidContinuation = "invalid_continuation"
	codeInvalidRotation     = "invalid_rotation"
	codeRequestDenied       = "request_denied"
	codeTooFast             = "too_fast"
)

// readSigned reads a request to the authorization server and checks, in Rafiki's order, the body,
// the Accept header, what the OpenAPI document says of the body (validate, nil if nothing) and the
// form of the signature. It does not verify the signature, because which key to use depends on what
// is asked for.
func (s *Server) readSigned(r *http.Request, validate func(json string) error) (*signature, error) {
	body, err := readContent(r)
	if err != nil {
		return nil, err
	}
	if !acceptsJSON(r) {
		return nil, schemaError(http.StatusNotAcceptable, "the request must accept application/json")
	}
	if validate != nil {
		if err := validate(body.json); err != nil {
			return nil, schemaError(http.StatusBadRequest, err.Error())
		}
	}
	sig, err := readSignature(r, body)
	if err != nil {
		return nil, codedError(http.StatusUnauthorized, codeInvalidClient, "invalid signature headers")
	}
	return sig, nil
}

// verify fetches the client's key and verifies the signature with it.
func (s *Server) verify(sig *signature, c client) error {
	if sig.keyID == "" {
		return codedError(http.StatusUnauthorized, codeInvalidClient, "invalid signature input")
	}
	key, err := s.publicKey(c, sig.keyID)
	if errors.Is(err, errUnknownKey) && s.dialect.get().UnknownKey == http.StatusUnauthorized {
		return codedError(http.StatusUnauthorized, codeInvalidClient, "unknown key")
	}
	if err != nil {
		return codedError(http.StatusBadRequest, codeInvalidClient, "could not determine client")
	}
	if !sig.isSignedWith(key) {
		return codedError(http.StatusUnauthorized, codeInvalidClient, "invalid signature")
	}
	return nil
}

// requestGrant serves post-request of the OpenAPI document.
func (s *Server) requestGrant(w http.ResponseWriter, r *http.Request) error {
	var request grantRequest
	sig, err := s.readSigned(r, func(json string) (err error) {
		request, err = parseGrantRequest(json, s.dialect.get().Client)
		return err
	})
	if err != nil {
		return err
	}
	if err := s.verify(sig, request.client); err != nil {
		return err
	}
	if err := request.refuseUnsupported(); err != nil {
		return err
	}
	if err := checkWritable(r); err != nil {
		return err
	}
	now := s.now()
	g := &grant{client: request.client, access: request.access, hasFinish: request.finish.uri != "", continued: now}
	if !request.needsConsent {
		g.state = stateApproved
		s.store.add(g)
		t := s.store.issue(g, now.Add(s.tokenLifetime))
		writeJSON(w, http.StatusOK, grantAnswer{AccessToken: s.describeToken(t), Continue: s.describeContinue(g, 0)})
		return nil
	}
	publicName, err := s.publicName(request.client)
	if err != nil {
		return err
	}
	if request.twoAmounts {
		return codedError(http.StatusBadRequest, codeInvalidRequest, "only one access amount allowed")
	}
	i := &interaction{clientName: publicName, finish: request.finish, expires: now.Add(interactionLifetime)}
	s.store.addInteractive(g, i)
	writeJSON(w, http.StatusOK, grantAnswer{Interact: s.describeInteract(i), Continue: s.describeContinue(g, s.wait)})
	return nil
}

// describeInteract returns where to send the owner. The query is for servers that leave the page to
// another server; the sandbox's own page ignores it.
func (s *Server) describeInteract(i *interaction) *interactAnswer {
	shown := url.Values{"clientName": {i.clientName}, "clientUri": {i.grant.client.wallet}}
	return &interactAnswer{Redirect: s.origin + i.path() + "?" + shown.Encode(), Finish: i.nonce}
}

// publicName returns the name by which the owner is shown the client. A client whose wallet address
// has no public name cannot get an interactive grant; neither can a client that is known by its key
// only.
func (s *Server) publicName(c client) (string, error) {
	var document struct {
		PublicName string `json:"publicName"`
	}
	if c.key != nil || s.fetch(c.wallet, &document) != nil {
		return "", codedError(http.StatusBadRequest, codeInvalidClient, "could not determine client")
	}
	if document.PublicName == "" {
		return "", codedError(http.StatusBadRequest, codeInvalidRequest,
			"the client's wallet address has no public name")
	}
	return document.PublicName, nil
}

// authorizeContinuation finds the grant that a continue or cancel request is about and verifies
// that the grant's client signed the request.
func (s *Server) authorizeContinuation(r *http.Request, validate func(json string) error) (*grant, error) {
	sig, err := s.readSigned(r, validate)
	if err != nil {
		return nil, err
	}
	continueToken, ok := gnapToken(r)
	if !ok {
		return nil, codedError(http.StatusUnauthorized, codeInvalidClient, "invalid signature headers")
	}
	g, ok := s.store.byContinuation(r.PathValue("id"), continueToken)
	if !ok {
		return nil, invalidGrant()
	}
	return g, s.verify(sig, g.client)
}

func invalidGrant() error {
	return codedError(http.StatusUnauthorized, codeInvalidContinuation, "invalid grant")
}

// gnapToken returns the token in the Authorization header (RFC 9635 section 7.2).
func gnapToken(r *http.Request) (string, bool) {
	value, ok := strings.CutPrefix(r.Header.Get("Authorization"), "GNAP ")
	return value, ok && value != "" && !strings.Contains(value, " ")
}

// continueGrant serves post-continue of the OpenAPI document.
func (s *Server) continueGrant(w http.ResponseWriter, r *http.Request) error {
	var (
		reference string
		polls     bool
	)
	g, err := s.authorizeContinuation(r, func(json string) (err error) {
		reference, polls, err = parseContinueRequest(json)
		return err
	})
	switch {
	case err != nil:
		return err
	case !polls && reference == "":
		return codedError(http.StatusUnauthorized, codeInvalidRequest, "missing interaction reference")
	}
	if err := checkWritable(r); err != nil {
		return err
	}
	var t *token
	if polls {
		t, err = s.store.poll(g, s.now(), s.wait, s.tokenLifetime)
	} else {
		t, err = s.store.continueWith(g, reference, s.now(), s.wait, s.tokenLifetime)
	}
	if err != nil {
		return refuseContinuation(err)
	}
	if s.dialect.get().NewContinue {
		s.store.renewContinuation(g)
	}
	if t == nil {
		writeJSON(w, http.StatusOK, grantAnswer{Continue: s.describeContinue(g, s.wait)})
	} else {
		writeJSON(w, http.StatusOK, grantAnswer{AccessToken: s.describeToken(t), Continue: s.describeContinue(g, 0)})
	}
	return nil
}

// refuseContinuation returns the answer to a continuation that failed.
func refuseContinuation(err error) error {
	switch {
	case errors.Is(err, errGrantGone):
		return invalidGrant()
	case errors.Is(err, errNoInteraction):
		return codedError(http.StatusNotFound, codeInvalidContinuation, "grant not found")
	case errors.Is(err, errTooFast):
		return codedError(http.StatusBadRequest, codeTooFast, "the grant was continued before its wait was over")
	case errors.Is(err, errHasFinish):
		return codedError(http.StatusUnauthorized, codeRequestDenied, "grant cannot be polled")
	default:
		return codedError(http.StatusUnauthorized, codeRequestDenied, "grant cannot be continued")
	}
}

// cancelGrant serves delete-continue of the OpenAPI document.
func (s *Server) cancelGrant(w http.ResponseWriter, r *http.Request) error {
	g, err := s.authorizeContinuation(r, nil)
	if err != nil {
		return err
	}
	if err := checkWritable(r); err != nil {
		return err
	}
	if !s.store.cancel(g) {
		return invalidGrant()
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
