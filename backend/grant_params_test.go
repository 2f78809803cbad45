// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/authserver"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
)

// D16: resource servers compare wallet addresses letter by letter, so applications are told the one
// in the document, whatever was typed.
func TestWalletAddressIsItsDocumentsID(t *testing.T) {
	r := configured(t)
	r.sandbox.Alias("/Shop", "shop")
	r.sandbox.Alias("/pay/vanity", "shop")
	id := r.sandbox.WalletAddress("shop")
	for _, typed := range []string{r.sandbox.URL() + "/Shop", r.sandbox.URL() + "/pay/vanity", id} {
		fields := map[string]any{"wallet_address": typed, "access": incomingAccess, "ask_again": true}
		resp := r.ok(logical.UpdateOperation, "grants/income", fields)
		if got := resp.Data["wallet_address"]; got != id || len(resp.Warnings) != 0 {
			t.Errorf("%s: %v %v", typed, got, resp.Warnings)
		}
		if got := r.read("income").Data["wallet_address"]; got != id {
			t.Errorf("%s: the token is for %v", typed, got)
		}
		if hosts := r.stored("income").OperatorHosts; !reflect.DeepEqual(hosts, authserver.HostsOf(typed)) {
			t.Errorf("%s: %v count as typed", typed, hosts)
		}
		delete(fields, "ask_again")
		r.ok(logical.UpdateOperation, "roles/till", fields)
		if got := r.role("till")["wallet_address"]; got != id {
			t.Errorf("%s: the role is for %v", typed, got)
		}
		if got := r.creds("till").Data["wallet_address"]; got != id {
			t.Errorf("%s: the lease is for %v", typed, got)
		}
	}
}

// D16: a document may name any id, but not make a host of it one that an operator typed.
func TestIDsHostIsNotTyped(t *testing.T) {
	r := configured(t)
	r.answers("wallet", func(body string) string {
		return strings.ReplaceAll(body, r.sandbox.WalletAddress("shop"), "https://vanity.example/shop")
	})
	r.ok(logical.UpdateOperation, "roles/till", r.roleFields())
	if got := r.role("till")["wallet_address"]; got != "https://vanity.example/shop" {
		t.Errorf("%v", got)
	}
	// The document is fetched where the operator said it is.
	r.ok(logical.PatchOperation, "roles/till", map[string]any{"resource_server": "https://rs.example"})
	role, err := loadRole(r.ctx, r.storage, "till")
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range role.OperatorHosts {
		if host == "vanity.example" {
			t.Errorf("%v count as typed", role.OperatorHosts)
		}
	}
	if role.WalletAddress != "https://vanity.example/shop" || role.TypedWalletAddress != r.sandbox.WalletAddress("shop") {
		t.Errorf("%+v", role)
	}
	for _, id := range []string{"http://127.0.0.2/shop", "https://10.0.0.7/shop", "$vanity.example/shop", "https://vanity.example/shop/"} {
		r.answers("wallet", func(body string) string {
			return strings.ReplaceAll(body, r.sandbox.WalletAddress("shop"), id)
		})
		if resp := r.ask("income"); resp.Data["wallet_address"] != r.sandbox.WalletAddress("shop") {
			t.Errorf("%s: %v", id, resp.Data["wallet_address"])
		}
	}
}

