// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
)

var statusCommand = &command{
	name:      "status",
	arguments: "[flags] NAME",
	summary:   "Show one grant.",
	help: `Shows one grant as a table or as JSON. Below the table it prints the URL at which
the owner decides while the grant is pending, and why a lost grant was lost.
`,
	formats: []string{"table", "json"},
	check:   checkName,
	run:     func(ctx context.Context, a *app, o options, args []string) error { return a.status(ctx, o, args[0]) },
}

func (a *app) status(ctx context.Context, o options, name string) error {
	vault, err := connect(o.mount, a.tokenFile)
	if err != nil {
		return err
	}
	g, err := vault.read(ctx, name)
	if err != nil {
		return err
	}
	if g == nil {
		return fmt.Errorf("no grant named %q at %s/", name, o.mount)
	}
	return a.printGrant(o, g)
}

// printGrant prints one grant: its row of the table of list, with further lines, or JSON.
func (a *app) printGrant(o options, g grant) error {
	if o.format == "json" {
		return a.printJSON(g)
	}
	if err := a.printTable(g); err != nil {
		return err
	}
	for _, line := range []struct{ label, field string }{
		{"The owner decides at: ", "interact_url"},
		{"The owner may decide until: ", "pending_until"},
		{"Lost: ", "lost_cause"},
		{"Last failure: ", "last_failure_cause"},
	} {
		if text := g.text(line.field); text != "" {
			fmt.Fprintln(a.stdout, line.label+printable(text))
		}
	}
	return nil
}

func (a *app) printJSON(v any) error {
	out := json.NewEncoder(a.stdout)
	out.SetEscapeHTML(false) // so that URLs can be copied
	out.SetIndent("", "  ")
	return out.Encode(v)
}
