// SPDX-License-Identifier: MPL-2.0

package vaulttest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestServer(t *testing.T) {
	t.Setenv("VAULT_ADDR", "http://127.0.0.1:1")
	t.Setenv("VAULT_NAMESPACE", "elsewhere")
	t.Setenv("VAULT_FORMAT", "json")
	s := Start(t, Options{})
	s.Mount("op")
	audit := s.EnableAudit()

	stdout, stderr, code := s.CLI(s.RootToken, "secrets", "list")
	if code != 0 || !strings.Contains(stdout, "op/ ") {
		t.Errorf("secrets list: %d\n%s%s", code, stdout, stderr)
	}
	if log, err := os.ReadFile(audit); err != nil || !strings.Contains(string(log), "sys/mounts") {
		t.Errorf("the audit log lacks a request: %v", err)
	}
	stdout, stderr, code = s.CLI(s.Token("nothing"), "secrets", "list")
	if code != 2 || !strings.Contains(stderr, "permission denied") {
		t.Errorf("secrets list with a token without permissions: %d\n%s%s", code, stdout, stderr)
	}
	if !strings.Contains(s.Log(), "successful mount") {
		t.Error("the log does not mention the mount")
	}

	pid := s.PID()
	s.Stop()
	s.Stop()
	if err := syscall.Kill(pid, 0); err == nil {
		t.Error("the server is still running after Stop")
	}
}

func TestSealedServer(t *testing.T) {
	t.Parallel()
	s := Start(t, Options{})
	if err := s.Client(s.RootToken).Sys().Seal(); err != nil {
		t.Fatal(err)
	}
	if status, err := s.Client("").Sys().SealStatus(); err != nil || !status.Sealed {
		t.Fatalf("not sealed: %v", err)
	}
	s.Unseal()
	s.Mount("op")
}

func TestCluster(t *testing.T) {
	t.Parallel()
	cluster := StartCluster(t, 3)
	cluster[1].Mount("op") // forwarded
	if !cluster[0].Leads() || cluster[1].Leads() || cluster[2].Leads() {
		t.Error("the first server is not the only leader")
	}
	if err := cluster[0].Client(cluster[0].RootToken).Sys().StepDown(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); !cluster[1].Leads() &&
		!cluster[2].Leads(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no other server became the leader")
		}
	}
	for _, s := range cluster {
		if _, err := s.Client(s.RootToken).Logical().Read("op/config"); err != nil {
			t.Errorf("read through %s: %v", s.Address, err)
		}
	}
}

func TestProxy(t *testing.T) {
	s := Start(t, Options{})
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(s.RootToken), 0o600); err != nil {
		t.Fatal(err)
	}
	p := s.Proxy(func(listen string) string {
		return fmt.Sprintf(`
			vault { address = %q }
			auto_auth { method "token_file" { config = { token_file_path = %q } } }
			api_proxy { use_auto_auth_token = true }
			listener "tcp" {
				address     = %q
				tls_disable = true
			}`, s.Address, token, listen)
	})
	if mounts, err := p.Client().Sys().ListMounts(); err != nil || mounts["sys/"] == nil {
		t.Errorf("a read with the token of the Proxy: %v", err)
	}

	pid := p.process.pid
	p.Stop()
	p.Stop()
	if err := syscall.Kill(pid, 0); err == nil {
		t.Error("the Proxy is still running after Stop")
	}
}
