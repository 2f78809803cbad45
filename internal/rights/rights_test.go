// SPDX-License-Identifier: MPL-2.0

package rights

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for _, raw := range []any{
		`[{"type":"incoming-payment","actions":["create","read","list"]}]`,
		[]any{map[string]any{"type": "quote", "actions": []any{"create", "read"}}},
		`[{"type":"incoming-payment","actions":["create","complete","read","read-all","list","list-all"],"identifier":"https://wallet.example/alice&b=%3C2%3E"}]`,
		`[{"type":"outgoing-payment","actions":["create"],"identifier":"https://wallet.example/alice","limits":{"receiver":"https://wallet.example/incoming-payments/1","interval":"R12/2026-01-01T00:00:00Z/P1M","debitAmount":{"value":"18446744073709551615","assetCode":"USD","assetScale":2}}}]`,
		`[{"type":"quote","actions":["read"]},{"type":"incoming-payment","actions":["read"]},{"type":"outgoing-payment","actions":["read"],"identifier":"https://wallet.example/alice"}]`,
	} {
		access, err := Parse(raw)
		if err != nil {
			t.Errorf("%v: %v", raw, err)
		}
		if strings.Contains(string(access), `\u0026`) {
			t.Error("what is sent must not be escaped")
		}
	}
}

// What testdata/invalid.json holds is rejected; backend/ writes the same to grants and roles.
func TestParseInvalid(t *testing.T) {
	raw, err := os.ReadFile("testdata/invalid.json")
	if err != nil {
		t.Fatal(err)
	}
	var invalid map[string]string
	if err := json.Unmarshal(raw, &invalid); err != nil || len(invalid) == 0 {
		t.Fatal("no invalid access", err)
	}
	for what, text := range invalid {
		if access, err := Parse(text); err == nil || access != nil {
			t.Errorf("%s: %s, %v", what, access, err)
		}
		var decoded any
		if json.Unmarshal([]byte(text), &decoded) != nil || what == "a member twice" { // decoded, it is there once
			continue
		}
		if access, err := Parse(decoded); err == nil || access != nil {
			t.Errorf("%s, decoded: %s, %v", what, access, err)
		}
	}
	if access, err := Parse(make(chan int)); err == nil || access != nil {
		t.Errorf("what JSON cannot hold: %s, %v", access, err)
	}
}

