// SPDX-License-Identifier: MPL-2.0

// Package vaulttest starts real Vault servers for tests, with the plugin in
// their plugin directory. The server is what scripts/vault finds or builds:
// Vault or OpenBao.
package vaulttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-uuid"
	"github.com/hashicorp/vault/api"
)

// Plugin is the name under which every server knows the plugin.
const Plugin = "vault-plugin-secrets-open-payments"

// Options change how a server is started. The zero value is fine.
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
	unsealKey string // the only one
}

// process is one run of the server's binary.
type process struct {
	pid   int
	ended chan struct{} // closed when it has ended and been waited for
}

// Start starts a server in dev mode, unsealed and in memory, that is ready for
// requests, and ends it with the test. When the test fails, the end of the
// server's log is shown.
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
	s.run(func(address string) ([]string, error) {
		return []string{"-dev", "-dev-no-store-token", "-dev-root-token-id=" + s.RootToken, "-dev-listen-address=" + address,
			"-dev-plugin-dir=" + s.pluginDir(), "-log-level=" + options.LogLevel}, nil
	}, s.ready)
	return s
}

// unsealKeyLine is how a server in dev mode tells its key, soon after its first
// answers.
var unsealKeyLine = regexp.MustCompile(`(?m)^Unseal Key: (\S+)$`)

