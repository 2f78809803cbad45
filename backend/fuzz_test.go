// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/jonboulle/clockwork"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/authserver"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/pasted"
)

// marker is put into what comes from outside, of which an error must not repeat even eight characters in
// a row.
const marker = "q7Zk9xWv"

// withMarker returns a text with the marker somewhere in it.
func withMarker(text string, at uint16) string {
	i := int(at) % (len(text) + 1)
	return text[:i] + marker + text[i:]
}

func repeats(err error) bool { return err != nil && strings.Contains(err.Error(), marker) }

// storedGrants returns entries of several versions, whole and damaged.
func storedGrants(f *testing.F) (texts []string) {
	now := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	g := newGrant("https://wallet.example/client", now)
	g.accept(authserver.TokenIssued{Value: "t", Manage: "https://auth.example/token/1", Lifetime: time.Minute, SentAt: now}, causeRead)
	add := func() {
		text, err := json.Marshal(g)
		if err != nil {
			f.Fatal(err)
		}
		texts = append(texts, string(text))
	}
	add()
	g.Pending = &pending{Ref: "r", Since: now, FinishURI: statefulURI, Continue: authserver.Continuation{URL: "https://auth.example/continue/1", Token: "c"}}
	g.begin(causeConsent, now)
	g.replace(g.ending(), now)
	g.Replaced = &replaced{Generation: 1, Ending: g.ending(), Before: &replaced{Generation: 1}}
	add()
	g.Version = grantVersion + 1
	add()
	return append(texts, `{"intent":{"ref":"r"},"pending":{}}`, `{"status":"lost","recovered":-1,"settings":{"keepalive":-1}}`, "{", "null", "")
}

// FuzzStoredGrant checks that a stored grant of any version is read, or refused as unreadable by an error
// that repeats nothing of it. One that is read can be judged at any time without a panic, is due now at
// the earliest, and reads the same when it is stored again.
func FuzzStoredGrant(f *testing.F) {
	for _, text := range storedGrants(f) {
		f.Add(text, int64(1_777_888_999), uint16(len(text)/2))
	}
	ctx := context.Background()
	load := func(text string) (*logical.InmemStorage, *grant, error) {
		s := &logical.InmemStorage{}
		if err := s.Put(ctx, &logical.StorageEntry{Key: grantsPrefix + "g", Value: []byte(text)}); err != nil {
			f.Fatal(err)
		}
		g, err := loadGrant(ctx, s, "g")
		return s, g, err
	}
	c := &config{WalletAddress: "https://wallet.example/client"}
	b := newBackend("v0.0.1", clockwork.NewFakeClock())
	f.Fuzz(func(t *testing.T, text string, seconds int64, at uint16) {
		if _, _, err := load(withMarker(text, at)); repeats(err) {
			t.Fatal("an error repeats the entry")
		}
		s, g, err := load(text)
		if err != nil {
			if !errors.Is(err, errUnreadable) {
				t.Fatalf("not told as unreadable: %v", err)
			}
			return
		}
		if g.Version > grantVersion {
			t.Fatal("an entry of a newer version was read")
		}
		now := time.Unix(seconds%(1<<34), 0)
		if _, at := nextTask(g, now); !at.IsZero() && at.Before(now) {
			t.Fatal("something is due before now")
		}
		for _, err := range []error{
			checkRotatable(ctx, g, c, causeRead, "g", now), checkRenewable(g, leaseRef{Grant: "g", GrantID: g.ID, Generation: g.Generation}, "p", time.Hour),
		} {
			if err != nil && err.Error() == "" {
				t.Fatal("an error says nothing")
			}
		}
		if canReuse(g, now, time.Hour) && grantedTTL(g, now, time.Hour, time.Hour) < minLease {
			t.Fatal("a token is handed out again without a lease for it")
		}
		_, _ = g.signingScope()
		_ = revocationRotates(g, leaseRef{GrantID: g.ID, Generation: g.Generation}, now)
		_, _ = g.endings(now), g.repeatsAsk(grantParams{}, now)
		l := &grantLock{b: b, storage: s, name: "g"}
		if err := l.store(ctx, g); err != nil {
			return // a time that JSON cannot hold
		}
		again, err := loadGrant(ctx, s, "g")
		if err != nil || !again.equals(g) {
			t.Fatalf("it reads otherwise when it is stored again: %v", err)
		}
	})
}

