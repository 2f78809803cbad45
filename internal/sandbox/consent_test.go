// SPDX-License-Identifier: MPL-2.0

package sandbox_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"
)

func (w *world) page(g granted) reply {
	w.t.Helper()
	return w.ask(ask{method: "GET", url: g.Interact.Redirect, unsigned: true})
}

var tags = regexp.MustCompile(`<[^>]*>`)

// text is what the owner reads, as one line.
func text(page string) string {
	_, body, _ := strings.Cut(page, "<body>")
	return strings.Join(strings.Fields(tags.ReplaceAllString(body, " ")), " ")
}

func TestConsentPage(t *testing.T) {
	w := newWorld(t)
	const usd = `{"value":"500","assetCode":"USD","assetScale":2}`
	amount := func(kind, value, code string, scale int, more string) string {
		return fmt.Sprintf(`,"limits":{%q:{"value":%q,"assetCode":%q,"assetScale":%d}%s}`, kind, value, code, scale, more)
	}
	interval := func(i string) string { return `,"limits":{"debitAmount":` + usd + `,"interval":"` + i + `"}` }
	receiver := w.ResourceServer() + "/incoming-payments/abc"
	for limits, row := range map[string][]string{
		"": {"Warning: there is no limit."},
		`,"limits":{"interval":"R/2026-01-01T00:00:00Z/P1M"}`: {"Warning: there is no limit."},
		`,"limits":{"receiver":"` + receiver + `"}`:           {"Warning: there is no limit.", "Only to this receiver " + receiver},
		amount("debitAmount", "500", "USD", 2, ""):            {"It can spend at most 5.00 USD in all"},
		amount("receiveAmount", "500", "USD", 2, ""):          {"Receivers get at most 5.00 USD in all"},
		amount("debitAmount", "5", "USD", 2, ""):              {"0.05 USD in all"},
		amount("debitAmount", "0", "USD", 2, ""):              {"0.00 USD in all"},
		amount("debitAmount", "1234567", "JPY", 0, ""):        {"1,234,567 JPY in all"},
		amount("debitAmount", "18446744073709551615", "XRP", 9, ""): {
			"18,446,744,073.709551615 XRP in all"},
		amount("debitAmount", "1", "X", 12, ""): {"0.000000000001 X in all"},
		interval("R12/2026-08-01T00:00:00Z/P1M"): {
			"It can spend at most 5.00 USD each month, 12 times", "Beginning 1 August 2026, 00:00 UTC"},
		interval("R/2026-08-01T00:00:00Z/P1D"):                     {"5.00 USD each day, without end"},
		interval("R1/2026-08-01T00:00:00Z/P1Y"):                    {"5.00 USD each year, once"},
		interval("R0/2026-08-01T00:00:00Z/P7D"):                    {"5.00 USD each week, once"},
		interval("R2/2026-08-01T00:00:00Z/P2W"):                    {"5.00 USD every 2 weeks, 2 times"},
		interval("R2/2026-08-01/P1Y3M4DT1H2M1S"):                   {"every 1 year and 3 months and 4 days and 1 hour and 2 minutes and 1 second, 2 times"},
		interval("R3/2026-08-01T00:00:00+02:00/2026-08-03T00:00Z"): {"every 2 days and 2 hours, 3 times", "31 July 2026, 22:00 UTC"},
		interval("R4/P1M/2026-09-01T00:00:00Z"):                    {"each month, 4 times", "1 August 2026, 00:00 UTC"},
		interval("monthly"):                                        {"5.00 USD in a period that this wallet cannot read"},
	} {
		t.Run(limits, func(t *testing.T) {
			w := w.in(t)
			r := w.page(w.pending(w.outgoing(limits), app))
			w.want(r, http.StatusOK, "")
			read := text(r.body)
			always := []string{"Allow the client “Client” to send payments from your wallet?", "Client Client", "Your wallet " + w.WalletAddress("alice"),
				"Wallet address of the client " + w.WalletAddress("client"), "You can decide until 12:10 UTC.", "Accept", "Decline"}
			for _, want := range append(always, row...) {
				if !strings.Contains(read, want) {
					t.Errorf("the page does not say %q but %q", want, read)
				}
			}
			if unlimited := strings.HasPrefix(row[0], "Warning"); !unlimited && strings.Contains(read, "Warning") {
				t.Error("there is a warning about a grant with limits")
			}
		})
	}
}

