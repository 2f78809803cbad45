// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/hashicorp/vault/api"
)

// provisioning is a script that writes all that a mount needs, as provisioning tools do it: the same
// again and again, and everything to change one setting.
type provisioning struct {
	*engine
	dir      string
	ttl      string         // of shop-income
	imported map[string]any // obtained elsewhere
}

func startProvisioning(t *testing.T) *provisioning {
	t.Helper()
	e := startEngine(t)
	if _, err := e.vault.Logical().Delete(e.at("config")); err != nil {
		t.Fatal(err)
	}
	p := &provisioning{engine: e, dir: t.TempDir(), ttl: "5m", imported: e.obtain()}
	for name, text := range map[string]string{
		"key.pem": e.key, "income.json": access + "\n", "rent.json": "\n" + e.outgoing() + "\n",
		"access_token": p.imported["access_token"].(string), "manage_url": p.imported["manage_url"].(string),
		"continue_url": p.imported["continue_url"].(string), "continue_token": p.imported["continue_token"].(string),
	} {
		if err := os.WriteFile(filepath.Join(p.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func (p *provisioning) file(name string) string { return "@" + filepath.Join(p.dir, name) }

// provision runs the script.
func (p *provisioning) provision() {
	p.t.Helper()
	shop, alice := "wallet_address="+p.wallet.WalletAddress("shop"), "wallet_address="+p.wallet.WalletAddress("alice")
	p.run("write", "op/config", "wallet_address="+p.wallet.WalletAddress("client"), "key_id="+keyID,
		"private_key="+p.file("key.pem"), "default_grant=shop-income", "request_timeout=15s")
	p.run("write", "op/keys/rotate", "key_id=key-2", "force=true")
	p.publishKeys()
	p.run("write", "op/roles/till", shop, "access="+p.file("income.json"), "ttl=4m")
	p.run("write", "op/grants/shop-income", shop, "access="+p.file("income.json"), "ttl="+p.ttl, "keepalive=24h")
	p.run("write", "op/grants/rent", alice, "access="+p.file("rent.json"), "finish_uri="+finishURI, "shared=true")
	p.run("write", "op/grants/elsewhere", "access_token="+p.file("access_token"), "manage_url="+p.file("manage_url"),
		"continue_url="+p.file("continue_url"), "continue_token="+p.file("continue_token"), "expires_in=600",
		"resource_server="+p.wallet.ResourceServer(), "renewable=false")
}

// publishKeys makes the client's wallet publish all keys of the engine.
func (p *provisioning) publishKeys() {
	p.t.Helper()
	keys, err := p.vault.Logical().ReadRaw("op/jwks.json")
	if err != nil {
		p.t.Fatal(err)
	}
	defer keys.Body.Close()
	set, err := io.ReadAll(keys.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	if err := p.wallet.SetClientKeys(set); err != nil {
		p.t.Fatal(err)
	}
}

// state returns what reads of everything return.
func (p *provisioning) state() map[string]any {
	p.t.Helper()
	all := map[string]any{}
	for _, path := range []string{
		"config", "keys", "roles/till", "grants/shop-income", "grants/rent", "grants/elsewhere",
	} {
		secret, err := p.vault.Logical().Read(p.at(path))
		if err != nil || secret == nil {
			p.t.Fatalf("read %s: %v", path, err)
		}
		all[path] = secret.Data
	}
	return all
}

func (p *provisioning) checkState(what string, want map[string]any) {
	p.t.Helper()
	got := p.state()
	for path := range want {
		if !reflect.DeepEqual(got[path], want[path]) {
			p.t.Errorf("%s: %s is\n%v, was\n%v", what, path, got[path], want[path])
		}
	}
}

// A script that writes everything changes nothing after the first time: nobody is asked, no token dies,
// no setting changes.
func TestProvisioningIsRepeated(t *testing.T) {
	t.Parallel()
	p := startProvisioning(t)
	p.provision()

	// The owner has not decided yet: the page stays the same one.
	page := p.grant("rent")["interact_url"]
	for range 3 {
		p.provision()
	}
	if p.grant("rent")["interact_url"] != page {
		t.Error("the owner is asked on another page")
	}
	p.write("grants/rent/continue", map[string]any{"redirect": p.decide(page.(string), true)})

	held := map[string]*api.Secret{}
	for _, path := range []string{"token/shop-income", "token/rent", "token/elsewhere", "creds/till"} {
		held[path] = p.readLease(path)
	}
	before, live := p.state(), p.wallet.LiveTokens()
	requests := p.countRequests("grant", "continue", "cancel", "rotate", "revoke", "interact")
	documents := p.countRequests("wallet", "keys")
	for i := range 10 {
		p.provision()
		p.checkState(fmt.Sprintf("written %d times", i+5), before)
	}
	if n := requests(); n != 0 {
		t.Errorf("%d requests to the authorization server", n)
	}
	if n := documents(); n != 0 {
		t.Errorf("%d requests for documents of wallets", n)
	}
	if n := p.wallet.LiveTokens(); n != live {
		t.Errorf("%d tokens are live, not %d", n, live)
	}
	for path, lease := range held {
		p.in(t).checkLive(p.tokenOf(lease))
		if path == "token/shop-income" || path == "creds/till" {
			p.checkReplaced(lease, p.renew(lease, 0))
		}
	}

	// Everything is written to change one setting.
	p.ttl = "6m"
	before = p.state()
	requests = p.countRequests("grant", "continue", "cancel", "rotate", "revoke", "interact")
	p.provision()
	changed := before["grants/shop-income"].(map[string]any)
	changed["ttl"] = p.grant("shop-income")["ttl"]
	if fmt.Sprint(changed["ttl"]) != "360" {
		t.Errorf("ttl is %v", changed["ttl"])
	}
	p.checkState("with another ttl", before)
	if n := requests(); n != 0 {
		t.Errorf("%d requests to the authorization server to change a setting", n)
	}
	p.checkNoSecret("the server's log", p.Log())
}
