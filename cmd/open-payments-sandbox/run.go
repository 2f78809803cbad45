// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
)

const introduction = `Usage: open-payments-sandbox [flags]

A wallet for people without one, in one process, in memory, on loopback: wallet addresses, an Open Payments
authorization server and a resource server. It is for trying and testing only. It holds no money, keeps nothing,
and lets whoever can reach it change the client's keys.

Its first line on standard output is "sandbox listening on URL". It ends at SIGINT or SIGTERM.

Flags:
`

// flags are what the command line says.
type flags struct {
	addr          string
	tokenLifetime time.Duration
	clientJWKS    string
	misbehave     string
	logLevel      string
	version       bool
}

func parse(args []string, stderr io.Writer) (flags, error) {
	var f flags
	set := flag.NewFlagSet("open-payments-sandbox", flag.ContinueOnError)
	set.SetOutput(stderr)
	set.StringVar(&f.addr, "addr", "127.0.0.1:0", "`HOST:PORT` to listen on: loopback only, port 0 is any free one")
	set.DurationVar(&f.tokenLifetime, "token-lifetime", 10*time.Minute, "what an access token lives, in whole seconds")
	set.StringVar(&f.clientJWKS, "client-jwks", "", "`FILE` with the client's JSON Web Key Set (public keys)")
	set.StringVar(&f.misbehave, "misbehave", "", "`JSON` of what to do wrong from the start, as for PUT /misbehave")
	set.StringVar(&f.logLevel, "log-level", "info", "trace, debug, info, warn, error or off; the log goes to standard error")
	set.BoolVar(&f.version, "version", false, "print the version and end")
	set.Usage = func() {
		fmt.Fprint(stderr, introduction)
		set.PrintDefaults()
	}
	if err := set.Parse(args); err != nil {
		return f, err
	}
	if set.NArg() > 0 {
		return f, fmt.Errorf("there are no arguments, only flags: %q", set.Arg(0))
	}
	return f, nil
}

// run is the command: it gives the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	f, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(stderr, "open-payments-sandbox:", err)
		return 2
	}
	if f.version {
		fmt.Fprintln(stdout, "open-payments-sandbox", version())
		return 0
	}
	server, err := start(f, stderr)
	if err != nil {
		fmt.Fprintln(stderr, "open-payments-sandbox:", err)
		return 1
	}
	defer server.Close()
	explain(server, stdout)
	<-ctx.Done()
	return 0
}

func start(f flags, stderr io.Writer) (*sandbox.Server, error) {
	level := hclog.LevelFromString(f.logLevel)
	if level == hclog.NoLevel {
		return nil, fmt.Errorf("-log-level knows no %q", f.logLevel)
	}
	var jwks []byte
	if f.clientJWKS != "" {
		var err error
		if jwks, err = os.ReadFile(f.clientJWKS); err != nil {
			return nil, fmt.Errorf("-client-jwks: %w", err)
		}
	}
	var misbehaviour sandbox.Misbehaviour
	if f.misbehave != "" {
		if err := json.Unmarshal([]byte(f.misbehave), &misbehaviour); err != nil {
			return nil, fmt.Errorf("-misbehave: %w", err)
		}
	}
	logger := hclog.New(&hclog.LoggerOptions{Name: "sandbox", Level: level, Output: stderr})
	server, err := sandbox.Start(sandbox.Options{Addr: f.addr, TokenLifetime: f.tokenLifetime, Logger: logger})
	if err != nil {
		return nil, err
	}
	if jwks != nil {
		if err := server.SetClientKeys(jwks); err != nil {
			server.Close()
			return nil, fmt.Errorf("-client-jwks: %w", err)
		}
	}
	server.Misbehave(misbehaviour)
	return server, nil
}

// explain tells how to use the sandbox. Scripts read the first line.
func explain(server *sandbox.Server, stdout io.Writer) {
	url := server.URL()
	fmt.Fprintf(stdout, `sandbox listening on %[1]s

A wallet for trying and testing only: in memory, on loopback, without money.

  wallet address of the owner     %[2]s
  wallet address of the merchant  %[3]s
  wallet address of the client    %[4]s
  authorization server            %[5]s
  resource server                 %[6]s

Publish the client's public key (a JSON Web Key Set):
  curl -X PUT --data @jwks.json %[4]s/jwks.json

Make it misbehave, here by losing the answer to one rotation; then see what is switched on, and end it:
  curl -X PUT --data '{"on":["rotate"],"times":1,"drop":true}' %[1]s/misbehave
  curl %[1]s/misbehave
  curl -X DELETE %[1]s/misbehave
Members: on (grant, continue, cancel, rotate, revoke, interact, keys, wallet, resource), times, and what to do:
delay ("2s"), drop, reset, status (500), not_json, keys_down.

Interactive grants: open the "redirect" of the answer in a browser to accept or decline as the owner.
`, url, server.WalletAddress("alice"), server.WalletAddress("shop"), server.WalletAddress("client"),
		server.AuthServer(), server.ResourceServer())
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(unknown)"
}
