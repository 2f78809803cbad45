// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// tcpConnection is a TCP connection that can go silent.
type tcpConnection struct {
	net.Conn
	silent atomic.Bool
}

// Read discards what arrives on a silent connection, and returns when the other side closes it.
func (c *tcpConnection) Read(p []byte) (int, error) {
	for {
		n, err := c.Conn.Read(p)
		if err != nil || !c.silent.Load() {
			return n, err
		}
	}
}

// Write discards what is written to a silent connection.
func (c *tcpConnection) Write(p []byte) (int, error) {
	if c.silent.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// resetOnClose makes Close send a TCP reset.
func (c *tcpConnection) resetOnClose() {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
}

// tcpListener accepts connections that can go silent.
type tcpListener struct{ net.Listener }

func (l tcpListener) Accept() (net.Conn, error) {
	accepted, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &tcpConnection{Conn: accepted}, nil
}

// connection is the connection on which a request arrived; zero if unknown.
type connection struct {
	top net.Conn // the connection that carries HTTP: TCP, or TLS on TCP
	tcp *tcpConnection
}

type connectionKey struct{}

// withConnection adds the connection to the context of its requests (http.Server.ConnContext).
func withConnection(ctx context.Context, c net.Conn) context.Context {
	known := connection{top: c}
	if secured, ok := c.(*tls.Conn); ok {
		c = secured.NetConn()
	}
	known.tcp, _ = c.(*tcpConnection)
	return context.WithValue(ctx, connectionKey{}, known)
}

func connectionOf(r *http.Request) connection {
	known, _ := r.Context().Value(connectionKey{}).(connection)
	return known
}

// newCertificate returns a self-signed certificate for loopback, and the same in PEM.
func newCertificate() (tls.Certificate, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("generating the server's key: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "Open Payments sandbox"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("signing the server's certificate: %w", err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, text, nil
}
