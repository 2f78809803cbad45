// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
)

// example is a program of examples/, run as its user runs it: with the example policy, and only the
// user's token.
type example struct {
	policyEngine
	command []string
	env     []string
	home    string // the directory for its files
	called  string // the file that lists the arguments of its tools
}

// The programs in examples/ get paid and pay without the client's private key.
func TestExamples(t *testing.T) {
	t.Parallel()
	p := startWithPolicies(t)
	p.consented("rent")
	policy, err := os.ReadFile(filepath.Join("..", "..", "examples", "policies", "application.hcl"))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.vault.Sys().PutPolicy("rent", strings.ReplaceAll(string(policy), "shop-income", "rent")); err != nil {
		t.Fatal(err)
	}

	for name, start := range map[string]func(policyEngine) *example{"node": nodeExample, "curl": curlExample} {
		t.Run(name, func(t *testing.T) {
			p := policyEngine{p.in(t)}

			t.Run("gets paid", func(t *testing.T) {
				x := start(policyEngine{p.in(t)})
				made := x.checkDone(x.run("op", "shop-income", "125"), 1)
				x.checkData(x.readIncomingPayment(made[0]), map[string]any{
					"walletAddress": x.wallet.WalletAddress("shop"), "incomingAmount": usd(125), "receivedAmount": usd(0),
					"completed": false,
				})
			})
			t.Run("pays", func(t *testing.T) {
				x := start(policyEngine{p.in(t)})
				made := x.checkDone(x.run("op", "shop-income", "130", "rent"), 2)
				x.checkData(x.readIncomingPayment(made[0]), map[string]any{"receivedAmount": usd(130), "completed": true})
				x.checkData(x.readPayment("rent", made[1]), map[string]any{
					"walletAddress": x.wallet.WalletAddress("alice"), "receiver": made[0], "debitAmount": usd(130), "failed": false,
				})
			})
			t.Run("pays no more than its grant allows", func(t *testing.T) {
				x := start(policyEngine{p.in(t)})
				requests := x.countRequests("resource")
				r := x.run("op", "shop-income", "100000", "rent")
				if r.status == 0 || !strings.Contains(r.stderr, "limits of the grant") || len(createdPayments(r.stdout)) != 1 {
					t.Errorf("status %d\n%s\n%s", r.status, r.stdout, r.stderr)
				}
				if n := requests(); n != 3 { // the token was read again, which did not help
					t.Errorf("%d requests to the resource server, not 3", n)
				}
			})
			for _, settings := range []string{"VAULT_", "BAO_"} {
				for _, command := range []string{"vault", "bao"} {
					t.Run("with "+settings+"… and "+command+" alone", func(t *testing.T) {
						x := start(policyEngine{p.in(t)})
						x.connect(settings, command)
						x.checkDone(x.run("op", "shop-income", "135"), 1)
					})
				}
			}
			// The example requests the wallet's document between its read and its request.
			for what, at := range map[string]struct {
				operation string
				requests  int
			}{
				"before the request is signed": {"wallet", 1},
				"before the request arrives":   {"resource", 2},
			} {
				t.Run("its token is taken "+what, func(t *testing.T) {
					x := start(policyEngine{p.in(t)})
					requests, halted, ended := x.countRequests("resource"), x.hold(at.operation, false), make(chan runResult, 1)
					go func() { ended <- x.run("op", "shop-income", "140") }()
					halted.await(t)
					x.checkNoKeyInFiles()
					x.revoke(x.read("shop-income"))
					halted.release()
					made := x.checkDone(<-ended, 1)
					if n := requests(); n != at.requests {
						t.Errorf("%d requests to the resource server, not %d", n, at.requests)
					}
					x.checkData(x.readIncomingPayment(made[0]), map[string]any{"incomingAmount": usd(140)})
				})
			}
		})
	}
	p.checkNoSecret("the server's log", p.Log())
}

