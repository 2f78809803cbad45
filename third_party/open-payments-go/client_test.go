// SPDX-License-Identifier: MPL-2.0

package openpayments_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	openpayments "github.com/interledger/open-payments-go"
	as "github.com/interledger/open-payments-go/generated/authserver"
	was "github.com/interledger/open-payments-go/generated/walletaddressserver"
)

const (
	keyID         = "key-1"
	walletAddress = "https://wallet.example/client"
	tokenJSON     = `{"value":"t2","manage":"https://auth.example/token/2","expires_in":600,"access":[{"type":"quote",` +
		`"actions":["create"]}]}`
	continueJSON = `{"access_token":{"value":"c1"},"uri":"https://auth.example/continue/1","wait":5}`
)

func newKey(t *testing.T) (public ed25519.PublicKey, text string) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return public, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func newClient(t *testing.T, key string,
	opts ...openpayments.AuthenticatedClientOption) *openpayments.AuthenticatedClient {
	t.Helper()
	c, err := openpayments.NewAuthenticatedClient(walletAddress, key, keyID, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func grantRequest(t *testing.T, text string) (r as.GrantRequest) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestSignedRequests(t *testing.T) {
	public, key := newKey(t)
	tests := map[string]struct {
		call         func(context.Context, *openpayments.AuthenticatedClient, string) (any, error)
		status       int
		answer       string
		method, path string
		token        string
		body         string
		covered      []string
		want         string // the result as JSON
	}{
		"rotate": {
			call: func(ctx context.Context, c *openpayments.AuthenticatedClient, server string) (any, error) {
				return c.Token.Rotate(ctx, openpayments.TokenRotateParams{URL: server + "/token/1?a=%20b&c", AccessToken: "t1"})
			},
			status: 200, answer: `{"access_token":` + tokenJSON + `}`,
			method: "POST", path: "/token/1?a=%20b&c", token: "GNAP t1", covered: withToken,
			want: `{"access":[{"type":"quote","actions":["create"]}],"expires_in":600,` +
				`"manage":"https://auth.example/token/2","value":"t2"}`,
		},
		"revoke": {
			call: func(ctx context.Context, c *openpayments.AuthenticatedClient, server string) (any, error) {
				return nil, c.Token.Revoke(ctx, openpayments.TokenRevokeParams{URL: server + "/token/1", AccessToken: "t1"})
			},
			status: 204, method: "DELETE", path: "/token/1", token: "GNAP t1", covered: withToken, want: `null`,
		},
		"request": {
			call: func(ctx context.Context, c *openpayments.AuthenticatedClient, server string) (any, error) {
				return c.Grant.Request(ctx, openpayments.GrantRequestParams{URL: server, RequestBody: grantRequest(t,
					`{ "access_token": {"access": [{"type": "quote", "actions": ["create"]}]}, "client": null,`+
						` "interact": {"start": ["redirect"], "finish": {"method": "redirect", "uri": "https://app.example/?a&b",`+
						` "nonce": "n"}} }`)})
			},
			status: 200, answer: `{"interact":{"redirect":"https://auth.example/interact","finish":"f"},"continue":` +
				continueJSON + `}`,
			method: "POST", path: "/", covered: withBody,
			body: `{"access_token":{"access":[{"type":"quote","actions":["create"]}]},"client":{"walletAddress":"` +
				walletAddress +
				`"},"interact":{"start":["redirect"],"finish":{"method":"redirect","uri":"https://app.example/?a\u0026b",` +
				`"nonce":"n"}}}`,
			want: `{"interact":{"finish":"f","redirect":"https://auth.example/interact"},"continue":` + continueJSON + `}`,
		},
		"request as a key": {
			call: func(ctx context.Context, c *openpayments.AuthenticatedClient, server string) (any, error) {
				return c.Grant.Request(ctx, openpayments.GrantRequestParams{
					URL:         server + "/auth/",
					RequestBody: grantRequest(t, `{"access_token":{"access":[]}}`),
					ClientOverride: &as.ClientDirectedIdentity{Jwk: as.JsonWebKey{Alg: "EdDSA", Crv: "Ed25519", Kid: keyID, Kty: "OKP",
						X: "AA"}},
				})
			},
			status: 200, answer: `{"access_token":` + tokenJSON + `,"continue":{"access_token":{"value":"c1"},"uri":"u"}}`,
			method: "POST", path: "/auth/", covered: withBody,
			body: `{"access_token":{"access":[]},"client":{"jwk":{"alg":"EdDSA","crv":"Ed25519","kid":"key-1","kty":"OKP",` +
				`"x":"AA"}}}`,
			want: `{"access_token":{"access":[{"type":"quote","actions":["create"]}],"expires_in":600,` +
				`"manage":"https://auth.example/token/2","value":"t2"},"continue":{"access_token":{"value":"c1"},"uri":"u"}}`,
		},
		"continue": {
			call: func(ctx context.Context, c *openpayments.AuthenticatedClient, server string) (any, error) {
				return c.Grant.Continue(ctx,
					openpayments.GrantContinueParams{URL: server + "/continue/1", AccessToken: "c1", InteractRef: "r<1>"})
			},
			status: 200, answer: `{"subject":{"sub_ids":[{"id":"u","format":"uri"}]},"continue":` + continueJSON + `}`,
			method: "POST", path: "/continue/1", token: "GNAP c1", covered: withBoth,
			body: `{"interact_ref":"r\u003c1\u003e"}`,
			want: `{"subject":{"sub_ids":[{"format":"uri","id":"u"}]},"continue":` + continueJSON + `}`,
		},
		"poll": {
			call: func(ctx context.Context, c *openpayments.AuthenticatedClient, server string) (any, error) {
				return c.Grant.Continue(ctx, openpayments.GrantContinueParams{URL: server + "/continue/1", AccessToken: "c1"})
			},
			status: 200, answer: `{"continue":` + continueJSON + `}`,
			method: "POST", path: "/continue/1", token: "GNAP c1", covered: withToken,
			want: `{"continue":` + continueJSON + `}`,
		},
		"cancel": {
			call: func(ctx context.Context, c *openpayments.AuthenticatedClient, server string) (any, error) {
				return nil, c.Grant.Cancel(ctx, openpayments.GrantCancelParams{URL: server + "/continue/1", AccessToken: "c1"})
			},
			status: 204, method: "DELETE", path: "/continue/1", token: "GNAP c1", covered: withToken, want: `null`,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWallet(t, public, tc.status, tc.answer)
			got, err := tc.call(t.Context(), newClient(t, key), w.URL)
			if err != nil {
				t.Fatal(err)
			}
			w.last.check(t, tc.covered)
			if w.last.method != tc.method || w.last.target != tc.path {
				t.Errorf("%s %s, want %s %s", w.last.method, w.last.target, tc.method, tc.path)
			}
			if got := w.last.header.Get("Authorization"); got != tc.token {
				t.Errorf("Authorization: %q, want %q", got, tc.token)
			}
			if w.last.body != tc.body {
				t.Errorf("body:\n%s\nwant\n%s", w.last.body, tc.body)
			}
			result, err := json.Marshal(got)
			if err != nil {
				t.Fatal(err)
			}
			if string(result) != tc.want {
				t.Errorf("result:\n%s\nwant\n%s", result, tc.want)
			}
		})
	}
}

func TestDoSigned(t *testing.T) {
	public, key := newKey(t)
	tests := map[string]struct {
		method, path string
		host         string
		header       http.Header
		body         io.Reader
		target       string
		covered      []string
		sent         string
	}{
		"no path":   {method: "GET", target: "/", covered: bare},
		"no method": {path: "/p", target: "/p", covered: bare},
		"query": {method: "GET", path: "/p?wallet-address=https%3A%2F%2Fw.example%2Fa&x=a+b&y",
			target: "/p?wallet-address=https%3A%2F%2Fw.example%2Fa&x=a+b&y", covered: bare},
		"empty query":    {method: "GET", path: "/p?", target: "/p?", covered: bare},
		"escaped path":   {method: "GET", path: "/a%2Fb%20c/%C3%A9", target: "/a%2Fb%20c/%C3%A9", covered: bare},
		"unescaped path": {method: "GET", path: "/a b/é", target: "/a%20b/%C3%A9", covered: bare},
		"fragment":       {method: "GET", path: "/p#f", target: "/p", covered: bare},
		"another host":   {method: "GET", path: "/p", host: "Auth.Example:8443", target: "/p", covered: bare},
		"token": {method: "GET", path: "/p", header: http.Header{"Authorization": {"GNAP t"}}, target: "/p",
			covered: withToken},
		"token with spaces": {method: "GET", path: "/p", header: http.Header{"Authorization": {" GNAP t "}}, target: "/p",
			covered: withToken},
		"body": {method: "POST", path: "/p", body: strings.NewReader(`{"é":1}`), target: "/p", covered: withBody,
			sent: `{"é":1}`},
		"unknown length": {method: "POST", path: "/p", body: io.MultiReader(strings.NewReader(`{}`)), target: "/p",
			covered: withBody, sent: `{}`},
		"empty body": {method: "POST", path: "/p", body: io.MultiReader(), target: "/p", covered: bare},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWallet(t, public, 201, "answer")
			req, err := http.NewRequestWithContext(t.Context(), tc.method, w.URL+tc.path, tc.body)
			if err != nil {
				t.Fatal(err)
			}
			req.Method, req.Host = tc.method, tc.host
			if tc.header != nil {
				req.Header = tc.header
			}
			resp, err := newClient(t, key).DoSigned(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if b, _ := io.ReadAll(resp.Body); resp.StatusCode != 201 || string(b) != "answer" {
				t.Errorf("answer: %d %s", resp.StatusCode, b)
			}
			w.last.check(t, tc.covered)
			if w.last.target != tc.target || w.last.body != tc.sent || w.last.length != int64(len(tc.sent)) {
				t.Errorf("target %s, body %q, length %d", w.last.target, w.last.body, w.last.length)
			}
		})
	}
}

