// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
)

// testdata/entries-*.json are what versions of the engine have stored, and what leases remember. Each
// later version must read them all. A release, or a commit that changes what is stored, adds a file:
//
//	go test ./backend -run TestWriteEntries -write-entries VERSION
//
// It holds what the requests of TestWriteEntries leave in storage, their leases, and what reads return.
// The keys and tokens in it were never used elsewhere. entries-v0.1.0.json was made by commit 40d70a2 in
// the same way and has no reads.
type entries struct {
	Storage map[string]json.RawMessage
	Leases  map[string]struct{ Data, Internal map[string]any }
	Reads   map[string]map[string]any `json:",omitempty"`
}

var writeEntries = flag.String("write-entries", "", "the version under whose name TestWriteEntries writes a file")

// TestWriteEntries makes an entry of every kind and in every state.
func TestWriteEntries(t *testing.T) {
	r := configured(t)
	all := entries{Leases: map[string]struct{ Data, Internal map[string]any }{}, Reads: map[string]map[string]any{}}
	lease := func(name string, resp *logical.Response) {
		all.Leases[name] = struct{ Data, Internal map[string]any }{resp.Data, resp.Secret.InternalData}
	}
	r.makeGrants()
	r.ok(logical.UpdateOperation, "roles/till", r.roleFields())
	r.ok(logical.PatchOperation, "roles/till", map[string]any{"ttl": "2m", "on_revoke": "keep"})
	r.ok(logical.PatchOperation, "roles/till", map[string]any{"on_revoke": nil})
	r.storage.onDelete = func(string) error { return errDisk } // a lease that is never returned leaves its entry of the WAL
	r.sandbox.Misbehave(sandbox.Misbehaviour{Status: 500, On: []string{"cancel"}})
	r.fails(500, logical.ReadOperation, "creds/till", nil)
	r.storage.heal()
	r.sandbox.Misbehave(sandbox.Misbehaviour{})
	next := r.ok(logical.UpdateOperation, "keys/rotate", map[string]any{"key_id": "key-2", "force": true})
	r.publishJWK(next.Data["public_key"])
	r.ok(logical.UpdateOperation, "keys/rotate", map[string]any{"key_id": "key-3"})
	r.ok(logical.PatchOperation, "config", map[string]any{
		"default_grant": "active", "allowed_auth_servers": r.sandbox.URL(), "max_requests_per_server": 3,
	})
	lease("token", r.read("active"))
	lease("shared", r.read("shared"))
	lease("creds", r.ok(logical.ReadOperation, "creds/till", nil))
	r.tick()

	keys, err := logical.CollectKeys(r.ctx, r.storage)
	if err != nil {
		t.Fatal(err)
	}
	all.Storage = map[string]json.RawMessage{}
	for _, key := range keys {
		entry, err := r.storage.Get(r.ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		all.Storage[key] = entry.Value
	}
	for _, path := range all.readable() {
		all.Reads[path] = r.ok(logical.ReadOperation, path, nil).Data
	}
	if *writeEntries == "" {
		return
	}
	encoded, err := json.MarshalIndent(all, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile("testdata/entries-"+*writeEntries+".json", os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		t.Fatal(err) // what a version has written does not change any more
	}
	if _, err = file.Write(append(encoded, '\n')); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
}

// makeGrants makes grants in every state.
func (r *rig) makeGrants() {
	r.Helper()
	for name, settings := range map[string]map[string]any{
		"active":  {"ttl": "5m", "max_ttl": "1h", "on_revoke": "rotate", "keepalive": "24h"},
		"shared":  {"shared": true, "min_ttl": "1m"},
		"unused":  {"renewable": false, "on_revoke": "keep", "keepalive": 0},
		"doubt":   nil,
		"refused": nil,
		"former":  nil,
	} {
		r.ask(name)
		if settings != nil {
			r.ok(logical.PatchOperation, "grants/"+name, settings)
		}
	}
	r.imported("imported", nil)
	r.imported("again", nil)
	r.imported("again", nil) // replaces a token that leases may hold
	r.imported("lost", nil)
	r.consented("consented")
	r.consented("successor")
	r.asked("successor", finishURI)
	r.asked("pending", finishURI)
	r.asked("polled", "")

	r.sandbox.Misbehave(sandbox.Misbehaviour{On: []string{"rotate"}, Drop: true, Times: 1})
	r.fails(400, logical.ReadOperation, "token/lost", nil)
	r.sandbox.Misbehave(sandbox.Misbehaviour{On: []string{"rotate"}, Status: 500})
	r.fails(502, logical.ReadOperation, "token/doubt", nil)
	r.sandbox.Misbehave(on("rotate", sandbox.Misbehaviour{
		Status: 404, JSON: `{"error":{"code":"invalid_rotation","description":"lock time-out"}}`,
	}), sandbox.Misbehaviour{On: []string{"grant"}, Status: 500})
	r.fails(502, logical.ReadOperation, "token/refused", nil)
	r.sandbox.Misbehave(sandbox.Misbehaviour{On: []string{"cancel"}, Status: 500})
	r.ask("former") // the one before cannot be cancelled
	r.sandbox.Misbehave(sandbox.Misbehaviour{})
}

// readable returns the paths of what can be read.
func (all entries) readable() (paths []string) {
	for key := range all.Storage {
		if key == configKey || strings.HasPrefix(key, grantsPrefix) || strings.HasPrefix(key, rolesPrefix) {
			paths = append(paths, key)
		}
	}
	return append(paths, "keys")
}

// eachVersion runs a test with an engine on what each version has stored. An authorization server stands
// in for the one of that time: it rotates and ends whatever it is asked to.
func eachVersion(t *testing.T, test func(r *rig, all entries, server *agreeing)) {
	files, err := filepath.Glob("testdata/entries-*.json")
	if err != nil || len(files) < 2 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			r := newRig(t)
			encoded, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			encoded = regexp.MustCompile(`http://127\.0\.0\.1:\d+`).ReplaceAll(encoded, []byte(r.sandbox.URL()))
			var all entries
			if err := json.Unmarshal(encoded, &all); err != nil {
				t.Fatal(err)
			}
			for key, entry := range all.Storage {
				if err := r.storage.Put(r.ctx, &logical.StorageEntry{Key: key, Value: entry}); err != nil {
					t.Fatal(err)
				}
			}
			r.clock.Advance(time.Hour) // every token has expired, whenever this runs
			server := &agreeing{origin: r.sandbox.URL()}
			r.wrap = server.wrap
			test(r, all, server)
		})
	}
}

