// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"encoding/json"
	"net/http"
	"slices"
	"time"
)

// outgoingPayment is outgoing-payment in the OpenAPI document and, with what its grant has spent,
// which only the answer to a create contains, outgoing-payment-with-spent-amounts. The sandbox pays
// at once: the whole amount is sent when the payment is created.
type outgoingPayment struct {
	ID                 string          `json:"id"`
	WalletAddress      string          `json:"walletAddress"`
	QuoteID            string          `json:"quoteId,omitempty"`
	Failed             bool            `json:"failed"`
	Receiver           string          `json:"receiver"`
	ReceiveAmount      amount          `json:"receiveAmount"`
	DebitAmount        amount          `json:"debitAmount"`
	SentAmount         amount          `json:"sentAmount"`
	SpentDebitAmount   *amount         `json:"grantSpentDebitAmount,omitempty"`
	SpentReceiveAmount *amount         `json:"grantSpentReceiveAmount,omitempty"`
	Metadata           json.RawMessage `json:"metadata,omitempty"`
	CreatedAt          string          `json:"createdAt"`

	key    string // the last part of ID, which is also the cursor
	client string // who created it
	grant  *grant // whose limits it counts towards
	sent   time.Time
}

// order is the body of a create request: a quote, or a receiver and an amount.
type order struct {
	wallet   string
	quote    string
	receiver string
	units    uint64
	metadata json.RawMessage
}

// parseOrder parses the body of a create request. Its errors are sentences for the client.
func parseOrder(body string) (order, error) {
	var o order
	top, err := asObject(json.RawMessage(body), "the body")
	if err != nil {
		return o, err
	}
	if o.wallet, err = top.uri("walletAddress", ""); err != nil {
		return o, err
	}
	if o.metadata = top["metadata"]; o.metadata != nil {
		if _, err := asObject(o.metadata, "metadata"); err != nil {
			return o, err
		}
	}
	if top["quoteId"] != nil {
		if err := top.allowOnly("the body", "walletAddress", "metadata", "quoteId"); err != nil {
			return o, err
		}
		o.quote, err = top.uri("quoteId", "")
		return o, err
	}
	if err := top.allowOnly("the body", "walletAddress", "metadata", "incomingPayment", "debitAmount"); err != nil {
		return o, err
	}
	if o.receiver, err = top.uri("incomingPayment", ""); err != nil {
		return o, err
	}
	a, err := parsePaid(top["debitAmount"], "debitAmount")
	o.units = a.units()
	return o, err
}

// pay makes a payment of a grant in one step, if the grant's limits allow it.
func (p *payments) pay(payment outgoingPayment, o order, now time.Time) (outgoingPayment, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	quoted, err := p.orderedLocked(&o, now)
	if err != nil {
		return outgoingPayment{}, err
	}
	receiver, err := p.receiverLocked(o.receiver, now)
	if err != nil {
		return outgoingPayment{}, err
	}
	if o.units > receiver.remaining() {
		return outgoingPayment{}, resourceError(http.StatusBadRequest, "the amount is more than the receiver takes")
	}
	spent, ok := p.allowedLocked(payment.grant, o, now)
	if !ok {
		return outgoingPayment{}, resourceError(http.StatusForbidden,
			"the payment is not within the limits of the grant")
	}
	receiver.receive(o.units)
	if quoted != nil {
		quoted.used = true
	}
	sum, units := inSandboxAsset(spent+o.units), inSandboxAsset(o.units)
	payment.Receiver, payment.QuoteID, payment.Metadata = o.receiver, o.quote, o.metadata
	payment.ReceiveAmount, payment.DebitAmount, payment.SentAmount = units, units, units
	payment.sent, payment.CreatedAt = now, now.UTC().Format(timeFormat)
	kept := payment
	p.outgoing = append(p.outgoing, &kept)
	payment.SpentDebitAmount, payment.SpentReceiveAmount = &sum, &sum
	return payment, nil
}

// orderedLocked fills in what a quote says. It returns no quote if the order names none.
func (p *payments) orderedLocked(o *order, now time.Time) (*paymentQuote, error) {
	if o.quote == "" {
		return nil, nil
	}
	at := slices.IndexFunc(p.quotes, func(q *paymentQuote) bool {
		return q.ID == o.quote && q.WalletAddress == o.wallet
	})
	switch {
	case at < 0:
		return nil, resourceError(http.StatusBadRequest, "there is no such quote of the wallet address")
	case p.quotes[at].used || !now.Before(p.quotes[at].expires):
		return nil, resourceError(http.StatusBadRequest, "the quote was used or has expired")
	}
	o.receiver, o.units = p.quotes[at].Receiver, p.quotes[at].DebitAmount.units()
	return p.quotes[at], nil
}