// D16: an address that redirects says which one to write.
func TestAddressThatRedirects(t *testing.T) {
	r := newRig(t)
	r.sandbox.Redirect("/old", "shop")
	r.sandbox.Redirect("/me", "client")
	to := r.sandbox.WalletAddress("shop")
	config := r.clientFields()
	config["wallet_address"] = r.sandbox.URL() + "/me"
	r.fails(400, logical.UpdateOperation, "config", config, "wallet_address", "redirects to "+r.sandbox.WalletAddress("client"))
	r.ok(logical.UpdateOperation, "config", r.clientFields())
	fields := map[string]any{"wallet_address": r.sandbox.URL() + "/old", "access": incomingAccess}
	for _, path := range []string{"grants/income", "roles/till"} {
		r.fails(400, logical.UpdateOperation, path, fields, "wallet_address", "redirects to "+to)
	}
	moved := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Location", r.sandbox.AuthServer()+"?s3cr3t")
		w.WriteHeader(http.StatusPermanentRedirect)
	}))
	defer moved.Close()
	r.fails(400, logical.UpdateOperation, "grants/income", map[string]any{"auth_server": moved.URL, "access": incomingAccess},
		"auth_server", "redirects to "+r.sandbox.AuthServer()+";")

	// A server may put into the path what it knows of the grant.
	r.sandbox.Misbehave(sandbox.Misbehaviour{On: []string{"grant"}, Status: 302,
		Header: map[string]string{"Location": r.sandbox.URL() + "/OS9M2PMHR2DTNNQXGHRPZ4"}})
	resp, err := r.do(r.ctx, logical.UpdateOperation, "grants/income",
		map[string]any{"auth_server": r.sandbox.AuthServer(), "access": incomingAccess})
	if said := fmt.Sprint(resp, err) + r.log.String(); !strings.Contains(said, "it redirects") ||
		strings.Contains(said, "OS9M2PMHR2DTNNQXGHRPZ4") {
		r.Errorf("the address is named: %s", said)
	}
}

// D16: a neighbour's key is no matter of ours.
func TestNeighboursOddKeys(t *testing.T) {
	r := newRig(t)
	for _, key := range []string{`{"kid":7,"x":7}`, `null`, `"x"`, `[]`, `{"kid":null,"kty":"RSA","n":"x"}`} {
		r.sandbox.PublishRawKey(key)
	}
	r.ok(logical.UpdateOperation, "config", r.clientFields())
}

// D15: at servers up to spring 2026, at those that take the object only, and at both.
func TestClientDialects(t *testing.T) {
	for _, dialect := range []string{sandbox.ClientString, sandbox.ClientObject, ""} {
		r := configured(t)
		r.sandbox.SetDialect(sandbox.Dialect{Client: dialect})
		r.ask("income")
		first := r.sandbox.Count("grant")
		r.ok(logical.UpdateOperation, "roles/till", r.roleFields())
		r.creds("till")
		again := r.sandbox.Count("grant") - first
		if first > 2 || again != 1 || first == 2 != (dialect == sandbox.ClientString) {
			t.Errorf("%q: asked %d times, then %d times", dialect, first, again)
		}
		// What is refused in both forms is refused once.
		r.sandbox.Misbehave(sandbox.Misbehaviour{On: []string{"grant"}, Status: 400, JSON: `{"error":{"description":"s3cr3t"}}`})
		before := r.sandbox.Count("grant")
		r.fails(400, logical.ReadOperation, "creds/till", nil, "answered 400", "no code")
		if n := r.sandbox.Count("grant") - before; n != 2 {
			t.Errorf("%q: asked %d times", dialect, n)
		}
	}
}

// D15: no sentence blames the rights when the server gave no code.
func TestRefusalsThatAreNotTheRights(t *testing.T) {
	for _, row := range []struct {
		status int
		answer sandbox.Misbehaviour
		rights bool
	}{
		{400, sandbox.Misbehaviour{JSON: `{"error":{"description":"s3cr3t"}}`}, false},
		{400, sandbox.Misbehaviour{Text: "s3cr3t"}, false},
		{403, sandbox.Misbehaviour{Text: "<html>s3cr3t</html>"}, false},
		{404, sandbox.Misbehaviour{Text: "default backend"}, false},
		{405, sandbox.Misbehaviour{}, false},
		{400, sandbox.Misbehaviour{JSON: `{"error":{"code":"invalid_request","description":"s3cr3t"}}`}, true},
		{403, sandbox.Misbehaviour{JSON: `{"error":{"code":"s3cr3t"}}`}, true},
	} {
		r := configured(t)
		row.answer.On, row.answer.Status = []string{"grant"}, row.status
		r.sandbox.Misbehave(row.answer)
		_, err := r.do(r.ctx, logical.UpdateOperation, "grants/income", r.roleFields())
		resp, _ := r.do(r.ctx, logical.UpdateOperation, "grants/income", r.roleFields())
		if err != nil || !resp.IsError() {
			t.Fatalf("%+v: %v %v", row, resp, err)
		}
		text := resp.Error().Error()
		if strings.Contains(text, "these rights") != row.rights || !strings.Contains(text, fmt.Sprintf("answered %d", row.status)) ||
			strings.Contains(text, "s3cr3t") {
			t.Errorf("%+v: %s", row, text)
		}
	}
}

