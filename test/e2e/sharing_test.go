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
	// leastShared is what is left of a token's life here when a shared grant rotates, if
	// min_ttl is no more: the margin, and the shortest lease of a shared token.
	leastShared = 4 * time.Second

	margin = 2 * time.Second
)

// shares is a program that shares its grant with others.
func (e *engine) shares(name, grant string) *consumer {
	e.t.Helper()
	c := e.consumer(name, nil)
	c.token, c.again = e.readsAgain("token/"+grant, func(before, after *api.Secret) {
		if was, is := number(e.t, before.Data["generation"]), number(e.t, after.Data["generation"]); is < was {
			e.t.Errorf("%s: generation %d comes after %d", name, is, was)
		}
	})
	return c
}

// Replicas of an application, one of which is replaced meanwhile, and several clients
// behind a Vault Proxy share a grant: a token is replaced once in its life, and no
// request is refused again when it has been repeated once.
func TestConsumersOfASharedGrant(t *testing.T) {
	t.Parallel()
	e := mountEngine(t, vaulttest.Start(t, vaulttest.Options{}), "op", life)
	begun, rotations := time.Now(), e.sent("rotate")
	grants := []string{"replicas", "proxied"}
	for _, grant := range grants {
		e.ask(grant, map[string]any{"shared": true})
	}
	behind := e.by(e.proxy("", "proxied").Client())
	leaving := e.application("token/replicas")
	first := leaving.shares("a replica that leaves", "replicas")
	staying := []*consumer{
		e.application("token/replicas").shares("a replica", "replicas"),
		e.application("token/replicas").shares("another replica", "replicas"),
		behind.shares("behind Vault Proxy", "proxied"),
		behind.shares("another behind the same Proxy", "proxied"),
	}

	const lasts = 3 * life
	var clients sync.WaitGroup
	end := time.Now().Add(lasts)
	for _, c := range []goClient{
		e.goClient(e.application("token/replicas").vault, "replicas"),
		e.goClient(e.application("token/replicas").vault, "replicas"),
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
	use(append(staying, first), lasts/2)
	if err := leaving.vault.Auth().Token().RevokeSelf(""); err != nil {
		t.Fatal(err)
	}
	coming := e.application("token/replicas").shares("a replica that comes", "replicas")
	use(append(staying, coming), lasts/2)
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
			t.Errorf("%s: %d rotations; its tokens were worth %d", grant, n, most)
		}
		total += n
	}
	if n := rotations(); n != total {
		t.Errorf("the sandbox has rotated %d times, and the grants know of %d", n, total)
	}
}

// Several Vault Agents share a grant. None is told that another has got the next
// token: its file holds a dead one until its own lease comes to the end, which is
// soon if min_ttl is small.
func TestAgentsOnASharedGrant(t *testing.T) {
	t.Parallel()
	e := mountEngine(t, vaulttest.Start(t, vaulttest.Options{}), "op", life)
	e.ask("shop-income", map[string]any{"shared": true, "min_ttl": 1})
	rotations, begun := e.sent("rotate"), time.Now()
	var stale [3]time.Duration
	var files []*consumer
	for i := range stale {
		_, name := e.agent("token/shop-income", "")
		files = append(files, e.consumer(fmt.Sprintf("the file of Agent %d", i+1), e.file(name, &stale[i])))
		use(files, time.Second) // so that they have not all begun at the same time
	}
	use(files, 3*life)
	for i, c := range files {
		c.report(3)
		t.Logf("%s: at most %s from the rotation to the next token in the file", c.name, stale[i])
		if limit := leastShared - margin + settling; stale[i] > limit {
			t.Errorf("%s held a dead token for %s, which is more than %s", c.name, stale[i], limit)
		}
	}
	if n, most := rotations(), int(time.Since(begun)/(life-leastShared))+1; n > most {
		t.Errorf("%d rotations; the tokens were worth %d", n, most)
	}
}

// A file holds a dead token from the time at which another reader may rotate, which
// is min_ttl before the token's end, until the end of its own lease.
func TestAgentOnASharedGrantWithLargeMinTTL(t *testing.T) {
	t.Parallel()
	e := mountEngine(t, vaulttest.Start(t, vaulttest.Options{}), "op", life)
	const minTTL = life - time.Second
	e.ask("shop-income", map[string]any{"shared": true, "min_ttl": minTTL.String()})
	_, name := e.agent("token/shop-income", "")
	var stale time.Duration
	file := e.file(name, &stale)
	old := file()
	e.eventually("less than min_ttl", func() bool { return time.Since(e.wire.askedAt(old)) > life-minTTL })
	rotated := time.Now()
	e.read("shop-income")
	for time.Since(rotated) < time.Second {
		if file() != old || e.wallet.Live(old) {
			t.Fatal("Agent has the next token at once, or the old one is good; docs/consumers.md says otherwise")
		}
		time.Sleep(20 * time.Millisecond)
	}
	e.eventually("Agent's own read", func() bool { return file() != old })
	t.Logf("the file held a dead token for %s", time.Since(rotated))
	e.live(file())
}

// Two applications share a grant: what one does with its lease leaves the other's
// token alone.
func TestSharedGrant(t *testing.T) {
	t.Parallel()
	p := startPoliced(t)
	p.write("grants/shop-income", map[string]any{"shared": true})
	rotations := p.sent("rotate")
	var leases [2]*api.Secret
	var applications [2]*api.Client
	for i := range leases {
		applications[i] = p.Client(p.Token("application"))
		lease, err := applications[i].Logical().Read("op/token/shop-income")
		if err != nil {
			t.Fatal(err)
		}
		p.live(p.tokenOf(lease))
		p.beforeItsToken("a shared lease", lease)
		if lease.Renewable {
			t.Error("a shared lease is renewable")
		}
		leases[i] = lease
	}
	if p.tokenOf(leases[0]) != p.tokenOf(leases[1]) || rotations() != 0 {
		t.Errorf("the applications do not share a token; %d rotations", rotations())
	}

	p.refused(leases[0], "not renewable")
	if err := applications[0].Sys().Revoke(leases[0].LeaseID); err != nil {
		t.Fatal(err)
	}
	p.eventually("the revocation", func() bool {
		_, err := p.vault.Sys().Lookup(leases[0].LeaseID)
		return err != nil
	})
	p.live(p.tokenOf(leases[1]))
	if n := rotations(); n != 0 {
		t.Errorf("%d rotations", n)
	}

	p.write("rotate/shop-income", nil) // after a leak
	p.dead(p.tokenOf(leases[1]))
	p.live(p.tokenOf(p.read("shop-income")))
	if n := rotations(); n != 1 {
		t.Errorf("%d rotations, not the one that was asked for", n)
	}
}

// Many replicas find a token that is no good any more: one rotation for all.
func TestReadersOfASharedGrant(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	fields := e.obtain()
	fields["expires_in"], fields["shared"] = 1, true
	e.write("grants/payer", fields)
	rotations := e.sent("rotate")
	rotation := e.holdUp("rotate", false)
	var reading [32]<-chan result
	for i := range reading {
		reading[i] = e.reading(t.Context(), "payer")
	}
	rotation.await(t)
	rotation.release()
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
	if len(tokens) != 1 || rotations() != 1 {
		t.Errorf("%d tokens and %d rotations", len(tokens), rotations())
	}
}
