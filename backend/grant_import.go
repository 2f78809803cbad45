// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/authserver"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/uri"
)

// importGrant stores a grant that was obtained elsewhere.
func (b *Backend) importGrant(
	ctx context.Context, req *logical.Request, d *framework.FieldData, name string, resp *logical.Response,
) (*grant, error) {
	params, err := parseGrantParams(d)
	if err != nil {
		return nil, err
	}
	token, err := parseImport(d, params)
	if err != nil {
		return nil, err
	}
	if g, done, err := b.repeatImport(ctx, req.Storage, d, name, token, resp); err != nil || done {
		return g, err
	}
	c, err := loadClient(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	if err := b.locateImport(ctx, c, d, &params, token); err != nil {
		return nil, err
	}
	l, err := b.lockGrant(ctx, req.Storage, name)
	if err != nil {
		return nil, err
	}
	defer l.release()
	former, err := l.load(ctx)
	if err != nil {
		return nil, err
	}
	token.SentAt = b.clock.Now()
	g := b.nextGrant(former, c)
	if err := g.takeImport(former, d, params, token); err != nil {
		return nil, err
	}
	if err := l.storeImported(ctx, c, former, g); err != nil {
		return nil, err
	}
	if len(g.Formers) > 0 {
		if err := l.endFormers(context.WithoutCancel(ctx), g); err != nil {
			b.Logger().
				Warn("what an owner was being asked for is cancelled in the background", "grant", name, "error", err)
		}
	}
	warnReplaced(former, resp)
	if given(d, "access") {
		g.warn(resp)
	}
	return g, nil
}

// takeImport makes of a grant the one that is imported in the place of former (nil: none).
func (g *grant) takeImport(
	former *grant, d *framework.FieldData, params grantParams, token authserver.TokenIssued,
) error {
	if err := g.Settings.apply(d); err != nil {
		return err
	}
	if params.access != nil {
		g.Access = params.access
	}
	g.source = params.source()
	g.AuthOrigin = uri.OriginOf(token.Manage)
	g.Interactive, g.Continue, g.Pending = value[bool](d, "interactive"), authserver.Continuation{}, nil
	g.accept(token, causeImport)
	g.rememberImport(token)
	g.rememberReplaced(former, token.SentAt)
	return nil
}

// repeatImport changes the settings of a grant that was imported with this token before, and reports
// whether it was: the token is not put back, because it is dead since the first rotation.
func (b *Backend) repeatImport(
	ctx context.Context, s logical.Storage, d *framework.FieldData, name string, token authserver.TokenIssued,
	resp *logical.Response,
) (g *grant, done bool, err error) {
	l, err := b.lockGrant(ctx, s, name)
	if err != nil {
		return nil, false, err
	}
	defer l.release()
	if g, err = l.load(ctx); err != nil || !g.repeatsImport(token) {
		return nil, false, err
	}
	resp.AddWarning(
		"the grant was imported with this token before: only settings changed; a new import takes a new token",
	)
	return g, true, l.applySettings(ctx, g, d)
}

// locateImport checks where an imported grant is from, and discovers where it can be requested
// anew.
func (b *Backend) locateImport(
	ctx context.Context, c *config, d *framework.FieldData, params *grantParams, token authserver.TokenIssued,
) error {
	if err := c.checkAllowed("manage_url", token.Manage); err != nil {
		return err
	}
	params.operatorHosts = authserver.HostsOf(
		params.walletAddress, params.authServer, params.resourceServer, token.Manage, token.Continue.URL)
	if value[bool](d, "interactive") || params.authServer != "" {
		return nil
	}
	if err := params.discoverServers(ctx, b.clientFor(c, params.operatorHosts...)); err != nil {
		return err
	}
	// Else a grant that is requested anew could not be rotated.
	if o := uri.OriginOf(params.authServer); o != uri.OriginOf(token.Manage) {
		return userErrorf(
			"manage_url: must be on the origin of the authorization server that wallet_address names, %s",
			o,
		)
	}
	return nil
}

// storeImported stores the grant if the client is still the one that it was written for.
func (l *grantLock) storeImported(ctx context.Context, c *config, former, g *grant) error {
	unlock, err := l.b.configMu.read(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := l.checkClient(ctx, c); err != nil {
		return err
	}
	if _, err := l.schedule(ctx, former, g); err != nil {
		return err
	}
	if err := l.store(ctx, g); err != nil {
		return err
	}
	l.entry.failure = recentFailure{}
	l.b.record(tokenEvent{grant: l.name, server: g.AuthOrigin, cause: causeImport, result: resultIssued})
	return nil
}

// rememberReplaced keeps of the grant that an import replaces what leases may still hold, and what its
// owner was being asked for, which the worker cancels. The grant itself may be the one that is imported.
func (g *grant) rememberReplaced(former *grant, now time.Time) {
	g.Ending, g.Replaced = false, nil
	if former == nil {
		return
	}
	if former.Pending != nil {
		g.replace(former.Pending.ending(), now.Add(-formerRetryMin)) // at once
	}
	for _, r := range slices.Backward(former.Replaced.still(now)) {
		g.Replaced = &replaced{Generation: r.Generation, Ending: r.Ending, Before: g.Replaced}
	}
	if former.Manage != "" && former.Manage != g.Manage && mayBeLive(former, now) {
		e := former.ending()
		e.Continue = authserver.Continuation{} // only the token
		if !former.LifeKnown {
			e.ExpiresAt = e.ExpiresAt.Add(unknownLife)
		}
		g.Replaced = &replaced{Generation: former.Generation, Ending: e, Before: g.Replaced}
	}
}

// warnReplaced warns of what an import has left alive at the server.
func warnReplaced(former *grant, resp *logical.Response) {
	if former != nil && former.Token != "" {
		resp.AddWarning("the grant that was stored under this name is replaced, but was not cancelled at the " +
			"authorization server: it may be this one")
	}
}

// parseImport reads the secrets of a grant that was obtained elsewhere.
func parseImport(d *framework.FieldData, params grantParams) (t authserver.TokenIssued, err error) {
	if params.finishURI != "" {
		return t, userErrorf("finish_uri: is for asking, not for importing a grant")
	}
	t.Value = value[string](d, "access_token")
	if !authserver.IsToken(t.Value) {
		return t, userErrorf("access_token: must be the token's value, printable ASCII without spaces")
	}
	manage, err := authserver.ParseURL(value[string](d, "manage_url"))
	if err != nil {
		return t, fieldError("manage_url", err)
	}
	if !strings.Contains(manage.Path, "token/") {
		return t, userErrorf("manage_url: must hold token/ in its path, as the manage URLs of Open Payments do")
	}
	t.Manage = manage.String()
	home := uri.Origin(manage)
	if params.authServer != "" && uri.OriginOf(params.authServer) != home {
		return t, userErrorf("manage_url: must be on the origin of auth_server, %s", uri.OriginOf(params.authServer))
	}
	t.Lifetime = seconds(d, "expires_in")
	if t.Continue, err = parseContinuation(d, home); err != nil {
		return t, err
	}
	if !value[bool](d, "interactive") &&
		(params.access == nil || params.authServer == "" && params.walletAddress == "") {
		return t, userErrorf(
			"interactive: false takes access, and auth_server or wallet_address, so that the grant can be " +
				"requested anew",
		)
	}
	return t, nil
}

// parseContinuation reads where an imported grant is cancelled; the zero value: not given.
func parseContinuation(d *framework.FieldData, home string) (at authserver.Continuation, err error) {
	at.Token = value[string](d, "continue_token")
	if given(d, "continue_url") != given(d, "continue_token") {
		return at, userErrorf("continue_url: goes together with continue_token")
	}
	if !given(d, "continue_url") {
		return at, nil
	}
	u, err := authserver.ParseURL(value[string](d, "continue_url"))
	switch {
	case err != nil:
		return at, fieldError("continue_url", err)
	case uri.Origin(u) != home:
		return at, userErrorf("continue_url: must be on the origin of manage_url")
	case !strings.Contains(u.Path, "continue/"):
		return at, userErrorf("continue_url: must hold continue/ in its path, as the continue URLs of Open " +
			"Payments do")
	case !authserver.IsToken(at.Token):
		return at, userErrorf("continue_token: must be the token's value, printable ASCII without spaces")
	}
	at.URL = u.String()
	return at, nil
}
