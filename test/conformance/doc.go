// SPDX-License-Identifier: MPL-2.0

// Package conformance asks an Open Payments authorization server for what the engine relies on: how
// it answers grant requests, continuations, rotations and owners. It takes the server's addresses
// and somebody who decides as the owner would, so it can be pointed at any server.
//
// Each case is a row of a table: cases_grant.go, cases_interaction.go and cases_token.go. A case
// that needs more than a client can do, such as a database that is read-only, runs only where the
// Server says how to bring that about; the sandbox does. What would harm a real server, such as ten
// rotations at the same instant, is left to the tests of package sandbox.
package conformance
