// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"errors"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"strings"
)

// checkPage checks that a URL from a server can safely be opened in a browser: for other schemes,
// the system would start other programs.
func checkPage(target string) error {
	u, err := url.Parse(target)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" {
		return errors.New("not a web page's URL")
	}
	return nil
}

// openBrowser opens a page in the browser, if there is one.
func openBrowser(ctx context.Context, target string) error {
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
	args := append(opener[1:], target)
	ctx = context.WithoutCancel(ctx)               // the browser outlives this program
	cmd := exec.CommandContext(ctx, path, args...) //nolint:gosec // one of three programs; the URL is checked
	cmd.Env = withoutTokens(os.Environ())
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }()
	return nil
}

// openerFor returns the command that opens a URL in a browser on an operating system; nil if there
// is none.
func openerFor(system string, getenv func(string) string) []string {
	switch system {
	case "darwin":
		return []string{"open"}
	case "windows":
		return []string{"rundll32", "url.dll,FileProtocolHandler"}
	}
	// Without a display, xdg-open would start a text browser in this terminal.
	if getenv("DISPLAY") == "" && getenv("WAYLAND_DISPLAY") == "" {
		return nil
	}
	return []string{"xdg-open"}
}

// withoutTokens removes Vault's token from an environment that the browser gets.
func withoutTokens(env []string) []string {
	var kept []string
	for _, v := range env {
		if !strings.HasPrefix(v, "VAULT_TOKEN=") && !strings.HasPrefix(v, "BAO_TOKEN=") {
			kept = append(kept, v)
		}
	}
	return kept
}
