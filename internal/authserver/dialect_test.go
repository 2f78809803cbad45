// SPDX-License-Identifier: MPL-2.0

package authserver

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
)

// B9: what other servers than Rafiki may answer. Members of the wrong kind count as absent, those
// that are unknown are ignored.
func TestTokensOfOtherServers(t *testing.T) {
	whole := TokenIssued{Value: "v", Manage: "m"}
	for body, want := range map[string]TokenIssued{
		`{"access_token":{"value":"v","manage":{"uri":"m","access_token":{"value":"x"}}}}`:                     whole, // RFC 9635 section 3.2.1
		`{"access_token":{"value":"v","manage":{"access_token":{"value":"x"}}}}`:                               {Value: "v"},
		`{"access_token":{"value":"v","manage":{"uri":7}}}`:                                                    {Value: "v"},
		`{"access_token":{"value":"v","manage":["m"]}}`:                                                        {Value: "v"},
		`{"access_token":{"value":"v","manage":null}}`:                                                         {Value: "v"},
		`{"access_token":{"value":"v","manage":true}}`:                                                         {Value: "v"},
		`{"access_token":{"value":"v"}}`:                                                                       {Value: "v"},
		`{"access_token":[{"value":"v","manage":"m"}]}`:                                                        whole, // RFC 9635 section 3.2.2
		`{"access_token":[null,7,{},{"label":"x"},{"value":"v","manage":"m"},{"value":"w"}]}`:                  whole,
		`{"access_token":"v"}`:                                                                                 {Value: "v"}, // as OAuth has it
		`{"access_token":{"value":"v","manage":"m","label":"x","key":{"proof":"httpsig"},"flags":["bearer"]}}`: whole,
		`{"access_token":{"value":"v","manage":"m","expires_in":"600"}}`:                                       {Value: "v", Manage: "m", Lifetime: 600 * time.Second},
		`{"access_token":{"value":"v","manage":"m","expires_in":{}}}`:                                          whole,
		`{"access_token":{"value":"v","manage":"m","expires_in":null}}`:                                        whole,
		`{"access_token":{"value":"v","manage":"m","access":"none"}}`:                                          whole,
		`{"access_token":{"value":"v","manage":"m","access":{"type":"quote"}}}`:                                whole,
		`{"access_token":{"value":"w","value":"v","manage":"m"}}`:                                              whole, // the last, as in JavaScript
		`{"access_token":{"value":"v","manage":"m","manage":null}}`:                                            whole,
		`{"access_token":{"value":"v","VALUE":"w","Manage":7,"manage":"m"},"ACCESS_TOKEN":null}`:               whole, // names count letter by letter
		`{"access_token":{"value":"w"},"access_token":{"value":"v","manage":"m"}}`:                             whole,
		`{"instance_id":"x","subject":null,"interact":null,"access_token":{"value":"v","manage":"m"}}`:         whole,
		`{"access_token":{"value":"v","manage":"m"},"continue":{"uri":"u"}}`:                                   whole, // nobody could use it
		`{"access_token":{"value":"v","manage":"m"},"continue":{"access_token":{"value":"c"}}}`:                whole,
		`{"access_token":{"value":"v","manage":"m"},"continue":"u"}`:                                           whole,
		`{"access_token":{"value":"v","manage":"m"},"continue":{"uri":"u","access_token":"c","wait":"x"}}`:     {Value: "v", Manage: "m", Continue: Continuation{URL: "u", Token: "c"}},
		`{"access_token":{"value":"v","manage":"m"},"continue":{"uri":"u","access_token":[{"value":"c"}]}}`:    {Value: "v", Manage: "m", Continue: Continuation{URL: "u", Token: "c"}},
	} {
		c, server := answering(t, http.StatusOK, "application/json", body)
		for name, out := range map[string]Outcome{
			"rotate": c.Rotate(context.Background(), server+"/token/1", "t"),
			"ask":    c.RequestGrant(context.Background(), server+"/", json.RawMessage(`[]`), nil),
		} {
			got, ok := out.(TokenIssued)
			if !ok || got.Value != want.Value || got.Manage != want.Manage || got.Access != nil ||
				got.Lifetime != want.Lifetime || got.Continue != want.Continue {
				t.Errorf("%s, %s: %T %+v", name, body, out, out)
			}
		}
	}
}

