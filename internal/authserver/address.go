// SPDX-License-Identifier: MPL-2.0

package authserver

import (
	"errors"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/uri"
)

// The errors of the functions that parse addresses are sentences without a subject: the caller puts
// the field's name before them. They never hold the value.

// ParseURL reads a URL that requests may be sent to: https, or http to a loopback host, without
// user info and fragment.
func ParseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Hostname() == "" || !uri.Valid(s):
		return nil, errors.New("must be a URL such as https://wallet.example/alice")
	case u.Scheme == "http" && !isLoopbackHost(u.Hostname()):
		return nil, errors.New("plain http is for loopback hosts only; use https")
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, errors.New("must begin with https://")
	case u.User != nil:
		return nil, errors.New("must not hold a user name or password")
	case u.Fragment != "" || strings.Contains(s, "#"):
		return nil, errors.New("must not have a fragment (#…)")
	case !isHost(u):
		return nil, errors.New("the host is not a valid name or address")
	}
	return u, nil
}

var labelRegexp = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?$`)

// isHost reports whether a URL's host is an address or a DNS name (international names in their
// ASCII form), with a port that exists if there is one.
func isHost(u *url.URL) bool {
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return false
		}
	} else if strings.HasSuffix(u.Host, ":") {
		return false
	}
	host := u.Hostname()
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	return len(host) <= 253 && !slices.ContainsFunc(strings.Split(host, "."), func(label string) bool {
		return len(label) > 63 || !labelRegexp.MatchString(label)
	})
}

// ParseWalletAddress reads a wallet address: an https URL or a payment pointer ($host/path,
// paymentpointers.org). Authorization servers request <address>/jwks.json and compare addresses as
// strings, so a trailing slash makes another, broken address.
func ParseWalletAddress(s string) (string, error) {
	if pointer, ok := strings.CutPrefix(s, "$"); ok {
		host, path, _ := strings.Cut(pointer, "/")
		if path == "" {
			path = ".well-known/pay"
		}
		s = "https://" + host + "/" + path
	}
	u, err := ParseURL(s)
	switch {
	case err != nil:
		return "", err
	case u.RawQuery != "" || u.ForceQuery:
		return "", errors.New("a wallet address has no query (?…)")
	case strings.HasSuffix(u.Path, "/"):
		return "", errors.New("must not end with a slash")
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
	return strings.TrimSuffix(u.String(), "/"), nil
}

// ParseOrigin reads an origin: a URL whose path, if there is one, does not count.
func ParseOrigin(s string) (string, error) {
	u, err := ParseURL(strings.TrimSpace(s))
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

func isLoopbackHost(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}
