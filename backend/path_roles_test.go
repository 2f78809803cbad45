// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"encoding/json"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
)

// withRole starts an engine with a client and the role "till", of which a lease was issued before.
func withRole(t testing.TB) *rig {
	t.Helper()
	r := configured(t)
	r.ok(logical.UpdateOperation, "roles/till", r.roleFields())
	if _, err := r.b.ticketKeyInUse(r.ctx, r.storage); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) roleFields() map[string]any {
	return map[string]any{"wallet_address": r.sandbox.WalletAddress("shop"), "access": incomingAccess}
}

func (r *rig) role(name string) map[string]any {
	r.Helper()
	return r.ok(logical.ReadOperation, "roles/"+name, nil).Data
}

// documentNames makes every wallet document name other servers.
func (r *rig) documentNames(auth, resource string) {
	r.on("wallet", func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		_, _ = io.WriteString(w, `{"id":"x","authServer":"`+auth+`","resourceServer":"`+resource+`"}`)
	})
}

func TestRole(t *testing.T) {
	r := configured(t)
	if resp, err := r.do(r.ctx, logical.ReadOperation, "roles/till", nil); resp != nil || err != nil { // Vault's 404
		t.Errorf("%v %v", resp, err)
	}
	want := map[string]any{
		"wallet_address": r.sandbox.WalletAddress("shop"), "auth_server": r.sandbox.AuthServer(), "resource_server": r.sandbox.ResourceServer(),
		"access": []any{map[string]any{"type": "incoming-payment", "actions": []any{"create", "read", "list"}}},
		"ttl":    int64(0), "max_ttl": int64(0), "renewable": true, "on_revoke": revokeRotates,
	}
	if written := r.ok(logical.UpdateOperation, "roles/till", r.roleFields()).Data; !reflect.DeepEqual(written, want) {
		t.Errorf("%v", written)
	}
	if read := r.role("till"); !reflect.DeepEqual(read, want) {
		t.Errorf("%v", read)
	}
	if r.requests() != 0 {
		t.Error("a grant was asked for")
	}

	// The endpoint itself may be named, without a wallet address.
	direct := r.ok(logical.UpdateOperation, "roles/direct", map[string]any{
		"auth_server": r.sandbox.AuthServer(), "access": json.RawMessage(incomingAccess), "ttl": "60s", "max_ttl": 3600, "renewable": false,
	}).Data
	delete(want, "wallet_address")
	delete(want, "resource_server")
	want["ttl"], want["max_ttl"], want["renewable"] = int64(60), int64(3600), false
	if !reflect.DeepEqual(direct, want) {
		t.Errorf("%v", direct)
	}

	for range 2 {
		if resp := r.ok(logical.DeleteOperation, "roles/till", nil); resp != nil {
			t.Errorf("%v", resp)
		}
	}
	if resp, err := r.do(r.ctx, logical.ReadOperation, "roles/till", nil); resp != nil || err != nil {
		t.Errorf("%v %v", resp, err)
	}
}

