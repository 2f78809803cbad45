// SPDX-License-Identifier: MPL-2.0

package plugin

import (
	"os"
	"time"
)

// parent is the id of the process that started this one. It is read as early as possible: a parent
// that dies before that goes unnoticed.
var parent = os.Getppid()

// exitWith exits this process once its parent is gone, for which it looks at every interval.
//
// A Vault that shuts down tells its plugins to exit. A Vault that is killed, or runs out of memory,
// cannot, and nothing else would end them: there is no signal, and a plugin that has nothing to
// write does not notice that its pipes are closed. It would keep its memory, with the client's
// private key in it, for as long as the machine is up. A process whose parent has died gets another
// parent, which is the only portable sign. (Linux can send a signal, but it does so when the THREAD
// that started the process ends, which in Vault can be at any time.)
//
// It waits for no request in progress: Vault's storage went with the parent, so there is nothing
// left to write to.
func exitWith(parent int, interval time.Duration) {
	for os.Getppid() == parent {
		time.Sleep(interval)
	}
	os.Exit(0)
}
