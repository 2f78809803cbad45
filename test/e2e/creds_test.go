// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/client"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/vaulttest"
)

// writeRole writes the role "till".
func (e *engine) writeRole() {
	e.t.Helper()
	e.write("roles/till", map[string]any{"wallet_address": e.wallet.WalletAddress("shop"), "access": access})
}

// readCreds reads a token as a lease with a grant of its own.
func (e *engine) readCreds() *api.Secret {
	e.t.Helper()
	return e.readLease("creds/till")
}

func (e *engine) checkLiveTokens(want int) {
	e.t.Helper()
	if n := e.wallet.LiveTokens(); n != want {
		e.t.Errorf("%d tokens are live at the sandbox, not %d", n, want)
	}
}

func TestCredsOnTheCommandLine(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	written := e.runJSON("write", "op/roles/till", "wallet_address="+e.wallet.WalletAddress("shop"), "access="+access,
		"max_ttl=1h")
	e.checkData(written.Data, map[string]any{
		"auth_server": e.wallet.AuthServer(), "resource_server": e.wallet.ResourceServer(),
		"wallet_address": e.wallet.WalletAddress("shop"), "max_ttl": 3600, "renewable": true,
	})
	e.run("patch", "op/roles/till", "ttl=5m")
	e.checkData(e.runJSON("read", "op/roles/till").Data, map[string]any{"ttl": 300, "max_ttl": 3600})
	e.request(200, "PATCH", "roles/till", `{"ttl":null}`)
	if list := strings.Fields(e.run("list", "op/roles")); fmt.Sprint(list) != "[Keys ---- till]" {
		t.Errorf("the list is %q", list)
	}
	e.request(404, "LIST", "roles?after=till", "")

	first, other := e.runJSON("read", "op/creds/till"), e.runJSON("read", "op/creds/till")
	e.checkData(first.Data, map[string]any{"role": "till", "generation": 1, "authorization": "GNAP " + e.tokenOf(first),
		"resource_server": e.wallet.ResourceServer()})
	if !strings.HasPrefix(first.LeaseID, "op/creds/till/") || !first.Renewable {
		t.Errorf("the lease %s is renewable: %t", first.LeaseID, first.Renewable)
	}
	e.checkTTL("read", first, 590, 595)
	second := e.runJSON("lease renew", "-increment=10h", first.LeaseID)
	e.checkReplaced(first, second)
	e.checkData(second.Data, map[string]any{"role": "till", "generation": 2})
	e.checkTTL("renewal", second, 590, 595)
	e.checkEndsBeforeToken("renewal", second)
	third := e.renew(second, 0) // uses what Vault stored after the first renewal
	e.checkReplaced(second, third)
	e.checkLive(e.tokenOf(other))

	e.run("delete", "op/roles/till")
	e.checkSays(strings.Join(e.request(400, "GET", "creds/till", "").errors, "\n"), `no role named "till": write access`,
		"op/roles/till")
	e.run("lease", "revoke", "-sync", first.LeaseID)
	e.checkDead(e.tokenOf(third))
	e.checkLive(e.tokenOf(other))
	e.run("secrets", "disable", "op")
	e.checkLiveTokens(0)
	e.checkNoSecret("the server's log", e.Log())
}

// However many replicas read at the same time, none replaces another's token.
func TestManyReadersOfCreds(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	e.writeRole()
	const readers = 20
	var reading [readers]<-chan result
	for i := range reading {
		reading[i] = e.startRequest(t.Context(), "GET", "creds/till", "")
	}
	tokens := map[string]bool{}
	for _, results := range reading {
		got := e.awaitResult(results)
		if got.status != 200 {
			t.Fatalf("a reader gets %d %s, %v", got.status, got.errors, got.err)
		}
		token := fmt.Sprint(got.data["access_token"])
		e.checkLive(token)
		tokens[token] = true
	}
	if len(tokens) != readers {
		t.Errorf("%d tokens for %d readers", len(tokens), readers)
	}
	e.checkLiveTokens(readers)
	e.run("lease", "revoke", "-sync", "-prefix", "op/creds/")
	e.checkLiveTokens(0)
}

