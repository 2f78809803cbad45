//go:build sdks

// SPDX-License-Identifier: MPL-2.0

package sdks

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	openpayments "github.com/interledger/open-payments-go"
)

// reads is how often each program reads its payment, and rotateAt the reads before which the test
// rotates the grant: the request that is on its way has a dead token then.
const reads = 100

var rotateAt = map[int64]bool{20: true, 50: true, 80: true}

func TestThroughProxy(t *testing.T) {
	w := newWorld(t)
	t.Run("clients", w.testClients)
	t.Run("examples", w.testExamples)
	t.Run("recipes", w.testRecipes)
	t.Run("recorded requests", w.testRecordedRequests)
	t.Run("the dummy key is unknown", w.testDummyKey)
	t.Run("an id whose origin is not swapped", w.testRealID)
}

// Every client goes through all operations while its grant is rotated beneath it.
func (w *world) testClients(t *testing.T) {
	for _, c := range []struct {
		name    string
		command []string
		env     []string
	}{
		{"JavaScript without a key", []string{"node", "programs/operations.mjs"}, nil},
		{"JavaScript with a dummy key", []string{"node", "programs/operations.mjs"}, []string{"DUMMY_KEY=" + dummyKey(t)}},
		{"Rust with a dummy key", []string{rust("operations")}, nil},
		{"Java", append(java(), "programs/Operations.java"), nil},
		{"Python urllib", []string{"python3", "programs/operations.py", "urllib"}, nil},
		{"Python http.client", []string{"python3", "programs/operations.py", "http.client"}, nil},
		{"curl", []string{"programs/operations.sh"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			started := time.Now()
			w.whileRotating(t, income, func() {
				w.checkPaid(t, strings.Fields(w.run(t, c.command, c.env...)))
			})
			t.Logf("%.1f s", time.Since(started).Seconds())
		})
	}
	t.Run("Go with the SDK and a dummy key", func(t *testing.T) {
		w.whileRotating(t, income, func() { w.checkPaid(t, operate(t, w, w.throughSDK(t))) })
	})
	t.Run("Go with package client", func(t *testing.T) {
		w.whileRotating(t, "direct."+income, func() { w.checkPaid(t, operate(t, w, w.direct)) })
	})
}

// whileRotating runs a client, and rotates its grant at some of its reads.
func (w *world) whileRotating(t *testing.T, grant string, run func()) {
	t.Helper()
	var seen atomic.Int64
	var due atomic.Bool
	rotate := func(repeated bool) {
		if rotateAt[seen.Add(1)] {
			due.Store(true)
		}
		// The proxy rotates as well, and sends a request again only once: a request that has met one
		// rotation is spared the other.
		if !repeated && due.Swap(false) {
			if _, err := w.vault.Client(w.vault.RootToken).Logical().Write("op/rotate/"+grant, nil); err != nil {
				t.Errorf("rotate %s: %v", grant, err)
			}
		}
	}
	w.refused.Store(false)
	w.onRead.Store(&rotate)
	defer w.onRead.Store(nil)
	run()
	// Each rotation costs one refused request, which the proxy, or package client, repeats.
	if n := seen.Load(); n < reads+int64(len(rotateAt)) {
		t.Errorf("the wallet saw %d reads, fewer than %d and %d repetitions", n, reads, len(rotateAt))
	}
}

// run runs a program, which must succeed, and returns what it prints.
func (w *world) run(t *testing.T, command []string, env ...string) string {
	t.Helper()
	stdout, stderr, err := w.start(t, command, env...)
	if err != nil || stderr != "" {
		t.Fatalf("%s: %v\n%s\n%s", command[0], err, stdout, stderr)
	}
	return stdout
}

func (w *world) start(t *testing.T, command []string, env ...string) (stdout, stderr string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = append(w.environment(env...), "WORK="+t.TempDir()), &out, &errs
	err = cmd.Run()
	if strings.Contains(out.String()+errs.String(), w.secret(t)) {
		t.Errorf("%s prints the secret of the proxy's callers", command[0])
	}
	return out.String(), errs.String(), err
}

// checkPaid checks at the wallet what a client has done: an incoming payment, the outgoing payment
// that paid it, and an incoming payment that was completed unpaid.
func (w *world) checkPaid(t *testing.T, ids []string) {
	t.Helper()
	if t.Failed() {
		return
	}
	if len(ids) != 3 {
		t.Fatalf("%d ids, not 3", len(ids))
	}
	w.checkIncoming(t, ids[0], "500")
	payment := w.read(t, rent, ids[1])
	if payment["receiver"] != ids[0] || payment["quoteId"] == nil || valueOf(payment, "sentAmount") != "500" {
		t.Errorf("the outgoing payment is %v", payment)
	}
	w.checkIncoming(t, ids[2], "0")
}

