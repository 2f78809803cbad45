// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"maps"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/authserver"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/rights"
)

const (
	ticketField = "signing_ticket"

	leaseSignSynopsis    = `Sign an HTTP request with the token of a role's lease.`
	leaseSignDescription = `
Like sign/NAME, for leases of a role. The engine does not remember these leases: besides
access_token it needs the signing_ticket that the same read of creds/NAME, or the same
renewal, returned. A ticket is good for its own token alone, at this mount and role and
for the client in config, until the token expires.

In batch_input each request may have a signing_ticket beside its access_token (left
out: the ones alongside the list).
`
)

func (b *Backend) pathCredsSign() *framework.Path {
	fields := maps.Clone(signParams)
	fields["name"] = roleField
	fields[ticketField] = secretField(
		"Signing ticket",
		"The signing_ticket that was returned together with the access token.",
	)
	return &framework.Path{
		Pattern: credsPrefix + "(?P<name>.+)/sign",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix,
			OperationVerb:   "sign",
			OperationSuffix: "request-with-credentials",
		},
		Fields:          fields,
		Operations:      signOperations(b.signForLease),
		HelpSynopsis:    leaseSignSynopsis,
		HelpDescription: leaseSignDescription,
	}
}

// signForLease signs what the ticket of a role's lease allows.
func (b *Backend) signForLease(
	ctx context.Context, req *logical.Request, d *framework.FieldData,
) (*logical.Response, error) {
	return b.sign(ctx, req, d, func(c *config) (permits, error) {
		return b.ticketPermits(ctx, req, c, d.Get("name").(string))
	})
}

// ticketPermits returns what may be signed with a role's tickets. Whatever is wrong with a ticket, the
// error is the same.
func (b *Backend) ticketPermits(ctx context.Context, req *logical.Request, c *config, role string) (permits, error) {
	keys, err := b.rememberedTicketKeys(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	refused := userErrorf("%s: is not the one that was returned with this access_token by %s or a renewal, or has "+
		"expired; read the token again", ticketField, mountPath(ctx, credsPrefix+role))
	return func(p presented) (rights.Scope, error) {
		now := b.clock.Now()
		t := keys.open(p.ticket, ticketPlace(req, role), now)
		if t == nil || !t.isGoodFor(p.token, c.WalletAddress, now) || !authserver.IsToken(p.token) {
			return rights.Scope{}, refused
		}
		return t.scope()
	}, nil
}
