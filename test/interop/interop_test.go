// SPDX-License-Identifier: MPL-2.0

// Package interop lets the official Open Payments packages for JavaScript judge the engine, the SDK's stand-in and the
// sandbox. The Go tests make them talk to each other over HTTP and record every exchange; the .mjs files verify each
// signature and validate each message with those packages, and drive the sandbox with the official client.
package interop

import (
	"encoding/json"
	"os"
	"slices"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// TestExchanges records what engine, stand-in, signer and JavaScript client say to the sandbox, and what applications
// say with the engine's signatures, and has all of it checked.
func TestExchanges(t *testing.T) {
	w := newWorld(t)
	w.driveEngine()
	w.driveStandIn()
	w.driveResourceServer()
	w.driveSign()
	w.provokeRefusals()
	w.record.step("javascript")
	w.node("client.test.mjs", 6)
	// One test for each exchange, and two that find out whether anything that ought to be there is not.
	w.node("messages.test.mjs", w.record.close(t)+2)
}

// row is one list of rights of access.json.
type row struct {
	Name   string          `json:"name"`
	Access json.RawMessage `json:"access"`
	Text   *string         `json:"text"` // in the place of access: what JSON cannot say, or not in one way only
	Valid  *bool           `json:"valid"`
	Engine *bool           `json:"engine"` // with Document and Why, in the place of Valid: they differ
}

// TestAccess asks the engine for grants with all rights of access.json: those that it takes for valid are sent, and of
// the others nothing is. The same table is put to the OpenAPI document.
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
			t.Errorf("%s: not sent, but not refused with 400 either", r.Name)
		}
	}
	if !slices.ContainsFunc(rows, func(r row) bool { return r.Engine != nil }) || len(rows) < 60 {
		t.Errorf("the table has %d rows only, or no difference", len(rows))
	}
	w.record.close(t)
	w.node("access.test.mjs", len(rows))
}

// TestOperations compares operations.json with the OpenAPI document. internal/rights compares its table with it.
func TestOperations(t *testing.T) {
	w := newWorld(t)
	if _, err := os.ReadFile("operations.json"); err != nil { // see node
		t.Fatal(err)
	}
	w.record.close(t)
	w.node("operations.test.mjs", 2)
}
