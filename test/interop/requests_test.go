// SPDX-License-Identifier: MPL-2.0

package interop

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	openpayments "github.com/interledger/open-payments-go"
	as "github.com/interledger/open-payments-go/generated/authserver"
	"github.com/interledger/open-payments-go/httpsignatureutils"
)

const incomingAccess = `[{"type":"incoming-payment","actions":["create","complete","read","list"]}]`

// sdk returns the Go SDK's client.
func (w *world) sdk() *openpayments.AuthenticatedClient {
	w.Helper()
	c, err := openpayments.NewAuthenticatedClient(w.sandbox.WalletAddress("client"), w.pem, keyID,
		openpayments.WithPreSignHook(unescape))
	w.mustSDK("make a client", err)
	return c
}

// unescape rewrites a body as JavaScript would write it.
func unescape(req *http.Request) {
	if req.Body == nil {
		return
	}
	var body any
	if json.NewDecoder(req.Body).Decode(&body) != nil {
		return
	}
	text := compact(body)
	req.Body, req.ContentLength = io.NopCloser(strings.NewReader(text)), int64(len(text))
}

func compact(v any) string {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		panic(err) // it came from JSON
	}
	return strings.TrimRight(text.String(), "\n")
}

// mustSDK fails the test on an error. It never prints the SDK's error, which contains the whole
// URL.
func (w *world) mustSDK(trying string, err error) {
	w.Helper()
	if err == nil {
		return
	}
	var refused *openpayments.OpenPaymentsClientError
	if errors.As(err, &refused) {
		w.Fatalf("%s: the server answered %d (%s)", trying, refused.Status, refused.Code)
	}
	w.Fatalf("%s: %T", trying, err)
}

func (w *world) mustRefuse(trying string, status int, err error) {
	w.Helper()
	var refused *openpayments.OpenPaymentsClientError
	if !errors.As(err, &refused) || refused.Status != status {
		w.Fatalf("%s: not answered with %d", trying, status)
	}
}

// request asks for a grant. interact is a member to add, or empty.
func (w *world) request(access, interact string, own *as.ClientDirectedIdentity) openpayments.Grant {
	w.Helper()
	var body as.GrantRequest
	w.mustSDK("write a grant request",
		body.UnmarshalJSON(fmt.Appendf(nil, `{"access_token":{"access":%s}%s}`, access, interact)))
	g, err := w.sdk().Grant.Request(w.Context(), openpayments.GrantRequestParams{
		URL: w.sandbox.AuthServer(), RequestBody: body, ClientOverride: own,
	})
	w.mustSDK("grant request", err)
	return g
}

// newGrant gets a grant with a token through the stand-in.
func (w *world) newGrant() openpayments.Grant {
	w.Helper()
	w.record.step("stand-in: grant request")
	return w.request(incomingAccess, "", nil)
}

func (w *world) revoke(g openpayments.Grant) error {
	return w.sdk().Token.Revoke(w.Context(),
		openpayments.TokenRevokeParams{URL: g.AccessToken.Manage, AccessToken: g.AccessToken.Value})
}

func (w *world) proceed(g openpayments.Grant, reference string) (openpayments.Grant, error) {
	return w.sdk().Grant.Continue(w.Context(), openpayments.GrantContinueParams{
		URL: g.Continue.Uri, AccessToken: g.Continue.AccessToken.Value, InteractRef: reference,
	})
}

// pass advances the sandbox's clock so far that a continue request is not too fast.
func (w *world) pass() { w.passed.Add(int64(6 * time.Second)) }