// consented gets a grant for paying up to 10.00 USD.
func (e *engine) consented(name string) {
	e.t.Helper()
	owner := e.wallet.WalletAddress("alice")
	asked := e.write("grants/"+name, map[string]any{
		"wallet_address": owner, "finish_uri": finishURI,
		"access": `[{"type":"outgoing-payment","actions":["create","read"],"identifier":"` + owner +
			`","limits":{"debitAmount":{"value":"1000","assetCode":"USD","assetScale":2}}}]`,
	})
	e.write("grants/"+name+"/continue", map[string]any{"redirect": e.decide(asked.Data["interact_url"].(string), true)})
}

func newExample(p policyEngine, command ...string) *example {
	p.t.Helper()
	// go test caches a result until a file that this process has opened changes.
	if _, err := os.ReadFile(command[len(command)-1]); err != nil {
		p.t.Fatal(err)
	}
	dir := p.t.TempDir()
	x := &example{policyEngine: p, command: command, home: filepath.Join(dir, "home"),
		called: filepath.Join(dir, "called")}
	tools := filepath.Join(dir, "tools")
	for _, dir := range []string{x.home, tools} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			p.t.Fatal(err)
		}
	}
	x.env = []string{"PATH=" + tools, "HOME=" + x.home, "TMPDIR=" + x.home, "VAULT_ADDR=" + p.Address, "VAULT_TOKEN=" +
		p.Token("application", "rent")}
	return x
}

func nodeExample(p policyEngine) *example {
	p.t.Helper()
	if _, err := os.Stat("../../examples/node/node_modules/@interledger/open-payments/package.json"); err != nil {
		p.t.Fatal("the packages of examples/node are not installed: run `make test`, or `npm ci` there")
	}
	return newExample(p, find(p.t, "node"), "../../examples/node/pay.mjs")
}

// curlExample gives the example vault, curl and the tools that every system has. It records the
// arguments of vault and curl, which every user of a machine can see.
func curlExample(p policyEngine) *example {
	p.t.Helper()
	x := newExample(p, "../../examples/curl/pay.sh")
	tools := strings.TrimPrefix(x.env[0], "PATH=")
	for _, name := range []string{"bash", "cat", "grep", "mktemp", "rm", "sed", "touch"} {
		if err := os.Symlink(find(p.t, name), filepath.Join(tools, name)); err != nil {
			p.t.Fatal(err)
		}
	}
	for name, path := range map[string]string{"vault": p.Binary(), "curl": find(p.t, "curl")} {
		script := fmt.Sprintf("#!/bin/sh\nprintf '%%s\\n' %s \"$@\" >>'%s'\nexec '%s' \"$@\"\n", name, x.called, path)
		if err := os.WriteFile(filepath.Join(tools, name), []byte(script), 0o700); err != nil {
			p.t.Fatal(err)
		}
	}
	return x
}

// connect makes the example use another set of settings, VAULT_ or BAO_, another of the servers'
// commands, where it uses one, and TLS with a certificate that only a setting makes trusted.
func (x *example) connect(settings, command string) {
	x.t.Helper()
	target, err := url.Parse(x.Address)
	if err != nil {
		x.t.Fatal(err)
	}
	front := httptest.NewTLSServer(httputil.NewSingleHostReverseProxy(target))
	x.t.Cleanup(front.Close)
	ca := filepath.Join(filepath.Dir(x.home), "ca.pem")
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: front.Certificate().Raw})
	if err := os.WriteFile(ca, certificate, 0o600); err != nil {
		x.t.Fatal(err)
	}
	for i, setting := range x.env {
		if name, isSetting := strings.CutPrefix(setting, "VAULT_"); isSetting {
			x.env[i] = settings + name
			if strings.HasPrefix(name, "ADDR=") {
				x.env[i] = settings + "ADDR=" + front.URL
			}
		}
	}
	x.env = append(x.env, settings+"CACERT="+ca)
	if x.command[0] != "../../examples/curl/pay.sh" {
		return
	}
	// Whichever of the two the server's command is, it has to take the settings of the other.
	tools := strings.TrimPrefix(x.env[0], "PATH=")
	script := "#!/bin/sh\n"
	for _, name := range []string{"ADDR", "TOKEN", "CACERT"} {
		switch own, other := "VAULT_"+name, "BAO_"+name; command {
		case "vault":
			script += "unset " + other + "\n"
		case "bao":
			script += fmt.Sprintf("export %[1]s=\"${%[2]s:-$%[1]s}\"; export %[2]s=\"$%[1]s\"\n", own, other)
		}
	}
	script += "exec '" + x.Binary() + "' \"$@\"\n"
	if err := os.Remove(filepath.Join(tools, "vault")); err != nil {
		x.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tools, command), []byte(script), 0o700); err != nil {
		x.t.Fatal(err)
	}
}

