// SPDX-License-Identifier: MPL-2.0

// Package api holds the types of the Open Payments Wallet Address API OpenAPI document 1.3.0. It is
// written by hand; the directory has the SDK's name.
package api

import "encoding/json"

// WalletAddress is the schema wallet-address.
type WalletAddress struct {
	AssetCode string `json:"assetCode"`
	// AssetScale is the number of decimal places of the asset's smallest unit.
	AssetScale int `json:"assetScale"`
	// AuthServer is the grant endpoint.
	AuthServer     *string `json:"authServer,omitempty"`
	Id             *string `json:"id,omitempty"`
	PublicName     *string `json:"publicName,omitempty"`
	ResourceServer *string `json:"resourceServer,omitempty"`
	// AdditionalProperties holds the members that the schema does not define.
	AdditionalProperties map[string]any `json:"-"`
}

// members has WalletAddress' fields without its methods.
type members WalletAddress

// UnmarshalJSON puts members that the schema does not define into AdditionalProperties.
func (a *WalletAddress) UnmarshalJSON(b []byte) error {
	var m members
	if err := json.Unmarshal(b, &m); err != nil {
		return err
	}
	var rest map[string]any
	if err := json.Unmarshal(b, &rest); err != nil {
		return err
	}
	for _, name := range []string{"assetCode", "assetScale", "authServer", "id", "publicName", "resourceServer"} {
		delete(rest, name)
	}
	if len(rest) > 0 {
		m.AdditionalProperties = rest
	}
	*a = WalletAddress(m)
	return nil
}

// JsonWebKeySet is the schema json-web-key-set (RFC 7517 section 5).
type JsonWebKeySet struct {
	Keys *[]JsonWebKey `json:"keys,omitempty"`
}

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
