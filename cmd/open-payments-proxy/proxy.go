// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/hashicorp/go-hclog"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/client"
)

const (
	maxBody = 1 << 20 // bytes of a request's body, and of an answer that is read before it is passed on

	// bodyTimeout limits how long a caller may take to send a request's body.
	bodyTimeout = 30 * time.Second
)

// forwarded are the headers of a request that go along. All others are about the caller's
// connection, or made anew by Vault.
var forwarded = []string{"Accept", "User-Agent", "Traceparent", "Tracestate"}

// source is where the tokens and signatures of one grant come from.
type source interface {
	client.TokenSource
	http.RoundTripper
}

// proxy sends its callers' requests to the resource servers of grants.
type proxy struct {
	callers
	sources map[string]source // by the grant's name
	wallets *walletDocuments
	limits  limits
	log     hclog.Logger
	metrics *metrics
	now     func() time.Time
}

// exchange is one request and what becomes of it: what the log and the metrics tell.
type exchange struct {
	*sending
	method string
	path   string // without the query, which holds a wallet address
	grant  string // empty until the caller has named one
	status int
	code   string // of a failure
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	begun := time.Now()
	x := &exchange{sending: newSending(r.Context(), p.limits), method: r.Method, path: r.URL.EscapedPath()}
	defer func() {
		x.end()
		p.metrics.count(x, time.Since(begun))
		p.logOutcome(x, time.Since(begun))
	}()
	p.metrics.inFlight.Inc()
	defer p.metrics.inFlight.Dec()
	if err := p.forward(x, w, r); err != nil {
		x.fail(w, err)
	}
}

// fail answers with a failure.
func (x *exchange) fail(w http.ResponseWriter, f *failure) {
	x.status, x.code = f.status, f.code
	if f.status != statusGone {
		f.write(w)
	}
}

// forward sends a request to the wallet and its answer to the caller, or returns why it did not.
func (p *proxy) forward(x *exchange, w http.ResponseWriter, r *http.Request) *failure {
	if refused := refuseBrowser(r); refused != nil {
		return refused
	}
	anonymous := len(r.Header.Values("Authorization")) == 0
	if r.Method == http.MethodGet && anonymous && p.wallets.serves(x, r.URL.EscapedPath()) {
		return p.wallets.answer(x, w, r)
	}
	grant, refused := p.identify(r.Header.Values("Authorization"))
	if refused != nil {
		return refused
	}
	x.grant = grant
	body, refused := readBody(w, r)
	if refused != nil {
		return refused
	}
	if refused := refuseType(r.Method, r.Header.Values("Content-Type"), body); refused != nil {
		return refused
	}
	target, refused := p.target(x, r.URL)
	if refused != nil {
		return refused
	}
	out := r.WithContext(x)
	out.Body, out.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	p.reverseProxy(x, target).ServeHTTP(w, out)
	return nil
}

// target returns the URL of a request at the wallet. It waits for the grant's token, because Vault
// tells with it where the resource server is.
func (p *proxy) target(x *exchange, received *url.URL) (*url.URL, *failure) {
	token, err := p.sources[x.grant].Token(x)
	if err != nil {
		return nil, explain(err, context.Cause(x), false, x.method)
	}
	if token.ResourceServer == "" {
		return nil, unavailableFor("no_resource_server",
			"the grant has no resource_server: write it to the grant in Vault")
	}
	target, isOperation, err := targetURL(token.ResourceServer, received.EscapedPath(), received.RawQuery)
	switch {
	case err != nil:
		return nil, badRequest("path", "the path and the query do not form a URL")
	case !isOperation:
		return nil, noSuchPath()
	}
	return target, nil
}

// reverseProxy returns what sends one request to its target.
func (p *proxy) reverseProxy(x *exchange, target *url.URL) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Transport: p.sources[x.grant],
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL, r.Out.Host = target, ""
			r.Out.Header = http.Header{}
			for _, name := range forwarded {
				if values := r.In.Header.Values(name); len(values) > 0 {
					r.Out.Header[name] = values
				}
			}
			if r.Out.Header.Get("User-Agent") == "" {
				r.Out.Header.Set("User-Agent", "") // not Go's own
			}
		},
		ModifyResponse: func(resp *http.Response) error {
			x.answered()
			x.status = resp.StatusCode
			return bufferBody(resp)
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			x.fail(w, explain(err, context.Cause(x), x.onItsWay(), x.method))
		},
		ErrorLog: p.log.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
	}
}

// bufferBody reads the body of an answer, so that an answer that breaks off is known before the
// caller is told anything. The rest of one that is longer than maxBody is read as it is passed on.
func bufferBody(resp *http.Response) error {
	start, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return err
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(start), resp.Body), resp.Body}
	return nil
}

// readBody reads the body of a request.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, *failure) {
	connection := http.NewResponseController(w)
	// A connection of a test may not have deadlines.
	_ = connection.SetReadDeadline(time.Now().Add(bodyTimeout))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	_ = connection.SetReadDeadline(time.Time{})
	var tooLong *http.MaxBytesError
	switch {
	case errors.As(err, &tooLong):
		return nil, &failure{
			status: http.StatusRequestEntityTooLarge, code: "body_too_long", proxyError: requestError,
			description: "the body is longer than 1 MiB",
		}
	case err != nil:
		return nil, badRequest("body", "the body cannot be read to its end")
	case !utf8.Valid(body):
		return nil, badRequest("body", "the body is not JSON: it is not UTF-8")
	}
	return body, nil
}

// logOutcome writes the one line of a request: without its token, its query and its body.
func (p *proxy) logOutcome(x *exchange, took time.Duration) {
	level, fields := hclog.Info, []any{
		"method", x.method, "path", x.path, "grant", x.grant, "status", x.status,
		"took", took.Round(time.Millisecond).String(),
	}
	if x.code != "" {
		level, fields = hclog.Warn, append(fields, "error", x.code)
	}
	if x.caller.Err() != nil {
		fields = append(fields, "caller", "hung up")
	}
	p.log.Log(level, "request", fields...)
}

// noticeInterval is the least time between two log lines about another reader of a grant.
const noticeInterval = time.Minute

// tellReplaced returns what counts that another reader has replaced the token of a grant. It is
// logged at most once a minute.
func (p *proxy) tellReplaced(grant string) func() {
	var mu sync.Mutex
	var logged time.Time
	unlogged := 0
	return func() {
		p.metrics.replaced.WithLabelValues(grant).Inc()
		mu.Lock()
		defer mu.Unlock()
		unlogged++
		if now := p.now(); logged.IsZero() || now.Sub(logged) >= noticeInterval {
			p.log.Warn("another reader has replaced the token of a grant: give it shared=true, or each reader "+
				"its own; of a shared grant this is to be expected once in a token's life",
				"grant", grant, "times", unlogged)
			logged, unlogged = now, 0
		}
	}
}
