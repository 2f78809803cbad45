// SPDX-License-Identifier: MPL-2.0

package sandbox_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestGrantWithoutInteraction(t *testing.T) {
	w := newWorld(t)
	for name, access := range map[string]string{
		"incoming": w.right(`"create"`),
		"any":      `{"type":"incoming-payment","actions":["create"]}`,
		"quote":    `{"type":"quote","actions":["create","read"]}`,
		"both":     w.right(`"read"`) + `,{"type":"quote","actions":["create"]}`,
	} {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			r := w.requestGrant(w.grantBody(access, ""))
			g := w.decode(r)
			if g.AccessToken.Value == "" || g.AccessToken.ExpiresIn != 600 || g.Continue.AccessToken.Value == "" {
				t.Error("a part of the answer is missing")
			}
			if !strings.HasPrefix(g.AccessToken.Manage, w.AuthServer()+"/token/") ||
				!strings.HasPrefix(g.Continue.URI, w.AuthServer()+"/continue/") {
				t.Error("a URL is not the authorization server's")
			}
			if g.Continue.Wait != nil || strings.Contains(r.body, `"interact"`) {
				t.Error("the answer has a wait or an interaction")
			}
			if !strings.Contains(r.body, `"access":[`+access+`]`) {
				t.Error("the rights are not those asked for")
			}
			if !w.Live(g.AccessToken.Value) {
				t.Error("the token is not live")
			}
		})
	}
}

// The grant endpoint is the same with a slash at its end.
func TestGrantEndpointWithSlash(t *testing.T) {
	w := newWorld(t)
	r := w.ask(ask{method: "POST", url: w.AuthServer() + "/", body: w.grantBody(w.right(`"create"`), "")})
	w.want(r, http.StatusOK, "")
	if w.Count("grant") != 1 {
		t.Errorf("%d grant requests were counted", w.Count("grant"))
	}
}

func TestClientForms(t *testing.T) {
	w := newWorld(t)
	key := func(kid string) string {
		x := base64.RawURLEncoding.EncodeToString(w.key.Public().(ed25519.PublicKey))
		return fmt.Sprintf(`{"jwk":{"kid":%q,"alg":"EdDSA","kty":"OKP","crv":"Ed25519","x":%q}}`, kid, x)
	}
	wallet := fmt.Sprintf("%q", w.WalletAddress("client"))
	nobody := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(nobody.Close)
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	for name, row := range map[string]struct {
		client string
		status int
		body   string
	}{
		"string":              {wallet, 200, ""},
		"wallet address":      {`{"walletAddress":` + wallet + `}`, 200, ""},
		"key":                 {key(keyID), 200, ""},
		"key of other id":     {key("key-2"), 400, noClient},
		"trailing slash":      {strings.TrimSuffix(wallet, `"`) + `/"`, 400, noClient},
		"no keys there":       {fmt.Sprintf("%q", w.WalletAddress("alice")), 400, noClient},
		"no such wallet":      {fmt.Sprintf("%q", w.URL()+"/bob"), 400, noClient},
		"no such document":    {fmt.Sprintf("%q", nobody.URL), 400, noClient},
		"nobody there":        {fmt.Sprintf("%q", gone.URL), 400, noClient},
		"not a URL":           {`"client"`, 400, ""},
		"both":                {`{"walletAddress":` + wallet + `,"jwk":{}}`, 400, ""},
		"unknown member":      {`{"wallet":` + wallet + `}`, 400, ""},
		"a key that is none":  {`{"jwk":{"kid":"key-1"}}`, 400, ""},
		"a number":            {`1`, 400, ""},
		"nothing in an array": {`[]`, 400, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			body := fmt.Sprintf(`{"access_token":{"access":[%s]},"client":%s}`, w.right(`"create"`), row.client)
			w.want(w.requestGrant(body), row.status, row.body)
		})
	}
}

