// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	openpayments "github.com/interledger/open-payments-go"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/client"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/vaulttest"
)

// goClient is an application that uses package client.
type goClient struct {
	*engine
	*client.Client
}

func (e *engine) goClient(vault *api.Client, grant string) goClient {
	e.t.Helper()
	return e.goClientFor(vault, client.Options{Mount: e.mount, Grant: grant})
}

func (e *engine) goClientFor(vault *api.Client, options client.Options) goClient {
	e.t.Helper()
	c, err := client.New(vault, options)
	if err != nil {
		e.t.Fatal(err)
	}
	return goClient{e, c}
}

// do sends a request and checks the response's status. It is safe for concurrent use.
func (c goClient) do(send func(*http.Request) (*http.Response, error), want int, method, path, body string) {
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.wallet.ResourceServer()+path, strings.NewReader(body))
	if err != nil {
		c.t.Error(err)
		return
	}
	resp, err := send(req)
	if err != nil {
		c.t.Error(err)
		return
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != want {
		c.t.Errorf("%s %s: %d %s, want %d", method, path, resp.StatusCode, text, want)
	}
}

// createAndList creates an incoming payment and lists them, as a shop would.
func (c goClient) createAndList(send func(*http.Request) (*http.Response, error)) {
	shop := c.wallet.WalletAddress("shop")
	c.do(send, 201, "POST", "/incoming-payments",
		fmt.Sprintf(`{ "walletAddress": %q, "metadata": {"note": "caf\u00e9 & <b>"} }`, shop))
	c.do(send, 200, "GET", "/incoming-payments?wallet-address="+url.QueryEscape(shop), "")
}

// Payments are created and listed over several lifetimes of a token without a failing request: with
// a lease that is renewed, under the example policy for applications, and with leases that are not
// renewable.
func TestGoClient(t *testing.T) {
	t.Parallel()
	const lifetime = 8 * time.Second // a token is in use for 4 s of it
	p := mountEngine(t, vaulttest.Start(t, vaulttest.Options{}), "op", lifetime).withPolicies()
	p.ask("fixed", map[string]any{"renewable": false})
	rotations, grants := p.countRequests("rotate"), p.countRequests("grant")

	clients := []goClient{p.goClient(p.Client(p.Token("application")), "shop-income"), p.goClient(p.vault, "fixed")}
	end := time.Now().Add(3*lifetime + lifetime/2)
	var callers sync.WaitGroup
	for _, c := range clients {
		app := &http.Client{Transport: c}
		for range 3 {
			callers.Go(func() {
				for time.Now().Before(end) && !t.Failed() {
					c.createAndList(app.Do)
					time.Sleep(20 * time.Millisecond)
				}
			})
		}
	}
	callers.Wait()
	if n := rotations(); n < 2*6 || n > 2*12 || grants() != 0 {
		t.Errorf("%d rotations for two clients in %s, %d grant requests", n, 3*lifetime+lifetime/2, grants())
	}
	for name, want := range map[string]string{"shop-income": "renew", "fixed": "read"} {
		p.checkData(p.grant(name), map[string]any{"last_rotation_cause": want})
	}
	for _, c := range clients {
		if err := c.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	p.eventually("the death of the tokens", func() bool { return p.wallet.LiveTokens() == 0 })
}

// Close revokes the lease. The SDK is given a key that no server knows.
func TestGoClientCloses(t *testing.T) {
	t.Parallel()
	p := startWithPolicies(t)
	_, anyKey := newKey(t)
	for name, renewable := range map[string]bool{"renewable": true, "not renewable": false} {
		t.Run(name, func(t *testing.T) {
			p := policyEngine{p.in(t)}
			p.write("grants/shop-income", map[string]any{"renewable": renewable})
			c := p.goClient(p.Client(p.Token("application")), "shop-income")
			sdk, err := openpayments.NewAuthenticatedClient(p.wallet.WalletAddress("client"), anyKey, "none",
				openpayments.WithHTTPClientAuthed(&http.Client{Transport: c}))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := sdk.WalletAddress.Get(t.Context(),
				openpayments.WalletAddressGetParams{URL: p.wallet.WalletAddress("alice")}); err != nil {
				t.Error(err)
			}
			c.createAndList(sdk.DoSigned)

			token, err := c.Token(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			p.checkLive(token.Value)
			p.checkLeaseCount(1)

			// Another reader replaces the token.
			p.read("shop-income")
			c.createAndList(sdk.DoSigned)
			p.checkLeaseCount(3)

			p.wallet.Misbehave(sandbox.Misbehaviour{On: []string{"rotate"}, Status: 500})
			err = c.Close(t.Context())
			p.wallet.Misbehave(sandbox.Misbehaviour{})
			if err == nil {
				t.Fatal("Close succeeds although the server fails")
			}
			p.checkSays(err.Error(), "revoke the lease of op/token/shop-income")
			if strings.Contains(err.Error(), "op/token/shop-income/") {
				t.Error("the error contains the lease id")
			}
			p.eventually("closing", func() bool { return c.Close(t.Context()) == nil })
			if p.wallet.LiveTokens() != 2 || p.grant("shop-income")["last_rotation_cause"] != "revoke" {
				t.Errorf("%d live tokens, last rotation cause %v",
					p.wallet.LiveTokens(), p.grant("shop-income")["last_rotation_cause"])
			}
			p.checkLeaseCount(2)
			if err := p.vault.Sys().RevokePrefix("op/token/shop-income"); err != nil {
				t.Fatal(err)
			}
			p.eventually("no leases", func() bool { return len(p.leaseIDs()) == 0 })
		})
	}
}

// checkLeaseCount checks the number of leases of shop-income.
func (p policyEngine) checkLeaseCount(want int) {
	p.t.Helper()
	if n := len(p.leaseIDs()); n != want {
		p.t.Errorf("%d leases, want %d", n, want)
	}
}

func (p policyEngine) leaseIDs() []any {
	p.t.Helper()
	secret, err := p.vault.Logical().List("sys/leases/lookup/op/token/shop-income")
	if err != nil {
		p.t.Fatal(err)
	}
	if secret == nil {
		return nil
	}
	ids, _ := secret.Data["keys"].([]any)
	return ids
}
