// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"pgregory.net/rapid"
)

// This is the specification of a grant's life. TestModel does random things with two grants and the
// leases of two roles. At random points the engine is stopped, storage or the network fails, and the
// server answers with errors and in the dialects of other servers; clocks are set back and forth, and
// the client's key is replaced. After each step it checks:
//
//  1. A grant's status changes only as the table below says.
//  2. Only a grant that needed consent is lost, and only if an answer with its token never got into
//     storage, or if the server named no URL to rotate it at, or said for an hour that it cannot rotate
//     it, or if its deletion was begun. An answer that arrives at an engine that lives is stored. Nobody
//     is told "lost" of a grant that the server would still rotate.
//  3. A token that a lease holds is the grant's current one, dead, kept by on_revoke=keep, or one of a
//     former grant that is listed for cancellation. What the server names no way to end is excepted.
//  4. A generation never goes back, and is that of one token only.
//  5. What was deleted without force is dead at the server.
//  6. When nothing fails any more, each grant that is not lost can be read, and everything can be ended.
//
// What is done, and how it fails, is in model_steps_test.go.

// none is the status of a grant that is not stored, and begun that of one that was asked for when the
// engine or its storage failed.
const none, begun = "none", "begun"

// moves are all changes of a status, and the operations that may bring them about.
var moves = []struct{ from, to, by string }{
	{none, begun, "ask"},
	{none, statusActive, "ask import"},
	{none, statusPending, "ask"},
	{begun, none, "ask delete"},
	{begun, statusActive, "ask import read rotate tick"},
	{begun, statusPending, "ask"},
	{begun, statusLost, "read rotate tick"}, // the server wants the owner's consent
	{statusPending, none, "delete"},
	{statusPending, statusActive, "ask continue import tick"},
	{statusPending, statusLost, "continue tick"},
	{statusActive, none, "delete"},
	{statusActive, statusLost, "read renew revoke rotate tick"},
	{statusLost, none, "delete"},
	{statusLost, statusActive, "ask continue import rotate tick"},
	{statusLost, statusPending, "ask"},
}

func statusOf(g *grant) string {
	switch {
	case g == nil:
		return none
	case g.Status == statusActive && g.Token == "":
		return begun
	}
	return g.Status
}

var names = []string{"a", "b"}

// generation is that of one grant, which may have been made again under its name.
type generation struct {
	grant string // its creation id
	n     int
}

// model is what is known of the grants, and what the engine is compared with.
type model struct {
	*crash
	t       *rapid.T
	healthy bool // nothing fails any more

	grants      map[string]*grant     // as they were last stored
	tokens      map[string]*grant     // every token that was stored, as its grant was then
	generations map[generation]string // the token of each
	newest      map[string]int        // generation, by creation id
	owners      map[string]string     // of each token that the server has issued: the grant that it is for; empty: any
	certain     map[string]int        // how many tokens had been issued when a grant could last be rotated
	waived      map[string]bool       // tokens that nobody can end, or is to end
	redirects   map[string]string     // where an owner's browser was sent
}

// check compares a grant with what it was before an operation.
func (m *model) check(what, about, name string) {
	before, g := m.grants[name], must(loadGrant(m.ctx, m.storage.InmemStorage, name))
	from, to := statusOf(before), statusOf(g)
	allowed := from == to || slices.ContainsFunc(moves, func(move struct{ from, to, by string }) bool {
		return move.from == from && move.to == to && slices.Contains(strings.Fields(move.by), what)
	})
	if !allowed || from != to && about != "" && about != name {
		m.Fatalf("%s was %s, and is %s after %s", name, from, to, what)
	}
	if m.grants[name] = g; g == nil {
		return
	}
	rotatable := g.Manage != "" && m.sandbox.Rotatable(g.Manage)
	switch {
	case to == statusLost && rotatable && !strings.Contains(g.Lost.Cause, "invalid_rotation"):
		m.Fatalf("%s is lost (%s), and the server would rotate it", name, g.Lost.Cause)
	case to == statusLost && from != to && !m.mayBeLost(name, before, g):
		m.Fatalf("%s is lost (%s), and every answer is in storage", name, g.Lost.Cause)
	case rotatable:
		m.certain[name] = len(m.tokensIssued())
	}
	if g.Token != "" {
		m.tokens[g.Token] = g
		m.named(g.ID, g.Generation, g.Token)
	}
	if g.Generation < m.newest[g.ID] {
		m.Fatalf("the generation of %s went back", name)
	}
	m.newest[g.ID] = g.Generation
}

