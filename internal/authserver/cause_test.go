// SPDX-License-Identifier: MPL-2.0

package authserver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// listening accepts connections on loopback until the test ends, and returns its host and port.
func listening(t *testing.T, serve func(*net.TCPConn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go serve(conn.(*net.TCPConn)) //nolint:forcetypeassert // of a TCP listener
		}
	}()
	return l.Addr().String()
}

// saying reads something, writes s and closes the connection.
func saying(s string) func(*net.TCPConn) {
	return func(conn *net.TCPConn) {
		_, _ = conn.Read(make([]byte, 4096))
		_, _ = io.WriteString(conn, s)
		_ = conn.CloseWrite()
		_, _ = io.Copy(io.Discard, conn)
		_ = conn.Close()
	}
}

// resetting reads something and resets the connection.
func resetting(conn *net.TCPConn) {
	_, _ = conn.Read(make([]byte, 4096))
	_ = conn.SetLinger(0)
	_ = conn.Close()
}

// closedPort returns a host and port that nothing listens at.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// secure starts a TLS server with a certificate of its own, and returns its host and port and the
// certificate in PEM.
func secure(t *testing.T, change func(*x509.Certificate), config *tls.Config) (address, ca string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: now.Add(-2 * time.Hour), NotAfter: now.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	change(template)
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	config = config.Clone()
	if config.GetCertificate == nil {
		config.Certificates = []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"access_token":{"value":"v"}}`)
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	l := tls.NewListener(server.Listener, config)
	server.Listener = l
	server.Start()
	t.Cleanup(server.Close)
	return l.Addr().String(), string(pem.EncodeToMemory(&pem.Block{Type: certificateLabel, Bytes: der}))
}

func asItIs(*x509.Certificate) {}

// E7: each class of cause is told, and whether the server may have heard the request.
func TestCauses(t *testing.T) {
	secured := func(change func(*x509.Certificate), config *tls.Config) func(*testing.T, *Client) string {
		return func(t *testing.T, c *Client) string {
			address, ca := secure(t, change, config)
			c.CACert = ca
			return "https://" + address
		}
	}
	raw := func(scheme string, serve func(*net.TCPConn)) func(*testing.T, *Client) string {
		return func(t *testing.T, _ *Client) string { return scheme + "://" + listening(t, serve) }
	}
	named := func(name string) func(*testing.T, *Client) string {
		return func(t *testing.T, _ *Client) string {
			resolveBy(t)
			return "https://" + name
		}
	}
	certificateWanted := &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	certificateWanted12 := &tls.Config{ClientAuth: tls.RequireAnyClientCert, MaxVersion: tls.VersionTLS12}
	for name, row := range map[string]struct {
		server func(*testing.T, *Client) string
		words  string
		heard  bool
	}{
		"unknown CA": {func(t *testing.T, _ *Client) string {
			address, _ := secure(t, asItIs, &tls.Config{})
			return "https://" + address
		}, "ca_cert of config", false},
		"another name": {secured(func(c *x509.Certificate) {
			c.IPAddresses, c.DNSNames = nil, []string{"s3cr3t.example"}
		}, &tls.Config{}), "for another name", false},
		"expired": {secured(func(c *x509.Certificate) {
			c.NotAfter = time.Now().Add(-time.Hour)
		}, &tls.Config{}), "has expired", false},
		"not valid yet": {secured(func(c *x509.Certificate) {
			c.NotBefore = time.Now().Add(30 * time.Minute)
		}, &tls.Config{}), "not valid yet; check the clock", false},
		"not for a server": {secured(func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		}, &tls.Config{}), "not valid for a server", false},
		"client certificate":          {secured(asItIs, certificateWanted), "requires a client certificate", false},
		"client certificate, TLS 1.2": {secured(asItIs, certificateWanted12), "requires a client certificate", false},
		"TLS 1.1": {secured(asItIs, &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}),
			"TLS 1.2 or later", false},
		"unknown host": {secured(asItIs, &tls.Config{
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil },
		}), "does not serve this host name", false},
		"no common cipher": {secured(asItIs, &tls.Config{
			MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA},
		}), "the TLS handshake failed", false},
		"https to a plain port": {func(t *testing.T, _ *Client) string {
			server := httptest.NewServer(http.NotFoundHandler())
			t.Cleanup(server.Close)
			return strings.Replace(server.URL, "http:", "https:", 1)
		}, "speaks plain HTTP", false},
		"https to SSH":          {raw("https", saying("SSH-2.0-s3cr3t\r\n")), "does not speak TLS", false},
		"reset in a handshake":  {raw("https", resetting), "reset during the TLS handshake", false},
		"closed in a handshake": {raw("https", saying("")), "closed during the TLS handshake", false},
		"refused": {func(t *testing.T, _ *Client) string { return "http://" + closedPort(t) },
			"connection refused; check the port", false},
		"reset":          {raw("http", resetting), "the connection was reset", true},
		"closed":         {raw("http", saying("")), "closed without an answer", true},
		"an alert":       {raw("http", saying("\x15\x03\x01\x00\x02\x02\x46")), "not HTTP/1.1", true},
		"SSH":            {raw("http", saying("SSH-2.0-s3cr3t\r\n")), "not HTTP/1.1", true},
		"a large header": {raw("http", saying("HTTP/1.1 200 OK\r\nX: "+strings.Repeat("x", 70<<10))), "64 KiB", true},
		"no such name":   {named("nowhere.example"), "no such name in DNS", false},
		"no DNS":         {named("broken.example"), "DNS could not look up", false},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := clientAt(t, "https://127.0.0.1/client")
			server := row.server(t, c)
			f, ok := c.Rotate(context.Background(), server+"/token/s3cr3t?s3cr3t", "t").(RequestFailed)
			text := f.Error()
			if !ok || f.Status != 0 || f.MaybeHeard() != row.heard || f.Rule != nil || f.Timeout {
				t.Errorf("%+v", f)
			}
			if !strings.HasPrefix(text, server+" could not be reached: ") || !strings.Contains(text, row.words) || strings.Contains(text, "s3cr3t") {
				t.Errorf("%s\ndoes not say %q", text, row.words)
			}
		})
	}
}

// resolveBy makes the name nowhere.example unknown until the test ends, and breaks DNS for all others.
func resolveBy(t *testing.T) {
	t.Helper()
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	before := net.DefaultResolver
	t.Cleanup(func() {
		net.DefaultResolver = before
		_ = server.Close()
	})
	go func() {
		message := make([]byte, 512)
		for {
			n, from, err := server.ReadFrom(message)
			if err != nil {
				return
			}
			message[2] |= 0x80 // an answer (RFC 1035 section 4.1.1)
			message[3] = 2     // SERVFAIL
			if strings.Contains(string(message[:n]), "nowhere") {
				message[3] = 3 // NXDOMAIN
			}
			_, _ = server.WriteTo(message[:n], from)
		}
	}()
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", server.LocalAddr().String())
	}}
}

// A time limit is told by what it was waited for.
func TestTimeLimits(t *testing.T) {
	for scheme, row := range map[string]struct {
		words string
		heard bool
	}{
		"http":  {"did not answer in time", true},
		"https": {"the TLS handshake did not end in time", false},
	} {
		arrived, release := make(chan struct{}), make(chan struct{})
		address := listening(t, func(conn *net.TCPConn) {
			_, _ = conn.Read(make([]byte, 4096))
			close(arrived)
			<-release
			_ = conn.Close()
		})
		c, clock := clientAt(t, scheme+"://"+address+"/client")
		out := make(chan Outcome)
		go func() { out <- c.Rotate(context.Background(), scheme+"://"+address+"/token/1", "t") }()
		<-arrived
		clock.Advance(AnswerTimeout)
		if f, ok := (<-out).(RequestFailed); !ok || !f.Timeout || f.MaybeHeard() != row.heard || !strings.Contains(f.Error(), row.words) {
			t.Errorf("%s: %v", scheme, f)
		}
		close(release)
	}
}

// What our own rules forbid is not sent.
func TestNotSent(t *testing.T) {
	c, _ := clientAt(t, "https://wallet.example/client")
	for target, rule := range map[string]error{
		"https://127.0.0.1/token/1": errNotPublic, "http://wallet.example/token/1": errPlainHTTP,
	} {
		f, ok := c.Rotate(context.Background(), target, "t").(RequestFailed)
		if !ok || !errors.Is(f.Rule, rule) || f.MaybeHeard() || !strings.Contains(f.Error(), rule.Error()) {
			t.Errorf("%s: %v", target, f)
		}
	}
}

// "answered 404" without the path is a riddle, but a grant's own URLs are secrets.
func TestPathsThatWereTyped(t *testing.T) {
	c, server := answering(t, http.StatusNotFound, "text/html", "<html>")
	c.WalletAddress += "/alice"
	ask := func() error {
		return c.RequestGrant(context.Background(), server+"/auth?s3cr3t", json.RawMessage(`[]`), nil).(RequestFailed) //nolint:forcetypeassert // 404
	}
	at := Continuation{URL: server + "/continue/s3cr3t", Token: "t"}
	_, walletErr := c.Wallet(context.Background(), c.WalletAddress)
	_, mistakeErr := c.Wallet(context.Background(), server+"/auth/token/68eeb0b6-bb65-a3cf-b2b7-a52f0605d7ae")
	discovered := ask()
	c.TypedEndpoint = server + "/auth?s3cr3t"
	typed := ask()
	rotated, _ := c.Rotate(context.Background(), server+"/token/s3cr3t", "t").(RequestFailed)
	continued, _ := c.Continue(context.Background(), at, "").(RequestFailed)
	for what, row := range map[string]struct {
		err  error
		text string
	}{
		"wallet":     {walletErr, server + "/client/alice answered 404"},
		"mistake":    {mistakeErr, server + "/auth/token/… answered 404"},
		"typed":      {typed, server + "/auth answered 404"},
		"discovered": {discovered, server + " answered 404"},
		"rotate":     {rotated, server + " answered 404"},
		"continue":   {continued, server + " answered 404"},
		"cancel":     {c.Cancel(context.Background(), at), server + " answered 404"},
		"revoke":     {c.Revoke(context.Background(), server+"/token/s3cr3t", "t"), server + " answered 404"},
	} {
		if row.err == nil || row.err.Error() != row.text {
			t.Errorf("%s: %v", what, row.err)
		}
	}
	c, server = answering(t, http.StatusInternalServerError, "text/html", "")
	if _, err := c.KeyPublished(context.Background()); err == nil || err.Error() != server+"/client/jwks.json answered 500" {
		t.Errorf("%v", err)
	}
	c, server = answering(t, http.StatusOK, "text/html", "<html>")
	_, keysErr := c.KeyPublished(context.Background())
	_, walletErr = c.Wallet(context.Background(), server+"/client")
	if keysErr == nil || walletErr == nil || !strings.Contains(keysErr.Error(), server+"/client/jwks.json") ||
		!strings.Contains(walletErr.Error(), server+"/client answered") {
		t.Errorf("%v; %v", keysErr, walletErr)
	}
}

// An answer that is not what was asked for is told by what it is.
func TestUnusableAnswers(t *testing.T) {
	for words, serve := range map[string]http.HandlerFunc{
		"larger than 1 MiB": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"x":"`+strings.Repeat("x", maxAnswer))
		},
		"it was cut off": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, `{"access_token":`)
		},
		"it is not JSON": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `<html>`) },
	} {
		server := httptest.NewServer(serve)
		c, _ := clientAt(t, server.URL+"/client")
		f, ok := c.Rotate(context.Background(), server.URL+"/token/1", "t").(RequestFailed)
		if !ok || !f.MaybeHeard() || !f.Unreadable || !strings.HasSuffix(f.Error(), "could not be read: "+words) &&
			!strings.HasSuffix(f.Error(), "could not be read: it is "+words) {
			t.Errorf("%v", f)
		}
		server.Close()
	}
}

// Servers tell of a wrong scheme or of a missing client certificate with a page.
func TestPagesAboutTLS(t *testing.T) {
	page := func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "s3cr3t", http.StatusBadRequest)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(page))
	server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	c, _ := clientAt(t, server.URL+"/client")
	c.CACert = string(pem.EncodeToMemory(&pem.Block{Type: certificateLabel, Bytes: server.Certificate().Raw}))
	for target, words := range map[string]string{
		server.URL: "answered 400: it asked for a client certificate",
		strings.Replace(server.URL, "https:", "http:", 1): "answered 400: if that is a TLS port, write https",
	} {
		f, ok := c.Rotate(context.Background(), target+"/token/1", "t").(RequestFailed)
		if !ok || f.MaybeHeard() || !strings.Contains(f.Error(), words) || strings.Contains(f.Error(), "s3cr3t") {
			t.Errorf("%v", f)
		}
	}
}
