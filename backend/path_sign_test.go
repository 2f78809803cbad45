// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/authserver"
)

// received is what an application has got: a token, and where it is good.
type received struct {
	*rig
	name  string
	token string
}

func (r *rig) receive(name string) received {
	r.Helper()
	return received{r, name, tokenOf(r.read(name))}
}

// fields are a request to be signed: the URL is below the resource server.
func (r received) fields(method, path, body string) map[string]any {
	fields := map[string]any{"access_token": r.token, "method": method, "url": r.sandbox.ResourceServer() + path}
	if body != "" {
		fields["body"] = body
	}
	return fields
}

// send has a request signed and sends it, and answers what the resource server does.
func (r received) send(want int, method, path, body string) map[string]any {
	r.Helper()
	signed := r.ok(logical.UpdateOperation, "sign/"+r.name, r.fields(method, path, body))
	return r.sendSigned(want, method, path, signed.Data)
}

func (r received) sendSigned(want int, method, path string, signed map[string]any) map[string]any {
	r.Helper()
	text, _ := signed["body"].(string)
	req, err := http.NewRequestWithContext(r.ctx, method, r.sandbox.ResourceServer()+path, strings.NewReader(text))
	if err != nil {
		r.Fatal(err)
	}
	for name, value := range signed["headers"].(map[string]string) {
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		r.Fatal(err)
	}
	if resp.StatusCode != want {
		r.Fatalf("%s %s: %d %s, want %d", method, path, resp.StatusCode, raw, want)
	}
	answer := map[string]any{}
	_ = json.Unmarshal(raw, &answer)
	return answer
}

// lastOf is the id in the URL of what was created.
func lastOf(answer map[string]any) string {
	id, _ := answer["id"].(string)
	return id[strings.LastIndexByte(id, '/')+1:]
}

// The ten operations, from a payment request to the payment, without the key.
func TestSignedRequestsAreAccepted(t *testing.T) {
	r := configured(t)
	shop, owner := r.sandbox.WalletAddress("shop"), r.sandbox.WalletAddress("alice")
	r.ok(logical.UpdateOperation, "grants/income", map[string]any{"wallet_address": shop,
		"access": `[{"type":"incoming-payment","actions":["create","complete","read","list"]},{"type":"quote","actions":["create","read"]}]`})
	r.ok(logical.UpdateOperation, "grants/pay/continue", map[string]any{"redirect": r.decided(r.ok(logical.UpdateOperation, "grants/pay", map[string]any{
		"wallet_address": owner, "finish_uri": finishURI,
		"access": strings.Replace(r.outgoing(), `"read"`, `"read","list"`, 1),
	}).Data["interact_url"].(string), true)})
	income, pay := r.receive("income"), r.receive("pay")

	invoice := income.send(201, "POST", "/incoming-payments", `{ "metadata": {"note": "caf\u00e9 \u0026 <b>", "2": 1.0, "1": 1e2}, "walletAddress": "`+shop+`" }`)
	income.send(200, "GET", "/incoming-payments?first=10&wallet-address="+url.QueryEscape(shop), "")
	income.send(200, "GET", "/incoming-payments/"+lastOf(invoice), "")
	amount := `{"value":"100","assetCode":"USD","assetScale":2}`
	quote := income.send(201, "POST", "/quotes", fmt.Sprintf(`{"walletAddress":%q,"receiver":%q,"method":"ilp","debitAmount":%s}`, owner, invoice["id"], amount))
	income.send(200, "GET", "/quotes/"+lastOf(quote), "")
	payment := pay.send(201, "POST", "/outgoing-payments", fmt.Sprintf(`{"walletAddress":%q,"quoteId":%q}`, owner, quote["id"]))
	pay.send(200, "GET", "/outgoing-payments/"+lastOf(payment), "")
	pay.send(200, "GET", "/outgoing-payments?wallet-address="+owner, "")
	spent := pay.send(200, "GET", "/outgoing-payment-grant", "")
	if spent["spentDebitAmount"] == nil {
		t.Error("nothing was paid")
	}
	done := income.send(200, "POST", "/incoming-payments/"+lastOf(invoice)+"/complete", "")
	if done["completed"] != true {
		t.Error("the incoming payment is not completed")
	}
	if n := len(slices.Collect(maps.Keys(invoice["metadata"].(map[string]any)))); n != 3 {
		t.Errorf("%d members of metadata have arrived", n)
	}
}

