// SPDX-License-Identifier: MPL-2.0

// Package backend is the Open Payments secrets engine: it keeps grants and the client's key in
// Vault and hands out access tokens as leased secrets.
//
// Data flows one way. A path (path_*.go) parses and returns; it asks for a rotation (rotation.go),
// which asks internal/authserver for a remote call and the storage for a write. Which requests a
// grant allows to sign is decided in internal/rights.
//
// A stored grant (grant.go) is only ever changed by an attempt (attempt.go) that holds its lock
// (lock.go). Every token that is obtained, not obtained or lost is recorded in one place
// (outcome_events.go).
package backend
