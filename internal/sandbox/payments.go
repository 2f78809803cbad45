// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"math"
	"net/http"
	"sync"
	"time"
)

// payments are the incoming payments, quotes and outgoing payments, oldest first. One lock for all
// of them makes a payment a single step: its limits cannot change before it is counted.
type payments struct {
	mu       sync.Mutex
	incoming []*incomingPayment
	quotes   []*paymentQuote
	outgoing []*outgoingPayment
}

// receiverLocked finds the incoming payment to pay and checks that it can be paid now. The sandbox
// pays nobody else.
func (p *payments) receiverLocked(url string, now time.Time) (*incomingPayment, error) {
	for _, payment := range p.incoming {
		if payment.ID != url {
			continue
		}
		if payment.Completed || (!payment.expires.IsZero() && !now.Before(payment.expires)) {
			return nil, resourceError(http.StatusBadRequest, "the incoming payment is completed or expired")
		}
		return payment, nil
	}
	return nil, resourceError(http.StatusBadRequest, "the receiver is not an incoming payment of the sandbox")
}

// remaining returns how much an incoming payment can still receive.
func (p *incomingPayment) remaining() uint64 {
	received := p.ReceivedAmount.units()
	if p.IncomingAmount == nil {
		return math.MaxUint64 - received
	}
	return p.IncomingAmount.units() - received
}

// receive adds a payment, which must not exceed what remains, and completes the incoming payment
// when it is full.
func (p *incomingPayment) receive(units uint64) {
	p.ReceivedAmount = inSandboxAsset(p.ReceivedAmount.units() + units)
	p.Completed = p.Completed || p.remaining() == 0
}
