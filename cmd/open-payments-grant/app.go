// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/cli"
)

// Exit statuses.
const (
	statusDone        = 0
	statusFailed      = 1
	statusUsage       = 2
	statusDeclined    = 3
	statusPending     = 4
	statusInterrupted = 130 // what shells report after SIGINT
)

const introduction = `Usage: open-payments-grant COMMAND [flags] [NAME]

Asks the owner of a wallet to consent to an Open Payments grant that Vault
stores, and shows the stored grants.

Commands:
%s
Run "open-payments-grant help COMMAND" for a command's flags, which may come before
or after NAME, and "open-payments-grant -version" for the version.

`

const environment = `Vault's address and token come from the same settings as for Vault's own
commands: VAULT_ADDR, VAULT_TOKEN (or the file .vault-token in the home
directory), VAULT_NAMESPACE, VAULT_CACERT and so on. If neither VAULT_ADDR nor
VAULT_TOKEN is set, OpenBao's are used: BAO_ADDR, BAO_TOKEN (or the file that
BAO_TOKEN_PATH names, or .vault-token), BAO_NAMESPACE, BAO_CACERT and so on.
OPEN_PAYMENTS_MOUNT is the default of -mount.

Exit status: 0 done; 1 failed; 2 wrong usage; 3 the owner declined, or the request
expired; 4 still pending when the owner's time or -timeout ran out; 130
interrupted.
`

// app is the program, with everything outside it that tests replace.
type app struct {
	stdout       io.Writer // for results
	terminal     *terminal // for everything else
	interactive  bool      // stdout is a terminal
	openBrowser  func(ctx context.Context, target string) error
	now          func() time.Time
	after        func(time.Duration) <-chan time.Time
	tokenFile    string // in the home directory
	pollInterval time.Duration
}

// options are the values of the flags.
type options struct {
	mount     string
	format    string
	access    string
	wallet    string
	poll      bool
	noBrowser bool
	replace   bool
	timeout   time.Duration
}

// command is a subcommand.
type command struct {
	name      string
	arguments string // as shown in its help
	summary   string
	help      string
	formats   []string                              // of -format; the first is the default
	flags     func(*flag.FlagSet, *options)         // defines flags other than -mount and -format
	check     func(args []string, o *options) error // returns a usageError for wrong usage
	run       func(context.Context, *app, options, []string) error
}

// grantCommands returns the commands that work with grants in Vault.
func grantCommands() []*command {
	return []*command{authorizeCommand, listCommand, statusCommand}
}

func commands() []*command {
	return append(grantCommands(), completionCommand)
}

// usageError is a mistake on the command line.
type usageError string

func (e usageError) Error() string { return string(e) }

// noGrantError says why waiting for the owner ended without a grant, and with which exit status.
type noGrantError struct {
	status int
	why    string
}

func (e noGrantError) Error() string { return e.why }

// run runs the program and returns its exit status.
func (a *app) run(ctx context.Context, args []string) int {
	if len(args) == 0 {
		a.printUsage(a.terminal.out)
		return statusUsage
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		return a.help(ctx, args[1:])
	case "version", "-v", "-version", "--version":
		fmt.Fprintln(a.stdout, "open-payments-grant", cli.Version(release))
		return statusDone
	}
	if c := commandNamed(args[0]); c != nil {
		return a.report(ctx, c, c.execute(ctx, a, args[1:]))
	}
	return a.noCommand(args[0])
}

// help prints the help of a command, or else of the program.
func (a *app) help(ctx context.Context, args []string) int {
	switch len(args) {
	case 0:
		a.printUsage(a.stdout)
		return statusDone
	case 1:
		if c := commandNamed(args[0]); c != nil {
			return a.report(ctx, c, c.execute(ctx, a, []string{"-help"}))
		}
		return a.noCommand(args[0])
	}
	a.terminal.printf("open-payments-grant: help takes one COMMAND")
	return statusUsage
}

func (a *app) noCommand(name string) int {
	a.terminal.printf("open-payments-grant: there is no command %q; open-payments-grant -help lists them", name)
	return statusUsage
}

