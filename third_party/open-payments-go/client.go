// SPDX-License-Identifier: MPL-2.0

// Package openpayments is a client of Open Payments servers.
package openpayments

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/interledger/open-payments-go/httpsignatureutils"
)

// RequestDoer sends a request. Its errors are those of http.Client.Do.
type RequestDoer func(req *http.Request) (*http.Response, error)

// AuthenticatedClient acts as one client: a wallet address, a key and the key's id. It is safe for
// concurrent use.
type AuthenticatedClient struct {
	WalletAddress *WalletAddressService
	Grant         *GrantService
	Token         *TokenService

	http     *http.Client
	key      ed25519.PrivateKey
	keyID    string
	preSign  func(*http.Request)
	postSign func(*http.Request)
}

// AuthenticatedClientOption configures the client that NewAuthenticatedClient returns.
type AuthenticatedClientOption func(*AuthenticatedClient)

// WithHTTPClientAuthed sends all requests through c, which sets time limits and limits for
// redirects and the size of responses. Without it there are none.
func WithHTTPClientAuthed(c *http.Client) AuthenticatedClientOption {
	return func(a *AuthenticatedClient) { a.http = c }
}

// WithPreSignHook calls hook with each request to be signed, before its body is read: hook may
// replace the body, with ContentLength and GetBody.
func WithPreSignHook(hook func(req *http.Request)) AuthenticatedClientOption {
	return func(a *AuthenticatedClient) { a.preSign = hook }
}

// WithPostSignHook calls hook with each signed request before it is sent.
func WithPostSignHook(hook func(req *http.Request)) AuthenticatedClientOption {
	return func(a *AuthenticatedClient) { a.postSign = hook }
}

// NewAuthenticatedClient returns a client. walletAddressUrl is a URL, not a payment pointer.
// privateKey is the name of a file if there is a file of that name, otherwise PEM text (PKCS#8),
// otherwise base64 of PEM text: pass PEM text, so that a name is never mistaken for a key. keyId is
// the kid under which <walletAddressUrl>/jwks.json has the public key. Nothing is sent. Errors
// never contain privateKey, unless it is the name of a file.
func NewAuthenticatedClient(walletAddressUrl, privateKey, keyId string,
	opts ...AuthenticatedClientOption) (*AuthenticatedClient, error) {
	if strings.HasPrefix(walletAddressUrl, "$") {
		return nil, errors.New("open payments: the wallet address must be a URL, not a payment pointer")
	}
	key, err := loadKey(privateKey)
	if err != nil {
		return nil, fmt.Errorf("open payments: %w", err)
	}
	c := &AuthenticatedClient{http: http.DefaultClient, key: key, keyID: keyId}
	for _, opt := range opts {
		opt(c)
	}
	if c.http == nil {
		c.http = http.DefaultClient
	}
	c.WalletAddress = &WalletAddressService{do: c.http.Do}
	c.Grant = &GrantService{do: c.DoSigned, walletAddress: walletAddressUrl}
	c.Token = &TokenService{do: c.DoSigned}
	return c, nil
}

func loadKey(privateKey string) (ed25519.PrivateKey, error) {
	// Stat's error is dropped because its text would contain the key.
	if info, err := os.Stat(privateKey); err == nil && !info.IsDir() {
		b, err := os.ReadFile(privateKey)
		if err != nil {
			return nil, fmt.Errorf("private key: %w", err)
		}
		privateKey = string(b)
	}
	if strings.Contains(privateKey, "-----BEGIN") {
		return httpsignatureutils.LoadPEMKey(privateKey)
	}
	return httpsignatureutils.LoadBase64Key(privateKey)
}

// DoSigned signs req (RFC 9421, with the components of RFC 9635 section 7.3.1) and sends it. It
// changes req: it reads the body and replaces it, and sets the headers. Errors are those of
// http.Client.Do, or say why req could not be signed, in which case nothing is sent.
func (c *AuthenticatedClient) DoSigned(req *http.Request) (*http.Response, error) {
	if req.Header == nil {
		req.Header = make(http.Header)
	}
	if req.Header.Get("Accept") == "" {
		req.Header.Set("Accept", "application/json")
	}
	if c.preSign != nil {
		c.preSign(req)
	}
	if err := c.sign(req); err != nil {
		if req.Body != nil {
			_ = req.Body.Close() // as http.Client.Do does
		}
		return nil, err
	}
	if c.postSign != nil {
		c.postSign(req)
	}
	return c.http.Do(req)
}

func (c *AuthenticatedClient) sign(req *http.Request) error {
	if err := setContent(req); err != nil {
		return err
	}
	signature, err := httpsignatureutils.CreateSignatureHeaders(httpsignatureutils.SignOptions{
		Request:    req,
		PrivateKey: c.key,
		KeyID:      c.keyID,
	})
	if err != nil {
		return err
	}
	req.Header.Set("Signature", "sig1=:"+signature.Signature+":")
	req.Header.Set("Signature-Input", signature.SignatureInput)
	return nil
}

// setContent reads the body and sets the headers that describe it. The body that is sent is the one
// that was read, with its length: servers reject a chunked one.
func setContent(req *http.Request) error {
	var body []byte
	if req.Body != nil {
		var err error
		body, err = io.ReadAll(req.Body)
		_ = req.Body.Close() // it was read to its end, or the read error is returned
		if err != nil {
			return fmt.Errorf("read the body to sign: %w", err)
		}
	}
	req.TransferEncoding = nil
	req.ContentLength = int64(len(body))
	if len(body) == 0 {
		req.Body = http.NoBody
		req.GetBody = func() (io.ReadCloser, error) { return http.NoBody, nil }
		return nil
	}
	req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	req.Body, _ = req.GetBody()
	content := httpsignatureutils.CreateContentHeaders(body)
	req.Header.Set("Content-Digest", content.ContentDigest)
	req.Header.Set("Content-Length", content.ContentLength)
	req.Header.Set("Content-Type", content.ContentType)
	return nil
}

// call sends req and decodes the response into out, unless that is nil. A response with a status
// other than want is an *OpenPaymentsClientError; other errors are wrapped in what was being tried.
func call(do RequestDoer, req *http.Request, trying string, want int, out any) error {
	resp, err := do(req)
	if err != nil {
		return fmt.Errorf("%s: %w", trying, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("%s: read the response: %w", trying, err)
	}
	if resp.StatusCode != want {
		return newClientError(req, resp.StatusCode, body)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("%s: decode the response: %w", trying, err)
	}
	return nil
}
