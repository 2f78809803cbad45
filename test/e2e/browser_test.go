// SPDX-License-Identifier: MPL-2.0

//go:build linux

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// Exit statuses of open-payments-grant, as in its help.
const (
	grantDone     = 0
	grantDeclined = 3
)

// question is the heading of the sandbox's page.
const question = "Allow the client “Client” to send payments from your wallet?"

// This is a person's whole way to a payment: the command, the wallet's page in a browser, the
// token, and payments with it.
func TestBrowser(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	program := buildGrantCommand(t)
	tab := openBrowser(t)

	t.Run("accept", func(t *testing.T) {
		e := e.in(t)
		tab := tab.in(t)
		c := e.authorize(program, "rent")
		tab.open(c.page)
		tab.checkShows("h1", question)
		tab.checkShows("main", "5.00 USD each month, 12 times", "Send payments from the wallet",
			e.wallet.WalletAddress("client"), e.wallet.WalletAddress("alice"))
		tab.press("Accept")
		tab.waitForCallback()
		c.wait(grantDone, "rent", "active", "5.00 USD")

		e.checkData(e.grant("rent"), map[string]any{"status": "active", "interactive": true})
		token := e.tokenOf(e.read("rent"))
		e.checkLive(token)
		receiver := e.createReceiver()
		for _, p := range []struct{ amount, status int }{
			{501, http.StatusForbidden}, {300, http.StatusCreated}, {201, http.StatusForbidden}, {200, http.StatusCreated},
			{1, http.StatusForbidden},
		} {
			e.createPayment(p.status, token, "outgoing-payments", map[string]any{
				"walletAddress": e.wallet.WalletAddress("alice"), "incomingPayment": receiver, "debitAmount": usd(p.amount),
			})
		}
	})

	t.Run("decline", func(t *testing.T) {
		e := e.in(t)
		tab := tab.in(t)
		live := e.wallet.LiveTokens()
		c := e.authorize(program, "declined")
		tab.open(c.page)
		tab.press("Decline")
		tab.waitForCallback()
		c.wait(grantDeclined)
		e.checkSays(c.said.String(), "declined")
		e.checkData(e.grant("declined"), map[string]any{"status": "lost"})
		if n := e.wallet.LiveTokens(); n != live {
			t.Errorf("%d tokens are live at the sandbox, not %d as before", n, live)
		}
	})

	t.Run("accessibility", func(t *testing.T) {
		e := e.in(t)
		axe, err := os.ReadFile(filepath.Join("..", "interop", "node_modules", "axe-core", "axe.min.js"))
		if err != nil {
			t.Fatal(err)
		}
		ask := e.askOwner("seen", "")
		unlimited := e.runJSON("write", "op/grants/unlimited", "wallet_address="+e.wallet.WalletAddress("alice"),
			`access=[{"type":"outgoing-payment","actions":["create"],"identifier":"`+e.wallet.WalletAddress("alice")+`"}]`)
		warning, _ := unlimited.Data["interact_url"].(string)
		decided := e.askOwner("decided", "")
		e.decide(decided, true)
		for name, page := range map[string]struct{ url, title string }{
			"the question":                 {ask, question},
			"the question without a limit": {warning, question},
			"the page after a decision":    {decided, "You have accepted"},
		} {
			for _, phone := range []bool{false, true} {
				for _, scheme := range []string{"light", "dark"} {
					t.Run(fmt.Sprintf("%s, on a phone: %t, %s", name, phone, scheme), func(t *testing.T) {
						tab := tab.in(t)
						tab.setDisplay(phone, scheme)
						tab.open(page.url)
						tab.checkShows("h1", page.title)
						tab.checkFits()
						tab.checkAccessible(string(axe))
					})
				}
			}
		}
	})

	e.checkNoSecret("the server's log", e.Log())
}

// buildGrantCommand builds open-payments-grant and returns its path.
func buildGrantCommand(t *testing.T) string {
	t.Helper()
	return buildCommand(t, "open-payments-grant")
}

// buildCommand builds a program of cmd/ and returns its path.
func buildCommand(t *testing.T, name string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), name)
	build := exec.Command("go", "build", "-o", program, "../../cmd/"+name)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", name, err, said)
	}
	return program
}

// authorization is a run of open-payments-grant that waits for the owner.
type authorization struct {
	*engine
	page         string // the URL that the owner opens
	process      *exec.Cmd
	stdout, said bytes.Buffer  // said is stderr without the page's URL, which is a secret
	silent       chan struct{} // closed at the end of stderr
}

