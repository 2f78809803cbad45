// SPDX-License-Identifier: MPL-2.0

package plugin

import (
	"os"
	"time"
)

// parent is who started this process, asked as early as possible: whoever dies
// before that is not noticed.
var parent = os.Getppid()

// endWith ends this process once its parent is gone, which it looks for at
// every interval.
//
// Vault tells its plugins to end when it ends in good order. When it is killed
// or runs out of memory it cannot, and nothing else does: no signal comes, and
// a plugin that has nothing to write does not notice its closed pipes. It would
// hold its memory, and the client's private key in it, for as long as the
// machine is up. A process whose parent died gets another one; the kernel tells
// no more portable sign than that. (Linux can send a signal, but when the
// THREAD that started the process ends, which in Vault may be any time.)
//
// Nothing is waited for: storage went with the parent, so a request in flight
// has nowhere left to write to.
func endWith(parent int, every time.Duration) {
	for os.Getppid() == parent {
		time.Sleep(every)
	}
	os.Exit(0)
}