// Each write merges: what is left out stays, and null in a PATCH is as if it had never been
// written.
func TestRoleIsChanged(t *testing.T) {
	quotes := `[{"type":"quote","actions":["create"]}]`
	elsewhere, rs := "https://auth.example/", "https://rs.example/op"
	for name, row := range map[string]struct {
		op      logical.Operation
		change  map[string]any
		want    map[string]any
		lookups int
	}{
		"nothing":                                {logical.UpdateOperation, nil, nil, 0},
		"a setting":                              {logical.UpdateOperation, field("ttl", 60), field("ttl", int64(60)), 0},
		"a setting, patched":                     {logical.PatchOperation, field("renewable", false), field("renewable", false), 0},
		"a default, restored":                    {logical.PatchOperation, field("max_ttl", nil), field("max_ttl", int64(0)), 0},
		"the rights":                             {logical.PatchOperation, field("access", quotes), field("access", []any{map[string]any{"type": "quote", "actions": []any{"create"}}}), 0},
		"another owner":                          {logical.UpdateOperation, field("wallet_address", "alice"), field("wallet_address", "alice"), 1},
		"the same owner again":                   {logical.UpdateOperation, field("wallet_address", "shop"), nil, 0},
		"the resource server":                    {logical.PatchOperation, field("resource_server", rs+"/"), field("resource_server", rs), 1},
		"the resource server, with more slashes": {logical.PatchOperation, field("resource_server", rs+"//"), field("resource_server", rs), 1},
		"the authorization server": {logical.PatchOperation, field("auth_server", elsewhere),
			map[string]any{"auth_server": elsewhere, "resource_server": nil}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := configured(t)
			wallet := func(data map[string]any) map[string]any {
				if who, has := data["wallet_address"].(string); has && !strings.Contains(who, "/") {
					data["wallet_address"] = r.sandbox.WalletAddress(who)
				}
				return data
			}
			fields := r.roleFields()
			fields["max_ttl"] = "1h"
			r.ok(logical.UpdateOperation, "roles/till", fields)
			want := r.role("till")
			for field, value := range wallet(row.want) {
				if want[field] = value; value == nil {
					delete(want, field)
				}
			}
			lookups := r.sandbox.Count("wallet")
			r.ok(row.op, "roles/till", wallet(row.change))
			if got := r.role("till"); !reflect.DeepEqual(got, want) {
				t.Errorf("%v, want %v", got, want)
			}
			if n := r.sandbox.Count("wallet") - lookups; n != row.lookups {
				t.Errorf("%d wallet documents fetched, want %d", n, row.lookups)
			}
		})
	}
}

// What was typed stays when the owner changes; what a document named does not.
func TestTypedServersOfARoleStay(t *testing.T) {
	r := withRole(t)
	r.ok(logical.PatchOperation, "roles/till", field("resource_server", "https://rs.example/op"))
	r.documentNames(r.sandbox.AuthServer()+"/2", r.sandbox.ResourceServer()+"/2")
	r.ok(logical.PatchOperation, "roles/till", field("wallet_address", r.sandbox.WalletAddress("alice")))
	if data := r.role("till"); data["auth_server"] != r.sandbox.AuthServer()+"/2" || data["resource_server"] != "https://rs.example/op" {
		t.Errorf("%v", data)
	}
	r.ok(logical.PatchOperation, "roles/till", field("resource_server", nil))
	if data := r.role("till"); data["resource_server"] != r.sandbox.ResourceServer()+"/2" {
		t.Errorf("%v", data)
	}
	r.ok(logical.PatchOperation, "roles/till", map[string]any{"auth_server": r.sandbox.AuthServer(), "wallet_address": nil})
	data := r.role("till")
	if data["auth_server"] != r.sandbox.AuthServer() || data["wallet_address"] != nil || data["resource_server"] != nil {
		t.Errorf("%v", data)
	}
	r.fails(400, logical.PatchOperation, "roles/till", field("auth_server", nil), "wallet_address")
	if !reflect.DeepEqual(r.role("till"), data) {
		t.Error("a refused change is stored")
	}
}

// Reads use what the owner's document said when the role was written.
func TestRoleKeepsItsServers(t *testing.T) {
	r := withRole(t)
	r.documentNames("https://auth.example", "https://rs.example")
	lease := r.creds("till")
	if lease.Data["auth_server"] != r.sandbox.AuthServer() || lease.Data["resource_server"] != r.sandbox.ResourceServer() {
		t.Errorf("%v", lease.Data["auth_server"])
	}
}

