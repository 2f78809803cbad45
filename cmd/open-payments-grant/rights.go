// SPDX-License-Identifier: MPL-2.0

package main

import (
	"fmt"
	"slices"
	"strings"
)

// contains reports whether a JSON value has everything that another one has. Servers add members to
// the rights that they were asked for, and the order of a list of rights has no meaning.
func contains(have, want any) bool {
	switch want := want.(type) {
	case map[string]any:
		have, ok := have.(map[string]any)
		if !ok {
			return false
		}
		for key, value := range want {
			if there, ok := have[key]; !ok || !contains(there, value) {
				return false
			}
		}
		return true
	case []any:
		have, ok := have.([]any)
		missing := func(w any) bool {
			return !slices.ContainsFunc(have, func(h any) bool { return contains(h, w) })
		}
		return ok && len(have) == len(want) && !slices.ContainsFunc(want, missing)
	}
	return fmt.Sprint(have) == fmt.Sprint(want)
}

// rights returns a short description of the grant's rights.
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

// amount formats an amount: value 500 with assetScale 2 as 5.00.
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
