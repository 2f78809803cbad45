// SPDX-License-Identifier: MPL-2.0

package client_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/client"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/vaulttest"
)

// newVault returns an API client that does not retry.
func newVault(address string, transport http.RoundTripper) *api.Client {
	config := api.DefaultConfig() // reads the environment of the test, which may point anywhere
	config.Address, config.AgentAddress, config.MaxRetries = address, "", 0
	config.HttpClient = &http.Client{Transport: transport}
	vault, err := api.NewClient(config)
	if err != nil {
		panic(err)
	}
	vault.ClearNamespace()
	vault.SetToken("a Vault token")
	return vault
}

// inProcess sends requests to a handler without a network, so that a test can run in synctest's
// fake time.
type inProcess struct{ http.Handler }

func (p inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	received := r.Clone(r.Context())
	received.Body = http.NoBody
	if r.Body != nil {
		body, err := io.ReadAll(r.Body)
		_ = r.Body.Close()
		if err != nil {
			return nil, err
		}
		received.Body = io.NopCloser(bytes.NewReader(body))
	}
	answer := make(chan *http.Response, 1)
	go func() {
		w := httptest.NewRecorder()
		p.ServeHTTP(w, received)
		answer <- w.Result()
	}()
	select {
	case resp := <-answer:
		resp.Request = r
		return resp, nil
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

const (
	resourceServer = "https://wallet.example/op"
	payments       = resourceServer + "/incoming-payments"
	lifetime       = 600 * time.Second
	leaseTime      = lifetime - 5*time.Second
)

// world is a fake: a secrets engine with one grant behind Vault's API, and the resource server that
// accepts its tokens. It behaves as the engine is documented to; test/e2e uses the real ones.
type world struct {
	*testing.T
	vault    *api.Client
	client   *client.Client
	requests []*http.Request // that the resource server received; their bodies have been read
	bodies   []string

	mu         sync.Mutex
	generation int
	dead       bool     // the token is dead at the resource server, which Vault does not know
	shut       bool     // the resource server returns 403 for every token
	fixed      bool     // leases are not renewable
	shared     bool     // reads do not rotate, and leases are not renewable
	role       bool     // leases are a role's
	noTicket   bool     // the engine does not sign for roles
	badTicket  bool     // the ticket of the present token is not accepted
	batches    []int    // how many requests each call of op/sign had: 0 for a call that was no batch
	noResults  bool     // batches are answered with nothing
	batchFault error    // of every call with batch_input
	signed     []string // the URLs that op/sign was asked for, in order
	counts     map[string]int
	fault      map[string]error         // by operation
	hang       map[string]chan struct{} // by operation: its response is held until this is closed
}

// inWorld runs a test in synctest's fake time.
func inWorld(t *testing.T, test func(*world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		test(w)
		if err := w.client.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

func newWorld(t *testing.T) *world {
	w := &world{T: t, counts: map[string]int{}, fault: map[string]error{}, hang: map[string]chan struct{}{}}
	server := &vaulttest.API{Engine: w.engine}
	w.vault = newVault("http://vault.example", inProcess{server})
	w.client = w.newClient(inProcess{http.HandlerFunc(w.resource)})
	return w
}

func (w *world) newClient(base http.RoundTripper) *client.Client {
	w.Helper()
	c, err := client.New(w.vault, client.Options{Grant: "shop-income", Base: base})
	if err != nil {
		w.Fatal(err)
	}
	return c
}

// useRole makes the client that of a role.
func (w *world) useRole() {
	w.Helper()
	c, err := client.New(w.vault, client.Options{Role: "till", Base: inProcess{http.HandlerFunc(w.resource)}})
	if err != nil {
		w.Fatal(err)
	}
	w.role, w.client = true, c
}

func (w *world) token() string { return fmt.Sprintf("TokenSecret%d", w.generation) }

func (w *world) ticket() string { return fmt.Sprintf("TicketSecret%d", w.generation) }

// engine handles a request of Vault's, and holds its response if the test wants it to.
func (w *world) engine(ctx context.Context, req *logical.Request) (*logical.Response, error) {
	operation := string(req.Operation)
	if req.Operation == logical.UpdateOperation {
		operation = "sign"
	}
	resp, err := w.handle(operation, req)
	w.mu.Lock()
	hang := w.hang[operation]
	w.mu.Unlock()
	if hang != nil {
		select {
		case <-hang:
		case <-ctx.Done():
			w.set(func() { w.counts["cancelled "+operation]++ })
		}
	}
	return resp, err
}

func (w *world) handle(operation string, req *logical.Request) (*logical.Response, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts[operation]++
	if err := w.fault[operation]; err != nil {
		return nil, err
	}
	paths := map[string]string{"read": "token/shop-income", "sign": "sign/shop-income"}
	if w.role {
		paths = map[string]string{"read": "creds/till", "sign": "creds/till/sign"}
	}
	if want := paths[operation]; want != req.Path && want != "" {
		return nil, fmt.Errorf("%s of %s, want %s", operation, req.Path, want)
	}
	switch operation {
	case "read":
		if !w.shared || w.generation == 0 {
			w.rotate()
		}
		return w.issueToken(), nil
	case "renew":
		if req.Secret.InternalData["generation"] != w.generation {
			return nil, errors.New("superseded: another reader or a rotation got a newer token")
		}
		w.rotate()
		return w.issueToken(), nil
	case "revoke":
		if req.Secret.InternalData["generation"] == w.generation {
			w.rotate()
		}
		return &logical.Response{}, nil
	default:
		return w.signAll(req.Data)
	}
}

// signAll signs a request, or a batch, whose list is JSON text.
func (w *world) signAll(data map[string]any) (*logical.Response, error) {
	text, isBatch := data["batch_input"].(string)
	if !isBatch {
		w.batches, w.signed = append(w.batches, 0), append(w.signed, fmt.Sprint(data["url"]))
		if strings.HasSuffix(fmt.Sprint(data["url"]), "/broken") {
			return nil, logical.CodedError(http.StatusInternalServerError, "the request could not be signed")
		}
		return w.sign(data), nil
	}
	if w.batchFault != nil {
		return nil, w.batchFault
	}
	if w.noResults {
		return &logical.Response{Data: map[string]any{"batch_results": []any{}}}, nil
	}
	var items []map[string]any
	check(json.Unmarshal([]byte(text), &items))
	if len(items) > 250 || len(text) > 512<<10 {
		return logical.ErrorResponse("batch_input: must be a JSON list of requests"), nil
	}
	w.batches = append(w.batches, len(items))
	results := []any{}
	for _, item := range items {
		for _, name := range []string{"access_token", "signing_ticket"} {
			if item[name] == nil && data[name] != nil {
				item[name] = data[name]
			}
		}
		w.signed = append(w.signed, fmt.Sprint(item["url"]))
		result := w.sign(item)
		switch {
		case strings.HasSuffix(fmt.Sprint(item["url"]), "/broken"):
			result.Data = map[string]any{"error": "the request could not be signed"}
		case result.IsError():
			result.Data = map[string]any{"error": result.Error().Error()}
		}
		results = append(results, result.Data)
	}
	return &logical.Response{Data: map[string]any{"batch_results": results}}, nil
}

// rotate issues a new token, which kills the previous one.
func (w *world) rotate() { w.generation, w.dead, w.badTicket = w.generation+1, false, false }

func (w *world) issueToken() *logical.Response {
	resp := &logical.Response{
		Data: map[string]any{
			"access_token": w.token(), "authorization": "GNAP " + w.token(), "generation": w.generation,
			"expires_at":      time.Now().Add(lifetime).UTC().Format(time.RFC3339),
			"resource_server": resourceServer, "wallet_address": "https://wallet.example/shop",
		},
		Secret: &logical.Secret{
			LeaseOptions: logical.LeaseOptions{TTL: leaseTime, Renewable: !w.fixed && !w.shared},
			InternalData: map[string]any{"generation": w.generation},
		},
	}
	if w.role && !w.noTicket {
		resp.Data["signing_ticket"] = w.ticket()
	}
	return resp
}

func (w *world) sign(data map[string]any) *logical.Response {
	url, _ := data["url"].(string)
	switch {
	case data["access_token"] != w.token():
		return logical.ErrorResponse("access_token: is not the grant's current one; read the token again")
	case w.role && (w.badTicket || data["signing_ticket"] != w.ticket()):
		return logical.ErrorResponse("signing_ticket: is not the one that was returned with this access_token")
	case !w.role && data["signing_ticket"] != nil:
		return logical.ErrorResponse("unknown field")
	case !strings.HasPrefix(url, resourceServer+"/") || strings.Contains(url, "/unknown"):
		return logical.ErrorResponse("url: is not one of the resource server's operations")
	}
	headers := map[string]string{
		"Authorization":   "GNAP " + w.token(),
		"Signature-Input": "sig1=(by Vault)", "Signature": fmt.Sprintf("sig1=:%s %s:", data["method"], url),
	}
	signed := map[string]any{"headers": headers}
	if body, _ := data["body"].(string); body != "" {
		var compact bytes.Buffer
		if err := json.Compact(&compact, []byte(body)); err != nil {
			return logical.ErrorResponse("body: must be JSON text")
		}
		signed["body"] = compact.String()
		headers["Content-Type"], headers["Content-Length"] = "application/json", fmt.Sprint(compact.Len())
		headers["Content-Digest"] = "sha-512=:by Vault:"
	}
	return &logical.Response{Data: signed}
}

// resource is the resource server's handler. It creates whatever is requested with a live token.
func (w *world) resource(rw http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.requests, w.bodies = append(w.requests, r), append(w.bodies, string(body))
	switch {
	case w.shut || w.dead || r.Header.Get("Authorization") != "GNAP "+w.token():
		rw.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(rw, "Inactive Token")
	default:
		rw.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(rw, "created")
	}
}

// set runs change under the world's lock.
func (w *world) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

// checkCounts checks the total numbers of reads and renewals.
func (w *world) checkCounts(reads, renewals int) {
	w.Helper()
	if w.count("read") != reads || w.count("renew") != renewals {
		w.Errorf("%d reads and %d renewals, want %d and %d", w.count("read"), w.count("renew"), reads, renewals)
	}
}

func (w *world) count(operation string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.counts[operation]
}

// checkLive gets the token, checks that it is the live one, and returns how long that took.
func (w *world) checkLive() time.Duration {
	w.Helper()
	begun := time.Now()
	token, err := w.client.Token(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if token.Value != w.token() || token.Generation != w.generation {
		w.Errorf("the token of generation %d, not %d", token.Generation, w.generation)
	}
	return time.Since(begun)
}

func (w *world) request(method, url, body string) *http.Request {
	w.Helper()
	req, err := http.NewRequestWithContext(w.Context(), method, url, strings.NewReader(body))
	if err != nil {
		w.Fatal(err)
	}
	return req
}

// createPayment sends a POST, and checks that the response has a body and this status.
func (w *world) createPayment(status int) {
	w.Helper()
	w.checkResponse(status, w.request("POST", payments, `{ "walletAddress": "https://wallet.example/shop" }`))
}

func (w *world) checkResponse(status int, req *http.Request) {
	w.Helper()
	resp, err := w.client.RoundTrip(req)
	if err != nil {
		w.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		w.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != status || len(body) == 0 {
		w.Errorf("%s %s: %d %s, want %d", req.Method, req.URL, resp.StatusCode, body, status)
	}
}

// checkError checks that an error contains the words, and no secret.
func (w *world) checkError(err error, words ...string) {
	w.Helper()
	if err == nil {
		w.Error("no error")
		return
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			w.Errorf("%q does not say %q", err, word)
		}
	}
	if text := fmt.Sprintf("%v %+v %#v", err, err, err); strings.Contains(text, "Secret") {
		w.Error("an error contains a token or a lease id")
	}
}
