// SPDX-License-Identifier: MPL-2.0

package api

import (
	"encoding/json"
	"reflect"
	"testing"
)

// The names are those of wallet-address-server.yaml 1.3.0.
func TestWalletAddress(t *testing.T) {
	for text, want := range map[string]WalletAddress{
		`{"id":"i","publicName":"p","assetCode":"EUR","assetScale":2,"authServer":"a","resourceServer":"r"}`: {
			Id: new("i"), PublicName: new("p"), AssetCode: "EUR", AssetScale: 2, AuthServer: new("a"), ResourceServer: new("r")},
		`{"assetCode":"EUR","assetScale":0,"x":null}`: {AssetCode: "EUR", AdditionalProperties: map[string]any{"x": nil}},
		`{}`: {},
	} {
		got := WalletAddress{AssetCode: "before", AdditionalProperties: map[string]any{"before": 1}}
		if err := json.Unmarshal([]byte(text), &got); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v", text, got)
		}
	}
	for _, text := range []string{`[]`, `{"assetScale":"2"}`, `"x"`} {
		if err := json.Unmarshal([]byte(text), new(WalletAddress)); err == nil {
			t.Errorf("%s was read", text)
		}
	}
}
