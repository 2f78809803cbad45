// SPDX-License-Identifier: MPL-2.0

package sandbox_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

type money struct {
	Value      string `json:"value"`
	AssetCode  string `json:"assetCode"`
	AssetScale int    `json:"assetScale"`
}

func usd(cents int) money { return money{fmt.Sprint(cents), "USD", 2} }

// outgoing is a quote, an outgoing payment or what a grant has spent.
type outgoing struct {
	ID            string          `json:"id"`
	WalletAddress string          `json:"walletAddress"`
	QuoteID       string          `json:"quoteId"`
	Failed        *bool           `json:"failed"`
	Receiver      string          `json:"receiver"`
	ReceiveAmount money           `json:"receiveAmount"`
	DebitAmount   money           `json:"debitAmount"`
	SentAmount    *money          `json:"sentAmount"`
	SpentDebit    *money          `json:"grantSpentDebitAmount"`
	SpentReceive  *money          `json:"grantSpentReceiveAmount"`
	Method        string          `json:"method"`
	Metadata      json.RawMessage `json:"metadata"`
	ExpiresAt     string          `json:"expiresAt"`
	CreatedAt     string          `json:"createdAt"`
}

func (w *world) sent(r reply, status int) outgoing {
	w.t.Helper()
	var o outgoing
	if r.status != status {
		w.t.Fatalf("got %s, want %d", r, status)
	}
	if err := json.Unmarshal([]byte(r.body), &o); err != nil {
		w.t.Fatal(err)
	}
	return o
}

// invoice is an incoming payment of the shop, without an amount if cents is 0.
func (w *world) invoice(cents int, more string) payment {
	w.t.Helper()
	token := w.decode(w.requestGrant(w.grantBody(`{"type":"incoming-payment","actions":["create"]}`, ""))).AccessToken.Value
	if cents > 0 {
		more += fmt.Sprintf(`,"incomingAmount":{"value":"%d","assetCode":"USD","assetScale":2}`, cents)
	}
	return w.payment(w.ask(w.create(token, fmt.Sprintf(`{"walletAddress":%q%s}`, w.WalletAddress("shop"), more))), http.StatusCreated)
}

func (w *world) quoter() string {
	w.t.Helper()
	return w.decode(w.requestGrant(w.grantBody(`{"type":"quote","actions":["create","read"]}`, ""))).AccessToken.Value
}

func (w *world) quote(token, receiver, more string) ask {
	body := fmt.Sprintf(`{"walletAddress":%q,"receiver":%q,"method":"ilp"%s}`, w.WalletAddress("alice"), receiver, more)
	return ask{method: "POST", url: w.ResourceServer() + "/quotes", token: token, body: body}
}

func (w *world) pay(token, more string) ask {
	body := fmt.Sprintf(`{"walletAddress":%q,%s}`, w.WalletAddress("alice"), more)
	return ask{method: "POST", url: w.ResourceServer() + "/outgoing-payments", token: token, body: body}
}

// payTo pays so many cents to an incoming payment.
func (w *world) payTo(token string, to payment, cents int) ask {
	return w.pay(token, fmt.Sprintf(`"incomingPayment":%q,"debitAmount":{"value":"%d","assetCode":"USD","assetScale":2}`, to.ID, cents))
}

func (w *world) received(p payment) (cents string, completed bool) {
	w.t.Helper()
	token := w.decode(w.requestGrant(w.grantBody(`{"type":"incoming-payment","actions":["read"]}`, ""))).AccessToken.Value
	now := w.payment(w.ask(ask{method: "GET", url: p.ID, token: token}), http.StatusOK)
	var m money
	if err := json.Unmarshal(now.ReceivedAmount, &m); err != nil {
		w.t.Fatal(err)
	}
	return m.Value, *now.Completed
}

func (w *world) spent(token string) string {
	w.t.Helper()
	r := w.ask(ask{method: "GET", url: w.ResourceServer() + "/outgoing-payment-grant", token: token})
	w.want(r, http.StatusOK, "")
	return r.body
}

