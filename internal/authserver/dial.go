// SPDX-License-Identifier: MPL-2.0

package authserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/uri"
)

// reach is the set of addresses that a request may be sent to.
type reach int

const (
	reachPublic   reach = iota // a host that a document or an answer named
	reachOperator              // a host that an operator typed: also private addresses
	reachLoopback              // plain http
	reaches
)

// CheckReach returns why this client may not send a request to u.
func (c *Client) CheckReach(u *url.URL) error {
	_, err := reachOf(u, c.operatorHosts)
	return err
}

// reachOf decides where a request for u may go. Private addresses are for hosts that an operator
// typed, never for hosts that somebody else's document names: else a wallet could make Vault talk
// to its neighbours.
func reachOf(u *url.URL, operatorHosts []string) (reach, error) {
	typed := slices.Contains(operatorHosts, strings.ToLower(u.Hostname()))
	switch {
	case u.Scheme == "https" && typed:
		return reachOperator, nil
	case u.Scheme == "https":
		if addr, err := netip.ParseAddr(u.Hostname()); uri.IsLoopback(u.Hostname()) || err == nil && !isPublic(addr) {
			return 0, errNotPublic
		}
		return reachPublic, nil
	case u.Scheme == "http" && uri.IsLoopback(u.Hostname()) && typed:
		return reachLoopback, nil
	case u.Scheme == "http" && uri.IsLoopback(u.Hostname()):
		return 0, errNotPublic
	}
	return 0, errPlainHTTP
}

var (
	errNotPublic = errors.New("is a loopback, private or link-local address that no operator named; " +
		"if it is meant, put its origin into allowed_auth_servers of config")
	errPlainHTTP = errors.New("must be reached over https")
)

// notPublic holds the ranges of the IANA special-purpose address registries that netip has no
// method for: those that are not routed to one host, and the IPv6 forms that carry an IPv4 address.
var notPublic = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),       // this network
	netip.MustParsePrefix("100.64.0.0/10"),   // shared, carrier NAT
	netip.MustParsePrefix("192.0.0.0/24"),    // IETF protocols
	netip.MustParsePrefix("192.0.2.0/24"),    // documentation
	netip.MustParsePrefix("198.18.0.0/15"),   // benchmarks
	netip.MustParsePrefix("198.51.100.0/24"), // documentation
	netip.MustParsePrefix("203.0.113.0/24"),  // documentation
	netip.MustParsePrefix("240.0.0.0/4"),     // reserved, broadcast
	netip.MustParsePrefix("64:ff9b::/96"),    // NAT64
	netip.MustParsePrefix("64:ff9b:1::/48"),  // NAT64, local
	netip.MustParsePrefix("2001::/32"),       // Teredo
	netip.MustParsePrefix("2001:db8::/32"),   // documentation
	netip.MustParsePrefix("2002::/16"),       // 6to4
	netip.MustParsePrefix("fec0::/10"),       // site-local
}

func isPublic(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	return addr.IsGlobalUnicast() && !addr.IsPrivate() &&
		!slices.ContainsFunc(notPublic, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// control checks the very address that is about to be dialled, so that DNS cannot turn a public
// name into a private address.
func (r reach) control(_, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("address to dial: %w", err)
	}
	switch addr := ap.Addr().Unmap(); {
	case r == reachPublic && !isPublic(addr):
		return errNotPublic
	case r == reachLoopback && !addr.IsLoopback():
		return errPlainHTTP
	}
	return nil
}

// transports holds one transport per reach, so that a connection that was allowed for one request
// is not reused for another that is not allowed to make it.
type transports struct {
	mu     sync.Mutex
	caCert string
	made   [reaches]*http.Transport
}

// get returns the transport for a reach. It replaces all of them when the certificates have
// changed.
func (t *transports) get(r reach, caCert string) *http.Transport {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.made[r] == nil || t.caCert != caCert {
		pool := certificates(caCert)
		for i := range t.made {
			if t.made[i] != nil {
				t.made[i].CloseIdleConnections()
			}
			t.made[i] = newTransport(reach(i), pool)
		}
		t.caCert = caCert
	}
	return t.made[r]
}

// certificates returns the system's certificates and the given ones; nil, which means the system's,
// if none are given.
func certificates(pem string) *x509.CertPool {
	if pem == "" {
		return nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	pool.AppendCertsFromPEM([]byte(pem))
	return pool
}

func newTransport(r reach, pool *x509.CertPool) *http.Transport {
	dialer := &net.Dialer{Timeout: 10 * time.Second, Control: r.control}
	return &http.Transport{
		// No proxy: it would dial whatever a document names.
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, address)
		},
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool, NextProtos: []string{"http/1.1"}},
		TLSHandshakeTimeout: 10 * time.Second,
		// HTTP/1.1 only: all requests to an origin share one HTTP/2 connection, and if that goes silent
		// none of the origin's grants gets an answer.
		TLSNextProto:           map[string]func(string, *tls.Conn) http.RoundTripper{},
		DisableCompression:     true,
		MaxResponseHeaderBytes: 64 << 10,
		// Rafiki closes idle connections after 5 s. A connection that is kept longer breaks under a
		// POST, and nobody can tell whether the POST was read.
		IdleConnTimeout: 3 * time.Second,
	}
}
