// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// A panic fails its request and nothing else: the process lives, the grant's lock is free, and
// neither the log nor the response shows the value of the panic.
func TestPanicFailsOneRequest(t *testing.T) {
	r := withGrant(t)
	r.storage.onPut = func(int, string) error { panic("broken by " + r.stored("income").Token) }
	for _, request := range []struct {
		operation logical.Operation
		path      string
		data      map[string]any
	}{
		{logical.ReadOperation, "token/income", nil},
		{logical.UpdateOperation, "rotate/income", nil},
		{logical.PatchOperation, "grants/income", map[string]any{"ttl": 60}},
		{logical.UpdateOperation, "config", map[string]any{"request_timeout": 5}},
	} {
		r.fails(http.StatusInternalServerError, request.operation, request.path, request.data, "please report it")
	}
	r.storage.onPut = nil
	r.read("income")

	r.storage.onRead = func(string) error { panic(errors.New(r.key)) }
	r.fails(http.StatusInternalServerError, logical.UpdateOperation, "grants/income", map[string]any{"ttl": 60})
	r.tick() // the workers
	r.storage.onRead = nil
	r.read("income")

	log := r.log.String()
	r.noSecretIn("the log", log)
	for _, words := range []string{"the engine has panicked", "panic=string", `panic="*errors.errorString"`,
		"backend.(*grantLock).store", "background work failed", `during="existence check"`} {
		if !strings.Contains(log, words) {
			t.Errorf("the log does not say %q:\n%s", words, log)
		}
	}
}

// The Go runtime's own words contain no values.
func TestPanicTextNamesNoValue(t *testing.T) {
	const secret = "OS9M2PMHR2DTNNQXGHRPZ4"
	for _, row := range []struct {
		panics func()
		says   string
	}{
		{func() { panic(secret) }, "string"},
		{func() { panic(errors.New(secret)) }, "*errors.errorString"},
		{func() { _ = any(secret).(int) }, "interface conversion: interface {} is string, not int"},
		{func() { _ = secret[len(t.Name()):][30:] }, "runtime error: slice bounds out of range"},
		{func() { map[any]int{}[[]byte(secret)]++ }, "hash of unhashable type"},
	} {
		func() {
			defer func() {
				if text := panicText(recover()); !strings.Contains(text, row.says) || strings.Contains(text, secret) {
					t.Errorf("%q, not %q", text, row.says)
				}
			}()
			row.panics()
		}()
	}
}
