// SPDX-License-Identifier: MPL-2.0

package authserver

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// NewPrivateKey returns a new Ed25519 key as PEM (PKCS#8).
func NewPrivateKey() (string, error) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return "", fmt.Errorf("generate a key: %w", err)
	}
	return encodePrivateKey(key)
}

func encodePrivateKey(key ed25519.PrivateKey) (string, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", fmt.Errorf("encode the key: %w", err)
	}
	return encodePEM(privateKeyLabel, der), nil
}

// NormalizePrivateKey returns a key as PEM (PKCS#8), which is all that the SDK is ever handed: it
// would take anything else for the name of a file. Errors are sentences without a subject.
func NormalizePrivateKey(s string) (string, error) {
	key, err := parsePrivateKey(s)
	if err != nil {
		return "", err
	}
	return encodePrivateKey(key)
}

// parsePrivateKey reads an Ed25519 key (PKCS#8) from whatever text it is in: see [readPEM]. Other
// forms of keys are told by their kind, with what helps. It never takes the name of a file: the
// engine must not read files for others.
func parsePrivateKey(s string) (ed25519.PrivateKey, error) {
	found := readPEM(s)
	var key ed25519.PrivateKey
	var refusal error
	for _, block := range found.blocks {
		if !block.isPrivate() {
			continue
		}
		one, err := block.ed25519Key()
		switch {
		case err != nil && refusal == nil:
			refusal = err
		case err != nil:
		case key != nil && !key.Equal(one):
			return nil, errTwoKeys
		default:
			key = one
		}
	}
	switch {
	case key != nil && refusal != nil:
		return nil, errTwoKeys
	case key != nil && found.torn:
		return nil, errKeyCutOff
	case key != nil:
		return key, nil
	case refusal != nil:
		return nil, refusal
	}
	return nil, whyNoKey(found)
}

// ed25519Key returns the key in a block of a private key.
func (b pemBlock) ed25519Key() (ed25519.PrivateKey, error) {
	if b.label != privateKeyLabel {
		return nil, otherPrivateKey(b.label)
	}
	if b.der == nil {
		return nil, errKeyDamaged
	}
	parsed, _ := x509.ParsePKCS8PrivateKey(b.der)
	if key, ok := parsed.(ed25519.PrivateKey); ok {
		return key, nil
	}
	if name := algorithmOf(b.der); name != "" && name != "Ed25519" {
		return nil, notEd25519(name)
	}
	return nil, errKeyContent
}

// PublicJWK returns the public half of a key as the client's wallet publishes it in its jwks.json
// (RFC 8037; json-web-key of the wallet address OpenAPI document).
func PublicJWK(keyID, privateKey string) (map[string]any, error) {
	key, err := parsePrivateKey(privateKey)
	if err != nil {
		return nil, err
	}
	return map[string]any{
		"kid": keyID,
		"alg": "EdDSA",
		"use": "sig",
		"kty": "OKP",
		"crv": "Ed25519",
		"x":   base64.RawURLEncoding.EncodeToString(key.Public().(ed25519.PublicKey)),
	}, nil
}

// CheckKeyID refuses key ids that servers cannot find in a signature: they travel as the string of
// a structured field (RFC 8941 section 3.3.3), and servers cut the header at semicolons.
func CheckKeyID(id string) error {
	bad := func(r rune) bool { return r < ' ' || r > '~' || strings.ContainsRune(`";\`, r) }
	if id == "" || len(id) > 256 || strings.ContainsFunc(id, bad) {
		return errors.New(`up to 256 printable ASCII characters without '"', ';' and '\'`)
	}
	return nil
}
