// SPDX-License-Identifier: MPL-2.0

package client_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/sdk/logical"
)

// body is a request body that records whether it was closed.
type body struct {
	io.Reader
	closed atomic.Bool
}

func (b *body) Close() error {
	b.closed.Store(true)
	return nil
}

// roundTrips adapts a function to http.RoundTripper.
type roundTrips func(*http.Request) (*http.Response, error)

func (f roundTrips) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// What Vault returns is what is sent; the caller's request is not changed.
func TestSignedRequest(t *testing.T) {
	inWorld(t, func(w *world) {
		req := w.request("POST", payments+"?cursor=%2F", "")
		sent := &body{Reader: strings.NewReader(`{ "walletAddress": "https://wallet.example/shop" }`)}
		req.Body, req.ContentLength, req.Host = sent, 50, "elsewhere.example"
		req.TransferEncoding = []string{"chunked"}
		req.Header = http.Header{
			"Accept": {"application/json"}, "X-Two": {"1", "2"}, "Idempotency-Key": {"1"}, "X-Idempotency-Key": {"1"},
			"Authorization": {"GNAP throw-away"}, "authorization": {"GNAP throw-away"}, "Signature": {"sig1=:throw-away:"},
			"Signature-Input": {"sig1=throw-away"},
			"Content-Type":    {"text/plain"}, "Content-Length": {"50"}, "Content-Digest": {"throw-away"},
			"Content-Encoding": {"throw-away"},
		}
		before := req.Clone(w.Context())
		w.checkResponse(http.StatusCreated, req)

		got := w.requests[0]
		want := http.Header{
			"Accept": {"application/json"}, "X-Two": {"1", "2"},
			"Authorization": {"GNAP TokenSecret1"}, "Signature": {"sig1=:POST " + payments + "?cursor=%2F:"},
			"Signature-Input": {"sig1=(by Vault)"},
			"Content-Type":    {"application/json"}, "Content-Length": {"47"}, "Content-Digest": {"sha-512=:by Vault:"},
		}
		if !reflect.DeepEqual(got.Header, want) {
			w.Errorf("sent with %v, want %v", got.Header, want)
		}
		if w.bodies[0] != `{"walletAddress":"https://wallet.example/shop"}` || got.ContentLength != 47 ||
			got.TransferEncoding != nil {
			w.Errorf("the body %q, length %d", w.bodies[0], got.ContentLength)
		}
		if got.Method != "POST" || got.URL.String() != payments+"?cursor=%2F" || got.Host != "" {
			w.Errorf("%s %s to the host %q", got.Method, got.URL, got.Host)
		}

		if !sent.closed.Load() {
			w.Error("the body is not closed")
		}
		before.Body = req.Body
		if !reflect.DeepEqual(req.Header, before.Header) || req.Host != before.Host || req.ContentLength != 50 ||
			len(req.TransferEncoding) != 1 {
			w.Error("the caller's request was modified")
		}
	})
}

// What is sent is what was signed, so a request is refused whose URL leads elsewhere than its text
// says: http.Transport connects to Host, and sends Opaque.
func TestURLThatIsNotItsText(t *testing.T) {
	const text = "//wallet.example/op/incoming-payments"
	for name, u := range map[string]*url.URL{
		"opaque, another host":     {Scheme: "https", Host: "evil.example", Opaque: text},
		"opaque, the same host":    {Scheme: "https", Host: "wallet.example", Opaque: text},
		"opaque, another server's": {Scheme: "https", Host: "wallet.example", Opaque: "//evil.example/op/incoming-payments"},
		"opaque path":              {Scheme: "https", Host: "wallet.example", Opaque: "/op/incoming-payments"},
		"the scheme is a URL":      {Scheme: payments + "?", Host: "evil.example"},
		"the path is a URL":        {Scheme: "https", OmitHost: true, Path: text},
		"no slash":                 {Scheme: "https", Host: "wallet.example", Path: "op/incoming-payments"},
		"a host with a path":       {Scheme: "https", Host: "wallet.example/op/incoming-payments?", Path: "/"},
		"a query with a fragment":  {Scheme: "https", Host: "wallet.example", Path: "/op/incoming-payments", RawQuery: "a#b"},
		"none":                     nil,
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				sent := &body{Reader: strings.NewReader("{}")}
				req := w.request("POST", payments, "")
				req.URL, req.Body = u, sent
				_, err := w.client.RoundTrip(req)
				w.checkError(err, "URL")
				if !sent.closed.Load() || len(w.requests) != 0 {
					w.Errorf("closed: %t; %d sent", sent.closed.Load(), len(w.requests))
				}
				if w.count("sign") != 0 || w.count("read") != 0 {
					w.Error("Vault was asked")
				}
			})
		})
	}
}

