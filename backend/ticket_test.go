// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
)

// till is what an application has got from the role "till".
type till struct {
	received
	lease *logical.Response
}

func (r *rig) receiveCreds() till {
	r.Helper()
	lease := r.creds("till")
	return till{received{r, "till", tokenOf(lease)}, lease}
}

func ticketOf(lease *logical.Response) string { return lease.Data[ticketField].(string) }

// fields are a request to be signed with the lease's token.
func (c till) fields(method, path, body string) map[string]any {
	fields := c.received.fields(method, path, body)
	fields[ticketField] = ticketOf(c.lease)
	return fields
}

func (c till) list() map[string]any { return c.fields("GET", c.listPath(), "") }

func (c till) listPath() string {
	return "/incoming-payments?wallet-address=" + url.QueryEscape(c.sandbox.WalletAddress("shop"))
}

func (c till) sign(fields map[string]any) map[string]any {
	c.Helper()
	return c.ok(logical.UpdateOperation, "creds/till/sign", fields).Data
}

// renewed renews the lease.
func (c till) renewed() till {
	c.Helper()
	lease, err := c.renew(c.lease)
	if err != nil {
		c.Fatal(err)
	}
	c.lease, c.token = lease, tokenOf(lease)
	return c
}

func (c till) accepted() {
	c.Helper()
	c.sendSigned(200, "GET", c.listPath(), c.sign(c.list()))
}

const ticketRefusal = "signing_ticket: is not the one that was returned with this access_token by op/creds/till or a " +
	"renewal, or has expired; read the token again"

// refused checks that a request is refused in the same words as all others.
func (c till) refused(what string, fields map[string]any) {
	c.Helper()
	resp, err := c.do(c.ctx, logical.UpdateOperation, "creds/till/sign", fields)
	if err != nil || !resp.IsError() || resp.Error().Error() != ticketRefusal {
		c.Errorf("%s: %v %v, want the one refusal", what, resp, err)
	}
}

// Payments with a lease of a role, without the key, through a renewal.
func TestSignForLease(t *testing.T) {
	r := withRole(t)
	c := r.receiveCreds()
	body := `{"walletAddress":"` + r.sandbox.WalletAddress("shop") + `"}`
	puts := r.storage.putsSoFar()
	created := c.sendSigned(201, "POST", "/incoming-payments", c.sign(c.fields("POST", "/incoming-payments", body)))
	c.accepted()
	if r.storage.putsSoFar() != puts {
		t.Error("signing has written")
	}
	id := "/incoming-payments/" + lastOf(created)
	c.sendSigned(200, "GET", id, c.sign(c.fields("GET", id, "")))
	next := c.renewed()
	if ticketOf(next.lease) == ticketOf(c.lease) {
		t.Error("a renewal returns the ticket of the token before")
	}
	next.accepted()
	again := next.renewed()
	again.accepted()
	swapped := next.list()
	swapped[ticketField] = ticketOf(c.lease)
	next.refused("the ticket of the token before", swapped)

	for words, fields := range map[string]map[string]any{
		"url: ":         c.fields("GET", "/quotes/1", ""),
		"url: must beg": {"access_token": c.token, ticketField: ticketOf(c.lease), "method": "GET", "url": r.sandbox.AuthServer()},
		"method: ":      c.fields("PUT", id, ""),
		"body: ":        c.fields("GET", id, "{}"),
		"unknown field": {"key_id": "x"},
	} {
		r.fails(400, logical.UpdateOperation, "creds/till/sign", fields, words)
	}
	r.fails(400, logical.UpdateOperation, "creds/till/sign", with(c.fields("GET", id, ""), "url", r.grantOf(c.lease).Manage), "url: ")
	r.fails(400, logical.UpdateOperation, "sign/till", c.fields("GET", id, ""), "unknown field")
}

func with(fields map[string]any, field string, value any) map[string]any {
	fields = maps.Clone(fields)
	fields[field] = value
	return fields
}

