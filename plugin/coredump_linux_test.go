// SPDX-License-Identifier: MPL-2.0

package plugin

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// TestNoCoreDumps runs itself in another process: what it does cannot be undone.
func TestNoCoreDumps(t *testing.T) {
	const inside = "INSIDE_TEST_NO_CORE_DUMPS"
	if os.Getenv(inside) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestNoCoreDumps$")
		cmd.Env = append(os.Environ(), inside+"=1")
		if output, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, output)
		}
		return
	}
	if err := forbidCoreDumps(); err != nil {
		t.Fatal(err)
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_CORE, &limit); err != nil || limit != (syscall.Rlimit{}) {
		t.Errorf("the limit is %v, %v", limit, err)
	}
	if mark, _, err := syscall.Syscall(syscall.SYS_PRCTL, syscall.PR_GET_DUMPABLE, 0, 0); err != 0 || mark != 0 {
		t.Errorf("the process can be dumped: %d, %v", mark, err)
	}
}
