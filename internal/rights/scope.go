// SPDX-License-Identifier: MPL-2.0

package rights

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/ecmascript"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/pasted"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/uri"
)

// Request is an HTTP request that an application wants to send to a resource server, as it was
// given.
type Request struct {
	Method, URL string
	Body        string // empty: the request has none
}

// NotAllowedError is the error of NewScope and Scope.Allow. It never holds a value of the request.
type NotAllowedError struct {
	Field  string // the part of the request that is not allowed: method, url or body
	Reason string
}

func (e *NotAllowedError) Error() string { return e.Field + ": " + e.Reason }

func notAllowed(field, format string, args ...any) error {
	return &NotAllowedError{field, fmt.Sprintf(format, args...)}
}

// Scope is what a grant allows at its resource server. The zero value allows nothing.
type Scope struct {
	resourceServer string
	reserved       []*url.URL
	lists          [][]right // a request has to be allowed by each
}

// right is one item of a grant's access, as far as it decides about requests.
type right struct {
	Type       string          `json:"type"`
	Actions    []string        `json:"actions"`
	Identifier json.RawMessage `json:"identifier"`
}

// NewScope returns what a grant allows: what is in both requested, the rights that were asked for,
// and access, those that the authorization server has told. A server may grant less than was asked
// for, and must not be able to add to it. A list that is not known (empty) does not limit, but one
// has to be known. A right of an unexpected shape allows nothing.
//
// Requests must go below the URL resourceServer, and not below a URL of reserved, where the
// authorization server is; what is not a URL in there reserves nothing.
func NewScope(resourceServer string, reserved []string, requested, access json.RawMessage) (Scope, error) {
	s := Scope{resourceServer: resourceServer}
	if resourceServer == "" || strings.Contains(resourceServer, "?") {
		return Scope{}, notAllowed("url",
			"the grant does not say where its resource server is; write resource_server to the grant, or to its role")
	}
	for _, raw := range []json.RawMessage{requested, access} {
		if len(bytes.TrimSpace(raw)) == 0 {
			continue
		}
		list, err := readRights(raw)
		if err != nil {
			return Scope{}, err
		}
		s.lists = append(s.lists, list)
	}
	if len(s.lists) == 0 {
		return Scope{}, errRightsUnknown
	}
	for _, text := range reserved {
		if u, err := url.Parse(text); err == nil && u.Host != "" {
			s.reserved = append(s.reserved, u)
		}
	}
	return s, nil
}

var errRightsUnknown = notAllowed("url", "the grant's rights are not known; write access with the grant, "+
	"or rotate it once: the server may tell them")

func readRights(raw json.RawMessage) ([]right, error) {
	var items []json.RawMessage
	if json.Unmarshal(raw, &items) != nil {
		return nil, errRightsUnknown
	}
	var list []right
	for _, item := range items {
		var one right
		if json.Unmarshal(item, &one) == nil {
			list = append(list, one)
		}
	}
	return list, nil
}

// Allow returns the body to send, in the only form that servers verify, or an error that says why
// the grant does not allow a request. It rejects everything that it does not know.
func (s Scope) Allow(r Request) (body string, err error) {
	t, err := s.locate(r.URL)
	if err != nil {
		return "", err
	}
	k, op, err := findOperation(r.Method, t.path)
	if err != nil {
		return "", err
	}
	wallet := ""
	switch op.wallet {
	case inBody:
		body, wallet, err = readBody(r.Body)
	case inQuery:
		wallet, err = readQuery(t.query)
	}
	switch {
	case err != nil:
		return "", err
	case op.wallet != inQuery && t.hasQuery:
		return "", notAllowed("url", "%s %s takes no query", op.method, op.path)
	case op.wallet != inBody && r.Body != "":
		return "", notAllowed("body", "%s %s has none", op.method, op.path)
	}
	for _, list := range s.lists {
		if err := includes(list, k, op, wallet); err != nil {
			return "", err
		}
	}
	if len(s.lists) == 0 {
		return "", errRightsUnknown
	}
	return body, nil
}

// target is what follows the resource server's URL in a request's URL.
type target struct {
	path     string
	query    string
	hasQuery bool
}

// locate splits a URL, which must be below the grant's resource server and not below its
// authorization server, byte for byte: what is signed is the string, and servers, proxies and
// libraries differ in how they read it.
func (s Scope) locate(text string) (target, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || !uri.Valid(text):
		return target{}, notAllowed("url", "must be an absolute URL, with only such characters as a URL may have")
	case u.User != nil:
		return target{}, notAllowed("url", "must not hold a user name or password")
	case strings.Contains(text, "#"):
		return target{}, notAllowed("url", "must not have a fragment (#…)")
	case u.String() != text: // the HTTP client would send another string
		return target{}, notAllowed("url", "must be written as it is sent, the scheme in lower case")
	}
	rest, found := strings.CutPrefix(text, s.resourceServer)
	if !found || !strings.HasPrefix(rest, "/") {
		return target{}, notAllowed("url",
			"must begin with the grant's resource_server, letter for letter, and go on with a path")
	}
	if isAmbiguousPath(u.EscapedPath()) {
		return target{}, notAllowed("url",
			"the path must not hold '..', '.' or empty segments, nor %%2e, %%2f or %%5c")
	}
	if slices.ContainsFunc(s.reserved, func(base *url.URL) bool { return isBelow(u, base) }) {
		return target{}, notAllowed("url", "lies below the authorization server, for which nothing is signed here")
	}
	t := target{}
	t.path, t.query, t.hasQuery = strings.Cut(rest, "?")
	return t, nil
}

