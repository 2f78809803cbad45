// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/authserver"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
)

func TestAskForAGrant(t *testing.T) {
	r := configured(t)
	resp := r.ask("income")
	if resp.Data["status"] != statusActive || resp.Data["interactive"] != false || resp.Data["generation"] != 1 {
		t.Errorf("%v", resp.Data)
	}
	r.noSecretIn("the description", fmt.Sprint(resp.Data))
	// The endpoint itself may be named, without a wallet address.
	r.ok(logical.UpdateOperation, "grants/direct", map[string]any{"auth_server": r.sandbox.AuthServer(), "resource_server": r.sandbox.ResourceServer(), "access": incomingAccess, "ttl": "30s"})
	lease := r.read("direct")
	if lease.Data["resource_server"] != r.sandbox.ResourceServer() || lease.Data["wallet_address"] != nil || lease.Secret.TTL.Seconds() != 30 {
		t.Errorf("%v", lease.Secret.TTL)
	}
}

// Writing a grant again replaces it: the new one is there before the old one is cancelled, and
// leases of the old one are superseded.
func TestAskForAnotherGrantInItsPlace(t *testing.T) {
	r := withGrant(t)
	lease := r.read("income")
	before := r.stored("income")
	r.ok(logical.UpdateOperation, "grants/income", map[string]any{"wallet_address": r.sandbox.WalletAddress("alice"), "access": `[{"type":"quote","actions":["create"]}]`, "ttl": 60})
	g := r.stored("income")
	if g.ID != before.ID || g.Generation != before.Generation+1 || g.Settings.TTL.Seconds() != 60 || g.WalletAddress != r.sandbox.WalletAddress("alice") || g.Intent != nil {
		t.Errorf("generation %d", g.Generation)
	}
	if r.sandbox.Live(tokenOf(lease)) || r.sandbox.LiveTokens() != 1 {
		t.Error("the old grant has to be cancelled")
	}
	if _, err := r.renew(lease); err == nil || !strings.Contains(err.Error(), "superseded") {
		t.Errorf("%v", err)
	}
}

// One that has no continuation is ended by its token.
func TestAskInThePlaceOfAnImport(t *testing.T) {
	r := configured(t)
	r.imported("income", nil)
	g := r.stored("income")
	g.Continue = authserver.Continuation{}
	r.put("income", g)
	r.ask("income")
	if r.sandbox.LiveTokens() != 1 || r.stored("income").Interactive {
		t.Error("the old token lives, or the grant still counts as interactive")
	}
	r.sandbox.Misbehave(sandbox.Misbehaviour{Status: 500, On: []string{"cancel"}})
	resp := r.ask("income")
	if len(resp.Warnings) != 1 || !strings.Contains(resp.Warnings[0], "could not be cancelled") {
		t.Errorf("%v", resp.Warnings)
	}
	r.noSecretIn("a warning", resp.Warnings[0])
}

// What the server does not give leaves everything as it was.
func TestAskingFails(t *testing.T) {
	for name, row := range map[string]struct {
		trouble func(r *rig)
		status  int
		words   string
	}{
		"500":               {func(r *rig) { r.sandbox.Misbehave(sandbox.Misbehaviour{Status: 500, On: []string{"grant"}}) }, 502, "answered 500"},
		"429":               {func(r *rig) { r.sandbox.Misbehave(sandbox.Misbehaviour{Status: 429, On: []string{"grant"}}) }, 502, "answered 429"},
		"dropped":           {func(r *rig) { r.sandbox.Misbehave(sandbox.Misbehaviour{Drop: true, On: []string{"grant"}}) }, 502, "could not be reached"},
		"not JSON":          {func(r *rig) { r.sandbox.Misbehave(sandbox.Misbehaviour{NotJSON: true, On: []string{"grant"}}) }, 502, "could not be read"},
		"refused rights":    {func(r *rig) { r.sandbox.Misbehave(sandbox.Misbehaviour{Status: 400, On: []string{"grant"}}) }, 400, "access"},
		"key not published": {func(r *rig) { r.sandbox.UnpublishKeys() }, 400, "jwks.json"},
		"wallet 500":        {func(r *rig) { r.sandbox.Misbehave(sandbox.Misbehaviour{Status: 500, On: []string{"wallet"}}) }, 502, "answered 500"},
		"interact without a place": {func(r *rig) {
			r.on("grant", func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
				_, _ = io.WriteString(w, `{"interact":{"redirect":"","finish":"f"},"continue":{"access_token":{"value":"c"},"uri":"`+r.sandbox.AuthServer()+`/continue/abc","wait":5}}`)
			})
		}, 502, "does not say where"},
	} {
		for _, exists := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				r := configured(t)
				if exists {
					r.ask("income")
				}
				var before *grant
				if exists {
					before = r.stored("income")
				}
				row.trouble(r)
				r.fails(row.status, logical.UpdateOperation, "grants/income", map[string]any{"wallet_address": r.sandbox.WalletAddress("alice"), "access": incomingAccess}, row.words)
				names, _ := r.storage.List(r.ctx, grantsPrefix)
				if !exists {
					if len(names) != 0 {
						t.Error("something is stored")
					}
				} else if g := r.stored("income"); !reflect.DeepEqual(g, before) {
					t.Error("the stored grant has changed")
				}
			})
		}
	}
}

