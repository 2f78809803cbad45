// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

const (
	operationPrefix = "open-payments"

	grantsSynopsis    = `The names of the stored grants.`
	grantsDescription = `
Each name comes with the grant's status: active, pending (its owner is being
asked) or lost (its owner has to be asked again). after and limit page through many; vault list cannot send them, but
vault read op/grants list=true after=NAME limit=20 can.
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
else is known of it. From then on it must not be rotated by anybody else.

Further writes change the lease settings (ttl, max_ttl, renewable, on_revoke, and
for new leases shared and min_ttl), keepalive and resource_server, or replace the
grant. A read never shows a token, a manage URL or a continuation.
Deleting cancels the grant at the authorization server and then forgets it.
`
)

var nameField = &framework.FieldSchema{
	Type:        framework.TypeString,
	Description: "Name of the grant.",
}

// operation describes an operation that talks to servers or to storage, and so
// belongs on a node that may write.
func operation(summary string, status int, fields map[string]*framework.FieldSchema, call framework.OperationFunc) *framework.PathOperation {
	return &framework.PathOperation{
		Callback: call,
		Summary:  summary,
		Responses: map[int][]framework.Response{
			status: {{Description: http.StatusText(status), Fields: fields}},
		},
		ForwardPerformanceStandby:   true,
		ForwardPerformanceSecondary: true,
	}
}

func (b *Backend) pathGrantsList() *framework.Path {
	return &framework.Path{
		Pattern:      "grants/?$",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "grants", Navigation: true, ItemType: "Grant"},
		Fields:       pageFields,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ListOperation: &framework.PathOperation{
				Callback: b.listGrants,
				Summary:  "List the stored grants with their status.",
				Responses: map[int][]framework.Response{http.StatusOK: {{Description: "OK", Fields: map[string]*framework.FieldSchema{
					"keys":     {Type: framework.TypeStringSlice, Description: "Names."},
					"key_info": {Type: framework.TypeMap, Description: "Each name's status."},
				}}}},
			},
		},
		HelpSynopsis:    grantsSynopsis,
		HelpDescription: grantsDescription,
	}
}

var pageFields = map[string]*framework.FieldSchema{
	"after": {Type: framework.TypeString, Query: true, Description: "List names after this one."},
	"limit": {Type: framework.TypeInt, Query: true, Description: "List this many names at most; 0: all."},
}

