// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/rights"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/uri"
)

// place is where a grant comes from, as a request says it.
type place struct {
	access         []byte
	authServer     string // grant endpoint
	walletAddress  string
	resourceServer string
	finishURI      string
	typed          []string
}

func parsePlace(d *framework.FieldData) (p place, err error) {
	if given(d, "access") {
		if p.access, err = rights.Parse(d.Raw["access"]); err != nil {
			return p, refuse("access: %s", err)
		}
	}
	if given(d, "wallet_address") {
		if p.walletAddress, err = parseWalletAddress("wallet_address", value[string](d, "wallet_address")); err != nil {
			return p, err
		}
	}
	if given(d, "auth_server") {
		if p.authServer, err = parseEndpoint("auth_server", value[string](d, "auth_server")); err != nil {
			return p, err
		}
	}
	if given(d, "resource_server") {
		if p.resourceServer, err = parseResourceServer("resource_server", value[string](d, "resource_server")); err != nil {
			return p, err
		}
	}
	if given(d, "finish_uri") {
		if _, err := parseURL("finish_uri", value[string](d, "finish_uri")); err != nil {
			return p, err
		}
		p.finishURI = value[string](d, "finish_uri")
	}
	p.typed = hostsOf(p.walletAddress, p.authServer, p.resourceServer)
	return p, nil
}

// suffices says what a place lacks to ask for a grant.
func (p place) suffices() error {
	switch {
	case p.access == nil:
		return refuse("access: is needed to ask for a grant: the JSON list of rights")
	case p.authServer == "" && p.walletAddress == "":
		return refuse("wallet_address: is needed to ask for a grant (the owner's), or auth_server (the grant endpoint)")
	}
	return nil
}

// parseEndpoint reads a grant endpoint. One without a path is asked at "/",
// which is what a signature's @target-uri says of it.
func parseEndpoint(field, text string) (string, error) {
	u, err := parseURL(field, text)
	if err != nil {
		return "", err
	}
	if u.Path == "" {
		u.Path = "/"
	}
	return u.String(), nil
}

// parseResourceServer reads a URL that others are put together from.
func parseResourceServer(field, text string) (string, error) {
	u, err := parseURL(field, text)
	if err != nil {
		return "", err
	}
	if u.RawQuery != "" || u.ForceQuery {
		return "", refuse("%s: a resource server's URL has no query (?…)", field)
	}
	return strings.TrimSuffix(u.String(), "/"), nil
}

// lookUp fills in what the owner's wallet address names.
func (p *place) lookUp(ctx context.Context, from *port) error {
	doc, err := from.wallet(ctx, p.walletAddress)
	if err != nil {
		var f failed
		if errors.As(err, &f) && f.Status != http.StatusNotFound && f.Cause == nil {
			return logical.CodedError(http.StatusBadGateway, "the wallet address's server "+err.Error())
		}
		return refuse("wallet_address: %s", err)
	}
	if p.authServer, err = parseEndpoint("wallet_address: its document's authServer", doc.AuthServer); err != nil {
		return err
	}
	if doc.ResourceServer != "" && p.resourceServer == "" {
		if p.resourceServer, err = parseResourceServer("wallet_address: its document's resourceServer", doc.ResourceServer); err != nil {
			return err
		}
	}
	for field, text := range map[string]string{"authServer": p.authServer, "resourceServer": p.resourceServer} {
		u, err := url.Parse(text)
		if err != nil || text == "" {
			continue
		}
		if _, err := reachOf(u, from.typed); err != nil {
			return refuse("wallet_address: the %s in its document, %s, %s", field, uri.Origin(u), err)
		}
	}
	return nil
}

// allowed says why a grant may not come from an authorization server.
func (c *config) allowed(field, target string) error {
	if len(c.AllowedAuthServers) > 0 && !slices.Contains(c.AllowedAuthServers, uri.OriginOf(target)) {
		return refuse("%s: %s is not in the config's allowed_auth_servers", field, uri.OriginOf(target))
	}
	return nil
}

