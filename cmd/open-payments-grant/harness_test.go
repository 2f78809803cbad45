// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	rights = `[{"type":"outgoing-payment","actions":["create","read"],"identifier":"https://wallet.example/alice",` +
		`"limits":{"debitAmount":{"value":"500","assetCode":"USD","assetScale":2}}}]`
	wallet = "https://wallet.example/alice"
	page   = "https://auth.example/interact/1"
	secret = "s3cret-reference"
)

var start = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

// answer is the fake's response to a request.
type answer struct {
	status int
	body   any // the data of a 200, otherwise the error's text
}

// fakeVault responds as tests tell it to, and records the requests.
type fakeVault struct {
	t      *testing.T
	grants map[string]map[string]any // what reads return
	write  func(name string, data map[string]any) answer
	// proceed responds to a write to grants/NAME/continue.
	proceed func(name, redirect string) answer
	refused map[string]int    // status for reads of a name
	engines map[string]string // what is mounted at other paths than op, by path: its type

	mu        sync.Mutex
	asked     []string // the requests
	namespace string   // of the last request
}

func (v *fakeVault) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if r.Header.Get("X-Vault-Token") != "token-of-the-test" {
		v.say(w, answer{403, "permission denied"})
		return
	}
	v.namespace = r.Header.Get("X-Vault-Namespace")
	if v.otherPath(w, strings.TrimPrefix(r.URL.Path, "/v1/")) {
		return
	}
	path := strings.TrimPrefix(r.URL.Path, "/v1/op/grants")
	name := strings.Trim(strings.TrimSuffix(path, "/continue"), "/")
	data := map[string]any{}
	switch {
	case r.Method == "LIST" || r.URL.Query().Get("list") == "true":
		keys, info := []string{}, map[string]any{}
		for name, g := range v.grants {
			keys, info[name] = append(keys, name), map[string]any{"status": g["status"]}
		}
		slices.Sort(keys)
		if len(keys) == 0 {
			v.say(w, answer{404, ""})
			return
		}
		v.say(w, answer{200, map[string]any{"keys": keys, "key_info": info}})
	case r.Method == http.MethodGet && v.refused[name] != 0:
		v.say(w, answer{v.refused[name], "permission denied"})
	case r.Method == http.MethodGet && v.grants[name] == nil:
		v.say(w, answer{404, ""})
	case r.Method == http.MethodGet:
		v.say(w, answer{200, v.grants[name]})
	case strings.HasSuffix(path, "/continue"):
		json.NewDecoder(r.Body).Decode(&data)
		redirect, _ := data["redirect"].(string)
		v.asked = append(v.asked, strings.TrimSpace("continue "+redirect))
		v.say(w, v.proceed(name, redirect))
	default:
		json.NewDecoder(r.Body).Decode(&data)
		v.asked = append(v.asked, "ask")
		v.say(w, v.write(name, data))
	}
}

// otherPath responds to requests that are not for the grants of the engine at op/, as Vault does, and
// reports whether this was one.
func (v *fakeVault) otherPath(w http.ResponseWriter, path string) bool {
	mount, rest, _ := strings.Cut(path, "/")
	described, isInfo := strings.CutPrefix(path, "sys/internal/ui/mounts/")
	kind := v.engines[strings.Trim(described, "/")]
	switch {
	case isInfo && kind == "":
		v.say(w, answer{403, "preflight capability check returned 403"})
	case isInfo:
		v.say(w, answer{200, map[string]any{"path": described + "/", "type": kind}})
	case mount == "op" && rest == "jwks.json":
		v.encode(w, map[string]any{"keys": []any{}})
	case mount == "op" && strings.HasPrefix(rest, "grants"):
		return false
	case mount == "op":
		v.say(w, answer{404, "1 error occurred:\n\t* unsupported path\n\n"})
	case v.engines[mount] == "kv":
		v.say(w, answer{404, ""})
	default:
		v.say(w, answer{404, fmt.Sprintf("no handler for route %q. route entry not found.", path)})
	}
	return true
}

func (v *fakeVault) say(w http.ResponseWriter, a answer) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(a.status)
	if a.status == http.StatusOK {
		v.encode(w, map[string]any{"data": a.body})
		return
	}
	errors := []string{}
	if a.body != "" {
		errors = append(errors, a.body.(string))
	}
	v.encode(w, map[string]any{"errors": errors})
}

