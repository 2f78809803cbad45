// SPDX-License-Identifier: MPL-2.0

package vaulttest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hashicorp/vault/api"
)

// Daemon is a Vault Agent or a Vault Proxy: the server's binary once more, in a
// process of its own, which ends with the test and before the server.
type Daemon struct {
	Address string // of a proxy: http://127.0.0.1:PORT

	t       testing.TB
	dir     string
	process *process
}

// Agent starts a Vault Agent with a configuration (HCL).
func (s *Server) Agent(config string) *Daemon {
	s.t.Helper()
	d := s.newDaemon()
	if err := d.run(s, "agent", config); err != nil {
		s.t.Fatalf("start an agent: %v", err)
	}
	return d
}

// Proxy starts a Vault Proxy that is ready for requests. config is given the host
// and port on which the proxy is to listen, and has to let clients without a token
// use the proxy's own (api_proxy's use_auto_auth_token), which may look itself up.
func (s *Server) Proxy(config func(listen string) string) *Daemon {
	s.t.Helper()
	d := s.newDaemon()
	var err error
	for range 5 { // as with the server
		err = d.listen(s, config)
		if err == nil || !strings.Contains(d.Log(), "address already in use") {
			break
		}
	}
	if err != nil {
		s.t.Fatalf("start a proxy: %v", err)
	}
	return d
}

func (d *Daemon) listen(s *Server, config func(listen string) string) error {
	address, err := freeAddress()
	if err != nil {
		return err
	}
	d.Address = "http://" + address
	if err := d.run(s, "proxy", config(address)); err != nil {
		return err
	}
	return d.process.wait(func(ctx context.Context) error { return lookSelfUp(ctx, d.Address, "") })
}

func (s *Server) newDaemon() *Daemon {
	d := &Daemon{t: s.t, dir: s.t.TempDir()}
	s.t.Cleanup(func() {
		d.Stop()
		if s.t.Failed() {
			s.t.Logf("the end of the log of an agent or proxy:\n%s", tail(d.Log(), 60))
		}
	})
	return d
}

func (d *Daemon) run(s *Server, kind, config string) error {
	file := filepath.Join(d.dir, kind+".hcl")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return err
	}
	log, err := os.Create(d.logFile())
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // The process has its own descriptor of it.

	cmd := exec.Command(s.binary, kind, "-config="+file, "-log-level=debug") //nolint:gosec,noctx // ended by Stop
	cmd.Env = s.environment("")
	cmd.Dir = d.dir
	cmd.Stdout, cmd.Stderr = log, log
	if d.process, err = start(cmd); err != nil {
		return fmt.Errorf("%s %s: %w", s.binary, kind, err)
	}
	return nil
}

// Client returns an API client of a proxy, without a token.
func (d *Daemon) Client() *api.Client {
	d.t.Helper()
	client, err := newClient(d.Address, "")
	if err != nil {
		d.t.Fatal(err)
	}
	return client
}

// Log is all that it has logged so far.
func (d *Daemon) Log() string { return readLog(d.t, d.logFile()) }

// Stop ends it as an operator does, and by force after some seconds. To stop it
// twice is fine.
func (d *Daemon) Stop() { d.process.end(d.t, syscall.SIGTERM) }

func (d *Daemon) logFile() string { return filepath.Join(d.dir, "daemon.log") }
