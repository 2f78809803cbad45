// SPDX-License-Identifier: MPL-2.0

package main

import (
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"
)

// grant is the engine's description of a grant, with its name.
type grant map[string]any

func newGrant(name string, data map[string]any) grant {
	g := grant(maps.Clone(data))
	if g == nil {
		g = grant{}
	}
	g["name"] = name
	return g
}

// text returns a field as text; empty if there is none.
func (g grant) text(field string) string {
	if g[field] == nil {
		return ""
	}
	return fmt.Sprint(g[field])
}

func (g grant) active() bool { return g.text("status") == "active" }

// pending reports whether the owner has been asked and has not decided. The grant may be active at
// the same time.
func (g grant) pending() bool { return g.text("interact_url") != "" }

// pendingUntil returns when the owner's time to decide is over; zero if unknown. The engine reports
// whole seconds, rounded down.
func (g grant) pendingUntil() time.Time {
	at, err := time.Parse(time.RFC3339, g.text("pending_until"))
	if err != nil {
		return time.Time{}
	}
	return at.Add(time.Second)
}

func (g grant) generation() int {
	n, err := strconv.Atoi(g.text("generation"))
	if err != nil {
		return 0
	}
	return n
}

// has reports whether the grant has these rights, for this wallet.
func (g grant) has(access any, wallet string) bool {
	return g.text("wallet_address") == walletURL(wallet) && contains(g["access"], access)
}

// walletURL returns a wallet address as the engine stores it: a payment pointer as its URL.
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