// When a lease ends, its grant is cancelled before its token would have expired.
func TestCredsExpire(t *testing.T) {
	t.Parallel()
	e := mountEngine(t, vaulttest.Start(t, vaulttest.Options{}), "op", 12*time.Second)
	e.writeRole()
	cancelled := e.countRequests("cancel")
	lease := e.renew(e.readCreds(), 2)
	e.checkLive(e.tokenOf(lease))
	e.eventually("the end of the lease", func() bool { return !e.wallet.Live(e.tokenOf(lease)) })
	if dies := e.timeIn(lease, "expires_at"); cancelled() != 1 || !time.Now().Before(dies) {
		t.Errorf("the token expired first; %d grants were cancelled", cancelled())
	}
}

// Vault retries a cancellation that failed.
func TestCredsAreRevokedWhenTheServerIsBack(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	e.writeRole()
	lease, queued := e.readCreds(), e.readCreds()
	e.wallet.Misbehave(sandbox.Misbehaviour{Reset: true})
	cancelled := e.countRequests("cancel")
	_, stderr, code := e.CLI(e.RootToken, "lease", "revoke", "-sync", lease.LeaseID)
	if code == 0 {
		t.Error("revoked although the server is down")
	}
	e.checkSays(stderr, "the authorization server "+e.wallet.URL()+" could not be reached")
	e.run("lease", "revoke", queued.LeaseID)
	e.eventually("the first attempt", func() bool { return cancelled() >= 2 })
	e.checkLive(e.tokenOf(lease))
	e.checkLive(e.tokenOf(queued))
	if _, err := e.vault.Sys().Lookup(lease.LeaseID); err != nil {
		t.Errorf("the lease is gone: %v", err)
	}

	e.wallet.Misbehave(sandbox.Misbehaviour{})
	e.run("lease", "revoke", "-sync", lease.LeaseID)
	e.checkDead(e.tokenOf(lease))
	// Vault retries after 5 to 15 s, if only the first attempt failed.
	deadline := time.Now().Add(time.Minute)
	for e.wallet.Live(e.tokenOf(queued)) && time.Now().Before(deadline) {
		time.Sleep(100 * time.Millisecond)
	}
	e.checkDead(e.tokenOf(queued))
}

// Vault creates no lease for a response that nobody waits for, so the engine has to cancel the
// grant.
func TestCallerOfCredsHangsUp(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	e.writeRole()
	for name, done := range map[string]bool{"asked": false, "answered": true} {
		t.Run(name, func(t *testing.T) {
			e := e.in(t)
			cancelled := e.countRequests("cancel")
			request := e.hold("grant", done)
			ctx, hangUp := context.WithCancel(t.Context())
			results := e.startRequest(ctx, "GET", "creds/till", "")
			request.await(t)
			hangUp()
			if got := e.awaitResult(results); !errors.Is(got.err, context.Canceled) {
				t.Fatalf("the caller has not hung up: %v", got.err)
			}
			// Vault tells the engine slightly later.
			time.Sleep(time.Second)
			request.release()
			e.eventually("the cancellation", func() bool { return cancelled() == 1 && e.wallet.LiveTokens() == 0 })
		})
	}
	e.checkLive(e.tokenOf(e.readCreds()))
}

func TestCredsThatFail(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	e.writeRole()
	lease := e.readCreds()

	t.Run("consent is needed", func(t *testing.T) {
		e := e.in(t)
		alice := e.wallet.WalletAddress("alice")
		e.write("roles/rent", map[string]any{"wallet_address": alice,
			"access": `[{"type":"outgoing-payment","actions":["create"],"identifier":"` + alice + `"}]`})
		e.checkSays(strings.Join(e.request(400, "GET", "creds/rent", "").errors, "\n"), "consent", "op/grants/NAME")
	})
	t.Run("the server fails", func(t *testing.T) {
		e := e.in(t)
		e.wallet.Misbehave(sandbox.Misbehaviour{On: []string{"grant"}, Status: 500, Times: 1})
		e.checkSays(strings.Join(e.request(502, "GET", "creds/till", "").errors, "\n"),
			"the authorization server "+e.wallet.URL()+" answered 500")
	})
	t.Run("a token that the server has forgotten", func(t *testing.T) {
		e := e.in(t)
		e.wallet.Misbehave(sandbox.Misbehaviour{On: []string{"rotate"}, Drop: true, Times: 1})
		e.checkRenewalRejected(lease, "no longer accepts the token of this lease", "read op/creds/till again")
		e.run("lease", "revoke", "-sync", lease.LeaseID)
		e.checkLiveTokens(0)
	})
	e.checkNoSecret("the server's log", e.Log())
}

