// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"testing"
)

// Readers of one grant take the token from each other, one after the other: each
// gets one, and the last one's lives.
func TestReadersOfOneGrant(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	e.ask("shop-income", nil)
	const readers = 8
	rotations, grants := e.sent("rotate"), e.sent("grant")

	var reading [readers]<-chan result
	for i := range reading {
		reading[i] = e.reading(t.Context(), "shop-income")
	}
	tokens := map[string]string{} // their generations
	for _, results := range reading {
		got := e.answered(results)
		if got.status != 200 {
			t.Fatalf("a reader gets %d %s, %v", got.status, got.errors, got.err)
		}
		tokens[fmt.Sprint(got.data["access_token"])] = fmt.Sprint(got.data["generation"])
	}
	if len(tokens) != readers || e.wallet.LiveTokens() != 1 {
		t.Errorf("%d tokens; %d live at the sandbox", len(tokens), e.wallet.LiveTokens())
	}
	for token, generation := range tokens {
		if newest := generation == fmt.Sprint(1+readers); newest != e.wallet.Live(token) {
			t.Errorf("the token of generation %s is live: %t", generation, !newest)
		}
	}
	if rotations() != readers || grants() != 0 {
		t.Errorf("%d rotations and %d grants asked for", rotations(), grants())
	}
}

// A server that hangs delays nobody but who wants its answer.
func TestHangingServerDelaysNoOtherGrant(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	e.ask("hanging", nil)
	e.ask("other", nil)
	rotation := e.holdUp("rotate", false)
	results := e.reading(t.Context(), "hanging")
	rotation.await(t)

	lease := e.renew(e.read("other"), 0)
	e.live(e.tokenOf(lease))
	e.ask("new", nil)
	e.write("grants/other", map[string]any{"ttl": 60})
	e.expect(e.grant("hanging"), map[string]any{"intent_open": true})
	e.gets(200, "LIST", "grants", "")
	select {
	case got := <-results:
		t.Fatalf("the server did not hang: %d %s, %v", got.status, got.errors, got.err)
	default:
	}

	rotation.release()
	if got := e.answered(results); got.status != 200 {
		t.Errorf("the read that hung: %d %s, %v", got.status, got.errors, got.err)
	}
}
