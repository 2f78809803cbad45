// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"errors"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	openpayments "github.com/interledger/open-payments-go"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/vaulttest"
)

// These tests check what docs/consumers.md says about programs that use tokens.

const (
	// life is the lifetime of tokens in these tests. Their leases last 5 s; a consumer that reads
	// or renews in time has 3 s to do so.
	life = 8 * time.Second

	// maxStale limits how long a token may be dead before its consumer has the next one. That takes
	// about 10 ms; a consumer that waits for the end of its lease takes longer than maxStale.
	maxStale = 3 * time.Second
)

// consumer uses the tokens of a grant continuously.
type consumer struct {
	*engine
	name   string
	client *openpayments.AuthenticatedClient
	token  func() string // returns the token to use now
	again  func()        // reads again after a rejection; nil if the next token arrives without that

	used    map[string]bool
	sent    int // requests
	refused int
	longest time.Duration // from a rotation to the next token, if a request was rejected
}

func (e *engine) consumer(name string, token func() string) *consumer {
	e.t.Helper()
	return &consumer{engine: e, name: name, client: e.client(), token: token, used: map[string]bool{}}
}

// spend sends a request to the resource server and returns the status of the response.
func (c *consumer) spend(token string) int {
	c.t.Helper()
	list := c.wallet.ResourceServer() + "/incoming-payments?wallet-address=" +
		url.QueryEscape(c.wallet.WalletAddress("shop"))
	request, err := http.NewRequestWithContext(c.t.Context(), http.MethodGet, list, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	request.Header.Set("Authorization", "GNAP "+token)
	response, err := c.client.DoSigned(request)
	if err != nil {
		c.t.Fatalf("%s: %v", c.name, err)
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		c.t.Fatal(err)
	}
	return response.StatusCode
}

// useToken sends one request. It may be rejected only if the token has been replaced and the
// consumer is about to get the next one. A token that is dead for any other reason, such as its
// age, fails the test.
func (c *consumer) useToken() {
	c.t.Helper()
	token := c.token()
	if c.wire.askedAt(token).IsZero() {
		c.t.Fatalf("%s: it has something that is not a token", c.name)
	}
	c.used[token] = true
	c.sent++
	status := c.spend(token)
	if status == http.StatusOK {
		return
	}
	refused := time.Now()
	if c.again != nil {
		c.again()
	}
	next := c.token()
	for ; next == token; next = c.token() {
		if time.Since(refused) > maxStale {
			c.t.Fatalf("%s: rejected with %d, and no other token after %s", c.name, status, maxStale)
		}
		time.Sleep(time.Millisecond)
	}
	asked := c.wire.askedAt(next)
	if status != http.StatusForbidden || asked.After(refused) {
		c.t.Fatalf("%s: rejected with %d although the token has not been replaced", c.name, status)
	}
	c.refused, c.longest = c.refused+1, max(c.longest, time.Since(asked))
	if status := c.spend(next); status != http.StatusOK {
		c.t.Fatalf("%s: rejected with %d again, with the next token", c.name, status)
	}
}

// useAll has consumers use their tokens, in turn and continuously, for some time.
func useAll(consumers []*consumer, lasts time.Duration) {
	for end := time.Now().Add(lasts); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		for _, c := range consumers {
			c.useToken()
		}
	}
}

// report logs what happened to a consumer, and checks that it has used at least that many tokens.
func (c *consumer) report(least int) {
	c.t.Helper()
	c.t.Logf("%s: %d tokens; %d of %d requests rejected, none later than %s after a rotation",
		c.name, len(c.used), c.refused, c.sent, c.longest)
	if len(c.used) < least {
		c.t.Errorf("%s has used only %d tokens", c.name, len(c.used))
	}
}

// renderedFile returns a function that reads a token from a file that a Vault Agent renders.
// longest becomes the longest time for which the file has held a dead one.
func (e *engine) renderedFile(name string, longest *time.Duration) func() string {
	e.t.Helper()
	e.eventually("the file", func() bool { _, err := os.Stat(name); return err == nil })
	last := ""
	return func() string {
		e.t.Helper()
		file, err := os.Open(name)
		if err != nil {
			e.t.Fatal(err)
		}
		defer file.Close()
		text, err := io.ReadAll(file)
		if err != nil {
			e.t.Fatal(err)
		}
		token := string(text)
		if last != "" && token != last {
			info, err := file.Stat()
			if err != nil {
				e.t.Fatal(err)
			}
			*longest = max(*longest, info.ModTime().Sub(e.wire.askedAt(token)))
		}
		last = token
		return last
	}
}

