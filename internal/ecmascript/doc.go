// SPDX-License-Identifier: MPL-2.0

// Package ecmascript writes JSON the way JavaScript's JSON.stringify does. Current Open Payments
// servers parse a body, serialize it again and compute the content digest over the result, so
// whoever signs a body, or verifies it as those servers do, needs it in that form.
//
// The engine signs bodies in this form, and package sandbox verifies content digests with it. The
// package depends on nothing else in this module.
package ecmascript
