// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
)

// publishJWK does what a person does with the public_key of an answer.
func (r *rig) publishJWK(jwk any) {
	r.Helper()
	members := jwk.(map[string]any)
	key, err := base64.RawURLEncoding.DecodeString(members["x"].(string))
	if err != nil {
		r.Fatal(err)
	}
	r.sandbox.PublishKey(members["kid"].(string), ed25519.PublicKey(key))
}

// states lists the keys as "id state".
func (r *rig) states() (list []string) {
	r.Helper()
	for _, one := range r.ok(logical.ReadOperation, "keys", nil).Data["keys"].([]any) {
		k := one.(map[string]any)
		list = append(list, k["key_id"].(string)+" "+k["state"].(string))
		if strings.Contains(k["public_key"].(map[string]any)["x"].(string), "PRIVATE") || k["private_key"] != nil {
			r.Error("a private key is shown")
		}
	}
	return list
}

func (r *rig) publishedKeys() (ids []string) {
	r.Helper()
	resp := r.ok(logical.ReadOperation, "jwks.json", nil)
	if resp.Data[logical.HTTPContentType] != "application/json" || resp.Data[logical.HTTPStatusCode] != 200 || resp.Data[logical.HTTPCacheControlHeader] == "" {
		r.Errorf("%v", resp.Data[logical.HTTPContentType])
	}
	body := resp.Data[logical.HTTPRawBody].([]byte)
	var set struct{ Keys []map[string]any }
	if err := json.Unmarshal(body, &set); err != nil {
		r.Fatal(err)
	}
	for _, k := range set.Keys {
		if len(k) != 6 || k["d"] != nil {
			r.Errorf("%d members", len(k))
		}
		ids = append(ids, k["kid"].(string))
	}
	return ids
}

func (r *rig) want(what string, got []string, want ...string) {
	r.Helper()
	if strings.Join(got, ", ") != strings.Join(want, ", ") {
		r.Errorf("%s: %v, want %v", what, got, want)
	}
}

func TestKeyThatVaultMakes(t *testing.T) {
	r := newRig(t)
	r.want("no client", r.publishedKeys())
	r.fails(400, logical.ReadOperation, "keys", nil, "no client")
	r.fails(400, logical.UpdateOperation, "keys/rotate", nil, "no client")
	resp := r.ok(logical.UpdateOperation, "config", map[string]any{"wallet_address": r.sandbox.WalletAddress("client")})
	if len(resp.Warnings) == 0 || resp.Data["public_key"] == nil {
		t.Fatal("the answer does not say what to publish")
	}
	id := resp.Data["key_id"].(string)
	if data := r.ok(logical.ReadOperation, "config", nil).Data; data["key_id"] != id {
		t.Errorf("%v", data["key_id"])
	}
	r.want("keys", r.states(), id+" active")
	r.want("jwks.json", r.publishedKeys(), id)
	r.fails(400, logical.UpdateOperation, "grants/income", map[string]any{"wallet_address": r.sandbox.WalletAddress("shop"), "access": incomingAccess}, "jwks.json")
	r.publishJWK(resp.Data["public_key"])
	r.ask("income")
	r.live(<-r.goRead(r.ctx, "income"))

	// A later write keeps it; another id may be chosen.
	if resp := r.ok(logical.UpdateOperation, "config", map[string]any{"default_grant": "income"}); resp != nil {
		t.Error("another key was made")
	}
	other := newRig(t)
	named := other.ok(logical.UpdateOperation, "config", map[string]any{"wallet_address": other.sandbox.WalletAddress("client"), "key_id": "mine"})
	if named.Data["key_id"] != "mine" {
		t.Errorf("%v", named.Data["key_id"])
	}
	other.sandbox.Close()
	down := newRig(t)
	down.sandbox.Close()
	if resp := down.ok(logical.UpdateOperation, "config", map[string]any{"wallet_address": down.sandbox.WalletAddress("client")}); len(resp.Warnings) != 2 {
		t.Errorf("%v", resp.Warnings)
	}
}

// published publishes a pending key for so long that it is used.
func (r *rig) published(jwk any) {
	r.Helper()
	r.publishJWK(jwk)
	r.ok(logical.ReadOperation, "keys", nil)
	r.clock.Advance(defaultActivateAfter)
	r.ok(logical.ReadOperation, "keys", nil)
}

