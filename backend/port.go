// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gowebpki/jcs"
	openpayments "github.com/interledger/open-payments-go"
	as "github.com/interledger/open-payments-go/generated/authserver"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/rights"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/uri"
)

const (
	// patience is how long an answer is waited for that cannot be had twice.
	patience = 60 * time.Second

	maxAnswer = 1 << 20 // bytes
)

// port is the authorization server, and the documents of wallets, as the engine
// sees them. It signs as one client, through the Go SDK, but judges answers by
// their raw bytes: the SDK refuses answers that hold a perfectly good token.
type port struct {
	b      *Backend
	client *config
	typed  []string // hosts that an operator typed
}

// port makes requests as client c. Hosts typed into the grant's own fields may
// be reached wherever they are; so may those typed into config.
func (b *Backend) port(c *config, typed ...string) *port {
	typed = append(typed, hostsOf(c.WalletAddress)...)
	return &port{b: b, client: c, typed: append(typed, hostsOf(c.AllowedAuthServers...)...)}
}

// An outcome is what came of asking for a token: done, interaction, refused or
// failed.
type outcome interface{ outcome() }

// done: the server has made a new token. Nobody can ask for this answer again.
type done struct {
	Value    string
	Manage   string          // empty: the server named none
	Access   json.RawMessage // nil: the server named none
	Lifetime time.Duration   // 0: not said, or nothing to go by
	SentAt   time.Time       // when the request was sent
	Continue continuation
}

// interaction: the server wants the owner's consent first (OpenAPI
// interact-response).
type interaction struct {
	Continue continuation
	Wait     time.Duration // before the continuation may be used
	Redirect string        // what the owner opens
	Finish   string        // the server's part of the hash
}

// waiting: the owner has not decided yet.
type waiting struct {
	Continue continuation
	Wait     time.Duration
}

// refused: the server does not know the token any more, or could not check who
// asks: 401 invalid_client, or any 4xx invalid_rotation.
type refused struct{ failed }

// failed: anything else. Nothing is known about the token.
type failed struct {
	Origin  string
	Status  int    // 0: no answer
	Code    string // the server's error code, if any
	Timeout bool
	Cause   error // why it was not sent, if our own rules forbade it
}

func (done) outcome()        {}
func (interaction) outcome() {}
func (waiting) outcome()     {}
func (refused) outcome()     {}
func (failed) outcome()      {}

// Error names the server and the status, and never the server's own words nor
// the URL: it is an answer to Vault's clients, who match phrases.
func (f failed) Error() string {
	switch {
	case f.Cause != nil:
		return fmt.Sprintf("%s %s", f.Origin, f.Cause)
	case f.Status/100 == 2:
		return fmt.Sprintf("%s answered %d without what was asked for", f.Origin, f.Status)
	case f.Status != 0 && f.Code != "":
		return fmt.Sprintf("%s answered %d (%s)", f.Origin, f.Status, f.Code)
	case f.Status != 0:
		return fmt.Sprintf("%s answered %d", f.Origin, f.Status)
	case f.Timeout:
		return f.Origin + " did not answer in time"
	}
	return f.Origin + " could not be reached"
}

// gone tells whether a server has nothing left to cancel or revoke.
func (f failed) gone() bool {
	return f.Status == http.StatusUnauthorized || f.Status == http.StatusNotFound
}

// unknownClient tells whether the server may have been unable to find our key
// (OpenAPI error-invalid-client with 400): it has not looked at the token.
func (f failed) unknownClient() bool {
	return f.Status == http.StatusBadRequest && f.Code == "invalid_client"
}

// maybeHeard tells whether the server may have done what was asked for, although
// its answer does not say so.
func (f failed) maybeHeard() bool {
	return f.Status == 0 && f.Cause == nil || f.Status >= http.StatusInternalServerError || f.Status/100 == 2
}

// continuation is where a grant can be continued or cancelled (RFC 9635
// section 3.1).
type continuation struct {
	URL   string `json:"url,omitempty"`
	Token string `json:"token,omitempty"`
}

// rotate asks for a new token (OpenAPI post-token). It is sent once and waited
// for, for up to 60 s.
func (p *port) rotate(ctx context.Context, manage, token string) outcome {
	x := p.exchange(ctx, manage, patience)
	defer x.end()
	x.send(func(c *openpayments.AuthenticatedClient) error {
		_, err := c.Token.Rotate(x.ctx, openpayments.TokenRotateParams{URL: manage, AccessToken: token})
		return err
	})
	switch out := x.judge().(type) {
	case interaction, waiting: // no answers to a rotation
		return x.failure()
	default:
		return out
	}
}