func TestSignRefuses(t *testing.T) {
	r := withGrant(t)
	good := r.receive("income").fields("GET", "/incoming-payments/1", "")
	r.ok(logical.UpdateOperation, "sign/income", good)
	with := func(field string, value any) map[string]any {
		fields := maps.Clone(good)
		fields[field] = value
		return fields
	}
	refuses := func(name string, fields map[string]any, words ...string) {
		t.Helper()
		r.fails(400, logical.UpdateOperation, "sign/"+name, fields, words...)
	}
	refuses("income", with("access_token", ""), "access_token: ")
	refuses("income", with("access_token", good["access_token"].(string)+"x"), "access_token: ")
	refuses("income", with("access_token", "x"), "access_token: ")
	refuses("income", with("url", r.sandbox.AuthServer()), "url: ")
	refuses("income", with("url", r.stored("income").Manage), "url: ")
	refuses("income", with("method", "POST"), "method: ")
	refuses("income", with("body", "{}"), "body: ")
	refuses("income", with("body", []any{map[string]any{"walletAddress": "x"}}), "body: a list")
	refuses("income", with("key_id", "x"), "unknown field")
	refuses("nobody", good, "no grant named")

	r.ask("other")
	refuses("other", good, "access_token: ")

	r.read("income")
	refuses("income", good, "access_token: ", "read the token again")

	g := r.stored("income")
	good["access_token"] = g.Token
	for status, words := range map[string]string{statusPending: "consent", statusLost: "lost"} {
		changed := *g
		changed.Status = status
		r.put("income", &changed)
		refuses("income", good, words)
	}
	changed := *g
	changed.Client = "https://wallet.example/another"
	r.put("income", &changed)
	refuses("income", good, "belongs to the client")
	changed.Token, changed.Client = "", g.Client // asked for, and not answered yet
	r.put("income", &changed)
	refuses("income", with("access_token", ""), "access_token: ")
	r.put("income", g)

	r.storage.onRead = func(string) error { return errDisk }
	if _, err := r.do(r.ctx, logical.UpdateOperation, "sign/income", good); err == nil {
		t.Error("signed without storage")
	}
}

// A server may answer any text as a token.
func TestSignTokenThatNoHeaderCanHold(t *testing.T) {
	for _, text := range []string{"t\r\nHost: x", "t\n", "t t", "t\x00", "tü"} {
		r := withGrant(t)
		fields := r.receive("income").fields("GET", "/incoming-payments/1", "")
		g := r.stored("income")
		g.Token = text
		r.put("income", g)
		fields["access_token"] = text
		r.fails(502, logical.UpdateOperation, "sign/income", fields, "no header can hold")
	}
}

func TestSignWithoutClient(t *testing.T) {
	r := newRig(t)
	r.fails(400, logical.UpdateOperation, "sign/income", map[string]any{"method": "GET"}, "no client is configured")
}

// Where an imported grant's resource server is not known, an operator says it.
func TestSignForImportedGrant(t *testing.T) {
	r := configured(t)
	r.imported("brought", map[string]any{"auth_server": r.sandbox.AuthServer()})
	brought := r.receive("brought")
	list := "/incoming-payments?wallet-address=" + r.sandbox.WalletAddress("shop")
	r.fails(400, logical.UpdateOperation, "sign/brought", brought.fields("GET", list, ""), "url: ", "resource_server")
	r.fails(400, logical.PatchOperation, "grants/brought", map[string]any{"resource_server": r.sandbox.ResourceServer() + "?x=1"}, "resource_server: ", "no query")
	r.ok(logical.PatchOperation, "grants/brought", map[string]any{"resource_server": r.sandbox.ResourceServer() + "/"})
	brought.send(200, "GET", list, "")
	r.ok(logical.UpdateOperation, "grants/brought", map[string]any{"resource_server": "https://other.example/op"})
	r.fails(400, logical.UpdateOperation, "sign/brought", brought.fields("GET", list, ""), "url: ")
	r.ok(logical.PatchOperation, "grants/brought", map[string]any{"resource_server": nil})
	if g := r.stored("brought"); g.ResourceServer != "" || g.Generation != 2 {
		t.Errorf("resource server %q, generation %d", g.ResourceServer, g.Generation)
	}
}

