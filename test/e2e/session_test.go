// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
)

// run runs a command of the CLI, which has to succeed, and returns what it prints.
func (e *engine) run(args ...string) string {
	e.t.Helper()
	stdout, stderr, code := e.CLI(e.RootToken, args...)
	if code != 0 {
		e.t.Fatalf("%s: status %d\n%s", args[:2], code, stderr)
	}
	return stdout
}

// runJSON runs a command of the CLI and returns the response, which it has the command print as
// JSON.
func (e *engine) runJSON(command string, args ...string) *api.Secret {
	e.t.Helper()
	words := append(strings.Fields(command), "-format=json")
	secret, err := api.ParseSecret(strings.NewReader(e.run(append(words, args...)...)))
	if err != nil {
		e.t.Fatalf("%s %s: %v", command, args, err)
	}
	return secret
}

// checkData checks members of a response's data, compared as text.
func (e *engine) checkData(data, want map[string]any) {
	e.t.Helper()
	for member, value := range want {
		if fmt.Sprint(data[member]) != fmt.Sprint(value) {
			e.t.Errorf("%s is %v, not %v", member, data[member], value)
		}
	}
}

// The main use of the engine, as a user types it.
func TestSessionOnTheCommandLine(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	dir := t.TempDir()
	for name, text := range map[string]string{"key.pem": e.key, "access.json": access} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file := func(name string) string { return "@" + filepath.Join(dir, name) }

	e.run("write", "op/config", "wallet_address="+e.wallet.WalletAddress("client"), "key_id="+keyID,
		"private_key="+file("key.pem"), "default_grant=shop-income")
	config := e.runJSON("read", "op/config")
	e.checkData(config.Data, map[string]any{
		"wallet_address": e.wallet.WalletAddress("client"), "key_id": keyID, "default_grant": "shop-income", "verify": true,
		"request_timeout": 10,
	})
	if _, shown := config.Data["private_key"]; shown {
		t.Error("a read of config returns the private key")
	}

	asked := e.runJSON("write", "op/grants/shop-income", "wallet_address="+e.wallet.WalletAddress("shop"),
		"access="+file("access.json"))
	e.checkData(asked.Data, map[string]any{
		"status": "active", "interactive": false, "generation": 1, "auth_server": e.wallet.AuthServer(),
		"resource_server": e.wallet.ResourceServer(),
	})
	elsewhere := e.obtain()
	imported := e.runJSON("write", "op/grants/imported", fmt.Sprintf("access_token=%s", elsewhere["access_token"]),
		fmt.Sprintf("manage_url=%s", elsewhere["manage_url"]), "expires_in=600")
	e.checkData(imported.Data, map[string]any{"status": "active", "interactive": true, "generation": 1})
	if live := e.wallet.LiveTokens(); live != 2 {
		t.Errorf("%d tokens are live at the sandbox, not those of two grants", live)
	}

	first := e.runJSON("read", "op/token/shop-income")
	e.checkLive(e.tokenOf(first))
	e.checkData(first.Data, map[string]any{
		"grant": "shop-income", "generation": 2, "auth_server": e.wallet.AuthServer(),
		"wallet_address":  e.wallet.WalletAddress("shop"),
		"resource_server": e.wallet.ResourceServer(),
	})
	if first.Data["authorization"] != "GNAP "+e.tokenOf(first) {
		t.Error("authorization is not GNAP and the token")
	}
	if !strings.HasPrefix(first.LeaseID, "op/token/shop-income/") || !first.Renewable {
		t.Errorf("lease %s, renewable %t", first.LeaseID, first.Renewable)
	}

	second := e.runJSON("lease renew", first.LeaseID)
	e.checkReplaced(first, second)
	e.checkData(second.Data, map[string]any{"generation": 3, "grant": "shop-income"})
	if second.LeaseID != first.LeaseID {
		t.Errorf("the renewal returns the lease %s", second.LeaseID)
	}

	e.run("lease", "revoke", "-sync", first.LeaseID)
	e.checkDead(e.tokenOf(second))
	e.checkData(e.grant("shop-income"),
		map[string]any{"status": "active", "generation": 4, "last_rotation_cause": "revoke"})

	third := e.runJSON("read", "op/token")
	e.checkLive(e.tokenOf(third))
	e.checkData(third.Data, map[string]any{"grant": "shop-income", "generation": 5})

	rotated := e.run("write", "-f", "op/rotate/shop-income")
	e.checkDead(e.tokenOf(third))
	e.checkNoSecret("the response to a rotation", rotated)
	e.checkData(e.grant("shop-income"), map[string]any{"generation": 6, "last_rotation_cause": "rotate"})

	if list := strings.Fields(e.run("list", "op/grants")); !slices.Equal(list,
		[]string{"Keys", "----", "imported", "shop-income"}) {
		t.Errorf("the list is %q", list)
	}
	shown := e.run("read", "op/grants/shop-income")
	e.checkNoSecret("a read of the grant", shown)
	for _, line := range []string{"status", "active", "expires_at", "intent_open", "on_revoke"} {
		if !strings.Contains(shown, line) {
			t.Errorf("a read of the grant does not show %s:\n%s", line, shown)
		}
	}

	last := e.runJSON("read", "op/token/imported")
	e.run("delete", "op/grants/shop-income")
	e.checkLive(e.tokenOf(last))
	e.run("delete", "op/grants/imported")
	e.checkDead(e.tokenOf(last))
	if live := e.wallet.LiveTokens(); live != 0 {
		t.Errorf("%d tokens are live at the sandbox after all grants were deleted", live)
	}
	if _, stderr, code := e.CLI(e.RootToken, "list", "op/grants"); code != 2 ||
		!strings.Contains(stderr, "No value found") {
		t.Errorf("list without grants: status %d, %s", code, stderr)
	}
}

// The same through the Go API.
func TestSessionInGo(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	e.ask("shop-income", nil)

	first := e.read("shop-income")
	e.checkLive(e.tokenOf(first))
	second := e.renew(first, 0)
	e.checkReplaced(first, second)
	third := e.renew(first, 3600)
	e.checkReplaced(second, third)

	if err := e.vault.Sys().RevokeWithOptions(&api.RevokeOptions{LeaseID: first.LeaseID, Sync: true}); err != nil {
		t.Fatal(err)
	}
	e.checkDead(e.tokenOf(third))
	if _, err := e.vault.Sys().Renew(first.LeaseID, 0); err == nil {
		t.Error("a revoked lease is renewed")
	}

	fourth := e.read("shop-income")
	if err := e.vault.Sys().Revoke(fourth.LeaseID); err != nil { // queued
		t.Fatal(err)
	}
	e.eventually("the revocation", func() bool { return !e.wallet.Live(e.tokenOf(fourth)) })

	fifth := e.read("shop-income")
	if _, err := e.vault.Logical().Delete("op/grants/shop-income"); err != nil {
		t.Fatal(err)
	}
	e.checkDead(e.tokenOf(fifth))
}

func asJSON(t *testing.T, value any) string {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
