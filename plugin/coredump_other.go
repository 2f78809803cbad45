// SPDX-License-Identifier: MPL-2.0

//go:build !linux

package plugin

// markUndumpable does nothing: only Linux knows such a mark.
func markUndumpable() error { return nil }