// Every right is named; only those to pay have limits.
func TestConsentPageRights(t *testing.T) {
	w := newWorld(t)
	rights := w.right(`"create","read-all","complete"`) + `,{"type":"quote","actions":["create"]},` +
		fmt.Sprintf(`{"type":"outgoing-payment","actions":["list"],"identifier":%q}`, w.WalletAddress("shop"))
	read := text(w.page(w.pending(rights, app)).body)
	for _, want := range []string{
		"Allow the client “Client” to see payments from your wallet, ask for payments into your wallet " +
			"and ask what payments from your wallet would cost?",
		"Ask for payments into the wallet See all payments into the wallet, whoever has asked for them Say that a payment is complete",
		"Ask what a payment would cost", "List the payments that it has sent itself Wallet " + w.WalletAddress("shop"),
		"Your wallet " + w.WalletAddress("alice") + " " + w.WalletAddress("shop"),
	} {
		if !strings.Contains(read, want) {
			t.Errorf("the page does not say %q but %q", want, read)
		}
	}
	if strings.Contains(read, "Warning") {
		t.Error("there is a warning about rights that cannot pay")
	}
}

// The page is one file, loads nothing and can be framed by nobody.
func TestConsentPageHeaders(t *testing.T) {
	w := newWorld(t)
	for finishURI, targets := range map[string]string{
		"":                             "'self'",
		app:                            "'self' https://app.example",
		"http://127.0.0.1:8080/x?y=z":  "'self' http://127.0.0.1:8080",
		"http://[::1]:8080/x":          "'self' http:",
		"https://a;script-src'*'/x":    "'self' https:",
		"https://user:word@a.example/": "'self' https://a.example",
		"com.example.app:/done":        "'self' com.example.app:",
	} {
		t.Run(finishURI, func(t *testing.T) {
			w := w.in(t)
			r := w.page(w.pending(w.outgoing(""), finishURI))
			_, rest, _ := strings.Cut(r.body, "<style>")
			style, _, _ := strings.Cut(rest, "</style>")
			sum := sha256.Sum256([]byte(style))
			want := "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; form-action " + targets +
				"; base-uri 'none'; frame-ancestors 'none'"
			if got := r.header.Get("Content-Security-Policy"); got != want {
				t.Errorf("the policy is %s, want %s", got, want)
			}
		})
	}
	g := w.pending(w.outgoing(""), app)
	r := w.page(g)
	for name, want := range map[string]string{
		"Content-Type": "text/html; charset=utf-8", "Cache-Control": "no-store", "Referrer-Policy": "same-origin",
		"X-Content-Type-Options": "nosniff",
	} {
		if got := r.header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	for _, outside := range []string{"src=", "href=", "url(", "@import", "<script", "<link", "<img"} {
		if strings.Contains(r.body, outside) {
			t.Errorf("the page has %s", outside)
		}
	}
	if cookie := r.header.Get("Set-Cookie"); !strings.Contains(cookie, "; HttpOnly; SameSite=Lax") || !strings.Contains(cookie, "; Path=/auth/interact/") {
		t.Error("the cookie is open to others")
	}
	// The redirect away holds the reference, and nobody is to keep or to be told it.
	w.consent(g, true)
	if r := w.page(g); r.status != 302 || r.header.Get("Cache-Control") != "no-store" || r.header.Get("Referrer-Policy") != "same-origin" {
		t.Errorf("got %s, want a redirect that is not kept", r)
	}
}

// Names and addresses are the client's: none of them becomes a part of the page.
func TestConsentPageEscapes(t *testing.T) {
	w := newWorld(t)
	const hostile = `</h1><script>alert("1")</script><img src=x onerror='alert(2)'>{{.Nonce}}&amp;`
	x := base64.RawURLEncoding.EncodeToString(w.key.Public().(ed25519.PublicKey))
	var wallet *httptest.Server
	wallet = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/jwks.json") {
			fmt.Fprintf(rw, `{"keys":[{"kid":%q,"alg":"EdDSA","kty":"OKP","crv":"Ed25519","x":%q}]}`, keyID, x)
			return
		}
		json.NewEncoder(rw).Encode(map[string]string{"id": wallet.URL + "/me", "publicName": hostile})
	}))
	t.Cleanup(wallet.Close)
	bad := `https://a.example/\"><script>alert(3)</script>/incoming-payments/<b>`
	access := fmt.Sprintf(`{"type":"outgoing-payment","actions":["create"],"identifier":"%s","limits":{"receiver":"%s",`+
		`"debitAmount":{"value":"1","assetCode":"<i>","assetScale":0},"interval":"<u>"}}`, bad, bad)
	body := fmt.Sprintf(`{"access_token":{"access":[%s]},"client":%q,"interact":{"start":["redirect"]}}`, access, wallet.URL+"/me")
	g := w.decode(w.requestGrant(body))
	r := w.page(g)
	for _, raw := range []string{"<script", "<img", "<i>", "<u>", "<b>", "&amp;&amp;"} {
		if strings.Contains(r.body, raw) {
			t.Errorf("the page has %s", raw)
		}
	}
	if strings.Count(r.body, "&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt;") != 2 || !strings.Contains(r.body, "{{.Nonce}}&amp;amp;") {
		t.Error("the name is not shown as it is")
	}
	if strings.Count(r.body, "<h1>") != 1 || strings.Count(r.body, "</h1>") != 1 {
		t.Error("there is not one h1")
	}

	// The query of the page's address can be changed by anybody: it is not shown.
	address, _, _ := strings.Cut(g.Interact.Redirect, "?")
	query := url.Values{"clientName": {"Your bank<script>"}, "clientUri": {"https://bank.example"}}
	forged := w.ask(ask{method: "GET", url: address + "?" + query.Encode(), unsigned: true})
	if forged.status != 200 || strings.Contains(forged.body, "bank") {
		t.Error("the page shows its own query")
	}
}

