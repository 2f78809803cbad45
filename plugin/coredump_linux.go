// SPDX-License-Identifier: MPL-2.0

package plugin

import "syscall"

// markUndumpable also keeps other processes of the same user, but not root's, from reading this
// one's memory (prctl(2), PR_SET_DUMPABLE).
func markUndumpable() error {
	if _, _, err := syscall.Syscall(syscall.SYS_PRCTL, syscall.PR_SET_DUMPABLE, 0, 0); err != 0 {
		return err
	}
	return nil
}
