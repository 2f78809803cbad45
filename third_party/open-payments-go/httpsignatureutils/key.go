// SPDX-License-Identifier: MPL-2.0

package httpsignatureutils

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// LoadPEMKey parses an Ed25519 private key in PEM text that holds PKCS#8 (RFC 5958, RFC 8410
// section 7). Errors never contain a part of the text.
func LoadPEMKey(text string) (ed25519.PrivateKey, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("private key: no PEM block")
	}
	if block.Type != "PRIVATE KEY" {
		// The error does not name the block's type, which can be anything in a damaged file.
		return nil, errors.New("private key: the PEM block is not PKCS#8 (PRIVATE KEY)")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, errors.New("private key: not an Ed25519 key")
	}
	return key, nil
}

// LoadBase64Key parses the base64 encoding (standard alphabet) of what LoadPEMKey parses.
func LoadBase64Key(text string) (ed25519.PrivateKey, error) {
	decoded, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	return LoadPEMKey(string(decoded))
}
