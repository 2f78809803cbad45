// SPDX-License-Identifier: MPL-2.0

package openpayments

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	as "github.com/interledger/open-payments-go/generated/authserver"
)

// TokenService manages access tokens at their authorization server.
type TokenService struct {
	do RequestDoer
}

// TokenRotateParams identify a token by its manage URL.
type TokenRotateParams struct {
	URL, AccessToken string
}

// TokenRevokeParams identify a token by its manage URL.
type TokenRevokeParams struct {
	URL, AccessToken string
}

// Rotate replaces a token and its manage URL (operation post-token, RFC 9635 section 6.1). It sends
// nothing and fails if the URL does not contain "token/". It returns the zero AccessToken for a 200
// without access_token.
func (s *TokenService) Rotate(ctx context.Context, params TokenRotateParams) (as.AccessToken, error) {
	if !strings.Contains(params.URL, "token/") {
		return as.AccessToken{}, errors.New("rotate token: not a manage URL (no token/ in it)")
	}
	req, err := newRequest(ctx, http.MethodPost, params.URL, params.AccessToken, nil)
	if err != nil {
		return as.AccessToken{}, fmt.Errorf("rotate token: %w", err)
	}
	var answer struct {
		AccessToken as.AccessToken `json:"access_token"`
	}
	if err := call(s.do, req, "rotate token", http.StatusOK, &answer); err != nil {
		return as.AccessToken{}, err
	}
	return answer.AccessToken, nil
}

// Revoke makes a token invalid (operation delete-token, RFC 9635 section 6.2).
func (s *TokenService) Revoke(ctx context.Context, params TokenRevokeParams) error {
	req, err := newRequest(ctx, http.MethodDelete, params.URL, params.AccessToken, nil)
	if err != nil {
		return fmt.Errorf("revoke token: %w", err)
	}
	return call(s.do, req, "revoke token", http.StatusNoContent, nil)
}
