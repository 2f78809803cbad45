// SPDX-License-Identifier: MPL-2.0

package authserver

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/pasted"
)

// answers are seeds: answers of authorization servers and wallets, as they are and as they should not be.
var answers = []string{
	token1,
	`{"access_token":[{"value":"v","manage":{"uri":"https://a.example/token/1","access_token":{"value":"m"}},"expires_in":"600"}]}`,
	`{"access_token":"v","continue":{"uri":"https://a.example/continue/1","access_token":"c","wait":5}}`,
	`{"interact":{"redirect":"https://a.example/interact/1","finish":"n"},"continue":{"access_token":{"value":"c"},"uri":"u","wait":5}}`,
	`{"continue":{"access_token":{"value":"c"},"uri":"https://a.example/continue/2","wait":30}}`,
	`{"continue":{"uri":"https://a.example/continue/2"}}`,
	`{"access_token":{"value":"é\ud83d\ude00\u0041","manage":null,"expires_in":6e2,"access":[]}}`,
	`{"error":{"code":"invalid_client","description":"invalid signature"}}`,
	`{"error":"invalid_client","error_description":"token"}`,
	`{"error":{"code":"invalid_rotation"}}`, `{"error":{"code":"invalid_continuation"}}`,
	`{"id":"https://wallet.example/alice","publicName":"Alice","authServer":"https://auth.example/","resourceServer":"https://rs.example"}`,
	`{"keys":[{"kid":"k","x":"eA=="},7,{"kid":"key-1","x":"AAAA","kty":"OKP"}]}`,
	"\ufeff {\"access_token\" : {\"value\" : \"v\"} }\r\n<!-- -->", "<!doctype html>", "", "[]", `{"access_token":{"value":"v`,
}

// answered returns an exchange that has ended with an answer.
func answered(text []byte, status int) *exchange {
	return &exchange{
		origin: "https://auth.example", status: status, sentAt: time.Unix(0, 0), ctx: context.Background(),
		body: readBody(bytes.NewReader(text), ""),
	}
}

// hasRepeats reports whether JSON has an object with a member twice, for which readers differ.
func hasRepeats(text []byte) bool { return pasted.FindRepeatedMember(string(text)) != nil }

// FuzzOutcome checks these properties of what is read in an answer to a rotation, a grant request or a
// continuation: a token comes only from a 2xx, and is not empty; only a 401 with the document's code
// rejects a token, and never because of the signature; what can be continued later is complete; an
// error repeats nothing of the answer. What follows the JSON value makes no difference. An answer that
// is cut off says the same as the whole one, or less.
func FuzzOutcome(f *testing.F) {
	for _, text := range answers {
		for _, status := range []int{200, 400, 401} {
			f.Add([]byte(text), status, uint16(len(text)*2/3))
		}
	}
	former := Continuation{URL: "https://auth.example/continue/0", Token: "former"}
	f.Fuzz(func(t *testing.T, text []byte, status int, at uint16) {
		status = 200 + (status%400+400)%400
		cut := text[:int(at)%(len(text)+1)]
		for _, at := range []Continuation{{}, former} {
			checkOutcome(t, answered(text, status).outcome(at), status)
		}
		marked := slices.Concat(cut, []byte(marker), text[len(cut):])
		if failed, ok := answered(marked, status).outcome(Continuation{}).(RequestFailed); ok && strings.Contains(failed.Error(), marker) {
			t.Fatal("an error repeats the answer")
		}
		if !json.Valid(text) || hasRepeats(text) {
			return
		}
		whole := answered(text, status).outcome(Continuation{})
		checkPart(t, answered(append(slices.Clone(text), "\n<html>"...), status).outcome(Continuation{}), whole)
		if status/100 == 2 {
			checkPart(t, answered(cut, status).outcome(Continuation{}), whole)
		}
	})
}

func checkOutcome(t *testing.T, outcome Outcome, status int) {
	t.Helper()
	ok := status/100 == 2
	whole := func(c Continuation) bool { return (c.URL == "") == (c.Token == "") }
	switch out := outcome.(type) {
	case TokenIssued:
		ok = ok && out.Value != "" && out.Lifetime >= 0 && out.Lifetime <= MaxDuration && whole(out.Continue)
	case ConsentRequired:
		ok = ok && whole(out.Continue) && out.Wait >= 0
	case ConsentPending:
		ok = ok && whole(out.Continue) && out.Wait >= 0
	case TokenRejected:
		ok = status == http.StatusUnauthorized && out.Code == InvalidClient && !out.BadSignature()
	case RequestFailed:
		_, known := knownCodes[out.Code]
		ok = (out.Code == "" || known) && out.Status == status
	}
	if !ok {
		t.Fatalf("%d is read as %+v", status, outcome)
	}
}

