// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/authserver"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
)

func (r *rig) creds(role string) *logical.Response {
	r.Helper()
	return r.ok(logical.ReadOperation, "creds/"+role, nil)
}

func (r *rig) goCreds(ctx context.Context, role string) <-chan result {
	c := make(chan result, 1)
	go func() {
		resp, err := r.do(ctx, logical.ReadOperation, "creds/"+role, nil)
		c <- result{resp, err}
	}()
	return c
}

// grantOf is what a lease of creds remembers of its grant.
func (r *rig) grantOf(lease *logical.Response) *grant {
	r.Helper()
	l, err := readLeaseGrant(r.leaseRequest(logical.RenewOperation, lease))
	if err != nil {
		r.Fatal(err)
	}
	return l.Grant
}

// keys are all that is stored, but for what every tick stores.
func (r *rig) keys() []string {
	r.Helper()
	keys, err := logical.CollectKeys(r.ctx, r.storage.InmemStorage)
	if err != nil {
		r.Fatal(err)
	}
	slices.Sort(keys)
	return slices.DeleteFunc(keys, func(key string) bool { return key == cursorKey })
}

// nothingMore checks that storage holds what it held, and that no secret of a lease is in the log
// or the given text.
func (r *rig) nothingMore(before []string, leases ...*logical.Response) {
	r.Helper()
	r.want("storage", r.keys(), before...)
	for _, lease := range leases {
		g := r.grantOf(lease)
		for _, secret := range []string{g.Token, g.Manage, g.Continue.URL, g.Continue.Token} {
			if secret != "" && strings.Contains(r.log.String(), secret) {
				r.Error("the log holds a secret of a lease")
			}
		}
	}
}

// member changes a member of the server's answers to an operation; nil removes it.
func (r *rig) member(op string, path []string, value any) {
	r.answers(op, func(body string) string {
		var answer map[string]any
		_ = json.Unmarshal([]byte(body), &answer)
		object := answer
		for _, name := range path[:len(path)-1] {
			object, _ = object[name].(map[string]any)
		}
		if last := path[len(path)-1]; value == nil {
			delete(object, last)
		} else {
			object[last] = value
		}
		changed, _ := json.Marshal(answer)
		return string(changed)
	})
}

func TestCreds(t *testing.T) {
	r := withRole(t)
	before := r.keys()
	first := r.creds("till")
	for member, want := range map[string]any{
		"authorization": "GNAP " + tokenOf(first), "role": "till", "generation": 1, "auth_server": r.sandbox.AuthServer(),
		"wallet_address": r.sandbox.WalletAddress("shop"), "resource_server": r.sandbox.ResourceServer(),
		"expires_at": r.clock.Now().Add(600 * time.Second).UTC().Format(time.RFC3339), "grant": nil,
	} {
		if first.Data[member] != want {
			t.Errorf("%s: %v, want %v", member, first.Data[member], want)
		}
	}
	if s := first.Secret; s.TTL != 595*time.Second || s.MaxTTL != s.TTL || !s.Renewable || len(first.Warnings) != 0 {
		t.Errorf("TTL %s, MaxTTL %s, warnings %v", s.TTL, s.MaxTTL, first.Warnings)
	}
	second := r.creds("till")
	if !r.sandbox.Live(tokenOf(first)) || !r.sandbox.Live(tokenOf(second)) {
		t.Error("two readers have taken the token from each other")
	}

	renewed, err := r.renew(first)
	if err != nil {
		t.Fatal(err)
	}
	if r.sandbox.Live(tokenOf(first)) || !r.sandbox.Live(tokenOf(renewed)) || !r.sandbox.Live(tokenOf(second)) {
		t.Error("a renewal replaces the lease's own token and no other")
	}
	if renewed.Data["generation"] != 2 || renewed.Data["role"] != "till" || renewed.Secret.TTL != 595*time.Second {
		t.Errorf("generation %v, TTL %s", renewed.Data["generation"], renewed.Secret.TTL)
	}
	again, err := r.renew(renewed) // what it needs is in the renewal's internal data
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if resp, err := r.revoke(again); resp != nil || err != nil {
			t.Errorf("%v %v", resp, err)
		}
	}
	if r.sandbox.Live(tokenOf(again)) || !r.sandbox.Live(tokenOf(second)) || r.sandbox.Count("cancel") != 2 {
		t.Error("a revocation cancels the lease's own grant and no other")
	}
	r.nothingMore(before, first, second, renewed, again)
	if n := len(r.b.locks.byName); n != 0 {
		t.Errorf("%d locks are remembered", n)
	}
}

// The token is in the lease's data alone: not in its internal data, and never in storage, not even
// while it is being asked for.
func TestTokenOfALeaseIsStoredNowhere(t *testing.T) {
	r := withRole(t)
	var written []string
	r.storage.onDelete = func(key string) error {
		entry, err := r.storage.InmemStorage.Get(r.ctx, key)
		written = append(written, string(entry.Value))
		return err
	}
	lease := r.creds("till")
	if len(written) != 1 || !strings.Contains(written[0], r.grantOf(lease).Continue.Token) {
		t.Errorf("the WAL does not hold what cancels the grant: %d entries", len(written))
	}
	renewed, err := r.renew(lease)
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range []*logical.Response{lease, renewed} {
		for _, text := range append(written, one.Secret.InternalData["leased"].(string)) {
			if strings.Contains(text, tokenOf(one)) {
				t.Error("the token is stored")
			}
		}
	}
}