// driveStandIn makes the SDK's stand-in send what the engine does not send: everything about
// interaction.
func (w *world) driveStandIn() {
	w.Helper()
	w.record.step("stand-in: interactive grant request")
	outgoing := fmt.Sprintf(`[{"type":"outgoing-payment","actions":["create","read"],"identifier":"%s/<ü>?a=1&b=2",`+
		`"limits":{"interval":"R1/2026-01-01T00:00:00Z/P1M",`+
		`"receiveAmount":{"value":"100","assetCode":"EUR","assetScale":2}}}]`,
		w.sandbox.WalletAddress("alice"))
	legal := strings.Replace(outgoing, "<ü>", "%C3%BC", 1)
	const finish = `,"interact":{"start":["redirect"],"finish":{"method":"redirect",` +
		`"uri":"https://app.example/back?x=1&y=%C3%BC","nonce":"n-1"}}`
	called := w.request(legal, finish, nil)
	polled := w.request(legal, `,"interact":{"start":["redirect"]}`, nil)
	if !called.IsInteractive() || !polled.IsInteractive() {
		w.Fatal("the server wants no consent")
	}
	// The OpenAPI document does not allow this URI, but the signature must be valid nevertheless.
	w.record.step("stand-in: grant request, odd identifier")
	odd := w.request(outgoing, finish, nil)

	w.record.step("stand-in: continue")
	_, err := w.proceed(polled, "")
	w.mustRefuse("poll too early", http.StatusBadRequest, err)
	w.pass()
	pending, err := w.proceed(polled, "")
	w.mustSDK("poll", err)
	if pending.IsGrantedWithAccessToken() || pending.Continue.Wait == nil {
		w.Error("a poll of a pending grant was answered with a token, or without wait")
	}
	_, err = w.proceed(called, "")
	w.mustRefuse("poll a grant that has a finish", http.StatusUnauthorized, err)
	_, err = w.proceed(called, "no-such-reference")
	w.mustRefuse("continue with a wrong reference", http.StatusNotFound, err)

	w.record.step("stand-in: cancel")
	for _, g := range []openpayments.Grant{called, polled, odd} {
		w.mustSDK("cancel", w.cancel(g))
	}
	w.mustRefuse("cancel again", http.StatusUnauthorized, w.cancel(called))

	additional := w.newGrant()
	w.record.step("stand-in: continue, again")
	w.pass()
	second, err := w.proceed(additional, "")
	w.mustSDK("poll for an additional token", err)
	w.pass()
	_, err = w.proceed(additional, "")
	w.mustRefuse("poll for one more", http.StatusUnauthorized, err)

	w.record.step("stand-in: rotate and revoke")
	_, err = w.sdk().Token.Rotate(w.Context(),
		openpayments.TokenRotateParams{URL: second.AccessToken.Manage, AccessToken: second.AccessToken.Value})
	w.mustSDK("rotate", err)
	w.mustRefuse("revoke a rotated token", http.StatusUnauthorized, w.revoke(second))
	w.mustSDK("revoke", w.revoke(additional))
	w.directedIdentity()
	w.doSigned()
}

func (w *world) cancel(g openpayments.Grant) error {
	return w.sdk().Grant.Cancel(w.Context(),
		openpayments.GrantCancelParams{URL: g.Continue.Uri, AccessToken: g.Continue.AccessToken.Value})
}

// directedIdentity asks for a grant as a client that identifies itself only by its key.
func (w *world) directedIdentity() {
	w.Helper()
	w.record.step("stand-in: grant request, client by its key")
	use := as.JsonWebKeyUse("sig")
	g := w.request(incomingAccess, "", &as.ClientDirectedIdentity{Jwk: as.JsonWebKey{
		Alg: "EdDSA", Crv: "Ed25519", Kid: keyID, Kty: "OKP", Use: &use,
		X: base64.RawURLEncoding.EncodeToString(publicOf(w.key)),
	}})
	w.mustSDK("cancel", w.cancel(g))
}

// doSigned signs targets whose bytes change easily in transit.
func (w *world) doSigned() {
	w.Helper()
	g := w.newGrant()
	w.record.step("stand-in: DoSigned")
	wallet := url.QueryEscape(w.sandbox.WalletAddress("alice"))
	for target, status := range map[string]int{
		"/incoming-payments?wallet-address=" + wallet +
			"&first=10": http.StatusOK,
		"/incoming-payments?first=1&wallet-address=" + strings.ToLower(wallet) +
			"&x=%C3%BC+%2F%2f~a%7e!'()*;:@,&&": http.StatusOK,
		"/incoming-payments/a%2Fb%20c?x=%3C%26%3E&y": http.StatusUnauthorized, // unknown
	} {
		req, err := http.NewRequestWithContext(w.Context(), http.MethodGet, w.sandbox.ResourceServer()+target, nil)
		w.mustSDK("make a request", err)
		req.Header.Set("Authorization", "GNAP "+g.AccessToken.Value)
		resp, err := w.sdk().DoSigned(req)
		w.mustSDK("DoSigned", err)
		resp.Body.Close()
		if resp.StatusCode != status {
			w.Errorf("GET %s: %d, want %d", target, resp.StatusCode, status)
		}
	}
}

// message is a request to be signed with httpsignatureutils, and what is to be wrong with it.
type message struct {
	method, url, token, body string

	accept   string             // if not application/json
	key      ed25519.PrivateKey // if not the client's
	unsigned bool
	// wrong means that the OpenAPI document does not allow the request.
	wrong bool
}

