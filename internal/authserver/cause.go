// SPDX-License-Identifier: MPL-2.0

package authserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http/httptrace"
	"slices"
	"sync/atomic"
	"syscall"
	"time"
)

// progress records how far a request has come. A dial may go on after its request has been given up.
type progress struct {
	dialled           atomic.Bool // something accepted the connection: the server, or the proxy
	tunnelled         atomic.Bool // the proxy has connected to the server
	handshaking       atomic.Bool // a TLS handshake has begun, and has not succeeded yet
	certificateWanted atomic.Bool // in a TLS handshake, a client certificate was asked for
	connected         atomic.Bool // a connection to the server has taken the request
}

type progressKey struct{}

// progressOf returns the progress of the request that a connection is made for.
func progressOf(ctx context.Context) *progress {
	if p, ok := ctx.Value(progressKey{}).(*progress); ok {
		return p
	}
	return &progress{}
}

// record returns a context that has a request's progress recorded in p.
func (p *progress) record(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(context.WithValue(ctx, progressKey{}, p), &httptrace.ClientTrace{
		ConnectDone: func(_, _ string, err error) {
			if err == nil {
				p.dialled.Store(true)
			}
		},
		TLSHandshakeStart: func() { p.handshaking.Store(true) },
		TLSHandshakeDone: func(_ tls.ConnectionState, err error) {
			if err == nil {
				p.handshaking.Store(false)
			}
		},
		GotConn: func(httptrace.GotConnInfo) { p.connected.Store(true) },
	})
}

// noAnswerError is why a request got no answer, and how far it had come.
type noAnswerError struct {
	err               error
	proxied           bool
	atProxy           bool // the proxy had not connected to the server yet
	dialled           bool
	handshaking       bool
	certificateWanted bool
	connected         bool
}

func (n *noAnswerError) Error() string { return n.err.Error() }
func (n *noAnswerError) Unwrap() error { return n.err }

// stopped returns the error of a request that had come so far.
func (p *progress) stopped(err error, proxied bool) *noAnswerError {
	n := &noAnswerError{
		err: err, proxied: proxied, dialled: p.dialled.Load(), handshaking: p.handshaking.Load(),
		certificateWanted: p.certificateWanted.Load(), connected: p.connected.Load(),
	}
	n.atProxy = proxied && !n.connected && !p.tunnelled.Load()
	return n
}

// heard reports whether the server may have heard the request. One that ends a TLS handshake because
// it got no client certificate does so before it reads the request, even if that was sent already
// (RFC 8446 section 4.4.2.4).
func (n *noAnswerError) heard() bool { return n.connected && !isAlert(n.err, alertCertificateRequired) }

// cause is the class of a failure: what happened, and what helps. It is ours, so that none of the
// server's words nor of the URL is in it.
type cause struct {
	what, help string
	isolated   bool // it may come of a network whose only way out is a proxy
}

const (
	helpHandshake = "the log there says why"
	helpPort      = "check the scheme (http or https) and the port"
	helpProxy     = "if a proxy is the only way out of this network, write it to egress_proxy of config"
)

// tell returns the cause as a clause, for a request that was sent through a proxy or not.
func (c cause) tell(proxied bool) string {
	text := c.what
	if c.help != "" {
		text += "; " + c.help
	}
	if c.isolated && !proxied {
		text += "; " + helpProxy
	}
	return text
}

// causes is the one table of causes. The first that fits counts.
var causes = []struct {
	cause
	fits func(*noAnswerError) bool
}{
	{cause{
		what: "its certificate, or that of a TLS proxy in between, is from a CA that is not trusted here",
		help: "if that is meant, add the CA's certificate to ca_cert of config",
	}, caused(isA[x509.UnknownAuthorityError], isA[x509.SystemRootsError])},
	{cause{
		what: "its certificate is for another name",
		help: "use the name that the certificate is for",
	}, caused(isA[x509.HostnameError])},
	{cause{
		what: "its certificate is not valid yet",
		help: "check the clock of this machine, and then the certificate",
	}, caused(isNotValidYet)},
	{cause{
		what: "its certificate has expired",
		help: "it has to be renewed, unless the clock of this machine is wrong",
	}, caused(isExpired)},
	{cause{
		what: "its certificate is not valid for a server",
		help: "it has to be replaced",
	}, caused(isA[*tls.CertificateVerificationError])},
	{cause{what: "it speaks plain HTTP where TLS was expected", help: helpPort}, caused(isPlainHTTP)},
	{cause{what: "it does not speak TLS", help: helpPort}, caused(isA[tls.RecordHeaderError])},
	{cause{
		what: "it requires a client certificate, and this engine has none",
		help: "it has to be reachable without one",
	}, wantsCertificate},
	{cause{what: "it does not support TLS 1.2 or later"}, alerted(alertProtocolVersion)},
	{cause{what: "it does not serve this host name", help: "check the host name"}, alerted(alertUnrecognizedName)},
	{cause{what: "there is no such name in DNS", help: "check the host name", isolated: true}, caused(isNoSuchName)},
	{cause{
		what: "DNS could not look up its name", help: "try again, or check the DNS of this machine", isolated: true,
	}, caused(isA[*net.DNSError])},
	{cause{
		what: "connection refused", help: "check the port, and whether anything listens there",
	}, caused(is(syscall.ECONNREFUSED))},
	{cause{what: "there is no route to it", isolated: true}, caused(isUnreachable)},
	{cause{
		what: "this machine does not permit the connection", help: "check its firewall",
	}, caused(is(syscall.EPERM, syscall.EACCES))},
	{cause{
		what: "the TLS handshake did not end in time", help: helpPort,
	}, func(n *noAnswerError) bool { return n.handshaking && isTimeout(n.err) }},
	{cause{
		what: "no connection was accepted in time", help: "a firewall may be in between", isolated: true,
	}, func(n *noAnswerError) bool { return !n.connected && !n.dialled && isTimeout(n.err) }},
	{cause{what: "no answer in time"}, caused(isTimeout)},
	{cause{
		what: "the connection was reset during the TLS handshake", help: helpHandshake,
	}, func(n *noAnswerError) bool { return n.handshaking && isReset(n.err) }},
	{cause{
		what: "the connection was closed during the TLS handshake", help: helpHandshake,
	}, func(n *noAnswerError) bool { return n.handshaking && isClosed(n.err) }},
	{cause{what: "the TLS handshake failed", help: helpHandshake}, handshakeFailed},
	{cause{what: "the connection was reset"}, caused(isReset)},
	{cause{what: "the connection was closed without an answer"}, caused(isClosed)},
	{cause{
		what: "its answer is not HTTP/1.1, or has a header larger than 64 KiB", help: helpPort,
	}, func(n *noAnswerError) bool { return n.dialled || n.connected }},
}

