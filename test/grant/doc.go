// SPDX-License-Identifier: MPL-2.0

// Grant gets a non-interactive grant from an authorization server without Vault, and prints the
// fields with which to import it:
//
//	grant -client WALLET_ADDRESS -key FILE -key-id ID -access FILE OWNER_WALLET_ADDRESS
//
// The lines that it prints are arguments of "vault write op/grants/NAME".
//
// The quickstart uses it to show the import of a grant that was obtained elsewhere. It uses the SDK
// and nothing of the engine.
package main