// Each consumer has a grant of its own, so no request is rejected.
func TestConsumersOfARole(t *testing.T) {
	t.Parallel()
	e := mountEngine(t, vaulttest.Start(t, vaulttest.Options{}), "op", life)
	e.writeRole()
	e.write("roles/fixed",
		map[string]any{"wallet_address": e.wallet.WalletAddress("shop"), "access": access, "renewable": false})
	// A consumer that reads in time has the next token before the previous one ends.
	overlap := func(before, after *api.Secret) {
		e.checkLive(e.tokenOf(before))
		e.checkLive(e.tokenOf(after))
	}
	agent, name := e.startAgent("creds/fixed", "")
	var ages time.Duration
	file := e.renderedFile(name, &ages)
	last, changes := file(), 0
	rendered := func() string {
		if token := file(); token != last {
			e.checkLive(last)
			last, changes = token, changes+1
		}
		return last
	}
	all := []*consumer{
		e.consumer("a file of Vault Agent", rendered),
		e.consumer("a replica", e.asApplication("creds/till").followingRenewals("creds/till")),
		e.consumer("another replica", e.asApplication("creds/till").followingRenewals("creds/till")),
	}
	for _, name := range []string{"a replica that reads again", "another that reads again"} {
		token, _ := e.asApplication("creds/fixed").readingAgain("creds/fixed", overlap)
		all = append(all, e.consumer(name, token))
	}
	useAll(all, 3*life)
	for i, c := range all {
		c.report(3)
		// A consumer that renews may use a token at the moment of its rotation.
		if renews := i == 1 || i == 2; c.refused > 0 && !renews {
			t.Errorf("%s: %d requests rejected", c.name, c.refused)
		}
	}
	if changes < 3 {
		t.Errorf("the file has changed %d times", changes)
	}
	e.checkNoSecret("the Agent's log", agent.Log())
}

