// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"errors"
	"net/http"

	"github.com/hashicorp/go-uuid"
)

var errNotUUID = errors.New("the manage id is not a uuid")

// authorizeToken finds the token that a rotation or revocation is about and verifies that its
// client signed the request. It ignores the token in the Authorization header: the manage URL and
// the client's key are the credential.
func (s *Server) authorizeToken(r *http.Request) (*token, error) {
	sig, err := s.readSigned(r, nil)
	if err != nil {
		return nil, err
	}
	id := r.PathValue("id")
	if _, err := uuid.ParseUUID(id); err != nil {
		// Rafiki passes the id to its database unchecked, and the database fails: 500, text/plain.
		return nil, errNotUUID
	}
	t, ok := s.store.byManageID(id, s.now())
	if !ok {
		return nil, codedError(http.StatusUnauthorized, codeInvalidClient, "invalid access token")
	}
	return t, s.verify(sig, t.grant.client)
}

// rotateToken serves post-token of the OpenAPI document.
func (s *Server) rotateToken(w http.ResponseWriter, r *http.Request) error {
	old, err := s.authorizeToken(r)
	if err != nil {
		return err
	}
	fresh, err := s.rotate(databaseOf(r), old)
	if err != nil {
		// Rafiki reports every database error from here on as an invalid rotation.
		return codedError(http.StatusNotFound, codeInvalidRotation, err.Error())
	}
	writeJSON(w, http.StatusOK, grantAnswer{AccessToken: s.describeToken(fresh)})
	return nil
}

var errRotated = errors.New("invalid access token")

// rotate replaces a token, subject to the state of the database.
func (s *Server) rotate(d database, old *token) (fresh *token, err error) {
	if d.readOnly {
		return nil, errReadOnly
	}
	ok := false
	work := func() { fresh, ok = s.store.rotate(old, s.now().Add(s.tokenLifetime)) }
	switch {
	case d.killed:
		err = errHalfRotated
	case d.pool != nil:
		err = d.pool.rotate(s, d.arrive, work)
	default:
		work()
	}
	if errors.Is(err, errHalfRotated) {
		s.store.revoke(old)
	}
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, errRotated
	}
	return fresh, nil
}

// revokeToken serves delete-token of the OpenAPI document.
func (s *Server) revokeToken(w http.ResponseWriter, r *http.Request) error {
	t, err := s.authorizeToken(r)
	if err != nil {
		return err
	}
	if err := checkWritable(r); err != nil {
		return err
	}
	s.store.revoke(t)
	w.WriteHeader(http.StatusNoContent)
	return nil
}
