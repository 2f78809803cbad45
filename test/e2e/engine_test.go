// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	openpayments "github.com/interledger/open-payments-go"
	as "github.com/interledger/open-payments-go/generated/authserver"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/vaulttest"
)

const (
	keyID = "key-1"

	// access is a list of rights that need no consent.
	access = `[{"type":"incoming-payment","actions":["create","read","list"]}]`

	// soon is the time limit for anything that a test waits for. Nothing takes nearly as long.
	soon = 20 * time.Second
)

// engine is the secrets engine, mounted on a Vault server and configured as the client of a sandbox
// of its own.
type engine struct {
	*vaulttest.Server
	t      *testing.T
	mount  string
	wallet *sandbox.Server
	wire   *wire
	key    string      // the client's private key, PEM
	vault  *api.Client // with the root token
}

// startEngine starts a server and mounts the engine at op/.
func startEngine(t *testing.T) *engine {
	t.Helper()
	return mountEngine(t, vaulttest.Start(t, vaulttest.Options{}), "op", 0)
}

// mountEngine mounts the engine on a server. It stops the server before the sandbox, which
// revocations may need until then; so t must be the test that the server was started for.
// tokenLifetime is that of the sandbox's tokens, 10 minutes if zero.
func mountEngine(t *testing.T, server *vaulttest.Server, mount string, tokenLifetime time.Duration) *engine {
	t.Helper()
	e := startWallet(t, server, mount, tokenLifetime)
	e.Mount(mount)
	e.write("config", e.config())
	return e
}

// startWallet is mountEngine for an engine that is not mounted yet, or not by the test.
func startWallet(t *testing.T, server *vaulttest.Server, mount string, tokenLifetime time.Duration) *engine {
	t.Helper()
	e := &engine{Server: server, t: t, mount: mount, wire: &wire{}, vault: server.Client(server.RootToken)}
	var err error
	e.wallet, err = sandbox.Start(sandbox.Options{TokenLifetime: tokenLifetime, Wait: time.Second, Wrap: e.wire.wrap})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Stop()
		e.wallet.Close()
	})
	var public ed25519.PublicKey
	public, e.key = newKey(t)
	e.wallet.PublishKey(keyID, public)
	return e
}