// ask asks for a new grant (OpenAPI post-request). It says how the owner could be
// asked, which a server minds only if it wants to; a finish is where the owner's
// browser is sent afterwards. An answer that is not waited for would leave a
// grant behind that nobody could cancel.
func (p *port) ask(ctx context.Context, endpoint string, access json.RawMessage, f *finish) outcome {
	x := p.exchange(ctx, endpoint, patience)
	defer x.end()
	x.send(func(c *openpayments.AuthenticatedClient) error {
		interact := map[string]any{"start": []as.InteractRequestStart{as.InteractRequestStartRedirect}}
		if f != nil {
			interact["finish"] = f
		}
		text, err := json.Marshal(map[string]any{"access_token": map[string]any{"access": access}, "interact": interact})
		if err != nil {
			return err
		}
		var body as.GrantRequest
		if err := body.UnmarshalJSON(text); err != nil {
			return err
		}
		_, err = c.Grant.Request(x.ctx, openpayments.GrantRequestParams{URL: endpoint, RequestBody: body})
		return err
	})
	switch out := x.judge().(type) {
	case refused: // there is no token yet that it could refuse
		return out.failed
	case waiting:
		return x.failure()
	default:
		return out
	}
}

// finish is where the owner's browser goes after the interaction (OpenAPI
// interact-request).
type finish struct {
	Method as.InteractRequestFinishMethod `json:"method"`
	URI    string                         `json:"uri"`
	Nonce  string                         `json:"nonce"`
}

func newFinish(uri, nonce string) *finish {
	return &finish{Method: as.InteractRequestFinishMethodRedirect, URI: uri, Nonce: nonce}
}

// proceed continues an interactive grant with the reference that the owner's
// browser brought, or polls it without one (OpenAPI post-continue).
func (p *port) proceed(ctx context.Context, c continuation, ref string) outcome {
	x := p.exchange(ctx, c.URL, patience)
	defer x.end()
	x.send(func(sdk *openpayments.AuthenticatedClient) error {
		_, err := sdk.Grant.Continue(x.ctx, openpayments.GrantContinueParams{URL: c.URL, AccessToken: c.Token, InteractRef: ref})
		return err
	})
	switch out := x.judge().(type) {
	case refused:
		return out.failed
	case interaction:
		return x.failure()
	default:
		return out
	}
}

// cancel ends a grant and all its tokens (OpenAPI delete-continue). It may be
// repeated.
func (p *port) cancel(ctx context.Context, c continuation) error {
	x := p.exchange(ctx, c.URL, p.client.RequestTimeout)
	defer x.end()
	return x.end204(func(sdk *openpayments.AuthenticatedClient) error {
		return sdk.Grant.Cancel(x.ctx, openpayments.GrantCancelParams{URL: c.URL, AccessToken: c.Token})
	})
}

// revoke ends one token (OpenAPI delete-token). It may be repeated.
func (p *port) revoke(ctx context.Context, manage, token string) error {
	x := p.exchange(ctx, manage, p.client.RequestTimeout)
	defer x.end()
	return x.end204(func(sdk *openpayments.AuthenticatedClient) error {
		return sdk.Token.Revoke(x.ctx, openpayments.TokenRevokeParams{URL: manage, AccessToken: token})
	})
}

// walletDocument is what the engine reads in a wallet address document.
type walletDocument struct {
	PublicName     string `json:"publicName"`
	AuthServer     string `json:"authServer"`
	ResourceServer string `json:"resourceServer"`
}

// wallet fetches a wallet address document (OpenAPI get-wallet-address).
func (p *port) wallet(ctx context.Context, address string) (walletDocument, error) {
	var doc walletDocument
	x := p.exchange(ctx, address, p.client.RequestTimeout)
	defer x.end()
	x.send(func(c *openpayments.AuthenticatedClient) error {
		_, err := c.WalletAddress.Get(x.ctx, openpayments.WalletAddressGetParams{URL: address})
		return err
	})
	if x.status != http.StatusOK {
		return doc, x.failure()
	}
	if json.Unmarshal(x.body, &doc) != nil || doc.AuthServer == "" {
		return doc, fmt.Errorf("%s answered no wallet address document", x.origin)
	}
	return doc, nil
}

