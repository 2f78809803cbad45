// SPDX-License-Identifier: MPL-2.0

package authserver

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
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
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), nil
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

var (
	errNoKey = errors.New("must be an Ed25519 key as PEM (PKCS#8), or base64 of it, " +
		"not the name of a file; the CLI reads a file with private_key=@key.pem")
	errKeyDamaged   = errors.New("the PEM block is damaged or cut off")
	errKeyBlocks    = errors.New("there is more than one PEM block")
	errKeyEncrypted = errors.New("the key is encrypted; decrypt it first")
	errKeyPublic    = errors.New("this is a public key; the private key is needed")
	errKeyForm      = errors.New(
		"must be PKCS#8 (BEGIN PRIVATE KEY); openssl pkcs8 -topk8 -nocrypt converts other forms",
	)
	errKeyContent   = errors.New("the PEM block holds no valid PKCS#8 key")
	errKeyAlgorithm = errors.New("must be an Ed25519 key (openssl genpkey -algorithm ed25519)")
)

// parsePrivateKey reads an Ed25519 key from PEM (PKCS#8) or from base64 of that PEM. It never takes
// the name of a file: the engine must not read files for others.
func parsePrivateKey(s string) (ed25519.PrivateKey, error) {
	s = strings.TrimSpace(s)
	if !strings.HasPrefix(s, "-----BEGIN") {
		decoded, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(s), ""))
		if err != nil || !strings.HasPrefix(string(decoded), "-----BEGIN") {
			return nil, errNoKey
		}
		s = strings.TrimSpace(string(decoded))
	}
	block, rest := pem.Decode([]byte(s))
	switch {
	case block == nil:
		return nil, errKeyDamaged
	case len(rest) > 0:
		return nil, errKeyBlocks
	case block.Type == "ENCRYPTED PRIVATE KEY":
		return nil, errKeyEncrypted
	case block.Type == "PUBLIC KEY":
		return nil, errKeyPublic
	case block.Type != "PRIVATE KEY":
		return nil, errKeyForm
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errKeyContent
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, errKeyAlgorithm
	}
	return key, nil
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

// CheckCACert refuses what is not a sequence of PEM certificates.
func CheckCACert(s string) error {
	rest := []byte(strings.TrimSpace(s))
	for len(rest) > 0 {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" {
			return errors.New("must be PEM certificates (BEGIN CERTIFICATE)")
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return errors.New("holds a certificate that cannot be read")
		}
		rest = []byte(strings.TrimSpace(string(rest)))
	}
	return nil
}
