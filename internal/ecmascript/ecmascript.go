// SPDX-License-Identifier: MPL-2.0

// Package ecmascript writes JSON as JavaScript does. Open Payments servers of today compute a content digest over the
// parsed body, written anew; so whoever signs a body, or verifies it as they do, has to know how it is written.
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

// ErrMalformed is the error for what is not JSON (RFC 8259).
var ErrMalformed = errors.New("malformed JSON")

// Normal is JSON.stringify(JSON.parse(text)), which is what the servers of today compute a content digest over
// (@interledger/http-signature-utils hands the parsed body on). A client that sends other bytes for the same value
// fails there. ECMA-262 sections 25.5.1, 25.5.2 and 10.1.11.1 (the order of an object's keys).
func Normal(text []byte) (string, error) {
	// JSON.parse and encoding/json know the same grammar, that of RFC 8259, so what follows need not look for errors.
	if !json.Valid(text) {
		return "", ErrMalformed
	}
	r := rewriter{rest: text}
	return r.value(), nil
}

// maxDepth is how deep objects and lists may be in each other for Unambiguous.
const maxDepth = 32

// What Unambiguous refuses. The texts are meant for whoever wrote the JSON.
var (
	ErrTwice  = errors.New("a member is in an object twice, or in two spellings that differ in upper and lower case only")
	ErrNumber = errors.New("a number is 2^53 or more, which JavaScript does not hold exactly")
	ErrDeep   = fmt.Errorf("objects and lists are more than %d deep in each other", maxDepth)
)

// Unambiguous is Normal for text that all readers take for the same value: those that keep the first of two members,
// those that keep the last, and those that do not mind the case of a member's name, as encoding/json does not.
func Unambiguous(text []byte) (string, error) {
	if !json.Valid(text) {
		return "", ErrMalformed
	}
	r := rewriter{rest: text, strict: true}
	normal := r.value()
	return normal, r.err
}

// rewriter reads valid JSON and gives each value in its normal form. It does not decode to Go values: those cannot hold
// a lone surrogate, which JavaScript keeps.
type rewriter struct {
	rest   []byte
	strict bool  // look for what is ambiguous
	err    error // and end with it
	depth  int
}

func (r *rewriter) refuse(err error) {
	if r.strict && r.err == nil {
		r.err = err
	}
}

func (r *rewriter) value() string {
	switch r.peek() {
	case '{':
		return r.nested(r.object)
	case '[':
		return r.nested(r.array)
	case '"':
		return r.text()
	default:
		return r.scalar()
	}
}

func (r *rewriter) nested(read func() string) string {
	r.depth++
	defer func() { r.depth-- }()
	if r.depth > maxDepth {
		r.refuse(ErrDeep)
	}
	return read()
}

// peek is the next byte that is not white space.
func (r *rewriter) peek() byte {
	for len(r.rest) > 0 && strings.IndexByte(" \t\r\n", r.rest[0]) >= 0 {
		r.rest = r.rest[1:]
	}
	if len(r.rest) == 0 {
		return 0
	}
	return r.rest[0]
}

func (r *rewriter) take() byte {
	c := r.peek()
	r.rest = r.rest[1:]
	return c
}

// member is one member of an object: its key, quoted, and its value, both in normal form.
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
		m := member{key: r.text()}
		r.take() // the colon
		m.value = r.value()
		// Of two members with one key the last one counts, at the place of the first.
		key := m.key
		if r.strict {
			key = strings.ToLower(strings.ToUpper(key)) // the letters that are one in some case
		}
		if i, repeated := at[key]; repeated {
			r.refuse(ErrTwice)
			members[i].value = m.value
			continue
		}
		at[key] = len(members)
		members = append(members, m)
	}
	r.take()
	// Keys that look like array indexes come first, ascending; the others stay as they were written.
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
	var out strings.Builder
	for i, m := range members {
		if i > 0 {
			out.WriteByte(',')
		}
		out.WriteString(m.key + ":" + m.value)
	}
	return "{" + out.String() + "}"
}

// arrayIndex reads a quoted key as an array index: a canonical decimal number below 2^32 - 1 (ECMA-262 section 6.1.7).
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

// scalar is true, false, null or a number.
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
		r.refuse(ErrNumber)
	}
	text, err := jcs.NumberToJSON(number)
	if err != nil {
		return "null" // JSON.parse reads 1e400 as Infinity, and JSON.stringify has no other word for it
	}
	return text
}

// text is a string, quoted anew.
func (r *rewriter) text() string {
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

// unit reads the UTF-16 code unit of an escape of the form \uXXXX.
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
