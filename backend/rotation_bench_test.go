// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	openpayments "github.com/interledger/open-payments-go"
	"github.com/jonboulle/clockwork"
)

// One rotation by the engine, storage in memory, next to the same call made by the SDK alone: what
// the engine adds to it.
func BenchmarkRotation(b *testing.B) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.WriteString(w, `{"access_token":{"value":"v","manage":"http://`+req.Host+`/token/1","expires_in":600,"access":[{"type":"incoming-payment","actions":["read"]}]}}`)
	}))
	defer server.Close()
	r := newRig(b)

	b.Run("engine", func(b *testing.B) {
		engine := newBackend("v0.0.1", clockwork.NewRealClock())
		storage := &logical.InmemStorage{}
		ctx := context.Background()
		if err := engine.Setup(ctx, &logical.BackendConfig{Logger: hclog.NewNullLogger(), System: logical.TestSystemView(), StorageView: storage}); err != nil {
			b.Fatal(err)
		}
		send := func(op logical.Operation, path string, data map[string]any) {
			resp, err := engine.HandleRequest(ctx, &logical.Request{Operation: op, Path: path, Data: data, Storage: storage, MountPoint: "op/"})
			if err == nil && resp.IsError() {
				err = resp.Error()
			}
			if err != nil {
				b.Fatal(err)
			}
		}
		send(logical.CreateOperation, "config", map[string]any{"wallet_address": server.URL + "/client", "key_id": testKeyID, "private_key": r.key, "verify": false})
		send(logical.CreateOperation, "grants/g", map[string]any{"access_token": "t", "manage_url": server.URL + "/token/1"})
		b.ReportAllocs()
		for b.Loop() {
			send(logical.ReadOperation, "token/g", nil)
		}
	})
	b.Run("sdk", func(b *testing.B) {
		client, err := openpayments.NewAuthenticatedClient(server.URL+"/client", r.key, testKeyID,
			openpayments.WithHTTPClientAuthed(&http.Client{Transport: &http.Transport{DisableCompression: true, IdleConnTimeout: 3 * time.Second}}))
		if err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			if _, err := client.Token.Rotate(context.Background(), openpayments.TokenRotateParams{URL: server.URL + "/token/1", AccessToken: "t"}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
