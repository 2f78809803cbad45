// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	openpayments "github.com/interledger/open-payments-go"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
)

// reply is a response of Vault's HTTP API.
type reply struct {
	status int
	text   string
	data   map[string]any
	lease  string
	errors []string
}

// send sends a request with the root token, without retries. PATCH sends a merge patch.
func (e *engine) send(ctx context.Context, method, path, body string) (reply, error) {
	return e.sendTo(ctx, e.at(path), method, body)
}

// sendTo sends a request to a path of Vault's.
func (e *engine) sendTo(ctx context.Context, path, method, body string) (reply, error) {
	request, err := http.NewRequestWithContext(ctx, method, e.Address+"/v1/"+path, strings.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	request.Header.Set("X-Vault-Token", e.RootToken)
	if method == http.MethodPatch {
		request.Header.Set("Content-Type", "application/merge-patch+json")
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return reply{}, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return reply{}, err
	}
	var parts struct {
		Data    map[string]any
		LeaseID string `json:"lease_id"`
		Errors  []string
	}
	if len(text) > 0 {
		if err := json.Unmarshal(text, &parts); err != nil {
			return reply{}, fmt.Errorf("a %d that is not JSON: %w", response.StatusCode, err)
		}
	}
	return reply{response.StatusCode, string(text), parts.Data, parts.LeaseID, parts.Errors}, nil
}

// request sends a request and checks the response's status.
func (e *engine) request(status int, method, path, body string) reply {
	e.t.Helper()
	got, err := e.send(e.t.Context(), method, path, body)
	if err != nil {
		e.t.Fatal(err)
	}
	if got.status != status {
		e.t.Errorf("%s %s: status %d, not %d: %s", method, path, got.status, status, got.errors)
	}
	return got
}

func TestBadInputOverHTTP(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	e.ask("shop-income", nil)
	const mistyped = "bWlzdHlwZWQ" // must not be in a response
	requests := e.countRequests("rotate")

	for _, row := range []struct {
		name, method, path, body string
		status                   int
		says                     string
	}{
		{"unknown field", "POST", "config", `{"privat_key":"` + mistyped + `"}`, 400,
			`unknown field "privat_key" for op/config: it takes allowed_auth_servers`},
		{"unknown field of a grant", "PUT", "grants/new", `{"acces":"` + mistyped + `"}`, 400,
			`unknown field "acces" for op/grants/new`},
		{"field of a read", "GET", "token/shop-income?ttl=5", "", 400,
			`unknown field "ttl" for op/token/shop-income: this operation takes no fields`},
		{"field of a rotation", "POST", "rotate/shop-income", `{"force":true}`, 400, `unknown field "force"`},
		{"malformed name", "GET", "token/a..b", "", 400, "name: a grant's name has"},
		{"name with a slash", "POST", "grants/a/b", `{"ttl":5}`, 400, "name: a grant's name has"},
		{"name that ends with a slash", "GET", "token/shop-income/", "", 400, "name: a grant's name has"},
		{"list for a string", "POST", "config", `{"wallet_address":["` + mistyped + `"]}`, 400,
			"wallet_address: a list is not allowed here"},
		{"list for a key", "POST", "config", `{"private_key":["` + mistyped + `"]}`, 400,
			"private_key: a list is not allowed here"},
		{"object for a key", "POST", "config", `{"private_key":{"pem":"` + mistyped + `"}}`, 400,
			"private_key: an object is not allowed here"},
		{"object for a token", "POST", "grants/new", `{"access_token":{"value":"` + mistyped + `"}}`, 400,
			"access_token: an object is not allowed here"},
		{"bad key", "POST", "config", `{"private_key":"` + mistyped + `"}`, 400, "private_key: must be an Ed25519 key"},
		{"null", "POST", "config", `{"key_id":null}`, 400, "key_id: null is only for PATCH"},
		{"fraction of a second", "POST", "grants/shop-income", `{"ttl":0.5}`, 400,
			"ttl: must be a duration of whole seconds"},
		{"part of a second", "POST", "grants/shop-income", `{"ttl":"500ms"}`, 400,
			"ttl: must be a duration of whole seconds"},
		{"negative duration", "POST", "grants/shop-income", `{"max_ttl":-1}`, 400, "max_ttl: must not be negative"},
		{"not a boolean", "POST", "grants/shop-income", `{"renewable":"` + mistyped + `"}`, 400,
			"renewable: must be true or false"},
		{"bad rights", "POST", "grants/new", `{"access":"` + mistyped + `"}`, 400, "access: must be a JSON list of rights"},
		{"bad limit", "LIST", "grants?limit=few", "", 400, "limit: must be a whole number"},
		{"key patched with null", "PATCH", "config", `{"private_key":null}`, 400, "private_key: cannot be null"},
		{"wallet address patched with null", "PATCH", "config", `{"wallet_address":null}`, 400,
			"wallet_address: cannot be null"},
		{"list in a patch", "PATCH", "config", `{"key_id":["` + mistyped + `"]}`, 400, "key_id: a list is not allowed here"},
		{"token in a patch", "PATCH", "grants/shop-income", `{"access_token":"` + mistyped + `"}`, 400,
			"access_token: cannot be patched"},
		{"grant that is unknown, read", "GET", "grants/unknown", "", 404, ""},
		{"grant that is unknown, patched", "PATCH", "grants/unknown", `{"ttl":5}`, 400, `no grant named "unknown"`},
		{"token of an unknown grant", "GET", "token/unknown", "", 400,
			`no grant named "unknown": write op/grants/unknown first`},
		{"rotation of an unknown grant", "POST", "rotate/unknown", "", 400, `no grant named "unknown"`},
		{"no default grant", "GET", "token", "", 400, "op/config has no default_grant"},
		{"unknown path", "GET", "unknown", "", 404, "unsupported path"},
		{"unknown path, written", "POST", "unknown/path", `{"a":1}`, 404, "unsupported path"},
		{"operation that is not there", "POST", "token/shop-income", `{}`, 405, "unsupported operation"},
	} {
		t.Run(row.name, func(t *testing.T) {
			e := e.in(t)
			got := e.request(row.status, row.method, row.path, row.body)
			e.checkSays(strings.Join(got.errors, "\n"), row.says)
			if strings.Contains(got.text, mistyped) {
				t.Error("the response contains the mistyped value")
			}
		})
	}

	if n := requests(); n != 0 {
		t.Errorf("%d rotations", n)
	}
	e.request(404, "GET", "grants/new", "")
}

func TestPatchOverHTTP(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	e.ask("shop-income", nil)

	for _, row := range []struct {
		path, body string
		status     int
		want       map[string]any // what a read returns afterwards
	}{
		{"config", `{"request_timeout":"7s","default_grant":"shop-income","allowed_auth_servers":["` + e.wallet.URL() + `"]}`,
			204,
			map[string]any{"request_timeout": 7, "default_grant": "shop-income",
				"allowed_auth_servers": []string{e.wallet.URL()}, "key_id": keyID}},
		{"config", `{"request_timeout":null}`, 204,
			map[string]any{"request_timeout": 10, "default_grant": "shop-income"}},
		{"config", `{"default_grant":null,"allowed_auth_servers":null}`, 204,
			map[string]any{"default_grant": "", "allowed_auth_servers": []string{}, "key_id": keyID, "verify": true}},
		{"grants/shop-income", `{"ttl":"2m","max_ttl":300,"renewable":false,"on_revoke":"keep"}`, 200,
			map[string]any{"ttl": 120, "max_ttl": 300, "renewable": false, "on_revoke": "keep"}},
		{"grants/shop-income", `{"renewable":null,"ttl":null}`, 200,
			map[string]any{"ttl": 0, "max_ttl": 300, "renewable": true, "on_revoke": "keep"}},
		{"grants/shop-income", `{"max_ttl":null,"on_revoke":null,"shared":true,"min_ttl":"90s","keepalive":"0"}`, 200,
			map[string]any{"max_ttl": 0, "on_revoke": "rotate", "generation": 1, "shared": true, "min_ttl": 90, "keepalive": 0}},
		{"grants/shop-income", `{"shared":null,"min_ttl":null,"keepalive":null}`, 200,
			map[string]any{"shared": false, "min_ttl": 0, "keepalive": 604800, "generation": 1}},
	} {
		e.request(row.status, "PATCH", row.path, row.body)
		e.checkData(e.request(200, "GET", row.path, "").data, row.want)
	}
}

func TestListOverHTTP(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	for _, name := range []string{"a", "b", "c"} {
		e.ask(name, nil)
	}
	// An interactive grant whose token somebody else has revoked is lost.
	elsewhere := e.obtain()
	e.write("grants/d", elsewhere)
	err := e.client().Token.Revoke(t.Context(), openpayments.TokenRevokeParams{
		URL: fmt.Sprint(elsewhere["manage_url"]), AccessToken: fmt.Sprint(elsewhere["access_token"]),
	})
	if err != nil {
		t.Fatal(err)
	}
	e.request(400, "GET", "token/d", "")

	for query, want := range map[string][]string{
		"":                  {"a", "b", "c", "d"},
		"?limit=2":          {"a", "b"},
		"?after=a&limit=2":  {"b", "c"},
		"?after=b":          {"c", "d"},
		"?after=bb&limit=0": {"c", "d"},
		"?after=d":          nil,
	} {
		status := 200
		if want == nil {
			status = 404
		}
		got := e.request(status, "LIST", "grants"+query, "")
		var list struct {
			Data struct {
				Keys    []string
				KeyInfo map[string]struct{ Status string } `json:"key_info"`
			}
		}
		if err := json.Unmarshal([]byte(got.text), &list); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(list.Data.Keys, want) || len(list.Data.KeyInfo) != len(want) {
			t.Errorf("%q lists %v with %v", query, list.Data.Keys, list.Data.KeyInfo)
		}
		for name, info := range list.Data.KeyInfo {
			if lost := name == "d"; lost != (info.Status == "lost") || !lost && info.Status != "active" {
				t.Errorf("%q lists %s as %s", query, name, info.Status)
			}
		}
	}
}

// A failure of the authorization server is a 502 that names it. The grant returns the same error at
// once for a while, and recovers when the server does.
func TestServerThatFailsOverHTTP(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	e.ask("shop-income", nil)
	e.ask("other", nil)
	e.wallet.Misbehave(sandbox.Misbehaviour{On: []string{"rotate"}, Status: 500})

	first := e.request(502, "GET", "token/shop-income", "")
	e.checkSays(strings.Join(first.errors, "\n"), "the authorization server "+e.wallet.URL()+" answered 500")
	if strings.Contains(first.text, e.wallet.URL()+"/") {
		t.Error("the error names more than the server's origin")
	}

	rotations := e.countRequests("rotate")
	begun := time.Now()
	second := e.request(502, "GET", "token/shop-income", "")
	if took := time.Since(begun); took < time.Second { // otherwise the machine is slow and the second is over
		if second.text != first.text || rotations() != 0 {
			t.Errorf("the next read sends %d requests and returns %s", rotations(), second.errors)
		}
	}
	e.checkData(e.grant("shop-income"), map[string]any{"status": "active", "intent_open": true, "generation": 1})

	e.wallet.Misbehave(sandbox.Misbehaviour{})
	e.checkLive(e.tokenOf(e.read("other")))
	var after reply
	e.eventually("the server's recovery", func() bool {
		after, _ = e.send(t.Context(), "GET", "token/shop-income", "")
		return after.status == 200
	})
	e.checkData(after.data, map[string]any{"generation": 2})
	e.checkLive(fmt.Sprint(after.data["access_token"]))
	e.checkData(e.grant("shop-income"), map[string]any{"intent_open": false, "generation": 2})
}