func spentBody(cents int) string {
	a := "null"
	if cents > 0 {
		a = fmt.Sprintf(`{"value":"%d","assetCode":"USD","assetScale":2}`, cents)
	}
	return fmt.Sprintf(`{"spentReceiveAmount":%s,"spentDebitAmount":%[1]s}`, a)
}

var overLimit = errorBody("403", "the payment is not within the limits of the grant")

func TestPayByQuote(t *testing.T) {
	w := newWorld(t)
	bill := w.invoice(2500, "")
	quotes, token := w.quoter(), w.consented(w.outgoing("")).AccessToken.Value
	q := w.sent(w.ask(w.quote(quotes, bill.ID, "")), http.StatusCreated)
	if !strings.HasPrefix(q.ID, w.ResourceServer()+"/quotes/") || q.WalletAddress != w.WalletAddress("alice") || q.Receiver != bill.ID ||
		q.DebitAmount != usd(2500) || q.ReceiveAmount != usd(2500) || q.Method != "ilp" ||
		q.CreatedAt != "2026-08-01T12:00:05.000Z" || q.ExpiresAt != "2026-08-01T12:05:05.000Z" {
		t.Error("the quote is not the one asked for")
	}
	if read := w.sent(w.ask(ask{method: "GET", url: q.ID, token: quotes}), http.StatusOK); read.ID != q.ID || read.DebitAmount != q.DebitAmount {
		t.Error("another quote was read")
	}
	order := w.pay(token, fmt.Sprintf(`"quoteId":%q,"metadata":{"note":"a&b"}`, q.ID))
	p := w.sent(w.ask(order), http.StatusCreated)
	if !strings.HasPrefix(p.ID, w.ResourceServer()+"/outgoing-payments/") || p.QuoteID != q.ID || p.Receiver != bill.ID || *p.Failed ||
		p.DebitAmount != usd(2500) || p.ReceiveAmount != usd(2500) || *p.SentAmount != usd(2500) ||
		*p.SpentDebit != usd(2500) || *p.SpentReceive != usd(2500) || string(p.Metadata) != `{"note":"a&b"}` ||
		p.WalletAddress != w.WalletAddress("alice") || p.CreatedAt != q.CreatedAt {
		t.Error("the payment is not the one that was quoted")
	}
	read := w.sent(w.ask(ask{method: "GET", url: p.ID, token: token}), http.StatusOK)
	if read.ID != p.ID || read.SpentDebit != nil || read.SpentReceive != nil || *read.SentAmount != usd(2500) {
		t.Error("another payment was read, or what the grant has spent")
	}
	if cents, completed := w.received(bill); cents != "2500" || !completed {
		t.Error("the incoming payment is not completed")
	}
	w.want(w.ask(order), http.StatusBadRequest, errorBody("400", "the quote was used or has expired"))
	w.want(w.ask(w.quote(quotes, bill.ID, "")), http.StatusBadRequest, "")
}