// watch starts a LifetimeWatcher for a lease.
func (e *engine) watch(lease *api.Secret, behavior api.RenewBehavior) *api.LifetimeWatcher {
	e.t.Helper()
	watcher, err := e.vault.NewLifetimeWatcher(&api.LifetimeWatcherInput{Secret: lease, RenewBehavior: behavior})
	if err != nil {
		e.t.Fatal(err)
	}
	go watcher.Start()
	e.t.Cleanup(watcher.Stop)
	return watcher
}

// followingRenewals returns the token source of a program that reads token/NAME or creds/NAME once
// and then uses what renewals return.
func (e *engine) followingRenewals(path string) func() string {
	e.t.Helper()
	lease := e.readLease(path)
	watcher := e.watch(lease, api.RenewBehaviorErrorOnErrors)
	return func() string {
		e.t.Helper()
		select {
		case renewal := <-watcher.RenewCh():
			e.checkSuccessor(lease, renewal.Secret)
			lease = renewal.Secret
		case err := <-watcher.DoneCh():
			e.t.Fatalf("the watcher of %s has ended: %v", path, err)
		default:
		}
		return e.tokenOf(lease)
	}
}

// readingAgain returns the token source of a program that does not renew: it reads whenever its
// lease is about to end, or when it calls again. check is called with each response and the one
// before it.
func (e *engine) readingAgain(path string, check func(before, after *api.Secret)) (token func() string, again func()) {
	e.t.Helper()
	lease := e.readLease(path)
	watcher := e.watch(lease, api.RenewBehaviorIgnoreErrors)
	again = func() {
		e.t.Helper()
		before := lease
		lease = e.readLease(path)
		check(before, lease)
		watcher.Stop()
		watcher = e.watch(lease, api.RenewBehaviorIgnoreErrors)
	}
	return func() string {
		e.t.Helper()
		select {
		case err := <-watcher.DoneCh():
			if err != nil {
				e.t.Fatalf("the watcher of %s: %v", path, err)
			}
			again()
		default:
		}
		return e.tokenOf(lease)
	}, again
}

// readingAlone returns the token source of a program whose grant nobody else reads.
func (e *engine) readingAlone(grant string) func() string {
	e.t.Helper()
	token, _ := e.readingAgain("token/"+grant, e.checkSuccessor)
	return token
}

// checkSuccessor checks that the second response's token is live and directly follows the first
// one's, which is dead.
func (e *engine) checkSuccessor(before, after *api.Secret) {
	e.t.Helper()
	e.checkReplaced(before, after)
	if was, is := number(e.t, before.Data["generation"]), number(e.t, after.Data["generation"]); is != was+1 {
		e.t.Errorf("generation %d follows %d", is, was)
	}
}

// withClient returns the engine, used through another client.
func (e *engine) withClient(client *api.Client) *engine {
	one := *e
	one.vault = client
	return &one
}

// putPolicies writes the policies of applications that use these grants, and returns the policies'
// names.
func (e *engine) putPolicies(grants ...string) []string {
	e.t.Helper()
	for _, grant := range grants {
		e.putPolicy("token/" + grant)
	}
	return grants
}

// putPolicy writes the example policy for an application that reads token/NAME or creds/NAME, under
// the name NAME, which it returns.
func (e *engine) putPolicy(path string) (name string) {
	e.t.Helper()
	name = lastPart(path)
	sign := "op/sign/" + name
	if strings.HasPrefix(path, "creds/") {
		sign = "op/" + path + "/sign"
	}
	text := e.exampleFile(filepath.Join("policies", "application.hcl"), "op/token/shop-income", "op/"+path,
		"op/sign/shop-income", sign)
	if err := e.vault.Sys().PutPolicy(name, text); err != nil {
		e.t.Fatal(err)
	}
	return name
}

// asApplication returns the engine, used with a token that may use token/NAME or creds/NAME and
// nothing else.
func (e *engine) asApplication(path string) *engine {
	e.t.Helper()
	return e.withClient(e.Client(e.Token(e.putPolicy(path))))
}

