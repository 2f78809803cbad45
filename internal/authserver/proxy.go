// SPDX-License-Identifier: MPL-2.0

package authserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/pasted"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/uri"
)

var (
	errProxyURL = errors.New("must be a URL such as http://proxy.example:3128; special characters in its user name " +
		"and password have to be percent-encoded")
	errProxyPassword = errors.New(
		"has the placeholder that a read returns in place of the password; write the password")
)

// ParseProxy reads the URL of an HTTP proxy: http or https, a host, and optionally a port, a user
// name and a password. What [RedactProxy] returns of the stored one stands for it. Errors never hold
// the value.
func ParseProxy(s, stored string) (string, error) {
	s = pasted.Word(s)
	u, err := url.Parse(s)
	switch {
	case s == "":
		return "", nil
	case err != nil, u.Opaque != "", u.Path != "" && u.Path != "/", strings.ContainsAny(s, "?#"):
		return "", errProxyURL
	case u.Scheme != "http" && u.Scheme != "https":
		return "", errors.New("must begin with http:// or https://")
	}
	server, err := uri.Parse("https://" + u.Host)
	if err != nil {
		return "", errProxyURL
	}
	proxy := (&url.URL{Scheme: u.Scheme, User: u.User, Host: server.Host}).String()
	if password, _ := u.User.Password(); password != proxyPlaceholder {
		return proxy, nil
	}
	if stored == "" || RedactProxy(stored) != proxy {
		return "", errProxyPassword
	}
	return stored, nil
}

// proxyPlaceholder is what url.URL.Redacted puts in the place of a password.
const proxyPlaceholder = "xxxxx"

// RedactProxy returns a proxy's URL with a placeholder for its password.
func RedactProxy(proxy string) string {
	u, err := url.Parse(proxy)
	if err != nil {
		return ""
	}
	return u.Redacted()
}

// proxyFor returns the proxy of an http.Transport; nil if there is none. A URL that cannot be read
// sends nothing, and nothing past the proxy either.
func proxyFor(proxy string) func(*http.Request) (*url.URL, error) {
	if proxy == "" {
		return nil
	}
	u, err := url.Parse(proxy)
	if err != nil {
		err = errProxyURL
	}
	return func(*http.Request) (*url.URL, error) { return u, err }
}

// proxyStatusError is a proxy's answer to CONNECT when it has not connected.
type proxyStatusError struct{ status int }

func (e *proxyStatusError) Error() string {
	return fmt.Sprintf("the proxy answered %d to CONNECT", e.status)
}

// connectAnswered looks at a proxy's answer to CONNECT.
func connectAnswered(ctx context.Context, _ *url.URL, _ *http.Request, resp *http.Response) error {
	if resp.StatusCode != http.StatusOK {
		return &proxyStatusError{resp.StatusCode}
	}
	progressOf(ctx).tunnelled.Store(true)
	return nil
}

// proxyTrouble returns what went wrong at the proxy, as a sentence without credentials.
func proxyTrouble(proxy string, n *noAnswerError) string {
	u, err := url.Parse(proxy)
	if err != nil {
		return "egress_proxy of config cannot be read"
	}
	name := "the proxy " + uri.Origin(u)
	if refused, ok := errors.AsType[*proxyStatusError](n.err); ok {
		return fmt.Sprintf("%s answered %d to CONNECT%s",
			name, refused.status, refusalHelp(refused.status, u.User != nil))
	}
	text := name + " could not be used"
	if what := classify(n).tell(true); what != "" {
		text += ": " + what
	}
	if isReset(n.err) || isClosed(n.err) {
		text += "; " + helpPort
	}
	return text
}

// refusalHelp returns what helps against a status with which proxies refuse to connect. Tinyproxy
// answers 401 to a wrong password.
func refusalHelp(status int, hasUser bool) string {
	switch {
	case (status == http.StatusProxyAuthRequired || status == http.StatusUnauthorized) && hasUser:
		return "; correct the user name and password in egress_proxy of config"
	case status == http.StatusProxyAuthRequired:
		return "; write egress_proxy of config with the user name and password that it wants"
	case status/100 == 5:
		return ", because it could not connect to the server itself"
	case status/100 == 4:
		return "; it has to allow this host and port"
	}
	return "; it may not be an HTTP proxy"
}

// isInternalName reports whether a host can only be one inside a network: a name under a domain that
// is used there (RFC 6761, RFC 6762 appendix G, RFC 8375), a name without a dot, which the resolver
// completes, or an address in a form that only C libraries read, such as 127.1.
//
// A proxy resolves names itself, so that the address it connects to cannot be checked here.
func isInternalName(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return false
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	last := host[strings.LastIndex(host, ".")+1:]
	switch last {
	case host, "localhost", "localdomain", "local", "internal", "intranet", "private", "corp", "home", "lan":
		return true
	}
	return last < "a" || strings.HasSuffix(host, ".home.arpa")
}
