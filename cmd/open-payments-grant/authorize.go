// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"time"
)

var authorizeCommand = &command{
	name:      "authorize",
	arguments: "-access FILE -wallet URL [flags] NAME",
	summary:   "Ask the owner of a wallet for a grant, and wait.",
	help: `Asks for a grant through Vault. Where the owner's consent is needed, it prints the
URL at which the owner decides, opens it in a browser if a person is there, waits
for the decision, and prints the grant.

The owner's browser comes back to a port on loopback, so it has to run on this
machine; with -poll it may be anywhere, and Vault asks the authorization server
from time to time.

After Ctrl-C, the same command takes it up: with -poll it goes on waiting for the
decision on the same URL; otherwise the owner is asked again, and what was begun
is cancelled. A grant that has these rights already is left alone, unless -replace
is given; it stays in use until the owner has consented to the new one.
`,
	formats: []string{"table", "json"},
	flags: func(set *flag.FlagSet, o *options) {
		set.StringVar(&o.access, "access", "", "`FILE` with the rights to ask for (JSON list)")
		set.StringVar(&o.wallet, "wallet", "", "wallet address of the owner: an https `URL` or a payment pointer")
		set.BoolVar(&o.poll, "poll", false, "poll for the decision in place of waiting for the owner's browser")
		set.BoolVar(&o.stay, "no-browser", false, "open no browser")
		set.BoolVar(&o.replace, "replace", false, "ask the owner again even if the grant has these rights already")
		set.DurationVar(&o.timeout, "timeout", 0, "how long to wait for the decision; 0: as long as the owner may take")
	},
	check: func(args []string, o *options) error {
		switch {
		case o.access == "":
			return usageError("-access: is needed")
		case o.wallet == "":
			return usageError("-wallet: is needed")
		case o.timeout < 0:
			return usageError("-timeout: must not be negative")
		}
		return checkName(args, o)
	},
	run: func(ctx context.Context, a *app, o options, args []string) error { return a.authorize(ctx, o, args[0]) },
}

func (a *app) authorize(ctx context.Context, o options, name string) error {
	access, err := readAccess(o.access)
	if err != nil {
		return err
	}
	vault, err := connect(o.mount, a.tokenFile)
	if err != nil {
		return err
	}
	stored, err := vault.read(ctx, name)
	if err != nil {
		return err
	}
	same := stored.sameAs(access, o.wallet)
	// Besides an active grant the engine does not tell what is being asked for:
	// takeUp finds out in the end.
	if o.poll && stored.pending() && stored.until().After(a.now()) && (same || stored.active()) {
		err := a.takeUp(ctx, vault, o, access, stored)
		if !errors.Is(err, errNotPolled) {
			return err
		}
		a.terminal.say("That one cannot be polled: the owner is asked again.")
	} else if stored.active() && same && !o.replace {
		a.terminal.say("Grant %q is active with these rights already; -replace asks its owner again.", name)
		return a.show(o, stored)
	}
	return a.ask(ctx, vault, o, access, name)
}

// readAccess reads the rights. What is in them is for the engine to judge.
func readAccess(file string) ([]any, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("-access: %w", err)
	}
	var access []any
	from := json.NewDecoder(bytes.NewReader(text))
	from.UseNumber()
	if err := from.Decode(&access); err != nil || from.More() {
		return nil, fmt.Errorf("-access: %s must hold the JSON list of rights", file)
	}
	return access, nil
}

// ask asks for a grant, and waits if its owner has to consent.
func (a *app) ask(ctx context.Context, vault *engine, o options, access []any, name string) error {
	data := map[string]any{"access": access, "wallet_address": o.wallet}
	wait := &consent{app: a, vault: vault, name: name, timeout: o.timeout}
	if !o.poll {
		to, err := land()
		if err != nil {
			return err
		}
		defer to.close()
		data["finish_uri"], wait.finish, wait.came = to.uri, to.uri, to.came
	}
	g, warnings, err := vault.write(ctx, name, "", data)
	if err != nil {
		return err
	}
	for _, w := range warnings {
		a.terminal.say("Warning: %s", oneLine(w))
	}
	if g.pending() {
		a.invite(ctx, o, g)
		if g, err = wait.settle(ctx, g); err != nil {
			return err
		}
	}
	return a.show(o, g)
}

// errNotPolled says that a grant was asked for with a finish URI.
var errNotPolled = errors.New("the grant was not asked for by polling")

// takeUp goes on polling for what an earlier run asked.
func (a *app) takeUp(ctx context.Context, vault *engine, o options, access []any, g grant) error {
	a.terminal.say("Grant %q waits for its owner already.", g.text("name"))
	a.invite(ctx, o, g)
	wait := &consent{app: a, vault: vault, name: g.text("name"), timeout: o.timeout, takenUp: true}
	g, err := wait.settle(ctx, g)
	if err != nil {
		return err
	}
	if err := a.show(o, g); err != nil {
		return err
	}
	if !g.sameAs(access, o.wallet) {
		return errors.New("the owner consented to what an earlier command asked for, which is not this: run this one again to ask for it")
	}
	return nil
}