// Three replicas of an application pay with a role each, without the key: over several lives of a
// token, with leases that are renewed and with others that are not, no request fails. Each has one
// grant, and the end of their leases ends them all.
func TestReplicasSignWithARole(t *testing.T) {
	t.Parallel()
	e := mountEngine(t, vaulttest.Start(t, vaulttest.Options{}), "op", life)
	e.writeRole()
	e.write("roles/fixed",
		map[string]any{"wallet_address": e.wallet.WalletAddress("shop"), "access": access, "renewable": false})
	grants, rotations := e.countRequests("grant"), e.countRequests("rotate")
	clients := map[string][]goClient{}
	for role, n := range map[string]int{"till": 3, "fixed": 1} {
		for range n {
			clients[role] = append(clients[role],
				e.goClientFor(e.asApplication("creds/"+role).vault, client.Options{Mount: e.mount, Role: role}))
		}
	}
	var callers sync.WaitGroup
	end := time.Now().Add(3 * life)
	for _, c := range slices.Concat(clients["till"], clients["fixed"]) {
		app := &http.Client{Transport: c}
		callers.Go(func() {
			for time.Now().Before(end) && !t.Failed() {
				c.createAndList(app.Do)
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
	callers.Wait()
	// A lease of 5 s is renewed, or another one read, after 3.3 s.
	if g, r := grants(), rotations(); r < 3*5 || g < 3+5 || g > 3+9 {
		t.Errorf("%d grants and %d rotations", g, r)
	}
	for _, c := range slices.Concat(clients["till"], clients["fixed"]) {
		if err := c.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	e.eventually("the end of all grants", func() bool { return e.wallet.LiveTokens() == 0 })
	e.checkNoSecret("the server's log", e.Log())
}

// What a lease of a role allows to sign: its own token, until that token ends, over a renewal, a
// replacement of the keys, a restart of the plugin and a revocation that keeps the token.
func TestSigningTickets(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	e.writeRole()
	e.run("patch", "op/roles/till", "on_revoke=keep")
	list := e.wallet.ResourceServer() + "/incoming-payments?wallet-address=" + e.wallet.WalletAddress("shop")
	var tickets []string
	fields := func(lease *api.Secret) map[string]any {
		ticket := fmt.Sprint(lease.Data["signing_ticket"])
		tickets = append(tickets, ticket)
		return map[string]any{"access_token": e.tokenOf(lease), "signing_ticket": ticket, "method": "GET", "url": list}
	}
	sign := func(when string, request map[string]any) {
		t.Helper()
		signed, err := e.vault.Logical().Write("op/creds/till/sign", request)
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		e.sendSigned("GET", list, signed.Data)
	}
	first := e.readCreds()
	old := fields(first)
	sign("at once", old)
	second := e.renew(first, 0)
	sign("after a renewal", fields(second))

	mixed := maps.Clone(old)
	mixed["signing_ticket"] = second.Data["signing_ticket"]
	foreign := maps.Clone(old)
	foreign["signing_ticket"] = e.readCreds().Data["signing_ticket"]
	refusals := map[string]bool{}
	for _, request := range []map[string]any{mixed, foreign, {"access_token": e.tokenOf(second)}} {
		got := e.request(400, "POST", "creds/till/sign", asJSON(t, request))
		refusals[strings.Join(got.errors, "\n")] = true
	}
	if len(refusals) != 1 {
		t.Errorf("different refusals: %v", slices.Collect(maps.Keys(refusals)))
	}

	rotated := e.runJSON("write", "op/keys/rotate", "force=true")
	e.publish(rotated.Data["public_key"])
	sign("after the keys were replaced", fields(second))
	if _, err := e.vault.Logical().Write("sys/plugins/reload/backend", map[string]any{"plugin": vaulttest.Plugin}); err != nil {
		t.Fatal(err)
	}
	sign("after a restart of the plugin", fields(second))
	third := e.renew(second, 0)
	sign("after a renewal with the new keys", fields(third))
	e.run("lease", "revoke", "-sync", third.LeaseID)
	sign("after a revocation that keeps the token", fields(third))
	for _, ticket := range tickets {
		if strings.Contains(e.Log(), ticket) {
			t.Fatal("the server's log contains a ticket")
		}
	}
	e.checkNoSecret("the server's log", e.Log())
}

// Vault Agent ignores the responses to its renewals here as well; and a lease of a role keeps the
// settings that the role had when the lease was issued.
func TestAgentWithRenewableCreds(t *testing.T) {
	t.Parallel()
	e := mountEngine(t, vaulttest.Start(t, vaulttest.Options{}), "op", life)
	e.writeRole()
	rotations := e.countRequests("rotate")
	_, name := e.startAgent("creds/till", "")
	var stale time.Duration
	file := e.renderedFile(name, &stale)
	first := file()
	e.write("roles/till",
		map[string]any{"wallet_address": e.wallet.WalletAddress("shop"), "access": access, "renewable": false})
	for n := 1; n <= 3; n++ {
		e.eventually("a renewal", func() bool { return rotations() >= n })
		time.Sleep(300 * time.Millisecond) // time for a render, which must not happen
		if file() != first || e.wallet.Live(first) {
			t.Fatal("Agent rendered the next token of a renewable lease, or the one in its file is live; " +
				"docs/consumers.md says otherwise")
		}
	}
	e.run("lease", "revoke", "-sync", "-prefix", "op/creds/till")
	e.eventually("a live token in the file", func() bool { return e.wallet.Live(file()) })
}
