// SPDX-License-Identifier: MPL-2.0

package bench

import (
	"fmt"
	"net/http"
	"os"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
)

const (
	// neighbourTime is how long each row of the table takes.
	neighbourTime = 10 * time.Second
	// readers read tokens of grants of their own, one after the other; as many clients sign.
	readers = 8
	// hammers are clients that disturb them.
	hammers = 32
)

// BenchmarkNeighbours measures reads and signatures while others hammer one grant, or read grants of a
// server that never answers. The servers take 50 ms for everything. It prints how much longer requests take
// than without those others; one run is enough (-benchtime 1x).
func BenchmarkNeighbours(b *testing.B) {
	n := newNeighbours(b)
	for b.Loop() {
		table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(table, "\nneighbours\trequests\tper second\tp50\tbefore\tratio\tp99\tbefore\tratio\t")
		for _, row := range []struct {
			name   string
			grants []string
			server *sandbox.Server // that goes silent
		}{
			{"one grant is hammered, on the same server", []string{"hammered"}, nil},
			{"one server never answers", n.silentGrants, n.silent},
		} {
			reads, signatures := n.measure(nil, nil)
			disturbed, signedMeanwhile := n.measure(row.grants, row.server)
			for _, kind := range []struct {
				name         string
				before, with *sample
			}{{"reads", reads, disturbed}, {"signatures", signatures, signedMeanwhile}} {
				before, with := kind.before, kind.with
				fmt.Fprintf(table, "%s\t%s\t%.0f\t%s\t%s\t%.2f\t%s\t%s\t%.2f\t\n", row.name, kind.name, with.rate(),
					with.at(50), before.at(50), ratio(with.at(50), before.at(50)),
					with.at(99), before.at(99), ratio(with.at(99), before.at(99)))
			}
		}
		if err := table.Flush(); err != nil {
			b.Fatal(err)
		}
	}
}

// neighbours are grants at several servers, through one engine.
type neighbours struct {
	*signers
	grants       []string // of the readers
	silent       *sandbox.Server
	silentGrants []string
}

func newNeighbours(b *testing.B) *neighbours {
	b.Helper()
	n := &neighbours{signers: newSigners(b)}
	n.client.Transport = &http.Transport{MaxIdleConnsPerHost: 2*readers + hammers}
	other := n.start()
	n.silent = n.start()
	n.wallet.SetDialect(sandbox.Dialect{KeyCache: time.Hour})
	n.ask("hammered", n.wallet)
	for i := range readers {
		name := fmt.Sprintf("g%d", i)
		n.ask(name, []*sandbox.Server{n.wallet, other}[i%2])
		n.grants = append(n.grants, name)
	}
	for i := range hammers {
		name := fmt.Sprintf("silent%d", i)
		n.ask(name, n.silent)
		n.silentGrants = append(n.silentGrants, name)
	}
	for _, server := range []*sandbox.Server{n.wallet, other} {
		server.Misbehave(sandbox.Misbehaviour{Delay: 50 * time.Millisecond})
	}
	return n
}

// start starts a server that ends before Vault does, which waits for its answers.
func (n *neighbours) start() *sandbox.Server {
	n.Helper()
	server, err := sandbox.Start(sandbox.Options{Dialect: sandbox.Dialect{KeyCache: time.Hour}})
	if err != nil {
		n.Fatal(err)
	}
	n.Cleanup(server.Close)
	return server
}

func (n *neighbours) ask(name string, server *sandbox.Server) {
	n.Helper()
	_, err := n.server.Client(n.server.RootToken).Logical().Write("op/grants/"+name, map[string]any{
		"auth_server": server.AuthServer(), "access": `[{"type":"incoming-payment","actions":["create","list"]}]`,
	})
	if err != nil {
		n.Fatal(err)
	}
}

// measure reads and signs for a while, during which others read the given grants, in turns.
func (n *neighbours) measure(others []string, silent *sandbox.Server) (reads, signatures *sample) {
	n.Helper()
	if silent != nil {
		silent.Misbehave(sandbox.Misbehaviour{Silent: true})
		defer silent.Misbehave()
	}
	end := time.Now().Add(neighbourTime)
	var disturbing sync.WaitGroup
	if len(others) > 0 {
		for i := range hammers {
			read := n.read(others[i%len(others)])
			disturbing.Go(func() {
				for time.Now().Before(end) {
					_ = n.send(read) // what they get is not measured
				}
			})
		}
	}
	reads, signatures = &sample{}, &sample{}
	var mu sync.Mutex
	var measured errgroup.Group
	repeat := func(c call, into *sample) {
		measured.Go(func() error {
			for time.Now().Before(end) {
				sent := time.Now()
				if err := n.send(c); err != nil {
					return err
				}
				took := time.Since(sent)
				mu.Lock()
				into.each = append(into.each, took)
				mu.Unlock()
			}
			return nil
		})
	}
	signing := n.engineCall(n.unsigned("GET"))
	for _, name := range n.grants {
		repeat(n.read(name), reads)
		repeat(signing, signatures)
	}
	if err := measured.Wait(); err != nil {
		n.Error(err)
	}
	reads.all, signatures.all = neighbourTime, neighbourTime
	return reads, signatures
}

func (n *neighbours) read(name string) call {
	return call{http.MethodGet, n.server.Address + "/v1/op/token/" + name, nil, http.StatusOK}
}
