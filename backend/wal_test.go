// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/authserver"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
)

func (r *rig) walEntries() []string {
	r.Helper()
	ids, err := framework.ListWAL(r.ctx, r.storage.InmemStorage)
	if err != nil {
		r.Fatal(err)
	}
	return ids
}

// rollback lets time pass and then does what Vault does once a minute. The framework tells the age
// of entries by the real clock, so that theirs is moved.
func (r *rig) rollback(after time.Duration) {
	r.Helper()
	r.clock.Advance(after)
	for _, id := range r.walEntries() {
		entry, err := framework.GetWAL(r.ctx, r.storage.InmemStorage, id)
		if err != nil {
			r.Fatal(err)
		}
		entry.CreatedAt -= int64(after / time.Second)
		stored, err := logical.StorageEntryJSON(framework.WALPrefix+id, entry)
		if err == nil {
			err = r.storage.InmemStorage.Put(r.ctx, stored)
		}
		if err != nil {
			r.Fatal(err)
		}
	}
	// Its errors come as an answer, which Vault does not look at.
	resp, err := r.b.HandleRequest(r.ctx, &logical.Request{Operation: logical.RollbackOperation, Storage: r.storage, MountPoint: "op/"})
	if err != nil {
		r.Fatal(err)
	}
	if resp != nil && resp.IsError() {
		r.noSecretIn("the answer of a rollback", resp.Error().Error())
	}
}

// crashed starts an engine anew on a copy of the storage as it is. The former one goes on with what
// is in flight, on a storage that is not there any more.
func (r *rig) crashed() {
	r.Helper()
	before := r.storage.InmemStorage
	r.storage = &testStorage{InmemStorage: &logical.InmemStorage{}}
	copyStorage(r.TB.(*testing.T), before, r.storage.InmemStorage)
	r.restart()
}

// One row per point at which a crash leaves something behind.
func TestCrashWhileALeaseIsMade(t *testing.T) {
	for name, row := range map[string]struct {
		hang    func(r *rig) (arrived <-chan struct{}, release func())
		lost    bool // the answer is
		live    int  // tokens that are left to end by themselves
		entries int
	}{
		"before the server has heard": {func(r *rig) (<-chan struct{}, func()) { return r.hangOn("grant", false) }, true, 0, 1},
		"before the answer":           {func(r *rig) (<-chan struct{}, func()) { return r.hangOn("grant", true) }, true, 1, 1},
		"after the answer":            {hangDelete, false, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := withRole(t)
			before := r.keys()
			arrived, release := row.hang(r)
			abandoned := r.goCreds(r.ctx, "till")
			<-arrived
			r.crashed()
			if n := len(r.walEntries()); n != row.entries {
				t.Fatalf("%d entries in the WAL, want %d", n, row.entries)
			}
			// Another engine may still be at work on it.
			cancels := r.sandbox.Count("cancel")
			r.rollback(authserver.AnswerTimeout + time.Second) // it waits so long for an answer
			if len(r.walEntries()) != row.entries || r.sandbox.Count("cancel") != cancels {
				t.Error("rolled back too early")
			}
			r.rollback(rollbackAge - authserver.AnswerTimeout)
			if n := r.sandbox.LiveTokens(); n != row.live {
				t.Errorf("%d tokens live, want %d", n, row.live)
			}
			if told := strings.Contains(r.log.String(), "whose answer was lost"); told != row.lost {
				t.Errorf("the log tells of a lost answer: %v", told)
			}
			if told := strings.Contains(r.log.String(), "never leased is cancelled"); told == row.lost {
				t.Errorf("the log tells of a cancelled grant: %v", told)
			}
			r.nothingMore(before)
			release()
			<-abandoned
		})
	}
}

// hangDelete makes storage hold the deletion of the WAL's entry.
func hangDelete(r *rig) (<-chan struct{}, func()) {
	in, out := make(chan struct{}), make(chan struct{})
	r.storage.onDelete = func(string) error {
		close(in)
		<-out
		return nil
	}
	return in, func() { close(out) }
}

// leftBehind is an engine after a crash between an answer and its lease.
func leftBehind(t *testing.T) *rig {
	r := withRole(t)
	arrived, release := hangDelete(r)
	abandoned := r.goCreds(r.ctx, "till")
	<-arrived
	r.crashed()
	release()
	<-abandoned
	r.restart()
	return r
}

