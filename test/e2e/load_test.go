// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/vaulttest"
)

// rotationTime is how long the sandbox takes for a rotation under load, so that at any moment some
// are in progress.
const rotationTime = 200 * time.Millisecond

// load is a set of applications that work while something happens to Vault. Each reads the token of
// a grant and renews its lease, over and over, and tolerates a Vault that does not respond.
type load struct {
	e        *engine
	servers  []*vaulttest.Server
	requests func() int // for rotations
	stopping chan struct{}
	once     sync.Once
	readers  sync.WaitGroup

	first map[string]string // by grant: the token that it was imported with

	mu       sync.Mutex
	tokens   map[string]map[string]string // by grant and token: the generation
	done     map[string]int               // by grant: requests with the expected outcome
	failures map[string]int               // by message
	wrong    []string                     // responses that no application should get
}

// underLoad imports grants and has applications read them through all servers. The reader of the
// last grant hangs up before each response.
func (e *engine) underLoad(servers ...*vaulttest.Server) *load {
	e.t.Helper()
	grants := []string{"a", "b", "c", "d", "hurried"}
	first := map[string]string{}
	for _, name := range grants {
		fields := e.obtain()
		e.write("grants/"+name, fields)
		first[name] = fmt.Sprint(fields["access_token"])
	}
	e.wallet.Misbehave(sandbox.Misbehaviour{On: []string{"rotate"}, Delay: rotationTime})
	l := &load{
		e: e, servers: servers, requests: e.countRequests("rotate"), stopping: make(chan struct{}),
		first: first, tokens: map[string]map[string]string{}, done: map[string]int{}, failures: map[string]int{},
	}
	for i, name := range grants {
		l.tokens[name] = map[string]string{}
		var clients []*api.Client
		for _, server := range servers {
			clients = append(clients, server.Client(server.RootToken))
		}
		patience := time.Minute
		if name == "hurried" {
			patience = rotationTime / 4
		}
		l.readers.Go(func() { l.read(name, clients, i, patience) })
	}
	e.t.Cleanup(l.stop)
	l.waitForMore()
	return l
}

func (l *load) stop() {
	l.once.Do(func() { close(l.stopping) })
	l.readers.Wait()
}

// read is one application. It goes on to the next server when one fails.
func (l *load) read(name string, clients []*api.Client, server int, patience time.Duration) {
	var lease *api.Secret
	for turn := 0; ; turn++ {
		select {
		case <-l.stopping:
			return
		default:
		}
		client := clients[server%len(clients)]
		ctx, hangUp := context.WithTimeout(context.Background(), patience)
		var err error
		if lease == nil || turn%4 == 0 {
			lease, err = readRaw(ctx, client, l.e.at("token/"+name))
			l.record(name, lease, err, http.StatusInternalServerError)
		} else {
			lease, err = client.Sys().RenewWithContext(ctx, lease.LeaseID, 0)
			if err == nil && lease == nil {
				err = errors.New("a renewal without a body")
			}
			l.record(name, lease, err, http.StatusBadRequest) // every error of the engine for a renewal is a 400
		}
		hangUp()
		if err != nil {
			lease = nil
			server++
			time.Sleep(rotationTime / 4)
		}
	}
}

// readRaw is api.Logical's Read, which does not tell what a 404 says.
func readRaw(ctx context.Context, client *api.Client, path string) (*api.Secret, error) {
	response, err := client.Logical().ReadRawWithContext(ctx, path)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	secret, err := api.ParseSecret(response.Body)
	if err == nil && secret == nil { // Vault's own, of a request that it was forwarding: the engine's have a body
		err = fmt.Errorf("%d without a body", response.StatusCode)
	}
	return secret, err
}

// vaultsOwn404 is what Vault says of a path below no mount. The engine returns no 404 for a token.
const vaultsOwn404 = "no handler for route"

