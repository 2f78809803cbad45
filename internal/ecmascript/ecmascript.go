// SPDX-License-Identifier: MPL-2.0

package ecmascript

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/gowebpki/jcs"
)

// ErrMalformed is returned for input that is not JSON (RFC 8259).
var ErrMalformed = errors.New("malformed JSON")

// Normal returns JSON.stringify(JSON.parse(text)), as defined by ECMA-262 sections 25.5.1, 25.5.2
// and 10.1.11.1 (the order of an object's keys). Current servers compute the content digest over
// this form (@interledger/http-signature-utils gets the parsed body), and reject a client that
// sends other bytes for the same value. It returns ErrMalformed if text is not JSON.
func Normal(text []byte) (string, error) {
	// JSON.parse and encoding/json accept the same grammar, that of RFC 8259, so the rewriter need
	// not check the syntax.
	if !json.Valid(text) {
		return "", ErrMalformed
	}
	r := rewriter{rest: text}
	return r.value(), nil
}

// maxDepth limits how deeply Unambiguous lets objects and arrays be nested.
const maxDepth = 32

// Errors of Unambiguous. Their messages are meant for the author of the JSON.
var (
	// ErrDuplicate is returned for an object with two members of one name, ignoring case.
	ErrDuplicate = errors.New("an object has the same member twice, or in two spellings that differ only in case")
	// ErrNumber is returned for a number that JavaScript may round.
	ErrNumber = errors.New("a number is 2^53 or more, which JavaScript does not represent exactly")
	// ErrDepth is returned for objects and arrays nested more than 32 deep.
	ErrDepth = fmt.Errorf("objects and arrays are more than %d deep in each other", maxDepth)
)

// Unambiguous returns Normal(text) if all parsers read the same value in text: those that keep the
// first of two members of one name, those that keep the last, and those that ignore the case of
// names, as encoding/json does. Otherwise it returns ErrMalformed, or a [*AmbiguousError] with one of the
// errors above.
func Unambiguous(text []byte) (string, error) {
	if !json.Valid(text) {
		return "", ErrMalformed
	}
	r := rewriter{rest: text, strict: true}
	normal := r.value()
	if r.err != nil {
		return normal, &AmbiguousError{Offset: len(text) - r.left, Err: r.err}
	}
	return normal, nil
}

// AmbiguousError is the error of Unambiguous for valid JSON.
type AmbiguousError struct {
	Offset int // of the first byte after what is at fault
	Err    error
}

func (f *AmbiguousError) Error() string { return f.Err.Error() }
func (f *AmbiguousError) Unwrap() error { return f.Err }

// rewriter reads valid JSON and returns each value in its normal form. It does not decode to Go
// strings: they cannot hold a lone surrogate, which JavaScript keeps.
type rewriter struct {
	rest   []byte
	strict bool // stop with err at what is ambiguous
	err    error
	left   int // bytes that were not read when err was found
	depth  int
}

func (r *rewriter) fail(err error) {
	if r.strict && r.err == nil {
		r.err, r.left = err, len(r.rest)
	}
}

func (r *rewriter) value() string {
	switch r.peek() {
	case '{':
		return r.nested(r.object)
	case '[':
		return r.nested(r.array)
	case '"':
		return r.quoted()
	default:
		return r.scalar()
	}
}

func (r *rewriter) nested(read func() string) string {
	r.depth++
	defer func() { r.depth-- }()
	if r.depth > maxDepth {
		r.fail(ErrDepth)
	}
	return read()
}

// peek returns the next byte that is not white space, without consuming it.
func (r *rewriter) peek() byte {
	for len(r.rest) > 0 && strings.IndexByte(" \t\r\n", r.rest[0]) >= 0 {
		r.rest = r.rest[1:]
	}
	if len(r.rest) == 0 {
		return 0
	}
	return r.rest[0]
}

// take consumes the next byte that is not white space.
func (r *rewriter) take() byte {
	c := r.peek()
	r.rest = r.rest[1:]
	return c
}

// member is a member of an object: its quoted key and its value, both in normal form.
type member struct{ key, value string }

