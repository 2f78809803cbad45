// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/rights"
)

// Where a grant's resource server and its authorization server are, as far as its entry says. What
// is allowed there is internal/rights' to test.
func TestSigningScope(t *testing.T) {
	const rs = "https://wallet.example/op"
	imported := func(g *grant) { g.AuthServer = "" }
	for _, row := range []struct {
		name, url string
		change    func(*grant)
		refusal   string // empty: allowed
	}{
		{name: "beside the authorization server", url: rs + "/quotes/1"},
		{name: "the authorization server contains it", url: "https://wallet.example/auth/quotes/1",
			refusal: "authorization server",
			change:  func(g *grant) { g.ResourceServer = "https://wallet.example/auth" }},
		{name: "the authorization server is the whole origin", url: rs + "/quotes/1",
			refusal: "authorization server",
			change:  func(g *grant) { g.AuthServer = "https://wallet.example/" }},
		{name: "on another origin it may be", url: rs + "/quotes/1",
			change: func(g *grant) {
				g.AuthServer, g.Manage = "https://auth.wallet.example/", "https://auth.wallet.example/token/1"
			}},
		{name: "where tokens are managed", url: "https://wallet.example/tokens/quotes/1",
			refusal: "authorization server",
			change: func(g *grant) {
				g.ResourceServer, g.Manage = "https://wallet.example/tokens", "https://wallet.example/tokens/1"
			}},
		{name: "where the grant is continued", url: "https://wallet.example/continue/quotes/1",
			refusal: "authorization server",
			change: func(g *grant) {
				g.ResourceServer = "https://wallet.example/continue"
				g.Continue.URL = "https://wallet.example/continue/1"
			}},
		{name: "imported: above its manage URL", url: "https://wallet.example/auth/quotes/1",
			refusal: "authorization server",
			change:  func(g *grant) { imported(g); g.ResourceServer = "https://wallet.example/auth" }},
		{name: "imported: beside it", url: rs + "/quotes/1", change: imported},
		{name: "a manage URL that cannot be read", url: rs + "/quotes/1", change: func(g *grant) { g.Manage = "%zz" }},
		{name: "resource server not known", url: rs + "/quotes/1",
			refusal: "resource_server", change: func(g *grant) { g.ResourceServer = "" }},
		{name: "rights never told", url: rs + "/quotes/1",
			refusal: "rights are not known", change: func(g *grant) { g.Access = nil }},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := &grant{
				Status: statusActive, Token: "t", Access: json.RawMessage(`[{"type":"quote","actions":["read"]}]`),
				Manage: "https://wallet.example/auth/token/1",
				source: source{
					AuthServer: "https://wallet.example/auth", AuthOrigin: "https://wallet.example", ResourceServer: rs,
				},
			}
			if row.change != nil {
				row.change(g)
			}
			s, err := g.signingScope()
			if err != nil && !errors.As(err, new(userError)) {
				t.Errorf("%v is not the caller's mistake", err)
			}
			if err == nil {
				_, err = s.Allow(rights.Request{Method: "GET", URL: row.url})
			}
			switch {
			case row.refusal == "" && err != nil:
				t.Errorf("refused: %s", err)
			case row.refusal != "" && err == nil:
				t.Error("allowed")
			case row.refusal != "" && !strings.HasPrefix(err.Error(), "url: "):
				t.Errorf("%q does not begin with the field's name", err)
			case row.refusal != "" && !strings.Contains(err.Error(), row.refusal):
				t.Errorf("%q does not say %q", err, row.refusal)
			}
		})
	}
}
