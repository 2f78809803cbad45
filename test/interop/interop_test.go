// SPDX-License-Identifier: MPL-2.0

package interop

import (
	"encoding/json"
	"os"
	"slices"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// TestExchanges records what the engine, the stand-in, a signer and the JavaScript client send to
// the sandbox, and what applications send with the engine's signatures, and has all of it checked.
func TestExchanges(t *testing.T) {
	w := newWorld(t)
	w.driveEngine()
	w.driveStandIn()
	w.driveResourceServer()
	w.driveSign()
	w.provokeRefusals()
	w.record.step("javascript")
	w.node("client.test.mjs", 6)
	// One test for each exchange, and two that check that all required kinds occur.
	w.node("messages.test.mjs", w.record.close(t)+2)
}

// row is a list of rights in access.json.
type row struct {
	Name   string          `json:"name"`
	Access json.RawMessage `json:"access"`
	Text   *string         `json:"text"` // instead of access: what is not JSON, or has several spellings in JSON
	Valid  *bool           `json:"valid"`
	Engine *bool           `json:"engine"` // with Document and Why, instead of Valid: they differ
}

// TestAccess asks the engine for grants with all rights in access.json: the engine sends those that
// are valid, and nothing for the others. access.test.mjs checks the same table against the OpenAPI
// document.
func TestAccess(t *testing.T) {
	w := newWorld(t)
	e := w.newEngine()
	e.configure()
	raw, err := os.ReadFile("access.json")
	if err != nil {
		t.Fatal(err)
	}
	var rows []row
	if err := json.Unmarshal(raw, &rows); err != nil {
		t.Fatal(err)
	}
	for i, r := range rows {
		if (r.Valid == nil) == (r.Engine == nil) {
			t.Errorf("%s: needs valid, or else engine, document and why", r.Name)
			continue
		}
		want := r.Valid
		if want == nil {
			want = r.Engine
		}
		var access any = string(r.Access)
		if r.Text != nil {
			access = *r.Text
		}
		before := w.sandbox.Count("grant")
		resp, err := e.do(logical.UpdateOperation, grantPath(i), map[string]any{
			"wallet_address": w.sandbox.WalletAddress("shop"), "access": access,
		})
		sent := w.sandbox.Count("grant") > before
		switch {
		case sent != *want:
			t.Errorf("%s: sent to the server: %t, want %t", r.Name, sent, *want)
		case !sent && (err != nil || !resp.IsError()):
			t.Errorf("%s: neither sent nor rejected with 400", r.Name)
		}
	}
	if !slices.ContainsFunc(rows, func(r row) bool { return r.Engine != nil }) || len(rows) < 60 {
		t.Errorf("the table has only %d rows, or no differences", len(rows))
	}
	w.record.close(t)
	w.node("access.test.mjs", len(rows))
}

// TestOperations compares operations.json with the OpenAPI document. internal/rights compares its
// table with it.
func TestOperations(t *testing.T) {
	w := newWorld(t)
	if _, err := os.ReadFile("operations.json"); err != nil { // see node
		t.Fatal(err)
	}
	w.record.close(t)
	w.node("operations.test.mjs", 2)
}
