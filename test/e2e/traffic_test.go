// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/vaulttest"
)

const (
	// requestPatience is how long an application waits for one node before it goes on to the next.
	requestPatience = 4 * time.Second
	// storageTime is how long an answer may take from the authorization server into storage.
	storageTime = 2 * time.Second
)

// traffic is a set of applications that read, renew and sign through all nodes of a cluster in turn, and
// what is known of every token that they were given. It checks at all times that only one of a grant's
// is live.
type traffic struct {
	e        *engine
	nodes    []*engine
	stopping chan struct{}
	once     sync.Once
	running  sync.WaitGroup

	mu        sync.Mutex
	handed    map[string]map[int64]string // by grant or lease, and generation: the token
	living    map[string][]string         // those that were live when last looked at
	lost      map[string]bool             // grants whose owners must be asked again
	losses    []string                    // all grants that were ever lost
	done      map[string]int              // by application: requests that succeeded
	kinds     map[string]int              // by kind of request: how many succeeded
	failures  map[string]int              // by message
	wrong     []string
	last      map[string]time.Time     // by application, "" for any: the latest success
	longest   map[string]time.Duration // by application, "" for any: without success, since resetLongest
	accidents []accident
}

// accident is a time at which an answer of the authorization server may find no engine that could store
// it.
type accident struct{ from, to time.Time }

// startTraffic imports grants, asks for others, and has applications use them.
func (e *engine) startTraffic(nodes []*vaulttest.Server) *traffic {
	e.t.Helper()
	t := &traffic{
		e: e, stopping: make(chan struct{}), handed: map[string]map[int64]string{}, living: map[string][]string{},
		lost: map[string]bool{}, done: map[string]int{}, kinds: map[string]int{}, failures: map[string]int{},
		last: map[string]time.Time{}, longest: map[string]time.Duration{},
	}
	for _, node := range nodes {
		t.nodes = append(t.nodes, e.through(node))
	}
	e.wire.lingers(rotationTime)
	e.writeRole()
	for i, name := range []string{"imported-1", "imported-2", "imported-3", "contested", "asked-1", "asked-2"} {
		if strings.HasPrefix(name, "asked") {
			e.ask(name, nil)
		} else {
			t.consent(e, name)
		}
		t.start(name, i, "token/"+name, name)
	}
	t.start("contested too", 1, "token/contested", "contested")
	t.start("till", 2, "creds/till", "")
	t.running.Go(t.watch)
	e.t.Cleanup(t.stop)
	return t
}

// consent imports a grant that its owner has consented to elsewhere.
func (t *traffic) consent(e *engine, name string) {
	fields := e.obtain()
	fields["resource_server"] = e.wallet.ResourceServer()
	e.write("grants/"+name, fields)
}

func (t *traffic) start(name string, node int, path, grant string) {
	t.mu.Lock()
	t.done[name] = 0
	t.mu.Unlock()
	a := &application{t: t, name: name, path: path, grant: grant, node: node}
	t.running.Go(a.run)
}

func (t *traffic) stop() {
	t.once.Do(func() { close(t.stopping) })
	t.running.Wait()
}

func (t *traffic) stopped() bool {
	select {
	case <-t.stopping:
		return true
	default:
		return false
	}
}

// application reads the token of a grant, or that of a lease's own grant, and uses and renews it, each
// time through another node.
type application struct {
	t     *traffic
	name  string
	path  string // that it reads
	grant string // empty for a role
	node  int
}

func (a *application) run() {
	for !a.t.stopped() {
		got, ok := a.send("read", "GET", a.t.e.at(a.path), nil)
		for lease, turn := got.lease, 0; ok && turn < 3 && !a.t.stopped(); turn++ {
			a.t.receive(a.key(lease), got)
			a.use(fmt.Sprint(got.data["access_token"]))
			got, ok = a.send("renewal", "PUT", "sys/leases/renew", map[string]any{"lease_id": lease})
		}
		if !ok {
			time.Sleep(rotationTime / 4)
		}
	}
}

// key names what has one live token at a time: the grant, or the lease of a role.
func (a *application) key(lease string) string {
	if a.grant != "" {
		return a.grant
	}
	return lease
}

// send sends a request to the next node.
func (a *application) send(kind, method, path string, body map[string]any) (reply, bool) {
	a.node++
	node := a.t.nodes[a.node%len(a.t.nodes)]
	ctx, cancel := context.WithTimeout(context.Background(), requestPatience)
	defer cancel()
	text := ""
	if body != nil {
		text = asJSON(a.t.e.t, body)
	}
	got, err := node.sendTo(ctx, path, method, text)
	return got, a.t.record(a, kind, got, err)
}