// A client known by its key only continues with that key.
func TestGrantOfKeyOnly(t *testing.T) {
	w := newWorld(t)
	x := base64.RawURLEncoding.EncodeToString(w.key.Public().(ed25519.PublicKey))
	client := fmt.Sprintf(`{"jwk":{"kid":"only","alg":"EdDSA","use":"sig","kty":"OKP","crv":"Ed25519","x":%q}}`, x)
	body := fmt.Sprintf(`{"access_token":{"access":[%s]},"client":%s}`, w.right(`"create"`), client)
	w.UnpublishKeys()
	g := w.decode(w.ask(ask{method: "POST", url: w.AuthServer(), body: body, keyID: "only"}))
	a := w.rotate(g)
	a.keyID = "only"
	w.want(w.ask(a), http.StatusOK, "")
	body = fmt.Sprintf(`{"access_token":{"access":[%s]},"client":%s,"interact":{"start":["redirect"]}}`, w.outgoing(""), client)
	w.want(w.ask(ask{method: "POST", url: w.AuthServer(), body: body, keyID: "only"}), http.StatusBadRequest, noClient)
}

func TestGrantRefused(t *testing.T) {
	const (
		usd      = `{"value":"500","assetCode":"USD","assetScale":2}`
		start    = `,"interact":{"start":["redirect"]}`
		noCode   = "no code"
		anything = ""
	)
	w := newWorld(t)
	for name, row := range map[string]struct{ body, want string }{
		"outgoing without interact": {w.grantBody(w.outgoing(""), ""),
			errorBody("invalid_request", "missing required request field 'interact'")},
		"both amounts": {w.grantBody(w.outgoing(`,"limits":{"debitAmount":`+usd+`,"receiveAmount":`+usd+`}`), start),
			errorBody("invalid_request", "only one access amount allowed")},
		"both amounts without interact": {w.grantBody(w.outgoing(`,"limits":{"debitAmount":`+usd+`,"receiveAmount":`+usd+`}`), ""),
			errorBody("invalid_request", "missing required request field 'interact'")},
		"subject":   {fmt.Sprintf(`{"client":%q,"subject":{"sub_ids":[]}%s}`, w.WalletAddress("client"), start), anything},
		"no rights": {w.grantBody("", ""), anything},

		"an array":          {`[]`, noCode},
		"nothing":           {`{}`, noCode},
		"no client":         {`{"access_token":{"access":[]}}`, noCode},
		"no access token":   {fmt.Sprintf(`{"client":%q}`, w.WalletAddress("client")), noCode},
		"no access":         {fmt.Sprintf(`{"client":%q,"access_token":{}}`, w.WalletAddress("client")), noCode},
		"null access":       {fmt.Sprintf(`{"client":%q,"access_token":{"access":null}}`, w.WalletAddress("client")), noCode},
		"other type":        {w.grantBody(`{"type":"payment","actions":["create"]}`, ""), noCode},
		"no actions":        {w.grantBody(`{"type":"quote"}`, ""), noCode},
		"other action":      {w.grantBody(`{"type":"quote","actions":["list"]}`, ""), noCode},
		"action twice":      {w.grantBody(`{"type":"quote","actions":["read","read"]}`, ""), noCode},
		"null action":       {w.grantBody(`{"type":"quote","actions":[null]}`, ""), noCode},
		"unknown member":    {w.grantBody(`{"type":"quote","actions":["read"],"limits":{}}`, ""), noCode},
		"capital letters":   {w.grantBody(`{"Type":"quote","actions":["read"]}`, ""), noCode},
		"quote with owner":  {w.grantBody(`{"type":"quote","actions":["read"],"identifier":"https://a.example/b"}`, ""), noCode},
		"outgoing, no one":  {w.grantBody(`{"type":"outgoing-payment","actions":["read"]}`, start), noCode},
		"identifier no URL": {w.grantBody(`{"type":"incoming-payment","actions":["read"],"identifier":"alice"}`, ""), noCode},
		"right twice":       {w.grantBody(w.right(`"read"`)+","+w.right(`"read"`), ""), noCode},
		"four rights": {w.grantBody(w.right(`"read"`)+","+w.right(`"list"`)+","+w.right(`"create"`)+","+w.right(`"complete"`), ""),
			noCode},
		"amount no number":  {w.grantBody(w.outgoing(`,"limits":{"debitAmount":{"value":"5.0","assetCode":"USD","assetScale":2}}`), start), noCode},
		"amount too large":  {w.grantBody(w.outgoing(`,"limits":{"debitAmount":{"value":"18446744073709551616","assetCode":"USD","assetScale":2}}`), start), noCode},
		"scale too large":   {w.grantBody(w.outgoing(`,"limits":{"debitAmount":{"value":"5","assetCode":"USD","assetScale":256}}`), start), noCode},
		"receiver":          {w.grantBody(w.outgoing(`,"limits":{"receiver":"https://a.example/b"}`), start), noCode},
		"interact no start": {w.grantBody(w.outgoing(""), `,"interact":{}`), noCode},
		"other start":       {w.grantBody(w.outgoing(""), `,"interact":{"start":["app"]}`), noCode},
		"finish no nonce": {w.grantBody(w.outgoing(""),
			`,"interact":{"start":["redirect"],"finish":{"method":"redirect","uri":"https://a.example"}}`), noCode},
		"finish by push": {w.grantBody(w.outgoing(""),
			`,"interact":{"start":["redirect"],"finish":{"method":"push","uri":"https://a.example","nonce":"n"}}`), noCode},
	} {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			r := w.requestGrant(row.body)
			switch row.want {
			case noCode:
				if !strings.HasPrefix(r.body, `{"error":{"description":"`) {
					t.Errorf("got %s, want no code", r)
				}
				w.want(r, http.StatusBadRequest, "")
				// What does not fit the document is refused before the signature is looked at.
				w.want(w.ask(ask{method: "POST", url: w.AuthServer(), body: row.body, unsigned: true}), 400, r.body)
			default:
				w.want(r, http.StatusBadRequest, row.want)
			}
		})
	}
	w.wantLive(0)
}