// A path that has several encodings is signed and sent in one of them.
func TestEncodedPath(t *testing.T) {
	for name, u := range map[string]*url.URL{
		"as given": {Scheme: "https", Host: "wallet.example", Path: "/op/incoming-payments/a/b",
			RawPath: "/op/incoming-payments/a%2Fb"},
		"does not match": {Scheme: "https", Host: "wallet.example", Path: "/op/incoming-payments/a b",
			RawPath: "/op/outgoing-payments/a"},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				req := w.request("GET", payments, "")
				req.URL = u
				w.checkResponse(http.StatusCreated, req)
				got := w.requests[0]
				target := "https://" + got.URL.Host + got.URL.RequestURI()
				if signature := got.Header.Get("Signature"); signature != "sig1=:GET "+target+":" {
					w.Errorf("%s was sent with %s", target, signature)
				}
			})
		})
	}
}

// What is about a connection, and what the caller's own client has computed for its own form of the
// request, is not sent on, however it is spelled.
func TestDroppedHeaders(t *testing.T) {
	inWorld(t, func(w *world) {
		req := w.request("POST", payments, "{}")
		req.ContentLength, req.Trailer = -1, http.Header{"Digest": nil}
		req.Header = http.Header{
			"Accept": {"application/json"}, "x-kept": {"1"},
			"Connection": {"Upgrade, HTTP2-Settings", "x-of-this-hop"}, "connection": {"x-other , , X-Spelled"},
			"X-Of-This-Hop": {"1"}, "x-other": {"1"}, "x-SPELLED": {"1"},
			"Upgrade": {"h2c"}, "Http2-Settings": {"AAMAAABk"}, "Keep-Alive": {"timeout=5"}, "Te": {"trailers"},
			"Trailer": {"Digest"}, "transfer-encoding": {"chunked"}, "Proxy-Connection": {"keep-alive"},
			"Proxy-Authorization": {"Basic ProxySecret"}, "host": {"evil.example"}, "Expect": {"100-continue"},
			"Digest": {"sha-256=x"}, "Repr-Digest": {"sha-256=:x:"}, "authorization": {"GNAP mine"},
			"signature": {"mine"}, "SIGNATURE-INPUT": {"mine"}, "content-length": {"7"},
		}
		w.checkResponse(http.StatusCreated, req)
		want := http.Header{
			"Accept": {"application/json"}, "x-kept": {"1"},
			"Authorization": {"GNAP TokenSecret1"}, "Signature": {"sig1=:POST " + payments + ":"},
			"Signature-Input": {"sig1=(by Vault)"},
			"Content-Type":    {"application/json"}, "Content-Length": {"2"}, "Content-Digest": {"sha-512=:by Vault:"},
		}
		if got := w.requests[0]; !reflect.DeepEqual(got.Header, want) || got.ContentLength != 2 || got.Trailer != nil {
			w.Errorf("sent with %v, want %v", got.Header, want)
		}
	})
}