// The digest of a body is computed by servers over what JSON.stringify makes of it; the sandbox
// checks it so.
func TestRightsWithSignsThatJSONEscapes(t *testing.T) {
	r := configured(t)
	r.ok(logical.UpdateOperation, "grants/income", map[string]any{
		"wallet_address": r.sandbox.WalletAddress("shop"),
		"access":         []any{map[string]any{"type": "incoming-payment", "actions": []any{"create"}, "identifier": r.sandbox.WalletAddress("shop") + "/a&b"}},
	})
}

// A crash between the intent and the answer leaves an entry without a token; it is asked for when
// it is read.
func TestCrashWhileAsking(t *testing.T) {
	r := configured(t)
	in, out := make(chan struct{}), make(chan struct{})
	r.on("grant", func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		close(in)
		<-out
		next.ServeHTTP(w, req)
	})
	asked := make(chan struct{})
	go func() {
		_, _ = r.do(r.ctx, logical.UpdateOperation, "grants/income", map[string]any{"wallet_address": r.sandbox.WalletAddress("shop"), "access": incomingAccess})
		close(asked)
	}()
	<-in
	other := newRig(t)
	copyStorage(t, r.storage.InmemStorage, other.storage.InmemStorage)
	close(out)
	<-asked
	r.on("grant", nil)
	r.storage = other.storage
	r.restart()
	r.live(<-r.goRead(r.ctx, "income"))
	r.ok(logical.DeleteOperation, "grants/income", nil)
}

func TestImport(t *testing.T) {
	r := configured(t)
	r.imported("payer", map[string]any{"wallet_address": "$wallet.example/owner", "access": incomingAccess, "ttl": 60})
	data := r.ok(logical.ReadOperation, "grants/payer", nil).Data
	if data["interactive"] != true || data["wallet_address"] != "https://wallet.example/owner" || data["auth_server"] != r.sandbox.URL() || data["ttl"] != int64(60) {
		t.Errorf("%v", data)
	}
	r.live(<-r.goRead(r.ctx, "payer"))

	// Over a stored grant: nothing is cancelled, it may be the same one.
	g := r.stored("payer")
	resp := r.ok(logical.UpdateOperation, "grants/payer", map[string]any{"access_token": g.Token, "manage_url": g.Manage})
	if len(resp.Warnings) != 1 || r.sandbox.Count("cancel")+r.sandbox.Count("revoke") != 0 {
		t.Errorf("%v", resp.Warnings)
	}
	if again := r.stored("payer"); again.Generation != g.Generation+1 || again.ID != g.ID || again.Continue.URL != "" {
		t.Errorf("generation %d", again.Generation)
	}
	r.live(<-r.goRead(r.ctx, "payer"))

	// One that heals by itself.
	r.imported("income", map[string]any{"interactive": false, "access": incomingAccess, "auth_server": r.sandbox.AuthServer()})
	r.sandbox.Misbehave(sandbox.Misbehaviour{Drop: true, On: []string{"rotate"}, Times: 1})
	r.live(<-r.goRead(r.ctx, "income"))
	// ... whose server the owner's wallet names.
	r.imported("sales", map[string]any{"interactive": false, "access": incomingAccess, "wallet_address": r.sandbox.WalletAddress("shop")})
	if g := r.stored("sales"); g.AuthServer != r.sandbox.AuthServer() {
		t.Errorf("auth server %s", g.AuthServer)
	}
}