// put fills in what a place says, and leaves the rest as it was.
func (g *grant) put(p place) {
	if p.access != nil {
		g.Access, g.Requested = p.access, p.access
	}
	g.AuthServer, g.WalletAddress, g.ResourceServer = p.authServer, p.walletAddress, p.resourceServer
	g.TypedHosts = p.typed
}

// begun is a grant that is being written: the lock, the entry as it was, and
// the client that it is for.
type begun struct {
	*hold
	old    *grant
	client *config
}

// begin locks the grant to be written and answers the client. configMu keeps
// the client from changing until the grant's entry says whose it is.
func (b *Backend) begin(ctx context.Context, req *logical.Request, name string) (begun, error) {
	h, err := b.hold(ctx, req.Storage, name)
	if err != nil {
		return begun{}, err
	}
	old, err := h.load(ctx)
	if err == nil {
		var c *config
		if c, err = client(ctx, req.Storage, req.MountPoint); err == nil {
			return begun{hold: h, old: old, client: c}, nil
		}
	}
	h.release()
	return begun{}, err
}

// fresh is the entry to begin with: the old one, or a new one.
func (w begun) fresh() *grant {
	if w.old != nil {
		g := *w.old
		return &g
	}
	return newGrant(w.client.WalletAddress, w.b.clock.Now())
}

// importGrant stores a grant that was obtained elsewhere.
func (b *Backend) importGrant(ctx context.Context, req *logical.Request, d *framework.FieldData, name string, resp *logical.Response) (*grant, error) {
	from, err := parsePlace(d)
	if err != nil {
		return nil, err
	}
	if from.finishURI != "" {
		return nil, refuse("finish_uri: is for asking, not for importing a grant")
	}
	token, home, err := parseImport(d, from)
	if err != nil {
		return nil, err
	}
	interactive := value[bool](d, "interactive")
	b.configMu.RLock()
	defer b.configMu.RUnlock()
	w, err := b.begin(ctx, req, name)
	if err != nil {
		return nil, err
	}
	defer w.release()
	if err := w.client.allowed("manage_url", token.Manage); err != nil {
		return nil, err
	}
	from.typed = hostsOf(from.walletAddress, from.authServer, from.resourceServer, token.Manage, token.Continue.URL)
	if !interactive && from.authServer == "" {
		if err := from.lookUp(ctx, b.port(w.client, from.typed...)); err != nil {
			return nil, err
		}
		if uri.OriginOf(from.authServer) != home { // else what is asked for again could not be rotated
			return nil, refuse("manage_url: must be on the origin of the authorization server that wallet_address names, %s", uri.OriginOf(from.authServer))
		}
	}
	g := w.fresh()
	if err := g.Settings.apply(d); err != nil {
		return nil, err
	}
	g.put(from)
	g.AuthOrigin, g.Interactive, g.Continue, g.Pending = home, interactive, continuation{}, nil
	token.SentAt = b.clock.Now()
	g.accept(token, string(causeImport))
	if _, err := w.schedule(ctx, w.old, g); err != nil {
		return nil, err
	}
	if err := w.store(ctx, g); err != nil {
		return nil, err
	}
	w.failure = failure{}
	if w.old != nil && w.old.Pending != nil {
		asked := w.old.Pending.grant()
		if err := b.port(w.client, asked.TypedHosts...).cancelGrant(ctx, asked, req.MountPoint); err != nil {
			resp.AddWarning("what the owner was being asked for could not be cancelled: " + err.Error())
		}
	}
	if w.old != nil && w.old.Token != "" {
		resp.AddWarning("the grant that was stored under this name is replaced, but was not cancelled at the authorization server: it may be this one")
	}
	return g, nil
}