// What is signed is the digest of JSON.stringify(JSON.parse(body)), not of the body.
func TestBodies(t *testing.T) {
	w := newWorld(t)
	good := w.grantBody(w.right(`"create"`), `,"note":"a&b"`)
	for name, row := range map[string]struct {
		ask    ask
		status int
		body   string
	}{
		"compact":        {ask{body: good}, 200, ""},
		"escaped":        {ask{body: strings.Replace(good, "&", `\u0026`, 1)}, 401, invalidHeaders},
		"newline":        {ask{body: good + "\n"}, 401, invalidHeaders},
		"spaces":         {ask{body: strings.Replace(good, `,"note"`, `, "note"`, 1)}, 401, invalidHeaders},
		"normal digest":  {ask{body: good + "\n", digestOf: good}, 200, ""},
		"2.0":            {ask{body: w.grantBody(w.right(`"create"`), `,"n":2.0`)}, 401, invalidHeaders},
		"above 2^53":     {ask{body: w.grantBody(w.right(`"create"`), `,"n":9007199254740993`)}, 401, invalidHeaders},
		"other digest":   {ask{body: good, digestOf: "{}"}, 401, invalidHeaders},
		"unsigned":       {ask{body: good, unsigned: true}, 401, invalidHeaders},
		"digest missing": {ask{body: good, covered: []string{"@method", "@target-uri"}}, 401, invalidHeaders},
		"chunked":        {ask{body: good, chunked: true}, 401, invalidHeaders},
		"chunked, not covered": {ask{body: good, chunked: true, covered: []string{"@method", "@target-uri", "content-digest"}},
			401, invalidHeaders},
		"only the digest": {ask{body: good, covered: []string{"@method", "@target-uri", "content-digest"}}, 200, ""},
		"not JSON":        {ask{body: good, setHeader: map[string]string{"Content-Type": "text/plain"}}, 415, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			row.ask.method, row.ask.url = "POST", w.AuthServer()
			w.want(w.ask(row.ask), row.status, row.body)
		})
	}
	for _, malformed := range []string{"{", `{"a":01}`, "1", `"text"`, "null", "<html>"} {
		w.wantText(w.ask(ask{method: "POST", url: w.AuthServer(), body: malformed}), http.StatusBadRequest)
	}
	w.wantText(w.ask(ask{method: "POST", url: w.AuthServer(), body: strings.Repeat(" ", 1<<20+1)}), http.StatusRequestEntityTooLarge)
}

