// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/vaulttest"
)

const (
	pauseText = "Enter goes on."
	startTime = 4 * time.Minute // the tour may have to build the plugin first
)

// startQuickstart starts the tour on a terminal, or with a pipe instead.
func startQuickstart(t *testing.T, onTerminal bool, env ...string) (*exec.Cmd, io.Writer, *vaulttest.Output) {
	t.Helper()
	file, err := filepath.Abs("../../scripts/quickstart")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.ReadFile(file); err != nil { // go test caches the result until it changes
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, file)
	if onTerminal { // script, from util-linux, runs a command on a terminal of its own
		cmd = exec.CommandContext(ctx, find(t, "script"), "-qec", file, "/dev/null")
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Env = append(os.Environ(), env...)
	said := &vaulttest.Output{}
	cmd.Stdout, cmd.Stderr = said, said
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
	})
	return cmd, stdin, said
}

// The tour waits for its reader on a terminal, and leaves a grant that can be used, and signed with.
func TestQuickstart(t *testing.T) {
	t.Parallel()
	e := &engine{t: t}
	_, stdin, said := startQuickstart(t, true, "QUICKSTART_EXIT=")
	for pauses := 1; ; pauses++ {
		e.within(startTime, "a pause, or the end", func() bool {
			return strings.Count(said.String(), pauseText) == pauses || strings.Contains(said.String(), "Ctrl-C stops")
		})
		if strings.Contains(said.String(), "Ctrl-C stops") {
			if pauses < 8 {
				t.Errorf("%d pauses", pauses-1)
			}
			break
		}
		if _, err := io.WriteString(stdin, "\n"); err != nil {
			t.Fatal(err)
		}
	}
	all := strings.ReplaceAll(said.String(), "\r", "")
	setting := func(name string) string {
		found := regexp.MustCompile(`(?m)^  export .*\b` + name + `=(\S+)`).FindStringSubmatch(all)
		if found == nil {
			t.Fatalf("there is no %s in\n%s", name, all)
		}
		return found[1]
	}
	folder := regexp.MustCompile(`(?m)^  cd (\S+)$`).FindStringSubmatch(all)[1]
	cli := regexp.MustCompile(`(?m)^  (\S+) read op/token/shop-income$`).FindStringSubmatch(all)[1]
	script := "cd " + folder + "\n" + `
		url=$(vault read -field=resource_server op/token/shop-income)/incoming-payments
		vault write op/sign/shop-income access_token="$(vault read -field=access_token op/token/shop-income)" method=GET \
			url="$url?wallet-address=$(vault read -field=wallet_address op/grants/shop-income)" >/dev/null && cat pay.json`
	script = strings.ReplaceAll(script, "vault ", cli+" ")
	cmd := exec.CommandContext(t.Context(), "bash", "-ec", script)
	cmd.Env = []string{"PATH=" + strings.Replace(setting("PATH"), "$PATH", os.Getenv("PATH"), 1), "HOME=" + folder,
		"VAULT_ADDR=" + setting("VAULT_ADDR"), "VAULT_TOKEN=" + setting("VAULT_TOKEN")}
	if said, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(said), "outgoing-payment") {
		t.Errorf("%v\n%s", err, said)
	}
}

// Without a terminal nobody can press Enter, and with QUICKSTART_EXIT nobody wants to.
func TestQuickstartDoesNotWait(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		onTerminal bool
		exit, says string
	}{
		"a pipe":          {false, "", "Ctrl-C stops"},
		"QUICKSTART_EXIT": {true, "1", "Every step worked."},
	} {
		t.Run(name, func(t *testing.T) {
			e := &engine{t: t}
			cmd, _, said := startQuickstart(t, row.onTerminal, "QUICKSTART_EXIT="+row.exit)
			e.within(startTime, "the end of the tour", func() bool { return strings.Contains(said.String(), row.says) })
			if row.exit == "1" {
				if err := cmd.Wait(); err != nil {
					t.Error(err)
				}
			}
			if strings.Contains(said.String(), pauseText) {
				t.Error("it waits")
			}
		})
	}
}