func TestRollback(t *testing.T) {
	const old = rollbackAge + time.Second
	for name, row := range map[string]struct {
		trouble func(r *rig)
		kept    bool
		live    int
		cancels int
		says    string
	}{
		"cancelled":         {func(*rig) {}, false, 0, 1, "never leased is cancelled"},
		"gone":              {func(r *rig) { r.on("cancel", knowsNoGrant(401)) }, false, 1, 1, "never leased is cancelled"},
		"server down":       {func(r *rig) { r.sandbox.Misbehave(sandbox.Misbehaviour{Reset: true}) }, true, 1, 1, "could not be cancelled yet"},
		"500":               {func(r *rig) { r.sandbox.Misbehave(sandbox.Misbehaviour{Status: 500}) }, true, 1, 1, "answered 500"},
		"key not published": {func(r *rig) { r.sandbox.UnpublishKeys() }, true, 1, 1, "jwks.json"},
		"another client": {func(r *rig) {
			r.ok(logical.PatchOperation, "config", map[string]any{"wallet_address": r.sandbox.WalletAddress("alice"), "verify": false})
		}, true, 1, 0, "belongs to the client"},
		"standby": {func(r *rig) { r.system.ReplicationStateVal = consts.ReplicationPerformanceStandby }, true, 1, 0, ""},
		"server down, expired": {func(r *rig) {
			r.sandbox.Misbehave(sandbox.Misbehaviour{Reset: true})
			r.clock.Advance(600*time.Second - old)
		}, false, 0, 1, "its token has expired"},
		"storage fails, expired": {func(r *rig) {
			r.storage.onRead = func(key string) error {
				if key == configKey {
					return errDisk
				}
				return nil
			}
			r.clock.Advance(600*time.Second - old)
		}, true, 0, 0, "could not be cancelled yet"},
	} {
		t.Run(name, func(t *testing.T) {
			r := leftBehind(t)
			row.trouble(r)
			r.rollback(old)
			if kept := len(r.walEntries()) == 1; kept != row.kept {
				t.Errorf("the entry is kept: %v", kept)
			}
			if n := r.sandbox.LiveTokens(); n != row.live {
				t.Errorf("%d tokens live, want %d", n, row.live)
			}
			if !strings.Contains(r.log.String(), row.says) {
				t.Errorf("the log does not say %q", row.says)
			}
			if n := r.sandbox.Count("cancel"); n != row.cancels {
				t.Errorf("%d cancellations, want %d", n, row.cancels)
			}
		})
	}
}

// A server that was down is asked again, once a minute.
func TestRollbackIsTriedAgain(t *testing.T) {
	r := leftBehind(t)
	r.sandbox.Misbehave(sandbox.Misbehaviour{Status: 500, Times: 3})
	for range 4 {
		r.rollback(rollbackAge + time.Second)
	}
	if r.sandbox.Count("cancel") != 4 || len(r.walEntries()) != 0 || r.sandbox.LiveTokens() != 0 {
		t.Errorf("asked %d times, %d entries left", r.sandbox.Count("cancel"), len(r.walEntries()))
	}
}

// Without a continuation it is the token that is revoked.
func TestRollbackWithoutAContinuation(t *testing.T) {
	r := withRole(t)
	r.member("grant", []string{"continue"}, nil)
	r.sandbox.Misbehave(sandbox.Misbehaviour{Reset: true, On: []string{"revoke"}})
	r.storage.onDelete = func(string) error { return errDisk }
	r.fails(500, logical.ReadOperation, "creds/till", nil, "disk")
	r.storage.heal()
	r.sandbox.Misbehave(sandbox.Misbehaviour{})
	said := r.saysToken("revoke")
	r.rollback(rollbackAge + time.Second)
	if r.sandbox.LiveTokens() != 0 || len(r.walEntries()) != 0 {
		t.Error("the token lives")
	}
	if len(*said) < len("GNAP ")+16 {
		t.Error("the request does not hold the token, which some servers compare")
	}
}

// saysToken tells the Authorization header of the last request of an operation.
func (r *rig) saysToken(op string) *string {
	var said string
	r.on(op, func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		said = req.Header.Get("Authorization")
		next.ServeHTTP(w, req)
	})
	return &said
}

// What cannot be read is kept: it may be of a newer version.
func TestRollbackOfWhatCannotBeRead(t *testing.T) {
	r := withRole(t)
	for _, data := range []any{"s3cr3t", 7, `{"role":"till","grant":` + newerEntry + `}`} {
		if _, err := framework.PutWAL(r.ctx, r.storage, walKind, data); err != nil {
			t.Fatal(err)
		}
	}
	r.rollback(rollbackAge + time.Second)
	if n := len(r.walEntries()); n != 3 {
		t.Errorf("%d entries, want 3", n)
	}
	if log := r.log.String(); !strings.Contains(log, "cannot be read") || !strings.Contains(log, "newer version") || strings.Contains(log, "s3cr3t") {
		t.Error("the log does not say it, or says too much")
	}
}

// Vault holds a lock meanwhile: one rollback takes no longer, however many entries there are of a
// server that hangs.
func TestRollbackTakesNoLongerThanItMay(t *testing.T) {
	r := withRole(t)
	const entries = 5
	r.sandbox.Misbehave(sandbox.Misbehaviour{Reset: true, On: []string{"cancel"}})
	r.storage.onDelete = func(string) error { return errDisk }
	for range entries {
		r.fails(500, logical.ReadOperation, "creds/till", nil, "disk")
	}
	r.storage.heal()
	r.sandbox.Misbehave(sandbox.Misbehaviour{})
	cancels := r.sandbox.Count("cancel")
	r.on("cancel", func(_ http.ResponseWriter, req *http.Request, _ http.Handler) {
		r.clock.Advance(defaultRequestTimeout)
		<-req.Context().Done()
	})
	r.rollback(rollbackAge + time.Second)
	// The second one is cut short; a third may be on its way by then.
	if n := r.sandbox.Count("cancel") - cancels; n < 2 || n > 3 {
		t.Errorf("%d requests", n)
	}
	if n := len(r.walEntries()); n != entries {
		t.Errorf("%d entries are kept, want %d", n, entries)
	}
	r.on("cancel", nil)
	r.rollback(0)
	if n := r.sandbox.LiveTokens(); n != 0 {
		t.Errorf("%d tokens live", n)
	}
}

func TestWALIsSealWrapped(t *testing.T) {
	r := newRig(t)
	if !strings.Contains(strings.Join(r.b.SpecialPaths().SealWrapStorage, " "), framework.WALPrefix) {
		t.Error("an entry holds what cancels a grant")
	}
}
