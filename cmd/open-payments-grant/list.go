// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
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
	help: `Shows the stored grants as a table, as JSON, or only their names. For a grant that
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

// columns are the columns of the table: their headings, and a grant's cell in each.
var columns = []struct {
	heading string
	cell    func(grant) string
}{
	{"NAME", field("name")},
	{"STATUS", field("status")},
	{"WALLET", field("wallet_address")},
	{"EXPIRES", field("expires_at")},
	{"GENERATION", field("generation")},
	{"RIGHTS", grant.rights},
}

// field returns a function that returns a member of what the engine says about a grant.
func field(name string) func(grant) string {
	return func(g grant) string { return g.text(name) }
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
	grants := []grant{} // not nil, which is null in JSON
	for _, name := range names {
		g, err := vault.read(ctx, name)
		var answer vaultError
		switch {
		case errors.As(err, &answer) && answer.status == http.StatusForbidden:
			known, _ := info[name].(map[string]any)
			g = newGrant(name, known)
		case err != nil:
			return err
		case g == nil: // deleted in the meantime
			continue
		}
		grants = append(grants, g)
	}
	if o.format == "json" {
		return a.printJSON(grants)
	}
	return a.printTable(grants...)
}

func (a *app) printTable(grants ...grant) error {
	out := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	row := make([]string, len(columns))
	for i, c := range columns {
		row[i] = c.heading
	}
	fmt.Fprintln(out, strings.Join(row, "\t"))
	for _, g := range grants {
		for i, c := range columns {
			if row[i] = printable(c.cell(g)); row[i] == "" {
				row[i] = "-"
			}
		}
		fmt.Fprintln(out, strings.Join(row, "\t"))
	}
	return out.Flush()
}
