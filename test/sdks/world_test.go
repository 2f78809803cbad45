//go:build sdks

// SPDX-License-Identifier: MPL-2.0

package sdks

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/client"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/vaulttest"
)

const (
	// tokenLifetime makes the proxy rotate every few seconds by itself. The test rotates, too.
	tokenLifetime = 8 * time.Second

	finishURI = "https://shop.example/back"
)

// The grants of the proxy. A name may have dots.
const (
	income = "shop.income"
	quotes = "quotes"
	rent   = "rent"
)

// dummySeed is the seed of the key that the wallet does not know.
var dummySeed = make([]byte, ed25519.SeedSize)

// world is a sandbox, a Vault server with the engine, and the proxy.
type world struct {
	vault  *vaulttest.Server
	wallet *sandbox.Server
	proxy  string // its URL
	caller string // the file with its secret
	direct wallet // without the proxy

	// onRead is called before the wallet answers a read of an incoming payment, with whether it has
	// refused the read before, which this one then repeats.
	onRead  atomic.Pointer[func(repeated bool)]
	refused atomic.Bool
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{vault: vaulttest.Start(t, vaulttest.Options{})}
	var err error
	w.wallet, err = sandbox.Start(sandbox.Options{TokenLifetime: tokenLifetime, Wait: time.Second, Wrap: w.wrap})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.vault.Stop() // which may still revoke leases
		w.wallet.Close()
	})
	w.vault.Mount("op")
	w.write(t, "config", map[string]any{"wallet_address": w.address("client")}) // Vault makes the key
	w.publishKey(t)
	w.askForGrants(t, "")
	w.startProxy(t)
	w.askForGrants(t, "direct.")
	w.direct = w.directly(t)
	return w
}

func (w *world) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		act := w.onRead.Load()
		if act == nil || r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/incoming-payments/") {
			next.ServeHTTP(rw, r)
			return
		}
		(*act)(w.refused.Load())
		answer := &statusWriter{ResponseWriter: rw}
		next.ServeHTTP(answer, r)
		w.refused.Store(answer.status != http.StatusOK)
	})
}

// statusWriter remembers the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// address returns a wallet address of the sandbox.
func (w *world) address(name string) string { return w.wallet.WalletAddress(name) }

func (w *world) write(t *testing.T, path string, data map[string]any) map[string]any {
	t.Helper()
	secret, err := w.vault.Client(w.vault.RootToken).Logical().Write("op/"+path, data)
	if err != nil {
		t.Fatalf("write op/%s: %v", path, err)
	}
	if secret == nil {
		return nil
	}
	return secret.Data
}

// publishKey copies the key set that Vault publishes to the client's wallet.
func (w *world) publishKey(t *testing.T) {
	t.Helper()
	resp, err := http.Get(w.vault.Address + "/v1/op/jwks.json")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	keys, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.wallet.SetClientKeys(keys); err != nil {
		t.Fatal(err)
	}
}

// askForGrants asks for the three grants that paying takes, and for the owner's consent to the last.
func (w *world) askForGrants(t *testing.T, prefix string) {
	t.Helper()
	shop, alice := w.address("shop"), w.address("alice")
	w.write(t, "grants/"+prefix+income, map[string]any{
		"wallet_address": shop, "access": `[{"type":"incoming-payment","actions":["create","read","list","complete"]}]`,
	})
	w.write(t, "grants/"+prefix+quotes, map[string]any{
		"wallet_address": alice, "access": `[{"type":"quote","actions":["create","read"]}]`,
	})
	asked := w.write(t, "grants/"+prefix+rent, map[string]any{
		"wallet_address": alice, "finish_uri": finishURI,
		"access": `[{"type":"outgoing-payment","actions":["create","read","list"],"identifier":"` + alice +
			`","limits":{"debitAmount":{"value":"50000","assetCode":"USD","assetScale":2}}}]`,
	})
	redirect, err := w.wallet.Consent(asked["interact_url"].(string), true)
	if err != nil {
		t.Fatal(err)
	}
	w.write(t, "grants/"+prefix+rent+"/continue", map[string]any{"redirect": redirect})
}

// application returns a Vault token that is good for the three grants and nothing else.
func (w *world) application(t *testing.T, prefix string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "examples", "policies", "application.hcl"))
	if err != nil {
		t.Fatal(err)
	}
	var policies []string
	for _, grant := range []string{income, quotes, rent} {
		policy := prefix + grant
		err := w.vault.Client(w.vault.RootToken).Sys().PutPolicy(policy,
			strings.ReplaceAll(string(text), "shop-income", policy))
		if err != nil {
			t.Fatal(err)
		}
		policies = append(policies, policy)
	}
	return w.vault.Token(policies[0], policies[1:]...)
}

