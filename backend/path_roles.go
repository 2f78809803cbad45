// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

const (
	rolesPrefix = "roles/"
	roleVersion = 1

	rolesSynopsis    = `The names of the stored roles.`
	rolesDescription = `
after and limit page through many. vault list cannot send them, but
vault read op/roles list=true after=NAME limit=20 can, and bao list
-after=NAME -limit=20.
`
	roleSynopsis    = `A role: which grants creds/NAME asks for, where, and how their leases live.`
	roleDescription = `
A role takes what asking for a grant takes: wallet_address of the owner (whose
document names the servers) or auth_server (the grant endpoint itself), and access,
the JSON list of rights, which must not need consent. The document is
fetched when one of the servers is written; reads of creds/NAME use what it said then.

A field that is left out of a later write stays as it is. A role holds no grant, so
it may be used by whichever client config names. Deleting a role leaves the leases
that it was read for; they are renewed and revoked as before.
`
)

var roleField = &framework.FieldSchema{
	Type:        framework.TypeString,
	Description: "Name of the role.",
}

// A role's fields have the names that a grant's have.
var (
	roleParams = []string{"access", "wallet_address", "auth_server", "resource_server"}
	roleFields = slices.Concat(roleParams, []string{"ttl", "max_ttl", "renewable", "on_revoke"})
)

func (b *Backend) pathRolesList() *framework.Path {
	return &framework.Path{
		Pattern: "roles/?$",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix,
			OperationSuffix: "roles",
			Navigation:      true,
			ItemType:        "Role",
		},
		Fields: pageFields,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ListOperation: &framework.PathOperation{
				Callback: b.listRoles,
				Summary:  "List the stored roles.",
				Responses: map[int][]framework.Response{
					http.StatusOK: {{Description: "OK", Fields: map[string]*framework.FieldSchema{
						"keys": {Type: framework.TypeStringSlice, Description: "Names."},
					}}},
				},
			},
		},
		HelpSynopsis:    rolesSynopsis,
		HelpDescription: rolesDescription,
	}
}

func (b *Backend) pathRole() *framework.Path {
	fields, response := map[string]*framework.FieldSchema{"name": roleField}, map[string]*framework.FieldSchema{}
	for _, name := range roleFields {
		fields[name], response[name] = grantFields[name], grantResponse[name]
	}
	write := operation("Store or change a role.", http.StatusOK, response, b.writeRole)
	return &framework.Path{
		Pattern: "roles/(?P<name>.+)",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix,
			OperationSuffix: "role",
			ItemType:        "Role",
		},
		Fields: fields,
		ExistenceCheck: func(ctx context.Context, req *logical.Request, d *framework.FieldData) (bool, error) {
			r, err := loadRole(ctx, req.Storage, d.Get("name").(string))
			return exists(r != nil, err)
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.CreateOperation: write,
			logical.UpdateOperation: write,
			logical.PatchOperation: operation(
				"Change parts of a role; null restores a default.",
				http.StatusOK,
				response,
				b.patchRole,
			),
			logical.ReadOperation: operation("Read a role.", http.StatusOK, response, b.readRole),
			logical.DeleteOperation: operation(
				"Forget a role. Its leases live on.",
				http.StatusNoContent,
				nil,
				b.deleteRole,
			),
		},
		HelpSynopsis:    roleSynopsis,
		HelpDescription: roleDescription,
	}
}

// role is a stored role: one storage entry. It keeps the servers that an operator typed apart from
// those that a wallet address document named: the latter are discovered anew when one of the
// parameters changes.
type role struct {
	Version int `json:"version"`

	source
	Settings settings `json:"settings"`
}

func loadRole(ctx context.Context, s logical.Storage, name string) (*role, error) {
	entry, err := s.Get(ctx, rolesPrefix+name)
	if err != nil {
		return nil, fmt.Errorf("read the stored role: %w", err)
	}
	if entry == nil {
		return nil, nil
	}
	var r role
	if err := decode(entry.Value, fmt.Sprintf("the stored role %q", name), &r, &r.Version, roleVersion); err != nil {
		return nil, err
	}
	return &r, nil
}

// store returns errors as they are: logical.ErrReadOnly makes Vault forward the request.
func (r *role) store(ctx context.Context, s logical.Storage, name string) error {
	entry, err := logical.StorageEntryJSON(rolesPrefix+name, r)
	if err != nil {
		return fmt.Errorf("encode the role: %w", err)
	}
	return s.Put(ctx, entry)
}

// grant returns a grant to be requested, as the client c.
func (r *role) grant(c *config, now time.Time) *grant {
	g := newGrant(c.WalletAddress, now)
	g.source, g.Access, g.Settings = r.source, r.Requested, r.Settings
	return g
}

func (b *Backend) listRoles(
	ctx context.Context, req *logical.Request, d *framework.FieldData,
) (*logical.Response, error) {
	names, err := listPage(ctx, req.Storage, rolesPrefix, d)
	if err != nil {
		return nil, err
	}
	return logical.ListResponse(names), nil
}

