// SPDX-License-Identifier: MPL-2.0

// Package e2e tests the engine on real Vault servers, the way its users drive it: through the CLI,
// the Go API, plain HTTP, package client, Vault Agent, Vault Proxy and a browser.
//
// Each test starts a server of its own with package vaulttest, and a sandbox as the wallets and the
// authorization server, with a wire in between that records what is secret and can hold requests.
// Nothing here runs in the engine's process; what needs a look inside is tested in backend/.
package e2e
