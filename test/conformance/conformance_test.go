// SPDX-License-Identifier: MPL-2.0

package conformance_test

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/test/conformance"
)

// With -auth-server the suite tests another server than the sandbox:
//
//	go test ./test/conformance -auth-server=https://auth.example/ \
//	  -owner=https://wallet.example/alice -client=https://wallet.example/client \
//	  -key-id=key-1 -key=key.pem -consent=./decide
//
// The arguments of the consent command are interact.redirect and accept, decline or leave. It acts
// as the owner and prints the URL to which the browser is redirected.
var (
	authServer = flag.String("auth-server", "", "the grant endpoint of the server to test; empty: the sandbox")
	owner      = flag.String("owner", "", "wallet address of the owner")
	client     = flag.String("client", "", "wallet address of the client, which publishes the key")
	keyID      = flag.String("key-id", "", "key id of the client's key")
	keyFile    = flag.String("key", "", "file with the client's private key (PEM, PKCS#8)")
	consent    = flag.String("consent", "", "command that decides as the owner would")
)

func TestServer(t *testing.T) {
	if *authServer == "" {
		t.Run("sandbox", func(t *testing.T) { conformance.Run(t, startSandbox(t, sandbox.Dialect{})) })
		t.Run("sandbox that keeps key sets", func(t *testing.T) {
			conformance.Run(t, startSandbox(t, sandbox.Dialect{KeyCache: keysKept}))
		})
		return
	}
	key, err := os.ReadFile(*keyFile)
	if err != nil {
		t.Fatal(err)
	}
	conformance.Run(t, conformance.Server{
		AuthServer: *authServer, Owner: *owner, Client: *client, KeyID: *keyID, PrivateKey: string(key),
		Decide: func(interactURL, decision string) (string, error) {
			out, err := exec.CommandContext(t.Context(), *consent, interactURL, decision).Output()
			return strings.TrimSpace(string(out)), err
		},
		Pass: time.Sleep,
	})
}

// keysKept is how long key sets are kept by the sandbox that keeps them.
const keysKept = time.Minute

// startSandbox starts a sandbox whose clock the suite moves.
func startSandbox(t *testing.T, d sandbox.Dialect) conformance.Server {
	t.Helper()
	var passed atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(passed.Load())) }
	wallet, err := sandbox.Start(sandbox.Options{Dialect: d, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(wallet.Close)
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	wallet.PublishKey("key-1", public)
	return conformance.Server{
		AuthServer: wallet.AuthServer(), Owner: wallet.WalletAddress("alice"), Client: wallet.WalletAddress("client"),
		KeyID: "key-1", PrivateKey: string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
		Decide: func(interactURL, decision string) (string, error) {
			if decision == conformance.Leave {
				return leave(interactURL)
			}
			return wallet.Consent(interactURL, decision == conformance.Accept)
		},
		Pass:            func(d time.Duration) { passed.Add(int64(d)) },
		InteractionLife: 10 * time.Minute,
		ReadOnly:        func(on bool) { wallet.Misbehave(sandbox.Misbehaviour{ReadOnly: on}) },
		Publish:         wallet.PublishKey,
		KeysKept:        d.KeyCache,
	}
}

// leave goes to the finish of the sandbox's page without deciding.
func leave(interactURL string) (string, error) {
	page, _, _ := strings.Cut(interactURL, "?")
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := (&http.Client{CheckRedirect: stay}).Get(page + "/finish")
	if err != nil {
		return "", errors.New("the page cannot be reached")
	}
	defer resp.Body.Close()
	return resp.Header.Get("Location"), nil
}
