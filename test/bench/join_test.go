// SPDX-License-Identifier: MPL-2.0

package bench

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"

	openpayments "github.com/interledger/open-payments-go"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/client"
)

const (
	joinRounds   = 6
	joinPerRound = 50 // signatures of each kind; up to four times as many with more callers
)

// BenchmarkJoined has callers sign requests through package client, which joins their signatures, for
// a grant and for a role. In turns with it, on the same server, the same number of callers sign the
// same requests with op/sign one by one, which is what the package did before it joined them; texts of
// the same length with transit, one by one and in batches of as many as there are callers; and the
// requests with a key of their own. All talk to Vault through its Go API. No request is sent to the
// resource server. The benchmark prints signatures per second and ratios of them; one run is enough
// (-benchtime 1x).
func BenchmarkJoined(b *testing.B) {
	s := newSigners(b)
	if _, err := s.vault.Logical().Write("op/roles/till", map[string]any{"wallet_address": s.wallet.WalletAddress("shop"),
		"access": `[{"type":"incoming-payment","actions":["create","list"]}]`}); err != nil {
		b.Fatal(err)
	}
	ofGrant, ofRole := s.joining(client.Options{Grant: "income"}), s.joining(client.Options{Role: "till"})
	// The client has read the token of the grant.
	lease, err := ofGrant.Token(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	s.token = lease.Value
	local, err := openpayments.NewAuthenticatedClient(s.wallet.WalletAddress("client"), s.key, "key-1",
		openpayments.WithHTTPClientAuthed(&http.Client{Transport: unsent{}}))
	if err != nil {
		b.Fatal(err)
	}
	through := func(send func(*http.Request) (*http.Response, error)) func() error {
		return func() error { return s.post(send) }
	}
	input := map[string]any{"input": s.text()}
	for b.Loop() {
		table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(table, "\nsignatures/s\tclient/, grant\tclient/, role\top/sign\ttransit\tin batches\town key\t"+
			"client/ : op/sign\trole : op/sign\tclient/ : transit\trole : transit\tclient/ : batches\tp50\top/sign\ttransit\t")
		for _, callers := range []int{1, 4, 16, 64} {
			kinds := []struct {
				do    func() error
				batch int
			}{
				{through(ofGrant.RoundTrip), 1},
				{through(ofRole.RoundTrip), 1},
				{s.writing("op/sign/income", s.unsigned("POST")), 1},
				{s.writing("transit/sign/key", input), 1},
				{s.writing("transit/sign/key", map[string]any{"batch_input": slices.Repeat([]any{input}, callers)}), callers},
				{through(local.DoSigned), 1},
			}
			samples := make([]sample, len(kinds))
			for round := range joinRounds + 1 {
				for i, kind := range kinds {
					// A batch takes the place of all callers.
					took := s.repeat(max(callers/kind.batch, 1), max(joinPerRound*min(callers, 4)/kind.batch, 4), kind.do)
					if round > 0 { // the first one warms up
						samples[i].add(took)
					}
				}
			}
			rate := func(i int) float64 { return samples[i].rate() * float64(kinds[i].batch) }
			fmt.Fprintf(table, "%d callers\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%s\t%s\t%s\t\n",
				callers, rate(0), rate(1), rate(2), rate(3), rate(4), rate(5),
				rate(0)/rate(2), rate(1)/rate(2), rate(0)/rate(3), rate(1)/rate(3), rate(0)/rate(4),
				samples[0].at(50), samples[2].at(50), samples[3].at(50))
		}
		if err := table.Flush(); err != nil {
			b.Fatal(err)
		}
	}
}

// joining returns a client whose requests are signed and not sent.
func (s *signers) joining(o client.Options) *client.Client {
	s.Helper()
	o.Base = unsent{}
	c, err := client.New(s.vault, o)
	if err != nil {
		s.Fatal(err)
	}
	return c
}

// post creates an incoming payment with whatever signs and sends requests.
func (s *signers) post(send func(*http.Request) (*http.Response, error)) error {
	item := s.item("POST")
	req, err := http.NewRequestWithContext(s.Context(), http.MethodPost, item["url"].(string),
		strings.NewReader(item["body"].(string)))
	if err != nil {
		return err
	}
	resp, err := send(req)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// writing returns a function that writes to a path through Vault's Go API.
func (s *signers) writing(path string, fields map[string]any) func() error {
	return func() error {
		secret, err := s.vault.Logical().WriteWithContext(s.Context(), path, fields)
		if err == nil && secret == nil {
			err = errors.New("no response")
		}
		return err
	}
}

// unsent is a resource server that accepts every signed request and does nothing.
type unsent struct{}

func (unsent) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return nil, err
		}
	}
	if r.Header.Get("Signature") == "" {
		return nil, errors.New("the request is not signed")
	}
	return &http.Response{StatusCode: http.StatusCreated, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
}
