// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/authserver"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/rights"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/uri"
)

// grantParams are the rights that a request asks for, and the servers that it asks them from: of
// grants and of roles alike.
type grantParams struct {
	access         json.RawMessage
	authServer     string // grant endpoint
	walletAddress  string
	resourceServer string
	finishURI      string
	operatorHosts  []string
	typed          typedServers
}

// typedServers are servers and wallet address as an operator typed them, before anything is discovered.
type typedServers struct{ walletAddress, authServer, resourceServer string }

func parseGrantParams(d *framework.FieldData) (p grantParams, err error) {
	if given(d, "access") {
		if p.access, err = rights.Parse(d.Raw["access"]); err != nil {
			return p, fieldError("access", err)
		}
	}
	for _, field := range []struct {
		name  string
		to    *string
		parse func(string) (string, error)
	}{
		{"wallet_address", &p.walletAddress, authserver.ParseWalletAddress},
		{"auth_server", &p.authServer, authserver.ParseEndpoint},
		{"resource_server", &p.resourceServer, authserver.ParseResourceServer},
		{"finish_uri", &p.finishURI, parseFinishURI},
	} {
		if given(d, field.name) {
			if *field.to, err = field.parse(value[string](d, field.name)); err != nil {
				return p, fieldError(field.name, err)
			}
		}
	}
	p.operatorHosts = authserver.HostsOf(p.walletAddress, p.authServer, p.resourceServer)
	p.typed = typedServers{p.walletAddress, p.authServer, p.resourceServer}
	return p, nil
}

// validate returns what is missing to ask for a grant.
func (p grantParams) validate() error {
	switch {
	case p.access == nil:
		return userErrorf("access: is needed to ask for a grant: the JSON list of rights")
	case p.authServer == "" && p.walletAddress == "":
		return userErrorf(
			"wallet_address: is needed to ask for a grant (the owner's), or auth_server (the grant endpoint)",
		)
	}
	return nil
}

// discoverServers fills in the servers that the owner's wallet address document names, and the
// wallet address by which these servers know the wallet: whoever typed it may have written it
// otherwise, or may have typed a vanity address.
func (p *grantParams) discoverServers(ctx context.Context, client *authserver.Client) error {
	doc, err := client.Wallet(ctx, p.walletAddress)
	if err != nil {
		var f authserver.RequestFailed
		if errors.As(err, &f) && f.Status != http.StatusNotFound && !f.IsRedirect() && f.Rule == nil {
			return logical.CodedError(http.StatusBadGateway, "the wallet address's server "+err.Error())
		}
		return fieldError("wallet_address", err)
	}
	p.walletAddress = cmp.Or(doc.ID, p.walletAddress)
	if p.authServer, err = authserver.ParseEndpoint(doc.AuthServer); err != nil {
		return fieldError("wallet_address: its document's authServer", err)
	}
	if doc.ResourceServer != "" && p.resourceServer == "" {
		if p.resourceServer, err = authserver.ParseResourceServer(doc.ResourceServer); err != nil {
			return fieldError("wallet_address: its document's resourceServer", err)
		}
	}
	for field, s := range map[string]string{"authServer": p.authServer, "resourceServer": p.resourceServer} {
		u, err := url.Parse(s)
		if err != nil || s == "" {
			continue
		}
		if err := client.CheckReach(u); err != nil {
			return userErrorf("wallet_address: the %s in its document, %s, %s", field, uri.Origin(u), err)
		}
	}
	return nil
}

// source is the part of a stored grant or role that the parameters decide.
func (p grantParams) source() source {
	return source{
		Requested: p.access, AuthServer: p.authServer, AuthOrigin: uri.OriginOf(p.authServer),
		WalletAddress: p.walletAddress, ResourceServer: p.resourceServer, OperatorHosts: p.operatorHosts,
		TypedWalletAddress: p.typed.walletAddress, TypedAuthServer: p.typed.authServer,
		TypedResourceServer: p.typed.resourceServer,
	}
}

// names reports whether the servers of a request are those of a stored grant or role: as they were
// typed, or as they are read. What the request leaves out is not compared.
func (s source) names(typed typedServers) bool {
	is := func(given string, known ...string) bool { return given == "" || slices.Contains(known, given) }
	return is(typed.walletAddress, s.TypedWalletAddress, s.WalletAddress) &&
		is(typed.authServer, s.TypedAuthServer, s.AuthServer)
}

// warn warns of what whoever wrote the rights may not expect of them.
func (s source) warn(resp *logical.Response) {
	for _, warning := range rights.Warnings(s.Requested, s.WalletAddress) {
		resp.AddWarning(warning)
	}
}

// checkAllowed returns an error if grants may not come from an authorization server. field names
// what the error is about.
func (c *config) checkAllowed(field, target string) error {
	if len(c.AllowedAuthServers) > 0 && !slices.Contains(c.AllowedAuthServers, uri.OriginOf(target)) {
		return userErrorf("%s: %s is not in the config's allowed_auth_servers", field, uri.OriginOf(target))
	}
	return nil
}

// nextGrant returns the grant that a write begins with: a copy of the former one, or a new one.
func (b *Backend) nextGrant(former *grant, c *config) *grant {
	if former != nil {
		g := *former
		return &g
	}
	return newGrant(c.WalletAddress, b.clock.Now())
}