// agreeing is an authorization server that knows every token.
type agreeing struct {
	origin string
	mu     sync.Mutex
	ended  []string // URLs
}

func (a *agreeing) wrap(others http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch sandbox.Operation(req) {
		case "rotate":
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, fmt.Sprintf(`{"access_token":{"value":%q,"manage":%q,"expires_in":600,"access":[]}}`,
				newID(), a.origin+"/auth/token/"+newID()))
		case "cancel", "revoke":
			a.mu.Lock()
			defer a.mu.Unlock()
			a.ended = append(a.ended, a.origin+req.URL.Path)
			w.WriteHeader(http.StatusNoContent)
		default:
			others.ServeHTTP(w, req)
		}
	})
}

func (a *agreeing) hasEnded(url string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Contains(a.ended, url)
}

// What every version has stored reads as it read then, and keeps all its members when it is stored again.
func TestEntriesOfFormerVersionsReadAsTheyDid(t *testing.T) {
	eachVersion(t, func(r *rig, all entries, _ *agreeing) {
		for path, then := range all.Reads {
			now := r.ok(logical.ReadOperation, path, nil).Data
			for member, value := range then {
				encoded, _ := json.Marshal(now[member])
				var got any
				if _ = json.Unmarshal(encoded, &got); !reflect.DeepEqual(got, value) {
					r.Errorf("%s: %s reads as %s", path, member, encoded)
				}
			}
		}
		for key, entry := range all.Storage {
			name, isGrant := strings.CutPrefix(key, grantsPrefix)
			if !isGrant {
				continue
			}
			r.put(name, r.stored(name))
			again, err := r.storage.Get(r.ctx, key)
			if err != nil {
				r.Fatal(err)
			}
			var before, after map[string]json.RawMessage
			if json.Unmarshal(entry, &before) != nil || json.Unmarshal(again.Value, &after) != nil {
				r.Fatalf("%s is not JSON", key)
			}
			for member := range before {
				if after[member] == nil {
					r.Errorf("%s: the member %s is gone", key, member)
				}
			}
		}
	})
}

// What every version has stored and leased can be used: leases are renewed and revoked, grants rotated, and
// what a crash has left is cancelled.
func TestEntriesOfFormerVersionsAreUsed(t *testing.T) {
	eachVersion(t, func(r *rig, all entries, server *agreeing) {
		for _, name := range slices.Sorted(maps.Keys(all.Leases)) {
			rotations := r.sandbox.Count("rotate")
			lease := &logical.Response{
				Data: all.Leases[name].Data, Secret: &logical.Secret{InternalData: all.Leases[name].Internal},
			}
			renewed, err := r.renew(lease)
			if name == "shared" {
				if err == nil || !strings.Contains(err.Error(), "shared") {
					r.Errorf("%s: %v", name, err)
				}
				renewed = lease
			} else if err != nil || tokenOf(renewed) == tokenOf(lease) || r.sandbox.Count("rotate") != rotations+1 {
				r.Fatalf("%s: %v", name, err)
			}
			if _, err := r.revoke(renewed); err != nil {
				r.Errorf("%s: %v", name, err)
			}
			if lg, err := readLeaseGrant(r.leaseRequest(logical.RevokeOperation, renewed)); err == nil &&
				!server.hasEnded(lg.Grant.ending().url()) {
				r.Errorf("%s: the lease's grant is not cancelled", name)
			}
		}
		for key := range all.Storage {
			name, isGrant := strings.CutPrefix(key, grantsPrefix)
			if !isGrant {
				continue
			}
			before := r.stored(name)
			resp, err := r.do(r.ctx, logical.ReadOperation, "token/"+name, nil)
			switch {
			case before.Status != statusActive:
				if err != nil || !resp.IsError() || !strings.Contains(resp.Error().Error(), name) {
					r.Errorf("%s: %v", name, err)
				}
			case err != nil || resp.IsError():
				r.Errorf("%s: %v %v", name, resp, err)
			case resp.Data["generation"] != before.Generation+1:
				r.Errorf("%s: generation %v after %d", name, resp.Data["generation"], before.Generation)
			}
		}
		var begun []leaseGrant
		for _, id := range r.walEntries() {
			entry, err := framework.GetWAL(r.ctx, r.storage.InmemStorage, id)
			if err != nil {
				r.Fatal(err)
			}
			lg, err := parseLeaseGrant(fmt.Sprint(entry.Data))
			if err != nil {
				r.Fatal(err)
			}
			begun = append(begun, lg)
		}
		r.rollback(rollbackAge + time.Second)
		if len(begun) == 0 || len(r.walEntries()) != 0 {
			r.Errorf("of %d entries in the WAL %d are left", len(begun), len(r.walEntries()))
		}
		for _, lg := range begun {
			if url := lg.Grant.ending().url(); url != "" && !server.hasEnded(url) {
				r.Error("a grant that was never leased is not cancelled")
			}
		}
	})
}