// Vault keeps a lease's internal data as JSON.
func TestLeaseComesBackAsItWas(t *testing.T) {
	r := withRole(t)
	r.ok(logical.PatchOperation, "roles/till", map[string]any{"ttl": "90s", "max_ttl": "1h"})
	lease := r.creds("till")
	stored, err := json.Marshal(lease.Secret.InternalData)
	if err != nil {
		t.Fatal(err)
	}
	var internal map[string]any
	if err := json.Unmarshal(stored, &internal); err != nil {
		t.Fatal(err)
	}
	g := r.grantOf(&logical.Response{Secret: &logical.Secret{InternalData: internal}, Data: lease.Data})
	if g.Generation != 1 || !g.ExpiresAt.Equal(r.clock.Now().Add(600*time.Second)) || g.Lifetime != 600*time.Second || !g.LifeKnown ||
		g.Settings.TTL != 90*time.Second || g.Settings.MaxTTL != time.Hour || g.Client != r.sandbox.WalletAddress("client") || g.Token != tokenOf(lease) {
		t.Error("something is lost or changed")
	}
	for name, damaged := range map[string]map[string]any{
		"nothing": {}, "no text": {"leased": 7}, "no JSON": {"leased": `{"role":"till"`}, "no grant": {"leased": `{"role":"till"}`},
		"no role": {"leased": `{"grant":{"version":1}}`}, "newer": {"leased": `{"role":"till","grant":{"version":99}}`},
	} {
		damaged["secret_type"] = credsType
		lease := &logical.Response{Secret: &logical.Secret{InternalData: damaged}}
		for what, call := range map[string]func(*logical.Response) (*logical.Response, error){"renew": r.renew, "revoke": r.revoke} {
			if resp, err := call(lease); resp != nil || err == nil {
				t.Errorf("%s, %s: %v", name, what, resp)
			}
		}
	}
}

func TestSettingsOfALease(t *testing.T) {
	r := withRole(t)
	for name, row := range map[string]struct {
		settings map[string]any
		mount    time.Duration
		want     time.Duration
	}{
		"the token's life":    {nil, time.Hour, 595 * time.Second},
		"the role's ttl":      {field("ttl", "60s"), time.Hour, time.Minute},
		"the role's max_ttl":  {field("max_ttl", 30), time.Hour, 30 * time.Second},
		"the mount's limit":   {nil, 45 * time.Second, 45 * time.Second},
		"longer than a token": {field("ttl", "1h"), 2 * time.Hour, 595 * time.Second},
	} {
		r.ok(logical.PatchOperation, "roles/till", map[string]any{"ttl": nil, "max_ttl": nil})
		r.ok(logical.PatchOperation, "roles/till", row.settings)
		r.system.MaxLeaseTTLVal = row.mount
		if s := r.creds("till").Secret; s.TTL != row.want || s.MaxTTL != row.want {
			t.Errorf("%s: TTL %s, MaxTTL %s, want %s", name, s.TTL, s.MaxTTL, row.want)
		}
	}
	r.ok(logical.PatchOperation, "roles/till", field("renewable", false))
	if r.creds("till").Secret.Renewable {
		t.Error("renewable=false has no effect")
	}
}

// A lease lives by what its role said when it was read.
func TestLeaseOutlivesItsRole(t *testing.T) {
	r := withRole(t)
	lease := r.creds("till")
	r.ok(logical.DeleteOperation, "roles/till", nil)
	renewed, err := r.renew(lease)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.revoke(renewed); err != nil || r.sandbox.LiveTokens() != 0 {
		t.Errorf("%v", err)
	}
	r.fails(400, logical.ReadOperation, "creds/till", nil, `no role named "till"`, "op/roles/till")
}

// What the server does not give leaves nothing behind.
func TestCredsNotGiven(t *testing.T) {
	on := func(m sandbox.Misbehaviour) func(*rig) {
		return func(r *rig) { m.On = []string{"grant"}; r.sandbox.Misbehave(m) }
	}
	for name, row := range map[string]struct {
		trouble func(r *rig)
		status  int
		words   string
		unheard bool // a grant may have been made all the same
	}{
		"500":               {on(sandbox.Misbehaviour{Status: 500}), 502, "answered 500", true},
		"429":               {on(sandbox.Misbehaviour{Status: 429}), 502, "answered 429", false},
		"reset":             {on(sandbox.Misbehaviour{Reset: true}), 502, "could not be reached", true},
		"dropped":           {on(sandbox.Misbehaviour{Drop: true}), 502, "could not be reached", true},
		"not JSON":          {on(sandbox.Misbehaviour{NotJSON: true}), 502, "could not be read", true},
		"refused rights":    {on(sandbox.Misbehaviour{Status: 400}), 400, "access", false},
		"key not published": {func(r *rig) { r.sandbox.UnpublishKeys() }, 400, "jwks.json", false},
		"server down": {func(r *rig) {
			r.sandbox.Close()
			// Another proxy means other connections: the idle ones may have been closed under the request.
			r.ok(logical.PatchOperation, "config", field("egress_proxy", "http://proxy.example"))
		}, 502, "could not be reached: connection refused", false},
		"not allowed any more": {func(r *rig) {
			r.ok(logical.PatchOperation, "config", field("allowed_auth_servers", "https://auth.example"))
		}, 400, "allowed_auth_servers", false},
	} {
		t.Run(name, func(t *testing.T) {
			r := withRole(t)
			before := r.keys()
			row.trouble(r)
			r.fails(row.status, logical.ReadOperation, "creds/till", nil, row.words)
			r.nothingMore(before)
			if told := strings.Contains(r.log.String(), "whose answer was lost"); told != row.unheard {
				t.Errorf("the log tells of a lost answer: %v", told)
			}
		})
	}
}

