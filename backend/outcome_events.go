// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/uri"
)

// tokenResult is what became of one try at a token.
type tokenResult string

const (
	resultIssued  tokenResult = "issued"  // the server made a new token
	resultReused  tokenResult = "reused"  // a shared token was handed out again
	resultPending tokenResult = "pending" // the owner's consent is needed, or not given yet
	resultFailed  tokenResult = "failed"  // no token; the grant is kept
	resultLost    tokenResult = "lost"    // the grant is dead until its owner consents again
)

// tokenEvent is one way of getting, failing to get, or losing a token.
type tokenEvent struct {
	grant  string // name of the stored grant, or
	role   string // of the role whose lease it is
	server string // origin of the authorization server
	cause  cause
	result tokenResult
	err    error // failed, lost: why, without secrets
}

// record is where every token that is obtained, not obtained or lost passes through: for reads,
// renewals, revocations, explicit rotations, asking, continuing, keep-alive and the leases of
// roles. It is the place to count or announce it.
func (b *Backend) record(e tokenEvent) {
	if e.result == resultIssued && e.cause != causeImport {
		b.issuedAt.Store(e.server, b.clock.Now())
	}
	fields := []any{"cause", e.cause, "auth_server", e.server}
	if e.role != "" {
		fields = append(fields, "role", e.role)
	} else {
		fields = append(fields, "grant", e.grant)
	}
	switch e.result {
	case resultFailed:
		b.Logger().Warn("no new token; the grant is kept", append(fields, "error", e.err)...)
	case resultLost:
		b.Logger().Warn("the grant is lost: its owner has to be asked again", append(fields, "error", e.err)...)
	default:
		b.Logger().Debug("token "+string(e.result), fields...)
	}
}

// record records what became of an attempt.
func (a *attempt) record(r tokenResult, err error) {
	e := tokenEvent{server: a.grant.AuthOrigin, cause: a.cause, result: r, err: err}
	if a.role == "" {
		e.grant = a.lock.name
	} else {
		e.role = a.role
	}
	if e.server == "" {
		e.server = uri.OriginOf(a.grant.AuthServer)
	}
	a.lock.b.record(e)
}
