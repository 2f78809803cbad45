// SPDX-License-Identifier: MPL-2.0

package pasted

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestText(t *testing.T) {
	for s, want := range map[string]string{
		"":                               "",
		"text\r\n":                       "text\r\n",
		" text ":                         " text ",
		"\ufefftext":                     "text",
		"text\x00\x00":                   "text",
		"\xff\xfet\x00e\x00\xac\x20":     "te€",
		"\xfe\xff\x00t\x00e\x20\xac":     "te€",
		"\ufffd\ufffdt\x00e\x00":         "te",
		"\ufffd\ufffd\x00t\x00e":         "te",
		"t\x00e\x00\r\x00\n\x00":         "te\r\n",
		"\ufffd\ufffdt\x00\ufffd\x00":    "\ufffd\ufffdt\x00\ufffd", // what was not ASCII is lost
		"t\x00ex":                        "t\x00ex",
		"\x00":                           "",
		"\xff\xfet":                      "\xff\xfet",
		"\u200btext":                     "\u200btext",
		"[\n  1,\n  2\n]\n\x00":          "[\n  1,\n  2\n]\n",
		"\ufeff\ufefftext, marked twice": "\ufefftext, marked twice",
	} {
		if got := Text(s); got != want {
			t.Errorf("%q: %q, want %q", s, got, want)
		}
	}
}

func TestWord(t *testing.T) {
	for s, want := range map[string]string{
		"":                             "",
		"word":                         "word",
		"\ufeff word\r\n":              "word",
		"\u00a0word\u2003\u200b":       "word",
		"wo\u200b\u00ad\u2060rd\u200e": "word",
		`"word"`:                       "word",
		` "word" ` + "\n":              "word",
		"'word'":                       "word",
		"`word`":                       "word",
		"<word>":                       "word",
		"“word”":                       "word",
		"„word“":                       "word",
		"‘word’":                       "word",
		"«word»":                       "word",
		`'"word"'`:                     "word",
		`"<word>"`:                     "word",
		`"word`:                        `"word`,
		`word"`:                        `word"`,
		`"`:                            `"`,
		`""`:                           "",
		"two words":                    "two words",
		"w\x00o\x00r\x00d\x00\r\x00":   "word",
		strings.Repeat(`"`, 4) + "x" + strings.Repeat(`"`, 4): `"x"`,
	} {
		if got := Word(s); got != want {
			t.Errorf("%q: %q, want %q", s, got, want)
		}
	}
}

func TestIsFileName(t *testing.T) {
	for s, want := range map[string]bool{
		"key.pem": true, "access.json": true, "invoice.json\n": true, "my keys/key.PEM": true, "ca.crt": true,
		"./key": true, "../key": true, "~/key": true, "/etc/hostname": true, `C:\keys\key`: true, `\\host\key`: true,
		"@key.pem": true, "@k": true, "file:///run/secrets/key": true, `"access.json"`: true,
		"": false, "@": false, "key": false, "https://wallet.example/key.pem?x=1": false, `{"file":"key.json"}`: false,
		"[]": false, "-----BEGIN PRIVATE KEY-----\nx.pem": false, "one\ntwo.json": false,
		"MC4CAQAwBQYDK2VwBCIEIA": false, "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgGBgcGBQgHBwcJ": false,
		strings.Repeat("x", 2000) + ".json": false,
	} {
		if got := IsFileName(s); got != want {
			t.Errorf("%q: %t", s, got)
		}
	}
}

