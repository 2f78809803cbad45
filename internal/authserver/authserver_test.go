// SPDX-License-Identifier: MPL-2.0

package authserver

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/jonboulle/clockwork"
)

func TestReachOf(t *testing.T) {
	typed := HostsOf("https://wallet.internal:8443/alice", "https://10.0.0.7/x", "http://127.0.0.1:4000/bob", "https://[fd00::7]/")
	for text, want := range map[string]any{
		"https://auth.example/":              reachPublic,
		"https://93.184.216.34/":             reachPublic,
		"https://wallet.internal/auth":       reachOperator,
		"https://WALLET.internal/auth":       reachOperator,
		"https://10.0.0.7:9000/auth":         reachOperator,
		"https://[fd00::7]/auth":             reachOperator,
		"http://127.0.0.1:4001/auth":         reachLoopback,
		"http://localhost:4000/":             errNotPublic,
		"http://127.0.0.2/":                  errNotPublic,
		"https://localhost/":                 errNotPublic,
		"https://10.0.0.8/":                  errNotPublic,
		"https://[::ffff:10.0.0.8]/":         errNotPublic,
		"https://169.254.169.254/latest/api": errNotPublic,
		"http://10.0.0.7/":                   errPlainHTTP,
		"http://wallet.internal/":            errPlainHTTP,
		"http://auth.example/":               errPlainHTTP,
		"ftp://auth.example/":                errPlainHTTP,
	} {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		got, err := reachOf(u, typed)
		if wantErr, ok := want.(error); ok {
			if !errors.Is(err, wantErr) {
				t.Errorf("%s: %v %v, want %v", text, got, err, wantErr)
			}
		} else if err != nil || got != want {
			t.Errorf("%s: %v %v, want %v", text, got, err, want)
		}
	}
}

// The address counts, not the name: DNS is asked by the dialler itself.
func TestAddressesThatAreDialled(t *testing.T) {
	for address, public := range map[string]bool{
		"93.184.216.34": true, "2606:2800:220:1:248:1893:25c8:1946": true, "172.32.0.1": true, "100.128.0.1": true,
		"127.0.0.1": false, "10.1.1.1": false, "172.31.255.255": false, "192.168.1.1": false, "169.254.169.254": false, "0.0.0.0": false,
		"100.64.0.1": false, "198.18.0.1": false, "224.0.0.1": false, "255.255.255.255": false, "240.0.0.1": false, "192.0.0.8": false,
		"::1": false, "::": false, "fe80::1": false, "fe80::1%eth0": false, "fd00::1": false, "::ffff:127.0.0.1": false, "::ffff:10.0.0.1": false,
		"64:ff9b::a00:1": false, "2002:a00:1::1": false, "ff02::1": false, "fec0::1": false,
	} {
		if got := isPublic(netip.MustParseAddr(address)); got != public {
			t.Errorf("%s: public %v, want %v", address, got, public)
		}
		hostport := net.JoinHostPort(address, "443")
		if err := reachPublic.control("tcp", hostport, nil); (err == nil) != public {
			t.Errorf("%s: %v", address, err)
		}
		if err := reachOperator.control("tcp", hostport, nil); err != nil {
			t.Errorf("%s was typed: %v", address, err)
		}
	}
	if err := reachLoopback.control("tcp", "93.184.216.34:80", nil); !errors.Is(err, errPlainHTTP) {
		t.Errorf("plain http to a public address: %v", err)
	}
}

// A name that nobody typed and that resolves to loopback is not connected to.
func TestNameThatResolvesToLoopback(t *testing.T) {
	var asked atomic.Int32
	trap := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer trap.Close()
	transport := newTransport(reachPublic, nil)
	transport.TLSClientConfig.InsecureSkipVerify = true // it must not come so far
	_, err := transport.RoundTrip(httptest.NewRequest(http.MethodGet, strings.Replace(trap.URL, "127.0.0.1", "localhost", 1), nil))
	if !errors.Is(err, errNotPublic) || asked.Load() != 0 {
		t.Errorf("%v", err)
	}
}

// A connection that was made for an operator's host must not serve a request that could not have
// made it.
func TestConnectionsAreNotShared(t *testing.T) {
	var b transports
	before := b.get(reachOperator, "")
	if before == b.get(reachPublic, "") || before == b.get(reachLoopback, "") || before != b.get(reachOperator, "") {
		t.Error("want one transport per reach")
	}
	if b.get(reachOperator, "x") == before {
		t.Error("other certificates need another transport")
	}
}

func TestTransportLimits(t *testing.T) {
	transport := newTransport(reachOperator, nil)
	if transport.TLSClientConfig.MinVersion != tls.VersionTLS12 || transport.IdleConnTimeout != 3*time.Second || transport.Proxy != nil {
		t.Error("TLS 1.2 or later, idle connections closed after 3 s, no proxy")
	}
}

// clientAt returns a client whose wallet address is at a server of the test's, and its clock.
func clientAt(t *testing.T, address string) (*Client, *clockwork.FakeClock) {
	t.Helper()
	key, err := NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	clock := clockwork.NewFakeClockAt(time.Now()) // net/http compares deadlines with real time
	id := Identity{WalletAddress: address, KeyID: "key-1", PrivateKey: key, RequestTimeout: 10 * time.Second}
	return NewNetwork(clock).Client(id), clock
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	var followed atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/elsewhere" {
			followed.Add(1)
		}
		http.Redirect(w, req, "/elsewhere", http.StatusTemporaryRedirect)
	}))
	defer server.Close()
	c, _ := clientAt(t, server.URL+"/client")
	out, ok := c.Rotate(context.Background(), server.URL+"/token/1", "t").(RequestFailed)
	if !ok || out.Status != http.StatusTemporaryRedirect {
		t.Errorf("%v", out)
	}
	if _, err := c.Wallet(context.Background(), server.URL+"/client"); err == nil {
		t.Error("a redirected document was taken")
	}
	if followed.Load() != 0 {
		t.Error("a redirect was followed")
	}
}

