// SPDX-License-Identifier: MPL-2.0

// Package conformance tests what the engine relies on in an Open Payments authorization server: how
// it answers grant requests, continuations, rotations and owners. It takes the server's addresses
// and a function that decides as the owner would, so it works with any server.
//
// Each case is a row of a table in cases_grant.go, cases_interaction.go or cases_token.go. A case
// that needs more than a client can do, such as a read-only database, runs only if the Server has a
// function for it; the sandbox has. What would harm a real server, such as ten rotations at the
// same instant, is in the tests of package sandbox only.
package conformance
