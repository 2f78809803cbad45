// SPDX-License-Identifier: MPL-2.0

package sandbox_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// payment is an incoming payment or a list of them.
type payment struct {
	ID             string            `json:"id"`
	WalletAddress  string            `json:"walletAddress"`
	Completed      *bool             `json:"completed"`
	IncomingAmount json.RawMessage   `json:"incomingAmount"`
	ReceivedAmount json.RawMessage   `json:"receivedAmount"`
	Metadata       json.RawMessage   `json:"metadata"`
	ExpiresAt      string            `json:"expiresAt"`
	CreatedAt      string            `json:"createdAt"`
	Methods        []json.RawMessage `json:"methods"`
	AuthServer     string            `json:"authServer"`
	Pagination     struct {
		StartCursor, EndCursor       string
		HasNextPage, HasPreviousPage bool
	} `json:"pagination"`
	Result []payment `json:"result"`
}

func (w *world) payment(r reply, status int) payment {
	w.t.Helper()
	var p payment
	if r.status != status {
		w.t.Fatalf("got %s, want %d", r, status)
	}
	if err := json.Unmarshal([]byte(r.body), &p); err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (w *world) create(token, body string) ask {
	return ask{method: "POST", url: w.ResourceServer() + "/incoming-payments", token: token, body: body}
}

func (w *world) list(token, more string) ask {
	query := "?wallet-address=" + url.QueryEscape(w.WalletAddress("alice")) + more
	return ask{method: "GET", url: w.ResourceServer() + "/incoming-payments" + query, token: token}
}

func (w *world) complete(token string, p payment) ask {
	return ask{method: "POST", url: p.ID + "/complete", token: token}
}

func (w *world) toAlice() string {
	return fmt.Sprintf(`{"walletAddress":%q}`, w.WalletAddress("alice"))
}

// grantOf gets a token with the named actions on alice's incoming payments.
func (w *world) grantOf(actions string) string {
	w.t.Helper()
	return w.tokenFor(w.right(actions))
}

// tokenFor gets a token with rights, to which alice agrees if she must.
func (w *world) tokenFor(access string) string {
	w.t.Helper()
	if strings.Contains(access, `-all"`) {
		return w.consented(access).AccessToken.Value
	}
	return w.decode(w.requestGrant(w.grantBody(access, ""))).AccessToken.Value
}

func TestIncomingPayment(t *testing.T) {
	w := newWorld(t)
	token := w.grantOf(`"create","read","complete"`)
	const amount, metadata = `{"value":"2500","assetCode":"USD","assetScale":2}`, `{"note":"a&b"}`
	body := fmt.Sprintf(`{"walletAddress":%q,"incomingAmount":%s,"expiresAt":"2026-08-01T14:00:00+01:00","metadata":%s}`,
		w.WalletAddress("alice"), amount, metadata)
	created := w.payment(w.ask(w.create(token, body)), http.StatusCreated)
	if !strings.HasPrefix(created.ID, w.ResourceServer()+"/incoming-payments/") || created.WalletAddress != w.WalletAddress("alice") ||
		string(created.IncomingAmount) != amount || string(created.Metadata) != metadata ||
		string(created.ReceivedAmount) != `{"value":"0","assetCode":"USD","assetScale":2}` ||
		created.ExpiresAt != "2026-08-01T13:00:00.000Z" || created.CreatedAt != "2026-08-01T12:00:00.000Z" ||
		created.Completed == nil || *created.Completed || len(created.Methods) != 1 {
		t.Error("the payment is not the one asked for")
	}
	read := w.payment(w.ask(ask{method: "GET", url: created.ID, token: token}), http.StatusOK)
	if read.ID != created.ID || len(read.Methods) != 1 {
		t.Error("another payment was read")
	}
	public := w.ask(ask{method: "GET", url: created.ID, unsigned: true})
	w.want(public, http.StatusOK,
		fmt.Sprintf(`{"receivedAmount":{"value":"0","assetCode":"USD","assetScale":2},"authServer":%q}`, w.AuthServer()))

	completed := w.payment(w.ask(w.complete(token, created)), http.StatusOK)
	if !*completed.Completed || completed.Methods != nil {
		t.Error("the payment is not completed, or has methods")
	}
	w.want(w.ask(w.complete(token, created)), http.StatusConflict, "")
	read = w.payment(w.ask(ask{method: "GET", url: created.ID, token: token}), http.StatusOK)
	if !*read.Completed || read.Methods == nil || len(read.Methods) != 0 {
		t.Error("a completed payment can be paid")
	}
}

func TestIncomingPaymentRefused(t *testing.T) {
	w := newWorld(t)
	g := w.decode(w.requestGrant(w.grantBody(`{"type":"incoming-payment","actions":["create"]}`, "")))
	alice := fmt.Sprintf(`"walletAddress":%q`, w.WalletAddress("alice"))
	for name, row := range map[string]struct {
		body   string
		status int
	}{
		"no wallet":      {`{}`, 400},
		"a list":         {`[]`, 400},
		"unknown member": {`{` + alice + `,"amount":1}`, 400},
		"other asset":    {`{` + alice + `,"incomingAmount":{"value":"1","assetCode":"EUR","assetScale":2}}`, 400},
		"other scale":    {`{` + alice + `,"incomingAmount":{"value":"1","assetCode":"USD","assetScale":3}}`, 400},
		"nothing to pay": {`{` + alice + `,"incomingAmount":{"value":"0","assetCode":"USD","assetScale":2}}`, 400},
		"expired":        {`{` + alice + `,"expiresAt":"2026-08-01T12:00:00Z"}`, 400},
		"no time":        {`{` + alice + `,"expiresAt":"tomorrow"}`, 400},
		"metadata":       {`{` + alice + `,"metadata":"note"}`, 400},
		"other wallet":   {fmt.Sprintf(`{"walletAddress":%q}`, w.URL()+"/bob"), 404},
		"elsewhere":      {`{"walletAddress":"https://wallet.example/alice"}`, 404},
	} {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			r := w.ask(w.create(g.AccessToken.Value, row.body))
			w.want(r, row.status, "")
			if !strings.HasPrefix(r.body, fmt.Sprintf(`{"error":{"code":"%d","description":"`, row.status)) {
				t.Errorf("got %s, want code and description", r)
			}
		})
	}
}