// keyPublished tells whether the client's key set holds our public key under
// our key id (OpenAPI get-wallet-address-keys). An error: it cannot be told now.
func (p *port) keyPublished(ctx context.Context) (bool, error) {
	key, err := publicJWK(p.client.KeyID, p.client.PrivateKey)
	if err != nil {
		return false, err
	}
	x := p.exchange(ctx, p.client.WalletAddress, p.client.RequestTimeout)
	defer x.end()
	x.send(func(c *openpayments.AuthenticatedClient) error {
		_, err := c.WalletAddress.GetKeys(x.ctx, openpayments.WalletAddressGetKeysParams{URL: p.client.WalletAddress})
		return err
	})
	if x.status == http.StatusNotFound {
		return false, nil
	}
	var set struct {
		Keys []struct{ Kid, X string } `json:"keys"`
	}
	if x.status != http.StatusOK {
		return false, x.failure()
	}
	if json.Unmarshal(x.body, &set) != nil {
		return false, fmt.Errorf("%s answered no key set", x.origin)
	}
	for _, k := range set.Keys {
		if k.Kid == p.client.KeyID && strings.TrimRight(k.X, "=") == key["x"] {
			return true, nil
		}
	}
	return false, nil
}

// exchange is one request and its raw answer. It is the transport of an SDK
// client made for this request alone.
type exchange struct {
	p      *port
	ctx    context.Context
	end    context.CancelFunc
	origin string

	sentAt time.Time
	status int
	body   []byte
	err    error // of the transport or of our own rules
}

func (p *port) exchange(ctx context.Context, target string, limit time.Duration) *exchange {
	x := &exchange{p: p, origin: uri.OriginOf(target)}
	x.ctx, x.end = p.b.within(ctx, limit)
	return x
}

// send makes the SDK send the request. What the SDK thinks of the answer is of
// interest only where there is none.
func (x *exchange) send(call func(*openpayments.AuthenticatedClient) error) {
	c, err := openpayments.NewAuthenticatedClient(x.p.client.WalletAddress, x.p.client.PrivateKey, x.p.client.KeyID,
		openpayments.WithPreSignHook(compactBody),
		openpayments.WithHTTPClientAuthed(&http.Client{
			Transport:     x,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}))
	if err == nil {
		err = call(c)
	}
	if x.status == 0 && x.err == nil {
		x.err = err
	}
}

