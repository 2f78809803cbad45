// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/vaulttest"
)

// role writes the role till.
func (e *engine) role() {
	e.t.Helper()
	e.write("roles/till", map[string]any{"wallet_address": e.wallet.WalletAddress("shop"), "access": access})
}

// creds gets a token of a grant of its own as a lease.
func (e *engine) creds() *api.Secret {
	e.t.Helper()
	return e.readLease("creds/till")
}

func (e *engine) liveTokens(want int) {
	e.t.Helper()
	if n := e.wallet.LiveTokens(); n != want {
		e.t.Errorf("%d tokens live at the sandbox, not %d", n, want)
	}
}

func TestCredsOnTheCommandLine(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	written := e.answer("write", "op/roles/till", "wallet_address="+e.wallet.WalletAddress("shop"), "access="+access, "max_ttl=1h")
	e.expect(written.Data, map[string]any{
		"auth_server": e.wallet.AuthServer(), "resource_server": e.wallet.ResourceServer(), "wallet_address": e.wallet.WalletAddress("shop"), "max_ttl": 3600, "renewable": true,
	})
	e.run("patch", "op/roles/till", "ttl=5m")
	e.expect(e.answer("read", "op/roles/till").Data, map[string]any{"ttl": 300, "max_ttl": 3600})
	e.gets(200, "PATCH", "roles/till", `{"ttl":null}`)
	if list := strings.Fields(e.run("list", "op/roles")); fmt.Sprint(list) != "[Keys ---- till]" {
		t.Errorf("the list is %q", list)
	}
	e.gets(404, "LIST", "roles?after=till", "")

	first, other := e.answer("read", "op/creds/till"), e.answer("read", "op/creds/till")
	e.expect(first.Data, map[string]any{"role": "till", "generation": 1, "authorization": "GNAP " + e.tokenOf(first), "resource_server": e.wallet.ResourceServer()})
	if !strings.HasPrefix(first.LeaseID, "op/creds/till/") || !first.Renewable {
		t.Errorf("the lease %s is renewable: %t", first.LeaseID, first.Renewable)
	}
	e.lasts("read", first, 590, 595)
	second := e.answer("lease renew", "-increment=10h", first.LeaseID)
	e.replaced(first, second)
	e.expect(second.Data, map[string]any{"role": "till", "generation": 2})
	e.lasts("renewal", second, 590, 595)
	e.beforeItsToken("renewal", second)
	third := e.renew(second, 0) // by what Vault has stored of the renewal
	e.replaced(second, third)
	e.live(e.tokenOf(other))

	e.run("delete", "op/roles/till")
	e.says(strings.Join(e.gets(400, "GET", "creds/till", "").errors, "\n"), `no role named "till": write access`, "op/roles/till")
	e.run("lease", "revoke", "-sync", first.LeaseID)
	e.dead(e.tokenOf(third))
	e.live(e.tokenOf(other))
	e.run("secrets", "disable", "op")
	e.liveTokens(0)
	e.noSecretIn("the server's log", e.Log())
}

// However many replicas read at the same time, none takes a token from another.
func TestManyReadersOfCreds(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	e.role()
	const readers = 20
	var reading [readers]<-chan result
	for i := range reading {
		reading[i] = e.sending(t.Context(), "GET", "creds/till", "")
	}
	tokens := map[string]bool{}
	for _, results := range reading {
		got := e.answered(results)
		if got.status != 200 {
			t.Fatalf("a reader gets %d %s, %v", got.status, got.errors, got.err)
		}
		token := fmt.Sprint(got.data["access_token"])
		e.live(token)
		tokens[token] = true
	}
	if len(tokens) != readers {
		t.Errorf("%d tokens for %d readers", len(tokens), readers)
	}
	e.liveTokens(readers)
	e.run("lease", "revoke", "-sync", "-prefix", "op/creds/")
	e.liveTokens(0)
}

// At the end of a lease its grant is cancelled, before its token would have
// expired by itself.
func TestCredsExpire(t *testing.T) {
	t.Parallel()
	e := mountEngine(t, vaulttest.Start(t, vaulttest.Options{}), "op", 12*time.Second)
	e.role()
	cancelled := e.sent("cancel")
	lease := e.renew(e.creds(), 2)
	e.live(e.tokenOf(lease))
	e.eventually("the end of the lease", func() bool { return !e.wallet.Live(e.tokenOf(lease)) })
	if dies := e.timeOf(lease, "expires_at"); cancelled() != 1 || !time.Now().Before(dies) {
		t.Errorf("the token has expired by itself; %d grants were cancelled", cancelled())
	}
}

// Vault tries again what could not be cancelled.
func TestCredsAreRevokedWhenTheServerIsBack(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	e.role()
	lease, queued := e.creds(), e.creds()
	e.wallet.Misbehave(sandbox.Misbehaviour{Reset: true})
	cancelled := e.sent("cancel")
	_, stderr, code := e.CLI(e.RootToken, "lease", "revoke", "-sync", lease.LeaseID)
	if code == 0 {
		t.Error("revoked without the server")
	}
	e.says(stderr, "the authorization server "+e.wallet.URL()+" could not be reached")
	e.run("lease", "revoke", queued.LeaseID)
	e.eventually("the first attempt", func() bool { return cancelled() >= 2 })
	e.live(e.tokenOf(lease))
	e.live(e.tokenOf(queued))
	if _, err := e.vault.Sys().Lookup(lease.LeaseID); err != nil {
		t.Errorf("the lease is forgotten: %v", err)
	}

	e.wallet.Misbehave(sandbox.Misbehaviour{})
	e.run("lease", "revoke", "-sync", lease.LeaseID)
	e.dead(e.tokenOf(lease))
	// After 5 to 15 s, if the first attempt was the only one that failed.
	deadline := time.Now().Add(time.Minute)
	for e.wallet.Live(e.tokenOf(queued)) && time.Now().Before(deadline) {
		time.Sleep(100 * time.Millisecond)
	}
	e.dead(e.tokenOf(queued))
}

