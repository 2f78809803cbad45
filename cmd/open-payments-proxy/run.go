// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/client"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/cli"
)

// Exit statuses.
const (
	statusDone   = 0
	statusFailed = 1
	statusUsage  = 2
)

const (
	// drainTimeout is longer than a request may take: the wait, the connection and the answer.
	drainTimeout = answerTimeout + 20*time.Second
	// closeTimeout limits the revocation of the leases.
	closeTimeout = 10 * time.Second
)

// release is set by scripts/build to the commit's tag, if that is a version.
var release string

// run runs the program until ctx ends, and returns the exit status.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	o, err := parseOptions(args, getenv, stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return statusDone
	case err != nil:
		fmt.Fprintf(stderr, "open-payments-proxy: %s; see open-payments-proxy -help\n", err)
		return statusUsage
	case o.version:
		fmt.Fprintln(stdout, "open-payments-proxy", cli.Version(release))
		return statusDone
	}
	log := hclog.New(&hclog.LoggerOptions{
		Name: "open-payments-proxy", Level: hclog.LevelFromString(o.logLevel), Output: stderr, JSONFormat: o.logJSON,
	})
	s, err := start(o, log)
	if err == nil {
		err = s.serve(ctx)
	}
	if err != nil {
		log.Error("failed", "error", err)
		return statusFailed
	}
	return statusDone
}

// service is the running program.
type service struct {
	log     hclog.Logger
	clients map[string]*client.Client
	admin   *admin
	servers []*http.Server
	sockets []net.Listener
}

// start listens, and prepares all that is needed to serve. Nothing is asked of Vault yet.
func start(o options, log hclog.Logger) (*service, error) {
	link, err := connectVault(o.tokenFile)
	if err != nil {
		return nil, err
	}
	if err := link.checkTokenFile(); err != nil {
		return nil, err
	}
	s := &service{log: log, clients: map[string]*client.Client{}}
	p := &proxy{
		callers: callers{grants: o.served()}, sources: map[string]source{}, log: log,
		limits: limits{token: o.wait, answer: o.answer}, now: time.Now,
		wallets: &walletDocuments{
			fetch: newOutbound().base, tokens: map[string]client.TokenSource{}, known: map[string]string{},
		},
	}
	if o.callerFile != "" {
		if p.secret, err = readSecret(o.callerFile); err != nil {
			return nil, err
		}
	}
	out := newOutbound()
	for i, name := range o.served() {
		settings := client.Options{Mount: o.mount, Base: out, TokenReplaced: p.tellReplaced(name)}
		if settings.Grant = name; i >= len(o.grants) {
			settings.Grant, settings.Role = "", name
		}
		c, err := client.New(link.client, settings)
		if err != nil {
			return nil, err
		}
		s.clients[name], p.sources[name], p.wallets.tokens[name] = c, c, c
	}
	s.admin = &admin{vault: link, registry: prometheus.NewRegistry()}
	s.admin.registry.MustRegister(collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	p.metrics = newMetrics(s.admin.registry)
	return s, s.listen(o, p)
}

// listen opens the addresses for callers and, unless there is none, for probes.
func (s *service) listen(o options, p *proxy) error {
	callers, err := listen(o.listen)
	if err != nil {
		return err
	}
	s.add(callers, p)
	if !strings.HasPrefix(o.listen, unixPrefix) {
		p.wallets.origin = "http://" + callers.Addr().String()
	}
	fields := []any{"address", o.listen, "grants", o.grants.String(), "roles", o.roles.String()}
	if p.wallets.origin != "" {
		fields[1] = p.wallets.origin
	}
	if o.admin != noAdmin {
		probes, err := net.Listen("tcp", o.admin)
		if err != nil {
			_ = callers.Close()
			return fmt.Errorf("-admin: %w", err)
		}
		s.add(probes, s.admin.handler())
		fields = append(fields, "admin", "http://"+probes.Addr().String())
	}
	s.log.Info("listening", fields...)
	return nil
}

func (s *service) add(listener net.Listener, handler http.Handler) {
	s.sockets = append(s.sockets, listener)
	s.servers = append(s.servers, &http.Server{
		Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: s.log.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
	})
}

// serve serves until ctx ends, and then stops: no new request is accepted, those in progress finish,
// and the leases are revoked.
func (s *service) serve(ctx context.Context) error {
	failed := make(chan error, len(s.servers))
	for i, server := range s.servers {
		go func() {
			if err := server.Serve(s.sockets[i]); !errors.Is(err, http.ErrServerClosed) {
				failed <- err
			}
		}()
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	s.log.Info("stopping: requests in progress finish")
	s.admin.draining.Store(true)
	deadline, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	err = errors.Join(err, s.servers[0].Shutdown(deadline), s.revoke())
	for _, server := range s.servers[1:] {
		_ = server.Close() // probes
	}
	if err == nil {
		s.log.Info("stopped")
	}
	return err
}

// revoke ends the leases of all grants.
func (s *service) revoke() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	failures := make([]error, len(s.clients))
	var work sync.WaitGroup
	i := 0
	for grant, c := range s.clients {
		failure := &failures[i]
		i++
		work.Go(func() {
			if err := c.Close(ctx); err != nil {
				*failure = fmt.Errorf("the lease of %s is left to expire: %w", grant, err)
			}
		})
	}
	work.Wait()
	return errors.Join(failures...)
}