// named checks that a generation has no other token.
func (m *model) named(id string, n int, token string) {
	at := generation{id, n}
	if other, ok := m.generations[at]; ok && other != token {
		m.Fatalf("generation %d is that of two tokens", n)
	}
	m.generations[at] = token
}

// mayBeLost reports whether a grant may have become lost.
func (m *model) mayBeLost(name string, before, g *grant) bool {
	switch {
	case before.Status == statusPending && before.Pending.Ref == "": // declined, or never decided
		return true
	case statusOf(before) == begun: // the server wants the owner's consent, who was not asked
		return true
	case before.Status != statusPending && !g.Interactive:
		return false
	case before.Ending, g.Manage == "" || g.ManageOld, strings.Contains(g.Lost.Cause, "invalid_rotation"):
		return true
	}
	return slices.ContainsFunc(m.tokensIssued()[m.certain[name]:], func(token string) bool {
		return (m.owners[token] == name || m.owners[token] == "") && !m.kept(token)
	})
}

// checkKept checks a token whose answer has arrived, at an engine that lives.
func (m *model) checkKept(token string) {
	if m.sandbox.Live(token) && !m.kept(token) {
		m.Fatal("a token arrived, and is in no storage")
	}
}

// checkTokens checks what has become of the tokens of stored grants.
func (m *model) checkTokens() {
	for token, of := range m.tokens {
		i := slices.IndexFunc(names, func(name string) bool {
			g := m.grants[name]
			return g != nil && (g.Token == token || slices.ContainsFunc(g.endings(m.clock.Now()), func(e ending) bool {
				return e.Token == token
			}))
		})
		switch {
		case !m.sandbox.Live(token), !mayBeLive(of, m.clock.Now()):
			delete(m.tokens, token)
		case i < 0 && !m.waived[token]:
			m.Fatal("a token lives, and is neither a grant's current one nor listed for cancellation")
		}
		m.waived[token] = m.waived[token] || unendable(of)
	}
}

// unendable reports whether the server named nothing that a grant's token can be ended by.
func unendable(g *grant) bool { return g.Continue.URL == "" && (g.Manage == "" || g.ManageOld) }

// handOut checks a lease that was handed out, and keeps it.
func (m *model) handOut(name string, lease *logical.Response) {
	token, g := tokenOf(lease), m.grants[name]
	switch ref, err := readLeaseRef(lease.Secret.InternalData); {
	case err != nil: // of a role: the lease is all that remembers its grant
		m.keep(must(json.Marshal(lease.Secret.InternalData)))
	case m.kept(token) && g != nil && !g.Settings.Shared && !g.ManageOld && (!m.sandbox.Live(token) || token != g.Token):
		m.Fatal("a token was handed out that is not the current one")
	default:
		m.named(ref.GrantID, ref.Generation, token)
	}
	lease.Secret.IssueTime = m.clock.Now()
	m.leases = append(m.leases, lease)
}

// dead checks that the token of a lease that was renewed or revoked is worthless, or about to be.
func (m *model) dead(name string, lease *logical.Response) {
	token, g := tokenOf(lease), m.grants[name]
	switch {
	case !m.sandbox.Live(token), m.waived[token], m.left(lease) < shortLife, lease.Secret.InternalData["shared"] == true:
	case g != nil && (g.Settings.OnRevoke == revokeKeeps || g.ManageOld || !m.kept(token)):
	case g != nil && slices.ContainsFunc(g.Formers, func(e ending) bool { return e.Token == token }):
	default:
		m.Fatal("the token of a lease that is over lives")
	}
}

// left returns how much of the life of a lease's token is left.
func (m *model) left(lease *logical.Response) time.Duration {
	return must(time.Parse(time.RFC3339, lease.Data["expires_at"].(string))).Sub(m.clock.Now())
}

func TestModel(t *testing.T) {
	fewChecks()
	steps := 0
	rapid.Check(t, func(rt *rapid.T) {
		m := newModel(t, rt)
		rt.Repeat(m.operations(&steps))
		m.heal()
		if pick(m, "in the end", "used", "ended") == "used" {
			m.use()
		} else {
			m.end()
		}
	})
	t.Logf("%d operations", steps)
}
