// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/authserver"
)

// Whoever writes the same again changes nothing.

func warned(resp *logical.Response, word string) bool {
	return resp != nil && strings.Contains(strings.Join(resp.Warnings, " "), word)
}

func TestImportIsRepeated(t *testing.T) {
	r := configured(t)
	r.ask("elsewhere")
	from := r.stored("elsewhere")
	fields := map[string]any{
		"access_token": from.Token, "manage_url": from.Manage, "expires_in": 600,
		"continue_url": from.Continue.URL, "continue_token": from.Continue.Token,
	}
	r.ok(logical.UpdateOperation, "grants/payer", fields)
	lease := r.read("payer")
	before := r.stored("payer")
	for range 10 {
		fields["access_token"] = "\ufeff" + from.Token + "\n" // as a file has it
		if resp := r.ok(logical.UpdateOperation, "grants/payer", fields); !warned(resp, "imported with this token before") {
			t.Fatalf("%v", resp.Warnings)
		}
	}
	if !reflect.DeepEqual(before, r.stored("payer")) || !r.sandbox.Live(tokenOf(lease)) {
		t.Error("the dead manage URL replaces the live one")
	}
	fields["ttl"] = "60s"
	r.ok(logical.UpdateOperation, "grants/payer", fields)
	if g := r.stored("payer"); g.Settings.TTL != time.Minute || g.Token != before.Token {
		t.Error("settings have to change, and nothing else")
	}
	// A known manage URL with a new token is a new import.
	g := r.stored("payer")
	r.ok(logical.UpdateOperation, "grants/payer", map[string]any{"access_token": "another", "manage_url": g.Manage})
	if now := r.stored("payer"); now.Token != "another" || now.Generation != g.Generation+1 {
		t.Error("not imported")
	}
	r.ok(logical.UpdateOperation, "grants/payer", fields)
	if r.stored("payer").Token != "another" {
		t.Error("a token that was imported before replaces a newer one")
	}
	for _, secret := range []string{from.Token, "another"} {
		if strings.Contains(r.log.String(), secret) {
			t.Error("a token is in the log")
		}
	}
}

func TestAskIsRepeated(t *testing.T) {
	r := configured(t)
	r.sandbox.Alias("/vanity", "shop")
	ask := func(more map[string]any) *logical.Response {
		t.Helper()
		fields := map[string]any{"wallet_address": r.sandbox.URL() + "/vanity", "access": incomingAccess}
		for k, v := range more {
			if fields[k] = v; v == nil {
				delete(fields, k)
			}
		}
		return r.ok(logical.UpdateOperation, "grants/income", fields)
	}
	first := ask(nil)
	lease := r.read("income")
	before, sent := r.stored("income"), r.requests()
	read := r.ok(logical.ReadOperation, "grants/income", nil).Data
	for what, more := range map[string]map[string]any{
		"as it was typed":        nil,
		"as it is stored":        {"wallet_address": first.Data["wallet_address"]},
		"as it is read":          {"wallet_address": read["wallet_address"], "auth_server": read["auth_server"], "resource_server": read["resource_server"], "access": read["access"]},
		"the server alone":       {"wallet_address": nil, "auth_server": read["auth_server"]},
		"in another order":       {"access": ` [ {"actions": ["create","read","list"], "type": "incoming-payment"} ] `},
		"with a finish URI":      {"finish_uri": finishURI},
		"with settings as usual": {"ttl": 0, "renewable": true, "keepalive": "168h"},
	} {
		resp := ask(more)
		if !reflect.DeepEqual(before, r.stored("income")) || !warned(resp, "ask_again=true") {
			t.Errorf("%s: something has changed: %v", what, resp.Warnings)
		}
	}
	if n := r.requests() - sent; n != 0 || !r.sandbox.Live(tokenOf(lease)) {
		t.Errorf("%d requests", n)
	}
	ask(map[string]any{"ttl": "5m"})
	if g := r.stored("income"); g.Settings.TTL != 5*time.Minute || g.Token != before.Token {
		t.Error("settings have to change, and nothing else")
	}
	for what, more := range map[string]map[string]any{
		"other rights":  {"access": `[{"type":"quote","actions":["create"]}]`},
		"another owner": {"wallet_address": r.sandbox.WalletAddress("alice")},
		"ask_again":     {"ask_again": true},
	} {
		now := r.stored("income").Token
		if ask(more); r.stored("income").Token == now || r.sandbox.Live(now) {
			t.Errorf("%s: nothing was asked", what)
		}
		ask(map[string]any{"ask_again": true})
	}
	// What is not understood is no repetition.
	r.fails(400, logical.UpdateOperation, "grants/income", map[string]any{"access": "x", "wallet_address": r.sandbox.WalletAddress("shop")}, "access: ")
}

