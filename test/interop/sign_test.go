// SPDX-License-Identifier: MPL-2.0

package interop

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// call is a request to the resource server, and the status that the response must have.
type call struct {
	status             int
	method, path, body string
}

// application has a token with every kind of right, and has the engine sign its requests.
type application struct {
	*engine
	token string
}

func (w *world) newApplication() application {
	w.Helper()
	e := w.newEngine()
	e.configure()
	alice := w.sandbox.WalletAddress("alice")
	pending := e.step(logical.UpdateOperation, "grants/all", map[string]any{"wallet_address": alice, "access": fmt.Sprintf(
		`[{"type":"incoming-payment","actions":["create","complete","read","list"],"identifier":%[1]q},`+
			`{"type":"quote","actions":["create","read"]},`+
			`{"type":"outgoing-payment","actions":["create","read","list"],"identifier":%[1]q,`+
			`"limits":{"debitAmount":{"value":"1000","assetCode":"USD","assetScale":2}}}]`,
		alice)})
	if _, err := w.sandbox.Consent(pending.Data["interact_url"].(string), true); err != nil {
		w.Fatal(err)
	}
	w.pass()
	e.step(logical.UpdateOperation, "grants/all/continue", nil)
	return application{e, e.step(logical.ReadOperation, "token/all", nil).Data["access_token"].(string)}
}

func (a application) fields(c call) map[string]any {
	return map[string]any{"method": c.method, "url": a.sandbox.ResourceServer() + c.path, "body": c.body}
}

// sign returns the headers and the body of a request that is signed alone.
func (a application) sign(c call) map[string]any {
	a.Helper()
	fields := a.fields(c)
	fields["access_token"] = a.token
	return a.succeeded(a.do(logical.UpdateOperation, "sign/all", fields)).Data
}

// signAll returns the headers and bodies of requests that are signed in one batch.
func (a application) signAll(calls []call) (signed []map[string]any) {
	a.Helper()
	batch := make([]any, len(calls))
	for i, c := range calls {
		batch[i] = a.fields(c)
	}
	resp := a.succeeded(a.do(logical.UpdateOperation, "sign/all",
		map[string]any{"access_token": a.token, "batch_input": batch}))
	for _, result := range resp.Data["batch_results"].([]any) {
		signed = append(signed, result.(map[string]any))
	}
	return signed
}

