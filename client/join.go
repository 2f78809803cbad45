// SPDX-License-Identifier: MPL-2.0

package client

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"
)

const (
	maxJoined      = 250       // the engine signs no more in one call
	maxJoinedBytes = 512 << 10 // of JSON; a longer request goes alone
	joinTime       = 100 * time.Millisecond

	batchField = "batch_input"
)

// signatures has requests signed by Vault. A call to a plugin costs Vault more than a signature does,
// so while one is in progress, further requests wait and go together in the next. Nothing waits for
// company: a request that finds no call in progress goes at once. If a call takes longer than
// joinTime, the next one starts beside it.
type signatures struct {
	vault *api.Client
	path  string

	mu      sync.Mutex
	waiting []*unsigned // first in, first out
	current *signCall   // that the waiting requests wait for; nil if there is none
	apart   backOff     // after Vault refused a batch as such: each request has a call of its own
}

// unsigned is a request to be signed.
type unsigned struct {
	ctx   context.Context // of the caller
	lease *lease
	item  map[string]any // method, url and body
	size  int            // of item as JSON
	call  *signCall      // nil while it waits

	done chan struct{} // closed at the end, after data and err have been set
	data map[string]any
	err  error
}

// signCall is a call of op/sign in progress. It is independent of its members' contexts, and cancelled
// when all of them have left.
type signCall struct {
	members []*unsigned
	present int // members that still wait for it
	cancel  context.CancelFunc
}

// sign returns the headers and the body of a signed request, or Vault's error as if the request had
// gone alone.
func (s *signatures) sign(ctx context.Context, l *lease, item map[string]any) (map[string]any, error) {
	encoded, err := json.Marshal(item)
	if err != nil {
		return nil, err
	}
	u := &unsigned{ctx: ctx, lease: l, item: item, size: len(encoded), done: make(chan struct{})}
	s.mu.Lock()
	s.waiting = append(s.waiting, u)
	s.startCalls()
	s.mu.Unlock()
	select {
	case <-u.done:
		return u.data, u.err
	case <-ctx.Done():
		s.leave(u)
		return nil, ctx.Err()
	}
}

func (s *signatures) leave(u *unsigned) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u.call == nil {
		s.waiting = slices.DeleteFunc(s.waiting, func(other *unsigned) bool { return other == u })
		return
	}
	if u.call.present--; u.call.present == 0 {
		u.call.cancel()
	}
}

// startCalls starts the next call, if none is in progress. The caller holds the lock.
func (s *signatures) startCalls() {
	for s.current == nil && len(s.waiting) > 0 {
		apart, n := s.apart.active(), 1
		if !apart {
			n = joinable(s.waiting)
		}
		c := &signCall{members: slices.Clone(s.waiting[:n]), present: n}
		s.waiting = slices.Delete(s.waiting, 0, n)
		ctx := context.WithoutCancel(c.members[0].ctx)
		ctx, c.cancel = context.WithCancel(ctx)
		for _, u := range c.members {
			u.call = c
		}
		if !apart {
			s.current = c
		}
		go s.run(ctx, c)
	}
}

// joinable returns how many of the waiting requests go together in the next call: those with the first
// one's token.
func joinable(waiting []*unsigned) int {
	size := len("[]") - len(",")
	for n, u := range waiting {
		size += u.size + len(",")
		if n > 0 && (n == maxJoined || size > maxJoinedBytes || !u.lease.signsLike(waiting[0].lease)) {
			return n
		}
	}
	return len(waiting)
}

// signsLike reports whether requests with both leases can be signed in one call.
func (l *lease) signsLike(other *lease) bool {
	return l.Value == other.Value && l.ticket == other.ticket
}

func (s *signatures) run(ctx context.Context, c *signCall) {
	defer c.cancel()
	late := time.AfterFunc(joinTime, func() { s.unblock(c) })
	defer late.Stop()
	alone := s.call(ctx, c.members)
	runtime.Gosched() // whoever has a request ready by now joins the next call
	s.unblock(c)
	var calls sync.WaitGroup
	for _, u := range alone {
		calls.Go(func() { u.finish(s.writeOne(ctx, u)) })
	}
	calls.Wait()
}

