// SPDX-License-Identifier: MPL-2.0

package authserver

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"regexp"
	"strings"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/pasted"
)

// What people hold that is not the key that is needed, and what helps. The errors are sentences
// without a subject. They never hold a part of the value.

const (
	makeKey = "make one with openssl genpkey -algorithm ed25519 -out key.pem, or leave private_key out of the " +
		"first write and Vault generates one"
	readFile = "the CLI reads a file with private_key=@key.pem; over HTTP, send what is in the file"
	// seedPrefix is the DER of PKCS#8 before the 32 bytes of an Ed25519 key (RFC 8410 section 7),
	// for printf.
	seedPrefix = `\060\056\002\001\000\060\005\006\003\053\145\160\004\042\004\040`
)

var (
	errKeyEmpty   = errors.New("is empty; it must be an Ed25519 key as PEM (PKCS#8)")
	errKeyFile    = errors.New("is the name of a file, not its content; " + readFile)
	errNoKey      = errors.New("must be an Ed25519 key as PEM (PKCS#8, BEGIN PRIVATE KEY) or base64 of it; " + readFile)
	errKeyCutOff  = errors.New("is cut off: a PEM block has no END line; the whole file is needed")
	errKeyDamaged = errors.New("the PEM block is damaged or cut off: what is between BEGIN and END is not base64")
	errKeyContent = errors.New("the PEM block is damaged or cut off: it holds no valid PKCS#8 key")
	errTwoKeys    = errors.New("holds more than one private key; give the client's alone")
	errKeyPublic  = errors.New("is a public key; the private key is needed: the file that begins with " +
		"BEGIN PRIVATE KEY")
	errKeyBinary = errors.New("is binary (DER or PKCS#12), or not in UTF-8, and is damaged on its way as a string; " +
		"convert it first: openssl pkey -inform DER -in key.der -out key.pem, or openssl pkcs12 -in key.p12 -nocerts " +
		"-nodes -out key.pem, or save the text as UTF-8")
	errKeyRaw = errors.New("is a key's raw bytes, which may be the private or the public key; put the 32 bytes of " +
		"the private key (base64 -d for base64, xxd -r -p for hex) into PKCS#8: { printf '" + seedPrefix +
		"'; base64 -d key.b64; } | openssl pkey -inform DER -out key.pem")
	errKeyHex = errors.New("is DER as hexadecimal digits; convert it first: " +
		"xxd -r -p key.hex | openssl pkey -inform DER -out key.pem")
	errKeyVariable = errors.New("is a variable that nothing has replaced by its value")
)

// notEd25519 is for a private key of another algorithm.
func notEd25519(algorithm string) error {
	return errors.New("is a key of another algorithm (" + algorithm + "); Open Payments takes Ed25519 only, " +
		"as PKCS#8: " + makeKey)
}

// otherPrivateKey is for a private key in another form than PKCS#8, by the label of its block.
func otherPrivateKey(label string) error {
	switch {
	case label == "ENCRYPTED PRIVATE KEY":
		return errors.New("is encrypted; decrypt it first: openssl pkey -in key.pem -out decrypted.pem")
	case label == "OPENSSH PRIVATE KEY":
		return errors.New("is a key in OpenSSH's own form, which openssl does not read; the engine takes PKCS#8 " +
			"(BEGIN PRIVATE KEY): " + makeKey)
	case label == "RSA PRIVATE KEY":
		return notEd25519("RSA, PKCS#1")
	case label == "EC PRIVATE KEY":
		return notEd25519("elliptic curve, SEC 1")
	case label == "DSA PRIVATE KEY":
		return notEd25519("DSA")
	case strings.HasPrefix(label, "PGP "):
		return errors.New("is an OpenPGP key; the engine takes PKCS#8 (BEGIN PRIVATE KEY): " + makeKey)
	case strings.HasPrefix(label, "SSH2 "):
		return errors.New("is an SSH key; the engine takes PKCS#8 (BEGIN PRIVATE KEY): " + makeKey)
	}
	return errors.New("must be PKCS#8 (BEGIN PRIVATE KEY); openssl pkey -in key.pem -out pkcs8.pem may convert it")
}

