// SPDX-License-Identifier: MPL-2.0

// Package bench measures the engine on a real Vault server next to something that Vault does
// itself. Benchmarks of what needs no Vault server are with the code that they measure.
package bench
