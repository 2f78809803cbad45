// SPDX-License-Identifier: MPL-2.0

package bench

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/vaulttest"
)

const (
	rounds   = 12
	perRound = 400 // requests of each kind; a round of batches is 250 times shorter
	batch    = 250
)

// BenchmarkSign signs requests with op/sign and texts of the same length with transit, which runs
// in Vault's own process. They take turns on one server, so that noise affects both alike. The
// first rows are the overhead of any plugin: Vault calls it twice for each write, over gRPC. The
// benchmark prints ratios; one run is enough (-benchtime 1x).
func BenchmarkSign(b *testing.B) {
	s := newSigners(b)
	type row struct {
		name        string
		concurrency int
		requests    int // per round
		items       int // signatures per request
		engine      call
		transit     call
	}
	post := s.engineCall(s.unsigned("POST"))
	get := s.engineCall(s.unsigned("GET"))
	one := s.transitCall(map[string]any{"input": s.text()})
	overhead := s.engineCall(map[string]any{"batch_input": "x"})
	overhead.status = http.StatusBadRequest
	many := s.engineCall(map[string]any{"access_token": s.token,
		"batch_input": slices.Repeat([]any{s.item("POST")}, batch)})
	manyTexts := s.transitCall(map[string]any{"batch_input": slices.Repeat([]any{map[string]any{"input": s.text()}},
		batch)})
	rows := []row{
		{"rejected at once: the plugin's overhead", 1, perRound, 1, overhead, one},
		{"rejected at once: the plugin's overhead", 16, perRound, 1, overhead, one},
		{"GET", 1, perRound, 1, get, one},
		{"GET", 16, perRound, 1, get, one},
		{"POST with a body", 1, perRound, 1, post, one},
		{"POST with a body", 16, perRound, 1, post, one},
		{"batch of 250 POSTs", 1, perRound / batch * 4, batch, many, manyTexts},
		{"batch of 250 POSTs", 16, 32, batch, many, manyTexts},
	}
	for b.Loop() {
		table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(table,
			"\nop/sign next to transit/sign\tat once\tsignatures/s\ttransit\tratio\tp50\ttransit\tratio\tp99\ttransit\tratio\t")
		for _, r := range rows {
			var engine, transit sample
			s.round(r.concurrency, max(r.requests/10, r.concurrency), r.engine) // warm up
			s.round(r.concurrency, max(r.requests/10, r.concurrency), r.transit)
			for range rounds {
				engine.add(s.round(r.concurrency, r.requests, r.engine))
				transit.add(s.round(r.concurrency, r.requests, r.transit))
			}
			e, t := engine.rate()*float64(r.items), transit.rate()*float64(r.items)
			fmt.Fprintf(table, "%s\t%d\t%.0f\t%.0f\t%.2f\t%s\t%s\t%.2f\t%s\t%s\t%.2f\t\n", r.name, r.concurrency, e, t, t/e,
				engine.at(50), transit.at(50), ratio(engine.at(50), transit.at(50)),
				engine.at(99), transit.at(99), ratio(engine.at(99), transit.at(99)))
		}
		if err := table.Flush(); err != nil {
			b.Fatal(err)
		}
	}
}

func ratio(a, b time.Duration) float64 { return float64(a) / float64(b) }

// sample is the time that requests took: each of them, and all together.
type sample struct {
	each []time.Duration
	all  time.Duration
}

func (s *sample) add(other sample) {
	s.each = append(s.each, other.each...)
	s.all += other.all
}

// rate returns the requests per second.
func (s *sample) rate() float64 { return float64(len(s.each)) / s.all.Seconds() }

// at returns a percentile.
func (s *sample) at(percent int) time.Duration {
	slices.Sort(s.each)
	return s.each[(len(s.each)-1)*percent/100].Round(time.Microsecond)
}

// signers are the engine and transit on one Vault server.
type signers struct {
	*testing.B
	server *vaulttest.Server
	client *http.Client
	wallet *sandbox.Server
	vault  *api.Client
	key    string // the client's, PEM
	token  string // the grant's
}