// B9, A4: what a continuation's answer does not say of the next continuation stays as it was.
func TestContinuations(t *testing.T) {
	at := func(server string) Continuation { return Continuation{URL: server + "/continue/1", Token: "c1"} }
	const next = "https://a.example/continue/2"
	for body, want := range map[string]struct {
		url, token string // empty: as before
		wait       time.Duration
		issued     bool
	}{
		`{"continue":{"uri":"` + next + `","access_token":{"value":"c2"},"wait":5}}`:                       {next, "c2", 5 * time.Second, false},
		`{"continue":{"uri":"` + next + `","access_token":{"value":"c2"},"wait":"5"}}`:                     {next, "c2", 5 * time.Second, false},
		`{"continue":{"uri":"` + next + `","access_token":"c2"}}`:                                          {next, "c2", 0, false},
		`{"continue":{"access_token":{"value":"c2"}}}`:                                                     {"", "c2", 0, false},
		`{"continue":{"uri":"` + next + `"}}`:                                                              {next, "", 0, false},
		`{"continue":{"wait":30}}`:                                                                         {"", "", 30 * time.Second, false},
		`{"continue":{}}`:                                                                                  {"", "", 0, false},
		`{"continue":{"access_token":{"value":"c2"}},"access_token":{"value":"v"}}`:                        {"", "c2", 0, true},
		`{"continue":{"uri":"` + next + `","access_token":{"value":"c2"}},"access_token":[{"value":"v"}]}`: {next, "c2", 0, true},
	} {
		c, server := answering(t, http.StatusOK, "application/json", body)
		wanted := at(server)
		if want.url != "" {
			wanted.URL = want.url
		}
		if want.token != "" {
			wanted.Token = want.token
		}
		var got Continuation
		var wait time.Duration
		switch out := c.Continue(context.Background(), at(server), "").(type) {
		case ConsentPending:
			got, wait = out.Continue, out.Wait
		case TokenIssued:
			got = out.Continue
		default:
			t.Errorf("%s: %T", body, out)
		}
		if got != wanted || wait != want.wait {
			t.Errorf("%s: %+v %s", body, got, wait)
		}
	}
	for _, body := range []string{`{}`, `{"continue":null}`, `{"continue":"x"}`, `{"continue":[]}`, `{"interact":{"redirect":"r"}}`} {
		c, server := answering(t, http.StatusOK, "application/json", body)
		if out, ok := c.Continue(context.Background(), at(server), "").(RequestFailed); !ok || !out.MaybeHeard() {
			t.Errorf("%s: %+v", body, out)
		}
	}
}

// asked is a server that takes clients in some forms.
type asked struct {
	mu    sync.Mutex
	forms []string
	// answer returns the status and the body for a form, "object" or "string".
	answer func(form string) (int, string)
}

func (a *asked) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	var body struct {
		Client json.RawMessage `json:"client"`
	}
	_ = json.NewDecoder(req.Body).Decode(&body)
	form := "other"
	var address string
	var object struct{ WalletAddress string }
	switch client := "http://" + req.Host + "/client"; {
	case json.Unmarshal(body.Client, &address) == nil && address == client:
		form = "string"
	case json.Unmarshal(body.Client, &object) == nil && object.WalletAddress == client:
		form = "object"
	}
	a.mu.Lock()
	a.forms = append(a.forms, form)
	status, answer := a.answer(form)
	a.mu.Unlock()
	w.WriteHeader(status)
	_, _ = io.WriteString(w, answer)
}

// take returns the forms that were asked with since the last call.
func (a *asked) take() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	defer func() { a.forms = nil }()
	return strings.Join(a.forms, " ")
}

// accepting answers a form with a token, and others with a refusal.
func accepting(accepted string, status int, refusal string) func(string) (int, string) {
	return func(form string) (int, string) {
		if form == accepted {
			return http.StatusOK, `{"access_token":{"value":"v","manage":"m"}}`
		}
		return status, refusal
	}
}

const codeless = `{"error":{"description":"client must be string"}}`

