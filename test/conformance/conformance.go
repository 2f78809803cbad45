// SPDX-License-Identifier: MPL-2.0

// Package conformance asks an Open Payments authorization server for what the
// engine relies on: how it answers grant requests, continuations and owners. It
// takes the server's addresses and somebody who decides as the owner would, so it
// can be pointed at any server.
package conformance

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
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
	Leave   = "leave" // go on to the finish without deciding
)

// Server is the server that is looked at, and who looks at it.
type Server struct {
	AuthServer string // the grant endpoint
	Owner      string // wallet address of the owner
	Client     string // wallet address of the client, which publishes the key
	KeyID      string
	PrivateKey string // PEM, PKCS#8

	// Decide is the owner, who opens interact.redirect. It answers where the
	// browser is sent to in the end; empty where the client has no finish URI.
	Decide func(interactURL, decision string) (location string, err error)
	// Pass lets time pass: it sleeps, or moves the server's clock.
	Pass func(time.Duration)
	// InteractionLife is how long the server waits for its owner; zero leaves out
	// the case of an interaction that expires.
	InteractionLife time.Duration
}

const finishURI = "https://client.example/back?a=1&b=2&hash=its-own"

// suite is one case's view of the server.
type suite struct {
	*testing.T
	Server
	sdk *openpayments.AuthenticatedClient
}

// answer is what the suite reads in the server's answers.
type answer struct {
	status int
	header http.Header
	Token  *struct {
		Value, Manage string
		ExpiresIn     *int `json:"expires_in"`
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
	for name, one := range cases {
		t.Run(name, func(t *testing.T) { one(&suite{t, s, sdk}) })
	}
}

// send sends a signed request. Secrets of the answer are never printed.
func (s *suite) send(method, target, token string, body any) answer {
	s.Helper()
	var reader io.Reader
	if body != nil {
		var text bytes.Buffer
		encoder := json.NewEncoder(&text)
		encoder.SetEscapeHTML(false) // as JavaScript writes it, which is what servers compute the digest of
		if err := encoder.Encode(body); err != nil {
			s.Fatal(err)
		}
		reader = bytes.NewReader(bytes.TrimSpace(text.Bytes()))
	}
	req, err := http.NewRequestWithContext(context.Background(), method, target, reader)
	if err != nil {
		s.Fatal("the server has named something that is no URL")
	}
	req.Header.Set("Accept", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "GNAP "+token)
	}
	resp, err := s.sdk.DoSigned(req)
	if err != nil {
		s.Fatalf("%s: the server cannot be reached", method)
	}
	defer resp.Body.Close()
	a := answer{status: resp.StatusCode, header: resp.Header}
	text, err := io.ReadAll(resp.Body)
	if err == nil && len(text) > 0 {
		err = json.Unmarshal(text, &a)
	}
	if err != nil {
		s.Fatalf("%s: the answer %d is not JSON", method, resp.StatusCode)
	}
	return a
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
	body := map[string]any{"client": map[string]any{"walletAddress": s.Client}, "access_token": map[string]any{"access": []any{right}}}
	if interact != nil {
		body["interact"] = interact
	}
	return s.send(http.MethodPost, s.AuthServer, "", body)
}

const clientNonce = "a-nonce-of-the-client"

func byRedirect() map[string]any {
	return map[string]any{"start": []string{"redirect"}, "finish": map[string]any{"method": "redirect", "uri": finishURI, "nonce": clientNonce}}
}

func byPolling() map[string]any { return map[string]any{"start": []string{"redirect"}} }

