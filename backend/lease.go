// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"errors"
	"time"
)

const (
	// defaultLifetime is assumed of a token whose server does not say how long
	// it lives.
	defaultLifetime = 10 * time.Minute

	maxMargin = 5 * time.Second
	// minLease: Vault reads a lease of 0 as its default of 32 days.
	minLease = time.Second
	// minWorth: of a token that is handed out again. The templates of Vault Agent and
	// consul-template drop what they read twice in a second of the clock, and with a
	// lease of a second that is the next token, for as long as it lives.
	minWorth = 2 * time.Second
	// shortLife is what a token may have left and yet be left alone by a
	// revocation, so that an ordinary expiry sends no request.
	shortLife = 30 * time.Second
	// unknownLife is for how long a token may live on whose server does not say
	// how long it lives.
	unknownLife = 24 * time.Hour
)

// leaseTTL is how long a lease of the grant's token may live from now on, in
// whole seconds: it never outlives the token, the grant's ttl, or limit. A
// caller has to refuse what is shorter than minLease.
func leaseTTL(g *grant, now time.Time, limit time.Duration) time.Duration {
	ttl := min(worth(g, now), limit)
	if g.Settings.TTL > 0 {
		ttl = min(ttl, g.Settings.TTL)
	}
	return ttl.Truncate(time.Second)
}

// worth is how much of the token's life a lease may have.
func worth(g *grant, now time.Time) time.Duration {
	return g.ExpiresAt.Sub(now) - min(maxMargin, g.Lifetime/4)
}

// leaseLimit is how long a lease of the grant may live in all, renewals
// included, given the mount's limit.
func leaseLimit(g *grant, mountLimit time.Duration) time.Duration {
	if g.Settings.MaxTTL > 0 {
		return min(g.Settings.MaxTTL, mountLimit)
	}
	return mountLimit
}

// handsOutAgain tells whether a read answers the grant's current token, which
// others may hold already. Else it rotates.
func handsOutAgain(g *grant, now time.Time, mountLimit time.Duration) bool {
	switch {
	case g == nil || !g.Settings.Shared:
		return false
	case g.Status != statusActive || g.Token == "":
		return false
	case g.Spent || g.inDoubt():
		return false
	}
	least := g.Settings.MinTTL
	if least == 0 {
		least = g.Lifetime / 4
	}
	return g.ExpiresAt.Sub(now) >= least && worth(g, now) >= minWorth && leaseTTL(g, now, leaseLimit(g, mountLimit)) >= minLease
}

// leaseRef is what a lease remembers of its grant (its internal data).
type leaseRef struct {
	Grant      string
	GrantID    string
	Generation int
	Shared     bool // others may hold the token: a lease stays what it was issued as
}

func (r leaseRef) internal() map[string]any {
	return map[string]any{"grant": r.Grant, "grant_id": r.GrantID, "generation": r.Generation, "shared": r.Shared}
}

// readLeaseRef reads a lease's internal data, where numbers come back as
// float64.
func readLeaseRef(internal map[string]any) (r leaseRef, err error) {
	generation, ok := asNumber(internal["generation"])
	r.Generation = int(generation)
	r.Grant, _ = internal["grant"].(string)
	r.GrantID, _ = internal["grant_id"].(string)
	r.Shared, _ = internal["shared"].(bool)
	if !ok || r.Grant == "" || r.GrantID == "" {
		return r, errors.New("the lease does not say which grant it belongs to")
	}
	return r, nil
}

// mayRenew says why a lease cannot be renewed: its token is shared, or not the
// grant's current one, or its time is over. (Vault itself finds out about the time only
// after the renewal, when the rotation has been done.)
func mayRenew(g *grant, r leaseRef, mount string, left time.Duration) error {
	switch {
	case g == nil || g.ID != r.GrantID:
		return refuse("the grant %q of this lease was deleted", r.Grant)
	case r.Shared:
		return refuse("the token of this lease is shared, and renewing would take it from the others; read %stoken/%s again", mount, r.Grant)
	case g.Generation != r.Generation:
		return refuse("superseded: another reader or a rotation got a newer token of grant %q, and this lease's token is dead; read %stoken/%s again", r.Grant, mount, r.Grant)
	case left < minLease:
		return leaseOver(mount + "token/" + r.Grant)
	}
	return nil
}

func leaseOver(path string) error {
	return refuse("the lease has reached its max_ttl; read %s again", path)
}

// revocationRotates tells whether revoking a lease needs a rotation to make the
// handed-out value worthless.
func revocationRotates(g *grant, r leaseRef, now time.Time) bool {
	switch {
	case g == nil || g.ID != r.GrantID: // deleted: its tokens were cancelled
		return false
	case g.Generation != r.Generation: // superseded: dead already
		return false
	case g.Status != statusActive: // lost: the server no longer accepts it
		return false
	case r.Shared: // others hold it
		return false
	case g.Settings.OnRevoke == revokeKeeps:
		return false
	}
	return !g.LifeKnown || g.ExpiresAt.Sub(now) >= shortLife
}

// mayLive tells whether a grant's token may still be accepted.
func mayLive(g *grant, now time.Time) bool {
	if !g.LifeKnown {
		return now.Before(g.ExpiresAt.Add(unknownLife))
	}
	return now.Before(g.ExpiresAt)
}