func newKey(t *testing.T) (public ed25519.PublicKey, private string) {
	t.Helper()
	public, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return public, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// in returns the engine for use in a subtest.
func (e *engine) in(t *testing.T) *engine {
	sub := *e
	sub.t = t
	return &sub
}

// through returns the engine, reached through another server of its cluster.
func (e *engine) through(server *vaulttest.Server) *engine {
	e.t.Helper()
	other := *e
	other.Server, other.vault = server, server.Client(server.RootToken)
	return &other
}

// at returns the full path of a path of the mount.
func (e *engine) at(path string) string { return e.mount + "/" + path }

func (e *engine) config() map[string]any {
	return map[string]any{"wallet_address": e.wallet.WalletAddress("client"), "key_id": keyID, "private_key": e.key}
}

func (e *engine) write(path string, data map[string]any) *api.Secret {
	e.t.Helper()
	secret, err := e.vault.Logical().Write(e.at(path), data)
	if err != nil {
		e.t.Fatalf("write %s: %v", e.at(path), err)
	}
	return secret
}

// ask asks for a grant that needs no consent. more holds further fields.
func (e *engine) ask(name string, more map[string]any) {
	e.t.Helper()
	fields := map[string]any{"wallet_address": e.wallet.WalletAddress("shop"), "access": access}
	for field, value := range more {
		fields[field] = value
	}
	e.write("grants/"+name, fields)
}

// obtain gets a grant without Vault, and returns the fields to import it with. The engine takes an
// imported grant for an interactive one, for which its owner would have to consent again.
func (e *engine) obtain() map[string]any {
	e.t.Helper()
	var body as.GrantRequest
	err := json.Unmarshal([]byte(`{"access_token":{"access":`+access+`}}`), &body)
	if err != nil {
		e.t.Fatal(err)
	}
	grant, err := e.client().Grant.Request(e.t.Context(),
		openpayments.GrantRequestParams{URL: e.wallet.AuthServer(), RequestBody: body})
	if err != nil {
		e.t.Fatal(err)
	}
	return map[string]any{
		"access_token":   grant.AccessToken.Value,
		"manage_url":     grant.AccessToken.Manage,
		"expires_in":     *grant.AccessToken.ExpiresIn,
		"continue_url":   grant.Continue.Uri,
		"continue_token": grant.Continue.AccessToken.Value,
	}
}

// importGrants obtains grants and imports them.
func (e *engine) importGrants(names ...string) {
	e.t.Helper()
	for _, name := range names {
		e.write("grants/"+name, e.obtain())
	}
}

// client returns an SDK client with the engine's identity and key.
func (e *engine) client() *openpayments.AuthenticatedClient {
	e.t.Helper()
	client, err := openpayments.NewAuthenticatedClient(e.wallet.WalletAddress("client"), e.key, keyID)
	if err != nil {
		e.t.Fatal(err)
	}
	return client
}

// read reads a grant's token as a lease.
func (e *engine) read(name string) *api.Secret {
	e.t.Helper()
	return e.readLease("token/" + name)
}

// readLease reads a token as a lease from token/NAME or creds/NAME.
func (e *engine) readLease(path string) *api.Secret {
	e.t.Helper()
	secret, err := e.vault.Logical().Read(e.at(path))
	if err != nil {
		e.t.Fatalf("read %s: %v", e.at(path), err)
	}
	return secret
}

func (e *engine) renew(lease *api.Secret, increment int) *api.Secret {
	e.t.Helper()
	secret, err := e.vault.Sys().Renew(lease.LeaseID, increment)
	if err != nil {
		e.t.Fatalf("renew a lease of %s: %v", e.mount, err)
	}
	return secret
}

// grant returns what a read of the stored grant returns.
func (e *engine) grant(name string) map[string]any {
	e.t.Helper()
	secret, err := e.vault.Logical().Read(e.at("grants/" + name))
	if err != nil {
		e.t.Fatalf("read %s: %v", e.at("grants/"+name), err)
	}
	if secret == nil {
		e.t.Fatalf("there is no %s", e.at("grants/"+name))
	}
	return secret.Data
}

func (e *engine) generation(name string) int64 {
	e.t.Helper()
	return number(e.t, e.grant(name)["generation"])
}

func number(t *testing.T, value any) int64 {
	t.Helper()
	text, ok := value.(json.Number)
	if !ok {
		t.Fatalf("not a number but %T", value)
	}
	n, err := text.Int64()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// tokenOf returns the token in a response. No message shows it.
func (e *engine) tokenOf(secret *api.Secret) string {
	e.t.Helper()
	if secret == nil {
		e.t.Fatal("the response is empty")
	}
	token, ok := secret.Data["access_token"].(string)
	if !ok || token == "" {
		e.t.Fatal("the response contains no access token")
	}
	return token
}

// checkReplaced checks that the second response's token is live and the first one's is dead.
func (e *engine) checkReplaced(before, after *api.Secret) {
	e.t.Helper()
	e.checkDead(e.tokenOf(before))
	e.checkLive(e.tokenOf(after))
}

func (e *engine) checkLive(token string) {
	e.t.Helper()
	if !e.wallet.Live(token) {
		e.t.Error("the token is dead at the sandbox and should be live")
	}
}

func (e *engine) checkDead(token string) {
	e.t.Helper()
	if e.wallet.Live(token) {
		e.t.Error("the token is live at the sandbox and should be dead")
	}
}

// eventually waits until something has happened.
func (e *engine) eventually(what string, happened func() bool) {
	e.t.Helper()
	e.within(soon, what, happened)
}

// within waits until something has happened that may take longer.
func (e *engine) within(limit time.Duration, what string, happened func() bool) {
	e.t.Helper()
	for deadline := time.Now().Add(limit); !happened(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			e.t.Fatalf("%s: not within %s", what, limit)
		}
	}
}

// countRequests returns a function that counts the requests to the sandbox from now on.
func (e *engine) countRequests(operations ...string) func() int {
	count := func() (n int) {
		for _, operation := range operations {
			n += e.wallet.Count(operation)
		}
		return n
	}
	before := count()
	return func() int { return count() - before }
}

// checkSays checks that an error message contains all the words, and no secret.
func (e *engine) checkSays(text string, words ...string) {
	e.t.Helper()
	for _, word := range words {
		if !strings.Contains(text, word) {
			e.t.Errorf("%q does not say %q", text, word)
		}
	}
	e.checkNoSecret("an error", text)
}