// whyNoKey says what a text is in which there is no private key.
func whyNoKey(t pemText) error {
	for _, block := range t.blocks {
		switch what := kindOf(block.label); what {
		case "":
		case "a public key":
			return errKeyPublic
		case "a PKCS#12 file":
			return errors.New("is a PKCS#12 file; take the key out of it: openssl pkcs12 -in key.p12 -nocerts -nodes " +
				"-out key.pem")
		default:
			return errors.New("is " + what + "; the private key is needed: the file that begins with BEGIN PRIVATE KEY")
		}
	}
	switch {
	case t.cutOff:
		return errKeyCutOff
	case len(t.blocks) > 0:
		return errors.New("is PEM, but not of a private key: the file that begins with BEGIN PRIVATE KEY is needed")
	}
	return whyNoPEM(t)
}

// kindOf says what a block that is no private key holds; empty: something else.
func kindOf(label string) string {
	switch {
	case strings.Contains(label, "PUBLIC KEY"):
		return "a public key"
	case strings.HasSuffix(label, "CERTIFICATE REQUEST"):
		return "a certificate request"
	case label == "PKCS12":
		return "a PKCS#12 file"
	case label == "PKCS7", label == "CMS":
		return "a bundle of certificates (PKCS#7)"
	case strings.HasSuffix(label, certificateLabel):
		return "a certificate"
	case strings.HasSuffix(label, "PARAMETERS"):
		return "a file of parameters"
	case strings.HasSuffix(label, "CRL"):
		return "a list of revoked certificates"
	}
	return ""
}

var (
	sshRegexp      = regexp.MustCompile(`^(sk-)?(ssh-|ecdsa-sha2-)[a-z0-9@.-]+ +AAAA`)
	hexRegexp      = regexp.MustCompile(`^(0x)?([0-9A-Fa-f]{2}[:\s]*){32,}$`)
	variableRegexp = regexp.MustCompile(`^(\$[A-Za-z_{(]|%[A-Za-z_]+%|\{\{)`)
)

// whyNoPEM says what a text is in which there is no PEM.
func whyNoPEM(t pemText) error {
	text := pasted.Word(t.text)
	start := func(prefix string) bool { return strings.HasPrefix(text, prefix) }
	switch {
	case text == "":
		return errKeyEmpty
	case variableRegexp.MatchString(text):
		return errKeyVariable
	case start("{") || start("["):
		return whyNoKeyInJSON(text)
	case start("PuTTY-User-Key-File"):
		return errors.New("is a PuTTY key (.ppk); the engine takes PKCS#8 (BEGIN PRIVATE KEY): " + makeKey)
	case start("AGE-SECRET-KEY"), start("age1"):
		return errors.New("is an age key, which cannot sign: " + makeKey)
	case start("untrusted comment:"), isMinisign(t.binary):
		return errors.New("is a minisign or signify key; the engine takes PKCS#8 (BEGIN PRIVATE KEY): " + makeKey)
	case sshRegexp.MatchString(text), bytes.HasPrefix(t.binary, []byte("\x00\x00\x00\x0bssh-")):
		return errors.New("is an SSH public key; a private key as PKCS#8 (BEGIN PRIVATE KEY) is needed: " + makeKey)
	case bytes.HasPrefix(t.binary, []byte("openssh-key-v1")):
		return otherPrivateKey("OPENSSH PRIVATE KEY")
	case hexRegexp.MatchString(text) && labelOf(fromHex(text)) != "":
		return errKeyHex
	case hexRegexp.MatchString(text),
		len(t.binary) == ed25519.SeedSize, len(t.binary) == ed25519.PrivateKeySize:
		return errKeyRaw
	case pasted.IsFileName(text):
		return errKeyFile
	case pasted.IsBinary(text):
		return errKeyBinary
	}
	return errNoKey
}

// fromHex returns the bytes that hexadecimal digits stand for, as openssl and xxd write them.
func fromHex(text string) []byte {
	text = strings.NewReplacer(":", "", " ", "", "\t", "", "\n", "", "\r", "").Replace(strings.TrimPrefix(text, "0x"))
	decoded, err := hex.DecodeString(text)
	if err != nil {
		return nil
	}
	return decoded
}

