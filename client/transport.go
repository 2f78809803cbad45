// SPDX-License-Identifier: MPL-2.0

package client

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/hashicorp/vault/api"
)

const (
	maxBody = 1 << 20 // bytes; the engine signs no longer body
	// maxDrain limits how many bytes of a discarded response are read so that its connection can be
	// reused.
	maxDrain = 64 << 10
)

// RoundTrip sends a request. If its URL begins with the token's resource_server, compared as a
// string, Vault signs the request, and it is sent with the headers and body that Vault returns,
// which replace Authorization, Signature, Signature-Input, Digest, Repr-Digest and Content-*.
// Headers that are about a connection (RFC 9110, section 7.6.1), Host and Expect are dropped. The
// body of such a request is JSON of at most 1 MiB. Any other request is forwarded unchanged and
// without a token; one whose URL is not where it would be sent, because of [url.URL.Opaque] for
// example, is refused. (The response to the first read of the token says where the resource server
// is, so the first request reads the token, whatever its URL.)
//
// If op/sign/NAME (op/creds/NAME/sign for a role) says that the token is not the current one or its
// ticket not good, or the resource server returns 401 or 403, the request is signed and sent once
// more, with a newer token if there is one already, or else with the result of another read;
// RoundTrip returns the second response. If that was 401 or 403 as well, the token is not to blame,
// and for about a second, doubling up to half a minute, RoundTrip returns a 401 or 403 at once: a
// grant whose limits are used up also gets a 403, and each new token kills the one that other
// requests use.
//
// Requests that are sent at the same time are signed together, in one call of op/sign: those wait
// that find a call in progress, for 100 ms at most before the next call starts. Each gets its own
// error, as if it had gone alone. The Vault token needs no further capability; where its policy
// forbids batch_input, each request has a call of its own.
//
// After a transport error nothing is sent again, because a POST may have paid. For the same reason
// Idempotency-Key, which Open Payments does not know, is removed: http.Transport takes it as
// permission to retry a POST.
//
// Other errors of op/sign/NAME are returned, with Vault's message in an [api.ResponseError]. No
// error contains a token.
func (c *Client) RoundTrip(req *http.Request) (*http.Response, error) {
	err := checkURL(req.URL)
	signed := false
	if err == nil {
		signed, err = c.needsSignature(req)
	}
	if err != nil {
		closeBody(req)
		return nil, err
	}
	if !signed {
		return c.base.RoundTrip(req)
	}
	body, err := readBody(req)
	if err != nil {
		return nil, err
	}
	used, err := c.usableLease(req.Context(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.send(req, body, used)
	switch {
	case isSuperseded(err):
		c.noteReplaced(used)
	case !isUnauthorized(resp) || !c.mayReplace(used):
		return resp, err
	}
	if resp != nil {
		_, _ = io.CopyN(io.Discard, resp.Body, maxDrain)
		_ = resp.Body.Close()
	}
	next, err := c.usableLease(req.Context(), used)
	if err != nil {
		return nil, err
	}
	resp, err = c.send(req, body, next)
	c.noteRetry(resp)
	return resp, err
}

// checkURL returns an error if a URL's string is not where http.Transport sends the request, which
// takes the host and the rest from other fields. The string is what is compared and signed, so the
// token would go elsewhere.
func checkURL(u *url.URL) error {
	if u == nil {
		return errors.New("the request has no URL")
	}
	parsed, err := url.Parse(u.String())
	if err != nil || u.Opaque != "" || parsed.Scheme != u.Scheme || parsed.Host != u.Host ||
		parsed.RequestURI() != u.RequestURI() {
		return errors.New("the request would not be sent to what its URL says: " +
			"leave URL.Opaque empty, and set the URL to the result of url.Parse")
	}
	return nil
}

// needsSignature reports whether a request is for the resource server. Like op/sign, it compares
// strings.
func (c *Client) needsSignature(req *http.Request) (bool, error) {
	c.mu.Lock()
	l, closed := c.lease, c.closed
	c.mu.Unlock()
	if l == nil || closed {
		var err error
		if l, err = c.usableLease(req.Context(), nil); err != nil {
			return false, err
		}
	}
	if l.ResourceServer == "" {
		return false, fmt.Errorf("%s returns no resource_server, so which requests to sign is unknown; "+
			"write resource_server to the grant", c.tokenPath)
	}
	return strings.HasPrefix(req.URL.String(), l.ResourceServer+"/"), nil
}

// readBody reads a request's body, once because it may not be readable again, and closes it.
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
	case !utf8.Valid(body): // as JSON to Vault it would become, and be signed as, another string
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
		resp.Request = req // signed contains the token
	}
	return resp, err
}

