// SPDX-License-Identifier: MPL-2.0

package vaulttest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-uuid"
	"github.com/hashicorp/vault/api"
)

// Plugin is the name under which every server has the plugin in its catalog.
const Plugin = "vault-plugin-secrets-open-payments"

// allowAudit is the setting without which OpenBao enables no audit device through its API. Vault
// warns that it does not know it.
const allowAudit = "unsafe_allow_api_audit_creation"

// Options configure a server. The zero value is valid.
type Options struct {
	LogLevel string // trace, debug, info, warn or error; debug if empty
}

// Server is a Vault server on loopback.
type Server struct {
	Address   string // http://127.0.0.1:PORT
	RootToken string

	t         testing.TB
	binary    string
	dir       string
	process   *process
	arguments []string // of the server binary
	starts    int      // how often a cluster's server has been started
	unsealKey string   // the only one
	logLevel  string   // of a server on disk
}

// Start starts a server in dev mode, unsealed and in memory, waits until it serves requests, and
// stops it when the test ends. If the test fails, the end of the server's log is shown.
func Start(t testing.TB, options Options) *Server {
	t.Helper()
	token, err := uuid.GenerateUUID()
	if err != nil {
		t.Fatal(err)
	}
	if options.LogLevel == "" {
		options.LogLevel = "debug"
	}
	s := newServer(t)
	s.RootToken = token
	config := filepath.Join(s.dir, "server.json")
	if err := os.WriteFile(config, []byte(`{"`+allowAudit+`":true}`), 0o600); err != nil {
		t.Fatal(err)
	}
	s.start(func(address string) ([]string, error) {
		return []string{"-dev", "-config=" + config, "-dev-no-store-token", "-dev-root-token-id=" + s.RootToken,
			"-dev-listen-address=" + address, "-dev-plugin-dir=" + s.PluginDir(), "-log-level=" + options.LogLevel}, nil
	}, s.readyInDevMode)
	return s
}

// unsealKeyLine is the line with which a server in dev mode prints its unseal key, shortly after it
// begins to serve requests.
var unsealKeyLine = regexp.MustCompile(`(?m)^Unseal Key: (\S+)$`)

// readyInDevMode also waits for the unseal key, so that a test can seal the server at once.
func (s *Server) readyInDevMode(ctx context.Context) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	line := unsealKeyLine.FindStringSubmatch(s.Log())
	if line == nil {
		return errors.New("it has not printed its unseal key yet")
	}
	s.unsealKey = line[1]
	return nil
}

// newServer creates a server's directory with the plugin in it.
func newServer(t testing.TB) *Server {
	t.Helper()
	binary, plugin := artifacts(t)
	s := &Server{t: t, binary: binary, dir: t.TempDir(), starts: 1}
	if err := os.Mkdir(s.PluginDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	//nolint:gosec // an executable
	if err := os.WriteFile(filepath.Join(s.PluginDir(), Plugin), plugin, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Stop()
		if t.Failed() {
			t.Logf("the end of the log of %s:\n%s", s.Address, tail(s.Log(), 60))
		}
	})
	return s
}

// start starts the server and waits until it is ready. arguments returns its command line for an
// address to listen on.
func (s *Server) start(arguments func(address string) ([]string, error), ready func(context.Context) error) {
	s.t.Helper()
	err := onFreePort(s.Log, func(address string) error {
		s.Address = "http://" + address
		args, err := arguments(address)
		if err != nil {
			return err
		}
		s.arguments = append([]string{"server"}, args...)
		return s.run(ready)
	})
	if err != nil {
		s.t.Fatalf("start %s: %v", s.binary, err)
	}
}

// run starts the server's process and waits until it is ready.
func (s *Server) run(ready func(context.Context) error) error {
	var err error
	s.process, err = startProcess(s.binary, s.arguments, s.environment(""), s.dir, s.logFile())
	if err != nil {
		return err
	}
	return s.process.wait(ready)
}

func (s *Server) ready(ctx context.Context) error { return lookupSelf(ctx, s.Address, s.RootToken) }

// lookupSelf looks up a token that only this server knows, so that a response of another program on
// the port is not taken for this server's.
func lookupSelf(ctx context.Context, address, token string) error {
	client, err := newClient(address, token)
	if err != nil {
		return err
	}
	_, err = client.Auth().Token().LookupSelfWithContext(ctx)
	return err
}