// FuzzLeaseRef checks that the internal data of a lease is read as it was written, or refused by an error
// that repeats nothing of it.
func FuzzLeaseRef(f *testing.F) {
	for _, text := range []string{
		`{"grant":"g","grant_id":"i","generation":3,"shared":true}`, `{"grant":"g","grant_id":"i","generation":"3"}`,
		`{"grant":"g","grant_id":"i","generation":1e400}`, `{"grant":7}`, `{}`,
	} {
		f.Add(text, uint16(len(text)/2))
	}
	read := func(text string) (leaseRef, error) {
		var internal map[string]any
		if err := json.Unmarshal([]byte(text), &internal); err != nil {
			return leaseRef{}, errors.New("not JSON")
		}
		return readLeaseRef(internal)
	}
	f.Fuzz(func(t *testing.T, text string, at uint16) {
		if _, err := read(withMarker(text, at)); repeats(err) {
			t.Fatal("an error repeats it")
		}
		ref, err := read(text)
		if err != nil {
			return
		}
		stored, err := json.Marshal(ref.internal())
		if err != nil {
			t.Fatal(err)
		}
		if again, err := read(string(stored)); err != nil || again != ref {
			t.Fatalf("%+v reads as %+v, %v", ref, again, err)
		}
	})
}

// FuzzLeaseGrant checks the same of a lease of a role, and of the WAL, whose entries hold the same.
func FuzzLeaseGrant(f *testing.F) {
	for _, text := range storedGrants(f) {
		f.Add(`{"role":"r","grant":`+text+`}`, uint16(len(text)/2))
	}
	f.Fuzz(func(t *testing.T, text string, at uint16) {
		if _, err := parseLeaseGrant(withMarker(text, at)); repeats(err) {
			t.Fatal("an error repeats it")
		}
		l, err := parseLeaseGrant(text)
		if err != nil {
			return
		}
		if l.Role == "" || l.Grant == nil || l.Grant.Version > grantVersion {
			t.Fatal("it was read without what it takes")
		}
		internal, err := l.internal()
		if err != nil {
			return // a time that JSON cannot hold
		}
		req := &logical.Request{Secret: &logical.Secret{InternalData: internal}, Data: map[string]any{"access_token": l.Grant.Token}}
		if again, err := readLeaseGrant(req); err != nil || again.Role != l.Role || !again.Grant.equals(l.Grant) {
			t.Fatalf("it reads otherwise: %v", err)
		}
	})
}

