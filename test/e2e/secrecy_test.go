// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/vaulttest"
)

// Neither the server's log at trace level nor its audit log contains a secret, whatever happens.
func TestLogsHoldNoSecret(t *testing.T) {
	t.Parallel()
	e := mountEngine(t, vaulttest.Start(t, vaulttest.Options{LogLevel: "trace"}), "op", 0)
	audit := e.EnableAudit()
	_, wrongKey := newKey(t)

	misbehaving := func(m sandbox.Misbehaviour) {
		t.Helper()
		e.wallet.Misbehave(m)
	}
	set := func(key string) {
		t.Helper()
		e.request(204, "POST", "config", asJSON(t, map[string]any{"private_key": key, "verify": false}))
	}
	set(base64.StdEncoding.EncodeToString([]byte(e.key)))
	for _, path := range []string{"shop-income", "dropped", "failing"} {
		e.ask(path, nil)
	}
	imported := e.obtain()
	e.write("grants/imported", imported)

	lease := e.renew(e.read("shop-income"), 60)
	if err := e.vault.Sys().RevokeWithOptions(&api.RevokeOptions{LeaseID: lease.LeaseID, Sync: true}); err != nil {
		t.Fatal(err)
	}
	e.writeRole()
	own := e.renew(e.readCreds(), 60)
	if err := e.vault.Sys().RevokeWithOptions(&api.RevokeOptions{LeaseID: own.LeaseID, Sync: true}); err != nil {
		t.Fatal(err)
	}
	superseded := e.read("imported")
	e.read("imported")
	e.checkRenewalRejected(superseded, "superseded")
	e.write("rotate/shop-income", nil)
	e.grant("shop-income")
	e.request(200, "LIST", "grants", "")
	e.request(200, "PATCH", "grants/shop-income", `{"ttl":300}`)

	// Mistakes that put a secret into the wrong field.
	for path, body := range map[string]any{
		"config":          map[string]any{"private_key": []string{e.key}},
		"grants/mistyped": map[string]any{"access_token": map[string]any{"value": imported["access_token"]}},
		"grants/mistyped-2": map[string]any{"access_token": imported["access_token"],
			"manage_url": imported["continue_url"]},
		"grants/mistyped-3": map[string]any{"access_token": imported["access_token"],
			"manage_url": []any{imported["manage_url"]}},
		"grants/mistyped-4":   map[string]any{"token": imported["access_token"], "manage_url": imported["manage_url"]},
		"grants/mistyped-5":   map[string]any{"access": imported["access_token"], "wallet_address": imported["manage_url"]},
		"rotate/shop-income":  map[string]any{"access_token": imported["access_token"]},
		"grants/shop-income":  map[string]any{"ttl": imported["access_token"]},
		"grants/shop-income/": map[string]any{"access_token": imported["access_token"]},
	} {
		e.checkNoSecret("the response to bad input", e.request(400, "POST", path, asJSON(t, body)).text)
	}

	// Every kind of failure; grants that recover are read again.
	misbehaving(sandbox.Misbehaviour{On: []string{"rotate"}, Drop: true, Times: 1})
	e.read("dropped")
	misbehaving(sandbox.Misbehaviour{On: []string{"rotate"}, Reset: true, Times: 1})
	e.read("dropped")
	misbehaving(sandbox.Misbehaviour{On: []string{"rotate"}, NotJSON: true, Times: 1})
	e.read("dropped")
	misbehaving(sandbox.Misbehaviour{On: []string{"rotate"}, Status: 401, Times: 1})
	e.read("dropped")
	misbehaving(sandbox.Misbehaviour{On: []string{"rotate"}, Status: 500})
	e.checkNoSecret("a 502", e.request(502, "GET", "token/failing", "").text)
	misbehaving(sandbox.Misbehaviour{On: []string{"cancel"}, Status: 500, Times: 1})
	e.checkNoSecret("a 502", e.request(502, "DELETE", "grants/shop-income", "").text)
	misbehaving(sandbox.Misbehaviour{On: []string{"rotate"}, Drop: true, Times: 1})
	own = e.readCreds()
	e.checkRenewalRejected(own, "no longer accepts")
	misbehaving(sandbox.Misbehaviour{On: []string{"cancel"}, Status: 500, Times: 1})
	if err := e.vault.Sys().RevokeWithOptions(&api.RevokeOptions{LeaseID: own.LeaseID, Sync: true}); err == nil {
		t.Error("revoked although the server fails")
	} else {
		e.checkNoSecret("a revocation's error", err.Error())
	}
	e.importGrants("abandoned")
	misbehaving(sandbox.Misbehaviour{On: []string{"rotate"}, Drop: true, Times: 1})
	e.checkNoSecret("the response for a lost grant", e.request(400, "GET", "token/abandoned", "").text)
	e.checkData(e.grant("abandoned"), map[string]any{"status": "lost"})
	misbehaving(sandbox.Misbehaviour{})
	set(wrongKey)
	e.checkNoSecret("the response with a wrong key", e.request(400, "GET", "token/imported", "").text, wrongKey)
	set(e.key)

	for _, name := range []string{"shop-income", "dropped", "failing", "imported", "abandoned"} {
		e.checkNoSecret("a read of the grant", e.request(200, "GET", "grants/"+name, "").text)
		e.request(204, "DELETE", "grants/"+name, "")
	}
	e.Stop()

	entries, err := os.ReadFile(audit)
	if err != nil {
		t.Fatal(err)
	}
	for where, text := range map[string]string{"the server's log": e.Log(), "the audit log": string(entries)} {
		e.checkNoSecret(where, text, wrongKey)
	}
	// The logs do contain the places where a secret could have been.
	for where, found := range map[string]bool{
		"trace lines":                 strings.Contains(e.Log(), "[TRACE]"),
		"lines of the engine":         strings.Contains(e.Log(), "the grant is lost"),
		"audited reads":               strings.Contains(string(entries), "op/token/shop-income"),
		"audited values, hashed":      strings.Contains(string(entries), `"manage_url":"hmac-sha256:`),
		"audited errors":              strings.Contains(string(entries), "answered 500"),
		"audited answers with tokens": strings.Contains(string(entries), `"access_token":"hmac-sha256:`),
	} {
		if !found {
			t.Errorf("the logs contain no %s", where)
		}
	}
	kinds := map[string]int{}
	for _, what := range e.wire.secrets {
		kinds[what]++
	}
	if kinds["an access token"] < 12 || kinds["a manage URL"] < 12 || kinds["a continue URL"] < 5 ||
		kinds["a continue token"] < 5 {
		t.Errorf("the sandbox has issued only %v", kinds)
	}
}

func asJSON(t *testing.T, value any) string {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
