// SPDX-License-Identifier: MPL-2.0

package vaulttest

import (
	"bytes"
	"sync"
)

// Output is what a program has written so far. It can be read while the program writes. The zero value
// is valid.
type Output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}
