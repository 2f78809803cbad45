// SPDX-License-Identifier: MPL-2.0

package authserver

import (
	"encoding/base64"
	"encoding/pem"
	"regexp"
	"strings"
	"unicode"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/pasted"
)

// Labels of PEM blocks (RFC 7468).
const (
	privateKeyLabel  = "PRIVATE KEY"
	certificateLabel = "CERTIFICATE"
)

// pemBlock is one block of a text: BEGIN and END with the same label.
type pemBlock struct {
	label string
	der   []byte // nil: what is between them is damaged
}

// isPrivate reports whether a block holds, or should hold, a private key of any form.
func (b pemBlock) isPrivate() bool { return strings.Contains(b.label, privateKeyLabel) }

// pemText is what readPEM has found in a text.
type pemText struct {
	text   string // without the base64 around it
	binary []byte // what the text is base64 of, if that is neither text nor DER of a known kind
	blocks []pemBlock
	cutOff bool // a BEGIN has no END
	torn   bool // and the beginning of a block follows it
}

// maxWraps is how many times base64 may be wrapped around a text: a Kubernetes secret of something
// that was encoded already has two.
const maxWraps = 3

// readPEM reads the PEM blocks of a text, wherever they stand in it. It reads what OpenSSL and Node
// read, with any text around the blocks, and what becomes of PEM on its way through files,
// environment variables, secret managers and web pages: a byte order mark, UTF-16, line ends of any
// system or none, "\n" spelled out, quotation marks, indentation, non-breaking spaces, typographic
// dashes, base64 or base64url around the whole, with or without padding. All of these are
// unambiguous because a block has to decode to DER of the right kind.
//
// DER of a known kind is returned as the block that it would be the content of.
func readPEM(s string) pemText {
	if label := labelOf([]byte(s)); label != "" {
		return pemText{text: s, blocks: []pemBlock{{label, []byte(s)}}}
	}
	t := pemText{text: pasted.Text(s)}
	for range maxWraps {
		t.scan()
		if len(t.blocks) > 0 || t.cutOff {
			break
		}
		decoded := decodeBase64(unwrapRegexp.ReplaceAllString(pasted.Word(t.text), ""))
		if label := labelOf(decoded); label != "" {
			t.blocks = []pemBlock{{label, decoded}}
			break
		}
		if !isText(decoded) {
			t.binary = decoded
			break
		}
		t.text = pasted.Text(string(decoded))
	}
	return t
}

// unwrapRegexp matches what says of a string that base64 follows.
var unwrapRegexp = regexp.MustCompile(`(?i)^(data:[^,]{0,99};)?base64[,:]`)

func isText(decoded []byte) bool {
	text := pasted.Text(string(decoded))
	return text != "" && !pasted.IsBinary(text) && !strings.ContainsFunc(text, func(r rune) bool {
		return unicode.IsControl(r) && !unicode.IsSpace(r)
	})
}

var (
	// markRegexp matches the lines that begin and end a block. Word processors and web pages make
	// one long dash of two.
	markRegexp = regexp.MustCompile(
		dashes + gap + `*(BEGIN|END)` + gap + `+([A-Z0-9](?:[A-Z0-9]|` + gap + `)*?)` + gap + `*` + dashes)
	tornRegexp   = regexp.MustCompile(`^(\s|\\+[nr])*[A-Za-z0-9+/]{16}`)
	escapeRegexp = regexp.MustCompile(`\\+[nrt]`)
	headerRegexp = regexp.MustCompile(`(?m)^[A-Za-z0-9-]+:[^\n]*$`)
)

const (
	dashes = `[-\x{2010}-\x{2015}\x{2212}\x{FE58}\x{FE63}\x{FF0D}]{2,5}`
	gap    = `[ \x{A0}]`
)

// scan finds the blocks of the text.
func (t *pemText) scan() {
	text := strings.ReplaceAll(t.text, "\r", "\n")
	marks := markRegexp.FindAllStringSubmatchIndex(text, -1)
	for i, mark := range marks {
		if text[mark[2]:mark[3]] != "BEGIN" {
			continue
		}
		label, end := normalLabel(text[mark[4]:mark[5]]), len(text)
		if i+1 < len(marks) {
			end = marks[i+1][0]
		}
		body := text[mark[1]:end]
		if i+1 == len(marks) || text[marks[i+1][2]:marks[i+1][3]] != "END" {
			t.cutOff = true
			t.torn = t.torn || tornRegexp.MatchString(body)
			continue
		}
		b := pemBlock{label: label}
		if normalLabel(text[marks[i+1][4]:marks[i+1][5]]) == label {
			b.der = decodeBody(body)
		}
		t.blocks = append(t.blocks, b)
	}
}

func normalLabel(s string) string {
	return strings.Join(strings.FieldsFunc(s, unicode.IsSpace), " ")
}

// decodeBody returns the bytes between BEGIN and END; nil if that is not base64.
func decodeBody(body string) []byte {
	body = escapeRegexp.ReplaceAllString(body, "\n")
	body = headerRegexp.ReplaceAllString(strings.ReplaceAll(body, `\`, ""), "")
	return decodeBase64(body)
}

// decodeBase64 decodes base64 or base64url, with or without padding, and with white space anywhere.
// It returns nil if the text is not that, or empty.
func decodeBase64(text string) []byte {
	text = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r), pasted.IsInvisible(r):
			return -1
		case r == '-':
			return '+'
		case r == '_':
			return '/'
		}
		return r
	}, text)
	decoded, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(text, "="))
	if err != nil || len(decoded) == 0 {
		return nil
	}
	return decoded
}

// encodePEM writes a block as RFC 7468 has it.
func encodePEM(label string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: label, Bytes: der}))
}
