// SPDX-License-Identifier: MPL-2.0

package authserver

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/gowebpki/jcs"
	openpayments "github.com/interledger/open-payments-go"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/deadline"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/uri"
)

// exchange is one request and its raw answer. It is the transport of an SDK client that is made for
// this request alone.
type exchange struct {
	client *Client
	ctx    context.Context
	stop   context.CancelFunc
	origin string
	path   string // of a URL that an operator typed; empty: errors name the origin only

	clientForm clientForm // how a grant request names the client

	progress progress
	sentAt   time.Time
	status   int // 0: no answer
	location *url.URL
	body     body
	err      error // of the transport or of our own rules
}

func (c *Client) exchange(ctx context.Context, target string, limit time.Duration) *exchange {
	x := &exchange{client: c, origin: uri.OriginOf(target)}
	x.ctx, x.stop = deadline.After(ctx, c.network.clock, limit)
	return x
}

// send makes the SDK send the request. What the SDK makes of the answer only matters where there is
// none.
func (x *exchange) send(call func(*openpayments.AuthenticatedClient) error) {
	sdk, err := openpayments.NewAuthenticatedClient(x.client.WalletAddress, x.client.PrivateKey, x.client.KeyID,
		openpayments.WithPreSignHook(x.prepareBody),
		openpayments.WithHTTPClientAuthed(&http.Client{
			Transport:     x,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}))
	if err == nil {
		err = call(sdk)
	}
	if x.status == 0 && x.err == nil {
		x.err = err
	}
}

// delete sends a request that ends something. A nil error means that the server has ended it: it
// says so without a word, so that a maintenance page is not taken for it.
func (x *exchange) delete(call func(*openpayments.AuthenticatedClient) error, gone func(RequestFailed) bool) error {
	x.send(call)
	if x.status/100 == 2 && x.body.isEmpty() {
		return nil
	}
	f := x.failure()
	f.Gone = gone(f)
	return f
}

// RoundTrip sends a request on the transport that its target is allowed, and keeps the whole
// answer.
func (x *exchange) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := x.roundTrip(req)
	x.err = err
	return resp, err
}

func (x *exchange) roundTrip(req *http.Request) (*http.Response, error) {
	where, err := x.client.reachOf(req.URL)
	if err != nil {
		return nil, err
	}
	req = req.Clone(x.progress.record(x.ctx))
	// Servers verify what the signature covers, and this it does not cover.
	req.Header.Set("Accept-Encoding", "identity")
	x.sentAt = x.client.network.clock.Now()
	out := egress{caCert: x.client.CACert, proxy: x.client.EgressProxy}
	resp, err := x.client.network.transports.get(where, out).RoundTrip(req)
	if err != nil {
		return nil, x.progress.stopped(err, out.proxy != "" && where != reachLoopback)
	}
	defer resp.Body.Close()
	x.body = readBody(resp.Body, resp.Header.Get("Content-Encoding"))
	x.status = resp.StatusCode
	x.location, _ = resp.Location()
	resp.Body = io.NopCloser(bytes.NewReader(x.body.text))
	return resp, nil
}

// prepareBody puts a request's body into the one form that every server signs alike: some compute
// the digest over JSON.stringify(JSON.parse(body)), which is what RFC 8785 writes for our bodies,
// and what json.Marshal does not.
func (x *exchange) prepareBody(req *http.Request) {
	if req.Body == nil || req.Body == http.NoBody {
		return
	}
	content, err := io.ReadAll(req.Body)
	if err == nil {
		if x.clientForm == clientString {
			content = withClientString(content, x.client.WalletAddress)
		}
		if compact, err := jcs.Transform(content); err == nil {
			content = compact
		}
	}
	req.ContentLength = int64(len(content))
	if req.Header.Get("Content-Length") != "" {
		req.Header.Set("Content-Length", strconv.Itoa(len(content)))
	}
	req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }
	req.Body, _ = req.GetBody()
}

// failure describes an answer that is not what was asked for, or that there is none.
func (x *exchange) failure() RequestFailed {
	f := RequestFailed{Origin: x.origin, Path: x.path, Status: x.status}
	if x.status != 0 {
		f.Unreadable = x.status/100 == 2 && !x.body.json && !x.body.isEmpty()
		f.Timeout = f.Unreadable && x.ctx.Err() != nil
		f.cause = x.answerCause(f)
		if x.body.json {
			e := readErrorAnswer(x.body.text)
			f.Code, f.HasCode, f.badSignature = e.known(), e.code != "", e.aboutSignature()
		}
		return f
	}
	for _, rule := range []error{errNotPublic, errPlainHTTP} {
		if errors.Is(x.err, rule) {
			f.Rule = rule
		}
	}
	f.Timeout = x.ctx.Err() != nil || isTimeout(x.err)
	f.unsent = true
	if n, sent := errors.AsType[*noAnswerError](x.err); sent {
		f.unsent = !n.heard()
		f.late = n.connected && f.Timeout
		f.cause = classify(n).tell(n.proxied)
		if n.atProxy {
			f.cause = proxyTrouble(x.client.EgressProxy, n)
		}
	}
	return f
}

// answerCause returns why an answer is not what was asked for, as far as the server's own words need
// not be known for that.
func (x *exchange) answerCause(f RequestFailed) string {
	switch {
	case f.Unreadable:
		return unreadableBecause(x.body.err)
	case x.body.json:
		return ""
	case f.Status == http.StatusBadRequest && strings.HasPrefix(f.Origin, "http:"):
		return "if that is a TLS port, write https"
	case x.progress.certificateWanted.Load() && (f.Status == http.StatusBadRequest || f.Status == http.StatusForbidden):
		return "it asked for a client certificate, and this engine has none"
	}
	return ""
}

// redirect returns the address that the server redirects to, without its query; empty if it names
// none that somebody could write in the place of the one that was asked.
func (x *exchange) redirect() string {
	if x.location == nil || !x.failure().IsRedirect() {
		return ""
	}
	to := *x.location
	to.RawQuery, to.ForceQuery = "", false
	address, err := ParseWalletAddress(to.String())
	if err != nil || len(address) > maxRedirect || mayHoldSecret(to.EscapedPath()) {
		return ""
	}
	return address
}

// maxRedirect is how long an address may be that an error names.
const maxRedirect = 256

// pathOf returns the path of a URL that an operator typed, as errors name it; empty if it is the
// root. It leaves out what may be a secret, because a grant's own URL may have been typed by mistake.
func pathOf(typed string) string {
	u, err := url.Parse(typed)
	if err != nil || u.Path == "/" {
		return ""
	}
	segments := strings.Split(u.EscapedPath(), "/")
	for i, segment := range segments {
		if mayHoldSecret(segment) {
			segments[i] = "…"
		}
	}
	return strings.Join(segments, "/")
}

var longWord = regexp.MustCompile(`[\w%-]{20,}`)

// mayHoldSecret reports whether a path has a long word with a digit in it, as the ids in a grant's
// URLs and tokens are, and people's wallet addresses are not.
func mayHoldSecret(path string) bool {
	for _, word := range longWord.FindAllString(path, -1) {
		if strings.ContainsAny(word, "0123456789") {
			return true
		}
	}
	return false
}
