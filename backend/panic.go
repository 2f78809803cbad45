// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"fmt"
	"net/http"
	"runtime"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"
)

// errPanicked is the answer to a request that panicked.
var errPanicked = logical.CodedError(http.StatusInternalServerError,
	"the engine failed in a way that it should not; the log says where: please report it")

// survive is deferred. It turns a panic into errPanicked, and logs where it happened: a process that
// ends would take the rotations of other requests with it, and Go would print the value of the panic
// and the arguments of functions, which may be secrets, into Vault's log.
func (b *Backend) survive(during string, err *error) {
	if value := recover(); value != nil {
		*err = errPanicked
		b.Logger().Error("the engine has panicked", "during", during, "panic", panicText(value), "at", panicTrace())
	}
}

// panicText returns what the log may say of a panic: the words of the Go runtime, which name types and
// numbers, and only the type of anything else.
func panicText(value any) string {
	if fault, ok := value.(runtime.Error); ok {
		return fault.Error()
	}
	return fmt.Sprintf("%T", value)
}

// panicTrace returns the functions and lines that led to the panic, without arguments.
func panicTrace() string {
	callers := make([]uintptr, 32)
	frames := runtime.CallersFrames(callers[:runtime.Callers(3, callers)]) // without survive
	var trace []string
	for {
		frame, more := frames.Next()
		if !strings.HasPrefix(frame.Function, "runtime.") {
			trace = append(trace, fmt.Sprintf("%s:%d", frame.Function, frame.Line))
		}
		if !more {
			return strings.Join(trace, " < ")
		}
	}
}
