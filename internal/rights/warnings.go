// SPDX-License-Identifier: MPL-2.0

package rights

import (
	"encoding/json"
	"fmt"
	"slices"
)

// stated is what one item of a list of rights says to its reader.
type stated struct {
	Type       string                     `json:"type"`
	Actions    []string                   `json:"actions"`
	Identifier *string                    `json:"identifier"`
	Limits     map[string]json.RawMessage `json:"limits"`
}

// readStated reads rights that Parse has checked; others, which a server may have told, say nothing.
func readStated(access json.RawMessage) []stated {
	var list []json.RawMessage
	_ = json.Unmarshal(access, &list)
	all := make([]stated, len(list))
	for i, raw := range list {
		var right stated
		if json.Unmarshal(raw, &right) == nil {
			all[i] = right
		}
	}
	return all
}

// Warnings returns what a reader of rights that are allowed may not expect of them, a sentence for
// each: payments without a limit, and an identifier that is not walletAddress, the owner's (empty:
// not known). They hold no value of the rights.
func Warnings(access json.RawMessage, walletAddress string) []string {
	var warnings []string
	for i, right := range readStated(access) {
		if reason := right.unlimited(); reason != "" {
			warnings = append(warnings, fmt.Sprintf("access: right %d: %s: there is no limit to what this grant can "+
				"spend; give limits with debitAmount or receiveAmount", i+1, reason))
		}
		if right.Identifier != nil && walletAddress != "" && *right.Identifier != walletAddress {
			warnings = append(warnings, fmt.Sprintf("access: right %d: identifier is not %s, the owner's wallet "+
				"address; servers compare them letter by letter, so the token may be good for nothing",
				i+1, walletAddress))
		}
	}
	return warnings
}

// unlimited returns why a right to pay has no limit to its amount that looks as if it had, or has
// none at all; empty if it has one. (A receiver is a limit: an incoming payment has an end.)
func (r stated) unlimited() string {
	_, debit := r.Limits["debitAmount"]
	_, receive := r.Limits["receiveAmount"]
	_, receiver := r.Limits["receiver"]
	_, interval := r.Limits["interval"]
	switch {
	case r.Type != "outgoing-payment" || !slices.Contains(r.Actions, "create") || debit || receive:
		return ""
	case interval:
		return "limits.interval limits nothing without an amount"
	case receiver:
		return ""
	case r.Limits != nil:
		return "limits is empty"
	}
	return "it has no limits"
}