func TestCancel(t *testing.T) {
	w := newWorld(t)
	g := w.grant()
	w.clock.pass(5 * time.Second)
	additional := w.decode(w.ask(w.poll(g)))
	rotated := w.decode(w.ask(w.rotate(additional)))
	w.wantLive(2)

	wrong := w.cancel(g)
	wrong.token = "wrong"
	w.want(w.ask(wrong), http.StatusUnauthorized, invalidGrant)
	wrong.token = ""
	w.want(w.ask(wrong), http.StatusUnauthorized, invalidHeaders)
	w.wantLive(2)

	w.want(w.ask(w.cancel(g)), http.StatusNoContent, "")
	w.wantLive(0)
	w.want(w.ask(w.cancel(g)), http.StatusUnauthorized, invalidGrant)
	w.want(w.ask(w.poll(g)), http.StatusUnauthorized, invalidGrant)
	w.want(w.ask(w.rotate(rotated)), http.StatusUnauthorized, invalidAccessToken)
	w.want(w.ask(w.rotate(g)), http.StatusUnauthorized, invalidAccessToken)
}

// A grant that needed nobody's consent can be continued once, for an additional token.
func TestContinueWithoutInteraction(t *testing.T) {
	w := newWorld(t)
	g := w.grant()
	w.want(w.ask(w.poll(g)), http.StatusBadRequest, "")
	w.clock.pass(5*time.Second - 1)
	if r := w.ask(w.poll(g)); r.status != 400 || !strings.Contains(r.body, `"too_fast"`) || r.header.Get("Retry-After") != "" {
		t.Errorf("got %s, want 400 too_fast without Retry-After", r)
	}
	w.clock.pass(1)
	again := w.decode(w.ask(w.poll(g)))
	if again.Continue.URI != g.Continue.URI || again.Continue.Wait != nil || again.AccessToken.Value == g.AccessToken.Value {
		t.Error("the continuation has changed, has a wait, or the token is the first one")
	}
	w.wantLive(2)
	w.clock.pass(5 * time.Second)
	if r := w.ask(w.poll(g)); r.status != 401 || !strings.Contains(r.body, `"request_denied"`) {
		t.Errorf("got %s, want 401 request_denied", r)
	}
}

