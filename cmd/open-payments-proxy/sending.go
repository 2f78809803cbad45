// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"
)

// limits are how long a request waits for what.
type limits struct {
	token  time.Duration // for a token and a signature
	answer time.Duration // for the wallet's answer, counted from the first byte that goes out
}

// answerTimeout is the limit for the wallet's answer.
const answerTimeout = time.Minute

var (
	errCallerGone = errors.New("the caller hung up before anything was sent")
	errWaited     = errors.New("there was no token or no signature in time; nothing was sent; " +
		"the rotation goes on, so try again")
	errNoAnswer = errors.New("the wallet does not answer")
)

// sending is the context of a request to the wallet. Until the first byte goes out, it ends with the
// caller's context, or when the wait for a token and a signature is over. From then on nothing ends
// it but the limit for the answer: the request may already have paid, so its outcome has to be learned. A
// request that the wallet has refused (401, 403) has done nothing, so before it is repeated both
// limits count again.
type sending struct {
	context.Context
	cancel context.CancelCauseFunc
	caller context.Context
	limits limits

	mu      sync.Mutex
	sent    bool // the request is on its way, or was carried out
	timer   *time.Timer
	unwatch func() bool
}

type sendingKey struct{}

func newSending(caller context.Context, l limits) *sending {
	s := &sending{caller: caller, limits: l}
	s.Context, s.cancel = context.WithCancelCause(context.WithoutCancel(caller))
	s.timer = time.AfterFunc(l.token, func() { s.giveUp(errWaited) })
	s.unwatch = context.AfterFunc(caller, func() { s.giveUp(errCallerGone) })
	return s
}

// Value makes the sending known to the transport that sends the request.
func (s *sending) Value(key any) any {
	if key == (sendingKey{}) {
		return s
	}
	return s.Context.Value(key)
}

// giveUp ends the sending if nothing is on its way.
func (s *sending) giveUp(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.sent {
		s.cancel(cause)
	}
}

// signed notes that there are a token and a signature: nothing more has to be waited for but the
// connection.
func (s *sending) signed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timer.Stop()
}

// begin reports whether the request may go out, which cannot be taken back.
func (s *sending) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Err() != nil {
		return false
	}
	s.sent = true
	s.limit(s.limits.answer, errNoAnswer)
	return true
}

// limit ends the sending after a time. The caller holds the lock.
func (s *sending) limit(d time.Duration, cause error) {
	s.timer.Stop()
	s.timer = time.AfterFunc(d, func() {
		if errors.Is(cause, errNoAnswer) {
			s.cancel(cause)
			return
		}
		s.giveUp(cause)
	})
}

// refused notes that the wallet has refused the request, which has thereby done nothing.
func (s *sending) refused() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent = false
	if s.caller.Err() != nil {
		s.cancel(errCallerGone)
		return
	}
	s.limit(s.limits.token, errWaited)
}

// answered notes that the answer is the one to pass on: it is read to its end.
func (s *sending) answered() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent = true
	s.limit(s.limits.answer, errNoAnswer)
}

// onItsWay reports whether the request went out and was not refused.
func (s *sending) onItsWay() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent
}

// end releases everything that belongs to the sending.
func (s *sending) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unwatch()
	s.timer.Stop()
	s.cancel(nil)
}

// walletError is an error of the connection to the wallet.
type walletError struct{ error }

func (e walletError) Unwrap() error { return e.error }

// outbound sends signed requests to the wallet, and nothing else.
type outbound struct{ base http.RoundTripper }

// newOutbound returns the way out. HTTP/1.1 alone: a connection that has gone silent then holds up
// one request, and ends with it. Open Payments servers close idle connections after 5 s.
func newOutbound() outbound {
	base := http.DefaultTransport.(*http.Transport).Clone()
	base.DialContext = (&net.Dialer{Timeout: 10 * time.Second}).DialContext
	base.IdleConnTimeout = 3 * time.Second
	base.Protocols = new(http.Protocols)
	base.Protocols.SetHTTP1(true)
	base.MaxResponseHeaderBytes = 64 << 10
	base.DisableCompression = true // answers pass unaltered
	return outbound{base}
}

var errNotSigned = errors.New("a request without a signature is not sent")

// RoundTrip sends a request that a sending allows to go out.
func (o outbound) RoundTrip(r *http.Request) (*http.Response, error) {
	s, ok := r.Context().Value(sendingKey{}).(*sending)
	if !ok || r.Header.Get("Signature") == "" {
		return nil, errNotSigned
	}
	s.signed()
	trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		if !s.begin() {
			_ = info.Conn.Close() // the transport does not look at the context again before it writes
		}
	}}
	resp, err := o.base.RoundTrip(r.WithContext(httptrace.WithClientTrace(r.Context(), trace)))
	if err != nil {
		return nil, walletError{err}
	}
	if resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden {
		s.refused()
	}
	return resp, nil
}