var listeningLine = regexp.MustCompile(`listening: .*address=(http://\S+)`)

// startProxy builds and starts the proxy, which ends with the test, without an error.
func (w *world) startProxy(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	binary := filepath.Join(dir, "open-payments-proxy")
	if out, err := exec.Command("go", "build", "-o", binary, "../../cmd/open-payments-proxy").CombinedOutput(); err != nil {
		t.Fatalf("build the proxy: %v\n%s", err, out)
	}
	w.caller = filepath.Join(dir, "caller")
	log := &vaulttest.Output{}
	cmd := exec.Command(binary, "-mount", "op", "-grant", income, "-grant", quotes, "-grant", rent,
		"-listen", "127.0.0.1:0", "-admin", "127.0.0.1:0", "-caller-file", w.caller)
	cmd.Env = []string{"VAULT_ADDR=" + w.vault.Address, "VAULT_TOKEN=" + w.application(t, "")}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("the proxy: %v", err)
			}
		case <-time.After(30 * time.Second):
			t.Error("the proxy does not stop")
			_ = cmd.Process.Kill()
		}
		w.checkLog(t, log.String())
	})
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if line := listeningLine.FindStringSubmatch(log.String()); line != nil {
			w.proxy = line[1]
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the proxy does not listen:\n%s", log)
		}
	}
}

// checkLog checks that the proxy's log does not hold the callers' secret, and shows its end if the
// test has failed.
func (w *world) checkLog(t *testing.T, log string) {
	t.Helper()
	if strings.Contains(log, w.secret(t)) {
		t.Error("the proxy logs the secret of its callers")
	}
	if t.Failed() {
		t.Logf("the end of the proxy's log:\n%s", log[max(0, len(log)-8000):])
	}
}

func (w *world) secret(t *testing.T) string {
	t.Helper()
	secret, err := os.ReadFile(w.caller)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(secret))
}

// environment is what a program gets to know.
func (w *world) environment(more ...string) []string {
	return append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "NO_PROXY=127.0.0.1",
		"PROXY=" + w.proxy, "CALLER_FILE=" + w.caller, "SHOP=" + w.address("shop"), "ALICE=" + w.address("alice"),
	}, more...)
}

// dummyKey returns the key that the wallet does not know, as PEM.
func dummyKey(t *testing.T) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(ed25519.NewKeyFromSeed(dummySeed))
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// wallet is a way to send requests to the wallet.
type wallet struct {
	// send sends a request with a grant's token. target is a path below the resource server, or
	// the id of a payment or quote.
	send func(grant, method, target string, body any) (status int, answer map[string]any, err error)
}

// directly returns the way through package client, with grants of its own.
func (w *world) directly(t *testing.T) wallet {
	t.Helper()
	vault := w.vault.Client(w.application(t, "direct."))
	clients := map[string]*http.Client{}
	for _, grant := range []string{income, quotes, rent} {
		c, err := client.New(vault, client.Options{Grant: "direct." + grant})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			if err := c.Close(ctx); err != nil {
				t.Error(err)
			}
		})
		clients[grant] = &http.Client{Transport: c}
	}
	return wallet{func(grant, method, target string, body any) (int, map[string]any, error) {
		if strings.HasPrefix(target, "/") {
			target = w.wallet.ResourceServer() + target
		}
		req, err := newRequest(method, target, body)
		if err != nil {
			return 0, nil, err
		}
		return answerOf(clients[grant].Do(req))
	}}
}

// newRequest returns a request whose body, if there is one, is JSON.
func newRequest(method, target string, body any) (*http.Request, error) {
	if body == nil {
		return http.NewRequest(method, target, http.NoBody)
	}
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequest(method, target, bytes.NewReader(text))
	if err == nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return req, err
}

func answerOf(resp *http.Response, err error) (int, map[string]any, error) {
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	var answer map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return resp.StatusCode, nil, fmt.Errorf("status %d: %w", resp.StatusCode, err)
	}
	return resp.StatusCode, answer, nil
}

// local returns the URL at which the proxy can be asked for an id or a path.
func (w *world) local(target string) (string, error) {
	u, err := url.Parse(target)
	if err != nil {
		return "", err
	}
	return w.proxy + u.RequestURI(), nil
}

// read reads a payment at the wallet, without the proxy.
func (w *world) read(t *testing.T, grant, id string) map[string]any {
	t.Helper()
	status, answer, err := w.direct.send(grant, http.MethodGet, id, nil)
	if err != nil || status != http.StatusOK {
		t.Fatalf("read a payment: %d %v %v", status, answer, err)
	}
	return answer
}