func TestSignBatch(t *testing.T) {
	r := withGrant(t)
	income := r.receive("income")
	shop := r.sandbox.WalletAddress("shop")
	item := func(method, path, body string, more ...any) map[string]any {
		fields := income.fields(method, path, body)
		delete(fields, "access_token")
		for i := 0; i < len(more); i += 2 {
			fields[more[i].(string)] = more[i+1]
		}
		return fields
	}
	items := []any{
		item("POST", "/incoming-payments", `{"walletAddress":"`+shop+`"}`, "reference", "first"),
		item("GET", "/quotes/1", "", "reference", "refused"),
		item("GET", "/incoming-payments?wallet-address="+shop, "", "access_token", income.token),
		item("GET", "/incoming-payments/1", "", "access_token", "another"),
		item("GET", "/incoming-payments/1", "", "key", "x"),
		item("GET", "/incoming-payments/1", "", "method", 7),
		"text",
	}
	text, err := json.Marshal(items)
	if err != nil {
		t.Fatal(err)
	}
	for form, batch := range map[string]any{"list": items, "text": string(text)} {
		resp := r.ok(logical.UpdateOperation, "sign/income", map[string]any{"access_token": income.token, "batch_input": batch})
		results := resp.Data["batch_results"].([]any)
		if len(results) != len(items) {
			t.Fatalf("%s: %d results", form, len(results))
		}
		result := func(i int) map[string]any { return results[i].(map[string]any) }
		income.sendSigned(201, "POST", "/incoming-payments", result(0))
		income.sendSigned(200, "GET", "/incoming-payments?wallet-address="+shop, result(2))
		if result(0)["reference"] != "first" || result(1)["reference"] != "refused" || result(2)["reference"] != nil {
			t.Errorf("%s: the references are others", form)
		}
		for i, words := range map[int]string{1: "url: ", 3: "access_token: ", 4: "unknown member", 5: "method: ", 6: "object"} {
			said, _ := result(i)["error"].(string)
			if !strings.Contains(said, words) || result(i)["headers"] != nil {
				t.Errorf("%s: result %d is %q, without %q", form, i, said, words)
			}
			r.noSecretIn("an error", said)
		}
	}
	long := item("POST", "/incoming-payments", `{"walletAddress":"`+shop+`","metadata":{"note":"`+strings.Repeat("x", 1000)+`"}}`)
	many := slices.Repeat([]any{long}, maxBatch) // more than any other field may hold
	if n := len(r.ok(logical.UpdateOperation, "sign/income", map[string]any{"access_token": income.token, "batch_input": many}).Data["batch_results"].([]any)); n != maxBatch {
		t.Errorf("%d results", n)
	}
	for name, bad := range map[string]any{"too many": append(many, items[0]), "none": []any{}, "no list": `{"method":"GET"}`, "no JSON": "x", "bytes": []any{strings.Repeat("x", maxRequestLength)}} {
		t.Run(name, func(t *testing.T) {
			r.fails(400, logical.UpdateOperation, "sign/income", map[string]any{"access_token": income.token, "batch_input": bad}, "batch_input: ")
		})
	}
	r.fails(400, logical.UpdateOperation, "sign/income", map[string]any{"batch_input": items, "url": "x"}, "batch_input: ")
}

