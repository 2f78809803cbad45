// SPDX-License-Identifier: MPL-2.0

package conformance

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	openpayments "github.com/interledger/open-payments-go"
)

// What an owner does with an interaction.
const (
	Accept  = "accept"
	Decline = "decline"
	Leave   = "leave" // go to the finish page without deciding
)

// Server is the server under test and the client that tests it.
type Server struct {
	AuthServer string // the grant endpoint
	Owner      string // wallet address of the owner
	Client     string // wallet address of the client, which publishes the key
	KeyID      string
	PrivateKey string // PEM, PKCS#8

	// Decide acts as the owner, who opens interact.redirect. It returns the URL to which the
	// browser is redirected in the end, or an empty string if the client has no finish URI.
	Decide func(interactURL, decision string) (location string, err error)
	// Pass lets time pass: it sleeps or moves the server's clock.
	Pass func(time.Duration)
	// InteractionLife is how long the server waits for an owner. Zero skips the cases that need it.
	InteractionLife time.Duration
	// ReadOnly makes the server's database read-only, or writable again. Nil skips the cases that
	// need it.
	ReadOnly func(on bool)
	// Publish publishes a key of the client and replaces the one with the same key id; KeysKept is
	// how long the server caches a key set. Nil or zero skips the cases that need them.
	Publish  func(keyID string, public ed25519.PublicKey)
	KeysKept time.Duration
}

// finishURI has parameters that servers set, and others that servers serialize differently.
const (
	finishURI  = finishPage + "?a=1&b=%20x~&hash=its-own&result=its-own&c"
	finishPage = "https://client.example/back"
)

// suite is what one case works with.
type suite struct {
	*testing.T
	Server
	sdk *openpayments.AuthenticatedClient
}

// answer is what the suite reads of an answer.
type answer struct {
	status int
	header http.Header
	text   string // of an answer that is not JSON
	// unreadable is an answer that is neither JSON nor text.
	unreadable bool
	Token      *struct {
		Value, Manage string
		ExpiresIn     *int `json:"expires_in"`
		Access        json.RawMessage
	} `json:"access_token"`
	Continue *struct {
		URI   string
		Token struct{ Value string } `json:"access_token"`
		Wait  *int
	}
	Interact *struct{ Redirect, Finish string }
	Error    struct{ Code, Description string }
}

// Run runs all cases.
func Run(t *testing.T, s Server) {
	sdk, err := openpayments.NewAuthenticatedClient(s.Client, s.PrivateKey, s.KeyID)
	if err != nil {
		t.Fatal(err)
	}
	for _, cases := range []map[string]func(*suite){grantCases, interactionCases, tokenCases} {
		for name, one := range cases {
			t.Run(name, func(t *testing.T) { one(&suite{t, s, sdk}) })
		}
	}
}

// send sends a signed request. The suite never prints secrets of an answer.
func (s *suite) send(method, target, token string, body any) answer {
	s.Helper()
	var text []byte
	if body != nil {
		text = inJSON(s, body)
	}
	return s.do(s.request(method, target, token, text), s.sdk.DoSigned)
}

// inJSON returns a value as JavaScript serializes it, because that is what servers compute the
// digest of.
func inJSON(s *suite, value any) []byte {
	s.Helper()
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		s.Fatal(err)
	}
	return bytes.TrimSpace(text.Bytes())
}

func (s *suite) request(method, target, token string, body []byte) *http.Request {
	s.Helper()
	var reader io.Reader
	if body != nil {
		reader = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(context.Background(), method, target, reader)
	if err != nil {
		s.Fatal("the server has named something that is no URL")
	}
	req.Header.Set("Accept", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "GNAP "+token)
	}
	return req
}

// do sends a request and reads the answer, which must be JSON unless it is text/plain.
func (s *suite) do(req *http.Request, send func(*http.Request) (*http.Response, error)) answer {
	s.Helper()
	resp, err := send(req)
	if err != nil {
		s.Fatalf("%s: the server cannot be reached", req.Method)
	}
	a := readAnswer(resp)
	if a.unreadable {
		s.Fatalf("%s: the answer %d is not JSON", req.Method, a.status)
	}
	return a
}

func readAnswer(resp *http.Response) answer {
	defer resp.Body.Close()
	a := answer{status: resp.StatusCode, header: resp.Header}
	text, err := io.ReadAll(resp.Body)
	switch {
	case err != nil || len(text) == 0:
	case strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain"):
		a.text = string(text)
	default:
		err = json.Unmarshal(text, &a)
	}
	a.unreadable = err != nil
	return a
}

// as returns the suite for the same client with another key or key id.
func (s *suite) as(keyID string, key ed25519.PrivateKey) *suite {
	s.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		s.Fatal(err)
	}
	text := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	sdk, err := openpayments.NewAuthenticatedClient(s.Client, text, keyID)
	if err != nil {
		s.Fatal(err)
	}
	return &suite{s.T, s.Server, sdk}
}

// newKey returns a key that is not published.
func (s *suite) newKey() ed25519.PrivateKey {
	s.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		s.Fatal(err)
	}
	return key
}

// want checks status and error code, and the description where one is given.
func (s *suite) want(a answer, status int, code, description string) {
	s.Helper()
	if a.status != status || a.Error.Code != code || description != "" && a.Error.Description != description {
		s.Fatalf("%d %s %q, want %d %s %q", a.status, a.Error.Code, a.Error.Description, status, code, description)
	}
}

func (s *suite) right(kind string, limits map[string]any) map[string]any {
	right := map[string]any{"type": kind, "actions": []string{"create", "read"}}
	if kind == "outgoing-payment" {
		right["identifier"] = s.Owner
	}
	if limits != nil {
		right["limits"] = limits
	}
	return right
}

