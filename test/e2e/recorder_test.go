// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"bytes"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// exchange is a request to Vault's API, and its response.
type exchange struct {
	method, path string
	status       int
	body         []byte
}

// recorder lies between a Vault server and whoever uses its API, and records what passes.
type recorder struct {
	mu        sync.Mutex
	exchanges []exchange
}

// recordAPI has everything that the engine's tests send to Vault pass through a recorder.
func (e *engine) recordAPI() *recorder {
	e.t.Helper()
	to, err := url.Parse(e.Address)
	if err != nil {
		e.t.Fatal(err)
	}
	r := &recorder{}
	proxy := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite:        func(p *httputil.ProxyRequest) { p.SetURL(to) },
		ModifyResponse: r.record,
		ErrorLog:       log.New(io.Discard, "", 0), // a caller hangs up
	})
	e.t.Cleanup(proxy.Close)
	e.Address = proxy.URL
	e.vault = e.Client(e.RootToken)
	return r
}

func (r *recorder) record(response *http.Response) error {
	body, err := io.ReadAll(response.Body)
	response.Body = io.NopCloser(bytes.NewReader(body))
	request := response.Request
	one := exchange{request.Method, strings.TrimPrefix(request.URL.Path, "/v1/"), response.StatusCode, body}
	if request.URL.Query().Get("list") == "true" {
		one.method = "LIST"
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.exchanges = append(r.exchanges, one)
	return err
}

func (r *recorder) all() []exchange {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.exchanges)
}

const signingTicket = "a signing ticket"

// tickets returns the signing tickets in all responses.
func (r *recorder) tickets() (tickets []string) {
	for _, x := range r.all() {
		var body struct {
			Data struct {
				Ticket string `json:"signing_ticket"`
			}
		}
		if json.Unmarshal(x.body, &body) == nil && body.Data.Ticket != "" {
			tickets = append(tickets, body.Data.Ticket)
		}
	}
	return tickets
}

// Paths whose successful responses hand out a secret, and where in the data it is.
var (
	handsOutToken = regexp.MustCompile(`^(GET op/(token(/[^/]+)?|creds/[^/]+)|(PUT|POST) sys/leases/renew)$`)
	signsRequest  = regexp.MustCompile(`^(PUT|POST) op/(sign/[^/]+|creds/[^/]+/sign)$`)
	describes     = regexp.MustCompile(`^(GET|PUT|POST|PATCH) op/grants/[^/]+(/continue)?$`)
)

// withoutHandOuts returns a response's body without the values that it is there to hand out: the token
// and the ticket of a read or renewal, the Authorization of a signed request, and the URL that a grant's owner opens.
// Only a token of the sandbox's and a ticket are taken out.
func (x exchange) withoutHandOuts(isHandedOut func(string) bool) []byte {
	var body map[string]any
	if x.status != http.StatusOK || json.Unmarshal(x.body, &body) != nil {
		return x.body
	}
	data, _ := body["data"].(map[string]any)
	request := x.method + " " + x.path
	takeOut := func(from map[string]any, member, scheme string) {
		value, _ := from[member].(string)
		if token, found := strings.CutPrefix(value, scheme); found && isHandedOut(token) {
			delete(from, member)
		}
	}
	switch {
	case handsOutToken.MatchString(request):
		takeOut(data, "access_token", "")
		takeOut(data, "authorization", "GNAP ")
		takeOut(data, "signing_ticket", "")
	case signsRequest.MatchString(request):
		batch, _ := data["batch_results"].([]any)
		for _, signed := range append(batch, data) {
			signed, _ := signed.(map[string]any)
			headers, _ := signed["headers"].(map[string]any)
			takeOut(headers, "Authorization", "GNAP ")
		}
	case describes.MatchString(request):
		delete(data, "interact_url")
	default:
		return x.body
	}
	rest, err := json.Marshal(body)
	if err != nil {
		return x.body
	}
	return rest
}
