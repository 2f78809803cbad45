// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/gowebpki/jcs"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/authserver"
)

// Provisioning tools write the same thing again and again, and send everything to change one
// setting. What decides whether a write repeats an earlier one is in this file.

// maxRemembered is how many imported tokens and replaced keys are remembered.
const maxRemembered = 32

// repeatsAsk reports whether a request asks for what the grant was asked for: the same rights from the
// same servers. The finish URI counts only while the owner is being asked, and so does the time.
func (g *grant) repeatsAsk(p grantParams, now time.Time) bool {
	switch {
	case g == nil || g.Imported:
		return false
	case g.Pending != nil:
		return g.Pending.Source.names(p.typed) && bytes.Equal(p.access, g.Pending.Source.Requested) &&
			p.finishURI == g.Pending.FinishURI && now.Before(g.Pending.Since.Add(pendingTTL))
	case g.Token == "": // nothing came of it
		return false
	}
	return g.names(p.typed) && (bytes.Equal(p.access, g.Requested) || bytes.Equal(p.access, canonical(g.Access)))
}

// canonical returns rights as Parse does; nil if they are unknown.
func canonical(access json.RawMessage) json.RawMessage {
	text, err := jcs.Transform(access)
	if err != nil {
		return nil
	}
	return text
}

// repeatAsk changes the settings of a grant that is asked for again, and reports whether that is all
// there is to do. A lost grant is rotated first: if the server takes its token after all, nobody has to
// be asked.
func (b *Backend) repeatAsk(
	ctx context.Context, s logical.Storage, d *framework.FieldData, name string, p grantParams, resp *logical.Response,
) (g *grant, done bool, err error) {
	l, err := b.lockGrant(ctx, s, name)
	if err != nil {
		return nil, false, err
	}
	defer l.release()
	if g, err = l.load(ctx); err != nil || !g.repeatsAsk(p, b.clock.Now()) {
		return nil, false, err
	}
	if g.Status == statusLost && g.Pending == nil {
		g, err = l.rotate(ctx, causeRotate, func(*grant) (bool, error) { return true, nil })
		var lost lostGrantError
		if errors.As(err, &lost) {
			return nil, false, nil // the owner has to be asked
		}
		if err != nil {
			return nil, false, err
		}
	}
	if err := l.applySettings(ctx, g, d); err != nil {
		return nil, false, err
	}
	if g.Pending != nil {
		resp.AddWarning(
			"the owner is being asked for these rights already: nothing was asked again, and only settings " +
				"changed; ask_again=true asks anew",
		)
	} else {
		resp.AddWarning("the grant has these rights already: nothing was asked again, and only settings changed; " +
			"ask_again=true asks anew")
	}
	return g, true, nil
}

// repeatsImport reports whether a grant was imported with a token before.
func (g *grant) repeatsImport(t authserver.TokenIssued) bool {
	return g != nil && slices.Contains(g.ImportedWith, digest(t.Value))
}

// rememberImport notes that a grant was imported with a token.
func (g *grant) rememberImport(t authserver.TokenIssued) {
	g.Imported = true
	g.ImportedWith = append(slices.Clone(g.ImportedWith), digest(t.Value))
	g.ImportedWith = g.ImportedWith[max(0, len(g.ImportedWith)-maxRemembered):]
}

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// replacedKey is a key of the client that keys/rotate has replaced.
type replacedKey struct {
	KeyID  string `json:"key_id"`
	Digest string `json:"digest"` // of the public key
}

func keyDigest(privateKey string) string {
	jwk, err := authserver.PublicJWK("", privateKey)
	if err != nil {
		return ""
	}
	x, _ := jwk["x"].(string)
	return digest(x)
}

// rememberReplacedKey notes that the active key is being replaced.
func (c *config) rememberReplacedKey() {
	c.ReplacedKeys = append(slices.Clone(c.ReplacedKeys), replacedKey{c.KeyID, keyDigest(c.PrivateKey)})
	c.ReplacedKeys = c.ReplacedKeys[max(0, len(c.ReplacedKeys)-maxRemembered):]
}

// putsBack reports whether a write would put back a key, or only its id, that keys/rotate has replaced.
func (c *config) putsBack(next *config) bool {
	keyChanges, idChanges := next.PrivateKey != c.PrivateKey, next.KeyID != c.KeyID
	return slices.ContainsFunc(c.ReplacedKeys, func(k replacedKey) bool {
		if keyChanges {
			return k.Digest == keyDigest(next.PrivateKey)
		}
		return idChanges && k.KeyID == next.KeyID
	})
}
