// SPDX-License-Identifier: MPL-2.0

package authserver

import (
	"errors"
	"net/url"
	"slices"
	"strings"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/uri"
)

// The errors of the functions that parse addresses are sentences without a subject: the caller puts
// the field's name before them. They never hold the value.

// ParseURL reads a URL that requests may be sent to: https, or http to a loopback host, without
// user info and fragment. What surrounds it in a file or a text does not count (see [uri.Parse]).
func ParseURL(s string) (*url.URL, error) { return uri.Parse(s) }

// ParseWalletAddress reads a wallet address: an https URL or a payment pointer ($host/path,
// paymentpointers.org).
func ParseWalletAddress(s string) (string, error) {
	u, err := uri.ParseWalletAddress(s)
	if err != nil {
		return "", err
	}
	return u.String(), nil
}

// ParseEndpoint reads a grant endpoint. One without a path gets the path "/", which is what a
// signature's @target-uri says of it.
func ParseEndpoint(s string) (string, error) {
	u, err := ParseURL(s)
	if err != nil {
		return "", err
	}
	if u.Path == "" {
		u.Path = "/"
	}
	return u.String(), nil
}

// ParseResourceServer reads the URL that a resource server's operations are below.
func ParseResourceServer(s string) (string, error) {
	u, err := ParseURL(s)
	if err != nil {
		return "", err
	}
	if u.RawQuery != "" || u.ForceQuery {
		return "", errors.New("a resource server's URL has no query (?…)")
	}
	return strings.TrimRight(u.String(), "/"), nil
}

// ParseOrigin reads an origin: a URL whose path, if there is one, does not count.
func ParseOrigin(s string) (string, error) {
	u, err := ParseURL(s)
	if err != nil {
		return "", err
	}
	return uri.Origin(u), nil
}

// IsToken reports whether a string can be sent as a token in a header: printable ASCII without
// spaces.
func IsToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

// HostsOf returns the hosts of URLs, without ports, each once.
func HostsOf(urls ...string) []string {
	var hosts []string
	for _, s := range urls {
		if u, err := url.Parse(s); err == nil && u.Hostname() != "" {
			hosts = append(hosts, strings.ToLower(u.Hostname()))
		}
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}
