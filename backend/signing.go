// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"encoding/json"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/ecmascript"
)

// What may be signed. A signer that signs anything would let an application act
// as the client at the authorization server: ask for grants, rotate, revoke. So
// a request is signed only if the grant allows it at the resource server.

// resourceOperation is an operation of the resource server (its OpenAPI document,
// version 1.3.0), with the right that it needs.
type resourceOperation struct {
	id      string // operationId
	method  string
	path    string // below the resource server's URL; {id} is one segment
	wallet  walletPlace
	kind    string   // type of the right
	actions []string // any of them is enough
}

// walletPlace is where a request names the wallet address that it is about.
type walletPlace int

const (
	walletNowhere walletPlace = iota // no query and no body
	walletInQuery                    // a list: wallet-address
	walletInBody                     // a creation: walletAddress
)

var resourceOperations = []resourceOperation{
	{"create-incoming-payment", "POST", "/incoming-payments", walletInBody, "incoming-payment", []string{"create"}},
	{"list-incoming-payments", "GET", "/incoming-payments", walletInQuery, "incoming-payment", []string{"list", "list-all"}},
	{"get-incoming-payment", "GET", "/incoming-payments/{id}", walletNowhere, "incoming-payment", []string{"read", "read-all"}},
	{"complete-incoming-payment", "POST", "/incoming-payments/{id}/complete", walletNowhere, "incoming-payment", []string{"complete"}},
	{"create-quote", "POST", "/quotes", walletInBody, "quote", []string{"create"}},
	{"get-quote", "GET", "/quotes/{id}", walletNowhere, "quote", []string{"read", "read-all"}},
	{"create-outgoing-payment", "POST", "/outgoing-payments", walletInBody, "outgoing-payment", []string{"create"}},
	{"list-outgoing-payments", "GET", "/outgoing-payments", walletInQuery, "outgoing-payment", []string{"list", "list-all"}},
	{"get-outgoing-payment", "GET", "/outgoing-payments/{id}", walletNowhere, "outgoing-payment", []string{"read", "read-all"}},
	{"get-outgoing-payment-grant", "GET", "/outgoing-payment-grant", walletNowhere, "outgoing-payment", []string{"create"}},
}

// unsigned is a request that somebody wants signed, as it came. No body is "".
type unsigned struct{ method, url, body string }

// scope is what a grant allows at its resource server.
type scope struct {
	resourceServer string
	reserved       []*url.URL // below which the authorization server is
	rights         []right
}

// right is one item of a grant's access, as far as it matters here.
type right struct {
	Type       string          `json:"type"`
	Actions    []string        `json:"actions"`
	Identifier json.RawMessage `json:"identifier"`
}

// scope reads the grant's rights as the server told them. One that has another
// shape allows nothing.
func (g *grant) scope() (scope, error) {
	s := scope{resourceServer: g.ResourceServer}
	var rights []json.RawMessage
	switch {
	case s.resourceServer == "" || strings.Contains(s.resourceServer, "?"):
		return s, refuse("url: the grant does not say where its resource server is; write resource_server to the grant")
	case json.Unmarshal(g.Access, &rights) != nil:
		return s, refuse("url: the grant's rights are not known; write access with the grant, or rotate it once: the server may tell them")
	}
	for _, raw := range rights {
		var one right
		if json.Unmarshal(raw, &one) == nil {
			s.rights = append(s.rights, one)
		}
	}
	for _, text := range g.authServerURLs() {
		if u, err := url.Parse(text); err == nil && u.Host != "" {
			s.reserved = append(s.reserved, u)
		}
	}
	return s, nil
}

