// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/vaulttest"
)

// typed is a command of a document, and what it prints there.
type typed struct{ command, output string }

// commandsOf returns the commands in the console blocks of a section of docs/operations.md, without
// those of its subsections.
func commandsOf(t *testing.T, heading string) (commands []typed) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n"+heading+"\n")
	if !found {
		t.Fatalf("docs/operations.md has no %q", heading)
	}
	inBlock, continued := false, false
	for line := range strings.SplitSeq(section, "\n") {
		line = strings.TrimSpace(line)
		command, isCommand := strings.CutPrefix(line, "$ ")
		switch {
		case !inBlock && strings.HasPrefix(line, "#"):
			return commands
		case strings.HasPrefix(line, "```"):
			inBlock = line == "```console"
		case !inBlock:
		case isCommand:
			commands = append(commands, typed{command: command})
		case continued:
			commands[len(commands)-1].command += "\n" + line
		default:
			commands[len(commands)-1].output += line + "\n"
		}
		continued = inBlock && strings.HasSuffix(line, `\`)
	}
	return commands
}

// operator types the commands of docs/operations.md.
type operator struct {
	*engine
	nodes []*vaulttest.Server
	dir   string // the checkout, with bin/
}

// newOperator builds two versions. "git checkout" and "make build" copy them into bin/.
func newOperator(e *engine, nodes []*vaulttest.Server) *operator {
	e.t.Helper()
	o := &operator{engine: e, nodes: nodes, dir: e.t.TempDir()}
	for _, dir := range []string{"bin", "tools", "builds"} {
		if err := os.Mkdir(filepath.Join(o.dir, dir), 0o700); err != nil {
			e.t.Fatal(err)
		}
	}
	for _, version := range []string{"v0.1.0", "v0.2.0"} {
		build := exec.CommandContext(e.t.Context(), "go", "build", "-C", "../..", "-ldflags",
			"-s -w -X github.com/vault-open-payments/vault-plugin-secrets-open-payments/plugin.Version="+version,
			"-o", filepath.Join(o.dir, "builds", version), "./cmd/"+vaulttest.Plugin)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if said, err := build.CombinedOutput(); err != nil {
			e.t.Fatalf("%v\n%s", err, said)
		}
	}
	for name, script := range map[string]string{
		"git":   `test "$1" = checkout && echo "$2" >version`,
		"make":  `test "$1" = build && cp builds/$(cat version) bin/` + vaulttest.Plugin,
		"vault": `exec '` + e.Binary() + `' "$@"`,
	} {
		if err := os.WriteFile(filepath.Join(o.dir, "tools", name), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
			e.t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(o.dir, "version"), []byte("v0.1.0"), 0o600); err != nil {
		e.t.Fatal(err)
	}
	return o
}

// follow types the commands of a section, and checks what they print. Files are copied on each node.
func (o *operator) follow(heading string) {
	o.t.Helper()
	commands := commandsOf(o.t, heading)
	if len(commands) < 3 {
		o.t.Fatalf("%s: only %d commands", heading, len(commands))
	}
	for _, c := range commands {
		nodes := o.nodes[:1]
		if strings.HasPrefix(c.command, "cp ") {
			nodes = o.nodes
		}
		for _, node := range nodes {
			said, err := o.enter(strings.ReplaceAll(c.command, "/etc/vault/plugins", node.PluginDir()))
			if err != nil || c.output != "" && strings.TrimSpace(said) != strings.TrimSpace(c.output) {
				o.t.Fatalf("%s: %s: %v\n%s", heading, c.command, err, said)
			}
		}
	}
}

// enter types a command, and returns what it prints.
func (o *operator) enter(command string) (string, error) {
	o.t.Helper()
	cmd := exec.CommandContext(o.t.Context(), "bash", "-c", command)
	cmd.Dir = o.dir
	cmd.Env = []string{"PATH=" + filepath.Join(o.dir, "tools") + ":" + os.Getenv("PATH"), "HOME=" + o.dir,
		"VAULT_ADDR=" + o.Address, "VAULT_TOKEN=" + o.RootToken}
	said, err := cmd.CombinedOutput()
	if err != nil && !errors.As(err, new(*exec.ExitError)) {
		o.t.Fatal(err)
	}
	return string(said), err
}

func (o *operator) checkRuns(mount, version string) {
	o.t.Helper()
	said, err := o.enter("vault read -field=running_plugin_version sys/mounts/" + mount)
	if err != nil || strings.TrimSpace(said) != version {
		o.t.Errorf("%s/ runs %s, not %s: %v", mount, said, version, err)
	}
}

// readAllTheTime reads a token over and over. The function that it returns waits for some more reads,
// ends that, and checks that every read succeeded.
func (o *operator) readAllTheTime(grant string) (end func()) {
	o.t.Helper()
	var reads atomic.Int64
	stop, failed := make(chan struct{}), make(chan error, 1)
	client := o.vault
	go func() {
		for {
			_, err := client.Logical().Read(o.at("token/" + grant))
			if err != nil {
				failed <- err
				return
			}
			reads.Add(1)
			select {
			case <-stop:
				failed <- nil
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	o.eventually("a read", func() bool { return reads.Load() > 0 })
	return func() {
		o.t.Helper()
		enough := reads.Load() + 3
		o.eventually("more reads", func() bool { return reads.Load() >= enough || len(failed) > 0 })
		close(stop)
		if err := <-failed; err != nil {
			o.t.Errorf("%d reads succeeded, then: %v", reads.Load(), err)
		}
	}
}

// checkGoesOn renews one lease and revokes another, of former days.
func (o *operator) checkGoesOn(renewed, revoked *api.Secret) {
	o.t.Helper()
	o.checkReplaced(renewed, o.renew(renewed, 0))
	if _, err := o.enter("vault lease revoke -sync " + revoked.LeaseID); err != nil {
		o.t.Error(err)
	}
	o.checkDead(o.tokenOf(revoked))
}

// The steps of docs/operations.md, word for word: install, upgrade, roll back. No read fails on the
// way, leases live on, and the other node can take over.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	cluster := vaulttest.StartCluster(t, 2)
	e := startWallet(t, cluster[0], "op", 0)
	err := e.vault.Sys().DeregisterPlugin(&api.DeregisterPluginInput{Name: vaulttest.Plugin, Type: api.PluginTypeSecrets})
	if err != nil { // what StartCluster has registered
		t.Fatal(err)
	}
	o := newOperator(e, cluster)
	o.follow("## Install")
	if said, err := o.enter("vault secrets enable -path=other " + vaulttest.Plugin); err != nil {
		t.Fatal(said)
	}
	o.write("config", o.config())
	for _, grant := range []string{"renewed", "revoked", "busy"} {
		o.ask(grant, nil)
	}

	renewed, revoked := o.read("renewed"), o.read("revoked")
	end := o.readAllTheTime("busy")
	o.follow("## Upgrade")
	end()
	o.checkRuns("op", "v0.2.0")
	o.checkRuns("other", "v0.1.0")
	o.checkGoesOn(renewed, revoked)

	o.stepDown(cluster[0])
	o.waitForLeader(soon, cluster[1:])
	next := &operator{engine: o.through(cluster[1]), nodes: cluster, dir: o.dir}
	next.checkRuns("op", "v0.2.0")
	next.checkRuns("other", "v0.1.0")
	renewed, revoked = next.read("renewed"), next.read("revoked")
	end = next.readAllTheTime("busy")
	next.follow("### Roll back")
	end()
	next.checkRuns("op", "v0.1.0")
	next.checkGoesOn(renewed, revoked)
	next.checkMendsReplacedFile()
}

// checkMendsReplacedFile does what takes a mount down, and what brings it back.
func (o *operator) checkMendsReplacedFile() {
	o.t.Helper()
	former := filepath.Join(o.Server.PluginDir(), vaulttest.Plugin+"_v0.1.0")
	said, err := o.enter("cp builds/v0.2.0 " + former)
	if err == nil || !strings.Contains(said, "Text file busy") {
		o.t.Errorf("%v\n%s", err, said)
	}
	o.read("renewed")

	replace := func(build string) string {
		return fmt.Sprintf("cp builds/%[1]s %[2]s.new && mv %[2]s.new %[2]s && vault plugin reload -plugin=%[3]s",
			build, former, vaulttest.Plugin)
	}
	said, err = o.enter(replace("v0.2.0"))
	if err == nil || !strings.Contains(said, "checksums did not match") {
		o.t.Errorf("%v\n%s", err, said)
	}
	_, err = o.vault.Logical().Read(o.at("token/renewed"))
	if err == nil || !strings.Contains(err.Error(), "checksums did not match") {
		o.t.Errorf("a read succeeds: %v", err)
	}
	if said, err = o.enter(replace("v0.1.0")); err != nil {
		o.t.Errorf("%v\n%s", err, said)
	}
	o.read("renewed")
	o.checkRuns("other", "v0.1.0")
}
