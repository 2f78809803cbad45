// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/authserver"
)

const (
	grantsSynopsis    = `The names of the stored grants.`
	grantsDescription = `
Each name comes with the grant's status: active, pending (its owner is being
asked), lost (its owner has to be asked again) or unreadable (another version of
the engine wrote it). after and limit page through
many. vault list cannot send them, but vault read op/grants list=true
after=NAME limit=20 can, and bao list -after=NAME -limit=20.
`
	grantSynopsis = `A stored grant: ask for it, import it, describe it, cancel it.`

	grantDescription = `
A grant is written in one of two ways.

Ask for a new one: wallet_address of the owner (whose document names the servers)
or auth_server (the grant endpoint itself), and access, the JSON list of rights as
the Open Payments documents have it. Rights that need no consent are granted at
once. For others the grant is pending: the owner opens interact_url and decides,
and is then sent to finish_uri, or you poll; see grants/NAME/continue.

Import one that was obtained elsewhere: access_token and manage_url, and whatever
else is known of it. From then on nobody else must rotate it.

Further writes change the lease settings (ttl, max_ttl, renewable, on_revoke, and
for new leases shared and min_ttl), keepalive and resource_server, or replace the
grant. A read never shows a token, a manage URL or a continuation.
Deleting cancels the grant at the authorization server and then forgets it.
`
)

func (b *Backend) pathGrantsList() *framework.Path {
	return &framework.Path{
		Pattern: "grants/?$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix, OperationSuffix: "grants", Navigation: true, ItemType: "Grant",
		},
		Fields: pageFields,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ListOperation: &framework.PathOperation{
				Callback: b.listGrants,
				Summary:  "List the stored grants with their status.",
				Responses: map[int][]framework.Response{
					http.StatusOK: {{Description: "OK", Fields: map[string]*framework.FieldSchema{
						"keys":     {Type: framework.TypeStringSlice, Description: "Names."},
						"key_info": {Type: framework.TypeMap, Description: "Each name's status."},
					}}},
				},
			},
		},
		HelpSynopsis:    grantsSynopsis,
		HelpDescription: grantsDescription,
	}
}

func (b *Backend) pathGrant() *framework.Path {
	write := operation("Store, ask for or change a grant.", http.StatusOK, grantResponse, b.writeGrant)
	return &framework.Path{
		Pattern: grantsPrefix + "(?P<name>.+)",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix,
			OperationSuffix: "grant",
			ItemType:        "Grant",
		},
		Fields: grantFields,
		ExistenceCheck: func(ctx context.Context, req *logical.Request, d *framework.FieldData) (bool, error) {
			g, err := loadGrant(ctx, req.Storage, d.Get("name").(string))
			return exists(g != nil, err)
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.CreateOperation: write,
			logical.UpdateOperation: write,
			logical.PatchOperation: operation(
				"Change a grant's lease settings or resource server; null restores a default.",
				http.StatusOK,
				grantResponse,
				b.patchGrant,
			),
			logical.ReadOperation: operation("Describe a grant.", http.StatusOK, grantResponse, b.readGrant),
			logical.DeleteOperation: operation(
				"Cancel a grant at the server and forget it.",
				http.StatusNoContent,
				nil,
				b.deleteGrant,
			),
		},
		HelpSynopsis:    grantSynopsis,
		HelpDescription: grantDescription,
	}
}

func (b *Backend) listGrants(
	ctx context.Context, req *logical.Request, d *framework.FieldData,
) (*logical.Response, error) {
	names, err := listPage(ctx, req.Storage, grantsPrefix, d)
	if err != nil {
		return nil, err
	}
	info := make(map[string]any, len(names))
	for _, name := range names {
		g, err := loadGrant(ctx, req.Storage, name)
		switch {
		case errors.Is(err, errUnreadable): // it hides no other
			info[name] = map[string]any{"status": "unreadable"}
		case err != nil:
			return nil, err
		case g != nil: // not deleted since
			info[name] = map[string]any{"status": g.Status}
		}
	}
	return logical.ListResponseWithInfo(names, info), nil
}

func (b *Backend) readGrant(
	ctx context.Context, req *logical.Request, d *framework.FieldData,
) (*logical.Response, error) {
	g, err := loadGrant(ctx, req.Storage, d.Get("name").(string))
	if err != nil || g == nil {
		return nil, err
	}
	return &logical.Response{Data: describe(g)}, nil
}

