// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/uri"
)

// parseURL reads a URL that requests may be sent to: https, or http to a
// loopback host, without user info and fragment.
func parseURL(field, text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Hostname() == "" || !uri.Valid(text):
		return nil, refuse("%s: must be a URL such as https://wallet.example/alice", field)
	case u.Scheme == "http" && !isLoopbackHost(u.Hostname()):
		return nil, refuse("%s: plain http is for loopback hosts only; use https", field)
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, refuse("%s: must begin with https://", field)
	case u.User != nil:
		return nil, refuse("%s: must not hold a user name or password", field)
	case u.Fragment != "" || strings.Contains(text, "#"):
		return nil, refuse("%s: must not have a fragment (#…)", field)
	case !isHost(u):
		return nil, refuse("%s: the host is not a valid name or address", field)
	}
	return u, nil
}

var labelRegexp = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?$`)

// isHost tells whether a URL's host is an address or a name of the DNS
// (international names in their ASCII form), with a port that exists if any.
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

// parseWalletAddress reads a wallet address: an https URL or a payment pointer
// ($host/path, paymentpointers.org). Authorization servers ask for
// <address>/jwks.json and compare addresses as texts, so a trailing slash is
// another, broken address.
func parseWalletAddress(field, text string) (string, error) {
	if pointer, ok := strings.CutPrefix(text, "$"); ok {
		host, path, _ := strings.Cut(pointer, "/")
		if path == "" {
			path = ".well-known/pay"
		}
		text = "https://" + host + "/" + path
	}
	u, err := parseURL(field, text)
	switch {
	case err != nil:
		return "", err
	case u.RawQuery != "" || u.ForceQuery:
		return "", refuse("%s: a wallet address has no query (?…)", field)
	case strings.HasSuffix(u.Path, "/"):
		return "", refuse("%s: must not end with a slash", field)
	}
	return u.String(), nil
}

// parseOrigin reads an entry of allowed_auth_servers: a URL whose path, if any,
// does not count.
func parseOrigin(field, text string) (string, error) {
	u, err := parseURL(field, strings.TrimSpace(text))
	if err != nil {
		return "", err
	}
	return uri.Origin(u), nil
}

// hostsOf lists the hosts (without ports) of URLs that an operator typed.
func hostsOf(urls ...string) []string {
	var hosts []string
	for _, text := range urls {
		if u, err := url.Parse(text); err == nil && u.Hostname() != "" {
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