// checkIncoming checks that an incoming payment is completed, and what it has received.
func (w *world) checkIncoming(t *testing.T, id, received string) {
	t.Helper()
	if p := w.read(t, income, id); p["completed"] != true || valueOf(p, "receivedAmount") != received {
		t.Errorf("the incoming payment is %v, not completed with %s", p, received)
	}
}

func valueOf(payment map[string]any, name string) any {
	amount, _ := payment[name].(map[string]any)
	return amount["value"]
}

// throughSDK returns the way through the Go SDK and the proxy. The SDK signs with the dummy key.
func (w *world) throughSDK(t *testing.T) wallet {
	t.Helper()
	sdk, err := openpayments.NewAuthenticatedClient(w.address("client"), dummyKey(t), "dummy")
	if err != nil {
		t.Fatal(err)
	}
	return wallet{func(grant, method, target string, body any) (int, map[string]any, error) {
		target, err := w.local(target)
		if err != nil {
			return 0, nil, err
		}
		req, err := newRequest(method, target, body)
		if err != nil {
			return 0, nil, err
		}
		req.Header.Set("Authorization", "GNAP "+grant+"."+w.secret(t))
		return answerOf(sdk.DoSigned(req))
	}}
}

// operate goes through all operations as the programs do, and returns what they print.
func operate(t *testing.T, w *world, through wallet) []string {
	t.Helper()
	send := func(grant, method, target string, want int, body any) map[string]any {
		t.Helper()
		status, answer, err := through.send(grant, method, target, body)
		if err != nil || status != want {
			t.Fatalf("%s %s: %d %v %v, want %d", method, target, status, answer, err, want)
		}
		return answer
	}
	id := func(answer map[string]any) string { return answer["id"].(string) }
	has := func(list map[string]any, id string) {
		t.Helper()
		if !strings.Contains(fmt.Sprint(list["result"]), id) {
			t.Errorf("the list lacks %s", id)
		}
	}
	shop, alice := w.address("shop"), w.address("alice")
	invoiceOf := func(value string) string {
		return id(send(income, "POST", "/incoming-payments", 201, map[string]any{
			"walletAddress":  shop,
			"incomingAmount": map[string]any{"value": value, "assetCode": "USD", "assetScale": 2},
			"metadata":       map[string]any{"for": "Brötchen & <Salz>"},
		}))
	}
	query := func(wallet string) string { return "?first=100&wallet-address=" + url.QueryEscape(wallet) }

	invoice := invoiceOf("500")
	has(send(income, "GET", "/incoming-payments"+query(shop), 200, nil), invoice)
	quote := id(send(quotes, "POST", "/quotes", 201,
		map[string]any{"walletAddress": alice, "receiver": invoice, "method": "ilp"}))
	send(quotes, "GET", quote, 200, nil)
	payment := id(send(rent, "POST", "/outgoing-payments", 201, map[string]any{"walletAddress": alice, "quoteId": quote}))
	send(rent, "GET", payment, 200, nil)
	has(send(rent, "GET", "/outgoing-payments"+query(alice), 200, nil), payment)
	send(rent, "GET", "/outgoing-payment-grant", 200, nil)
	unpaid := invoiceOf("1")
	send(income, "POST", unpaid+"/complete", 200, nil)
	for range reads {
		send(income, "GET", invoice, 200, nil)
	}
	return []string{invoice, payment, unpaid}
}

var createdLine = regexp.MustCompile(`(?m)^(?:incoming|outgoing) payment created: (\S+)$`)

// The programs in examples/ that use the proxy get paid and pay.
func (w *world) testExamples(t *testing.T) {
	shop, alice := w.address("shop"), w.address("alice")
	for name, command := range map[string][]string{
		"python": {"python3", "../../examples/python/pay.py"},
		"java":   append(java(), "../../examples/java/Pay.java"),
		"rust":   {rust("pay")},
	} {
		t.Run(name, func(t *testing.T) {
			made := createdLine.FindAllStringSubmatch(w.run(t, append(command, income, shop, "125")), -1)
			if len(made) != 1 {
				t.Fatalf("%d payments created, not 1", len(made))
			}
			if unpaid := w.read(t, income, made[0][1]); unpaid["completed"] != false {
				t.Errorf("the incoming payment is %v", unpaid)
			}

			stdout := w.run(t, append(command, income, shop, "130", rent, alice))
			made = createdLine.FindAllStringSubmatch(stdout, -1)
			if len(made) != 2 || !strings.HasSuffix(stdout, "\nreceived: 130\n") {
				t.Fatalf("%d payments created, not 2:\n%s", len(made), stdout)
			}
			w.checkIncoming(t, made[0][1], "130")
			if payment := w.read(t, rent, made[1][1]); payment["receiver"] != made[0][1] {
				t.Errorf("the outgoing payment is %v", payment)
			}

			// More than the grant allows: the wallet's answer is shown.
			stdout, stderr, err := w.start(t, append(command, income, shop, "90000", rent, alice))
			if err == nil || !strings.Contains(stderr, "403") || len(createdLine.FindAllString(stdout, -1)) != 1 {
				t.Errorf("%v\n%s\n%s", err, stdout, stderr)
			}
		})
	}
}

