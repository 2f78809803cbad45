// SPDX-License-Identifier: MPL-2.0

package rights

import (
	"regexp"
	"slices"
	"strings"
)

// kind is a type of right (OpenAPI access-incoming, access-quote, access-outgoing), with the
// operations of the resource server that need a right of this type.
type kind struct {
	name        string   // the right's type
	actions     []string // that a right can have
	members     []string // that a right can have besides type and actions
	needsWallet bool     // whether identifier, the wallet address that the right is for, is required
	operations  []operation
}

// operation is an operation of the resource server's OpenAPI document.
type operation struct {
	id     string // operationId
	method string
	path   string // below the resource server's URL; {id} is one segment
	wallet walletIn
	anyOf  []string // the actions of which a right must have at least one
}

// walletIn says where a request names the wallet address that it is about.
type walletIn int

const (
	inNothing walletIn = iota // the request has neither query nor body
	inQuery                   // a list: listParams
	inBody                    // a creation: member walletAddress
)

// field returns the part of a request in which the wallet address is.
func (w walletIn) field() string {
	if w == inBody {
		return "body"
	}
	return "url"
}

var kinds = []kind{
	{
		name:    "incoming-payment",
		actions: []string{"create", "complete", "read", "read-all", "list", "list-all"},
		members: []string{"identifier"},
		operations: []operation{
			{"create-incoming-payment", "POST", "/incoming-payments", inBody, []string{"create"}},
			{"list-incoming-payments", "GET", "/incoming-payments", inQuery, []string{"list", "list-all"}},
			{"get-incoming-payment", "GET", "/incoming-payments/{id}", inNothing, []string{"read", "read-all"}},
			{"complete-incoming-payment", "POST", "/incoming-payments/{id}/complete", inNothing, []string{"complete"}},
		},
	},
	{
		name:    "quote",
		actions: []string{"create", "read", "read-all"},
		operations: []operation{
			{"create-quote", "POST", "/quotes", inBody, []string{"create"}},
			{"get-quote", "GET", "/quotes/{id}", inNothing, []string{"read", "read-all"}},
		},
	},
	{
		name:        "outgoing-payment",
		actions:     []string{"create", "read", "read-all", "list", "list-all"},
		members:     []string{"identifier", "limits"},
		needsWallet: true,
		operations: []operation{
			{"create-outgoing-payment", "POST", "/outgoing-payments", inBody, []string{"create"}},
			{"list-outgoing-payments", "GET", "/outgoing-payments", inQuery, []string{"list", "list-all"}},
			{"get-outgoing-payment", "GET", "/outgoing-payments/{id}", inNothing, []string{"read", "read-all"}},
			{"get-outgoing-payment-grant", "GET", "/outgoing-payment-grant", inNothing, []string{"create"}},
		},
	},
}

const walletParam = "wallet-address"

// listParams are the query parameters of operations that list, by name. A list must name a wallet
// address.
var listParams = []struct {
	name string
	max  uint64 // the largest number; 0: any string that is not empty
}{{name: walletParam}, {name: "cursor"}, {name: "first", max: 100}, {name: "last", max: 100}}

func listParamNames() (names []string) {
	for _, p := range listParams {
		names = append(names, p.name)
	}
	return names
}

// kindByName returns nil if there is no type of right of this name.
func kindByName(name string) *kind {
	if i := slices.IndexFunc(kinds, func(k kind) bool { return k.name == name }); i >= 0 {
		return &kinds[i]
	}
	return nil
}

func kindNames() (names []string) {
	for _, k := range kinds {
		names = append(names, k.name)
	}
	return names
}

// collections returns the first segments of all operations' paths.
func collections() (names []string) {
	for _, k := range kinds {
		for _, op := range k.operations {
			name, _, _ := strings.Cut(strings.TrimPrefix(op.path, "/"), "/")
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// enumerate joins names with commas, and the last one with a word; there are two or more.
func enumerate(names []string, word string) string {
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " " + word + " " + names[last]
}

func findOperation(method, path string) (kind, operation, error) {
	known := false
	for _, k := range kinds {
		for _, op := range k.operations {
			if !op.matches(path) {
				continue
			}
			if op.method == method {
				return k, op, nil
			}
			known = true
		}
	}
	if known {
		return kind{}, operation{}, notAllowed("method",
			"must be one that this path has, GET or POST in capital letters")
	}
	return kind{}, operation{}, notAllowed("url", "is none of the resource server's operations on %s",
		enumerate(collections(), "and"))
}

// idRegexp matches what the id of a payment or quote may be, in a URL: characters that need no
// escape (RFC 3986 section 2.3), of which the first is no dot.
var idRegexp = regexp.MustCompile(`^[A-Za-z0-9_~-][A-Za-z0-9._~-]*$`)

// matches reports whether a path, as written in the URL, is the operation's.
func (op operation) matches(path string) bool {
	before, after, hasID := strings.Cut(op.path, "{id}")
	if !hasID {
		return path == op.path
	}
	rest, found := strings.CutPrefix(path, before)
	id, isSuffixed := strings.CutSuffix(rest, after)
	return found && isSuffixed && idRegexp.MatchString(id)
}