func find(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatal(err)
	}
	if path, err = filepath.Abs(path); err != nil {
		t.Fatal(err)
	}
	return path
}

// runResult is the outcome of a run.
type runResult struct {
	status         int
	stdout, stderr string
}

// run runs the example. It checks that no secret is anywhere it could have leaked to, and that the
// example leaves no file and no lease behind.
func (x *example) run(args ...string) runResult {
	x.t.Helper()
	ctx, cancel := context.WithTimeout(x.t.Context(), 2*time.Minute)
	defer cancel()
	var stdout, stderr bytes.Buffer
	words := slices.Concat(x.command, args)
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = x.env, &stdout, &stderr
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		x.t.Error(err)
	}
	called, err := os.ReadFile(x.called)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		x.t.Error(err)
	}
	for where, text := range map[string]string{
		"the example's environment":     strings.Join(cmd.Env, "\n"),
		"a command line":                strings.Join(cmd.Args, "\n") + string(called),
		"what the example prints":       stdout.String(),
		"what the example complains of": stderr.String(),
	} {
		x.checkNoSecret(where, text)
	}
	if left, err := os.ReadDir(x.home); err != nil || len(left) > 0 {
		x.t.Errorf("the example leaves %d files behind, %v", len(left), err)
	}
	for _, grant := range []string{"shop-income", "rent"} {
		if leases, err := x.vault.Logical().List("sys/leases/lookup/op/token/" + grant); err != nil || leases != nil {
			x.t.Errorf("the example leaves leases of %s behind: %t, %v", grant, leases != nil, err)
		}
	}
	return runResult{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

var createdLine = regexp.MustCompile(`(?m)^(?:incoming|outgoing) payment created: (\S+)$`)

// createdPayments returns the URLs of the payments that an example reports.
func createdPayments(stdout string) (urls []string) {
	for _, line := range createdLine.FindAllStringSubmatch(stdout, -1) {
		urls = append(urls, line[1])
	}
	return urls
}

// checkDone checks that a run succeeded, and returns the URLs of the payments that it created.
func (x *example) checkDone(r runResult, payments int) []string {
	x.t.Helper()
	made := createdPayments(r.stdout)
	if r.status != 0 || r.stderr != "" || len(made) != payments {
		x.t.Fatalf("status %d\n%s\n%s", r.status, r.stdout, r.stderr)
	}
	return made
}

// checkNoKeyInFiles checks the files of a running example: only its user may read them, and none
// contains a private key.
func (x *example) checkNoKeyInFiles() {
	x.t.Helper()
	err := filepath.WalkDir(x.home, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == x.home {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if info.Mode().Perm()&0o077 != 0 {
				x.t.Errorf("other users may read a directory of the example: %s", info.Mode())
			}
			return nil
		}
		text, err := os.ReadFile(path)
		x.checkNoKey("a file of the example", string(text))
		return err
	})
	if err != nil {
		x.t.Error(err)
	}
}

// readIncomingPayment reads an incoming payment from the resource server.
func (x *example) readIncomingPayment(url string) map[string]any {
	x.t.Helper()
	return x.readPayment("shop-income", url)
}

func (x *example) readPayment(grant, url string) map[string]any {
	x.t.Helper()
	lease := x.read(grant)
	defer x.revoke(lease)
	signed := x.write("sign/"+grant, map[string]any{"access_token": x.tokenOf(lease), "method": "GET", "url": url})
	return x.sendSigned("GET", url, signed.Data)
}

// revoke revokes the test's own lease, so that only the example's are left.
func (x *example) revoke(lease *api.Secret) {
	x.t.Helper()
	if err := x.vault.Sys().RevokeWithOptions(&api.RevokeOptions{LeaseID: lease.LeaseID, Sync: true}); err != nil {
		x.t.Error(err)
	}
}
