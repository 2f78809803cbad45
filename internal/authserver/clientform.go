// SPDX-License-Identifier: MPL-2.0

package authserver

import (
	"encoding/json"
	"sync"
)

// clientForm is how a grant request names the client (OpenAPI grant-request, client). Servers up to
// spring 2026 take the string only, and answer the object with a 400 without a code.
type clientForm int

const (
	clientObject clientForm = iota // {"walletAddress":"https://…"}: what the SDK sends
	clientString                   // "https://…"
)

func (f clientForm) other() clientForm { return clientString - f }

// clientForms remembers which origins take the string. The zero value remembers none. It is bounded:
// what is forgotten costs one request.
type clientForms struct {
	mu      sync.Mutex
	strings map[string]bool
}

const maxClientForms = 1000

func (c *clientForms) of(origin string) clientForm {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.strings[origin] {
		return clientString
	}
	return clientObject
}

// remember keeps the form that an origin has accepted.
func (c *clientForms) remember(origin string, f clientForm) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case f == clientObject:
		delete(c.strings, origin)
		return
	case c.strings == nil, len(c.strings) >= maxClientForms:
		c.strings = map[string]bool{}
	}
	c.strings[origin] = true
}

// withClientString returns a grant request whose client is the wallet address as a string.
func withClientString(request []byte, walletAddress string) []byte {
	members := map[string]any{}
	for name, value := range membersOf(request) {
		members[name] = value
	}
	members["client"] = walletAddress
	encoded, err := json.Marshal(members)
	if err != nil {
		return request
	}
	return encoded
}
