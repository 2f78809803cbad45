// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"regexp"
	"strings"
	"testing"
)

func TestPathHelp(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	for _, row := range []struct {
		path   string
		fields string
		says   string
	}{
		{"op/config", "allowed_auth_servers ca_cert default_grant egress_proxy key_id max_requests_per_server private_key " +
			"request_timeout verify wallet_address",
			"One mount is one client"},
		{"op/grants", "after limit", "stored grants"},
		{"op/grants/x", "access access_token ask_again auth_server continue_token continue_url expires_in finish_uri force " +
			"interactive keepalive manage_url max_ttl min_ttl name on_revoke renewable resource_server shared ttl " +
			"wallet_address", "Import one that was obtained elsewhere"},
		{"op/grants/x/continue", "hash interact_ref name redirect", "owner has"},
		{"op/keys", "", "active key signs"},
		{"op/keys/rotate", "activate_after force key_id retire_after", "pending key"},
		{"op/jwks.json", "", "needs no token"},
		{"op/token", "", "newest reader"},
		{"op/token/x", "name", "newest reader"},
		{"op/rotate/x", "name", "leak"},
		{"op/sign/x", "access_token batch_input body method name url", "Nothing is signed for the authorization server"},
		{"op/roles", "after limit", "stored roles"},
		{"op/roles/x", "access auth_server max_ttl name on_revoke renewable resource_server ttl wallet_address", "holds no grant"},
		{"op/creds/x", "name", "grant of its own"},
	} {
		t.Run(row.path, func(t *testing.T) {
			e := e.in(t)
			text := e.run("path-help", row.path)
			parameters, description, found := strings.Cut(text, "## DESCRIPTION")
			if !found || !strings.Contains(text, row.says) {
				t.Errorf("the help does not say %q:\n%s", row.says, text)
			}
			if len(strings.Fields(description)) < 5 || strings.Contains(text, "<no ") {
				t.Errorf("the path or one of its fields has no description:\n%s", text)
			}
			if got := fieldsOf(parameters); got != row.fields {
				t.Errorf("the fields are %s, not %s", got, row.fields)
			}
		})
	}

	all := e.run("path-help", "op")
	for _, words := range []string{"acts as one Open Payments client", "^config$", "^grants/", "^token/", "^rotate/",
		"^sign/", "^roles/", "^creds/"} {
		if !strings.Contains(all, words) {
			t.Errorf("the mount's help does not say %q:\n%s", words, all)
		}
	}
	if _, stderr, code := e.CLI(e.RootToken, "path-help", "op/unknown"); code == 0 ||
		!strings.Contains(stderr, "unsupported path") {
		t.Errorf("help for an unknown path: status %d, %s", code, stderr)
	}
}

// fieldsOf returns the names of the fields that a help text describes in a sentence.
func fieldsOf(text string) string {
	var names []string
	field := regexp.MustCompile(`(?m)^ +(\w+) \([\w() ]+\)\n\s*\n +[A-Z].*\S.*\.$`)
	for _, match := range field.FindAllStringSubmatch(text, -1) {
		names = append(names, match[1])
	}
	return strings.Join(names, " ")
}