// invite tells where the owner decides, and opens it.
func (a *app) invite(ctx context.Context, o options, g grant) {
	page := g.text("interact_url")
	a.terminal.say("The owner decides at: %s", printable(page))
	if o.stay || !a.person {
		return
	}
	if a.browse(ctx, page) != nil {
		a.terminal.say("No browser could be opened: open it yourself.")
	}
}

// consent is the wait for an owner's decision.
type consent struct {
	*app
	vault   *engine
	name    string
	timeout time.Duration
	finish  string        // the URI that the browser comes back to; empty: polled
	came    <-chan string // the URLs that it landed on
	takenUp bool

	before   grant
	deadline time.Time
	unsure   bool // the engine may have done what its answer did not reach us for
	said     string
}

// settle waits, and hands the decision to the engine. What fails for a while is
// tried again: a redirect comes only once, and trying again is safe.
func (c *consent) settle(ctx context.Context, g grant) (grant, error) {
	begun := c.now()
	c.before, c.deadline = g, g.until()
	if c.deadline.IsZero() {
		return nil, errors.New("the engine does not say until when the owner may decide: is it a newer one than this command?")
	}
	if end := begun.Add(c.timeout); c.timeout > 0 && end.Before(c.deadline) {
		c.deadline = end
	}
	defer c.terminal.tell(func() string { return waitingLine(begun, c.now(), c.deadline) })()
	redirect := ""
	for last, first := false, true; ; first = false {
		if !last && redirect == "" && c.finish != "" { // nothing to say yet
			var err error
			if redirect, err = c.pause(ctx, c.deadline.Sub(c.now()), redirect); err != nil {
				return nil, err
			}
		}
		if redirect != "" || c.finish == "" {
			g, over, err := c.proceed(ctx, redirect, last)
			switch {
			case over:
				return g, err
			case err != nil && first && c.takenUp && !temporary(err):
				return nil, errNotPolled
			case err != nil && err.Error() != c.said:
				c.said = err.Error()
				c.terminal.say("%s", err)
			}
			if !last {
				if redirect, err = c.pause(ctx, min(c.pollsEvery, c.deadline.Sub(c.now())), redirect); err != nil {
					return nil, err
				}
			}
		}
		switch {
		case c.now().Before(c.deadline):
		case last || c.deadline.Before(c.before.until()):
			return nil, c.timeUp()
		default:
			// Touched once more, the engine cancels at the server what was begun.
			// It takes no poll for a grant that has a finish URI, but the news
			// that nothing comes.
			last = true
			if c.finish != "" && redirect == "" {
				redirect = c.finish + "?result=expired"
			}
		}
	}
}

// pause waits, and answers the redirect to go on with.
func (c *consent) pause(ctx context.Context, d time.Duration, redirect string) (string, error) {
	select {
	case newer := <-c.came:
		return newer, nil
	case <-c.after(d):
		return redirect, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// proceed asks the engine to go on. It is over if there is a grant, or none will
// come; an error that does not end it may pass.
func (c *consent) proceed(ctx context.Context, redirect string, last bool) (g grant, over bool, err error) {
	data := map[string]any{}
	if redirect != "" {
		data["redirect"] = redirect
	}
	asking := ctx
	if redirect == "" && !last {
		// The engine may hold a poll until the server may be asked; hanging up
		// changes nothing.
		var cancel context.CancelFunc
		asking, cancel = context.WithTimeout(ctx, c.deadline.Sub(c.now()))
		defer cancel()
	}
	g, _, err = c.vault.write(asking, c.name, "/continue", data)
	switch {
	case err == nil:
		return g, !g.pending(), nil
	case asking.Err() != nil:
		c.unsure = true
		return nil, ctx.Err() != nil, ctx.Err()
	case temporary(err):
		c.unsure = true
		return nil, false, err
	case !refused(err):
		return nil, true, err
	}
	now, readErr := c.vault.read(ctx, c.name)
	switch {
	case readErr != nil:
		return nil, !temporary(readErr), readErr
	case now.pending():
		return nil, false, err
	case c.unsure && now.active() && number(now) > number(c.before):
		return now, true, nil // what we did not hear the answer of was done
	}
	return nil, true, unsettled{statusDeclined, err.Error()}
}

func (c *consent) timeUp() error {
	how := "the same command takes it up"
	if c.finish != "" {
		how = "the same command asks again"
	}
	return unsettled{statusPending, fmt.Sprintf("grant %q is still pending: %s", c.name, how)}
}

func temporary(err error) bool {
	var answer vaultError
	return errors.As(err, &answer) && answer.temporary()
}

// refused tells whether the engine said no, in a sentence.
func refused(err error) bool {
	var answer vaultError
	return errors.As(err, &answer) && answer.status == http.StatusBadRequest
}

func number(g grant) int {
	n, err := strconv.Atoi(g.text("generation"))
	if err != nil {
		return 0
	}
	return n
}