func (b *Backend) pathGrant() *framework.Path {
	text := func(name, description string) *framework.FieldSchema {
		return &framework.FieldSchema{Type: framework.TypeString, Description: description, DisplayAttrs: &framework.DisplayAttributes{Name: name}}
	}
	secret := func(name, description string) *framework.FieldSchema {
		f := text(name, description)
		f.DisplayAttrs.Sensitive = true
		return f
	}
	write := operation("Store, ask for or change a grant.", http.StatusOK, grantFields, b.writeGrant)
	return &framework.Path{
		Pattern:      "grants/(?P<name>.+)",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "grant", ItemType: "Grant"},
		Fields: map[string]*framework.FieldSchema{
			"name":            nameField,
			"wallet_address":  text("Wallet address", "Wallet address of the owner: an https URL or a payment pointer ($host/path)."),
			"auth_server":     text("Authorization server", "The grant endpoint, with its path. Left out when asking: the owner's wallet address names it."),
			"resource_server": text("Resource server", "URL below which the token is good, and below which requests are signed. Left out when asking: the owner's wallet address names it."),
			"access": {
				Type:         framework.TypeSlice,
				Description:  "List of rights, as JSON or as its text (access of the authorization server's OpenAPI document).",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Access"},
			},
			"finish_uri":     text("Finish URI", "Asking, where the owner's consent is needed: the URL that the owner's browser is sent to afterwards. Left out: poll with a write to continue."),
			"access_token":   secret("Access token", "Import: the current access token."),
			"manage_url":     secret("Manage URL", "Import: the URL at which the token is rotated."),
			"continue_url":   secret("Continue URL", "Import: the URL at which the grant is cancelled."),
			"continue_token": secret("Continue token", "Import: the access token of the continuation."),
			"expires_in":     {Type: framework.TypeDurationSecond, Description: "Import: how long the access token lives from now on.", DisplayAttrs: &framework.DisplayAttributes{Name: "Expires in"}},
			"interactive":    {Type: framework.TypeBool, Default: true, Description: "Import: whether the owner had to consent. If false (which takes access and auth_server or wallet_address), the grant is asked for again should the server forget it.", DisplayAttrs: &framework.DisplayAttributes{Name: "Interactive"}},
			"ttl":            {Type: framework.TypeDurationSecond, Description: "How long a lease lives at most. 0: as long as the token.", DisplayAttrs: &framework.DisplayAttributes{Name: "TTL"}},
			"max_ttl":        {Type: framework.TypeDurationSecond, Description: "How long a lease lives at most, renewals included. 0: the mount's limit.", DisplayAttrs: &framework.DisplayAttributes{Name: "Max TTL"}},
			"renewable":      {Type: framework.TypeBool, Default: true, Description: "Whether leases can be renewed. Set it to false for readers that cannot follow a renewal, such as Vault Agent's templates.", DisplayAttrs: &framework.DisplayAttributes{Name: "Renewable"}},
			"on_revoke":      {Type: framework.TypeString, Default: revokeRotates, AllowedValues: []any{revokeRotates, revokeKeeps}, Description: "What revoking a lease does to its token: rotate (the value dies) or keep.", DisplayAttrs: &framework.DisplayAttributes{Name: "On revoke"}},
			"shared":         {Type: framework.TypeBool, Description: "Whether reads hand the current token out again, to several readers, in leases that cannot be renewed and whose end leaves the token alone.", DisplayAttrs: &framework.DisplayAttributes{Name: "Shared"}},
			"min_ttl":        {Type: framework.TypeDurationSecond, Description: "Shared: rotate when less than this is left of the token's life. 0: a quarter of it.", DisplayAttrs: &framework.DisplayAttributes{Name: "Min TTL"}},
			"keepalive":      {Type: framework.TypeDurationSecond, Default: int(defaultKeepalive / time.Second), Description: "How long the grant may go without a rotation before it is rotated in the background, so that the server does not forget it. 0: never.", DisplayAttrs: &framework.DisplayAttributes{Name: "Keepalive"}},
			"force":          {Type: framework.TypeBool, Query: true, Description: "Delete: forget the grant even if it cannot be cancelled at the server."},
		},
		ExistenceCheck: func(ctx context.Context, req *logical.Request, d *framework.FieldData) (bool, error) {
			g, err := loadGrant(ctx, req.Storage, d.Get("name").(string))
			return g != nil, err
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.CreateOperation: write,
			logical.UpdateOperation: write,
			logical.PatchOperation:  operation("Change a grant's lease settings or resource server; null restores a default.", http.StatusOK, grantFields, b.patchGrant),
			logical.ReadOperation:   operation("Describe a grant.", http.StatusOK, grantFields, b.readGrant),
			logical.DeleteOperation: operation("Cancel a grant at the server and forget it.", http.StatusNoContent, nil, b.deleteGrant),
		},
		HelpSynopsis:    grantSynopsis,
		HelpDescription: grantDescription,
	}
}

var grantFields = map[string]*framework.FieldSchema{
	"status":              {Type: framework.TypeString, Required: true, Description: "active, pending or lost."},
	"interact_url":        {Type: framework.TypeString, Description: "Pending: what the owner opens."},
	"pending_until":       {Type: framework.TypeString, Description: "Pending: until when the owner may decide (RFC 3339)."},
	"next":                {Type: framework.TypeString, Description: "Pending: what to do next."},
	"interactive":         {Type: framework.TypeBool, Required: true, Description: "Whether the owner's consent was needed."},
	"client":              {Type: framework.TypeString, Required: true, Description: "Wallet address of the client that obtained the grant."},
	"access":              {Type: framework.TypeSlice, Required: true, Description: "The grant's rights."},
	"auth_server":         {Type: framework.TypeString, Required: true, Description: "The grant endpoint; its origin where only that is known."},
	"wallet_address":      {Type: framework.TypeString, Description: "Wallet address of the owner, where known."},
	"resource_server":     {Type: framework.TypeString, Description: "URL below which tokens are good, where known."},
	"generation":          {Type: framework.TypeInt, Required: true, Description: "Number of the current token."},
	"expires_at":          {Type: framework.TypeString, Description: "When the current token expires (RFC 3339)."},
	"created_at":          {Type: framework.TypeString, Required: true, Description: "When the grant was first written (RFC 3339)."},
	"last_rotation_at":    {Type: framework.TypeString, Description: "When the current token was asked for (RFC 3339)."},
	"last_rotation_cause": {Type: framework.TypeString, Description: "Why: read, renew, revoke, rotate, ask, import, consent or keepalive."},
	"last_failure_at":     {Type: framework.TypeString, Description: "When a new token could last not be had (RFC 3339)."},
	"last_failure_cause":  {Type: framework.TypeString, Description: "Why not."},
	"lost_at":             {Type: framework.TypeString, Description: "When the grant was found lost (RFC 3339)."},
	"lost_cause":          {Type: framework.TypeString, Description: "Why it is lost."},
	"intent_open":         {Type: framework.TypeBool, Required: true, Description: "Whether a rotation was begun whose end is not known."},
	"ttl":                 {Type: framework.TypeInt, Required: true, Description: "Seconds; 0: as long as the token."},
	"max_ttl":             {Type: framework.TypeInt, Required: true, Description: "Seconds; 0: the mount's limit."},
	"renewable":           {Type: framework.TypeBool, Required: true, Description: "Whether leases can be renewed."},
	"on_revoke":           {Type: framework.TypeString, Required: true, Description: "rotate or keep."},
	"shared":              {Type: framework.TypeBool, Required: true, Description: "Whether reads hand the current token out again."},
	"min_ttl":             {Type: framework.TypeInt, Required: true, Description: "Seconds of the token's life below which a shared grant is rotated; 0: a quarter of it."},
	"keepalive":           {Type: framework.TypeInt, Required: true, Description: "Seconds without a rotation after which the grant is rotated in the background; 0: never."},
}

