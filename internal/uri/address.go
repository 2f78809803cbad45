// SPDX-License-Identifier: MPL-2.0

package uri

import (
	"errors"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/pasted"
)

// The errors of the functions that parse addresses are sentences without a subject: the caller puts
// the field's name before them. They never hold the value.

// Parse reads an http or https URL as somebody has typed, copied or stored it (see [pasted.Word]).
// It has a host, and neither user info nor fragment. Its scheme and host are in lower case, because
// servers compare addresses as strings.
func Parse(s string) (*url.URL, error) {
	s = pasted.Word(s)
	if err := checkForm(s); err != nil {
		return nil, err
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Hostname() == "" || !Valid(s):
		return nil, errNotURL
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, errors.New("must begin with https://")
	case u.User != nil:
		return nil, errors.New("must not hold a user name or password")
	case u.Fragment != "" || strings.Contains(s, "#"):
		return nil, errors.New("must not have a fragment (#…)")
	case u.Scheme == "http" && !IsLoopback(u.Hostname()):
		return nil, errors.New("plain http is for loopback hosts only; use https")
	case !isHost(u):
		return nil, errors.New("the host is not a valid name or address")
	}
	u.Host = strings.ToLower(u.Host)
	return u, nil
}

// ParseWalletAddress reads a wallet address: a URL or a payment pointer ($host/path,
// paymentpointers.org). Authorization servers request <address>/jwks.json and compare addresses as
// strings, so a trailing slash makes another, broken address.
func ParseWalletAddress(s string) (*url.URL, error) {
	s = pasted.Word(s)
	if pointer, ok := strings.CutPrefix(s, "$"); ok {
		host, path, _ := strings.Cut(pointer, "/")
		switch {
		case strings.ContainsFunc(pointer, unicode.IsSpace):
			return nil, errors.New("holds white space; a payment pointer is written $host/path without any")
		case strings.HasPrefix(pointer, "{"):
			return nil, errors.New("is a variable that nothing has replaced by its value")
		case host == "":
			return nil, errors.New("is a payment pointer without a host; it is written $host/path")
		case path == "":
			path = ".well-known/pay"
		}
		s = "https://" + host + "/" + path
	} else if strings.HasPrefix(s, ".") {
		return nil, errors.New("begins with a dot: a shell has replaced the beginning of a payment pointer; " +
			"put it in single quotes ('$host/path')")
	}
	u, err := Parse(s)
	switch {
	case err != nil:
		return nil, err
	case u.RawQuery != "" || u.ForceQuery:
		return nil, errors.New("a wallet address has no query (?…)")
	case strings.HasSuffix(u.Path, "/"):
		return nil, errors.New("must not end with a slash")
	}
	return u, nil
}

var (
	errNotURL = errors.New("must be a URL such as https://wallet.example/alice")

	schemeRegexp = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9+.-]*):`)
	hostRegexp   = regexp.MustCompile(`^([A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+|localhost)\.?(:[0-9]*)?([/?#]|$)`)
	slashRegexp  = regexp.MustCompile(`(?i)^https?(:/?[^/]|//|:///)`)
	mailRegexp   = regexp.MustCompile(`^[^/:@]+@[^/:@]+$`)
)

// checkForm says what a string is that is no URL.
func checkForm(s string) error {
	notASCII := func(r rune) bool { return r > unicode.MaxASCII }
	scheme := schemeRegexp.FindStringSubmatch(s)
	switch {
	case s == "":
		return errors.New("is empty; it must be a URL such as https://wallet.example/alice")
	case pasted.IsBinary(s):
		return errors.New("is not text in UTF-8; save the file as UTF-8, without a byte order mark")
	case strings.ContainsFunc(s, unicode.IsSpace):
		return errors.New("holds a space or a line break inside; it must be one URL")
	case strings.ContainsFunc(s, unicode.IsControl):
		return errors.New("holds a control character")
	case strings.HasPrefix(s, "@"):
		return errors.New("begins with @: only the CLI reads a file in place of @NAME; " +
			"send the file's content")
	case strings.HasPrefix(s, "$"):
		return errors.New("is a payment pointer, or a variable that nothing has replaced; " +
			"it must be a URL such as https://wallet.example/alice")
	case hostRegexp.MatchString(s), strings.HasPrefix(s, "//"):
		return errors.New("has no scheme; write https:// before the host")
	case slashRegexp.MatchString(s):
		return errors.New("must begin with https:// and a host, with one colon and two slashes between")
	case mailRegexp.MatchString(s):
		return errors.New("looks like an e-mail address; it must be a URL such as https://wallet.example/alice")
	case scheme != nil && !strings.EqualFold(scheme[1], "https") && !strings.EqualFold(scheme[1], "http"):
		return schemeError(strings.ToLower(scheme[1]))
	case strings.ContainsFunc(s, notASCII):
		return errors.New("holds characters that are not ASCII: write an international host in its ASCII form " +
			"(xn--…), and percent-encode the path")
	}
	return nil
}

// schemeError says what an address of another scheme is.
func schemeError(scheme string) error {
	what := ""
	switch scheme {
	case "acct", "mailto":
		what = "names an account, not a URL that can be fetched: it "
	case "payto":
		what = "is a bank's or payment system's address (RFC 8905), not a wallet address: it "
	case "did", "urn":
		what = "is a name, not a URL that can be fetched: it "
	}
	return errors.New(what + "must begin with https://")
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

// IsLoopback reports whether a host is this machine, as far as its name says.
func IsLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}
