// SPDX-License-Identifier: MPL-2.0

//go:build !unix || aix

package plugin

// forbidCoreDumps does nothing: this system has no such limit.
func forbidCoreDumps() error { return markUndumpable() }
