// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/vaulttest"
)

// idPath returns the path of the id in an answer: what is left when its origin is swapped.
func (r *rig) idPath(a answer) string {
	r.Helper()
	var made struct{ ID string }
	if err := json.Unmarshal([]byte(a.text), &made); err != nil {
		r.Fatal(err)
	}
	u, err := url.Parse(made.ID)
	if err != nil || u.Path == "" || !strings.HasPrefix(made.ID, r.wallet.ResourceServer()+"/") {
		r.Fatalf("the id is not the wallet's: %s", made.ID)
	}
	return u.Path
}

// A program without a key creates, reads, lists and completes a payment.
func TestPayment(t *testing.T) {
	r := startRig(t)
	path := r.idPath(r.check(r.create(), http.StatusCreated))
	r.check(r.send("GET", path, ""), http.StatusOK)
	r.check(r.send("GET", path+"/", ""), http.StatusOK)
	r.check(r.send("GET", "/incoming-payments?wallet-address="+url.QueryEscape(r.wallet.WalletAddress("shop")), ""), http.StatusOK)
	done := r.check(r.send("POST", path+"//complete", ""), http.StatusOK)
	if !strings.Contains(done.text, `"completed":true`) {
		t.Errorf("the payment is not complete: %s", done.text)
	}
	if n := r.called("token/shop-income"); n != 1 {
		t.Errorf("%d reads of the token", n)
	}
}

// What the caller sends beside the request itself does not reach the wallet, and what the wallet
// answers reaches the caller unaltered.
func TestWhatGoesAlong(t *testing.T) {
	r := startRig(t)
	r.wrap = func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if !strings.HasPrefix(req.URL.Path, "/op/") {
				next.ServeHTTP(w, req)
				return
			}
			w.Header().Set("X-Of-The-Wallet", "yes")
			w.Header().Set("Content-Type", "application/json; profile=x")
			w.WriteHeader(http.StatusTeapot)
			_, _ = io.WriteString(w, `{"id": "https://wallet.example/op/1" }`)
		})
	}
	req := r.request("POST", "/incoming-payments", r.invoice())
	for name, value := range map[string]string{
		"Accept": "application/json", "User-Agent": "shop/1", "Traceparent": "00-1-2-01", "Tracestate": "a=b",
		"Signature": "sig1=:AAAA:", "Signature-Input": `sig1=("@method")`, "Content-Digest": "sha-512=:AAAA:",
		"Digest": "x", "Cookie": "a=b", "X-Forwarded-For": "1.2.3.4", "Forwarded": "for=1.2.3.4", "X-Own": "1",
		"Connection": "X-Own, Upgrade, HTTP2-Settings", "Upgrade": "h2c", "Http2-Settings": "AAMAAABkAAQ", "Te": "trailers",
		"Proxy-Authorization": "Basic x", "Idempotency-Key": "1", "X-Vault-Token": "x",
	} {
		req.Header.Set(name, value)
	}
	req.Host = "127.0.0.1" // without the port, as PHP sends it
	got := r.check(r.do(req), http.StatusTeapot)
	if got.text != `{"id": "https://wallet.example/op/1" }` || got.Header.Get("X-Of-The-Wallet") != "yes" ||
		got.Header.Get("Content-Type") != "application/json; profile=x" {
		t.Errorf("the answer is altered: %s %v", got.text, got.Header)
	}
	received := r.received[0]
	var names []string
	for name := range received.Header {
		names = append(names, name)
	}
	slices.Sort(names)
	want := []string{"Accept", "Authorization", "Content-Digest", "Content-Length", "Content-Type", "Signature",
		"Signature-Input", "Traceparent", "Tracestate", "User-Agent"}
	if !slices.Equal(names, want) {
		t.Errorf("the wallet received the headers %q", names)
	}
	if strings.Contains(received.Header.Get("Authorization"), callerSecret) || received.Header.Get("Signature") == "sig1=:AAAA:" ||
		received.Header.Get("User-Agent") != "shop/1" || received.Host != strings.TrimPrefix(r.wallet.URL(), "http://") {
		t.Errorf("the wallet received %q for %s", received.Header, received.Host)
	}

	bare := r.request("GET", "/incoming-payments/1", "")
	bare.Header["User-Agent"] = nil
	r.do(bare)
	if agent, sent := r.received[1].Header["User-Agent"]; sent {
		t.Errorf("a User-Agent of its own: %q", agent)
	}
}

