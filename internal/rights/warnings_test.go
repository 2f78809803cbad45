// SPDX-License-Identifier: MPL-2.0

package rights

import (
	"encoding/json"
	"strings"
	"testing"
)

// A6: what looks like a limit and is none, and an identifier that servers do not take for the
// owner's.
func TestWarnings(t *testing.T) {
	outgoing := func(rest string) string {
		return `[{"type":"outgoing-payment","actions":["create","read"],"identifier":"` + alice + `"` + rest + `}]`
	}
	incoming := func(identifier string) string {
		return `[{"type":"incoming-payment","actions":["create"],"identifier":"` + identifier + `"}]`
	}
	const amount = `{"value":"500","assetCode":"USD","assetScale":2}`
	const interval = `"interval":"R12/2026-01-01T00:00:00Z/P1M"`
	const receiver = `"receiver":"https://wallet.example/incoming-payments/1"`
	for access, want := range map[string][]string{
		outgoing(``):                             {"no limit"},
		outgoing(`,"limits":{}`):                 {"limits is empty"},
		outgoing(`,"limits":{` + interval + `}`): {"interval"},
		outgoing(`,"limits":{` + interval + `,` + receiver + `}`):                       {"interval"},
		outgoing(`,"limits":{` + receiver + `}`):                                        nil,
		outgoing(`,"limits":{"debitAmount":` + amount + `}`):                            nil,
		outgoing(`,"limits":{"receiveAmount":` + amount + `,` + interval + `}`):         nil,
		`[{"type":"outgoing-payment","actions":["read"],"identifier":"` + alice + `"}]`: nil, // it cannot pay
		`[{"type":"incoming-payment","actions":["create"]}]`:                            nil,
		`[{"type":"quote","actions":["create"]}]`:                                       nil,
		incoming(alice):                            nil,
		incoming("https://wallet.example/Alice"):   {"owner's wallet address"},
		incoming("https://wallet.example/%61lice"): {"owner's wallet address"},
		incoming("https://wallet.example/bob"):     {"owner's wallet address"},
		`[{"type":"quote","actions":["create"]},{"type":"outgoing-payment","actions":["create"],"identifier":"https://wallet.example/s3cr3t"}]`: {"right 2", "right 2"},
	} {
		parsed, err := Parse(access)
		if err != nil {
			t.Fatalf("%s: %v", access, err)
		}
		got := Warnings(parsed, alice)
		if len(got) != len(want) {
			t.Errorf("%s: %q", access, got)
			continue
		}
		for i := range want {
			if !strings.Contains(got[i], want[i]) || strings.Contains(got[i], "s3cr3t") {
				t.Errorf("%s: %q, want %q", access, got[i], want[i])
			}
		}
	}
	if got := Warnings(json.RawMessage(incoming("https://wallet.example/bob")), ""); got != nil {
		t.Errorf("whose wallet it is, is not known: %q", got)
	}
	for _, access := range []string{``, `null`, `{}`, `[7,null,"x",{"identifier":7,"limits":[]}]`} {
		if got := Warnings(json.RawMessage(access), alice); got != nil {
			t.Errorf("%s: %q", access, got)
		}
	}
}