// Unseal unseals the server, and waits until it serves requests.
func (s *Server) Unseal() {
	s.t.Helper()
	// The response may still say "sealed": a server that joins a cluster has to be admitted first.
	if _, err := s.Client("").Sys().Unseal(s.unsealKey); err != nil {
		s.t.Fatalf("unseal %s: %v", s.Address, err)
	}
	if err := s.process.wait(s.ready); err != nil {
		s.t.Fatal(err)
	}
}

// Client returns an API client with the given token. It does not retry; by default Vault's client
// sends a request up to three times if the response is a 5xx.
func (s *Server) Client(token string) *api.Client {
	s.t.Helper()
	client, err := newClient(s.Address, token)
	if err != nil {
		s.t.Fatal(err)
	}
	return client
}

func newClient(address, token string) (*api.Client, error) {
	config := api.DefaultConfig() // reads the test's environment, which may name any server
	if config.Error != nil {
		return nil, config.Error
	}
	config.Address, config.AgentAddress = address, ""
	client, err := api.NewClient(config)
	if err != nil {
		return nil, err
	}
	client.ClearNamespace()
	client.SetToken(token)
	client.SetMaxRetries(0)
	return client, nil
}

// CLI runs the server binary's command-line client with the given token, an otherwise empty
// environment and the test's working directory.
func (s *Server) CLI(token string, args ...string) (stdout, stderr string, code int) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, s.binary, args...) //nolint:gosec // the test's own arguments
	cmd.Env = s.environment(token)
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		s.t.Fatalf("%s %s: %v", s.binary, strings.Join(args, " "), err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// Mount enables the plugin at a path, such as "op".
func (s *Server) Mount(path string) {
	s.t.Helper()
	if err := s.Client(s.RootToken).Sys().Mount(path, &api.MountInput{Type: Plugin}); err != nil {
		s.t.Fatalf("mount the plugin at %s/: %v", path, err)
	}
}

// EnableAudit makes the server log every request and response to a file, with values hashed as
// usual, and returns the file's name.
func (s *Server) EnableAudit() string {
	s.t.Helper()
	file := filepath.Join(s.dir, "audit.log")
	err := s.Client(s.RootToken).Sys().EnableAuditWithOptions("file", &api.EnableAuditOptions{
		Type:    "file",
		Options: map[string]string{"file_path": file},
	})
	if err != nil {
		s.t.Fatalf("enable the audit log: %v", err)
	}
	return file
}

// Token creates a token with the given policies and without the default one. At least one policy is
// required: a token created without any would get the root token's.
func (s *Server) Token(policy string, more ...string) string {
	s.t.Helper()
	secret, err := s.Client(s.RootToken).Auth().Token().Create(&api.TokenCreateRequest{
		Policies:        append([]string{policy}, more...),
		NoDefaultPolicy: true,
	})
	if err != nil {
		s.t.Fatalf("create a token: %v", err)
	}
	return secret.Auth.ClientToken
}

// Log returns everything that the server and its plugins have logged so far.
func (s *Server) Log() string { return readLog(s.t, s.logFile()) }

// Binary returns the path of the server binary, which is also the command-line client.
func (s *Server) Binary() string { return s.binary }

// PID returns the server's process id.
func (s *Server) PID() int { return s.process.pid }

// Signal sends the server a signal, such as SIGSTOP.
func (s *Server) Signal(signal syscall.Signal) {
	s.t.Helper()
	if err := syscall.Kill(s.process.pid, signal); err != nil {
		s.t.Fatalf("signal %s: %v", s.Address, err)
	}
}

// Stop stops the server as an operator would, and kills it if that takes more than 15 s. Stopping
// it twice does no harm.
func (s *Server) Stop() { s.process.end(s.t, syscall.SIGTERM) }

// Kill ends the server as a crash would.
func (s *Server) Kill() { s.process.end(s.t, syscall.SIGKILL) }

// PluginDir returns the server's plugin directory.
func (s *Server) PluginDir() string { return filepath.Join(s.dir, "plugins") }

func (s *Server) logFile() string { return filepath.Join(s.dir, "server.log") }

// environment returns the environment of a command that talks to the server: Vault's variables and
// OpenBao's.
func (s *Server) environment(token string) []string {
	env := []string{
		"HOME=" + s.dir,
		"PATH=" + os.Getenv("PATH"),
		"VAULT_ADDR=" + s.Address, "BAO_ADDR=" + s.Address,
	}
	if token != "" {
		env = append(env, "VAULT_TOKEN="+token, "BAO_TOKEN="+token)
	}
	return env
}