// pending asks for a grant that needs its owner's consent.
func (s *suite) pending(interact map[string]any) answer {
	s.Helper()
	a := s.ask(s.right("outgoing-payment", map[string]any{"debitAmount": amount("500")}), interact)
	s.want(a, 200, "", "")
	if a.Token != nil || a.Interact == nil || a.Interact.Redirect == "" || a.Interact.Finish == "" || a.Continue == nil || a.Continue.Wait == nil {
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

// decide is the owner, and answers the query of the URL that the browser is sent to.
func (s *suite) decide(a answer, decision string) url.Values {
	s.Helper()
	location, err := s.Decide(a.Interact.Redirect, decision)
	if err != nil {
		s.Fatalf("the owner could not %s", decision)
	}
	u, err := url.Parse(location)
	if err != nil || location != "" && !strings.HasPrefix(location, finishURI+"&") {
		s.Fatal("the browser is not sent to the finish URI with the query that it has")
	}
	return u.Query()
}

func last(values url.Values, name string) string {
	if all := values[name]; len(all) > 0 {
		return all[len(all)-1]
	}
	return ""
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

// dead checks that a token cannot be rotated any more.
func (s *suite) dead(a answer) {
	s.Helper()
	s.want(s.send(http.MethodPost, a.Token.Manage, a.Token.Value, nil), 401, "invalid_client", "")
}

var cases = map[string]func(s *suite){
	"incoming payments and quotes are granted at once": func(s *suite) {
		for _, kind := range []string{"incoming-payment", "quote"} {
			a := s.ask(s.right(kind, nil), nil)
			s.token(a)
			if a.Continue == nil || a.Continue.URI == "" || a.Continue.Wait != nil {
				s.Errorf("%s: want continue, without wait", kind)
			}
			s.cancel(a)
		}
	},
	"outgoing payments need interaction": func(s *suite) {
		s.want(s.ask(s.right("outgoing-payment", nil), nil), 400, "invalid_request", "missing required request field 'interact'")
		s.cancel(s.pending(byRedirect()))
		s.cancel(s.pending(byPolling()))
	},
	"one amount only": func(s *suite) {
		s.want(s.ask(s.right("outgoing-payment", map[string]any{"debitAmount": amount("1"), "receiveAmount": amount("1")}), byPolling()), 400, "invalid_request", "only one access amount allowed")
	},
	"schema errors have no code": func(s *suite) {
		s.want(s.ask(map[string]any{"type": "incoming-payment"}, nil), 400, "", "")
	},
	"client with a trailing slash": func(s *suite) {
		s.Client += "/"
		s.want(s.ask(s.right("incoming-payment", nil), nil), 400, "invalid_client", "could not determine client")
	},
	"cancelling ends every token": func(s *suite) {
		a := s.ask(s.right("incoming-payment", nil), nil)
		s.token(a)
		wrong := a
		other := *a.Continue
		other.Token.Value = "another-token"
		wrong.Continue = &other
		s.want(s.cancel(wrong), 401, "invalid_continuation", "")
		s.want(s.cancel(a), 204, "", "")
		s.dead(a)
		s.want(s.cancel(a), 401, "invalid_continuation", "")
	},
	"continuing what needed no interaction": func(s *suite) {
		a := s.ask(s.right("incoming-payment", nil), nil)
		s.token(a)
		s.want(s.proceed(a, ""), 400, "too_fast", "")
		s.waitOut()
		s.token(s.proceed(a, ""))
		s.waitOut()
		s.want(s.proceed(a, ""), 401, "request_denied", "")
		s.cancel(a)
	},
	"approved, finished by redirect": func(s *suite) {
		a := s.pending(byRedirect())
		back := s.decide(a, Accept)
		ref := last(back, "interact_ref")
		s.wantHash(a, last(back, "hash"), ref)
		if back.Get("a") != "1" || back.Get("b") != "2" || back.Get("hash") != "its-own" {
			s.Error("the finish URI's own query is changed")
		}
		s.want(s.proceed(a, ref), 400, "too_fast", "")
		s.waitOut()
		s.want(s.proceed(a, "another"), 404, "invalid_continuation", "")
		s.waitOut()
		done := s.proceed(a, ref) // it was not used up by being too early
		s.token(done)
		if done.Continue == nil || done.Continue.URI != a.Continue.URI || done.Continue.Wait != nil {
			s.Error("want continue unchanged, without wait")
		}
		s.waitOut()
		s.want(s.proceed(a, ref), 401, "request_denied", "")
		s.want(s.cancel(a), 204, "", "")
		s.dead(done)
	},
	"declined": func(s *suite) {
		back := s.decide(s.pending(byRedirect()), Decline)
		if last(back, "result") != "grant_rejected" || last(back, "interact_ref") != "" || last(back, "hash") != "its-own" {
			s.Error("want result=grant_rejected, and no hash")
		}
	},
	"undecided": func(s *suite) {
		if last(s.decide(s.pending(byRedirect()), Leave), "result") != "grant_invalid" {
			s.Error("want result=grant_invalid")
		}
	},
	"cancelled while the owner decides": func(s *suite) {
		a := s.pending(byRedirect())
		s.want(s.cancel(a), 204, "", "")
		if last(s.decide(a, Accept), "result") != "unknown_interaction" {
			s.Error("want result=unknown_interaction")
		}
	},
	"expired": func(s *suite) {
		if s.InteractionLife == 0 {
			return
		}
		a := s.pending(byRedirect())
		s.Pass(s.InteractionLife + time.Second)
		if back := s.decide(a, Accept); last(back, "result") != "invalid_interaction" {
			s.Error("want result=invalid_interaction")
		}
	},
	"polled, approved": func(s *suite) {
		a := s.pending(byPolling())
		early := s.proceed(a, "")
		s.want(early, 400, "too_fast", "")
		if early.header.Get("Retry-After") != "" {
			s.Error("there is a Retry-After")
		}
		s.waitOut()
		still := s.proceed(a, "")
		s.want(still, 200, "", "")
		if still.Token != nil || still.Continue == nil || still.Continue.Wait == nil {
			s.Fatal("want continue with wait, and no token")
		}
		s.decide(a, Accept)
		s.waitOut()
		s.token(s.proceed(still, ""))
		s.waitOut()
		s.want(s.proceed(still, ""), 401, "request_denied", "")
		s.cancel(still)
	},
	"polled, declined": func(s *suite) {
		a := s.pending(byPolling())
		s.decide(a, Decline)
		s.waitOut()
		s.want(s.proceed(a, ""), 401, "request_denied", "")
	},
	"polling what has a finish": func(s *suite) {
		a := s.pending(byRedirect())
		s.waitOut()
		s.want(s.proceed(a, ""), 401, "request_denied", "grant cannot be polled")
		s.cancel(a)
	},
}

// wantHash checks the hash in either of the encodings that are in use (RFC 9635
// section 4.2.3, and standard base64).
func (s *suite) wantHash(a answer, hash, ref string) {
	s.Helper()
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%s\n%s", clientNonce, a.Interact.Finish, ref, strings.TrimSuffix(s.AuthServer, "/")))
	if hash != base64.StdEncoding.EncodeToString(sum[:]) && hash != base64.RawURLEncoding.EncodeToString(sum[:]) {
		s.Error("the hash is not that of nonces, reference and grant endpoint")
	}
}