// checkPart checks that an outcome of a part of an answer says nothing else than that of the whole.
func checkPart(t *testing.T, part, whole Outcome) {
	t.Helper()
	one, issued := part.(TokenIssued)
	if !issued {
		return
	}
	all, issued := whole.(TokenIssued)
	if !issued || one.Value != all.Value || one.Manage != "" && one.Manage != all.Manage || one.Lifetime != 0 && one.Lifetime != all.Lifetime ||
		one.Access != nil && !bytes.Equal(one.Access, all.Access) || one.Continue != (Continuation{}) && one.Continue != all.Continue {
		t.Fatalf("a part is read as %+v, the whole as %+v", part, whole)
	}
}

// FuzzEnded checks this property of answers to a cancellation or a revocation: what was to be ended is
// gone only if the server says so with 410, or in a 4xx with a code of its document for that. HTML, an
// empty body, and JSON without such a code say nothing.
func FuzzEnded(f *testing.F) {
	for _, text := range answers {
		for _, status := range []int{400, 401, 404, 410, 503} {
			f.Add([]byte(text), status)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte, status int) {
		status = 100 + (status%500+500)%500
		if status == http.StatusGone || json.Valid(text) && hasRepeats(text) {
			return
		}
		f := answered(text, status).failure()
		code := codeOf(text)
		if grantGone(f) && (status/100 != 4 || code != InvalidContinuation && code != InvalidRequest) {
			t.Fatal("a grant is taken for gone")
		}
		if tokenGone(f) && (status/100 != 4 || code != InvalidClient) {
			t.Fatal("a token is taken for gone")
		}
	})
}

// codeOf returns the code of an error answer as encoding/json reads it, of whatever follows the answer
// nothing.
func codeOf(text []byte) (code ErrorCode) {
	var answer, nested map[string]json.RawMessage
	_ = json.NewDecoder(bytes.NewReader(text)).Decode(&answer)
	if json.Unmarshal(answer["error"], &code) != nil {
		_ = json.Unmarshal(answer["error"], &nested)
		_ = json.Unmarshal(nested["code"], &code)
	}
	return code
}

// FuzzReadBody checks that the same comes out of an answer however it is packed, and never more than
// the limit.
func FuzzReadBody(f *testing.F) {
	for _, text := range answers {
		f.Add([]byte(text), "gzip")
		f.Add([]byte(gzipped(f, text)), "deflate")
	}
	f.Fuzz(func(t *testing.T, text []byte, encoding string) {
		if got := readBody(bytes.NewReader(text), encoding); len(got.text) > maxAnswer || got.json && (got.err != nil || !json.Valid(got.text)) {
			t.Fatalf("%d bytes, JSON %t, %v", len(got.text), got.json, got.err)
		}
		if !json.Valid(text) || !isObject(bytes.TrimLeft(text, " \t\r\n")) {
			return
		}
		plain := readBody(bytes.NewReader(text), "")
		for name, packed := range map[string]string{
			"gzip": gzipped(t, string(text)), "deflate": zlibbed(t, string(text)), "with a byte order mark": "\ufeff" + string(text),
		} {
			if got := readBody(strings.NewReader(packed), name); !got.json || !bytes.Equal(got.text, plain.text) {
				t.Fatalf("%s: %v", name, got.err)
			}
		}
	})
}

// FuzzMembers checks that members and elements of whole JSON are read as encoding/json reads them, and
// that what is cut off is read without a panic.
func FuzzMembers(f *testing.F) {
	for _, text := range append([]string{`[{"a":1},[2],"x",null]`, `{"a":{"b":[]},"c":null,"a":"d"}`, `{"é":1e400}`}, answers...) {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got, list := membersOf(text), elementsOf(text)
		if !json.Valid(text) {
			return
		}
		var want map[string]json.RawMessage
		_ = json.Unmarshal(text, &want) // what is no object has no members
		maps.DeleteFunc(want, func(_ string, raw json.RawMessage) bool { return string(raw) == "null" })
		same := func(a, b json.RawMessage) bool { return bytes.Equal(a, b) }
		if !hasRepeats(text) && !maps.EqualFunc(got, want, same) {
			t.Fatalf("%q, want %q", got, want)
		}
		var elements []json.RawMessage
		_ = json.Unmarshal(text, &elements)
		if !slices.EqualFunc(list, elements, same) {
			t.Fatalf("%q, want %q", list, elements)
		}
	})
}

// FuzzSeconds checks that a number of seconds is between none and the longest duration, and that a
// whole number of seconds is read as itself.
func FuzzSeconds(f *testing.F) {
	for _, text := range []string{"600", `"600"`, "6e2", "-1", "1e400", "0x10", "Inf", "NaN", `" 5 "`, "0.0000000001", "null"} {
		f.Add(text, uint32(600))
	}
	f.Fuzz(func(t *testing.T, text string, n uint32) {
		if got := secondsOf(json.RawMessage(text)); got < 0 || got > MaxDuration {
			t.Fatalf("%s", got)
		}
		whole, err := json.Marshal(n % 1e8)
		if err != nil {
			t.Fatal(err)
		}
		if got := secondsOf(whole); got != time.Duration(n%1e8)*time.Second {
			t.Fatalf("%s: %s", whole, got)
		}
	})
}

