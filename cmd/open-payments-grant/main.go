// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C kills the process
	status := newApp().run(ctx, os.Args[1:])
	stop()
	os.Exit(status)
}

func newApp() *app {
	return &app{
		stdout:       os.Stdout,
		terminal:     &terminal{out: os.Stderr, live: isTerminal(os.Stderr)},
		interactive:  isTerminal(os.Stdout),
		openBrowser:  openBrowser,
		now:          time.Now,
		after:        time.After,
		tokenFile:    cli.TokenFile,
		pollInterval: 5 * time.Second,
	}
}