func TestAskIsRepeatedWhileTheOwnerIsAsked(t *testing.T) {
	r := configured(t)
	fields := map[string]any{"wallet_address": r.sandbox.WalletAddress("alice"), "access": r.outgoing(), "finish_uri": finishURI}
	first := r.ok(logical.UpdateOperation, "grants/payer", fields)
	for range 10 {
		again := r.ok(logical.UpdateOperation, "grants/payer", fields)
		if again.Data["interact_url"] != first.Data["interact_url"] || again.Data["status"] != statusPending || !warned(again, "already") {
			t.Fatalf("%v", again.Warnings)
		}
	}
	// The finish URI counts.
	fields["finish_uri"] = "https://shop.example/elsewhere?state=1"
	second := r.ok(logical.UpdateOperation, "grants/payer", fields)
	if second.Data["interact_url"] == first.Data["interact_url"] {
		t.Error("the owner would be sent to another place")
	}
	// And so does the time.
	r.clock.Advance(pendingTTL)
	third := r.ok(logical.UpdateOperation, "grants/payer", fields)
	if third.Data["interact_url"] == second.Data["interact_url"] {
		t.Error("not asked anew, although the time is over")
	}
	link, _ := third.Data["interact_url"].(string)
	r.ok(logical.UpdateOperation, "grants/payer/continue", map[string]any{"redirect": r.decided(link, true)})
	token := r.stored("payer").Token
	r.ok(logical.UpdateOperation, "grants/payer", fields)
	delete(fields, "finish_uri")
	r.ok(logical.UpdateOperation, "grants/payer", fields)
	if r.stored("payer").Token != token || r.sandbox.Count("grant") != 3 {
		t.Error("asked again although it was granted")
	}
}

func TestAskIsRepeatedOfALostGrant(t *testing.T) {
	lost := func(t *testing.T) (*rig, map[string]any) {
		r := configured(t)
		r.consented("payer")
		fields := map[string]any{"wallet_address": r.sandbox.WalletAddress("alice"), "access": r.outgoing(), "finish_uri": finishURI}
		r.on("rotate", knowsNoToken)
		r.fails(400, logical.ReadOperation, "token/payer", nil, "lost")
		return r, fields
	}
	t.Run("the server takes it after all", func(t *testing.T) {
		r, fields := lost(t)
		r.on("rotate", nil)
		resp := r.ok(logical.UpdateOperation, "grants/payer", fields)
		if resp.Data["status"] != statusActive || r.sandbox.Count("grant") != 1 {
			t.Errorf("%v", resp.Data["status"])
		}
	})
	t.Run("the server cannot be asked now", func(t *testing.T) {
		r, fields := lost(t)
		r.on("rotate", nil)
		r.sandbox.Close()
		r.fails(502, logical.UpdateOperation, "grants/payer", fields)
	})
	t.Run("it is dead", func(t *testing.T) {
		r, fields := lost(t)
		before := r.stored("payer")
		resp := r.ok(logical.UpdateOperation, "grants/payer", fields)
		if resp.Data["status"] != statusPending || r.sandbox.Live(before.Token) {
			t.Errorf("%v", resp.Data["status"])
		}
	})
}

