// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

const (
	secretType = "open_payments_token"

	tokenSynopsis    = `A fresh access token of a grant, as a lease.`
	tokenDescription = `
Reading rotates the grant's token at the authorization server and answers the
new one. The token before it is dead at that moment: a grant has one live token,
and the newest reader holds it. Two readers of one grant take it from each other,
unless the grant is shared: then they get the same token for as long as min_ttl of
its life is left, in leases that cannot be renewed and leave the token alone.

The lease never outlives the token. Renewing it rotates again and answers the
new token, in the renewal's answer. Revoking it makes the value worthless; the
grant lives on.
`
	tokenDefaultSynopsis = `A fresh access token of the config's default_grant, as a lease.`
)

func (b *Backend) pathToken() *framework.Path {
	return &framework.Path{
		Pattern:      "token/(?P<name>.+)",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "token"},
		Fields:       map[string]*framework.FieldSchema{"name": nameField},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: operation("Rotate a grant's token and hand it out as a lease.", http.StatusOK, tokenFields, b.readToken),
		},
		HelpSynopsis:    tokenSynopsis,
		HelpDescription: tokenDescription,
	}
}

func (b *Backend) pathTokenDefault() *framework.Path {
	return &framework.Path{
		Pattern:      "token", // and not token/, which a policy for token/* would cover
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "default-token"},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: operation("Rotate the default grant's token and hand it out as a lease.", http.StatusOK, tokenFields, b.readDefaultToken),
		},
		HelpSynopsis:    tokenDefaultSynopsis,
		HelpDescription: tokenDescription,
	}
}

var tokenFields = map[string]*framework.FieldSchema{
	"access_token":    {Type: framework.TypeString, Required: true, Description: "The access token.", DisplayAttrs: &framework.DisplayAttributes{Sensitive: true}},
	"authorization":   {Type: framework.TypeString, Required: true, Description: "The Authorization header's value: GNAP and the token.", DisplayAttrs: &framework.DisplayAttributes{Sensitive: true}},
	"expires_at":      {Type: framework.TypeString, Required: true, Description: "When the token expires (RFC 3339)."},
	"access":          {Type: framework.TypeSlice, Required: true, Description: "The token's rights."},
	"grant":           {Type: framework.TypeString, Required: true, Description: "Name of the grant."},
	"generation":      {Type: framework.TypeInt, Required: true, Description: "Number of the token among the grant's tokens."},
	"auth_server":     {Type: framework.TypeString, Required: true, Description: "The authorization server's grant endpoint; its origin where only that is known."},
	"wallet_address":  {Type: framework.TypeString, Description: "Wallet address of the grant's owner, where known."},
	"resource_server": {Type: framework.TypeString, Description: "URL below which the token is good, where known."},
}

func (b *Backend) secretToken() *framework.Secret {
	return &framework.Secret{
		Type:   secretType,
		Fields: tokenFields,
		Renew:  b.renewToken,
		Revoke: b.revokeToken,
	}
}

func (b *Backend) readDefaultToken(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	c, err := client(ctx, req.Storage, req.MountPoint)
	if err == nil && c.DefaultGrant == "" {
		err = refuse("%sconfig has no default_grant: set it, or read %stoken/NAME", req.MountPoint, req.MountPoint)
	}
	if err != nil {
		return answerError(err)
	}
	return b.handOut(ctx, req, c.DefaultGrant)
}

func (b *Backend) readToken(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	return b.handOut(ctx, req, d.Get("name").(string))
}

