// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

const (
	walKind = "grant"

	// rollbackAge is how old an entry of the WAL is before it counts as left
	// behind: older than any that is still being worked on, and young enough for
	// the token to be alive.
	rollbackAge = 2 * patience
	// rollbackPatience is how long one rollback works on all entries. Vault calls
	// it once a minute and holds a lock meanwhile.
	rollbackPatience = 15 * time.Second
)

// replaceWAL puts into the WAL how to cancel the grant that was just made: from
// here on a crash leaves nothing behind. The entry begins its age anew.
func (i *issue) replaceWAL(ctx context.Context) error {
	l := i.leased()
	bare := *l.Grant
	if bare.Continue.URL != "" {
		bare.Token = "" // else the token is what it is revoked with
	}
	text, err := leased{l.Role, &bare}.text()
	if err != nil {
		return err
	}
	entry, err := logical.StorageEntryJSON(framework.WALPrefix+i.wal, framework.WALEntry{Kind: walKind, Data: text, CreatedAt: time.Now().UTC().Unix()})
	if err != nil {
		return err
	}
	return i.storage.Put(ctx, entry)
}

func (i *issue) forgetWAL(ctx context.Context) {
	if err := framework.DeleteWAL(ctx, i.storage, i.wal); err != nil {
		i.b.Logger().Warn("an entry of the WAL that has done its service could not be deleted", i.leased().about(err)...)
	}
}

// rollBack cancels what a crash left behind between asking for a lease's grant and
// answering it. The framework deletes the entry unless there is an error; Vault
// does not log one.
func (b *Backend) rollBack(ctx context.Context, req *logical.Request, _ string, data any) error {
	if !b.WriteSafeReplicationState() {
		return logical.ErrReadOnly
	}
	text, _ := data.(string)
	l, err := parseLeased(text)
	if err != nil {
		b.Logger().Error("an entry of the WAL cannot be read", "error", err)
		return err
	}
	if l.Grant.end() == "" {
		b.Logger().Warn("a grant may have been made whose answer was lost; it ends by itself", l.about(nil)...)
		return nil
	}
	err = b.endLeased(ctx, req, l)
	switch {
	case err == nil:
		b.Logger().Info("a grant that became no lease is cancelled", l.about(nil)...)
	case !mayLive(l.Grant, b.clock.Now()):
		b.Logger().Warn("a grant that became no lease could not be cancelled; its token has expired", l.about(err)...)
		return nil
	default:
		b.Logger().Warn("a grant that became no lease could not be cancelled yet", l.about(err)...)
	}
	return err
}