// authorize runs the command as a person does, and waits until it prints the page's URL.
func (e *engine) authorize(program, name string) *authorization {
	e.t.Helper()
	dir := e.t.TempDir()
	file := filepath.Join(dir, "access.json")
	// The limits' interval starts now: a fixed date would be in the past one day.
	access := strings.Replace(e.outgoing(), "2026-01-01T00:00:00Z", time.Now().UTC().Format(time.RFC3339), 1)
	if err := os.WriteFile(file, []byte(access), 0o600); err != nil {
		e.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(e.t.Context(), 2*soon)
	e.t.Cleanup(cancel)
	a := &authorization{engine: e, silent: make(chan struct{})}
	a.process = exec.CommandContext(ctx, program, "authorize", "-mount", e.mount, "-no-browser", name,
		"-access", file, "-wallet", e.wallet.WalletAddress("alice"))
	// The test's environment is not passed on, because it may name another Vault.
	a.process.Env = []string{"HOME=" + dir, "VAULT_ADDR=" + e.Address, "VAULT_TOKEN=" + e.RootToken}
	a.process.Stdout = &a.stdout
	stderr, err := a.process.StderrPipe()
	if err != nil {
		e.t.Fatal(err)
	}
	if err := a.process.Start(); err != nil {
		e.t.Fatal(err)
	}
	page := make(chan string, 1)
	go func() {
		defer close(a.silent)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			if url, ok := strings.CutPrefix(lines.Text(), "The owner decides at: "); ok {
				page <- url
				continue
			}
			a.said.WriteString(lines.Text() + "\n")
		}
	}()
	select {
	case a.page = <-page:
	case <-a.silent:
		_ = a.process.Wait()
		e.t.Fatalf("the command exits without printing a URL: %s", a.said.String())
	}
	return a
}

// wait waits for the command to exit, and checks its status and that it printed the words.
func (a *authorization) wait(status int, words ...string) {
	a.t.Helper()
	<-a.silent
	err := a.process.Wait()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		a.t.Fatal(err)
	}
	if got := a.process.ProcessState.ExitCode(); got != status {
		a.t.Fatalf("the command's status is %d, not %d; it says:\n%s", got, status, a.said.String())
	}
	a.checkSays(a.stdout.String(), words...)
	a.checkNoSecret("what the command says", a.said.String())
}

func usd(cents int) map[string]any {
	return map[string]any{"value": fmt.Sprint(cents), "assetCode": "USD", "assetScale": 2}
}

// createReceiver creates an incoming payment, with a grant that needs no consent, and returns its
// id.
func (e *engine) createReceiver() string {
	e.t.Helper()
	e.ask("income", nil)
	made := e.createPayment(http.StatusCreated, e.tokenOf(e.read("income")), "incoming-payments",
		map[string]any{"walletAddress": e.wallet.WalletAddress("shop")})
	id, ok := made["id"].(string)
	if !ok {
		e.t.Fatal("an incoming payment without an id")
	}
	return id
}

// createPayment creates a payment as an application does: with the token, signed with the client's
// key.
func (e *engine) createPayment(status int, token, collection string, payment map[string]any) (answer map[string]any) {
	e.t.Helper()
	body, err := json.Marshal(payment)
	if err != nil {
		e.t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(e.t.Context(), http.MethodPost, e.wallet.ResourceServer()+"/"+collection,
		bytes.NewReader(body))
	if err != nil {
		e.t.Fatal(err)
	}
	request.Header.Set("Authorization", "GNAP "+token)
	request.Header.Set("Content-Type", "application/json")
	response, err := e.client().DoSigned(request)
	if err != nil {
		e.t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != status {
		e.t.Errorf("%s of %v: %d, not %d", collection, payment["debitAmount"], response.StatusCode, status)
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		e.t.Fatal(err)
	}
	return answer
}

// tab is a tab of a headless Chromium.
type tab struct {
	t       *testing.T
	browser context.Context
}

// openBrowser starts a Chromium with an empty profile and more flags, which ends with the test.
func openBrowser(t *testing.T, more ...chromedp.ExecAllocatorOption) *tab {
	t.Helper()
	dir := t.TempDir()
	allocator, stop := chromedp.NewExecAllocator(context.Background(), append(more,
		chromedp.ExecPath("chromium"), chromedp.UserDataDir(filepath.Join(dir, "profile")),
		chromedp.NoInheritEnv, chromedp.Env("HOME="+dir, "PATH="+os.Getenv("PATH")),
		chromedp.Flag("headless", "new"), chromedp.NoFirstRun, chromedp.NoSandbox, chromedp.Flag("disable-gpu", true),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true))...)
	t.Cleanup(stop)
	browser, closeTab := chromedp.NewContext(allocator)
	t.Cleanup(closeTab)
	// The first run starts the browser and must have no time limit, which would also end the
	// browser.
	if err := chromedp.Do(browser); err != nil {
		t.Fatalf("start chromium: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(browser, soon)
		defer cancel()
		_ = chromedp.Cancel(ctx) // gracefully, so that nothing writes to the profile any more; otherwise stop kills it
	})
	return &tab{t: t, browser: browser}
}

func (b *tab) in(t *testing.T) *tab { return &tab{t: t, browser: b.browser} }

// do runs an action in the tab, with a time limit.
func do[T any](b *tab, what string, action chromedp.Action[T]) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.browser, soon)
	defer cancel()
	got, err := chromedp.Run(ctx, action)
	if err != nil {
		b.t.Fatalf("%s: %v", what, err)
	}
	return got
}

