// SPDX-License-Identifier: MPL-2.0

package rights

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	rs    = "https://wallet.example/op"
	alice = "https://wallet.example/alice"
	bob   = "https://wallet.example/bob"

	// allRights are one of each kind; the first two are for alice only.
	allRights = `[
		{"type":"outgoing-payment","actions":["create","read","list"],"identifier":"` + alice + `"},
		{"type":"incoming-payment","actions":["create","complete","read","list"],"identifier":"` + alice + `"},
		{"type":"quote","actions":["create","read"]}]`
)

// granted is a grant's resource server, where its authorization server is, and its rights.
type granted struct {
	resourceServer string
	reserved       []string
	access         string
}

// withAccess returns a grant whose authorization server is next to the resource server.
func withAccess(access string) *granted {
	return &granted{rs, []string{"https://wallet.example/auth", "https://wallet.example/auth/token/"}, access}
}

func (g *granted) allow(r Request) (string, error) {
	s, err := NewScope(g.resourceServer, g.reserved, nil, json.RawMessage(g.access))
	if err != nil {
		return "", err
	}
	return s.Allow(r)
}

func aliceBody(more string) string { return `{"walletAddress":"` + alice + `"` + more + `}` }

// fieldFirst matches an error that begins with the name of a field.
var fieldFirst = regexp.MustCompile(`^(url|method|body): `)

// A grant allows what was asked for and told, both; what is not known does not limit.
func TestScopeIsTheIntersection(t *testing.T) {
	read, create := `[{"type":"incoming-payment","actions":["read"]}]`, `[{"type":"incoming-payment","actions":["create","read"]}]`
	forAlice := `[{"type":"incoming-payment","actions":["create"],"identifier":"` + alice + `"}]`
	forBob := `[{"type":"incoming-payment","actions":["create"],"identifier":"` + bob + `"}]`
	quote := `[{"type":"quote","actions":["read"]}]`
	for _, row := range []struct {
		name, requested, told string
		refusal               string // of the creation of alice's incoming payment; empty: allowed
	}{
		{"both", create, create, ""},
		{"asked for, told less", create, read, "do not include create"},
		{"told more than was asked for", read, create, "do not include create"},
		{"told another type", create, quote, "do not include create"},
		{"told nothing", create, "[]", "do not include create"},
		{"not told", create, "", ""},
		{"not told, not asked for", read, "", "do not include create"},
		{"told alone", "", create, ""},
		{"told alone, less", "", read, "do not include create"},
		{"neither is known", "", " \n", "rights are not known"},
		{"told something else than a list", create, `{"type":"incoming-payment"}`, "rights are not known"},
		{"asked for one wallet, told for any", forAlice, create, ""},
		{"asked for any wallet, told for one", create, forAlice, ""},
		{"asked for one wallet, told for another", forAlice, forBob, "for another wallet"},
		{"asked for another wallet, told for this", forBob, forAlice, "for another wallet"},
		{"asked for another wallet, told for any", forBob, create, "for another wallet"},
	} {
		s, err := NewScope(rs, nil, json.RawMessage(row.requested), json.RawMessage(row.told))
		if err == nil {
			_, err = s.Allow(Request{"POST", rs + "/incoming-payments", aliceBody("")})
		}
		switch {
		case row.refusal == "" && err != nil:
			t.Errorf("%s: refused: %v", row.name, err)
		case row.refusal != "" && (err == nil || !strings.Contains(err.Error(), row.refusal)):
			t.Errorf("%s: %v, without %q", row.name, err, row.refusal)
		}
	}
	if _, err := (Scope{}).Allow(Request{"GET", "https://x.example/quotes/1", ""}); err == nil {
		t.Error("the zero value allows something")
	}
}

