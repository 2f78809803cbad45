// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/client"
)

// walletDocuments serves the wallet addresses of the grants, for clients that take the address of
// the resource server from there and cannot be told another one. A document is served at the wallet
// address's own path, and has this proxy as its resourceServer. Like every wallet address it is
// public.
type walletDocuments struct {
	origin string // of this proxy
	fetch  http.RoundTripper
	tokens map[string]client.TokenSource

	mu    sync.Mutex
	known map[string]string // wallet addresses by grant
}

// serves reports whether a path is that of the wallet address of a grant. It asks Vault for the
// tokens of grants whose wallet address is not known yet, because Vault tells it with the token.
func (d *walletDocuments) serves(ctx context.Context, path string) bool {
	return !isOperation(path) && d.address(ctx, path) != ""
}

// address returns the wallet address with a path; empty if it is none of a grant's.
func (d *walletDocuments) address(ctx context.Context, path string) string {
	for grant, tokens := range d.tokens {
		d.mu.Lock()
		address, known := d.known[grant]
		d.mu.Unlock()
		if !known {
			token, err := tokens.Token(ctx)
			if err != nil {
				continue
			}
			address = token.WalletAddress
			d.mu.Lock()
			d.known[grant] = address
			d.mu.Unlock()
		}
		if u, err := url.Parse(address); err == nil && address != "" && u.EscapedPath() == path {
			return address
		}
	}
	return ""
}

// answer sends the document of a wallet address.
func (d *walletDocuments) answer(x *exchange, w http.ResponseWriter, r *http.Request) *failure {
	document, err := d.read(x, d.address(x, r.URL.EscapedPath()))
	if err != nil {
		return &failure{
			status: http.StatusBadGateway, code: "wallet_unreachable", proxyError: unavailable,
			description: "the document of the wallet address cannot be had from the wallet",
		}
	}
	document["resourceServer"] = d.originFor(r)
	text, err := json.Marshal(document)
	if err != nil {
		return badRequest("wallet", err.Error())
	}
	x.status = http.StatusOK
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(text)
	return nil
}

// originFor returns the proxy's URL as the caller of a request knows it.
func (d *walletDocuments) originFor(r *http.Request) string {
	if d.origin != "" {
		return d.origin
	}
	return "http://" + r.Host // through a unix socket
}

var errNoDocument = errors.New("the answer is not a wallet address's document")

func (d *walletDocuments) read(ctx context.Context, address string) (map[string]any, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := d.fetch.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return nil, err
	}
	var document map[string]any
	decoder := json.NewDecoder(strings.NewReader(string(text)))
	decoder.UseNumber()
	if resp.StatusCode != http.StatusOK || decoder.Decode(&document) != nil || document == nil {
		return nil, errNoDocument
	}
	return document, nil
}