func TestSignedRequestWithoutBody(t *testing.T) {
	inWorld(t, func(w *world) {
		req := w.request("", payments+"/1", "")
		req.Body, req.Header = nil, http.Header{"Content-Type": {"application/json"}, "Content-Digest": {"of nothing"}}
		resp, err := w.client.RoundTrip(req)
		if err != nil {
			w.Fatal(err)
		}
		got := w.requests[0]
		if len(w.bodies[0]) > 0 || got.ContentLength != 0 || got.Header.Get("Content-Type") != "" ||
			got.Header.Get("Content-Digest") != "" {
			w.Errorf("sent with the body %q and %v", w.bodies[0], got.Header)
		}
		if got.Header.Get("Signature") != "sig1=:GET "+payments+"/1:" {
			w.Errorf("the signature is %s", got.Header.Get("Signature"))
		}
		if resp.Request != req {
			w.Error("the response refers to the request that contains the token")
		}
	})
}

// Requests to anything but the resource server get no token, and are not changed.
func TestOtherRequestsAreUntouched(t *testing.T) {
	inWorld(t, func(w *world) {
		var got *http.Request
		w.client = w.newClient(roundTrips(func(r *http.Request) (*http.Response, error) {
			got = r
			return &http.Response{StatusCode: http.StatusForbidden, Body: http.NoBody}, nil
		}))
		for _, url := range []string{
			"https://wallet.example/alice", "https://wallet.example/alice/jwks.json", "https://wallet.example/auth",
			"https://wallet.example/op", "https://wallet.example/operations", "https://wallet.example.org/op/incoming-payments",
			"http://wallet.example/op/incoming-payments", "https://wallet.example:444/op/incoming-payments",
			"https://WALLET.example/op/incoming-payments",
			"https://other.example/?" + payments, "https://user@wallet.example/op/incoming-payments",
		} {
			req := w.request("POST", url, "body")
			req.Header.Set("Authorization", "the caller's")
			before := req.Clone(w.Context())
			resp, err := w.client.RoundTrip(req)
			if err != nil || resp.StatusCode != http.StatusForbidden {
				w.Errorf("%s: %v", url, err)
			}
			if got != req || !reflect.DeepEqual(req.Header, before.Header) {
				w.Errorf("%s: the request was modified", url)
			}
		}
		if w.count("sign") != 0 {
			w.Errorf("%d signed", w.count("sign"))
		}
		// The Client remembers the resource server's URL, so a request after idle time costs no
		// read.
		time.Sleep(24 * time.Hour)
		if _, err := w.client.RoundTrip(w.request("GET", "https://wallet.example/alice", "")); err != nil {
			w.Error(err)
		}
		w.checkCounts(1, 1)
	})
}

// A rejected token is replaced once, however many requests it was rejected for, and all of them
// succeed, with their bodies.
func TestRefusedToken(t *testing.T) {
	for name, refuse := range map[string]func(*world){
		"at the resource server": func(w *world) { w.dead = true },
		"at Vault":               func(w *world) { w.rotate() },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.checkLive()
				w.set(func() { refuse(w) })
				var callers sync.WaitGroup
				for range 20 {
					callers.Go(func() { w.createPayment(http.StatusCreated) })
				}
				callers.Wait()
				w.checkCounts(2, 0)
				for _, sent := range w.bodies {
					if sent != `{"walletAddress":"https://wallet.example/shop"}` {
						w.Errorf("sent %q", sent)
					}
				}
			})
		})
	}
}

func TestStatusesThatRefuse(t *testing.T) {
	for status, repeated := range map[int]bool{200: false, 302: false, 400: false, 401: true, 403: true, 404: false,
		407: false, 409: false, 429: false, 500: false, 503: false} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			inWorld(t, func(w *world) {
				var first *body
				sent := 0
				w.client = w.newClient(roundTrips(func(*http.Request) (*http.Response, error) {
					if sent++; sent > 1 {
						return &http.Response{StatusCode: http.StatusCreated, Body: io.NopCloser(strings.NewReader("created"))}, nil
					}
					first = &body{Reader: strings.NewReader("first")}
					return &http.Response{StatusCode: status, Body: first}, nil
				}))
				if !repeated {
					w.createPayment(status)
					w.checkCounts(1, 0)
					return
				}
				w.createPayment(http.StatusCreated)
				w.checkCounts(2, 0)
				if rest, _ := io.ReadAll(first); !first.closed.Load() || len(rest) > 0 {
					w.Error("the first answer is not read and closed")
				}
			})
		})
	}
}

