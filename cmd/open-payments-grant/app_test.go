// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestUsage(t *testing.T) {
	file := accessFile(t, rights)
	for line, want := range map[string]struct {
		status int
		says   string
	}{
		"":                                  {2, "Usage:"},
		"-help":                             {0, "3 the owner declined"},
		"help":                              {0, "authorize"},
		"help list":                         {0, "Usage: open-payments-grant list [flags]"},
		"-help status":                      {0, "Usage: open-payments-grant status [flags] NAME"},
		"help completion":                   {0, "fish"},
		"help authorise":                    {2, `no command "authorise"`},
		"help list status":                  {2, "takes one COMMAND"},
		"-version":                          {0, "open-payments-grant "},
		"--version":                         {0, "open-payments-grant "},
		"version":                           {0, "open-payments-grant "},
		"authorise":                         {2, "no command"},
		"authorize -help":                   {0, "-poll"},
		"status -help":                      {0, "-mount"},
		"completion -help":                  {0, "fish"},
		"authorize x":                       {2, "-access: is required"},
		"authorize x -access " + file:       {2, "-wallet: is required"},
		"authorize -access f -wallet w":     {2, "takes one NAME"},
		"authorize x y -access f -wallet w": {2, "takes one NAME"},
		"authorize x -access f -wallet w -timeout=-1s": {2, "-timeout"},
		"status x -color":        {2, "-color"},
		"status":                 {2, "takes one NAME"},
		"status a/continue":      {2, "NAME"},
		"status ..":              {2, "NAME"},
		"status x -mount ../sys": {2, "-mount"},
		"status x -mount /":      {2, "-mount"},
		"status x -format names": {2, "-format"},
		"list x":                 {2, "takes no NAME"},
		"list -format yaml":      {2, "table, json, names"},
		"completion":             {2, "bash, zsh or fish"},
		"completion tcsh":        {2, "bash, zsh or fish"},
		"status x -mount /op/":   {0, "NAME"},
		"status -mount op x":     {0, "NAME"},
		"status x -format json":  {0, `"name": "x"`},
		"status -format=json x":  {0, `"name": "x"`},
		"status nobody":          {1, `no grant named "nobody" at op/`},
	} {
		t.Run(line, func(t *testing.T) {
			r := newRunner(t)
			r.vault.grants["x"] = stored("active", nil)
			r.check(t, r.run(t.Context(), strings.Fields(line)), want.status)
			r.says(t, want.says)
		})
	}
}

func TestList(t *testing.T) {
	r := newRunner(t)
	r.vault.grants = map[string]map[string]any{
		"rent":   stored("active", nil),
		"asked":  asking("pending"),
		"hidden": stored("lost", nil),
	}
	r.vault.refused = map[string]int{"hidden": 403}
	r.check(t, r.run(t.Context(), []string{"list"}), statusDone)
	want := `NAME    STATUS   WALLET                        EXPIRES               GENERATION  RIGHTS
asked   pending  https://wallet.example/alice  -                     0           outgoing-payment create,read 5.00 USD
hidden  lost     -                             -                     -           -
rent    active   https://wallet.example/alice  2026-05-04T12:10:00Z  1           outgoing-payment create,read 5.00 USD
`
	if got := r.stdout.String(); got != want {
		t.Errorf("it prints\n%s", got)
	}

	r.stdout.Reset()
	r.check(t, r.run(t.Context(), []string{"list", "-format=names"}), statusDone)
	if got := r.stdout.String(); got != "asked\nhidden\nrent\n" {
		t.Errorf("it prints\n%s", got)
	}

	r.stdout.Reset()
	r.check(t, r.run(t.Context(), []string{"list", "-format=json"}), statusDone)
	var all []map[string]any
	if err := json.Unmarshal(r.stdout.Bytes(), &all); err != nil || len(all) != 3 || all[2]["name"] != "rent" ||
		all[2]["generation"] != 1.0 {
		t.Errorf("it prints\n%s", r.stdout.String())
	}

	r.stdout.Reset()
	r.vault.grants = nil
	r.check(t, r.run(t.Context(), []string{"list", "-format=json"}), statusDone)
	if got := r.stdout.String(); got != "[]\n" {
		t.Errorf("of no grants it prints %s", got)
	}
}

func TestStatus(t *testing.T) {
	r := newRunner(t)
	r.vault.grants["asked"] = asking("pending")
	r.vault.grants["gone"] = stored("lost", map[string]any{"lost_cause": "its owner\x1b[2J declined"})
	r.check(t, r.run(t.Context(), []string{"status", "asked"}), statusDone)
	r.says(t, "The owner decides at: "+page, "The owner may decide until: 2026-05-04T12:10:00Z")
	r.check(t, r.run(t.Context(), []string{"status", "gone"}), statusDone)
	r.says(t, "Lost: its owner[2J declined")
}

