// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"net/url"
	"slices"
	"strings"
)

// parameter is a query parameter.
type parameter struct{ name, value string }

// setQuery sets parameters in a URI's query as URLSearchParams does in JavaScript, which Rafiki
// uses (https://url.spec.whatwg.org/#interface-urlsearchparams): the first parameter of that name
// gets the value, the others of that name are removed, and the whole query is serialized anew.
func setQuery(uri string, set ...parameter) string {
	u, err := url.Parse(uri)
	if err != nil {
		return uri // cannot happen: it was parsed when the grant was asked for
	}
	all := parseQuery(u.RawQuery)
	for _, p := range set {
		at := slices.IndexFunc(all, func(o parameter) bool { return o.name == p.name })
		if at < 0 {
			all = append(all, p)
			continue
		}
		all[at].value = p.value
		rest := slices.DeleteFunc(all[at+1:], func(o parameter) bool { return o.name == p.name })
		all = all[:at+1+len(rest)]
	}
	written := make([]string, 0, len(all))
	for _, p := range all {
		written = append(written, formEncode(p.name)+"="+formEncode(p.value))
	}
	u.RawQuery, u.ForceQuery = strings.Join(written, "&"), false
	if u.Path == "" && u.Opaque == "" && u.Host != "" {
		u.Path = "/" // as JavaScript's URL does
	}
	return u.String()
}

// parseQuery parses application/x-www-form-urlencoded as
// https://url.spec.whatwg.org/#urlencoded-parsing does. Unlike url.ParseQuery it keeps the order,
// treats a semicolon like any other character, and rejects nothing.
func parseQuery(query string) []parameter {
	var all []parameter
	for part := range strings.SplitSeq(query, "&") {
		if part != "" {
			name, value, _ := strings.Cut(part, "=")
			all = append(all, parameter{formDecode(name), formDecode(value)})
		}
	}
	return all
}

func formDecode(text string) string {
	decoded := []byte(strings.ReplaceAll(text, "+", " "))
	for i := 0; i+2 < len(decoded); i++ {
		if decoded[i] != '%' {
			continue
		}
		if one, err := url.PathUnescape(string(decoded[i : i+3])); err == nil {
			decoded = slices.Replace(decoded, i, i+3, one[0])
		}
	}
	return strings.ToValidUTF8(string(decoded), "\ufffd")
}

// formEncode is url.QueryEscape except for the two characters that JavaScript encodes the other
// way.
func formEncode(text string) string {
	return strings.NewReplacer("%2A", "*", "~", "%7E").Replace(url.QueryEscape(text))
}