// D15: servers up to spring 2026 take the client as a string only.
func TestClientForms(t *testing.T) {
	a := &asked{}
	server := httptest.NewServer(a)
	defer server.Close()
	c, _ := clientAt(t, server.URL+"/client")
	ask := func() Outcome {
		return c.RequestGrant(context.Background(), server.URL+"/", json.RawMessage(`[{"type":"quote","actions":["create"]}]`), nil)
	}
	for _, step := range []struct {
		what   string
		answer func(string) (int, string)
		forms  string
		status int // 0: a token
		code   ErrorCode
	}{
		{"a server of today", accepting("object", 400, codeless), "object", 0, ""},
		{"it is asked the same way again", accepting("object", 400, codeless), "object", 0, ""},
		{"both are refused: a mistake in the rights", accepting("", 400, codeless), "object string", 400, ""},
		{"which teaches nothing", accepting("object", 400, codeless), "object", 0, ""},
		{"a code of its own is no matter of form", accepting("string", 400, coded("invalid_request", "")), "object", 400, InvalidRequest},
		{"nor is one that nobody knows", accepting("string", 400, coded("made_up", "")), "object", 400, ""},
		{"nor another status", accepting("string", 404, "no such page"), "object", 404, ""},
		{"nor a refusal to talk", accepting("string", 500, ""), "object", 500, ""},
		{"an older server", accepting("string", 400, codeless), "object string", 0, ""},
		{"it is asked the same way again", accepting("string", 400, codeless), "string", 0, ""},
		{"a mistake in the rights", accepting("", 400, "text"), "string object", 400, ""},
		{"does not make it forget", accepting("string", 400, codeless), "string", 0, ""},
		{"a newer version of it that takes both", accepting("string", 400, codeless), "string", 0, ""},
		{"one that takes only the object", accepting("object", 400, ""), "string object", 0, ""},
		{"is remembered", accepting("object", 400, ""), "object", 0, ""},
		{"the second answer's code is the reason", func(form string) (int, string) {
			if form == "object" {
				return 400, codeless
			}
			return 400, coded("invalid_request", "only one access amount allowed")
		}, "object string", 400, InvalidRequest},
		{"a second answer that may have made a grant is told", func(form string) (int, string) {
			if form == "object" {
				return 400, codeless
			}
			return 503, ""
		}, "object string", 503, ""},
		{"and is not remembered", accepting("object", 400, codeless), "object", 0, ""},
		{"consent is a success", func(form string) (int, string) {
			if form == "object" {
				return 400, codeless
			}
			return 200, `{"interact":{"redirect":"r","finish":"f"},"continue":{"uri":"u","access_token":{"value":"c"}}}`
		}, "object string", 0, ""},
		{"and is remembered", accepting("string", 400, codeless), "string", 0, ""},
	} {
		a.mu.Lock()
		a.answer = step.answer
		a.mu.Unlock()
		out := ask()
		f, failed := out.(RequestFailed)
		if failed != (step.status != 0) || f.Status != step.status || f.Code != step.code {
			t.Errorf("%s: %T %+v", step.what, out, out)
		}
		if forms := a.take(); forms != step.forms {
			t.Errorf("%s: asked with %s, want %s", step.what, forms, step.forms)
		}
	}
	other := c.network.Client(c.Identity)
	other.RequestGrant(context.Background(), server.URL+"/another/endpoint", json.RawMessage(`[]`), nil)
	if forms := a.take(); forms != "string" {
		t.Errorf("another client of the mount asks with %s", forms)
	}
}

func TestClientFormsAreBounded(t *testing.T) {
	var forms clientForms
	for i := range 3 * maxClientForms {
		forms.remember(fmt.Sprint("https://", i, ".example"), clientString)
		if len(forms.strings) > maxClientForms {
			t.Fatalf("%d are remembered", len(forms.strings))
		}
	}
	last := fmt.Sprint("https://", 3*maxClientForms-1, ".example")
	if forms.of(last) != clientString || forms.of("https://a.example") != clientObject {
		t.Error("the last one is forgotten")
	}
}