func TestRoleCannotBeWritten(t *testing.T) {
	for name, row := range map[string]struct {
		trouble func(r *rig)
		status  int
		words   string
	}{
		"no client": {func(r *rig) {
			r.ok(logical.DeleteOperation, "config", nil)
		}, 400, "op/config"},
		"wallet 500":         {func(r *rig) { r.sandbox.Misbehave(sandbox.Misbehaviour{Status: 500, On: []string{"wallet"}}) }, 502, "answered 500"},
		"wallet unreachable": {func(r *rig) { r.sandbox.Close() }, 502, "could not be reached"},
		"not allowed": {func(r *rig) {
			r.ok(logical.PatchOperation, "config", field("allowed_auth_servers", "https://auth.example"))
		}, 400, "allowed_auth_servers"},
		"a neighbour": {func(r *rig) { r.documentNames("https://10.1.2.3/auth", "https://rs.example") }, 400, "wallet_address"},
		"storage":     {func(r *rig) { r.storage.failPuts(1, errDisk) }, 500, "disk"},
		"newer layout": {func(r *rig) {
			role := map[string]any{"version": roleVersion + 1}
			entry, _ := logical.StorageEntryJSON(rolesPrefix+"till", role)
			_ = r.storage.Put(r.ctx, entry)
		}, 500, "newer version"},
		"damaged": {func(r *rig) {
			_ = r.storage.Put(r.ctx, &logical.StorageEntry{Key: rolesPrefix + "till", Value: []byte(`{"version`)})
		}, 500, "damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			r := configured(t)
			row.trouble(r)
			before, _ := r.storage.InmemStorage.Get(r.ctx, rolesPrefix+"till")
			r.fails(row.status, logical.UpdateOperation, "roles/till", r.roleFields(), row.words)
			if after, _ := r.storage.InmemStorage.Get(r.ctx, rolesPrefix+"till"); !reflect.DeepEqual(after, before) {
				t.Error("something is stored")
			}
		})
	}
	r := configured(t)
	r.fails(400, logical.PatchOperation, "roles/nobody", field("ttl", 5), `no role named "nobody"`, "op/roles/nobody")
	r.storage.onRead = func(string) error { return errDisk }
	r.fails(500, logical.ReadOperation, "roles/till", nil, "disk")
	r.fails(500, logical.PatchOperation, "roles/till", field("ttl", 5), "disk")
	r.storage.heal()
	r.storage.onDelete = func(string) error { return errDisk }
	r.fails(500, logical.DeleteOperation, "roles/till", nil, "disk")
}

func TestListRoles(t *testing.T) {
	r := configured(t)
	for _, name := range []string{"c", "a", "b"} {
		r.ok(logical.UpdateOperation, "roles/"+name, r.roleFields())
	}
	for name, row := range map[string]struct {
		data map[string]any
		want []string
	}{
		"all":          {nil, []string{"a", "b", "c"}},
		"the first":    {map[string]any{"limit": 2}, []string{"a", "b"}},
		"the next":     {map[string]any{"after": "a", "limit": "1", "list": "true"}, []string{"b"}},
		"nothing left": {map[string]any{"after": "c"}, nil},
	} {
		keys, _ := r.ok(logical.ListOperation, "roles/", row.data).Data["keys"].([]string)
		if !slices.Equal(keys, row.want) {
			t.Errorf("%s: %v, want %v", name, keys, row.want)
		}
	}
}

// A role holds no grant, so it does not keep the client from changing.
func TestRoleServesWhoeverIsTheClient(t *testing.T) {
	r := withRole(t)
	r.ok(logical.PatchOperation, "config", map[string]any{"wallet_address": r.sandbox.WalletAddress("alice"), "verify": false})
	// Of alice the sandbox knows no key: it was asked as alice.
	r.fails(400, logical.ReadOperation, "creds/till", nil, r.sandbox.WalletAddress("alice")+"/jwks.json")
	r.ok(logical.DeleteOperation, "config", nil)
	r.fails(400, logical.ReadOperation, "creds/till", nil, "no client")
	r.ok(logical.UpdateOperation, "config", r.clientFields())
	r.creds("till")
}

// Two changes at the same time are both made.
func TestRoleIsChangedByTwo(t *testing.T) {
	r := withRole(t)
	patch := func(data map[string]any) <-chan result {
		c := make(chan result, 1)
		go func() {
			resp, err := r.do(r.ctx, logical.PatchOperation, "roles/till", data)
			c <- result{resp, err}
		}()
		return c
	}
	arrived, release := r.hangOn("wallet", false)
	first := patch(field("wallet_address", r.sandbox.WalletAddress("alice")))
	<-arrived
	second := patch(field("ttl", 60))
	r.awaitUsers(rolesPrefix+"till", 2)
	release()
	for _, one := range []<-chan result{first, second} {
		if res := <-one; res.err != nil || res.resp.IsError() {
			t.Fatalf("%v %v", res.resp, res.err)
		}
	}
	if data := r.role("till"); data["ttl"] != int64(60) || data["wallet_address"] != r.sandbox.WalletAddress("alice") {
		t.Errorf("%v", data)
	}
	if n := len(r.b.locks.byName); n != 0 {
		t.Errorf("%d locks are remembered", n)
	}
}

