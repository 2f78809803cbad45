// SPDX-License-Identifier: MPL-2.0

// The command open-payments-sandbox is a wallet on loopback for trying and testing Open Payments
// clients: wallet addresses, an authorization server and a resource server in one process, in
// memory. It holds no money.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}
