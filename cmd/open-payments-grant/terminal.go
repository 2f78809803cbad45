// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"time"
)

// terminal is where a person reads along: sentences, and under them, if it is a
// real one, a line that changes.
type terminal struct {
	out  io.Writer
	live bool

	mu sync.Mutex
}

const clearLine = "\r\x1b[K"

func (t *terminal) say(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.live {
		fmt.Fprint(t.out, clearLine)
	}
	fmt.Fprintf(t.out, format+"\n", args...)
}

// tell keeps a line up to date until stop is called. Where lines cannot change,
// it is said once.
func (t *terminal) tell(line func() string) (stop func()) {
	if !t.live {
		t.say("%s", line())
		return func() {}
	}
	ticks := time.NewTicker(time.Second)
	end, ended := make(chan struct{}), make(chan struct{})
	show := func(text string) {
		t.mu.Lock()
		defer t.mu.Unlock()
		fmt.Fprint(t.out, clearLine+text)
	}
	go func() {
		defer close(ended)
		for {
			show(line())
			select {
			case <-ticks.C:
			case <-end:
				show("")
				return
			}
		}
	}()
	return func() {
		ticks.Stop()
		close(end)
		<-ended
	}
}

func waitingLine(since, now, until time.Time) string {
	elapsed := max(now.Sub(since), 0) / time.Second
	return fmt.Sprintf("Waiting for the owner: %d:%02d, until %s", elapsed/60, elapsed%60, until.Local().Format(time.TimeOnly))
}

// isTerminal is right on Unix and for Windows' own console; the null device is
// a character device too.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, null)
}

// printable takes out what could make a terminal do things.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) {
			return -1
		}
		return r
	}, text)
}

// checkPage finds out whether a URL that a server named may be given to a
// browser: openers start other programs for other schemes.
func checkPage(target string) error {
	u, err := url.Parse(target)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" {
		return errors.New("not a web page's URL")
	}
	return nil
}

// browse opens a page in the browser, if there is one.
func browse(ctx context.Context, target string) error {
	if err := checkPage(target); err != nil {
		return err
	}
	opener := openerFor(runtime.GOOS, os.Getenv)
	if opener == nil {
		return errors.New("no browser")
	}
	path, err := exec.LookPath(opener[0])
	if err != nil {
		return err
	}
	// It lives on when this program ends.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), path, append(opener[1:], target)...) //nolint:gosec // The program is one of three, the URL is checked.
	cmd.Env = withoutTokens(os.Environ())
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }()
	return nil
}

func openerFor(system string, getenv func(string) string) []string {
	switch system {
	case "darwin":
		return []string{"open"}
	case "windows":
		return []string{"rundll32", "url.dll,FileProtocolHandler"}
	}
	// Without a display xdg-open starts a browser for terminals in this one.
	if getenv("DISPLAY") == "" && getenv("WAYLAND_DISPLAY") == "" {
		return nil
	}
	return []string{"xdg-open"}
}

// withoutTokens keeps Vault's token out of the browser's environment.
func withoutTokens(env []string) []string {
	var kept []string
	for _, v := range env {
		if !strings.HasPrefix(v, "VAULT_TOKEN=") && !strings.HasPrefix(v, "BAO_TOKEN=") {
			kept = append(kept, v)
		}
	}
	return kept
}
