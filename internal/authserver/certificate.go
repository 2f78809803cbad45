// SPDX-License-Identifier: MPL-2.0

package authserver

import (
	"bytes"
	"crypto/x509"
	"errors"
	"slices"
	"strings"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/pasted"
)

// NormalizeCACert returns the certificates of a text as PEM, each once; empty if there is no text.
// It reads what [NormalizePrivateKey] reads: browsers, openssl s_client and openssl x509 write text
// around certificates. That text is not kept, because a read of config would show it.
func NormalizeCACert(s string) (string, error) {
	found := readPEM(s)
	if pasted.Line(found.text) == "" {
		return "", nil
	}
	var seen [][]byte
	var out strings.Builder
	for _, block := range found.blocks {
		switch {
		case block.isPrivate():
			return "", errors.New("holds a private key, which does not belong here and must stay secret; " +
				"it takes certificates (BEGIN CERTIFICATE)")
		case block.label == "TRUSTED CERTIFICATE":
			return "", errors.New("holds a certificate in OpenSSL's own form (BEGIN TRUSTED CERTIFICATE); convert it " +
				"first: openssl x509 -in trusted.pem -out ca.pem")
		case block.label != certificateLabel && block.label != "X509 CERTIFICATE":
			continue
		}
		certificate, err := x509.ParseCertificate(block.der)
		if err != nil {
			return "", errors.New("holds a certificate that cannot be read; is it damaged or cut off?")
		}
		if !slices.ContainsFunc(seen, func(der []byte) bool { return bytes.Equal(der, certificate.Raw) }) {
			seen = append(seen, certificate.Raw)
			out.WriteString(encodePEM(certificateLabel, certificate.Raw))
		}
	}
	switch {
	case found.torn, found.cutOff && len(seen) == 0:
		return "", errors.New("is cut off: a PEM block has no END line; the whole file is needed")
	case len(seen) == 0:
		return "", whyNoCertificate(found)
	}
	return out.String(), nil
}

// whyNoCertificate says what a text is in which there is no certificate.
func whyNoCertificate(t pemText) error {
	const needed = "it takes PEM certificates (BEGIN CERTIFICATE)"
	for _, block := range t.blocks {
		switch what := kindOf(block.label); what {
		case "":
		case "a bundle of certificates (PKCS#7)":
			return errors.New("is " + what + "; convert it first: openssl pkcs7 -print_certs -in ca.p7b -out ca.pem")
		case "a PKCS#12 file":
			return errors.New("is " + what + "; convert it first: openssl pkcs12 -in ca.p12 -nokeys -out ca.pem")
		default:
			return errors.New("is " + what + "; " + needed)
		}
	}
	text := pasted.Word(t.text)
	switch {
	case variableRegexp.MatchString(text):
		return errKeyVariable
	case pasted.IsFileName(text):
		return errors.New("is the name of a file, not its content; the CLI reads a file with ca_cert=@ca.pem; " +
			"over HTTP, send what is in the file")
	case pasted.IsBinary(text):
		return errors.New("is binary (DER), or not in UTF-8, and is damaged on its way as a string; convert it " +
			"first: openssl x509 -inform DER -in ca.der -out ca.pem")
	}
	return errors.New("must be PEM certificates (BEGIN CERTIFICATE)")
}