// exampleFile returns the contents of a file in examples/, after replacements (old, new, …), each
// of which must occur.
func (e *engine) exampleFile(name string, replacements ...string) string {
	e.t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "examples", name))
	if err != nil {
		e.t.Fatal(err)
	}
	for i := 0; i < len(replacements); i += 2 {
		if !strings.Contains(string(text), replacements[i]) {
			e.t.Fatalf("%s does not say %q", name, replacements[i])
		}
	}
	return strings.NewReplacer(replacements...).Replace(string(text))
}

// appRoleDir returns a directory with the AppRole credentials of a program that gets these
// policies.
func (e *engine) appRoleDir(policies ...string) string {
	e.t.Helper()
	mounted, err := e.vault.Sys().ListAuth()
	if err == nil && mounted["approle/"] == nil {
		err = e.vault.Sys().EnableAuthWithOptions("approle", &api.EnableAuthOptions{Type: "approle"})
	}
	if err != nil {
		e.t.Fatal(err)
	}
	role, dir := "auth/approle/role/"+policies[0], e.t.TempDir()
	_, err = e.vault.Logical().Write(role, map[string]any{"token_policies": policies, "token_no_default_policy": true})
	if err != nil {
		e.t.Fatal(err)
	}
	roleID, err := e.vault.Logical().Read(role + "/role-id")
	if err != nil {
		e.t.Fatal(err)
	}
	secretID, err := e.vault.Logical().Write(role+"/secret-id", nil)
	if err != nil {
		e.t.Fatal(err)
	}
	for name, answer := range map[string]*api.Secret{"role_id": roleID, "secret_id": secretID} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(answer.Data[name].(string)), 0o600); err != nil {
			e.t.Fatal(err)
		}
	}
	return dir
}

// startAgent starts a Vault Agent, configured like the one in examples/, that reads token/NAME or
// creds/NAME, and returns it and the file that it renders.
func (e *engine) startAgent(path, more string) (agent *vaulttest.Daemon, file string) {
	e.t.Helper()
	file = filepath.Join(e.t.TempDir(), "token")
	agent = e.Agent(more + e.exampleFile("agent.hcl", "https://vault.example:8200", e.Address,
		"/etc/vault-agent", e.appRoleDir(e.putPolicy(path)), "/run/shop/token", file, "op/token/shop-income", "op/"+path))
	return agent, file
}

// startProxy starts a Vault Proxy, configured like the one in examples/, for clients that use these
// grants.
func (e *engine) startProxy(more string, grants ...string) *vaulttest.Daemon {
	e.t.Helper()
	dir := e.appRoleDir(e.putPolicies(grants...)...)
	return e.Proxy(func(listen string) string {
		return more + e.exampleFile("proxy.hcl",
			"https://vault.example:8200", e.Address, "/etc/vault-proxy", dir, "127.0.0.1:8100", listen)
	})
}

