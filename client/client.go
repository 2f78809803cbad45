// SPDX-License-Identifier: MPL-2.0

// Package client sends requests to an Open Payments resource server with access
// tokens and signatures from Vault's Open Payments secrets engine. The
// application that uses it never has the client's private key.
//
// A [Client] is an [http.RoundTripper]: an http.Client that has it as its
// Transport sends signed requests, and so does the Open Payments SDK for Go that
// is given that http.Client. Who only wants the token's value calls
// [Client.Token].
package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"
)

// ErrClosed is what all methods but Close answer, wrapped, once Close was called.
var ErrClosed = errors.New("the client is closed")

// Options say what a Client uses. Only Grant is required.
type Options struct {
	// Mount is where the secrets engine is mounted; "op" if empty.
	Mount string
	// Grant is the name of the grant. It must be this Client's alone, or have
	// shared=true: a grant has one live token, and another reader would take it away
	// with each read. Clients of a shared grant have the same token; once in its life
	// another of them replaces it, and a request that finds it dead is sent once more.
	Grant string
	// Base sends what was signed, and all other requests as they are. It must not
	// repeat a POST by itself. If nil it is http.DefaultTransport's like, but keeps
	// no connection that is idle for 3 s: servers of Open Payments close theirs
	// after 5 s, and a POST that meets that moment may or may not have paid.
	Base http.RoundTripper
}

// TokenSource is for code that only wants the token, and for its tests. A
// *Client is one.
type TokenSource interface {
	// Token answers a token that is live, as far as is known.
	Token(ctx context.Context) (Token, error)
}

// Token is an access token of a grant, as op/token/NAME answers it.
type Token struct {
	// Value is the token. It goes into the header "Authorization: GNAP <Value>" of
	// requests that the client's key signs.
	Value string `json:"access_token"`
	// ExpiresAt is when the token expires. A renewal, another reader or Close ends
	// it earlier: do not keep a Token, but ask for it each time.
	ExpiresAt time.Time `json:"expires_at"`
	// Generation numbers the grant's tokens; a newer one has a higher number.
	Generation int `json:"generation"`
	// ResourceServer is the URL below which the token is good, empty if not known.
	ResourceServer string `json:"resource_server"`
	// WalletAddress is that of the grant's owner, empty if not known.
	WalletAddress string `json:"wallet_address"`
}

// Client gets access tokens of one grant from Vault, and sends requests that
// Vault has signed. Its methods may be called from several goroutines.
//
// The first use reads op/token/NAME. When two thirds of the lease are over it is
// renewed in the background, or the token read anew if the lease cannot be
// renewed, so that callers need not wait. A Client that nobody has used since it
// got its token does not do so: its lease ends by itself, Vault and the
// authorization server have no work with it, and its next use reads again. All
// callers share one renewal or read; a caller whose context ends stops waiting,
// and the others go on. When reads fail, callers get the same error at once for
// about a second, doubling up to half a minute; a token that is still live is used
// meanwhile.
//
// The Vault token's own renewal is the caller's business. The leases end with
// it. A caching Vault Agent or Proxy must not be in between: it would answer with
// the token that was refused.
type Client struct {
	vault     *api.Client
	base      http.RoundTripper
	tokenPath string
	signPath  string

	mu       sync.Mutex
	lease    *lease  // the newest; nil before the first read and after Close
	flight   *flight // the renewal or read that is under way, nil if none
	timer    *time.Timer
	failure  error // why the last read failed
	failing  pause // since then
	refusing pause // since the resource server refused a new token, too
	closed   bool
}

var _ TokenSource = (*Client)(nil)

// New answers a Client that uses vault, with its address, its token and its
// retries, as they are at each request. Nothing is read before the first use.
// The error is for a Grant or a vault that is missing.
func New(vault *api.Client, o Options) (*Client, error) {
	mount := strings.Trim(o.Mount, "/")
	if mount == "" {
		mount = "op"
	}
	switch {
	case vault == nil:
		return nil, errors.New("a Vault client is needed")
	case o.Grant == "":
		return nil, errors.New("Options.Grant is needed: the name of a grant")
	case o.Base == nil:
		o.Base = defaultBase()
	}
	return &Client{
		vault:     vault,
		base:      o.Base,
		tokenPath: mount + "/token/" + o.Grant,
		signPath:  mount + "/sign/" + o.Grant,
		failing:   newPause(),
		refusing:  newPause(),
	}, nil
}

func defaultBase() http.RoundTripper {
	shared, ok := http.DefaultTransport.(*http.Transport)
	if !ok { // the application has put something else there
		return http.DefaultTransport
	}
	own := shared.Clone()
	own.IdleConnTimeout = 3 * time.Second
	return own
}

// Token answers the grant's token. Where there is no live one it waits, no longer
// than ctx, for Vault to rotate the grant, and answers Vault's error (an
// [api.ResponseError]) if it cannot.
func (c *Client) Token(ctx context.Context) (Token, error) {
	l, err := c.live(ctx, nil)
	if err != nil {
		return Token{}, err
	}
	return l.Token, nil
}

// Close revokes the lease, and ends all work in the background. That kills the
// token, unless the grant is shared, or its on_revoke is keep, or the token ends in
// half a minute anyway; requests that are under way may find it dead. Close waits,
// no longer than ctx, for a read or renewal that is under way. To close a Client
// twice is fine; where it has failed, closing it again tries again, and otherwise
// the lease ends by itself.
func (c *Client) Close(ctx context.Context) error {
	c.mu.Lock()
	c.closed = true
	c.arm()
	f := c.flight
	c.mu.Unlock()
	if f != nil {
		select {
		case <-f.done:
		case <-ctx.Done():
			return fmt.Errorf("wait for the answer to a read or renewal of %s: %w", c.tokenPath, ctx.Err())
		}
	}
	c.mu.Lock()
	l := c.lease
	c.mu.Unlock()
	if l == nil || !time.Now().Before(l.ends) {
		return nil
	}
	// Not Sys().Revoke: its URL, which errors and logs show, holds the lease's id,
	// and who knows that can renew the lease.
	_, err := c.vault.Logical().WriteWithContext(ctx, "sys/leases/revoke", map[string]any{"lease_id": l.id, "sync": true})
	if err != nil {
		return fmt.Errorf("revoke the lease of %s: %w", c.tokenPath, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lease = nil
	return nil
}
