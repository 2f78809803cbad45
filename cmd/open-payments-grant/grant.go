// SPDX-License-Identifier: MPL-2.0

package main

import (
	"fmt"
	"maps"
	"strings"
	"time"
)

// grant is what the engine says of a grant, and its name.
type grant map[string]any

func newGrant(name string, data map[string]any) grant {
	g := grant(maps.Clone(data))
	if g == nil {
		g = grant{}
	}
	g["name"] = name
	return g
}

func (g grant) text(field string) string {
	if g[field] == nil {
		return ""
	}
	return fmt.Sprint(g[field])
}

func (g grant) active() bool { return g.text("status") == "active" }

// pending tells whether the owner is being asked; an active grant may be used
// meanwhile.
func (g grant) pending() bool { return g.text("interact_url") != "" }

// until is when the owner's time to decide is over. The engine tells whole
// seconds, rounded down.
func (g grant) until() time.Time {
	at, err := time.Parse(time.RFC3339, g.text("pending_until"))
	if err != nil {
		return time.Time{}
	}
	return at.Add(time.Second)
}

// sameAs tells whether the grant has the rights that are asked for, on the same wallet.
func (g grant) sameAs(access any, wallet string) bool {
	return g.text("wallet_address") == walletURL(wallet) && holds(g["access"], access)
}

// walletURL is a wallet address as the engine stores it: a payment pointer is
// short for a URL.
func walletURL(wallet string) string {
	pointer, ok := strings.CutPrefix(wallet, "$")
	if !ok {
		return wallet
	}
	host, path, _ := strings.Cut(pointer, "/")
	if path == "" {
		path = ".well-known/pay"
	}
	return "https://" + host + "/" + path
}

// holds tells whether one JSON value has all that is in another. Servers add to
// rights what they know better, and the order of lists says nothing in them.
func holds(have, want any) bool {
	switch want := want.(type) {
	case map[string]any:
		have, ok := have.(map[string]any)
		if !ok {
			return false
		}
		for key, value := range want {
			if there, ok := have[key]; !ok || !holds(there, value) {
				return false
			}
		}
		return true
	case []any:
		have, ok := have.([]any)
		return ok && len(have) == len(want) && every(want, func(w any) bool {
			return some(have, func(h any) bool { return holds(h, w) })
		})
	}
	return fmt.Sprint(have) == fmt.Sprint(want)
}

func every(list []any, ok func(any) bool) bool {
	return !some(list, func(v any) bool { return !ok(v) })
}

func some(list []any, ok func(any) bool) bool {
	for _, v := range list {
		if ok(v) {
			return true
		}
	}
	return false
}

// rights are the grant's rights in a few words.
func (g grant) rights() string {
	list, _ := g["access"].([]any)
	var short []string
	for _, one := range list {
		if right, ok := one.(map[string]any); ok {
			short = append(short, shortRight(right))
		}
	}
	return strings.Join(short, "; ")
}

func shortRight(right map[string]any) string {
	var actions []string
	list, _ := right["actions"].([]any)
	for _, a := range list {
		actions = append(actions, fmt.Sprint(a))
	}
	text := fmt.Sprint(right["type"], " ", strings.Join(actions, ","))
	limits, _ := right["limits"].(map[string]any)
	for _, kind := range []string{"debitAmount", "receiveAmount"} {
		if sum, ok := limits[kind].(map[string]any); ok {
			text += " " + amount(sum)
		}
	}
	if interval, ok := limits["interval"].(string); ok {
		text += " " + interval
	}
	return text
}

// amount writes 500 of scale 2 as 5.00.
func amount(sum map[string]any) string {
	digits, scale := fmt.Sprint(sum["value"]), 0
	if _, err := fmt.Sscan(fmt.Sprint(sum["assetScale"]), &scale); err != nil || scale < 0 || scale > 255 {
		return digits + " " + fmt.Sprint(sum["assetCode"])
	}
	if scale > 0 {
		if missing := scale + 1 - len(digits); missing > 0 {
			digits = strings.Repeat("0", missing) + digits
		}
		digits = digits[:len(digits)-scale] + "." + digits[len(digits)-scale:]
	}
	return digits + " " + fmt.Sprint(sum["assetCode"])
}