func TestDoSignedWithoutHeader(t *testing.T) {
	public, key := newKey(t)
	w := newWallet(t, public, 200, "")
	u, err := url.Parse(w.URL)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := newClient(t, key).DoSigned((&http.Request{URL: u}).WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	w.last.check(t, bare)
}

type body struct {
	err    error
	closed bool
}

func (b *body) Read([]byte) (int, error) { return 0, b.err }
func (b *body) Close() error             { b.closed = true; return nil }

func TestDoSignedSendsNothingUnsigned(t *testing.T) {
	public, key := newKey(t)
	w := newWallet(t, public, 200, "")
	t.Run("unreadable body", func(t *testing.T) {
		b := &body{err: errors.New("broken")}
		req, err := http.NewRequestWithContext(t.Context(), "POST", w.URL, b)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := newClient(t, key).DoSigned(req); !errors.Is(err, b.err) || !b.closed || w.count != 0 {
			t.Fatalf("error %v, closed %t, sent %d", err, b.closed, w.count)
		}
	})
	t.Run("key id that no header can hold", func(t *testing.T) {
		c, err := openpayments.NewAuthenticatedClient(walletAddress, key, "clé")
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Token.Rotate(t.Context(), openpayments.TokenRotateParams{URL: w.URL + "/token/1", AccessToken: "t"})
		if err == nil || w.count != 0 {
			t.Fatalf("error %v, sent %d", err, w.count)
		}
	})
}

func TestHooks(t *testing.T) {
	public, key := newKey(t)
	w := newWallet(t, public, 200, `{"access_token":`+tokenJSON+`,"continue":`+continueJSON+`}`)
	var order []string
	const raw = `{"a":"<&>"}`
	c := newClient(t, key,
		openpayments.WithPreSignHook(func(req *http.Request) {
			order = append(order, "pre")
			if req.Header.Get("Signature") != "" || req.Header.Get("Content-Digest") != "" {
				t.Error("signed before the first hook")
			}
			sent, err := io.ReadAll(req.Body)
			if err != nil || !bytes.Contains(sent, []byte(`\u0026`)) {
				t.Errorf("the hook reads %s (%v)", sent, err)
			}
			req.Body = io.NopCloser(strings.NewReader(raw))
			req.ContentLength = int64(len(raw))
			req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(raw)), nil }
			req.Header.Set("Authorization", "GNAP hook")
		}),
		openpayments.WithPostSignHook(func(req *http.Request) {
			order = append(order, "post")
			if req.Header.Get("Signature") == "" || req.Header.Get("Signature-Input") == "" ||
				req.Header.Get("Content-Digest") == "" {
				t.Error("not signed before the second hook")
			}
			if w.count != 0 {
				t.Error("sent before the second hook")
			}
			req.Header.Set("X-After", "1")
		}))
	_, err := c.Grant.Request(t.Context(),
		openpayments.GrantRequestParams{URL: w.URL, RequestBody: grantRequest(t, `{"a":"<&>"}`)})
	if err != nil {
		t.Fatal(err)
	}
	w.last.check(t, withBoth)
	if w.last.body != raw || w.last.header.Get("X-After") != "1" || !reflect.DeepEqual(order, []string{"pre", "post"}) {
		t.Errorf("body %s, X-After %q, order %v", w.last.body, w.last.header.Get("X-After"), order)
	}

	w.body, order = `{}`, nil
	if _, err := c.WalletAddress.Get(t.Context(), openpayments.WalletAddressGetParams{URL: w.URL}); err != nil {
		t.Fatal(err)
	}
	if len(order) != 0 {
		t.Errorf("hooks called for an unsigned request: %v", order)
	}
}