// sign returns a signed copy of a request, which it does not change.
func (c *Client) sign(req *http.Request, body string, l *lease) (*http.Request, error) {
	method := req.Method
	if method == "" {
		method = http.MethodGet
	}
	item := map[string]any{"method": method, "url": req.URL.String()}
	if body != "" {
		item["body"] = body
	}
	data, err := c.signatures.sign(req.Context(), l, item)
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", c.signPath, err)
	}

	signed := req.Clone(req.Context())
	signed.Host = "" // the signature covers the URL's host
	signed.TransferEncoding, signed.Trailer = nil, nil
	signed.Header = forwardedHeaders(req.Header)
	headers, _ := data["headers"].(map[string]any)
	for name, value := range headers {
		signed.Header.Set(name, fmt.Sprint(value))
	}
	// Without GetBody, with which http.Transport would retry: over HTTP/2 even after responses that
	// do not prove that nothing was done.
	signed.GetBody = nil
	setBody(signed, data["body"])
	return signed, nil
}

// setBody makes the body that Vault returned, if any, the request's.
func setBody(req *http.Request, body any) {
	text, _ := body.(string)
	req.Body, req.ContentLength = http.NoBody, int64(len(text))
	if text != "" {
		req.Body = io.NopCloser(strings.NewReader(text))
	}
}

// droppedHeaders are those of the caller's headers that a signed request does not keep, in addition
// to those that Connection names and to Content-*.
var droppedHeaders = []string{
	// What Vault returns, or what describes the body as it was before Vault returned it.
	"Authorization", "Signature", "Signature-Input", "Digest", "Repr-Digest",
	// http.Transport takes them as permission to retry a POST.
	"Idempotency-Key", "X-Idempotency-Key",
	// What is about the caller's connection, or about how the body is sent, which is up to
	// http.Transport. Spelled otherwise than http.Transport does, it would send them twice.
	"Connection", "Expect", "Host", "Http2-Settings", "Keep-Alive", "Proxy-Authenticate",
	"Proxy-Authorization", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

// forwardedHeaders returns those of the caller's headers that a signed request keeps.
func forwardedHeaders(all http.Header) http.Header {
	dropped := append(connectionOptions(all), droppedHeaders...)
	kept := http.Header{}
	for name, values := range all {
		canonical := http.CanonicalHeaderKey(name)
		if !slices.Contains(dropped, canonical) && !strings.HasPrefix(canonical, "Content-") {
			kept[name] = slices.Clone(values)
		}
	}
	return kept
}

// connectionOptions returns the names of the headers that are for the next hop alone because
// Connection names them.
func connectionOptions(all http.Header) (names []string) {
	for name, values := range all {
		if http.CanonicalHeaderKey(name) != "Connection" {
			continue
		}
		for option := range strings.SplitSeq(strings.Join(values, ","), ",") {
			names = append(names, http.CanonicalHeaderKey(strings.TrimSpace(option)))
		}
	}
	return names
}

// isSuperseded reports whether Vault refused to sign because the token is not the current one, or its
// ticket not good. All errors of op/sign begin with the name of the field that they are about; that
// is part of its contract.
func isSuperseded(err error) bool {
	var refusal *api.ResponseError
	if !errors.As(err, &refusal) || refusal.StatusCode != http.StatusBadRequest || len(refusal.Errors) == 0 {
		return false
	}
	field, _, _ := strings.Cut(refusal.Errors[0], ":")
	return field == "access_token" || field == "signing_ticket"
}

// isUnauthorized reports whether the resource server may have rejected the token: Rafiki returns
// 403 for a dead one, and other servers 401.
func isUnauthorized(resp *http.Response) bool {
	return resp != nil && (resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden)
}

// mayReplace reports whether to try another token after the resource server rejected this one: if
// it has been or is being replaced anyway, or if a new one may help.
func (c *Client) mayReplace(l *lease) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lease != l || c.refreshing != nil || !c.retries.active()
}

// noteReplaced calls Options.TokenReplaced once for a lease whose token is not the grant's current
// one, unless the Client has replaced it, or is about to. The grant of a role has no other reader.
func (c *Client) noteReplaced(l *lease) {
	c.mu.Lock()
	first := !c.withTicket && c.lease == l && c.refreshing == nil && !l.replaced
	l.replaced = true
	c.mu.Unlock()
	if first {
		c.replaced()
	}
}

// noteRetry learns from the response to the second attempt whether another token helped.
func (c *Client) noteRetry(resp *http.Response) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case resp == nil:
	case isUnauthorized(resp):
		c.retries.start()
	default:
		c.retries.reset()
	}
}
