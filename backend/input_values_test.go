// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// wrappings are what files, editors, secret managers and pages put around a value.
var wrappings = map[string]func(string) string{
	"nothing":            func(s string) string { return s },
	"a line end":         func(s string) string { return s + "\n" },
	"CRLF":               func(s string) string { return s + "\r\n" },
	"white space":        func(s string) string { return " \t" + s + "\u00a0 " },
	"a byte order mark":  func(s string) string { return "\ufeff" + s },
	"Notepad's file":     func(s string) string { return "\ufeff" + s + "\r\n" },
	"quotation marks":    func(s string) string { return `"` + s + `"` },
	"a page's quotation": func(s string) string { return "“" + s + "”\u200b" },
	"PowerShell's UTF-16": func(s string) string {
		return "\ufffd\ufffd" + strings.Join(strings.Split(s+"\r\n", ""), "\x00") + "\x00"
	},
}

// The whole of a client and an imported grant, each value wrapped alike.
func TestWrappedValues(t *testing.T) {
	for what, wrap := range wrappings {
		t.Run(what, func(t *testing.T) {
			r := newRig(t)
			r.ok(logical.UpdateOperation, "config", map[string]any{
				"wallet_address": wrap(r.sandbox.WalletAddress("client")), "key_id": wrap(testKeyID),
				"private_key": wrap(r.key), "request_timeout": wrap("15s"), "verify": wrap("true"),
				"default_grant": wrap("brought"), "allowed_auth_servers": wrap(r.sandbox.AuthServer()),
			})
			c, err := loadConfig(r.ctx, r.storage)
			if err != nil || c.WalletAddress != r.sandbox.WalletAddress("client") || c.PrivateKey != r.key ||
				c.KeyID != testKeyID || c.DefaultGrant != "brought" || c.RequestTimeout.Seconds() != 15 || !c.Verify {
				t.Fatalf("%v", err)
			}
			r.ask("elsewhere")
			g := r.stored("elsewhere")
			r.ok(logical.UpdateOperation, "grants/brought", map[string]any{
				"access_token": wrap("GNAP " + g.Token), "manage_url": wrap(g.Manage), "expires_in": wrap("10m"),
				"continue_url": wrap(g.Continue.URL), "continue_token": wrap(g.Continue.Token),
				"resource_server": wrap(r.sandbox.ResourceServer()), "on_revoke": wrap("keep"), "shared": wrap("false"),
			})
			brought := r.stored("brought")
			if brought.Token != g.Token || brought.Manage != g.Manage || brought.Continue != g.Continue ||
				brought.ResourceServer != g.ResourceServer || brought.Settings.OnRevoke != revokeKeeps {
				t.Error("something was not read as it is")
			}
			r.read("brought")
		})
	}
}

func TestWrappedAddressesWhereOneAsks(t *testing.T) {
	r := configured(t)
	for what, wrap := range wrappings {
		for _, address := range []string{r.sandbox.WalletAddress("shop"), strings.Replace(r.sandbox.WalletAddress("shop"), "http:", "HTTP:", 1)} {
			r.ok(logical.UpdateOperation, "grants/income", map[string]any{
				"wallet_address": wrap(address), "access": "\ufeff" + strings.ReplaceAll(incomingAccess, ",", ",\r\n"),
			})
			if g := r.stored("income"); g.WalletAddress != r.sandbox.WalletAddress("shop") {
				t.Errorf("%s: %s", what, g.WalletAddress)
			}
		}
	}
	access := fmt.Sprintf(`[{"type":"incoming-payment","actions":["read"],"identifier":" <%s> \r\n"}]`, r.sandbox.WalletAddress("shop"))
	r.ok(logical.UpdateOperation, "grants/income", map[string]any{"wallet_address": r.sandbox.WalletAddress("shop"), "access": access})
	if g := r.stored("income"); !strings.Contains(string(g.Requested), `"identifier":"`+r.sandbox.WalletAddress("shop")+`"`) {
		t.Error("the identifier was not read as it is")
	}
}