// A list of nothing is no success if the engine is not there.
func TestNoEngineAtMount(t *testing.T) {
	file := accessFile(t, rights)
	for _, command := range []string{"list", "list -format=json", "list -format=names", "status x",
		"authorize x -access " + file + " -wallet " + wallet} {
		for name, row := range map[string]struct{ mount, says string }{
			"nothing":        {"pya", "there is no Open Payments secrets engine at pya/"},
			"another engine": {"secret", "secret/ is a mount of kv, not of the Open Payments secrets engine"},
			"below a mount":  {"op/more", "there is no Open Payments secrets engine at op/more/"},
		} {
			t.Run(command[:4]+" "+name, func(t *testing.T) {
				r := newRunner(t)
				r.vault.engines = map[string]string{"secret": "kv", "op": "vault-plugin-secrets-open-payments"}
				r.vault.write = func(string, map[string]any) answer { return answer{404, "no handler for route"} }
				r.check(t, r.run(t.Context(), append(strings.Fields(command), "-mount="+row.mount)), statusFailed)
				r.says(t, row.says, "-mount", "OPEN_PAYMENTS_MOUNT")
				if r.stdout.Len() > 0 {
					t.Errorf("it prints %s", r.stdout.String())
				}
			})
		}
	}
	t.Run("denied", func(t *testing.T) {
		r := newRunner(t)
		t.Setenv("VAULT_TOKEN", "another")
		r.check(t, r.run(t.Context(), []string{"list", "-mount=pya"}), statusFailed)
		r.says(t, "Vault answered 403: permission denied; is the engine mounted at pya/?")
	})
}

func TestMountFromEnvironment(t *testing.T) {
	for name, row := range map[string]struct {
		env    string
		args   []string
		status int
		says   string
	}{
		"given":      {"/op/", nil, statusDone, "NAME"},
		"of nothing": {"pya", nil, statusFailed, "pya/"},
		"overridden": {"pya", []string{"-mount=op"}, statusDone, "NAME"},
		"malformed":  {"../sys", nil, statusUsage, "OPEN_PAYMENTS_MOUNT"},
		"help":       {"wallet", []string{"-help"}, statusDone, `default "wallet"`},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRunner(t)
			t.Setenv("OPEN_PAYMENTS_MOUNT", row.env)
			r.check(t, r.run(t.Context(), append([]string{"list"}, row.args...)), row.status)
			r.says(t, row.says)
		})
	}
}

