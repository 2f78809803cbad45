// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/authserver"
)

// badInput is a request that has to get 400 with a sentence that names the field, and to leave no
// trace.
type badInput struct {
	what   string
	change map[string]any // put over the good fields; absent removes
	word   string         // in the sentence, besides the field's name
}

type absentValue struct{}

var absent = absentValue{}

func (r *rig) refuses(op logical.Operation, path, field string, good map[string]any, rows []badInput) {
	for _, row := range rows {
		r.TB.(*testing.T).Run(strings.ReplaceAll(field+": "+row.what, "/", "_"), func(t *testing.T) {
			data := map[string]any{}
			for k, v := range good {
				data[k] = v
			}
			for k, v := range row.change {
				data[k] = v
				if v == absent {
					delete(data, k)
				}
			}
			before, puts := r.requests(), r.storage.putsSoFar()
			resp, err := r.do(r.ctx, op, path, data)
			outer := r.TB
			r.TB = t
			defer func() { r.TB = outer }()
			r.failed(400, resp, err, field, row.word)
			for k, v := range row.change {
				if text, ok := v.(string); ok && len(text) > 12 && resp != nil && resp.IsError() && strings.Contains(resp.Error().Error(), text) && k != "wallet_address" && k != "auth_server" {
					t.Errorf("the answer repeats the value of %s", k)
				}
			}
			if n := r.requests() - before; n != 0 {
				t.Errorf("%d requests were sent", n)
			}
			if n := r.storage.putsSoFar() - puts; n != 0 {
				t.Errorf("%d writes", n)
			}
		})
	}
}

// requests counts what was sent but for the documents of wallets.
func (r *rig) requests() (n int) {
	for _, op := range []string{"grant", "continue", "cancel", "rotate", "revoke"} {
		n += r.sandbox.Count(op)
	}
	return n
}

func field(name string, value any) map[string]any { return map[string]any{name: value} }

var long = strings.Repeat("x", 100<<10)