// commandNamed returns a command; nil if there is none of that name.
func commandNamed(name string) *command {
	for _, c := range commands() {
		if c.name == name {
			return c
		}
	}
	return nil
}

// release is set by scripts/build to the commit's tag, if that is a version.
var release string

// report prints a command's error, if any, and returns the exit status.
func (a *app) report(ctx context.Context, c *command, err error) int {
	var usage usageError
	var noGrant noGrantError
	switch {
	case err == nil:
		return statusDone
	case errors.As(err, &usage):
		a.terminal.printf("open-payments-grant: %s; see open-payments-grant %s -help", err, c.name)
		return statusUsage
	case ctx.Err() != nil:
		a.terminal.printf("open-payments-grant: interrupted; run the same command again to resume")
		return statusInterrupted
	case errors.As(err, &noGrant):
		a.terminal.printf("open-payments-grant: %s", err)
		return noGrant.status
	}
	a.terminal.printf("open-payments-grant: %s", err)
	return statusFailed
}

func (a *app) printUsage(out io.Writer) {
	var list strings.Builder
	for _, c := range commands() {
		fmt.Fprintf(&list, "  %-11s %s\n", c.name, c.summary)
	}
	fmt.Fprintf(out, introduction, list.String())
	fmt.Fprint(out, environment)
}

// flagSet returns the command's flags, which set o.
func (c *command) flagSet(o *options) *flag.FlagSet {
	set := flag.NewFlagSet(c.name, flag.ContinueOnError)
	set.SetOutput(io.Discard) // report prints the error, in one line
	set.Usage = func() {}
	if len(c.formats) > 0 {
		set.StringVar(&o.mount, "mount", defaultMount(), "`PATH` where the engine is mounted")
		set.StringVar(&o.format, "format", c.formats[0], strings.Join(c.formats, ", "))
	}
	if c.flags != nil {
		c.flags(set, o)
	}
	return set
}

// defaultMount returns the mount to use without -mount.
func defaultMount() string {
	if mount := os.Getenv("OPEN_PAYMENTS_MOUNT"); mount != "" {
		return mount
	}
	return "op"
}

// execute parses the command line and runs the command.
func (c *command) execute(ctx context.Context, a *app, args []string) error {
	var o options
	set := c.flagSet(&o)
	var names []string
	for { // flag stops at the first argument that is not a flag
		if err := set.Parse(args); errors.Is(err, flag.ErrHelp) {
			c.printHelp(a.stdout, set)
			return nil
		} else if err != nil {
			return usageError(err.Error())
		}
		if set.NArg() == 0 {
			break
		}
		names, args = append(names, set.Arg(0)), set.Args()[1:]
	}
	if err := c.checkCommonFlags(&o); err != nil {
		return err
	}
	if err := c.check(names, &o); err != nil {
		return err
	}
	return c.run(ctx, a, o, names)
}

func (c *command) printHelp(out io.Writer, set *flag.FlagSet) {
	fmt.Fprintf(out, "Usage: open-payments-grant %s %s\n\n%s", c.name, c.arguments, c.help)
	if len(c.formats) == 0 {
		return
	}
	fmt.Fprint(out, "\nFlags:\n")
	set.SetOutput(out)
	set.PrintDefaults()
	fmt.Fprint(out, "\n"+environment)
}

func (c *command) checkCommonFlags(o *options) error {
	if len(c.formats) == 0 {
		return nil
	}
	o.mount = strings.Trim(o.mount, "/")
	if !cli.IsMount(o.mount) {
		return usageError("-mount: it, or OPEN_PAYMENTS_MOUNT, must be the path of a mount, such as op")
	}
	if !slices.Contains(c.formats, o.format) {
		return usageError("-format: must be one of " + strings.Join(c.formats, ", "))
	}
	return nil
}

func checkName(args []string, _ *options) error {
	switch {
	case len(args) != 1:
		return usageError("takes one NAME, the grant's")
	case !cli.IsName(args[0]):
		return usageError("NAME: " + cli.NameRule)
	}
	return nil
}