func TestKeyIsReplaced(t *testing.T) {
	r := withGrant(t)
	resp := r.ok(logical.UpdateOperation, "keys/rotate", map[string]any{"retire_after": "2h"})
	id := resp.Data["key_id"].(string)
	if resp.Data["state"] != keyPending || len(resp.Warnings) != 1 {
		t.Errorf("%v", resp.Data["state"])
	}
	again := r.ok(logical.UpdateOperation, "keys/rotate", nil)
	if again.Data["key_id"] != id {
		t.Error("a second key was made")
	}
	r.fails(400, logical.UpdateOperation, "keys/rotate", map[string]any{"key_id": "third"}, id, "pending")
	r.want("keys", r.states(), testKeyID+" active", id+" pending")
	r.want("jwks.json", r.publishedKeys(), testKeyID, id)
	r.live(<-r.goRead(r.ctx, "income")) // with the old one

	r.publishJWK(resp.Data["public_key"])
	r.want("keys", r.states(), testKeyID+" active", id+" pending")
	r.clock.Advance(defaultActivateAfter - time.Second)
	r.want("keys", r.states(), testKeyID+" active", id+" pending")
	r.live(<-r.goRead(r.ctx, "income")) // with the old one
	r.clock.Advance(time.Second)
	r.want("keys", r.states(), id+" active", testKeyID+" retiring")
	r.want("jwks.json", r.publishedKeys(), id, testKeyID)
	r.live(<-r.goRead(r.ctx, "income"))

	r.clock.Advance(2*time.Hour - time.Second)
	r.want("keys", r.states(), id+" active", testKeyID+" retiring")
	r.clock.Advance(time.Second)
	r.want("keys", r.states(), id+" active")
	if names, _ := r.storage.List(r.ctx, keysPrefix); len(names) != 0 {
		t.Error("the retired key is not destroyed")
	}
	r.noSecretIn("the log", r.log.String())
}

func TestKeyIsReplacedByForce(t *testing.T) {
	r := withGrant(t)
	resp := r.ok(logical.UpdateOperation, "keys/rotate", map[string]any{"key_id": "next", "force": true})
	if resp.Data["state"] != keyActive {
		t.Errorf("%v", resp.Data["state"])
	}
	r.fails(400, logical.ReadOperation, "token/income", nil, "jwks.json") // not published, which loses nothing
	r.publishJWK(resp.Data["public_key"])
	r.clock.Advance(failureMax)
	r.live(<-r.goRead(r.ctx, "income"))

	// A failing grant tries at once when there is another key.
	r.sandbox.UnpublishKeys()
	r.fails(400, logical.ReadOperation, "token/income", nil, "jwks.json")
	next := r.ok(logical.UpdateOperation, "keys/rotate", nil)
	r.published(next.Data["public_key"])
	r.live(<-r.goRead(r.ctx, "income"))

	// One that was made before is used by force, too.
	pending := r.ok(logical.UpdateOperation, "keys/rotate", nil)
	r.ok(logical.UpdateOperation, "keys/rotate", map[string]any{"force": true})
	r.want("keys", r.states()[:1], pending.Data["key_id"].(string)+" active")
}

func TestKeysThatAreRefused(t *testing.T) {
	r := configured(t)
	r.refuses(logical.UpdateOperation, "keys/rotate", "key_id", map[string]any{}, []badInput{
		{"a semicolon", field("key_id", "a;b"), ""},
		{"empty", field("key_id", ""), ""},
		{"list", field("key_id", []any{"a"}), "list"},
	})
	r.refuses(logical.UpdateOperation, "keys/rotate", "retire_after", map[string]any{}, []badInput{{"negative", field("retire_after", -1), "negative"}})
	r.refuses(logical.UpdateOperation, "keys/rotate", "force", map[string]any{}, []badInput{{"no boolean", field("force", "perhaps"), ""}})
	r.refuses(logical.UpdateOperation, "keys/rotate", "unknown field", map[string]any{}, []badInput{{"private_key", field("private_key", "x"), ""}})
	// The active key's id once more makes no other key.
	if state := r.ok(logical.UpdateOperation, "keys/rotate", field("key_id", testKeyID)).Data["state"]; state != keyActive {
		t.Errorf("%v", state)
	}
	r.want("keys", r.states(), testKeyID+" active")
}