func TestBadConfig(t *testing.T) {
	r := newRig(t)
	good := r.clientFields()
	check := func(name string, rows []badInput) { r.refuses(logical.UpdateOperation, "config", name, good, rows) }

	var wallets []badInput
	for what, text := range map[string]any{
		"missing": absent, "empty": "", "no URL": "alice", "another scheme": "ftp://wallet.example/alice", "no host": "https:///alice",
		"http to a public host": "http://wallet.example/alice", "http to a private host": "http://10.0.0.1/alice",
		"http to a name that begins like loopback": "http://localhost.example/alice",
		"trailing slash": "https://wallet.example/alice/", "bare slash": "https://wallet.example/",
		"query": "https://wallet.example/alice?x=1", "fragment": "https://wallet.example/alice#x", "user info": "https://a:b@wallet.example/alice",
		"pointer without a host": "$", "pointer with a path alone": "$/alice", "pointer with a bad host": "$wallet example/alice",
		"pointer with a bad label": "$-wallet-.example/alice", "pointer with a bad port": "$wallet.example:port/alice", "pointer to a port of 0": "$wallet.example:0/alice",
		"two dots in the host": "https://wallet..example/alice", "a space": "https://wallet.example/al ice", "not ASCII": "https://wallet.example/älice", "list": []any{"https://wallet.example/alice"}, "object": map[string]any{"x": "y"}, "null": nil,
		"100 KiB": "https://wallet.example/" + long,
	} {
		wallets = append(wallets, badInput{what, field("wallet_address", text), ""})
	}
	check("wallet_address", wallets)

	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&ecKey.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	another, err := authserver.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	check("private_key", []badInput{
		{"empty", field("private_key", ""), ""},
		{"null", field("private_key", nil), "null"},
		{"a file's name", field("private_key", "/etc/hostname"), "file"},
		{"a relative file's name", field("private_key", "input_test.go"), "file"},
		{"RSA", field("private_key", pemOf(t, rsaKey)), "Ed25519"},
		{"elliptic curve", field("private_key", pemOf(t, ecKey)), "Ed25519"},
		{"PKCS#1", field("private_key", block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaKey))), "PKCS#8"},
		{"public", field("private_key", block("PUBLIC KEY", public)), "public"},
		{"encrypted", field("private_key", block("ENCRYPTED PRIVATE KEY", []byte{1})), "encrypted"},
		{"truncated", field("private_key", r.key[:len(r.key)/2]), "cut off"},
		{"truncated inside", field("private_key", strings.Replace(r.key, "M", "", 1)), ""},
		{"two keys", field("private_key", r.key+another), "more than one"},
		{"base64 of something else", field("private_key", base64.StdEncoding.EncodeToString([]byte("hello hello hello"))), ""},
		{"a variable", field("private_key", "$OP_PRIVATE_KEY"), "variable"},
		{"the CLI's name for a file", field("private_key", "@key.pem"), "private_key=@NAME"},
		{"list", field("private_key", []any{r.key}), "list"},
		{"object", field("private_key", map[string]any{"pem": r.key}), "object"},
		{"100 KiB", field("private_key", long), "64 KiB"},
	})
	check("key_id", []badInput{
		{"missing", field("key_id", absent), ""},
		{"empty", field("key_id", ""), ""},
		{"a quote", field("key_id", `key"1`), ""},
		{"a semicolon", field("key_id", `key;1`), ""},
		{"a line break", field("key_id", "key\n1"), ""},
		{"not ASCII", field("key_id", "schlüssel"), ""},
		{"too long", field("key_id", strings.Repeat("k", 257)), ""},
		{"list", field("key_id", []any{"a", "b"}), "list"},
		{"not published", field("key_id", "key-2"), "jwks.json"},
	})
	check("request_timeout", []badInput{
		{"negative", field("request_timeout", -1), "negative"},
		{"negative text", field("request_timeout", "-5s"), "negative"},
		{"zero", field("request_timeout", 0), "between"},
		{"too long", field("request_timeout", "2m"), "between"},
		{"sub-second", field("request_timeout", "500ms"), "whole seconds"},
		{"fraction", field("request_timeout", 1.5), "whole seconds"},
		{"fraction as text", field("request_timeout", "1.5"), "whole seconds"},
		{"json.Number", field("request_timeout", json.Number("1.5")), "whole seconds"},
		{"no duration", field("request_timeout", "soon"), "whole seconds"},
		{"huge", field("request_timeout", 1e12), "ten years"},
		{"boolean", field("request_timeout", true), ""},
		{"list", field("request_timeout", []any{1}), "list"},
		{"null", field("request_timeout", nil), "null"},
	})
	check("ca_cert", []badInput{
		{"no PEM", field("ca_cert", "trust me"), "PEM"},
		{"a key", field("ca_cert", r.key), "CERTIFICATE"},
		{"a damaged certificate", field("ca_cert", block("CERTIFICATE", []byte{1, 2})), ""},
	})
	check("default_grant", []badInput{
		{"slash", field("default_grant", "a/b"), ""},
		{"two dots", field("default_grant", "a..b"), ""},
	})
	check("allowed_auth_servers", []badInput{
		{"no URL", field("allowed_auth_servers", "auth.example"), ""},
		{"plain http", field("allowed_auth_servers", []any{"https://auth.example", "http://auth.example"}), "http"},
		{"a number in the list", field("allowed_auth_servers", []any{7}), ""},
		{"object", field("allowed_auth_servers", map[string]any{"a": "b"}), "object"},
	})
	check("verify", []badInput{
		{"no boolean", field("verify", "perhaps"), "true or false"},
		{"null", field("verify", nil), "null"},
	})
	check("unknown field", []badInput{
		{"a typo", field("privat_key", "x"), `"privat_key"`},
		{"what another path has", field("ttl", 1), `"ttl"`},
		{"the path's own", field("name", "x"), `"name"`},
	})
	for _, name := range []string{r.key, base64.StdEncoding.EncodeToString([]byte(r.key)), "OS9M2PMHR2DTNNQXGHRPZ4", ""} {
		resp, err := r.do(r.ctx, logical.UpdateOperation, "config", map[string]any{name: ""})
		if said := fmt.Sprint(resp, err); !strings.Contains(said, "(not shown") || name != "" && strings.Contains(said, name) {
			t.Errorf("%s", said)
		}
	}
	r.refuses(logical.ReadOperation, "config", "unknown field", map[string]any{}, []badInput{{"on a read", field("verify", true), ""}})
	r.refuses(logical.DeleteOperation, "config", "unknown field", map[string]any{}, []badInput{{"on a delete", field("force", true), ""}})
	r.refuses(logical.PatchOperation, "config", "no client", map[string]any{}, []badInput{{"nothing to patch", field("request_timeout", 5), ""}})

	r.ok(logical.UpdateOperation, "config", good)
	patch := func(name string) {
		r.refuses(logical.PatchOperation, "config", name, map[string]any{}, []badInput{{"null in a PATCH", field(name, nil), ""}})
	}
	patch("private_key")
	patch("wallet_address")
	patch("key_id")
}