// recipe is a block of code in docs/languages.md.
var recipe = regexp.MustCompile("(?s)```(bash|python|js)\n(.*?)```")

// The recipes in docs/languages.md work as they stand: each creates an incoming payment and reads it.
func (w *world) testRecipes(t *testing.T) {
	text, err := os.ReadFile("../../docs/languages.md")
	if err != nil {
		t.Fatal(err)
	}
	interpreters := map[string][]string{
		"bash": {"bash", "-euo", "pipefail"}, "python": {"python3", "-"}, "js": {"node", "--input-type=module"},
	}
	found := recipe.FindAllStringSubmatch(string(text), -1)
	if len(found) != len(interpreters) {
		t.Fatalf("%d recipes, not %d", len(found), len(interpreters))
	}
	for _, block := range found {
		t.Run(block[1], func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), interpreters[block[1]][0], interpreters[block[1]][1:]...)
			cmd.Dir = "../../examples/node" // where JavaScript finds the client
			cmd.Env = w.environment()
			cmd.Stdin = strings.NewReader(strings.ReplaceAll(block[2], "shop-income", income))
			out, err := cmd.CombinedOutput()
			if err != nil || !bytes.Contains(out, []byte("receivedAmount")) {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// The key that clients get which insist on one is worth nothing: the wallet refuses what it signs,
// with a live token, under its own key id and under that of Vault's key.
func (w *world) testDummyKey(t *testing.T) {
	w.write(t, "grants/unshared", map[string]any{ // nobody else reads it, so that its token stays live
		"wallet_address": w.address("shop"), "access": `[{"type":"incoming-payment","actions":["list"]}]`,
	})
	token, err := w.vault.Client(w.vault.RootToken).Logical().Read("op/token/unshared")
	if err != nil {
		t.Fatal(err)
	}
	config, err := w.vault.Client(w.vault.RootToken).Logical().Read("op/config")
	if err != nil {
		t.Fatal(err)
	}
	for _, keyID := range []string{"dummy", config.Data["key_id"].(string)} {
		sdk, err := openpayments.NewAuthenticatedClient(w.address("client"), dummyKey(t), keyID)
		if err != nil {
			t.Fatal(err)
		}
		list := w.wallet.ResourceServer() + "/incoming-payments?wallet-address=" + w.address("shop")
		req, err := newRequest("GET", list, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "GNAP "+token.Data["access_token"].(string))
		status, answer, err := answerOf(sdk.DoSigned(req))
		if err != nil || status != http.StatusUnauthorized {
			t.Errorf("%d %v %v, not refused", status, answer, err)
		}
		if !w.wallet.Live(token.Data["access_token"].(string)) {
			t.Error("the token is dead, so that the refusal shows nothing")
		}
	}
}

// A client that is given an id as it is goes around the proxy: docs/languages.md says what the wallet
// answers.
func (w *world) testRealID(t *testing.T) {
	status, invoice, err := w.direct.send(income, "POST", "/incoming-payments", map[string]any{"walletAddress": w.address("shop")})
	if err != nil || status != http.StatusCreated {
		t.Fatal(status, err)
	}
	req, err := newRequest("GET", invoice["id"].(string), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "GNAP "+income+"."+w.secret(t))
	sdk, err := openpayments.NewAuthenticatedClient(w.address("client"), dummyKey(t), "dummy")
	if err != nil {
		t.Fatal(err)
	}
	if status, answer, err := answerOf(sdk.DoSigned(req)); err != nil || status != http.StatusForbidden {
		t.Errorf("%d %v %v, not 403", status, answer, err)
	}
}

// rust returns the path of a Rust program, which scripts/test-sdks has built.
func rust(name string) string { return filepath.Join("..", "..", ".cache", "cargo", "debug", name) }

// java returns the command that runs a Java source file, with what makes short programs start sooner.
func java() []string { return []string{"java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"} }
