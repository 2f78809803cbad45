// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"fmt"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/jonboulle/clockwork"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/authserver"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/deadline"
)

const help = `
The Open Payments secrets engine acts as one Open Payments client. It keeps the
client's private key and its grants, and hands out access tokens: each read of
token/NAME rotates the grant's token at the authorization server and returns the
new one as a lease. Renewing the lease rotates again and returns the new token;
revoking it makes the handed-out value worthless. The grant lives on.

Begin with config, then write a grant to grants/NAME, then read token/NAME. Where
rights need no consent, many readers are better served by a role: write it to
roles/NAME, and each read of creds/NAME is a lease with a grant of its own.
`

// Backend is the secrets engine as Vault sees it. Requests are checked here, before the framework
// sees them, because the framework ignores fields that it does not know and repeats mistyped values
// in its errors.
type Backend struct {
	*framework.Backend

	clock clockwork.Clock
	sleep func(ctx context.Context, d time.Duration) error

	locks    lockTable
	network  *authserver.Network
	signers  remembered[knownClient]
	tickets  remembered[ticketKeys]
	outages  sync.Map     // a set: origins of servers that last gave no answer
	issuedAt sync.Map     // origins of servers: when one last issued a token
	cursor   atomic.Int64 // of the index, as this process last knew it; zero before its first tick
	patterns map[*framework.Path]*regexp.Regexp
	namespaces

	// configMu keeps the client from changing between the moment a grant is begun for it and the
	// moment that the grant is in the list.
	configMu clientLock

	inFlight     inFlight
	keyWorker    worker // maintains the client's keys
	upkeepWorker worker // keeps grants alive, cancels former ones, tries lost ones again
}

// Factory returns the constructor that Vault calls for each mount. The version (vX.Y.Z) is what
// Vault shows as the plugin's running version.
func Factory(version string) logical.Factory {
	return func(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
		b := newBackend(version, clockwork.NewRealClock())
		if err := b.Setup(ctx, conf); err != nil {
			return nil, fmt.Errorf("set up the engine: %w", err)
		}
		return b, nil
	}
}

func newBackend(version string, clock clockwork.Clock) *Backend {
	b := &Backend{clock: clock, network: authserver.NewNetwork(clock), configMu: newClientLock()}
	b.sleep = b.sleepOnClock
	b.inFlight.closing = make(chan struct{})
	b.Backend = &framework.Backend{
		Help:           help,
		BackendType:    logical.TypeLogical,
		RunningVersion: version,
		PathsSpecial: &logical.Paths{
			SealWrapStorage: []string{configKey, keysPrefix, ticketsPrefix, grantsPrefix, framework.WALPrefix},
			Unauthenticated: []string{"jwks.json"},
		},
		Paths: []*framework.Path{
			b.pathConfig(),
			b.pathGrantsList(),
			b.pathContinue(),
			b.pathGrant(),
			b.pathTokenDefault(),
			b.pathToken(),
			b.pathRotate(),
			b.pathSign(),
			b.pathRolesList(),
			b.pathRole(),
			b.pathCredsSign(),
			b.pathCreds(),
			b.pathKeys(),
			b.pathKeysRotate(),
			b.pathJWKS(),
		},
		Secrets: []*framework.Secret{b.secretToken(), b.secretCreds()},
		Invalidate: func(_ context.Context, key string) {
			switch key {
			case configKey:
				b.signers.forget()
			case ticketKeysKey:
				b.tickets.forget()
			}
		},
		PeriodicFunc:      b.tick,
		WALRollback:       b.rollBack,
		WALRollbackMinAge: rollbackAge,
		Clean:             func(context.Context) { b.inFlight.close() },
	}
	b.patterns = make(map[*framework.Path]*regexp.Regexp, len(b.Paths))
	for _, p := range b.Paths {
		b.patterns[p] = regexp.MustCompile(p.Pattern)
	}
	return b
}

// HandleRequest checks a request's input and hands it to the framework.
func (b *Backend) HandleRequest(ctx context.Context, req *logical.Request) (resp *logical.Response, err error) {
	if !b.inFlight.begin() {
		return nil, errClosing
	}
	defer b.inFlight.end()
	defer b.survive(string(req.Operation), &err)

	ctx = withMount(ctx, b.mountAsWritten(ctx, req.MountPoint))
	if err := b.readInput(ctx, req); err != nil {
		return logical.ErrorResponse(err.Error()), nil
	}
	if req.Operation == logical.RollbackOperation {
		var stop context.CancelFunc
		ctx, stop = deadline.After(ctx, b.clock, rollbackTimeout)
		defer stop()
	}
	return b.Backend.HandleRequest(ctx, req)
}

// HandleExistenceCheck reports whether what the request names is stored. It looks at the path
// alone, so that mistyped input is refused by HandleRequest, in our words and as a 400: an error
// here reaches the caller as a 500.
func (b *Backend) HandleExistenceCheck(ctx context.Context, req *logical.Request) (checkFound, exists bool, err error) {
	if !b.inFlight.begin() {
		return false, false, errClosing
	}
	defer b.inFlight.end()
	defer b.survive("existence check", &err)

	if b.checkName(req) != nil {
		return true, false, nil
	}
	bare := *req
	bare.Data = nil
	return b.Backend.HandleExistenceCheck(ctx, &bare)
}