// allowedLocked finds limits that allow a payment and returns what was spent before in the interval
// of those limits.
func (p *payments) allowedLocked(g *grant, o order, now time.Time) (spent uint64, ok bool) {
	for _, l := range limitsOf(g, o.wallet) {
		counted, open := l.window(now)
		if !open {
			continue
		}
		spent = p.spentLocked(g, counted)
		if l.allow(o.receiver, o.units, spent) && spent+o.units >= spent {
			return spent, true
		}
	}
	return 0, false
}

// spentLocked returns what a grant has spent in a time span, over all its tokens and wallet
// addresses.
func (p *payments) spentLocked(g *grant, counted span) uint64 {
	var sum uint64
	for _, payment := range p.outgoing {
		if payment.grant == g && counted.contains(payment.sent) {
			sum += payment.DebitAmount.units()
		}
	}
	return sum
}

// spent returns what a grant has spent in the interval of its first right to pay.
func (p *payments) spent(g *grant, now time.Time) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range limitsOf(g, anyWallet) {
		if counted, open := l.window(now); open {
			return p.spentLocked(g, counted)
		}
	}
	return 0
}

func (p *payments) outgoingBy(key string) (outgoingPayment, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, payment := range p.outgoing {
		if payment.key == key {
			return *payment, true
		}
	}
	return outgoingPayment{}, false
}

// listOutgoing gives the payments from a wallet address, newest first; of one client only, unless
// client is empty.
func (p *payments) listOutgoing(wallet, client string) []outgoingPayment {
	p.mu.Lock()
	defer p.mu.Unlock()
	found := []outgoingPayment{}
	for _, payment := range slices.Backward(p.outgoing) {
		if payment.WalletAddress == wallet && (client == "" || payment.client == client) {
			found = append(found, *payment)
		}
	}
	return found
}

// createOutgoingPayment serves create-outgoing-payment of the OpenAPI document.
func (s *Server) createOutgoingPayment(w http.ResponseWriter, r *http.Request) error {
	body, err := readResourceRequest(r)
	if err != nil {
		return err
	}
	o, err := parseOrder(body.json)
	if err != nil {
		return resourceError(http.StatusBadRequest, err.Error())
	}
	allowed, err := s.authorize(r, body, typeOutgoing, "create", o.wallet)
	if err != nil {
		return err
	}
	if !s.isWallet(o.wallet) {
		return resourceError(http.StatusNotFound, "walletAddress is not one of the sandbox's")
	}
	key := newID()
	payment, err := s.payments.pay(outgoingPayment{
		ID: s.ResourceServer() + "/outgoing-payments/" + key, WalletAddress: o.wallet,
		key: key, client: allowed.client, grant: allowed.grant,
	}, o, s.now())
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusCreated, payment)
	return nil
}

// readOutgoingPayment serves get-outgoing-payment of the OpenAPI document.
func (s *Server) readOutgoingPayment(w http.ResponseWriter, r *http.Request) error {
	body, err := readResourceRequest(r)
	if err != nil {
		return err
	}
	payment, ok := s.payments.outgoingBy(r.PathValue("id"))
	if !ok {
		return resourceError(http.StatusUnauthorized, "Unauthorized") // as in findPayment
	}
	allowed, err := s.authorize(r, body, typeOutgoing, "read", payment.WalletAddress)
	if err != nil {
		return err
	}
	if !allowed.all && allowed.client != payment.client {
		return resourceError(http.StatusNotFound, "Unknown outgoing payment")
	}
	writeJSON(w, http.StatusOK, payment)
	return nil
}

// listOutgoingPayments serves list-outgoing-payments of the OpenAPI document.
func (s *Server) listOutgoingPayments(w http.ResponseWriter, r *http.Request) error {
	asked, client, err := s.authorizeList(r, typeOutgoing)
	if err != nil {
		return err
	}
	all := s.payments.listOutgoing(asked.wallet, client)
	page, ok := paginate(all, asked, func(p outgoingPayment) string { return p.key })
	if !ok {
		return resourceError(http.StatusBadRequest, "cursor is not one that was given out")
	}
	writeJSON(w, http.StatusOK, page)
	return nil
}

// showSpent serves get-outgoing-payment-grant of the OpenAPI document.
func (s *Server) showSpent(w http.ResponseWriter, r *http.Request) error {
	body, err := readResourceRequest(r)
	if err != nil {
		return err
	}
	allowed, err := s.authorize(r, body, typeOutgoing, "create", anyWallet)
	if err != nil {
		return err
	}
	var sum *amount
	if spent := s.payments.spent(allowed.grant, s.now()); spent > 0 {
		a := inSandboxAsset(spent)
		sum = &a
	}
	writeJSON(w, http.StatusOK, struct {
		Receive *amount `json:"spentReceiveAmount"`
		Debit   *amount `json:"spentDebitAmount"`
	}{sum, sum})
	return nil
}