// use has a request signed and sends it. Somebody else may have replaced the token meanwhile, but a
// signature for a live token is accepted.
func (a *application) use(token string) {
	if a.grant == "" {
		return
	}
	e := a.t.e
	list := e.wallet.ResourceServer() + "/incoming-payments?wallet-address=" +
		url.QueryEscape(e.wallet.WalletAddress("shop"))
	got, ok := a.send("signature", "POST", e.at("sign/"+a.grant),
		map[string]any{"access_token": token, "method": "GET", "url": list})
	if !ok {
		return
	}
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, list, http.NoBody)
	if err != nil {
		a.t.report("%s: %v", a.name, err)
		return
	}
	headers, _ := got.data["headers"].(map[string]any)
	for name, value := range headers {
		request.Header.Set(name, fmt.Sprint(value))
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		a.t.report("%s: %v", a.name, err)
		return
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK && e.wallet.Live(token) {
		a.t.report("%s: the resource server returns %d for a live token", a.name, response.StatusCode)
	}
}

func (t *traffic) report(format string, a ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.wrong = append(t.wrong, fmt.Sprintf(format, a...))
}

// record records the outcome of a request and reports whether it succeeded. A node that cannot serve is
// tolerated, any other error is not.
func (t *traffic) record(a *application, kind string, got reply, err error) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	said := strings.Join(got.errors, "; ")
	switch {
	case err != nil:
		t.failures["no answer"]++
	case got.status == http.StatusOK:
		t.done[a.name]++
		t.kinds[kind]++
		now := time.Now()
		for _, who := range []string{a.name, ""} {
			if since := t.last[who]; !since.IsZero() {
				t.longest[who] = max(t.longest[who], now.Sub(since))
			}
			t.last[who] = now
		}
		return true
	case got.status == http.StatusNotFound && strings.Contains(got.text, vaultsOwn404):
		t.failures["404 "+vaultsOwn404]++ // of a node that has not set its mounts up yet
	case got.status >= http.StatusInternalServerError:
		t.failures[fmt.Sprintf("%d %.100s", got.status, said)]++
	case kind == "renewal" && got.status == http.StatusBadRequest: // as every error of a renewal
		t.failures[fmt.Sprintf("renewal: %.100s", said)]++
	case kind == "signature" && strings.HasPrefix(said, "access_token: "):
		t.failures["signature: the token was replaced"]++
	case a.grant != "" && got.status == http.StatusBadRequest && strings.Contains(said, "is lost"):
		t.failures["lost"]++
		t.lost[a.grant] = true
	default:
		t.wrong = append(t.wrong, fmt.Sprintf("%s: %s: %d %s", a.name, kind, got.status, got.text))
	}
	return false
}

// receive takes note of a token, and checks that no other of its grant is live.
func (t *traffic) receive(key string, got reply) {
	var number int64
	if _, err := fmt.Sscan(fmt.Sprint(got.data["generation"]), &number); err != nil {
		t.report("%s: the generation is no number: %v", key, err)
	}
	token := fmt.Sprint(got.data["access_token"])
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.handed[key] == nil {
		t.handed[key] = map[int64]string{}
	}
	if other, known := t.handed[key][number]; known && other != token {
		t.wrong = append(t.wrong, fmt.Sprintf("%s: generation %d is handed out with two tokens", key, number))
	}
	t.handed[key][number] = token
	t.living[key] = append(t.living[key], token)
	t.checkOneLives(key)
}

// checkOneLives checks that at most one token of a grant is live. The tokens are looked at one after the
// other, but a dead one never revives, and all were issued before: so two that are seen live have been
// live at the same time.
func (t *traffic) checkOneLives(key string) {
	t.living[key] = slices.DeleteFunc(t.living[key], func(token string) bool { return !t.e.wallet.Live(token) })
	if n := len(t.living[key]); n > 1 {
		t.wrong = append(t.wrong, fmt.Sprintf("%s: %d tokens that were handed out are live", key, n))
		t.living[key] = t.living[key][n-1:] // told once
	}
}

// watch checks all the time that at most one token of each grant is live.
func (t *traffic) watch() {
	for !t.stopped() {
		t.mu.Lock()
		for key := range t.living {
			t.checkOneLives(key)
		}
		t.mu.Unlock()
		time.Sleep(10 * time.Millisecond)
	}
}