func TestQuotes(t *testing.T) {
	w := newWorld(t)
	quotes, token := w.quoter(), w.consented(w.outgoing("")).AccessToken.Value
	open, bill := w.invoice(0, ""), w.invoice(100, "")
	short := w.invoice(0, `,"expiresAt":"2026-08-01T12:01:00Z"`)
	amount := func(kind string, cents int) string {
		return fmt.Sprintf(`,%q:{"value":"%d","assetCode":"USD","assetScale":2}`, kind, cents)
	}
	for name, row := range map[string]struct {
		receiver, more string
		status, cents  int
	}{
		"debit":            {open.ID, amount("debitAmount", 7), 201, 7},
		"receive":          {open.ID, amount("receiveAmount", 7), 201, 7},
		"part of a bill":   {bill.ID, amount("receiveAmount", 40), 201, 40},
		"the bill":         {bill.ID, "", 201, 100},
		"more than billed": {bill.ID, amount("debitAmount", 101), 400, 0},
		"no amount":        {open.ID, "", 400, 0},
		"both":             {open.ID, amount("debitAmount", 7) + amount("receiveAmount", 7), 400, 0},
		"nothing":          {open.ID, amount("debitAmount", 0), 400, 0},
		"other asset":      {open.ID, `,"debitAmount":{"value":"1","assetCode":"EUR","assetScale":2}`, 400, 0},
		"unknown member":   {open.ID, amount("sendAmount", 7), 400, 0},
		"unknown receiver": {open.ID + "0", amount("debitAmount", 7), 400, 0},
		"no receiver":      {w.WalletAddress("shop"), amount("debitAmount", 7), 400, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			r := w.ask(w.quote(quotes, row.receiver, row.more))
			w.want(r, row.status, "")
			if row.status == 201 && w.sent(r, 201).DebitAmount != usd(row.cents) {
				t.Errorf("the quote is not for %d", row.cents)
			}
		})
	}
	bad := w.quote(quotes, open.ID, amount("debitAmount", 7))
	bad.body = strings.Replace(bad.body, `"ilp"`, `"card"`, 1)
	w.want(w.ask(bad), http.StatusBadRequest, "")
	bad.body = strings.Replace(w.quote(quotes, open.ID, amount("debitAmount", 7)).body, "/alice", "/bob", 1)
	w.want(w.ask(bad), http.StatusNotFound, "")
	w.want(w.ask(w.quote(token, open.ID, amount("debitAmount", 7))), http.StatusForbidden, errorBody("403", "Insufficient Grant"))
	w.want(w.ask(ask{method: "GET", url: w.ResourceServer() + "/quotes/x", token: quotes}), http.StatusUnauthorized, "")

	q := w.sent(w.ask(w.quote(quotes, open.ID, amount("debitAmount", 7))), 201)
	late := w.sent(w.ask(w.quote(quotes, short.ID, amount("debitAmount", 7))), 201)
	other := w.decode(w.requestGrant(strings.Replace(w.grantBody(`{"type":"quote","actions":["read"]}`, ""),
		fmt.Sprintf("%q", w.WalletAddress("client")), fmt.Sprintf(`{"jwk":%s}`, w.jwk()), 1))).AccessToken.Value
	w.want(w.ask(ask{method: "GET", url: q.ID, token: other}), http.StatusNotFound, "")
	w.clock.pass(time.Minute)
	w.want(w.ask(w.pay(token, fmt.Sprintf(`"quoteId":%q`, late.ID))), http.StatusBadRequest, errorBody("400", "the incoming payment is completed or expired"))
	w.clock.pass(4 * time.Minute)
	w.want(w.ask(w.pay(token, fmt.Sprintf(`"quoteId":%q`, q.ID))), http.StatusBadRequest, errorBody("400", "the quote was used or has expired"))
	if w.spent(token) != spentBody(0) {
		t.Error("something was spent")
	}
}

