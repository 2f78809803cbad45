// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"encoding/json"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-secure-stdlib/parseutil"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/authserver"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/rights"
)

const (
	maxNameLength    = 128
	maxFieldLength   = 64 << 10 // bytes; a certificate bundle is the longest honest value
	maxRequestLength = 1 << 20  // bytes; Vault hands the plugin no more

	limitField = "limit"
)

var nameRegexp = regexp.MustCompile(`^\w([\w.-]*\w)?$`)

// readInput reads a request's values as they were meant (see readValue), and refuses unknown fields,
// malformed names and values of the wrong kind, by the field's name and never with its value.
func (b *Backend) readInput(ctx context.Context, req *logical.Request) error {
	switch req.Operation {
	case logical.CreateOperation, logical.UpdateOperation, logical.PatchOperation,
		logical.ReadOperation, logical.ListOperation, logical.DeleteOperation:
	default: // help, renew, revoke, rollback: Vault's own
		return nil
	}
	if err := b.checkName(req); err != nil {
		return err
	}
	path := b.Route(req.Path)
	if path == nil {
		return nil // the framework says that the path is not supported
	}
	takes := b.fieldsFor(path, req.Operation)
	read := make(map[string]any, len(req.Data))
	for field, value := range req.Data {
		if req.Operation == logical.ListOperation && field == "list" {
			continue // `?list=true` leaves it behind
		}
		if !slices.Contains(takes, field) {
			return unknownField(ctx, req, field, takes)
		}
		if err := checkLength(field, value); err != nil {
			return err
		}
		kind := path.Fields[field].Type
		value = readValue(field, kind, value)
		if err := checkValue(field, kind, value, req.Operation); err != nil {
			return err
		}
		if token, isString := value.(string); isString && isImported(req, field) {
			token = withoutScheme(token)
			if err := checkToken(field, token); err != nil {
				return err
			}
			value = token
		}
		read[field] = value
	}
	req.Data = read
	return nil
}

// checkName refuses names that could not be typed, listed or put in a policy without surprises. The
// pattern of a path takes any name, so that the error can say what is wrong with it.
func (b *Backend) checkName(req *logical.Request) error {
	path := b.Route(req.Path)
	if path == nil {
		return nil
	}
	match := b.patterns[path].FindStringSubmatch(req.Path)
	i := b.patterns[path].SubexpIndex("name")
	if i < 0 || i >= len(match) {
		return nil
	}
	if strings.HasPrefix(req.Path, rolesPrefix) || strings.HasPrefix(req.Path, credsPrefix) {
		return checkNameOf("role", "name", match[i])
	}
	return checkGrantName("name", match[i])
}

func checkGrantName(field, name string) error { return checkNameOf("grant", field, name) }

func checkNameOf(what, field, name string) error {
	if len(name) > maxNameLength || !nameRegexp.MatchString(name) || strings.Contains(name, "..") {
		return userErrorf(
			"%s: a %s's name has up to %d letters, digits, '_', '-' and single '.', and begins and ends with a "+
				"letter, a digit or '_'",
			field,
			what,
			maxNameLength,
		)
	}
	return nil
}