func TestStandbyWritesNoRole(t *testing.T) {
	r := withRole(t)
	r.system.ReplicationStateVal = consts.ReplicationPerformanceStandby
	for op, data := range map[logical.Operation]map[string]any{
		logical.UpdateOperation: r.roleFields(), logical.PatchOperation: field("ttl", 5), logical.DeleteOperation: nil,
	} {
		if _, err := r.do(r.ctx, op, "roles/till", data); err != logical.ErrReadOnly { //nolint:errorlint // Vault compares it like this
			t.Errorf("%s: %v, want logical.ErrReadOnly", op, err)
		}
	}
}

func TestBadRoles(t *testing.T) {
	r := configured(t)
	shop := r.sandbox.WalletAddress("shop")
	writes := func(name string, rows []badInput) {
		r.refuses(logical.UpdateOperation, "roles/x", name, r.roleFields(), rows)
	}
	writes("wallet_address", []badInput{
		{"missing", field("wallet_address", absent), "auth_server"},
		{"plain http", field("wallet_address", "http://wallet.example/alice"), "http"},
		{"trailing slash", field("wallet_address", shop+"/"), "slash"},
		{"not there", field("wallet_address", r.sandbox.WalletAddress("nobody")), "404"},
		{"list", field("wallet_address", []any{shop}), "list"},
		{"null", field("wallet_address", nil), "PATCH"},
	})
	writes("auth_server", []badInput{
		{"no URL", field("auth_server", "auth"), ""},
		{"plain http", field("auth_server", "http://auth.example/"), "http"},
	})
	writes("resource_server", []badInput{{"plain http", field("resource_server", "http://rs.example/"), "http"}})
	var rights []badInput
	for what, text := range invalidAccess(t) {
		rights = append(rights, badInput{what, field("access", text), ""})
	}
	writes("access", append(rights, badInput{"an object", field("access", map[string]any{"type": "quote"}), "object"}, badInput{"missing", field("access", absent), ""}))
	writes("ttl", []badInput{
		{"negative", field("ttl", -5), "negative"},
		{"sub-second", field("ttl", "1500ms"), "whole"},
		{"longer than max_ttl", map[string]any{"ttl": 100, "max_ttl": 50}, "max_ttl"},
	})
	writes("max_ttl", []badInput{{"negative", field("max_ttl", "-1h"), "negative"}})
	writes("renewable", []badInput{{"no boolean", field("renewable", "perhaps"), ""}})
	writes("unknown field", []badInput{
		{"a typo", field("acces", "x"), `"acces"`},
		{"what is for grants", field("shared", true), `"shared"`},
		{"what is for importing", field("access_token", "two words"), `"access_token"`},
		{"what is for consent", field("finish_uri", "https://shop.example/"), `"finish_uri"`},
	})

	r.ok(logical.UpdateOperation, "roles/till", r.roleFields())
	patches := func(name string, rows []badInput) {
		r.refuses(logical.PatchOperation, "roles/till", name, map[string]any{}, rows)
	}
	patches("access", []badInput{{"null", field("access", nil), "no default"}, {"no rights", field("access", "[]"), ""}})
	patches("wallet_address", []badInput{{"null, and nothing to go by", field("wallet_address", nil), "auth_server"}, {"a bad one", field("wallet_address", "alice"), ""}})
	patches("ttl", []badInput{{"negative", field("ttl", -1), ""}})
	r.refuses(logical.ReadOperation, "creds/till", "unknown field", map[string]any{}, []badInput{{"of a read", field("ttl", 5), `"ttl"`}})
	r.fails(400, logical.ReadOperation, "creds/a..b", nil, "name: a role's name has")
	r.fails(400, logical.ReadOperation, "token/a..b", nil, "name: a grant's name has")
}

// Leases of roles outlive the client that can end them, which is told.
func TestClientIsChangedUnderLeasesOfRoles(t *testing.T) {
	r := withRole(t)
	r.creds("till")
	resp := r.ok(logical.PatchOperation, "config", map[string]any{"wallet_address": r.sandbox.WalletAddress("alice"), "verify": false})
	if !warned(resp, "op/creds/") {
		t.Errorf("%v", resp)
	}
	if resp := r.ok(logical.DeleteOperation, "config", nil); !warned(resp, "op/creds/") {
		t.Errorf("%v", resp)
	}
}