// Errors name the type of right and its actions, from the table.
func TestParseErrors(t *testing.T) {
	for text, want := range map[string]string{
		`[{"type":"x"}]`: "right 1: type must be " +
			"incoming-payment, quote or outgoing-payment",
		`[{"type":"quote","x":1}]`: "right 1: may have type, actions only",
		`[{"type":"quote"}]`: "right 1: actions must be a list with at least one of " +
			"create, read, read-all",
		`[{"type":"outgoing-payment","x":1}]`:        "right 1: may have type, actions, identifier, limits only",
		`[{"type":"quote","actions":["read"]},null]`: "right 2: must be an object",
		`[{"type":"incoming-payment","limits":{}}]`:  "right 1: may have type, actions, identifier only",
		`[{"type":"incoming-payment","actions":["x"]}]`: "right 1: actions: each at most once, and one of " +
			"create, complete, read, read-all, list, list-all",
	} {
		if _, err := Parse(text); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

// What surrounds rights and the addresses in them does not count.
func TestParseAsPeopleHaveThem(t *testing.T) {
	right := func(identifier string) string {
		return `[{"actions":["create"],"identifier":"` + identifier + `","type":"incoming-payment"}]`
	}
	want := right("https://wallet.example/alice")
	for _, text := range []string{
		want, "\ufeff" + strings.ReplaceAll(want, ",", ",\r\n ") + "\r\n", want + "\x00",
		right(` https://wallet.example/alice\r\n`), right(`<HTTPS://Wallet.Example/alice>`), right(`\"https://wallet.example/alice\"`),
		right("https://wallet.example\u200b/alice"), right("$wallet.example/alice"), right(` $wallet.example/alice\n`),
	} {
		if access, err := Parse(text); err != nil || string(access) != want {
			t.Errorf("%q: %s %v", text, access, err)
		}
	}
	receiver := func(s string) string {
		return `[{"actions":["create"],"identifier":"https://wallet.example/alice","limits":{"receiver":"` + s + `"},"type":"outgoing-payment"}]`
	}
	want = receiver("https://wallet.example/incoming-payments/1?a=1&b=%3C2%3E")
	if access, err := Parse(receiver(` <https://wallet.example/incoming-payments/1?a=1&b=%3C2%3E>\r\n`)); err != nil || string(access) != want {
		t.Errorf("%s %v", access, err)
	}
	// Two spellings of one right are one right.
	one := strings.Trim(right("https://wallet.example/alice"), "[]")
	other := strings.Trim(right("$wallet.example/alice"), "[]")
	if _, err := Parse("[" + one + "," + other + "]"); err == nil || !strings.Contains(err.Error(), "right 2 is there twice") {
		t.Errorf("%v", err)
	}
}

// What is no list of rights is told by what it is, and where it stops being JSON; without its
// content.
func TestParseSaysWhatIsWrong(t *testing.T) {
	item := `{"type":"quote","actions":["read"]}`
	for text, words := range map[string]string{
		item:                             "in brackets",
		`{"access":[` + item + `]}`:      "member access",
		`{"access_token":{"access":[]}}`: "access_token.access",
		`{"rights":[]}`:                  "not an object",
		`"quote"`:                        "must be a JSON list",
		"[" + item + ",]":                "line 1, column 38: a comma after the last item",
		"[\n" + item + "\n" + item + "]": "line 3, column 1: a comma or a colon is missing",
		"/* s3cr3t */\n[]":               "line 1, column 1: a comment",
		"[{'type':'quote'}]":             "line 1, column 3: a single quotation mark",
		"[" + item:                       "line 1, column 37: the text ends too early",
		"":                               "line 1, column 1: there is no text",
		`[{"type":"quote","actions":["read"],"type":"quote"}]`:                                 "line 1, column 37: a member",
		`[{"type":"incoming-payment","actions":["read"],"identifier":"alice@wallet.example"}]`: "right 1: identifier: looks like an e-mail",
		`[{"type":"incoming-payment","actions":["read"],"identifier":"https://a.example/b/"}]`: "right 1: identifier: must not end with a slash",
		`[{"type":"incoming-payment","actions":["read"],"identifier":null}]`:                   "right 1: identifier must be the URL",
	} {
		if _, err := Parse(text); err == nil || !strings.Contains(err.Error(), words) || strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%s: %v, without %q", text, err, words)
		}
	}
}

func TestIntervals(t *testing.T) {
	for text, good := range map[string]bool{
		"R12/2026-01-01T00:00:00Z/P1M":                true,
		"R/2017-03-01T13:00:00Z/2018-05-11T15:30:00Z": true,
		"R-1/P1Y2M10DT2H30M/2022-05-11T15:30:00Z":     true,
		"R0/2026-01-01T00:00:00+02:00/PT1H":           true,
		"R/2026-01-01T00:00:00Z/P2W":                  true,
		"R1/2026-01-01T00:00:00Z/PT0.5S":              true,
		"P1M":                                         false,
		"R12":                                         false,
		"R12/P1M":                                     false,
		"R12/2026-01-01/P1M":                          false,
		"R12/2026-01-01T00:00:00/P1M":                 false,
		"Rx/2026-01-01T00:00:00Z/P1M":                 false,
		"R-2/2026-01-01T00:00:00Z/P1M":                false,
		"R12/2026-01-01T00:00:00Z/P":                  false,
		"R12/2026-01-01T00:00:00Z/PT":                 false,
		"R12/2026-01-01T00:00:00Z/P0M":                false,
		"R12/2026-01-01T00:00:00Z/P1MT":               false,
		"R12/P1M/P1M":                                 false,
		"R/2018-05-11T15:30:00Z/2017-03-01T13:00:00Z": false,
		"R12/2026-01-01T00:00:00Z/P1M/x":              false,
		"r12/2026-01-01T00:00:00Z/P1M":                false,
	} {
		if err := checkInterval(text); (err == nil) != good {
			t.Errorf("%s: %v", text, err)
		}
	}
	if err := checkInterval("R12/P1M/P1M"); err == nil || !strings.Contains(err.Error(), "time with its zone") {
		t.Errorf("%v", err)
	}
}

// Rights that are accepted are canonical, and read again as themselves; and an error repeats not even
// eight characters in a row of what was given.
func FuzzParse(f *testing.F) {
	for _, text := range []string{
		`[{"type":"incoming-payment","actions":["create","read"],"identifier":"https://wallet.example/alice"}]`,
		`[{"type":"outgoing-payment","actions":["create"],"identifier":"$wallet.example/alice","limits":{"debitAmount":{"value":"1","assetCode":"USD","assetScale":2},"interval":"R12/2026-01-01T00:00:00Z/P1M","receiver":"https://rs.example/incoming-payments/1"}}]`,
		`[{"type":"quote","actions":["create"]},{"actions":["create"],"type":"quote"}]`, `{"access":[]}`, `[7]`, `[`, "\ufeff[]", `[{"type":"quote","type":"quote"}]`,
	} {
		f.Add(text, uint16(len(text)/2))
	}
	f.Fuzz(func(t *testing.T, text string, at uint16) {
		const marker = "q7Zk9xWv"
		i := int(at) % (len(text) + 1)
		if _, err := Parse(text[:i] + marker + text[i:]); err != nil && strings.Contains(err.Error(), marker) {
			t.Fatal("an error repeats the text")
		}
		parsed, err := Parse(text)
		if err != nil {
			return
		}
		if again, err := Parse(string(parsed)); err != nil || string(again) != string(parsed) {
			t.Fatalf("%s is read as %s, %v", parsed, again, err)
		}
		var list []any
		if err := json.Unmarshal(parsed, &list); err != nil || len(list) == 0 || len(list) > maxRights {
			t.Fatalf("%s: %v", parsed, err)
		}
		if again, err := Parse(list); err != nil || string(again) != string(parsed) {
			t.Fatalf("as a list, %s is read as %s, %v", parsed, again, err)
		}
		Warnings(parsed, "https://wallet.example/alice")
	})
}