// allow answers the body to send, in the only form that servers verify, or says
// why the grant does not allow a request. Everything that it does not know it
// refuses; what it says never holds a value of the request's.
func (s scope) allow(r unsigned) (body string, err error) {
	target, err := s.below(r.url)
	if err != nil {
		return "", err
	}
	op, err := findOperation(r.method, target.path)
	if err != nil {
		return "", err
	}
	wallet := ""
	switch op.wallet {
	case walletInBody:
		body, wallet, err = readBody(r.body)
	case walletInQuery:
		wallet, err = readQuery(target.query)
	}
	switch {
	case err != nil:
		return "", err
	case op.wallet != walletInQuery && target.hasQuery:
		return "", refuse("url: %s %s takes no query", op.method, op.path)
	case op.wallet != walletInBody && r.body != "":
		return "", refuse("body: %s %s has none", op.method, op.path)
	}
	return body, s.includes(op, wallet)
}

// target is what of a URL comes after the resource server's.
type target struct {
	path     string
	query    string
	hasQuery bool
}

// below takes apart a URL that has to lie below the grant's resource server and
// nowhere near its authorization server, byte for byte: what is signed is the
// text, and servers, proxies and libraries differ in what they make of it.
func (s scope) below(text string) (target, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || !uriRegexp.MatchString(text):
		return target{}, refuse("url: must be an absolute URL, with only such characters as a URL may have")
	case u.User != nil:
		return target{}, refuse("url: must not hold a user name or password")
	case strings.Contains(text, "#"):
		return target{}, refuse("url: must not have a fragment (#…)")
	case u.String() != text: // what is sent would be another text
		return target{}, refuse("url: must be written as it is sent, the scheme in lower case")
	}
	rest, found := strings.CutPrefix(text, s.resourceServer)
	if !found || !strings.HasPrefix(rest, "/") {
		return target{}, refuse("url: must begin with the grant's resource_server, letter for letter, and go on with a path")
	}
	if hasTricks(u.EscapedPath()) {
		return target{}, refuse("url: the path must not hold '..', '.' or empty segments, nor %%2e, %%2f or %%5c")
	}
	if slices.ContainsFunc(s.reserved, func(base *url.URL) bool { return isBelow(u, base) }) {
		return target{}, refuse("url: lies below the authorization server, for which nothing is signed here")
	}
	t := target{}
	t.path, t.query, t.hasQuery = strings.Cut(rest, "?")
	return t, nil
}

// hasTricks tells whether a path can mean another one to somebody.
func hasTricks(escaped string) bool {
	lower := strings.ToLower(escaped)
	return path.Clean(escaped) != escaped ||
		strings.Contains(lower, "%2e") || strings.Contains(lower, "%2f") || strings.Contains(lower, "%5c")
}

// authServerURLs are the URLs below which the authorization server is: its grant
// endpoint, and where the grant and its token are managed. Of an imported grant
// the endpoint may not be known: then it is taken to be above those.
func (g *grant) authServerURLs() []string {
	manage, further := above(g.Manage), above(g.Continue.URL)
	if g.AuthServer != "" {
		return []string{g.AuthServer, manage, further}
	}
	return []string{above(manage), above(further)}
}

// above is a URL without the last segment of its path, and without its query.
func above(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return ""
	}
	u.RawQuery = ""
	return u.JoinPath("..").String()
}

// isBelow tells whether u is a URL, or lies below it; letters' case does not
// count, for it does not at some servers, and escapes mean what they stand for.
func isBelow(u, base *url.URL) bool {
	if origin(u) != origin(base) {
		return false
	}
	dir := strings.ToLower(strings.TrimRight(base.Path, "/")) + "/"
	return strings.HasPrefix(strings.ToLower(u.Path)+"/", dir)
}

// idRegexp is what the id of a payment or quote may be, in a URL: the characters
// that need no escape (RFC 3986 section 2.3).
var idRegexp = regexp.MustCompile(`^[A-Za-z0-9_~-][A-Za-z0-9._~-]*$`)

func findOperation(method, path string) (resourceOperation, error) {
	known := false
	for _, op := range resourceOperations {
		if !op.matches(path) {
			continue
		}
		if op.method == method {
			return op, nil
		}
		known = true
	}
	if known {
		return resourceOperation{}, refuse("method: must be one that this path has, GET or POST in capital letters")
	}
	return resourceOperation{}, refuse("url: is none of the resource server's operations on incoming-payments, quotes, outgoing-payments and outgoing-payment-grant")
}

