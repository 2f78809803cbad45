// SPDX-License-Identifier: MPL-2.0

// Vault-plugin-secrets-open-payments is the Open Payments secrets engine as an external plugin,
// which Vault starts. It only calls package plugin.
package main

import (
	"os"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/plugin"
)

func main() {
	os.Exit(plugin.Main(os.Args[1:], os.Stdout, os.Stderr))
}