// classify returns the cause of an error that a request ended with; the zero value if it is none
// that is known.
func classify(err error) cause {
	n, ok := errors.AsType[*noAnswerError](err)
	if !ok {
		n = &noAnswerError{err: err}
	}
	for _, row := range causes {
		if row.fits(n) {
			return row.cause
		}
	}
	return cause{}
}

// caused returns a condition of the table that looks at the error only.
func caused(conditions ...func(error) bool) func(*noAnswerError) bool {
	return func(n *noAnswerError) bool {
		return slices.ContainsFunc(conditions, func(holds func(error) bool) bool { return holds(n.err) })
	}
}

// is returns a function that reports whether an error is one of those given.
func is(targets ...error) func(error) bool {
	return func(err error) bool {
		return slices.ContainsFunc(targets, func(target error) bool { return errors.Is(err, target) })
	}
}

// isA reports whether an error is of a type.
func isA[T error](err error) bool {
	_, ok := errors.AsType[T](err)
	return ok
}

func isTimeout(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout() || is(context.DeadlineExceeded, context.Canceled)(err)
}

var (
	isUnreachable = is(
		syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.ENETDOWN, syscall.EHOSTDOWN, syscall.EADDRNOTAVAIL)
	isReset  = is(syscall.ECONNRESET, syscall.EPIPE, syscall.ECONNABORTED)
	isClosed = is(io.EOF, io.ErrUnexpectedEOF, net.ErrClosed)
)

func isNoSuchName(err error) bool {
	e, ok := errors.AsType[*net.DNSError](err)
	return ok && e.IsNotFound && !e.IsTemporary
}

// isExpired reports whether a certificate's time is over or has not come.
func isExpired(err error) bool {
	e, ok := errors.AsType[x509.CertificateInvalidError](err)
	return ok && e.Reason == x509.Expired
}

func isNotValidYet(err error) bool {
	e, ok := errors.AsType[x509.CertificateInvalidError](err)
	return ok && e.Reason == x509.Expired && e.Cert != nil && time.Now().Before(e.Cert.NotBefore)
}

func isPlainHTTP(err error) bool {
	e, ok := errors.AsType[tls.RecordHeaderError](err)
	return ok && string(e.RecordHeader[:]) == "HTTP/"
}

// alert is a TLS alert.
type alert uint8

// The alerts of RFC 8446 section 6 that mean something here.
const (
	alertHandshakeFailure    = alert(40)
	alertBadCertificate      = alert(42)
	alertAccessDenied        = alert(49)
	alertProtocolVersion     = alert(70)
	alertUnrecognizedName    = alert(112)
	alertCertificateRequired = alert(116)
)

// alertOf returns the alert with which the other side has ended a TLS connection. Package tls does
// not export the type of such an error, but another one with the same text.
func alertOf(err error) (text string, ok bool) {
	e, ok := errors.AsType[*net.OpError](err)
	for ok && e.Op != "remote error" {
		e, ok = errors.AsType[*net.OpError](e.Err)
	}
	if !ok || e.Err == nil {
		return "", false
	}
	return e.Err.Error(), true
}

func isAlert(err error, alerts ...alert) bool {
	text, ok := alertOf(err)
	return ok && slices.ContainsFunc(alerts, func(a alert) bool { return tls.AlertError(a).Error() == text })
}

func alerted(a alert) func(*noAnswerError) bool {
	return func(n *noAnswerError) bool { return isAlert(n.err, a) }
}

// wantsCertificate reports whether the server has ended the connection for want of a client
// certificate. Only TLS 1.3 has an alert for just that.
func wantsCertificate(n *noAnswerError) bool {
	return isAlert(n.err, alertCertificateRequired) ||
		n.certificateWanted && isAlert(n.err, alertHandshakeFailure, alertBadCertificate, alertAccessDenied)
}

func handshakeFailed(n *noAnswerError) bool {
	_, ok := alertOf(n.err)
	return ok || n.handshaking
}

// unreadableBecause returns why an answer could not be read; empty if it is not known.
func unreadableBecause(err error) string {
	switch {
	case errors.Is(err, errTooLarge):
		return "it is larger than 1 MiB"
	case isTimeout(err):
		return "it did not end in time"
	case isReset(err), isClosed(err):
		return "it was cut off"
	case isA[*json.SyntaxError](err):
		return "it is not JSON"
	}
	return ""
}
