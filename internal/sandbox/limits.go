// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"encoding/json"
	"slices"
	"time"
)

// limits are the limits of an outgoing-payment right (limits in the OpenAPI document).
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

// parseRights parses rights that were validated when the grant was asked for.
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

// anyWallet stands for the wallet address in a request that names none.
const anyWallet = ""

// gives reports whether a right includes an action on a wallet address. Identifiers are compared as
// they are written.
func (r right) gives(kind, action, wallet string) bool {
	return r.Type == kind && slices.Contains(r.Actions, action) &&
		(r.Identifier == "" || wallet == anyWallet || r.Identifier == wallet)
}

// limitsOf returns the limits of a grant's rights to pay from a wallet address. A payment must stay
// within one of them.
func limitsOf(g *grant, wallet string) []limits {
	var found []limits
	for _, r := range parseRights(g.access) {
		if r.gives(typeOutgoing, "create", wallet) {
			found = append(found, r.Limits)
		}
	}
	return found
}

// window returns the time span whose payments count now, which is all time if there is no interval.
// It reports false if nothing can be paid now, because the interval has not begun, is over or
// cannot be parsed.
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

// allow reports whether a payment stays within the limits, given what was spent before. Both
// amounts are in the sandbox's asset, so a payment never stays within a limit in another asset.
func (l limits) allow(receiver string, units, spent uint64) bool {
	if l.Receiver != "" && l.Receiver != receiver {
		return false
	}
	for _, most := range []*amount{l.DebitAmount, l.ReceiveAmount} {
		if most == nil {
			continue
		}
		if !most.isSandboxAsset() || spent > most.units() || units > most.units()-spent {
			return false
		}
	}
	return true
}
