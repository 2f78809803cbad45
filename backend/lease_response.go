// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// What a lease holds: the same for token/NAME and, with a role in the grant's place, for
// creds/NAME.

var tokenFields = map[string]*framework.FieldSchema{
	"access_token": {
		Type: framework.TypeString, Required: true, Description: "The access token.",
		DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
	},
	"authorization": {
		Type: framework.TypeString, Required: true, Description: "Value of the Authorization header: GNAP and the " +
			"token.",
		DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
	},
	"expires_at": {Type: framework.TypeString, Required: true, Description: "When the token expires (RFC 3339)."},
	"access":     {Type: framework.TypeSlice, Required: true, Description: "The token's rights."},
	"grant":      {Type: framework.TypeString, Required: true, Description: "Name of the grant."},
	"generation": {
		Type:        framework.TypeInt,
		Required:    true,
		Description: "The token's sequence number among the grant's tokens.",
	},
	"auth_server": {
		Type:        framework.TypeString,
		Required:    true,
		Description: "The authorization server's grant endpoint; its origin where only that is known.",
	},
	"wallet_address":  {Type: framework.TypeString, Description: "Wallet address of the grant's owner, where known."},
	"resource_server": {Type: framework.TypeString, Description: "URL below which the token is valid, where known."},
}

func tokenData(name string, g *grant) map[string]any {
	data := map[string]any{
		"access_token":  g.Token,
		"authorization": "GNAP " + g.Token,
		"expires_at":    g.ExpiresAt.UTC().Format(time.RFC3339),
		"access":        g.rights(),
		"grant":         name,
		"generation":    g.Generation,
		"auth_server":   g.authServer(),
	}
	if g.WalletAddress != "" {
		data["wallet_address"] = g.WalletAddress
	}
	if g.ResourceServer != "" {
		data["resource_server"] = g.ResourceServer
	}
	return data
}

// extend makes the secret of a renewal's response the old lease with a new end.
func extend(next, old *logical.Secret, now time.Time, ttl time.Duration) {
	next.LeaseOptions, next.LeaseID = old.LeaseOptions, old.LeaseID
	next.TTL = ttl
	// MaxTTL caps the increment that a caller may ask for. Vault counts it from the issue time,
	// both cut to whole seconds.
	next.MaxTTL = now.Truncate(time.Second).Sub(old.IssueTime.Truncate(time.Second)) + ttl
}

// warnLease warns of what a lease is not as its grant's settings would have it.
func warnLease(resp *logical.Response, g *grant, ttl time.Duration) {
	if want := g.Settings.TTL; ttl < want {
		resp.AddWarning(
			fmt.Sprintf("ttl: the lease lives for %s and not for %s, because the token or the mount's limit "+
				"does not allow more", ttl, want),
		)
	}
	if g.ManageOld {
		resp.AddWarning("the authorization server named no manage URL with this token: it can be neither renewed " +
			"nor " +
			"revoked, and every read returns it until it expires")
	}
	if !g.LifeKnown {
		resp.AddWarning(
			fmt.Sprintf("the authorization server does not say how long the token lives; %s is assumed", g.Lifetime),
		)
	}
}

func tooShort(g *grant) error {
	return fmt.Errorf(
		"the authorization server %s issues tokens that live for %s, which is too short for a lease of a second",
		g.AuthOrigin,
		g.Lifetime,
	)
}