func TestListsAsPeopleWriteThem(t *testing.T) {
	r := configured(t)
	for _, list := range []any{
		"https://a.example,https://b.example", " https://a.example , https://b.example,\n", "https://a.example\r\nhttps://b.example\r\n",
		"\ufeffhttps://a.example https://b.example", `["https://a.example", "https://b.example/path"]`,
		[]any{"https://a.example\n", "<HTTPS://B.example:443>"},
	} {
		r.ok(logical.PatchOperation, "config", map[string]any{"allowed_auth_servers": list})
		c, err := loadConfig(r.ctx, r.storage)
		if err != nil || strings.Join(c.AllowedAuthServers, " ") != "https://a.example https://b.example" {
			t.Errorf("%q: %v %v", list, c.AllowedAuthServers, err)
		}
	}
	r.ok(logical.PatchOperation, "config", map[string]any{"allowed_auth_servers": ""})
	if c, err := loadConfig(r.ctx, r.storage); err != nil || len(c.AllowedAuthServers) != 0 {
		t.Errorf("%v %v", c.AllowedAuthServers, err)
	}
	r.fails(400, logical.PatchOperation, "config", map[string]any{"allowed_auth_servers": `["https://a.example", 7]`}, "allowed_auth_servers: ", "list of strings")
}

// Text around certificates is not stored: it would be read back.
func TestCACertificateIsStoredAlone(t *testing.T) {
	r := configured(t)
	server := certificate(t)
	r.ok(logical.PatchOperation, "config", map[string]any{"ca_cert": "\ufeffs_client says: Master-Key: 0123456789\r\n" + strings.ReplaceAll(server, "\n", "\r\n")})
	got := r.ok(logical.ReadOperation, "config", nil).Data["ca_cert"].(string)
	if got != server {
		t.Errorf("%q", got)
	}
	r.ok(logical.PatchOperation, "config", map[string]any{"ca_cert": got})
	r.fails(400, logical.PatchOperation, "config", map[string]any{"ca_cert": server + r.key}, "ca_cert: ", "private key")
	r.fails(400, logical.PatchOperation, "config", map[string]any{"ca_cert": "ca.pem"}, "ca_cert: ", "ca_cert=@NAME")
	r.ok(logical.PatchOperation, "config", map[string]any{"ca_cert": "\ufeff\n"})
	if got := r.ok(logical.ReadOperation, "config", nil).Data["ca_cert"]; got != "" {
		t.Errorf("%q", got)
	}
}

// certificate returns some certificate as PEM.
func certificate(t *testing.T) string {
	t.Helper()
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
}

