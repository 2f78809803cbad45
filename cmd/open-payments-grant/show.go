// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"text/tabwriter"
)

var listCommand = &command{
	name:      "list",
	arguments: "[flags]",
	summary:   "Show the stored grants.",
	help: `Shows the stored grants as a table, as JSON, or their names only. Of a grant that
the token may not read, only name and status are shown.
`,
	formats: []string{"table", "json", "names"},
	check: func(args []string, _ *options) error {
		if len(args) > 0 {
			return usageError("takes no NAME")
		}
		return nil
	},
	run: func(ctx context.Context, a *app, o options, _ []string) error { return a.list(ctx, o) },
}

var statusCommand = &command{
	name:      "status",
	arguments: "[flags] NAME",
	summary:   "Show one grant.",
	help: `Shows one grant as a table or as JSON. Under the table stands what its owner has to
open while it is pending, and why it was lost.
`,
	formats: []string{"table", "json"},
	check:   checkName,
	run: func(ctx context.Context, a *app, o options, args []string) error {
		vault, err := connect(o.mount, a.tokenFile)
		if err != nil {
			return err
		}
		g, err := vault.read(ctx, args[0])
		if err != nil {
			return err
		}
		if g == nil {
			return fmt.Errorf("no grant named %q at %s/", args[0], o.mount)
		}
		return a.show(o, g)
	},
}

func (a *app) list(ctx context.Context, o options) error {
	vault, err := connect(o.mount, a.tokenFile)
	if err != nil {
		return err
	}
	names, info, err := vault.names(ctx)
	if err != nil {
		return err
	}
	if o.format == "names" {
		for _, name := range names {
			fmt.Fprintln(a.stdout, printable(name))
		}
		return nil
	}
	grants := []grant{} // JSON: [] and not null
	for _, name := range names {
		g, err := vault.read(ctx, name)
		var refused vaultError
		switch {
		case errors.As(err, &refused) && refused.status == http.StatusForbidden:
			known, _ := info[name].(map[string]any)
			g = newGrant(name, known)
		case err != nil:
			return err
		case g == nil: // deleted since
			continue
		}
		grants = append(grants, g)
	}
	if o.format == "json" {
		return a.json(grants)
	}
	return a.table(grants...)
}

// show prints one grant.
func (a *app) show(o options, g grant) error {
	if o.format == "json" {
		return a.json(g)
	}
	if err := a.table(g); err != nil {
		return err
	}
	for _, more := range []struct{ says, field string }{
		{"The owner decides at: ", "interact_url"},
		{"The owner may decide until: ", "pending_until"},
		{"Lost: ", "lost_cause"},
		{"Last failure: ", "last_failure_cause"},
	} {
		if text := g.text(more.field); text != "" {
			fmt.Fprintln(a.stdout, more.says+printable(text))
		}
	}
	return nil
}

func (a *app) json(v any) error {
	out := json.NewEncoder(a.stdout)
	out.SetEscapeHTML(false) // URLs stay whole for who copies them
	out.SetIndent("", "  ")
	return out.Encode(v)
}

func (a *app) table(grants ...grant) error {
	out := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "NAME\tSTATUS\tWALLET\tEXPIRES\tGENERATION\tRIGHTS")
	for _, g := range grants {
		cells := []string{g.text("name"), g.text("status"), g.text("wallet_address"), g.text("expires_at"), g.text("generation"), g.rights()}
		for i, text := range cells {
			if cells[i] = printable(text); cells[i] == "" {
				cells[i] = "-"
			}
		}
		fmt.Fprintln(out, strings.Join(cells, "\t"))
	}
	return out.Flush()
}
