// SPDX-License-Identifier: MPL-2.0

package authserver

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	openpayments "github.com/interledger/open-payments-go"
)

// WalletDocument is what the engine reads in a wallet address document (OpenAPI wallet-address).
type WalletDocument struct {
	ID             string // the wallet address as servers compare it; empty: the document has none that can be one
	PublicName     string
	AuthServer     string
	ResourceServer string
}

// Wallet fetches a wallet address document (OpenAPI get-wallet-address).
func (c *Client) Wallet(ctx context.Context, address string) (WalletDocument, error) {
	x := c.exchange(ctx, address, c.RequestTimeout)
	defer x.stop()
	x.path = pathOf(address)
	x.send(func(sdk *openpayments.AuthenticatedClient) error {
		_, err := sdk.WalletAddress.Get(x.ctx, openpayments.WalletAddressGetParams{URL: address})
		return err
	})
	if x.status != http.StatusOK || x.body.cutOff() {
		f := x.failure()
		f.Redirect = x.redirect()
		return WalletDocument{}, f
	}
	doc, ok := c.readWalletDocument(x.body.text)
	if !ok {
		return WalletDocument{}, fmt.Errorf("%s%s answered no wallet address document", x.origin, x.path)
	}
	return doc, nil
}

// readWalletDocument reads a wallet address document. ok reports whether it is one: it names an
// authorization server.
func (c *Client) readWalletDocument(text []byte) (doc WalletDocument, ok bool) {
	members := membersOf(text)
	doc = WalletDocument{
		PublicName:     stringOf(members["publicName"]),
		AuthServer:     stringOf(members["authServer"]),
		ResourceServer: stringOf(members["resourceServer"]),
	}
	if id := stringOf(members["id"]); c.isWalletAddress(id) {
		doc.ID = id
	}
	return doc, doc.AuthServer != ""
}

// isWalletAddress reports whether a document's id is a wallet address that this client could fetch
// the document of.
func (c *Client) isWalletAddress(id string) bool {
	u, err := ParseURL(id)
	if err != nil {
		return false // also a payment pointer, which is a way to write an address and not the address
	}
	_, err = ParseWalletAddress(id)
	return err == nil && c.CheckReach(u) == nil
}

// KeyPublished reports whether the client's key set holds its public key under its key id (OpenAPI
// get-wallet-address-keys). An error means that this cannot be told now.
func (c *Client) KeyPublished(ctx context.Context) (bool, error) {
	key, err := PublicJWK(c.KeyID, c.PrivateKey)
	if err != nil {
		return false, err
	}
	x := c.exchange(ctx, c.WalletAddress, c.RequestTimeout)
	defer x.stop()
	x.path = pathOf(c.WalletAddress) + "/jwks.json"
	x.send(func(sdk *openpayments.AuthenticatedClient) error {
		_, err := sdk.WalletAddress.GetKeys(x.ctx, openpayments.WalletAddressGetKeysParams{URL: c.WalletAddress})
		return err
	})
	switch {
	case x.status == http.StatusNotFound:
		return false, nil
	case x.status != http.StatusOK || x.body.cutOff():
		f := x.failure()
		if address, ok := strings.CutSuffix(x.redirect(), "/jwks.json"); ok {
			f.Redirect = address
		}
		return false, f
	case !isObject(x.body.text):
		return false, fmt.Errorf("%s%s answered no key set", x.origin, x.path)
	}
	return holdsKey(x.body.text, key), nil
}

// holdsKey reports whether a key set holds a public key under its id. Each key is read on its own: a
// neighbour's may be of any kind.
func holdsKey(set []byte, key map[string]any) bool {
	return slices.ContainsFunc(elementsOf(membersOf(set)["keys"]), func(raw json.RawMessage) bool {
		k := membersOf(raw)
		return stringOf(k["kid"]) == key["kid"] && strings.TrimRight(stringOf(k["x"]), "=") == key["x"]
	})
}
