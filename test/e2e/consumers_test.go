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

// What docs/consumers.md says of programs that use tokens.

const (
	// life is that of the tokens here: their leases last 5 s, and whoever reads or
	// renews in time has 3 s for it.
	life = 8 * time.Second

	// settling is how long a token may be dead before its consumer has the next one. It
	// takes some 10 ms; a consumer that goes on to the lease's end takes longer than this.
	settling = 3 * time.Second
)

// consumer uses the tokens of a grant all the time.
type consumer struct {
	*engine
	name   string
	client *openpayments.AuthenticatedClient
	token  func() string // the one to use now
	again  func()        // reads again what was refused; nil if the next token comes by itself

	used    map[string]bool
	sent    int // requests
	refused int
	longest time.Duration // from the rotation to the next token, where a request was refused
}

func (e *engine) consumer(name string, token func() string) *consumer {
	e.t.Helper()
	return &consumer{engine: e, name: name, client: e.client(), token: token, used: map[string]bool{}}
}

// spend sends a request to the resource server and is the status of its answer.
func (c *consumer) spend(token string) int {
	c.t.Helper()
	list := c.wallet.ResourceServer() + "/incoming-payments?wallet-address=" + url.QueryEscape(c.wallet.WalletAddress("shop"))
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

// use sends one request. It may be refused in one case only: the token has been
// replaced, and the consumer is about to learn of the next one. A token that has
// died in any other way, such as of age, fails the test.
func (c *consumer) use() {
	c.t.Helper()
	token := c.token()
	if c.wire.askedAt(token).IsZero() {
		c.t.Fatalf("%s: what it has is no token", c.name)
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
		if time.Since(refused) > settling {
			c.t.Fatalf("%s: refused with %d, and no other token after %s", c.name, status, settling)
		}
		time.Sleep(time.Millisecond)
	}
	asked := c.wire.askedAt(next)
	if status != http.StatusForbidden || asked.After(refused) {
		c.t.Fatalf("%s: refused with %d, the token not having been replaced", c.name, status)
	}
	c.refused, c.longest = c.refused+1, max(c.longest, time.Since(asked))
	if status := c.spend(next); status != http.StatusOK {
		c.t.Fatalf("%s: refused with %d once more, with the next token", c.name, status)
	}
}

// use lets consumers use their tokens, one after the other, all the time.
func use(consumers []*consumer, lasts time.Duration) {
	for end := time.Now().Add(lasts); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		for _, c := range consumers {
			c.use()
		}
	}
}

// report logs how a consumer has fared, and checks that it has used so many tokens.
func (c *consumer) report(least int) {
	c.t.Helper()
	c.t.Logf("%s: %d tokens; %d of %d requests refused, none later than %s after a rotation", c.name, len(c.used), c.refused, c.sent, c.longest)
	if len(c.used) < least {
		c.t.Errorf("%s has used %d tokens only", c.name, len(c.used))
	}
}

