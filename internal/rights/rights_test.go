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
		`[{"type":"quote","actions":["read"]},{"type":"incoming-payment","actions":["read"]},{"type":"outgoing-payment","actions":["read"],"identifier":"http://wallet.example/alice"}]`,
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
