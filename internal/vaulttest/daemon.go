// SPDX-License-Identifier: MPL-2.0

package vaulttest

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/hashicorp/vault/api"
)

// Daemon is a Vault Agent or a Vault Proxy: the server binary in another process, which ends with
// the test and before the server.
type Daemon struct {
	Address string // a Proxy's: http://127.0.0.1:PORT

	t       testing.TB
	dir     string
	process *process
}

// Agent starts a Vault Agent with a configuration (HCL).
func (s *Server) Agent(config string) *Daemon {
	s.t.Helper()
	d := s.newDaemon()
	if err := d.start(s, "agent", config); err != nil {
		s.t.Fatalf("start an Agent: %v", err)
	}
	return d
}

// Proxy starts a Vault Proxy and waits until it serves requests. config returns its configuration
// (HCL) for a host and port to listen on. It has to let clients without a token use the Proxy's own
// (use_auto_auth_token of api_proxy), which must be allowed to look itself up.
func (s *Server) Proxy(config func(listen string) string) *Daemon {
	s.t.Helper()
	d := s.newDaemon()
	err := onFreePort(d.Log, func(address string) error {
		d.Address = "http://" + address
		if err := d.start(s, "proxy", config(address)); err != nil {
			return err
		}
		return d.process.wait(func(ctx context.Context) error { return lookupSelf(ctx, d.Address, "") })
	})
	if err != nil {
		s.t.Fatalf("start a Proxy: %v", err)
	}
	return d
}

func (s *Server) newDaemon() *Daemon {
	d := &Daemon{t: s.t, dir: s.t.TempDir()}
	s.t.Cleanup(func() {
		d.Stop()
		if s.t.Failed() {
			s.t.Logf("the end of the log of an Agent or Proxy:\n%s", tail(d.Log(), 60))
		}
	})
	return d
}

// start starts the server binary as a kind of daemon, agent or proxy.
func (d *Daemon) start(s *Server, kind, config string) error {
	file := filepath.Join(d.dir, kind+".hcl")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return err
	}
	args := []string{kind, "-config=" + file, "-log-level=debug"}
	var err error
	d.process, err = startProcess(s.binary, args, s.environment(""), d.dir, d.logFile())
	return err
}

// Client returns an API client of a Proxy, without a token.
func (d *Daemon) Client() *api.Client {
	d.t.Helper()
	client, err := newClient(d.Address, "")
	if err != nil {
		d.t.Fatal(err)
	}
	return client
}

// Log returns everything that the daemon has logged so far.
func (d *Daemon) Log() string { return readLog(d.t, d.logFile()) }

// Stop stops the daemon as an operator would, and kills it if that takes more than 15 s. Stopping
// it twice does no harm.
func (d *Daemon) Stop() { d.process.end(d.t, syscall.SIGTERM) }

func (d *Daemon) logFile() string { return filepath.Join(d.dir, "daemon.log") }
