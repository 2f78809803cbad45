// SPDX-License-Identifier: MPL-2.0

package api

import (
	"encoding/json"
	"testing"
)

// The names are those of auth-server.yaml 1.3.0.
func TestJSONNames(t *testing.T) {
	var item AccessItem
	if err := item.FromAccessQuote(AccessQuote{Type: "quote", Actions: []string{"create"}}); err != nil {
		t.Fatal(err)
	}
	interact := &InteractRequest{Start: []InteractRequestStart{InteractRequestStartRedirect}}
	if err := json.Unmarshal([]byte(`{"finish":{"method":"redirect","nonce":"n","uri":"u"}}`), interact); err != nil {
		t.Fatal(err)
	}
	if interact.Finish.Method != InteractRequestFinishMethodRedirect {
		t.Errorf("method: %s", interact.Finish.Method)
	}
	var subject Subject
	if err := json.Unmarshal([]byte(`{"sub_ids":[{"id":"i","format":"uri"}]}`), &subject); err != nil {
		t.Fatal(err)
	}
	var grant Continue
	grant.AccessToken.Value, grant.Uri, grant.Wait = "v", "u", new(5)
	request := AccessTokenRequest{Access: Access{item}}

	for want, v := range map[string]any{
		`{"access":[{"actions":["create"],"type":"quote"}],"expires_in":600,"manage":"m","value":"v"}`: AccessToken{
			Access: Access{item}, ExpiresIn: new(600), Manage: "m", Value: "v"},
		`{"access":[],"manage":"m","value":"v"}`: AccessToken{Access: Access{}, Manage: "m", Value: "v"},
		`{"access_token":{"access":[{"actions":["create"],"type":"quote"}]},"client":null,` +
			`"interact":{"finish":{"method":"redirect","nonce":"n","uri":"u"},"start":["redirect"]},` +
			`"subject":{"sub_ids":[{"format":"uri","id":"i"}]}}`: GrantRequestWithAccessToken{
			AccessToken: request, Interact: interact, Subject: &subject},
		`{"access_token":{"access":[{"actions":["create"],"type":"quote"}]},` +
			`"client":null}`: GrantRequestWithAccessToken{AccessToken: request},
		`{"start":["redirect"]}`: InteractRequest{
			Start: []InteractRequestStart{InteractRequestStartRedirect}},
		`{"finish":"f","redirect":"r"}`:                     InteractResponse{Finish: "f", Redirect: "r"},
		`{"access_token":{"value":"v"},"uri":"u","wait":5}`: grant,
		`{"access_token":{"value":""},"uri":""}`:            Continue{},
		`{"jwk":{"alg":"EdDSA","crv":"Ed25519","kid":"k","kty":"OKP","use":"sig",` +
			`"x":"AA"}}`: ClientDirectedIdentity{Jwk: JsonWebKey{
			Alg: "EdDSA", Crv: "Ed25519", Kid: "k", Kty: "OKP", Use: new(JsonWebKeyUse("sig")), X: "AA"}},
	} {
		got, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != want {
			t.Errorf("%T:\n%s\nwant\n%s", v, got, want)
		}
	}
}

// Rights and requests come out as they went in, unknown members and number formats included.
func TestOpaque(t *testing.T) {
	const text = `{"type":"x","limits":{"n":1.50,"big":12345678901234567890},"more":[null]}`
	for name, v := range map[string]any{"AccessItem": new(AccessItem), "GrantRequest": new(GrantRequest),
		"Client": new(Client)} {
		if got, err := json.Marshal(v); err != nil || string(got) != "null" {
			t.Errorf("%s: zero value: %s, %v", name, got, err)
		}
		b := []byte(text)
		if err := json.Unmarshal(b, v); err != nil {
			t.Fatal(err)
		}
		clear(b)
		if got, err := json.Marshal(v); err != nil || string(got) != text {
			t.Errorf("%s: %s, %v", name, got, err)
		}
	}
}

func TestFromAs(t *testing.T) {
	var item AccessItem
	incoming := AccessIncoming{Type: "incoming-payment", Actions: []string{"read"}, Identifier: new("i")}
	if err := item.FromAccessIncoming(incoming); err != nil {
		t.Fatal(err)
	}
	if got, err := item.AsAccessIncoming(); err != nil || got.Type != incoming.Type || *got.Identifier != "i" ||
		got.Actions[0] != "read" {
		t.Errorf("%+v, %v", got, err)
	}
	outgoing := AccessOutgoing{Type: "outgoing-payment", Actions: []string{"create"}, Identifier: "i",
		Limits: json.RawMessage(`{"interval":"R/P1M"}`)}
	if err := item.FromAccessOutgoing(outgoing); err != nil {
		t.Fatal(err)
	}
	if got, err := item.AsAccessOutgoing(); err != nil || got.Identifier != "i" ||
		string(got.Limits) != string(outgoing.Limits) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := item.AsAccessQuote(); err != nil || got.Type != "outgoing-payment" {
		t.Errorf("%+v, %v", got, err)
	}
	if err := item.FromAccessOutgoing(AccessOutgoing{Limits: json.RawMessage(`{`)}); err == nil {
		t.Error("broken limits were taken")
	}

	var request GrantRequest
	if _, err := request.AsGrantRequestWithAccessToken(); err == nil {
		t.Error("the zero request was read")
	}
	withoutRights := GrantRequestWithAccessToken{AccessToken: AccessTokenRequest{Access: Access{}}}
	if err := request.FromGrantRequestWithAccessToken(withoutRights); err != nil {
		t.Fatal(err)
	}
	if got, err := request.AsGrantRequestWithAccessToken(); err != nil || got.AccessToken.Access == nil {
		t.Errorf("%+v, %v", got, err)
	}
}