func (b *Backend) readRole(
	ctx context.Context, req *logical.Request, d *framework.FieldData,
) (*logical.Response, error) {
	r, err := loadRole(ctx, req.Storage, d.Get("name").(string))
	if err != nil || r == nil {
		return nil, err
	}
	return r.response(), nil
}

// response returns of a role what a grant made with it would return.
func (r *role) response() *logical.Response {
	all := describe(&grant{source: r.source, Access: r.Requested, Settings: r.Settings})
	data := map[string]any{}
	for _, name := range roleFields {
		if value, has := all[name]; has {
			data[name] = value
		}
	}
	return &logical.Response{Data: data}
}

func (b *Backend) writeRole(
	ctx context.Context, req *logical.Request, d *framework.FieldData,
) (*logical.Response, error) {
	return b.changeRole(ctx, req, d, true)
}

func (b *Backend) patchRole(
	ctx context.Context, req *logical.Request, d *framework.FieldData,
) (*logical.Response, error) {
	return b.changeRole(ctx, req, d, false)
}

func (b *Backend) changeRole(
	ctx context.Context, req *logical.Request, d *framework.FieldData, create bool,
) (*logical.Response, error) {
	name := d.Get("name").(string)
	l, err := b.lockGrant(ctx, req.Storage, rolesPrefix+name) // no grant has such a name
	if err != nil {
		return nil, err
	}
	defer l.release()
	r, err := loadRole(ctx, req.Storage, name)
	switch {
	case err != nil:
		return nil, err
	case r == nil && !create:
		return errorResponse(noRole(ctx, name))
	case r == nil:
		r = &role{Version: roleVersion, Settings: defaultSettings()}
	}
	if err := r.Settings.apply(d); err != nil {
		return errorResponse(err)
	}
	if err := b.applyParams(ctx, req.Storage, r, d); err != nil {
		return errorResponse(err)
	}
	if err := r.store(ctx, req.Storage, name); err != nil {
		return nil, err
	}
	resp := r.response()
	if slices.ContainsFunc(roleParams, func(field string) bool { return given(d, field) }) {
		r.warn(resp)
	}
	return resp, nil
}

// applyParams merges the request's rights and servers into the role, and discovers the servers that
// it leaves to the owner's wallet address.
func (b *Backend) applyParams(ctx context.Context, s logical.Storage, r *role, d *framework.FieldData) error {
	if given(d, "access") && d.Raw["access"] == nil {
		return userErrorf("access: cannot be null; it has no default")
	}
	p, err := parseGrantParams(r.params(d))
	if err == nil {
		err = p.validate()
	}
	if err != nil {
		return err
	}
	r.Requested = p.access
	if r.AuthServer != "" && !r.moves(d, p.typed) {
		return nil // the same once more needs no network
	}
	c, err := loadClient(ctx, s)
	if err != nil {
		return err
	}
	if p.authServer == "" {
		if err := p.discoverServers(ctx, b.clientFor(c, p.operatorHosts...)); err != nil {
			return err
		}
	}
	if err := c.checkAllowed("auth_server", p.authServer); err != nil {
		return err
	}
	r.source = p.source()
	return nil
}

// moves reports whether a request changes the role's servers; typed is the role as it would be then.
func (r *role) moves(d *framework.FieldData, typed typedServers) bool {
	for field, v := range map[string][3]string{
		"wallet_address":  {typed.walletAddress, r.TypedWalletAddress, r.WalletAddress},
		"auth_server":     {typed.authServer, r.TypedAuthServer, r.AuthServer},
		"resource_server": {typed.resourceServer, r.TypedResourceServer, r.ResourceServer},
	} {
		if given(d, field) && v[0] != v[1] && v[0] != v[2] {
			return true
		}
	}
	return false
}

// params returns the role as somebody would write it, with what the request changes.
func (r *role) params(d *framework.FieldData) *framework.FieldData {
	raw := map[string]any{}
	for field, text := range map[string]string{
		"access": string(r.Requested), "wallet_address": cmp.Or(r.TypedWalletAddress, r.WalletAddress),
		"auth_server": r.TypedAuthServer, "resource_server": r.TypedResourceServer,
	} {
		if text != "" {
			raw[field] = text
		}
	}
	for _, field := range roleParams {
		if given(d, field) {
			if raw[field] = d.Raw[field]; raw[field] == nil {
				delete(raw, field)
			}
		}
	}
	return &framework.FieldData{Raw: raw, Schema: d.Schema}
}

func (b *Backend) deleteRole(
	ctx context.Context, req *logical.Request, d *framework.FieldData,
) (*logical.Response, error) {
	name := d.Get("name").(string)
	l, err := b.lockGrant(ctx, req.Storage, rolesPrefix+name)
	if err != nil {
		return nil, err
	}
	defer l.release()
	if _, err := loadRole(ctx, req.Storage, name); err != nil && !isDamaged(err) {
		return nil, err
	}
	return nil, req.Storage.Delete(ctx, rolesPrefix+name)
}