// call has requests signed in one call, and returns those that have to go alone.
func (s *signatures) call(ctx context.Context, members []*unsigned) (alone []*unsigned) {
	if len(members) == 1 {
		members[0].finish(s.writeOne(ctx, members[0]))
		return nil
	}
	results, err := s.writeBatch(ctx, members)
	if isBatchRefused(err) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.apart.start()
		return members
	}
	for i, u := range members {
		if err != nil {
			u.finish(nil, err)
			continue
		}
		result, _ := results[i].(map[string]any)
		refusal, _ := result["error"].(string)
		switch {
		case result["headers"] != nil:
			u.finish(result, nil)
		case isFieldError(refusal):
			u.finish(nil, s.asIfAlone(refusal))
		default: // only a call of its own can tell what its error is alone
			alone = append(alone, u)
		}
	}
	return alone
}

func (u *unsigned) finish(data map[string]any, err error) {
	u.data, u.err = data, err
	close(u.done)
}

// unblock lets the next call start, if the waiting requests wait for this one.
func (s *signatures) unblock(c *signCall) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == c {
		s.current = nil
		s.startCalls()
	}
}

// writeOne has one request signed.
func (s *signatures) writeOne(ctx context.Context, u *unsigned) (map[string]any, error) {
	fields := u.lease.credentials()
	maps.Copy(fields, u.item)
	data, err := s.write(ctx, fields)
	if err == nil && data["headers"] == nil {
		err = errNotTheEngine
	}
	return data, err
}

// writeBatch has requests with the same token signed, and returns a result for each.
func (s *signatures) writeBatch(ctx context.Context, members []*unsigned) ([]any, error) {
	items := make([]map[string]any, len(members))
	for i, u := range members {
		items[i] = u.item
	}
	text, err := json.Marshal(items)
	if err != nil {
		return nil, err
	}
	fields := members[0].lease.credentials()
	fields[batchField] = string(text)
	data, err := s.write(ctx, fields)
	if err != nil {
		return nil, err
	}
	results, _ := data["batch_results"].([]any)
	if len(results) != len(members) {
		return nil, errNotTheEngine
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.apart.reset()
	return results, nil
}

func (s *signatures) write(ctx context.Context, fields map[string]any) (map[string]any, error) {
	secret, err := s.vault.Logical().WriteWithContext(ctx, s.path, fields)
	if err == nil && secret == nil {
		err = errNotTheEngine
	}
	if err != nil {
		return nil, err
	}
	return secret.Data, nil
}

// isBatchRefused reports whether Vault refused a batch because it is one: by a policy's parameters,
// for its length, or because this version of the engine knows none.
func isBatchRefused(err error) bool {
	var refusal *api.ResponseError
	if !errors.As(err, &refusal) {
		return false
	}
	switch refusal.StatusCode {
	case http.StatusForbidden, http.StatusRequestEntityTooLarge:
		return true
	case http.StatusBadRequest:
		return strings.Contains(strings.Join(refusal.Errors, " "), batchField)
	}
	return false
}

// isFieldError reports whether an error in a batch is one that is a 400 alone. All of these begin with
// the name of the field that they are about; that is part of op/sign's contract.
func isFieldError(text string) bool {
	field, _, found := strings.Cut(text, ":")
	return found && slices.Contains([]string{"access_token", "signing_ticket", "method", "url", "body"}, field)
}

// asIfAlone returns an error of a batch's item as the error that Vault's API returns for a request.
func (s *signatures) asIfAlone(text string) error {
	return &api.ResponseError{
		HTTPMethod:    http.MethodPut,
		URL:           s.vault.NewRequest(http.MethodPut, "/v1/"+s.path).URL.String(),
		StatusCode:    http.StatusBadRequest,
		Errors:        []string{text},
		NamespacePath: s.vault.Namespace(),
	}
}