func TestNoAnswerForCredsWithinAMinute(t *testing.T) {
	r := withRole(t)
	before := r.keys()
	arrived, release := r.hangOn("grant", false)
	read := r.goCreds(r.ctx, "till")
	<-arrived
	r.clock.Advance(authserver.AnswerTimeout + time.Second)
	res := <-read
	r.failed(504, res.resp, res.err, r.sandbox.URL(), "in time")
	release()
	r.nothingMore(before)
}

// Rights that need the owner's consent are not for a lease.
func TestCredsThatNeedConsent(t *testing.T) {
	for name, trouble := range map[string]func(*rig){
		"cancelled":           func(*rig) {},
		"cannot be cancelled": func(r *rig) { r.sandbox.Misbehave(sandbox.Misbehaviour{Status: 500, On: []string{"cancel"}}) },
	} {
		t.Run(name, func(t *testing.T) {
			r := withRole(t)
			r.ok(logical.UpdateOperation, "roles/till", map[string]any{
				"wallet_address": r.sandbox.WalletAddress("alice"), "access": `[{"type":"outgoing-payment","actions":["create"],"identifier":"` + r.sandbox.WalletAddress("alice") + `"}]`,
			})
			before := r.keys()
			trouble(r)
			r.fails(400, logical.ReadOperation, "creds/till", nil, "consent", `role "till"`, "op/grants/NAME")
			if r.sandbox.Count("cancel") != 1 {
				t.Error("what the owner was asked for is not cancelled")
			}
			r.nothingMore(before)
		})
	}
}

// A lease that could not be kept, or not be ended, is not handed out.
func TestCredsOfNoUse(t *testing.T) {
	token := func(member string) []string { return []string{"access_token", member} }
	for name, row := range map[string]struct {
		change func(r *rig)
		status int
		words  string
		live   int
		left   bool // for the WAL's rollback
	}{
		"too short": {func(r *rig) { r.member("grant", token("expires_in"), 1) }, 502, "too short", 0, false},
		"too short, and cannot be cancelled": {func(r *rig) {
			r.member("grant", token("expires_in"), 1)
			r.sandbox.Misbehave(sandbox.Misbehaviour{Status: 500, On: []string{"cancel"}})
		}, 502, "too short", 1, true},
		"no end": {func(r *rig) {
			r.answers("grant", func(string) string { return `{"access_token":{"value":"t","expires_in":600}}` })
		}, 502, "never be cancelled", 1, false},
		"an end elsewhere": {func(r *rig) {
			r.member("grant", []string{"continue", "uri"}, "https://elsewhere.example/continue/1")
		}, 400, "https://elsewhere.example", 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := withRole(t)
			before := r.keys()
			row.change(r)
			r.fails(row.status, logical.ReadOperation, "creds/till", nil, row.words)
			if n := r.sandbox.LiveTokens(); n != row.live {
				t.Errorf("%d tokens live, want %d", n, row.live)
			}
			if row.left != (len(r.walEntries()) == 1) {
				t.Errorf("the WAL: %v", r.walEntries())
			} else if !row.left {
				r.nothingMore(before)
			}
		})
	}
}

// Without a continuation the grant is ended by its token.
func TestCredsWithoutAContinuation(t *testing.T) {
	r := withRole(t)
	r.member("grant", []string{"continue"}, nil)
	lease := r.creds("till")
	said := r.saysToken("rotate")
	renewed, err := r.renew(lease)
	if err != nil {
		t.Fatal(err)
	}
	if *said != "GNAP "+tokenOf(lease) {
		t.Error("the rotation does not hold the lease's token")
	}
	said = r.saysToken("revoke")
	if _, err := r.revoke(renewed); err != nil {
		t.Fatal(err)
	}
	if r.sandbox.LiveTokens() != 0 || r.sandbox.Count("revoke") != 1 {
		t.Error("the token is not revoked")
	}
	if *said != "GNAP "+tokenOf(renewed) {
		t.Error("the revocation does not hold the renewed token")
	}
}

// A host that was typed into the role may be reached wherever it is, by all that is sent for its
// leases.
func TestHostsTypedIntoARole(t *testing.T) {
	r := configured(t)
	local := strings.Replace(r.sandbox.AuthServer(), "127.0.0.1", "localhost", 1)
	r.ok(logical.UpdateOperation, "roles/till", map[string]any{"auth_server": local, "access": incomingAccess})
	// The sandbox knows itself by one name only, so its answer is made up.
	r.on("grant", func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		_, _ = io.WriteString(w, `{"access_token":{"value":"t","manage":"`+local+`/token/1","expires_in":600},"continue":{"access_token":{"value":"c"},"uri":"`+local+`/continue/1"}}`)
	})
	lease := r.creds("till")
	if _, err := r.renew(lease); err == nil || r.sandbox.Count("rotate") == 0 {
		t.Errorf("%v", err)
	}
	if _, _ = r.revoke(lease); r.sandbox.Count("cancel") != 1 {
		t.Error("the server is not asked to cancel")
	}
}

