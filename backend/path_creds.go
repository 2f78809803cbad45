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
must be such as need no consent, and hands its token out. No other reader has it, so
no other reader can take it away.

The lease never outlives the token. Renewing it rotates the token and answers the
new one, in the renewal's answer. Revoking it cancels the grant at the server, and
so does its expiry.
`
)

func (b *Backend) pathCreds() *framework.Path {
	return &framework.Path{
		Pattern:      "creds/(?P<name>.+)",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "credentials"},
		Fields:       map[string]*framework.FieldSchema{"name": roleField},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: operation("Ask for a grant and hand its token out as a lease.", http.StatusOK, credsFields, b.readCreds),
		},
		HelpSynopsis:    issueSynopsis,
		HelpDescription: issueDescription,
	}
}

// credsFields are those of a token, with the role in the grant's place.
var credsFields = func() map[string]*framework.FieldSchema {
	fields := maps.Clone(tokenFields)
	delete(fields, "grant")
	fields["role"] = &framework.FieldSchema{Type: framework.TypeString, Required: true, Description: "Name of the role."}
	return fields
}()

func credsData(role string, g *grant) map[string]any {
	data := tokenData("", g)
	delete(data, "grant")
	data["role"] = role
	return data
}

func (b *Backend) secretCreds() *framework.Secret {
	return &framework.Secret{
		Type:   credsType,
		Fields: credsFields,
		Renew:  b.renewCreds,
		Revoke: b.revokeCreds,
	}
}

func (b *Backend) readCreds(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	i, err := b.beginIssue(ctx, req, d.Get("name").(string))
	if err != nil {
		return answerError(err)
	}
	if err := i.run(ctx); err != nil {
		return answerError(err)
	}
	internal, err := i.leased().internal()
	if err != nil {
		return nil, err
	}
	resp := b.Secret(credsType).Response(credsData(i.role, i.grant), internal)
	resp.Secret.TTL, resp.Secret.MaxTTL = i.ttl, i.ttl
	resp.Secret.Renewable = i.grant.Settings.Renewable && i.grant.Manage != ""
	warnLifetime(resp, i.grant)
	return resp, nil
}

// renewCreds rotates and answers the new token with the lease. Its errors are
// plain, as renewToken's.
func (b *Backend) renewCreds(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	l, err := readLeased(req)
	if err != nil {
		return nil, err
	}
	h, err := b.hold(ctx, req.Storage, l.lock())
	if err != nil {
		return nil, err
	}
	defer h.release()
	end := req.Secret.IssueTime.Add(leaseLimit(l.Grant, b.System().MaxLeaseTTL()))
	if end.Sub(b.clock.Now()) < minLease {
		return nil, leaseOver(l.path(req.MountPoint))
	}
	a, err := l.rotate(ctx, h, req.MountPoint)
	if err != nil {
		return nil, err
	}
	now := b.clock.Now()
	left := end.Sub(now)
	ttl := leaseTTL(a.grant, now, left)
	if ttl < minLease { // the lease ended while the server was waited for, or its new token is too short
		a.cancelUnused(context.WithoutCancel(ctx))
		if left < minLease {
			return nil, leaseOver(l.path(req.MountPoint))
		}
		return nil, tooShort(a.grant)
	}
	l.Grant = a.grant
	internal, err := l.internal()
	if err != nil {
		return nil, err
	}
	resp := b.Secret(credsType).Response(credsData(l.Role, l.Grant), internal)
	prolong(resp.Secret, req.Secret, now, ttl)
	warnLifetime(resp, l.Grant)
	return resp, nil
}

// revokeCreds cancels the lease's grant. Vault calls it at expiry, too, and again
// when it answers an error.
func (b *Backend) revokeCreds(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	l, err := readLeased(req)
	if err != nil {
		return nil, err
	}
	h, err := b.hold(ctx, req.Storage, l.lock())
	if err != nil {
		return nil, err
	}
	defer h.release()
	if err := b.endLeased(ctx, req, l); err != nil {
		if mayLive(l.Grant, b.clock.Now()) {
			return nil, err
		}
		b.Logger().Warn("a lease is over whose grant could not be cancelled; its token has expired", l.about(err)...)
	}
	h.failure = failure{}
	return nil, nil
}
