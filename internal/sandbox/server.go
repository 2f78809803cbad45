// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

const (
	defaultTokenLifetime = 10 * time.Minute
	defaultWait          = 5 * time.Second

	// idleTimeout is what Node.js, and so Rafiki, closes idle connections after
	// (http.Server.keepAliveTimeout).
	idleTimeout = 5 * time.Second
)

// Options configure a sandbox. The zero value is a sandbox on a free port of 127.0.0.1.
type Options struct {
	// Addr is the host and port to listen on, "127.0.0.1:0" if empty. A host that is not loopback
	// is refused.
	Addr string
	// Now is the clock for tokens, waits, interactions, quotes, intervals and cached key sets;
	// time.Now if nil.
	Now func() time.Time
	// TokenLifetime is the lifetime of an access token, in whole seconds; 10 minutes if zero.
	TokenLifetime time.Duration
	// Wait is how long a client must wait between two requests to a continue URI, in whole seconds;
	// 5 seconds if zero.
	Wait time.Duration
	// TLS serves https with a self-signed certificate, over HTTP/1.1 and HTTP/2; see
	// Server.CertificatePEM.
	TLS bool
	// Dialect is the dialect to start with; see Server.SetDialect.
	Dialect Dialect
	// Wrap, if set, wraps the whole handler: a test can record requests, change answers or hang.
	// Count counts before it.
	Wrap func(http.Handler) http.Handler
	// Logger gets one line per request, with its operation and the answer's status. It never gets a
	// token, an id or a URL of a grant. Null if nil.
	Logger hclog.Logger
}

// Server is a running sandbox. Its methods are safe for concurrent use.
type Server struct {
	origin        string
	now           func() time.Time
	tokenLifetime time.Duration
	wait          time.Duration
	log           hclog.Logger

	certificate []byte // PEM; nil without TLS

	counts   counts
	faults   faults
	dialect  dialects
	keys     keySet
	keyCache keyCache
	store    store
	payments payments

	http    *http.Server
	fetcher *http.Client
	// running ends when the server closes. Work for a request hangs on it and not on the request: a
	// real server does what it was asked for although the client has hung up.
	running context.Context
	stop    context.CancelFunc
	served  chan struct{}
	closing sync.Once
}

// Start starts a sandbox, which serves until Close.
func Start(o Options) (*Server, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", o.Addr)
	if err != nil {
		return nil, fmt.Errorf("listening: %w", err)
	}
	s := &Server{
		origin:        "http://" + listener.Addr().String(),
		now:           o.Now,
		tokenLifetime: o.TokenLifetime,
		wait:          o.Wait,
		log:           o.Logger,
		store:         newStore(),
		served:        make(chan struct{}),
	}
	s.running, s.stop = context.WithCancel(context.Background())
	s.dialect.set(o.Dialect)
	handler := s.misbehaving(s.routes())
	if o.Wrap != nil {
		handler = o.Wrap(handler)
	}
	s.http = &http.Server{
		Handler:           s.resolvingAliases(s.countingRequests(handler)),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       idleTimeout,
		ConnContext:       withConnection,
		ErrorLog:          o.Logger.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
	}
	if err := s.secureWith(o.TLS); err != nil {
		_ = listener.Close()
		return nil, err
	}
	go s.serve(tcpListener{listener})
	return s, nil
}

// secureWith sets up TLS, if wanted, for the server and for the sandbox's requests to itself.
func (s *Server) secureWith(wanted bool) error {
	if !wanted {
		s.fetcher = newFetcher(nil)
		return nil
	}
	certificate, text, err := newCertificate()
	if err != nil {
		return err
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	roots.AppendCertsFromPEM(text)
	s.fetcher, s.certificate = newFetcher(roots), text
	s.origin = "https" + strings.TrimPrefix(s.origin, "http")
	s.http.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{certificate}}
	return nil
}

