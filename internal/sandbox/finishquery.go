// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"net/url"
	"slices"
	"strings"
)

// parameter is a name and a value of a query.
type parameter struct{ name, value string }

// setQuery sets parameters in a URI's query as JavaScript's URLSearchParams does, which Rafiki uses
// (https://url.spec.whatwg.org/#interface-urlsearchparams): the first parameter of a name gets the value, others of that
// name are removed, and the whole query is written anew.
func setQuery(uri string, set ...parameter) string {
	u, err := url.Parse(uri)
	if err != nil {
		return uri // it was parsed when the grant was asked for
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
		u.Path = "/" // as a URL object has it
	}
	return u.String()
}

// parseQuery is the parser of application/x-www-form-urlencoded (https://url.spec.whatwg.org/#urlencoded-parsing). Unlike
// url.ParseQuery it keeps the order, takes a semicolon for a character like others, and refuses nothing.
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

// formEncode is url.QueryEscape but for two characters that it has otherwise.
func formEncode(text string) string {
	return strings.NewReplacer("%2A", "*", "~", "%7E").Replace(url.QueryEscape(text))
}
