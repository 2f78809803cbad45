// SPDX-License-Identifier: MPL-2.0

package client

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/hashicorp/vault/api"
)

const (
	maxBody = 1 << 20 // bytes; Vault takes no more
	// maxDrain is what is read of an answer that nobody will see, so that its
	// connection can be used again.
	maxDrain = 64 << 10
)

// RoundTrip sends a request. One to a URL below the token's resource_server, letter
// for letter, is signed by Vault and sent with the headers and the body that Vault
// answers, in place of Authorization, Signature, Signature-Input and Content-*;
// its body is JSON of no more than 1 MiB. Any other request goes through untouched
// and without a token. (Where the resource server is, the answer to the first
// read of the token tells: so the first request reads it, whatever its URL.)
//
// If op/sign/NAME says that the token is not the current one, or the resource
// server answers 401 or 403, then the request is signed and sent once more, with
// the newer token that is there already or else one read anew; what that brings is
// the answer. Where such a repetition was refused as well, the token is not to
// blame, and for about a second, doubling up to half a minute, a 401 or 403 is the
// answer at once: a grant whose limits are spent is refused with 403, too, and each
// new token kills the one that other requests use.
//
// After a transport error nothing is sent again: a POST may have paid. Therefore
// Idempotency-Key, which Open Payments does not know, is left out: http.Transport
// takes it for the permission to repeat a POST.
//
// Other refusals of op/sign/NAME are errors, with Vault's sentence in an
// [api.ResponseError]. No error holds a token.
func (c *Client) RoundTrip(req *http.Request) (*http.Response, error) {
	signs, err := c.signs(req)
	if err != nil {
		closeBody(req)
		return nil, err
	}
	if !signs {
		return c.base.RoundTrip(req)
	}
	body, err := readBody(req)
	if err != nil {
		return nil, err
	}
	used, err := c.live(req.Context(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.send(req, body, used)
	if !isSuperseded(err) && (!isRefused(resp) || !c.mayReplace(used)) {
		return resp, err
	}
	if resp != nil {
		_, _ = io.CopyN(io.Discard, resp.Body, maxDrain)
		_ = resp.Body.Close()
	}
	next, err := c.live(req.Context(), used)
	if err != nil {
		return nil, err
	}
	resp, err = c.send(req, body, next)
	c.repeated(resp)
	return resp, err
}

// signs tells whether a request is one for the resource server. The text decides,
// as it does for op/sign.
func (c *Client) signs(req *http.Request) (bool, error) {
	c.mu.Lock()
	l, closed := c.lease, c.closed
	c.mu.Unlock()
	if l == nil || closed {
		var err error
		if l, err = c.live(req.Context(), nil); err != nil {
			return false, err
		}
	}
	if l.ResourceServer == "" {
		return false, fmt.Errorf("%s does not say where the grant's resource server is, so what to sign is not known; write resource_server to the grant", c.tokenPath)
	}
	return strings.HasPrefix(req.URL.String(), l.ResourceServer+"/"), nil
}

// readBody reads a request's body, which may be read only once, and closes it.
func readBody(req *http.Request) (string, error) {
	defer closeBody(req)
	if req.Body == nil {
		return "", nil
	}
	body, err := io.ReadAll(io.LimitReader(req.Body, maxBody+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("read the request's body: %w", err)
	case len(body) > maxBody:
		return "", errors.New("the request's body is longer than 1 MiB, which Vault does not sign")
	case !utf8.Valid(body): // Vault would get, and sign, another text
		return "", errors.New("the request's body is not JSON: it is not UTF-8")
	}
	return string(body), nil
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		_ = req.Body.Close()
	}
}

// send signs a request with a lease's token and sends it.
func (c *Client) send(req *http.Request, body string, l *lease) (*http.Response, error) {
	signed, err := c.sign(req, body, l)
	if err != nil {
		return nil, err
	}
	resp, err := c.base.RoundTrip(signed)
	if resp != nil {
		resp.Request = req // signed holds the token
	}
	return resp, err
}

// sign answers the request to send in place of a caller's, which it leaves alone.
func (c *Client) sign(req *http.Request, body string, l *lease) (*http.Request, error) {
	method := req.Method
	if method == "" {
		method = http.MethodGet
	}
	fields := map[string]any{"access_token": l.Value, "method": method, "url": req.URL.String()}
	if body != "" {
		fields["body"] = body
	}
	secret, err := c.vault.Logical().WriteWithContext(req.Context(), c.signPath, fields)
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", c.signPath, err)
	}
	if secret == nil || secret.Data["headers"] == nil {
		return nil, fmt.Errorf("write %s: the answer is none of an Open Payments secrets engine", c.signPath)
	}

	signed := req.Clone(req.Context())
	signed.Host = "" // what is signed is the URL's
	signed.TransferEncoding, signed.Trailer = nil, nil
	signed.Header = keptHeaders(req.Header)
	headers, _ := secret.Data["headers"].(map[string]any)
	for name, value := range headers {
		signed.Header.Set(name, fmt.Sprint(value))
	}
	text, _ := secret.Data["body"].(string)
	signed.Body, signed.GetBody, signed.ContentLength = http.NoBody, nil, int64(len(text))
	if text != "" {
		// Without GetBody, by which http.Transport would send it again: over HTTP/2 even
		// after answers that do not prove that nothing was done.
		signed.Body = io.NopCloser(strings.NewReader(text))
	}
	return signed, nil
}

// keptHeaders are those of a caller's headers that go with a signed request.
func keptHeaders(all http.Header) http.Header {
	kept := http.Header{}
	for name, values := range all {
		switch canonical := http.CanonicalHeaderKey(name); canonical {
		case "Authorization", "Signature", "Signature-Input", "Idempotency-Key", "X-Idempotency-Key":
		default:
			if !strings.HasPrefix(canonical, "Content-") {
				kept[name] = append([]string(nil), values...)
			}
		}
	}
	return kept
}

// isSuperseded tells whether op/sign has refused the token. All its refusals begin
// with the name of the field that they are about, which is a part of its contract.
func isSuperseded(err error) bool {
	var refusal *api.ResponseError
	return errors.As(err, &refusal) && refusal.StatusCode == http.StatusBadRequest &&
		len(refusal.Errors) > 0 && strings.HasPrefix(refusal.Errors[0], "access_token:")
}

// isRefused tells whether the resource server may have refused the token: it says
// 403 of a dead one, and other servers 401.
func isRefused(resp *http.Response) bool {
	return resp != nil && (resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden)
}

// mayReplace tells whether a token that the resource server refused may be
// replaced: it is already or will be in a moment, or there is hope that it helps.
func (c *Client) mayReplace(l *lease) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lease != l || c.flight != nil || !c.refusing.lasts()
}

// repeated learns from the answer to a repetition whether another token has helped.
func (c *Client) repeated(resp *http.Response) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case resp == nil:
	case isRefused(resp):
		c.refusing.begin()
	default:
		c.refusing.end()
	}
}
