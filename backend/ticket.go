// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/rights"
)

// Signing tickets: what may be signed with the token of a role's lease, sealed by the engine and
// kept by whoever holds the lease, because the engine itself remembers no lease.

const (
	ticketsPrefix     = "tickets/"
	ticketKeysKey     = ticketsPrefix + "keys" // also the name of its lock: no grant has such a name
	ticketKeysVersion = 1
	ticketKeyIDLength = 8

	// maxTicketLife is how long a ticket lives at most, and so how long a replaced key is kept. It is
	// Vault's default limit on leases: where a mount allows longer ones, the lease is renewed, or the
	// token read again, for the next ticket.
	maxTicketLife = 768 * time.Hour
)

// ticket is the content of a signing ticket.
type ticket struct {
	TokenSum       []byte          `json:"token"` // SHA-256
	Requested      json.RawMessage `json:"requested,omitempty"`
	Access         json.RawMessage `json:"access,omitempty"` // left out where it is the same
	ResourceServer string          `json:"resource_server,omitempty"`
	Reserved       []string        `json:"reserved,omitempty"`
	Client         string          `json:"client"`
	End            time.Time       `json:"end"`
}

// newTicket returns a ticket for the grant's current token.
func newTicket(g *grant, now time.Time) ticket {
	sum := sha256.Sum256([]byte(g.Token))
	t := ticket{
		TokenSum: sum[:], Requested: g.Requested, ResourceServer: g.ResourceServer, Reserved: g.authServerURLs(),
		Client: g.Client, End: g.ExpiresAt,
	}
	if !bytes.Equal(g.Access, g.Requested) {
		t.Access = g.Access
	}
	if last := now.Add(maxTicketLife); t.End.After(last) {
		t.End = last
	}
	return t
}

// isGoodFor reports whether the ticket is for this token and client, and has not expired.
func (t *ticket) isGoodFor(token, client string, now time.Time) bool {
	sum := sha256.Sum256([]byte(token))
	return subtle.ConstantTimeCompare(sum[:], t.TokenSum) == 1 && t.Client == client && now.Before(t.End)
}

func (t *ticket) scope() (rights.Scope, error) {
	return newScope(t.ResourceServer, t.Reserved, t.Requested, t.Access)
}

// ticketKey seals tickets. Nonces are random, so it may seal 2^32 of them (NIST SP 800-38D, section
// 8.3): one a second for 136 years.
type ticketKey struct {
	ID        []byte    `json:"id"`  // in clear in each ticket, so that only the right key is tried
	Key       []byte    `json:"key"` // AES-256
	RetiresAt time.Time `json:"retires_at,omitzero"`
}

func newTicketKey() ticketKey {
	k := ticketKey{ID: make([]byte, ticketKeyIDLength), Key: make([]byte, 32)}
	_, _ = rand.Read(k.ID) // never fails
	_, _ = rand.Read(k.Key)
	return k
}

