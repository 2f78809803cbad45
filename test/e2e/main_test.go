// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"flag"
	"os"
	"runtime"
	"strconv"
	"testing"

	// vaulttest builds it: without this import, go test would use a cached result after it has
	// changed.
	_ "github.com/vault-open-payments/vault-plugin-secrets-open-payments/plugin"
)

// parallelPerCore is how many of these tests run at once for each core, unless -parallel says
// otherwise. Each has servers of its own and mostly waits: for leases, ticks and retries. A server
// takes some 200 MB.
const parallelPerCore = 3

func TestMain(m *testing.M) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		if err := flag.Set("test.parallel", strconv.Itoa(parallelPerCore*runtime.GOMAXPROCS(0))); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}