// After a second rejection the response is returned. The token is not to blame then, and is not
// replaced for a while, unless Vault says that it is not the current one.
func TestSecondRefusal(t *testing.T) {
	inWorld(t, func(w *world) {
		w.shut = true
		w.createPayment(http.StatusForbidden)
		w.checkCounts(2, 0)
		if len(w.requests) != 2 {
			w.Errorf("%d requests", len(w.requests))
		}
		for range 100 {
			w.createPayment(http.StatusForbidden)
		}
		w.checkCounts(2, 0)
		if len(w.requests) != 102 {
			w.Errorf("%d requests", len(w.requests))
		}
		for begun := time.Now(); time.Since(begun) < time.Minute; time.Sleep(100 * time.Millisecond) {
			w.createPayment(http.StatusForbidden)
		}
		if n := w.count("read"); n < 5 || n > 9 {
			w.Errorf("%d reads in a minute", n)
		}

		reads := w.count("read")
		w.set(func() {
			w.shut = false
			w.rotate()
		})
		w.createPayment(http.StatusCreated)
		w.checkCounts(reads+1, 0)

		// A successful retry ends that: the next rejection replaces the token at once.
		w.set(func() { w.dead = true })
		w.createPayment(http.StatusCreated)
		w.checkCounts(reads+2, 0)
	})
}

// A newer token that is there already is tried whatever happened to other requests: that costs no
// read.
func TestNewerTokenIsUsed(t *testing.T) {
	inWorld(t, func(w *world) {
		release := make(chan struct{})
		w.client = w.newClient(roundTrips(func(r *http.Request) (*http.Response, error) {
			if r.Header.Get("X-Slow") != "" && r.Header.Get("Authorization") == "GNAP TokenSecret1" {
				<-release
			}
			return inProcess{http.HandlerFunc(w.resource)}.RoundTrip(r)
		}))
		var slow sync.WaitGroup
		slow.Go(func() {
			req := w.request("GET", payments, "")
			req.Header.Set("X-Slow", "1")
			w.checkResponse(http.StatusCreated, req)
		})
		synctest.Wait()
		w.set(func() { w.shut = true })
		w.createPayment(http.StatusForbidden)
		w.set(func() { w.shut = false })
		close(release)
		slow.Wait()
		w.checkCounts(2, 0)
	})
}

// A read of a shared grant returns the current token again, and another reader may replace it at
// that moment: then a read returns the very token that was rejected.
func TestSharedTokenIsReplaced(t *testing.T) {
	t.Run("after it was read again", func(t *testing.T) {
		inWorld(t, func(w *world) {
			w.shared = true
			release := make(chan struct{})
			w.client = w.newClient(roundTrips(func(r *http.Request) (*http.Response, error) {
				<-release
				return inProcess{http.HandlerFunc(w.resource)}.RoundTrip(r)
			}))
			var slow sync.WaitGroup
			slow.Go(func() { w.createPayment(http.StatusCreated) })
			time.Sleep(leaseTime*2/3 + time.Second)
			w.checkCounts(2, 0)
			w.set(w.rotate)
			close(release)
			slow.Wait()
			w.checkCounts(3, 0)
		})
	})
	t.Run("while it is read again", func(t *testing.T) {
		inWorld(t, func(w *world) {
			w.shared = true
			w.checkLive()
			release := make(chan struct{})
			w.set(func() { w.hang["read"] = release })
			time.Sleep(leaseTime*2/3 + time.Second) // The read is done; its response is held.
			w.set(w.rotate)
			var callers sync.WaitGroup
			for range 20 {
				callers.Go(func() { w.createPayment(http.StatusCreated) })
			}
			synctest.Wait()
			close(release)
			callers.Wait()
			w.checkCounts(3, 0)
		})
	})
	t.Run("not at all", func(t *testing.T) {
		inWorld(t, func(w *world) {
			w.shared = true
			w.shut = true
			for range 100 {
				w.createPayment(http.StatusForbidden)
			}
			w.checkCounts(2, 0)
		})
	})
}

