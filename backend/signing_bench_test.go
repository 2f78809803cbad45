// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"slices"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// What the engine itself needs to sign a request, alone and in a batch of 250, storage in memory.
// Compare: crypto/ed25519's own benchmark.
func BenchmarkSign(b *testing.B) {
	r := withGrant(b)
	income := r.receive("income")
	body := `{"walletAddress":"https://wallet.example/alice","incomingAmount":{"value":"2500","assetCode":"USD","assetScale":2},"metadata":{"externalRef":"INV2022-02-0137"}}`
	one := income.fields("POST", "/incoming-payments", body)
	for name, fields := range map[string]map[string]any{
		"one":          one,
		"batch of 250": {"access_token": income.token, "batch_input": slices.Repeat([]any{income.fields("POST", "/incoming-payments", body)}, maxBatch)},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				resp, err := r.b.HandleRequest(r.ctx, &logical.Request{Operation: logical.UpdateOperation, Path: "sign/income", Data: fields, Storage: r.storage, MountPoint: "op/"})
				if err != nil || resp.IsError() {
					b.Fatal(err, resp.Error())
				}
			}
		})
	}
}
