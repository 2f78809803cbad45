// SPDX-License-Identifier: MPL-2.0

package uri

import (
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for s, want := range map[string]string{
		"https://wallet.example/alice":               "https://wallet.example/alice",
		"\ufeffhttps://wallet.example/alice\r\n":     "https://wallet.example/alice",
		" \thttps://wallet.example/alice\u00a0":      "https://wallet.example/alice",
		`"https://wallet.example/alice"` + "\n":      "https://wallet.example/alice",
		"<https://wallet.example/alice>":             "https://wallet.example/alice",
		"“https://wallet.example/alice”":             "https://wallet.example/alice",
		"https://wallet.\u200bexample/al\u2060ice":   "https://wallet.example/alice",
		"HTTPS://Wallet.Example/Alice":               "https://wallet.example/Alice",
		"http://LOCALHOST:4000/x?a=%2F":              "http://localhost:4000/x?a=%2F",
		"https://[FD00::7]:8443":                     "https://[fd00::7]:8443",
		"https://wallet.example:443/alice":           "https://wallet.example:443/alice",
		"h\x00t\x00t\x00p\x00s\x00:\x00/\x00/\x00x\x00":   "https://x",
		"https://xn--bcher-kva.example/%C3%A4/a%2fb": "https://xn--bcher-kva.example/%C3%A4/a%2fb",
	} {
		if u, err := Parse(s); err != nil || u.String() != want {
			t.Errorf("%q: %v %v, want %s", s, u, err, want)
		}
	}
}

func TestParseWalletAddress(t *testing.T) {
	for s, want := range map[string]string{
		"https://Wallet.example/alice\n":  "https://wallet.example/alice",
		"'$wallet.example/alice'\r\n":     "https://wallet.example/alice",
		"\ufeff$wallet.example\u200b":     "https://wallet.example/.well-known/pay",
		"$Wallet.Example:8443/":           "https://wallet.example:8443/.well-known/pay",
		"<$wallet.example/a/b>":           "https://wallet.example/a/b",
		"http://127.0.0.1:4000/alice\x00": "http://127.0.0.1:4000/alice",
	} {
		if u, err := ParseWalletAddress(s); err != nil || u.String() != want {
			t.Errorf("%q: %v %v, want %s", s, u, err, want)
		}
	}
}

// What is no address is told by what it is.
func TestNoAddress(t *testing.T) {
	for s, words := range map[string]string{
		"":                                     "is empty",
		" \r\n":                                "is empty",
		"\ufeff":                               "is empty",
		`""`:                                   "is empty",
		"alice":                                "must be a URL such as",
		"wallet.example/alice":                 "write https:// before the host",
		"wallet.example:8443/alice":            "write https:// before the host",
		"wallet.example":                       "write https:// before the host",
		"localhost:4000/alice":                 "write https:// before the host",
		"//wallet.example/alice":               "write https:// before the host",
		"https:/wallet.example/alice":          "one colon and two slashes",
		"https:wallet.example":                 "one colon and two slashes",
		"https//wallet.example":                "one colon and two slashes",
		"https:///alice":                       "one colon and two slashes",
		"ftp://wallet.example/alice":           "must begin with https://",
		"wss://wallet.example/alice":           "must begin with https://",
		"payto://iban/DE75512108001245126199":  "RFC 8905",
		"acct:alice@wallet.example":            "names an account",
		"mailto:alice@wallet.example":          "names an account",
		"alice@wallet.example":                 "e-mail address",
		"did:web:wallet.example":               "is a name",
		"urn:uuid:0":                           "is a name",
		"https://wallet.example/al ice":        "a space or a line break inside",
		"https://wallet.example/\nhttps://x":   "a space or a line break inside",
		"https://wallet.example/\x1b[0m":       "control character",
		"https://wallet.example/\ufffd":        "UTF-8",
		"@wallet.txt":                          "only the CLI reads a file",
		"https://bücher.example/":              "ASCII form (xn--…)",
		"https://wallet.example/älice":         "percent-encode",
		"https://a:b@wallet.example/alice":     "user name or password",
		"https://wallet.example/alice#x":       "fragment",
		"https://wallet..example/alice":        "host is not a valid name",
		"https://wallet.example:99999/alice":   "host is not a valid name",
		"https://wallet.example/<alice>":       "must be a URL such as",
		`https://wallet.example\alice`:         "must be a URL such as",
		"$wallet.example / alice":              "without any",
		"$ wallet.example/alice":               "without any",
		"$":                                    "without a host",
		"$/alice":                              "without a host",
		"${WALLET_ADDRESS}":                    "nothing has replaced",
		".example/alice":                       "single quotes",
		"https://wallet.example/alice/":        "slash",
		"https://wallet.example/alice?x=1":     "query",
		"[link](https://wallet.example/alice)": "must be a URL such as",
	} {
		_, err := ParseWalletAddress(s)
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%q: %v, without %q", s, err, words)
		}
	}
	for s, words := range map[string]string{
		"$wallet.example/alice":     "payment pointer",
		"$AUTH_SERVER":              "nothing has replaced",
		"https://wallet.example/#":  "fragment",
		"https://wallet.example/é#": "ASCII",
	} {
		if _, err := Parse(s); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%q: %v, without %q", s, err, words)
		}
	}
}

// Whatever the text, an address that is accepted reads again as itself, has a host and only such
// characters as a URL may have, and what surrounds it makes no difference; and an error repeats not
// even eight characters in a row of the text.
func FuzzParseWalletAddress(f *testing.F) {
	for _, s := range []string{
		"https://wallet.example/alice", "$wallet.example", "$Wallet.Example:8443/a", "HTTP://[::1]:4000/%2F", ".example/alice",
		"wallet.example/alice", "payto://x", "\ufeff\"https://wallet.example/a\"\r\n", "h\x00t\x00", "https://a@b/c?d#e",
	} {
		f.Add(s, uint16(len(s)/2))
	}
	f.Fuzz(func(t *testing.T, s string, at uint16) {
		const marker = "q7Zk9xWv"
		i := int(at) % (len(s) + 1)
		if _, err := ParseWalletAddress(s[:i] + marker + s[i:]); err != nil && strings.Contains(err.Error(), marker) {
			t.Error("an error repeats the text")
		}
		u, err := ParseWalletAddress(s)
		if err != nil {
			return
		}
		text := u.String()
		for _, again := range []string{text, "\ufeff " + text + "\r\n", `"` + text + `"`, "<" + text + ">"} {
			if v, err := ParseWalletAddress(again); err != nil || v.String() != text {
				t.Errorf("%q does not read as %s: %v", again, text, err)
			}
		}
		if !Valid(text) || u.Host == "" || u.Host != strings.ToLower(u.Host) || strings.HasSuffix(text, "/") {
			t.Errorf("%q was read as %s", s, text)
		}
	})
}