// What cannot be read is told by its kind, and never repeated.
func TestValuesThatAreToldByKind(t *testing.T) {
	r := configured(t)
	shop := r.sandbox.WalletAddress("shop")
	ask := map[string]any{"wallet_address": shop, "access": incomingAccess}
	asks := func(name string, rows []badInput) { r.refuses(logical.UpdateOperation, "grants/x", name, ask, rows) }
	asks("wallet_address", []badInput{
		{"without a scheme", field("wallet_address", "wallet.example/alice"), "https://"},
		{"an e-mail address", field("wallet_address", "alice@wallet.example"), "e-mail"},
		{"payto", field("wallet_address", "payto://iban/DE75512108001245126199"), "RFC 8905"},
		{"a pointer that a shell has expanded", field("wallet_address", ".example/alice"), "single quotes"},
		{"two lines", field("wallet_address", shop+"\n"+shop), "line break"},
	})
	asks("access", []badInput{
		{"a file's name", field("access", "access.json"), "access=@NAME"},
		{"the CLI's name for a file", field("access", "@access.json"), "access=@NAME"},
		{"wrapped", field("access", `{"access":`+incomingAccess+`}`), "member access"},
		{"wrapped, decoded", field("access", map[string]any{"access": []any{}}), "member access"},
		{"a grant request", field("access", `{"access_token":{"access":`+incomingAccess+`},"client":"https://x.example"}`), "access_token.access"},
		{"one right", field("access", strings.Trim(incomingAccess, "[]")), "brackets"},
		{"one right, decoded", field("access", map[string]any{"type": "quote"}), "brackets"},
		{"a trailing comma", field("access", "[\n  {\"type\": \"quote\",\n   \"actions\": [\"read\"],\n  }\n]"), "line 4, column 3: a comma after the last item"},
		{"a comment", field("access", "\ufeff[\r\n  // s3cr3t-s3cr3t\r\n]"), "line 2, column 3: a comment"},
		{"a member twice", field("access", `[{"type":"quote","type":"quote","actions":["read"]}]`), "line 1, column 18: a member"},
		{"a pointer with white space", field("access", `[{"type":"incoming-payment","actions":["read"],"identifier":"$a.example / b"}]`), "identifier: holds white space"},
		{"an identifier without a scheme", field("access", `[{"type":"incoming-payment","actions":["read"],"identifier":"a.example/b"}]`), "identifier: has no scheme"},
	})
	asks("ttl", []badInput{
		{"a space", field("ttl", "5 m"), "5m or 1h30m"}, {"minutes", field("ttl", "10min"), "5m or 1h30m"},
		{"ISO 8601", field("ttl", "PT5M"), "5m or 1h30m"}, {"days and hours", field("ttl", "1d12h"), "such as 7d"},
	})
	asks("shared", []badInput{{"yes", field("shared", "yes"), "true or false"}})
	bring := map[string]any{"access_token": "token-value", "manage_url": r.sandbox.AuthServer() + "/token/1", "expires_in": 600}
	brings := func(name string, rows []badInput) { r.refuses(logical.UpdateOperation, "grants/x", name, bring, rows) }
	brings("access_token", []badInput{
		{"JSON", field("access_token", `{"value":"s3cr3t-s3cr3t"}`), "is JSON"},
		{"a URL", field("access_token", r.sandbox.AuthServer()+"/token/s3cr3t"), "is a URL"},
		{"the scheme alone", field("access_token", "GNAP "), "without a token"},
	})
	brings("manage_url", []badInput{{"without a scheme", field("manage_url", "auth.example/token/s3cr3t-s3cr3t"), "https://"}})
	r.ok(logical.UpdateOperation, "grants/x", map[string]any{"wallet_address": shop, "access": incomingAccess, "ttl": "1d\n", "keepalive": "30d"})
	if g := r.stored("x"); g.Settings.TTL.Hours() != 24 {
		t.Errorf("1d is %s", g.Settings.TTL)
	}
}

// bao list sends limit=-1 where it was not asked for a limit.
func TestListsWithoutLimit(t *testing.T) {
	r := configured(t)
	for _, name := range []string{"a", "b", "c"} {
		r.ask(name)
	}
	for _, path := range []string{"grants/", "roles/"} {
		for _, limit := range []any{-1, "-1", json.Number("-1"), 0, "-100\n"} {
			resp := r.ok(logical.ListOperation, path, map[string]any{"after": "a", "limit": limit})
			if keys, _ := resp.Data["keys"].([]string); path == "grants/" && len(keys) != 2 {
				t.Errorf("limit %v: %v", limit, keys)
			}
		}
	}
}

// In a namespace, sentences name paths as its users write them.
func TestPathsInNamespaces(t *testing.T) {
	vault := func(metadata string) *logical.PluginEnvironment {
		env := &logical.PluginEnvironment{VaultVersion: "1.21.2", VaultVersionMetadata: metadata}
		setNew(&env.VaultBuildDate)
		return env
	}
	bao := &logical.PluginEnvironment{VaultVersion: "2.6.2"}
	for _, row := range []struct {
		what, mount string
		env         *logical.PluginEnvironment
		want        string
	}{
		{"Vault, community edition", "op/", vault(""), "op/"},
		{"a path of several segments there", "payments/op/", vault(""), "payments/op/"},
		{"a server that does not say", "payments/op/", nil, "payments/op/"},
		{"Vault Enterprise", "ns1/op/", vault("ent"), "op/"},
		{"OpenBao", "op/", bao, "op/"},
		{"OpenBao, in a namespace", "ns1/op/", bao, "op/"},
		{"OpenBao, in a nested namespace", "ns1/ns2/op/", bao, "op/"},
	} {
		t.Run(row.what, func(t *testing.T) {
			r := configured(t)
			r.system.PluginEnvironment = row.env
			for path, want := range map[string]string{"token/shop": "write " + row.want + "grants/shop first", "config": "for " + row.want + "config:"} {
				req := &logical.Request{Operation: logical.ReadOperation, Path: path, Storage: r.storage, MountPoint: row.mount}
				if path == "config" {
					req.Data = map[string]any{"color": "red"}
				}
				resp, err := r.b.HandleRequest(r.ctx, req)
				if err != nil || !resp.IsError() || !strings.Contains(resp.Error().Error(), want) {
					t.Errorf("%v %v, want %q", resp, err, want)
				}
			}
		})
	}
}