// Who may do what: all rows ask to create a payment, list, read and complete.
func TestResourceRights(t *testing.T) {
	const insufficient = "Insufficient Grant"
	w := newWorld(t)
	for name, row := range map[string]struct {
		access                       func(*world) string
		create, list, read, complete bool
	}{
		"create":   {func(w *world) string { return w.right(`"create"`) }, true, false, false, false},
		"list":     {func(w *world) string { return w.right(`"list"`) }, false, true, false, false},
		"list-all": {func(w *world) string { return w.right(`"list-all"`) }, false, true, false, false},
		"read":     {func(w *world) string { return w.right(`"read"`) }, false, false, true, false},
		"read-all": {func(w *world) string { return w.right(`"read-all"`) }, false, false, true, false},
		"complete": {func(w *world) string { return w.right(`"complete"`) }, false, false, false, true},
		"anybody": {func(*world) string {
			return `{"type":"incoming-payment","actions":["create","list","read","complete"]}`
		},
			true, true, true, true},
		"other type": {func(*world) string { return `{"type":"quote","actions":["create","read"]}` }, false, false, false, false},
		"other owner": {func(w *world) string {
			return strings.Replace(w.right(`"create","list","read","complete"`), "/alice", "/shop", 1)
		}, false, false, false, false},
		"other spelling": {func(w *world) string {
			return strings.Replace(w.right(`"create","list","read","complete"`), "/alice", "/alice/", 1)
		}, false, false, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			existing := w.payment(w.ask(w.create(w.grantOf(`"create"`), w.toAlice())), http.StatusCreated)
			token := w.tokenFor(row.access(w))
			for operation, r := range map[string]struct {
				ask     ask
				allowed bool
				status  int
			}{
				"create":   {w.create(token, w.toAlice()), row.create, 201},
				"list":     {w.list(token, ""), row.list, 200},
				"read":     {ask{method: "GET", url: existing.ID, token: token}, row.read, 200},
				"complete": {w.complete(token, existing), row.complete, 200},
			} {
				got := w.ask(r.ask)
				if r.allowed && got.status != r.status {
					t.Errorf("%s: got %s, want %d", operation, got, r.status)
				}
				if !r.allowed && (got.status != http.StatusForbidden || got.body != errorBody("403", insufficient)) {
					t.Errorf("%s: got %s, want 403 %s", operation, got, insufficient)
				}
			}
		})
	}
}

