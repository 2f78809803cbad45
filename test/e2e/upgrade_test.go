// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

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

// buildVersion builds the plugin as a version, with files of the source replaced by others, and returns the
// binary's path.
func buildVersion(t *testing.T, dir, version string, replaced map[string]string) string {
	t.Helper()
	overlay := filepath.Join(dir, version+".json")
	if err := os.WriteFile(overlay, []byte(asJSON(t, map[string]any{"Replace": replaced})), 0o600); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, version)
	build := exec.CommandContext(t.Context(), "go", "build", "-C", "../..", "-overlay", overlay, "-ldflags",
		"-s -w -X github.com/vault-open-payments/vault-plugin-secrets-open-payments/plugin.Version="+version,
		"-o", binary, "./cmd/"+vaulttest.Plugin)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	return binary
}

// newOperator takes a directory with builds. "git checkout" and "make build" copy them into bin/.
func newOperator(e *engine, nodes []*vaulttest.Server, builds string) *operator {
	e.t.Helper()
	o := &operator{engine: e, nodes: nodes, dir: e.t.TempDir()}
	for _, dir := range []string{"bin", "tools"} {
		if err := os.Mkdir(filepath.Join(o.dir, dir), 0o700); err != nil {
			e.t.Fatal(err)
		}
	}
	if err := os.Symlink(builds, filepath.Join(o.dir, "builds")); err != nil {
		e.t.Fatal(err)
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

// leases are what is out when the version changes: of a grant and of a role, one to renew and one to revoke.
type leases struct{ renewed, revoked, ownRenewed, ownRevoked *api.Secret }

func (o *operator) readLeases() leases {
	o.t.Helper()
	return leases{o.read("renewed"), o.read("revoked"), o.readCreds(), o.readCreds()}
}

// checkGoOn renews and revokes the leases.
func (o *operator) checkGoOn(l leases) {
	o.t.Helper()
	o.checkReplaced(l.renewed, o.renew(l.renewed, 0))
	o.checkReplaced(l.ownRenewed, o.renew(l.ownRenewed, 0))
	for _, lease := range []*api.Secret{l.revoked, l.ownRevoked, l.ownRenewed} {
		if said, err := o.enter("vault lease revoke -sync " + lease.LeaseID); err != nil {
			o.t.Error(said)
		}
	}
	o.checkDead(o.tokenOf(l.revoked))
	o.checkDead(o.tokenOf(l.ownRevoked))
}

// changeVersion follows a section while applications read and renew through all nodes, none of whose
// requests may fail. The leases that are out by then are renewed and revoked by the other version.
func (o *operator) changeVersion(heading, version string, l *load) {
	o.t.Helper()
	out, failed := o.readLeases(), l.failed()
	o.follow(heading)
	l.waitForMore()
	if n := l.failed() - failed; n > 0 {
		o.t.Errorf("%s: %d requests failed", heading, n)
	}
	o.checkRuns("op", version)
	o.checkRuns("other", "v0.1.0")
	o.checkGoOn(out)
}

// The steps of docs/operations.md, word for word: install, upgrade, roll back. No request fails on the
// way, leases live on, and every node can take over.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	builds := t.TempDir()
	for _, version := range []string{"v0.1.0", "v0.2.0"} {
		buildVersion(t, builds, version, nil)
	}
	t.Run("one server", func(t *testing.T) {
		t.Parallel()
		nodes := vaulttest.StartCluster(t, 1)
		o := install(t, nodes, builds)
		l := o.underLoad()
		o.changeVersion("## Upgrade", "v0.2.0", l)
		nodes[0].Stop()
		nodes[0].Restart()
		l.waitForMore()
		o.changeVersion("### Roll back", "v0.1.0", l)
		l.stop()
		o.checkMendsReplacedFile()
		o.finish(l)
	})
	t.Run("three servers", func(t *testing.T) {
		t.Parallel()
		nodes := vaulttest.StartCluster(t, 3)
		o := install(t, nodes, builds)
		l := o.underLoad()
		o.changeVersion("## Upgrade", "v0.2.0", l)
		for range 2 { // each of the others leads
			leader := o.leader(nodes)
			o.stepDown(leader)
			o.waitForLeader(soon, without(nodes, leader))
			l.waitForMore()
			o.checkRuns("op", "v0.2.0")
		}
		next := &operator{engine: o.through(o.leader(nodes)), nodes: nodes, dir: o.dir}
		next.changeVersion("### Roll back", "v0.1.0", l)
		leader := o.leader(nodes)
		o.stepDown(leader)
		o.waitForLeader(soon, without(nodes, leader))
		l.waitForMore()
		o.checkRuns("op", "v0.1.0")
		next = &operator{engine: o.through(o.leader(nodes)), nodes: nodes, dir: o.dir}
		next.finish(l)
	})
}

// finish ends the load, and checks what has become of its grants when there are no others.
func (o *operator) finish(l *load) {
	o.t.Helper()
	l.stop()
	for _, name := range []string{"renewed", "revoked"} {
		if said, err := o.enter("vault delete op/grants/" + name); err != nil {
			o.t.Error(said)
		}
	}
	l.e = o.engine
	l.finish()
}

// install installs version 0.1.0.
func install(t *testing.T, nodes []*vaulttest.Server, builds string) *operator {
	t.Helper()
	e := startWallet(t, nodes[0], "op", 0)
	err := e.vault.Sys().DeregisterPlugin(&api.DeregisterPluginInput{Name: vaulttest.Plugin, Type: api.PluginTypeSecrets})
	if err != nil { // what StartCluster has registered
		t.Fatal(err)
	}
	o := newOperator(e, nodes, builds)
	o.follow("## Install")
	if said, err := o.enter("vault secrets enable -path=other " + vaulttest.Plugin); err != nil {
		t.Fatal(said)
	}
	o.write("config", o.config())
	o.writeRole()
	return o
}

// underLoad has applications use grants of their own, and makes those whose leases change versions.
func (o *operator) underLoad() *load {
	o.t.Helper()
	o.ask("renewed", nil)
	o.ask("revoked", nil)
	return o.engine.underLoad(o.nodes...)
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

// nextLayout builds a version to come, which stores everything in a new layout.
func nextLayout(t *testing.T, builds, version string) {
	t.Helper()
	replaced := map[string]string{}
	for file, constant := range map[string]string{
		"grant.go": "grantVersion", "config.go": "configVersion", "keys.go": "keyVersion", "path_roles.go": "roleVersion",
		"lease.go": "leaseVersion",
	} {
		path, err := filepath.Abs(filepath.Join("..", "..", "backend", file))
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		changed := regexp.MustCompile(constant+` += 1\n`).ReplaceAll(text, []byte(constant+" = 2\n"))
		if bytes.Equal(changed, text) {
			t.Fatalf("%s has no %s = 1", file, constant)
		}
		replaced[path] = filepath.Join(builds, file)
		if err := os.WriteFile(replaced[path], changed, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	buildVersion(t, builds, version, replaced)
}

// tune has the mount run a version that is registered.
func (o *operator) tune(version string) {
	o.t.Helper()
	said, err := o.enter("vault secrets tune -plugin-version=" + version + " op && vault plugin reload -plugin=" + vaulttest.Plugin)
	if err != nil {
		o.t.Fatal(said)
	}
	o.checkRuns("op", version)
}

// After a rollback from a version with another layout, everything that it has stored is refused in words
// and kept, and everything else works. After the next upgrade all of it works again.
func TestRollBackToAnOlderLayout(t *testing.T) {
	t.Parallel()
	builds := t.TempDir()
	buildVersion(t, builds, "v0.1.0", nil)
	nextLayout(t, builds, "v0.3.0")
	o := install(t, vaulttest.StartCluster(t, 1), builds)
	o.ask("old", nil)
	file := filepath.Join(o.Server.PluginDir(), vaulttest.Plugin+"_v0.3.0")
	said, err := o.enter("cp builds/v0.3.0 " + file + " && vault plugin register -version=v0.3.0 -command=" +
		filepath.Base(file) + " -sha256=$(sha256sum " + file + " | cut -d' ' -f1) secret " + vaulttest.Plugin)
	if err != nil {
		t.Fatal(said)
	}

	old := o.read("old")
	o.tune("v0.3.0")
	o.ask("new", nil)
	o.write("roles/new", map[string]any{"wallet_address": o.wallet.WalletAddress("shop"), "access": access})
	o.write("keys/rotate", map[string]any{"key_id": "key-new"})
	lease, own := o.read("new"), o.readCreds()

	o.tune("v0.1.0")
	for _, request := range []struct{ method, path, body string }{
		{"GET", "grants/new", ""}, {"POST", "grants/new", `{"ttl":60}`}, {"DELETE", "grants/new", ""},
		{"GET", "token/new", ""}, {"POST", "rotate/new", ""},
		{"GET", "roles/new", ""}, {"POST", "roles/new", `{"ttl":60}`}, {"DELETE", "roles/new", ""},
		{"GET", "creds/new", ""},
	} {
		got := o.request(500, request.method, request.path, request.body)
		o.checkSays(strings.Join(got.errors, "\n"), "newer version of the engine (layout 2)")
	}
	for _, one := range []*api.Secret{lease, own} {
		o.checkRenewalRejected(one, "newer version of the engine (layout 2)")
		if said, err := o.enter("vault lease revoke -sync " + one.LeaseID); err == nil {
			t.Errorf("revoked: %s", said)
		}
		o.checkLive(o.tokenOf(one))
	}
	info := fmt.Sprint(o.request(200, "LIST", "grants", "").data["key_info"])
	if info != "map[new:map[status:unreadable] old:map[status:active]]" {
		t.Errorf("the list says %s", info)
	}
	if set := o.request(200, "GET", "jwks.json", "").text; !strings.Contains(set, keyID) {
		t.Error("jwks.json lacks the key in use")
	}
	old = o.renew(old, 0)
	o.checkLive(o.tokenOf(old))

	o.tune("v0.3.0")
	o.checkReplaced(lease, o.renew(lease, 0))
	next := o.renew(own, 0)
	o.checkReplaced(own, next)
	if said, err := o.enter("vault lease revoke -sync " + own.LeaseID); err != nil {
		t.Error(said)
	}
	o.checkDead(o.tokenOf(next))
	o.readLease("creds/new")
	o.checkReplaced(old, o.renew(old, 0))
	if set := o.request(200, "GET", "jwks.json", "").text; !strings.Contains(set, "key-new") {
		t.Error("the key of the new layout is gone")
	}
	for _, server := range o.nodes {
		o.checkNoSecret("the server's log", server.Log())
	}
}
