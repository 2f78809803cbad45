// SPDX-License-Identifier: MPL-2.0

package backend

import "sync"

// remembered is something that was read from storage. Signing needs it for each request, and to read
// it anew would be one more question to Vault. It is forgotten whenever what is stored may have
// changed.
type remembered[T any] struct {
	mu      sync.Mutex
	changes int // what was read before a change is not remembered after it
	known   *T
}

// get returns what is remembered, or else what read returns; nil if there is none.
func (r *remembered[T]) get(read func() (*T, error)) (*T, error) {
	known, changes := r.peek()
	if known != nil {
		return known, nil
	}
	known, err := read()
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if changes == r.changes {
		r.known = known
	}
	return known, nil
}

// peek returns what is remembered, if anything, and the number of changes so far.
func (r *remembered[T]) peek() (known *T, changes int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.known, r.changes
}

func (r *remembered[T]) forget() { r.remember(nil) }

// remember replaces what is remembered by what was just stored.
func (r *remembered[T]) remember(stored *T) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changes++
	r.known = stored
}