func (op resourceOperation) matches(path string) bool {
	before, after, hasID := strings.Cut(op.path, "{id}")
	if !hasID {
		return path == op.path
	}
	rest, found := strings.CutPrefix(path, before)
	id, isSuffixed := strings.CutSuffix(rest, after)
	return found && isSuffixed && idRegexp.MatchString(id)
}

// queryNames are what a list's query may have; the first one it must.
var queryNames = []string{"wallet-address", "cursor", "first", "last"}

// readQuery reads a list's query and answers the wallet address in it.
func readQuery(query string) (wallet string, err error) {
	values := map[string]string{}
	for _, pair := range strings.Split(query, "&") {
		name, escaped, _ := strings.Cut(pair, "=")
		value, err := url.QueryUnescape(escaped)
		_, again := values[name]
		switch {
		case !slices.Contains(queryNames, name):
			return "", refuse("url: the query may have %s only", strings.Join(queryNames, ", "))
		case again:
			return "", refuse("url: the query has %s twice", name)
		case err != nil || value == "" || strings.ContainsAny(escaped, "+;"):
			return "", refuse("url: %s in the query must have a value, with '+' and ';' written as %%2B and %%3B", name)
		}
		values[name] = value
	}
	for _, name := range []string{"first", "last"} {
		if text, has := values[name]; has {
			if n, err := strconv.ParseUint(text, 10, 8); err != nil || n < 1 || n > 100 {
				return "", refuse("url: %s in the query must be a number from 1 to 100", name)
			}
		}
	}
	if wallet = values["wallet-address"]; wallet == "" {
		return "", refuse("url: a list must say whose in its query: wallet-address=…")
	}
	return wallet, nil
}

// readBody answers a creation's body in normal form, and the wallet address in it.
func readBody(text string) (body, wallet string, err error) {
	if text == "" {
		return "", "", refuse("body: is needed, as JSON text")
	}
	if body, err = ecmascript.Unambiguous([]byte(text)); err != nil {
		return "", "", refuse("body: must be JSON text that all readers take for the same: %s", err)
	}
	var members map[string]json.RawMessage // a struct would take other spellings of a name
	if json.Unmarshal([]byte(body), &members) != nil || json.Unmarshal(members["walletAddress"], &wallet) != nil || wallet == "" {
		return "", "", refuse("body: must be a JSON object with walletAddress, a text, in it")
	}
	return body, wallet, nil
}

// includes says why the grant's rights do not include an operation on a wallet
// address. Where a request names none, the server knows whose payment it is.
func (s scope) includes(op resourceOperation, wallet string) error {
	elsewhere := false
	for _, r := range s.rights {
		if r.Type != op.kind || !slices.ContainsFunc(op.actions, func(a string) bool { return slices.Contains(r.Actions, a) }) {
			continue
		}
		if op.wallet == walletNowhere || r.isFor(wallet) {
			return nil
		}
		elsewhere = true
	}
	if elsewhere {
		return refuse("%s: the grant's right is for another wallet address", op.wallet.field())
	}
	return refuse("url: the grant's rights do not include %s of %s", strings.Join(op.actions, " or "), op.kind)
}

// isFor tells whether a right is for a wallet address; one without an identifier
// is for any.
func (r right) isFor(wallet string) bool {
	if r.Identifier == nil || string(r.Identifier) == "null" {
		return true
	}
	var text string
	return json.Unmarshal(r.Identifier, &text) == nil && text == wallet
}

func (w walletPlace) field() string {
	if w == walletInBody {
		return "body"
	}
	return "url"
}

// maySign says why nothing can be signed for a grant as things are.
func maySign(g *grant, c *config, name, mount string) error {
	switch {
	case g == nil:
		return unknownGrant(name, mount)
	case g.Status == statusPending:
		return pendingError(name, mount)
	case g.Status == statusLost:
		return lostError(g, name, mount)
	case g.Client != c.WalletAddress:
		return g.foreign(c, fmt.Sprintf("grant %q", name))
	}
	return nil
}