func (v *fakeVault) encode(w http.ResponseWriter, body map[string]any) {
	if err := json.NewEncoder(w).Encode(body); err != nil {
		v.t.Error(err)
	}
}

// put makes reads return a grant, and returns it as an answer.
func (v *fakeVault) put(name string, g map[string]any) answer {
	v.grants[name] = g
	return answer{200, g}
}

func stored(status string, more map[string]any) map[string]any {
	g := map[string]any{
		"status": status, "wallet_address": wallet, "generation": 1, "interactive": true,
		"access": json.RawMessage(rights),
	}
	if status == "active" {
		g["expires_at"] = "2026-05-04T12:10:00Z"
	}
	for key, value := range more {
		g[key] = value
	}
	return g
}

func asking(status string) map[string]any {
	return stored(status, map[string]any{
		"interact_url": page, "generation": 0, "pending_until": start.Add(10 * time.Minute).Format(time.RFC3339),
	})
}

// runner is the program with a fake Vault. Its clock advances only while it waits.
type runner struct {
	*app
	vault          *fakeVault
	stdout, stderr bytes.Buffer
	mu             sync.Mutex
	at             time.Time
	opened         []string
}

func newRunner(t *testing.T) *runner {
	t.Helper()
	for _, name := range []string{"VAULT_ADDR", "VAULT_TOKEN", "VAULT_NAMESPACE", "VAULT_CACERT", "VAULT_AGENT_ADDR",
		"VAULT_CLIENT_TIMEOUT", "VAULT_TOKEN_PATH", "BAO_ADDR", "BAO_TOKEN", "BAO_NAMESPACE", "BAO_CACERT", "BAO_TOKEN_PATH",
		"OPEN_PAYMENTS_MOUNT"} {
		t.Setenv(name, "")
	}
	t.Setenv("HOME", t.TempDir())
	r := &runner{vault: &fakeVault{t: t, grants: map[string]map[string]any{}}, at: start}
	server := httptest.NewServer(r.vault)
	t.Cleanup(server.Close)
	t.Setenv("VAULT_ADDR", server.URL)
	t.Setenv("VAULT_TOKEN", "token-of-the-test")
	r.app = newApp()
	r.app.stdout, r.terminal = &r.stdout, &terminal{out: &r.stderr}
	r.interactive = true
	r.openBrowser = func(_ context.Context, target string) error {
		r.opened = append(r.opened, target)
		return nil
	}
	r.now = func() time.Time {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.at
	}
	r.after = func(d time.Duration) <-chan time.Time {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.at = r.at.Add(max(d, 0))
		fired := make(chan time.Time, 1)
		fired <- r.at
		return fired
	}
	return r
}

// neverTimeOut makes waits end only when something arrives.
func (r *runner) neverTimeOut() {
	r.after = func(time.Duration) <-chan time.Time { return nil }
}

func (r *runner) authorize(ctx context.Context, more ...string) int {
	return r.run(ctx,
		append([]string{"authorize", "payments", "-access", accessFile(r.vault.t, rights), "-wallet", wallet}, more...))
}

func accessFile(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "access.json")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// check checks the exit status and the requests to Vault, and that no secret was printed.
func (r *runner) check(t *testing.T, status, want int, asked ...string) {
	t.Helper()
	if status != want {
		t.Errorf("the exit status is %d, not %d:\n%s", status, want, r.stderr.String())
	}
	hidden := regexp.MustCompile(`http://127\.0\.0\.1:\d+/\w+\?state=\w{26}`)
	got := []string{}
	for _, a := range r.vault.asked {
		got = append(got, hidden.ReplaceAllString(a, "FINISH"))
	}
	if !slices.Equal(got, asked) {
		t.Errorf("the requests to Vault are %q, not %q", got, asked)
	}
	for _, hidden := range []string{secret, "token-of-the-test", "hash=", "interact_ref"} {
		if strings.Contains(r.stdout.String()+r.stderr.String(), hidden) {
			t.Errorf("it prints %q:\n%s%s", hidden, r.stdout.String(), r.stderr.String())
		}
	}
}

func (r *runner) says(t *testing.T, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if all := r.stdout.String() + r.stderr.String(); !strings.Contains(all, want) {
			t.Errorf("it does not print %q:\n%s", want, all)
		}
	}
}