// The rights in a ticket are those of its lease: what an operator does to the role later does not
// change them.
func TestTicketHoldsTheRights(t *testing.T) {
	r := withRole(t)
	c := r.receiveCreds()
	r.ok(logical.PatchOperation, "roles/till", map[string]any{"access": `[{"type":"quote","actions":["read"]}]`})
	c.accepted()
	r.ok(logical.DeleteOperation, "roles/till", nil)
	c.accepted()
	// What the server granted of what was asked for counts, too.
	for name, access := range map[string]string{
		"requested": `[{"type":"quote","actions":["read"]}]`, "granted": incomingAccess,
	} {
		g := *r.grantOf(c.lease)
		g.Token, g.Requested, g.Access = c.token, json.RawMessage(access), json.RawMessage(incomingAccess)
		if name == "granted" {
			g.Requested, g.Access = g.Access, json.RawMessage(`[{"type":"incoming-payment","actions":["read"]}]`)
		}
		r.fails(400, logical.UpdateOperation, "creds/till/sign", with(c.list(), ticketField, r.sealed(newTicket(&g, r.clock.Now()), "op/creds/till")), "rights")
	}
}

func (r *rig) sealed(t ticket, place string) string {
	r.Helper()
	key, err := r.b.ticketKeyInUse(r.ctx, r.storage)
	if err != nil {
		r.Fatal(err)
	}
	text, err := key.seal(t, place)
	if err != nil {
		r.Fatal(err)
	}
	return text
}

// Tampered, foreign, expired and swapped tickets are refused in the same words.
func TestTicketRefused(t *testing.T) {
	r := withRole(t)
	r.ok(logical.UpdateOperation, "roles/other", r.roleFields())
	c, second := r.receiveCreds(), r.receiveCreds()
	good := c.list()
	text := ticketOf(c.lease)
	sealed, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	for i := range sealed {
		changed := bytes.Clone(sealed)
		changed[i] ^= 1
		c.refused("a changed bit", with(good, ticketField, base64.RawURLEncoding.EncodeToString(changed)))
	}
	for _, n := range []int{0, 1, ticketKeyIDLength, ticketKeyIDLength + 12, len(sealed) - 1} {
		c.refused("cut short", with(good, ticketField, base64.RawURLEncoding.EncodeToString(sealed[:n])))
	}
	content := newTicket(r.grantOf(c.lease), r.clock.Now())
	content.TokenSum = r.b.opened(t, text).TokenSum
	changed := func(change func(*ticket)) string {
		one := content
		change(&one)
		return r.sealed(one, "op/creds/till")
	}
	c.sign(with(good, ticketField, changed(func(*ticket) {}))) // the rows below change one thing each
	for n := range 3 {                                         // the last character of some lengths has bits to spare
		padded := changed(func(k *ticket) { k.Reserved = []string{strings.Repeat("x", n)} })
		last := len(padded) - 1
		for _, other := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_" {
			if byte(other) != padded[last] {
				c.refused("another last character", with(good, ticketField, padded[:last]+string(other)))
			}
		}
	}
	for what, ticket := range map[string]string{
		"none":                  "",
		"no base64":             "?",
		"longer":                text + "AAAA",
		"with padding":          text + "=",
		"with a line end in it": text[:8] + "\n" + text[8:],
		"of another lease":      ticketOf(second.lease),
		"of another role":       ticketOf(r.creds("other")),
		"of another mount":      r.sealed(content, "op2/creds/till"),
		"for another client":    changed(func(t *ticket) { t.Client += "x" }),
		"expired":               changed(func(t *ticket) { t.End = r.clock.Now() }),
		"of no token":           changed(func(t *ticket) { t.TokenSum = nil }),
		"sealed by another key": func() string { s, _ := newTicketKey().seal(content, "op/creds/till"); return s }(),
	} {
		c.refused(what, with(good, ticketField, ticket))
	}
	c.refused("another token", with(good, "access_token", second.token))
	c.refused("no token", with(good, "access_token", ""))
	delete(good, ticketField)
	c.refused("left out", good)
	c.accepted()
	if strings.Contains(r.log.String(), text) {
		t.Error("the log holds a ticket")
	}
	// A token that no header can hold is not signed for, whoever issued it.
	odd := changed(func(k *ticket) { k.TokenSum = newTicket(&grant{Token: "t\x00"}, r.clock.Now()).TokenSum })
	c.refused("a token that no header can hold", with(with(c.list(), "access_token", "t\x00"), ticketField, odd))
}

