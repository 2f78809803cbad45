// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// How times are written for the owner.
const (
	timeOfDay   = "15:04 UTC"
	dateAndTime = "2 January 2006, 15:04 UTC"
)

// shownRight is a right in words that the owner understands.
type shownRight struct {
	Wallet  string // empty if all rights are about the same one
	Actions []string
	Pays    bool
	Most    string // the maximum that may be paid; empty if there is none
	Receive bool   // Most limits what receivers get, not what leaves the wallet
	From    string // when the interval begins
	Only    string // the only receiver
}

// actionTexts describe what each action lets a client do.
var actionTexts = map[string]map[string]string{
	typeOutgoing: {
		"create":   "Send payments from the wallet",
		"read":     "See the payments that it has sent itself",
		"read-all": "See all payments from the wallet, whoever has sent them",
		"list":     "List the payments that it has sent itself",
		"list-all": "List all payments from the wallet, whoever has sent them",
	},
	typeIncoming: {
		"create":   "Ask for payments into the wallet",
		"read":     "See the payments that it has asked for itself",
		"read-all": "See all payments into the wallet, whoever has asked for them",
		"list":     "List the payments that it has asked for itself",
		"list-all": "List all payments into the wallet, whoever has asked for them",
		"complete": "Say that a payment is complete",
	},
	typeQuote: {
		"create":   "Ask what a payment would cost",
		"read":     "See the costs that it has asked for itself",
		"read-all": "See the costs of payments, whoever has asked for them",
	},
}

// showRights describes rights in words and returns the wallet addresses that they are about.
func showRights(access []json.RawMessage) (shown []shownRight, wallets []string) {
	rights := parseRights(access)
	for _, r := range rights {
		if r.Identifier != "" && !slices.Contains(wallets, r.Identifier) {
			wallets = append(wallets, r.Identifier)
		}
	}
	for _, r := range rights {
		s := shownRight{Only: r.Limits.Receiver}
		if len(wallets) > 1 {
			s.Wallet = r.Identifier
		}
		for _, action := range r.Actions {
			s.Actions = append(s.Actions, actionTexts[r.Type][action])
		}
		s.Pays = r.gives(typeOutgoing, "create", anyWallet)
		most := r.Limits.DebitAmount
		if most == nil {
			most, s.Receive = r.Limits.ReceiveAmount, r.Limits.ReceiveAmount != nil
		}
		if most != nil {
			s.Most, s.From = most.words()+" "+periodWords(r.Limits.Interval), beginWords(r.Limits.Interval)
		}
		shown = append(shown, s)
	}
	return shown, wallets
}

// summaries are what a client wants to do with a wallet, in the order of the page's question. Each
// stands for rights of a type, all or those to create.
var summaries = []struct{ kind, create, other string }{
	{typeOutgoing, "send payments from your wallet", "see payments from your wallet"},
	{typeIncoming, "ask for payments into your wallet", "see payments into your wallet"},
	{typeQuote, "ask what payments from your wallet would cost", "see what payments from your wallet would cost"},
}

// summary returns what rights are about, as the end of "Allow the client to …".
func summary(access []json.RawMessage) string {
	rights := parseRights(access)
	var parts []string
	for _, one := range summaries {
		ofKind := func(r right) bool { return r.Type == one.kind && len(r.Actions) > 0 }
		creates := func(r right) bool { return r.gives(one.kind, "create", anyWallet) }
		switch {
		case slices.ContainsFunc(rights, creates):
			parts = append(parts, one.create)
		case slices.ContainsFunc(rights, ofKind):
			parts = append(parts, one.other)
		}
	}
	switch len(parts) {
	case 0:
		return "do nothing with your wallet"
	case 1:
		return parts[0]
	}
	return strings.Join(parts[:len(parts)-1], ", ") + " and " + parts[len(parts)-1]
}

// words writes an amount for people: 500 of scale 2 is 5.00.
func (a amount) words() string {
	digits := fmt.Sprint(a.units())
	if missing := a.AssetScale + 1 - len(digits); missing > 0 {
		digits = strings.Repeat("0", missing) + digits
	}
	whole, fraction := digits[:len(digits)-a.AssetScale], digits[len(digits)-a.AssetScale:]
	for at := len(whole) - 3; at > 0; at -= 3 {
		whole = whole[:at] + "," + whole[at:]
	}
	if fraction != "" {
		whole += "." + fraction
	}
	return whole + " " + a.AssetCode
}

// periodWords say how often an amount may be paid.
func periodWords(text string) string {
	if text == "" {
		return "in all"
	}
	i, err := parseInterval(text)
	switch {
	case err != nil:
		return "in a period that this wallet cannot read, so that nothing can be paid"
	case i.times == 0:
		return i.every.words() + ", without end"
	case i.times == 1:
		return i.every.words() + ", once"
	default:
		return fmt.Sprintf("%s, %d times", i.every.words(), i.times)
	}
}

func beginWords(text string) string {
	i, err := parseInterval(text)
	if err != nil {
		return ""
	}
	return i.start.Format(dateAndTime)
}

// words are "each month" or "every 3 months and 2 days".
func (p period) words() string {
	var parts []string
	single := ""
	seconds := p.seconds
	for _, unit := range []struct {
		name  string
		count int64
	}{
		{"year", int64(p.months / 12)}, {"month", int64(p.months % 12)},
		{"week", weeks(p)}, {"day", days(p)},
		{"hour", seconds % 86400 / 3600}, {"minute", seconds % 3600 / 60}, {"second", seconds % 60},
	} {
		switch unit.count {
		case 0:
		case 1:
			parts, single = append(parts, "1 "+unit.name), unit.name
		default:
			parts = append(parts, fmt.Sprintf("%d %ss", unit.count, unit.name))
		}
	}
	if len(parts) == 1 && single != "" {
		return "each " + single
	}
	return "every " + strings.Join(parts, " and ")
}

// weeks and days write whole weeks as such, and hours that make days as days.
func weeks(p period) int64 {
	if all := int64(p.days) + p.seconds/86400; all%7 == 0 {
		return all / 7
	}
	return 0
}

func days(p period) int64 { return int64(p.days) + p.seconds/86400 - 7*weeks(p) }