// send sends a signed request, with exactly the returned headers and body, and returns the id in
// the response.
func (a application) send(c call, signed map[string]any) (id string) {
	a.Helper()
	if said, refused := signed["error"]; refused {
		a.Fatalf("%s %s is not signed: %v", c.method, c.path, said)
	}
	body, _ := signed["body"].(string)
	req, err := http.NewRequestWithContext(a.Context(), c.method, a.sandbox.ResourceServer()+c.path,
		strings.NewReader(body))
	if err != nil {
		a.Fatal(err)
	}
	for name, value := range signed["headers"].(map[string]string) {
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		a.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct{ ID string }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || resp.StatusCode != c.status {
		a.Fatalf("%s %s: answered with %d, want %d; %v", c.method, c.path, resp.StatusCode, c.status, err)
	}
	return answer.ID
}

// make creates a resource, and returns its path below the resource server and its URL.
func (a application) make(collection, body string) (path, id string) {
	a.Helper()
	c := call{http.StatusCreated, "POST", collection, body}
	id = a.send(c, a.sign(c))
	return strings.TrimPrefix(id, a.sandbox.ResourceServer()), id
}

// driveSign has the engine sign every operation of the resource server, one by one and in a batch.
func (w *world) driveSign() {
	w.Helper()
	a := w.newApplication()
	alice := w.sandbox.WalletAddress("alice")
	list := "?first=10&wallet-address=" + url.QueryEscape(alice)
	for _, form := range []string{"op/sign", "op/sign batch"} {
		w.record.step("op/sign: what there has to be")
		payment, receiver := a.make("/incoming-payments", fmt.Sprintf(`{"walletAddress":%q}`, alice))
		quote := fmt.Sprintf(`{"walletAddress":%q,"receiver":%q,"method":"ilp",`+
			`"debitAmount":{"value":"10","assetCode":"USD","assetScale":2}}`, alice, receiver)
		order := func() string {
			_, id := a.make("/quotes", quote)
			return fmt.Sprintf(`{"walletAddress":%q,"quoteId":%q,"metadata":{"note":"A \u0026 B <ü>"}}`, alice, id)
		}
		quoted, _ := a.make("/quotes", quote)
		paid, _ := a.make("/outgoing-payments", order())
		calls := []call{
			{201, "POST", "/incoming-payments",
				fmt.Sprintf(`{ "metadata": {"10": 1.0, "9": "\u2028 \"€\" 💶"}, "walletAddress": %q }`, alice)},
			{200, "GET", "/incoming-payments" + list, ""},
			{200, "GET", payment, ""},
			{201, "POST", "/quotes", quote},
			{200, "GET", quoted, ""},
			{201, "POST", "/outgoing-payments", order()},
			{200, "GET", "/outgoing-payments" + list, ""},
			{200, "GET", paid, ""},
			{200, "GET", "/outgoing-payment-grant", ""},
			{200, "POST", payment + "/complete", ""},
		}
		var signed []map[string]any
		if form == "op/sign" {
			for _, c := range calls {
				signed = append(signed, a.sign(c))
			}
		} else {
			signed = a.signAll(calls)
		}
		w.record.step(form + ": every operation")
		for i, c := range calls {
			a.send(c, signed[i])
		}
	}
}

// bodies are JSON texts that JSON parsers and serializers treat differently. Each is the value of a
// member of metadata, unless it is a whole body, in which WALLET stands for the wallet address.
var bodies = []struct{ name, text string }{
	{"white space", "{ \"walletAddress\" :\tWALLET ,\r\n \"metadata\" : { \"a\" : [ 1 , 2 ] } }\n"},
	{"another order", `{"metadata":{"z":1,"a":2},"walletAddress":WALLET}`},
	{"an escaped name", `{"w\u0061llet\u0041ddress":WALLET}`},
	{"no more than needed", `{"walletAddress":WALLET}`},

	{"short escapes", `"\"\\\/\b\f\n\r\t"`},
	{"short escapes, spelled out", `"\u0022\u005c\u002f\u0008\u000c\u000a\u000d\u0009"`},
	{"control characters", `"\u0000\u0001\u001f\u007f\u0080\u009f"`},
	{"what HTML escapes", `"<a href='x'>&amp;</a>"`},
	{"what HTML escapes, escaped", `"\u003ca href=\u0027x\u0027\u003e\u0026amp;\u003C/a\u003E"`},
	{"an escaped escape", `"\\u0026 \\n \\\\ \\\""`},
	{"line separators", "\"a\u2028b\u2029c\""},
	{"line separators, escaped", `"a\u2028b\u2029c"`},
	{"accents", "\"caf\u00e9 cafe\u0301 \u212b \u00c5\""},
	{"accents, escaped", `"caf\u00e9 cafe\u0301 \u212B \u00C5"`},
	{"emoji", `"💶 👩‍👩‍👧 🏳️‍🌈"`},
	{"emoji, escaped", `"\ud83d\udcb6 \uD83D\uDCB6"`},
	{"beyond emoji", `"\udbff\udfff 𐀀"`},
	{"high surrogate", `"\ud800"`},
	{"low surrogate", `"\udfff"`},
	{"surrogates the wrong way round", `"\udcb6\ud83d"`},
	{"a surrogate too many", `"\ud83d\ud83d\udcb6\udcb6"`},
	{"surrogates apart", `"\ud83d \udcb6 \uD83D\\udcb6"`},
	{"a surrogate as a name", `{"\ud83d":1,"a\udcb6":2}`},
	{"no characters", `"\ufffd\ufeff\uffff\ufdd0"`},
	{"a long text", `"` + strings.Repeat(`A\u0026€`, 3000) + `"`},

	{"a whole number with a fraction", `[2.0,-3.00,20.10]`},
	{"exponents", `[1e3,1E3,1e+3,1e-3,1.5e3,12.5e-1,0e9]`},
	{"minus nothing", `[-0,-0.0,-0e-9,0]`},
	{"fractions", `[0.1,0.2,0.30000000000000004,1.1,100.01]`},
	{"more digits than there is room for", `[0.1000000000000000055511151231257827,3.14159265358979323846264338327950288]`},
	{"just before another spelling", `[0.000001,0.0000001,0.00000123,1e-6,1e-7,123e-9]`},
	{"the largest", `[9007199254740991,-9007199254740991,9.007199254740991e15,900719925474099.1e1]`},
	{"halves of the largest", `[4503599627370495.5,4503599627370496.5,2251799813685248.25]`},
	{"the smallest", `[5e-324,-5e-324,2.2250738585072014e-308,2.225073858507201e-308]`},
	{"too small", `[1e-400,-1e-400,2e-324]`},
	{"texts that look like numbers", `["2.0","1e3","-0","007"]`},

	{"names like indexes", `{"b":0,"10":1,"9":2,"a":3,"1":4,"0":5}`},
	{"names nearly like indexes", `{"01":0,"-1":1,"1.0":2,"1e0":3,"+1":4," 1":5,"2":6,"1":7}`},
	{"the last index", `{"4294967296":0,"4294967295":1,"4294967294":2,"4294967293":3}`},
	{"names like indexes, escaped", `{"b":0,"\u0031\u0030":1,"\u0039":2}`},
	{"__proto__", `{"__proto__":{"a":1},"b":2}`},
	{"__proto__ of no object", `{"a":1,"__proto__":null,"constructor":"x","toString":0,"hasOwnProperty":false}`},
	{"__proto__, escaped and deeper", `[{"\u005f_proto__":{"__proto__":[]}}]`},
	{"no name", `{"":1," ":2}`},
	{"the same names in different objects",
		`{"a":{"b":1,"walletAddress":"x"},"c":{"b":1,"walletAddress":"y"},"d":[{"b":1},{"b":1}]}`},
	{"nothing inside", `[{},[],"",null,true,false,[[]],{"a":{}}]`},
	{"as deep as may be", strings.Repeat(`[{"a":`, 15) + `1` + strings.Repeat(`}]`, 15)},
}

// TestBodies has the engine sign bodies of every kind. The sandbox must accept them, and JavaScript
// must find that they are what it would send, and signed.
func TestBodies(t *testing.T) {
	w := newWorld(t)
	a := w.newApplication()
	wallet := w.sandbox.WalletAddress("alice")
	escaped := `"` + strings.ReplaceAll(wallet, "/", `\/`) + `"`
	w.bodies = filepath.Join(t.TempDir(), "bodies.jsonl")
	file, err := os.OpenFile(w.bodies, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600) // it holds tokens
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, b := range bodies {
		given := b.text
		if !strings.Contains(given, "WALLET") {
			given = `{"walletAddress":WALLET,"metadata":{"value":` + given + `}}`
		}
		given = strings.ReplaceAll(given, "WALLET", escaped)
		c := call{http.StatusCreated, "POST", "/incoming-payments", given}
		signed := a.sign(c)
		a.send(c, signed)
		err := json.NewEncoder(file).Encode(map[string]any{
			"name": b.name, "given": given, "sent": signed["body"], "headers": signed["headers"], "method": c.method,
			"url": w.sandbox.ResourceServer() + c.path,
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	w.record.close(t)
	w.node("bodies.test.mjs", len(bodies))
}
