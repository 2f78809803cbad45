// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"testing"
)

// Concurrent readers of one grant replace each other's token: each gets one, and the last one's is
// live.
func TestReadersOfOneGrant(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	e.ask("shop-income", nil)
	const readers = 8
	rotations, grants := e.countRequests("rotate"), e.countRequests("grant")

	var reading [readers]<-chan result
	for i := range reading {
		reading[i] = e.startRead(t.Context(), "shop-income")
	}
	tokens := map[string]string{} // their generations
	for _, results := range reading {
		got := e.awaitResult(results)
		if got.status != 200 {
			t.Fatalf("a reader gets %d %s, %v", got.status, got.errors, got.err)
		}
		tokens[fmt.Sprint(got.data["access_token"])] = fmt.Sprint(got.data["generation"])
	}
	if len(tokens) != readers || e.wallet.LiveTokens() != 1 {
		t.Errorf("%d tokens; %d are live at the sandbox", len(tokens), e.wallet.LiveTokens())
	}
	for token, generation := range tokens {
		if newest := generation == fmt.Sprint(1+readers); newest != e.wallet.Live(token) {
			t.Errorf("the token of generation %s: live is %t, want %t", generation, !newest, newest)
		}
	}
	if rotations() != readers || grants() != 0 {
		t.Errorf("%d rotations and %d grant requests", rotations(), grants())
	}
}

// An authorization server that hangs delays only the callers that need its response.
func TestHangingServerDelaysNoOtherGrant(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	e.ask("hanging", nil)
	e.ask("other", nil)
	rotation := e.hold("rotate", false)
	results := e.startRead(t.Context(), "hanging")
	rotation.await(t)

	lease := e.renew(e.read("other"), 0)
	e.checkLive(e.tokenOf(lease))
	e.ask("new", nil)
	e.write("grants/other", map[string]any{"ttl": 60})
	e.checkData(e.grant("hanging"), map[string]any{"intent_open": true})
	e.request(200, "LIST", "grants", "")
	select {
	case got := <-results:
		t.Fatalf("the server did not hang: %d %s, %v", got.status, got.errors, got.err)
	default:
	}

	rotation.release()
	if got := e.awaitResult(results); got.status != 200 {
		t.Errorf("the read that was held: %d %s, %v", got.status, got.errors, got.err)
	}
}