// parseImport reads the secrets of a grant that was obtained elsewhere, and
// the origin on which its URLs have to lie.
func parseImport(d *framework.FieldData, from place) (t done, home string, err error) {
	t.Value = value[string](d, "access_token")
	if !isTokenValue(t.Value) {
		return t, "", refuse("access_token: must be the token's value, printable ASCII without spaces")
	}
	manage, err := parseURL("manage_url", value[string](d, "manage_url"))
	if err != nil {
		return t, "", err
	}
	if !strings.Contains(manage.Path, "token/") {
		return t, "", refuse("manage_url: must hold token/ in its path, as the manage URLs of Open Payments do")
	}
	t.Manage, home = manage.String(), uri.Origin(manage)
	if from.authServer != "" && uri.OriginOf(from.authServer) != home {
		return t, "", refuse("manage_url: must be on the origin of auth_server, %s", uri.OriginOf(from.authServer))
	}
	t.Lifetime = seconds(d, "expires_in")
	t.Continue.Token = value[string](d, "continue_token")
	if given(d, "continue_url") != given(d, "continue_token") {
		return t, "", refuse("continue_url: goes together with continue_token")
	}
	if given(d, "continue_url") {
		u, err := parseURL("continue_url", value[string](d, "continue_url"))
		switch {
		case err != nil:
			return t, "", err
		case uri.Origin(u) != home:
			return t, "", refuse("continue_url: must be on the origin of manage_url")
		case !strings.Contains(u.Path, "continue/"):
			return t, "", refuse("continue_url: must hold continue/ in its path, as the continue URLs of Open Payments do")
		case !isTokenValue(t.Continue.Token):
			return t, "", refuse("continue_token: must be the token's value, printable ASCII without spaces")
		}
		t.Continue.URL = u.String()
	}
	if !value[bool](d, "interactive") && (from.access == nil || from.authServer == "" && from.walletAddress == "") {
		return t, "", refuse("interactive: false takes access, and auth_server or wallet_address, so that the grant can be asked for again")
	}
	return t, home, nil
}

func isTokenValue(text string) bool {
	return text != "" && !strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' })
}

// askGrant asks an authorization server for a grant and stores it, or that its
// owner is being asked. A grant that was stored under the name is cancelled once
// the new one is there.
func (b *Backend) askGrant(ctx context.Context, req *logical.Request, d *framework.FieldData, name string, resp *logical.Response) (*grant, error) {
	from, err := parsePlace(d)
	if err == nil {
		err = from.suffices()
	}
	if err != nil {
		return nil, err
	}
	b.configMu.RLock()
	a, err := b.beginAsking(ctx, req, d, name, from)
	b.configMu.RUnlock()
	if err != nil {
		return nil, err
	}
	defer a.release()
	return a.complete(context.WithoutCancel(ctx), resp)
}

// asking is an attempt at a new grant in the place of an old one (nil: none).
type asking struct {
	attempt
	old    *grant
	finish *finish // nil: the server is polled for the owner's decision
	slot   string  // of the index, put for this grant; empty: it has one
}

func (b *Backend) beginAsking(ctx context.Context, req *logical.Request, d *framework.FieldData, name string, from place) (*asking, error) {
	w, err := b.begin(ctx, req, name)
	if err != nil {
		return nil, err
	}
	a := &asking{attempt: attempt{hold: w.hold, grant: w.fresh(), port: b.port(w.client, from.typed...), why: causeAsk, mount: req.MountPoint}, old: w.old}
	if from.finishURI != "" {
		a.finish = newFinish(from.finishURI, newID())
	}
	if err := a.prepare(ctx, d, from); err != nil {
		a.release()
		return nil, err
	}
	return a, nil
}

// prepare finds the server, and stores an intent before anything is asked for:
// a node that may not write finds out in time, and a new grant that a crash
// interrupts is asked for when it is read.
func (a *asking) prepare(ctx context.Context, d *framework.FieldData, from place) error {
	if from.authServer == "" {
		if err := from.lookUp(ctx, a.port); err != nil {
			return err
		}
	}
	if err := a.port.client.allowed("auth_server", from.authServer); err != nil {
		return err
	}
	if err := a.grant.Settings.apply(d); err != nil {
		return err
	}
	a.grant.put(from)
	a.grant.AuthOrigin = uri.OriginOf(from.authServer)
	a.grant.Status, a.grant.Manage, a.grant.Token, a.grant.Continue = statusActive, "", "", continuation{}
	a.grant.begin(causeAsk, a.b.clock.Now())
	var err error
	if a.slot, err = a.schedule(ctx, a.old, a.grant); err != nil {
		return err
	}
	if a.old == nil {
		return a.store(ctx, a.grant)
	}
	marked := *a.old
	marked.Intent, marked.Spent = a.grant.Intent, a.grant.Spent
	return a.store(ctx, &marked)
}