func newSigners(b *testing.B) *signers {
	b.Helper()
	s := &signers{B: b, server: vaulttest.Start(b, vaulttest.Options{LogLevel: "error"})}
	s.client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}}
	var err error
	if s.wallet, err = sandbox.Start(sandbox.Options{}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		s.server.Stop()
		s.wallet.Close()
	})
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		b.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		b.Fatal(err)
	}
	s.wallet.PublishKey("key-1", public)
	s.server.Mount("op")
	vault := s.server.Client(s.server.RootToken)
	s.vault, s.key = vault, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	if err := vault.Sys().Mount("transit", &api.MountInput{Type: "transit"}); err != nil {
		b.Fatal(err)
	}
	for path, data := range map[string]map[string]any{
		"op/config": {"wallet_address": s.wallet.WalletAddress("client"), "key_id": "key-1",
			"private_key": s.key},
		"transit/keys/key": {"type": "ed25519"},
	} {
		if _, err := vault.Logical().Write(path, data); err != nil {
			b.Fatal(err)
		}
	}
	_, err = vault.Logical().Write("op/grants/income", map[string]any{"wallet_address": s.wallet.WalletAddress("shop"),
		"access": `[{"type":"incoming-payment","actions":["create","list"]}]`})
	if err != nil {
		b.Fatal(err)
	}
	secret, err := vault.Logical().Read("op/token/income")
	if err != nil {
		b.Fatal(err)
	}
	s.token = secret.Data["access_token"].(string)
	return s
}

// item returns a request to be signed, without the token.
func (s *signers) item(method string) map[string]any {
	target := s.wallet.ResourceServer() + "/incoming-payments"
	if method == "GET" {
		return map[string]any{"method": method, "url": target + "?wallet-address=" + s.wallet.WalletAddress("shop")}
	}
	body := fmt.Sprintf(`{"walletAddress":%q,"incomingAmount":{"value":"2500","assetCode":"USD","assetScale":2},`+
		`"metadata":{"externalRef":"INV2022-02-0137"}}`,
		s.wallet.WalletAddress("shop"))
	return map[string]any{"method": method, "url": target, "body": body}
}

func (s *signers) unsigned(method string) map[string]any {
	item := s.item(method)
	item["access_token"] = s.token
	return item
}

// text returns a text as long as what a request's signature covers.
func (s *signers) text() string {
	return base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", 400)))
}

// call is a request to Vault.
type call struct {
	method string
	url    string
	body   []byte
	status int // of the response
}

func (s *signers) engineCall(data map[string]any) call  { return s.call("op/sign/income", data) }
func (s *signers) transitCall(data map[string]any) call { return s.call("transit/sign/key", data) }

func (s *signers) call(path string, data map[string]any) call {
	s.Helper()
	body, err := json.Marshal(data)
	if err != nil {
		s.Fatal(err)
	}
	return call{http.MethodPut, s.server.Address + "/v1/" + path, body, http.StatusOK}
}

// round sends n requests, concurrency of them at a time.
func (s *signers) round(concurrency, n int, c call) sample {
	s.Helper()
	return s.repeat(concurrency, n, func() error { return s.send(c) })
}

// repeat does something n times, concurrency of them at a time.
func (s *signers) repeat(concurrency, n int, do func() error) sample {
	s.Helper()
	took := make([]time.Duration, n)
	next := make(chan int)
	var work sync.WaitGroup
	begun := time.Now()
	for range concurrency {
		work.Go(func() {
			for i := range next {
				sent := time.Now()
				if err := do(); err != nil {
					s.Error(err)
				}
				took[i] = time.Since(sent)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	work.Wait()
	return sample{took, time.Since(begun)}
}

func (s *signers) send(c call) error {
	req, err := http.NewRequestWithContext(s.Context(), c.method, c.url, bytes.NewReader(c.body))
	if err != nil {
		return err
	}
	req.Header.Set("X-Vault-Token", s.server.RootToken)
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != c.status || bytes.Contains(body, []byte(`"error":"`))) {
		err = fmt.Errorf("%s returns %d, or an error in its data", c.url, resp.StatusCode)
	}
	return err
}
