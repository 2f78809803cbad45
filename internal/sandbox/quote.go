// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"encoding/json"
	"net/http"
	"time"
)

// quoteLifetime is how long a quote can be used, as at Rafiki.
const quoteLifetime = 5 * time.Minute

// paymentQuote is quote in the OpenAPI document. There are no fees and no rates: the receiver gets
// what is debited.
type paymentQuote struct {
	ID            string `json:"id"`
	WalletAddress string `json:"walletAddress"`
	Receiver      string `json:"receiver"`
	ReceiveAmount amount `json:"receiveAmount"`
	DebitAmount   amount `json:"debitAmount"`
	Method        string `json:"method"`
	ExpiresAt     string `json:"expiresAt"`
	CreatedAt     string `json:"createdAt"`

	key     string
	client  string
	expires time.Time
	used    bool
}

// quoteRequest is the body of a create request. Without an amount the quote is for what the
// receiver is still to get.
type quoteRequest struct {
	wallet   string
	receiver string
	amount   *amount
}

// parseQuoteRequest parses the body of a create request. Its errors are sentences for the client.
func parseQuoteRequest(body string) (quoteRequest, error) {
	var request quoteRequest
	top, err := asObject(json.RawMessage(body), "the body")
	if err != nil {
		return request, err
	}
	err = top.allowOnly("the body", "walletAddress", "receiver", "method", "debitAmount", "receiveAmount")
	if err != nil {
		return request, err
	}
	if request.wallet, err = top.uri("walletAddress", ""); err != nil {
		return request, err
	}
	if request.receiver, err = top.uri("receiver", ""); err != nil || !isReceiver(request.receiver) {
		return request, memberError("receiver", "must be the URL of an incoming payment")
	}
	if method, err := top.text("method", ""); err != nil || method != "ilp" {
		return request, memberError("method", `must be "ilp"`)
	}
	for _, name := range []string{"debitAmount", "receiveAmount"} {
		if top[name] == nil {
			continue
		}
		if request.amount != nil {
			return request, memberError("debitAmount", "and receiveAmount must not be given at once")
		}
		a, err := parsePaid(top[name], name)
		if err != nil {
			return request, err
		}
		request.amount = &a
	}
	return request, nil
}

// addQuote completes a quote and stores it.
func (p *payments) addQuote(q paymentQuote, asked *amount, now time.Time) (paymentQuote, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	receiver, err := p.receiverLocked(q.Receiver, now)
	if err != nil {
		return paymentQuote{}, err
	}
	units := receiver.remaining()
	switch {
	case asked == nil && receiver.IncomingAmount == nil:
		return paymentQuote{}, resourceError(http.StatusBadRequest,
			"an amount is needed: the receiver does not name one")
	case asked != nil && asked.units() > units:
		return paymentQuote{}, resourceError(http.StatusBadRequest, "the amount is more than the receiver takes")
	case asked != nil:
		units = asked.units()
	}
	q.DebitAmount, q.ReceiveAmount = inSandboxAsset(units), inSandboxAsset(units)
	p.quotes = append(p.quotes, &q)
	return q, nil
}

func (p *payments) quote(key string) (paymentQuote, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, q := range p.quotes {
		if q.key == key {
			return *q, true
		}
	}
	return paymentQuote{}, false
}

// createQuote serves create-quote of the OpenAPI document.
func (s *Server) createQuote(w http.ResponseWriter, r *http.Request) error {
	body, err := readResourceRequest(r)
	if err != nil {
		return err
	}
	request, err := parseQuoteRequest(body.json)
	if err != nil {
		return resourceError(http.StatusBadRequest, err.Error())
	}
	allowed, err := s.authorize(r, body, typeQuote, "create", request.wallet)
	if err != nil {
		return err
	}
	if !s.isWallet(request.wallet) {
		return resourceError(http.StatusNotFound, "walletAddress is not one of the sandbox's")
	}
	now, key := s.now(), newID()
	q, err := s.payments.addQuote(paymentQuote{
		ID: s.ResourceServer() + "/quotes/" + key, WalletAddress: request.wallet,
		Receiver: request.receiver, Method: "ilp",
		CreatedAt: now.UTC().Format(timeFormat), ExpiresAt: now.Add(quoteLifetime).UTC().Format(timeFormat),
		key: key, client: allowed.client, expires: now.Add(quoteLifetime),
	}, request.amount, now)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusCreated, q)
	return nil
}

// readQuote serves get-quote of the OpenAPI document.
func (s *Server) readQuote(w http.ResponseWriter, r *http.Request) error {
	body, err := readResourceRequest(r)
	if err != nil {
		return err
	}
	q, ok := s.payments.quote(r.PathValue("id"))
	if !ok {
		return resourceError(http.StatusUnauthorized, "Unauthorized") // as in findPayment
	}
	allowed, err := s.authorize(r, body, typeQuote, "read", q.WalletAddress)
	if err != nil {
		return err
	}
	if !allowed.all && allowed.client != q.client {
		return resourceError(http.StatusNotFound, "Unknown quote")
	}
	writeJSON(w, http.StatusOK, q)
	return nil
}
