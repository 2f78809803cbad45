// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"net"
	"reflect"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// D6: a proxy's password is never read back, and what is read can be written.
func TestEgressProxyPassword(t *testing.T) {
	r := configured(t)
	const proxy, read = "http://vault:s3cr3t@proxy.example:3128", "http://vault:xxxxx@proxy.example:3128"
	r.ok(logical.PatchOperation, "config", field("egress_proxy", proxy+"\n"))
	before, err := loadConfig(r.ctx, r.storage)
	if err != nil || before.EgressProxy != proxy {
		t.Fatal("the proxy is not stored", err)
	}
	for range 2 {
		data := r.ok(logical.ReadOperation, "config", nil).Data
		if data["egress_proxy"] != read {
			t.Fatalf("%v", data["egress_proxy"])
		}
		r.ok(logical.UpdateOperation, "config", map[string]any{"egress_proxy": data["egress_proxy"]})
		if after, err := loadConfig(r.ctx, r.storage); err != nil || !reflect.DeepEqual(after, before) {
			t.Fatal("what was read changes something", err)
		}
	}
	for value, words := range map[string]string{
		"http://vault:xxxxx@another.example:3128":  "placeholder",
		"http://vault:s3cr3t/#@proxy.example:3128": "percent-encoded",
		"socks5://vault:s3cr3t@proxy.example":      "http:// or https://",
	} {
		resp, err := r.do(r.ctx, logical.PatchOperation, "config", field("egress_proxy", value))
		r.failed(400, resp, err, "egress_proxy: ", words)
		if text := resp.Error().Error(); strings.Contains(text, "s3cr3t") {
			t.Errorf("%s", text)
		}
	}
	r.ok(logical.PatchOperation, "config", field("egress_proxy", nil))
	if data := r.ok(logical.ReadOperation, "config", nil).Data; data["egress_proxy"] != "" {
		t.Errorf("%v", data["egress_proxy"])
	}
	if strings.Contains(r.log.String(), "s3cr3t") {
		t.Error("the password is in the log")
	}
}

// E7: what keeps the engine from a server is in the answer and in the log, with the origin, the path that
// was typed, and nothing else.
func TestCauseIsTold(t *testing.T) {
	r := configured(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	_ = l.Close()
	r.ok(logical.PatchOperation, "config", field("egress_proxy", "http://vault:s3cr3t@"+closed))
	ask := map[string]any{"auth_server": "https://wallet.example/auth?s3cr3t", "access": incomingAccess}
	const cause = "https://wallet.example/auth could not be reached: the proxy http://"
	resp, err := r.do(r.ctx, logical.UpdateOperation, "grants/income", ask)
	r.failed(502, resp, err, cause+closed, "connection refused")
	if said := r.log.String() + err.Error(); strings.Count(said, cause+closed) < 2 || strings.Contains(said, "s3cr3t") {
		t.Errorf("%s", said)
	}
	r.fails(400, logical.UpdateOperation, "grants/income",
		map[string]any{"auth_server": r.sandbox.URL() + "/nothing/here", "access": incomingAccess}, r.sandbox.URL()+"/nothing/here answered 404")
	// A document's endpoint is not what an operator typed.
	r.sandbox.Close()
	r.ok(logical.PatchOperation, "config", field("egress_proxy", nil)) // idle connections are closed
	r.fails(502, logical.UpdateOperation, "grants/income",
		map[string]any{"wallet_address": r.sandbox.WalletAddress("shop"), "access": incomingAccess},
		r.sandbox.WalletAddress("shop")+" could not be reached: connection refused")
}