// complete asks, stores what is granted, and then cancels the old grant. A lost
// one is cancelled first: limits are counted for each grant, and two would
// double the budget.
func (a *asking) complete(ctx context.Context, resp *logical.Response) (*grant, error) {
	if a.old != nil && a.old.Status == statusLost {
		a.cancelOld(ctx, resp)
	}
	switch out := a.port.ask(ctx, a.grant.AuthServer, a.grant.Requested, a.finish).(type) {
	case done:
		a.grant.Interactive, a.grant.Pending = false, nil
		g, err := a.keep(ctx, out)
		if err == nil && a.old != nil && a.old.Status != statusLost {
			a.cancelOld(ctx, resp)
		}
		return g, err
	case interaction:
		return a.await(ctx, out)
	case failed:
		a.undo(ctx)
		return nil, a.refusal(ctx, out)
	}
	return nil, errors.New("unknown outcome")
}

func (a *asking) cancelOld(ctx context.Context, resp *logical.Response) {
	if err := a.b.port(a.port.client, a.old.TypedHosts...).cancelGrant(ctx, a.old, a.mount); err != nil {
		resp.AddWarning("the former grant could not be cancelled at the authorization server, and its limits may count besides the new one's: " + err.Error())
	}
}

// refusal says why there is no grant: what a server answers with 4xx can be
// mended by who asked.
func (a *asking) refusal(ctx context.Context, f failed) error {
	err := a.askError(ctx, f)
	var mistake callerError
	if f.Status/100 != 4 || f.Status == http.StatusTooManyRequests || errors.As(err, &mistake) {
		return err
	}
	return refuse("access: the authorization server %s: it does not give this client these rights", f)
}

// undo puts back what was stored before the server was asked.
func (a *asking) undo(ctx context.Context) {
	err := a.stillOurs(ctx)
	switch {
	case err == nil && a.old == nil:
		if err = a.forget(ctx); err == nil && a.slot != "" {
			err = a.storage.Delete(ctx, a.slot)
		}
	case err == nil:
		err = a.store(ctx, a.old)
	}
	if err != nil {
		a.b.Logger().Warn("what was stored before asking for a grant could not be put back", "grant", a.name, "error", err)
	}
}

// cancelGrant ends a grant at its server, or the token where it has no
// continuation. A grant that is gone already counts as done, unless the server
// may have said so because it could not check our signature. A new one that its
// owner is being asked for is cancelled too.
func (p *port) cancelGrant(ctx context.Context, g *grant, mount string) error {
	if g.Pending != nil {
		asked := g.Pending.grant()
		if err := p.b.port(p.client, asked.TypedHosts...).cancelGrant(ctx, asked, mount); err != nil {
			return err
		}
	}
	target := g.end()
	var err error
	switch {
	case target == "":
		return nil // never got a token
	case !p.client.sameOrigin(target, g.AuthOrigin):
		return g.endsElsewhere(mount)
	case g.Continue.URL != "":
		err = p.cancel(ctx, g.Continue)
	default:
		err = p.revoke(ctx, g.Manage, g.Token)
	}
	var f failed
	if err == nil || !errors.As(err, &f) {
		return err
	}
	if f.gone() || f.unknownClient() {
		if published, err := p.keyPublished(ctx); err == nil && !published {
			return refuse("%s/jwks.json does not hold the public key of %sconfig under key_id, so the authorization server cannot check our signature", p.client.WalletAddress, mount)
		}
		if f.gone() {
			return nil
		}
	}
	return serverError(f)
}

// end is the URL at which the grant is ended; empty if there is none.
func (g *grant) end() string {
	if g.Continue.URL != "" {
		return g.Continue.URL
	}
	return g.Manage
}

func (g *grant) endsElsewhere(mount string) error {
	return refuse("the grant's URLs are on %q, not on its authorization server %s: if that is right, add it to allowed_auth_servers in %sconfig", uri.OriginOf(g.end()), g.AuthOrigin, mount)
}
