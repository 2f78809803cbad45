// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
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

// example is a program of examples/, run as its user does: with the example policy,
// and with nothing but the user's token.
type example struct {
	policed
	command []string
	env     []string
	home    string // where it has its files
	called  string // the file in which the arguments are that its tools were called with
}

// The programs in examples/ get paid and pay without the client's private key.
func TestExamples(t *testing.T) {
	t.Parallel()
	p := startPoliced(t)
	p.consented("rent")
	policy, err := os.ReadFile(filepath.Join("..", "..", "examples", "policies", "application.hcl"))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.vault.Sys().PutPolicy("rent", strings.ReplaceAll(string(policy), "shop-income", "rent")); err != nil {
		t.Fatal(err)
	}

	for name, start := range map[string]func(policed) *example{"node": nodeExample, "curl": curlExample} {
		t.Run(name, func(t *testing.T) {
			p := policed{p.in(t)}

			t.Run("gets paid", func(t *testing.T) {
				x := start(policed{p.in(t)})
				made := x.done(x.run("op", "shop-income", "125"), 1)
				x.expect(x.incoming(made[0]), map[string]any{
					"walletAddress": x.wallet.WalletAddress("shop"), "incomingAmount": usd(125), "receivedAmount": usd(0), "completed": false,
				})
			})
			t.Run("pays", func(t *testing.T) {
				x := start(policed{p.in(t)})
				made := x.done(x.run("op", "shop-income", "130", "rent"), 2)
				x.expect(x.incoming(made[0]), map[string]any{"receivedAmount": usd(130), "completed": true})
				x.expect(x.get("rent", made[1]), map[string]any{
					"walletAddress": x.wallet.WalletAddress("alice"), "receiver": made[0], "debitAmount": usd(130), "failed": false,
				})
			})
			t.Run("pays no more than its grant allows", func(t *testing.T) {
				x := start(policed{p.in(t)})
				requests := x.sent("resource")
				r := x.run("op", "shop-income", "100000", "rent")
				if r.status == 0 || !strings.Contains(r.stderr, "limits of the grant") || len(madeBy(r.stdout)) != 1 {
					t.Errorf("status %d\n%s\n%s", r.status, r.stdout, r.stderr)
				}
				if n := requests(); n != 3 { // the token was read once more, which did not help
					t.Errorf("%d requests to the resource server, not 3", n)
				}
			})
			// The example asks for the wallet's document between its read and its request.
			for what, at := range map[string]struct {
				operation string
				requests  int
			}{
				"before the request is signed": {"wallet", 1},
				"before the request arrives":   {"resource", 2},
			} {
				t.Run("its token is taken "+what, func(t *testing.T) {
					x := start(policed{p.in(t)})
					requests, halted, ended := x.sent("resource"), x.holdUp(at.operation, false), make(chan ending, 1)
					go func() { ended <- x.run("op", "shop-income", "140") }()
					halted.await(t)
					x.keepsNoKey()
					x.giveBack(x.read("shop-income"))
					halted.release()
					made := x.done(<-ended, 1)
					if n := requests(); n != at.requests {
						t.Errorf("%d requests to the resource server, not %d", n, at.requests)
					}
					x.expect(x.incoming(made[0]), map[string]any{"incomingAmount": usd(140)})
				})
			}
		})
	}
	p.noSecretIn("the server's log", p.Log())
}

// consented gets a grant to pay up to 10.00 USD.
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

func newExample(p policed, command ...string) *example {
	p.t.Helper()
	// go test keeps a result until a file changes that this process has opened.
	if _, err := os.ReadFile(command[len(command)-1]); err != nil {
		p.t.Fatal(err)
	}
	dir := p.t.TempDir()
	x := &example{policed: p, command: command, home: filepath.Join(dir, "home"), called: filepath.Join(dir, "called")}
	tools := filepath.Join(dir, "tools")
	for _, dir := range []string{x.home, tools} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			p.t.Fatal(err)
		}
	}
	x.env = []string{"PATH=" + tools, "HOME=" + x.home, "TMPDIR=" + x.home, "VAULT_ADDR=" + p.Address, "VAULT_TOKEN=" + p.Token("application", "rent")}
	return x
}

func nodeExample(p policed) *example {
	p.t.Helper()
	if _, err := os.Stat("../../examples/node/node_modules/@interledger/open-payments/package.json"); err != nil {
		p.t.Fatal("the packages of examples/node are not installed: run `make test`, or `npm ci` there")
	}
	return newExample(p, find(p.t, "node"), "../../examples/node/pay.mjs")
}

// curlExample has no tools but vault, curl and those that every system has. What vault
// and curl are called with is written down: everybody on a machine can see it.
func curlExample(p policed) *example {
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

// ending is how a run has ended.
type ending struct {
	status         int
	stdout, stderr string
}

// run runs the example to its end. Wherever it could have put a secret there is none,
// and it leaves nothing behind: no file, no lease.
func (x *example) run(args ...string) ending {
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
		x.noSecretIn(where, text)
	}
	if left, err := os.ReadDir(x.home); err != nil || len(left) > 0 {
		x.t.Errorf("the example leaves %d files behind, %v", len(left), err)
	}
	for _, grant := range []string{"shop-income", "rent"} {
		if leases, err := x.vault.Logical().List("sys/leases/lookup/op/token/" + grant); err != nil || leases != nil {
			x.t.Errorf("the example leaves leases of %s behind: %t, %v", grant, leases != nil, err)
		}
	}
	return ending{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

var madeLine = regexp.MustCompile(`(?m)^(?:incoming|outgoing) payment created: (\S+)$`)

// madeBy finds the URLs of the payments that an example says it has made.
func madeBy(stdout string) (urls []string) {
	for _, line := range madeLine.FindAllStringSubmatch(stdout, -1) {
		urls = append(urls, line[1])
	}
	return urls
}

// done checks that a run has succeeded, and answers the URLs of what was made.
func (x *example) done(r ending, payments int) []string {
	x.t.Helper()
	made := madeBy(r.stdout)
	if r.status != 0 || r.stderr != "" || len(made) != payments {
		x.t.Fatalf("status %d\n%s\n%s", r.status, r.stdout, r.stderr)
	}
	return made
}

// keepsNoKey looks at the files that the example has while it runs: they may hold a
// token, and only the example's user may read them.
func (x *example) keepsNoKey() {
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
				x.t.Errorf("others may look into a folder of the example: %s", info.Mode())
			}
			return nil
		}
		text, err := os.ReadFile(path)
		x.noKeyIn("a file of the example", string(text))
		return err
	})
	if err != nil {
		x.t.Error(err)
	}
}

// incoming is an incoming payment as the resource server has it.
func (x *example) incoming(url string) map[string]any {
	x.t.Helper()
	return x.get("shop-income", url)
}

func (x *example) get(grant, url string) map[string]any {
	x.t.Helper()
	lease := x.read(grant)
	defer x.giveBack(lease)
	signed := x.write("sign/"+grant, map[string]any{"access_token": x.tokenOf(lease), "method": "GET", "url": url})
	return x.accepted("GET", url, signed.Data)
}

// giveBack leaves the example's leases the only ones.
func (x *example) giveBack(lease *api.Secret) {
	x.t.Helper()
	if err := x.vault.Sys().RevokeWithOptions(&api.RevokeOptions{LeaseID: lease.LeaseID, Sync: true}); err != nil {
		x.t.Error(err)
	}
}
