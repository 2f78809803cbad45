// SPDX-License-Identifier: MPL-2.0

// Package deadline gives contexts a time limit on an injected clock.
package deadline

import (
	"context"
	"time"

	"github.com/jonboulle/clockwork"
)

// After returns ctx, cancelled with context.DeadlineExceeded once d has passed on clock. The caller
// calls stop when the context is no longer needed. (clockwork.WithTimeout would do, but the Err of
// its fake context blocks until the context is done.)
func After(
	ctx context.Context,
	clock clockwork.Clock,
	d time.Duration,
) (limited context.Context, stop context.CancelFunc) {
	limited, cancel := context.WithCancelCause(ctx)
	timer := clock.AfterFunc(d, func() { cancel(context.DeadlineExceeded) })
	return limited, func() {
		timer.Stop()
		cancel(nil)
	}
}