func TestOutgoingPaymentRefused(t *testing.T) {
	w := newWorld(t)
	token := w.consented(w.outgoing("")).AccessToken.Value
	bill := w.invoice(100, "")
	debit := `"debitAmount":{"value":"7","assetCode":"USD","assetScale":2}`
	to := fmt.Sprintf(`"incomingPayment":%q,`, bill.ID)
	for name, row := range map[string]struct {
		more   string
		status int
	}{
		"no quote, no receiver":   {debit, 400},
		"no amount":               {strings.TrimSuffix(to, ","), 400},
		"receive amount":          {to + strings.Replace(debit, "debit", "receive", 1), 400}, // the document has none
		"quote and receiver":      {to + debit + `,"quoteId":"https://a.example/quotes/1"`, 400},
		"unknown quote":           {`"quoteId":"https://a.example/quotes/1"`, 400},
		"unknown receiver":        {strings.Replace(to, bill.ID, bill.ID+"0", 1) + debit, 400},
		"unknown member":          {to + debit + `,"method":"ilp"`, 400},
		"metadata":                {to + debit + `,"metadata":"note"`, 400},
		"other scale":             {to + strings.Replace(debit, `2}`, `3}`, 1), 400},
		"nothing":                 {to + strings.Replace(debit, `"7"`, `"0"`, 1), 400},
		"more than is to be paid": {to + strings.Replace(debit, `"7"`, `"101"`, 1), 400},
	} {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			r := w.ask(w.pay(token, row.more))
			w.want(r, row.status, "")
			if !strings.HasPrefix(r.body, fmt.Sprintf(`{"error":{"code":"%d","description":"`, row.status)) {
				t.Errorf("got %s, want code and description", r)
			}
		})
	}
	other := w.payTo(token, bill, 7)
	other.body = strings.Replace(other.body, "/alice", "/shop", 1)
	w.want(w.ask(other), http.StatusForbidden, errorBody("403", "Insufficient Grant"))
	w.want(w.ask(w.payTo(w.quoter(), bill, 7)), http.StatusForbidden, errorBody("403", "Insufficient Grant"))
	w.want(w.ask(w.payTo("unknown", bill, 7)), http.StatusForbidden, errorBody("403", "Inactive Token"))
	w.want(w.ask(ask{method: "GET", url: w.ResourceServer() + "/outgoing-payments/x", token: token}), http.StatusUnauthorized, "")
	reader := w.consented(strings.Replace(w.outgoing(""), `"create",`, "", 1)).AccessToken.Value
	w.want(w.ask(w.payTo(reader, bill, 7)), http.StatusForbidden, errorBody("403", "Insufficient Grant"))
	w.want(w.ask(ask{method: "GET", url: w.ResourceServer() + "/outgoing-payment-grant", token: reader}), 403, errorBody("403", "Insufficient Grant"))
	if cents, completed := w.received(bill); cents != "0" || completed {
		t.Error("the incoming payment was paid")
	}
}

// Payments add up at the receiver, which is complete when it has all.
func TestReceiving(t *testing.T) {
	w := newWorld(t)
	token := w.consented(w.outgoing("")).AccessToken.Value
	bill, open := w.invoice(100, ""), w.invoice(0, "")
	w.sent(w.ask(w.payTo(token, bill, 40)), 201)
	if cents, completed := w.received(bill); cents != "40" || completed {
		t.Error("40 of 100 were not received")
	}
	w.want(w.ask(w.payTo(token, bill, 61)), http.StatusBadRequest, "")
	w.sent(w.ask(w.payTo(token, bill, 60)), 201)
	if cents, completed := w.received(bill); cents != "100" || !completed {
		t.Error("100 of 100 do not complete")
	}
	w.want(w.ask(w.payTo(token, bill, 1)), http.StatusBadRequest, "")
	w.sent(w.ask(w.payTo(token, open, 1000000)), 201)
	if cents, completed := w.received(open); cents != "1000000" || completed {
		t.Error("a payment without an amount is completed, or has not received")
	}
	if w.spent(token) != spentBody(1000100) {
		t.Error("what was spent is not the sum")
	}
	most := w.pay(token, fmt.Sprintf(`"incomingPayment":%q,"debitAmount":{"value":"18446744073709551615","assetCode":"USD","assetScale":2}`, w.invoice(0, "").ID))
	w.want(w.ask(most), http.StatusForbidden, overLimit) // the sum could not be written
}

