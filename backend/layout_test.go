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

// entriesV010 are what version 0.1.0 (commit 40d70a2) stored: a client, a pending key, a role, grants of
// every status, an open intent, an entry of the WAL, the keep-alive index.
func entriesV010(t *testing.T, r *rig) (all entries) {
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
	all := entriesV010(t, r)

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

// newerEntry is an entry of a layout to come, in which members have another form.
const newerEntry = `{"created_at":7,"key_id":7,"settings":"all","interactive":"yes","wallet_address":[],"version":99}`

// attempts are requests for one entry.
type attempts []struct {
	op   logical.Operation
	path string
	data map[string]any
}

// What a newer version has stored is refused by name, stays as it is, and hides nothing else.
func TestEntriesOfNewerVersions(t *testing.T) {
	some := map[string]any{"ttl": "5m"}
	sign := map[string]any{"access_token": "x", "method": "GET", "url": "https://rs.example/quotes/1"}
	for key, row := range map[string]struct {
		refused attempts
		pass    attempts
	}{
		configKey: {attempts{
			{logical.ReadOperation, "config", nil},
			{logical.UpdateOperation, "config", map[string]any{"default_grant": "income"}},
			{logical.PatchOperation, "config", map[string]any{"default_grant": "income"}},
			{logical.DeleteOperation, "config", nil},
			{logical.ReadOperation, "jwks.json", nil},
			{logical.ReadOperation, "keys", nil},
			{logical.UpdateOperation, "keys/rotate", nil},
			{logical.ReadOperation, "token/income", nil},
			{logical.ReadOperation, "token", nil},
			{logical.UpdateOperation, "rotate/income", nil},
			{logical.DeleteOperation, "grants/income", nil},
			{logical.ReadOperation, "creds/till", nil},
			{logical.UpdateOperation, "sign/income", sign},
		}, attempts{
			{logical.ListOperation, "grants", nil},
			{logical.ReadOperation, "grants/income", nil},
			{logical.ReadOperation, "roles/till", nil},
		}},
		grantsPrefix + "newer": {attempts{
			{logical.ReadOperation, "grants/newer", nil},
			{logical.UpdateOperation, "grants/newer", some},
			{logical.PatchOperation, "grants/newer", some},
			{logical.UpdateOperation, "grants/newer", map[string]any{"auth_server": "ask", "access": incomingAccess}},
			{logical.UpdateOperation, "grants/newer", map[string]any{"access_token": "x", "manage_url": "manage"}},
			{logical.DeleteOperation, "grants/newer", nil},
			{logical.ReadOperation, "token/newer", nil},
			{logical.UpdateOperation, "rotate/newer", nil},
			{logical.UpdateOperation, "grants/newer/continue", nil},
			{logical.UpdateOperation, "sign/newer", sign},
		}, attempts{
			{logical.ListOperation, "grants", nil},
			{logical.ReadOperation, "token/income", nil},
			{logical.ReadOperation, "jwks.json", nil},
		}},
		rolesPrefix + "newer": {attempts{
			{logical.ReadOperation, "roles/newer", nil},
			{logical.UpdateOperation, "roles/newer", some},
			{logical.PatchOperation, "roles/newer", some},
			{logical.DeleteOperation, "roles/newer", nil},
			{logical.ReadOperation, "creds/newer", nil},
		}, attempts{
			{logical.ListOperation, "roles", nil},
			{logical.ReadOperation, "creds/till", nil},
		}},
		(&clientKey{KeyID: "newer"}).storageKey(): {nil, attempts{
			{logical.ReadOperation, "keys", nil},
			{logical.ReadOperation, "jwks.json", nil},
			{logical.UpdateOperation, "keys/rotate", nil},
			{logical.ReadOperation, "token/income", nil},
		}},
	} {
		t.Run(key, func(t *testing.T) {
			r := withGrant(t)
			r.ok(logical.UpdateOperation, "roles/till", r.roleFields())
			if err := r.storage.Put(r.ctx, &logical.StorageEntry{Key: key, Value: []byte(newerEntry)}); err != nil {
				t.Fatal(err)
			}
			for _, a := range row.refused {
				for field, value := range map[string]string{
					"auth_server": r.sandbox.AuthServer(), "manage_url": r.sandbox.AuthServer() + "/token/1",
				} {
					if a.data[field] != nil {
						a.data[field] = value
					}
				}
				resp, err := r.do(r.ctx, a.op, a.path, a.data)
				if err == nil && resp.IsError() {
					err = resp.Error()
				}
				if err == nil || !strings.Contains(err.Error(), "newer version of the engine (layout 99)") {
					t.Errorf("%s %s: %v", a.op, a.path, err)
				}
			}
			r.tick()
			for _, a := range row.pass {
				r.ok(a.op, a.path, a.data)
			}
			after, err := r.storage.Get(r.ctx, key)
			if err != nil || after == nil || string(after.Value) != newerEntry {
				t.Errorf("the entry has changed: %v", err)
			}
		})
	}
}

// By force a grant is forgotten, whoever wrote it.
func TestForceForgetsAGrantOfANewerVersion(t *testing.T) {
	r := configured(t)
	if err := r.storage.Put(r.ctx, &logical.StorageEntry{Key: grantsPrefix + "newer", Value: []byte(newerEntry)}); err != nil {
		t.Fatal(err)
	}
	resp := r.ok(logical.DeleteOperation, "grants/newer", map[string]any{"force": true})
	if after, err := r.storage.Get(r.ctx, grantsPrefix+"newer"); err != nil || after != nil || len(resp.Warnings) != 1 {
		t.Errorf("%v %v", resp, err)
	}
}

// A key of a newer version is not replaced by one with its id, nor forgotten with the client.
func TestKeysOfNewerVersionsAreKept(t *testing.T) {
	r := configured(t)
	key := (&clientKey{KeyID: "newer"}).storageKey()
	if err := r.storage.Put(r.ctx, &logical.StorageEntry{Key: key, Value: []byte(newerEntry)}); err != nil {
		t.Fatal(err)
	}
	r.fails(400, logical.UpdateOperation, "keys/rotate", map[string]any{"key_id": "newer"}, "there is a key with this id")
	r.fails(500, logical.DeleteOperation, "config", nil, "newer version")
	if after, err := r.storage.Get(r.ctx, key); err != nil || after == nil || string(after.Value) != newerEntry {
		t.Errorf("the entry has changed: %v", err)
	}
	if c, err := loadConfig(r.ctx, r.storage); err != nil || c == nil {
		t.Errorf("the client is forgotten: %v", err)
	}
}

// So is what a newer version has a lease remember: Vault keeps the lease.
func TestLeasesOfNewerVersions(t *testing.T) {
	r := withGrant(t)
	lease := r.read("income")
	creds := &logical.Response{Data: lease.Data, Secret: lease.Secret}
	for name, internal := range map[string]map[string]any{
		"token": {"secret_type": secretType, "version": float64(99), "grants": []any{"income"}},
		"creds": {"secret_type": credsType, "leased": `{"role":"till","grant":` + newerEntry + `}`},
	} {
		rotations := r.sandbox.Count("rotate")
		secret := *lease.Secret
		secret.InternalData = internal
		creds.Secret = &secret
		for _, end := range []func(*logical.Response) (*logical.Response, error){r.renew, r.revoke} {
			if _, err := end(creds); err == nil || !strings.Contains(err.Error(), "newer version of the engine (layout 99)") {
				t.Errorf("%s: %v", name, err)
			}
		}
		if r.sandbox.Count("rotate") != rotations {
			t.Errorf("%s: something was rotated", name)
		}
	}
	if !r.sandbox.Live(tokenOf(lease)) {
		t.Error("the token is dead")
	}
}
