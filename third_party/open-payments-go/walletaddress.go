// SPDX-License-Identifier: MPL-2.0

package openpayments

import (
	"context"
	"fmt"
	"net/http"

	was "github.com/interledger/open-payments-go/generated/walletaddressserver"
)

// WalletAddressService reads the public documents of wallet addresses. Its requests are not signed,
// and the hooks are not called.
type WalletAddressService struct {
	do RequestDoer
}

// WalletAddressGetParams identify a wallet address.
type WalletAddressGetParams struct {
	URL string
}

// WalletAddressGetKeysParams identify a wallet address.
type WalletAddressGetKeysParams struct {
	// URL is the wallet address, without /jwks.json and without a trailing slash.
	URL string
}

// Get reads a wallet address (operation get-wallet-address).
func (s *WalletAddressService) Get(ctx context.Context, params WalletAddressGetParams) (was.WalletAddress, error) {
	var address was.WalletAddress
	if err := s.get(ctx, "get wallet address", params.URL, &address); err != nil {
		return was.WalletAddress{}, err
	}
	return address, nil
}

// GetKeys reads the public keys of a wallet address (operation get-wallet-address-keys).
func (s *WalletAddressService) GetKeys(ctx context.Context, params WalletAddressGetKeysParams) (was.JsonWebKeySet,
	error) {
	var keys was.JsonWebKeySet
	if err := s.get(ctx, "get keys", params.URL+"/jwks.json", &keys); err != nil {
		return was.JsonWebKeySet{}, err
	}
	return keys, nil
}

func (s *WalletAddressService) get(ctx context.Context, trying, url string, out any) error {
	req, err := newRequest(ctx, http.MethodGet, url, "", nil)
	if err != nil {
		return fmt.Errorf("%s: %w", trying, err)
	}
	return call(s.do, req, trying, http.StatusOK, out)
}