// FuzzWalletDocument checks that an id is taken from a wallet's document only if it is a wallet address
// that reads as itself, and that the client may fetch.
func FuzzWalletDocument(f *testing.F) {
	for _, text := range answers {
		f.Add([]byte(text))
	}
	for _, id := range []string{"http://127.0.0.1/x", "$wallet.example", "https://WALLET.example/a", "https://10.0.0.1/a", "https://a.example/b?c"} {
		f.Add([]byte(`{"authServer":"https://auth.example","id":"` + id + `"}`))
	}
	c := NewNetwork(nil).Client(Identity{WalletAddress: "https://client.example/me"})
	f.Fuzz(func(t *testing.T, text []byte) {
		doc, ok := c.readWalletDocument(text)
		if ok != (doc.AuthServer != "") {
			t.Fatal("a document without an authorization server is taken for one")
		}
		if doc.ID == "" {
			return
		}
		again, err := ParseWalletAddress(doc.ID)
		if err != nil || !strings.HasPrefix(again, "https://") || strings.Contains(again, "127.0.0.1") {
			t.Fatalf("%q reads as %q, %v", doc.ID, again, err)
		}
	})
}

// FuzzKeySet checks that a key set holds a key exactly if one of its keys has the key's id and x,
// whatever its other keys are.
func FuzzKeySet(f *testing.F) {
	for _, text := range answers {
		f.Add([]byte(text))
	}
	key := map[string]any{"kid": "key-1", "x": "AAAA"}
	f.Fuzz(func(t *testing.T, text []byte) {
		found := holdsKey(text, key)
		if !json.Valid(text) || hasRepeats(text) {
			return
		}
		var set map[string]json.RawMessage
		var keys []json.RawMessage
		_ = json.Unmarshal(text, &set)
		_ = json.Unmarshal(set["keys"], &keys)
		want := slices.ContainsFunc(keys, func(raw json.RawMessage) bool {
			var k map[string]any
			_ = json.Unmarshal(raw, &k)
			x, _ := k["x"].(string)
			return k["kid"] == key["kid"] && strings.TrimRight(x, "=") == key["x"]
		})
		if found != want {
			t.Fatalf("found: %t, want %t", found, want)
		}
		with, err := json.Marshal(map[string]any{"keys": append(keys, json.RawMessage(`{"x":"AAAA=","kid":"key-1"}`))})
		if err == nil && !holdsKey(with, key) {
			t.Fatal("the key is not found among others")
		}
	})
}

// FuzzAddresses checks that an address that is accepted reads again as itself, and that an error repeats
// nothing of it.
func FuzzAddresses(f *testing.F) {
	for _, s := range []string{
		"https://auth.example", "https://AUTH.example:8443/a%2fb?c=d", "http://localhost:4000/", "http://[::1]/x", "https://a@b/", "//x",
		"https://rs.example/op/", "https://rs.example//", "https://a.example/#", "$wallet.example/alice", "com.example.app:/back", "\"https://a.example\"",
		"http://user:p%40ss@proxy.example:3128/",
	} {
		f.Add(s, uint16(len(s)/2))
	}
	parsers := map[string]func(string) (string, error){
		"endpoint": ParseEndpoint, "resource server": ParseResourceServer, "origin": ParseOrigin, "wallet address": ParseWalletAddress,
		"proxy": func(s string) (string, error) { return ParseProxy(s, "") },
	}
	f.Fuzz(func(t *testing.T, s string, at uint16) {
		for name, parse := range parsers {
			if _, err := parse(withMarker(s, at)); err != nil && strings.Contains(err.Error(), marker) {
				t.Fatalf("%s: an error repeats it", name)
			}
			read, err := parse(s)
			if err != nil {
				continue
			}
			if again, err := parse(read); err != nil || again != read {
				t.Fatalf("%s: %q is read as %q, and that as %q, %v", name, s, read, again, err)
			}
		}
	})
}

// FuzzHTTPRedirect checks that an error names where a wallet redirects to only if that is an address
// that somebody could write instead: without user info, query and fragment, not long, and such that it
// reads as itself. Where the answer is no redirect, it names nothing.
func FuzzHTTPRedirect(f *testing.F) {
	for _, location := range []string{
		"https://wallet.example/alice", "/alice", "//other.example/a?token=t#f", "https://u:p@wallet.example/", "javascript:x", "", "%", "http://10.0.0.1/a",
	} {
		f.Add(location, 302)
		f.Add(location, 200)
	}
	f.Fuzz(func(t *testing.T, location string, status int) {
		resp := http.Response{
			Header:  http.Header{"Location": {location}},
			Request: &http.Request{URL: &url.URL{Scheme: "https", Host: "wallet.example", Path: "/former"}},
		}
		x := answered(nil, status)
		x.location, _ = resp.Location()
		address := x.redirect()
		if address == "" {
			return
		}
		u, err := url.Parse(address)
		if again, parseErr := ParseWalletAddress(address); err != nil || parseErr != nil || again != address || len(address) > maxRedirect ||
			u.User != nil || u.RawQuery != "" || u.Fragment != "" || status/100 != 3 {
			t.Fatalf("%d to %q is told as %q", status, location, address)
		}
	})
}