// writeGrant stores a grant that was obtained elsewhere, asks for a new one, or changes how a
// stored one is used.
func (b *Backend) writeGrant(
	ctx context.Context, req *logical.Request, d *framework.FieldData,
) (*logical.Response, error) {
	has := func(field string) bool { return given(d, field) }
	var g *grant
	var err error
	resp := &logical.Response{}
	switch name := d.Get("name").(string); {
	case given(d, "access_token"):
		g, err = b.importGrant(ctx, req, d, name, resp)
	case slices.ContainsFunc(importFields, has):
		err = userErrorf(
			"access_token: is needed together with manage_url to import a grant; expires_in, continue_url, " +
				"continue_token and interactive go with it",
		)
	case slices.ContainsFunc(askFields, has):
		g, err = b.askGrant(ctx, req, d, name, resp)
	default:
		g, err = b.changeSettings(ctx, req, d, name)
	}
	if err != nil {
		return errorResponse(err)
	}
	resp.Data = describe(g)
	return resp, nil
}

func (b *Backend) patchGrant(
	ctx context.Context, req *logical.Request, d *framework.FieldData,
) (*logical.Response, error) {
	for _, field := range slices.Concat(importFields, askFields) {
		if given(d, field) {
			return errorResponse(userErrorf("%s: cannot be patched; write the grant anew", field))
		}
	}
	g, err := b.changeSettings(ctx, req, d, d.Get("name").(string))
	if err != nil {
		return errorResponse(err)
	}
	return &logical.Response{Data: describe(g)}, nil
}

func (b *Backend) changeSettings(
	ctx context.Context, req *logical.Request, d *framework.FieldData, name string,
) (*grant, error) {
	l, err := b.lockGrant(ctx, req.Storage, name)
	if err != nil {
		return nil, err
	}
	defer l.release()
	g, err := l.load(ctx)
	if err != nil {
		return nil, err
	}
	if g == nil {
		return nil, userErrorf(
			"no grant named %q: give access and wallet_address (or auth_server) to ask for one, or access_token "+
				"and manage_url to import one",
			name,
		)
	}
	return g, l.applySettings(ctx, g, d)
}

// applySettings stores the grant with the request's lease settings and resource server, if they change
// anything.
func (l *grantLock) applySettings(ctx context.Context, g *grant, d *framework.FieldData) error {
	former := *g
	if err := g.Settings.apply(d); err != nil {
		return err
	}
	if given(d, "resource_server") {
		g.ResourceServer = ""
		if d.Raw["resource_server"] != nil {
			var err error
			if g.ResourceServer, err = authserver.ParseResourceServer(value[string](d, "resource_server")); err != nil {
				return fieldError("resource_server", err)
			}
		}
	}
	if g.equals(&former) {
		return nil
	}
	if _, err := l.schedule(ctx, &former, g); err != nil {
		return err
	}
	return l.store(ctx, g)
}

// deleteGrant cancels a grant at the server and forgets it.
func (b *Backend) deleteGrant(
	ctx context.Context, req *logical.Request, d *framework.FieldData,
) (*logical.Response, error) {
	l, err := b.lockGrant(ctx, req.Storage, d.Get("name").(string))
	if err != nil {
		return nil, err
	}
	defer l.release()
	force := value[bool](d, "force")
	g, err := l.load(ctx)
	switch {
	case err != nil && !force:
		return nil, err
	case err == nil && g == nil:
		return nil, nil
	}
	resp := &logical.Response{}
	ctx = context.WithoutCancel(ctx)
	if err == nil {
		err = l.endGrant(ctx, g)
	}
	if err != nil {
		if !force {
			return errorResponse(stillStored(err))
		}
		resp.AddWarning(
			"the grant is forgotten, but could not be cancelled at the authorization server: " + err.Error(),
		)
	}
	if err := l.delete(ctx); err != nil {
		return nil, err
	}
	l.entry.unsaved, l.entry.failure = nil, recentFailure{}
	if len(resp.Warnings) == 0 {
		return nil, nil
	}
	return resp, nil
}

// endGrant ends all that there is of a grant at its servers. That it was begun is stored first, so that
// the worker does not bring a lost grant back, and a loss says what it comes from.
func (l *grantLock) endGrant(ctx context.Context, g *grant) error {
	c, err := loadClient(ctx, l.storage)
	if err != nil {
		return err
	}
	if !g.Ending {
		g.Ending = true
		if err := l.store(ctx, g); err != nil {
			return err
		}
	}
	for _, e := range g.endings(l.b.clock.Now()) {
		if err := l.b.endNow(ctx, c, e, false); err != nil {
			return err
		}
	}
	if g.Continue.URL == "" && g.unmanaged(l.b.clock.Now()) {
		return userErrorf("the authorization server named neither a continuation nor a manage URL with the current "+
			"token of grant %q, so that it cannot be ended before it expires at %s",
			l.name, g.ExpiresAt.UTC().Format(time.RFC3339))
	}
	return nil
}

// stillStored adds to a mistake of the caller's how to forget the grant all the same.
func stillStored(err error) error {
	if isUserError(err) {
		return userErrorf("%s; the grant is kept: force=true forgets it without cancelling it", err)
	}
	return err
}
