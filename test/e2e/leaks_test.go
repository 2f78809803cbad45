// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
)

const (
	minSecret = 16 // characters; what is shorter could be found by chance

	prefixLength = 8 // bytes of each form, by which a search finds it
)

// search finds secrets in text, however they are written.
type search struct {
	forms map[[prefixLength]byte][]form
}

// form is one way in which a secret may be written.
type form struct {
	what string // the secret, and how it is written
	text string
}

// newSearch returns a search for secrets, which are given by their value: what each is.
func newSearch(secrets map[string]string) *search {
	s := &search{forms: map[[prefixLength]byte][]form{}}
	for value, what := range secrets {
		s.add(what, value)
	}
	return s
}

func (s *search) add(what, value string) {
	for how, text := range formsOf(value) {
		prefix := [prefixLength]byte([]byte(text))
		s.forms[prefix] = append(s.forms[prefix], form{what + ", " + how, text})
	}
}

// addKeys adds private keys, PEM: their text and their bytes.
func (s *search) addKeys(keys ...string) {
	for _, key := range keys {
		block, _ := pem.Decode([]byte(key))
		parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			panic(err)
		}
		s.add("a private key", string(parsed.(ed25519.PrivateKey).Seed()))
		s.add("a private key in PEM", strings.Split(key, "\n")[1])
	}
}

// formsOf returns how a value may be written: as it is, escaped for JSON and URLs, in hexadecimal, and
// in base64, alone or as part of something longer, of which its first byte may be any of three.
func formsOf(value string) map[string]string {
	forms := map[string]string{
		"plain": value,
		"hex":   hex.EncodeToString([]byte(value)),
		"HEX":   strings.ToUpper(hex.EncodeToString([]byte(value))),
		"query": url.QueryEscape(value),
		"path":  url.PathEscape(value),
	}
	for how, escapeHTML := range map[string]bool{"JSON": true, "JSON without HTML": false} {
		var quoted bytes.Buffer
		encoder := json.NewEncoder(&quoted)
		encoder.SetEscapeHTML(escapeHTML)
		if err := encoder.Encode(value); err != nil {
			panic(err)
		}
		forms[how] = strings.TrimSuffix(quoted.String()[1:], "\"\n")
	}
	for offset := range 3 {
		padded := append(make([]byte, offset), value...)
		// Characters that also depend on the neighbours are left out.
		from, to := (offset*8+5)/6, len(padded)*8/6
		forms[fmt.Sprintf("base64 at %d", offset)] = base64.RawStdEncoding.EncodeToString(padded)[from:to]
		forms[fmt.Sprintf("base64url at %d", offset)] = base64.RawURLEncoding.EncodeToString(padded)[from:to]
	}
	return forms
}

// in returns which secrets a text contains, and how they are written.
func (s *search) in(text []byte) []string {
	found := map[string]bool{}
	for i := 0; i+prefixLength <= len(text); i++ {
		for _, form := range s.forms[[prefixLength]byte(text[i:])] {
			if len(text)-i >= len(form.text) && string(text[i:i+len(form.text)]) == form.text {
				found[form.what] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// check checks that a text contains no secret. It never prints what it finds.
func (s *search) check(t *testing.T, where string, text []byte) {
	t.Helper()
	if found := s.in(text); len(found) > 0 {
		t.Errorf("%s contains %s", where, strings.Join(found, "; "))
	}
}

// A search finds a secret in each form, wherever it is.
func TestSearchFindsEachForm(t *testing.T) {
	t.Parallel()
	const secret = "h/Wn+3Q&\"9\nxk0Z?" // each escape changes it
	leaks := newSearch(map[string]string{secret: "a secret"})
	for how, text := range formsOf(secret) {
		if found := leaks.in([]byte("before" + text + "after")); !slices.Contains(found, "a secret, "+how) {
			t.Errorf("%s is not found, but %v", how, found)
		}
		if found := leaks.in([]byte(text[:len(text)-1])); len(found) > 0 {
			t.Errorf("%s is found without its end: %v", how, found)
		}
	}
	for before := range 4 {
		for after := range 4 {
			inside := []byte(strings.Repeat("b", before) + secret + strings.Repeat("a", after))
			for name, encoding := range map[string]*base64.Encoding{
				"std": base64.StdEncoding, "raw std": base64.RawStdEncoding,
				"url": base64.URLEncoding, "raw url": base64.RawURLEncoding,
			} {
				if len(leaks.in([]byte(encoding.EncodeToString(inside)))) == 0 {
					t.Errorf("%s base64 with %d bytes before and %d after is not found", name, before, after)
				}
			}
		}
	}
	_, key := newKey(t)
	keys := newSearch(nil)
	keys.addKeys(key)
	block, _ := pem.Decode([]byte(key))
	for name, text := range map[string]string{
		"PEM": key, "DER": string(block.Bytes), "DER in base64": base64.StdEncoding.EncodeToString(block.Bytes),
		"DER in hex": hex.EncodeToString(block.Bytes), "PEM in JSON": asJSON(t, key),
		"PEM in base64": base64.StdEncoding.EncodeToString([]byte(key)),
	} {
		if len(keys.in([]byte(text))) == 0 {
			t.Errorf("a key as %s is not found", name)
		}
	}
}