var nonceOf = regexp.MustCompile(`name="nonce" value="([^"]*)"`)

// A form that is not from the page decides nothing.
func TestConsentForgery(t *testing.T) {
	w := newWorld(t)
	g := w.pending(w.outgoing(""), app)
	other := w.page(w.pending(w.outgoing(""), app))
	page := w.page(g)
	nonce := nonceOf.FindStringSubmatch(page.body)[1]
	cookie, _, _ := strings.Cut(page.header.Get("Set-Cookie"), ";")
	otherCookie, _, _ := strings.Cut(other.header.Get("Set-Cookie"), ";")
	address, _, _ := strings.Cut(g.Interact.Redirect, "?")
	post := func(form string, header map[string]string) ask {
		h := map[string]string{"Content-Type": "application/x-www-form-urlencoded"}
		for name, value := range header {
			h[name] = value
		}
		return ask{method: "POST", url: address, body: form, setHeader: h, unsigned: true}
	}
	good := "nonce=" + nonce + "&decision=accept"
	for name, row := range map[string]struct {
		ask    ask
		status int
	}{
		"no cookie":            {post(good, nil), 403},
		"no nonce":             {post("decision=accept", map[string]string{"Cookie": cookie}), 403},
		"other nonce":          {post("nonce=A&decision=accept", map[string]string{"Cookie": cookie}), 403},
		"other cookie":         {post(good, map[string]string{"Cookie": otherCookie}), 403},
		"both empty":           {post("nonce=&decision=accept", map[string]string{"Cookie": "consent="}), 403},
		"cross-site":           {post(good, map[string]string{"Cookie": cookie, "Sec-Fetch-Site": "cross-site"}), 403},
		"other port":           {post(good, map[string]string{"Cookie": cookie, "Sec-Fetch-Site": "same-site"}), 403},
		"other origin":         {post(good, map[string]string{"Cookie": cookie, "Origin": "http://127.0.0.1:1"}), 403},
		"nonce in the address": {ask{method: "POST", url: address + "?" + good, setHeader: map[string]string{"Cookie": cookie}, unsigned: true}, 403},
		"no decision":          {post("nonce="+nonce, map[string]string{"Cookie": cookie}), 400},
		"other decision":       {post("nonce="+nonce+"&decision=maybe", map[string]string{"Cookie": cookie}), 400},
	} {
		t.Run(name, func(t *testing.T) {
			r := w.in(t).ask(row.ask)
			if r.status != row.status || !strings.Contains(r.body, "<h1>Nothing was decided</h1>") {
				t.Errorf("got status %d, want %d", r.status, row.status)
			}
			if r := w.in(t).finishPage(g); !strings.HasPrefix(r.header.Get("Location"), app+"?result=grant_invalid&message=") {
				t.Error("it was decided")
			}
		})
	}
	// A second window of the same browser leaves the first one's form valid.
	again := w.ask(ask{method: "GET", url: g.Interact.Redirect, setHeader: map[string]string{"Cookie": cookie}, unsigned: true})
	if nonceOf.FindStringSubmatch(again.body)[1] != nonce {
		t.Error("the nonce has changed")
	}
	r := w.ask(post(good, map[string]string{"Cookie": cookie, "Sec-Fetch-Site": "same-origin", "Origin": w.URL()}))
	if r.status != 303 || r.header.Get("Location") != address+"/finish" {
		t.Errorf("got %s, want 303", r)
	}
	w.reference(g, w.finishPage(g).header.Get("Location"))
}

