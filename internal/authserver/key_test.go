// SPDX-License-Identifier: MPL-2.0

package authserver

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf16"
)

// fixture returns a file of testdata/keys, which openssl 3.0, ssh-keygen 9.2 and Node 22 have
// written: one Ed25519 key in every form, and other things that people hold. Nothing has ever used
// these keys.
func fixture(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "keys", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func utf16Of(s string, littleEndian bool) string {
	var encoded []byte
	for _, unit := range utf16.Encode([]rune("\ufeff" + s)) {
		low, high := byte(unit), byte(unit>>8)
		if !littleEndian {
			low, high = high, low
		}
		encoded = append(encoded, low, high)
	}
	return string(encoded)
}

// asJSONString returns what is left of the bytes of a file that the CLI sends.
func asJSONString(t testing.TB, s string) string {
	t.Helper()
	encoded, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var decoded string
	if err := json.Unmarshal(encoded, &decoded); err != nil {
		t.Fatal(err)
	}
	return decoded
}

func inBase64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// keyForms are texts of one key in forms that people have, all of which are read.
func keyForms(t testing.TB) map[string]string {
	t.Helper()
	key := fixture(t, "ed25519.pem")
	lines := strings.Split(strings.TrimSpace(key), "\n")
	body := lines[1]
	replace := func(old, by string) string { return strings.ReplaceAll(key, old, by) }
	escaped := replace("\n", `\n`)
	return map[string]string{
		"as openssl writes it":         key,
		"with its text":                fixture(t, "ed25519-text.txt"),
		"with bag attributes":          fixture(t, "bag-attributes.txt"),
		"a public key before it":       fixture(t, "public-first.txt"),
		"a certificate before it":      fixture(t, "certificate.txt") + key,
		"a certificate after it":       key + fixture(t, "certificate-text.txt"),
		"a request after it":           key + fixture(t, "request.txt"),
		"a comment around it":          "# the client's key\r\n" + key + "// end\n",
		"a comment that names a block": "Begins with -----BEGIN PRIVATE KEY----- as PEM does.\n\n" + key,
		"twice":                        key + key,
		"a byte order mark":            "\ufeff" + key,
		"two files with marks":         "\ufeff" + fixture(t, "public.txt") + "\ufeff" + key,
		"CRLF":                         replace("\n", "\r\n"),
		"CR":                           replace("\n", "\r"),
		"spaces at line ends":          replace("\n", "  \t\n"),
		"empty lines":                  "\n\n" + replace("\n", "\n\n"),
		"no line end at the end":       strings.TrimSpace(key),
		"one line with spaces":         replace("\n", " "),
		"one line":                     replace("\n", ""),
		"lines of 16":                  lines[0] + "\n" + body[:16] + "\n" + body[16:32] + "\n" + body[32:] + "\n" + lines[2],
		"indented":                     "    " + replace("\n", "\n    "),
		"a YAML block":                 "private_key: |\n  " + replace("\n", "\n  "),
		"a YAML string":                `private_key: "` + escaped + `"`,
		"spelled-out line ends":        escaped,
		"spelled-out CRLF":             replace("\n", `\r\n`),
		"escaped twice":                replace("\n", `\\n`),
		"a properties file":            "key=" + replace("\n", "\\n\\\n    "),
		"in quotation marks":           `"` + key + `"`,
		"an environment file":          "OP_PRIVATE_KEY='" + escaped + "'\n",
		"a JSON string":                `"` + strings.ReplaceAll(escaped, "/", `\/`) + `"`,
		"a secret manager's JSON":      `{"key_id": "key-1", "private_key": "` + escaped + `"}`,
		"typographic quotation marks":  "“" + key + "”",
		"typographic dashes":           replace("-----", "—–-"),
		"long dashes":                  replace("-----", "–––––"),
		"non-breaking spaces":          strings.ReplaceAll("\u00a0"+replace("\n", "\u00a0\n"), "PRIVATE KEY", "PRIVATE\u00a0KEY"),
		"zero-width characters":        replace("\n", "\u200b\n\u2060"),
		"a NUL at the end":             key + "\x00",
		"UTF-16, little-endian":        utf16Of(replace("\n", "\r\n"), true),
		"UTF-16, big-endian":           utf16Of(key, false),
		"UTF-16 as a JSON string":      asJSONString(t, utf16Of(replace("\n", "\r\n"), true)),
		"UTF-16 big-endian as JSON":    asJSONString(t, utf16Of(key, false)),
		"padding left out":             replace("=", ""),
		"base64 of PEM":                inBase64(key),
		"base64 without padding":       strings.TrimRight(inBase64(key+"\n"), "="),
		"base64url":                    base64.URLEncoding.EncodeToString([]byte("\ufeff" + key + "~~~???>>>")),
		"base64 in lines":              strings.Join(strings.SplitAfterN(inBase64(key), "L", 4), "\n"),
		"base64 with a line end":       inBase64(key) + "\r\n",
		"base64 in quotation marks":    `'` + inBase64(key) + `'`,
		"base64 twice":                 inBase64(inBase64(key) + "\n"),
		"base64 of CRLF and a mark":    inBase64("\ufeff" + replace("\n", "\r\n")),
		"base64 of UTF-16":             inBase64(utf16Of(key, true)),
		"a data URL":                   "data:application/x-pem-file;base64," + inBase64(key),
		"base64 of DER":                fixture(t, "der-base64.txt"),
		"base64 of DER, in lines":      body[:32] + "\n" + body[32:] + "\n",
		"base64url of DER":             strings.NewReplacer("+", "-", "/", "_").Replace(body),
	}
}

func TestPrivateKeysThatAreRead(t *testing.T) {
	want, err := NormalizePrivateKey(fixture(t, "ed25519.pem"))
	if err != nil || want != fixture(t, "ed25519.pem") {
		t.Fatalf("what openssl writes is not what is stored: %v", err)
	}
	for what, text := range keyForms(t) {
		if got, err := NormalizePrivateKey(text); err != nil || got != want {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// otherThings are what people hold that is not the key, and words of the sentence that helps.
func otherThings(t testing.TB) map[string][]string {
	t.Helper()
	key := fixture(t, "ed25519.pem")
	another, err := NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	things := map[string][]string{
		"":                                      {"empty"},
		" \r\n":                                 {"empty"},
		"\ufeff":                                {"empty"},
		"key.pem":                               {"name of a file", "private_key=@key.pem"},
		"/etc/vault/key.pem\n":                  {"name of a file"},
		"./key":                                 {"name of a file"},
		`C:\Users\alice\key.pem`:                {"name of a file"},
		"@key.pem":                              {"name of a file"},
		"file:///run/secrets/key":               {"name of a file"},
		"$OP_PRIVATE_KEY":                       {"variable"},
		"${OP_PRIVATE_KEY}":                     {"variable"},
		"{{ op_private_key }}":                  {"variable"},
		"trust me":                              {"PKCS#8", "BEGIN PRIVATE KEY"},
		"-----BEGIN PRIVATE KEY-----":           {"cut off"},
		key[:len(key)/2]:                        {"cut off"},
		strings.Replace(key, "M", "", 1):        {"damaged"},
		strings.Replace(key, "MC4C", "MC!C", 1): {"damaged"},
		strings.Replace(key, "END PRIVATE KEY", "END PUBLIC KEY", 1):     {"damaged"},
		strings.Replace(key, "MC4CAQ", "MC4CAw", 1) + key[:len(key)*2/3]: {"cut off"},
		key + another:                     {"more than one private key"},
		key + fixture(t, "openssh.txt"):   {"more than one private key"},
		key + fixture(t, "rsa-pkcs8.txt"): {"more than one private key"},
		"PuTTY-User-Key-File-3: ssh-ed25519\r\nEncryption: none\r\nComment: x":                       {"PuTTY", "openssl genpkey"},
		"AGE-SECRET-KEY-1QQPZRY9X8GF2TVDW0S3JN54KHCE6MUA7LQQPZRY9X8GF2TVDW0S3":                       {"age", "openssl genpkey"},
		"untrusted comment: minisign encrypted secret key\nRWRTY0IyAAAA":                             {"minisign", "openssl genpkey"},
		inBase64("Ed" + strings.Repeat("\x93", 40)):                                                  {"minisign"},
		"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nlFgEZ\n=abcd\n-----END PGP PRIVATE KEY BLOCK-----": {"OpenPGP"},
		"---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----\nAAAA\n---- END SSH2 ENCRYPTED PRIVATE KEY ----": {"SSH"},
		`{"keys": []}`: {"JWKS"},
		`{"a": 1}`:     {"JSON"},
		asJSONString(t, "0.\x02\x01\x00\xf3\x05\x06\x03+ep\x04\x22\x04 \xd4\xee"): {"binary", "openssl pkey -inform DER"},
		asJSONString(t, utf16Of("Schlüssel\n"+key, true)):                         {"UTF-8"},
	}
	for name, words := range map[string][]string{
		"openssh.txt":       {"OpenSSH", "openssl does not read", "openssl genpkey -algorithm ed25519", "Vault generates one"},
		"rsa-pkcs1.txt":     {"RSA", "PKCS#1", "PKCS#8", "openssl genpkey"},
		"rsa-encrypted.txt": {"RSA", "PKCS#8"},
		"rsa-pkcs8.txt":     {"RSA", "Ed25519"},
		"rsa-pss.txt":       {"RSA-PSS", "Ed25519"},
		"ssh-rsa-pem.txt":   {"RSA"},
		"ec-sec1.txt":       {"elliptic curve", "SEC 1", "Ed25519"},
		"ec-pkcs8.txt":      {"elliptic curve", "Ed25519"},
		"x25519.txt":        {"X25519", "Ed25519"},
		"ed448.txt":         {"Ed448", "Ed25519"},
		"encrypted.txt":     {"encrypted", "openssl pkey -in key.pem -out decrypted.pem"},
		"public.txt":        {"public key"},
		"ssh-public.txt":    {"SSH public key", "openssl genpkey"},
		"ssh2-public.txt":   {"public key"},
		"certificate.txt":   {"is a certificate;"},
		"trusted.txt":       {"is a certificate;"},
		"request.txt":       {"certificate request"},
		"pkcs7.txt":         {"PKCS#7"},
		"pkcs12-base64.txt": {"PKCS#12", "openssl pkcs12 -in key.p12 -nocerts"},
		"jwk.txt":           {"JWK", "node -p"},
		"jwk-public.txt":    {"public key"},
		"raw-seed.txt":      {"raw bytes", "openssl pkey -inform DER"},
		"hex-seed.txt":      {"raw bytes", "xxd -r -p"},
		"hex-der.txt":       {"hexadecimal", "xxd -r -p key.hex"},

		"certificate-der-base64.txt": {"is a certificate;"},
	} {
		things[fixture(t, name)] = words
		if !strings.HasPrefix(fixture(t, name), "{") {
			things["\ufeff\r\n"+strings.ReplaceAll(fixture(t, name), "\n", "\r\n")] = words
		}
	}
	return things
}

func TestPrivateKeysThatAreToldByKind(t *testing.T) {
	for text, words := range otherThings(t) {
		_, err := NormalizePrivateKey(text)
		if err == nil {
			t.Errorf("%v: accepted", words)
			continue
		}
		for _, word := range words {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%q does not say %q", err, word)
			}
		}
	}
}

// What openssl is told to make of other keys works with what the engine says: the DER in front of
// the 32 bytes is that of PKCS#8.
func TestSeedPrefix(t *testing.T) {
	der, err := base64.StdEncoding.DecodeString(fixture(t, "der-base64.txt"))
	if err != nil {
		t.Fatal(err)
	}
	octal := ""
	for _, b := range der[:16] {
		octal += `\` + string([]byte{'0' + b>>6, '0' + b>>3&7, '0' + b&7})
	}
	if octal != seedPrefix || len(der) != 48 {
		t.Errorf("%d bytes begin with %s", len(der), octal)
	}
}

func TestCACertificatesThatAreRead(t *testing.T) {
	one := fixture(t, "certificate.txt")
	want, err := NormalizeCACert(one)
	if err != nil || want != one {
		t.Fatalf("what openssl writes is not what is stored: %v", err)
	}
	for what, text := range map[string]string{
		"with its text":              fixture(t, "certificate-text.txt"),
		"with bag attributes":        fixture(t, "bag-certificates.txt"),
		"openssl s_client":           "CONNECTED(00000003)\ndepth=0 CN = x\n---\nCertificate chain\n 0 s:CN = x\n" + one + "---\nServer certificate\n" + one + "subject=CN = x\n",
		"a public key before it":     fixture(t, "public.txt") + one,
		"a byte order mark and CRLF": "\ufeff" + strings.ReplaceAll(one, "\n", "\r\n"),
		"spelled-out line ends":      `"` + strings.ReplaceAll(one, "\n", `\n`) + `"`,
		"one line":                   strings.ReplaceAll(one, "\n", " "),
		"UTF-16":                     asJSONString(t, utf16Of(one, true)),
		"base64 of PEM":              inBase64(one),
		"base64 of DER":              fixture(t, "certificate-der-base64.txt"),
		"the former label":           strings.ReplaceAll(one, "CERTIFICATE", "X509 CERTIFICATE"),
	} {
		if got, err := NormalizeCACert(text); err != nil || got != want {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, none := range []string{"", " \n", "\ufeff"} {
		if got, err := NormalizeCACert(none); err != nil || got != "" {
			t.Errorf("%q: %v", none, err)
		}
	}
}

func TestCACertificatesThatAreToldByKind(t *testing.T) {
	one := fixture(t, "certificate.txt")
	for text, words := range map[string][]string{
		"trust me":                            {"BEGIN CERTIFICATE"},
		"ca.pem":                              {"name of a file", "ca_cert=@ca.pem"},
		"/etc/ssl/certs/ca.crt\n":             {"name of a file"},
		"$CA_CERT":                            {"variable"},
		fixture(t, "ed25519.pem"):             {"private key", "CERTIFICATE"},
		one + fixture(t, "ed25519.pem"):       {"private key"},
		one + fixture(t, "openssh.txt"):       {"private key"},
		fixture(t, "der-base64.txt"):          {"private key"},
		fixture(t, "public.txt"):              {"public key"},
		fixture(t, "request.txt"):             {"certificate request"},
		fixture(t, "trusted.txt"):             {"TRUSTED CERTIFICATE", "openssl x509 -in"},
		fixture(t, "pkcs7.txt"):               {"PKCS#7", "openssl pkcs7 -print_certs"},
		fixture(t, "pkcs12-base64.txt"):       {"PKCS#12", "openssl pkcs12"},
		one[:len(one)/2]:                      {"cut off"},
		one + one[:len(one)/2]:                {"cut off"},
		strings.Replace(one, "MII", "MI", 1):  {"damaged"},
		asJSONString(t, "0\x82\x01\x3b\xf00"): {"binary", "openssl x509 -inform DER"},
	} {
		_, err := NormalizeCACert(text)
		if err == nil {
			t.Errorf("%v: accepted", words)
			continue
		}
		for _, word := range words {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%q does not say %q", err, word)
			}
		}
	}
}

const marker = "q7Zk9xWv" // 8 characters of no sentence of ours

// withMarker returns a text with the marker in some place of it.
func withMarker(text string, at uint16) string {
	i := int(at) % (len(text) + 1)
	return text[:i] + marker + text[i:]
}

// Whatever the text, what is accepted is one PEM block that reads again as itself, and an error
// repeats nothing of the text, not even eight characters in a row, wherever they stand in it.
func FuzzPrivateKey(f *testing.F) {
	for _, text := range keyForms(f) {
		f.Add(text, uint16(len(text)/2))
	}
	for text := range otherThings(f) {
		f.Add(text, uint16(0))
	}
	f.Fuzz(func(t *testing.T, text string, at uint16) {
		for _, text := range []string{text, withMarker(text, at)} {
			normal, err := NormalizePrivateKey(text)
			if err != nil {
				if strings.Contains(err.Error(), marker) {
					t.Error("an error repeats the text")
				}
				continue
			}
			again, err := NormalizePrivateKey(normal)
			if err != nil || again != normal || strings.Count(normal, "-----BEGIN PRIVATE KEY-----\n") != 1 {
				t.Errorf("what was read does not read as itself: %v", err)
			}
		}
	})
}

// The same of certificates, of which no private key comes through.
func FuzzCACert(f *testing.F) {
	f.Add(fixture(f, "certificate-text.txt")+fixture(f, "certificate.txt"), uint16(9))
	f.Add(fixture(f, "certificate-der-base64.txt"), uint16(0))
	f.Add(fixture(f, "certificate.txt")+fixture(f, "ed25519.pem"), uint16(0))
	f.Add(asJSONString(f, utf16Of(fixture(f, "certificate.txt"), true)), uint16(0))
	f.Fuzz(func(t *testing.T, text string, at uint16) {
		for _, text := range []string{text, withMarker(text, at)} {
			normal, err := NormalizeCACert(text)
			if err != nil {
				if strings.Contains(err.Error(), marker) {
					t.Error("an error repeats the text")
				}
				continue
			}
			again, err := NormalizeCACert(normal)
			if err != nil || again != normal || strings.Contains(normal, "PRIVATE KEY") {
				t.Errorf("what was read does not read as itself: %v", err)
			}
		}
	})
}
