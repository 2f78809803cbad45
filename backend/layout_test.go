// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// entriesV010 are storage entries and leases that version 0.1.0 (commit 40d70a2) wrote: a client, a
// pending key, a role, grants of every status, an open intent, an entry of the WAL, the keep-alive
// index. They were collected with logical.CollectKeys after the requests that make them.
type entriesV010 struct {
	Storage map[string]json.RawMessage
	Leases  map[string]struct{ Data, Internal map[string]any }
}

func readEntries(t *testing.T, r *rig) (all entriesV010) {
	t.Helper()
	encoded, err := os.ReadFile("testdata/entries-v0.1.0.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(encoded, &all); err != nil {
		t.Fatal(err)
	}
	for key, entry := range all.Storage {
		if err := r.storage.InmemStorage.Put(r.ctx, &logical.StorageEntry{Key: key, Value: entry}); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

func TestEntriesOfVersion010AreRead(t *testing.T) {
	r := newRig(t)
	all := readEntries(t, r)

	t.Run("grants", func(t *testing.T) {
		for name, want := range map[string]grant{
			"active":   {Status: statusActive, Generation: 2},
			"shared":   {Status: statusActive, Generation: 1},
			"imported": {Status: statusActive, Generation: 1, Interactive: true},
			"lost":     {Status: statusLost, Generation: 1, Interactive: true},
			"doubt":    {Status: statusActive, Generation: 1},
			"pending":  {Status: statusPending},
		} {
			g := r.stored(name)
			if g.Status != want.Status || g.Generation != want.Generation || g.Interactive != want.Interactive {
				t.Errorf("%s: %s %d %v", name, g.Status, g.Generation, g.Interactive)
			}
			if g.Settings.Keepalive != defaultKeepalive || !g.Settings.Renewable || len(g.OperatorHosts) == 0 {
				t.Errorf("%s: settings %+v, operator hosts %v", name, g.Settings, g.OperatorHosts)
			}
			if (g.Token == "") != (name == "pending") || (g.Manage == "") != (name == "pending") {
				t.Errorf("%s: token or manage URL", name)
			}
		}
		if g := r.stored("doubt"); !g.inDoubt() || g.Intent.Generation != 2 {
			t.Error("the open intent is not read")
		}
		if g := r.stored("active"); !g.NotReusable || g.Continue.URL == "" {
			t.Error("a token that is held, or the continuation, is not read")
		}
		if g := r.stored("shared"); g.NotReusable || !g.Settings.Shared || g.Settings.MinTTL != time.Minute {
			t.Error("a shared token is not read")
		}
		if p := r.stored("pending").Pending; p == nil || p.FinishURI == "" || p.ClientNonce == "" || p.InteractURL == "" {
			t.Error("the interaction is not read")
		}
	})
	t.Run("client, keys and roles", func(t *testing.T) {
		c, err := loadConfig(r.ctx, r.storage)
		if err != nil || c.KeyID != testKeyID || c.DefaultGrant != "active" || c.RequestTimeout != 10*time.Second {
			t.Fatalf("%v", err)
		}
		if keys, err := loadKeys(r.ctx, r.storage, c); err != nil || pendingKey(keys) == nil {
			t.Errorf("the pending key: %v", err)
		}
		if role, err := loadRole(r.ctx, r.storage, "till"); err != nil || role.Settings.TTL != 2*time.Minute {
			t.Errorf("the role: %v", err)
		}
	})
	t.Run("leases", func(t *testing.T) {
		ref, err := readLeaseRef(all.Leases["token"].Internal)
		if err != nil || ref.Grant != "active" || ref.Generation != 2 {
			t.Errorf("%+v %v", ref, err)
		}
		creds := all.Leases["creds"]
		lg, err := readLeaseGrant(&logical.Request{
			Data: creds.Data, Secret: &logical.Secret{InternalData: creds.Internal},
		})
		if err != nil || lg.Role != "till" || lg.Grant.Manage == "" || lg.Grant.Token != creds.Data["access_token"] {
			t.Errorf("%v", err)
		}
	})
	t.Run("the WAL", func(t *testing.T) {
		for key, entry := range all.Storage {
			if !strings.HasPrefix(key, framework.WALPrefix) {
				continue
			}
			var wal framework.WALEntry
			if err := json.Unmarshal(entry, &wal); err != nil {
				t.Fatal(err)
			}
			encoded, _ := wal.Data.(string)
			if lg, err := parseLeaseGrant(encoded); err != nil || wal.Kind != walKind || lg.Role != "till" {
				t.Errorf("%v", err)
			}
		}
	})
}

// What is read and stored again has every member that version 0.1.0 wrote.
func TestEntriesOfVersion010KeepTheirNames(t *testing.T) {
	r := newRig(t)
	all := readEntries(t, r)
	for key, entry := range all.Storage {
		name, isGrant := strings.CutPrefix(key, grantsPrefix)
		if !isGrant {
			continue
		}
		r.put(name, r.stored(name))
		again, err := r.storage.InmemStorage.Get(r.ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		var before, after map[string]json.RawMessage
		if json.Unmarshal(entry, &before) != nil || json.Unmarshal(again.Value, &after) != nil {
			t.Fatalf("%s is not JSON", key)
		}
		for member := range before {
			if after[member] == nil {
				t.Errorf("%s: the member %s is gone", key, member)
			}
		}
	}
}