func setNew[T any](to **T) { *to = new(T) }

// A body may be given as the object that it is: alone and in a batch, from a list and from text.
func TestSignBodyAsObject(t *testing.T) {
	r := withGrant(t)
	income := r.receive("income")
	shop := r.sandbox.WalletAddress("shop")
	body := map[string]any{"walletAddress": shop, "metadata": map[string]any{"note": "<b> & é", "n": json.Number("1.50"), "x": nil}}
	fields := income.fields("POST", "/incoming-payments", "")
	fields["body"] = body
	signed := r.ok(logical.UpdateOperation, "sign/income", fields).Data
	if want := `{"metadata":{"n":1.5,"note":"<b> & é","x":null},"walletAddress":"` + shop + `"}`; signed["body"] != want {
		t.Errorf("%s, want %s", signed["body"], want)
	}
	income.sendSigned(201, "POST", "/incoming-payments", signed)

	text, err := json.Marshal([]any{fields})
	if err != nil {
		t.Fatal(err)
	}
	for _, batch := range []any{[]any{fields}, string(text), "\ufeff" + string(text) + "\r\n"} {
		results := r.ok(logical.UpdateOperation, "sign/income", map[string]any{"batch_input": batch}).Data["batch_results"].([]any)
		income.sendSigned(201, "POST", "/incoming-payments", results[0].(map[string]any))
	}
	fields["body"] = "\ufeff{\r\n\"walletAddress\": \"" + shop + "\"}\r\n"
	income.sendSigned(201, "POST", "/incoming-payments", r.ok(logical.UpdateOperation, "sign/income", fields).Data)
}

// A body is as long as the largest request that Vault hands to a plugin.
func TestSignLongBody(t *testing.T) {
	r := withGrant(t)
	income := r.receive("income")
	body := func(n int) map[string]any {
		text := `{"walletAddress":"` + r.sandbox.WalletAddress("shop") + `","metadata":{"x":""}}`
		return income.fields("POST", "/incoming-payments", strings.Replace(text, `""`, `"`+strings.Repeat("x", n-len(text))+`"`, 1))
	}
	for _, n := range []int{maxFieldLength + 1, maxRequestLength} {
		if signed := r.ok(logical.UpdateOperation, "sign/income", body(n)).Data; len(signed["body"].(string)) != n {
			t.Errorf("%d bytes of %d", len(signed["body"].(string)), n)
		}
	}
	r.fails(400, logical.UpdateOperation, "sign/income", body(maxRequestLength+1), "body: ", "1024 KiB")
}

