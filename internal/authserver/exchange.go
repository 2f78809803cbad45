// SPDX-License-Identifier: MPL-2.0

package authserver

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/gowebpki/jcs"
	openpayments "github.com/interledger/open-payments-go"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/deadline"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/uri"
)

const maxAnswer = 1 << 20 // bytes

// exchange is one request and its raw answer. It is the transport of an SDK client that is made for
// this request alone.
type exchange struct {
	client *Client
	ctx    context.Context
	stop   context.CancelFunc
	origin string

	sentAt time.Time
	status int // 0: no answer
	body   []byte
	err    error // of the transport or of our own rules
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
		openpayments.WithPreSignHook(compactBody),
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

// delete sends a request that ends something. A nil error means that the server has ended it.
func (x *exchange) delete(call func(*openpayments.AuthenticatedClient) error) error {
	x.send(call)
	if x.status/100 == 2 {
		return nil
	}
	return x.failure()
}

// RoundTrip sends a request on the transport that its target is allowed, and keeps the whole
// answer.
func (x *exchange) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := x.roundTrip(req)
	x.err = err
	return resp, err
}

func (x *exchange) roundTrip(req *http.Request) (*http.Response, error) {
	where, err := reachOf(req.URL, x.client.operatorHosts)
	if err != nil {
		return nil, err
	}
	x.sentAt = x.client.network.clock.Now()
	resp, err := x.client.network.transports.get(where, x.client.CACert).RoundTrip(req.WithContext(x.ctx))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err == nil && len(body) > maxAnswer {
		err = errors.New("the answer is larger than 1 MiB")
	}
	if err != nil {
		return nil, err
	}
	x.status, x.body = resp.StatusCode, body
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

// compactBody puts a request's body into the one form that every server signs alike: some compute
// the digest over JSON.stringify(JSON.parse(body)), which is what RFC 8785 writes for our bodies,
// and what json.Marshal does not.
func compactBody(req *http.Request) {
	if req.Body == nil || req.Body == http.NoBody {
		return
	}
	body, err := io.ReadAll(req.Body)
	if err == nil {
		if compact, err := jcs.Transform(body); err == nil {
			body = compact
		}
	}
	req.ContentLength = int64(len(body))
	if req.Header.Get("Content-Length") != "" {
		req.Header.Set("Content-Length", strconv.Itoa(len(body)))
	}
	req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	req.Body, _ = req.GetBody()
}

// failure describes an answer that is not what was asked for, or that there is none.
func (x *exchange) failure() RequestFailed {
	f := RequestFailed{Origin: x.origin, Status: x.status}
	if x.status != 0 {
		f.Code = errorCode(x.body)
		return f
	}
	for _, rule := range []error{errNotPublic, errPlainHTTP} {
		if errors.Is(x.err, rule) {
			f.Rule = rule
		}
	}
	var timeout net.Error
	f.Timeout = x.ctx.Err() != nil || errors.As(x.err, &timeout) && timeout.Timeout()
	return f
}
