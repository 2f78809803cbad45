// SPDX-License-Identifier: MPL-2.0

// Open-payments-grant is a command for people: it asks the owner of a wallet, through Vault, to
// consent to an Open Payments grant, waits for the decision, and shows the stored grants.
//
// It talks to the secrets engine over Vault's HTTP API only, and never sees the client's private
// key or an access token. app.go reads the command line and says which command runs; each command
// is in the file of its name: authorize.go, list.go, status.go and completion.go. consent.go waits
// for the owner, callback.go receives the owner's browser, vault.go talks to Vault,
// server.go says to which one, grant.go and rights.go are what it returns.
package main
