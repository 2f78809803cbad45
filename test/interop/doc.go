// SPDX-License-Identifier: MPL-2.0

// Package interop has the official Open Payments packages for JavaScript check the engine, the
// SDK's stand-in and the sandbox.
//
// The Go tests make these talk to each other over HTTP and record every exchange. The .mjs files
// verify each signature and validate each message with the official packages, and use the sandbox
// with the official client. Node.js and the packages in node_modules are required.
package interop