// Asked for again, such a grant would come from where it cannot be rotated.
func TestImportOfAnotherServersGrant(t *testing.T) {
	r := configured(t)
	r.on("wallet", func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		_, _ = io.WriteString(w, `{"id":"x","authServer":"https://auth.example","resourceServer":"https://rs.example"}`)
	})
	r.fails(400, logical.UpdateOperation, "grants/x", map[string]any{
		"access_token": "t", "manage_url": r.sandbox.AuthServer() + "/token/1", "interactive": false,
		"access": incomingAccess, "wallet_address": r.sandbox.WalletAddress("shop"),
	}, "manage_url", "https://auth.example")
	if names, _ := r.storage.List(r.ctx, grantsPrefix); len(names) != 0 {
		t.Error("it is stored")
	}
}

func TestImportFromAServerThatIsNotAllowed(t *testing.T) {
	r := configured(t)
	r.ok(logical.PatchOperation, "config", map[string]any{"allowed_auth_servers": "https://auth.example"})
	r.fails(400, logical.UpdateOperation, "grants/x", map[string]any{"access_token": "t", "manage_url": r.sandbox.AuthServer() + "/token/1"}, "allowed_auth_servers")
	r.fails(400, logical.UpdateOperation, "grants/x", map[string]any{"wallet_address": r.sandbox.WalletAddress("shop"), "access": incomingAccess}, "allowed_auth_servers")
	if r.sandbox.Count("grant") != 0 {
		t.Error("a server that is not allowed was asked")
	}
}

func TestSettings(t *testing.T) {
	r := withGrant(t)
	r.ok(logical.UpdateOperation, "grants/income", map[string]any{"ttl": "60s", "max_ttl": "1h", "renewable": false, "on_revoke": "keep", "shared": true, "min_ttl": "90s", "keepalive": "60s"})
	resp := r.ok(logical.PatchOperation, "grants/income", map[string]any{"ttl": nil, "renewable": nil})
	for name, want := range map[string]any{"ttl": int64(0), "max_ttl": int64(3600), "renewable": true, "on_revoke": "keep", "shared": true, "min_ttl": int64(90), "keepalive": int64(60)} {
		if resp.Data[name] != want {
			t.Errorf("%s: %v, want %v", name, resp.Data[name], want)
		}
	}
	r.ok(logical.PatchOperation, "grants/income", map[string]any{"on_revoke": nil, "max_ttl": nil, "shared": nil, "min_ttl": nil, "keepalive": nil})
	if g := r.stored("income"); g.Settings != defaultSettings() {
		t.Errorf("%v", g.Settings)
	}
}

func TestList(t *testing.T) {
	r := configured(t)
	for _, name := range []string{"c", "a", "b", "d"} {
		r.ask(name)
	}
	g := r.stored("c")
	g.Status = statusLost
	r.put("c", g)
	for name, row := range map[string]struct {
		data map[string]any
		want []string
	}{
		"all":                   {nil, []string{"a", "b", "c", "d"}},
		"the first":             {map[string]any{"limit": 2}, []string{"a", "b"}},
		"the next":              {map[string]any{"after": "b", "limit": "2", "list": "true"}, []string{"c", "d"}},
		"after what is not one": {map[string]any{"after": "bb"}, []string{"c", "d"}},
		"nothing left":          {map[string]any{"after": "d"}, nil},
	} {
		resp := r.ok(logical.ListOperation, "grants/", row.data)
		keys, _ := resp.Data["keys"].([]string)
		if !slices.Equal(keys, row.want) {
			t.Errorf("%s: %v, want %v", name, keys, row.want)
		}
		info, _ := resp.Data["key_info"].(map[string]any)
		if len(info) != len(row.want) {
			t.Errorf("%s: %v", name, info)
		}
		for key, one := range info {
			want := statusActive
			if key == "c" {
				want = statusLost
			}
			if one.(map[string]any)["status"] != want {
				t.Errorf("%s: %v", key, one)
			}
		}
	}
}