func TestInteractiveGrant(t *testing.T) {
	const finish = `"finish":{"method":"redirect","uri":"https://app.example/done?a=b","nonce":"n"}`
	w := newWorld(t)
	for name, row := range map[string]struct {
		interact string
		poll     string // the code, empty if the grant can be polled
	}{
		"to be polled": {`{"start":["redirect"]}`, ""},
		"with finish":  {`{"start":["redirect"],` + finish + `}`, "request_denied"},
	} {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			r := w.requestGrant(w.grantBody(w.outgoing(`,"limits":{"interval":"R/2026-01-01T00:00:00Z/P1M"}`), `,"interact":`+row.interact))
			g := w.decode(r)
			if strings.Contains(r.body, `"manage"`) || g.Interact.Finish == "" || g.Continue.Wait == nil || *g.Continue.Wait != 5 {
				t.Error("there is a token, or no finish, or not the wait")
			}
			redirect, err := url.Parse(g.Interact.Redirect)
			if err != nil || redirect.Query().Get("clientName") != "Client" || redirect.Query().Get("clientUri") != w.WalletAddress("client") {
				t.Error("the redirect does not name the client")
			}
			w.want(w.ask(w.poll(g)), http.StatusBadRequest, "")
			for range 3 {
				w.clock.pass(5 * time.Second)
				r := w.ask(w.poll(g))
				if row.poll != "" {
					w.want(r, http.StatusUnauthorized, errorBody(row.poll, "grant cannot be polled"))
					continue
				}
				pending := w.decode(r)
				if pending.AccessToken.Value != "" || pending.Continue.URI != g.Continue.URI || *pending.Continue.Wait != 5 {
					t.Error("a pending grant has a token, or another continuation")
				}
				if r := w.ask(w.poll(g)); r.status != 400 || !strings.Contains(r.body, `"too_fast"`) {
					t.Errorf("got %s, want 400 too_fast", r)
				}
			}
			wrong := w.poll(g)
			wrong.body = `{"interact_ref":"wrong"}`
			w.want(w.ask(wrong), http.StatusNotFound, errorBody("invalid_continuation", "grant not found"))
			wrong.body = `{"ref":"wrong"}`
			w.want(w.ask(wrong), http.StatusUnauthorized, "")
			wrong.body = `{"interact_ref":1}`
			w.want(w.ask(wrong), http.StatusBadRequest, "")
			wrong = w.poll(g)
			wrong.token = "wrong"
			w.want(w.ask(wrong), http.StatusUnauthorized, invalidGrant)
			w.want(w.ask(w.cancel(g)), http.StatusNoContent, "")
			w.want(w.ask(w.poll(g)), http.StatusUnauthorized, invalidGrant)
		})
	}
	w.wantLive(0)
}

// A client without a public name cannot be shown to an owner.
func TestInteractiveGrantNeedsPublicName(t *testing.T) {
	w := newWorld(t)
	x := base64.RawURLEncoding.EncodeToString(w.key.Public().(ed25519.PublicKey))
	wallet := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/jwks.json") {
			fmt.Fprintf(rw, `{"keys":[{"kid":%q,"alg":"EdDSA","kty":"OKP","crv":"Ed25519","x":%q}]}`, keyID, x)
			return
		}
		fmt.Fprint(rw, `{"id":"nameless"}`)
	}))
	t.Cleanup(wallet.Close)
	body := func(access string) string {
		return fmt.Sprintf(`{"access_token":{"access":[%s]},"client":%q,"interact":{"start":["redirect"]}}`, access, wallet.URL+"/me")
	}
	w.want(w.requestGrant(body(w.right(`"create"`))), http.StatusOK, "")
	w.want(w.requestGrant(body(w.outgoing(""))), http.StatusBadRequest,
		errorBody("invalid_request", "the client's wallet address has no public name"))
}

// What other clients have asked for is the owner's to show.
func TestAllIncomingPaymentsNeedConsent(t *testing.T) {
	w := newWorld(t)
	const start = `,"interact":{"start":["redirect"]}`
	for _, action := range []string{`"list-all"`, `"read-all"`, `"create","read-all"`} {
		w.want(w.requestGrant(w.grantBody(w.right(action), "")), http.StatusBadRequest,
			errorBody("invalid_request", "missing required request field 'interact'"))
		g := w.decode(w.requestGrant(w.grantBody(w.right(action), start)))
		if g.AccessToken.Value != "" || g.Interact.Redirect == "" {
			t.Errorf("%s needs no consent", action)
		}
	}
	anybodys := `{"type":"incoming-payment","actions":["%s-all"]}`
	w.want(w.requestGrant(w.grantBody(fmt.Sprintf(anybodys, "list"), start)), http.StatusBadRequest,
		errorBody("invalid_request", "list-all of incoming payments needs an identifier"))
	w.want(w.requestGrant(w.grantBody(fmt.Sprintf(anybodys, "read"), start)), http.StatusOK, "")
	w.wantLive(0)
}