// What is presented in place of the token is told by what it looks like; faults of JSON come with
// their position; and nothing of either is repeated.
func TestSignSaysWhatIsWrong(t *testing.T) {
	r := withGrant(t)
	income := r.receive("income")
	good := income.fields("POST", "/incoming-payments", `{"walletAddress":"`+r.sandbox.WalletAddress("shop")+`"}`)
	for _, row := range []struct {
		name  string
		value any
		words string
	}{
		{"access_token", "GNAP " + income.token, "give the token alone"},
		{"access_token", "gnap\t" + income.token, "give the token alone"},
		{"access_token", "Authorization: GNAP " + income.token, "give the token alone"},
		{"access_token", "Bearer " + income.token, "give the token alone"},
		{"access_token", `{"access_token":"` + income.token + `"}`, "looks like JSON"},
		{"access_token", r.stored("income").Manage, "looks like a URL"},
		{"access_token", "hvs.CAESIJ0123456789abcdefghij", "token of Vault"},
		{"access_token", "op/token/income/h4bZ2kQ0123456789abcdefg", "lease's id"},
		{"access_token", "", "is needed"},
		{"access_token", income.token + "x", "read the token again"},
		{"body", "invoice.json", "body=@NAME"},
		{"body", "@invoice.json", "body=@NAME"},
		{"body", "{\n  \"walletAddress\": \"s3cr3t\",\n}", "line 3, column 1: a comma after the last item"},
		{"body", "{\n  \"n\": 9007199254740993}", "line 2, column 23: a number is 2^53"},
		{"body", `{"a":1,"A":2}`, "line 1, column 12: an object has the same member twice"},
		{"batch_input", "batch.json", "batch_input=@NAME"},
	} {
		fields := maps.Clone(good)
		fields[row.name] = row.value
		r.fails(400, logical.UpdateOperation, "sign/income", fields, row.name+": ", row.words)
		if row.name == "batch_input" {
			continue
		}
		item := maps.Clone(fields)
		if row.name != "access_token" {
			delete(item, "access_token")
		}
		results := r.ok(logical.UpdateOperation, "sign/income", map[string]any{"access_token": income.token, "batch_input": []any{item}}).Data["batch_results"].([]any)
		said, _ := results[0].(map[string]any)["error"].(string)
		if !strings.Contains(said, row.words) {
			t.Errorf("in a batch: %q, without %q", said, row.words)
		}
		r.noSecretIn("an error", said)
	}
	r.fails(400, logical.UpdateOperation, "sign/income", map[string]any{"access_token": income.token, "batch_input": "[\n  {\"method\": \"GET\",}\n]"},
		"batch_input: ", "line 2, column 20: a comma after the last item")
	for what, wrap := range wrappings {
		fields := maps.Clone(good)
		for _, name := range []string{"access_token", "method", "url"} {
			fields[name] = wrap(fields[name].(string))
		}
		if signed := r.ok(logical.UpdateOperation, "sign/income", fields).Data; signed["headers"] == nil {
			t.Errorf("%s: not signed", what)
		}
	}
}

// A server that tells more rights than were asked for does not have them signed for.
func TestSignOnlyWhatWasAskedFor(t *testing.T) {
	r := configured(t)
	more := func(body string) string {
		changed := strings.Replace(body, `"actions":["read"]`, `"actions":["create","read"]`, 1)
		if changed == body {
			t.Errorf("the sandbox's answer has changed: %d bytes", len(body))
		}
		return changed
	}
	r.answers("grant", more)
	r.ok(logical.UpdateOperation, "grants/income", map[string]any{
		"wallet_address": r.sandbox.WalletAddress("shop"), "access": `[{"type":"incoming-payment","actions":["read"]}]`,
	})
	r.answers("rotate", more)
	income := r.receive("income")
	r.ok(logical.UpdateOperation, "sign/income", income.fields("GET", "/incoming-payments/1", ""))
	r.fails(400, logical.UpdateOperation, "sign/income",
		income.fields("POST", "/incoming-payments", `{"walletAddress":"`+r.sandbox.WalletAddress("shop")+`"}`), "do not include create")
	g := r.stored("income")
	g.Requested = nil // as of an imported grant whose rights nobody wrote
	r.put("income", g)
	if _, err := r.stored("income").signingScope(); err != nil {
		t.Error(err)
	}
}

// Numbers in JSON reach a plugin as float64.
func TestNumbersInJSON(t *testing.T) {
	r := configured(t)
	r.ok(logical.PatchOperation, "config", map[string]any{"max_requests_per_server": float64(7)})
	if c, err := loadConfig(r.ctx, r.storage); err != nil || c.MaxRequests != 7 {
		t.Errorf("max_requests_per_server is %d, %v", c.MaxRequests, err)
	}
	for _, bad := range []float64{7.5, -7, 1e300} {
		r.fails(400, logical.PatchOperation, "config", map[string]any{"max_requests_per_server": bad},
			"max_requests_per_server: ")
	}
}
