// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
)

// run is one command of the CLI that has to succeed.
func (e *engine) run(args ...string) string {
	e.t.Helper()
	stdout, stderr, code := e.CLI(e.RootToken, args...)
	if code != 0 {
		e.t.Fatalf("%s: status %d\n%s", args[:2], code, stderr)
	}
	return stdout
}

// answer is what a command answers as JSON; it must come before its other arguments.
func (e *engine) answer(command string, args ...string) *api.Secret {
	e.t.Helper()
	words := append(strings.Fields(command), "-format=json")
	secret, err := api.ParseSecret(strings.NewReader(e.run(append(words, args...)...)))
	if err != nil {
		e.t.Fatalf("%s %s: %v", command, args, err)
	}
	return secret
}

// expect checks members of an answer's data by their text.
func (e *engine) expect(data, want map[string]any) {
	e.t.Helper()
	for member, value := range want {
		if fmt.Sprint(data[member]) != fmt.Sprint(value) {
			e.t.Errorf("%s is %v, not %v", member, data[member], value)
		}
	}
}

// The main job, as a user types it.
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
	config := e.answer("read", "op/config")
	e.expect(config.Data, map[string]any{
		"wallet_address": e.wallet.WalletAddress("client"), "key_id": keyID, "default_grant": "shop-income", "verify": true, "request_timeout": 10,
	})
	if _, shown := config.Data["private_key"]; shown {
		t.Error("the private key is read back")
	}

	asked := e.answer("write", "op/grants/shop-income", "wallet_address="+e.wallet.WalletAddress("shop"), "access="+file("access.json"))
	e.expect(asked.Data, map[string]any{
		"status": "active", "interactive": false, "generation": 1, "auth_server": e.wallet.AuthServer(), "resource_server": e.wallet.ResourceServer(),
	})
	elsewhere := e.obtain()
	imported := e.answer("write", "op/grants/imported", fmt.Sprintf("access_token=%s", elsewhere["access_token"]),
		fmt.Sprintf("manage_url=%s", elsewhere["manage_url"]), "expires_in=600")
	e.expect(imported.Data, map[string]any{"status": "active", "interactive": true, "generation": 1})
	if live := e.wallet.LiveTokens(); live != 2 {
		t.Errorf("%d tokens live at the sandbox, not those of two grants", live)
	}

	first := e.answer("read", "op/token/shop-income")
	e.live(e.tokenOf(first))
	e.expect(first.Data, map[string]any{
		"grant": "shop-income", "generation": 2, "auth_server": e.wallet.AuthServer(), "wallet_address": e.wallet.WalletAddress("shop"),
		"resource_server": e.wallet.ResourceServer(),
	})
	if first.Data["authorization"] != "GNAP "+e.tokenOf(first) {
		t.Error("authorization is not GNAP and the token")
	}
	if !strings.HasPrefix(first.LeaseID, "op/token/shop-income/") || !first.Renewable {
		t.Errorf("the lease %s is renewable: %t", first.LeaseID, first.Renewable)
	}

	second := e.answer("lease renew", first.LeaseID)
	e.replaced(first, second)
	e.expect(second.Data, map[string]any{"generation": 3, "grant": "shop-income"})
	if second.LeaseID != first.LeaseID {
		t.Errorf("the renewal is one of %s", second.LeaseID)
	}

	e.run("lease", "revoke", "-sync", first.LeaseID)
	e.dead(e.tokenOf(second))
	e.expect(e.grant("shop-income"), map[string]any{"status": "active", "generation": 4, "last_rotation_cause": "revoke"})

	third := e.answer("read", "op/token")
	e.live(e.tokenOf(third))
	e.expect(third.Data, map[string]any{"grant": "shop-income", "generation": 5})

	rotated := e.run("write", "-f", "op/rotate/shop-income")
	e.dead(e.tokenOf(third))
	e.noSecretIn("the answer of a rotation", rotated)
	e.expect(e.grant("shop-income"), map[string]any{"generation": 6, "last_rotation_cause": "rotate"})

	if list := strings.Fields(e.run("list", "op/grants")); !slices.Equal(list, []string{"Keys", "----", "imported", "shop-income"}) {
		t.Errorf("the list is %q", list)
	}
	shown := e.run("read", "op/grants/shop-income")
	e.noSecretIn("a grant that is read", shown)
	for _, line := range []string{"status", "active", "expires_at", "intent_open", "on_revoke"} {
		if !strings.Contains(shown, line) {
			t.Errorf("a grant that is read does not show %s:\n%s", line, shown)
		}
	}

	last := e.answer("read", "op/token/imported")
	e.run("delete", "op/grants/shop-income")
	e.live(e.tokenOf(last))
	e.run("delete", "op/grants/imported")
	e.dead(e.tokenOf(last))
	if live := e.wallet.LiveTokens(); live != 0 {
		t.Errorf("%d tokens live at the sandbox after all grants were deleted", live)
	}
	if _, stderr, code := e.CLI(e.RootToken, "list", "op/grants"); code != 2 || !strings.Contains(stderr, "No value found") {
		t.Errorf("list without grants: status %d, %s", code, stderr)
	}
}

// The same through the Go API.
func TestSessionInGo(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	e.ask("shop-income", nil)

	first := e.read("shop-income")
	e.live(e.tokenOf(first))
	second := e.renew(first, 0)
	e.replaced(first, second)
	third := e.renew(first, 3600)
	e.replaced(second, third)

	if err := e.vault.Sys().RevokeWithOptions(&api.RevokeOptions{LeaseID: first.LeaseID, Sync: true}); err != nil {
		t.Fatal(err)
	}
	e.dead(e.tokenOf(third))
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
	e.dead(e.tokenOf(fifth))
}