// Without a manage URL there is nothing to renew.
func TestCredsWithoutAManageURL(t *testing.T) {
	r := withRole(t)
	r.member("grant", []string{"access_token", "manage"}, nil)
	lease := r.creds("till")
	if lease.Secret.Renewable {
		t.Error("the lease is renewable")
	}
	if _, err := r.renew(lease); err == nil || !strings.Contains(err.Error(), "op/creds/till") {
		t.Errorf("%v", err)
	}
	if _, err := r.revoke(lease); err != nil || r.sandbox.LiveTokens() != 0 {
		t.Errorf("%v", err)
	}
}

func TestCredsOfAnUnknownLife(t *testing.T) {
	r := withRole(t)
	r.member("grant", []string{"access_token", "expires_in"}, nil)
	lease := r.creds("till")
	if lease.Secret.TTL != 595*time.Second || len(lease.Warnings) != 1 {
		t.Errorf("TTL %s, warnings %v", lease.Secret.TTL, lease.Warnings)
	}
	r.member("rotate", []string{"access_token", "expires_in"}, nil)
	renewed, err := r.renew(lease)
	if err != nil || len(renewed.Warnings) != 1 {
		t.Fatalf("%v", err)
	}
	// It may outlive what is assumed of it.
	r.sandbox.Misbehave(sandbox.Misbehaviour{Reset: true})
	r.clock.Advance(unknownLife)
	if _, err := r.revoke(renewed); err == nil {
		t.Error("the value may still be alive")
	}
	r.clock.Advance(defaultLifetime)
	if _, err := r.revoke(renewed); err != nil {
		t.Errorf("%v", err)
	}
}

// One row per dependency that fails while a lease is made. A failing server is one that cannot be
// reached for cancelling.
func TestStorageFailsWhileALeaseIsMade(t *testing.T) {
	failing := func(from int, cause error) func(*rig) {
		return func(r *rig) { r.storage.failPuts(from, cause) }
	}
	noDelete := func(r *rig) { r.storage.onDelete = func(string) error { return errDisk } }
	for name, row := range map[string]struct {
		storage    func(r *rig)
		serverDown bool
		want       error
		asked      int
		live       int
		left       int // entries of the WAL
		cancelled  bool
	}{
		"role read":                       {func(r *rig) { r.storage.onRead = func(string) error { return errDisk } }, false, errDisk, 0, 0, 0, false},
		"WAL put":                         {failing(1, errDisk), false, errDisk, 0, 0, 0, false},
		"WAL put, read-only":              {failing(1, logical.ErrReadOnly), false, logical.ErrReadOnly, 0, 0, 0, false},
		"WAL replace":                     {failing(2, errDisk), false, errDisk, 1, 0, 0, false},
		"WAL replace, and the server":     {failing(2, errDisk), true, errDisk, 1, 1, 1, false},
		"WAL delete":                      {noDelete, false, errDisk, 1, 0, 1, true},
		"WAL delete, and the server":      {noDelete, true, errDisk, 1, 1, 1, true},
		"WAL replace and delete":          {func(r *rig) { failing(2, errDisk)(r); noDelete(r) }, false, errDisk, 1, 0, 1, false},
		"WAL replace and delete, and all": {func(r *rig) { failing(2, errDisk)(r); noDelete(r) }, true, errDisk, 1, 1, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := withRole(t)
			row.storage(r)
			if row.serverDown {
				r.sandbox.Misbehave(sandbox.Misbehaviour{Reset: true, On: []string{"cancel"}})
			}
			resp, err := r.do(r.ctx, logical.ReadOperation, "creds/till", nil)
			if resp != nil || !errors.Is(err, row.want) || row.want == logical.ErrReadOnly && err != row.want { //nolint:errorlint // Vault compares it like this
				t.Fatalf("%v %v", resp, err)
			}
			if n := r.sandbox.Count("grant"); n != row.asked {
				t.Errorf("asked %d times, want %d", n, row.asked)
			}
			if n := r.sandbox.LiveTokens(); n != row.live {
				t.Errorf("%d tokens live, want %d", n, row.live)
			}
			if n := len(r.walEntries()); n != row.left {
				t.Errorf("%d entries in the WAL, want %d", n, row.left)
			}
			// The rollback does what is left to do.
			r.storage.heal()
			r.sandbox.Misbehave(sandbox.Misbehaviour{})
			r.rollback(rollbackAge + time.Second)
			if n := len(r.walEntries()); n != 0 {
				t.Errorf("%d entries in the WAL after its rollback", n)
			}
			if row.cancelled && r.sandbox.LiveTokens() != 0 {
				t.Error("the rollback has not cancelled the grant")
			}
		})
	}
}

