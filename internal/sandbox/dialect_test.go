// SPDX-License-Identifier: MPL-2.0

package sandbox_test

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
)

func TestDialectClient(t *testing.T) {
	for form, want := range map[string]struct{ text, object int }{
		"":                   {200, 200},
		sandbox.ClientString: {200, 400},
		sandbox.ClientObject: {400, 200},
	} {
		t.Run(form, func(t *testing.T) {
			w := newWorld(t)
			w.SetDialect(sandbox.Dialect{Client: form})
			text := w.grantBody(w.right(`"read"`), "")
			object := strings.Replace(text, fmt.Sprintf("%q", w.WalletAddress("client")), fmt.Sprintf(`{"walletAddress":%q}`, w.WalletAddress("client")), 1)
			for body, status := range map[string]int{text: want.text, object: want.object} {
				r := w.requestGrant(body)
				w.want(r, status, "")
				if status == 400 && (!strings.Contains(r.body, `"description"`) || strings.Contains(r.body, `"code"`)) {
					t.Errorf("got %s, want no code", r)
				}
			}
		})
	}
}

// told are the members of an object in JSON.
func (w *world) told(body string, path ...string) (found json.RawMessage) {
	w.t.Helper()
	found = json.RawMessage(body)
	for _, name := range path {
		var object map[string]json.RawMessage
		if err := json.Unmarshal(found, &object); err != nil {
			w.t.Fatalf("there is no object that could hold %s", name)
		}
		found = object[name]
	}
	return found
}

func TestDialectToken(t *testing.T) {
	w := newWorld(t)
	for name, row := range map[string]struct {
		d     sandbox.Dialect
		check func(w *world, token json.RawMessage) bool
	}{
		"expires_in as a string": {sandbox.Dialect{ExpiresIn: sandbox.ExpiresString}, func(w *world, token json.RawMessage) bool {
			return string(w.told(string(token), "expires_in")) == `"600"`
		}},
		"no expires_in": {sandbox.Dialect{ExpiresIn: sandbox.ExpiresMissing}, func(w *world, token json.RawMessage) bool {
			return w.told(string(token), "expires_in") == nil
		}},
		"no manage": {sandbox.Dialect{Manage: sandbox.ManageMissing}, func(w *world, token json.RawMessage) bool {
			return w.told(string(token), "manage") == nil
		}},
		"manage as an object": {sandbox.Dialect{Manage: sandbox.ManageObject}, func(w *world, token json.RawMessage) bool {
			var url string
			return len(w.told(string(token), "manage", "access_token", "value")) > 2 &&
				json.Unmarshal(w.told(string(token), "manage", "uri"), &url) == nil &&
				w.ask(ask{method: "DELETE", url: url}).status == http.StatusNoContent
		}},
		"manage elsewhere": {sandbox.Dialect{Manage: sandbox.ManageForeign}, func(w *world, token json.RawMessage) bool {
			var url string
			return json.Unmarshal(w.told(string(token), "manage"), &url) == nil && strings.HasPrefix(url, "http://localhost:") &&
				w.ask(ask{method: "DELETE", url: url}).status == http.StatusNoContent
		}},
		"a list": {sandbox.Dialect{TokenList: true}, func(w *world, token json.RawMessage) bool {
			var list []json.RawMessage
			return json.Unmarshal(token, &list) == nil && len(list) == 1 && len(w.told(string(list[0]), "value")) > 2
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			w.SetDialect(sandbox.Dialect{})
			old, polled := w.grant(), w.pending(w.outgoing(""), "")
			w.consent(polled, true)
			w.clock.pass(5 * time.Second)
			w.SetDialect(row.d)
			for place, r := range map[string]reply{
				"grant":    w.requestGrant(w.grantBody(w.right(`"read"`), "")),
				"rotate":   w.ask(w.rotate(old)),
				"continue": w.ask(w.poll(polled)),
			} {
				if r.status != 200 || !row.check(w, w.told(r.body, "access_token")) {
					t.Errorf("%s: status %d, or it is told otherwise", place, r.status)
				}
			}
		})
	}
}