// newServer makes a server's folder, with the plugin in it.
func newServer(t testing.TB) *Server {
	t.Helper()
	binary, plugin := artifacts(t)
	s := &Server{t: t, binary: binary, dir: t.TempDir()}
	if err := os.Mkdir(s.pluginDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.pluginDir(), Plugin), plugin, 0o700); err != nil { //nolint:gosec // a program
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

// run starts the server with the arguments that are right for an address to
// listen on, and waits until it is ready.
func (s *Server) run(arguments func(address string) ([]string, error), ready func(context.Context) error) {
	s.t.Helper()
	var err error
	// Nobody can reserve a port for another process. Now and then somebody else
	// takes it first: then another one.
	for range 5 {
		err = s.try(arguments, ready)
		if err == nil || !strings.Contains(s.Log(), "address already in use") {
			break
		}
	}
	if err != nil {
		s.t.Fatalf("start %s: %v", s.binary, err)
	}
}

func (s *Server) try(arguments func(address string) ([]string, error), ready func(context.Context) error) error {
	address, err := freeAddress()
	if err != nil {
		return err
	}
	s.Address = "http://" + address
	args, err := arguments(address)
	if err != nil {
		return err
	}
	log, err := os.Create(s.logFile())
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // The server has its own descriptor of it.

	cmd := exec.Command(s.binary, append([]string{"server"}, args...)...) //nolint:gosec,noctx // ended by Stop
	cmd.Env = s.environment("")
	cmd.Dir = s.dir
	cmd.Stdout, cmd.Stderr = log, log
	if s.process, err = start(cmd); err != nil {
		return err
	}
	return s.process.wait(ready)
}

// wait waits until the process is ready.
func (p *process) wait(ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.ended:
			return errors.New("it ended before it was ready")
		case <-ctx.Done():
			return fmt.Errorf("it is not ready after a minute: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (s *Server) ready(ctx context.Context) error { return lookSelfUp(ctx, s.Address, s.RootToken) }

// lookSelfUp asks with a token that only this server knows: an answer from another
// program on the port is not taken for ours.
func lookSelfUp(ctx context.Context, address, token string) error {
	client, err := newClient(address, token)
	if err != nil {
		return err
	}
	_, err = client.Auth().Token().LookupSelfWithContext(ctx)
	return err
}

// Unseal unseals the server, and waits until it answers requests.
func (s *Server) Unseal() {
	s.t.Helper()
	if line := unsealKeyLine.FindStringSubmatch(s.Log()); line != nil {
		s.unsealKey = line[1]
	}
	// The answer may still be "sealed": who joins a cluster has to be let in first.
	if _, err := s.Client("").Sys().Unseal(s.unsealKey); err != nil {
		s.t.Fatalf("unseal %s: %v", s.Address, err)
	}
	if err := s.process.wait(s.ready); err != nil {
		s.t.Fatal(err)
	}
}

// Client returns an API client with the given token. It asks once, where Vault's
// client by default asks three times if the answer is a 5xx.
func (s *Server) Client(token string) *api.Client {
	s.t.Helper()
	client, err := newClient(s.Address, token)
	if err != nil {
		s.t.Fatal(err)
	}
	return client
}

func newClient(address, token string) (*api.Client, error) {
	config := api.DefaultConfig() // Reads the environment of the test, which may point anywhere.
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

// CLI runs the command-line client of the server with the given token, in an
// environment with nothing else in it and in the working directory of the test.
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

// EnableAudit makes the server write every request and answer to a file, values
// hashed as ever, and returns the file's name.
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

// Token makes a token that has the given policies and not the default one. There
// must be one: without any, Vault would give it those of the root token.
func (s *Server) Token(policy string, more ...string) string {
	s.t.Helper()
	secret, err := s.Client(s.RootToken).Auth().Token().Create(&api.TokenCreateRequest{
		Policies:        append([]string{policy}, more...),
		NoDefaultPolicy: true,
	})
	if err != nil {
		s.t.Fatalf("make a token: %v", err)
	}
	return secret.Auth.ClientToken
}

// Log is all that the server and its plugins have logged so far.
func (s *Server) Log() string { return readLog(s.t, s.logFile()) }

func readLog(t testing.TB, file string) string {
	log, err := os.ReadFile(file)
	if err != nil {
		t.Errorf("read a log: %v", err)
	}
	return string(log)
}

// Binary is the path of the server's program, which is the command-line client too.
func (s *Server) Binary() string { return s.binary }

// PID is the server's process id.
func (s *Server) PID() int { return s.process.pid }

// Stop ends the server as an operator does, and by force after some seconds. To
// stop it twice is fine.
func (s *Server) Stop() { s.process.end(s.t, syscall.SIGTERM) }

// Kill ends the server as a crash does.
func (s *Server) Kill() { s.process.end(s.t, syscall.SIGKILL) }

func (p *process) end(t testing.TB, signal syscall.Signal) {
	if p == nil {
		return
	}
	for _, signal := range []syscall.Signal{signal, syscall.SIGKILL} {
		select {
		case <-p.ended: // Its process id may be somebody else's by now.
			return
		default:
			_ = syscall.Kill(p.pid, signal) // It may end in this very moment.
		}
		select {
		case <-p.ended:
			return
		case <-time.After(15 * time.Second):
		}
	}
	t.Errorf("process %d outlives SIGKILL", p.pid)
}

func (s *Server) pluginDir() string { return filepath.Join(s.dir, "plugins") }
func (s *Server) logFile() string   { return filepath.Join(s.dir, "server.log") }

// environment has OpenBao's names as well as Vault's.
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

// start starts cmd from a thread that lives as long as the process: the kernel
// ends the process with that thread (see endWithTest), so that a server does not
// outlive a test that panics or times out.
func start(cmd *exec.Cmd) (*process, error) {
	endWithTest(cmd)
	p := &process{ended: make(chan struct{})}
	started := make(chan error)
	go func() {
		lockThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // How a server ends is of no interest.
			close(p.ended)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	p.pid = cmd.Process.Pid
	return p, nil
}

// artifacts are the server's binary, by name, and the plugin's, as bytes: so no
// file of it has to outlive a test.
func artifacts(t testing.TB) (server string, plugin []byte) {
	t.Helper()
	built.Do(func() {
		built.err = func() error {
			root, err := moduleRoot()
			if err != nil {
				return err
			}
			found, err := output(root, filepath.Join(root, "scripts", "vault"))
			if err != nil {
				return fmt.Errorf("find a Vault server: %w", err)
			}
			built.server = strings.TrimSpace(found)
			file := filepath.Join(t.TempDir(), Plugin)
			if _, err := output(root, "go", "build", "-o", file, "./cmd/"+Plugin); err != nil {
				return fmt.Errorf("build the plugin: %w", err)
			}
			built.plugin, err = os.ReadFile(file)
			return err
		}()
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.server, built.plugin
}

var built struct {
	sync.Once
	server string
	plugin []byte
	err    error
}

func output(dir, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...) //nolint:gosec,noctx // our own programs; go test has a time limit
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%w\n%s", err, errs.String())
	}
	return string(out), nil
}

// moduleRoot goes up from the working directory, which go test sets to that of
// the package under test.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "scripts", "vault")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("the test does not run in the repository: no scripts/vault above it")
		}
		dir = parent
	}
}

// freeAddress finds a port that nobody listens on right now.
func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
