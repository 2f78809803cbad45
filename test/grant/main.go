// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	openpayments "github.com/interledger/open-payments-go"
	as "github.com/interledger/open-payments-go/generated/authserver"
)

func main() {
	client := flag.String("client", "", "wallet `address` of the client")
	key := flag.String("key", "", "`file` with the client's private key (PEM, PKCS#8)")
	keyID := flag.String("key-id", "", "`id` under which the client publishes its key")
	access := flag.String("access", "", "`file` with the rights to ask for (JSON list)")
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	if err := ask(*client, *key, *keyID, *access, flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, "grant:", err)
		os.Exit(1)
	}
}

func ask(wallet, keyFile, keyID, accessFile, owner string) error {
	key, err := os.ReadFile(keyFile)
	if err != nil {
		return err
	}
	rights, err := os.ReadFile(accessFile)
	if err != nil {
		return err
	}
	var access as.Access
	if err := json.Unmarshal(rights, &access); err != nil {
		return fmt.Errorf("%s: %w", accessFile, err)
	}
	var body as.GrantRequest
	err = body.FromGrantRequestWithAccessToken(as.GrantRequestWithAccessToken{
		AccessToken: as.AccessTokenRequest{Access: access},
	})
	if err != nil {
		return err
	}
	client, err := openpayments.NewAuthenticatedClient(wallet, string(key), keyID)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	document, err := client.WalletAddress.Get(ctx, openpayments.WalletAddressGetParams{URL: owner})
	if err != nil {
		return err
	}
	if document.AuthServer == nil {
		return errors.New("the wallet names no authorization server")
	}
	grant, err := client.Grant.Request(
		ctx,
		openpayments.GrantRequestParams{URL: *document.AuthServer, RequestBody: body},
	)
	if err != nil {
		return err
	}
	token := grant.AccessToken
	if token == nil {
		return errors.New("the grant needs its owner's consent, which this command does not ask for")
	}
	fmt.Printf("access_token=%s\nmanage_url=%s\n", token.Value, token.Manage)
	if token.ExpiresIn != nil {
		fmt.Printf("expires_in=%d\n", *token.ExpiresIn)
	}
	return nil
}
