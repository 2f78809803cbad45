// SPDX-License-Identifier: MPL-2.0

// Package api holds the types of the Open Payments Authorization Server OpenAPI document 1.3.0. It
// is written by hand; the directory has the SDK's name.
package api

import "encoding/json"

// AccessToken is the schema access_token.
type AccessToken struct {
	Access Access `json:"access"`
	// ExpiresIn is in seconds from the server's response; nil if the server does not say.
	ExpiresIn *int `json:"expires_in,omitempty"`
	// Manage is the URL at which this token is rotated and revoked.
	Manage string `json:"manage"`
	Value  string `json:"value"`
}

// Access is the schema access: a list of rights.
type Access = []AccessItem

// AccessItem is the schema access-item: one of AccessIncoming, AccessOutgoing and AccessQuote, kept
// as its original JSON.
type AccessItem struct {
	union json.RawMessage
}

// AccessIncoming is the schema access-incoming.
type AccessIncoming struct {
	Actions    []string `json:"actions"`
	Identifier *string  `json:"identifier,omitempty"`
	Type       string   `json:"type"`
}

// AccessOutgoing is the schema access-outgoing.
type AccessOutgoing struct {
	Actions    []string `json:"actions"`
	Identifier string   `json:"identifier"`
	// Limits is the schema limits-outgoing.
	Limits json.RawMessage `json:"limits,omitempty"`
	Type   string          `json:"type"`
}

// AccessQuote is the schema access-quote.
type AccessQuote struct {
	Actions []string `json:"actions"`
	Type    string   `json:"type"`
}

// MarshalJSON returns the item's JSON.
func (t AccessItem) MarshalJSON() ([]byte, error) { return t.union.MarshalJSON() }

// UnmarshalJSON keeps b as it is.
func (t *AccessItem) UnmarshalJSON(b []byte) error { return t.union.UnmarshalJSON(b) }

// FromAccessIncoming sets the item to v.
func (t *AccessItem) FromAccessIncoming(v AccessIncoming) error { return from(&t.union, v) }

// FromAccessOutgoing sets the item to v.
func (t *AccessItem) FromAccessOutgoing(v AccessOutgoing) error { return from(&t.union, v) }

// FromAccessQuote sets the item to v.
func (t *AccessItem) FromAccessQuote(v AccessQuote) error { return from(&t.union, v) }

// AsAccessIncoming decodes the item. It does not check the item's type.
func (t AccessItem) AsAccessIncoming() (AccessIncoming, error) { return as[AccessIncoming](t.union) }

// AsAccessOutgoing decodes the item. It does not check the item's type.
func (t AccessItem) AsAccessOutgoing() (AccessOutgoing, error) { return as[AccessOutgoing](t.union) }

// AsAccessQuote decodes the item. It does not check the item's type.
func (t AccessItem) AsAccessQuote() (AccessQuote, error) { return as[AccessQuote](t.union) }

// GrantRequest is the body of the operation post-request, kept as JSON.
type GrantRequest struct {
	union json.RawMessage
}

// MarshalJSON returns the request's JSON.
func (t GrantRequest) MarshalJSON() ([]byte, error) { return t.union.MarshalJSON() }

// UnmarshalJSON keeps b as it is.
func (t *GrantRequest) UnmarshalJSON(b []byte) error { return t.union.UnmarshalJSON(b) }

// FromGrantRequestWithAccessToken sets the request to v.
func (t *GrantRequest) FromGrantRequestWithAccessToken(v GrantRequestWithAccessToken) error {
	return from(&t.union, v)
}

// AsGrantRequestWithAccessToken decodes the request as one that asks for an access token.
func (t GrantRequest) AsGrantRequestWithAccessToken() (GrantRequestWithAccessToken, error) {
	return as[GrantRequestWithAccessToken](t.union)
}

// GrantRequestWithAccessToken is the body of the operation post-request that asks for an access
// token.
type GrantRequestWithAccessToken struct {
	AccessToken AccessTokenRequest `json:"access_token"`
	Client      Client             `json:"client"`
	Interact    *InteractRequest   `json:"interact,omitempty"`
	Subject     *Subject           `json:"subject,omitempty"`
}

// AccessTokenRequest is the access_token of a grant request.
type AccessTokenRequest struct {
	Access Access `json:"access"`
}

// Client is the schema client, kept as JSON.
type Client struct {
	union json.RawMessage
}

// MarshalJSON returns the client's JSON.
func (t Client) MarshalJSON() ([]byte, error) { return t.union.MarshalJSON() }

// UnmarshalJSON keeps b as it is.
func (t *Client) UnmarshalJSON(b []byte) error { return t.union.UnmarshalJSON(b) }

// ClientDirectedIdentity is the form of the schema client that contains the public key itself.
// Servers accept it for non-interactive grants only.
type ClientDirectedIdentity struct {
	Jwk JsonWebKey `json:"jwk"`
}

// InteractRequest is the schema interact-request.
type InteractRequest struct {
	Finish *struct {
		Method InteractRequestFinishMethod `json:"method"`
		Nonce  string                      `json:"nonce"`
		Uri    string                      `json:"uri"`
	} `json:"finish,omitempty"`
	Start []InteractRequestStart `json:"start"`
}

// InteractRequestStart is a way for the client to start an interaction.
type InteractRequestStart string

// InteractRequestStartRedirect is the only way to start in the OpenAPI document.
const InteractRequestStartRedirect InteractRequestStart = "redirect"

// InteractRequestFinishMethod is a way for the server to report the end of an interaction.
type InteractRequestFinishMethod string

// InteractRequestFinishMethodRedirect is the only way to finish in the OpenAPI document.
const InteractRequestFinishMethodRedirect InteractRequestFinishMethod = "redirect"

// InteractResponse is the schema interact-response.
type InteractResponse struct {
	// Finish is part of the input of the hash that secures the callback (RFC 9635 section 4.2.3).
	Finish string `json:"finish"`
	// Redirect is the URL to send the owner to.
	Redirect string `json:"redirect"`
}

// Continue is the schema continue.
type Continue struct {
	AccessToken struct {
		Value string `json:"value"`
	} `json:"access_token"`
	Uri string `json:"uri"`
	// Wait is how many seconds to wait before the next continue request; nil if the server does not
	// say.
	Wait *int `json:"wait,omitempty"`
}

// Subject is the schema subject.
type Subject struct {
	SubIds []struct {
		Format SubjectSubIdsFormat `json:"format"`
		Id     string              `json:"id"`
	} `json:"sub_ids"`
}

// SubjectSubIdsFormat is the format of a subject identifier.
type SubjectSubIdsFormat string

// JsonWebKey is the schema json-web-key: an Ed25519 public key (RFC 8037 section 2).
type JsonWebKey struct {
	Alg JsonWebKeyAlg  `json:"alg"`
	Crv JsonWebKeyCrv  `json:"crv"`
	Kid string         `json:"kid"`
	Kty JsonWebKeyKty  `json:"kty"`
	Use *JsonWebKeyUse `json:"use,omitempty"`
	X   string         `json:"x"`
}

// JsonWebKeyAlg is always EdDSA.
type JsonWebKeyAlg string

// JsonWebKeyCrv is always Ed25519.
type JsonWebKeyCrv string

// JsonWebKeyKty is always OKP.
type JsonWebKeyKty string

// JsonWebKeyUse is sig, or empty.
type JsonWebKeyUse string

func from(union *json.RawMessage, v any) error {
	b, err := json.Marshal(v)
	*union = b
	return err
}

func as[T any](union json.RawMessage) (v T, err error) {
	err = json.Unmarshal(union, &v)
	return v, err
}
