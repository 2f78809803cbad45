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

// open is how every request to the authorization server begins: body, Accept header, what the OpenAPI document says of
// the body (fits, nil if nothing) and form of the signature, in Rafiki's order. What it does not do yet is verify the
// signature, because the key depends on what is asked for.
func (s *Server) open(r *http.Request, fits func(json string) error) (*signature, error) {
	body, err := readContent(r)
	if err != nil {
		return nil, err
	}
	if !accepts(r) {
		return nil, mismatch(http.StatusNotAcceptable, "the request must accept application/json")
	}
	if fits != nil {
		if err := fits(body.json); err != nil {
			return nil, mismatch(http.StatusBadRequest, err.Error())
		}
	}
	sig, err := readSignature(r, body)
	if err != nil {
		return nil, refused(http.StatusUnauthorized, codeInvalidClient, "invalid signature headers")
	}
	return sig, nil
}

// verify fetches the client's key and checks the signature with it.
func (s *Server) verify(sig *signature, c client) error {
	if sig.keyID == "" {
		return refused(http.StatusUnauthorized, codeInvalidClient, "invalid signature input")
	}
	key, err := s.publicKey(c, sig.keyID)
	if errors.Is(err, errUnknownKey) && s.dialect.get().UnknownKey == http.StatusUnauthorized {
		return refused(http.StatusUnauthorized, codeInvalidClient, "unknown key")
	}
	if err != nil {
		return refused(http.StatusBadRequest, codeInvalidClient, "could not determine client")
	}
	if !sig.isBy(key) {
		return refused(http.StatusUnauthorized, codeInvalidClient, "invalid signature")
	}
	return nil
}

// requestGrant serves post-request of the OpenAPI document.
func (s *Server) requestGrant(w http.ResponseWriter, r *http.Request) error {
	var request grantRequest
	sig, err := s.open(r, func(json string) (err error) {
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
	if !request.needsOwner {
		g.state = stateApproved
		s.store.add(g)
		t := s.store.issue(g, now.Add(s.tokenLifetime))
		answer(w, http.StatusOK, grantAnswer{AccessToken: s.describeToken(t), Continue: s.describeContinue(g, 0)})
		return nil
	}
	publicName, err := s.publicName(request.client)
	if err != nil {
		return err
	}
	if request.twoAmounts {
		return refused(http.StatusBadRequest, codeInvalidRequest, "only one access amount allowed")
	}
	i := &interaction{clientName: publicName, finish: request.finish, expires: now.Add(interactionLifetime)}
	s.store.addInteractive(g, i)
	answer(w, http.StatusOK, grantAnswer{Interact: s.describeInteract(i), Continue: s.describeContinue(g, s.wait)})
	return nil
}

// describeInteract tells where the owner is to be sent. The query is for servers that leave the page to another one; the
// sandbox's own page does not believe it.
func (s *Server) describeInteract(i *interaction) *interactAnswer {
	shown := url.Values{"clientName": {i.clientName}, "clientUri": {i.grant.client.wallet}}
	return &interactAnswer{Redirect: s.origin + i.path() + "?" + shown.Encode(), Finish: i.nonce}
}

// publicName is how the client is shown to the owner. A client whose wallet address has no public name gets no
// interactive grant, nor does one that is known by its key only.
func (s *Server) publicName(c client) (string, error) {
	var document struct {
		PublicName string `json:"publicName"`
	}
	if c.key != nil || s.fetch(c.wallet, &document) != nil {
		return "", refused(http.StatusBadRequest, codeInvalidClient, "could not determine client")
	}
	if document.PublicName == "" {
		return "", refused(http.StatusBadRequest, codeInvalidRequest, "the client's wallet address has no public name")
	}
	return document.PublicName, nil
}

// openContinuation finds the grant that a continue or cancel is about and verifies that its client has signed.
func (s *Server) openContinuation(r *http.Request, fits func(json string) error) (*grant, error) {
	sig, err := s.open(r, fits)
	if err != nil {
		return nil, err
	}
	continueToken, ok := gnapToken(r)
	if !ok {
		return nil, refused(http.StatusUnauthorized, codeInvalidClient, "invalid signature headers")
	}
	g, ok := s.store.byContinuation(r.PathValue("id"), continueToken)
	if !ok {
		return nil, invalidGrant()
	}
	return g, s.verify(sig, g.client)
}

func invalidGrant() error {
	return refused(http.StatusUnauthorized, codeInvalidContinuation, "invalid grant")
}

// gnapToken is the token of the Authorization header (RFC 9635 section 7.2).
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
	g, err := s.openContinuation(r, func(json string) (err error) {
		reference, polls, err = parseContinueRequest(json)
		return err
	})
	switch {
	case err != nil:
		return err
	case !polls && reference == "":
		return refused(http.StatusUnauthorized, codeInvalidRequest, "missing interaction reference")
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
		answer(w, http.StatusOK, grantAnswer{Continue: s.describeContinue(g, s.wait)})
	} else {
		answer(w, http.StatusOK, grantAnswer{AccessToken: s.describeToken(t), Continue: s.describeContinue(g, 0)})
	}
	return nil
}

// refuseContinuation is how the ways in which a continuation can fail are answered.
func refuseContinuation(err error) error {
	switch {
	case errors.Is(err, errGrantGone):
		return invalidGrant()
	case errors.Is(err, errNoInteraction):
		return refused(http.StatusNotFound, codeInvalidContinuation, "grant not found")
	case errors.Is(err, errTooFast):
		return refused(http.StatusBadRequest, codeTooFast, "the grant was continued before its wait was over")
	case errors.Is(err, errHasFinish):
		return refused(http.StatusUnauthorized, codeRequestDenied, "grant cannot be polled")
	default:
		return refused(http.StatusUnauthorized, codeRequestDenied, "grant cannot be continued")
	}
}

// cancelGrant serves delete-continue of the OpenAPI document.
func (s *Server) cancelGrant(w http.ResponseWriter, r *http.Request) error {
	g, err := s.openContinuation(r, nil)
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
