// SPDX-License-Identifier: MPL-2.0

package vaulttest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// process is a running server, Agent or Proxy.
type process struct {
	pid   int
	ended chan struct{} // closed once the process has exited and been waited for
}

// startProcess runs a binary whose output is appended to logFile. It starts the binary from a thread that
// lives as long as the process: the kernel kills the process when that thread ends (see
// killWithThread), so it does not outlive a test that panics or times out.
func startProcess(binary string, args, env []string, dir, logFile string) (*process, error) {
	log, err := os.OpenFile(logFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()   // the process has its own descriptor
	cmd := exec.Command(binary, args...) //nolint:gosec,noctx // the test's own arguments; ended by end
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = env, dir, log, log
	killWithThread(cmd)

	p := &process{ended: make(chan struct{})}
	started := make(chan error)
	go func() {
		lockThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // its exit status does not matter
			close(p.ended)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	p.pid = cmd.Process.Pid
	return p, nil
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
			return errors.New("it exited before it was ready")
		case <-ctx.Done():
			return fmt.Errorf("it is not ready after a minute: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// end ends the process with a signal, and with SIGKILL if it has not exited 15 s later.
func (p *process) end(t testing.TB, signal syscall.Signal) {
	if p == nil {
		return
	}
	for _, signal := range []syscall.Signal{signal, syscall.SIGKILL} {
		select {
		case <-p.ended: // by now another process may have its id
			return
		default:
			_ = syscall.Kill(p.pid, signal) // it may exit at this very moment
		}
		select {
		case <-p.ended:
			return
		case <-time.After(15 * time.Second):
		}
	}
	t.Errorf("process %d survives SIGKILL", p.pid)
}

// onFreePort calls start with an address on loopback to listen on. No process can reserve a port
// for another one: if somebody else takes it first, as the log says, onFreePort tries another port.
func onFreePort(log func() string, start func(address string) error) error {
	var err error
	for range 5 {
		var address string
		if address, err = freeAddress(); err != nil {
			return err
		}
		if err = start(address); err == nil || !strings.Contains(log(), "address already in use") {
			break
		}
	}
	return err
}

// freeAddress returns an address on loopback whose port is free at the moment.
func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}

func readLog(t testing.TB, file string) string {
	log, err := os.ReadFile(file)
	if err != nil {
		t.Errorf("read a log: %v", err)
	}
	return string(log)
}

// tail returns the last lines of a text.
func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
