// SPDX-License-Identifier: MPL-2.0

package backend

import "net/http"

// Status is an HTTP status with which the engine reports that a request failed.
type Status struct {
	Code int
	When string // a phrase or more, in Markdown
}

// Statuses lists the statuses that the engine returns for failed requests. The reference
// (docs/reference.md) is generated from it.
var Statuses = []Status{
	{
		http.StatusBadRequest,
		"The caller can correct the request; the message begins with the field or names the path, and says what " +
			"to do. " +
			"Also when an authorization server refuses the requested rights, when a grant is pending or lost, and " +
			"for every failed renewal or revocation, " +
			"for which Vault has no other status.",
	},
	{
		http.StatusNotFound,
		"There is no grant or role with this name (read of `grants/NAME` or `roles/NAME`), or a list has no more " +
			"names. " +
			"Vault drops the message of a 404.",
	},
	{
		http.StatusInternalServerError,
		"Storage failed, a stored entry cannot be read, or another node took the grant over. Either nothing was " +
			"sent to the " +
			"authorization server, or its new token is kept in memory and stored as soon as storage accepts it, " +
			"unless another node took the grant over. Or the engine panicked: the log says where.",
	},
	{
		http.StatusBadGateway,
		"The authorization server, or the server of a wallet address, cannot be reached or returned something " +
			"unexpected. " +
			"The message names its origin and status. The grant is kept; try again.",
	},
	{
		http.StatusServiceUnavailable,
		"The grant was busy with other requests for 10 s, or the engine is shutting down. Try again.",
	},
	{http.StatusGatewayTimeout, "The authorization server did not respond in time. The grant is kept; try again."},
}