func TestWalletAddress(t *testing.T) {
	public, key := newKey(t)
	const document = `{"id":"https://w.example/a","publicName":"A","assetCode":"EUR","assetScale":2,
		"authServer":"https://auth.example/","resourceServer":"https://rs.example","x":{"y":1}}`
	w := newWallet(t, public, 200, document)
	var through int
	transport := http.DefaultTransport
	c := newClient(t, key,
		openpayments.WithHTTPClientAuthed(&http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			through++
			return transport.RoundTrip(r)
		})}))

	got, err := c.WalletAddress.Get(t.Context(), openpayments.WalletAddressGetParams{URL: w.URL + "/a"})
	if err != nil {
		t.Fatal(err)
	}
	want := was.WalletAddress{
		AssetCode: "EUR", AssetScale: 2,
		Id: new("https://w.example/a"), PublicName: new("A"),
		AuthServer: new("https://auth.example/"), ResourceServer: new("https://rs.example"),
		AdditionalProperties: map[string]any{"x": map[string]any{"y": 1.0}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("wallet address: %+v", got)
	}
	unsigned := func(path string) {
		t.Helper()
		if w.last.method != "GET" || w.last.target != path || w.last.header.Get("Accept") != "application/json" {
			t.Errorf("%s %s, Accept %q", w.last.method, w.last.target, w.last.header.Get("Accept"))
		}
		for _, name := range []string{"Signature", "Signature-Input", "Authorization"} {
			if w.last.header.Get(name) != "" {
				t.Errorf("%s on a request for a public document", name)
			}
		}
	}
	unsigned("/a")

	w.body = `{"keys":[{"kid":"k","alg":"EdDSA","use":"sig","kty":"OKP","crv":"Ed25519","x":"AA"},{"kid":"l"}]}`
	keys, err := c.WalletAddress.GetKeys(t.Context(), openpayments.WalletAddressGetKeysParams{URL: w.URL + "/a"})
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(keys, was.JsonWebKeySet{Keys: &[]was.JsonWebKey{
		{Alg: "EdDSA", Crv: "Ed25519", Kid: "k", Kty: "OKP", Use: new(was.JsonWebKeyUse("sig")), X: "AA"}, {Kid: "l"},
	}}) {
		t.Errorf("keys: %+v", keys)
	}
	unsigned("/a/jwks.json")

	w.body = `{}`
	if keys, err := c.WalletAddress.GetKeys(t.Context(),
		openpayments.WalletAddressGetKeysParams{URL: w.URL}); err != nil || keys.Keys != nil {
		t.Errorf("no keys: %+v, %v", keys, err)
	}
	if through != 3 {
		t.Errorf("%d requests went through the caller's client, want 3", through)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// calls are all the requests that a client sends.
var calls = map[string]struct {
	method string
	path   string
	do     func(context.Context, *openpayments.AuthenticatedClient, string, as.GrantRequest) error
}{
	"rotate": {"POST", "/token/1",
		func(ctx context.Context, c *openpayments.AuthenticatedClient, url string, _ as.GrantRequest) error {
			_, err := c.Token.Rotate(ctx, openpayments.TokenRotateParams{URL: url, AccessToken: "t"})
			return err
		}},
	"revoke": {"DELETE", "/token/1",
		func(ctx context.Context, c *openpayments.AuthenticatedClient, url string, _ as.GrantRequest) error {
			return c.Token.Revoke(ctx, openpayments.TokenRevokeParams{URL: url, AccessToken: "t"})
		}},
	"request": {"POST", "/grant",
		func(ctx context.Context, c *openpayments.AuthenticatedClient, url string, r as.GrantRequest) error {
			_, err := c.Grant.Request(ctx, openpayments.GrantRequestParams{URL: url, RequestBody: r})
			return err
		}},
	"continue": {"POST", "/continue/1",
		func(ctx context.Context, c *openpayments.AuthenticatedClient, url string, _ as.GrantRequest) error {
			_, err := c.Grant.Continue(ctx, openpayments.GrantContinueParams{URL: url, AccessToken: "c", InteractRef: "r"})
			return err
		}},
	"cancel": {"DELETE", "/continue/1",
		func(ctx context.Context, c *openpayments.AuthenticatedClient, url string, _ as.GrantRequest) error {
			return c.Grant.Cancel(ctx, openpayments.GrantCancelParams{URL: url, AccessToken: "c"})
		}},
	"get": {"GET", "/a",
		func(ctx context.Context, c *openpayments.AuthenticatedClient, url string, _ as.GrantRequest) error {
			_, err := c.WalletAddress.Get(ctx, openpayments.WalletAddressGetParams{URL: url})
			return err
		}},
	"keys": {"GET", "/a/jwks.json",
		func(ctx context.Context, c *openpayments.AuthenticatedClient, url string, _ as.GrantRequest) error {
			_, err := c.WalletAddress.GetKeys(ctx,
				openpayments.WalletAddressGetKeysParams{URL: strings.TrimSuffix(url, "/jwks.json")})
			return err
		}},
}

func TestErrorAnswers(t *testing.T) {
	public, key := newKey(t)
	c := newClient(t, key)
	answers := map[string]struct {
		status      int
		body        string
		code        string
		description string
		details     map[string]any
	}{
		"OpenAPI document": {401, `{"error":{"code":"invalid_client","description":"invalid access token"}}`,
			"invalid_client", "invalid access token", nil},
		"with details": {400, `{"error":{"code":"c","description":"d","details":{"a":[1]}}}`, "c", "d",
			map[string]any{"a": []any{1.0}}},
		"details not an object":  {400, `{"error":{"code":"c","description":"d","details":"a"}}`, "c", "d", nil},
		"no code":                {400, `{"error":{"description":"schema"}}`, "", "schema", nil},
		"no description":         {404, `{"error":{"code":"invalid_rotation"}}`, "invalid_rotation", "", nil},
		"RFC 9635's plain error": {401, `{"error":"invalid_client"}`, "", `{"error":"invalid_client"}`, nil},
		"another shape":          {400, `{"message":"m"}`, "", `{"message":"m"}`, nil},
		"text":                   {500, "Internal Server Error", "", "Internal Server Error", nil},
		"empty":                  {503, "", "", "", nil},
		"another success":        {202, `{}`, "", "{}", nil},
	}
	for kind, call := range calls {
		for name, tc := range answers {
			t.Run(kind+"/"+name, func(t *testing.T) {
				w := newWallet(t, public, tc.status, tc.body)
				err := call.do(t.Context(), c, w.URL+call.path, grantRequest(t, `{}`))
				e, ok := err.(*openpayments.OpenPaymentsClientError)
				if !ok {
					t.Fatalf("error is %T: %v", err, err)
				}
				want := openpayments.OpenPaymentsClientError{
					Description: tc.description, Status: tc.status, Code: tc.code, Details: tc.details,
					Method: call.method, URL: w.URL + call.path,
				}
				if !reflect.DeepEqual(*e, want) {
					t.Errorf("got %+v, want %+v", *e, want)
				}
				for _, part := range []string{call.method, w.URL + call.path, tc.code, tc.description} {
					if !strings.Contains(e.Error(), part) {
						t.Errorf("%q lacks %q", e.Error(), part)
					}
				}
			})
		}
	}
}

func TestWrongSuccess(t *testing.T) {
	public, key := newKey(t)
	c := newClient(t, key)
	for kind, call := range calls {
		t.Run(kind, func(t *testing.T) {
			if call.method == "DELETE" {
				w := newWallet(t, public, 200, `{}`)
				var e *openpayments.OpenPaymentsClientError
				if err := call.do(t.Context(), c, w.URL+call.path, as.GrantRequest{}); !errors.As(err, &e) || e.Status != 200 {
					t.Errorf("200: %v", err)
				}
				return
			}
			w := newWallet(t, public, 204, "")
			var e *openpayments.OpenPaymentsClientError
			if err := call.do(t.Context(), c, w.URL+call.path, grantRequest(t, `{}`)); !errors.As(err, &e) || e.Status != 204 {
				t.Errorf("204: %v", err)
			}
			w.status, w.body = 200, "<html>"
			var syntax *json.SyntaxError
			if err := call.do(t.Context(), c, w.URL+call.path, grantRequest(t, `{}`)); !errors.As(err, &syntax) {
				t.Errorf("200 without JSON: %v", err)
			}
		})
	}
}

func TestRotateWithoutToken(t *testing.T) {
	public, key := newKey(t)
	w := newWallet(t, public, 200, `{}`)
	got, err := newClient(t, key).Token.Rotate(t.Context(),
		openpayments.TokenRotateParams{URL: w.URL + "/token/1", AccessToken: "t"})
	if err != nil || got.Value != "" {
		t.Fatalf("%+v, %v", got, err)
	}
}

func TestTransportErrors(t *testing.T) {
	_, key := newKey(t)
	broken := errors.New("broken")
	for kind, call := range calls {
		t.Run(kind, func(t *testing.T) {
			request := grantRequest(t, `{}`)
			c := newClient(t, key,
				openpayments.WithHTTPClientAuthed(&http.Client{Transport: roundTrip(func(*http.Request) (*http.Response, error) {
					return nil, broken
				})}))
			var e *url.Error
			if err := call.do(t.Context(), c, "http://auth.example"+call.path, request); !errors.Is(err, broken) ||
				!errors.As(err, &e) {
				t.Errorf("not sent: %v", err)
			}

			c = newClient(t, key,
				openpayments.WithHTTPClientAuthed(&http.Client{Transport: roundTrip(func(*http.Request) (*http.Response, error) {
					return &http.Response{StatusCode: 200, Body: &body{err: broken}}, nil
				})}))
			if err := call.do(t.Context(), c, "http://auth.example"+call.path, request); !errors.Is(err, broken) {
				t.Errorf("half an answer: %v", err)
			}

			ctx, cancel := context.WithCancel(t.Context())
			server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body) // otherwise the server does not notice the client's disconnection
				cancel()
				<-r.Context().Done()
			}))
			defer server.Close()
			if err := call.do(ctx, newClient(t, key), server.URL+call.path, request); !errors.Is(err, context.Canceled) {
				t.Errorf("cancelled: %v", err)
			}

			if err := call.do(t.Context(), newClient(t, key), "http://a b"+call.path, request); err == nil {
				t.Error("a URL that is none")
			}
		})
	}
}

