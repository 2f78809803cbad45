// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"encoding/json"
	"slices"
	"time"
)

// limits are what an outgoing-payment right is limited by (limits of the OpenAPI document).
type limits struct {
	Receiver      string  `json:"receiver"`
	Interval      string  `json:"interval"`
	DebitAmount   *amount `json:"debitAmount"`
	ReceiveAmount *amount `json:"receiveAmount"`
}

// right is one right of a grant.
type right struct {
	Type       string   `json:"type"`
	Actions    []string `json:"actions"`
	Identifier string   `json:"identifier"`
	Limits     limits   `json:"limits"`
}

// parseRights reads rights that were checked when the grant was asked for.
func parseRights(access []json.RawMessage) []right {
	rights := make([]right, 0, len(access))
	for _, raw := range access {
		var r right
		if json.Unmarshal(raw, &r) == nil {
			rights = append(rights, r)
		}
	}
	return rights
}

// anyWallet stands for the wallet address where a request names none.
const anyWallet = ""

// gives reports whether a right is about an action on a wallet address. An identifier is compared as it is written.
func (r right) gives(kind, action, wallet string) bool {
	return r.Type == kind && slices.Contains(r.Actions, action) &&
		(r.Identifier == "" || wallet == anyWallet || r.Identifier == wallet)
}

// limitsOf are the limits of the rights of a grant to make payments from a wallet address: one of them must be kept.
func limitsOf(g *grant, wallet string) []limits {
	var found []limits
	for _, r := range parseRights(g.access) {
		if r.gives(typeOutgoing, "create", wallet) {
			found = append(found, r.Limits)
		}
	}
	return found
}

// window is the time whose payments count now: all time without an interval. It reports false if nothing can be paid now,
// because the interval has not begun, is over or cannot be read.
func (l limits) window(now time.Time) (span, bool) {
	if l.Interval == "" {
		return span{}, true
	}
	i, err := parseInterval(l.Interval)
	if err != nil {
		return span{}, false
	}
	return i.turn(now)
}

// allow reports whether a payment keeps the limits when so much was spent before. Both amounts are of the sandbox's
// asset, and so a limit in another one is never kept.
func (l limits) allow(receiver string, units, spent uint64) bool {
	if l.Receiver != "" && l.Receiver != receiver {
		return false
	}
	for _, most := range []*amount{l.DebitAmount, l.ReceiveAmount} {
		if most == nil {
			continue
		}
		if !most.isOurs() || spent > most.units() || units > most.units()-spent {
			return false
		}
	}
	return true
}
