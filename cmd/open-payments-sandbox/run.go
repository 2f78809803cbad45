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
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/cli"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
)

const introduction = `Usage: open-payments-sandbox [flags]

A wallet for people without one, in one process, in memory, on loopback: wallet addresses, an Open Payments
authorization server and a resource server. It is for trying and testing only. It holds no money, keeps nothing,
and lets whoever can reach it change the client's keys.

It behaves like Rafiki. It can also speak other servers' dialects and misbehave: use the flags below, or PUT /dialect
and PUT /misbehave while it runs. When it starts, it prints the members of both.

The first line on standard output is "sandbox listening on URL". It stops on SIGINT or SIGTERM.

Flags:
`

// release is set by scripts/build to the commit's tag, if that is a version.
var release string

// flags are the command-line flags.
type flags struct {
	addr          string
	tokenLifetime time.Duration
	clientJWKS    string
	caFile        string
	dialect       string
	misbehave     string
	logLevel      string
	version       bool
}

func parse(args []string, stderr io.Writer) (flags, error) {
	var f flags
	set := flag.NewFlagSet("open-payments-sandbox", flag.ContinueOnError)
	set.SetOutput(stderr)
	set.StringVar(&f.addr, "addr", "127.0.0.1:0", "`HOST:PORT` to listen on: loopback only, port 0 is any free one")
	set.DurationVar(&f.tokenLifetime, "token-lifetime", 10*time.Minute,
		"the lifetime of an access token, in whole seconds")
	set.StringVar(&f.clientJWKS, "client-jwks", "", "`FILE` with the client's JSON Web Key Set (public keys)")
	set.StringVar(&f.caFile, "ca-file", "", "serve https and write the certificate to trust to `FILE` (PEM)")
	set.StringVar(&f.dialect, "dialect", "", "`JSON` of the dialect to start with, as for PUT /dialect")
	set.StringVar(&f.misbehave, "misbehave", "", "`JSON` of the misbehaviour to start with, as for PUT /misbehave")
	set.StringVar(&f.logLevel, "log-level", "info",
		"trace, debug, info, warn, error or off; the log goes to standard error")
	set.BoolVar(&f.version, "version", false, "print the version and exit")
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

// run runs the command and returns the exit status.
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
		fmt.Fprintln(stdout, "open-payments-sandbox", cli.Version(release))
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
		return nil, fmt.Errorf("-log-level does not know %q", f.logLevel)
	}
	options := sandbox.Options{
		Addr: f.addr, TokenLifetime: f.tokenLifetime, TLS: f.caFile != "",
		Logger: hclog.New(&hclog.LoggerOptions{Name: "sandbox", Level: level, Output: stderr}),
	}
	if f.dialect != "" {
		if err := json.Unmarshal([]byte(f.dialect), &options.Dialect); err != nil {
			return nil, fmt.Errorf("-dialect: %w", err)
		}
	}
	var misbehaviours []sandbox.Misbehaviour
	if f.misbehave != "" {
		var err error
		if misbehaviours, err = sandbox.ParseMisbehaviours([]byte(f.misbehave)); err != nil {
			return nil, fmt.Errorf("-misbehave: %w", err)
		}
	}
	server, err := sandbox.Start(options)
	if err != nil {
		return nil, err
	}
	if err := exchangeKeys(server, f); err != nil {
		server.Close()
		return nil, err
	}
	server.Misbehave(misbehaviours...)
	return server, nil
}

// exchangeKeys reads the file of the client's public keys and writes the file of the sandbox's
// certificate.
func exchangeKeys(server *sandbox.Server, f flags) error {
	if f.clientJWKS != "" {
		jwks, err := os.ReadFile(f.clientJWKS)
		if err == nil {
			err = server.SetClientKeys(jwks)
		}
		if err != nil {
			return fmt.Errorf("-client-jwks: %w", err)
		}
	}
	if f.caFile != "" {
		if err := os.WriteFile(f.caFile, server.CertificatePEM(), 0o600); err != nil {
			return fmt.Errorf("-ca-file: %w", err)
		}
	}
	return nil
}

// explain prints how to use the sandbox. Scripts read the first line.
func explain(server *sandbox.Server, stdout io.Writer) {
	url := server.URL()
	fmt.Fprintf(stdout, usage, url, server.WalletAddress("alice"), server.WalletAddress("shop"),
		server.WalletAddress("client"), server.AuthServer(), server.ResourceServer())
}

const usage = `sandbox listening on %[1]s

A wallet for trying and testing only: in memory, on loopback, without money.

  wallet address of the owner     %[2]s
  wallet address of the merchant  %[3]s
  wallet address of the client    %[4]s
  authorization server            %[5]s
  resource server                 %[6]s

Publish the client's public key (a JSON Web Key Set):
  curl -X PUT --data @jwks.json %[4]s/jwks.json

Make it misbehave, here by losing the answer to one rotation; show what is switched on; switch it off:
  curl -X PUT --data '{"on":["rotate"],"times":1,"drop":true}' %[1]s/misbehave
  curl %[1]s/misbehave
  curl -X DELETE %[1]s/misbehave
Members, all optional:
  on         the operations: grant, continue, cancel, rotate, revoke, interact, keys, wallet, resource;
             by default the first five
  times      the number of requests; delay ("2s") before anything else; after: do the work first
  status, header ({"Location":"/"}), json (any value) or text
             a substitute answer
  not_json   send an HTML page
  drop, reset, silent
             close the connection without an answer, or keep it open and send nothing
  killed     end in the middle of a rotation: the old token is revoked and there is no new one
  wire       damage the answer in transit: byte_order_mark, cut, gzip, long_length, no_last_chunk, twice
  read_only  the database accepts no changes: rotations return 404 invalid_rotation
  pool (10), pool_timeout ("60s")
             this many rotations at once block each other for this long
  keys_down  the client's key set returns 503
With a list of such objects, each request gets the first that applies to it.

Change its dialect; show it; go back to Rafiki's:
  curl -X PUT --data '{"client":"string","key_cache":"1m"}' %[1]s/dialect
  curl %[1]s/dialect
  curl -X DELETE %[1]s/dialect
Members, all optional:
  client        the only form of a grant request's client: string or object
  token_list    access_token is a list of one token
  manage        object (RFC 9635), missing or foreign (another origin)
  expires_in    string or missing
  continue      missing, other_path (without continue/) or foreign
  new_continue  each answer to a continue request has a new continue; the old one stops working
  key_cache     how long clients' key sets are cached ("1m")
  unknown_key   the status for an unknown key id: 400 or 401
  aliases, redirects
                additional paths of wallet addresses, and paths that redirect to them ({"/vanity":"alice"})

Interactive grants: open the "redirect" of the answer in a browser to accept or decline as the owner.
`
