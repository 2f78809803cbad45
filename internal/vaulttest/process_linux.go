// SPDX-License-Identifier: MPL-2.0

package vaulttest

import (
	"os/exec"
	"runtime"
	"syscall"
)

// killWithThread has the kernel kill the process when the thread that started it ends: at the
// latest with the test process, however that ends.
func killWithThread(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

func lockThread() { runtime.LockOSThread() }