// RoundTrip sends a request on the transport that its target is allowed, and
// keeps the whole answer.
func (x *exchange) RoundTrip(req *http.Request) (*http.Response, error) {
	where, err := reachOf(req.URL, x.p.typed)
	if err != nil {
		x.err = err
		return nil, err
	}
	x.sentAt = x.p.b.clock.Now()
	resp, err := x.p.b.transports.get(where, x.p.client.CACert).RoundTrip(req.WithContext(x.ctx))
	if err != nil {
		x.err = err
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err == nil && len(body) > maxAnswer {
		err = errors.New("the answer is larger than 1 MiB")
	}
	if err != nil {
		x.err = err
		return nil, err
	}
	x.status, x.body, x.err = resp.StatusCode, body, nil
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

// signer signs requests to resource servers as one client, and sends nothing.
type signer struct {
	sdk *openpayments.AuthenticatedClient
}

func newSigner(c *config) (signer, error) {
	sdk, err := openpayments.NewAuthenticatedClient(c.WalletAddress, c.PrivateKey, c.KeyID,
		openpayments.WithHTTPClientAuthed(&http.Client{Transport: unsent{}}))
	if err != nil {
		return signer{}, errors.New("the client's key cannot be used") // the SDK's error may hold a part of it
	}
	return signer{sdk}, nil
}

// headers answers the headers to send a request with (RFC 9421; RFC 9635 section
// 7.3.1). The body has to be in the form that servers verify.
func (s signer) headers(ctx context.Context, r rights.Request, token string) (map[string]string, error) {
	var body io.Reader
	names := []string{"Authorization", "Signature-Input", "Signature"}
	if r.Body != "" {
		body = strings.NewReader(r.Body)
		names = append(names, "Content-Type", "Content-Length", "Content-Digest")
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, r.URL, body)
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

// unsent is a transport that sends nothing: what the SDK has set is in the
// answer's request.
type unsent struct{}

func (unsent) RoundTrip(req *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: http.NoBody, Request: req}, nil
}

// compactBody puts a request's body into the one form that every server signs
// alike: some compute the digest over JSON.stringify(JSON.parse(body)), which
// is what RFC 8785 writes for our bodies, and what json.Marshal does not.
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

// judge reads an answer to a request for a token. It is lenient: what holds a
// token is stored first and judged after.
func (x *exchange) judge() outcome {
	var answer struct {
		AccessToken json.RawMessage            `json:"access_token"`
		Interact    map[string]json.RawMessage `json:"interact"`
		Continue    json.RawMessage            `json:"continue"`
	}
	if x.status/100 != 2 {
		f := x.failure()
		if f.Status == http.StatusUnauthorized && f.Code == "invalid_client" || f.Status/100 == 4 && f.Code == "invalid_rotation" {
			return refused{f}
		}
		return f
	}
	_ = json.Unmarshal(x.body, &answer) // member by member, as far as it goes
	next, wait := readContinuation(answer.Continue)
	if token, ok := readToken(answer.AccessToken); ok {
		token.SentAt, token.Continue = x.sentAt, next
		return token
	}
	if answer.Interact != nil {
		out := interaction{Continue: next, Wait: wait}
		_ = json.Unmarshal(answer.Interact["redirect"], &out.Redirect)
		_ = json.Unmarshal(answer.Interact["finish"], &out.Finish)
		return out
	}
	if next.URL != "" {
		return waiting{next, wait}
	}
	return x.failure()
}

// readToken reads the access_token of an answer, member by member: a member of
// the wrong kind counts as absent. ok: there is a value.
func readToken(raw json.RawMessage) (t done, ok bool) {
	var members map[string]json.RawMessage
	if json.Unmarshal(raw, &members) != nil {
		return t, false
	}
	_ = json.Unmarshal(members["value"], &t.Value)
	_ = json.Unmarshal(members["manage"], &t.Manage)
	var rights []json.RawMessage
	if json.Unmarshal(members["access"], &rights) == nil && rights != nil {
		t.Access = members["access"]
	}
	t.Lifetime = readLifetime(members["expires_in"])
	return t, t.Value != ""
}

// readLifetime reads expires_in, a number of seconds or the text of one; 0 if
// there is nothing to go by: none, zero, negative, or more than ten years.
func readLifetime(raw json.RawMessage) time.Duration {
	text := strings.Trim(string(raw), `" `)
	seconds, err := strconv.ParseFloat(text, 64)
	if err != nil || !(seconds > 0) || seconds > maxDuration.Seconds() {
		return 0
	}
	return time.Duration(math.Floor(seconds * float64(time.Second)))
}

func readContinuation(raw json.RawMessage) (continuation, time.Duration) {
	var c struct {
		URI         string `json:"uri"`
		AccessToken struct {
			Value string `json:"value"`
		} `json:"access_token"`
		Wait json.RawMessage `json:"wait"`
	}
	if json.Unmarshal(raw, &c) != nil {
		return continuation{}, 0
	}
	return continuation{URL: c.URI, Token: c.AccessToken.Value}, readLifetime(c.Wait)
}

// failure describes an answer that is not what was asked for, or that none came.
func (x *exchange) failure() failed {
	f := failed{Origin: x.origin, Status: x.status}
	if x.status != 0 {
		f.Code = errorCode(x.body)
		return f
	}
	for _, rule := range []error{errNotPublic, errPlainHTTP} {
		if errors.Is(x.err, rule) {
			f.Cause = rule
		}
	}
	var timeout net.Error
	f.Timeout = x.ctx.Err() != nil || errors.As(x.err, &timeout) && timeout.Timeout()
	return f
}

// errorCode reads error.code, or RFC 9635's plain error; only the codes of the
// documents are of use, and anything else is the server's own words.
func errorCode(body []byte) string {
	var nested struct {
		Error struct{ Code string } `json:"error"`
	}
	var plain struct{ Error string }
	code := ""
	if json.Unmarshal(body, &nested) == nil {
		code = nested.Error.Code
	} else if json.Unmarshal(body, &plain) == nil {
		code = plain.Error
	}
	switch code {
	case "invalid_client", "invalid_request", "request_denied", "too_fast", "invalid_continuation", "invalid_rotation", "user_denied", "unknown_interaction":
		return code
	}
	return ""
}

// end204 sends a request that ends something; nil: it has ended, now or before.
func (x *exchange) end204(call func(*openpayments.AuthenticatedClient) error) error {
	x.send(call)
	if x.status/100 == 2 {
		return nil
	}
	return x.failure()
}

// sameOrigin tells whether a URL lies on an origin, or on one that config allows.
func (c *config) sameOrigin(target, home string) bool {
	o := uri.OriginOf(target)
	if o == home && o != "" {
		return true
	}
	for _, allowed := range c.AllowedAuthServers {
		if o == allowed {
			return true
		}
	}
	return false
}