func TestAllow(t *testing.T) {
	list := rs + "/incoming-payments?wallet-address=" + alice
	for _, row := range []struct {
		name, access, method, url, body string
		change                          func(*granted)
		refusal                         string // empty: allowed
	}{
		// The ten operations.
		{name: "create incoming", method: "POST", url: rs + "/incoming-payments", body: aliceBody("")},
		{name: "list incoming", method: "GET", url: list},
		{name: "read incoming", method: "GET", url: rs + "/incoming-payments/1f-2"},
		{name: "complete incoming", method: "POST", url: rs + "/incoming-payments/1f-2/complete"},
		{name: "create quote", method: "POST", url: rs + "/quotes", body: aliceBody(`,"method":"ilp"`)},
		{name: "read quote", method: "GET", url: rs + "/quotes/1f-2"},
		{name: "create outgoing", method: "POST", url: rs + "/outgoing-payments", body: aliceBody("")},
		{name: "list outgoing", method: "GET",
			url: rs + "/outgoing-payments?wallet-address=" + url.QueryEscape(alice) + "&cursor=c&first=100"},
		{name: "read outgoing", method: "GET", url: rs + "/outgoing-payments/1f-2"},
		{name: "what the grant has spent", method: "GET", url: rs + "/outgoing-payment-grant"},

		// Rights.
		{name: "no right of the kind", access: `[{"type":"quote","actions":["create"]}]`, method: "GET",
			url: rs + "/incoming-payments/1", refusal: "do not include read or read-all of incoming-payment"},
		{name: "no right for the action", access: `[{"type":"quote","actions":["create"]}]`, method: "GET",
			url: rs + "/quotes/1", refusal: "do not include"},
		{name: "read is not list", access: `[{"type":"incoming-payment","actions":["read","read-all"]}]`, method: "GET",
			url: list, refusal: "do not include list or list-all"},
		{name: "list is not read", access: `[{"type":"incoming-payment","actions":["list","list-all"]}]`, method: "GET",
			url: rs + "/incoming-payments/1", refusal: "do not include"},
		{name: "read-all counts", access: `[{"type":"incoming-payment","actions":["read-all"]}]`, method: "GET",
			url: rs + "/incoming-payments/1"},
		{name: "list-all counts",
			access: `[{"type":"outgoing-payment","actions":["list-all"],"identifier":"` + alice + `"}]`, method: "GET",
			url: rs + "/outgoing-payments?wallet-address=" + alice},
		{name: "create is not complete", access: `[{"type":"incoming-payment","actions":["create"]}]`, method: "POST",
			url: rs + "/incoming-payments/1/complete", refusal: "do not include complete"},
		{name: "spent needs create",
			access: `[{"type":"outgoing-payment","actions":["read","list"],"identifier":"` + alice + `"}]`,
			method: "GET", url: rs + "/outgoing-payment-grant", refusal: "do not include create"},
		{name: "rights unknown", access: `null`, method: "GET", url: rs + "/quotes/1", refusal: "do not include"},
		{name: "rights never told", access: ` `, method: "GET", url: rs + "/quotes/1", refusal: "rights are not known"},
		{name: "actions of another shape", access: `[{"type":"quote","actions":"read"}]`, method: "GET",
			url: rs + "/quotes/1", refusal: "do not include"},
		{name: "all is no action", access: `[{"type":"quote","actions":["all","read-"]}]`, method: "GET",
			url: rs + "/quotes/1", refusal: "do not include"},

		// Whose wallet.
		{name: "another's in the body", method: "POST", url: rs + "/incoming-payments",
			body: `{"walletAddress":"` + bob + `"}`, refusal: "body: the grant's right is for another"},
		{name: "another's in the query", method: "GET", url: rs + "/incoming-payments?wallet-address=" + bob,
			refusal: "url: the grant's right is for another"},
		{name: "another's, escaped", method: "GET",
			url: rs + "/incoming-payments?wallet-address=" + url.QueryEscape(bob), refusal: "for another"},
		{name: "another spelling of it", method: "POST", url: rs + "/outgoing-payments",
			body: `{"walletAddress":"` + alice + `/"}`, refusal: "for another"},
		{name: "upper case", method: "POST", url: rs + "/outgoing-payments",
			body: `{"walletAddress":"https://wallet.example/ALICE"}`, refusal: "for another"},
		{name: "escaped twice", method: "GET",
			url:     rs + "/incoming-payments?wallet-address=" + url.QueryEscape(url.QueryEscape(alice)),
			refusal: "for another"},
		{name: "any, without identifier", access: `[{"type":"incoming-payment","actions":["create"]}]`, method: "POST",
			url: rs + "/incoming-payments", body: `{"walletAddress":"` + bob + `"}`},
		{name: "one of two rights",
			access: `[{"type":"outgoing-payment","actions":["create"],"identifier":"` + bob + `"},{"type":"outgoing-payment","actions":["create"],"identifier":"` + alice + `"}]`,
			method: "POST", url: rs + "/outgoing-payments", body: aliceBody("")},
		{name: "the other one's action",
			access: `[{"type":"outgoing-payment","actions":["create"],"identifier":"` + bob + `"},{"type":"outgoing-payment","actions":["list"],"identifier":"` + alice + `"}]`,
			method: "POST", url: rs + "/outgoing-payments", body: aliceBody(""), refusal: "for another"},
		{name: "identifier of another shape",
			access: `[{"type":"incoming-payment","actions":["create"],"identifier":["` + alice + `"]}]`, method: "POST",
			url: rs + "/incoming-payments", body: aliceBody(""), refusal: "for another"},
		{name: "no wallet in the body", method: "POST", url: rs + "/incoming-payments", body: `{}`,
			refusal: "walletAddress"},
		{name: "an empty one", method: "POST", url: rs + "/incoming-payments", body: `{"walletAddress":""}`,
			refusal: "walletAddress"},
		{name: "null", method: "POST", url: rs + "/incoming-payments", body: `{"walletAddress":null}`,
			refusal: "walletAddress"},
		{name: "a list of them", method: "POST", url: rs + "/incoming-payments",
			body: `{"walletAddress":["` + alice + `"]}`, refusal: "walletAddress"},
		{name: "no wallet in the query", method: "GET", url: rs + "/incoming-payments", refusal: "query"},
		{name: "only others in the query", method: "GET", url: rs + "/incoming-payments?first=1",
			refusal: "must say whose"},

		// Places.
		{name: "another host", method: "GET", url: "https://evil.example/op/quotes/1", refusal: "must begin with"},
		{name: "another port", method: "GET", url: "https://wallet.example:8443/op/quotes/1",
			refusal: "must begin with"},
		{name: "the scheme's own port", method: "GET", url: "https://wallet.example:443/op/quotes/1",
			refusal: "must begin with"},
		{name: "plain http", method: "GET", url: "http://wallet.example/op/quotes/1", refusal: "must begin with"},
		{name: "host in upper case", method: "GET", url: "https://WALLET.example/op/quotes/1",
			refusal: "must begin with"},
		{name: "scheme in upper case", method: "GET", url: "HTTPS://wallet.example/op/quotes/1", refusal: "lower case"},
		{name: "host that begins alike", method: "GET", url: "https://wallet.example.evil.example/op/quotes/1",
			refusal: "must begin with"},
		{name: "path that begins alike", method: "GET", url: rs + "en/quotes/1", refusal: "must begin with"},
		{name: "without the path", method: "GET", url: "https://wallet.example/quotes/1", refusal: "must begin with"},
		{name: "path in upper case", method: "GET", url: "https://wallet.example/OP/quotes/1",
			refusal: "must begin with"},
		{name: "the resource server itself", method: "GET", url: rs, refusal: "must begin with"},
		{name: "relative", method: "GET", url: "/op/quotes/1", refusal: "absolute URL"},
		{name: "none", method: "GET", refusal: "absolute URL"},
		{name: "user name", method: "GET", url: "https://user@wallet.example/op/quotes/1", refusal: "user name"},
		{name: "the host as user name", method: "GET", url: "https://wallet.example@evil.example/op/quotes/1",
			refusal: "user name"},
		{name: "fragment", method: "GET", url: rs + "/quotes/1#x", refusal: "fragment"},
		{name: "empty fragment", method: "GET", url: rs + "/quotes/1#", refusal: "fragment"},
		{name: "line break", method: "GET", url: rs + "/quotes/1\nx", refusal: "absolute URL"},
		{name: "space", method: "GET", url: rs + "/quotes/1 2", refusal: "absolute URL"},
		{name: "backslash", method: "GET", url: rs + `\quotes\1`, refusal: "absolute URL"},
		{name: "not ASCII", method: "GET", url: rs + "/quotes/ü", refusal: "absolute URL"},
		{name: "broken escape", method: "GET", url: rs + "/quotes/%zz", refusal: "absolute URL"},

		// Tricks with paths.
		{name: "up and down", method: "GET", url: rs + "/../op/quotes/1", refusal: "segments"},
		{name: "up to the authorization server", method: "POST", url: rs + "/../auth/token/1", refusal: "segments"},
		{name: "an id of two dots", method: "GET", url: rs + "/quotes/..", refusal: "segments"},
		{name: "an id of one dot", method: "GET", url: rs + "/quotes/.", refusal: "segments"},
		{name: "escaped dots", method: "GET", url: rs + "/quotes/%2e%2E", refusal: "segments"},
		{name: "escaped slash", method: "GET", url: rs + "/quotes/1%2f2", refusal: "segments"},
		{name: "escaped slash in upper case", method: "GET", url: rs + "/quotes%2F1", refusal: "segments"},
		{name: "escaped backslash", method: "GET", url: rs + "/quotes/..%5cauth", refusal: "segments"},
		{name: "double slash", method: "GET", url: rs + "//quotes/1", refusal: "segments"},
		{name: "double slash before the id", method: "GET", url: rs + "/quotes//1", refusal: "segments"},
		{name: "slash at the end", method: "GET", url: rs + "/quotes/1/", refusal: "segments"},
		{name: "escaped letter", method: "GET", url: rs + "/quote%73/1",
			refusal: "none of the resource server's operations"},
		{name: "escaped escape", method: "GET", url: rs + "/quotes/1%252f2", refusal: "none of"},
		{name: "path parameter", method: "GET", url: rs + "/quotes/1;x=2", refusal: "none of"},
		{name: "operation in upper case", method: "GET", url: rs + "/Quotes/1", refusal: "none of"},
		{name: "complete in upper case", method: "POST", url: rs + "/incoming-payments/1/Complete", refusal: "none of"},
		{name: "unknown collection", method: "GET", url: rs + "/wallets/1", refusal: "none of"},
		{name: "deeper", method: "GET", url: rs + "/quotes/1/2", refusal: "none of"},
		{name: "quotes cannot be listed", method: "GET", url: rs + "/quotes", refusal: "method"},
		{name: "quotes cannot be completed", method: "POST", url: rs + "/quotes/1/complete", refusal: "none of"},

		// The authorization server.
		{name: "its endpoint", method: "POST", url: "https://wallet.example/auth", refusal: "must begin with"},
		{name: "it contains the resource server", method: "GET", url: "https://wallet.example/auth/quotes/1",
			refusal: "authorization server",
			change:  func(g *granted) { g.resourceServer = "https://wallet.example/auth" }},
		{name: "it contains it, in another case", method: "GET", url: "https://wallet.example/Auth/op/quotes/1",
			refusal: "authorization server",
			change:  func(g *granted) { g.resourceServer = "https://wallet.example/Auth/op" }},
		{name: "it contains it, escaped", method: "GET", url: "https://wallet.example/%61uth/op/quotes/1",
			refusal: "authorization server",
			change:  func(g *granted) { g.resourceServer = "https://wallet.example/%61uth/op" }},
		{name: "it contains it, escaped itself", method: "GET", url: "https://wallet.example/auth/op/quotes/1",
			refusal: "authorization server",
			change: func(g *granted) {
				g.resourceServer = "https://wallet.example/auth/op"
				g.reserved = []string{"https://wallet.example/%61uth"}
			}},
		{name: "it contains it, the port said", method: "GET", url: "https://wallet.example:443/auth/op/quotes/1",
			refusal: "authorization server",
			change:  func(g *granted) { g.resourceServer = "https://wallet.example:443/auth/op" }},
		{name: "it is the whole origin", method: "GET", url: rs + "/quotes/1", refusal: "authorization server",
			change: func(g *granted) { g.reserved = []string{"https://wallet.example/"} }},
		{name: "on another origin it may be", method: "GET", url: rs + "/quotes/1",
			change: func(g *granted) {
				g.reserved = []string{"https://auth.wallet.example/", "https://auth.wallet.example/token/"}
			}},
		{name: "path that begins like its", method: "GET", url: "https://wallet.example/authors/quotes/1",
			change: func(g *granted) { g.resourceServer = "https://wallet.example/authors" }},
		{name: "the second of two places", method: "GET", url: "https://wallet.example/tokens/quotes/1",
			refusal: "authorization server",
			change: func(g *granted) {
				g.resourceServer, g.reserved = "https://wallet.example/tokens", append(g.reserved,
					"https://wallet.example/tokens/")
			}},
		{name: "no URL reserves nothing", method: "GET", url: rs + "/quotes/1",
			change: func(g *granted) { g.reserved = []string{"", "/op", "%zz"} }},
		{name: "resource server not known", method: "GET", url: rs + "/quotes/1", refusal: "resource_server",
			change: func(g *granted) { g.resourceServer = "" }},
		{name: "resource server with a query", method: "POST",
			url: "https://other.example/token/1?x=/incoming-payments", body: aliceBody(""), refusal: "resource_server",
			change: func(g *granted) { g.resourceServer = "https://other.example/token/1?x=" }},

		// Methods.
		{name: "lower case", method: "get", url: rs + "/quotes/1", refusal: "method"},
		{name: "no method", url: rs + "/quotes/1", refusal: "method"},
		{name: "DELETE", method: "DELETE", url: rs + "/incoming-payments/1", refusal: "method"},
		{name: "POST for GET", method: "POST", url: rs + "/outgoing-payment-grant", refusal: "method"},
		{name: "GET for complete", method: "GET", url: rs + "/incoming-payments/1/complete", refusal: "method"},

		// Queries.
		{name: "all four names", method: "GET", url: list + "&cursor=1&first=1&last=2"},
		{name: "another name", method: "GET", url: list + "&receiver=x", refusal: "query may have"},
		{name: "a name in upper case", method: "GET", url: rs + "/incoming-payments?Wallet-Address=" + alice,
			refusal: "query may have"},
		{name: "an escaped name", method: "GET", url: rs + "/incoming-payments?wallet%2Daddress=" + alice,
			refusal: "query may have"},
		{name: "a name twice", method: "GET", url: list + "&wallet-address=" + bob, refusal: "twice"},
		{name: "cursor twice", method: "GET", url: list + "&cursor=1&cursor=1", refusal: "twice"},
		{name: "a list's name", method: "GET", url: rs + "/incoming-payments?wallet-address[]=" + alice,
			refusal: "query may have"},
		{name: "empty pair", method: "GET", url: list + "&", refusal: "query may have"},
		{name: "no value", method: "GET", url: list + "&cursor", refusal: "must have a value"},
		{name: "semicolon between pairs", method: "GET", url: list + ";wallet-address=" + bob,
			refusal: "must have a value"},
		{name: "plus for a space", method: "GET", url: list + "&cursor=a+b", refusal: "must have a value"},
		{name: "first beyond 100", method: "GET", url: list + "&first=101", refusal: "1 to 100"},
		{name: "last of none", method: "GET", url: list + "&last=0", refusal: "1 to 100"},
		{name: "first in words", method: "GET", url: list + "&first=ten", refusal: "1 to 100"},
		{name: "query on a read", method: "GET", url: rs + "/quotes/1?first=1", refusal: "no query"},
		{name: "query on a creation", method: "POST", url: rs + "/quotes?wallet-address=" + alice, body: aliceBody(""),
			refusal: "no query"},
		{name: "bare question mark", method: "GET", url: rs + "/quotes/1?", refusal: "no query"},

		// Bodies.
		{name: "none for a creation", method: "POST", url: rs + "/quotes", refusal: "body: is needed"},
		{name: "one for a read", method: "GET", url: rs + "/quotes/1", body: `{}`, refusal: "has none"},
		{name: "one for a list", method: "GET", url: list, body: `{}`, refusal: "has none"},
		{name: "one for complete", method: "POST", url: rs + "/incoming-payments/1/complete", body: `{}`,
			refusal: "has none"},
		{name: "not JSON", method: "POST", url: rs + "/quotes", body: "walletAddress=x", refusal: "JSON"},
		{name: "cut off", method: "POST", url: rs + "/quotes", body: `{"walletAddress":"` + alice + `"`,
			refusal: "JSON"},
		{name: "more after it", method: "POST", url: rs + "/quotes", body: aliceBody("") + "{}", refusal: "JSON"},
		{name: "a list", method: "POST", url: rs + "/quotes", body: `["` + alice + `"]`, refusal: "JSON object"},
		{name: "a string", method: "POST", url: rs + "/quotes", body: `"x"`, refusal: "JSON object"},
		{name: "a member twice", method: "POST", url: rs + "/quotes", body: aliceBody(`,"walletAddress":"` + bob + `"`),
			refusal: "twice"},
		{name: "twice, escaped", method: "POST", url: rs + "/quotes",
			body: aliceBody(`,"wallet\u0041ddress":"` + bob + `"`), refusal: "twice"},
		{name: "another case", method: "POST", url: rs + "/quotes", body: aliceBody(`,"WalletAddress":"` + bob + `"`),
			refusal: "differ only in case"},
		{name: "another case with a long s", method: "POST", url: rs + "/quotes",
			body: aliceBody(`,"walletAddreſs":"` + bob + `"`), refusal: "differ only in case"},
		{name: "another case alone", method: "POST", url: rs + "/quotes", body: `{"walletaddress":"` + alice + `"}`,
			refusal: "walletAddress"},
		{name: "a member twice, deeper", method: "POST", url: rs + "/quotes",
			body: aliceBody(`,"metadata":{"a":[{"b":1,"b":2}]}`), refusal: "twice"},
		{name: "the same name in two objects", method: "POST", url: rs + "/quotes",
			body: aliceBody(`,"metadata":{"a":{"b":1},"c":{"b":2,"walletAddress":"` + bob + `"}}`)},
		{name: "a number too large", method: "POST", url: rs + "/quotes",
			body: aliceBody(`,"metadata":{"a":9007199254740993}`), refusal: "2^53"},
		{name: "a number beyond all", method: "POST", url: rs + "/quotes", body: aliceBody(`,"metadata":{"a":1e400}`),
			refusal: "2^53"},
		{name: "too deep", method: "POST", url: rs + "/quotes",
			body:    aliceBody(`,"metadata":` + strings.Repeat("[", 40) + strings.Repeat("]", 40)),
			refusal: "deep in each other"},
	} {
		t.Run(row.name, func(t *testing.T) {
			if row.access == "" {
				row.access = allRights
			}
			g := withAccess(row.access)
			if row.change != nil {
				row.change(g)
			}
			_, err := g.allow(Request{row.method, row.url, row.body})
			switch {
			case row.refusal == "" && err != nil:
				t.Errorf("refused: %s", err)
			case row.refusal != "" && err == nil:
				t.Error("allowed")
			case row.refusal != "" && !strings.Contains(err.Error(), row.refusal):
				t.Errorf("%q does not say %q", err, row.refusal)
			case err != nil && !fieldFirst.MatchString(err.Error()):
				t.Errorf("%q does not begin with a field's name", err)
			case err != nil && !errors.As(err, new(*NotAllowedError)):
				t.Errorf("%q is a %T", err, err)
			}
		})
	}
}

