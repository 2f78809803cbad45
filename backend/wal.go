// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/authserver"
)

const (
	walKind = "grant"

	// rollbackAge is how old an entry of the WAL must be to count as left behind: older than any
	// that is still being worked on, and young enough for the token to be live.
	rollbackAge = 2 * authserver.AnswerTimeout
	// rollbackTimeout is how long one rollback works on all entries. Vault calls it once a minute
	// and holds a lock meanwhile.
	rollbackTimeout = 15 * time.Second
)

// replaceWAL puts into the WAL how to cancel the grant that was just made: from here on a crash
// leaves nothing behind. The entry's age begins anew.
func (i *issuance) replaceWAL(ctx context.Context) error {
	l := i.leaseGrant()
	bare := *l.Grant
	if bare.Continue.URL != "" {
		bare.Token = "" // otherwise the grant is ended by revoking its token
	}
	encoded, err := leaseGrant{l.Role, &bare}.encode()
	if err != nil {
		return err
	}
	entry, err := logical.StorageEntryJSON(
		framework.WALPrefix+i.wal,
		framework.WALEntry{Kind: walKind, Data: encoded, CreatedAt: time.Now().UTC().Unix()},
	)
	if err != nil {
		return err
	}
	return i.attempt.lock.storage.Put(ctx, entry)
}

func (i *issuance) deleteWAL(ctx context.Context) {
	if err := framework.DeleteWAL(ctx, i.attempt.lock.storage, i.wal); err != nil {
		i.attempt.lock.b.Logger().
			Warn("the WAL entry of a finished request could not be deleted; its rollback finds nothing to cancel",
				i.leaseGrant().logFields(err)...)
	}
}

// rollBack cancels what a crash left behind between asking for a lease's grant and returning it.
// The framework deletes the entry unless there is an error; Vault does not log one.
func (b *Backend) rollBack(ctx context.Context, req *logical.Request, _ string, data any) error {
	if !b.WriteSafeReplicationState() {
		return logical.ErrReadOnly
	}
	encoded, _ := data.(string)
	l, err := parseLeaseGrant(encoded)
	if err != nil {
		b.Logger().Error("an entry of the WAL cannot be read", "error", err)
		return err
	}
	if l.Grant.ending().url() == "" {
		b.Logger().Warn("a grant may have been made whose answer was lost; it expires", l.logFields(nil)...)
		return nil
	}
	err = b.cancelLeaseGrant(ctx, req.Storage, l)
	switch {
	case err == nil:
		b.Logger().Info("a grant that was never leased is cancelled", l.logFields(nil)...)
	case !mayBeLive(l.Grant, b.clock.Now()) && !saysNothing(err):
		b.Logger().
			Warn("a grant that was never leased could not be cancelled; its token has expired", l.logFields(err)...)
		return nil
	default:
		b.Logger().Warn("a grant that was never leased could not be cancelled yet", l.logFields(err)...)
	}
	return err
}