func writeToken(t *testing.T, file string) {
	t.Helper()
	if err := os.WriteFile(file, []byte("token-of-the-test\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// useOpenBao sets OpenBao's variables instead of Vault's.
func useOpenBao(t *testing.T) {
	t.Helper()
	t.Setenv("BAO_ADDR", os.Getenv("VAULT_ADDR"))
	t.Setenv("BAO_TOKEN", os.Getenv("VAULT_TOKEN"))
	t.Setenv("VAULT_ADDR", "")
	t.Setenv("VAULT_TOKEN", "")
}

func TestToken(t *testing.T) {
	for name, row := range map[string]struct {
		prepare func(t *testing.T, home string)
		status  int
		says    string
	}{
		"from a file": {func(t *testing.T, home string) {
			t.Setenv("VAULT_TOKEN", "")
			writeToken(t, filepath.Join(home, ".vault-token"))
		}, statusDone, ""},
		"Vault knows no BAO_TOKEN_PATH": {func(t *testing.T, home string) {
			t.Setenv("VAULT_TOKEN", "")
			t.Setenv("BAO_TOKEN_PATH", filepath.Join(home, "bao"))
			writeToken(t, filepath.Join(home, "bao"))
		}, statusFailed, "log in with vault login, or set VAULT_TOKEN"},
		"OpenBao's": {func(t *testing.T, _ string) { useOpenBao(t) }, statusDone, ""},
		"OpenBao's, from a file": {func(t *testing.T, home string) {
			useOpenBao(t)
			t.Setenv("BAO_TOKEN", "")
			writeToken(t, filepath.Join(home, ".vault-token"))
		}, statusDone, ""},
		"OpenBao's, from a file of another name": {func(t *testing.T, home string) {
			useOpenBao(t)
			t.Setenv("BAO_TOKEN", "")
			t.Setenv("BAO_TOKEN_PATH", filepath.Join(home, "bao"))
			writeToken(t, filepath.Join(home, "bao"))
		}, statusDone, ""},
		"OpenBao's, which takes precedence over a file": {func(t *testing.T, home string) {
			useOpenBao(t)
			t.Setenv("BAO_TOKEN_PATH", home) // a directory
		}, statusDone, ""},
		"OpenBao's, from the named file only": {func(t *testing.T, home string) {
			useOpenBao(t)
			t.Setenv("BAO_TOKEN", "")
			t.Setenv("BAO_TOKEN_PATH", filepath.Join(home, "bao"))
			writeToken(t, filepath.Join(home, ".vault-token"))
		}, statusFailed, "OpenBao answered 403: there is no token; log in with bao login, or set BAO_TOKEN"},
		"OpenBao's, from a file that cannot be read": {func(t *testing.T, home string) {
			useOpenBao(t)
			t.Setenv("BAO_TOKEN", "")
			t.Setenv("BAO_TOKEN_PATH", home)
		}, statusFailed, "is a directory"},
		"OpenBao's is not for Vault": {func(t *testing.T, _ string) {
			t.Setenv("BAO_TOKEN", "token-of-the-test")
			t.Setenv("VAULT_TOKEN", "")
		}, statusFailed, "set VAULT_TOKEN"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRunner(t)
			row.prepare(t, os.Getenv("HOME"))
			r.check(t, r.run(t.Context(), []string{"list"}), row.status)
			r.says(t, row.says)
		})
	}
}

func TestNamespaceOfOpenBao(t *testing.T) {
	r := newRunner(t)
	useOpenBao(t)
	t.Setenv("BAO_NAMESPACE", "shops")
	r.check(t, r.run(t.Context(), []string{"list"}), statusDone)
	if r.vault.namespace != "shops" {
		t.Errorf("the namespace is %q", r.vault.namespace)
	}
}

// An address that is nearly right.
func TestAddress(t *testing.T) {
	encrypted := httptest.NewTLSServer(http.NotFoundHandler())
	encrypted.Config.ErrorLog = log.New(io.Discard, "", 0)
	defer encrypted.Close()
	certificate := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(certificate,
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: encrypted.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		prepare func(t *testing.T)
		says    string
	}{
		"http to a TLS port": {func(t *testing.T) {
			t.Setenv("VAULT_ADDR", strings.Replace(encrypted.URL, "https:", "http:", 1))
		}, "the port speaks TLS: VAULT_ADDR must begin with https://"},
		"OpenBao, http to a TLS port": {func(t *testing.T) {
			useOpenBao(t)
			t.Setenv("BAO_ADDR", strings.Replace(encrypted.URL, "https:", "http:", 1))
		}, "BAO_ADDR must begin with https://"},
		"https to a port without TLS": {func(t *testing.T) {
			t.Setenv("VAULT_ADDR", strings.Replace(os.Getenv("VAULT_ADDR"), "http:", "https:", 1))
		}, "the port does not speak TLS: VAULT_ADDR must begin with http://"},
		"unknown CA": {func(t *testing.T) {
			t.Setenv("VAULT_ADDR", encrypted.URL)
		}, "VAULT_CACERT names the file with the certificate of the server's CA"},
		"OpenBao, known CA": {func(t *testing.T) {
			useOpenBao(t)
			t.Setenv("BAO_ADDR", encrypted.URL)
			t.Setenv("BAO_CACERT", certificate)
		}, "404"},
		"none": {func(t *testing.T) {
			t.Setenv("VAULT_ADDR", "")
			t.Setenv("VAULT_HTTP_PROXY", "http://127.0.0.1:1") // whatever runs on this machine
		}, "VAULT_ADDR is not set"},
		"without a scheme": {func(t *testing.T) {
			t.Setenv("VAULT_ADDR", "127.0.0.1:8200")
		}, "VAULT_ADDR: must begin with https://"},
		"another scheme": {func(t *testing.T) {
			useOpenBao(t)
			t.Setenv("BAO_ADDR", "vault.example")
		}, "BAO_ADDR: must begin with https://"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRunner(t)
			row.prepare(t)
			r.check(t, r.run(t.Context(), []string{"list"}), statusFailed)
			r.says(t, row.says)
		})
	}
}

func TestContains(t *testing.T) {
	for name, row := range map[string]struct {
		have, want string
		contains   bool
	}{
		"another order": {`[{"type":"a"},{"type":"b","actions":["read","create"]}]`,
			`[{"type":"b","actions":["create","read"]},{"type":"a"}]`, true},
		"server adds":    {`[{"type":"a","identifier":"x"}]`, `[{"type":"a"}]`, true},
		"asked for more": {`[{"type":"a"}]`, `[{"type":"a","identifier":"x"}]`, false},
		"one right less": {`[{"type":"a"},{"type":"b"}]`, `[{"type":"a"}]`, false},
		"another amount": {`[{"limits":{"debitAmount":{"value":"5"}}}]`, `[{"limits":{"debitAmount":{"value":"50"}}}]`,
			false},
		"another shape": {`{"type":"a"}`, `[{"type":"a"}]`, false},
		"an object":     {`[["a"]]`, `[{"type":"a"}]`, false},
	} {
		t.Run(name, func(t *testing.T) {
			var have, want any
			json.Unmarshal([]byte(row.have), &have)
			json.Unmarshal([]byte(row.want), &want)
			if contains(have, want) != row.contains {
				t.Errorf("contains is %t", !row.contains)
			}
		})
	}
	if got := walletURL("$wallet.example"); got != "https://wallet.example/.well-known/pay" {
		t.Errorf("a bare pointer is %s", got)
	}
	if got := walletURL("$wallet.example/alice"); got != wallet {
		t.Errorf("a pointer is %s", got)
	}
}

func TestAmount(t *testing.T) {
	for want, sum := range map[string]map[string]any{
		"5.00 USD":  {"value": "500", "assetScale": 2, "assetCode": "USD"},
		"0.005 KWD": {"value": "5", "assetScale": json.Number("3"), "assetCode": "KWD"},
		"12 JPY":    {"value": "12", "assetScale": 0, "assetCode": "JPY"},
		"12 ABC":    {"value": "12", "assetScale": "many", "assetCode": "ABC"},
	} {
		if got := amount(sum); got != want {
			t.Errorf("%v is %s, not %s", sum, got, want)
		}
	}
}

func TestWaitingLine(t *testing.T) {
	until := start.Add(10 * time.Minute)
	want := "Waiting for the owner: 1:05, until " + until.Local().Format(time.TimeOnly)
	if got := waitingLine(start, start.Add(65*time.Second), until); got != want {
		t.Errorf("it is %q", got)
	}
	var out bytes.Buffer
	line := &terminal{out: &out, live: true}
	stop := line.showStatus(func() string { return "waiting" })
	line.printf("news")
	stop()
	if text := out.String(); !strings.Contains(text, clearLine+"news\n") || !strings.HasSuffix(text, clearLine) {
		t.Errorf("it writes %q to a terminal", text)
	}
}

func TestBrowser(t *testing.T) {
	for target, good := range map[string]bool{
		page: true, "http://127.0.0.1:80/x": true,
		"file:///etc/passwd": false, "--help": false, "https:": false, "javascript:alert(1)": false, "https://a\x1b/": false,
	} {
		if err := checkPage(target); (err == nil) != good {
			t.Errorf("%q: %v", target, err)
		}
	}
	display := func(name string) string { return map[string]string{"DISPLAY": ":0"}[name] }
	none := func(string) string { return "" }
	if openerFor("linux", none) != nil || openerFor("linux", display)[0] != "xdg-open" ||
		openerFor("darwin", none)[0] != "open" || openerFor("windows", none)[0] != "rundll32" {
		t.Error("a wrong command opens the browser")
	}
	if got := withoutTokens([]string{"A=1", "VAULT_TOKEN=x", "BAO_TOKEN=y"}); !slices.Equal(got, []string{"A=1"}) {
		t.Errorf("the browser gets %q", got)
	}
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		r := newRunner(t)
		r.check(t, r.run(t.Context(), []string{"completion", shell}), statusDone)
		r.says(t, "list -format=names", "authorize", "status", "no-browser")
		if shell != "bash" { // the only shell that every test machine has
			continue
		}
		file := filepath.Join(t.TempDir(), "script")
		os.WriteFile(file, r.stdout.Bytes(), 0o600)
		if said, err := exec.CommandContext(t.Context(), "bash", "-n", file).CombinedOutput(); err != nil {
			t.Errorf("%s: %v", said, err)
		}
	}
}

// What bash offers to complete the last word of a line.
func TestBashCompletes(t *testing.T) {
	r := newRunner(t)
	r.run(t.Context(), []string{"completion", "bash"})
	for line, want := range map[string]string{
		"au":                        "authorize",
		"status re":                 "rent-of-op",
		"status -mount wallet re":   "rent-of-wallet",
		"status -mount = wallet re": "rent-of-wallet",
		"list -form":                "-format",
		"list -format = n":          "names",
		"list -format j":            "json",
		"authorize -no":             "-no-browser",
		"completion z":              "zsh",
		"help st":                   "status",
		"list x":                    "",
	} {
		script := r.stdout.String() + `
open-payments-grant() { echo "rent-of-${3#*=}"; }
COMP_WORDS=(open-payments-grant ` + line + `); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_open_payments_grant
echo "${COMPREPLY[*]}"`
		got, err := exec.CommandContext(t.Context(), "bash", "-c", script).Output()
		if err != nil || strings.TrimSpace(string(got)) != want {
			t.Errorf("%q is completed with %q, %v", line, got, err)
		}
	}
}
