// SPDX-License-Identifier: MPL-2.0

package vaulttest

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
)

// StartCluster starts servers that share one storage (raft), as in production: initialized,
// unsealed, with the plugin in their catalog. They end with the test. At first the first one is the
// leader, and each can become the leader. All have the same root token and unseal key.
func StartCluster(t testing.TB, nodes int) []*Server {
	t.Helper()
	cluster := make([]*Server, nodes)
	for i := range cluster {
		s := newServer(t)
		t.Cleanup(s.Kill) // a graceful stop needs a leader, for which the last ones would wait
		s.start(s.nodeArguments, s.started)
		cluster[i] = s
		if i == 0 {
			s.initialize()
			continue
		}
		s.RootToken, s.unsealKey = cluster[0].RootToken, cluster[0].unsealKey
		joined, err := s.Client("").Sys().RaftJoin(&api.RaftJoinRequest{LeaderAPIAddr: cluster[0].Address})
		if err != nil || !joined.Joined {
			t.Fatalf("join %s: %v", s.Address, err)
		}
		s.Unseal()
	}
	if err := cluster[0].process.wait(cluster[0].hasVoters(nodes)); err != nil {
		t.Fatal(err)
	}
	return cluster
}

// StartOnDisk starts a server whose storage is on disk (raft): initialized, unsealed, with the plugin in
// its catalog. What it stores can be read as it is on disk, in [Server.StorageDir], and decrypted, at
// sys/raw. It ends with the test.
func StartOnDisk(t testing.TB, options Options) *Server {
	t.Helper()
	s := newServer(t)
	s.logLevel = options.LogLevel
	s.start(s.nodeArguments, s.started)
	s.initialize()
	return s
}

// StorageDir returns the directory in which a server of [StartOnDisk] or [StartCluster] stores everything.
func (s *Server) StorageDir() string { return filepath.Join(s.dir, "raft") }

// nodeArguments writes the configuration of a cluster's server that listens on an address, and
// returns its command line.
func (s *Server) nodeArguments(address string) ([]string, error) {
	cluster, err := freeAddress()
	if err != nil {
		return nil, err
	}
	data := s.StorageDir()
	if err := os.MkdirAll(data, 0o700); err != nil {
		return nil, err
	}
	config, err := json.Marshal(map[string]any{
		"storage": map[string]any{"raft": map[string]any{
			"path": data, "node_id": address,
			// How long a server that has joined waits for its vote depends on these.
			"autopilot_reconcile_interval": "1s", "autopilot_update_interval": "500ms",
		}},
		"listener": map[string]any{"tcp": map[string]any{
			"address": address, "cluster_address": cluster, "tls_disable": true,
		}},
		"api_addr":         s.Address,
		"cluster_addr":     "https://" + cluster,
		"plugin_directory": s.PluginDir(),
		"disable_mlock":    true,
		"log_level":        cmp.Or(s.logLevel, "debug"),
		// Only root may use it, and tests read what is stored.
		"raw_storage_endpoint": true,
		allowAudit:             true,
	})
	if err != nil {
		return nil, err
	}
	file := filepath.Join(s.dir, "server.json")
	return []string{"-config=" + file}, os.WriteFile(file, config, 0o600)
}

// started looks for the latest start in the server's own log: there is no token yet, so a response
// could come from another program on the port.
func (s *Server) started(context.Context) error {
	if strings.Count(s.Log(), "server started!") < s.starts {
		return errors.New("it has not started yet")
	}
	return nil
}

// Restart starts a cluster's server again that was stopped or killed, at its address and on its
// data, unseals it, and waits until it serves requests.
func (s *Server) Restart() {
	s.t.Helper()
	s.starts++
	err := s.run(s.started)
	for deadline := time.Now().Add(time.Minute); err != nil && time.Now().Before(deadline); {
		time.Sleep(time.Second) // another program uses the port for a moment
		err = s.run(s.started)
	}
	if err != nil {
		s.t.Fatalf("start %s again: %v", s.Address, err)
	}
	s.Unseal()
}

// initialize makes the server the first one of a cluster.
func (s *Server) initialize() {
	s.t.Helper()
	initialized, err := s.Client("").Sys().Init(&api.InitRequest{SecretShares: 1, SecretThreshold: 1})
	if err != nil {
		s.t.Fatalf("initialize %s: %v", s.Address, err)
	}
	s.RootToken, s.unsealKey = initialized.RootToken, initialized.KeysB64[0]
	s.Unseal()
	plugin, err := os.ReadFile(filepath.Join(s.PluginDir(), Plugin))
	if err != nil {
		s.t.Fatal(err)
	}
	root := s.Client(s.RootToken)
	err = root.Sys().RegisterPlugin(&api.RegisterPluginInput{
		Name: Plugin, Type: api.PluginTypeSecrets, Command: Plugin, SHA256: fmt.Sprintf("%x", sha256.Sum256(plugin)),
	})
	if err != nil {
		s.t.Fatalf("register the plugin: %v", err)
	}
	// By default a server that has joined cannot become the leader for 10 s.
	_, err = root.Logical().Write("sys/storage/raft/autopilot/configuration",
		map[string]any{"server_stabilization_time": "1s"})
	if err != nil {
		s.t.Fatalf("configure autopilot: %v", err)
	}
}

// Leads reports whether the server is its cluster's leader. One that does not answer is not.
func (s *Server) Leads() bool {
	s.t.Helper()
	client := s.Client("")
	client.SetClientTimeout(2 * time.Second)
	leader, err := client.Sys().Leader()
	return err == nil && leader.IsSelf
}

// hasVoters returns a check that fails until that many servers can be elected.
func (s *Server) hasVoters(nodes int) func(context.Context) error {
	root := s.Client(s.RootToken)
	return func(ctx context.Context) error {
		state, err := root.Sys().RaftAutopilotStateWithContext(ctx)
		if err != nil {
			return err
		}
		if state == nil || len(state.Voters) != nodes {
			return fmt.Errorf("not all %d servers can be elected yet", nodes)
		}
		return nil
	}
}