// Vault makes no lease of an answer that nobody waits for.
func TestCallerOfCredsHangsUp(t *testing.T) {
	for name, row := range map[string]struct {
		done bool
		down bool // the server, for cancelling
	}{
		"before the server has heard": {false, false},
		"after":                       {true, false},
		"after, and the server cannot be reached":  {true, true},
		"before, and the server cannot be reached": {false, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := withRole(t)
			before := r.keys()
			ctx, hangUp := context.WithCancel(r.ctx)
			arrived, release := r.hangOn("grant", row.done)
			read := r.goCreds(ctx, "till")
			<-arrived
			hangUp()
			if row.down {
				r.sandbox.Misbehave(sandbox.Misbehaviour{Reset: true, On: []string{"cancel"}})
			}
			release()
			if res := <-read; res.resp != nil || !errors.Is(res.err, context.Canceled) {
				t.Errorf("%v %v", res.resp, res.err)
			}
			if r.sandbox.Count("grant") != 1 {
				t.Error("the request was abandoned")
			}
			if row.down {
				r.sandbox.Misbehave(sandbox.Misbehaviour{})
				r.rollback(rollbackAge + time.Second)
			}
			if r.sandbox.LiveTokens() != 0 {
				t.Error("a grant lives that no lease will end")
			}
			r.nothingMore(before)
		})
	}
	t.Run("while the WAL's entry is deleted", func(t *testing.T) {
		r := withRole(t)
		ctx, hangUp := context.WithCancel(r.ctx)
		r.storage.onDelete = func(string) error { hangUp(); return nil }
		if _, err := r.do(ctx, logical.ReadOperation, "creds/till", nil); !errors.Is(err, context.Canceled) || r.sandbox.LiveTokens() != 0 {
			t.Errorf("%v", err)
		}
	})
	t.Run("while the WAL's entry is deleted, and the server cannot be reached", func(t *testing.T) {
		r := withRole(t)
		before := r.keys()
		ctx, hangUp := context.WithCancel(r.ctx)
		r.storage.onDelete = func(string) error { hangUp(); return nil }
		r.sandbox.Misbehave(sandbox.Misbehaviour{Reset: true, On: []string{"cancel"}})
		if _, err := r.do(ctx, logical.ReadOperation, "creds/till", nil); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		r.storage.heal()
		r.sandbox.Misbehave(sandbox.Misbehaviour{})
		r.rollback(rollbackAge + time.Second)
		if r.sandbox.LiveTokens() != 0 {
			t.Error("a grant lives that no lease will end")
		}
		r.nothingMore(before)
	})
}

func TestManyLeasesAtOnce(t *testing.T) {
	r := withRole(t)
	before := r.keys()
	reads := make([]<-chan result, 20)
	for i := range reads {
		reads[i] = r.goCreds(r.ctx, "till")
	}
	var leases []*logical.Response
	for _, read := range reads {
		res := <-read
		r.live(res)
		leases = append(leases, res.resp)
	}
	if n := r.sandbox.LiveTokens(); n != len(reads) {
		t.Errorf("%d tokens live, want %d", n, len(reads))
	}
	r.nothingMore(before, leases...)
}

// A renewal insists, as a read of token/ does.
func TestServerMisbehavesOnceAtARenewal(t *testing.T) {
	for name, m := range map[string]sandbox.Misbehaviour{
		"reset": {Reset: true}, "500": {Status: 500}, "429": {Status: 429}, "not JSON": {NotJSON: true}, "401": {Status: 401}, "keys down": {KeysDown: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := withRole(t)
			lease := r.creds("till")
			m.On, m.Times = []string{"rotate"}, 1
			r.sandbox.Misbehave(m)
			renewed, err := r.renew(lease)
			r.live(result{renewed, err})
		})
	}
}

// Whatever a renewal fails of, the lease can be renewed later, unless its token is dead; and it can
// always be revoked.
func TestRenewalOfCredsFails(t *testing.T) {
	misbehave := func(m sandbox.Misbehaviour) func(*rig) {
		return func(r *rig) { m.On = []string{"rotate"}; r.sandbox.Misbehave(m) }
	}
	for name, row := range map[string]struct {
		trouble func(r *rig)
		words   string
		mended  bool // it can be renewed afterwards
	}{
		"500":   {misbehave(sandbox.Misbehaviour{Status: 500}), "answered 500", true},
		"reset": {misbehave(sandbox.Misbehaviour{Reset: true}), "could not be reached", true},
		"404":   {misbehave(sandbox.Misbehaviour{Status: 404}), "answered 404", true},
		"keys down": {func(r *rig) {
			r.on("rotate", knowsNoToken)
			r.sandbox.Misbehave(sandbox.Misbehaviour{KeysDown: true})
		}, "try again later", true},
		"key not published": {func(r *rig) { r.sandbox.UnpublishKeys() }, "jwks.json", true},
		"refused":           {func(r *rig) { r.on("rotate", knowsNoToken) }, "read op/creds/till again", true},
		"answer lost":       {misbehave(sandbox.Misbehaviour{Drop: true, Times: 1}), "read op/creds/till again", false},
		"another client": {func(r *rig) {
			r.ok(logical.PatchOperation, "config", map[string]any{"wallet_address": r.sandbox.WalletAddress("alice"), "verify": false})
		}, "belongs to the client", true},
		"no client": {func(r *rig) { r.ok(logical.DeleteOperation, "config", nil) }, "no client", true},
		"storage":   {func(r *rig) { r.storage.onRead = func(string) error { return errDisk } }, "disk", true},
	} {
		t.Run(name, func(t *testing.T) {
			r := withRole(t)
			lease := r.creds("till")
			before := r.keys()
			row.trouble(r)
			resp, err := r.renew(lease)
			if resp != nil || err == nil || !strings.Contains(err.Error(), row.words) {
				t.Fatalf("an error of a renewal has to be plain, and say %q: %v %v", row.words, resp, err)
			}
			r.noSecretIn("an error", err.Error())
			// Mended.
			r.storage.heal()
			r.on("rotate", nil)
			r.sandbox.Misbehave(sandbox.Misbehaviour{})
			r.publish()
			r.ok(logical.UpdateOperation, "config", r.clientFields())
			r.nothingMore(before, lease)
			r.clock.Advance(failureMax)
			renewed, err := r.renew(lease)
			if (err == nil) != row.mended {
				t.Fatalf("%v", err)
			}
			if err == nil {
				lease = renewed
			}
			if _, err := r.revoke(lease); err != nil || r.sandbox.LiveTokens() != 0 {
				t.Errorf("%v", err)
			}
			if n := len(r.b.locks.byName); n != 0 {
				t.Errorf("%d failures are remembered", n)
			}
		})
	}
}

