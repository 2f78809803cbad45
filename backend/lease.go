// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"errors"
	"time"
)

// What decides about leases of stored grants: how long they live, and what may be done with them.
// All of it is pure.

const (
	// defaultLifetime is assumed for a token whose server does not say how long it lives.
	defaultLifetime = 10 * time.Minute

	maxMargin = 5 * time.Second
	// minLease: Vault reads a lease of 0 as its default of 32 days.
	minLease = time.Second
	// minReusable is the shortest lease of a token that is handed out again. Vault Agent and
	// consul-template ignore a second read within one clock second; with a 1 s lease they would
	// drop the new token and keep the dead one.
	minReusable = 2 * time.Second
	// shortLife is what a token may have left and yet be left alone by a revocation, so that an
	// ordinary expiry sends no request.
	shortLife = 30 * time.Second
	// unknownLife is how long a token may live whose server does not say how long it lives.
	unknownLife = 24 * time.Hour
)

// leaseTTL returns how long a lease of the grant's token may live from now on, in whole seconds: it
// never outlives the token, the grant's ttl, or limit. The caller must refuse what is shorter than
// minLease.
func leaseTTL(g *grant, now time.Time, limit time.Duration) time.Duration {
	ttl := min(usableLifetime(g, now), limit)
	if g.Settings.TTL > 0 {
		ttl = min(ttl, g.Settings.TTL)
	}
	return ttl.Truncate(time.Second)
}

// grantedTTL returns how long a lease of the grant's token may live: like leaseTTL and, where the grant
// has no ttl, no longer than the mount's default.
func grantedTTL(g *grant, now time.Time, limit, mountDefault time.Duration) time.Duration {
	if g.Settings.TTL == 0 {
		limit = min(limit, mountDefault)
	}
	return leaseTTL(g, now, limit)
}

// usableLifetime returns how much of the token's life a lease may have.
func usableLifetime(g *grant, now time.Time) time.Duration {
	return g.remaining(now) - min(maxMargin, g.Lifetime/4)
}

// leaseLimit returns how long a lease of the grant may live in all, renewals included, given the
// mount's limit.
func leaseLimit(g *grant, mountLimit time.Duration) time.Duration {
	if g.Settings.MaxTTL > 0 {
		return min(g.Settings.MaxTTL, mountLimit)
	}
	return mountLimit
}

// canReuse reports whether a read returns the grant's current token, which others may hold already,
// instead of rotating.
func canReuse(g *grant, now time.Time, mountLimit time.Duration) bool {
	switch {
	case g == nil || g.Status != statusActive || g.Token == "":
		return false
	case g.unmanaged(now): // it cannot be rotated
		return leaseTTL(g, now, leaseLimit(g, mountLimit)) >= minLease
	case !g.Settings.Shared || g.NotReusable || g.inDoubt():
		return false
	case g.LastRotation.At.After(now): // the clock was set back: nobody knows how old it is
		return false
	}
	least := g.Settings.MinTTL
	if least == 0 {
		least = g.Lifetime / 4
	}
	return g.remaining(now) >= least && usableLifetime(g, now) >= minReusable &&
		leaseTTL(g, now, leaseLimit(g, mountLimit)) >= minLease
}

const leaseVersion = 1

// leaseRef is what a lease remembers of its grant: its internal data.
type leaseRef struct {
	Grant      string
	GrantID    string
	Generation int
	Shared     bool // others may hold the token: a lease stays what it was issued as
}

func (r leaseRef) internal() map[string]any {
	return map[string]any{
		"version": leaseVersion,
		"grant":   r.Grant, "grant_id": r.GrantID, "generation": r.Generation, "shared": r.Shared,
	}
}

// readLeaseRef reads a lease's internal data, where numbers come back as float64. Version 0.1.0 gave it no
// version.
func readLeaseRef(internal map[string]any) (r leaseRef, err error) {
	if version, _ := asNumber(internal["version"]); version > leaseVersion {
		return r, newer("what the lease remembers", int(version))
	}
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

// checkRenewable returns why a lease cannot be renewed: its token is shared, or not the grant's
// current one, or less than a second is left of it. (Vault itself finds out about the time only
// after the renewal, when the rotation has been done.) path is where the token is read.
func checkRenewable(g *grant, r leaseRef, path string, left time.Duration) error {
	switch {
	case g == nil || g.ID != r.GrantID:
		return userErrorf("the grant %q of this lease was deleted", r.Grant)
	case r.Shared:
		return userErrorf(
			"the token of this lease is shared, and renewing would take it from the others; read %s again",
			path,
		)
	case g.Generation == r.Generation && g.Status == statusActive && (g.Manage == "" || g.ManageOld):
		return userErrorf("the authorization server named no manage URL with this lease's token, so that it "+
			"cannot be "+
			"renewed; read %s again when it has expired", path)
	case g.Generation != r.Generation:
		return userErrorf(
			"superseded: another reader or a rotation got a newer token of grant %q, and this lease's token is "+
				"dead; read %s again",
			r.Grant,
			path,
		)
	case left < minLease:
		return leaseOver(path)
	}
	return nil
}

func leaseOver(path string) error {
	return userErrorf("the lease has reached its max_ttl; read %s again", path)
}

// revocationRotates reports whether revoking a lease needs a rotation to make the handed-out value
// worthless.
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
	case g.unmanaged(now): // nothing can be done about it
		return false
	}
	return !g.LifeKnown || g.remaining(now) >= shortLife
}

// heldReplaced returns the token that a lease holds if an import has replaced it and the lease's
// revocation is to make it worthless; nil otherwise.
func heldReplaced(g *grant, r leaseRef, now time.Time) *replaced {
	if g == nil || g.ID != r.GrantID || r.Shared || g.Settings.OnRevoke == revokeKeeps {
		return nil
	}
	for _, one := range g.Replaced.still(now) {
		if one.Generation == r.Generation {
			return one
		}
	}
	return nil
}

// mayBeLive reports whether a grant's token may still be accepted.
func mayBeLive(g *grant, now time.Time) bool {
	if !g.LifeKnown {
		return now.Before(g.ExpiresAt.Add(unknownLife))
	}
	return now.Before(g.ExpiresAt)
}