// A request whose token is rejected during a renewal waits for the result: a read would kill the
// token that the renewal returns. A caller of Token does not wait meanwhile.
func TestRequestsDuringRenewal(t *testing.T) {
	for name, fixed := range map[string]bool{"a renewal": false, "a read": true} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.fixed = fixed
				w.checkLive()
				release := make(chan struct{})
				w.set(func() { w.hang["read"], w.hang["renew"] = release, release })
				time.Sleep(leaseTime*2/3 + time.Second) // The refresh is done; its response is held.
				if token, err := w.client.Token(w.Context()); err != nil || token.Generation != 1 {
					w.Errorf("generation %d, %v", token.Generation, err)
				}
				var callers sync.WaitGroup
				for range 20 {
					callers.Go(func() { w.createPayment(http.StatusCreated) })
				}
				synctest.Wait()
				if len(w.requests) != 0 {
					w.Errorf("%d requests sent with a token that is dead", len(w.requests))
				}
				close(release)
				callers.Wait()
				if fixed {
					w.checkCounts(2, 0)
				} else {
					w.checkCounts(1, 1)
				}
			})
		})
	}
}

// Sequential and concurrent requests all succeed in the end, although the token is replaced again
// and again.
func TestRequestsOverManyTokens(t *testing.T) {
	for name, fixed := range map[string]bool{"renewable": false, "not renewable": true} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.fixed = fixed
				end := time.Now().Add(5 * lifetime)
				var callers sync.WaitGroup
				for i := range 5 {
					callers.Go(func() {
						for time.Now().Before(end) {
							w.createPayment(http.StatusCreated)
							time.Sleep(time.Duration(i+2) * 3 * time.Second)
						}
					})
				}
				callers.Wait()
				if n := w.count("read") + w.count("renew"); n != 8 {
					w.Errorf("%d tokens", n)
				}
			})
		})
	}
}

// A request that Vault does not sign is not sent, and the caller gets Vault's error.
func TestSignRefusal(t *testing.T) {
	inWorld(t, func(w *world) {
		_, err := w.client.RoundTrip(w.request("GET", resourceServer+"/unknown", ""))
		w.checkError(err, "op/sign/shop-income", "url: is not one of the resource server's operations")
		var refusal *api.ResponseError
		if !errors.As(err, &refusal) || refusal.StatusCode != http.StatusBadRequest {
			w.Errorf("%T", err)
		}
		w.set(func() { w.fault["sign"] = errors.New("the access_token: of nobody") })
		_, err = w.client.RoundTrip(w.request("GET", payments, ""))
		w.checkError(err, "of nobody")
		w.set(func() {
			w.fault["sign"] = logical.CodedError(http.StatusInternalServerError, "access_token: is not at fault")
		})
		_, err = w.client.RoundTrip(w.request("GET", payments, ""))
		w.checkError(err, "not at fault")
		w.checkCounts(1, 0)
		if len(w.requests) != 0 {
			w.Errorf("%d requests sent", len(w.requests))
		}
	})
}