func TestOneRefusalOfALeaseIsDoubted(t *testing.T) {
	r := withRole(t)
	lease := r.creds("till")
	r.on("rotate", knowsNoToken)
	if _, err := r.renew(lease); err == nil || r.sandbox.Count("rotate") != 2 {
		t.Errorf("asked %d times: %v", r.sandbox.Count("rotate"), err)
	}
	if n := r.sandbox.Count("grant"); n != 1 {
		t.Errorf("%d grants asked for: a renewal asks for none", n)
	}
}

func TestFailingLeaseAnswersAtOnce(t *testing.T) {
	r := withRole(t)
	lease := r.creds("till")
	r.sandbox.UnpublishKeys()
	begun, before, puts := r.clock.Now(), r.sandbox.Count("rotate"), r.storage.putsSoFar()
	for r.clock.Since(begun) < time.Minute {
		if _, err := r.renew(lease); err == nil {
			t.Fatal("renewed without a key")
		}
		r.clock.Advance(10 * time.Millisecond)
	}
	// 0, 1, 3, 7, 15, 31 s: the pause doubles.
	if n := r.sandbox.Count("rotate") - before; n > 6 {
		t.Errorf("%d requests in a minute", n)
	}
	if n := r.storage.putsSoFar() - puts; n != 0 {
		t.Errorf("%d writes", n)
	}
	// Its revocation is not kept from trying, nor another lease.
	r.publish()
	r.creds("till")
	if _, err := r.revoke(lease); err != nil || r.sandbox.Live(tokenOf(lease)) {
		t.Errorf("%v", err)
	}
	if n := len(r.b.locks.byName); n != 0 {
		t.Errorf("%d failures are remembered", n)
	}
}

func TestCallerOfARenewalHangsUp(t *testing.T) {
	r := withRole(t)
	lease := r.creds("till")
	ctx, hangUp := context.WithCancel(r.ctx)
	arrived, release := r.hang(true)
	renewed := make(chan result, 1)
	go func() {
		resp, err := r.b.HandleRequest(ctx, r.leaseRequest(logical.RenewOperation, lease))
		renewed <- result{resp, err}
	}()
	<-arrived
	hangUp()
	release()
	r.live(<-renewed) // whether or not anybody hears of it
	// Vault has not: the lease remembers the token before.
	if _, err := r.renew(lease); err == nil || !strings.Contains(err.Error(), "read op/creds/till again") {
		t.Errorf("%v", err)
	}
	if _, err := r.revoke(lease); err != nil || r.sandbox.LiveTokens() != 0 {
		t.Errorf("the token that nobody has seen lives: %v", err)
	}
}

// Vault keeps renewals and revocations of one lease apart. Whoever does not, waits.
func TestRevocationWaitsForARenewal(t *testing.T) {
	r := withRole(t)
	lease := r.creds("till")
	arrived, release := r.hang(true)
	renewed, revoked := make(chan result, 1), make(chan result, 1)
	go func() {
		resp, err := r.renew(lease)
		renewed <- result{resp, err}
	}()
	<-arrived
	go func() {
		resp, err := r.revoke(lease)
		revoked <- result{resp, err}
	}()
	r.awaitUsers(credsPrefix+r.grantOf(lease).ID, 2)
	if r.sandbox.Count("cancel") != 0 {
		t.Error("cancelled in the middle of a rotation")
	}
	release()
	if res := <-renewed; res.err != nil {
		t.Errorf("%v", res.err)
	}
	if res := <-revoked; res.err != nil || r.sandbox.LiveTokens() != 0 {
		t.Errorf("%v", res.err)
	}
}

func TestEndOfALeaseOfCreds(t *testing.T) {
	r := withRole(t)
	r.ok(logical.PatchOperation, "roles/till", field("max_ttl", "15m"))
	lease := r.creds("till")
	lease.Secret.IssueTime = r.clock.Now()
	r.clock.Advance(9 * time.Minute)
	renewed, err := r.renew(lease)
	if err != nil {
		t.Fatal(err)
	}
	if renewed.Secret.TTL != 6*time.Minute || renewed.Secret.MaxTTL != 15*time.Minute || !renewed.Secret.IssueTime.Equal(lease.Secret.IssueTime) {
		t.Errorf("TTL %s, MaxTTL %s", renewed.Secret.TTL, renewed.Secret.MaxTTL)
	}
	r.clock.Advance(6*time.Minute - 500*time.Millisecond)
	before := r.sandbox.Count("rotate")
	if _, err := r.renew(renewed); err == nil || !strings.Contains(err.Error(), "max_ttl; read op/creds/till again") {
		t.Errorf("%v", err)
	}
	if r.sandbox.Count("rotate") != before {
		t.Error("rotated for a lease that is over")
	}
}