func TestDialectContinue(t *testing.T) {
	w := newWorld(t)
	body := w.grantBody(w.right(`"read"`), "")
	w.SetDialect(sandbox.Dialect{Continue: sandbox.ContinueMissing})
	if r := w.requestGrant(body); r.status != 200 || w.told(r.body, "continue") != nil {
		t.Error("there is a continue, or no grant")
	}
	for form, part := range map[string]string{sandbox.ContinueOtherPath: "/auth/grants/", sandbox.ContinueForeign: "http://localhost:"} {
		w.SetDialect(sandbox.Dialect{Continue: form})
		g, pending := w.decode(w.requestGrant(body)), w.pending(w.outgoing(""), app)
		for _, one := range []granted{g, pending} {
			if !strings.Contains(one.Continue.URI, part) || (form == sandbox.ContinueOtherPath) == strings.Contains(one.Continue.URI, "continue/") {
				t.Errorf("%s: the continue URI is as usual", form)
			}
		}
		before := w.Count("cancel")
		reference := w.reference(pending, w.consent(pending, true))
		w.clock.pass(5 * time.Second)
		w.want(w.ask(w.finish(pending, reference)), http.StatusOK, "")
		w.want(w.ask(w.cancel(g)), http.StatusNoContent, "")
		if w.Count("cancel") != before+1 {
			t.Error("it is not counted")
		}
	}
}

// Each answer to a continue request replaces the continuation.
func TestDialectNewContinue(t *testing.T) {
	w := newWorld(t)
	w.SetDialect(sandbox.Dialect{NewContinue: true})
	old := w.pending(w.outgoing(""), "")
	for range 2 {
		w.clock.pass(5 * time.Second)
		fresh := w.decode(w.ask(w.poll(old)))
		if fresh.Continue.URI == old.Continue.URI || fresh.Continue.AccessToken == old.Continue.AccessToken || fresh.Continue.Wait == nil {
			t.Error("the continuation is the old one, or there is no wait")
		}
		w.want(w.ask(w.poll(old)), http.StatusUnauthorized, invalidGrant)
		w.want(w.ask(w.cancel(old)), http.StatusUnauthorized, invalidGrant)
		fresh.Interact = old.Interact
		old = fresh
	}
	w.consent(old, true)
	w.clock.pass(5 * time.Second)
	done := w.decode(w.ask(w.poll(old)))
	w.want(w.ask(w.cancel(old)), http.StatusUnauthorized, invalidGrant)
	w.wantLive(1)
	w.want(w.ask(w.cancel(done)), http.StatusNoContent, "")
	w.wantLive(0)
}

// A server that keeps key sets does not know a key that was published meanwhile.
func TestKeyCache(t *testing.T) {
	w := newWorld(t)
	w.SetDialect(sandbox.Dialect{KeyCache: time.Minute})
	g := w.decode(w.ask(w.rotate(w.grant())))
	if w.Count("keys") != 1 {
		t.Errorf("the key set was fetched %d times", w.Count("keys"))
	}
	public, private, _ := ed25519.GenerateKey(nil)
	rotate := func(kid string) ask {
		a := w.rotate(g)
		a.key, a.keyID = private, kid
		return a
	}
	w.PublishKey(keyID, public)
	w.PublishKey("key-2", public)
	w.want(w.ask(rotate(keyID)), http.StatusUnauthorized, invalidSignature)
	w.want(w.ask(rotate("key-2")), http.StatusBadRequest, noClient)
	w.SetDialect(sandbox.Dialect{KeyCache: time.Minute, UnknownKey: 401})
	w.want(w.ask(rotate("key-2")), http.StatusUnauthorized, errorBody("invalid_client", "unknown key"))
	w.clock.pass(time.Minute - 1)
	w.want(w.ask(rotate(keyID)), http.StatusUnauthorized, invalidSignature)
	g = w.decode(w.ask(w.rotate(g))) // the old key is as good as ever
	w.clock.pass(1)
	g = w.decode(w.ask(rotate("key-2")))
	w.UnpublishKeys()
	g = w.decode(w.ask(rotate(keyID)))
	w.SetDialect(sandbox.Dialect{})
	w.want(w.ask(rotate(keyID)), http.StatusBadRequest, noClient)
	w.wantLive(1)
}

// A failed fetch is not kept, and a key set that is kept is not fetched while the wallet is down.
func TestKeyCacheAndWalletDown(t *testing.T) {
	w := newWorld(t)
	w.SetDialect(sandbox.Dialect{KeyCache: time.Minute})
	w.Misbehave(sandbox.Misbehaviour{KeysDown: true})
	w.want(w.requestGrant(w.grantBody(w.right(`"read"`), "")), http.StatusBadRequest, noClient)
	w.Misbehave()
	g := w.grant()
	w.Misbehave(sandbox.Misbehaviour{KeysDown: true})
	g = w.decode(w.ask(w.rotate(g)))
	w.clock.pass(time.Minute)
	w.want(w.ask(w.rotate(g)), http.StatusBadRequest, noClient)
}