// These are refused before anything is asked of Vault or sent to the wallet.
func TestRefusals(t *testing.T) {
	r := startRig(t)
	for name, c := range map[string]struct {
		change func(*http.Request)
		status int
		code   string
	}{
		"no token":        {func(q *http.Request) { q.Header.Del("Authorization") }, 401, "caller"},
		"wrong secret":    {func(q *http.Request) { q.Header.Set("Authorization", "GNAP shop-income.x") }, 401, "caller"},
		"another grant":   {func(q *http.Request) { q.Header.Set("Authorization", "GNAP other."+callerSecret) }, 404, "no_such_grant"},
		"another host":    {func(q *http.Request) { q.Host = "evil.example" }, 403, "not_loopback"},
		"a page":          {func(q *http.Request) { q.Header.Set("Origin", "https://evil.example") }, 403, "browser"},
		"a form":          {func(q *http.Request) { q.Header.Set("Content-Type", "text/plain") }, 415, "content_type"},
		"a long body":     {func(q *http.Request) { setBody(q, strings.Repeat(" ", maxBody+1)) }, 413, "body_too_long"},
		"not UTF-8":       {func(q *http.Request) { setBody(q, "\"\xff\"") }, 400, "body"},
		"a forward proxy": {func(q *http.Request) { q.URL.Opaque = "http://wallet.example/op/quotes" }, 403, "not_loopback"},
	} {
		t.Run(name, func(t *testing.T) {
			req := r.request("POST", "/incoming-payments", r.invoice())
			c.change(req)
			r.checkFailure(r.do(req), c.status, c.code)
		})
	}
	if len(r.calls) != 0 || r.sent() != 0 {
		t.Errorf("%q asked of the engine, %d sent", r.calls, r.sent())
	}
	r.checkFailure(r.send("GET", "/auth", ""), http.StatusNotFound, "no_such_path")
	for _, path := range []string{"/quotes/1", "/incoming-payments/../../auth/token/1", "/incoming-payments/%2e%2e/quotes"} {
		r.checkFailure(r.send("GET", path, ""), http.StatusBadRequest, "not_signed")
	}
	r.checkFailure(r.send("DELETE", "/incoming-payments/1", ""), http.StatusBadRequest, "not_signed")
	r.checkFailure(r.send("POST", "/incoming-payments", `{"walletAddress":1,"walletAddress":2}`), http.StatusBadRequest, "not_signed")
	if r.sent() != 0 {
		t.Errorf("%d sent", r.sent())
	}
}

func setBody(q *http.Request, body string) {
	q.Body, q.ContentLength, q.GetBody = io.NopCloser(strings.NewReader(body)), int64(len(body)), nil
}

// A caller who hangs up while there is no token yet is not sent for; the rotation goes on, and the
// next one has its token.
func TestCallerGoneBeforeTheToken(t *testing.T) {
	for _, word := range []string{"token", "sign"} {
		t.Run(word, func(t *testing.T) {
			r := startRig(t)
			release := r.holdBack(word)
			defer release()
			ctx, hangUp := context.WithCancel(t.Context())
			gone := make(chan error)
			go func() {
				_, err := direct.Do(r.request("POST", "/incoming-payments", r.invoice()).WithContext(ctx))
				gone <- err
			}()
			r.eventually("the request to the engine", func() bool { return r.called(word+"/shop-income") == 1 })
			hangUp()
			if err := <-gone; !errors.Is(err, context.Canceled) {
				t.Errorf("%v", err)
			}
			r.eventually("the log line", func() bool { return strings.Contains(r.log.String(), "caller_gone") })
			release()
			r.check(r.create(), http.StatusCreated)
			if r.sent() != 1 || r.called("token/shop-income") != 1 {
				t.Errorf("%d requests sent, %d tokens read", r.sent(), r.called("token/shop-income"))
			}
		})
	}
}

// A caller who hangs up once the request is out changes nothing: it is finished, and the log says how.
func TestCallerGoneAfterTheRequest(t *testing.T) {
	r := startRig(t)
	arrived, proceed := make(chan struct{}), make(chan struct{})
	r.wrap = func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if strings.HasPrefix(req.URL.Path, "/op/") {
				close(arrived)
				<-proceed
			}
			next.ServeHTTP(w, req)
		})
	}
	ctx, hangUp := context.WithCancel(t.Context())
	gone := make(chan error)
	go func() {
		_, err := direct.Do(r.request("POST", "/incoming-payments", r.invoice()).WithContext(ctx))
		gone <- err
	}()
	<-arrived
	hangUp()
	<-gone
	r.eventually("the proxy's notice of it", func() bool { return r.inFlight() == "1" })
	close(proceed)
	line := regexp.MustCompile(`method=POST path=/incoming-payments grant=shop-income status=201 took=\S+ caller="hung up"`)
	r.eventually("the outcome in the log", func() bool { return line.MatchString(r.log.String()) })
}