func TestFindJSONFault(t *testing.T) {
	for text, want := range map[string]string{
		`[{"type": "quote"}]`:            "",
		"1e999":                          "",
		"":                               "line 1, column 1: there is no text",
		" \n":                            "line 1, column 1: there is no text",
		"[\n  1,\n]":                     "line 3, column 1: a comma after the last item",
		`{"a": 1, }`:                     "line 1, column 10: a comma after the last item",
		"[\r\n  // the rights\r\n  1]":   "line 2, column 3: a comment, which JSON does not have",
		"[1] # end":                      "line 1, column 5: there is more after the end of the JSON",
		"[\n# one\n1]":                   "line 2, column 1: a comment, which JSON does not have",
		"{'a': 1}":                       "line 1, column 2: a single quotation mark, where JSON has double ones",
		`{"ä": “b”}`:                     "line 1, column 7: a typographic quotation mark, where JSON has straight ones",
		"{\"a\":\u00a01}":                "line 1, column 6: a character that JSON does not take for white space, such as a non-breaking space",
		`{a: 1}`:                         "line 1, column 2: a name or a word without quotation marks",
		`[{"a": 1} {"b": 2}]`:            "line 1, column 11: a comma or a colon is missing before this",
		"{\"a\": \"b\nc\"}":              "line 1, column 9: a line break or another control character inside a string",
		`{"a": "\x"}`:                    "line 1, column 9: an escape that JSON does not have",
		`{"a": [1, 2`:                    "line 1, column 12: the text ends too early; is it cut off?",
		`{"a": True}`:                    "line 1, column 7: this is not JSON",
		`[1] [2]`:                        "line 1, column 5: there is more after the end of the JSON",
		"{\"a\": \"\xff\xff\", }":        "line 1, column 1: this is not text in UTF-8",
		"\ufffd[\x00]\x00":               "line 1, column 1: this is not text in UTF-8",
		"access.json":                    "line 1, column 1: this is not JSON",
		`{"password": s3cr3t-s3cr3t}`:    "line 1, column 14: this is not JSON",
		`[{"type":"quote"},{"actions":]`: "line 1, column 30: this is not JSON",
	} {
		got := ""
		if fault := FindJSONFault(text); fault != nil {
			got = fault.Error()
		}
		if got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

func TestFindRepeatedMember(t *testing.T) {
	for text, want := range map[string]string{
		`{"a":1,"b":{"a":["a","a"]},"c":"a"}`:   "",
		`["a","a",{"a":1},{"a":1}]`:             "",
		"{\"a\":{\"b\":[1]},\n \"a\":2}":        "line 2, column 2: a member that the object has already",
		`[{"x":[],"y":{},"x":1}]`:               "line 1, column 17: a member that the object has already",
		`{"a":"a","b":"a","\u0061":"c"}`:        "line 1, column 18: a member that the object has already",
		`{"a":null,"b":true,"c":1,"d":{},"c":}`: "line 1, column 33: a member that the object has already",
	} {
		got := ""
		if fault := FindRepeatedMember(text); fault != nil {
			got = fault.Error()
		}
		if got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

// A fault is found in whatever is not JSON, inside the text or at its end, and nothing of the text
// is repeated.
func FuzzFindJSONFault(f *testing.F) {
	for _, text := range []string{`[{"type":"quote","actions":["read"]}]`, "[1,]", "// x\n{}", "{'a':1}", "\ufeff{}", "“”"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		fault := FindJSONFault(text)
		if (fault == nil) != json.Valid([]byte(text)) {
			t.Fatalf("%v", fault)
		}
		if fault == nil {
			return
		}
		lines := strings.Split(text, "\n")
		if fault.Line < 1 || fault.Line > len(lines) || fault.Column < 1 || fault.Column > len(lines[fault.Line-1])+1 {
			t.Errorf("%v is not in the text", fault)
		}
		const marker = "q7Zk9xWv"
		if again := FindJSONFault(text[:len(text)/2] + marker + text[len(text)/2:]); again != nil &&
			strings.Contains(again.Error(), marker) {
			t.Error("an error repeats the text")
		}
	})
}

// A line that was read is read as itself again, and a word has nothing around it and nothing invisible in it.
func FuzzText(f *testing.F) {
	for _, text := range []string{"\ufeffa\r\n", "\xff\xfea\x00", "\xfe\xff\x00a", "a\x00b\x00", `"a"`, "<“a”>", "\u200ba\u00a0", "a"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if line := Line(text); Line(line) != line && utf8.ValidString(line) && !strings.ContainsRune(line, 0) {
			t.Fatalf("%q is read as %q, and that as %q", text, line, Line(line))
		}
		IsFileName(text)
		if word := Word(text); strings.TrimSpace(word) != word || strings.ContainsFunc(word, IsInvisible) && utf8.ValidString(word) {
			t.Fatalf("%q is read as %q", text, word)
		}
	})
}
