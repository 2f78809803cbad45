// SPDX-License-Identifier: MPL-2.0

package authserver

import (
	"bytes"
	"encoding/json"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
)

// Servers' JSON is read member by member, as far as it goes: what a server has issued cannot be
// requested again, and a part that nobody can read must not cost the part that everybody can. Names
// count letter by letter, unlike in the struct of encoding/json.

// membersOf returns the members of an object by name, none if it is not an object. Of a name that
// is there twice the last counts, as in JavaScript; null counts as absent. Where the text is cut
// off, an object or a list that was being read is returned as far as it goes.
func membersOf(raw []byte) map[string]json.RawMessage {
	members := map[string]json.RawMessage{}
	d := lenientDecoder(raw)
	if start, err := d.Token(); err != nil || start != json.Delim('{') {
		return members
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			break
		}
		value, whole := nextValue(d, raw)
		if value != nil && string(value) != "null" {
			members[name.(string)] = value // a name is a string, else Token had failed
		}
		if !whole {
			break
		}
	}
	return members
}

// elementsOf returns the elements of a list, none if it is not a list; the last one as far as it
// goes.
func elementsOf(raw []byte) []json.RawMessage {
	var elements []json.RawMessage
	d := lenientDecoder(raw)
	if start, err := d.Token(); err != nil || start != json.Delim('[') {
		return nil
	}
	for d.More() {
		value, whole := nextValue(d, raw)
		if value != nil {
			elements = append(elements, value)
		}
		if !whole {
			break
		}
	}
	return elements
}

// lenientDecoder returns a decoder that does not take the end of the text for the end of a number.
func lenientDecoder(raw []byte) *json.Decoder {
	return json.NewDecoder(io.MultiReader(bytes.NewReader(raw), failing{io.ErrUnexpectedEOF}))
}

// nextValue returns the value that comes next, or what there is of it. Of a number there is nothing:
// its end is not known. The end of a string is.
func nextValue(d *json.Decoder, raw []byte) (value json.RawMessage, whole bool) {
	if err := d.Decode(&value); err == nil {
		return value, true
	}
	rest := bytes.TrimLeft(raw[min(d.InputOffset(), int64(len(raw))):], " \t\r\n:")
	if len(rest) > 0 && strings.ContainsRune(`{["`, rune(rest[0])) {
		return rest, false
	}
	return nil, false
}

func isObject(raw json.RawMessage) bool { return len(raw) > 0 && raw[0] == '{' }

// stringOf returns a string's value; empty if it is not a string.
func stringOf(raw json.RawMessage) (s string) {
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

// listOf returns a list as it is; nil if it is not a list, or was cut off.
func listOf(raw json.RawMessage) json.RawMessage {
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) != nil || list == nil {
		return nil
	}
	return raw
}

// secondsOf returns a number of seconds, or a string that holds one. It returns 0 for what is
// unusable: none, zero, negative, or more than ten years.
func secondsOf(raw json.RawMessage) time.Duration {
	text := string(raw)
	if strings.HasPrefix(text, `"`) {
		text = strings.TrimSpace(stringOf(raw)) // nothing of one that is cut off
	}
	seconds, err := strconv.ParseFloat(text, 64)
	if err != nil || !(seconds > 0) || seconds > MaxDuration.Seconds() {
		return 0
	}
	return time.Duration(math.Floor(seconds * float64(time.Second)))
}
