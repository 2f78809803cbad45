// SPDX-License-Identifier: MPL-2.0

package sandbox_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
)

// raw sends a request on a connection of its own and returns all that comes back.
func (w *world) raw(a ask) []byte {
	w.t.Helper()
	request := w.build(a)
	request.Close = true
	connection, err := net.Dial("tcp", request.URL.Host)
	if err != nil {
		w.t.Fatal(err)
	}
	defer connection.Close()
	if err := request.Write(connection); err != nil {
		w.t.Fatal(err)
	}
	all, err := io.ReadAll(connection)
	if err != nil {
		w.t.Fatal(err)
	}
	return all
}

// The work is done, and its whole answer or half of it is on the wire.
func TestWire(t *testing.T) {
	for wire, row := range map[string]struct {
		errs bool // the client gets an error after the body
		all  bool // all of the body arrives
	}{
		sandbox.WireLongLength:  {true, true},
		sandbox.WireNoLastChunk: {true, true},
		sandbox.WireCut:         {true, false},
		sandbox.WireGzip:        {false, true},
		sandbox.WireMark:        {false, true},
		sandbox.WireTwice:       {false, true},
	} {
		t.Run(wire, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			g := w.grant()
			w.Misbehave(sandbox.Misbehaviour{Wire: wire, Times: 1})
			r, err := w.try(w.rotate(g))
			if r.status != http.StatusOK || !strings.HasPrefix(r.header.Get("Content-Type"), "application/json") {
				t.Errorf("got %s", r)
			}
			if row.errs != errors.Is(err, io.ErrUnexpectedEOF) || !row.errs && err != nil {
				t.Errorf("reading the body gave %v", err)
			}
			switch wire {
			case sandbox.WireGzip:
				unpacked, err := gzip.NewReader(strings.NewReader(r.body))
				if err != nil || r.header.Get("Content-Encoding") != "gzip" {
					t.Fatalf("it is not gzip: %v", err)
				}
				body, _ := io.ReadAll(unpacked)
				r.body = string(body)
			case sandbox.WireMark:
				if !strings.HasPrefix(r.body, "\ufeff") {
					t.Error("there is no byte order mark")
				}
				r.body = strings.TrimPrefix(r.body, "\ufeff")
			}
			if w.wantLive(1); w.Live(g.AccessToken.Value) {
				t.Error("the work is not done")
			}
			if row.all {
				w.want(w.ask(w.rotate(w.decode(r))), http.StatusOK, "")
			} else if len(r.body) == 0 || strings.HasSuffix(r.body, "}}") {
				t.Error("the body is whole or missing")
			}
		})
	}
}

// Chunked means chunked.
func TestWireNoLastChunk(t *testing.T) {
	w := newWorld(t)
	g := w.grant()
	w.Misbehave(sandbox.Misbehaviour{Wire: sandbox.WireNoLastChunk})
	answer := string(w.raw(w.rotate(g)))
	if !strings.Contains(answer, "Transfer-Encoding: chunked\r\n") || strings.Contains(answer, "\r\n0\r\n") || !strings.HasSuffix(answer, "}}\r\n") {
		t.Error("it is not a chunked answer without its last chunk")
	}
}

// One request, two complete answers, whose bodies are the same.
func TestWireTwice(t *testing.T) {
	for name, m := range map[string]sandbox.Misbehaviour{
		"the true answer": {Wire: sandbox.WireTwice},
		"another answer":  {Wire: sandbox.WireTwice, Status: 503, Text: "a while"},
		"no body":         {Wire: sandbox.WireTwice, Status: 204},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			g := w.grant()
			w.Misbehave(m)
			both := bufio.NewReader(bytes.NewReader(w.raw(w.rotate(g))))
			var bodies [2]string
			for i := range bodies {
				response, err := http.ReadResponse(both, nil)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(response.Body)
				if err != nil {
					t.Fatal(err)
				}
				if m.Status != 0 && response.StatusCode != m.Status {
					t.Errorf("the status is %d", response.StatusCode)
				}
				bodies[i] = string(body)
			}
			if rest, _ := io.ReadAll(both); bodies[0] != bodies[1] || len(rest) != 0 {
				t.Error("the answers differ, or there is more")
			}
		})
	}
}

