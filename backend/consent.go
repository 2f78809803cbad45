// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/url"
	"strings"
	"time"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/authserver"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/uri"
)

// What is known of an owner who is being asked, and what came back from the owner's browser. All of
// it is pure; continuation.go acts on it.

// pendingTTL is how long an owner may take to decide.
const pendingTTL = 10 * time.Minute

// pending is a grant that its owner is being asked for. Until the owner has consented, the grant
// that is stored alongside it, if there is one, stays in use.
type pending struct {
	Source      source                  `json:"source"`
	Continue    authserver.Continuation `json:"continue"`
	InteractURL string                  `json:"interact_url"`
	ClientNonce string                  `json:"client_nonce"`
	ServerNonce string                  `json:"server_nonce"`         // interact.finish
	FinishURI   string                  `json:"finish_uri,omitempty"` // empty: the server is polled
	Since       time.Time               `json:"since"`
	NotBefore   time.Time               `json:"not_before"` // the server asked for a pause
}

// ending returns what it takes to cancel what the owner is being asked for.
func (p *pending) ending() ending {
	return ending{AuthOrigin: p.Source.AuthOrigin, OperatorHosts: p.Source.OperatorHosts, Continue: p.Continue}
}

func (p *pending) expired(now time.Time) bool { return now.Sub(p.Since) >= pendingTTL }

// next returns what there is to do for a consent.
func (p *pending) next() string {
	if p.FinishURI == "" {
		return "the owner opens interact_url and decides; then poll with a write to continue, without fields"
	}
	return "the owner opens interact_url and decides; then write the URL that the browser was sent to, as " +
		"redirect, to continue"
}

// reply is what came back from the owner: the parameters of the finish redirect. Without a
// reference the server is polled.
type reply struct {
	ref, hash string
	result    string // why there is no reference
	landed    string // where the browser was sent, without the query
	resumed   bool   // ref comes from an open intent: its hash was checked
}

// parseReply reads a reply: reference and hash, or the URL that the owner's browser was sent to.
func parseReply(ref, hash, redirect string) (reply, error) {
	if redirect == "" {
		if (ref == "") != (hash == "") {
			return reply{}, userErrorf(
				"hash: goes together with interact_ref; both are in the URL that the owner's browser was sent to",
			)
		}
		return reply{ref: ref, hash: hash}, nil
	}
	if ref != "" || hash != "" {
		return reply{}, userErrorf("redirect: holds interact_ref and hash; give it alone")
	}
	u, err := url.Parse(redirect)
	if err != nil {
		return reply{}, userErrorf("redirect: must be the whole URL that the owner's browser was sent to")
	}
	// The finish URI's own parameters come first; the server's are the last.
	query := u.Query()
	last := func(name string) string {
		if all := query[name]; len(all) > 0 {
			return all[len(all)-1]
		}
		return ""
	}
	r := reply{ref: last("interact_ref"), hash: last("hash"), landed: uri.Origin(u) + u.Path}
	if r.ref == "" || r.hash == "" {
		r = reply{result: last("result"), landed: r.landed}
	}
	if r.ref == "" && r.result == "" {
		return reply{}, userErrorf("redirect: has neither interact_ref and hash nor a result in it")
	}
	return r, nil
}

// hashMatches reports whether the hash proves that a reference comes from the authorization server
// and belongs to this interaction (RFC 9635 section 4.2.3). Rafiki encodes it in standard base64,
// the RFC in base64url.
func (p *pending) hashMatches(r reply) bool {
	base := strings.Join(
		[]string{p.ClientNonce, p.ServerNonce, r.ref, strings.TrimSuffix(p.Source.AuthServer, "/")},
		"\n",
	)
	want := sha256.Sum256([]byte(base))
	encoded := strings.TrimRight(r.hash, "=")
	encoded = strings.NewReplacer(" ", "+", "-", "+", "_", "/").
		Replace(encoded)
		// a "+" that came through a query is a space
	got, err := base64.RawStdEncoding.DecodeString(encoded)
	return err == nil && subtle.ConstantTimeCompare(got, want[:]) == 1
}

// check returns why a reply cannot belong to this interaction, before the server is asked.
func (p *pending) check(r reply) error {
	switch finish, err := url.Parse(p.FinishURI); {
	case r.resumed:
		return nil
	case r.landed != "" && (err != nil || r.landed != uri.Origin(finish)+finish.Path):
		return userErrorf("redirect: is not the finish_uri that this grant was asked for with")
	case r.result != "":
		return nil
	case p.FinishURI != "" && r.ref == "":
		return userErrorf(
			"interact_ref: is needed, with hash (or redirect): this grant was asked for with a finish_uri, and " +
				"such grants cannot be polled",
		)
	case p.FinishURI == "" && r.ref != "":
		return userErrorf(
			"interact_ref: this grant was asked for without a finish_uri; write without fields to poll the server",
		)
	case r.ref != "" && !p.hashMatches(r):
		return userErrorf("hash: does not belong to this reference and this grant; nothing was sent to the server")
	}
	return nil
}
