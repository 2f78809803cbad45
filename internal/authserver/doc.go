// SPDX-License-Identifier: MPL-2.0

// Package authserver is the world outside Vault: authorization servers and wallets as the engine
// sees them. It makes the calls, reads what comes back as typed outcomes, and decides where a
// request may be sent. It knows neither Vault's storage nor the engine's grants; what an outcome
// means for a grant is decided in package backend.
//
// It is the only package that imports the Open Payments SDK. The SDK signs and sends; answers are
// judged here by their raw bytes, because the SDK refuses answers that hold a perfectly good token.
package authserver
