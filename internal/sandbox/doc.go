// SPDX-License-Identifier: MPL-2.0

// Package sandbox is a wallet for people without one: wallet addresses, an Open Payments
// authorization server and a resource server in one process, in memory, on loopback. It is made for
// trying and testing, holds no money and stores nothing.
//
// It behaves like the servers that clients meet: it verifies signatures, fetches keys over HTTP
// from the client's wallet address, and ends tokens when they are rotated, revoked, cancelled or
// expired. Where the Open Payments OpenAPI documents (version 1.3.0) and Rafiki, the server behind
// the Interledger test wallet, differ, it behaves like Rafiki.
//
// A sandbox can also behave like another server. A [Dialect] is how servers differ without being
// wrong; [Server.SetDialect] changes it. A [Misbehaviour] is what goes wrong with single requests;
// [Server.Misbehave] switches it on. Tests that reach the sandbox only over HTTP use /dialect and
// /misbehave.
//
// server.go starts and stops a sandbox, and operations.go maps paths to handlers. auth.go, token.go
// and consent.go are the authorization server, resource.go and the payment files the resource
// server, walletaddress.go the wallet addresses, and store.go and database.go what the
// authorization server keeps. misbehave.go is the table of everything that can go wrong,
// misbehave_wire.go damages answers in transit, and misbehave_control.go switches misbehaviour on
// and off.
//
// The engine's tests, test/e2e, test/interop, test/conformance and the command
// open-payments-sandbox start it. It imports nothing of the engine.
package sandbox