// file reads a token from a file that a Vault Agent renders; longest becomes the
// longest time for which the file has held a dead one.
func (e *engine) file(name string, longest *time.Duration) func() string {
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

// watch keeps a lease with Vault's LifetimeWatcher.
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

// follows is a program that reads token/NAME or creds/NAME once and goes on with what
// renewals answer.
func (e *engine) follows(path string) func() string {
	e.t.Helper()
	lease := e.readLease(path)
	watcher := e.watch(lease, api.RenewBehaviorErrorOnErrors)
	return func() string {
		e.t.Helper()
		select {
		case renewal := <-watcher.RenewCh():
			e.succeeds(lease, renewal.Secret)
			lease = renewal.Secret
		case err := <-watcher.DoneCh():
			e.t.Fatalf("the watcher of %s has ended: %v", path, err)
		default:
		}
		return e.tokenOf(lease)
	}
}

// readsAgain is a program that renews nothing: it reads whenever its lease comes to
// the end, or when it calls again. check is given each two answers.
func (e *engine) readsAgain(path string, check func(before, after *api.Secret)) (token func() string, again func()) {
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

// readsInTime is a program whose grant nobody else reads.
func (e *engine) readsInTime(grant string) func() string {
	e.t.Helper()
	token, _ := e.readsAgain("token/"+grant, e.succeeds)
	return token
}

// succeeds checks that the second answer's token is the live one and comes right
// after the first one's, which is dead.
func (e *engine) succeeds(before, after *api.Secret) {
	e.t.Helper()
	e.replaced(before, after)
	if was, is := number(e.t, before.Data["generation"]), number(e.t, after.Data["generation"]); is != was+1 {
		e.t.Errorf("generation %d comes after %d", is, was)
	}
}

// by is the same engine, used through another client.
func (e *engine) by(client *api.Client) *engine {
	one := *e
	one.vault = client
	return &one
}

// policies are those of applications that use these grants.
func (e *engine) policies(grants ...string) []string {
	e.t.Helper()
	for _, grant := range grants {
		e.policy("token/" + grant)
	}
	return grants
}

// policy is that of an application that reads token/NAME or creds/NAME, as examples/
// has it. It has the same name.
func (e *engine) policy(path string) (name string) {
	e.t.Helper()
	name = lastPart(path)
	text := e.example(filepath.Join("policies", "application.hcl"), "op/token/shop-income", "op/"+path, "op/sign/shop-income", "op/sign/"+name)
	if err := e.vault.Sys().PutPolicy(name, text); err != nil {
		e.t.Fatal(err)
	}
	return name
}

// application is the same engine, used with a token that may use token/NAME or
// creds/NAME and nothing else.
func (e *engine) application(path string) *engine {
	e.t.Helper()
	return e.by(e.Client(e.Token(e.policy(path))))
}

// example is a file of examples/, with other words in place of some of its own.
func (e *engine) example(name string, replacements ...string) string {
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

// appRole is a folder with what a program logs in with that has these policies.
func (e *engine) appRole(policies ...string) string {
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

// agent starts a Vault Agent like that of examples/, which reads token/NAME or
// creds/NAME, and is the file that it renders.
func (e *engine) agent(path, more string) (agent *vaulttest.Daemon, file string) {
	e.t.Helper()
	file = filepath.Join(e.t.TempDir(), "token")
	agent = e.Agent(more + e.example("agent.hcl", "https://vault.example:8200", e.Address,
		"/etc/vault-agent", e.appRole(e.policy(path)), "/run/shop/token", file, "op/token/shop-income", "op/"+path))
	return agent, file
}

// proxy starts a Vault Proxy like that of examples/ for clients of these grants.
func (e *engine) proxy(more string, grants ...string) *vaulttest.Daemon {
	e.t.Helper()
	dir := e.appRole(e.policies(grants...)...)
	return e.Proxy(func(listen string) string {
		return more + e.example("proxy.hcl",
			"https://vault.example:8200", e.Address, "/etc/vault-proxy", dir, "127.0.0.1:8100", listen)
	})
}

// Each kind of consumer, with the settings that it needs, side by side for five
// lives of a token: not a request is refused but while a consumer is about to learn
// of its next token.
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
	agent, first := e.agent("token/shop-income", `template {
	  contents    = "{{ with secret \"op/token/shop-income\" }}{{ .Data.access_token }}{{ end }}"
	  destination = "`+second+`"
	}
	`)
	proxy := e.proxy("", "proxied-1", "proxied-2", "proxied-3")
	behind := e.by(proxy.Client())
	var stale [2]time.Duration
	rendered := []*consumer{
		e.consumer("a file of Vault Agent", e.file(first, &stale[0])),
		e.consumer("another file of the same Agent", e.file(second, &stale[1])),
	}
	following := []*consumer{
		e.consumer("LifetimeWatcher", e.application("token/followed").follows("token/followed")),
		e.consumer("LifetimeWatcher behind Vault Proxy", behind.follows("token/proxied-3")),
	}
	reading := []*consumer{
		e.consumer("reads again", e.application("token/read-again").readsInTime("read-again")),
		e.consumer("reads again behind Vault Proxy", behind.readsInTime("proxied-1")),
		e.consumer("another behind the same Proxy", behind.readsInTime("proxied-2")),
	}
	all := append(append(rendered, following...), reading...)

	use(all, 5*life)

	for _, c := range all {
		c.report(5)
	}
	// Who reads again is not without a token for a moment.
	for _, c := range reading {
		if c.refused > 0 {
			t.Errorf("%s: %d requests refused", c.name, c.refused)
		}
	}
	for i, c := range rendered {
		t.Logf("%s: at most %s from the rotation to the next token in the file", c.name, stale[i])
		if stale[i] > settling {
			t.Errorf("%s: it held a dead token for %s", c.name, stale[i])
		}
	}
	// Both templates share one read: no token was in one file only. (The loop may have
	// ended between the two.)
	tokens := maps.Clone(rendered[0].used)
	maps.Copy(tokens, rendered[1].used)
	if n := len(rendered[0].used) + len(rendered[1].used); n < 2*len(tokens)-1 || e.generation("shop-income") > int64(len(tokens)+2) {
		t.Errorf("the two files held %d tokens, %d in all, of %d generations", n, len(tokens), e.generation("shop-income"))
	}
	for name, log := range map[string]string{"the Agent's log": agent.Log(), "the Proxy's log": proxy.Log()} {
		e.noSecretIn(name, log)
		if strings.Contains(log, "permission denied") {
			t.Errorf("the example policy lacks something: see %s", name)
		}
	}
}

// Vault Agent renews a renewable lease and does not use the answer: its file holds
// a dead token for good. renewable=false mends it, in an Agent that is running, too.
func TestAgentWithRenewableLease(t *testing.T) {
	t.Parallel()
	e := mountEngine(t, vaulttest.Start(t, vaulttest.Options{}), "op", life)
	e.ask("shop-income", nil)
	_, name := e.agent("token/shop-income", "")
	var stale time.Duration
	file := e.file(name, &stale)
	c := e.consumer("a file of Vault Agent", file)
	first := file()
	for generation := int64(3); generation <= 5; generation++ { // 2 is in the file
		e.eventually("a renewal", func() bool { return e.generation("shop-income") >= generation })
		time.Sleep(300 * time.Millisecond) // for a render that does not come
		if file() != first || c.spend(first) != http.StatusForbidden {
			t.Fatalf("Agent has rendered generation %d of a renewable lease, or the token in its file is good; docs/consumers.md says otherwise", generation)
		}
	}

	before := e.generation("shop-income")
	e.write("grants/shop-income", map[string]any{"renewable": false})
	e.eventually("a good token in the file", func() bool { return e.wallet.Live(file()) })
	// One renewal tells Agent, which reads; another one may have been under way.
	if renewals := e.generation("shop-income") - before - 1; renewals > 2 {
		t.Errorf("Agent has renewed %d times more before it has read again", renewals)
	}

	// What an application sees of a render, drawn out: the token is refused from the
	// rotation on, until the file holds the next one.
	rotation := e.holdUp("rotate", true)
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

// The cache of Vault Proxy renews renewable leases, which replaces the token, and
// goes on answering the first one. Leases that are not renewable it does not keep.
func TestProxyWithCache(t *testing.T) {
	t.Parallel()
	e := mountEngine(t, vaulttest.Start(t, vaulttest.Options{}), "op", life)
	e.ask("shop-income", nil)
	e.ask("followed", nil)
	proxy := e.proxy("cache {}\n", "shop-income", "followed")
	one, other := e.by(proxy.Client()), e.by(proxy.Client())

	first := e.tokenOf(one.read("shop-income"))
	for generation := int64(3); generation <= 4; generation++ {
		e.eventually("a renewal by Proxy", func() bool { return e.generation("shop-income") >= generation })
		for _, client := range []*engine{one, other} {
			if e.tokenOf(client.read("shop-income")) != first {
				t.Fatal("Proxy's cache has another answer; docs/consumers.md says otherwise")
			}
		}
		e.dead(first)
	}

	// A client's own renewals are answered from the cache as well.
	lease := one.read("followed")
	renewal := one.renew(lease, 0)
	e.eventually("a renewal by Proxy", func() bool { return !e.wallet.Live(e.tokenOf(renewal)) })
	if again := e.tokenOf(one.renew(lease, 0)); again != e.tokenOf(renewal) {
		t.Error("Proxy's cache lets renewals through; docs/consumers.md says otherwise")
	}

	e.write("grants/shop-income", map[string]any{"renewable": false})
	e.eventually("a good token from Proxy", func() bool { return e.wallet.Live(e.tokenOf(other.read("shop-income"))) })
	e.succeeds(one.read("shop-income"), other.read("shop-income"))
}

// Which behaviour to give a LifetimeWatcher.
func TestLifetimeWatcherBehaviour(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	e.ask("shop-income", nil)
	e.ask("read-again", map[string]any{"renewable": false})

	// Another reader has got a newer token: the first renewal finds out.
	superseded := e.read("shop-income")
	e.read("shop-income")
	patient := e.watch(superseded, api.RenewBehaviorIgnoreErrors)
	select {
	case err := <-e.watch(superseded, api.RenewBehaviorErrorOnErrors).DoneCh():
		e.isRefusal(err, "superseded", "read op/token/shop-income again")
	case <-time.After(soon):
		t.Error("a watcher that is to end on errors goes on with a superseded lease")
	}
	select {
	case err := <-patient.DoneCh():
		t.Errorf("a watcher that is to ignore errors has ended: %v", err)
	case <-time.After(2 * time.Second):
	}

	select {
	case err := <-e.watch(e.read("read-again"), api.RenewBehaviorErrorOnErrors).DoneCh():
		if !errors.Is(err, api.ErrLifetimeWatcherNotRenewable) {
			t.Errorf("a lease that is not renewable: %v", err)
		}
	case <-time.After(soon):
		t.Error("a watcher that is to end on errors waits with a lease that is not renewable")
	}
}

// A batch job logs in, reads, pays and leaves nothing behind.
func TestBatchJob(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	e.ask("shop-income", nil)
	job := e.application("token/shop-income")
	token := e.tokenOf(job.read("shop-income"))
	if status := e.consumer("a batch job", nil).spend(token); status != http.StatusOK {
		t.Errorf("status %d", status)
	}
	if err := job.vault.Auth().Token().RevokeSelf(""); err != nil {
		t.Fatal(err)
	}
	e.eventually("the token's end", func() bool { return !e.wallet.Live(token) })
	e.live(e.tokenOf(e.read("shop-income")))
}

// The runs of a job overlap: the end of one leaves the others their tokens, with a
// role or with a shared grant.
func TestOverlappingJobs(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	e.role()
	e.ask("shop-income", map[string]any{"shared": true})
	for path, own := range map[string]bool{"creds/till": true, "token/shop-income": false} {
		c := e.consumer(path, nil)
		var runs []*engine
		var tokens []string
		for range 3 {
			run := e.application(path)
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