// describe tells all of a grant but its secrets.
func describe(g *grant) map[string]any {
	data := map[string]any{
		"status":      g.Status,
		"interactive": g.Interactive,
		"client":      g.Client,
		"access":      g.rights(),
		"auth_server": g.authServer(),
		"generation":  g.Generation,
		"created_at":  g.CreatedAt.UTC().Format(time.RFC3339),
		"intent_open": g.Intent != nil,
		"ttl":         int64(g.Settings.TTL / time.Second),
		"max_ttl":     int64(g.Settings.MaxTTL / time.Second),
		"renewable":   g.Settings.Renewable,
		"on_revoke":   g.Settings.OnRevoke,
		"shared":      g.Settings.Shared,
		"min_ttl":     int64(g.Settings.MinTTL / time.Second),
		"keepalive":   int64(g.Settings.Keepalive / time.Second),
	}
	if p := g.Pending; p != nil {
		data["interact_url"] = p.InteractURL
		data["pending_until"] = p.Since.Add(pendingTTL).UTC().Format(time.RFC3339)
		data["next"] = p.next()
	}
	for name, text := range map[string]string{
		"wallet_address":      g.WalletAddress,
		"resource_server":     g.ResourceServer,
		"last_rotation_cause": g.LastRotation.Cause,
		"last_failure_cause":  g.LastFailure.Cause,
		"lost_cause":          g.Lost.Cause,
	} {
		if text != "" {
			data[name] = text
		}
	}
	for name, at := range map[string]time.Time{
		"expires_at":       g.ExpiresAt,
		"last_rotation_at": g.LastRotation.At,
		"last_failure_at":  g.LastFailure.At,
		"lost_at":          g.Lost.At,
	} {
		if !at.IsZero() {
			data[name] = at.UTC().Format(time.RFC3339)
		}
	}
	return data
}

func (b *Backend) listGrants(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	names, err := listPage(ctx, req.Storage, grantsPrefix, d)
	if err != nil {
		return nil, err
	}
	info := make(map[string]any, len(names))
	for _, name := range names {
		g, err := loadGrant(ctx, req.Storage, name)
		if err != nil {
			return nil, err
		}
		if g != nil { // deleted since
			info[name] = map[string]any{"status": g.Status}
		}
	}
	return logical.ListResponseWithInfo(names, info), nil
}

// listPage lists the names below a prefix that the request asks for.
func listPage(ctx context.Context, s logical.Storage, prefix string, d *framework.FieldData) ([]string, error) {
	names, err := s.List(ctx, prefix)
	if err != nil {
		return nil, fmt.Errorf("list the stored %s: %w", strings.TrimSuffix(prefix, "/"), err)
	}
	sort.Strings(names)
	return page(names, value[string](d, "after"), value[int](d, "limit")), nil
}

// page cuts sorted names: those after one, and at most limit of them (0: all).
func page(names []string, after string, limit int) []string {
	if after != "" {
		i, found := slices.BinarySearch(names, after)
		if found {
			i++
		}
		names = names[i:]
	}
	if limit > 0 && limit < len(names) {
		names = names[:limit]
	}
	return names
}

func (b *Backend) readGrant(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	g, err := loadGrant(ctx, req.Storage, d.Get("name").(string))
	if err != nil || g == nil {
		return nil, err
	}
	return &logical.Response{Data: describe(g)}, nil
}

var (
	importFields = []string{"access_token", "manage_url", "expires_in", "continue_url", "continue_token", "interactive"}
	askFields    = []string{"access", "auth_server", "wallet_address", "finish_uri"}
)