// isAmbiguousPath reports whether some server or proxy may take a path for another one.
func isAmbiguousPath(escaped string) bool {
	lower := strings.ToLower(escaped)
	return path.Clean(escaped) != escaped ||
		strings.Contains(lower, "%2e") || strings.Contains(lower, "%2f") || strings.Contains(lower, "%5c")
}

// isBelow reports whether u is base or below it. It ignores case, as some servers do, and compares
// decoded paths.
func isBelow(u, base *url.URL) bool {
	if uri.Origin(u) != uri.Origin(base) {
		return false
	}
	dir := strings.ToLower(strings.TrimRight(base.Path, "/")) + "/"
	return strings.HasPrefix(strings.ToLower(u.Path)+"/", dir)
}

// readQuery checks a list's query and returns the wallet address in it.
func readQuery(query string) (wallet string, err error) {
	names := listParamNames()
	values := map[string]string{}
	for _, pair := range strings.Split(query, "&") {
		name, escaped, _ := strings.Cut(pair, "=")
		value, err := url.QueryUnescape(escaped)
		_, again := values[name]
		switch {
		case !slices.Contains(names, name):
			return "", notAllowed("url", "the query may have %s only", strings.Join(names, ", "))
		case again:
			return "", notAllowed("url", "the query has %s twice", name)
		case err != nil || value == "" || strings.ContainsAny(escaped, "+;"):
			return "", notAllowed("url",
				"%s in the query must have a value, with '+' and ';' written as %%2B and %%3B", name)
		}
		values[name] = value
	}
	for _, p := range listParams {
		if text, has := values[p.name]; has && p.max > 0 {
			if n, err := strconv.ParseUint(text, 10, 64); err != nil || n < 1 || n > p.max {
				return "", notAllowed("url", "%s in the query must be a number from 1 to %d", p.name, p.max)
			}
		}
	}
	if wallet = values[walletParam]; wallet == "" {
		return "", notAllowed("url", "a list must say whose in its query: %s=…", walletParam)
	}
	return wallet, nil
}

// readBody returns a creation's body in its normal form, and the wallet address in it.
func readBody(text string) (body, wallet string, err error) {
	if text == "" {
		return "", "", notAllowed("body", "is needed: a JSON object")
	}
	if body, err = ecmascript.Unambiguous([]byte(text)); err != nil {
		return "", "", notAllowed("body", "must be JSON text that all readers take for the same; %s",
			faultOf(text, err))
	}
	members, err := objectOf(json.RawMessage(body))
	if err != nil || json.Unmarshal(members["walletAddress"], &wallet) != nil || wallet == "" {
		return "", "", notAllowed("body", "must be a JSON object with walletAddress, a string, in it")
	}
	return body, wallet, nil
}

// faultOf says where a text is not JSON, or not the same to all readers.
func faultOf(text string, err error) error {
	if fault := pasted.FindJSONFault(text); fault != nil {
		return fault
	}
	var ambiguous *ecmascript.AmbiguousError
	if !errors.As(err, &ambiguous) {
		return err
	}
	line, column := pasted.PositionOf(text, ambiguous.Offset-1)
	return &pasted.JSONError{Line: line, Column: column, Reason: ambiguous.Error()}
}

// includes returns an error if a list of rights does not include an operation on a wallet address.
// Where a request names none, only the server knows whose payment it is.
func includes(list []right, k kind, op operation, wallet string) error {
	elsewhere := false
	for _, r := range list {
		if r.Type != k.name || !r.hasAny(op.anyOf) {
			continue
		}
		if op.wallet == inNothing || r.isFor(wallet) {
			return nil
		}
		elsewhere = true
	}
	if elsewhere {
		return notAllowed(op.wallet.field(), "the grant's right is for another wallet address")
	}
	return notAllowed("url", "the grant's rights do not include %s of %s", strings.Join(op.anyOf, " or "), k.name)
}

func (r right) hasAny(actions []string) bool {
	return slices.ContainsFunc(actions, func(a string) bool { return slices.Contains(r.Actions, a) })
}

// isFor reports whether a right is for a wallet address. A right without an identifier is for any.
func (r right) isFor(wallet string) bool {
	if r.Identifier == nil || string(r.Identifier) == "null" {
		return true
	}
	var text string
	return json.Unmarshal(r.Identifier, &text) == nil && text == wallet
}
