// SPDX-License-Identifier: MPL-2.0

// Package sdks tests the official Open Payments clients, and programs without any, against
// open-payments-proxy: what they can do when the key is in Vault. "make test-sdks" runs it, because
// it needs compilers that "make test" does without.
//
// A world is a sandbox, a Vault server with the engine, and the proxy. Vault makes the client's key,
// so that no other process ever has it; clients that insist on a key get the one that begins with 32
// zero bytes, and the test shows that the wallet refuses it.
//
// programs/ has a program for each language that goes through all operations, and reads a payment a
// hundred times, while the test rotates the grant beneath it. It takes its settings from the
// environment:
//
//	PROXY        the proxy's URL
//	CALLER_FILE  the file with the caller secret
//	SHOP, ALICE  the wallet addresses that get paid and pay
//	DUMMY_KEY    the dummy key (PEM), for those that are to sign with it
//
// The grants are shop.income, quotes and rent. It prints the ids of a paid incoming payment, the
// outgoing payment, and an incoming payment that it completed unpaid; the test reads them at the
// wallet.
//
// testdata/*.http are the requests of clients that cannot be built here, as their sources make them,
// header by header, and the test sends them. The programs in examples/ are run as well.
package sdks