func (b *tab) open(url string) {
	b.t.Helper()
	do(b, "open the page", chromedp.Navigate(url))
}

// checkShows checks the text that the owner sees.
func (b *tab) checkShows(selector string, words ...string) {
	b.t.Helper()
	text := do(b, "read the page", chromedp.Text(chromedp.CSS(selector)))
	for _, word := range words {
		if !strings.Contains(text, word) {
			b.t.Errorf("%s does not show %q but %q", selector, word, text)
		}
	}
}

// press moves the focus to a button and presses it with the keyboard alone.
func (b *tab) press(button string) {
	b.t.Helper()
	for range 5 {
		do(b, "go on to the next control", chromedp.KeyEvent(kb.Tab))
		focused := do(b, "find the focus", chromedp.Evaluate[string](`document.activeElement.innerText`))
		if focused != button {
			continue
		}
		if outline := do(b, "see the focus",
			chromedp.Evaluate[string](`getComputedStyle(document.activeElement).outlineStyle`)); outline != "solid" {
			b.t.Errorf("the focus is not visible: its outline is %s", outline)
		}
		do(b, "press Enter", chromedp.KeyEvent(kb.Enter))
		return
	}
	b.t.Fatalf("the Tab key does not lead to %q", button)
}

// waitForCallback waits until the browser is back at the command.
func (b *tab) waitForCallback() {
	b.t.Helper()
	do(b, "come back to the command", chromedp.WaitVisible(`//h1[text()="You can close this window"]`))
}

// setDisplay gives the window a desktop's size or a small phone's, and sets the preferred color
// scheme.
func (b *tab) setDisplay(phone bool, scheme string) {
	b.t.Helper()
	size := chromedp.EmulateViewport(1280, 800)
	if phone {
		size = chromedp.EmulateViewport(320, 640, chromedp.EmulatePortrait, chromedp.EmulateMobile, chromedp.EmulateTouch)
	}
	do(b, "set the size", size)
	do(b, "set the color scheme", chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
		})
		return err
	}))
}

// checkFits checks that the page does not scroll sideways.
func (b *tab) checkFits() {
	b.t.Helper()
	if over := do(b, "measure the page",
		chromedp.Evaluate[int](`document.documentElement.scrollWidth - document.documentElement.clientWidth`)); over > 0 {
		b.t.Errorf("the page is %d pixels too wide", over)
	}
}

// checkAccessible checks the page with all rules of axe-core.
func (b *tab) checkAccessible(axe string) {
	b.t.Helper()
	do(b, "load axe-core", chromedp.Evaluate[chromedp.Void](axe))
	// If axe-core saw the page at all, the contrast is among the rules that pass.
	found := do(b, "run axe-core", chromedp.Evaluate[struct{ Violations, Passes []string }](`axe.run().then(found => {
		const ids = rules => rules.map(rule => rule.id)
		return { violations: ids(found.violations), passes: ids(found.passes) }
	})`, chromedp.EvalAwaitPromise))
	if len(found.Violations) > 0 {
		b.t.Errorf("axe-core reports violations of %q", found.Violations)
	}
	if !strings.Contains(strings.Join(found.Passes, " "), "color-contrast") {
		b.t.Errorf("axe-core did not check the colors: only %q pass", found.Passes)
	}
}
