// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// killPlugin ends the plugin's process as a crash does. It is the server's only child.
func (e *engine) killPlugin() {
	e.t.Helper()
	// Each of the server's threads has its own children.
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", e.PID()))
	if err != nil {
		e.t.Fatal(err)
	}
	var children []string
	for _, file := range files {
		text, _ := os.ReadFile(file) // A thread may be gone.
		children = append(children, strings.Fields(string(text))...)
	}
	if len(children) != 1 {
		e.t.Fatalf("the server has children %v, not one plugin", children)
	}
	pid, err := strconv.Atoi(children[0])
	if err != nil {
		e.t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		e.t.Fatal(err)
	}
}

// crash lets the plugin crash in the middle of a read's rotation: before the
// sandbox has heard of it, or, if done, when only its answer is missing.
func (e *engine) crash(name string, done bool) {
	e.t.Helper()
	rotation := e.holdUp("rotate", done)
	e.crashDuring(rotation, e.reading(e.t.Context(), name))
}

// crashDuring lets the plugin crash while a request of it is being held up; results
// are those of whoever is waiting for it.
func (e *engine) crashDuring(request *halt, results <-chan result) {
	e.t.Helper()
	request.await(e.t)
	e.killPlugin()
	if got := e.answered(results); got.err != nil || got.status != 500 {
		e.t.Fatalf("the request has survived the crash: %d %s, %v", got.status, got.errors, got.err)
	}
	// A request that comes before Vault has noticed gets a 500, too.
	e.eventually("a new process", func() bool {
		got, err := e.send(e.t.Context(), "GET", "config", "")
		return err == nil && got.status == 200
	})
}

// What was begun and not stored needs nobody: the next read finds out. Only a
// grant that somebody consented to is lost when its one answer was, and says so.
func TestPluginCrashes(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	e.ask("asked", nil)
	e.write("grants/imported", e.obtain())

	for _, name := range []string{"asked", "imported"} {
		t.Run(name+", before the server has heard of it", func(t *testing.T) {
			e := e.in(t)
			before := e.generation(name)
			e.crash(name, false)
			e.expect(e.grant(name), map[string]any{"status": "active", "intent_open": true})
			e.healthy(name, before+1)
		})
	}

	t.Run("asked, after the server has done it", func(t *testing.T) {
		e := e.in(t)
		before, live := e.generation("asked"), e.wallet.LiveTokens()
		e.crash("asked", true)
		grants, cancelled := e.sent("grant"), e.sent("cancel")
		lease := e.read("asked")
		e.live(e.tokenOf(lease))
		e.expect(lease.Data, map[string]any{"generation": before + 1})
		if grants() != 1 || cancelled() != 1 || e.wallet.LiveTokens() != live {
			t.Errorf("asked for %d grants, cancelled %d; %d tokens live at the sandbox, not %d as before",
				grants(), cancelled(), e.wallet.LiveTokens(), live)
		}
		e.healthy("asked", before+2)
	})

	t.Run("imported, after the server has done it", func(t *testing.T) {
		e := e.in(t)
		e.crash("imported", true)
		rotations := e.sent("rotate")
		for range 2 {
			got := e.gets(400, "GET", "token/imported", "")
			e.says(strings.Join(got.errors, "\n"), `grant "imported" is lost`, "its owner has to be asked again", "op/grants/imported", "op/rotate/imported")
		}
		if n := rotations(); n != 2 {
			t.Errorf("%d rotations and not two: a refusal is doubted once, and a lost grant's reads send nothing", n)
		}
		e.expect(e.grant("imported"), map[string]any{"status": "lost", "intent_open": false})

		// Asked again, its owner has consented to a new one.
		e.write("grants/imported", e.obtain())
		e.live(e.tokenOf(e.read("imported")))
	})

	t.Run("new, after the server has done it", func(t *testing.T) {
		e := e.in(t)
		request := e.holdUp("grant", true)
		e.crashDuring(request, e.asking(t.Context(), "new"))
		e.expect(e.grant("new"), map[string]any{"status": "active", "intent_open": true, "generation": 0})
		grants := e.sent("grant")
		e.live(e.tokenOf(e.read("new")))
		if n := grants(); n != 1 {
			t.Errorf("asked for %d grants", n)
		}
		e.healthy("new", 2)
	})

	// The grant of a lease whose answer was lost ends by itself; all else goes on.
	t.Run("a lease's own, after the server has done it", func(t *testing.T) {
		e := e.in(t)
		e.role()
		lease, live := e.creds(), e.wallet.LiveTokens()
		request := e.holdUp("grant", true)
		e.crashDuring(request, e.sending(t.Context(), "GET", "creds/till", ""))
		e.liveTokens(live + 1)
		e.replaced(lease, e.renew(lease, 0))
		next := e.creds()
		e.live(e.tokenOf(next))
		e.run("lease", "revoke", "-sync", "-prefix", "op/creds/")
		e.dead(e.tokenOf(next))
		e.liveTokens(live) // without the first lease's, and with the lost one
	})

	e.noSecretIn("the server's log", e.Log())
}
