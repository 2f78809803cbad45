// SPDX-License-Identifier: MPL-2.0

// Package httpsignatureutils signs HTTP requests as Open Payments servers require: with HTTP
// message signatures (RFC 9421), Ed25519 keys and, for bodies, a Content-Digest (RFC 9530).
package httpsignatureutils
