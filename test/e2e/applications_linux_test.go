// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"golang.org/x/sync/errgroup"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
)

var longLoad = flag.Bool("load", false, "TestApplications: 64 applications for two minutes on 2 000 grants")

// commonGrants are used by all applications; the others have one each.
const commonGrants = 8

// applications read, renew, revoke and sign for a while.
type applications struct {
	*engine
	number, grants int
	time           time.Duration

	mu    sync.Mutex
	took  map[string][]time.Duration // by kind of request
	wrong []string
}

// Many applications at once, on a server that takes its time: none gets an error for a grant of its own,
// every lease ends when it is revoked, and the plugin's memory does not grow.
func TestApplications(t *testing.T) {
	t.Parallel()
	a := &applications{engine: startEngine(t), number: 16, grants: 120, time: 8 * time.Second, took: map[string][]time.Duration{}}
	if *longLoad {
		a.number, a.grants, a.time = 64, 2000, 2*time.Minute
	}
	a.wallet.SetDialect(sandbox.Dialect{KeyCache: time.Hour})
	a.askAll()
	a.wallet.Misbehave(sandbox.Misbehaviour{Delay: 50 * time.Millisecond})
	ctx, stop := context.WithTimeout(t.Context(), a.time)
	defer stop()
	var work sync.WaitGroup
	for i := range a.number {
		client := a.Client(a.RootToken)
		work.Go(func() { a.work(ctx, i, client) })
	}
	memory := a.watchMemory(ctx)
	work.Wait()
	a.wallet.Misbehave()
	a.report(memory)
	for _, what := range a.wrong {
		t.Error(what)
	}
	// A server's garbage is collected at times: what counts is what it comes back to.
	quarter := len(memory) / 4
	if before, after := slices.Min(memory[quarter:2*quarter]), slices.Min(memory[3*quarter:]); after > before+before/5 {
		t.Errorf("the plugin's memory has grown from %d to %d kB", before, after)
	}
	a.run("lease", "revoke", "-sync", "-prefix", a.at("token/"))
	if a.hasLeases() {
		t.Error("there are leases left")
	}
	a.checkNoIrrevocable()
	if n := a.wallet.LiveTokens(); n > a.grants {
		t.Errorf("%d tokens are live, of %d grants", n, a.grants)
	}
}

func grantName(i int) string { return fmt.Sprintf("g%d", i) }

// askAll asks for all grants.
func (a *applications) askAll() {
	a.t.Helper()
	var group errgroup.Group
	group.SetLimit(8)
	client := a.Client(a.RootToken)
	for i := range a.grants {
		group.Go(func() error {
			_, err := client.Logical().Write(a.at("grants/"+grantName(i)),
				map[string]any{"auth_server": a.wallet.AuthServer(), "resource_server": a.wallet.ResourceServer(), "access": access})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		a.t.Fatal(err)
	}
}

// work is one application: every request is about one of its own grants or, one in ten, about a common one.
func (a *applications) work(ctx context.Context, n int, client *api.Client) {
	random := rand.New(rand.NewPCG(uint64(n), 1))
	leases := map[int]*api.Secret{}
	own := (a.grants - commonGrants) / a.number
	for ctx.Err() == nil {
		i := commonGrants + n*own + random.IntN(own)
		if random.IntN(10) == 0 {
			i = random.IntN(commonGrants)
		}
		leases[i] = a.request(client, i, leases[i], random.IntN(100))
	}
}

// request sends a request about a grant, and returns the lease that the application has then.
func (a *applications) request(client *api.Client, i int, lease *api.Secret, dice int) *api.Secret {
	var kind string
	var got *api.Secret
	var err error
	begun := time.Now()
	switch {
	case lease == nil || dice < 30:
		kind = "read"
		got, err = client.Logical().Read(a.at("token/" + grantName(i)))
	case dice < 55:
		kind = "renewal"
		got, err = client.Sys().Renew(lease.LeaseID, 0)
	case dice < 65:
		kind = "revocation"
		_, err = client.Logical().Write("sys/leases/revoke", map[string]any{"lease_id": lease.LeaseID, "sync": true})
	default:
		kind, got = "signature", lease
		_, err = client.Logical().Write(a.at("sign/"+grantName(i)), map[string]any{"access_token": lease.Data["access_token"],
			"method": "GET", "url": a.wallet.ResourceServer() + "/incoming-payments?wallet-address=" + a.wallet.WalletAddress("shop")})
	}
	a.record(kind, time.Since(begun), i, lease, got, err)
	if err != nil {
		return nil
	}
	return got
}

// record records the outcome of a request. Whoever uses a common grant may find that others do.
func (a *applications) record(kind string, took time.Duration, i int, before, after *api.Secret, err error) {
	var wrong string
	common := i < commonGrants
	switch {
	case err != nil && !(common && (kind == "signature" || isTaken(err))):
		wrong = err.Error()
	case err != nil || common:
	case kind == "revocation" && a.wallet.Live(before.Data["access_token"].(string)):
		wrong = "the value of a revoked lease is live"
	case after != nil && !a.wallet.Live(after.Data["access_token"].(string)):
		wrong = "the token is dead"
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if wrong != "" {
		a.wrong = append(a.wrong, fmt.Sprintf("%s of %s: %s", kind, grantName(i), wrong))
	}
	a.took[kind] = append(a.took[kind], took)
}

// isTaken reports whether an error says that others use the grant: that they have replaced the token, or
// that so many want a new one that it was not this caller's turn in time.
func isTaken(err error) bool {
	return strings.Contains(err.Error(), "superseded") || strings.Contains(err.Error(), "busy with another request")
}

// watchMemory returns the resident memory of the plugin's process, in kB, every quarter of a second until
// ctx ends.
func (a *applications) watchMemory(ctx context.Context) (memory []int) {
	a.t.Helper()
	file := fmt.Sprintf("/proc/%d/status", a.pluginPID())
	every := time.NewTicker(time.Second / 4)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return memory
		case <-every.C:
		}
		text, err := os.ReadFile(file)
		if err != nil {
			a.t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(text), "VmRSS:")
		var kB int
		if _, err := fmt.Sscan(rest, &kB); err != nil {
			a.t.Fatal(err)
		}
		memory = append(memory, kB)
	}
}

// report prints how long requests took, and the memory at the end of each eighth of the time.
func (a *applications) report(memory []int) {
	for kind, took := range a.took {
		slices.Sort(took)
		a.t.Logf("%-10s %6d, p50 %s, p99 %s", kind, len(took), took[len(took)/2].Round(time.Millisecond),
			took[len(took)*99/100].Round(time.Millisecond))
	}
	var eighths []string
	for i := 1; i <= 8; i++ {
		eighths = append(eighths, fmt.Sprintf("%.1f", float64(memory[len(memory)*i/8-1])/1024))
	}
	a.t.Logf("the plugin's memory in MB: %s", strings.Join(eighths, ", "))
}