// inFlight returns the value of the gauge.
func (r *rig) inFlight() string {
	return r.metric("open_payments_proxy_requests_in_flight")
}

// metric returns the value of a metric, whose name is followed by its labels.
func (r *rig) metric(name string) string {
	r.Helper()
	for line := range strings.Lines(r.probe("/metrics", http.StatusOK)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func (r *rig) probe(path string, status int) string {
	r.Helper()
	resp, err := direct.Get(r.adminAt + path)
	if err != nil {
		r.Fatal(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != status {
		r.Errorf("%s: %d %s, want %d", path, resp.StatusCode, text, status)
	}
	return string(text)
}

// Who does not get a token or a signature in time is told to come again, and nothing is sent; the
// rotation goes on.
func TestWait(t *testing.T) {
	for _, word := range []string{"token", "sign"} {
		t.Run(word, func(t *testing.T) {
			r := startRig(t, func(o *options) { o.wait = 200 * time.Millisecond })
			if word == "sign" { // so that the token is there in time
				r.eventually("a token", func() bool { return r.create().StatusCode == http.StatusCreated })
			}
			sent := r.sent()
			release := r.holdBack(word)
			defer release()
			r.checkFailure(r.create(), http.StatusServiceUnavailable, "no_token_yet")
			if r.sent() != sent {
				t.Errorf("%d requests were sent", r.sent()-sent)
			}
			release()
			r.eventually("a payment", func() bool { return r.create().StatusCode == http.StatusCreated })
			if n := r.called("token/shop-income"); n != 1 {
				t.Errorf("%d tokens read", n)
			}
		})
	}
}

// After the first byte the outcome is unknown unless there is an answer, and nothing is sent twice.
func TestOutcomeUnknown(t *testing.T) {
	for name, fault := range map[string]sandbox.Misbehaviour{
		"no answer":           {Drop: true},
		"a reset":             {Reset: true, After: true},
		"a reset before work": {Reset: true},
		"half an answer":      {Wire: sandbox.WireCut},
		"silence":             {Silent: true, After: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := startRig(t, func(o *options) {
				if fault.Silent { // the only one that is waited for
					o.answer = 2 * time.Second
				}
			})
			r.check(r.create(), http.StatusCreated) // so that there is a connection to reuse
			fault.On = []string{"resource"}
			r.wallet.Misbehave(fault)
			r.checkFailure(r.create(), http.StatusGatewayTimeout, codeUnknown)
			if r.sent() != 2 {
				t.Errorf("the wallet received %d requests", r.sent())
			}
			r.wallet.Misbehave()
			r.check(r.create(), http.StatusCreated)
			if got := r.metric(`open_payments_proxy_requests_total{error="outcome_unknown",grant="shop-income",status="504"}`); got != "1" {
				t.Errorf("outcome_unknown is counted %s times", got)
			}
		})
	}
}

// A token that is dead at the wallet, or that another reader has replaced, is replaced once, and the
// request is sent again: it has done nothing.
func TestRepetition(t *testing.T) {
	r := startRig(t)
	r.check(r.create(), http.StatusCreated)
	r.wallet.Misbehave(sandbox.Misbehaviour{On: []string{"resource"}, Status: http.StatusForbidden, Times: 1})
	r.check(r.create(), http.StatusCreated)
	if r.sent() != 3 || r.called("token/shop-income") != 2 {
		t.Errorf("%d sent, %d tokens read", r.sent(), r.called("token/shop-income"))
	}
	r.wallet.Misbehave(sandbox.Misbehaviour{On: []string{"resource"}, Status: http.StatusForbidden})
	refused := r.check(r.create(), http.StatusForbidden)
	if refused.Header.Get("Proxy-Status") != "" {
		t.Error("the wallet's own refusal has a Proxy-Status")
	}
	if r.sent() != 5 {
		t.Errorf("%d sent", r.sent())
	}
	r.wallet.Misbehave()

	r.write("rotate/shop-income", nil) // as another reader does
	r.check(r.create(), http.StatusCreated)
	if got := r.metric(`open_payments_proxy_token_replaced_total{grant="shop-income"}`); got != "1" {
		t.Errorf("a replaced token is counted %s times", got)
	}
	if n := strings.Count(r.log.String(), "another reader"); n != 1 {
		t.Errorf("%d lines about another reader", n)
	}
}

// A role gives the proxy a grant of its own, which ends with it.
func TestRole(t *testing.T) {
	r := newRig(t)
	r.write("roles/till", map[string]any{"wallet_address": r.wallet.WalletAddress("shop"),
		"access": `[{"type":"incoming-payment","actions":["create"]}]`})
	grants := len(r.wallet.OpenGrants())
	r.start(func(o *options) { o.roles = names{"till"} })
	for range 3 {
		req := r.request("POST", "/incoming-payments", r.invoice())
		req.Header.Set("Authorization", "GNAP till."+callerSecret)
		r.check(r.do(req), http.StatusCreated)
	}
	if r.called("creds/till") != 1 || r.called("creds/till/sign") != 3 || len(r.wallet.OpenGrants()) != grants+1 {
		t.Errorf("the engine was asked for %q", r.calls)
	}
	r.check(r.create(), http.StatusCreated) // the grant beside it
	r.stop()
	<-r.done
	close(r.done)
	if n := len(r.wallet.OpenGrants()); n != grants {
		t.Errorf("%d grants are left, %d before", n, grants)
	}
}

// A caller who hangs up after the wallet has refused the token is not sent for again: nothing has
// been done, and nobody waits for it.
func TestCallerGoneBeforeTheRepetition(t *testing.T) {
	r := startRig(t)
	r.check(r.create(), http.StatusCreated)
	r.wallet.Misbehave(sandbox.Misbehaviour{On: []string{"resource"}, Status: http.StatusForbidden, Times: 1})
	release := r.holdBack("token")
	defer release()
	ctx, hangUp := context.WithCancel(t.Context())
	gone := make(chan error)
	go func() {
		_, err := direct.Do(r.request("POST", "/incoming-payments", r.invoice()).WithContext(ctx))
		gone <- err
	}()
	r.eventually("the second read", func() bool { return r.called("token/shop-income") == 2 })
	hangUp()
	<-gone
	r.eventually("the log line", func() bool { return strings.Contains(r.log.String(), "caller_gone") })
	if r.sent() != 2 {
		t.Errorf("the wallet received %d requests", r.sent())
	}
	release()
	r.check(r.create(), http.StatusCreated)
}

// Nothing is sent to a wallet that cannot be reached.
func TestWalletUnreachable(t *testing.T) {
	r := newRig(t)
	r.write("grants/shop-income", map[string]any{"on_revoke": "keep"}) // the server will not be there to rotate it
	r.start()
	r.check(r.create(), http.StatusCreated)
	r.wallet.Close()
	r.eventually("the end of the idle connection", func() bool { return r.create().StatusCode == http.StatusBadGateway })
	r.checkFailure(r.create(), http.StatusBadGateway, "wallet_unreachable")
}

// What Vault refuses is never passed on as such: the caller would take a 403 for one of the wallet's.
func TestVaultRefuses(t *testing.T) {
	r := startRig(t)
	for name, c := range map[string]struct {
		status int
		code   string
	}{
		"the proxy's token": {http.StatusForbidden, "vault_refused"},
		"sealed":            {http.StatusServiceUnavailable, "vault_unavailable"},
		"broken":            {http.StatusInternalServerError, "vault_refused"},
	} {
		for _, before := range []string{"the token", "the signature"} {
			t.Run(name+", before "+before, func(t *testing.T) {
				r := startRig(t)
				if before == "the signature" {
					r.check(r.create(), http.StatusCreated)
				}
				sent := r.sent()
				r.set(func() { r.refuse = func(string) int { return c.status } })
				r.checkFailure(r.create(), http.StatusServiceUnavailable, c.code)
				if r.sent() != sent {
					t.Error("a request was sent")
				}
				r.set(func() { r.refuse = nil })
			})
		}
	}
	r.set(func() {
		r.fault = func(path string) (*logical.Response, error) {
			if path == "token/shop-income" {
				return logical.ErrorResponse("the grant is lost"), nil
			}
			return nil, nil
		}
	})
	r.checkFailure(r.create(), http.StatusServiceUnavailable, "vault_refused")
	r.set(func() { r.fault = nil })

	other := startRig(t)
	other.vault.Close()
	other.checkFailure(other.create(), http.StatusServiceUnavailable, "vault_unreachable")
}

// A client that takes the address of the resource server from the wallet's document gets the proxy's.
func TestWalletDocument(t *testing.T) {
	r := startRig(t)
	get := func(path string) answer {
		req := r.request("GET", path, "")
		req.Header.Del("Authorization")
		return r.do(req)
	}
	direct := r.check(get("/shop"), http.StatusOK)
	var document map[string]any
	if err := json.Unmarshal([]byte(direct.text), &document); err != nil {
		t.Fatal(err)
	}
	if document["resourceServer"] != r.url || document["id"] != r.wallet.WalletAddress("shop") ||
		document["authServer"] != r.wallet.AuthServer() || document["assetCode"] != "USD" || fmt.Sprint(document["assetScale"]) != "2" {
		t.Errorf("the document is %s", direct.text)
	}
	for _, path := range []string{"/alice", "/shop/jwks.json", "/incoming-payments/1"} {
		r.checkFailure(get(path), http.StatusUnauthorized, "caller")
	}
	r.wallet.Misbehave(sandbox.Misbehaviour{On: []string{"wallet"}, NotJSON: true})
	r.checkFailure(get("/shop"), http.StatusBadGateway, "wallet_unreachable")
}

func TestProbes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "vault-token")
	r := startRig(t, func(o *options) { o.tokenFile = file })
	r.probe("/healthz", http.StatusOK)
	if said := r.probe("/readyz", http.StatusServiceUnavailable); !strings.Contains(said, "no Vault token yet") {
		t.Error(said)
	}
	if err := os.WriteFile(file, []byte(vaultToken+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.probe("/readyz", http.StatusOK)
	r.probe("/healthz", http.StatusOK)
	if len(r.calls) != 0 || r.sent() != 0 {
		t.Errorf("a probe asks for %q and sends %d", r.calls, r.sent())
	}
	if strings.Contains(r.probe("/metrics", http.StatusOK), callerSecret) {
		t.Error("a metric contains the secret")
	}
	r.vault.Close()
	r.probe("/readyz", http.StatusOK) // it has answered just now
}

// A sealed Vault, or none, makes the proxy unready. A restart makes that known at once.
func TestUnreadyWithoutVault(t *testing.T) {
	sealed := startRig(t)
	sealed.set(func() { sealed.refuse = func(string) int { return http.StatusServiceUnavailable } })
	sealed.probe("/readyz", http.StatusServiceUnavailable)
	gone := startRig(t)
	gone.vault.Close()
	gone.probe("/readyz", http.StatusServiceUnavailable)
}

// The token's file is replaced and the old token refused, over and over, under load: no request is
// finally refused.
func TestVaultTokenFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "vault-token")
	replace := func(token string) {
		next := file + ".next"
		if err := os.WriteFile(next, []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, file); err != nil {
			t.Fatal(err)
		}
	}
	replace("token-0")
	r := startRig(t, func(o *options) { o.tokenFile = file })
	good := map[string]bool{"token-0": true}
	r.set(func() {
		r.refuse = func(token string) int {
			if !good[token] {
				return http.StatusForbidden
			}
			return 0
		}
	})
	var callers sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		callers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					r.check(r.create(), http.StatusCreated)
				}
			}
		})
	}
	for i := 1; i <= 30; i++ {
		sent := r.sent()
		r.eventually("requests", func() bool { return r.sent() > sent+2 || t.Failed() })
		old, next := fmt.Sprintf("token-%d", i-1), fmt.Sprintf("token-%d", i)
		r.set(func() { good[next] = true })
		replace(next)
		r.set(func() { delete(good, old) })
	}
	close(stop)
	callers.Wait()
	r.check(r.create(), http.StatusCreated)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	r.check(r.create(), http.StatusCreated) // the token that was read last stays in use
}

