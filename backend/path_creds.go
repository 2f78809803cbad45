// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"maps"
	"net/http"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

const (
	credsPrefix = "creds/"
	credsType   = "open_payments_creds"

	issueSynopsis    = `A fresh access token of a grant of its own, as a lease.`
	issueDescription = `
Reading asks the authorization server for a new grant with the role's rights, which
must not need consent, and hands its token out. No other reader has it, so
no other reader can take it away.

signing_ticket is what creds/NAME/sign needs besides the token.

The lease never outlives the token. Renewing it rotates the token and returns the
new one, with a ticket of its own, in the renewal's response. Revoking it cancels the grant at the server, and
so does its expiry.
`
)

func (b *Backend) pathCreds() *framework.Path {
	return &framework.Path{
		Pattern:      "creds/(?P<name>.+)",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "credentials"},
		Fields:       map[string]*framework.FieldSchema{"name": roleField},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: operation(
				"Ask for a grant and hand its token out as a lease.",
				http.StatusOK,
				credsFields,
				b.readCreds,
			),
		},
		HelpSynopsis:    issueSynopsis,
		HelpDescription: issueDescription,
	}
}

// credsFields are those of a token, with the role in the grant's place.
var credsFields = func() map[string]*framework.FieldSchema {
	fields := maps.Clone(tokenFields)
	delete(fields, "grant")
	fields["role"] = &framework.FieldSchema{
		Type:        framework.TypeString,
		Required:    true,
		Description: "Name of the role.",
	}
	fields[ticketField] = secretField("Signing ticket", "What creds/NAME/sign needs besides the token.")
	fields[ticketField].Required = true
	return fields
}()

// credsResponse returns what a lease of a role holds, with a ticket for its token.
func (b *Backend) credsResponse(req *logical.Request, lg leaseGrant, key ticketKey) (*logical.Response, error) {
	internal, err := lg.internal()
	if err != nil {
		return nil, err
	}
	data := tokenData("", lg.Grant)
	delete(data, "grant")
	data["role"] = lg.Role
	data[ticketField], err = key.seal(newTicket(lg.Grant, b.clock.Now()), ticketPlace(req, lg.Role))
	return b.Secret(credsType).Response(data, internal), err
}

func (b *Backend) secretCreds() *framework.Secret {
	return &framework.Secret{
		Type:   credsType,
		Fields: credsFields,
		Renew:  b.renewCreds,
		Revoke: b.revokeCreds,
	}
}

func (b *Backend) readCreds(
	ctx context.Context, req *logical.Request, d *framework.FieldData,
) (*logical.Response, error) {
	i, err := b.beginIssuance(ctx, req.Storage, d.Get("name").(string))
	if err != nil {
		return errorResponse(err)
	}
	if err := i.run(ctx); err != nil {
		return errorResponse(err)
	}
	lg := i.leaseGrant()
	resp, err := b.credsResponse(req, lg, i.ticketKey)
	if err != nil {
		return nil, err
	}
	resp.Secret.TTL, resp.Secret.MaxTTL = i.ttl, i.ttl
	resp.Secret.Renewable = lg.Grant.Settings.Renewable && !lg.Grant.ManageOld
	warnLease(resp, lg.Grant, i.ttl)
	return resp, nil
}

// lockLease reads and locks the grant of a lease. The caller releases the lock.
func (b *Backend) lockLease(ctx context.Context, req *logical.Request) (leaseGrant, *grantLock, error) {
	lg, err := readLeaseGrant(req)
	if err != nil {
		return lg, nil, err
	}
	l, err := b.lockGrant(ctx, req.Storage, lg.lockName())
	return lg, l, err
}

// renewCreds rotates and returns the new token with the lease. Its errors are plain, as
// renewToken's.
func (b *Backend) renewCreds(
	ctx context.Context, req *logical.Request, _ *framework.FieldData,
) (*logical.Response, error) {
	lg, l, err := b.lockLease(ctx, req)
	if err != nil {
		return nil, err
	}
	defer l.release()
	end := req.Secret.IssueTime.Add(leaseLimit(lg.Grant, b.System().MaxLeaseTTL()))
	if end.Sub(b.clock.Now()) < minLease {
		return nil, leaseOver(lg.path(ctx))
	}
	key, err := b.ticketKeyInUse(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	a, err := lg.rotate(ctx, l)
	if err != nil {
		return nil, err
	}
	now := b.clock.Now()
	left := end.Sub(now)
	ttl := grantedTTL(a.grant, now, left, b.System().DefaultLeaseTTL())
	if ttl < minLease { // the lease ended while the server was waited for, or its new token is too short
		a.cancelUnused(context.WithoutCancel(ctx))
		if left < minLease {
			return nil, leaseOver(lg.path(ctx))
		}
		return nil, tooShort(a.grant)
	}
	lg.Grant = a.grant
	resp, err := b.credsResponse(req, lg, key)
	if err != nil {
		return nil, err
	}
	extend(resp.Secret, req.Secret, now, ttl)
	warnLease(resp, lg.Grant, ttl)
	return resp, nil
}

// revokeCreds cancels the lease's grant. Vault also calls it at expiry, and again when it returns
// an error.
func (b *Backend) revokeCreds(
	ctx context.Context, req *logical.Request, _ *framework.FieldData,
) (*logical.Response, error) {
	lg, l, err := b.lockLease(ctx, req)
	if err != nil {
		return nil, err
	}
	defer l.release()
	if lg.Grant.Settings.OnRevoke == revokeKeeps { // its reader goes on using the token
		return nil, nil
	}
	if err := b.cancelLeaseGrant(ctx, req.Storage, lg); err != nil {
		if mayBeLive(lg.Grant, b.clock.Now()) || saysNothing(err) {
			return nil, err
		}
		b.Logger().
			Warn("a lease is over whose grant could not be cancelled; its token has expired", lg.logFields(err)...)
	}
	l.entry.failure = recentFailure{}
	return nil, nil
}
