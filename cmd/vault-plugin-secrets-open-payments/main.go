// SPDX-License-Identifier: MPL-2.0

package main

import (
	"os"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/plugin"
)

func main() {
	os.Exit(plugin.Main(os.Args[1:], os.Stdout, os.Stderr))
}