func allOperations() (all []operation) {
	for _, k := range kinds {
		all = append(all, k.operations...)
	}
	return all
}

// Each operation needs actions that a right of its type can have.
func TestOperationsNeedActionsThatThereAre(t *testing.T) {
	for _, k := range kinds {
		for _, op := range k.operations {
			if len(op.anyOf) == 0 {
				t.Errorf("%s needs no action", op.id)
			}
			for _, action := range op.anyOf {
				if !slices.Contains(k.actions, action) {
					t.Errorf("%s needs %s, and %s has %v", op.id, action, k.name, k.actions)
				}
			}
		}
	}
}

func TestNothingIsAllowedWithoutGrant(t *testing.T) {
	for _, op := range allOperations() {
		target := rs + strings.Replace(op.path, "{id}", "1", 1)
		if _, err := (Scope{}).Allow(Request{op.method, target, ""}); err == nil {
			t.Errorf("%s is allowed", op.id)
		}
	}
}

// documented is an operation of operations.json, which test/interop compares with the OpenAPI
// document.
type documented struct {
	ID, Method, Path string
	Body             bool
	Query            map[string]struct {
		Required                    bool
		Minimum, Maximum, MinLength *int
	}
}

func readDocumented(t *testing.T) (operations []documented) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "..", "test", "interop", "operations.json"))
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&operations); err != nil {
		t.Fatal(err)
	}
	return operations
}