// The wallet's key set cannot be fetched: nothing changes.
func TestPendingKeyWhileTheKeySetIsUnreachable(t *testing.T) {
	r := configured(t)
	resp := r.ok(logical.UpdateOperation, "keys/rotate", nil)
	r.publishJWK(resp.Data["public_key"])
	r.sandbox.Misbehave(sandbox.Misbehaviour{KeysDown: true})
	list := r.ok(logical.ReadOperation, "keys", nil)
	if len(list.Warnings) != 1 || !strings.Contains(list.Warnings[0], "answered 503") {
		t.Errorf("%v", list.Warnings)
	}
	if c, _ := loadConfig(r.ctx, r.storage); c.KeyID != testKeyID {
		t.Error("a key is used of which nobody knows whether it is published")
	}
}

// In the background, once a minute.
func TestTickUsesAPublishedKey(t *testing.T) {
	r := withGrant(t)
	resp := r.ok(logical.UpdateOperation, "keys/rotate", nil)
	r.tick()
	if c, _ := loadConfig(r.ctx, r.storage); c.KeyID != testKeyID {
		t.Error("used before it is published")
	}
	r.publishJWK(resp.Data["public_key"])
	r.tick()
	r.clock.Advance(defaultActivateAfter)
	r.tick()
	if c, _ := loadConfig(r.ctx, r.storage); c.KeyID != resp.Data["key_id"] {
		t.Error("not used although it is published")
	}
	r.clock.Advance(defaultRetireAfter)
	r.tick()
	if names, _ := r.storage.List(r.ctx, keysPrefix); len(names) != 0 {
		t.Error("the retired key is not destroyed")
	}
	r.b.Cleanup(r.ctx)
	if err := r.b.tick(r.ctx, &logical.Request{Storage: r.storage}); err != nil || r.b.keyWorker.busy.Load() {
		t.Error("a tick after Clean has begun something")
	}
}

// One row per write of a key's becoming active that fails: what is stored always names one active
// key that works.
func TestStorageFailsWhileAKeyBecomesActive(t *testing.T) {
	for write := 1; write <= 3; write++ {
		r := withGrant(t)
		resp := r.ok(logical.UpdateOperation, "keys/rotate", nil)
		r.publishJWK(resp.Data["public_key"])
		r.ok(logical.ReadOperation, "keys", nil)
		r.clock.Advance(defaultActivateAfter)
		r.storage.failPuts(write, errDisk)
		if write == 3 { // the last of the three is a deletion
			r.storage.onDelete = func(string) error { return errDisk }
		}
		r.ok(logical.ReadOperation, "keys", nil)
		r.storage.heal()
		r.restart()
		r.live(<-r.goRead(r.ctx, "income"))
		if n := len(r.publishedKeys()); n != 2 {
			t.Errorf("write %d: jwks.json holds %d keys", write, n)
		}
		r.want("keys", r.states(), resp.Data["key_id"].(string)+" active", testKeyID+" retiring")
		r.live(<-r.goRead(r.ctx, "income"))
	}
}

// Rotations of tokens go on without an error all along.
func TestKeyIsReplacedUnderLoad(t *testing.T) {
	r := configured(t)
	names := []string{"a", "b", "c", "d"}
	for _, name := range names {
		r.ask(name)
	}
	stop := make(chan struct{})
	var readers sync.WaitGroup
	var mu sync.Mutex
	reads := 0
	for _, name := range names {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				resp, err := r.do(r.ctx, logical.ReadOperation, "token/"+name, nil)
				if err != nil || resp.IsError() {
					t.Errorf("a read has failed: %v %v", err, resp)
					return
				}
				mu.Lock()
				reads++
				mu.Unlock()
			}
		})
	}
	for range 5 {
		resp := r.ok(logical.UpdateOperation, "keys/rotate", map[string]any{"activate_after": 0})
		r.publishJWK(resp.Data["public_key"])
		r.ok(logical.UpdateOperation, "keys/rotate", nil)
		mu.Lock()
		before := reads
		mu.Unlock()
		for more := false; !more && !t.Failed(); {
			mu.Lock()
			more = reads >= before+len(names)
			mu.Unlock()
		}
	}
	close(stop)
	readers.Wait()
	if got := len(r.states()); got != 6 {
		t.Errorf("%d keys, want the active one and five that retire", got)
	}
}

func TestDeletingConfigForgetsTheKeys(t *testing.T) {
	r := configured(t)
	r.ok(logical.UpdateOperation, "keys/rotate", nil)
	r.ok(logical.DeleteOperation, "config", nil)
	if names, _ := r.storage.List(r.ctx, ""); len(names) != 0 {
		t.Errorf("%v", names)
	}
}
