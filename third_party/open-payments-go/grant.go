// SPDX-License-Identifier: MPL-2.0

package openpayments

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	as "github.com/interledger/open-payments-go/generated/authserver"
)

// GrantService asks for grants, continues them and cancels them.
type GrantService struct {
	do            RequestDoer
	walletAddress string
}

// GrantRequestParams hold what to ask for, and where.
type GrantRequestParams struct {
	// URL is the grant endpoint.
	URL         string
	RequestBody as.GrantRequest
	// ClientOverride, if not nil, identifies the client by its public key instead of its wallet
	// address.
	ClientOverride *as.ClientDirectedIdentity
}

// GrantContinueParams identify a grant by its continuation.
type GrantContinueParams struct {
	URL, AccessToken string
	// InteractRef is the interact_ref of the callback; empty to poll.
	InteractRef string
}

// GrantCancelParams identify a grant by its continuation.
type GrantCancelParams struct {
	URL, AccessToken string
}

// Grant is the response of the operations post-request and post-continue.
type Grant struct {
	Interact    *as.InteractResponse `json:"interact,omitempty"`
	AccessToken *as.AccessToken      `json:"access_token,omitempty"`
	Subject     *as.Subject          `json:"subject,omitempty"`
	Continue    as.Continue          `json:"continue"`
}

// IsInteractive reports whether the owner's consent is needed.
func (g *Grant) IsInteractive() bool { return g.Interact != nil }

// IsGrantedWithAccessToken reports whether the grant has an access token.
func (g *Grant) IsGrantedWithAccessToken() bool { return g.AccessToken != nil }

// IsGrantedWithSubject reports whether the grant has subject information.
func (g *Grant) IsGrantedWithSubject() bool { return g.Subject != nil }

// Request asks for a grant (operation post-request, RFC 9635 section 2). It adds the client to the
// body.
func (s *GrantService) Request(ctx context.Context, params GrantRequestParams) (Grant, error) {
	body, err := s.requestBody(params)
	if err != nil {
		return Grant{}, fmt.Errorf("request grant: %w", err)
	}
	req, err := newRequest(ctx, http.MethodPost, params.URL, "", body)
	if err != nil {
		return Grant{}, fmt.Errorf("request grant: %w", err)
	}
	var grant Grant
	if err := call(s.do, req, "request grant", http.StatusOK, &grant); err != nil {
		return Grant{}, err
	}
	return grant, nil
}

func (s *GrantService) requestBody(params GrantRequestParams) ([]byte, error) {
	var client any = map[string]string{"walletAddress": s.walletAddress}
	if params.ClientOverride != nil {
		client = params.ClientOverride
	}
	clientJSON, err := json.Marshal(client)
	if err != nil {
		return nil, err
	}
	b, err := params.RequestBody.MarshalJSON()
	if err != nil {
		return nil, err
	}
	var body map[string]json.RawMessage
	if err := json.Unmarshal(b, &body); err != nil {
		return nil, err
	}
	if body == nil {
		return nil, errors.New("no request body")
	}
	body["client"] = clientJSON
	return json.Marshal(body)
}

// Continue continues or polls an interactive grant (operation post-continue, RFC 9635 section 5).
// It sends nothing and fails if the URL does not contain "continue/".
func (s *GrantService) Continue(ctx context.Context, params GrantContinueParams) (Grant, error) {
	if !strings.Contains(params.URL, "continue/") {
		return Grant{}, errors.New("continue grant: not a continue URL (no continue/ in it)")
	}
	var body []byte
	if params.InteractRef != "" {
		var err error
		if body, err = json.Marshal(map[string]string{"interact_ref": params.InteractRef}); err != nil {
			return Grant{}, fmt.Errorf("continue grant: %w", err)
		}
	}
	req, err := newRequest(ctx, http.MethodPost, params.URL, params.AccessToken, body)
	if err != nil {
		return Grant{}, fmt.Errorf("continue grant: %w", err)
	}
	var grant Grant
	if err := call(s.do, req, "continue grant", http.StatusOK, &grant); err != nil {
		return Grant{}, err
	}
	return grant, nil
}

// Cancel ends a grant and all its tokens (operation delete-continue, RFC 9635 section 5.4).
func (s *GrantService) Cancel(ctx context.Context, params GrantCancelParams) error {
	req, err := newRequest(ctx, http.MethodDelete, params.URL, params.AccessToken, nil)
	if err != nil {
		return fmt.Errorf("cancel grant: %w", err)
	}
	return call(s.do, req, "cancel grant", http.StatusNoContent, nil)
}

// newRequest returns a request for DoSigned. It omits the token if that is empty: a grant request
// has none.
func newRequest(ctx context.Context, method, url, token string, body []byte) (*http.Request, error) {
	var reader io.Reader
	if len(body) > 0 {
		reader = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, url, reader)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "GNAP "+token) // RFC 9635 section 7.2
	}
	return req, nil
}
