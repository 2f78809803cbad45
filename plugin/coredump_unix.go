// SPDX-License-Identifier: MPL-2.0

//go:build unix && !aix

package plugin

import "syscall"

// forbidCoreDumps keeps this process's memory, with the client's private key in it, out of core
// dumps. A program that receives core dumps (a "|" in Linux's core_pattern) ignores the limit, which
// is for files; so the process is also marked as one not to be dumped, where that is possible.
func forbidCoreDumps() error {
	if err := syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}); err != nil {
		return err
	}
	return markUndumpable()
}