// Vault makes no lease of an answer that nobody waits for, so the grant has to go.
func TestCallerOfCredsHangsUp(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	e.role()
	for name, done := range map[string]bool{"asked": false, "answered": true} {
		t.Run(name, func(t *testing.T) {
			e := e.in(t)
			cancelled := e.sent("cancel")
			request := e.holdUp("grant", done)
			ctx, hangUp := context.WithCancel(t.Context())
			results := e.sending(ctx, "GET", "creds/till", "")
			request.await(t)
			hangUp()
			if got := e.answered(results); !errors.Is(got.err, context.Canceled) {
				t.Fatalf("the caller has not hung up: %v", got.err)
			}
			// The engine hears of it through Vault, a little later.
			time.Sleep(time.Second)
			request.release()
			e.eventually("the cancellation", func() bool { return cancelled() == 1 && e.wallet.LiveTokens() == 0 })
		})
	}
	e.live(e.tokenOf(e.creds()))
}

func TestCredsThatCannotBeHad(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	e.role()
	lease := e.creds()

	t.Run("consent is needed", func(t *testing.T) {
		e := e.in(t)
		alice := e.wallet.WalletAddress("alice")
		e.write("roles/rent", map[string]any{"wallet_address": alice, "access": `[{"type":"outgoing-payment","actions":["create"],"identifier":"` + alice + `"}]`})
		e.says(strings.Join(e.gets(400, "GET", "creds/rent", "").errors, "\n"), "consent", "op/grants/NAME")
	})
	t.Run("the server fails", func(t *testing.T) {
		e := e.in(t)
		e.wallet.Misbehave(sandbox.Misbehaviour{On: []string{"grant"}, Status: 500, Times: 1})
		e.says(strings.Join(e.gets(502, "GET", "creds/till", "").errors, "\n"), "the authorization server "+e.wallet.URL()+" answered 500")
	})
	t.Run("a token that the server has forgotten", func(t *testing.T) {
		e := e.in(t)
		e.wallet.Misbehave(sandbox.Misbehaviour{On: []string{"rotate"}, Drop: true, Times: 1})
		e.refused(lease, "no longer accepts the token of this lease", "read op/creds/till again")
		e.run("lease", "revoke", "-sync", lease.LeaseID)
		e.liveTokens(0)
	})
	e.noSecretIn("the server's log", e.Log())
}

// Each consumer has a grant of its own: not a request is refused.
func TestConsumersOfARole(t *testing.T) {
	t.Parallel()
	e := mountEngine(t, vaulttest.Start(t, vaulttest.Options{}), "op", life)
	e.role()
	e.write("roles/fixed", map[string]any{"wallet_address": e.wallet.WalletAddress("shop"), "access": access, "renewable": false})
	// Who reads in time has the next token before the one before it ends.
	overlap := func(before, after *api.Secret) {
		e.live(e.tokenOf(before))
		e.live(e.tokenOf(after))
	}
	agent, name := e.agent("creds/fixed", "")
	var ages time.Duration
	file := e.file(name, &ages)
	last, changes := file(), 0
	rendered := func() string {
		if token := file(); token != last {
			e.live(last)
			last, changes = token, changes+1
		}
		return last
	}
	all := []*consumer{
		e.consumer("a file of Vault Agent", rendered),
		e.consumer("a replica", e.application("creds/till").follows("creds/till")),
		e.consumer("another replica", e.application("creds/till").follows("creds/till")),
	}
	for _, name := range []string{"a replica that reads again", "another that reads again"} {
		token, _ := e.application("creds/fixed").readsAgain("creds/fixed", overlap)
		all = append(all, e.consumer(name, token))
	}
	use(all, 3*life)
	for i, c := range all {
		c.report(3)
		// Who follows renewals may use a token at the moment of its rotation.
		if follows := i == 1 || i == 2; c.refused > 0 && !follows {
			t.Errorf("%s: %d requests refused", c.name, c.refused)
		}
	}
	if changes < 3 {
		t.Errorf("the file has changed %d times", changes)
	}
	e.noSecretIn("the Agent's log", agent.Log())
}

// Vault Agent does not use the answers to its renewals here, either; and a lease of a
// role keeps the settings that it was made with.
func TestAgentWithRenewableCreds(t *testing.T) {
	t.Parallel()
	e := mountEngine(t, vaulttest.Start(t, vaulttest.Options{}), "op", life)
	e.role()
	rotations := e.sent("rotate")
	_, name := e.agent("creds/till", "")
	var stale time.Duration
	file := e.file(name, &stale)
	first := file()
	e.write("roles/till", map[string]any{"wallet_address": e.wallet.WalletAddress("shop"), "access": access, "renewable": false})
	for n := 1; n <= 3; n++ {
		e.eventually("a renewal", func() bool { return rotations() >= n })
		time.Sleep(300 * time.Millisecond) // for a render that does not come
		if file() != first || e.wallet.Live(first) {
			t.Fatal("Agent has rendered the next token of a renewable lease, or the one in its file is good; docs/consumers.md says otherwise")
		}
	}
	e.run("lease", "revoke", "-sync", "-prefix", "op/creds/till")
	e.eventually("a good token in the file", func() bool { return e.wallet.Live(file()) })
}
