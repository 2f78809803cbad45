// SPDX-License-Identifier: MPL-2.0

package ecmascript

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// The expected values are what Node.js 22 prints for JSON.stringify(JSON.parse(text)).
func TestNormalJSON(t *testing.T) {
	for _, row := range []struct{ text, want string }{
		{` { "a" : [ 1 , true , null , false , { } , [ ] ] } `, `{"a":[1,true,null,false,{},[]]}`},
		{`{"b":1,"a":2,"b":3}`, `{"b":3,"a":2}`},
		{`{"b":1,"10":2,"9":3,"01":4,"-1":5,"1.5":6,"":7}`, `{"9":3,"10":2,"b":1,"01":4,"-1":5,"1.5":6,"":7}`},
		{`{"4294967295":1,"4294967294":2,"a":3,"0":4}`, `{"0":4,"4294967294":2,"4294967295":1,"a":3}`},
		{`{"\u0031":1,"a":2,"1":3}`, `{"1":3,"a":2}`},
		{`[1.0,1e3,-0,0.1,1e21,1e-7,123456789012345680000,9007199254740993,5e-324,1e400,-1E+2]`,
			`[1,1000,0,0.1,1e+21,1e-7,123456789012345680000,9007199254740992,5e-324,null,-100]`},
		{`"a\/b\u0026<>&\u2028` + "\u2029é\u007f" + `"`, `"a/b&<>&` + "\u2028\u2029é\u007f" + `"`},
		{`"\"\\\b\f\n\r\t\u0000\u001F\u000b"`, `"\"\\\b\f\n\r\t\u0000\u001f\u000b"`},
		{`"\uD83D\uDE00 \uD83D \uDE00\uD83D"`, "\"\U0001F600 " + `\ud83d \ude00\ud83d"`},
		{`"\uD83D\n\uDE00"`, `"\ud83d\n\ude00"`},
		{`[]`, `[]`},
		{`"{[,:]}"`, `"{[,:]}"`},
	} {
		got, err := Normal([]byte(row.text))
		if err != nil || got != row.want {
			t.Errorf("%s: got %s, %v, want %s", row.text, got, err, row.want)
		}
	}
	for _, malformed := range []string{"", " ", "{", "[1,]", `{"a":1,}`, "01", "'a'", "{} {}", "NaN", "\ufeff{}"} {
		if got, err := Normal([]byte(malformed)); err == nil {
			t.Errorf("%q: got %s, want an error", malformed, got)
		}
	}
}

func TestUnambiguous(t *testing.T) {
	deep := func(n int, inner string) string { return strings.Repeat("[", n) + inner + strings.Repeat("]", n) }
	for _, row := range []struct {
		text string
		want error
	}{
		{`{"a":{"b":1,"c":2},"b":[{"b":1},{"b":2}]}`, nil},
		{`{"a":1,"b":2,"a":1}`, ErrDuplicate},
		{`{"a":1,"\u0061":1}`, ErrDuplicate},
		{`{"a":1,"A":1}`, ErrDuplicate},
		{`{"k":1,"\u212a":1}`, ErrDuplicate}, // the Kelvin sign
		{`{"s":1,"ſ":1}`, ErrDuplicate},
		{`[[{"x":{"a":1,"A":1}}]]`, ErrDuplicate},
		{`{"n":1,"\n":1,"\\n":1,"\\":1}`, nil},
		{`{"":1,"":1}`, ErrDuplicate},
		{`[9007199254740991,-9007199254740991,0.1,1e15]`, nil},
		{`9007199254740992`, ErrNumber},
		{`-9007199254740993`, ErrNumber},
		{`[1e400]`, ErrNumber},
		{deep(maxDepth, `"x"`), nil},
		{deep(maxDepth, `[]`), ErrDepth},
		{deep(9000, ``), ErrDepth},
		{`{"a":1`, ErrMalformed},
	} {
		got, err := Unambiguous([]byte(row.text))
		if !errors.Is(err, row.want) {
			t.Errorf("%.60s: %v, want %v", row.text, err, row.want)
		}
		if normal, _ := Normal([]byte(row.text)); err == nil && got != normal {
			t.Errorf("%.60s: %s, and Normal returns %s", row.text, got, normal)
		}
	}
}

// A fault says where it is, and what it is to errors.Is.
func TestAmbiguousError(t *testing.T) {
	for text, want := range map[string]AmbiguousError{
		`{"a":1,"A":2}`:          {len(`{"a":1,"A":2`), ErrDuplicate},
		"[1,\n9007199254740993]": {len("[1,\n9007199254740993"), ErrNumber},
		strings.Repeat("[", 40) + strings.Repeat("]", 40): {32, ErrDepth},
	} {
		_, err := Unambiguous([]byte(text))
		var fault *AmbiguousError
		if !errors.As(err, &fault) || !errors.Is(err, want.Err) || fault.Offset != want.Offset {
			t.Errorf("%s: %+v, want %+v", text, fault, want)
		}
	}
	if _, err := Unambiguous([]byte("{")); !errors.Is(err, ErrMalformed) {
		t.Errorf("%v", err)
	}
}

// The normal form is the same value, and its own normal form; what is unambiguous has the same one.
func FuzzNormal(f *testing.F) {
	for _, text := range []string{
		`{"b":1,"10":2,"9":3,"a":{"A":[1e3,-0,0.1,1e21,5e-324]}}`, `"\u0026\ud800\u2028\/"`, "[1,\n2]", `{"a":1,"a":2}`, `9007199254740993`, `1e400`, "\ufeff1", "[",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		normal, err := Normal(text)
		if (err == nil) != json.Valid(text) {
			t.Fatalf("%v", err)
		}
		if err != nil {
			return
		}
		if again, err := Normal([]byte(normal)); err != nil || again != normal {
			t.Fatalf("%q, and again %q, %v", normal, again, err)
		}
		strict, err := Unambiguous(text)
		if err != nil {
			return
		}
		var one, two any
		if strict != normal || json.Unmarshal(text, &one) != nil || json.Unmarshal([]byte(normal), &two) != nil || !reflect.DeepEqual(one, two) {
			t.Fatalf("%q is written as %q", text, normal)
		}
	})
}