// record records the outcome of a request. No response is tolerated, and so are errors with at
// least the given status.
func (l *load) record(name string, lease *api.Secret, err error, least int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var refusal *api.ResponseError
	switch {
	case err == nil:
		l.done[name]++
		l.tokens[name][fmt.Sprint(lease.Data["access_token"])] = fmt.Sprint(lease.Data["generation"])
	case errors.As(err, &refusal) && refusal.StatusCode == http.StatusNotFound &&
		strings.Contains(strings.Join(refusal.Errors, "; "), vaultsOwn404): // the node has not set its mounts up yet
		l.failures["404 "+vaultsOwn404]++
	case errors.As(err, &refusal) && refusal.StatusCode < least:
		l.wrong = append(l.wrong, fmt.Sprintf("%d %s", refusal.StatusCode, refusal.Errors))
	case errors.Is(err, context.DeadlineExceeded):
		l.done[name]++
	case errors.As(err, &refusal):
		l.failures[strings.Join(refusal.Errors, "; ")]++
	default:
		l.failures[err.Error()]++
	}
}

// failed returns the number of failed requests.
func (l *load) failed() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, times := range l.failures {
		n += times
	}
	return n
}

// waitForMore waits for three more requests for every grant.
func (l *load) waitForMore() {
	l.e.t.Helper()
	l.mu.Lock()
	before := maps.Clone(l.done)
	l.mu.Unlock()
	l.e.within(time.Minute, "further requests", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		for name := range l.tokens {
			if l.done[name] < before[name]+3 {
				return false
			}
		}
		return true
	})
}

// finish ends the load and checks the outcome: every grant is still there, no rotation's response
// was lost, and the only live tokens are the newest of each grant, until their leases are revoked.
func (l *load) finish() {
	l.e.t.Helper()
	l.stop()
	e := l.e
	for _, what := range l.wrong {
		e.t.Errorf("an application got the response %s", what)
	}
	// A caller that hung up may have left a rotation in progress, or a request that has not reached
	// the engine yet; or an open intent of which nothing has come, if it hung up while that was written.
	requests, since := l.requests(), time.Now()
	defer func() {
		if e.t.Failed() {
			for name := range l.tokens {
				e.t.Logf("%s: %v", name, e.grant(name))
			}
			e.t.Logf("%d requests", l.requests())
		}
	}()
	e.eventually("all rotations to end, with their tokens stored", func() bool {
		if n := l.requests(); n != requests {
			requests, since = n, time.Now()
		}
		issued := e.wire.issuedAfter()
		for name, token := range l.first {
			if e.generation(name) != issued[token] {
				return false
			}
		}
		return time.Since(since) > 5*rotationTime
	})
	e.wallet.Misbehave(sandbox.Misbehaviour{})
	for name, tokens := range l.tokens {
		generation := e.generation(name)
		for token, of := range tokens {
			if newest := of == fmt.Sprint(generation); newest != e.wallet.Live(token) {
				e.t.Errorf("%s: the token of generation %s of %d: live is %t, want %t", name, of, generation, !newest, newest)
			}
		}
	}
	for name := range l.tokens {
		e.checkHealthy(name, e.generation(name)+1)
	}
	if n := e.wallet.LiveTokens(); n != len(l.tokens) {
		e.t.Errorf("%d tokens are live at the sandbox, not one of each grant", n)
	}

	e.run("lease", "revoke", "-sync", "-prefix", e.at("token/"))
	if e.hasLeases() {
		e.t.Error("there are leases left")
	}
	e.checkNoIrrevocable()
	for _, tokens := range l.tokens {
		for token := range tokens {
			e.checkDead(token)
		}
	}
	for _, server := range l.servers {
		e.checkNoSecret("the server's log", server.Log())
	}
}

// Requests wait for a reload, and a reload waits for requests whose callers have hung up.
func TestReloadUnderLoad(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	l := e.underLoad(e.Server)
	for range 3 {
		for _, what := range []map[string]any{{"mounts": e.at("")}, {"plugin": vaulttest.Plugin}} {
			if _, err := e.vault.Logical().Write("sys/plugins/reload/backend", what); err != nil {
				t.Fatal(err)
			}
			l.waitForMore()
		}
	}
	l.finish()
	if len(l.failures) != 0 {
		t.Errorf("requests failed: %v", l.failures)
	}
}

func TestSealUnderLoad(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	l := e.underLoad(e.Server)
	for range 3 {
		failed := l.failed()
		if err := e.vault.Sys().Seal(); err != nil {
			t.Fatal(err)
		}
		e.eventually("requests to a sealed server", func() bool { return l.failed() > failed })
		e.Unseal()
		l.waitForMore()
	}
	l.finish()
}