// FuzzStoredEntries checks of the other stored entries that they read the same when they are stored again,
// that those of a newer version are refused, and that no error repeats anything of them.
func FuzzStoredEntries(f *testing.F) {
	for _, text := range []string{
		`{"version":1,"wallet_address":"https://wallet.example/me","key_id":"k","private_key":"p","replaced_keys":[{}],"key_changed_at":"2026-05-04T12:00:00Z"}`,
		`{"version":1,"access":[],"settings":{"ttl":1},"auth_server":"https://auth.example/"}`,
		`{"version":1,"key_id":"k","state":"retiring","retires_at":"2026-05-04T12:00:00Z"}`, `{"version":99}`, `{"hour":4}`, `{"failures":-1}`, "{", "4",
	} {
		f.Add(text, uint16(len(text)/2))
	}
	f.Add(`{"key_changed_at":"a time"}`, uint16(20))
	ctx := context.Background()
	const id = "ZnV6eg"
	f.Fuzz(func(t *testing.T, text string, at uint16) {
		for key, load := range map[string]func(s logical.Storage) (any, error){
			configKey:            func(s logical.Storage) (any, error) { return loadConfig(ctx, s) },
			rolesPrefix + "fuzz": func(s logical.Storage) (any, error) { return loadRole(ctx, s, "fuzz") },
			keysPrefix + id:      func(s logical.Storage) (any, error) { return loadKey(ctx, s, id) },
			cursorKey:            func(s logical.Storage) (any, error) { hour, _, err := loadCursor(ctx, s); return cursor{hour}, err },
		} {
			read := func(text string) (any, error) {
				s := &logical.InmemStorage{}
				if err := s.Put(ctx, &logical.StorageEntry{Key: key, Value: []byte(text)}); err != nil {
					t.Fatal(err)
				}
				return load(s)
			}
			if _, err := read(withMarker(text, at)); repeats(err) {
				t.Fatalf("%s: an error repeats the entry", key)
			}
			value, err := read(text)
			if err != nil {
				continue
			}
			stored, err := json.Marshal(value)
			if err != nil {
				continue // a time that JSON cannot hold
			}
			if again, err := read(string(stored)); err != nil || !reflect.DeepEqual(again, value) && !sameJSON(again, value) {
				t.Fatalf("%s: it reads otherwise when it is stored again: %v", key, err)
			}
		}
	})
}

func sameJSON(a, b any) bool {
	one, err := json.Marshal(a)
	two, otherErr := json.Marshal(b)
	return err == nil && otherErr == nil && string(one) == string(two)
}

// FuzzRedirect checks these properties of the URL that the owner's browser was sent to: the reference in
// a server's own redirect is taken, whatever the finish URI's own parameters are; from any other URL no
// reference is taken whose hash is wrong; nobody counts as the owner who declines unless the finish URI
// holds something that a stranger cannot guess; and no error repeats anything of the URL.
func FuzzRedirect(f *testing.F) {
	for _, finish := range []string{finishURI, statefulURI, "com.example.app:/back", "http://localhost/%2e/?a;b&&=&%zz&hash=x", "https://shop.example"} {
		for _, query := range []string{"hash=h&interact_ref=r", "result=grant_rejected", "result=other&message=m", "%", ""} {
			f.Add(finish, finish+"?"+query, "r", uint16(len(finish)))
		}
	}
	f.Fuzz(func(t *testing.T, finish, redirect, ref string, at uint16) {
		finish, err := parseFinishURI(finish)
		if err != nil {
			return
		}
		p := &pending{ClientNonce: "c", ServerNonce: "s", FinishURI: finish, Source: source{AuthServer: "https://auth.example/"}}
		if _, err := p.read(reply{redirect: withMarker(redirect, at)}); repeats(err) {
			t.Fatal("an error repeats the redirect")
		}
		said, err := p.read(reply{redirect: redirect})
		landed, _ := parseLanding(redirect)
		switch home, homeErr := parseLanding(finish); {
		case err != nil && said != (reading{}):
			t.Fatal("an error that says something")
		case said.ref != "" && !p.hashMatches(said.ref, landed.last(paramHash)):
			t.Fatal("a reference without its hash")
		case said.declined && (homeErr != nil || !home.hasState() || !landed.isAt(home)):
			t.Fatal("a stranger declines")
		}
		if ref == "" || !utf8.ValidString(ref) || strings.ContainsRune(ref, utf8.RuneError) {
			return // not a reference that a server could send
		}
		separator := "?"
		if strings.Contains(finish, "?") {
			separator = "&"
		}
		sent := finish + separator + url.Values{paramRef: {ref}, paramHash: {interactionHash(p, ref)}}.Encode()
		if said, err := p.read(reply{redirect: sent}); err != nil || said.ref != ref {
			t.Fatalf("the server's own redirect is refused: %q, %v", sent, err)
		}
	})
}

