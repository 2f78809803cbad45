// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"errors"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/authserver"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/uri"
)

// The URL that the owner's browser is sent to, before and after the decision. All of it is pure.

// notForBrowsers are schemes that no application has: a browser runs them, shows a file or text of
// somebody's choice, or cannot be sent there.
var notForBrowsers = []string{
	"about", "blob", "chrome", "data", "file", "filesystem", "ftp", "jar", "javascript", "mailto", "resource",
	"vbscript", "view-source", "ws", "wss",
}

// parseFinishURI reads the URI that the owner's browser is sent to: https, http to a loopback host,
// or an application's own scheme followed by ":/" (RFC 8252 section 7.1).
func parseFinishURI(s string) (string, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Scheme == "" || u.Scheme == "http" || u.Scheme == "https":
		_, err = authserver.ParseURL(s)
		return s, err
	case slices.Contains(notForBrowsers, u.Scheme):
		return "", errors.New("must begin with https://, or with an application's own scheme and :/")
	case !uri.Valid(s) || !strings.HasPrefix(s[len(u.Scheme):], ":/"):
		return "", errors.New("must be a URL such as https://shop.example/back or com.example.app:/back")
	case u.User != nil:
		return "", errors.New("must not hold a user name or password")
	case strings.Contains(s, "#"):
		return "", errors.New("must not have a fragment (#…)")
	}
	return s, nil
}

// The parameters of a redirect (RFC 9635 section 4.2.1; result and message are Rafiki's). A server
// sets them in the place of the finish URI's own parameters of these names.
const (
	paramRef     = "interact_ref"
	paramHash    = "hash"
	paramResult  = "result"
	paramMessage = "message"
)

func setByServer(name string) bool {
	return slices.Contains([]string{paramRef, paramHash, paramResult, paramMessage}, name)
}

// landing is where a browser is sent.
type landing struct {
	place  string // scheme, host and path
	params []param
}

type param struct{ name, value string }

func parseLanding(s string) (landing, error) {
	u, err := url.Parse(strings.TrimSpace(s))
	if err != nil || u.Scheme == "" || u.Opaque != "" {
		return landing{}, errors.New("not a URL")
	}
	u = new(url.URL).ResolveReference(u) // without dot segments, as browsers write it
	path := u.Path
	if path == "" {
		path = "/"
	}
	return landing{place: uri.Origin(u) + path, params: parseParams(u.RawQuery)}, nil
}

// parseParams reads a query as servers do (https://url.spec.whatwg.org/#urlencoded-parsing). Unlike
// url.ParseQuery it takes a semicolon for any other character, and drops nothing.
func parseParams(query string) []param {
	var all []param
	for part := range strings.SplitSeq(query, "&") {
		if part != "" {
			name, value, _ := strings.Cut(part, "=")
			all = append(all, param{decodeParam(name), decodeParam(value)})
		}
	}
	return all
}

var escapeRegexp = regexp.MustCompile(`%[0-9A-Fa-f]{2}`)

func decodeParam(s string) string {
	s = escapeRegexp.ReplaceAllStringFunc(strings.ReplaceAll(s, "+", " "), func(escape string) string {
		one, err := url.PathUnescape(escape)
		if err != nil {
			return escape // cannot happen
		}
		return one
	})
	// A server replaces what is no UTF-8. How many marks it writes for that differs.
	mark := string(unicode.ReplacementChar)
	return strings.ToValidUTF8(strings.ReplaceAll(s, mark, "\xff"), mark)
}

// last returns the value of the last parameter of a name: a server that appends parameters, instead
// of setting them, puts its own behind the finish URI's.
func (l landing) last(name string) string {
	for _, p := range slices.Backward(l.params) {
		if p.name == name {
			return p.value
		}
	}
	return ""
}

// own returns a finish URI's own parameters, without those that a server may have replaced.
func (l landing) own() []param {
	return slices.DeleteFunc(slices.Clone(l.params), func(p param) bool { return setByServer(p.name) })
}

// isAt reports whether a browser that was sent to a finish URI is here: at its place, with all of
// its own parameters, in whatever order.
func (l landing) isAt(finish landing) bool {
	left := slices.Clone(l.params)
	for _, p := range finish.own() {
		i := slices.Index(left, p)
		if i < 0 {
			return false
		}
		left = slices.Delete(left, i, i+1)
	}
	return l.place == finish.place
}

// hasState reports whether a finish URI has a parameter of its own that a stranger cannot guess.
func (l landing) hasState() bool {
	return slices.ContainsFunc(l.own(), func(p param) bool { return unguessable(p.value) })
}

const (
	stateLength     = 16
	stateCharacters = 8 // different ones
)

var (
	stateRegexp = regexp.MustCompile(`^[A-Za-z0-9._~+/=-]+$`)
	// wordsRegexp matches words and numbers.
	wordsRegexp = regexp.MustCompile(`^([0-9._~+/=-]+|([a-z]+[._~+/=-]+)+[a-z]*|([A-Z]+[._~+/=-]+)+[A-Z]*)$`)
)

// unguessable reports whether a value looks like one that was drawn at random, of 64 bits or more, in
// any usual encoding: at least 16 characters, of which 8 are different, and neither a number nor words
// in one case with separators between them.
func unguessable(value string) bool {
	different := map[rune]bool{}
	for _, r := range value {
		different[r] = true
	}
	return len(value) >= stateLength && len(different) >= stateCharacters &&
		stateRegexp.MatchString(value) && !wordsRegexp.MatchString(value)
}
