// SPDX-License-Identifier: MPL-2.0

package client_test

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"strings"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/sdk/logical"
	openpayments "github.com/interledger/open-payments-go"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/backend"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/client"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/vaulttest"
)

// An http.Client whose requests are signed.
func Example() {
	vault, stop := startExample() // yours: api.NewClient(nil), with VAULT_ADDR and VAULT_TOKEN
	defer stop()
	ctx := context.Background()

	c, err := client.New(vault, client.Options{Grant: "shop-income"})
	if err != nil {
		panic(err)
	}
	defer c.Close(ctx) // revokes the lease
	wallet := &http.Client{Transport: c}

	token, err := c.Token(ctx) // it says where to send requests, and for which wallet
	if err != nil {
		panic(err)
	}
	resp, err := wallet.Post(token.ResourceServer+"/incoming-payments", "application/json",
		strings.NewReader(fmt.Sprintf(`{"walletAddress": %q}`, token.WalletAddress)))
	if err != nil {
		panic(err)
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status)
	// Output: 201 Created
}

// The Open Payments SDK for Go requires a key. Any key will do, such as a temporary one: Vault's
// signature replaces the SDK's.
func Example_sdk() {
	vault, stop := startExample()
	defer stop()
	ctx := context.Background()

	c, err := client.New(vault, client.Options{Grant: "shop-income"})
	if err != nil {
		panic(err)
	}
	defer c.Close(ctx)
	token, err := c.Token(ctx)
	if err != nil {
		panic(err)
	}
	_, anyKey := newKey()
	sdk, err := openpayments.NewAuthenticatedClient("https://wallet.example/client", anyKey, "none",
		openpayments.WithHTTPClientAuthed(&http.Client{Transport: c}))
	if err != nil {
		panic(err)
	}

	req, err := http.NewRequestWithContext(ctx, "POST", token.ResourceServer+"/incoming-payments",
		strings.NewReader(fmt.Sprintf(`{"walletAddress": %q}`, token.WalletAddress)))
	if err != nil {
		panic(err)
	}
	resp, err := sdk.DoSigned(req)
	if err != nil {
		panic(err)
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status)
	// Output: 201 Created
}

// startExample starts the secrets engine, with the grant shop-income, and a sandbox.
func startExample() (vault *api.Client, stop func()) {
	wallet, err := sandbox.Start(sandbox.Options{})
	check(err)
	ctx := context.Background()
	storage := &logical.InmemStorage{}
	engine, err := backend.Factory("v0.0.1")(ctx, &logical.BackendConfig{
		Logger: hclog.NewNullLogger(), System: logical.TestSystemView(), StorageView: storage,
	})
	check(err)
	vault = newVault("http://vault.example", inProcess{&vaulttest.API{
		Engine: func(ctx context.Context, req *logical.Request) (*logical.Response, error) {
			req.Storage = storage
			return engine.HandleRequest(ctx, req)
		},
	}})
	public, private := newKey()
	wallet.PublishKey("key-1", public)
	_, err = vault.Logical().Write("op/config", map[string]any{
		"wallet_address": wallet.WalletAddress("client"), "key_id": "key-1", "private_key": private,
	})
	check(err)
	_, err = vault.Logical().Write("op/grants/shop-income", map[string]any{
		"wallet_address": wallet.WalletAddress("shop"),
		"access":         `[{"type": "incoming-payment", "actions": ["create", "read", "list"]}]`,
	})
	check(err)
	return vault, func() {
		engine.Cleanup(ctx)
		wallet.Close()
	}
}

// newKey returns a new key pair, the private key as PEM.
func newKey() (public ed25519.PublicKey, private string) {
	public, key, err := ed25519.GenerateKey(nil)
	check(err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	check(err)
	return public, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
