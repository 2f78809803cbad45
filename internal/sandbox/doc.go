// SPDX-License-Identifier: MPL-2.0

// Package sandbox is a wallet for people without one: wallet addresses, an Open Payments authorization server and a
// resource server in one process, in memory, on loopback. It is made for trying and testing, holds no money and keeps
// nothing.
//
// It behaves like the servers that clients meet: signatures are verified, keys are fetched over HTTP from the client's
// wallet address, and tokens die when they are rotated, revoked, cancelled or expired. Where the Open Payments OpenAPI
// documents (version 1.3.0) and the behaviour of Rafiki, the server behind the Interledger test wallet, differ, it does
// what Rafiki does.
//
// A sandbox can also be told to be another server. A [Dialect] is what servers differ in without being wrong, and
// [Server.SetDialect] sets it. A [Misbehaviour] is what goes wrong with single requests, and [Server.Misbehave] switches
// it on. Both have an endpoint of their own, for tests that reach the sandbox over HTTP only.
//
// How the files hang together: server.go starts and ends a sandbox, operations.go says which path is served by what.
// auth.go, token.go and consent.go are the authorization server, resource.go and what it calls the resource server,
// walletaddress.go the wallet addresses, and store.go what they all remember. misbehave.go is the table of what can go
// wrong, misbehave_wire.go how answers are broken on their way, and misbehave_control.go how it is switched on and off.
package sandbox