func TestLimits(t *testing.T) {
	w := newWorld(t)
	open, other := w.invoice(0, ""), w.invoice(0, "")
	five := func(kind, code string, scale int) string {
		return fmt.Sprintf(`%q:{"value":"500","assetCode":%q,"assetScale":%d}`, kind, code, scale)
	}
	for name, row := range map[string]struct {
		limits string
		pays   map[int]int // cents, in order, and the status
		order  []int
	}{
		"debit":    {five("debitAmount", "USD", 2), map[int]int{501: 403, 300: 201, 201: 403, 200: 201, 1: 403}, []int{501, 300, 201, 200, 1}},
		"receive":  {five("receiveAmount", "USD", 2), map[int]int{501: 403, 500: 201, 1: 403}, []int{501, 500, 1}},
		"currency": {five("debitAmount", "EUR", 2), map[int]int{1: 403}, []int{1}},
		"scale":    {five("debitAmount", "USD", 4), map[int]int{1: 403}, []int{1}},
		"receiver": {fmt.Sprintf(`"receiver":%q`, open.ID), map[int]int{100000: 201}, []int{100000}},
		"stranger": {fmt.Sprintf(`"receiver":%q`, other.ID), map[int]int{1: 403}, []int{1}},
		"past":     {five("debitAmount", "USD", 2) + `,"interval":"R1/2026-06-01T00:00:00Z/P1M"`, map[int]int{1: 403}, []int{1}},
		"to come":  {five("debitAmount", "USD", 2) + `,"interval":"R1/2026-09-01T00:00:00Z/P1M"`, map[int]int{1: 403}, []int{1}},
		"unread":   {five("debitAmount", "USD", 2) + `,"interval":"monthly"`, map[int]int{1: 403}, []int{1}},
		"no more":  {`"interval":"R1/2026-06-01T00:00:00Z/P1M"`, map[int]int{1: 403}, []int{1}},
	} {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			token := w.consented(w.outgoing(`,"limits":{` + row.limits + `}`)).AccessToken.Value
			sum := 0
			for _, cents := range row.order {
				want := ""
				if row.pays[cents] == 403 {
					want = overLimit
				} else {
					sum += cents
				}
				w.want(w.ask(w.payTo(token, open, cents)), row.pays[cents], want)
				if got := w.spent(token); got != spentBody(sum) {
					t.Errorf("after %d: %s was spent, want %d", cents, got, sum)
				}
			}
		})
	}
}

// Limits belong to the grant: neither a rotation nor a token that has died gives a new budget, and
// a new grant does.
func TestLimitsOverTokens(t *testing.T) {
	w := newWorld(t)
	open := w.invoice(0, "")
	right := w.outgoing(`,"limits":{"debitAmount":{"value":"500","assetCode":"USD","assetScale":2}}`)
	g := w.consented(right)
	w.sent(w.ask(w.payTo(g.AccessToken.Value, open, 300)), 201)
	fresh := w.decode(w.ask(w.rotate(g)))
	w.want(w.ask(w.payTo(fresh.AccessToken.Value, open, 201)), http.StatusForbidden, overLimit)
	w.clock.pass(time.Hour)
	fresh = w.decode(w.ask(w.rotate(fresh)))
	if p := w.sent(w.ask(w.payTo(fresh.AccessToken.Value, open, 200)), 201); *p.SpentDebit != usd(500) || *p.SpentReceive != usd(500) {
		t.Error("what was spent is not the sum over all tokens")
	}
	w.want(w.ask(w.payTo(fresh.AccessToken.Value, open, 1)), http.StatusForbidden, overLimit)
	w.sent(w.ask(w.payTo(w.consented(right).AccessToken.Value, open, 500)), 201)
}

// Each interval has its own budget, from its first moment on and to before its last.
func TestLimitsPerInterval(t *testing.T) {
	w := newWorld(t)
	open := w.invoice(0, "")
	const start = "2026-08-01T13:00:00Z"
	g := w.consented(w.outgoing(`,"limits":{"debitAmount":{"value":"500","assetCode":"USD","assetScale":2},"interval":"R3/` + start + `/P1M"}`))
	at := func(moment string, cents, status, spent int) {
		t.Helper()
		then, _ := time.Parse(time.RFC3339Nano, moment)
		w.clock.pass(then.Sub(w.clock.Now()))
		g = w.decode(w.ask(w.rotate(g)))
		w.want(w.ask(w.payTo(g.AccessToken.Value, open, cents)), status, "")
		if got := w.spent(g.AccessToken.Value); got != spentBody(spent) {
			t.Errorf("at %s: %s was spent, want %d", moment, got, spent)
		}
	}
	at("2026-08-01T12:59:59.999999999Z", 1, 403, 0)
	at(start, 500, 201, 500)
	at("2026-08-20T00:00:00Z", 1, 403, 500)
	at("2026-09-01T12:59:59.999999999Z", 1, 403, 500)
	at("2026-09-01T13:00:00Z", 499, 201, 499)
	at("2026-09-15T00:00:00Z", 1, 201, 500)
	at("2026-09-15T00:00:00Z", 1, 403, 500)
	at("2026-10-01T13:00:00Z", 500, 201, 500)
	at("2026-10-31T12:00:00Z", 1, 403, 500)
	at("2026-11-01T13:00:00Z", 1, 403, 0)
}

