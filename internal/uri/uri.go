// SPDX-License-Identifier: MPL-2.0

// Package uri holds the rules of URI syntax that the engine's packages share and that net/url does
// not check: which characters a URI may have, and what its origin is.
package uri

import (
	"net/url"
	"regexp"
	"strings"
)

var validRegexp = regexp.MustCompile(`^(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+$`)

// Valid reports whether a string has only characters that a URI may have, and at least one (RFC
// 3986 section 2). Go's parser accepts more; servers reject such URLs, or verify another string
// than was signed.
func Valid(s string) bool { return validRegexp.MatchString(s) }

// Origin returns the scheme, host and port of a URL, without the port if it is the scheme's default
// (RFC 6454).
func Origin(u *url.URL) string {
	host := strings.ToLower(u.Host)
	switch u.Scheme {
	case "https":
		host = strings.TrimSuffix(host, ":443")
	case "http":
		host = strings.TrimSuffix(host, ":80")
	}
	return u.Scheme + "://" + host
}

// OriginOf returns the origin of a URL that was checked before it was stored, or that a server
// sent. It is empty if the string is not a URL with a host.
func OriginOf(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" {
		return ""
	}
	return Origin(u)
}
