// SPDX-License-Identifier: MPL-2.0

// Vault-plugin-secrets-open-payments is the Open Payments secrets engine as an external plugin: the
// program that is registered in Vault's plugin catalog and that Vault starts, once per mount.
//
// It only calls package plugin, which serves the engine of package backend.
package main