func TestBadGrants(t *testing.T) {
	r := configured(t)
	shop := r.sandbox.WalletAddress("shop")
	ask := map[string]any{"wallet_address": shop, "access": incomingAccess}
	bring := map[string]any{"access_token": "token-value", "manage_url": r.sandbox.AuthServer() + "/token/1", "expires_in": 600}
	asks := func(name string, rows []badInput) { r.refuses(logical.UpdateOperation, "grants/x", name, ask, rows) }
	brings := func(name string, rows []badInput) { r.refuses(logical.UpdateOperation, "grants/x", name, bring, rows) }

	asks("wallet_address", []badInput{
		{"missing", field("wallet_address", absent), "auth_server"},
		{"plain http", field("wallet_address", "http://wallet.example/alice"), "http"},
		{"trailing slash", field("wallet_address", shop+"/"), "slash"},
		{"bad pointer", field("wallet_address", "$wallet..example"), ""},
		{"not there", field("wallet_address", r.sandbox.WalletAddress("nobody")), "404"},
		{"object", field("wallet_address", map[string]any{}), "object"},
	})
	asks("auth_server", []badInput{
		{"no URL", field("auth_server", "auth"), ""},
		{"plain http", field("auth_server", "http://auth.example/"), "http"},
		{"user info", field("auth_server", "https://a:b@auth.example/"), ""},
	})
	asks("resource_server", []badInput{{"plain http", field("resource_server", "http://rs.example/"), "http"}})
	var rights []badInput
	for what, text := range invalidAccess(t) {
		rights = append(rights, badInput{what, field("access", text), ""})
	}
	rights = append(rights, badInput{"100 KiB", field("access", `["`+long+`"]`), "64 KiB"},
		badInput{"an object", field("access", map[string]any{"type": "quote"}), "object"},
		badInput{"missing", field("access", absent), ""})
	asks("access", rights)
	settings := []badInput{
		{"negative", field("ttl", -5), "negative"},
		{"sub-second", field("ttl", "1500ms"), "whole"},
		{"longer than max_ttl", map[string]any{"ttl": 100, "max_ttl": 50}, "max_ttl"},
		{"huge", field("ttl", "1000000000000"), ""},
	}
	asks("ttl", settings)
	brings("ttl", settings)
	brings("max_ttl", []badInput{{"negative", field("max_ttl", "-1h"), "negative"}})
	brings("renewable", []badInput{{"no boolean", field("renewable", "perhaps"), ""}})
	brings("shared", []badInput{{"no boolean", field("shared", "perhaps"), ""}, {"null", field("shared", nil), "null"}})
	brings("min_ttl", []badInput{{"negative", field("min_ttl", -1), "negative"}, {"sub-second", field("min_ttl", "500ms"), "whole"}})
	keepalive := []badInput{
		{"less than a minute", field("keepalive", 59), "at least a minute"},
		{"negative", field("keepalive", "-1h"), "negative"},
		{"more than ten years", field("keepalive", "100000h"), "ten years"},
		{"list", field("keepalive", []any{60}), "list"},
	}
	asks("keepalive", keepalive)
	brings("keepalive", keepalive)
	brings("on_revoke", []badInput{{"another word", field("on_revoke", "forget"), "rotate or keep"}})

	brings("access_token", []badInput{
		{"empty", field("access_token", ""), ""},
		{"space", field("access_token", "two words"), ""},
		{"line break", field("access_token", "two\nlines"), ""},
		{"missing", field("access_token", absent), "manage_url"},
		{"list", field("access_token", []any{"secret-in-a-list"}), "list"},
		{"100 KiB", field("access_token", long), "64 KiB"},
	})
	brings("manage_url", []badInput{
		{"missing", field("manage_url", absent), ""},
		{"no URL", field("manage_url", "token/1"), ""},
		{"plain http", field("manage_url", "http://auth.example/token/1"), "http"},
		{"no token/", field("manage_url", r.sandbox.AuthServer()+"/manage/1"), "token/"},
		{"token/ in the query alone", field("manage_url", r.sandbox.AuthServer()+"/manage?token/1"), "token/"},
		{"another origin than auth_server", field("auth_server", "https://auth.example/"), "https://auth.example"},
	})
	brings("continue_url", []badInput{
		{"alone", field("continue_url", r.sandbox.AuthServer()+"/continue/1"), "continue_token"},
		{"token alone", field("continue_token", "c"), "continue_token"},
		{"another origin", map[string]any{"continue_url": "https://auth.example/continue/1", "continue_token": "c"}, "origin"},
		{"no continue/", map[string]any{"continue_url": r.sandbox.AuthServer() + "/x", "continue_token": "c"}, "continue/"},
	})
	brings("continue_token", []badInput{{"empty", map[string]any{"continue_url": r.sandbox.AuthServer() + "/continue/1", "continue_token": ""}, ""}})
	brings("expires_in", []badInput{
		{"negative", field("expires_in", -1), "negative"},
		{"absurd", field("expires_in", 1000000000000), "ten years"},
		{"fraction", field("expires_in", 0.5), "whole"},
	})
	brings("interactive", []badInput{
		{"false without rights", field("interactive", false), "access"},
		{"false without a server", map[string]any{"interactive": false, "access": incomingAccess}, "auth_server"},
	})
	brings("unknown field", []badInput{{"a typo", field("acces", "x"), `"acces"`}, {"what is for deleting", field("force", true), `"force"`}})
	r.refuses(logical.UpdateOperation, "grants/x", "no grant named", map[string]any{}, []badInput{{"nothing to go by", nil, "access"}, {"settings alone", field("ttl", 5), "access"}})

	r.ask("income")
	for _, name := range []string{"access_token", "manage_url", "access", "wallet_address"} {
		r.refuses(logical.PatchOperation, "grants/income", name, map[string]any{}, []badInput{{"in a PATCH", field(name, "x"), "patched"}})
	}
	r.refuses(logical.PatchOperation, "grants/income", "ttl", map[string]any{}, []badInput{{"negative", field("ttl", -1), ""}})
	r.refuses(logical.DeleteOperation, "grants/income", "force", map[string]any{}, []badInput{{"no boolean", field("force", "perhaps"), ""}})
	r.refuses(logical.ListOperation, "grants/", "limit", map[string]any{}, []badInput{{"fraction", field("limit", "1.5"), ""}, {"no number", field("limit", "ten"), ""}})
	r.refuses(logical.ListOperation, "grants/", "unknown field", map[string]any{}, []badInput{{"unknown", field("page", 1), `"page"`}})
}