// Each kind of consumer runs with the settings that it needs, all at the same time, for five
// lifetimes of a token. No request is rejected except while a consumer is about to get its next
// token.
func TestConsumers(t *testing.T) {
	t.Parallel()
	e := mountEngine(t, vaulttest.Start(t, vaulttest.Options{}), "op", life)
	for _, grant := range []string{"shop-income", "read-again", "proxied-1", "proxied-2"} {
		e.ask(grant, map[string]any{"renewable": false})
	}
	for _, grant := range []string{"followed", "proxied-3"} {
		e.ask(grant, nil)
	}

	second := filepath.Join(t.TempDir(), "second")
	agent, first := e.startAgent("token/shop-income", `template {
	  contents    = "{{ with secret \"op/token/shop-income\" }}{{ .Data.access_token }}{{ end }}"
	  destination = "`+second+`"
	}
	`)
	proxy := e.startProxy("", "proxied-1", "proxied-2", "proxied-3")
	behind := e.withClient(proxy.Client())
	var stale [2]time.Duration
	rendered := []*consumer{
		e.consumer("a file of Vault Agent", e.renderedFile(first, &stale[0])),
		e.consumer("another file of the same Agent", e.renderedFile(second, &stale[1])),
	}
	following := []*consumer{
		e.consumer("LifetimeWatcher", e.asApplication("token/followed").followingRenewals("token/followed")),
		e.consumer("LifetimeWatcher behind Vault Proxy", behind.followingRenewals("token/proxied-3")),
	}
	reading := []*consumer{
		e.consumer("reads again", e.asApplication("token/read-again").readingAlone("read-again")),
		e.consumer("reads again behind Vault Proxy", behind.readingAlone("proxied-1")),
		e.consumer("another behind the same Proxy", behind.readingAlone("proxied-2")),
	}
	all := append(append(rendered, following...), reading...)

	useAll(all, 5*life)

	for _, c := range all {
		c.report(5)
	}
	// A consumer that reads again always has a live token.
	for _, c := range reading {
		if c.refused > 0 {
			t.Errorf("%s: %d requests rejected", c.name, c.refused)
		}
	}
	for i, c := range rendered {
		t.Logf("%s: at most %s from the rotation to the next token in the file", c.name, stale[i])
		if stale[i] > maxStale {
			t.Errorf("%s: it held a dead token for %s", c.name, stale[i])
		}
	}
	// Both templates share one read, so no token was in one file only. (The loop may have ended
	// between the two.)
	tokens := maps.Clone(rendered[0].used)
	maps.Copy(tokens, rendered[1].used)
	if n := len(rendered[0].used) + len(rendered[1].used); n < 2*len(tokens)-1 ||
		e.generation("shop-income") > int64(len(tokens)+2) {
		t.Errorf("the two files held %d tokens, %d in all, of %d generations", n, len(tokens), e.generation("shop-income"))
	}
	for name, log := range map[string]string{"the Agent's log": agent.Log(), "the Proxy's log": proxy.Log()} {
		e.checkNoSecret(name, log)
		if strings.Contains(log, "permission denied") {
			t.Errorf("the example policy lacks something: see %s", name)
		}
	}
}

// Vault Agent renews a renewable lease and ignores the response, so its file holds a dead token
// from then on. renewable=false fixes that, even for a running Agent.
func TestAgentWithRenewableLease(t *testing.T) {
	t.Parallel()
	e := mountEngine(t, vaulttest.Start(t, vaulttest.Options{}), "op", life)
	e.ask("shop-income", nil)
	_, name := e.startAgent("token/shop-income", "")
	var stale time.Duration
	file := e.renderedFile(name, &stale)
	c := e.consumer("a file of Vault Agent", file)
	first := file()
	for generation := int64(3); generation <= 5; generation++ { // 2 is in the file
		e.eventually("a renewal", func() bool { return e.generation("shop-income") >= generation })
		time.Sleep(300 * time.Millisecond) // time for a render, which must not happen
		if file() != first || c.spend(first) != http.StatusForbidden {
			t.Fatalf("Agent rendered generation %d of a renewable lease, or the token in its file is live; "+
				"docs/consumers.md says otherwise", generation)
		}
	}

	before := e.generation("shop-income")
	e.write("grants/shop-income", map[string]any{"renewable": false})
	e.eventually("a live token in the file", func() bool { return e.wallet.Live(file()) })
	// Agent learns of the setting from a renewal, and reads; another renewal may have been in
	// progress.
	if renewals := e.generation("shop-income") - before - 1; renewals > 2 {
		t.Errorf("Agent has renewed %d times more before it has read again", renewals)
	}

	// This is what an application sees while Agent renders, in slow motion: the token is rejected
	// from the rotation until the file holds the next one.
	rotation := e.hold("rotate", true)
	rotation.await(t)
	old := file()
	if status := c.spend(old); status != http.StatusForbidden {
		t.Errorf("status %d for a token that has been replaced", status)
	}
	rotation.release()
	e.eventually("the render", func() bool { return file() != old })
	if status := c.spend(file()); status != http.StatusOK {
		t.Errorf("status %d for the next token", status)
	}
}