// FuzzBatch checks that each request of a batch is read, or refused alone by an error that repeats nothing
// of it, and that none gets another one's token.
func FuzzBatch(f *testing.F) {
	for _, text := range []string{
		`[{"method":"GET","url":"https://rs.example/quotes/1"}]`, `[{"method":"POST","url":"u","body":{"b":1},"access_token":"t","reference":"1"}]`,
		`[7,{"method":7},{"else":1},null,{"body":"@file.json"}]`, `{}`, `[]`, `[`, "\ufeff[{}]",
	} {
		f.Add(text, uint16(len(text)/2))
	}
	fields := newBackend("v0.0.1", clockwork.NewFakeClock()).pathSign().Fields
	parse := func(text string) ([]presented, error) {
		raw := readValue(batchField, framework.TypeSlice, text)
		_, batch, err := parseUnsigned(&framework.FieldData{Raw: map[string]any{batchField: raw, "access_token": "outer"}, Schema: fields})
		return batch, err
	}
	f.Fuzz(func(t *testing.T, text string, at uint16) {
		marked, err := parse(withMarker(text, at))
		for _, p := range marked {
			if repeats(p.malformed) {
				t.Fatal("a result repeats the request")
			}
		}
		if repeats(err) {
			t.Fatal("an error repeats the batch")
		}
		batch, err := parse(text)
		if err != nil {
			return
		}
		if len(batch) == 0 || len(batch) > maxBatch {
			t.Fatalf("%d requests", len(batch))
		}
		var items []map[string]any
		if json.Unmarshal([]byte(pasted.Text(text)), &items) != nil {
			return // one of them is no object
		}
		for i, p := range batch {
			own, isText := items[i]["access_token"].(string)
			if want := pasted.Word(own); p.malformed == nil && (isText && p.token != want || !isText && p.token != "outer") {
				t.Fatalf("the token is %q", p.token)
			}
		}
	})
}

// FuzzInput checks that a request is refused by the name of the field at fault, and never with its value.
func FuzzInput(f *testing.F) {
	b := newBackend("v0.0.1", clockwork.NewFakeClock())
	paths := []string{
		configKey, "grants/g", "grants/g/continue", "token/g", "rotate/g", "sign/g", "roles/r", "creds/r", "keys/rotate",
	}
	var names []string
	for _, p := range b.Paths {
		for name := range p.Fields {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	for i := range names {
		for _, value := range []string{`"x"`, "7", "true", "null", `["a"]`, `{"a":"b"}`, "1.5", `"5m"`} {
			f.Add(uint8(i), uint8(i), value, uint16(len(value)/2))
		}
	}
	operations := []logical.Operation{logical.UpdateOperation, logical.PatchOperation, logical.ReadOperation}
	f.Fuzz(func(t *testing.T, path, field uint8, text string, at uint16) {
		var value any
		text = withMarker(text, at)
		if json.Unmarshal([]byte(text), &value) != nil {
			value = text
		}
		name := names[int(field)%len(names)]
		for _, operation := range operations {
			req := &logical.Request{Operation: operation, Path: paths[int(path)%len(paths)], Data: map[string]any{name: value}}
			if err := b.readInput(context.Background(), req); repeats(err) || err != nil && !strings.Contains(err.Error(), name) {
				t.Fatalf("%s of %s: the error does not name %s, or repeats its value", operation, req.Path, name)
			}
		}
	})
}

// interactionHash is what a server computes (RFC 9635 section 4.2.3).
func interactionHash(p *pending, ref string) string {
	sum := sha256.Sum256([]byte(p.ClientNonce + "\n" + p.ServerNonce + "\n" + ref + "\n" + strings.TrimSuffix(p.Source.AuthServer, "/")))
	return base64.StdEncoding.EncodeToString(sum[:])
}