// What is in the table is in the document, and the other way round.
func TestOperationsAreTheDocuments(t *testing.T) {
	operations, table := readDocumented(t), allOperations()
	if len(operations) != len(table) {
		t.Errorf("%d operations are documented, and %d are in the table", len(operations), len(table))
	}
	for _, op := range operations {
		at := slices.IndexFunc(table, func(known operation) bool { return known.id == op.ID })
		if at < 0 {
			t.Errorf("%s is not in the table", op.ID)
			continue
		}
		known := table[at]
		if known.method != op.Method || known.path != op.Path ||
			(known.wallet == inBody) != op.Body || (known.wallet == inQuery) != (len(op.Query) > 0) {
			t.Errorf("%s is in the table as %v", op.ID, known)
		}
	}
}

// Every name that the document has in an operation's query is allowed there, within the same
// limits, and no other.
func TestQueriesAreTheDocuments(t *testing.T) {
	g := withAccess(allRights)
	for _, op := range readDocumented(t) {
		allows := func(query url.Values) bool {
			r := Request{op.Method, rs + strings.Replace(op.Path, "{id}", "1", 1), ""}
			if op.Body {
				r.Body = aliceBody("")
			}
			if len(query) > 0 {
				r.URL += "?" + query.Encode()
			}
			_, err := g.allow(r)
			return err == nil
		}
		full := url.Values{}
		for name := range op.Query {
			full.Set(name, "1")
		}
		if full.Has("wallet-address") {
			full.Set("wallet-address", alice)
		}
		if !allows(full) {
			t.Errorf("%s is refused with all of its query", op.ID)
		}
		with := func(name, value string) bool {
			query := maps.Clone(full)
			query.Set(name, value)
			return allows(query)
		}
		for name, about := range op.Query {
			without := maps.Clone(full)
			without.Del(name)
			if allows(without) == about.Required {
				t.Errorf("%s is allowed without %s: %t", op.ID, name, !about.Required)
			}
			if least := about.Minimum; least != nil &&
				(!with(name, strconv.Itoa(*least)) || with(name, strconv.Itoa(*least-1))) {
				t.Errorf("%s has another minimum for %s", op.ID, name)
			}
			if most := about.Maximum; most != nil &&
				(!with(name, strconv.Itoa(*most)) || with(name, strconv.Itoa(*most+1))) {
				t.Errorf("%s has another maximum for %s", op.ID, name)
			}
			if length := about.MinLength; length != nil &&
				(!with(name, strings.Repeat("x", *length)) || with(name, strings.Repeat("x", *length-1))) {
				t.Errorf("%s has another minimum length for %s", op.ID, name)
			}
		}
		for _, name := range listParamNames() {
			if _, is := op.Query[name]; !is && with(name, "1") {
				t.Errorf("%s is allowed with %s in its query", op.ID, name)
			}
		}
	}
}