// A Vault token is revoked while a request with it is on its way: the request is sent again with the
// one that is in the file by then, though the file looks as old as before.
func TestVaultTokenRevokedInFlight(t *testing.T) {
	file := filepath.Join(t.TempDir(), "vault-token")
	write := func(token string) {
		if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
			t.Error(err)
		}
	}
	write("token-0")
	r := startRig(t, func(o *options) { o.tokenFile = file })
	r.check(r.create(), http.StatusCreated)
	r.set(func() {
		r.refuse = func(token string) int {
			if token == "token-0" {
				write("token-1")
				return http.StatusForbidden
			}
			return 0
		}
	})
	r.check(r.create(), http.StatusCreated)
}

// Stopping lets a request in progress finish, accepts no other, and revokes the leases.
func TestStop(t *testing.T) {
	r := startRig(t)
	r.check(r.create(), http.StatusCreated)
	rotations := r.wallet.Count("rotate")
	arrived, proceed := make(chan struct{}), make(chan struct{})
	r.set(func() {
		r.wrap = func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				if strings.HasPrefix(req.URL.Path, "/op/") {
					close(arrived)
					<-proceed
				}
				next.ServeHTTP(w, req)
			})
		}
	})
	got := make(chan answer)
	go func() { got <- r.create() }()
	<-arrived
	r.stop()
	r.eventually("the end of listening", func() bool {
		connection, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
		if err == nil {
			connection.Close()
		}
		return err != nil
	})
	r.probe("/readyz", http.StatusServiceUnavailable)
	r.probe("/healthz", http.StatusOK)
	close(proceed)
	r.check(<-got, http.StatusCreated)
	if err := <-r.done; err != nil {
		t.Errorf("serve: %v", err)
	}
	close(r.done)
	if n := r.wallet.Count("rotate") - rotations; n != 1 {
		t.Errorf("%d rotations: the token that was in use is not made worthless", n)
	}
}

