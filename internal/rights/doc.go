// SPDX-License-Identifier: MPL-2.0

// Package rights says which access rights a grant can have, checks them, and decides which requests
// to a resource server they allow.
//
// [Parse] checks the rights that an operator writes, before anything is sent to an authorization
// server. [Scope] is what a grant allows: the engine signs a request only if [Scope.Allow] allows
// it. A signer that signs anything would let an application act as the client at the authorization
// server: request grants, rotate tokens, revoke them.
//
// One table, kinds in kinds_and_operations.go, lists the types of rights with their actions, and the
// operations of the resource server with the actions that each needs. A new type of right or a new
// operation is an entry in it.
//
// The package is pure: it has no clock, storage, network or Vault in it, and its decisions depend
// on its arguments alone. It follows version 1.3.0 of the Open Payments OpenAPI documents; a test
// compares the table with them.
package rights
