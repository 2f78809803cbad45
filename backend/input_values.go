// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"encoding/json"
	"math"
	"regexp"
	"strings"
	"unicode"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/pasted"
)

const (
	accessField      = "access"
	accessTokenField = "access_token"
	bodyField        = "body"
)

// textFields hold more than one line; what their value is wrapped in is for whoever parses it.
var textFields = map[string]bool{"private_key": true, "ca_cert": true}

// readValue returns a field's value as it was meant, where a file, an environment variable or a
// page from which it was copied has put something around it that cannot belong to it. Values of
// other types than their field's are returned as they are.
func readValue(field string, kind framework.FieldType, value any) any {
	switch v := value.(type) {
	case string:
		switch {
		case textFields[field]:
			return v
		case field == bodyField, kind == framework.TypeSlice:
			return pasted.Text(v)
		case kind == framework.TypeCommaStringSlice:
			return splitList(v)
		}
		return pasted.Word(v)
	case map[string]any:
		if field == bodyField {
			return bodyText(v)
		}
	case float64: // a number in JSON, once it has crossed the plugin's process border
		if kind == framework.TypeInt && v == math.Trunc(v) && math.Abs(v) < math.MaxInt32 {
			return int(v)
		}
	}
	return value
}

// splitList reads a list that is written as a string: separated by commas, white space or line
// ends, or as JSON. Its items hold neither commas nor white space.
func splitList(s string) any {
	s = pasted.Line(s)
	if strings.HasPrefix(s, "[") {
		var list []any
		if json.Unmarshal([]byte(s), &list) == nil {
			return list
		}
	}
	list := []any{}
	for _, item := range strings.FieldsFunc(s, func(r rune) bool { return r == ',' || unicode.IsSpace(r) }) {
		list = append(list, item)
	}
	return list
}

// bodyText returns the text of a body that was given as an object. The order of its members does
// not matter, because whoever sends the request sends the text that is returned with the signature.
func bodyText(members map[string]any) any {
	text, err := json.Marshal(members)
	if err != nil {
		return members
	}
	return string(text)
}

// checkContent refuses the name of a file where a file's content was meant.
func checkContent(field string, value any) error {
	s, isString := value.(string)
	if !isString || !fileFields[field] || !pasted.IsFileName(s) {
		return nil
	}
	return userErrorf("%s: this looks like the name of a file, not its content; the CLI reads a file with %s=@NAME; "+
		"over HTTP, send what is in the file", field, field)
}

// fileFields are the fields whose value is usually in a file, and never looks like a file's name.
var fileFields = map[string]bool{
	"private_key": true, "ca_cert": true, accessField: true, bodyField: true, batchField: true,
}

var (
	authorizationRegexp = regexp.MustCompile(`(?i)^(authorization:\s*)?(gnap|bearer)\s+`)
	vaultTokenRegexp    = regexp.MustCompile(`^(hv[sbr]\.[A-Za-z0-9_-]{20,}|[sbr]\.[A-Za-z0-9]{24,})`)
	leaseRegexp         = regexp.MustCompile(`/(token|creds)(/[\w.-]+)?/[A-Za-z0-9]{20,}(\.[A-Za-z0-9]+)?$`)
)

// isImported reports whether a field holds a token that was obtained elsewhere.
func isImported(req *logical.Request, field string) bool {
	return strings.HasPrefix(req.Path, grantsPrefix) && (field == accessTokenField || field == "continue_token")
}

// withoutScheme returns the token in a value that was copied together with the scheme of the
// Authorization header: a token has no space in it (RFC 9635 section 3.2.1), so nothing else can be
// meant.
func withoutScheme(s string) string { return authorizationRegexp.ReplaceAllString(s, "") }

// checkToken refuses what is certainly no access token. A token consists of the characters of
// token68 (RFC 9110 section 11.2).
func checkToken(field, s string) error {
	switch {
	case strings.EqualFold(s, "GNAP"), strings.EqualFold(s, "Bearer"):
		return userErrorf("%s: is an Authorization header's scheme without a token", field)
	case strings.HasPrefix(s, "{"), strings.HasPrefix(s, "["):
		return userErrorf("%s: is JSON; give the token's value alone", field)
	case strings.Contains(s, "://"):
		return userErrorf("%s: is a URL; give the token's value", field)
	}
	return nil
}

// notCurrent says of a value that is not the grant's current token what it looks like.
func notCurrent(s string) error {
	what := "is not the grant's current one; read the token again"
	switch {
	case s == "":
		what = "is needed: the token that a read of token/NAME, or a renewal, returned as access_token"
	case authorizationRegexp.MatchString(s):
		what = "looks like a whole Authorization header (GNAP and the token), which is returned as authorization; " +
			"give the token alone, which is returned as access_token"
	case strings.HasPrefix(s, "{"), strings.HasPrefix(s, "["):
		what = "looks like JSON; give the token's value alone, which is returned as access_token"
	case strings.Contains(s, "://"):
		what = "looks like a URL; give the token's value, which is returned as access_token"
	case vaultTokenRegexp.MatchString(s):
		what = "looks like a token of Vault; give the grant's, which is returned as access_token"
	case leaseRegexp.MatchString(s):
		what = "looks like a lease's id; give the token, which is returned as access_token"
	}
	return userErrorf("%s: %s", accessTokenField, what)
}