func TestLargeAnswersAreNotRead(t *testing.T) {
	var written atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"access_token":{"value":"v","manage":"m"},"x":"`)
		for range 64 << 10 {
			n, err := io.WriteString(w, strings.Repeat("x", 1024))
			written.Add(int64(n))
			if err != nil {
				return
			}
		}
	}))
	defer server.Close()
	c, _ := clientAt(t, server.URL+"/client")
	// What there is of it holds the token, which nobody can request again.
	if out, ok := c.Rotate(context.Background(), server.URL+"/token/1", "t").(TokenIssued); !ok || out.Value != "v" || out.Manage != "m" {
		t.Errorf("%+v", out)
	}
	if n := written.Load(); n > 32<<20 {
		t.Errorf("%d bytes were taken", n)
	}
}

func TestCACert(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprint(w, `{"id":"x","authServer":"https://auth.example","resourceServer":"https://rs.example"}`)
	}))
	defer server.Close()
	c, _ := clientAt(t, server.URL+"/client")
	if _, err := c.Wallet(context.Background(), server.URL+"/client"); err == nil {
		t.Fatal("an unknown certificate was trusted")
	}
	c.CACert = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	if normal, err := NormalizeCACert(c.CACert); err != nil || normal != c.CACert {
		t.Fatal(err)
	}
	if _, err := c.Wallet(context.Background(), server.URL+"/client"); err != nil {
		t.Error(err)
	}
}

func TestDocumentsAreNotWaitedForLongerThanAsked(t *testing.T) {
	hang := make(chan struct{})
	arrived := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(arrived)
		<-hang
	}))
	defer server.Close()
	defer close(hang)
	c, clock := clientAt(t, server.URL+"/client")
	failure := make(chan error)
	go func() {
		_, err := c.Wallet(context.Background(), server.URL+"/client")
		failure <- err
	}()
	<-arrived
	clock.Advance(c.RequestTimeout)
	var f RequestFailed
	if err := <-failure; !errors.As(err, &f) || !f.Timeout {
		t.Errorf("%v", err)
	}
}

// A server's own words never come into ours: Vault and its clients match phrases.
func TestServersWordsAreNotRepeated(t *testing.T) {
	phrase := logical.ErrReadOnly.Error()
	for _, body := range []string{
		`{"error":{"code":"` + phrase + `","description":"` + phrase + `"}}`, `{"error":"` + phrase + `"}`, phrase,
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, body)
		}))
		c, _ := clientAt(t, server.URL+"/client")
		out, ok := c.Rotate(context.Background(), server.URL+"/token/s3cr3t", "t").(RequestFailed)
		if text := out.Error(); !ok || strings.Contains(text, phrase) || strings.Contains(text, "s3cr3t") || !strings.Contains(text, server.URL) {
			t.Errorf("%s", text)
		}
		server.Close()
	}
}

func TestErrorCode(t *testing.T) {
	for body, want := range map[string]string{
		`{"error":{"code":"invalid_client","description":"x"}}`: "invalid_client",
		`{"error":"invalid_rotation"}`:                          "invalid_rotation",
		`{"error":{"description":"x"}}`:                         "",
		`{"error":["invalid_client"]}`:                          "",
		`{"error":{"code":7}}`:                                  "",
		`invalid_client`:                                        "",
		``:                                                      "",
		`{"error":{"code":"made_up"}}`:                          "",
	} {
		if got := readErrorAnswer([]byte(body)).known(); string(got) != want {
			t.Errorf("%s: %q, want %q", body, got, want)
		}
	}
}

func TestSecondsOf(t *testing.T) {
	for raw, want := range map[string]time.Duration{
		"600": 600 * time.Second, `"600"`: 600 * time.Second, "0.5": 500 * time.Millisecond,
		"": 0, "null": 0, "true": 0, "NaN": 0, `"Inf"`: 0, "-0": 0, "1e12": 0, "315360001": 0,
		strconv.Itoa(10 * 365 * 24 * 3600): MaxDuration,
	} {
		if got := secondsOf([]byte(raw)); got != want {
			t.Errorf("%q: %s, want %s", raw, got, want)
		}
	}
}

func TestWalletAddresses(t *testing.T) {
	for text, want := range map[string]string{
		"https://wallet.example/alice":      "https://wallet.example/alice",
		"https://wallet.example":            "https://wallet.example",
		"https://wallet.example:8443/a/b":   "https://wallet.example:8443/a/b",
		"$wallet.example/alice":             "https://wallet.example/alice",
		"$wallet.example":                   "https://wallet.example/.well-known/pay",
		"$wallet.example/":                  "https://wallet.example/.well-known/pay",
		"http://127.0.0.1:4001/alice":       "http://127.0.0.1:4001/alice",
		"http://[::1]:4001/alice":           "http://[::1]:4001/alice",
		"http://localhost/alice":            "http://localhost/alice",
		"https://xn--bcher-kva.example/al~": "https://xn--bcher-kva.example/al~",
	} {
		if got, err := ParseWalletAddress(text); err != nil || got != want {
			t.Errorf("%s: %s %v", text, got, err)
		}
	}
}