func (b *Backend) handOut(ctx context.Context, req *logical.Request, name string) (*logical.Response, error) {
	mountLimit := b.System().MaxLeaseTTL()
	var current *grant
	g, err := b.rotate(ctx, req, name, causeRead, func(g *grant) error {
		if !handsOutAgain(g, b.clock.Now(), mountLimit) {
			return nil
		}
		current = g
		return errNothingToDo
	})
	if errors.Is(err, errNothingToDo) {
		g, err = current, nil
	}
	if err != nil {
		return answerError(err)
	}
	ttl := leaseTTL(g, b.clock.Now(), leaseLimit(g, mountLimit))
	if ttl < minLease {
		return nil, logical.CodedError(http.StatusBadGateway, tooShort(g).Error())
	}
	ref := leaseRef{Grant: name, GrantID: g.ID, Generation: g.Generation, Shared: g.Settings.Shared}
	resp := b.Secret(secretType).Response(tokenData(name, g), ref.internal())
	resp.Secret.TTL, resp.Secret.MaxTTL = ttl, ttl
	resp.Secret.Renewable = g.Settings.Renewable && !ref.Shared
	warnLifetime(resp, g)
	if ref.Shared && g.Settings.MinTTL > g.Lifetime {
		resp.AddWarning(fmt.Sprintf("every read rotates, and readers take the token from each other: min_ttl is %s, but a token lives for %s", g.Settings.MinTTL, g.Lifetime))
	}
	return resp, nil
}

func tooShort(g *grant) error {
	return fmt.Errorf("the authorization server %s gives tokens that live for %s, which is too short for a lease of a second", g.AuthOrigin, g.Lifetime)
}

func warnLifetime(resp *logical.Response, g *grant) {
	if !g.LifeKnown {
		resp.AddWarning(fmt.Sprintf("the authorization server does not say how long the token lives; %s is assumed", g.Lifetime))
	}
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

// rights are the grant's access as it is answered; a list even where unknown.
func (g *grant) rights() []any {
	rights := []any{}
	_ = json.Unmarshal(g.Access, &rights) // checked when it was read
	return rights
}

func (g *grant) authServer() string {
	if g.AuthServer != "" {
		return g.AuthServer
	}
	return g.AuthOrigin
}

// renewToken rotates and answers the new token with the lease. Its errors are
// plain: Vault answers 400 with their text, and shows an ErrorResponse as a Go
// struct.
func (b *Backend) renewToken(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	ref, err := readLeaseRef(req.Secret.InternalData)
	if err != nil {
		return nil, err
	}
	end := func(g *grant) time.Time {
		return req.Secret.IssueTime.Add(leaseLimit(g, b.System().MaxLeaseTTL()))
	}
	g, err := b.rotate(ctx, req, ref.Grant, causeRenew, func(g *grant) error {
		var left time.Duration
		if g != nil {
			left = end(g).Sub(b.clock.Now())
		}
		return mayRenew(g, ref, req.MountPoint, left)
	})
	if err != nil {
		return nil, err
	}
	now := b.clock.Now()
	left := end(g).Sub(now)
	ttl := leaseTTL(g, now, left)
	switch {
	case left < minLease: // it ended while the server was waited for
		return nil, leaseOver(req.MountPoint + "token/" + ref.Grant)
	case ttl < minLease:
		return nil, tooShort(g)
	}
	ref.Generation = g.Generation
	resp := b.Secret(secretType).Response(tokenData(ref.Grant, g), ref.internal())
	prolong(resp.Secret, req.Secret, now, ttl)
	// A program that goes by this reads again: so renewable=false reaches one
	// that is running, such as a Vault Agent.
	resp.Secret.Renewable = g.Settings.Renewable
	warnLifetime(resp, g)
	return resp, nil
}

// prolong makes of an answered secret the old lease with a new end.
func prolong(next, old *logical.Secret, now time.Time, ttl time.Duration) {
	next.LeaseOptions, next.LeaseID = old.LeaseOptions, old.LeaseID
	next.TTL = ttl
	// MaxTTL caps the increment that a caller may ask for. Vault counts it from
	// the issue time, both cut to whole seconds.
	next.MaxTTL = now.Truncate(time.Second).Sub(old.IssueTime.Truncate(time.Second)) + ttl
}

// revokeToken makes the handed-out value worthless. Vault calls it at expiry,
// too, and again when it answers an error.
func (b *Backend) revokeToken(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	ref, err := readLeaseRef(req.Secret.InternalData)
	if err != nil {
		return nil, err
	}
	_, err = b.rotate(ctx, req, ref.Grant, causeRevoke, func(g *grant) error {
		if !revocationRotates(g, ref, b.clock.Now()) {
			return errNothingToDo
		}
		return nil
	})
	if errors.Is(err, errNothingToDo) {
		return nil, nil
	}
	return nil, err
}