// E17: one HTTP/2 connection that went silent would block every grant of its server.
func TestSilentConnection(t *testing.T) {
	wallet, err := sandbox.Start(sandbox.Options{TLS: true})
	if err != nil {
		t.Fatal(err)
	}
	defer wallet.Close()
	c, _ := clientAt(t, wallet.WalletAddress("client"))
	c.CACert = string(wallet.CertificatePEM())
	wallet.Misbehave(sandbox.Misbehaviour{On: []string{"rotate"}, Silent: true})
	ctx, cancel := context.WithCancel(context.Background())
	var silent sync.WaitGroup
	for range 3 {
		silent.Go(func() {
			if f, ok := c.Rotate(ctx, wallet.AuthServer()+"/token/1", "t").(RequestFailed); !ok || f.Status != 0 || !f.MaybeHeard() {
				t.Errorf("%+v", f)
			}
		})
	}
	for wallet.Count("rotate") < 3 {
		runtime.Gosched()
	}
	if _, err := c.Wallet(context.Background(), wallet.WalletAddress("shop")); err != nil {
		t.Error(err)
	}
	cancel()
	silent.Wait()
	if offered := newTransport(reachPublic, nil).TLSClientConfig.NextProtos; !slices.Equal(offered, []string{"http/1.1"}) {
		t.Errorf("%v is offered", offered)
	}
}

// D16: a wallet address is known by its document's id.
func TestWalletDocumentID(t *testing.T) {
	var document string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, document) }))
	defer server.Close()
	c, _ := clientAt(t, server.URL+"/client")
	for id, taken := range map[string]bool{
		server.URL + "/alice":               true,
		"https://wallet.example/alice":      true, // a vanity address may be anywhere
		"https://Wallet.example/Alice":      true, // letter by letter as servers compare it
		"https://wallet.example":            true,
		"https://wallet.example/alice/":     false,
		"https://wallet.example/alice?x":    false,
		"https://wallet.example/alice#x":    false,
		"https://user@wallet.example/alice": false,
		"http://wallet.example/alice":       false,
		"$wallet.example/alice":             false,
		"wallet.example/alice":              false,
		"https://10.0.0.7/alice":            false, // nobody typed it
		"http://127.0.0.2:4000/alice":       false,
		"https://localhost/alice":           false,
		"javascript:alert(1)":               false,
		"https://wallet.example/al ice":     false,
		"":                                  false,
	} {
		document = fmt.Sprintf(`{"id":%q,"authServer":"https://a.example","ID":"https://other.example/bob","publicName":["x"],"x":1}`, id)
		doc, err := c.Wallet(context.Background(), server.URL+"/client")
		if err != nil || (doc.ID == id && id != "") != taken || doc.ID != "" && !taken || doc.PublicName != "" || doc.AuthServer != "https://a.example" {
			t.Errorf("%s: %+v %v", id, doc, err)
		}
	}
	for _, document = range []string{`{"id":7,"authServer":"https://a.example"}`, `{"id":null,"authServer":"https://a.example"}`, `{"authServer":"https://a.example"}`} {
		if doc, err := c.Wallet(context.Background(), server.URL+"/client"); err != nil || doc.ID != "" {
			t.Errorf("%s: %+v %v", document, doc, err)
		}
	}
	for _, document = range []string{`{"authServer":7}`, `{"authserver":"https://a.example"}`, `[]`, `{}`, `null`, ``, `<html>`} {
		if _, err := c.Wallet(context.Background(), server.URL+"/client"); err == nil {
			t.Errorf("%s: it is a document", document)
		}
	}
}

// D16: what else is in a key set is no matter of ours.
func TestKeyPublished(t *testing.T) {
	var status int
	var set string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, set)
	}))
	defer server.Close()
	c, _ := clientAt(t, server.URL+"/client")
	jwk, err := PublicJWK(c.KeyID, c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := json.Marshal(jwk)
	if err != nil {
		t.Fatal(err)
	}
	ours, x := string(encoded), jwk["x"].(string)
	for _, row := range []struct {
		status          int
		set             string
		published, fail bool
	}{
		{200, `{"keys":[` + ours + `]}`, true, false},
		{200, `{"keys":[{"kid":7,"x":true},` + ours + `]}`, true, false},
		{200, `{"keys":[null,7,"x",[],{},{"kid":null},{"kid":{},"x":[]},` + ours + `,{"kid":"key-1","x":"other"}]}`, true, false},
		{200, `{"KEYS":null,"keys":[` + ours + `],"Keys":7}`, true, false},
		{200, `{"keys":[{"kid":"key-1","KID":7,"x":"` + x + `","X":null}]}`, true, false},
		{200, `{"keys":[{"kid":"key-1","x":"` + x + `="}]}`, true, false},
		{200, `{"keys":[{"kid":"key-1","x":"other"},` + ours + `]}`, true, false},
		{200, `{"keys":[{"kid":"key-2","x":"` + x + `"},{"kid":"key-1","x":"other"},{"kid":"key-1"}]}`, false, false},
		{200, `{"keys":[{"kid":7,"x":"` + x + `"}]}`, false, false},
		{200, `{"keys":null}`, false, false},
		{200, `{"keys":{}}`, false, false},
		{200, `{"keys":[]}`, false, false},
		{200, `{}`, false, false},
		{404, `not found`, false, false},
		{200, `[` + ours + `]`, false, true},
		{200, `<html>`, false, true},
		{200, ``, false, true},
		{200, `{"keys":[` + ours + ``, false, true},
		{503, `{"keys":[` + ours + `]}`, false, true},
	} {
		status, set = row.status, row.set
		published, err := c.KeyPublished(context.Background())
		if published != row.published || (err != nil) != row.fail {
			t.Errorf("%d %s: %t %v", row.status, row.set, published, err)
		}
	}
}

