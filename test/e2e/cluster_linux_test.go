// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/vaulttest"
)

// disturbed is how often TestCluster disturbs the leader: in each of the first five ways, unless said
// otherwise.
var disturbed = flag.Int("disturbances", 5, "how often TestCluster disturbs the leader")

// disturbance is something that happens to a leader.
type disturbance struct {
	name  string
	loses bool // when it happens, an answer may find no engine that could store it
	bao   bool // so it is on OpenBao, which gives its leadership away before it tells plugins
	waits bool // and until it is over
	hit   func(c *cluster, leader *vaulttest.Server)
	mend  func(c *cluster, former *vaulttest.Server)
}

var disturbances = []disturbance{
	{
		name: "steps down",
		hit:  func(c *cluster, leader *vaulttest.Server) { c.stepDown(leader) },
		mend: func(*cluster, *vaulttest.Server) {},
	},
	{
		name: "is killed", loses: true,
		hit:  func(_ *cluster, leader *vaulttest.Server) { leader.Kill() },
		mend: func(_ *cluster, former *vaulttest.Server) { former.Restart() },
	},
	{
		name: "is sealed", bao: true,
		hit:  (*cluster).seal,
		mend: func(_ *cluster, former *vaulttest.Server) { former.Unseal() },
	},
	{
		name: "is stopped", bao: true,
		hit:  func(_ *cluster, leader *vaulttest.Server) { leader.Stop() },
		mend: func(_ *cluster, former *vaulttest.Server) { former.Restart() },
	},
	{
		name: "is paused with its plugin", loses: true, waits: true,
		hit:  func(c *cluster, leader *vaulttest.Server) { c.signalAll(leader, syscall.SIGSTOP) },
		mend: func(c *cluster, former *vaulttest.Server) { c.signalAll(former, syscall.SIGCONT) },
	},
	{
		name: "is paused, and its plugin is not", loses: true, waits: true,
		hit:  func(_ *cluster, leader *vaulttest.Server) { leader.Signal(syscall.SIGSTOP) },
		mend: func(_ *cluster, former *vaulttest.Server) { former.Signal(syscall.SIGCONT) },
	},
}

// cluster is an engine on several servers.
type cluster struct {
	*engine
	nodes   []*vaulttest.Server
	stopped []int // plugins that are paused
	openBao bool
}

func (c *cluster) seal(leader *vaulttest.Server) {
	c.t.Helper()
	if err := leader.Client(leader.RootToken).Sys().Seal(); err != nil {
		c.t.Fatal(err)
	}
}

// signalAll sends a signal to a server and to its plugins.
func (c *cluster) signalAll(server *vaulttest.Server, signal syscall.Signal) {
	c.t.Helper()
	if signal == syscall.SIGSTOP {
		server.Signal(signal)
		c.stopped = c.plugins(server)
	}
	for _, pid := range c.stopped {
		if err := syscall.Kill(pid, signal); err != nil {
			c.t.Fatal(err)
		}
	}
	if signal == syscall.SIGCONT {
		server.Signal(signal)
	}
}

// awaitHealthy waits until every node can take over.
func (c *cluster) awaitHealthy() {
	c.t.Helper()
	c.within(time.Minute, "a healthy cluster", func() bool {
		leader := c.leader(c.nodes)
		if leader == nil {
			return false
		}
		state, err := leader.Client(leader.RootToken).Sys().RaftAutopilotState()
		return err == nil && state != nil && state.Healthy && len(state.Voters) == len(c.nodes)
	})
}

// checkPlugins waits until no plugin lives on without its server, and no server has more than one for its
// only mount.
func (c *cluster) checkPlugins() {
	c.t.Helper()
	for deadline := time.Now().Add(soon); ; time.Sleep(100 * time.Millisecond) {
		stray := c.straysAmong(c.pluginProcesses())
		if stray == "" {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatal(stray)
		}
	}
}

func (c *cluster) straysAmong(parents map[int]int) string {
	children := map[int]int{}
	for pid, parent := range parents {
		if !slices.ContainsFunc(c.nodes, func(s *vaulttest.Server) bool { return s.PID() == parent }) {
			return fmt.Sprintf("the plugin %d has the parent %d, which is no server", pid, parent)
		}
		if children[parent]++; children[parent] > 1 {
			return fmt.Sprintf("the server %d has more than one plugin", parent)
		}
	}
	return ""
}

// pluginProcesses returns the parents of all processes that run a plugin of the cluster.
func (c *cluster) pluginProcesses() map[int]int {
	c.t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		c.t.Fatal(err)
	}
	parents := map[int]int{}
	for _, file := range files {
		program, _ := os.Readlink(filepath.Join(filepath.Dir(file), "exe")) // the process may have ended
		if !slices.ContainsFunc(c.nodes, func(s *vaulttest.Server) bool {
			return strings.HasPrefix(program, s.PluginDir()+"/")
		}) {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		var pid, parent int
		var state string
		_, afterName, _ := strings.Cut(string(text), ") ") // PID (NAME) STATE PARENT …
		if _, err := fmt.Sscan(afterName, &state, &parent); err != nil {
			c.t.Fatal(err)
		}
		if _, err := fmt.Sscan(string(text), &pid); err != nil {
			c.t.Fatal(err)
		}
		parents[pid] = parent
	}
	return parents
}

// disturb has something happen to the leader, waits until another node leads and everybody has been
// served again, mends the former leader, and waits once more. It returns how long there was no service.
func (c *cluster) disturb(l *traffic, d disturbance) (all, one time.Duration) {
	c.t.Helper()
	c.awaitHealthy()
	leader := c.waitForLeader(soon, c.nodes)
	others := without(c.nodes, leader)
	l.waitForMore(c.through(leader))
	l.resetLongest()
	begun := time.Now()
	d.hit(c, leader)
	if (d.loses || d.bao && c.openBao) && !d.waits {
		l.happened(begun)
	}
	next := c.through(c.waitForLeader(time.Minute, others))
	l.waitForMore(next)
	d.mend(c, leader)
	if d.waits {
		l.happened(begun)
	}
	all, one = l.withoutService()
	l.waitForMore(next)
	c.checkPlugins()
	return all, one
}

// Whatever happens to the leader of a cluster, applications at all nodes are served again, a grant has
// one live token, and none is lost except by an accident in which its answer found no engine.
func TestCluster(t *testing.T) {
	t.Parallel()
	nodes := vaulttest.StartCluster(t, 3)
	c := &cluster{engine: mountEngine(t, nodes[0], "op", 0), nodes: nodes}
	c.openBao = strings.HasPrefix(c.run("version"), "OpenBao")
	l := c.startTraffic(nodes)
	for i := range *disturbed {
		d := disturbances[i%len(disturbances)]
		all, one := c.disturb(l, d)
		t.Logf("%d: the leader %s: %.1f s without any service, %.1f s at most for one application",
			i+1, d.name, all.Seconds(), one.Seconds())
	}
	l.finish(c.through(c.waitForLeader(soon, nodes)))
	for _, server := range nodes {
		c.checkNoSecret("the server's log", server.Log())
		server.Kill()
	}
	c.within(soon, "the end of all plugins", func() bool { return len(c.pluginProcesses()) == 0 })
}
