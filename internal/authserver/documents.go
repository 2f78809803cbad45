// SPDX-License-Identifier: MPL-2.0

package authserver

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	openpayments "github.com/interledger/open-payments-go"
)

// WalletDocument is what the engine reads in a wallet address document (OpenAPI wallet-address).
type WalletDocument struct {
	PublicName     string `json:"publicName"`
	AuthServer     string `json:"authServer"`
	ResourceServer string `json:"resourceServer"`
}

// Wallet fetches a wallet address document (OpenAPI get-wallet-address).
func (c *Client) Wallet(ctx context.Context, address string) (WalletDocument, error) {
	var doc WalletDocument
	x := c.exchange(ctx, address, c.RequestTimeout)
	defer x.stop()
	x.send(func(sdk *openpayments.AuthenticatedClient) error {
		_, err := sdk.WalletAddress.Get(x.ctx, openpayments.WalletAddressGetParams{URL: address})
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

// KeyPublished reports whether the client's key set holds its public key under its key id (OpenAPI
// get-wallet-address-keys). An error means that this cannot be told now.
func (c *Client) KeyPublished(ctx context.Context) (bool, error) {
	key, err := PublicJWK(c.KeyID, c.PrivateKey)
	if err != nil {
		return false, err
	}
	x := c.exchange(ctx, c.WalletAddress, c.RequestTimeout)
	defer x.stop()
	x.send(func(sdk *openpayments.AuthenticatedClient) error {
		_, err := sdk.WalletAddress.GetKeys(x.ctx, openpayments.WalletAddressGetKeysParams{URL: c.WalletAddress})
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
		if k.Kid == c.KeyID && strings.TrimRight(k.X, "=") == key["x"] {
			return true, nil
		}
	}
	return false, nil
}