// A body is sent in the one form in which servers verify it, and in no other.
func TestBodyToSend(t *testing.T) {
	g := withAccess(allRights)
	for _, row := range []struct{ name, text, want string }{
		{"white space", "{ \"walletAddress\" :\n\"" + alice + "\" }\n", aliceBody("")},
		{"escapes", aliceBody(`,"metadata":{"a":"\u0026\u003c\/\u00fc\u2028"}`),
			aliceBody(`,"metadata":{"a":"&</ü` + "\u2028" + `"}`)},
		{"numbers", aliceBody(`,"metadata":{"a":[2.0,1e3,-0,9007199254740991]}`),
			aliceBody(`,"metadata":{"a":[2,1000,0,9007199254740991]}`)},
		{"order", `{"metadata":{"b":1,"10":2,"9":3,"a":4},"walletAddress":"` + alice + `"}`,
			`{"metadata":{"9":3,"10":2,"b":1,"a":4},"walletAddress":"` + alice + `"}`},
	} {
		got, err := g.allow(Request{"POST", rs + "/quotes", row.text})
		if err != nil || got != row.want {
			t.Errorf("%s: %s, %v; want %s", row.name, got, err, row.want)
		}
	}
}

// FuzzAllow checks this property: whatever request is allowed goes, as any reader understands its
// URL, to one of the ten operations directly below the grant's resource server and not below its
// authorization server; its body, if any, stays the same when it is read and written again; and
// where it names a wallet address, in query or body, it names one, and the right's.
func FuzzAllow(f *testing.F) {
	for _, op := range allOperations() {
		target := rs + strings.Replace(op.path, "{id}", "1", 1)
		switch op.wallet {
		case inQuery:
			f.Add(op.method, target+"?wallet-address="+url.QueryEscape(alice)+"&first=2", "")
		case inBody:
			f.Add(op.method, target, aliceBody(`,"metadata":{"1":2.0,"B":"\u0026","b":[]}`))
		default:
			f.Add(op.method, target, "")
		}
	}
	f.Add("POST", "https://wallet.example/op/../auth/token/1", "")
	f.Add("GET", "https://wallet.example/op/incoming-payments?wallet-address=a&wallet-address=b", "")
	g := withAccess(`[
		{"type":"outgoing-payment","actions":["create","read","list"],"identifier":"` + alice + `"},
		{"type":"incoming-payment","actions":["create","complete","read","list"],"identifier":"` + alice + `"},
		{"type":"quote","actions":["create","read"],"identifier":"` + alice + `"}]`)
	s, err := NewScope(g.resourceServer, g.reserved, nil, json.RawMessage(g.access))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, method, target, body string) {
		sent, err := s.Allow(Request{method, target, body})
		if err != nil {
			return
		}
		u, err := url.Parse(target)
		if err != nil || u.Scheme != "https" || u.Host != "wallet.example" || u.User != nil ||
			u.Fragment != "" || u.String() != target {
			t.Fatalf("allowed: %q", target)
		}
		if path.Clean(u.Path) != u.Path || !strings.HasPrefix(u.Path, "/op/") || u.RawPath != "" {
			t.Fatalf("allowed: %q", target)
		}
		segments := strings.Split(strings.TrimPrefix(u.Path, "/op/"), "/")
		roots := []string{"incoming-payments", "quotes", "outgoing-payments", "outgoing-payment-grant"}
		if !slices.Contains(roots, segments[0]) ||
			len(segments) > 3 || len(segments) == 3 && (segments[2] != "complete" || method != "POST") ||
			method != "GET" && method != "POST" {
			t.Fatalf("allowed: %s %q", method, target)
		}
		for name, values := range u.Query() {
			if len(values) != 1 || name == "wallet-address" && values[0] != alice {
				t.Fatalf("allowed: %q", target)
			}
		}
		if body == "" {
			return
		}
		var got struct{ WalletAddress string }
		if json.Unmarshal([]byte(sent), &got) != nil || got.WalletAddress != alice {
			t.Fatalf("allowed: %q", body)
		}
		again, wallet, err := readBody(sent)
		if err != nil || again != sent || wallet != alice {
			t.Fatalf("%q is sent as %q, and that is read as %q, %v", body, sent, again, err)
		}
	})
}