func TestAliases(t *testing.T) {
	w := newWorld(t)
	w.Alias("/Alice", "alice")
	w.Alias("/people/alice", "alice")
	w.Alias("/till", "client")
	w.Redirect("/old", "shop")
	get := func(path string) reply { return w.ask(ask{method: "GET", url: w.URL() + path, unsigned: true}) }
	want := get("/alice").body
	for _, path := range []string{"/Alice", "/people/alice"} {
		w.want(get(path), http.StatusOK, want)
	}
	if w.Count("wallet") != 3 {
		t.Errorf("%d wallet documents were counted", w.Count("wallet"))
	}
	w.want(get("/till/jwks.json"), http.StatusOK, get("/client/jwks.json").body)
	if r := get("/old"); r.status != http.StatusFound || r.header.Get("Location") != w.WalletAddress("shop") {
		t.Errorf("got %s, want a redirect", r)
	}
	w.want(get("/ALICE"), http.StatusNotFound, "")
	w.SetDialect(sandbox.Dialect{})
	w.want(get("/Alice"), http.StatusNotFound, "")
}

// A key of somebody else in a form of its own does not hide the client's.
func TestPublishRawKey(t *testing.T) {
	w := newWorld(t)
	w.PublishRawKey(`{"kid":7,"kty":"OKP"}`)
	w.PublishRawKey(`"no object"`)
	set := fmt.Sprintf(`{"keys":[{"kid":7,"kty":"OKP"},"no object",%s]}`, w.jwk())
	w.want(w.ask(ask{method: "GET", url: w.WalletAddress("client") + "/jwks.json", unsigned: true}), http.StatusOK, set)
	w.grant()
	w.UnpublishKeys()
	w.want(w.ask(ask{method: "GET", url: w.WalletAddress("client") + "/jwks.json", unsigned: true}), http.StatusOK, `{"keys":[]}`)
}

func TestDialectEndpoint(t *testing.T) {
	w := newWorld(t)
	url := w.URL() + "/dialect"
	put := func(w *world, body string) reply {
		return w.ask(ask{method: "PUT", url: url, body: body, unsigned: true})
	}
	const all = `{"client":"string","token_list":true,"manage":"object","expires_in":"string","continue":"foreign",` +
		`"new_continue":true,"unknown_key":401,"aliases":{"/vanity":"alice"},"redirects":{"/old":"alice"},"key_cache":"1m0s"}`
	w.want(put(w, all), http.StatusOK, all)
	w.want(w.ask(ask{method: "GET", url: url, unsigned: true}), http.StatusOK, all)
	for name, wrong := range map[string]string{
		"not JSON":       `string`,
		"unknown member": `{"accent":"any"}`,
		"other client":   `{"client":"list"}`,
		"other manage":   `{"manage":"list"}`,
		"other expiry":   `{"expires_in":"never"}`,
		"other continue": `{"continue":"new"}`,
		"key cache":      `{"key_cache":"-1s"}`,
		"no duration":    `{"key_cache":60}`,
		"unknown key":    `{"unknown_key":404}`,
		"no path":        `{"aliases":{"vanity":"alice"}}`,
		"unclean path":   `{"aliases":{"//vanity":"alice"}}`,
		"nobody":         `{"redirects":{"/vanity":"nobody"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			w.wantText(put(w, wrong), http.StatusBadRequest)
			w.want(w.ask(ask{method: "GET", url: url, unsigned: true}), http.StatusOK, all)
		})
	}
	w.want(w.ask(ask{method: "DELETE", url: url, unsigned: true}), http.StatusNoContent, "")
	w.want(w.ask(ask{method: "GET", url: url, unsigned: true}), http.StatusOK, `{}`)
	d := sandbox.Dialect{KeyCache: time.Minute, Aliases: map[string]string{"/a": "shop"}}
	text, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	var read sandbox.Dialect
	if err := json.Unmarshal(text, &read); err != nil || !reflect.DeepEqual(read, d) {
		t.Errorf("%s was read as %+v, %v", text, read, err)
	}
	defer func() {
		if recover() == nil {
			t.Error("SetDialect took what cannot be")
		}
	}()
	w.SetDialect(sandbox.Dialect{Manage: "list"})
}
