// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"
)

// Exit statuses.
const (
	statusDone        = 0
	statusFailed      = 1
	statusUsage       = 2
	statusDeclined    = 3
	statusPending     = 4
	statusInterrupted = 130 // as shells have it for SIGINT
)

const introduction = `Usage: open-payments-grant COMMAND [flags] [NAME]

Asks the owner of a wallet to consent to an Open Payments grant that Vault
keeps, and shows the grants that are stored.

Commands:
%s
"open-payments-grant COMMAND -help" says more. Flags may stand before or after
NAME.

`

const environment = `Vault is found as by its own commands: VAULT_ADDR, VAULT_TOKEN (or the file
.vault-token in the home directory), VAULT_NAMESPACE, VAULT_CACERT and so on.
Where neither VAULT_ADDR nor VAULT_TOKEN is set, BAO_ADDR, BAO_TOKEN and so on
count.

Exit status: 0 done; 1 failed; 2 wrong usage; 3 the owner declined, or did not
decide in time; 4 still pending when -timeout ran out; 130 interrupted.
`

// app is what a command has around it.
type app struct {
	stdout     io.Writer // what was asked for
	terminal   *terminal // what is said besides
	person     bool      // somebody sits in front of stdout
	browse     func(ctx context.Context, target string) error
	now        func() time.Time
	after      func(time.Duration) <-chan time.Time
	tokenFile  string // in the home directory
	pollsEvery time.Duration
}

// options are what the flags say.
type options struct {
	mount   string
	format  string
	access  string
	wallet  string
	poll    bool
	stay    bool // open no browser
	replace bool
	timeout time.Duration
}

// command is one word after the program's name.
type command struct {
	name      string
	arguments string // as the help shows them
	summary   string
	help      string
	formats   []string                              // the first is the default
	flags     func(*flag.FlagSet, *options)         // besides -mount and -format
	check     func(args []string, o *options) error // finds wrong usage
	run       func(context.Context, *app, options, []string) error
}

func commands() []*command {
	return append(completable(), completionCommand)
}

// usageError is a mistake on the command line.
type usageError string

func (e usageError) Error() string { return string(e) }

// unsettled ends a wait without a grant, with an exit status that says how.
type unsettled struct {
	status int
	why    string
}

func (e unsettled) Error() string { return e.why }

// run is the program: it gives the exit status.
func (a *app) run(ctx context.Context, args []string) int {
	if len(args) == 0 {
		a.introduce(a.terminal.out)
		return statusUsage
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		a.introduce(a.stdout)
		return statusDone
	}
	for _, c := range commands() {
		if c.name == args[0] {
			return a.status(ctx, c, c.start(ctx, a, args[1:]))
		}
	}
	a.terminal.say("open-payments-grant: there is no command %q; open-payments-grant -help lists them", args[0])
	return statusUsage
}

// status says what went wrong, and gives the exit status.
func (a *app) status(ctx context.Context, c *command, err error) int {
	var usage usageError
	var open unsettled
	switch {
	case err == nil:
		return statusDone
	case errors.As(err, &usage):
		a.terminal.say("open-payments-grant: %s; open-payments-grant %s -help says more", err, c.name)
		return statusUsage
	case ctx.Err() != nil:
		a.terminal.say("open-payments-grant: interrupted; the same command again takes it up")
		return statusInterrupted
	case errors.As(err, &open):
		a.terminal.say("open-payments-grant: %s", err)
		return open.status
	}
	a.terminal.say("open-payments-grant: %s", err)
	return statusFailed
}

func (a *app) introduce(out io.Writer) {
	var list strings.Builder
	for _, c := range commands() {
		fmt.Fprintf(&list, "  %-11s %s\n", c.name, c.summary)
	}
	fmt.Fprintf(out, introduction, list.String())
	fmt.Fprint(out, environment)
}

// set is the command's flags.
func (c *command) set(o *options) *flag.FlagSet {
	set := flag.NewFlagSet(c.name, flag.ContinueOnError)
	set.SetOutput(io.Discard) // what is wrong is said once, in one sentence
	set.Usage = func() {}
	if len(c.formats) > 0 {
		set.StringVar(&o.mount, "mount", "op", "`PATH` where the engine is mounted")
		set.StringVar(&o.format, "format", c.formats[0], strings.Join(c.formats, ", "))
	}
	if c.flags != nil {
		c.flags(set, o)
	}
	return set
}

// start reads the command line and runs the command.
func (c *command) start(ctx context.Context, a *app, args []string) error {
	var o options
	set := c.set(&o)
	var names []string
	for { // flag stops at the first argument that is none
		if err := set.Parse(args); errors.Is(err, flag.ErrHelp) {
			c.explain(a.stdout, set)
			return nil
		} else if err != nil {
			return usageError(err.Error())
		}
		if set.NArg() == 0 {
			break
		}
		names, args = append(names, set.Arg(0)), set.Args()[1:]
	}
	if err := c.checkCommon(&o); err != nil {
		return err
	}
	if err := c.check(names, &o); err != nil {
		return err
	}
	return c.run(ctx, a, o, names)
}

func (c *command) explain(out io.Writer, set *flag.FlagSet) {
	fmt.Fprintf(out, "Usage: open-payments-grant %s %s\n\n%s", c.name, c.arguments, c.help)
	if len(c.formats) == 0 {
		return
	}
	fmt.Fprint(out, "\nFlags:\n")
	set.SetOutput(out)
	set.PrintDefaults()
	fmt.Fprint(out, "\n"+environment)
}

// A path that climbs would end up at another place of Vault's.
var (
	mountRegexp = regexp.MustCompile(`^[\w-][\w.-]*(/[\w-][\w.-]*)*$`)
	nameRegexp  = regexp.MustCompile(`^\w([\w.-]*\w)?$`)
)

func (c *command) checkCommon(o *options) error {
	if len(c.formats) == 0 {
		return nil
	}
	o.mount = strings.Trim(o.mount, "/")
	if !mountRegexp.MatchString(o.mount) {
		return usageError("-mount: must be the path of a mount, such as op")
	}
	for _, f := range c.formats {
		if o.format == f {
			return nil
		}
	}
	return usageError("-format: must be one of " + strings.Join(c.formats, ", "))
}

func checkName(args []string, _ *options) error {
	switch {
	case len(args) != 1:
		return usageError("takes one NAME, the grant's")
	case !nameRegexp.MatchString(args[0]):
		return usageError("NAME: has letters, digits, '_', '-' and '.', and begins and ends with a letter, a digit or '_'")
	}
	return nil
}
