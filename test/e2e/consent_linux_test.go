// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"net/url"
	"strings"
	"testing"
)

const (
	finishURI = "https://shop.example/back?a=1&b=2&hash=its-own"
	// statefulURI has a parameter that a stranger cannot guess.
	statefulURI = "https://shop.example/back?state=Zm9vYmFyYmF6cXV1eDEyMw"
)

// outgoing returns rights that need their owner's consent.
func (e *engine) outgoing() string {
	return `[{"type":"outgoing-payment","actions":["create","read"],"identifier":"` + e.wallet.WalletAddress("alice") +
		`","limits":{"debitAmount":{"value":"500","assetCode":"USD","assetScale":2},` +
		`"interval":"R12/2026-01-01T00:00:00Z/P1M"}}]`
}

// askOwner asks for an interactive grant on the command line, and returns the URL that its owner
// opens.
func (e *engine) askOwner(name, finish string) (interactURL string) {
	e.t.Helper()
	fields := []string{"wallet_address=" + e.wallet.WalletAddress("alice"), "access=" + e.outgoing()}
	if finish != "" {
		fields = append(fields, "finish_uri="+finish)
	}
	answer := e.runJSON("write", append([]string{e.at("grants/" + name)}, fields...)...)
	e.checkData(answer.Data, map[string]any{"status": "pending"})
	interactURL, _ = answer.Data["interact_url"].(string)
	return interactURL
}

// decide has the owner accept or decline, and returns the URL to which the browser is redirected.
func (e *engine) decide(interactURL string, accept bool) string {
	e.t.Helper()
	location, err := e.wallet.Consent(interactURL, accept)
	if err != nil {
		e.t.Fatal(err)
	}
	return location
}

func TestConsent(t *testing.T) {
	t.Parallel()
	e := startEngine(t)

	t.Run("by redirect", func(t *testing.T) {
		e := e.in(t)
		redirect := e.decide(e.askOwner("payer", finishURI), true)
		back, err := url.Parse(redirect)
		if err != nil || back.Host != "shop.example" || back.Query().Get("a") != "1" || back.Query().Get("b") != "2" {
			t.Fatal("the redirect lacks the finish URI's own query")
		}
		e.runJSON("write", e.at("grants/payer/continue"), "redirect="+redirect)
		e.checkData(e.grant("payer"), map[string]any{"status": "active", "interactive": true, "intent_open": false})
		e.checkHealthy("payer", 2)
	})

	t.Run("by polling", func(t *testing.T) {
		e := e.in(t)
		link := e.askOwner("polled", "")
		e.checkData(e.runJSON("write", "-f", e.at("grants/polled/continue")).Data, map[string]any{"status": "pending"})
		e.decide(link, true)
		e.checkData(e.runJSON("write", "-f", e.at("grants/polled/continue")).Data, map[string]any{"status": "active"})
		e.checkHealthy("polled", 2)
	})

	t.Run("declined", func(t *testing.T) {
		e := e.in(t)
		redirect := e.decide(e.askOwner("declined", statefulURI), false)
		got := e.request(400, "POST", "grants/declined/continue", asJSON(t, map[string]any{"redirect": redirect}))
		e.checkSays(strings.Join(got.errors, "\n"), "declined", "asked again", "op/grants/declined")
		e.checkData(e.grant("declined"), map[string]any{"status": "lost"})
	})

	t.Run("a redirect that proves nothing", func(t *testing.T) {
		e := e.in(t)
		link := e.askOwner("forged", finishURI)
		for _, result := range []string{"invalid_interaction&message=x", "grant_rejected"} {
			e.request(200, "POST", "grants/forged/continue",
				asJSON(t, map[string]any{"redirect": finishURI + "&result=" + result}))
			e.checkData(e.grant("forged"), map[string]any{"status": "pending"})
		}
		e.runJSON("write", e.at("grants/forged/continue"), "redirect="+e.decide(link, true))
		e.checkHealthy("forged", 2)
	})

	t.Run("the plugin killed before the continuation", func(t *testing.T) {
		e := e.in(t)
		redirect := e.decide(e.askOwner("killed", finishURI), true)
		e.killPlugin()
		e.eventually("a new process", func() bool {
			got, err := e.send(t.Context(), "GET", "config", "")
			return err == nil && got.status == 200
		})
		e.runJSON("write", e.at("grants/killed/continue"), "redirect="+redirect)
		e.checkHealthy("killed", 2)
	})

	t.Run("the plugin killed before the continuation reaches the server", func(t *testing.T) {
		e := e.in(t)
		redirect := e.decide(e.askOwner("unheard", finishURI), true)
		e.crashDuring(e.hold("continue", false), func(ctx context.Context) <-chan result {
			body := asJSON(t, map[string]any{"redirect": redirect})
			return e.startRequest(ctx, "POST", "grants/unheard/continue", body)
		})
		e.checkData(e.grant("unheard"), map[string]any{"status": "pending", "intent_open": true})
		e.runJSON("write", "-f", e.at("grants/unheard/continue")) // the stored grant holds the reference
		e.checkHealthy("unheard", 2)
	})

	t.Run("the plugin killed before the response to the continuation", func(t *testing.T) {
		e := e.in(t)
		redirect := e.decide(e.askOwner("lost", finishURI), true)
		live := e.wallet.LiveTokens()
		e.crashDuring(e.hold("continue", true), func(ctx context.Context) <-chan result {
			body := asJSON(t, map[string]any{"redirect": redirect})
			return e.startRequest(ctx, "POST", "grants/lost/continue", body)
		})
		got := e.request(400, "POST", "grants/lost/continue", asJSON(t, map[string]any{"redirect": redirect}))
		e.checkSays(strings.Join(got.errors, "\n"), "was lost", "asked again")
		if n := e.wallet.LiveTokens(); n != live {
			t.Errorf("%d tokens are live, not %d: the grant whose response was lost is not cancelled", n, live)
		}
	})

	e.checkNoSecret("the server's log", e.Log())
}
