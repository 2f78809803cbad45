// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/rights"
)

// signingScope returns which requests may be signed for the grant: those at its resource server that
// the rights that were asked for allow, and those that its authorization server has told.
func (g *grant) signingScope() (rights.Scope, error) {
	return newScope(g.ResourceServer, g.authServerURLs(), g.Requested, g.Access)
}

func newScope(resourceServer string, reserved []string, requested, access json.RawMessage) (rights.Scope, error) {
	s, err := rights.NewScope(resourceServer, reserved, requested, access)
	if err != nil {
		return s, userErrorf("%s", err)
	}
	return s, nil
}

// authServerURLs returns the URLs below which the authorization server is: its grant endpoint, and
// where the grant and its token are managed. The endpoint of an imported grant may not be known:
// then it is taken to be above those.
func (g *grant) authServerURLs() []string {
	manage, further := above(g.Manage), above(g.Continue.URL)
	if g.AuthServer != "" {
		return []string{g.AuthServer, manage, further}
	}
	return []string{above(manage), above(further)}
}

// above returns a URL without the last segment of its path, and without its query.
func above(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return ""
	}
	u.RawQuery = ""
	return u.JoinPath("..").String()
}

// checkSignable returns an error if nothing can be signed for a grant in its present state.
func checkSignable(ctx context.Context, g *grant, c *config, name string) error {
	switch {
	case g == nil:
		return unknownGrant(ctx, name)
	case g.Status == statusPending:
		return pendingError(ctx, name)
	case g.Status == statusLost:
		return lostError(ctx, g, name)
	case g.Client != c.WalletAddress:
		return otherClientError(g.Client, c, fmt.Sprintf("grant %q", name))
	}
	return nil
}