// A secret in a field of the wrong kind must not come back in the answer.
func TestMistypedSecretsAreNotRepeated(t *testing.T) {
	r := configured(t)
	for path, name := range map[string]string{"config": "private_key", "grants/x": "access_token"} {
		for _, value := range []any{[]any{"s3cr3t-value"}, map[string]any{"s3cr3t-value": "s3cr3t-value"}, map[string]any{"pem": []any{"s3cr3t-value"}}} {
			resp, err := r.do(r.ctx, logical.UpdateOperation, path, map[string]any{name: value})
			if err != nil || !resp.IsError() || strings.Contains(resp.Error().Error(), "s3cr3t") {
				t.Errorf("%s: %v", path, err)
			}
		}
	}
	if strings.Contains(r.log.String(), "s3cr3t") {
		t.Error("the log holds the value")
	}
}

func TestBadNames(t *testing.T) {
	r := withGrant(t)
	for _, name := range []string{"a..b", "a/b", "a/b/c", ".a", "a.", "-a", "a-", "a b", "ä", strings.Repeat("a", 129), "a//b", "a/"} {
		for _, path := range []string{"grants/", "token/", "rotate/", "roles/", "creds/"} {
			for _, op := range []logical.Operation{logical.ReadOperation, logical.UpdateOperation, logical.DeleteOperation, logical.PatchOperation} {
				r.fails(400, op, path+name, nil, "name")
			}
		}
	}
	// Nor is storage asked for such a name: Vault's view of it answers ".." with an error, which
	// the caller would see as a 500.
	r.storage.onRead = func(string) error { return errDisk }
	found, exists, err := r.b.HandleExistenceCheck(r.ctx, &logical.Request{Operation: logical.UpdateOperation, Path: "grants/a..b", Storage: r.storage})
	if !found || exists || err != nil {
		t.Errorf("%v %v %v", found, exists, err)
	}
	r.storage.heal()
	for _, name := range []string{"a", "_", "a.b-c_d", "A9", strings.Repeat("a", 128)} {
		if err := checkGrantName("name", name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, path := range []string{"nowhere", "config/x", "token/", "rotate"} {
		if _, err := r.do(r.ctx, logical.DeleteOperation, path, nil); err == nil {
			t.Errorf("%s: want an unsupported path or operation", path)
		}
	}
}

// A wallet document is somebody else's word: it cannot send us to our neighbours.
func TestWalletDocumentThatNamesAPrivateServer(t *testing.T) {
	r := configured(t)
	var document string
	var asked int
	wallet := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		_, _ = fmt.Fprint(w, document)
	}))
	defer wallet.Close()
	address := wallet.URL + "/alice" // so 127.0.0.1 is typed, and no other
	for _, server := range []string{
		strings.Replace(r.sandbox.AuthServer(), "127.0.0.1", "localhost", 1),
		"https://localhost:8200/auth", "https://127.1.2.3/auth", "https://[::1]/auth", "http://[::1]/auth",
		"https://10.1.2.3/auth", "https://192.168.0.1/auth", "https://172.16.0.1/auth", "https://169.254.169.254/latest", "https://[fe80::1]/auth",
		"https://[fd00::1]/auth", "https://[::ffff:10.0.0.1]/auth", "https://0.0.0.0/auth", "https://100.64.0.1/auth", "http://10.1.2.3/auth", "http://auth.example/", "ftp://auth.example/", "auth",
	} {
		for _, doc := range []string{
			fmt.Sprintf(`{"id":%q,"authServer":%q,"resourceServer":"https://rs.example/op"}`, address, server),
			fmt.Sprintf(`{"id":%q,"authServer":"https://auth.example","resourceServer":%q}`, address, server),
		} {
			document = doc
			before := r.requests()
			r.fails(400, logical.UpdateOperation, "grants/x", map[string]any{"wallet_address": address, "access": incomingAccess}, "wallet_address")
			if r.requests() != before {
				t.Errorf("%s was asked", server)
			}
			if keys, _ := r.storage.List(r.ctx, grantsPrefix); len(keys) != 0 {
				t.Errorf("%s: something is stored", server)
			}
		}
	}
	if asked == 0 {
		t.Error("the wallet document was never fetched")
	}
	// An operator may say that it is meant.
	elsewhere := strings.Replace(r.sandbox.AuthServer(), "127.0.0.1", "localhost", 1)
	document = fmt.Sprintf(`{"id":%q,"authServer":%q,"resourceServer":%q}`, address, elsewhere, r.sandbox.ResourceServer())
	r.ok(logical.PatchOperation, "config", map[string]any{"allowed_auth_servers": elsewhere})
	before := r.requests()
	if _, err := r.do(r.ctx, logical.UpdateOperation, "grants/x", map[string]any{"wallet_address": address, "access": incomingAccess}); err != nil {
		t.Fatal(err)
	}
	if r.requests() == before { // whatever it says to a signature over its other name
		t.Error("an allowed server was not asked")
	}

	for what, doc := range map[string]string{"not JSON": "<html>", "no authServer": `{"id":"x"}`, "a number": "7"} {
		document = doc
		r.fails(400, logical.UpdateOperation, "grants/y", map[string]any{"wallet_address": address, "access": incomingAccess}, "wallet_address")
		_ = what
	}
}

// invalidAccess returns what internal/rights rejects as access, as JSON text, by what is wrong with
// it.
func invalidAccess(t *testing.T) (invalid map[string]string) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "internal", "rights", "testdata", "invalid.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &invalid); err != nil || len(invalid) == 0 {
		t.Fatal("no invalid access", err)
	}
	return invalid
}
