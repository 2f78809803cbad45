// SPDX-License-Identifier: MPL-2.0

package pasted

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

const (
	byteOrderMark = '\uFEFF'
	// replaced is what encoding/json makes of a byte that is not UTF-8. The CLI sends files as JSON
	// strings, so a byte order mark of UTF-16 arrives as two of these.
	replaced = utf8.RuneError
)

// Text returns a string without what programs put around the text of a file: a byte order mark, the
// encoding UTF-16, NULs at the end.
func Text(s string) string {
	s = strings.TrimPrefix(fromUTF16(s), string(byteOrderMark))
	return strings.TrimRight(s, "\x00")
}

// Line returns a string of one line without what is around it: see [Text], white space, and
// characters that cannot be seen.
func Line(s string) string {
	return strings.TrimFunc(Text(s), func(r rune) bool { return unicode.IsSpace(r) || IsInvisible(r) })
}

// Word returns a string without what is around it when it is copied from a text: see [Line],
// quotation marks and angle brackets in pairs, and characters that cannot be seen anywhere in it.
// It is for values of printable ASCII, which hold none of these.
func Word(s string) string {
	visible := func(r rune) rune {
		if IsInvisible(r) {
			return -1
		}
		return r
	}
	s = strings.TrimSpace(strings.Map(visible, Text(s)))
	for range maxQuotes {
		s = strings.TrimSpace(unquote(s))
	}
	return s
}

// maxQuotes is how many pairs of quotation marks or brackets may be around each other.
const maxQuotes = 3

var quotes = []struct{ left, right string }{
	{`"`, `"`}, {"'", "'"}, {"`", "`"}, {"<", ">"}, {"“", "”"}, {"„", "“"}, {"‘", "’"}, {"«", "»"},
}

func unquote(s string) string {
	for _, q := range quotes {
		if inner, left := strings.CutPrefix(s, q.left); left {
			if inner, right := strings.CutSuffix(inner, q.right); right {
				return inner
			}
		}
	}
	return s
}

// IsInvisible reports whether a character takes no room: a byte order mark, a zero-width space or
// joiner, a soft hyphen, a mark of the direction of writing.
func IsInvisible(r rune) bool { return unicode.Is(unicode.Cf, r) }

// fromUTF16 decodes UTF-16, as Windows PowerShell writes files, both as bytes and as what is left
// of them in a JSON string. There only ASCII is left whole: a string with anything else is returned
// as it is.
func fromUTF16(s string) string {
	littleEndian := strings.HasPrefix(s, "\xff\xfe")
	if (littleEndian || strings.HasPrefix(s, "\xfe\xff")) && len(s)%2 == 0 {
		units := make([]uint16, 0, len(s)/2)
		for i := 2; i < len(s); i += 2 {
			low, high := s[i], s[i+1]
			if !littleEndian {
				low, high = high, low
			}
			units = append(units, uint16(high)<<8|uint16(low))
		}
		return string(utf16.Decode(units))
	}
	if !strings.ContainsRune(s, 0) {
		return s
	}
	if text, ok := everySecond(s, 0); ok {
		return text
	}
	if text, ok := everySecond(s, 1); ok {
		return text
	}
	return s
}

// everySecond returns the characters of s at even (0) or odd (1) places, if those are ASCII and the
// others NULs.
func everySecond(s string, place int) (string, bool) {
	runes := []rune(strings.TrimPrefix(s, string([]rune{replaced, replaced})))
	if len(runes) == 0 || len(runes)%2 != 0 {
		return s, false
	}
	var text strings.Builder
	for i := 0; i < len(runes); i += 2 {
		char, other := runes[i+place], runes[i+1-place]
		if other != 0 || char == 0 || char > unicode.MaxASCII {
			return s, false
		}
		text.WriteRune(char)
	}
	return text.String(), true
}

// IsBinary reports whether a string cannot be the text of a file: it holds NULs, or what was not
// UTF-8.
func IsBinary(s string) bool {
	return strings.ContainsRune(s, 0) || strings.ContainsRune(s, replaced) || !utf8.ValidString(s)
}

var (
	fileRegexp = regexp.MustCompile(`(?i)^[^{}\[\]"<>|*?,;\n]*[^{}\[\]"<>|*?,;\n/\\ ]` +
		`\.(pem|key|crt|cer|der|p7b|p7c|p8|p12|pfx|jwk|jwks|ppk|pub|json|json5|jsonc|ya?ml|toml|txt|env|asc|b64)$`)
	pathRegexp = regexp.MustCompile(`^(\.{0,2}/|~|[A-Za-z]:\\|\\\\|\.\.?\\|file:)[^{}\[\]"<>|\n]*$`)
	// base64Regexp matches what is too long for a path and has none of its punctuation.
	base64Regexp = regexp.MustCompile(`^[A-Za-z0-9+/=]{40,}$`)
)

const maxFileName = 1024

// IsFileName reports whether a string looks like the name of a file, or like what the CLI would
// have replaced by a file's content (@NAME), where the content was meant.
func IsFileName(s string) bool {
	if len(s) > maxFileName {
		return false
	}
	name, at := strings.CutPrefix(Word(s), "@")
	if at && name != "" && !strings.Contains(name, "\n") {
		return true
	}
	return fileRegexp.MatchString(name) || pathRegexp.MatchString(name) && !base64Regexp.MatchString(name)
}