// A unix socket needs no secret, belongs to its user alone, and is removed by its maker only.
func TestSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pay.sock")
	r := startRig(t, func(o *options) { o.listen, o.callerFile = unixPrefix+path, "" })
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if _, err := listen(unixPrefix + path); err == nil {
		t.Error("a second proxy takes the socket")
	}
	throughSocket := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		},
	}}
	defer throughSocket.CloseIdleConnections()
	resp, err := throughSocket.Post("http://localhost/incoming-payments", "application/json", strings.NewReader(r.invoice()))
	if err != nil || resp.StatusCode != http.StatusCreated {
		t.Errorf("%v, %v", resp, err)
	}
	resp, err = throughSocket.Get("http://localhost/shop")
	if err != nil {
		t.Fatal(err)
	}
	if text, _ := io.ReadAll(resp.Body); !strings.Contains(string(text), `"resourceServer":"http://localhost"`) {
		t.Errorf("the document is %s", text)
	}
	r.stop()
	<-r.done
	close(r.done)
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left behind: %v", err)
	}

	listener, err := listen(unixPrefix + path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil { // another's
		t.Fatal(err)
	}
	listener.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("another's file is removed: %v", err)
	}
}

// Another reader of the grant is logged at most once a minute.
func TestNotices(t *testing.T) {
	r := startRig(t)
	at := time.Now()
	p := &proxy{metrics: newMetrics(prometheus.NewRegistry()), log: hclog.New(&hclog.LoggerOptions{Output: r.log}), now: func() time.Time { return at }}
	tell := p.tellReplaced("rent")
	for range 3*60 + 1 {
		tell()
		at = at.Add(time.Second)
	}
	if n := strings.Count(r.log.String(), "another reader"); n != 4 {
		t.Errorf("%d lines in three minutes", n)
	}
	if !strings.Contains(r.log.String(), "grant=rent times=60") {
		t.Errorf("the lines do not say how often:\n%s", r.log.String())
	}
}