// One of several rights must allow a payment, and what is spent counts for all.
func TestLimitsOfSeveralRights(t *testing.T) {
	w := newWorld(t)
	bill, open := w.invoice(1000, ""), w.invoice(0, "")
	g := w.consented(w.outgoing(fmt.Sprintf(`,"limits":{"receiver":%q}`, bill.ID)) + "," +
		w.outgoing(`,"limits":{"debitAmount":{"value":"500","assetCode":"USD","assetScale":2}}`))
	token := g.AccessToken.Value
	w.sent(w.ask(w.payTo(token, open, 100)), 201)
	w.sent(w.ask(w.payTo(token, bill, 1000)), 201)
	w.want(w.ask(w.payTo(token, open, 1)), http.StatusForbidden, overLimit)
}

// Payments at the same time cannot share one budget.
func TestLimitsAtOnce(t *testing.T) {
	w := newWorld(t)
	open := w.invoice(0, "")
	token := w.consented(w.outgoing(`,"limits":{"debitAmount":{"value":"500","assetCode":"USD","assetScale":2}}`)).AccessToken.Value
	var wait sync.WaitGroup
	statuses := make([]int, 12)
	for n := range statuses {
		wait.Go(func() {
			r, err := w.try(w.payTo(token, open, 100))
			if err == nil {
				statuses[n] = r.status
			}
		})
	}
	wait.Wait()
	slices.Sort(statuses)
	if !slices.Equal(statuses, []int{201, 201, 201, 201, 201, 403, 403, 403, 403, 403, 403, 403}) {
		t.Errorf("the statuses are %v", statuses)
	}
	if cents, _ := w.received(open); cents != "500" {
		t.Errorf("%s was received", cents)
	}
}

func TestListOutgoingPayments(t *testing.T) {
	w := newWorld(t)
	open := w.invoice(0, "")
	rights := func(actions string) string {
		return fmt.Sprintf(`{"type":"outgoing-payment","actions":[%s],"identifier":%q}`, actions, w.WalletAddress("alice"))
	}
	token := w.consented(rights(`"create","list"`)).AccessToken.Value
	list := func(token, more string) ask {
		query := "?wallet-address=" + url.QueryEscape(w.WalletAddress("alice")) + more
		return ask{method: "GET", url: w.ResourceServer() + "/outgoing-payments" + query, token: token}
	}
	w.want(w.ask(list(token, "")), http.StatusOK, `{"pagination":{"hasNextPage":false,"hasPreviousPage":false},"result":[]}`)
	var ids []string // newest first
	for n := range 3 {
		ids = slices.Insert(ids, 0, w.sent(w.ask(w.payTo(token, open, n+1)), 201).ID)
	}
	all := w.ask(list(token, ""))
	if strings.Contains(all.body, "grantSpent") {
		t.Error("a list says what the grant has spent")
	}
	cursor := ids[0][strings.LastIndex(ids[0], "/")+1:]
	for more, want := range map[string][]string{"": ids, "&first=2": ids[:2], "&first=1&cursor=" + cursor: ids[1:2]} {
		var got []string
		for _, p := range w.payment(w.ask(list(token, more)), http.StatusOK).Result {
			got = append(got, p.ID)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q lists %d payments, want %d", more, len(got), len(want))
		}
	}
	w.want(w.ask(list(token, "&cursor=unknown")), http.StatusBadRequest, "")
	w.want(w.ask(list(w.quoter(), "")), http.StatusForbidden, "")
	w.want(w.ask(list(w.consented(rights(`"list-all"`)).AccessToken.Value, "")), http.StatusOK, all.body)
}