// Tokens that do not live are told apart from tokens without the right.
func TestInactiveTokens(t *testing.T) {
	w := newWorld(t)
	inactive := errorBody("403", "Inactive Token")
	kill := map[string]func(*world, granted){
		"rotated":   func(w *world, g granted) { w.decode(w.ask(w.rotate(g))) },
		"revoked":   func(w *world, g granted) { w.want(w.ask(w.revoke(g)), http.StatusNoContent, "") },
		"cancelled": func(w *world, g granted) { w.want(w.ask(w.cancel(g)), http.StatusNoContent, "") },
		"expired":   func(w *world, _ granted) { w.clock.pass(10 * time.Minute) },
	}
	for name, die := range kill {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			g := w.grant()
			p := w.payment(w.ask(w.create(g.AccessToken.Value, w.toAlice())), http.StatusCreated)
			die(w, g)
			token := g.AccessToken.Value
			w.want(w.ask(w.create(token, w.toAlice())), http.StatusForbidden, inactive)
			w.want(w.ask(w.list(token, "")), http.StatusForbidden, inactive)
			w.want(w.ask(ask{method: "GET", url: p.ID, token: token}), http.StatusForbidden, inactive)
			w.want(w.ask(w.complete(token, p)), http.StatusForbidden, inactive)
			// The token is looked at before the signature.
			w.want(w.ask(ask{method: "GET", url: p.ID, token: token, unsigned: true}), http.StatusForbidden, inactive)
		})
	}
	w.want(w.ask(w.list("unknown", "")), http.StatusForbidden, inactive)
}

func TestResourceUnauthorized(t *testing.T) {
	w := newWorld(t)
	g := w.grant()
	token := g.AccessToken.Value
	p := w.payment(w.ask(w.create(token, w.toAlice())), http.StatusCreated)
	_, stranger, _ := ed25519.GenerateKey(rand.Reader)
	read := ask{method: "GET", url: p.ID, token: token}
	create := w.create(token, w.toAlice())
	for name, row := range map[string]struct {
		ask    ask
		change func(*ask)
	}{
		"no authorization":  {create, func(a *ask) { a.token = "" }},
		"other scheme":      {read, func(a *ask) { a.setHeader = map[string]string{"Authorization": "Bearer " + token} }},
		"no token":          {read, func(a *ask) { a.setHeader = map[string]string{"Authorization": "GNAP"} }},
		"two tokens":        {read, func(a *ask) { a.token += " x" }},
		"unsigned":          {read, func(a *ask) { a.unsigned = true }},
		"other key":         {read, func(a *ask) { a.key = stranger }},
		"other key id":      {read, func(a *ask) { a.keyID = "key-2" }},
		"token not covered": {read, func(a *ask) { a.covered = []string{"@method", "@target-uri"} }},
		"digest of nothing": {read, func(a *ask) { a.covered = []string{"@method", "@target-uri", "authorization", "content-digest"} }},
		"digest of {}": {w.complete(token, p), func(a *ask) {
			a.digestOf, a.covered = "{}", []string{"@method", "@target-uri", "authorization", "content-digest"}
		}},
		"digest not covered":     {create, func(a *ask) { a.covered = []string{"@method", "@target-uri", "authorization"} }},
		"digest of other":        {create, func(a *ask) { a.digestOf = "{}" }},
		"signed for other":       {read, func(a *ask) { a.afterward = func(r *http.Request) { r.URL.RawQuery = "a=b" } }},
		"unknown payment":        {read, func(a *ask) { a.url = a.url[:len(a.url)-1] + "-" }},
		"unknown payment, plain": {read, func(a *ask) { a.url, a.token, a.unsigned = a.url+"0", "", true }},
	} {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			row.change(&row.ask)
			r := w.ask(row.ask)
			if r.status != http.StatusUnauthorized || !strings.HasPrefix(r.body, `{"error":{"code":"401","description":"`) {
				t.Errorf("got %s, want 401", r)
			}
			if r.header.Get("WWW-Authenticate") != "GNAP as_uri="+w.AuthServer() {
				t.Error("WWW-Authenticate does not name the authorization server")
			}
		})
	}
	w.UnpublishKeys()
	w.want(w.ask(read), http.StatusUnauthorized, "")
}