// waitForMore waits until every application has succeeded twice more. Owners are asked again for
// what is lost meanwhile.
func (t *traffic) waitForMore(through *engine) {
	t.e.t.Helper()
	t.mu.Lock()
	before := maps.Clone(t.done)
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.e.t.Failed() {
			t.e.t.Logf("succeeded: %v, then %v; lost: %v; failed: %v; wrong: %v", before, t.done, t.lost, t.failures, t.wrong)
		}
	}()
	t.e.within(3*time.Minute, "further requests", func() bool {
		t.mu.Lock()
		lost := slices.Collect(maps.Keys(t.lost))
		clear(t.lost)
		enough := len(lost) == 0
		for name := range before {
			enough = enough && t.done[name] >= before[name]+2
		}
		t.mu.Unlock()
		for _, name := range lost {
			if through.grant(name)["status"] == "lost" { // else its owner has been asked already
				t.losses = append(t.losses, name)
				t.consent(through, name)
			}
		}
		return enough
	})
}

// resetLongest begins anew to measure how long there is no service.
func (t *traffic) resetLongest() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.longest)
}

// withoutService returns the longest times without success since resetLongest: of all applications
// together, and of the one that waited longest.
func (t *traffic) withoutService() (all, one time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, d := range t.longest {
		if name != "" {
			one = max(one, d)
		}
	}
	return t.longest[""], one
}

// happened takes note of an accident that is over.
func (t *traffic) happened(from time.Time) {
	t.accidents = append(t.accidents, accident{from, time.Now().Add(storageTime)})
}

// excused reports whether the answer with a token may have found no engine that could store it.
func (t *traffic) excused(one issued) bool {
	return slices.ContainsFunc(t.accidents, func(a accident) bool {
		return one.arrived.Before(a.to) && one.answered.After(a.from.Add(-storageTime))
	})
}

// finish ends the traffic and checks what has become of every token that the sandbox has issued: it is
// its grant's current one, or was replaced or ended, or its answer was lost in an accident.
func (t *traffic) finish(through *engine) {
	t.stop()
	e := through
	e.t.Helper()
	for _, what := range t.wrong {
		e.t.Error(what)
	}
	e.wire.lingers(0)
	grants := []string{"imported-1", "imported-2", "imported-3", "contested", "asked-1", "asked-2"}
	e.eventually("all rotations to end", func() bool {
		return !slices.ContainsFunc(grants, func(name string) bool { return e.grant(name)["intent_open"] != false })
	})
	current := map[string]string{} // by grant: the token
	for _, name := range grants {
		e.checkHealthy(name, e.generation(name)+1)
		current[name] = e.tokenOf(e.read(name))
		t.handed[name][e.generation(name)] = current[name]
	}
	e.run("lease", "revoke", "-sync", "-prefix", e.at("creds/"))
	t.checkChains(current)
	e.run("lease", "revoke", "-sync", "-prefix", e.at("token/"))
	e.checkNoIrrevocable()
	for name, token := range current {
		if e.wallet.Live(token) {
			e.t.Errorf("%s: the token of a revoked lease is live", name)
		}
	}
}

// checkChains checks where each chain ends, and that each grant's generations are in the order in which
// the sandbox has issued the tokens.
func (t *traffic) checkChains(current map[string]string) {
	e := t.e
	e.t.Helper()
	owner, order := map[string]string{}, map[string]int{} // by token
	for key, tokens := range t.handed {
		for _, token := range tokens {
			owner[token] = key
		}
	}
	all := e.wire.log()
	for i, one := range all {
		order[one.token] = i
	}
	for key, tokens := range t.handed {
		newest := -1
		for _, generation := range slices.Sorted(maps.Keys(tokens)) {
			if at := order[tokens[generation]]; at <= newest {
				e.t.Errorf("%s: the token of generation %d is older than the one before", key, generation)
			} else {
				newest = at
			}
		}
	}
	lost, asked, left := 0, 0, 0
	for _, c := range e.wire.chains() {
		name, last := "", c[0]
		for _, one := range c {
			if name == "" {
				name = owner[one.token]
			}
		}
		_, stored := current[name]
		switch {
		case stored && last.token == current[name]:
		case stored && owner[last.token] != "":
			e.t.Errorf("%s: another token was asked for, although the last one had been handed out", name)
		case stored && !t.excused(last):
			e.t.Errorf("%s: an answer was lost without a cause", name)
		case stored && strings.HasPrefix(name, "asked"):
			asked++
		case stored:
			lost++
		case !e.wallet.Live(last.token):
		case name == "" && t.excused(last):
			left++
		default:
			e.t.Errorf("a token of %q is live, and nothing can end it", name)
		}
	}
	// One that was lost before anybody had a token of it belongs to no grant in the sandbox's log.
	if lost > len(t.losses) {
		e.t.Errorf("%d grants have ended that were not reported lost: those were %d", lost, len(t.losses))
	}
	e.t.Logf("%d tokens of %d grants at the sandbox; lost: %d, asked for anew: %d, left at the sandbox: %d",
		len(all), len(e.wire.chains()), len(t.losses), asked, left)
	e.t.Logf("succeeded: %v; failed: %v", t.kinds, t.failures)
}
