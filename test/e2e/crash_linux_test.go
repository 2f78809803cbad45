// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/vaulttest"
)

// pluginPID returns the id of the plugin's process, the server's only child.
func (e *engine) pluginPID() int {
	e.t.Helper()
	plugins := e.plugins(e.Server)
	if len(plugins) != 1 {
		e.t.Fatalf("the server has the children %v, not one plugin", plugins)
	}
	return plugins[0]
}

// killPlugin ends the plugin's process as a crash would.
func (e *engine) killPlugin() {
	e.t.Helper()
	e.signalPlugin(syscall.SIGKILL)
}

// signalPlugin sends a signal to the plugin's process.
func (e *engine) signalPlugin(signal syscall.Signal) {
	e.t.Helper()
	if err := syscall.Kill(e.pluginPID(), signal); err != nil {
		e.t.Fatal(err)
	}
}

// plugins returns the process ids of a server's children.
func (e *engine) plugins(server *vaulttest.Server) (pids []int) {
	e.t.Helper()
	// Each of the server's threads has its own children.
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", server.PID()))
	if err != nil {
		e.t.Fatal(err)
	}
	for _, file := range files {
		text, _ := os.ReadFile(file) // the thread may have ended
		for _, child := range strings.Fields(string(text)) {
			pid, err := strconv.Atoi(child)
			if err != nil {
				e.t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

// crash crashes the plugin during the rotation for a read: before the request reaches the sandbox,
// or, if done, before the sandbox's response.
func (e *engine) crash(name string, done bool) {
	e.t.Helper()
	rotation := e.hold("rotate", done)
	e.crashDuring(rotation, func(ctx context.Context) <-chan result { return e.startRead(ctx, name) })
}

// crashDuring crashes the plugin while a request of its is held that start, a caller, has caused.
// The caller hangs up before the crash, which has no effect on the engine. Otherwise the outcome
// would depend on what Vault notices first: if it is the end of the request, the caller gets a 500;
// if it is the end of the plugin, Vault starts another one and repeats the request.
func (e *engine) crashDuring(request *heldRequest, start func(ctx context.Context) <-chan result) {
	e.t.Helper()
	ctx, hangUp := context.WithCancel(e.t.Context())
	defer hangUp()
	results := start(ctx)
	request.await(e.t)
	hangUp()
	if got := e.awaitResult(results); !errors.Is(got.err, context.Canceled) {
		e.t.Fatalf("the caller did not hang up: %d %s, %v", got.status, got.errors, got.err)
	}
	e.killPlugin()
	// A request that arrives before Vault notices the crash gets a 500.
	e.eventually("a new process", func() bool {
		got, err := e.send(e.t.Context(), "GET", "config", "")
		return err == nil && got.status == 200
	})
}

// The next read recovers from a rotation that was started and not stored. Only an interactive grant
// is lost, and says so, if the response to its rotation was lost.
func TestPluginCrashes(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	e.ask("asked", nil)
	e.write("grants/imported", e.obtain())

	for _, name := range []string{"asked", "imported"} {
		t.Run(name+", before the request reaches the server", func(t *testing.T) {
			e := e.in(t)
			before := e.generation(name)
			e.crash(name, false)
			e.checkData(e.grant(name), map[string]any{"status": "active", "intent_open": true})
			e.checkHealthy(name, before+1)
		})
	}

	t.Run("asked, after the server has done it", func(t *testing.T) {
		e := e.in(t)
		before, live := e.generation("asked"), e.wallet.LiveTokens()
		e.crash("asked", true)
		grants, cancelled := e.countRequests("grant"), e.countRequests("cancel")
		lease := e.read("asked")
		e.checkLive(e.tokenOf(lease))
		e.checkData(lease.Data, map[string]any{"generation": before + 1})
		if grants() != 1 || cancelled() != 1 || e.wallet.LiveTokens() != live {
			t.Errorf("%d grant requests, %d cancellations; %d tokens are live at the sandbox, not %d as before",
				grants(), cancelled(), e.wallet.LiveTokens(), live)
		}
		e.checkHealthy("asked", before+2)
	})

	t.Run("imported, after the server has done it", func(t *testing.T) {
		e := e.in(t)
		e.crash("imported", true)
		rotations := e.countRequests("rotate")
		for range 2 {
			got := e.request(400, "GET", "token/imported", "")
			e.checkSays(strings.Join(got.errors, "\n"), `grant "imported" is lost`, "its owner has to be asked again",
				"op/grants/imported", "op/rotate/imported")
		}
		if n := rotations(); n != 2 {
			t.Errorf("%d rotations, not two: the engine retries a rejection once, and reads of a lost grant send nothing", n)
		}
		e.checkData(e.grant("imported"), map[string]any{"status": "lost", "intent_open": false})

		// Its owner, asked again, has consented to a new grant.
		e.write("grants/imported", e.obtain())
		e.checkLive(e.tokenOf(e.read("imported")))
	})

	t.Run("new, after the server has done it", func(t *testing.T) {
		e := e.in(t)
		request := e.hold("grant", true)
		e.crashDuring(request, func(ctx context.Context) <-chan result { return e.startAsk(ctx, "new") })
		e.checkData(e.grant("new"), map[string]any{"status": "active", "intent_open": true, "generation": 0})
		grants := e.countRequests("grant")
		e.checkLive(e.tokenOf(e.read("new")))
		if n := grants(); n != 1 {
			t.Errorf("%d grant requests", n)
		}
		e.checkHealthy("new", 2)
	})

	// A grant for creds/ whose response was lost expires; everything else goes on.
	t.Run("a lease's own, after the server has done it", func(t *testing.T) {
		e := e.in(t)
		e.writeRole()
		lease, live := e.readCreds(), e.wallet.LiveTokens()
		request := e.hold("grant", true)
		e.crashDuring(request, func(ctx context.Context) <-chan result {
			return e.startRequest(ctx, "GET", "creds/till", "")
		})
		e.checkLiveTokens(live + 1)
		e.checkReplaced(lease, e.renew(lease, 0))
		next := e.readCreds()
		e.checkLive(e.tokenOf(next))
		e.run("lease", "revoke", "-sync", "-prefix", "op/creds/")
		e.checkDead(e.tokenOf(next))
		e.checkLiveTokens(live) // the first lease's is gone, the lost one is still live
	})

	e.checkNoSecret("the server's log", e.Log())
}
