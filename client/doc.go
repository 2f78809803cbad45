// SPDX-License-Identifier: MPL-2.0

// Package client sends requests to an Open Payments resource server with access tokens and
// signatures from Vault's Open Payments secrets engine. The application that uses it never holds
// the client's private key.
//
// A [Client] is an [http.RoundTripper]: an http.Client with a Client as its Transport sends signed
// requests, and so does the Open Payments SDK for Go when it is given that http.Client. Code that
// needs only the token's value calls [Client.Token].
//
// The package talks to Vault over its HTTP API and imports nothing from the engine: it reads
// op/token/NAME or op/creds/NAME, renews and revokes the leases of those reads (sys/leases/renew and
// sys/leases/revoke), and has requests signed by op/sign/NAME or op/creds/NAME/sign. client.go is the
// public API, lease.go keeps the token fresh, transport.go signs and sends requests, and join.go has
// those signed together that wait at the same time.
package client
