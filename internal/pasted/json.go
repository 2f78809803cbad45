// SPDX-License-Identifier: MPL-2.0

package pasted

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// JSONError is where JSON stops being JSON, and what is wrong there.
type JSONError struct {
	Line, Column int // from 1; columns are characters
	Reason       string
}

func (f *JSONError) Error() string {
	return fmt.Sprintf("line %d, column %d: %s", f.Line, f.Column, f.Reason)
}

// FindJSONFault returns the first fault of a text that should be JSON (RFC 8259): nil if it is.
func FindJSONFault(text string) *JSONError {
	var value any
	err := json.Unmarshal([]byte(text), &value)
	var syntax *json.SyntaxError
	if !errors.As(err, &syntax) {
		return nil // a number that float64 cannot hold is JSON all the same
	}
	at := min(max(int(syntax.Offset)-1, 0), len(text))
	if !utf8.ValidString(text) || strings.TrimSpace(text) == "" {
		return faultAt(text, 0, whyNotJSON(text, 0))
	}
	for at > 0 && at < len(text) && !utf8.RuneStart(text[at]) {
		at--
	}
	if isCutOff(text) {
		return faultAt(text, len(text), "the text ends too early; is it cut off?")
	}
	return faultAt(text, at, whyNotJSON(text, at))
}

// FindRepeatedMember returns where an object of valid JSON has the same member twice: nil if none
// has.
func FindRepeatedMember(text string) *JSONError {
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	var open []map[string]bool // of each object or list (nil) that is open, the members
	isName := false            // the next string is a member's name
	for {
		before := int(dec.InputOffset())
		token, err := dec.Token()
		if err != nil {
			return nil //nolint:nilerr // the end of the text, because it is valid
		}
		name, isString := token.(string)
		switch {
		case token == json.Delim('{'):
			open = append(open, map[string]bool{})
		case token == json.Delim('['):
			open = append(open, nil)
		case token == json.Delim('}'), token == json.Delim(']'):
			open = open[:len(open)-1]
		case isString && isName:
			members := open[len(open)-1]
			if members[name] {
				start := before + strings.IndexByte(text[before:], '"')
				return faultAt(text, start, "a member that the object has already")
			}
			members[name], isName = true, false
			continue
		}
		isName = len(open) > 0 && open[len(open)-1] != nil
	}
}

// PositionOf returns the line and column of a byte of a text, as [JSONError] has them.
func PositionOf(text string, offset int) (line, column int) {
	before := text[:min(max(offset, 0), len(text))]
	last := strings.LastIndexByte(before, '\n') + 1
	return 1 + strings.Count(before, "\n"), 1 + utf8.RuneCountInString(before[last:])
}

func faultAt(text string, offset int, reason string) *JSONError {
	line, column := PositionOf(text, offset)
	return &JSONError{line, column, reason}
}

// isCutOff reports whether a text is the beginning of some JSON.
func isCutOff(text string) bool {
	dec := json.NewDecoder(strings.NewReader(text))
	var value any
	err := dec.Decode(&value)
	return err != nil && !errors.As(err, new(*json.SyntaxError))
}

// whyNotJSON says what is wrong with the byte of a text that a parser has stopped at.
func whyNotJSON(text string, at int) string {
	here, _ := utf8.DecodeRuneInString(text[at:])
	before := strings.TrimRight(text[:at], " \t\r\n")
	last := byte(0)
	if before != "" {
		last = before[len(before)-1]
	}
	switch {
	case strings.TrimSpace(text) == "":
		return "there is no text"
	case IsBinary(text):
		return "this is not text in UTF-8"
	case before != "" && json.Valid([]byte(before)):
		return "there is more after the end of the JSON"
	case here < ' ':
		return "a line break or another control character inside a string"
	case last == '\\' && len(before) == at:
		return "an escape that JSON does not have"
	case last == ',' && (here == ']' || here == '}'):
		return "a comma after the last item"
	case here == '/' || here == '#':
		return "a comment, which JSON does not have"
	case here == '\'':
		return "a single quotation mark, where JSON has double ones"
	case unicode.Is(unicode.Pi, here) || unicode.Is(unicode.Pf, here) || here == '„':
		return "a typographic quotation mark, where JSON has straight ones"
	case unicode.IsSpace(here) || IsInvisible(here):
		return "a character that JSON does not take for white space, such as a non-breaking space"
	case (last == '{' || last == ',') && (unicode.IsLetter(here) || here == '_' || here == '$'):
		return "a name or a word without quotation marks"
	case strings.IndexByte(`"}]`, last) >= 0 && strings.ContainsRune(`"{[`, here):
		return "a comma or a colon is missing before this"
	}
	return "this is not JSON"
}
