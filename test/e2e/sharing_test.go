// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/vaulttest"
)

const (
	// leastShared is what is left of a token's lifetime when a shared grant rotates, unless min_ttl
	// is larger: the margin, and the shortest lease of a shared token.
	leastShared = 4 * time.Second

	margin = 2 * time.Second
)

// sharing returns a consumer that shares its grant with others.
func (e *engine) sharing(name, grant string) *consumer {
	e.t.Helper()
	c := e.consumer(name, nil)
	c.token, c.again = e.readingAgain("token/"+grant, func(before, after *api.Secret) {
		if was, is := number(e.t, before.Data["generation"]), number(e.t, after.Data["generation"]); is < was {
			e.t.Errorf("%s: generation %d follows %d", name, is, was)
		}
	})
	return c
}

// Replicas of an application, one of which is replaced during the test, and several clients behind
// a Vault Proxy share a grant: a token is replaced once in its lifetime, and every rejected request
// succeeds when it is retried once.
func TestConsumersOfASharedGrant(t *testing.T) {
	t.Parallel()
	e := mountEngine(t, vaulttest.Start(t, vaulttest.Options{}), "op", life)
	begun, rotations := time.Now(), e.countRequests("rotate")
	grants := []string{"replicas", "proxied"}
	for _, grant := range grants {
		e.ask(grant, map[string]any{"shared": true})
	}
	behind := e.withClient(e.startProxy("", "proxied").Client())
	leaving := e.asApplication("token/replicas")
	first := leaving.sharing("a replica that stops", "replicas")
	staying := []*consumer{
		e.asApplication("token/replicas").sharing("a replica", "replicas"),
		e.asApplication("token/replicas").sharing("another replica", "replicas"),
		behind.sharing("behind Vault Proxy", "proxied"),
		behind.sharing("another behind the same Proxy", "proxied"),
	}

	const lasts = 3 * life
	var clients sync.WaitGroup
	end := time.Now().Add(lasts)
	for _, c := range []goClient{
		e.goClient(e.asApplication("token/replicas").vault, "replicas"),
		e.goClient(e.asApplication("token/replicas").vault, "replicas"),
		e.goClient(behind.vault, "proxied"),
	} {
		app := &http.Client{Transport: c}
		clients.Go(func() {
			for time.Now().Before(end) && !t.Failed() {
				c.createAndList(app.Do)
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
	useAll(append(staying, first), lasts/2)
	if err := leaving.vault.Auth().Token().RevokeSelf(""); err != nil {
		t.Fatal(err)
	}
	coming := e.asApplication("token/replicas").sharing("a replica that starts", "replicas")
	useAll(append(staying, coming), lasts/2)
	clients.Wait()

	first.report(2)
	coming.report(2)
	for _, c := range staying {
		c.report(3)
	}
	total := 0
	for _, grant := range grants {
		n := int(e.generation(grant)) - 1
		t.Logf("%s: %d rotations in %s", grant, n, time.Since(begun))
		if most := int(time.Since(begun)/(life-leastShared)) + 1; n > most {
			t.Errorf("%s: %d rotations, of which at most %d were necessary", grant, n, most)
		}
		total += n
	}
	if n := rotations(); n != total {
		t.Errorf("the sandbox has rotated %d times, and the grants have counted %d", n, total)
	}
}

// Several Vault Agents share a grant. None learns that another one has got the next token: its file
// holds a dead token until its own lease ends, which is soon if min_ttl is small.
func TestAgentsOnASharedGrant(t *testing.T) {
	t.Parallel()
	e := mountEngine(t, vaulttest.Start(t, vaulttest.Options{}), "op", life)
	e.ask("shop-income", map[string]any{"shared": true, "min_ttl": 1})
	rotations, begun := e.countRequests("rotate"), time.Now()
	var stale [3]time.Duration
	var files []*consumer
	for i := range stale {
		_, name := e.startAgent("token/shop-income", "")
		files = append(files, e.consumer(fmt.Sprintf("the file of Agent %d", i+1), e.renderedFile(name, &stale[i])))
		useAll(files, time.Second) // so that they do not all start at the same time
	}
	useAll(files, 3*life)
	for i, c := range files {
		c.report(3)
		t.Logf("%s: at most %s from the rotation to the next token in the file", c.name, stale[i])
		if limit := leastShared - margin + maxStale; stale[i] > limit {
			t.Errorf("%s held a dead token for %s, longer than %s", c.name, stale[i], limit)
		}
	}
	if n, most := rotations(), int(time.Since(begun)/(life-leastShared))+1; n > most {
		t.Errorf("%d rotations, of which at most %d were necessary", n, most)
	}
}

// A file may hold a dead token from the time at which another reader may rotate, min_ttl before the
// token expires, until the end of its own lease.
func TestAgentOnASharedGrantWithLargeMinTTL(t *testing.T) {
	t.Parallel()
	e := mountEngine(t, vaulttest.Start(t, vaulttest.Options{}), "op", life)
	const minTTL = life - time.Second
	e.ask("shop-income", map[string]any{"shared": true, "min_ttl": minTTL.String()})
	_, name := e.startAgent("token/shop-income", "")
	var stale time.Duration
	file := e.renderedFile(name, &stale)
	old := file()
	e.eventually("less than min_ttl", func() bool { return time.Since(e.wire.askedAt(old)) > life-minTTL })
	rotated := time.Now()
	e.read("shop-income")
	for time.Since(rotated) < time.Second {
		if file() != old || e.wallet.Live(old) {
			t.Fatal("Agent has the next token at once, or the old one is live; docs/consumers.md says otherwise")
		}
		time.Sleep(20 * time.Millisecond)
	}
	e.eventually("Agent's own read", func() bool { return file() != old })
	t.Logf("the file held a dead token for %s", time.Since(rotated))
	e.checkLive(file())
}

// Two applications share a grant: what one does with its lease does not affect the other's token.
func TestSharedGrant(t *testing.T) {
	t.Parallel()
	p := startWithPolicies(t)
	p.write("grants/shop-income", map[string]any{"shared": true})
	rotations := p.countRequests("rotate")
	var leases [2]*api.Secret
	var applications [2]*api.Client
	for i := range leases {
		applications[i] = p.Client(p.Token("application"))
		lease, err := applications[i].Logical().Read("op/token/shop-income")
		if err != nil {
			t.Fatal(err)
		}
		p.checkLive(p.tokenOf(lease))
		p.checkEndsBeforeToken("a shared lease", lease)
		if lease.Renewable {
			t.Error("a shared lease is renewable")
		}
		leases[i] = lease
	}
	if p.tokenOf(leases[0]) != p.tokenOf(leases[1]) || rotations() != 0 {
		t.Errorf("the applications do not share a token; %d rotations", rotations())
	}

	p.checkRenewalRejected(leases[0], "not renewable")
	if err := applications[0].Sys().Revoke(leases[0].LeaseID); err != nil {
		t.Fatal(err)
	}
	p.eventually("the revocation", func() bool {
		_, err := p.vault.Sys().Lookup(leases[0].LeaseID)
		return err != nil
	})
	p.checkLive(p.tokenOf(leases[1]))
	if n := rotations(); n != 0 {
		t.Errorf("%d rotations", n)
	}

	p.write("rotate/shop-income", nil) // after a leak
	p.checkDead(p.tokenOf(leases[1]))
	p.checkLive(p.tokenOf(p.read("shop-income")))
	if n := rotations(); n != 1 {
		t.Errorf("%d rotations, not just the one that was requested", n)
	}
}

// Many replicas read when the token is about to expire: one rotation serves them all.
func TestReadersOfASharedGrant(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	fields := e.obtain()
	fields["expires_in"], fields["shared"] = 1, true
	e.write("grants/payer", fields)
	rotations := e.countRequests("rotate")
	rotation := e.hold("rotate", false)
	var reading [32]<-chan result
	for i := range reading {
		reading[i] = e.startRead(t.Context(), "payer")
	}
	rotation.await(t)
	rotation.release()
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
	if len(tokens) != 1 || rotations() != 1 {
		t.Errorf("%d tokens and %d rotations", len(tokens), rotations())
	}
}