func TestConfigIsRepeated(t *testing.T) {
	r := configured(t)
	fields := r.clientFields()
	fields["verify"] = true
	before, err := loadConfig(r.ctx, r.storage)
	if err != nil {
		t.Fatal(err)
	}
	fetched := r.sandbox.Count("wallet") + r.sandbox.Count("keys")
	for range 10 {
		if resp := r.ok(logical.UpdateOperation, "config", fields); resp != nil {
			t.Errorf("%v", resp.Warnings)
		}
	}
	if now, _ := loadConfig(r.ctx, r.storage); !reflect.DeepEqual(now, before) {
		t.Errorf("%+v", now.KeyChangedAt)
	}
	if n := r.sandbox.Count("wallet") + r.sandbox.Count("keys") - fetched; n != 0 {
		t.Errorf("verified again %d times", n)
	}
	// A key that keys/rotate has replaced is not put back.
	next := r.ok(logical.UpdateOperation, "keys/rotate", map[string]any{"key_id": "key-2", "activate_after": 0})
	r.publishJWK(next.Data["public_key"])
	for range 10 {
		r.ok(logical.UpdateOperation, "keys/rotate", map[string]any{"key_id": "key-2", "activate_after": 0})
	}
	r.want("keys", r.states(), "key-2 active", testKeyID+" retiring")
	r.clock.Advance(2 * defaultRetireAfter)
	r.tick()
	for what, write := range map[string]map[string]any{
		"all of it":    fields,
		"the key's id": {"key_id": testKeyID},
		"the key":      {"private_key": r.key},
	} {
		if resp := r.ok(logical.UpdateOperation, "config", write); !warned(resp, "not put back") {
			t.Errorf("%s: %v", what, resp)
		}
	}
	r.want("keys", r.states(), "key-2 active")
	r.ask("income")
	r.live(<-r.goRead(r.ctx, "income"))
}

func TestRoleIsRepeated(t *testing.T) {
	r := withRole(t)
	before, err := loadRole(r.ctx, r.storage, "till")
	if err != nil {
		t.Fatal(err)
	}
	fetched := r.sandbox.Count("wallet")
	read := r.role("till")
	for range 10 {
		r.ok(logical.UpdateOperation, "roles/till", r.roleFields())
		r.ok(logical.UpdateOperation, "roles/till", read)
	}
	now, err := loadRole(r.ctx, r.storage, "till")
	if err != nil || now.AuthServer != before.AuthServer || now.WalletAddress != before.WalletAddress || r.sandbox.Count("wallet") != fetched {
		t.Errorf("%+v, was %+v", now.source, before.source)
	}
}

// A wrong wallet_address with a key that Vault has generated is corrected with another write.
func TestWalletAddressOfAGeneratedKeyIsCorrected(t *testing.T) {
	r := newRig(t)
	resp := r.ok(logical.UpdateOperation, "config", map[string]any{"wallet_address": r.sandbox.URL() + "/typo"})
	id := resp.Data["key_id"]
	if !warned(resp, "wallet_address: ") || warned(resp, "verify=false") || warned(resp, "this private key") {
		t.Errorf("%v", resp.Warnings)
	}
	resp = r.ok(logical.UpdateOperation, "config", map[string]any{"wallet_address": r.sandbox.WalletAddress("client")})
	if resp.Data["key_id"] != id || !warned(resp, "publish public_key in "+r.sandbox.WalletAddress("client")) {
		t.Errorf("%v %v", resp.Data["key_id"], resp.Warnings)
	}
	r.publishJWK(resp.Data["public_key"])
	r.ask("income")
}

// Readers whose Vault token is short-lived take the lease along.
func TestLeaseOfARoleThatKeepsItsToken(t *testing.T) {
	r := withRole(t)
	r.ok(logical.PatchOperation, "roles/till", map[string]any{"on_revoke": "keep"})
	lease := r.creds("till")
	if _, err := r.revoke(lease); err != nil || !r.sandbox.Live(tokenOf(lease)) {
		t.Errorf("%v", err)
	}
	r.ok(logical.PatchOperation, "roles/till", map[string]any{"on_revoke": nil})
	lease = r.creds("till")
	if _, err := r.revoke(lease); err != nil || r.sandbox.Live(tokenOf(lease)) {
		t.Errorf("%v", err)
	}
}

func TestPutsBack(t *testing.T) {
	keys := make([]string, 3)
	for i := range keys {
		var err error
		if keys[i], err = authserver.NewPrivateKey(); err != nil {
			t.Fatal(err)
		}
	}
	c := &config{KeyID: "a", PrivateKey: keys[0]}
	c.rememberReplacedKey()
	c.KeyID, c.PrivateKey = "b", keys[1]
	for what, row := range map[string]struct {
		id, key string
		want    bool
	}{
		"nothing changes":           {"b", keys[1], false},
		"both":                      {"a", keys[0], true},
		"the key under another id":  {"c", keys[0], true},
		"the id alone":              {"a", keys[1], true},
		"another key under this id": {"a", keys[2], false},
		"another key":               {"c", keys[2], false},
		"another id":                {"c", keys[1], false},
	} {
		if got := c.putsBack(&config{KeyID: row.id, PrivateKey: row.key}); got != row.want {
			t.Errorf("%s: %v", what, got)
		}
	}
}