// isMinisign reports whether bytes are a public or a secret key of minisign or signify, which has no
// mark but its length and the name of its algorithm.
func isMinisign(b []byte) bool {
	return bytes.HasPrefix(b, []byte("Ed")) && (len(b) == 42 || len(b) == 104 || len(b) == 158)
}

// whyNoKeyInJSON says what JSON is that holds no PEM: most likely a JWK (RFC 7517).
func whyNoKeyInJSON(text string) error {
	var jwk map[string]json.RawMessage
	_ = json.Unmarshal([]byte(text), &jwk)
	switch {
	case jwk["d"] != nil && jwk["kty"] != nil:
		return errors.New("is a JWK; convert it first: node -p 'crypto.createPrivateKey({format: \"jwk\", key: " +
			"JSON.parse(fs.readFileSync(\"key.jwk\"))}).export({format: \"pem\", type: \"pkcs8\"})'")
	case jwk["kty"] != nil:
		return errors.New("is a public key (a JWK without d); the private key is needed as PEM (PKCS#8)")
	case jwk["keys"] != nil:
		return errors.New("is a set of keys (JWKS); one private key is needed as PEM (PKCS#8)")
	}
	return errors.New("is JSON with no PEM key in it; an Ed25519 key is needed as PEM (PKCS#8)")
}

// algorithms names the algorithms of keys, by their object identifiers.
var algorithms = map[string]string{
	"1.3.101.112":           "Ed25519",
	"1.3.101.113":           "Ed448",
	"1.3.101.110":           "X25519",
	"1.3.101.111":           "X448",
	"1.2.840.113549.1.1.1":  "RSA",
	"1.2.840.113549.1.1.10": "RSA-PSS",
	"1.2.840.10045.2.1":     "elliptic curve",
	"1.2.840.10040.4.1":     "DSA",
}

// pkcs8 is PrivateKeyInfo (RFC 5958), as far as it says what the key is.
type pkcs8 struct {
	Version   int
	Algorithm pkix.AlgorithmIdentifier
	Key       []byte
}

// algorithmOf returns the algorithm of a key in PKCS#8; empty: it is no PKCS#8.
func algorithmOf(der []byte) string {
	var info pkcs8
	if _, err := asn1.Unmarshal(der, &info); err != nil {
		return ""
	}
	if name := algorithms[info.Algorithm.Algorithm.String()]; name != "" {
		return name
	}
	return "unknown"
}

// labelOf returns the label of the PEM block whose content is DER of a known kind; empty: it is
// none.
func labelOf(der []byte) string {
	if len(der) < 2 || der[0] != asn1.TagSequence|0x20 {
		return ""
	}
	if algorithmOf(der) != "" {
		return privateKeyLabel
	}
	for label, parses := range map[string]func() error{
		certificateLabel:      func() error { _, err := x509.ParseCertificate(der); return err },
		"CERTIFICATE REQUEST": func() error { _, err := x509.ParseCertificateRequest(der); return err },
		"RSA PRIVATE KEY":     func() error { _, err := x509.ParsePKCS1PrivateKey(der); return err },
		"EC PRIVATE KEY":      func() error { _, err := x509.ParseECPrivateKey(der); return err },
		"ENCRYPTED PRIVATE KEY": func() error {
			return parses(der, new(struct {
				Algorithm pkix.AlgorithmIdentifier
				Data      []byte
			}))
		},
		"PUBLIC KEY": func() error {
			return parses(der, new(struct {
				Algorithm pkix.AlgorithmIdentifier
				Key       asn1.BitString
			}))
		},
		"PKCS12": func() error {
			return parses(der, new(struct {
				Version int
				Content pkix.AlgorithmIdentifier
			}))
		},
		"PKCS7": func() error {
			return parses(der, new(struct {
				Type    asn1.ObjectIdentifier
				Content asn1.RawValue
			}))
		},
	} {
		if parses() == nil {
			return label
		}
	}
	return ""
}

func parses(der []byte, into any) error {
	_, err := asn1.Unmarshal(der, into)
	return err
}