// No error contains a token, whatever goes wrong.
func TestErrorsWhileReplacing(t *testing.T) {
	inWorld(t, func(w *world) {
		w.checkLive()
		w.set(func() {
			w.dead = true
			w.fault["read"] = errors.New("broken")
		})
		_, err := w.client.RoundTrip(w.request("GET", payments, ""))
		w.checkError(err, "read op/token/shop-income", "broken")
		w.set(func() {
			w.fault["sign"] = errors.New("access_token: is not the grant's current one")
		})
		_, err = w.client.RoundTrip(w.request("GET", payments, ""))
		w.checkError(err, "broken")
		time.Sleep(time.Minute)
		w.set(func() { delete(w.fault, "read") })
		_, err = w.client.RoundTrip(w.request("GET", payments, ""))
		w.checkError(err, "write op/sign/shop-income", "access_token: ")
	})
}

func TestResourceServerNotKnown(t *testing.T) {
	inWorld(t, func(w *world) {
		w.vault = newVault("http://vault.example", inProcess{http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(rw,
				`{"lease_id":"op/token/shop-income/LeaseSecret","lease_duration":60,"data":{"access_token":"TokenSecret"}}`)
		})})
		c := w.newClient(nil)
		sent := &body{Reader: strings.NewReader("{}")}
		req := w.request("POST", payments, "")
		req.Body = sent
		_, err := c.RoundTrip(req)
		w.checkError(err, "write resource_server to the grant")
		if !sent.closed.Load() {
			w.Error("the body is not closed")
		}
		if _, err := c.Token(w.Context()); err != nil {
			w.Error(err)
		}
	})
}

func TestBodiesThatAreNotSigned(t *testing.T) {
	for name, row := range map[string]struct {
		reader io.Reader
		says   string
	}{
		"too long":    {strings.NewReader(strings.Repeat("x", 1<<20+1)), "longer than 1 MiB"},
		"broken off":  {io.MultiReader(strings.NewReader("{"), iotest.ErrReader(errors.New("broken off"))), "broken off"},
		"not UTF-8":   {strings.NewReader("{\"a\":\"\xff\"}"), "not UTF-8"},
		"not in time": {strings.NewReader("{}"), context.Canceled.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.checkLive()
				req := w.request("POST", payments, "")
				sent := &body{Reader: row.reader}
				req.Body = sent
				if name == "not in time" {
					gone, cancel := context.WithCancel(w.Context())
					cancel()
					req = req.WithContext(gone)
				}
				_, err := w.client.RoundTrip(req)
				w.checkError(err, row.says)
				if !sent.closed.Load() || len(w.requests) != 0 || w.count("sign") != 0 {
					w.Errorf("closed: %t; %d sent", sent.closed.Load(), len(w.requests))
				}
			})
		})
	}
	inWorld(t, func(w *world) { // The longest.
		w.checkResponse(http.StatusCreated, w.request("POST", payments, `"`+strings.Repeat("x", 1<<20-2)+`"`))
	})
}

// A transport error is returned unchanged.
func TestTransportError(t *testing.T) {
	inWorld(t, func(w *world) {
		sent, broken := 0, errors.New("broken")
		w.client = w.newClient(roundTrips(func(req *http.Request) (*http.Response, error) {
			sent++
			if req.GetBody != nil {
				w.Error("the transport could retry the request")
			}
			return nil, broken
		}))
		for _, method := range []string{"GET", "POST"} {
			if _, err := w.client.RoundTrip(w.request(method, payments, "{}")); !errors.Is(err, broken) {
				w.Error(err)
			}
		}
		if sent != 2 {
			w.Errorf("%d sent", sent)
		}
		w.checkCounts(1, 0)

		sent = 0
		w.client = w.newClient(roundTrips(func(*http.Request) (*http.Response, error) {
			if sent++; sent > 1 {
				return nil, broken
			}
			return &http.Response{StatusCode: http.StatusForbidden, Body: http.NoBody}, nil
		}))
		if _, err := w.client.RoundTrip(w.request("POST", payments, "{}")); !errors.Is(err, broken) || sent != 2 {
			w.Errorf("%d sent, %v", sent, err)
		}
	})
}