// Signing writes nothing, sends nothing, and goes on while a rotation of the same grant, or a look
// at the client's keys, waits for its server.
func TestSignWaitsForNobody(t *testing.T) {
	r := withGrant(t)
	income := r.receive("income")
	arrived, release := r.hang(false)
	read := r.goRead(r.ctx, "income")
	<-arrived
	unlock, err := r.b.configMu.write(r.ctx)
	if err != nil {
		t.Fatal(err)
	} // as whoever fetches the key set holds it
	puts, sent := r.storage.putsSoFar(), r.sandbox.Count("keys")+r.sandbox.Count("wallet")+r.sandbox.Count("rotate")+r.sandbox.Count("resource")
	signed := r.ok(logical.UpdateOperation, "sign/income", income.fields("GET", "/incoming-payments?wallet-address="+r.sandbox.WalletAddress("shop"), ""))
	unlock()
	if r.storage.putsSoFar() != puts {
		t.Error("signing has written")
	}
	if r.sandbox.Count("keys")+r.sandbox.Count("wallet")+r.sandbox.Count("rotate")+r.sandbox.Count("resource") != sent {
		t.Error("signing has sent a request")
	}
	income.sendSigned(200, "GET", "/incoming-payments?wallet-address="+r.sandbox.WalletAddress("shop"), signed.Data)
	release()
	r.live(<-read)
}

// A standby signs, but what it would refuse is for the active node to judge: its own storage may be
// behind.
func TestSignOnStandby(t *testing.T) {
	r := withGrant(t)
	income := r.receive("income")
	r.system.ReplicationStateVal = consts.ReplicationPerformanceStandby
	good := income.fields("GET", "/incoming-payments/1", "")
	r.ok(logical.UpdateOperation, "sign/income", good)
	bad := maps.Clone(good)
	bad["access_token"] = "newer than what is stored here"
	for name, fields := range map[string]map[string]any{"one": bad, "batch": {"batch_input": []any{good, bad}}} {
		if _, err := r.do(r.ctx, logical.UpdateOperation, "sign/income", fields); !errors.Is(err, logical.ErrReadOnly) {
			t.Errorf("%s: %v, want it forwarded", name, err)
		}
	}
	if _, err := r.do(r.ctx, logical.UpdateOperation, "sign/nobody", good); !errors.Is(err, logical.ErrReadOnly) {
		t.Errorf("no such grant here: %v, want it forwarded", err)
	}
}

// Whatever changes the client's key, the next signature is made with the new one.
func TestSignWithTheCurrentKey(t *testing.T) {
	r := withGrant(t)
	income := r.receive("income")
	list := "/incoming-payments?wallet-address=" + r.sandbox.WalletAddress("shop")
	keyID := func() string {
		t.Helper()
		signed := r.ok(logical.UpdateOperation, "sign/income", income.fields("GET", list, ""))
		input := signed.Data["headers"].(map[string]string)["Signature-Input"]
		_, after, _ := strings.Cut(input, `keyid="`)
		id, _, _ := strings.Cut(after, `"`)
		return id
	}
	if id := keyID(); id != testKeyID {
		t.Fatalf("signed as %q", id)
	}
	r.ok(logical.UpdateOperation, "keys/rotate", map[string]any{"key_id": "key-2", "force": true})
	if id := keyID(); id != "key-2" {
		t.Errorf("signed as %q after the key was replaced", id)
	}
	another, err := authserver.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	r.ok(logical.UpdateOperation, "config", map[string]any{"key_id": "key-3", "private_key": another, "verify": false})
	if id := keyID(); id != "key-3" {
		t.Errorf("signed as %q after config was written", id)
	}
	c, err := loadConfig(r.ctx, r.storage)
	if err != nil {
		t.Fatal(err)
	}
	c.KeyID = "key-4" // as the active node writes it, and a standby learns of it
	if err := c.store(r.ctx, r.storage); err != nil {
		t.Fatal(err)
	}
	r.b.InvalidateKey(r.ctx, configKey)
	if id := keyID(); id != "key-4" {
		t.Errorf("signed as %q after another node has written config", id)
	}
	// A client that was read before a change, and is ready only after it, is not remembered.
	r.b.signers.forget()
	r.storage.onRead = func(key string) error {
		if key == configKey {
			r.b.signers.forget()
		}
		return nil
	}
	keyID()
	r.storage.heal()
	if r.b.signers.known != nil {
		t.Error("a client from before a change is remembered")
	}
	r.ok(logical.DeleteOperation, "grants/income", map[string]any{"force": true})
	r.ok(logical.DeleteOperation, "config", nil)
	r.fails(400, logical.UpdateOperation, "sign/income", income.fields("GET", list, ""), "no client is configured")
}