// writeGrant stores a grant that was obtained elsewhere, asks for a new one, or
// changes how leases are made of a stored one.
func (b *Backend) writeGrant(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	has := func(field string) bool { return given(d, field) }
	var g *grant
	var err error
	resp := &logical.Response{}
	switch name := d.Get("name").(string); {
	case given(d, "access_token"):
		g, err = b.importGrant(ctx, req, d, name, resp)
	case slices.ContainsFunc(importFields, has):
		err = refuse("access_token: is needed together with manage_url to import a grant; expires_in, continue_url, continue_token and interactive go with it")
	case slices.ContainsFunc(askFields, has):
		g, err = b.askGrant(ctx, req, d, name, resp)
	default:
		g, err = b.changeSettings(ctx, req, d, name)
	}
	if err != nil {
		return answerError(err)
	}
	resp.Data = describe(g)
	return resp, nil
}

func (b *Backend) patchGrant(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	for _, field := range slices.Concat(importFields, askFields) {
		if given(d, field) {
			return answerError(refuse("%s: cannot be patched; write the grant anew", field))
		}
	}
	g, err := b.changeSettings(ctx, req, d, d.Get("name").(string))
	if err != nil {
		return answerError(err)
	}
	return &logical.Response{Data: describe(g)}, nil
}

func (b *Backend) changeSettings(ctx context.Context, req *logical.Request, d *framework.FieldData, name string) (*grant, error) {
	h, err := b.hold(ctx, req.Storage, name)
	if err != nil {
		return nil, err
	}
	defer h.release()
	g, err := h.load(ctx)
	if err != nil {
		return nil, err
	}
	if g == nil {
		return nil, refuse("no grant named %q: give access and wallet_address (or auth_server) to ask for one, or access_token and manage_url to import one", name)
	}
	old := *g
	if err := g.Settings.apply(d); err != nil {
		return nil, err
	}
	if given(d, "resource_server") {
		g.ResourceServer = ""
		if d.Raw["resource_server"] != nil {
			if g.ResourceServer, err = parseResourceServer("resource_server", value[string](d, "resource_server")); err != nil {
				return nil, err
			}
		}
	}
	if _, err := h.schedule(ctx, &old, g); err != nil {
		return nil, err
	}
	return g, h.store(ctx, g)
}

// apply merges what the request says into the settings and checks the whole.
func (s *settings) apply(d *framework.FieldData) error {
	if given(d, "ttl") {
		s.TTL = seconds(d, "ttl")
	}
	if given(d, "max_ttl") {
		s.MaxTTL = seconds(d, "max_ttl")
	}
	if given(d, "renewable") {
		s.Renewable = value[bool](d, "renewable")
	}
	if given(d, "on_revoke") {
		s.OnRevoke = value[string](d, "on_revoke")
	}
	if given(d, "shared") {
		s.Shared = value[bool](d, "shared")
	}
	if given(d, "min_ttl") {
		s.MinTTL = seconds(d, "min_ttl")
	}
	if given(d, "keepalive") {
		s.Keepalive = seconds(d, "keepalive")
	}
	switch {
	case s.OnRevoke != revokeRotates && s.OnRevoke != revokeKeeps:
		return refuse("on_revoke: must be %s or %s", revokeRotates, revokeKeeps)
	case s.TTL > 0 && s.MaxTTL > 0 && s.TTL > s.MaxTTL:
		return refuse("ttl: must not be longer than max_ttl")
	case s.Keepalive > 0 && s.Keepalive < minKeepalive:
		return refuse("keepalive: must be 0, for never, or at least a minute")
	}
	return nil
}

// deleteGrant cancels a grant at the server and forgets it.
func (b *Backend) deleteGrant(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	h, err := b.hold(ctx, req.Storage, d.Get("name").(string))
	if err != nil {
		return nil, err
	}
	defer h.release()
	force := value[bool](d, "force")
	g, err := h.load(ctx)
	switch {
	case err != nil && !force:
		return nil, err
	case err == nil && g == nil:
		return nil, nil
	}
	resp := &logical.Response{}
	ctx = context.WithoutCancel(ctx)
	if err == nil {
		var c *config
		if c, err = client(ctx, req.Storage, req.MountPoint); err == nil {
			err = b.port(c, g.TypedHosts...).cancelGrant(ctx, g, req.MountPoint)
		}
	}
	if err != nil {
		if !force {
			return answerError(kept(err))
		}
		resp.AddWarning("the grant is forgotten, but could not be cancelled at the authorization server: " + err.Error())
	}
	if err := h.forget(ctx); err != nil {
		return nil, err
	}
	h.unsaved, h.failure = nil, failure{}
	if len(resp.Warnings) == 0 {
		return nil, nil
	}
	return resp, nil
}

// kept adds to a mistake of the caller's what there is to do besides mending it.
func kept(err error) error {
	var mistake callerError
	if errors.As(err, &mistake) {
		return refuse("%s; the grant is kept: force=true forgets it without cancelling it", err)
	}
	return err
}