// D16: whoever typed an address that redirects is told which one to write.
func TestRedirectsAreNamed(t *testing.T) {
	var status int
	var location string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if location != "" {
			w.Header().Set("Location", location)
		}
		w.WriteHeader(status)
	}))
	defer server.Close()
	c, _ := clientAt(t, server.URL+"/client")
	for _, status = range []int{301, 302, 303, 307, 308} {
		for to, named := range map[string]string{
			"https://wallet.example/alice":                       "https://wallet.example/alice",
			"https://wallet.example/alice?s3cr3t=1#x":            "",
			"https://wallet.example/alice?s3cr3t=1":              "https://wallet.example/alice",
			"https://wallet.example/alice?":                      "https://wallet.example/alice",
			"/alice":                                             server.URL + "/alice",
			"alice":                                              server.URL + "/alice",
			"//wallet.example/alice":                             "https://wallet.example/alice",
			"https://wallet.example/s3cr3t/":                     "",
			"http://s3cr3t.example/alice":                        "",
			"https://u:s3cr3t@wallet.example/alice":              "",
			"ftp://s3cr3t.example/alice":                         "",
			"https://wallet.example/al ice":                      "https://wallet.example/al%20ice",
			"::s3cr3t":                                           "",
			"https://s3cr3t.example/" + strings.Repeat("x", 300): "",
			"": "",
		} {
			location = to
			if strings.HasPrefix(to, "//") {
				named = "" // the server's own scheme, which is plain http
			}
			_, walletErr := c.Wallet(context.Background(), server.URL+"/client")
			askErr := c.RequestGrant(context.Background(), server.URL+"/", json.RawMessage(`[]`), nil).(RequestFailed)
			for what, err := range map[string]error{"wallet": walletErr, "ask": askErr} {
				f, ok := err.(RequestFailed) //nolint:errorlint // it is not wrapped
				if !ok || !f.IsRedirect() || f.Redirect != named || f.MaybeHeard() || strings.Contains(f.Error(), "s3cr3t") ||
					!strings.Contains(f.Error(), "redirects") || !strings.Contains(f.Error(), named) {
					t.Errorf("%s, %d to %q: %v", what, status, to, err)
				}
			}
			// A grant's own URLs are secrets, and so is where they redirect to.
			at := Continuation{URL: server.URL + "/continue/1", Token: "t"}
			for what, out := range map[string]any{
				"rotate": c.Rotate(context.Background(), server.URL+"/token/1", "t"), "revoke": c.Revoke(context.Background(), server.URL+"/token/1", "t"),
				"continue": c.Continue(context.Background(), at, ""), "cancel": c.Cancel(context.Background(), at),
			} {
				f, ok := out.(RequestFailed)
				if !ok || !f.IsRedirect() || f.Redirect != "" || f.Gone || !strings.Contains(f.Error(), "redirects") || to != "" && strings.Contains(f.Error(), to) {
					t.Errorf("%s, %d to %q: %v", what, status, to, out)
				}
			}
		}
	}
	status, location = http.StatusFound, "https://wallet.example/alice/jwks.json?x"
	if _, err := c.KeyPublished(context.Background()); err == nil || !strings.Contains(err.Error(), "https://wallet.example/alice;") {
		t.Errorf("%v", err)
	}
	for _, status = range []int{300, 304, 305} {
		_, err := c.Wallet(context.Background(), server.URL+"/client")
		if err == nil || strings.Contains(err.Error(), "redirect") {
			t.Errorf("%d: %v", status, err)
		}
	}
}