func amount(value string) map[string]any {
	return map[string]any{"value": value, "assetCode": "USD", "assetScale": 2}
}

// ask sends a grant request.
func (s *suite) ask(right, interact map[string]any) answer {
	s.Helper()
	return s.askAs(map[string]any{"walletAddress": s.Client}, right, interact)
}

// askAs sends a grant request that names the client in the given form.
func (s *suite) askAs(client any, right, interact map[string]any) answer {
	s.Helper()
	body := map[string]any{"client": client, "access_token": map[string]any{"access": []any{right}}}
	if interact != nil {
		body["interact"] = interact
	}
	return s.send(http.MethodPost, s.AuthServer, "", body)
}

const clientNonce = "a-nonce-of-the-client"

func byRedirect() map[string]any {
	finish := map[string]any{"method": "redirect", "uri": finishURI, "nonce": clientNonce}
	return map[string]any{"start": []string{"redirect"}, "finish": finish}
}

func byPolling() map[string]any { return map[string]any{"start": []string{"redirect"}} }

// pending asks for a grant that needs its owner's consent.
func (s *suite) pending(interact map[string]any) answer {
	s.Helper()
	a := s.ask(s.right("outgoing-payment", map[string]any{"debitAmount": amount("500")}), interact)
	s.want(a, 200, "", "")
	if a.Token != nil || a.Interact == nil || a.Interact.Redirect == "" || a.Interact.Finish == "" ||
		a.Continue == nil || a.Continue.Wait == nil {
		s.Fatal("want interact with redirect and finish, and continue with wait")
	}
	return a
}

// proceed continues a grant; without a reference it polls.
func (s *suite) proceed(a answer, ref string) answer {
	s.Helper()
	if ref == "" {
		return s.send(http.MethodPost, a.Continue.URI, a.Continue.Token.Value, nil)
	}
	return s.send(http.MethodPost, a.Continue.URI, a.Continue.Token.Value, map[string]any{"interact_ref": ref})
}

func (s *suite) cancel(a answer) answer {
	s.Helper()
	return s.send(http.MethodDelete, a.Continue.URI, a.Continue.Token.Value, nil)
}

// decide acts as the owner and returns the query of the URL to which the browser is redirected.
func (s *suite) decide(a answer, decision string) url.Values {
	s.Helper()
	location, err := s.Decide(a.Interact.Redirect, decision)
	if err != nil {
		s.Fatalf("the owner could not %s", decision)
	}
	u, err := url.Parse(location)
	if err != nil || location != "" && !strings.HasPrefix(location, finishPage+"?") {
		s.Fatal("the browser is not sent to the finish URI")
	}
	if location != "" && (!strings.HasPrefix(u.RawQuery, "a=1&b=+x%7E&hash=") || strings.Contains(u.RawQuery, "&c&")) {
		s.Error("the finish URI's own query is not there, or not written anew")
	}
	return u.Query()
}

// only returns the one value of a parameter, because servers replace those of the finish URI.
func (s *suite) only(query url.Values, name string) string {
	s.Helper()
	if len(query[name]) > 1 {
		s.Errorf("%s is there %d times", name, len(query[name]))
	}
	return query.Get(name)
}

// wantResult checks that the redirect has a result and no hash, and a message unless the owner
// declined.
func (s *suite) wantResult(query url.Values, result string) {
	s.Helper()
	if s.only(query, "result") != result || query.Get("interact_ref") != "" || query.Get("hash") != "its-own" {
		s.Errorf("want result=%s, and no hash", result)
	}
	if (query.Get("message") == "") != (result == "grant_rejected") {
		s.Error("want a message, but for a rejection")
	}
}

func (s *suite) waitOut() { s.Pass(6 * time.Second) }

// token checks that an answer holds a token that lives.
func (s *suite) token(a answer) {
	s.Helper()
	s.want(a, 200, "", "")
	if a.Token == nil || a.Token.Value == "" || a.Token.Manage == "" || a.Token.ExpiresIn == nil {
		s.Fatal("want a token with value, manage and expires_in")
	}
}

// rotate rotates a token.
func (s *suite) rotate(a answer) answer {
	s.Helper()
	return s.send(http.MethodPost, a.Token.Manage, a.Token.Value, nil)
}

// revoke revokes a token.
func (s *suite) revoke(a answer) answer {
	s.Helper()
	return s.send(http.MethodDelete, a.Token.Manage, a.Token.Value, nil)
}

// granted gets a grant that needs no consent.
func (s *suite) granted() answer {
	s.Helper()
	a := s.ask(s.right("incoming-payment", nil), nil)
	s.token(a)
	return a
}

// dead checks that a token can neither be rotated nor revoked.
func (s *suite) dead(a answer) {
	s.Helper()
	s.want(s.rotate(a), 401, "invalid_client", "invalid access token")
	s.want(s.revoke(a), 401, "invalid_client", "invalid access token")
}

// wantHash checks the hash in either of the encodings that are in use (RFC 9635 section 4.2.3, and
// standard base64).
func (s *suite) wantHash(a answer, hash, ref string) {
	s.Helper()
	endpoint := strings.TrimSuffix(s.AuthServer, "/")
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%s\n%s", clientNonce, a.Interact.Finish, ref, endpoint))
	if hash != base64.StdEncoding.EncodeToString(sum[:]) && hash != base64.RawURLEncoding.EncodeToString(sum[:]) {
		s.Error("the hash is not that of nonces, reference and grant endpoint")
	}
}