// cutOff starts a resource server that reads each request, and closes the connection instead of
// responding, after the given number of responses on that connection.
func cutOff(t *testing.T, answers int) (url string, received *atomic.Int32) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	received = &atomic.Int32{}
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer connection.Close()
				r := bufio.NewReader(connection)
				for left := answers; ; left-- {
					req, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					_, _ = io.Copy(io.Discard, req.Body)
					received.Add(1)
					if left == 0 {
						return
					}
					_, _ = io.WriteString(connection, "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
				}
			}()
		}
	}()
	return "http://" + listener.Addr().String(), received
}

// Open Payments servers close a connection that has been idle for 5 s. A POST sent at that moment
// is lost, or has paid, so the Client closes its connections earlier.
func TestIdleConnectionIsClosed(t *testing.T) {
	shared := http.DefaultTransport
	defer func() { http.DefaultTransport = shared }()
	inWorld(t, func(w *world) {
		here, there := net.Pipe()
		dial := func(context.Context, string, string) (net.Conn, error) { return here, nil }
		http.DefaultTransport = &http.Transport{DialContext: dial}
		closed := make(chan time.Time, 1)
		go func() {
			r := bufio.NewReader(there)
			_, _ = http.ReadRequest(r)
			_, _ = io.WriteString(there, "HTTP/1.1 204 No Content\r\n\r\n")
			_, _ = r.ReadByte()
			closed <- time.Now()
		}()
		app := http.Client{Transport: w.newClient(nil)}
		resp, err := app.Get("http://wallet.example/alice")
		if err != nil {
			w.Fatal(err)
		}
		_ = resp.Body.Close()
		answered := time.Now()
		if idle := (<-closed).Sub(answered); idle < time.Second || idle > 4*time.Second {
			w.Errorf("closed after %s", idle)
		}
	})
}

// A POST whose response is lost may have paid, so it is sent only once, by the Client and by
// http.Transport, which retries requests on its own if it was reusing a connection and takes them
// for idempotent.
func TestLostAnswerToPOST(t *testing.T) {
	for name, row := range map[string]struct {
		answers int // responses before the connection is closed
		body    string
		key     string
	}{
		"new connection":                        {0, `{"a":1}`, ""},
		"used connection":                       {1, `{"a":1}`, ""},
		"used connection, Idempotency-Key":      {1, `{"a":1}`, "Idempotency-Key"},
		"without a body":                        {1, "", ""},
		"without a body, Idempotency-Key":       {1, "", "Idempotency-Key"},
		"without a body, X-Idempotency-Key":     {1, "", "X-Idempotency-Key"},
		"without a body, spelled in lower case": {1, "", "idempotency-key"},
	} {
		t.Run(name, func(t *testing.T) {
			url, received := cutOff(t, row.answers)
			w := &world{T: t}
			vault := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				answer := `{"lease_id":"op/x","lease_duration":600,"data":{"access_token":"x","resource_server":"` + url +
					`","headers":{"Signature":"x"}`
				if strings.Contains(r.URL.Path, "/sign/") && row.body != "" {
					answer += `,"body":"{}"`
				}
				_, _ = io.WriteString(rw, answer+"}}")
			}))
			defer vault.Close()
			base := &http.Transport{}
			defer base.CloseIdleConnections()
			w.vault = newVault(vault.URL, http.DefaultTransport)
			app := &http.Client{Transport: w.newClient(base)}
			post := func() (*http.Response, error) {
				req := w.request("POST", url+"/outgoing-payments", row.body)
				if row.key != "" {
					req.Header[row.key] = []string{"1"}
				}
				return app.Do(req)
			}
			for range row.answers {
				resp, err := post()
				if err != nil {
					t.Fatal(err)
				}
				_ = resp.Body.Close()
			}
			if resp, err := post(); err == nil {
				t.Errorf("the response is %d", resp.StatusCode)
			}
			if n := int(received.Load()); n != row.answers+1 {
				t.Errorf("the server received %d POSTs, want %d", n, row.answers+1)
			}
		})
	}
}
