// SPDX-License-Identifier: MPL-2.0

package authserver

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"

	openpayments "github.com/interledger/open-payments-go"
)

// Signer signs requests to resource servers as one identity. It sends nothing.
type Signer struct {
	sdk *openpayments.AuthenticatedClient
}

// NewSigner returns a signer for an identity. It fails where the key is unusable.
func NewSigner(i Identity) (Signer, error) {
	sdk, err := openpayments.NewAuthenticatedClient(i.WalletAddress, i.PrivateKey, i.KeyID,
		openpayments.WithHTTPClientAuthed(&http.Client{Transport: unsent{}}))
	if err != nil {
		return Signer{}, errors.New("the client's key cannot be used") // the SDK's error may hold a part of it
	}
	return Signer{sdk}, nil
}

// Headers returns the headers to send a request with, by name (RFC 9421; RFC 9635 section 7.3.1).
// The body, if there is one, has to be in the form that servers verify.
func (s Signer) Headers(ctx context.Context, method, url, body, token string) (map[string]string, error) {
	var content io.Reader
	names := []string{"Authorization", "Signature-Input", "Signature"}
	if body != "" {
		content = strings.NewReader(body)
		names = append(names, "Content-Type", "Content-Length", "Content-Digest")
	}
	req, err := http.NewRequestWithContext(ctx, method, url, content)
	if err != nil {
		return nil, errUnsigned
	}
	req.Header.Set("Authorization", "GNAP "+token)
	resp, err := s.sdk.DoSigned(req)
	if err != nil {
		return nil, errUnsigned
	}
	defer resp.Body.Close()
	headers := make(map[string]string, len(names))
	for _, name := range names {
		if headers[name] = resp.Request.Header.Get(name); headers[name] == "" {
			return nil, errUnsigned
		}
	}
	return headers, nil
}

// errUnsigned hides the SDK's error, which holds the URL.
var errUnsigned = errors.New("the request could not be signed")

// unsent is a transport that sends nothing: the headers that the SDK has set are in the answer's
// request.
type unsent struct{}

func (unsent) RoundTrip(req *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: http.NoBody, Request: req}, nil
}
