// SPDX-License-Identifier: MPL-2.0

// Command open-payments-proxy lets programs in any language pay without a key: it takes plain HTTP
// on loopback or on a unix socket, has each request signed by Vault, and sends it to the grant's
// resource server.
//
// proxy.go is the way of a request, target.go where it goes, sending.go until when it can be given
// up, failure.go what is answered instead of the wallet's answer, caller.go and browser.go who may
// send. vault.go is the connection to Vault, admin.go and metrics.go what operators see, run.go
// starts and stops it all.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills the process
	status := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}
