// SPDX-License-Identifier: MPL-2.0

package vaulttest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

var built struct {
	sync.Once
	server string
	plugin []byte
	err    error
}

// artifacts returns the path of the server binary and the contents of the plugin binary: as bytes,
// so that no file has to outlive the test that built it.
func artifacts(t testing.TB) (server string, plugin []byte) {
	t.Helper()
	built.Do(func() {
		built.server, built.plugin, built.err = build(filepath.Join(t.TempDir(), Plugin))
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.server, built.plugin
}

func build(pluginFile string) (server string, plugin []byte, err error) {
	root, err := moduleRoot()
	if err != nil {
		return "", nil, err
	}
	found, err := output(root, filepath.Join(root, "scripts", "vault"))
	if err != nil {
		return "", nil, fmt.Errorf("find a Vault server: %w", err)
	}
	if _, err := output(root, "go", "build", "-o", pluginFile, "./cmd/"+Plugin); err != nil {
		return "", nil, fmt.Errorf("build the plugin: %w", err)
	}
	plugin, err = os.ReadFile(pluginFile)
	return strings.TrimSpace(found), plugin, err
}

// output runs a program in a directory and returns what it prints.
func output(dir, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...) //nolint:gosec,noctx // this module's programs; go test has a time limit
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

// moduleRoot looks for this module's root upwards from the working directory, which go test sets to
// the directory of the package under test.
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