func TestRefusedBeforeSending(t *testing.T) {
	public, key := newKey(t)
	w := newWallet(t, public, 200, `{}`)
	c := newClient(t, key)
	if _, err := c.Token.Rotate(t.Context(),
		openpayments.TokenRotateParams{URL: w.URL + "/token", AccessToken: "t"}); err == nil {
		t.Error("rotate without token/")
	}
	if _, err := c.Grant.Continue(t.Context(),
		openpayments.GrantContinueParams{URL: w.URL + "/continue", AccessToken: "c"}); err == nil {
		t.Error("continue without continue/")
	}
	for name, request := range map[string]as.GrantRequest{"empty": {}, "null": grantRequest(t, `null`),
		"a list": grantRequest(t, `[]`)} {
		if _, err := c.Grant.Request(t.Context(),
			openpayments.GrantRequestParams{URL: w.URL, RequestBody: request}); err == nil {
			t.Errorf("request: %s", name)
		}
	}
	if w.count != 0 {
		t.Errorf("%d requests were sent", w.count)
	}
	if _, err := openpayments.NewAuthenticatedClient("$wallet.example/client", key, keyID); err == nil {
		t.Error("a payment pointer")
	}
}

func TestPrivateKeyArgument(t *testing.T) {
	public, key := newKey(t)
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	encoded := base64.StdEncoding.EncodeToString([]byte(key))
	t.Chdir(dir)
	file("looks-like-base64", key)

	for name, arg := range map[string]string{
		"PEM":                 key,
		"PEM without its end": strings.TrimSpace(key),
		"base64":              encoded,
		"base64 with a break": encoded + "\n",
		"file of PEM":         file("pem", key),
		"file of base64":      file("base64", encoded),
		"file before base64":  "looks-like-base64",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWallet(t, public, 204, "")
			c := newClient(t, arg)
			if err := c.Token.Revoke(t.Context(), openpayments.TokenRevokeParams{URL: w.URL, AccessToken: "t"}); err != nil {
				t.Fatal(err)
			}
			w.last.check(t, withToken)
		})
	}
	for name, arg := range map[string]string{
		"nothing":         "",
		"a directory":     dir,
		"no file":         filepath.Join(dir, "none"),
		"file of nothing": file("empty", ""),
		"half a PEM":      key[:len(key)/2],
		"half a base64":   encoded[:len(encoded)/2+1],
	} {
		t.Run(name, func(t *testing.T) {
			_, err := openpayments.NewAuthenticatedClient(walletAddress, arg, keyID)
			if err == nil {
				t.Fatal("taken for a key")
			}
			// not %v: if this fails, the error contains the key
			if len(arg) > 20 && strings.Contains(err.Error(), arg[len(arg)-20:]) {
				t.Error("the error holds the argument")
			}
		})
	}
}

