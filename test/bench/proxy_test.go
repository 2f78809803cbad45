// SPDX-License-Identifier: MPL-2.0

package bench

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/client"
)

// BenchmarkProxy creates payments through open-payments-proxy, in a process of its own, and through
// package client in this process, in turns on one Vault server: the difference is what the proxy
// costs. One run is enough (-benchtime 1x).
func BenchmarkProxy(b *testing.B) {
	s := newSigners(b)
	for _, grant := range []string{"direct", "proxied"} {
		if _, err := s.server.Client(s.server.RootToken).Logical().Write("op/grants/"+grant, map[string]any{
			"wallet_address": s.wallet.WalletAddress("shop"), "access": `[{"type":"incoming-payment","actions":["create"]}]`,
		}); err != nil {
			b.Fatal(err)
		}
	}
	inProcess, err := client.New(s.server.Client(s.server.RootToken), client.Options{Grant: "direct"})
	if err != nil {
		b.Fatal(err)
	}
	proxied := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}}
	local := s.startProxy("proxied")
	for b.Loop() {
		table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(table, "\nPOST through the proxy next to client/\tat once\tpayments/s\tclient/\tp50\tclient/\tp99\tclient/\t")
		for _, concurrency := range []int{1, 4, 16} {
			var through, direct sample
			for round := range rounds + 1 {
				p := s.pay(concurrency, perRound/4, local, proxied.Do)
				c := s.pay(concurrency, perRound/4, s.wallet.ResourceServer(), (&http.Client{Transport: inProcess}).Do)
				if round > 0 { // the first warms up
					through.add(p)
					direct.add(c)
				}
			}
			fmt.Fprintf(table, "\t%d\t%.0f\t%.0f\t%s\t%s\t%s\t%s\t\n", concurrency, through.rate(), direct.rate(),
				through.at(50), direct.at(50), through.at(99), direct.at(99))
		}
		if err := table.Flush(); err != nil {
			b.Fatal(err)
		}
	}
}

// startProxy starts open-payments-proxy with a grant, and returns its URL.
func (s *signers) startProxy(grant string) string {
	s.Helper()
	dir := s.TempDir()
	program := filepath.Join(dir, "open-payments-proxy")
	if said, err := exec.Command("go", "build", "-o", program, "../../cmd/open-payments-proxy").CombinedOutput(); err != nil {
		s.Fatalf("%v\n%s", err, said)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		s.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(program, "-grant", grant, "-listen", "127.0.0.1:0", "-admin", "none", "-no-caller-secret")
	cmd.Env = []string{"HOME=" + dir, "VAULT_ADDR=" + s.server.Address, "VAULT_TOKEN=" + s.server.RootToken}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	})
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		text, _ := os.ReadFile(log.Name())
		if _, rest, found := strings.Cut(string(text), "address="); found && strings.Contains(rest, "\n") {
			address, _, _ := strings.Cut(rest, " ")
			return address
		}
	}
	s.Fatal("the proxy does not listen")
	return ""
}

// pay creates n incoming payments, concurrency of them at a time, below a URL.
func (s *signers) pay(concurrency, n int, below string, do func(*http.Request) (*http.Response, error)) sample {
	s.Helper()
	body := []byte(fmt.Sprint(s.item("POST")["body"]))
	return s.repeat(concurrency, n, func() error { return create(s, below, body, do) })
}

func create(s *signers, below string, body []byte, do func(*http.Request) (*http.Response, error)) error {
	req, err := http.NewRequestWithContext(s.Context(), http.MethodPost, below+"/incoming-payments", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusCreated {
		err = fmt.Errorf("%d %s", resp.StatusCode, text)
	}
	return err
}