// fieldsFor returns the fields that an operation takes: those of the query for reads, lists and
// deletes, those of the body for writes, and never those that the path itself holds.
func (b *Backend) fieldsFor(path *framework.Path, op logical.Operation) []string {
	inBody := op == logical.CreateOperation || op == logical.UpdateOperation || op == logical.PatchOperation
	var names []string
	for name, schema := range path.Fields {
		if schema.Query != inBody && b.patterns[path].SubexpIndex(name) < 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// fieldLike matches what a field may be called. Whatever else was typed in its place may be a secret: of
// `vault write op/config "$(base64 key.pem)"` the CLI makes a field that is called like the key.
var fieldLike = regexp.MustCompile(`^[A-Za-z_-]{1,32}$`)

func unknownField(ctx context.Context, req *logical.Request, field string, takes []string) error {
	shown := "(not shown, because it may be a secret)"
	if fieldLike.MatchString(field) {
		shown = strconv.Quote(field)
	}
	what := "this operation takes no fields"
	if len(takes) > 0 {
		what = "it takes " + strings.Join(takes, ", ")
	}
	return userErrorf("unknown field %s for %s: %s", shown, mountPath(ctx, req.Path), what)
}

// checkValue refuses a value that is not of the field's kind.
func checkValue(field string, kind framework.FieldType, value any, op logical.Operation) error {
	if value == nil {
		if op == logical.PatchOperation {
			return nil
		}
		return userErrorf("%s: null is only for PATCH, where it restores the default", field)
	}
	if err := checkContent(field, value); err != nil {
		return err
	}
	switch value.(type) {
	case map[string]any:
		if field == accessField {
			_, err := rights.Parse(value)
			return fieldError(field, err)
		}
		return userErrorf("%s: an object is not allowed here", field)
	case []any, []string:
		if kind != framework.TypeSlice && kind != framework.TypeCommaStringSlice {
			return userErrorf("%s: a list is not allowed here", field)
		}
	}
	switch kind {
	case framework.TypeBool:
		if _, err := parseutil.ParseBool(value); err != nil {
			return userErrorf("%s: must be true or false", field)
		}
	case framework.TypeInt:
		// bao list sends limit=-1 where it was not asked for a limit.
		if n, err := parseutil.SafeParseInt(value); err != nil || n < 0 && field != limitField || isFraction(value) {
			return userErrorf("%s: must be a whole number, not negative", field)
		}
	case framework.TypeDurationSecond:
		return checkDuration(field, value)
	case framework.TypeCommaStringSlice:
		for _, item := range asList(value) {
			if _, ok := item.(string); !ok {
				return userErrorf("%s: must be a list of strings", field)
			}
		}
	}
	return nil
}

// checkLength refuses a value that is longer than its field's may be.
func checkLength(field string, value any) error {
	limit := maxFieldLength
	if field == batchField || field == bodyField || field == ticketField {
		limit = maxRequestLength
	}
	if length(value) > limit {
		return userErrorf("%s: longer than %d KiB", field, limit>>10)
	}
	return nil
}

// length returns the length of a string, and of anything else as JSON.
func length(value any) int {
	if s, ok := value.(string); ok {
		return len(s)
	}
	encoded, err := json.Marshal(value)
	if err != nil {
		return math.MaxInt
	}
	return len(encoded)
}

func checkDuration(field string, value any) error {
	if seconds, ok := asNumber(value); ok && math.Abs(seconds) > authserver.MaxDuration.Seconds() {
		return userErrorf("%s: longer than ten years", field)
	}
	d, err := parseutil.ParseDurationSecond(value)
	switch {
	case err != nil || isFraction(value) || d%time.Second != 0:
		return userErrorf("%s: must be a duration of whole seconds: a number of them, such as 300, or numbers with "+
			"the units h, m and s, such as 5m or 1h30m, or of days, such as 7d, without spaces", field)
	case d < 0:
		return userErrorf("%s: must not be negative", field)
	case d > authserver.MaxDuration:
		return userErrorf("%s: longer than ten years", field)
	}
	return nil
}

func isFraction(value any) bool {
	n, ok := asNumber(value)
	return ok && n != math.Trunc(n)
}

// asNumber reads numbers as they come over HTTP, from the CLI (as strings) and across the plugin's
// process border.
func asNumber(value any) (float64, bool) {
	var text json.Number
	switch v := value.(type) {
	case float64:
		return v, true
	case int:
		return float64(v), true
	case json.Number:
		text = v
	case string:
		text = json.Number(strings.TrimSpace(v))
	}
	n, err := text.Float64()
	return n, err == nil
}

func asList(value any) []any {
	list, _ := value.([]any)
	return list
}

// given reports whether the request holds the field; in a PATCH it may be null.
func given(d *framework.FieldData, field string) bool {
	_, ok := d.Raw[field]
	return ok
}

// value returns a field's value; its default if it is absent or null. (FieldData.Get turns a null
// into false or "".)
func value[T any](d *framework.FieldData, field string) T {
	v := d.GetDefaultOrZero(field)
	if d.Raw[field] != nil {
		v = d.Get(field)
	}
	t, _ := v.(T)
	return t
}

func seconds(d *framework.FieldData, field string) time.Duration {
	return time.Duration(value[int](d, field)) * time.Second
}
