// SPDX-License-Identifier: MPL-2.0

package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/cli"
)

const introduction = `Usage: open-payments-proxy -grant NAME -caller-file FILE [flags]

Sends requests to the resource servers of Open Payments wallets, with access tokens and signatures from
Vault. Programs on this machine send it plain HTTP:

  curl http://127.0.0.1:9700/incoming-payments -H "Authorization: GNAP NAME.$(cat FILE)" --json '{…}'

Flags:
`

const environment = `
Each flag can also be set in the environment: -caller-file as OPEN_PAYMENTS_PROXY_CALLER_FILE and so
on, -mount as OPEN_PAYMENTS_MOUNT. OPEN_PAYMENTS_PROXY_GRANT and
OPEN_PAYMENTS_PROXY_ROLE hold any number of names, separated by spaces.

Vault's address and token come from the same settings as for Vault's own commands: VAULT_ADDR, VAULT_TOKEN
(or the file .vault-token in the home directory), VAULT_NAMESPACE, VAULT_CACERT and so on. If neither
VAULT_ADDR nor VAULT_TOKEN is set, OpenBao's are used: BAO_ADDR, BAO_TOKEN and so on.

SIGTERM and Ctrl-C let requests in progress finish and revoke the leases. Exit status: 0 done; 1 failed;
2 wrong usage.
`

const (
	unixPrefix = "unix:"
	noAdmin    = "none"
)

// names is the value of a flag that may be given more than once.
type names []string

func (n *names) String() string { return strings.Join(*n, " ") }

// Set adds the names in a text, which spaces or commas separate.
func (n *names) Set(text string) error {
	for _, name := range strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == ',' }) {
		if !cli.IsName(name) {
			return errors.New("a name " + cli.NameRule)
		}
		*n = append(*n, name)
	}
	return nil
}

// options are the values of the flags.
type options struct {
	mount          string
	grants         names
	roles          names
	listen         string
	callerFile     string
	noCallerSecret bool
	tokenFile      string
	admin          string
	wait           time.Duration
	answer         time.Duration // for the wallet's answer; not a flag
	logLevel       string
	logJSON        bool
	version        bool
}

func (o *options) flagSet() *flag.FlagSet {
	set := flag.NewFlagSet("open-payments-proxy", flag.ContinueOnError)
	set.StringVar(&o.mount, "mount", "op", "`PATH` where the engine is mounted")
	set.Var(&o.grants, "grant", "`NAME` of a grant to serve; may be given more than once")
	set.Var(&o.roles, "role",
		"`NAME` of a role to serve, which gives this proxy a grant of its own; may be given more than once")
	set.StringVar(&o.listen, "listen", "127.0.0.1:9700",
		"`ADDRESS` to listen on: a HOST:PORT on loopback, or unix:PATH")
	set.StringVar(&o.callerFile, "caller-file", "",
		"`FILE` with the secret that callers present; made on the first start")
	set.BoolVar(&o.noCallerSecret, "no-caller-secret", false,
		"let everybody pay who can reach the port: for a pod of one's own")
	set.StringVar(&o.tokenFile, "token-file", "",
		"`FILE` with the Vault token, as a Vault Agent writes it; read again when it changes")
	set.StringVar(&o.admin, "admin", "127.0.0.1:9701", "`HOST:PORT` of /healthz, /readyz and /metrics, or none")
	set.DurationVar(&o.wait, "wait", 4*time.Second,
		"how long a request waits for a token and a signature before it is answered with 503")
	set.StringVar(&o.logLevel, "log-level", "info", "trace, debug, info, warn, error or off")
	set.BoolVar(&o.logJSON, "log-json", false, "log as JSON")
	set.BoolVar(&o.version, "version", false, "print the version and exit")
	return set
}

// variable returns the name of the environment variable of a flag.
func variable(flagName string) string {
	if flagName == "mount" {
		return "OPEN_PAYMENTS_MOUNT" // as for open-payments-grant
	}
	return "OPEN_PAYMENTS_PROXY_" + strings.ToUpper(strings.ReplaceAll(flagName, "-", "_"))
}

// parseOptions returns the values of the flags, which come from the arguments or else from the
// environment. It prints the help to out and returns flag.ErrHelp if that is asked for.
func parseOptions(args []string, getenv func(string) string, out io.Writer) (options, error) {
	o := options{answer: answerTimeout}
	set := o.flagSet()
	set.SetOutput(io.Discard) // run prints the error, in one line
	set.Usage = func() {}
	if err := set.Parse(args); errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(out, introduction)
		set.SetOutput(out)
		set.PrintDefaults()
		fmt.Fprint(out, environment)
		return o, err
	} else if err != nil {
		return o, err
	}
	given := map[string]bool{"version": true}
	set.Visit(func(f *flag.Flag) { given[f.Name] = true })
	var err error
	set.VisitAll(func(f *flag.Flag) {
		value := getenv(variable(f.Name))
		if given[f.Name] || value == "" || err != nil {
			return
		}
		if fault := set.Set(f.Name, value); fault != nil {
			err = fmt.Errorf("%s: %w", variable(f.Name), fault)
		}
	})
	switch {
	case err != nil:
		return o, err
	case set.NArg() > 0:
		return o, fmt.Errorf("there are no arguments, only flags: %q", set.Arg(0))
	case o.version:
		return o, nil
	}
	return o, o.check()
}

// check returns an error for values that are not allowed.
func (o *options) check() error {
	o.mount = strings.Trim(o.mount, "/")
	switch {
	case !cli.IsMount(o.mount):
		return errors.New("-mount: must be the path of a mount, such as op")
	case len(o.served()) == 0:
		return errors.New("-grant: is required, or -role: the name of a grant or a role, or several")
	case o.wait <= 0:
		return errors.New("-wait: must be longer than nothing")
	case hclog.LevelFromString(o.logLevel) == hclog.NoLevel:
		return errors.New("-log-level: must be trace, debug, info, warn, error or off")
	}
	if len(slices.Compact(slices.Sorted(slices.Values(o.served())))) != len(o.served()) {
		return errors.New("-grant, -role: a name is given twice; it would not tell which one a caller means")
	}
	if o.admin != noAdmin {
		if _, _, err := net.SplitHostPort(o.admin); err != nil {
			return errors.New("-admin: must be HOST:PORT, or none")
		}
	}
	return o.checkListen()
}

// served returns the names of the grants and roles.
func (o *options) served() []string { return slices.Concat(o.grants, o.roles) }

func (o *options) checkListen() error {
	if path, isSocket := strings.CutPrefix(o.listen, unixPrefix); isSocket {
		if path == "" {
			return errors.New("-listen: unix: must be followed by the path of the socket")
		}
		return nil
	}
	host, _, err := net.SplitHostPort(o.listen)
	switch {
	case err != nil:
		return errors.New("-listen: must be HOST:PORT, or unix:PATH")
	case !isLoopback(host):
		return errors.New("-listen: must be an address on loopback, such as 127.0.0.1:9700, " +
			"because whoever reaches it can pay")
	case o.callerFile == "" && !o.noCallerSecret:
		return errors.New("-caller-file: is required, because every user of this machine can reach the port; " +
			"or -no-caller-secret, in a pod of one's own")
	case o.callerFile != "" && o.noCallerSecret:
		return errors.New("-no-caller-secret: contradicts -caller-file")
	}
	return nil
}

// isLoopback reports whether a host, without a port, is this machine's loopback interface.
func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}
