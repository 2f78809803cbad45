// SPDX-License-Identifier: MPL-2.0

package plugin_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/vaulttest"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/plugin"
)

func TestRunningVersion(t *testing.T) {
	server := vaulttest.Start(t, vaulttest.Options{})
	server.Mount("op")
	mounts, err := server.Client(server.RootToken).Sys().ListMounts()
	if err != nil {
		t.Fatal(err)
	}
	if got := mounts["op/"].RunningVersion; got != plugin.Version {
		t.Errorf("the running version is %q, not %q", got, plugin.Version)
	}
}

func TestLogsAtVaultsLevel(t *testing.T) {
	const line = "serving the Open Payments secrets engine" // written at debug level
	for level, want := range map[string]bool{"debug": true, "info": false} {
		t.Run(level, func(t *testing.T) {
			server := vaulttest.Start(t, vaulttest.Options{LogLevel: level})
			server.Mount("op")
			if got := strings.Contains(server.Log(), line); got != want {
				t.Errorf("the log has the plugin's debug line: %t, want %t", got, want)
			}
		})
	}
}

func TestProcesses(t *testing.T) {
	allowCoreDumps(t)
	server := vaulttest.Start(t, vaulttest.Options{})
	server.Mount("op")
	server.Mount("op2")
	processes := children(t, server.PID())
	if len(processes) != 2 {
		t.Fatalf("two mounts run in processes %v", processes)
	}

	for _, pid := range processes {
		limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
		if !regexp.MustCompile(`(?m)^Max core file size +0 +0 `).Match(limits) {
			t.Errorf("core dumps of process %d are not switched off: %v\n%s", pid, err, limits)
		}
	}

	server.Kill()
	for _, pid := range processes {
		deadline := time.Now().Add(10 * time.Second)
		for alive(pid) {
			if time.Now().After(deadline) {
				t.Errorf("process %d was still running 10 s after Vault was killed", pid)
				_ = syscall.Kill(pid, syscall.SIGKILL)
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// allowCoreDumps allows them as far as it may, so that the server does not inherit that they are off.
func allowCoreDumps(t *testing.T) {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_CORE, &limit); err != nil {
		t.Fatal(err)
	}
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_CORE, &limit); err != nil {
		t.Fatal(err)
	}
}

// children returns the ids of the running processes that pid has started.
func children(t *testing.T, pid int) []int {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var found []int
	for _, entry := range entries {
		child, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if fields := stat(child); fields != nil && fields[1] == strconv.Itoa(pid) {
			found = append(found, child)
		}
	}
	return found
}

func alive(pid int) bool {
	fields := stat(pid)
	return fields != nil && fields[0] != "Z" // not a zombie, which nobody may reap
}

// stat returns the fields of /proc/PID/stat from the state on: state, parent, …; nil if there is no
// such process. The name precedes them, and may contain spaces.
func stat(pid int) []string {
	text, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(pid), "stat"))
	if err != nil {
		return nil
	}
	return strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
}
