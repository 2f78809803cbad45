// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/authserver"
)

// userError is a mistake of the caller's: a 400 with a sentence that says what to do.
type userError string

func (e userError) Error() string { return string(e) }

func userErrorf(format string, args ...any) error {
	return userError(fmt.Sprintf(format, args...))
}

// fieldError is a userError about a field, whose name comes first; nil if err is nil.
func fieldError(field string, err error) error {
	if err == nil {
		return nil
	}
	return userErrorf("%s: %s", field, err)
}

func isUserError(err error) bool {
	var mistake userError
	return errors.As(err, &mistake)
}

// errorResponse turns the caller's mistakes into a 400 and passes on everything else as it is:
// Vault recognizes its own error values only when they are not wrapped.
func errorResponse(err error) (*logical.Response, error) {
	if isUserError(err) {
		return logical.ErrorResponse(err.Error()), nil
	}
	return nil, err
}

// serverError is the authorization server's trouble: 502, or 504 where it did not answer in time;
// or a 400 where our own rules forbade the request.
func serverError(f authserver.RequestFailed) error {
	switch {
	case f.Rule != nil:
		return userErrorf("the authorization server %s", f)
	case f.Timeout:
		return logical.CodedError(
			http.StatusGatewayTimeout,
			fmt.Sprintf("the authorization server %s; try again later", f),
		)
	}
	return logical.CodedError(http.StatusBadGateway, fmt.Sprintf("the authorization server %s; try again later", f))
}

// isBusy reports whether an error says that others were faster, and nothing about the grant.
func isBusy(err error) bool {
	var coded logical.HTTPCodedError
	return errors.As(err, &coded) && coded.Code() == http.StatusServiceUnavailable
}

// saysNothing reports whether an error says nothing about the server or the client: others were faster,
// or storage failed. What was tried has not begun.
func saysNothing(err error) bool {
	var coded logical.HTTPCodedError
	return isBusy(err) || !errors.As(err, &coded) && !isUserError(err)
}

var (
	errBusy = logical.CodedError(http.StatusServiceUnavailable, "the grant is busy with another request; try again")
	// errTakenOver: another node has begun something with the grant; what it stored is newer than
	// what we know.
	errTakenOver = errors.New("another node has taken the grant over; try again")
	// errUnsaved and errStorage hide the storage's own error, which is in the log: Vault would take
	// the words of logical.ErrReadOnly, even inside a longer text, for a wish to have the request
	// forwarded to another node, which would begin the rotation anew.
	errUnsaved = errors.New("the authorization server has answered, but the answer could not be stored yet; " +
		"it is kept in memory: try again")
	errStorage = errors.New("the grant could not be read from storage or written to it during its rotation: try " +
		"again")
)

type mountKey struct{}

// withMount returns a context that knows where the engine is mounted, as its users write it
// ("op/").
func withMount(ctx context.Context, mount string) context.Context {
	return context.WithValue(ctx, mountKey{}, mount)
}

// mountPath returns a path of this mount for a sentence, such as op/grants/shop.
func mountPath(ctx context.Context, path string) string {
	mount, _ := ctx.Value(mountKey{}).(string)
	return mount + path
}

func unknownGrant(ctx context.Context, name string) error {
	return userErrorf("no grant named %q: write %s first", name, mountPath(ctx, grantsPrefix+name))
}

func noRole(ctx context.Context, name string) error {
	return userErrorf(
		"no role named %q: write access and wallet_address (or auth_server) to %s first",
		name,
		mountPath(ctx, rolesPrefix+name),
	)
}

// lostGrantError is for a grant whose token the server no longer accepts.
type lostGrantError struct{ text error }

func (e lostGrantError) Error() string { return e.text.Error() }

func (e lostGrantError) Unwrap() error { return e.text }

func lostError(ctx context.Context, g *grant, name string) error {
	if g.Pending != nil {
		at := mountPath(ctx, grantsPrefix+name)
		return lostGrantError{
			userErrorf("grant %q is lost since %s (%s), and its owner is being asked for another one: "+
				"the owner opens the interact_url that a read of %s returns, then write %s/continue",
				name, g.Lost.At.UTC().Format(time.RFC3339), g.Lost.Cause, at, at),
		}
	}
	return lostGrantError{
		userErrorf("grant %q is lost since %s (%s): try the server once more with a write to %s, which costs "+
			"nothing; "+
			"if that fails, its owner has to be asked again: write access, or a new grant's access_token and "+
			"manage_url, to %s",
			name, g.Lost.At.UTC().Format(time.RFC3339), g.Lost.Cause,
			mountPath(ctx, "rotate/"+name), mountPath(ctx, grantsPrefix+name)),
	}
}

func pendingError(ctx context.Context, name string) error {
	at := mountPath(ctx, grantsPrefix+name)
	return userErrorf(
		"grant %q waits for its owner's consent: the owner opens the interact_url that a read of %s returns, then "+
			"write %s/continue",
		name,
		at,
		at,
	)
}

// otherClientError is for a grant (named by what) that config's client did not obtain.
func otherClientError(client string, c *config, what string) error {
	return userErrorf("%s belongs to the client %s, but config names %s", what, client, c.WalletAddress)
}

func keyNotPublished(ctx context.Context, client authserver.Identity) error {
	return userErrorf(
		"%s/jwks.json does not hold the public key of %s under key_id, so the authorization server cannot check "+
			"our signature; "+
			"publish it or correct config",
		client.WalletAddress,
		mountPath(ctx, configKey),
	)
}