func TestDelete(t *testing.T) {
	for name, row := range map[string]struct {
		trouble  func(r *rig)
		force    bool
		status   int
		words    string
		stored   bool
		liveLeft int
	}{
		"a grant":      {func(*rig) {}, false, 200, "", false, 0},
		"gone already": {func(r *rig) { r.cancelAtServer("income") }, false, 200, "", false, 0},
		"without a continuation": {func(r *rig) {
			g := r.stored("income")
			g.Continue = authserver.Continuation{}
			r.put("income", g)
		}, false, 200, "", false, 0},
		"server down":             {func(r *rig) { r.sandbox.Misbehave(sandbox.Misbehaviour{Reset: true}) }, false, 502, "could not be reached", true, 1},
		"server down, with force": {func(r *rig) { r.sandbox.Misbehave(sandbox.Misbehaviour{Reset: true}) }, true, 200, "", false, 1},
		"500":                     {func(r *rig) { r.sandbox.Misbehave(sandbox.Misbehaviour{Status: 500}) }, false, 502, "answered 500", true, 1},
		"key not published":       {func(r *rig) { r.sandbox.UnpublishKeys() }, false, 400, "jwks.json", true, 1},
		"another key": {func(r *rig) {
			r.ok(logical.PatchOperation, "config", map[string]any{"private_key": newRig(r.TB).key, "verify": false})
		}, false, 400, "jwks.json", true, 1},
		"lost": {func(r *rig) {
			g := r.stored("income")
			g.Status = statusLost
			r.put("income", g)
		}, false, 200, "", false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := withGrant(t)
			row.trouble(r)
			data := map[string]any{}
			if row.force {
				data["force"] = "true"
			}
			if row.status == 200 {
				resp := r.ok(logical.DeleteOperation, "grants/income", data)
				if row.force && (resp == nil || len(resp.Warnings) == 0) {
					t.Error("a forced deletion has to warn")
				}
			} else {
				r.fails(row.status, logical.DeleteOperation, "grants/income", data, row.words)
			}
			names, _ := r.storage.List(r.ctx, grantsPrefix)
			if (len(names) == 1) != row.stored {
				t.Errorf("stored: %v", names)
			}
			if n := r.sandbox.LiveTokens(); n != row.liveLeft {
				t.Errorf("%d tokens live, want %d", n, row.liveLeft)
			}
			r.ok(logical.DeleteOperation, "grants/nobody", nil)
		})
	}
}

func (r *rig) cancelAtServer(name string) {
	r.Helper()
	c, err := loadConfig(r.ctx, r.storage)
	if err == nil {
		err = r.b.clientFor(c).Cancel(r.ctx, r.stored(name).Continue)
	}
	if err != nil {
		r.Fatal(err)
	}
}

func TestUnknownGrantIsNotFound(t *testing.T) {
	r := configured(t)
	if resp, err := r.do(r.ctx, logical.ReadOperation, "grants/nobody", nil); resp != nil || err != nil { // Vault's 404
		t.Errorf("%v %v", resp, err)
	}
	r.fails(400, logical.UpdateOperation, "rotate/nobody", nil, `no grant named "nobody"`, "op/grants/nobody")
	r.fails(400, logical.PatchOperation, "grants/nobody", map[string]any{"ttl": 1}, "no grant named")
}

// A grant that was cancelled at the server, and whose deletion got no further, says so when it is lost.
func TestReadAfterAnInterruptedDeletion(t *testing.T) {
	r := configured(t)
	r.imported("g", nil)
	r.sandbox.Misbehave(on("cancel", sandbox.Misbehaviour{After: true, Status: 502}))
	r.fails(502, logical.DeleteOperation, "grants/g", nil, "502")
	r.sandbox.Misbehave()
	r.fails(400, logical.ReadOperation, "token/g", nil, "its cancellation had been begun")
	r.ok(logical.DeleteOperation, "grants/g", nil)
}

// A token that is obtained after a cancellation has failed shows that the grant lives.
func TestRotationAfterAFailedDeletion(t *testing.T) {
	r := configured(t)
	r.imported("g", nil)
	r.sandbox.Misbehave(on("cancel", sandbox.Misbehaviour{Status: 502}))
	r.fails(502, logical.DeleteOperation, "grants/g", nil, "502")
	r.sandbox.Misbehave()
	r.read("g")
	if r.stored("g").Ending {
		t.Error("the grant still counts as being cancelled")
	}
}