// A new token that cannot be answered is cancelled: nobody would know of it.
func TestRenewalThatIsOfNoUse(t *testing.T) {
	for name, row := range map[string]struct {
		trouble func(r *rig)
		words   string
	}{
		"the lease ends during it": {func(r *rig) {
			r.on("rotate", func(w http.ResponseWriter, req *http.Request, next http.Handler) {
				r.clock.Advance(10 * time.Second)
				next.ServeHTTP(w, req)
			})
		}, "max_ttl"},
		"too short": {func(r *rig) { r.member("rotate", []string{"access_token", "expires_in"}, 1) }, "too short"},
		"too short, and cannot be cancelled": {func(r *rig) {
			r.member("rotate", []string{"access_token", "expires_in"}, 1)
			r.sandbox.Misbehave(sandbox.Misbehaviour{Reset: true, On: []string{"cancel"}, Times: 1})
		}, "too short"},
	} {
		t.Run(name, func(t *testing.T) {
			r := withRole(t)
			r.ok(logical.PatchOperation, "roles/till", field("max_ttl", 60))
			lease := r.creds("till")
			lease.Secret.IssueTime = r.clock.Now()
			r.clock.Advance(50 * time.Second)
			row.trouble(r)
			if _, err := r.renew(lease); err == nil || !strings.Contains(err.Error(), row.words) {
				t.Errorf("%v", err)
			}
			if r.sandbox.Count("cancel") != 1 {
				t.Error("the new token is not cancelled")
			}
			if _, err := r.revoke(lease); err != nil || r.sandbox.LiveTokens() != 0 {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestLeaseWhoseURLsMoved(t *testing.T) {
	r := withRole(t)
	r.member("rotate", []string{"access_token", "manage"}, "https://elsewhere.example/token/1")
	renewed, err := r.renew(r.creds("till"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.renew(renewed); err == nil || !strings.Contains(err.Error(), "https://elsewhere.example") || strings.Contains(err.Error(), "/token/1") {
		t.Errorf("%v", err)
	}
	if _, err := r.revoke(renewed); err != nil || r.sandbox.LiveTokens() != 0 {
		t.Errorf("the continuation has stayed: %v", err)
	}
}

func TestRevocationsOfCreds(t *testing.T) {
	down := func(r *rig) { r.sandbox.Misbehave(sandbox.Misbehaviour{Reset: true}) }
	expired := func(r *rig) { r.clock.Advance(601 * time.Second) }
	storage := func(r *rig) { r.storage.onRead = func(string) error { return errDisk } }
	noPlace := func(r *rig) {
		c, err := loadClient(r.ctx, r.storage)
		if err != nil {
			r.Fatal(err)
		}
		for range c.maxRequests() {
			if _, err := r.b.enter(r.ctx, c, r.sandbox.URL(), false); err != nil {
				r.Fatal(err)
			}
		}
		go func() { // once the revocation waits
			r.awaitPlace()
			r.clock.Advance(10 * time.Second)
		}()
	}
	other := func(r *rig) {
		r.ok(logical.PatchOperation, "config", map[string]any{"wallet_address": r.sandbox.WalletAddress("alice"), "verify": false})
	}
	for name, row := range map[string]struct {
		trouble []func(r *rig)
		fails   string
		live    bool
		cancels int
		warns   bool
	}{
		"current":                 {nil, "", false, 1, false},
		"expired":                 {[]func(*rig){expired}, "", false, 1, false},
		"gone":                    {[]func(*rig){func(r *rig) { r.on("cancel", knowsNoGrant(401)) }}, "", false, 1, false},
		"gone, as 404":            {[]func(*rig){func(r *rig) { r.on("cancel", knowsNoGrant(404)) }}, "", false, 1, false},
		"server down":             {[]func(*rig){down}, "could not be reached", true, 1, false},
		"server down, expired":    {[]func(*rig){down, expired}, "", false, 1, true},
		"500":                     {[]func(*rig){func(r *rig) { r.sandbox.Misbehave(sandbox.Misbehaviour{Status: 500}) }}, "answered 500", true, 1, false},
		"key not published":       {[]func(*rig){func(r *rig) { r.sandbox.UnpublishKeys() }}, "jwks.json", true, 1, false},
		"gone, key not published": {[]func(*rig){func(r *rig) { r.on("cancel", knowsNoGrant(401)); r.sandbox.UnpublishKeys() }}, "jwks.json", true, 1, false},
		"another client":          {[]func(*rig){other}, "belongs to the client", true, 0, false},
		"another client, expired": {[]func(*rig){other, expired}, "", false, 0, true},
		"no client":               {[]func(*rig){func(r *rig) { r.ok(logical.DeleteOperation, "config", nil) }}, "no client", true, 0, false},
		"storage":                 {[]func(*rig){storage}, "disk", true, 0, false},
		"storage, expired":        {[]func(*rig){storage, expired}, "disk", false, 0, false},
		"no place, expired":       {[]func(*rig){noPlace, expired}, "max_requests_per_server", false, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := withRole(t)
			lease := r.creds("till")
			for _, trouble := range row.trouble {
				trouble(r)
			}
			before, asked := r.keys(), r.requests()
			resp, err := r.revoke(lease)
			if resp != nil || (err != nil) != (row.fails != "") || err != nil && !strings.Contains(err.Error(), row.fails) {
				t.Fatalf("%v %v", resp, err)
			}
			if err != nil {
				r.noSecretIn("an error", err.Error())
			}
			if got := r.sandbox.Live(tokenOf(lease)); got != row.live {
				t.Errorf("the value lives: %v, want %v", got, row.live)
			}
			if n := r.sandbox.Count("cancel"); n != row.cancels || r.requests()-asked != n+r.sandbox.Count("revoke") {
				t.Errorf("%d cancellations, want %d; %d requests in all", n, row.cancels, r.requests()-asked)
			}
			if warned := strings.Contains(r.log.String(), "could not be cancelled; its token has expired"); warned != row.warns {
				t.Errorf("the log tells of it: %v", warned)
			}
			if row.warns && (!strings.Contains(r.log.String(), "role=till") || !strings.Contains(r.log.String(), r.sandbox.URL())) {
				t.Error("the log does not tell which role and server")
			}
			r.nothingMore(before, lease)
		})
	}
}

// knowsNoGrant answers a cancellation as a server does that has forgotten the grant.
func knowsNoGrant(status int) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, `{"error":{"code":"invalid_continuation"}}`)
	}
}

// Vault tries a failed revocation again.
func TestRevocationOfCredsIsTriedAgain(t *testing.T) {
	r := withRole(t)
	lease := r.creds("till")
	r.sandbox.Misbehave(sandbox.Misbehaviour{Reset: true})
	if _, err := r.revoke(lease); err == nil {
		t.Fatal("done without the server")
	}
	r.sandbox.Misbehave(sandbox.Misbehaviour{})
	if _, err := r.revoke(lease); err != nil || r.sandbox.LiveTokens() != 0 {
		t.Errorf("%v", err)
	}
}

func TestStandbyBeginsNoLease(t *testing.T) {
	r := withRole(t)
	lease := r.creds("till")
	asked, puts := r.requests(), r.storage.putsSoFar()
	for _, state := range []consts.ReplicationState{consts.ReplicationPerformanceStandby, consts.ReplicationPerformanceSecondary} {
		r.system.ReplicationStateVal = state
		for what, call := range map[string]func() error{
			"read": func() error { _, err := r.do(r.ctx, logical.ReadOperation, "creds/till", nil); return err },
			// OpenBao runs the handler itself on standbys.
			"handler": func() error {
				d := &framework.FieldData{Raw: field("name", "till"), Schema: r.b.pathCreds().Fields}
				_, err := r.b.readCreds(r.ctx, &logical.Request{Storage: r.storage, MountPoint: "op/"}, d)
				return err
			},
			"renew":  func() error { _, err := r.renew(lease); return err },
			"revoke": func() error { _, err := r.revoke(lease); return err },
		} {
			if err := call(); err != logical.ErrReadOnly { //nolint:errorlint // Vault compares it like this
				t.Errorf("%s: %v, want logical.ErrReadOnly", what, err)
			}
		}
	}
	if r.requests() != asked || r.storage.putsSoFar() != puts {
		t.Error("a standby has asked the server or written")
	}
}

func TestCleanWaitsForALeaseThatIsMade(t *testing.T) {
	r := withRole(t)
	before := r.keys()
	arrived, release := r.hangOn("grant", true)
	read := r.goCreds(r.ctx, "till")
	<-arrived
	cleaned := make(chan struct{})
	go func() {
		r.b.Cleanup(r.ctx)
		close(cleaned)
	}()
	<-r.b.inFlight.closing
	for range 100 {
		runtime.Gosched()
	}
	select {
	case <-cleaned:
		t.Fatal("Clean did not wait")
	default:
	}
	release()
	<-cleaned
	r.live(<-read)
	r.nothingMore(before)
}

// The engine remembers a failure no longer than it counts: also of what nobody comes back to.
func TestFailuresAreForgotten(t *testing.T) {
	r := withGrant(t)
	r.ok(logical.UpdateOperation, "roles/till", map[string]any{
		"auth_server": r.sandbox.AuthServer(), "access": incomingAccess, "on_revoke": revokeKeeps,
	})
	lease := r.creds("till")
	r.sandbox.Misbehave(on("rotate", sandbox.Misbehaviour{Status: 500}))
	if _, err := r.renew(lease); err == nil {
		t.Fatal("renewed")
	}
	r.fails(502, logical.ReadOperation, "token/income", nil)
	if _, err := r.revoke(lease); err != nil {
		t.Fatal(err)
	}
	r.tick()
	if n := len(r.locked()); n != 2 {
		t.Errorf("%d failures are remembered, want 2", n)
	}
	r.clock.Advance(failureMin + failureMax)
	r.tick()
	r.want("failures", r.locked())
}

func TestMayLive(t *testing.T) {
	now := time.Now()
	for name, row := range map[string]struct {
		known bool
		left  time.Duration
		want  bool
	}{
		"alive":                  {true, time.Nanosecond, true},
		"expired":                {true, 0, false},
		"unknown":                {false, -unknownLife + time.Nanosecond, true},
		"unknown, but long over": {false, -unknownLife, false},
	} {
		if got := mayBeLive(&grant{LifeKnown: row.known, ExpiresAt: now.Add(row.left)}, now); got != row.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