// After two answers the connection stays open, so that a client may take the second for the answer
// to its next request.
func TestWireTwiceKeepsConnection(t *testing.T) {
	w := newWorld(t)
	w.Misbehave(sandbox.Misbehaviour{On: []string{"wallet"}, Wire: sandbox.WireTwice, Times: 1})
	u, _ := url.Parse(w.URL())
	connection, err := net.Dial("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	answers := bufio.NewReader(connection)
	for range 2 {
		request, _ := http.NewRequest("GET", w.WalletAddress("alice"), nil)
		if err := request.Write(connection); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		response, err := http.ReadResponse(answers, nil)
		if err != nil || response.StatusCode != http.StatusOK {
			t.Fatalf("answer %d: %v", i, err)
		}
		_, _ = io.Copy(io.Discard, response.Body)
	}
}

// secured is a client of HTTP/1.1 or HTTP/2 that trusts the sandbox.
func secured(s *sandbox.Server, http2 bool) *http.Client {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.CertificatePEM())
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: http2}
	if !http2 {
		transport.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	}
	return &http.Client{Transport: transport}
}

func TestTLS(t *testing.T) {
	for name, protocol := range map[string]int{"HTTP/1.1": 1, "HTTP/2": 2} {
		t.Run(name, func(t *testing.T) {
			w := newWorldWith(t, sandbox.Options{TLS: true})
			w.http = secured(w.Server, protocol == 2)
			if !strings.HasPrefix(w.WalletAddress("alice"), "https://127.0.0.1:") {
				t.Error("a wallet address is not https")
			}
			response, err := w.http.Get(w.WalletAddress("alice"))
			if err != nil {
				t.Fatal(err)
			}
			response.Body.Close()
			if response.ProtoMajor != protocol {
				t.Errorf("it speaks %s", response.Proto)
			}
			g := w.grant()
			w.want(w.ask(w.rotate(g)), http.StatusOK, "")
			consented := w.pending(w.outgoing(""), app)
			w.reference(consented, w.consent(consented, true))
			for _, m := range []sandbox.Misbehaviour{{Drop: true}, {Reset: true}, {Wire: sandbox.WireCut}, {Wire: sandbox.WireNoLastChunk}} {
				m.Times, m.On = 1, []string{"grant"}
				w.Misbehave(m)
				if _, err := w.try(ask{method: "POST", url: w.AuthServer(), body: w.grantBody(w.right(`"read"`), "")}); err == nil {
					t.Errorf("%+v has no effect", m)
				}
			}
			w.want(w.ask(w.cancel(g)), http.StatusNoContent, "")
		})
	}
}

// A silent connection is open, and nothing comes of it; other connections are not.
func TestSilent(t *testing.T) {
	for name, row := range map[string]struct {
		o     sandbox.Options
		http2 bool
	}{
		"HTTP/1.1":         {},
		"HTTP/1.1 and TLS": {o: sandbox.Options{TLS: true}},
		"HTTP/2":           {sandbox.Options{TLS: true}, true},
	} {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/after=%v", name, after), func(t *testing.T) {
				t.Parallel()
				w := newWorldWith(t, row.o)
				w.http = secured(w.Server, row.http2)
				g := w.grant()
				w.Misbehave(sandbox.Misbehaviour{Silent: true, After: after, Times: 1})
				ctx, hangUp := context.WithCancel(t.Context())
				ended := make(chan error)
				sent := make(chan struct{}, 2)
				traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
					WroteRequest: func(httptrace.WroteRequestInfo) { sent <- struct{}{} },
				})
				go func() {
					_, err := w.http.Do(w.build(w.rotate(g)).WithContext(traced))
					ended <- err
				}()
				<-sent
				until(t, func() bool { return w.Count("rotate") == 1 && w.Live(g.AccessToken.Value) != after })
				if row.http2 {
					// The next request goes out on the same connection.
					go func() {
						_, err := w.http.Do(w.build(w.rotate(g)).WithContext(traced))
						ended <- err
					}()
					<-sent
				} else {
					w.want(w.ask(ask{method: "GET", url: w.WalletAddress("alice")}), http.StatusOK, "")
				}
				select {
				case err := <-ended:
					t.Errorf("it has ended: %v", err)
				default:
				}
				hangUp()
				if err := <-ended; !errors.Is(err, context.Canceled) {
					t.Errorf("it has ended otherwise: %v", err)
				}
				if row.http2 {
					<-ended
				}
				w.http.CloseIdleConnections()
				if w.Count("rotate") != 1 {
					t.Error("more has arrived")
				}
			})
		}
	}
}

// until waits for what happens.
func until(t *testing.T, happened func() bool) {
	t.Helper()
	for range 2000 {
		if happened() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("it has not happened")
}