// A6: what is no limit, and whose wallet it is not, is told where rights are written: asked for,
// imported, or stored with a role.
func TestWarningsOfRights(t *testing.T) {
	r := configured(t)
	owner := r.sandbox.WalletAddress("shop")
	incoming := func(identifier string) string {
		return `[{"type":"incoming-payment","actions":["create"],"identifier":"` + identifier + `"}]`
	}
	outgoing := `[{"type":"outgoing-payment","actions":["create"],"identifier":"` + owner + `","limits":{}}]`
	r.ask("elsewhere")
	g := r.stored("elsewhere")
	imported := map[string]any{"access_token": g.Token, "manage_url": g.Manage}
	for path, fields := range map[string]map[string]any{"grants/asked": {}, "grants/imported": imported, "roles/till": {}} {
		write := func(access, owner string) []string {
			next := map[string]any{"access": access}
			if owner != "" {
				next["wallet_address"] = owner
			} else {
				next["auth_server"] = r.sandbox.AuthServer()
			}
			for name, value := range fields {
				next[name] = value
			}
			if path == "grants/imported" {
				next["access_token"] = newID() // the same once more changes settings only
			}
			var told []string
			for _, warning := range r.ok(logical.UpdateOperation, path, next).Warnings {
				if strings.HasPrefix(warning, "access: ") {
					told = append(told, warning)
				}
			}
			return told
		}
		other := r.sandbox.WalletAddress("Shop")
		if got := write(incoming(owner), owner); got != nil {
			t.Errorf("%s: %q", path, got)
		}
		if got := write(incoming(other), owner); len(got) != 1 || !strings.Contains(got[0], owner) {
			t.Errorf("%s: another identifier: %q", path, got)
		}
		if got := write(outgoing, owner); len(got) != 1 || !strings.Contains(got[0], "no limit") {
			t.Errorf("%s: no limit: %q", path, got)
		}
		if path == "roles/till" {
			r.ok(logical.PatchOperation, path, map[string]any{"wallet_address": nil, "auth_server": r.sandbox.AuthServer()})
		}
		if got := write(incoming(other), ""); got != nil {
			t.Errorf("%s: the owner is not known: %q", path, got)
		}
		for _, bad := range []string{owner + "/", owner + "?x=1", owner + "#x", "http://wallet.example/alice", "https://u@wallet.example/alice"} {
			next := map[string]any{"access": incoming(bad), "wallet_address": owner}
			for name, value := range fields {
				next[name] = value
			}
			r.fails(400, logical.UpdateOperation, path, next, "access: right 1: identifier")
		}
	}
	if resp := r.ok(logical.UpdateOperation, "roles/till", map[string]any{"ttl": "60s"}); len(resp.Warnings) != 0 {
		t.Errorf("a write of something else warns: %q", resp.Warnings)
	}
}

// D16: a wallet's document that is wrapped in ways that nobody asked for is read all the same.
func TestDocumentsAsServersSendThem(t *testing.T) {
	for _, wire := range sandbox.WireNames() {
		if wire == sandbox.WireCut || wire == sandbox.WireTwice {
			continue
		}
		r := configured(t)
		r.sandbox.Misbehave(sandbox.Misbehaviour{Wire: wire, On: []string{"wallet", "grant", "rotate", "cancel", "revoke"}})
		r.ask("income")
		r.read("income")
		r.ok(logical.DeleteOperation, "grants/income", nil)
		if n := r.sandbox.LiveTokens(); n != 0 {
			t.Errorf("%s: %d tokens live", wire, n)
		}
	}
	r := configured(t)
	r.sandbox.Misbehave(sandbox.Misbehaviour{Wire: sandbox.WireCut, On: []string{"wallet"}})
	r.fails(502, logical.UpdateOperation, "grants/income", r.roleFields(), "could not be read")
}