func TestNotices(t *testing.T) {
	w := newWorld(t)
	accepted, declined, cancelled := w.pending(w.outgoing(""), ""), w.pending(w.outgoing(""), ""), w.pending(w.outgoing(""), "")
	w.consent(accepted, true)
	w.consent(declined, false)
	w.want(w.ask(w.cancel(cancelled)), http.StatusNoContent, "")
	for name, row := range map[string]struct {
		address string
		status  int
		says    string
	}{
		"accepted":  {accepted.Interact.Redirect, 200, "You have accepted The client learns of it when it next asks this wallet. You may close this window."},
		"declined":  {declined.Interact.Redirect, 200, "You have declined"},
		"cancelled": {cancelled.Interact.Redirect, 410, "This request has ended"},
		"unknown":   {w.AuthServer() + "/interact/a/b", 404, "There is no such request"},
		"finish":    {w.AuthServer() + "/interact/a/b/finish", 404, "There is no such request"},
	} {
		t.Run(name, func(t *testing.T) {
			r := w.in(t).ask(ask{method: "GET", url: row.address, unsigned: true})
			if r.status != row.status || !strings.Contains(text(r.body), row.says) {
				t.Errorf("got %d, want %d %s", r.status, row.status, row.says)
			}
			if !strings.Contains(r.header.Get("Content-Security-Policy"), "form-action 'none'") || strings.Contains(r.body, "<form") {
				t.Error("there is a form, or it may be sent")
			}
		})
	}
	w.want(w.ask(ask{method: "POST", url: w.AuthServer() + "/interact/a/b", unsigned: true}), http.StatusNotFound, "")
	undecided := w.pending(w.outgoing(""), "")
	address, _, _ := strings.Cut(undecided.Interact.Redirect, "?")
	if r := w.finishPage(undecided); r.status != 303 || r.header.Get("Location") != address {
		t.Errorf("got %s, want 303 to the page", r)
	}
}

// form is the page as a browser has it open, to be sent later.
func (w *world) form(g granted, decision string) ask {
	w.t.Helper()
	page := w.page(g)
	cookie, _, _ := strings.Cut(page.header.Get("Set-Cookie"), ";")
	return ask{
		method: "POST", url: g.Interact.Redirect, unsigned: true,
		body:      "nonce=" + nonceOf.FindStringSubmatch(page.body)[1] + "&decision=" + decision,
		setHeader: map[string]string{"Content-Type": "application/x-www-form-urlencoded", "Cookie": cookie},
	}
}

// A form that was open all the while changes nothing that has been decided, has expired or was
// cancelled.
func TestLateForms(t *testing.T) {
	w := newWorld(t)
	for name, row := range map[string]struct {
		decision string
		meantime func(*world, granted)
		result   string
	}{
		"accept after decline": {"accept", func(w *world, g granted) { w.consent(g, false) }, "?result=grant_rejected"},
		"decline after accept": {"decline", func(w *world, g granted) { w.consent(g, true) }, "?hash="},
		"accept after expiry":  {"accept", func(w *world, _ granted) { w.clock.pass(10 * time.Minute) }, "?result=invalid_interaction&"},
		"decline after expiry": {"decline", func(w *world, _ granted) { w.clock.pass(10 * time.Minute) }, "?result=invalid_interaction&"},
		"accept after cancel":  {"accept", func(w *world, g granted) { w.ask(w.cancel(g)) }, "?result=unknown_interaction"},
	} {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			g := w.pending(w.outgoing(""), app)
			form := w.form(g, row.decision)
			row.meantime(w, g)
			w.want(w.ask(form), http.StatusSeeOther, "")
			if !strings.HasPrefix(w.finishPage(g).header.Get("Location"), app+row.result) {
				t.Errorf("the result is not %s", row.result)
			}
		})
	}
	w.wantLive(0)
}