func TestListIncomingPayments(t *testing.T) {
	w := newWorld(t)
	token := w.grantOf(`"create","list"`)
	empty := w.ask(w.list(token, ""))
	w.want(empty, http.StatusOK, `{"pagination":{"hasNextPage":false,"hasPreviousPage":false},"result":[]}`)
	var keys []string // newest first, as listed
	for range 5 {
		p := w.payment(w.ask(w.create(token, w.toAlice())), http.StatusCreated)
		keys = slices.Insert(keys, 0, p.ID[strings.LastIndex(p.ID, "/")+1:])
	}
	for more, row := range map[string]struct {
		from, to       int
		previous, next bool
	}{
		"":                                       {0, 5, false, false},
		"&first=2":                               {0, 2, false, true},
		"&first=100":                             {0, 5, false, false},
		"&first=2&cursor=" + keys[1]:             {2, 4, true, true},
		"&first=2&cursor=" + keys[2]:             {3, 5, true, false},
		"&cursor=" + keys[0]:                     {1, 5, true, false},
		"&last=2&cursor=" + keys[3]:              {1, 3, true, true},
		"&last=100&cursor=" + keys[3]:            {0, 3, false, true},
		"&first=1&cursor=" + keys[4]:             {5, 5, true, false},
		"&last=1&cursor=" + keys[0]:              {0, 0, false, true},
		"&first=1&unknown=%26&cursor=" + keys[3]: {4, 5, true, false},
	} {
		t.Run(more, func(t *testing.T) {
			w := w.in(t)
			page := w.payment(w.ask(w.list(token, more)), http.StatusOK)
			var got []string
			for _, p := range page.Result {
				got = append(got, p.ID[strings.LastIndex(p.ID, "/")+1:])
				if p.Methods != nil {
					t.Error("a list has methods")
				}
			}
			if !slices.Equal(got, keys[row.from:row.to]) {
				t.Errorf("got %d payments, want those from %d to %d", len(got), row.from, row.to)
			}
			if page.Pagination.HasPreviousPage != row.previous || page.Pagination.HasNextPage != row.next {
				t.Errorf("previous is %v, next is %v", page.Pagination.HasPreviousPage, page.Pagination.HasNextPage)
			}
			if row.from < row.to && (page.Pagination.StartCursor != keys[row.from] || page.Pagination.EndCursor != keys[row.to-1]) {
				t.Error("the cursors are not those of the first and the last payment")
			}
		})
	}
	for _, more := range []string{
		"&first=0", "&first=101", "&first=x", "&first=", "&last=1", "&cursor=", "&cursor=unknown",
		"&first=1&last=1&cursor=" + keys[0],
	} {
		w.want(w.ask(w.list(token, more)), http.StatusBadRequest, "")
	}
	w.want(w.ask(ask{method: "GET", url: w.ResourceServer() + "/incoming-payments", token: token}), http.StatusBadRequest, "")
}

// Without an -all right a client sees its own payments only.
func TestOtherClientsPayments(t *testing.T) {
	w := newWorld(t)
	own := w.grantOf(`"create","read","list"`)
	other := w.decode(w.requestGrant(strings.Replace(w.grantBody(w.right(`"create","read","list"`), ""),
		fmt.Sprintf("%q", w.WalletAddress("client")), fmt.Sprintf(`{"jwk":%s}`, w.jwk()), 1))).AccessToken.Value
	all := w.grantOf(`"read-all","list-all"`)
	p := w.payment(w.ask(w.create(other, w.toAlice())), http.StatusCreated)
	for token, row := range map[string]struct{ status, listed int }{own: {404, 0}, other: {200, 1}, all: {200, 1}} {
		w.want(w.ask(ask{method: "GET", url: p.ID, token: token}), row.status, "")
		if got := len(w.payment(w.ask(w.list(token, "")), http.StatusOK).Result); got != row.listed {
			t.Errorf("%d payments are listed, want %d", got, row.listed)
		}
	}
}

func TestUnrouted(t *testing.T) {
	w := newWorld(t)
	for _, a := range []ask{
		{method: "GET", url: w.URL() + "/bob"},
		{method: "GET", url: w.URL() + "/"},
		{method: "GET", url: w.URL() + "//"},
		{method: "GET", url: w.URL() + "//alice"},
		{method: "GET", url: w.URL() + "/alice/../shop"},
		{method: "GET", url: w.AuthServer()},
		{method: "PUT", url: w.AuthServer() + "/token/x"},
		{method: "GET", url: w.ResourceServer() + "/quotes"},
	} {
		w.wantText(w.ask(a), http.StatusNotFound)
	}
}
