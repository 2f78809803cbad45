// SPDX-License-Identifier: MPL-2.0

// Pay sends one signed request to a resource server, as an application does
// with a token that it has from Vault, and prints status and body:
//
//	pay -client WALLET_ADDRESS -key FILE -key-id ID -token TOKEN [-data JSON] URL
//
// It is for the quickstart and for trying by hand. Its status is 1 if the
// server does not answer, whatever the answer is.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	openpayments "github.com/interledger/open-payments-go"
)

func main() {
	client := flag.String("client", "", "wallet `address` of the client")
	key := flag.String("key", "", "`file` with the client's private key (PEM, PKCS#8)")
	keyID := flag.String("key-id", "", "`id` under which the client publishes its key")
	token := flag.String("token", "", "access `token`")
	data := flag.String("data", "", "body to POST; without it the request is a GET")
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	if err := pay(*client, *key, *keyID, *token, *data, flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, "pay:", err)
		os.Exit(1)
	}
}

func pay(wallet, keyFile, keyID, token, data, url string) error {
	key, err := os.ReadFile(keyFile)
	if err != nil {
		return err
	}
	client, err := openpayments.NewAuthenticatedClient(wallet, string(key), keyID)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	method, body := http.MethodGet, io.Reader(nil)
	if data != "" {
		method, body = http.MethodPost, strings.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "GNAP "+token)
	if data != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := client.DoSigned(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	_, err = fmt.Printf("%s\n%s\n", resp.Status, strings.TrimSpace(string(answer)))
	return err
}
