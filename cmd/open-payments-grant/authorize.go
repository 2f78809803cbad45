// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
)

var authorizeCommand = &command{
	name:      "authorize",
	arguments: "-access FILE -wallet URL [flags] NAME",
	summary:   "Ask the owner of a wallet for a grant, and wait.",
	help: `Asks for a grant through Vault. If the grant needs the owner's consent, prints the
URL at which the owner decides, opens it in a browser if a person runs the
command, waits for the decision, and prints the grant.

The owner's browser returns to a port on loopback, so it has to run on this
machine. With -poll it may run anywhere: Vault polls the authorization server
instead.

After Ctrl-C, run the same command again. With -poll, it goes on waiting for the
decision on the same URL; otherwise it asks the owner again and cancels the
earlier request. A grant that already has these rights is left alone, unless
-replace is given; it stays in use until the owner has consented to the new one.
`,
	formats: []string{"table", "json"},
	flags: func(set *flag.FlagSet, o *options) {
		set.StringVar(&o.access, "access", "", "`FILE` with the rights to ask for (JSON list)")
		set.StringVar(&o.wallet, "wallet", "", "wallet address of the owner: an https `URL` or a payment pointer")
		set.BoolVar(&o.poll, "poll", false, "poll for the decision instead of waiting for the owner's browser")
		set.BoolVar(&o.noBrowser, "no-browser", false, "do not open a browser")
		set.BoolVar(&o.replace, "replace", false, "ask the owner again even if the grant already has these rights")
		set.DurationVar(&o.timeout, "timeout", 0, "how long to wait for the decision; 0: as long as the owner may take")
	},
	check: func(args []string, o *options) error {
		switch {
		case o.access == "":
			return usageError("-access: is required")
		case o.wallet == "":
			return usageError("-wallet: is required")
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
	same := stored.has(access, o.wallet)
	// While a grant is active, the engine does not say which rights a pending request asks for;
	// resume checks them at the end.
	if o.poll && stored.pending() && stored.pendingUntil().After(a.now()) && (same || stored.active()) {
		err := a.resume(ctx, vault, o, access, stored)
		if !errors.Is(err, errNotPollable) {
			return err
		}
		a.terminal.printf("The pending request cannot be polled: asking the owner again.")
	} else if stored.active() && same && !o.replace {
		a.terminal.printf("Grant %q is active with these rights already; -replace asks its owner again.", name)
		return a.printGrant(o, stored)
	}
	return a.ask(ctx, vault, o, access, name)
}

// readAccess reads the rights to ask for. The engine validates them.
func readAccess(file string) ([]any, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("-access: %w", err)
	}
	var access []any
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&access); err != nil || decoder.More() {
		return nil, fmt.Errorf("-access: %s must hold the JSON list of rights", file)
	}
	return access, nil
}

// ask asks for a grant, and waits if its owner has to consent.
func (a *app) ask(ctx context.Context, vault *engine, o options, access []any, name string) error {
	data := map[string]any{"access": access, "wallet_address": o.wallet, "ask_again": true}
	wait := &consentWait{app: a, vault: vault, name: name, timeout: o.timeout}
	if !o.poll {
		callback, err := startCallback()
		if err != nil {
			return err
		}
		defer callback.close()
		data["finish_uri"], wait.finishURI, wait.redirects = callback.uri, callback.uri, callback.redirects
	}
	g, warnings, err := vault.write(ctx, name, "", data)
	if err != nil {
		return err
	}
	for _, w := range warnings {
		a.terminal.printf("Warning: %s", oneLine(w))
	}
	if g.pending() {
		a.sendOwner(ctx, o, g)
		if g, err = wait.run(ctx, g); err != nil {
			return err
		}
	}
	return a.printGrant(o, g)
}

// resume goes on polling for a grant that an earlier run asked for. It returns errNotPollable if
// that run asked with a finish URI.
func (a *app) resume(ctx context.Context, vault *engine, o options, access []any, g grant) error {
	a.terminal.printf("Grant %q waits for its owner already.", g.text("name"))
	a.sendOwner(ctx, o, g)
	wait := &consentWait{app: a, vault: vault, name: g.text("name"), timeout: o.timeout, resumed: true}
	g, err := wait.run(ctx, g)
	if err != nil {
		return err
	}
	if err := a.printGrant(o, g); err != nil {
		return err
	}
	if !g.has(access, o.wallet) {
		return errors.New("the owner consented to what an earlier command asked for, which differs: " +
			"run this command again to ask for these rights")
	}
	return nil
}

// sendOwner prints the URL at which the owner decides, and opens it in a browser.
func (a *app) sendOwner(ctx context.Context, o options, g grant) {
	page := g.text("interact_url")
	a.terminal.printf("The owner decides at: %s", printable(page))
	if o.noBrowser || !a.interactive {
		return
	}
	if a.openBrowser(ctx, page) != nil {
		a.terminal.printf("No browser could be opened: open the URL yourself.")
	}
}