func TestGrantKinds(t *testing.T) {
	for name, tc := range map[string]struct {
		json                        string
		interactive, token, subject bool
	}{
		"nothing":     {`{"continue":` + continueJSON + `}`, false, false, false},
		"interactive": {`{"interact":{"redirect":"r","finish":"f"},"continue":` + continueJSON + `}`, true, false, false},
		"token":       {`{"access_token":` + tokenJSON + `,"continue":` + continueJSON + `}`, false, true, false},
		"subject":     {`{"subject":{"sub_ids":[]},"continue":` + continueJSON + `}`, false, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			var g openpayments.Grant
			if err := json.Unmarshal([]byte(tc.json), &g); err != nil {
				t.Fatal(err)
			}
			if g.IsInteractive() != tc.interactive || g.IsGrantedWithAccessToken() != tc.token ||
				g.IsGrantedWithSubject() != tc.subject {
				t.Errorf("%t %t %t", g.IsInteractive(), g.IsGrantedWithAccessToken(), g.IsGrantedWithSubject())
			}
			if g.Continue.AccessToken.Value != "c1" || g.Continue.Uri == "" || g.Continue.Wait == nil || *g.Continue.Wait != 5 {
				t.Errorf("continue: %+v", g.Continue)
			}
		})
	}
}
