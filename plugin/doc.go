// SPDX-License-Identifier: MPL-2.0

// Package plugin runs the secrets engine as a Vault plugin process: one process per mount, which
// talks to Vault over gRPC with mutual TLS, logs through Vault, reports its version, and exits with
// Vault.
//
// cmd/vault-plugin-secrets-open-payments calls [Main] and does nothing else. The engine itself is
// in package backend, which knows nothing of processes.
package plugin
