// SPDX-License-Identifier: MPL-2.0

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

// ErrClosed is returned, wrapped, by every method except Close once Close has been called.
var ErrClosed = errors.New("the client is closed")

// Options configure a Client. Either Grant or Role is required.
type Options struct {
	// Mount is the path at which the secrets engine is mounted; "op" if empty.
	Mount string
	// Grant is the name of the grant. Either no other reader uses it, or it has shared=true: a
	// grant has one live token, and each read by another reader replaces it. Clients of a shared
	// grant hold the same token. Once in that token's lifetime one of them replaces it; a request
	// by another one that then finds its token dead is sent once more.
	Grant string
	// Role is the name of a role, in place of Grant: the Client gets a grant of its own, which no
	// other reader can disturb. So any number of replicas can have the same Role.
	Role string
	// Base sends signed requests, and forwards all others unchanged. It must not retry a POST. If
	// nil, it is a copy of http.DefaultTransport that closes connections after 3 s of idle time:
	// Open Payments servers close theirs after 5 s, and a POST that is sent at that moment may or
	// may not have paid.
	Base http.RoundTripper
	// TokenReplaced, if not nil, is called when Vault says that a token is not the grant's current
	// one and the Client has not replaced it: another reader has, or somebody has rotated the grant.
	// Readers of a shared grant do so once in a token's lifetime; others are in each other's way.
	// It must not block.
	TokenReplaced func()
}

// TokenSource returns access tokens. Code that needs only the token can depend on it instead of a
// Client, and its tests can replace it.
type TokenSource interface {
	// Token returns a token that is live as far as is known.
	Token(ctx context.Context) (Token, error)
}

// Token is an access token of a grant, as returned by op/token/NAME or op/creds/NAME.
type Token struct {
	// Value is the token itself. It belongs in the header "Authorization: GNAP <Value>" of requests
	// signed with the client's key.
	Value string `json:"access_token"`
	// ExpiresAt is when the token expires. A renewal, another reader or Close ends it earlier: do
	// not keep a Token, ask for it each time.
	ExpiresAt time.Time `json:"expires_at"`
	// Generation numbers the grant's tokens; a newer token has a higher number.
	Generation int `json:"generation"`
	// ResourceServer is the base URL of the requests that the token authorizes; empty if unknown.
	ResourceServer string `json:"resource_server"`
	// WalletAddress is the wallet address of the grant's owner; empty if unknown.
	WalletAddress string `json:"wallet_address"`
}

// Client gets access tokens of one grant, or of grants of one role, from Vault, and sends requests
// that Vault has signed. It is safe for concurrent use.
//
// The first use reads op/token/NAME (op/creds/NAME for a role). After two thirds of the lease the
// Client renews it in the background, or reads the token again if the lease is not renewable, so that
// callers need not wait. A Client that has not been used since it got its token does neither: its
// lease expires, which costs Vault and the authorization server nothing, and the next use reads
// again. All callers share one renewal or read; a caller whose context ends stops waiting, and the
// others go on. Two reads begin at least a second apart, so that two readers of one grant do not race
// each other. After a failed read, callers get the same error at once for about a second, doubling up
// to half a minute; a token that is still live is used in the meantime.
//
// Renewing the Vault token is up to the caller; the leases end with it. Do not put a Vault Agent or
// Vault Proxy that caches between a Client and Vault: it would return the rejected token again.
type Client struct {
	vault      *api.Client
	base       http.RoundTripper
	replaced   func() // Options.TokenReplaced
	tokenPath  string
	signPath   string
	signatures *signatures
	withTicket bool // signing takes the lease's ticket: it is a role's

	mu         sync.Mutex
	lease      *lease   // the newest; nil before the first read and after Close
	refreshing *refresh // the renewal or read in progress; nil if there is none
	timer      *time.Timer
	lastRead   time.Time // when the last successful one began; belongs to the refresh in progress
	readErr    error     // why the last read failed
	reads      backOff   // after failed reads
	retries    backOff   // after the resource server rejected a new token as well
	closed     bool
}

var _ TokenSource = (*Client)(nil)

// New returns a Client that sends requests through vault, with the address, token and retry
// settings that vault has at the time of each request. It reads nothing until the first use. It
// returns an error if vault is nil, or unless either o.Grant or o.Role is given.
func New(vault *api.Client, o Options) (*Client, error) {
	mount := strings.Trim(o.Mount, "/")
	if mount == "" {
		mount = "op"
	}
	switch {
	case vault == nil:
		return nil, errors.New("a Vault client is required")
	case (o.Grant == "") == (o.Role == ""):
		return nil, errors.New("either Options.Grant or Options.Role is required: the name of a grant or a role")
	case o.Base == nil:
		o.Base = defaultBase()
	}
	if o.TokenReplaced == nil {
		o.TokenReplaced = func() {}
	}
	c := &Client{vault: vault, base: o.Base, replaced: o.TokenReplaced, reads: newBackOff(), retries: newBackOff()}
	if o.Role != "" {
		c.tokenPath = mount + "/creds/" + o.Role
		c.signPath = c.tokenPath + "/sign"
		c.withTicket = true
	} else {
		c.tokenPath = mount + "/token/" + o.Grant
		c.signPath = mount + "/sign/" + o.Grant
	}
	c.signatures = &signatures{vault: vault, path: c.signPath, apart: newBackOff()}
	return c, nil
}

func defaultBase() http.RoundTripper {
	shared, ok := http.DefaultTransport.(*http.Transport)
	if !ok { // the application has replaced it
		return http.DefaultTransport
	}
	own := shared.Clone()
	own.IdleConnTimeout = 3 * time.Second
	return own
}

// Token returns the grant's token. If there is no live one, it waits, no longer than ctx, for Vault
// to rotate the grant, or to ask for one for the role, and returns Vault's error (an
// [api.ResponseError]) if Vault cannot.
func (c *Client) Token(ctx context.Context) (Token, error) {
	l, err := c.usableLease(ctx, nil)
	if err != nil {
		return Token{}, err
	}
	return l.Token, nil
}

// Close revokes the lease and stops all background work. That kills the token, unless the grant is
// shared, its on_revoke is "keep", or the token expires within half a minute; requests in progress
// may find it dead. The grant of a role's lease is cancelled, unless the role's on_revoke is "keep";
// earlier leases, if the Client has read more than once, expire. Close waits, no longer than ctx, for
// a read or renewal in progress. Closing a Client twice does no harm; if Close failed, calling it
// again retries the revocation, and otherwise the lease expires.
func (c *Client) Close(ctx context.Context) error {
	c.mu.Lock()
	c.closed = true
	c.scheduleRefresh()
	r := c.refreshing
	c.mu.Unlock()
	if r != nil {
		select {
		case <-r.done:
		case <-ctx.Done():
			return fmt.Errorf("wait for a read or renewal of %s: %w", c.tokenPath, ctx.Err())
		}
	}
	c.mu.Lock()
	l := c.lease
	c.mu.Unlock()
	if l == nil || !time.Now().Before(l.usableUntil) {
		return nil
	}
	// Not Sys().Revoke: errors and logs show its URL, which contains the lease id, and anyone who
	// knows the id can renew the lease.
	_, err := c.vault.Logical().WriteWithContext(ctx, "sys/leases/revoke",
		map[string]any{"lease_id": l.id, "sync": true})
	if err != nil {
		return fmt.Errorf("revoke the lease of %s: %w", c.tokenPath, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lease = nil
	return nil
}
