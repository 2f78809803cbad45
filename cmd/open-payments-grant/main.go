// SPDX-License-Identifier: MPL-2.0

// The command open-payments-grant is for people: it asks the owner of a wallet, through Vault, to consent to an Open
// Payments grant, waits for the decision, and shows the grants that are stored.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends it at once
	status := newApp().run(ctx, os.Args[1:])
	stop()
	os.Exit(status)
}

func newApp() *app {
	return &app{
		stdout:     os.Stdout,
		terminal:   &terminal{out: os.Stderr, live: isTerminal(os.Stderr)},
		person:     isTerminal(os.Stdout),
		browse:     browse,
		now:        time.Now,
		after:      time.After,
		tokenFile:  ".vault-token",
		pollsEvery: 5 * time.Second,
	}
}