// Wrong usage and failures have exit statuses of their own.
func TestExitStatus(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	secret := filepath.Join(t.TempDir(), "caller")
	t.Setenv("VAULT_ADDR", "http://127.0.0.1:1")
	t.Setenv("VAULT_TOKEN", vaultToken)
	for line, want := range map[string]struct {
		status int
		says   string
	}{
		"-version": {statusDone, "open-payments-proxy "},
		"-help":    {statusDone, "Usage: open-payments-proxy"},
		"-grant a": {statusUsage, "-caller-file: is required"},
		"-grant a -admin none -caller-file " + secret + " -listen " + taken.Addr().String():                        {statusFailed, "address already in use"},
		"-grant a -listen 127.0.0.1:0 -caller-file " + secret + " -admin " + taken.Addr().String():                 {statusFailed, "-admin"},
		"-grant a -listen 127.0.0.1:0 -admin none -caller-file " + filepath.Dir(secret):                            {statusFailed, "-caller-file"},
		"-grant a -listen 127.0.0.1:0 -admin none -caller-file " + secret + " -token-file " + filepath.Dir(secret): {statusFailed, "-token-file"},
	} {
		var out vaulttest.Output
		status := run(t.Context(), strings.Fields(line), func(string) string { return "" }, &out, &out)
		if status != want.status || !strings.Contains(out.String(), want.says) || strings.Contains(out.String(), vaultToken) {
			t.Errorf("%s: %d\n%s", line, status, out.String())
		}
	}
}