// send sends a message and checks the response's status. A header tells the JavaScript side what it
// must find wrong.
func (w *world) send(status int, m message) []byte {
	w.Helper()
	var body io.Reader
	if m.body != "" {
		body = strings.NewReader(m.body)
	}
	req, err := http.NewRequestWithContext(w.Context(), m.method, m.url, body)
	if err != nil {
		w.Fatalf("%s: the URL is wrong", m.method)
	}
	req.Header.Set("Accept", "application/json")
	if m.accept != "" {
		req.Header.Set("Accept", m.accept)
	}
	if m.token != "" {
		req.Header.Set("Authorization", "GNAP "+m.token)
	}
	if m.body != "" {
		content := httpsignatureutils.CreateContentHeaders([]byte(m.body))
		req.Header.Set("Content-Digest", content.ContentDigest)
		req.Header.Set("Content-Length", content.ContentLength)
		req.Header.Set("Content-Type", content.ContentType)
	}
	key := w.key
	if m.key != nil {
		key = m.key
	}
	if m.wrong {
		req.Header.Set("Interop-Wrong", "yes")
	}
	if m.unsigned || m.key != nil {
		req.Header.Set("Interop-Forged", "yes")
	}
	if !m.unsigned {
		signature, err := httpsignatureutils.CreateSignatureHeaders(httpsignatureutils.SignOptions{Request: req,
			PrivateKey: key, KeyID: keyID})
		w.mustSDK("sign", err)
		req.Header.Set("Signature", "sig1=:"+signature.Signature+":")
		req.Header.Set("Signature-Input", signature.SignatureInput)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.Fatalf("%s: %T", m.method, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		w.Fatal(err)
	}
	if resp.StatusCode != status {
		w.Fatalf("%s: answered with %d, want %d", m.method, resp.StatusCode, status)
	}
	return text
}

// driveResourceServer uses a token as an application does, with and without a body.
func (w *world) driveResourceServer() {
	w.Helper()
	g := w.newGrant()
	token := g.AccessToken.Value
	payments := w.sandbox.ResourceServer() + "/incoming-payments"
	alice := w.sandbox.WalletAddress("alice")

	w.record.step("signer: incoming payments")
	var created struct{ ID string }
	answered := w.send(http.StatusCreated,
		message{method: "POST", url: payments, token: token, body: compact(map[string]any{
			"walletAddress": alice, "incomingAmount": map[string]any{"value": "250", "assetCode": "USD", "assetScale": 2},
			"expiresAt": time.Now().Add(24 * time.Hour).UTC().Format(time.RFC3339),
			"metadata":  map[string]any{"note": "A & B <ü> \"€\" 💶"},
		})})
	if json.Unmarshal(answered, &created) != nil || created.ID == "" {
		w.Fatal("a payment without an id")
	}
	w.send(http.StatusCreated,
		message{method: "POST", url: payments, token: token, body: compact(map[string]any{"walletAddress": alice})})
	list := payments + "?wallet-address=" + url.QueryEscape(alice)
	w.send(http.StatusOK, message{method: "GET", url: list, token: token})
	w.send(http.StatusOK, message{method: "GET", url: list + "&first=1", token: token})
	w.send(http.StatusOK, message{method: "GET", url: created.ID, token: token})
	w.send(http.StatusOK, message{method: "POST", url: created.ID + "/complete", token: token})
	w.send(http.StatusOK, message{method: "GET", url: created.ID, token: token})
	w.send(http.StatusOK, message{method: "GET", url: created.ID, unsigned: true}) // the public view

	w.record.step("signer: incoming payments, refused")
	w.send(http.StatusConflict, message{method: "POST", url: created.ID + "/complete", token: token})
	w.send(http.StatusUnauthorized,
		message{method: "POST", url: payments, body: compact(map[string]any{"walletAddress": alice})})
	w.send(http.StatusUnauthorized, message{method: "GET", url: created.ID, token: token, key: newKey(w.T)})
	w.send(http.StatusUnauthorized, message{method: "GET", url: list, token: token, unsigned: true, wrong: true})
	w.send(http.StatusBadRequest, message{method: "GET", url: list + "&first=0", token: token, wrong: true})
	w.send(http.StatusBadRequest, message{method: "POST", url: payments, token: token, wrong: true,
		body: compact(map[string]any{"walletAddress": alice, "amount": 1})})
	w.send(http.StatusNotFound, message{method: "GET", url: payments + "?wallet-address=" +
		url.QueryEscape("https://elsewhere.example/bob"), token: token})
	w.send(http.StatusNotAcceptable, message{method: "GET", url: list, token: token, accept: "text/html"})

	w.record.step("signer: grant request, client by its key")
	var other struct {
		AccessToken struct{ Value string } `json:"access_token"`
	}
	answered = w.send(http.StatusOK, message{method: "POST", url: w.sandbox.AuthServer(), body: compact(map[string]any{
		"access_token": map[string]any{"access": json.RawMessage(`[{"type":"incoming-payment","actions":["read"]}]`)},
		"client": map[string]any{"jwk": map[string]any{
			"kid": keyID, "alg": "EdDSA", "kty": "OKP", "crv": "Ed25519",
			"x": base64.RawURLEncoding.EncodeToString(publicOf(w.key)),
		}},
	})})
	if json.Unmarshal(answered, &other) != nil {
		w.Fatal("a grant that is not JSON")
	}
	w.record.step("signer: another client")
	w.send(http.StatusNotFound, message{method: "GET", url: created.ID, token: other.AccessToken.Value})
	w.send(http.StatusForbidden, message{method: "GET", url: list, token: other.AccessToken.Value}) // no right to list

	w.record.step("stand-in: cancel")
	w.mustSDK("cancel", w.cancel(g))
	w.record.step("signer: dead token")
	w.send(http.StatusForbidden, message{method: "GET", url: list, token: token})
}

// provokeRefusals provokes every error of the authorization server.
func (w *world) provokeRefusals() {
	w.Helper()
	g := w.newGrant()
	home := w.sandbox.AuthServer()
	token, proceed := g.AccessToken.Value, g.Continue.AccessToken.Value
	grant := func(access, more string) string {
		return fmt.Sprintf(`{"access_token":{"access":[%s]},"client":{"walletAddress":%q}%s}`, access,
			w.sandbox.WalletAddress("client"), more)
	}
	const right = `{"type":"incoming-payment","actions":["read"]}`
	limited := func(limits string) string {
		return fmt.Sprintf(`{"type":"outgoing-payment","actions":["read"],"identifier":%q,"limits":{%s}}`,
			w.sandbox.WalletAddress("alice"), limits)
	}

	w.record.step("signer: grant request, refused")
	w.send(http.StatusBadRequest,
		message{method: "POST", url: home, body: grant(`{"type":"incoming-payment","actions":["steal"]}`, ""), wrong: true})
	w.send(http.StatusBadRequest, message{method: "POST", url: home, body: grant(limited(""), "")}) // no interact
	const both = `"debitAmount":{"value":"1","assetCode":"USD","assetScale":2},` +
		`"receiveAmount":{"value":"1","assetCode":"USD","assetScale":2}`
	w.send(http.StatusBadRequest,
		message{method: "POST", url: home, body: grant(limited(both), `,"interact":{"start":["redirect"]}`)})
	w.send(http.StatusUnauthorized, message{method: "POST", url: home, body: grant(right, ""), unsigned: true})
	w.send(http.StatusUnauthorized, message{method: "POST", url: home, body: grant(right, ""), key: newKey(w.T)})
	w.send(http.StatusNotAcceptable, message{method: "POST", url: home, body: grant(right, ""), accept: "text/html"})

	w.record.step("signer: token, refused")
	w.send(http.StatusUnauthorized, message{method: "POST", url: g.AccessToken.Manage, token: token, unsigned: true})
	w.send(http.StatusUnauthorized, message{method: "DELETE", url: g.AccessToken.Manage, token: token, key: newKey(w.T)})
	w.send(http.StatusInternalServerError, message{method: "POST", url: home + "/token/1", token: token})
	w.send(http.StatusInternalServerError, message{method: "DELETE", url: home + "/token/1", token: token})

	w.record.step("signer: continue, refused")
	w.send(http.StatusUnauthorized,
		message{method: "POST", url: g.Continue.Uri, token: proceed, body: `{"x":1}`}) // no reference
	w.send(http.StatusUnauthorized,
		message{method: "POST", url: g.Continue.Uri, token: token}) // not the continuation's
	w.send(http.StatusUnauthorized, message{method: "DELETE", url: g.Continue.Uri, token: proceed, unsigned: true})

	w.record.step("signer: no key published")
	w.sandbox.UnpublishKeys()
	w.send(http.StatusBadRequest, message{method: "POST", url: home, body: grant(right, "")})
	w.send(http.StatusBadRequest, message{method: "POST", url: g.Continue.Uri, token: proceed})
	w.send(http.StatusBadRequest, message{method: "DELETE", url: g.AccessToken.Manage, token: token})
	w.publishKey()
	w.rotateTwice(g)
}

// rotateTwice makes two rotations of one token meet: the server's error for the slower one differs
// from the one for a token that has been dead for a while.
func (w *world) rotateTwice(g openpayments.Grant) {
	w.Helper()
	w.record.step("stand-in: concurrent rotations")
	var both, meeting sync.WaitGroup
	meeting.Add(2)
	w.meeting.Store(&meeting)
	defer w.meeting.Store(nil)
	clients := []*openpayments.AuthenticatedClient{w.sdk(), w.sdk()}
	errs := make([]error, len(clients))
	for i, c := range clients {
		both.Go(func() {
			_, errs[i] = c.Token.Rotate(w.Context(),
				openpayments.TokenRotateParams{URL: g.AccessToken.Manage, AccessToken: g.AccessToken.Value})
		})
	}
	both.Wait()
	if errs[0] == nil {
		errs[0], errs[1] = errs[1], errs[0]
	}
	w.mustRefuse("the slower rotation", http.StatusNotFound, errs[0])
	w.mustSDK("the faster rotation", errs[1])
}