// serve serves until the server is closed.
func (s *Server) serve(listener net.Listener) {
	defer close(s.served)
	var err error
	if s.certificate == nil {
		err = s.http.Serve(listener)
	} else {
		err = s.http.ServeTLS(listener, "", "")
	}
	if !errors.Is(err, http.ErrServerClosed) {
		s.log.Error("serving ended", "error", err)
	}
}

// complete fills in the defaults and returns an error for values that are not allowed.
func (o *Options) complete() error {
	if o.Addr == "" {
		o.Addr = "127.0.0.1:0"
	}
	host, _, err := net.SplitHostPort(o.Addr)
	if err != nil {
		return fmt.Errorf("the address to listen on must be HOST:PORT: %w", err)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("the sandbox listens on loopback only, such as 127.0.0.1, not on %q", host)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.TokenLifetime == 0 {
		o.TokenLifetime = defaultTokenLifetime
	}
	if o.Wait == 0 {
		o.Wait = defaultWait
	}
	// Both are told to clients as whole numbers of seconds ("expires_in" and "wait" of the OpenAPI
	// document).
	if o.TokenLifetime < time.Second || o.TokenLifetime%time.Second != 0 {
		return fmt.Errorf("a token's lifetime must be a whole number of seconds, not %s", o.TokenLifetime)
	}
	if o.Wait < time.Second || o.Wait%time.Second != 0 {
		return fmt.Errorf("the wait must be a whole number of seconds, not %s", o.Wait)
	}
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	return o.Dialect.check()
}

// URL returns the origin of everything that the sandbox serves: scheme, host and port, no path.
func (s *Server) URL() string { return s.origin }

// CertificatePEM returns the certificate to trust, in PEM, if Options.TLS is set; nil otherwise.
func (s *Server) CertificatePEM() []byte { return s.certificate }

// WalletAddress returns the URL of the wallet address with that name: "alice" (the owner), "shop"
// (the merchant) or "client" (the client).
func (s *Server) WalletAddress(name string) string { return s.origin + "/" + name }

// AuthServer returns the URL of the grant endpoint, as the wallet documents name it.
func (s *Server) AuthServer() string { return s.origin + authPath }

// ResourceServer returns the base URL of the resource server, as the wallet documents name it.
func (s *Server) ResourceServer() string { return s.origin + resourcePath }

// PublishKey adds a public key to the client's key set, or replaces the key that has the same key
// id.
func (s *Server) PublishKey(kid string, key ed25519.PublicKey) { s.keys.publish(newJWK(kid, key)) }

// PublishRawKey adds any JSON value to the client's key set, before the keys that are there.
// Clients that share a key set may write their keys in odd forms. UnpublishKeys and SetClientKeys
// remove it.
func (s *Server) PublishRawKey(key string) { s.keys.publishRaw(json.RawMessage(key)) }

// UnpublishKeys empties the client's key set.
func (s *Server) UnpublishKeys() { s.keys.replace(nil) }

// Live reports whether the resource server accepts this access token now.
func (s *Server) Live(token string) bool {
	_, ok := s.store.introspect(token, s.now())
	return ok
}

// LiveTokens returns how many access tokens the resource server accepts now.
func (s *Server) LiveTokens() int { return s.store.liveTokens(s.now()) }

// Rotatable reports whether a manage URL is that of a token which can be rotated, whether live or
// expired.
func (s *Server) Rotatable(manage string) bool {
	_, ok := s.store.byManageID(path.Base(manage), s.now())
	return ok
}

// OpenGrants returns the continue URLs of the grants that are not over: those that have a token that
// can be rotated, and those that their owners can still consent to or have consented to.
func (s *Server) OpenGrants() []string {
	var urls []string
	for _, id := range s.store.openGrants(s.now()) {
		urls = append(urls, s.origin+continuePath+id)
	}
	return urls
}

// Close stops the server and ends all its connections and delays. It may be called more than once.
// It does not wait for requests that block in Options.Wrap.
func (s *Server) Close() {
	s.closing.Do(func() {
		s.stop()
		_ = s.http.Close()
		s.fetcher.CloseIdleConnections()
	})
	<-s.served
}