func (r *rewriter) object() string {
	r.take()
	var members []member
	at := make(map[string]int)
	for r.err == nil && r.peek() != '}' {
		if r.peek() == ',' {
			r.take()
		}
		r.peek()
		m := member{key: r.quoted()}
		r.take() // the colon
		m.value = r.value()
		// Of two members with one key, the last one's value takes the first one's place.
		key := m.key
		if r.strict {
			key = strings.ToLower(strings.ToUpper(key)) // folds all letters that are equal in some case
		}
		if i, repeated := at[key]; repeated {
			r.fail(ErrDuplicate)
			members[i].value = m.value
			continue
		}
		at[key] = len(members)
		members = append(members, m)
	}
	r.take()
	sortMembers(members)
	var out strings.Builder
	for i, m := range members {
		if i > 0 {
			out.WriteByte(',')
		}
		out.WriteString(m.key + ":" + m.value)
	}
	return "{" + out.String() + "}"
}

// sortMembers puts members whose keys are array indexes first, in ascending order; the others keep
// their order.
func sortMembers(members []member) {
	slices.SortStableFunc(members, func(a, b member) int {
		i, isIndex := arrayIndex(a.key)
		j, isIndexToo := arrayIndex(b.key)
		switch {
		case isIndex && isIndexToo:
			return cmp.Compare(i, j)
		case isIndex:
			return -1
		case isIndexToo:
			return 1
		default:
			return 0
		}
	})
}

// arrayIndex parses a quoted key as an array index: a canonical decimal number below 2^32 - 1
// (ECMA-262 section 6.1.7).
func arrayIndex(key string) (uint64, bool) {
	digits := key[1 : len(key)-1]
	n, err := strconv.ParseUint(digits, 10, 32)
	if err != nil || n == 1<<32-1 || strconv.FormatUint(n, 10) != digits {
		return 0, false
	}
	return n, true
}

func (r *rewriter) array() string {
	r.take()
	var out strings.Builder
	for r.err == nil && r.peek() != ']' {
		if r.peek() == ',' {
			out.WriteByte(r.take())
		}
		out.WriteString(r.value())
	}
	r.take()
	return "[" + out.String() + "]"
}

// scalar reads true, false, null or a number.
func (r *rewriter) scalar() string {
	end := 0
	for end < len(r.rest) && strings.IndexByte(" \t\r\n,]}", r.rest[end]) < 0 {
		end++
	}
	word := string(r.rest[:end])
	r.rest = r.rest[end:]
	switch word {
	case "true", "false", "null":
		return word
	}
	number, err := strconv.ParseFloat(word, 64)
	if err != nil || math.Abs(number) >= 1<<53 {
		r.fail(ErrNumber)
	}
	text, err := jcs.NumberToJSON(number)
	if err != nil {
		return "null" // JSON.parse reads 1e400 as Infinity, which JSON.stringify writes as null
	}
	return text
}

// quoted reads a string, and returns it quoted.
func (r *rewriter) quoted() string {
	var out strings.Builder
	out.WriteByte('"')
	r.rest = r.rest[1:]
	for r.rest[0] != '"' {
		quote(&out, r.character())
	}
	r.rest = r.rest[1:]
	out.WriteByte('"')
	return out.String()
}

// character reads one code point of a string, or a lone surrogate.
func (r *rewriter) character() rune {
	if r.rest[0] != '\\' {
		c, size := utf8.DecodeRune(r.rest)
		r.rest = r.rest[size:]
		return c
	}
	escape := r.rest[1]
	if escape != 'u' {
		r.rest = r.rest[2:]
		if i := strings.IndexByte("bfnrt", escape); i >= 0 {
			return rune("\b\f\n\r\t"[i])
		}
		return rune(escape)
	}
	first := unit(r.rest)
	r.rest = r.rest[6:]
	if len(r.rest) >= 6 && r.rest[0] == '\\' && r.rest[1] == 'u' {
		if pair := utf16.DecodeRune(first, unit(r.rest)); pair != utf8.RuneError {
			r.rest = r.rest[6:]
			return pair
		}
	}
	return first
}

// unit returns the UTF-16 code unit of an escape of the form \uXXXX.
func unit(escape []byte) rune {
	n, _ := strconv.ParseUint(string(escape[2:6]), 16, 16)
	return rune(n)
}

// quote writes a character as JSON.stringify does (QuoteJSONString, ECMA-262 section 25.5.2.3).
func quote(out *strings.Builder, c rune) {
	if i := strings.IndexRune("\"\\\b\f\n\r\t", c); i >= 0 {
		out.WriteByte('\\')
		out.WriteByte(`"\bfnrt`[i])
		return
	}
	if c < ' ' || utf16.IsSurrogate(c) {
		const hex = "0123456789abcdef"
		out.WriteString(`\u`)
		for shift := 12; shift >= 0; shift -= 4 {
			out.WriteByte(hex[c>>shift&0xf])
		}
		return
	}
	out.WriteRune(c)
}
