// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"encoding/json"
	"net/http"
	"slices"
	"time"
)

// timeFormat is how JavaScript, and therefore Rafiki, formats a time.
const timeFormat = "2006-01-02T15:04:05.000Z"

// method is a way to pay an incoming payment. Nothing listens at the sandbox's addresses.
type method struct {
	Type         string `json:"type"`
	ILPAddress   string `json:"ilpAddress"`
	SharedSecret string `json:"sharedSecret"`
}

// incomingPayment is incoming-payment in the OpenAPI document and, with methods,
// incoming-payment-with-methods.
type incomingPayment struct {
	ID             string          `json:"id"`
	WalletAddress  string          `json:"walletAddress"`
	IncomingAmount *amount         `json:"incomingAmount,omitempty"`
	ReceivedAmount amount          `json:"receivedAmount"`
	Completed      bool            `json:"completed"`
	Metadata       json.RawMessage `json:"metadata,omitempty"`
	ExpiresAt      string          `json:"expiresAt,omitempty"`
	CreatedAt      string          `json:"createdAt"`
	Methods        *[]method       `json:"methods,omitempty"`

	key     string // the last part of ID, which is also the cursor
	client  string // who created it
	paid    []method
	expires time.Time // zero: never
}

// withMethods is the payment with the ways to pay it: none once it is completed.
func (p incomingPayment) withMethods() incomingPayment {
	methods := []method{}
	if !p.Completed {
		methods = p.paid
	}
	p.Methods = &methods
	return p
}

func (p *payments) add(payment incomingPayment) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.incoming = append(p.incoming, &payment)
}

func (p *payments) get(key string) (incomingPayment, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, payment := range p.incoming {
		if payment.key == key {
			return *payment, true
		}
	}
	return incomingPayment{}, false
}

// complete reports false if the payment was completed before.
func (p *payments) complete(key string) (incomingPayment, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, payment := range p.incoming {
		if payment.key == key && !payment.Completed {
			payment.Completed = true
			return *payment, true
		}
	}
	return incomingPayment{}, false
}

// list gives the payments into a wallet address, newest first; of one client only, unless client is
// empty.
func (p *payments) list(wallet, client string) []incomingPayment {
	p.mu.Lock()
	defer p.mu.Unlock()
	found := []incomingPayment{}
	for _, payment := range slices.Backward(p.incoming) {
		if payment.WalletAddress == wallet && (client == "" || payment.client == client) {
			found = append(found, *payment)
		}
	}
	return found
}

// createIncomingPayment serves create-incoming-payment of the OpenAPI document.
func (s *Server) createIncomingPayment(w http.ResponseWriter, r *http.Request) error {
	body, err := readResourceRequest(r)
	if err != nil {
		return err
	}
	payment, err := parseIncomingPayment(body.json, s.now())
	if err != nil {
		return resourceError(http.StatusBadRequest, err.Error())
	}
	allowed, err := s.authorize(r, body, typeIncoming, "create", payment.WalletAddress)
	if err != nil {
		return err
	}
	if !s.isWallet(payment.WalletAddress) {
		return resourceError(http.StatusNotFound, "walletAddress is not one of the sandbox's")
	}
	payment.key, payment.client = newID(), allowed.client
	payment.ID = s.ResourceServer() + "/incoming-payments/" + payment.key
	payment.paid = []method{{Type: "ilp", ILPAddress: "test.sandbox." + payment.key, SharedSecret: newSecret()}}
	s.payments.add(payment)
	writeJSON(w, http.StatusCreated, payment.withMethods())
	return nil
}

// parseIncomingPayment parses the body of a create request. Its errors are sentences for the
// client.
func parseIncomingPayment(body string, now time.Time) (incomingPayment, error) {
	payment := incomingPayment{
		ReceivedAmount: inSandboxAsset(0),
		CreatedAt:      now.UTC().Format(timeFormat),
	}
	top, err := asObject(json.RawMessage(body), "the body")
	if err != nil {
		return payment, err
	}
	if err := top.allowOnly("the body", "walletAddress", "incomingAmount", "expiresAt", "metadata"); err != nil {
		return payment, err
	}
	if payment.WalletAddress, err = top.uri("walletAddress", ""); err != nil {
		return payment, err
	}
	if raw := top["incomingAmount"]; raw != nil {
		a, err := parsePaid(raw, "incomingAmount")
		if err != nil {
			return payment, err
		}
		payment.IncomingAmount = &a
	}
	if top["expiresAt"] != nil {
		text, err := top.text("expiresAt", "")
		if err != nil {
			return payment, err
		}
		expires, err := time.Parse(time.RFC3339, text)
		if err != nil || !expires.After(now) {
			return payment, memberError("expiresAt", "must be a date and time to come")
		}
		payment.expires, payment.ExpiresAt = expires, expires.UTC().Format(timeFormat)
	}
	if payment.Metadata = top["metadata"]; payment.Metadata != nil {
		_, err = asObject(payment.Metadata, "metadata")
	}
	return payment, err
}

// findPayment finds the payment that a request is about. Without it there is no wallet address to
// ask a token for: a real server answers 401, and so does this one.
func (s *Server) findPayment(r *http.Request) (incomingPayment, content, error) {
	body, err := readResourceRequest(r)
	if err != nil {
		return incomingPayment{}, content{}, err
	}
	payment, ok := s.payments.get(r.PathValue("id"))
	if !ok {
		return incomingPayment{}, content{}, resourceError(http.StatusUnauthorized, "Unauthorized")
	}
	return payment, body, nil
}

// readIncomingPayment serves get-incoming-payment of the OpenAPI document. A request without
// Authorization is told how much was received and where to ask for a grant.
func (s *Server) readIncomingPayment(w http.ResponseWriter, r *http.Request) error {
	payment, body, err := s.findPayment(r)
	if err != nil {
		return err
	}
	if r.Header.Get("Authorization") == "" {
		writeJSON(w, http.StatusOK, struct {
			ReceivedAmount amount `json:"receivedAmount"`
			AuthServer     string `json:"authServer"`
		}{payment.ReceivedAmount, s.AuthServer()})
		return nil
	}
	allowed, err := s.authorize(r, body, typeIncoming, "read", payment.WalletAddress)
	if err != nil {
		return err
	}
	if !allowed.all && allowed.client != payment.client {
		return resourceError(http.StatusNotFound, "Unknown incoming payment")
	}
	writeJSON(w, http.StatusOK, payment.withMethods())
	return nil
}

// completeIncomingPayment serves complete-incoming-payment of the OpenAPI document.
func (s *Server) completeIncomingPayment(w http.ResponseWriter, r *http.Request) error {
	payment, body, err := s.findPayment(r)
	if err != nil {
		return err
	}
	if _, err := s.authorize(r, body, typeIncoming, "complete", payment.WalletAddress); err != nil {
		return err
	}
	completed, ok := s.payments.complete(payment.key)
	if !ok {
		return resourceError(http.StatusConflict, "the incoming payment is completed already")
	}
	writeJSON(w, http.StatusOK, completed)
	return nil
}

// listIncomingPayments serves list-incoming-payments of the OpenAPI document.
func (s *Server) listIncomingPayments(w http.ResponseWriter, r *http.Request) error {
	asked, client, err := s.authorizeList(r, typeIncoming)
	if err != nil {
		return err
	}
	page, ok := paginate(s.payments.list(asked.wallet, client), asked, func(p incomingPayment) string { return p.key })
	if !ok {
		return resourceError(http.StatusBadRequest, "cursor is not one that was given out")
	}
	writeJSON(w, http.StatusOK, page)
	return nil
}