// The cache of Vault Proxy renews renewable leases, which replaces the token, and goes on returning
// the first one. It does not keep leases that are not renewable.
func TestProxyWithCache(t *testing.T) {
	t.Parallel()
	e := mountEngine(t, vaulttest.Start(t, vaulttest.Options{}), "op", life)
	e.ask("shop-income", nil)
	e.ask("followed", nil)
	proxy := e.startProxy("cache {}\n", "shop-income", "followed")
	one, other := e.withClient(proxy.Client()), e.withClient(proxy.Client())

	first := e.tokenOf(one.read("shop-income"))
	for generation := int64(3); generation <= 4; generation++ {
		e.eventually("a renewal by Proxy", func() bool { return e.generation("shop-income") >= generation })
		for _, client := range []*engine{one, other} {
			if e.tokenOf(client.read("shop-income")) != first {
				t.Fatal("Proxy's cache returns another token; docs/consumers.md says otherwise")
			}
		}
		e.checkDead(first)
	}

	// The cache also responds to a client's own renewals.
	lease := one.read("followed")
	renewal := one.renew(lease, 0)
	e.eventually("a renewal by Proxy", func() bool { return !e.wallet.Live(e.tokenOf(renewal)) })
	if again := e.tokenOf(one.renew(lease, 0)); again != e.tokenOf(renewal) {
		t.Error("Proxy's cache forwards renewals; docs/consumers.md says otherwise")
	}

	e.write("grants/shop-income", map[string]any{"renewable": false})
	e.eventually("a live token from Proxy", func() bool { return e.wallet.Live(e.tokenOf(other.read("shop-income"))) })
	e.checkSuccessor(one.read("shop-income"), other.read("shop-income"))
}

// These are the behaviors to choose from for a LifetimeWatcher.
func TestLifetimeWatcherBehaviour(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	e.ask("shop-income", nil)
	e.ask("read-again", map[string]any{"renewable": false})

	// Another reader has got a newer token: the first renewal fails.
	superseded := e.read("shop-income")
	e.read("shop-income")
	patient := e.watch(superseded, api.RenewBehaviorIgnoreErrors)
	select {
	case err := <-e.watch(superseded, api.RenewBehaviorErrorOnErrors).DoneCh():
		e.checkRejection(err, "superseded", "read op/token/shop-income again")
	case <-time.After(soon):
		t.Error("a watcher that should end on errors goes on with a superseded lease")
	}
	select {
	case err := <-patient.DoneCh():
		t.Errorf("a watcher that should ignore errors has ended: %v", err)
	case <-time.After(2 * time.Second):
	}

	select {
	case err := <-e.watch(e.read("read-again"), api.RenewBehaviorErrorOnErrors).DoneCh():
		if !errors.Is(err, api.ErrLifetimeWatcherNotRenewable) {
			t.Errorf("a lease that is not renewable: %v", err)
		}
	case <-time.After(soon):
		t.Error("a watcher that should end on errors waits with a lease that is not renewable")
	}
}

// A batch job logs in, reads, pays and leaves no lease behind.
func TestBatchJob(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	e.ask("shop-income", nil)
	job := e.asApplication("token/shop-income")
	token := e.tokenOf(job.read("shop-income"))
	if status := e.consumer("a batch job", nil).spend(token); status != http.StatusOK {
		t.Errorf("status %d", status)
	}
	if err := job.vault.Auth().Token().RevokeSelf(""); err != nil {
		t.Fatal(err)
	}
	e.eventually("the token's death", func() bool { return !e.wallet.Live(token) })
	e.checkLive(e.tokenOf(e.read("shop-income")))
}

// The runs of a job overlap: the end of one does not affect the tokens of the others, with a role
// or with a shared grant.
func TestOverlappingJobs(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	e.writeRole()
	e.ask("shop-income", map[string]any{"shared": true})
	for path, own := range map[string]bool{"creds/till": true, "token/shop-income": false} {
		c := e.consumer(path, nil)
		var runs []*engine
		var tokens []string
		for range 3 {
			run := e.asApplication(path)
			runs, tokens = append(runs, run), append(tokens, e.tokenOf(run.readLease(path)))
		}
		for i, run := range runs {
			for _, token := range tokens[i:] {
				if status := c.spend(token); status != http.StatusOK {
					t.Errorf("%s: status %d after the end of %d runs", path, status, i)
				}
			}
			if err := run.vault.Auth().Token().RevokeSelf(""); err != nil {
				t.Fatal(err)
			}
			e.eventually("the end of the leases", func() bool {
				left, err := e.vault.Logical().List("sys/leases/lookup/op/" + path)
				return err == nil && (left == nil || len(left.Data["keys"].([]any)) == len(runs)-i-1)
			})
			if e.wallet.Live(tokens[i]) == own {
				t.Errorf("%s: the token of run %d is live: %t", path, i, own)
			}
		}
	}
}
