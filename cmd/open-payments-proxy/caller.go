// SPDX-License-Identifier: MPL-2.0

package main

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// callers decides who may send, and for which grant.
type callers struct {
	secret string   // empty: nobody is asked for it
	grants []string // and roles: their names
}

// identify returns the grant that the token of a request names (Authorization: GNAP NAME.SECRET).
// Every SDK can send such a token. The name has dots, the secret has none; with one grant the name
// may be left out.
func (c callers) identify(authorization []string) (string, *failure) {
	if len(authorization) > 1 {
		return "", notAuthorized("has more than one Authorization header")
	}
	token := ""
	if len(authorization) == 1 {
		scheme, rest, _ := strings.Cut(authorization[0], " ")
		if !strings.EqualFold(scheme, "GNAP") {
			return "", notAuthorized("needs the header Authorization: GNAP NAME.SECRET")
		}
		token = strings.TrimSpace(rest)
	}
	if c.secret == "" {
		return c.named(token)
	}
	name, secret := "", token
	if dot := strings.LastIndexByte(token, '.'); dot >= 0 {
		name, secret = token[:dot], token[dot+1:]
	}
	presented, demanded := sha256.Sum256([]byte(secret)), sha256.Sum256([]byte(c.secret))
	if subtle.ConstantTimeCompare(presented[:], demanded[:]) != 1 {
		return "", notAuthorized("needs the header Authorization: GNAP NAME.SECRET, with the secret of -caller-file")
	}
	return c.named(name)
}

// named returns the grant of that name, or the only one if there is no name. A name may be followed
// by a dot and anything, so that a caller can send the same token whether a secret is demanded or
// not.
func (c callers) named(name string) (string, *failure) {
	if name == "" && len(c.grants) == 1 {
		return c.grants[0], nil
	}
	found := ""
	for _, grant := range c.grants {
		if name == grant {
			return grant, nil
		}
		if dot := strings.LastIndexByte(name, '.'); c.secret == "" && dot > 0 && name[:dot] == grant {
			found = grant
		}
	}
	if found == "" {
		return "", noSuchGrant()
	}
	return found, nil
}

// readSecret returns the secret in a file, which it makes if there is none. A file that exists is
// taken as it is.
func readSecret(path string) (string, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return makeSecret(path)
	}
	if err != nil {
		return "", fmt.Errorf("-caller-file: %w", err)
	}
	secret := strings.TrimSpace(string(text))
	if secret == "" || strings.ContainsFunc(secret, func(r rune) bool { return r == '.' || r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("-caller-file: %s must hold one word of visible ASCII characters without a dot", path)
	}
	return secret, nil
}

func makeSecret(path string) (string, error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", fmt.Errorf("-caller-file: %w", err)
	}
	secret := rand.Text()
	_, err = file.WriteString(secret)
	if err := errors.Join(err, file.Close()); err != nil {
		_ = os.Remove(path)
		return "", fmt.Errorf("-caller-file: %w", err)
	}
	return secret, nil
}