func (k ticketKey) aead() (cipher.AEAD, error) {
	block, err := aes.NewCipher(k.Key)
	if err != nil {
		return nil, fmt.Errorf("the stored ticket key %x is damaged", k.ID)
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// seal returns a ticket as its holder gets it: base64url of the key's id, the nonce and the sealed
// content.
func (k ticketKey) seal(t ticket, place string) (string, error) {
	content, err := json.Marshal(t)
	if err != nil {
		return "", fmt.Errorf("encode the signing ticket: %w", err)
	}
	aead, err := k.aead()
	if err != nil {
		return "", err
	}
	sealed := aead.Seal(bytes.Clone(k.ID), nil, content, []byte(place)) //nolint:gosec // G407: it makes its own nonce
	return base64.RawURLEncoding.EncodeToString(sealed), nil
}

// ticketPlace returns where a role's tickets are good: the mount and the role, which are sealed into
// them as associated data.
func ticketPlace(req *logical.Request, role string) string {
	return req.MountPoint + credsPrefix + role
}

// ticketKeys are the keys of this mount's tickets: one storage entry.
type ticketKeys struct {
	Version int         `json:"version"`
	Current ticketKey   `json:"current"`
	Formers []ticketKey `json:"formers,omitempty"` // they open what they have sealed until they retire
}

// open returns the content of a ticket, or nil if it was not sealed here for this place. At most one
// key is tried.
func (k *ticketKeys) open(text, place string, now time.Time) *ticket {
	sealed, err := base64.RawURLEncoding.Strict().DecodeString(text)
	// Decoding ignores line ends: there is one way to write a ticket.
	if k == nil || err != nil || len(sealed) < ticketKeyIDLength ||
		base64.RawURLEncoding.EncodedLen(len(sealed)) != len(text) {
		return nil
	}
	key := k.find(sealed[:ticketKeyIDLength], now)
	if key == nil {
		return nil
	}
	aead, err := key.aead()
	if err != nil {
		return nil
	}
	content, err := aead.Open(nil, nil, sealed[ticketKeyIDLength:], []byte(place))
	var t ticket
	if err != nil || json.Unmarshal(content, &t) != nil {
		return nil
	}
	return &t
}

func (k *ticketKeys) find(id []byte, now time.Time) *ticketKey {
	if bytes.Equal(id, k.Current.ID) {
		return &k.Current
	}
	for i, former := range k.Formers {
		if bytes.Equal(id, former.ID) && now.Before(former.RetiresAt) {
			return &k.Formers[i]
		}
	}
	return nil
}

// replaced returns the keys with a new one in use. The key before it retires once no ticket of its
// can be live.
func (k *ticketKeys) replaced(now time.Time) *ticketKeys {
	next := &ticketKeys{Version: ticketKeysVersion, Current: newTicketKey()}
	if k != nil {
		former := k.Current
		former.RetiresAt = now.Add(maxTicketLife)
		next.Formers = append(k.live(now), former)
	}
	return next
}

// live returns the former keys that have not retired yet.
func (k *ticketKeys) live(now time.Time) (formers []ticketKey) {
	for _, former := range k.Formers {
		if now.Before(former.RetiresAt) {
			formers = append(formers, former)
		}
	}
	return formers
}

// loadTicketKeys reads the stored ticket keys; nil if there are none.
func loadTicketKeys(ctx context.Context, s logical.Storage) (*ticketKeys, error) {
	entry, err := s.Get(ctx, ticketKeysKey)
	if err != nil {
		return nil, fmt.Errorf("read the stored ticket keys: %w", err)
	}
	if entry == nil {
		return nil, nil
	}
	var k ticketKeys
	err = decode(entry.Value, "the stored entry "+ticketKeysKey, &k, &k.Version, ticketKeysVersion)
	if err == nil && len(k.Current.ID) != ticketKeyIDLength {
		err = fmt.Errorf("the stored entry %s is damaged%w", ticketKeysKey, errUnreadable)
	}
	if err != nil {
		return nil, err
	}
	return &k, nil
}

// rememberedTicketKeys returns the ticket keys, from memory where it can; nil if there are none.
func (b *Backend) rememberedTicketKeys(ctx context.Context, s logical.Storage) (*ticketKeys, error) {
	return b.tickets.get(func() (*ticketKeys, error) { return loadTicketKeys(ctx, s) })
}

// ticketKeyInUse returns the key to seal tickets with, and makes one if there is none. On a node that
// may not write it returns logical.ErrReadOnly rather than make one.
func (b *Backend) ticketKeyInUse(ctx context.Context, s logical.Storage) (ticketKey, error) {
	k, err := b.rememberedTicketKeys(ctx, s)
	if err == nil && k == nil {
		k, err = b.changeTicketKeys(ctx, s, func(k *ticketKeys) *ticketKeys {
			if k != nil { // somebody else was faster
				return nil
			}
			return k.replaced(b.clock.Now())
		})
	}
	if err != nil {
		return ticketKey{}, err
	}
	return k.Current, nil
}

// replaceTicketKey replaces the key in use, if there is one.
func (b *Backend) replaceTicketKey(ctx context.Context, s logical.Storage) error {
	_, err := b.changeTicketKeys(ctx, s, func(k *ticketKeys) *ticketKeys {
		if k == nil {
			return nil
		}
		return k.replaced(b.clock.Now())
	})
	return err
}

// destroyRetiredTicketKeys destroys former keys of which no ticket can be live. It looks in memory
// only, because it is called every minute: a retired key opens nothing, and is destroyed soon after the
// keys have next been used.
func (b *Backend) destroyRetiredTicketKeys(ctx context.Context, s logical.Storage) error {
	now := b.clock.Now()
	k, _ := b.tickets.peek()
	if k == nil || len(k.live(now)) == len(k.Formers) {
		return nil
	}
	_, err := b.changeTicketKeys(ctx, s, func(k *ticketKeys) *ticketKeys {
		if k == nil {
			return nil
		}
		return &ticketKeys{Version: ticketKeysVersion, Current: k.Current, Formers: k.live(now)}
	})
	return err
}

// changeTicketKeys stores what change makes of the stored keys, and returns what is stored then.
// change returns nil if nothing is to be stored.
func (b *Backend) changeTicketKeys(
	ctx context.Context, s logical.Storage, change func(*ticketKeys) *ticketKeys,
) (*ticketKeys, error) {
	l, err := b.lockGrant(ctx, s, ticketKeysKey)
	if err != nil {
		return nil, err
	}
	defer l.release()
	stored, err := loadTicketKeys(ctx, s)
	if err != nil {
		return nil, err
	}
	next := change(stored)
	if next == nil {
		return stored, nil
	}
	entry, err := logical.StorageEntryJSON(ticketKeysKey, next)
	if err != nil {
		return nil, fmt.Errorf("encode the ticket keys: %w", err)
	}
	if err := s.Put(ctx, entry); err != nil {
		b.tickets.forget() // it may have been done all the same
		return nil, err
	}
	b.tickets.remember(next)
	return next, nil
}
