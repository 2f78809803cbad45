// SPDX-License-Identifier: MPL-2.0

package uri

import "testing"

func TestValid(t *testing.T) {
	for s, want := range map[string]bool{
		"https://wallet.example/alice?a=1&b=%3C2%3E#x": true,
		"https://[fd00::7]:8443/~a/(b)*+,;=!$'@":       true,
		"/relative":                                    true,
		"":                                             false,
		"https://wallet.example/al ice":                false,
		"https://wallet.example/älice":                 false,
		"https://wallet.example/<x>":                   false,
		"https://wallet.example/%zz":                   false,
		"https://wallet.example/%2":                    false,
		"https://wallet.example/\n":                    false,
		"https://wallet.example/\nx":                   false,
		`https://wallet.example\x`:                     false,
		`https://wallet.example/"`:                     false,
	} {
		if got := Valid(s); got != want {
			t.Errorf("%q: %t, want %t", s, got, want)
		}
	}
}

func TestOriginOf(t *testing.T) {
	for s, want := range map[string]string{
		"https://Wallet.Example/Alice?x#y":      "https://wallet.example",
		"HTTPS://wallet.example:443/alice":      "https://wallet.example",
		"http://wallet.example:80":              "http://wallet.example",
		"http://wallet.example:443/":            "http://wallet.example:443",
		"https://wallet.example:80/":            "https://wallet.example:80",
		"https://user@wallet.example:8443/":     "https://wallet.example:8443",
		"https://[FD00::7]:443/":                "https://[fd00::7]",
		"/relative":                             "",
		"":                                      "",
		"https://":                              "",
		"https://wallet.example/%zz":            "",
		"https://wallet.example.evil.example/x": "https://wallet.example.evil.example",
	} {
		if got := OriginOf(s); got != want {
			t.Errorf("%q: %q, want %q", s, got, want)
		}
	}
}