func (b *Backend) opened(t testing.TB, text string) *ticket {
	t.Helper()
	known, _ := b.tickets.peek()
	opened := known.open(text, "op/creds/till", b.clock.Now())
	if opened == nil {
		t.Fatal("the ticket cannot be opened")
	}
	return opened
}

// A ticket works until its token expires, and after a revocation that keeps the token.
func TestTicketEnds(t *testing.T) {
	r := withRole(t)
	r.ok(logical.PatchOperation, "roles/till", map[string]any{"on_revoke": revokeKeeps})
	c := r.receiveCreds()
	if _, err := r.revoke(c.lease); err != nil {
		t.Fatal(err)
	}
	c.accepted()
	r.clock.Advance(600*time.Second - 1)
	c.sign(c.list())
	r.clock.Advance(1)
	c.refused("after its end", c.list())

	now := r.clock.Now()
	if end := newTicket(&grant{ExpiresAt: now.Add(2 * maxTicketLife)}, now).End; !end.Equal(now.Add(maxTicketLife)) {
		t.Errorf("a ticket lives until %s", end)
	}
}

// Replacing the client's key replaces that of the tickets. The former opens what it has sealed for as
// long as such a ticket can live, and is destroyed then.
func TestTicketKeyIsReplaced(t *testing.T) {
	r := withRole(t)
	stored := func() *ticketKeys {
		t.Helper()
		k, err := loadTicketKeys(r.ctx, r.storage)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	rotate := func() { r.ok(logical.UpdateOperation, "keys/rotate", map[string]any{"force": true}) }
	c := r.receiveCreds()
	before := stored()
	content := *r.b.opened(t, ticketOf(c.lease))
	content.End = r.clock.Now().Add(maxTicketLife)
	longest := r.sealed(content, "op/creds/till")
	rotate()
	r.publishJWK(r.ok(logical.ReadOperation, "keys", nil).Data["keys"].([]any)[0].(map[string]any)["public_key"])
	if k := stored(); bytes.Equal(k.Current.Key, before.Current.Key) || len(k.Formers) != 1 || !bytes.Equal(k.Formers[0].Key, before.Current.Key) {
		t.Fatal("the key was not replaced, or the former not kept")
	}
	c.accepted() // with the ticket from before
	next := c.renewed()
	next.accepted()
	if id := stored().Current.ID; !strings.HasPrefix(ticketOf(next.lease), base64.RawURLEncoding.EncodeToString(id)[:10]) {
		t.Error("a new ticket is sealed with the former key")
	}
	r.clock.Advance(maxTicketLife - time.Second)
	c.sign(with(c.list(), ticketField, longest))
	r.clock.Advance(time.Second)
	c.refused("after the key's retirement", with(c.list(), ticketField, longest))
	content.End = r.clock.Now().Add(time.Hour) // even if its content says otherwise
	forged, err := before.Current.seal(content, "op/creds/till")
	if err != nil {
		t.Fatal(err)
	}
	c.refused("by a retired key", with(c.list(), ticketField, forged))
	r.tick()
	if k := stored(); len(k.Formers) != 0 {
		t.Error("the retired key is still stored")
	}
	// A write that reports an error may have been done: what is remembered is not trusted after it.
	r.storage.afterPut = func(key string) error {
		if key == ticketKeysKey {
			return errDisk
		}
		return nil
	}
	if resp := r.ok(logical.UpdateOperation, "keys/rotate", map[string]any{"force": true}); len(resp.Warnings) == 0 {
		t.Error("the failed write is not told")
	}
	if known, _ := r.b.tickets.peek(); known != nil {
		t.Error("the keys from before a failed write are remembered")
	}
	r.storage.heal()
	rotate()
	if n := len(stored().Formers); n != 2 {
		t.Errorf("%d former keys, want 2", n)
	}
	r.clock.Advance(maxTicketLife)
	rotate() // without a tick
	if n := len(stored().Formers); n != 1 {
		t.Errorf("%d former keys, want 1", n)
	}
}

// Without roles there is no key, and none is made by replacing the client's.
func TestTicketKeyIsMadeWhenItIsNeeded(t *testing.T) {
	r := configured(t)
	has := func() bool { return slices.Contains(r.keys(), ticketKeysKey) }
	r.ok(logical.UpdateOperation, "keys/rotate", map[string]any{"force": true})
	if has() {
		t.Error("a key was made although there is no role")
	}
	r.publishJWK(r.ok(logical.ReadOperation, "keys", nil).Data["keys"].([]any)[0].(map[string]any)["public_key"])
	r.ok(logical.UpdateOperation, "roles/till", r.roleFields())
	c := till{received: received{rig: r, token: "t"}, lease: &logical.Response{Data: map[string]any{ticketField: "AAAA"}}}
	c.refused("before any ticket was issued", c.list())

	asked := r.sandbox.Count("grant")
	r.storage.failPuts(1, errDisk)
	r.fails(500, logical.ReadOperation, "creds/till", nil)
	r.storage.heal()
	if r.sandbox.Count("grant") != asked || has() {
		t.Error("a grant was asked for although there is no key")
	}
	// A write that reports an error and was done all the same: its key is used.
	r.storage.afterPut = func(key string) error { return errDisk }
	r.fails(500, logical.ReadOperation, "creds/till", nil)
	r.storage.heal()
	if !has() {
		t.Fatal("the test did not do its part")
	}
	r.receiveCreds().accepted()

	// A renewal of a lease from before the upgrade makes the key, before anything is rotated.
	c = r.receiveCreds()
	if err := r.storage.Delete(r.ctx, ticketKeysKey); err != nil {
		t.Fatal(err)
	}
	r.restart()
	rotated := r.sandbox.Count("rotate")
	r.storage.failPuts(1, errDisk)
	if _, err := r.renew(c.lease); err == nil || r.sandbox.Count("rotate") != rotated {
		t.Error("rotated although no ticket can be sealed")
	}
	r.storage.heal()
	c.renewed().accepted()
}

// Entries that this version cannot read are neither used nor replaced.
func TestUnreadableTicketKeys(t *testing.T) {
	for name, value := range map[string]string{
		"newer":   `{"version":2,"current":{"id":"AAAAAAAAAAA=","key":""}}`,
		"damaged": `{"version":1,"current":{"id":7}}`,
		"empty":   `{}`,
	} {
		t.Run(name, func(t *testing.T) {
			r := withRole(t)
			c := r.receiveCreds()
			r.restart()
			entry := &logical.StorageEntry{Key: ticketKeysKey, Value: []byte(value)}
			if err := r.storage.Put(r.ctx, entry); err != nil {
				t.Fatal(err)
			}
			r.fails(500, logical.UpdateOperation, "creds/till/sign", c.list(), ticketKeysKey)
			r.fails(500, logical.ReadOperation, "creds/till", nil, ticketKeysKey)
			if got, err := r.storage.Get(r.ctx, ticketKeysKey); err != nil || string(got.Value) != value {
				t.Errorf("the entry was replaced: %v", err)
			}
		})
	}
}

func TestTicketBatch(t *testing.T) {
	r := withRole(t)
	c, other := r.receiveCreds(), r.receiveCreds()
	item := func(from till, more ...string) map[string]any {
		fields := from.list()
		for _, name := range more {
			delete(fields, name)
		}
		return fields
	}
	items := []any{
		item(c, "access_token", ticketField), // those alongside
		item(other),
		item(other, ticketField),
		item(c, "access_token", ticketField, "url"),
	}
	resp := r.ok(logical.UpdateOperation, "creds/till/sign", map[string]any{
		"access_token": c.token, ticketField: ticketOf(c.lease), "batch_input": items,
	})
	results := resp.Data["batch_results"].([]any)
	result := func(i int) map[string]any { return results[i].(map[string]any) }
	c.sendSigned(200, "GET", c.listPath(), result(0))
	c.sendSigned(200, "GET", c.listPath(), result(1))
	if result(2)["error"] != ticketRefusal || !strings.HasPrefix(result(3)["error"].(string), "url: ") {
		t.Errorf("%v, %v", result(2)["error"], result(3)["error"])
	}
	r.ask("income")
	grant := r.receive("income")
	resp = r.ok(logical.UpdateOperation, "sign/income", map[string]any{"batch_input": []any{
		with(grant.fields("GET", "/incoming-payments/1", ""), ticketField, ticketOf(c.lease)),
	}})
	if said, _ := resp.Data["batch_results"].([]any)[0].(map[string]any)["error"].(string); !strings.HasPrefix(said, "unknown member") {
		t.Errorf("sign/NAME takes a ticket: %q", said)
	}
}

// A standby signs with the keys that it knows, and has everything that it would refuse judged by the
// active node. It makes no key.
func TestTicketOnStandby(t *testing.T) {
	r := withRole(t)
	c := r.receiveCreds()
	r.restart()
	r.system.ReplicationStateVal = consts.ReplicationPerformanceStandby
	c.accepted()
	forwarded := func(what string, fields map[string]any) {
		t.Helper()
		if _, err := r.do(r.ctx, logical.UpdateOperation, "creds/till/sign", fields); !errors.Is(err, logical.ErrReadOnly) {
			t.Errorf("%s: %v, want it forwarded", what, err)
		}
	}
	forwarded("a bad ticket", with(c.list(), ticketField, "AAAA"))
	forwarded("one bad ticket of a batch", map[string]any{"batch_input": []any{c.list(), with(c.list(), ticketField, "AAAA")}})

	// The active node replaces the key: what this node remembers is forgotten when it is told.
	old, err := loadTicketKeys(r.ctx, r.storage)
	if err != nil {
		t.Fatal(err)
	}
	next := old.replaced(r.clock.Now())
	fresh, err := next.Current.seal(*r.b.opened(t, ticketOf(c.lease)), "op/creds/till")
	if err != nil {
		t.Fatal(err)
	}
	entry, err := logical.StorageEntryJSON(ticketKeysKey, next)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.storage.InmemStorage.Put(r.ctx, entry); err != nil {
		t.Fatal(err)
	}
	forwarded("a ticket of a key that is not known here yet", with(c.list(), ticketField, fresh))
	r.b.InvalidateKey(r.ctx, ticketKeysKey)
	c.sign(with(c.list(), ticketField, fresh))
	c.accepted()

	if err := r.storage.InmemStorage.Delete(r.ctx, ticketKeysKey); err != nil {
		t.Fatal(err)
	}
	r.b.InvalidateKey(r.ctx, ticketKeysKey)
	forwarded("no key here yet", c.list())
	if _, err := r.do(r.ctx, logical.ReadOperation, "creds/till", nil); !errors.Is(err, logical.ErrReadOnly) {
		t.Errorf("a read: %v, want it forwarded", err)
	}
}

// FuzzTicket checks this property: of all strings, one opens with a token at a place, the one that was
// sealed for this token and place; and every other string, however little it differs, is refused
// without a panic.
func FuzzTicket(f *testing.F) {
	now := time.Now()
	keys := (*ticketKeys)(nil).replaced(now).replaced(now)
	g := &grant{Token: "token", Client: "client", ExpiresAt: now.Add(time.Minute), source: source{Requested: json.RawMessage(incomingAccess)}}
	text, err := keys.Current.seal(newTicket(g, now), "op/creds/till")
	if err != nil {
		f.Fatal(err)
	}
	f.Add("", uint16(0), "", "token", "op/", "till")
	f.Add("A", uint16(7), "=", "token", "op/", "till")
	f.Add("\n", uint16(200), "", "token", "op/", "till")
	f.Add("", uint16(9), "", "token", "op/creds/", "till")
	f.Add("", uint16(9), "", "", "op/", "")
	// What is presented is a string of the fuzzer's, the ticket, and the ticket with bytes of the
	// fuzzer's written over a part of it and after it.
	f.Fuzz(func(t *testing.T, over string, at uint16, more, token, mount, role string) {
		start := int(at) % len(text)
		changed := text[:start] + over + text[min(start+len(over), len(text)):] + more
		for _, presented := range []string{over, text, changed} {
			opened := keys.open(presented, ticketPlace(&logical.Request{MountPoint: mount}, role), now)
			good := opened != nil && opened.isGoodFor(token, "client", now)
			if want := presented == text && token == "token" && mount+"creds/"+role == "op/creds/till"; good != want {
				t.Errorf("opened: %t, want %t", good, want)
			}
		}
	})
}
