// SPDX-License-Identifier: MPL-2.0

// Package vaulttest starts real Vault servers, clusters, Agents and Proxies for tests, with the
// plugin in the servers' plugin directories. All of them listen on loopback and end with the test.
//
// The server binary is the one that scripts/vault finds or builds, Vault or OpenBao:
// VAULT_BINARY=bao runs the same tests on OpenBao. The plugin is built from this checkout. Tests
// alone use this package.
//
// server.go has a server in dev mode and what tests do with any server, cluster.go servers that
// share raft storage, daemon.go Vault Agent and Vault Proxy, process.go their processes, build.go
// the binaries. api.go is what tests use that need Vault's API and no server.
package vaulttest
