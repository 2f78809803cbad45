// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"encoding/base64"
	"net/http"
	"regexp"
	"strings"
	"syscall"

	"github.com/hashicorp/vault/api"
)

// useEveryPath uses each path as it is meant. checkEveryPathWasUsed says what is missing here.
func (s *spy) useEveryPath() {
	s.t.Helper()
	withoutKey := s.config()
	delete(withoutKey, "private_key")
	withoutKey["verify"] = false
	s.write("config", withoutKey) // Vault makes the key
	s.lookIntoStorage()           // it must not be found elsewhere
	s.request(204, "DELETE", "config", "")
	const proxyPassword = "hunter2-hunter2-hunter2"
	s.wire.addSecret("the proxy's password", proxyPassword)
	config := s.config()
	config["private_key"] = base64.StdEncoding.EncodeToString([]byte(s.key))
	config["egress_proxy"] = "http://proxy-user:" + proxyPassword + "@127.0.0.1:9"
	config["max_requests_per_server"] = 100
	s.write("config", config)
	s.request(204, "PATCH", "config", `{"request_timeout":2,"default_grant":"shop-income"}`)
	s.request(200, "GET", "config", "")
	s.any("POST", "grants/far", map[string]any{"auth_server": "https://auth.example", "access": access})

	s.ask("shop-income", nil)
	s.write("grants/imported", s.obtain())
	s.request(200, "LIST", "grants", "")
	s.request(200, "PATCH", "grants/shop-income", `{"ttl":300}`)
	s.grant("shop-income")
	token := s.renew(s.read("shop-income"), 60)
	s.revoke(token)
	s.write("rotate/shop-income", nil)
	superseded := s.read("imported")
	s.read("imported")
	s.checkRenewalRejected(superseded, "superseded")
	held := s.tokenOf(s.readLease("token"))
	list := map[string]any{"method": "GET",
		"url": s.wallet.ResourceServer() + "/incoming-payments?wallet-address=" + s.wallet.WalletAddress("shop")}
	s.write("sign/shop-income", map[string]any{"access_token": held, "method": list["method"], "url": list["url"]})
	s.write("sign/shop-income", map[string]any{"access_token": held, "batch_input": []any{list, list}})
	s.write("sign/shop-income", map[string]any{"access_token": held, "batch_input": []any{
		map[string]any{"method": "POST", "url": s.wallet.AuthServer() + "/token/" + held}, list}})

	s.writeRole()
	s.request(200, "GET", "roles/till", "")
	s.request(200, "LIST", "roles", "")
	s.request(200, "PATCH", "roles/till", `{"max_ttl":3600}`)
	creds := s.renew(s.readCreds(), 60)
	forTill := map[string]any{
		"access_token": s.tokenOf(creds), "signing_ticket": creds.Data["signing_ticket"], "method": list["method"],
		"url": list["url"],
	}
	s.write("creds/till/sign", forTill)
	s.any("POST", "creds/other/sign", forTill)
	forTill["url"] = s.wallet.AuthServer() + "/token/" + s.tokenOf(creds)
	s.any("POST", "creds/till/sign", forTill)
	s.revoke(creds)
	s.any("POST", "creds/till/sign", forTill)

	s.write("grants/payer/continue", map[string]any{"redirect": s.decide(s.askPending("payer", finishURI), true)})
	link := s.askPending("polled", "")
	s.write("grants/polled/continue", nil)
	s.decide(link, true)
	s.write("grants/polled/continue", nil)
	declined := s.decide(s.askPending("declined", statefulURI), false)
	s.any("POST", "grants/declined/continue", map[string]any{"redirect": declined})
	forged := s.decide(s.askPending("forged", finishURI), true)
	s.any("POST", "grants/forged/continue", map[string]any{"redirect": forged + "x"})
	s.any("POST", "grants/forged/continue", map[string]any{"interact_ref": lastPart(s.wallet.AuthServer()), "hash": forged})
	s.any("POST", "grants/payer/continue", map[string]any{"redirect": forged})

	s.request(200, "GET", "keys", "")
	s.publish(s.write("keys/rotate", nil).Data["public_key"])
	s.publicKeys()
	s.lookIntoStorage() // for the pending key
	s.write("keys/rotate", map[string]any{"force": true})
	s.request(204, "DELETE", "roles/till", "")
	s.request(204, "DELETE", "grants/payer", "")
}

func (s *spy) revoke(lease *api.Secret) {
	s.t.Helper()
	if err := s.vault.Sys().RevokeWithOptions(&api.RevokeOptions{LeaseID: lease.LeaseID, Sync: true}); err != nil {
		s.t.Fatal(err)
	}
}

// askPending asks for an interactive grant, and returns the URL that its owner opens.
func (s *spy) askPending(name, finish string) string {
	s.t.Helper()
	fields := map[string]any{"wallet_address": s.wallet.WalletAddress("alice"), "access": s.outgoing()}
	if finish != "" {
		fields["finish_uri"] = finish
	}
	link, _ := s.write("grants/"+name, fields).Data["interact_url"].(string)
	s.wire.addSecret("an interaction URL", lastPart(strings.Split(link, "?")[0]))
	return link
}

// makeMistakes puts secrets where they do not belong.
func (s *spy) makeMistakes() {
	s.t.Helper()
	given := s.obtain()
	token, manage := given["access_token"], given["manage_url"]
	for _, path := range s.paths() {
		for _, method := range path.methods {
			at := strings.TrimPrefix(strings.ReplaceAll(path.template, "{name}", "shop-income"), s.mount+"/")
			switch method {
			case http.MethodPost, http.MethodPatch:
				s.request(400, method, at, asJSON(s.t, map[string]any{"mistyped": token}))
			default:
				s.request(400, method, at+"?mistyped="+s.key[len(s.key)/3:len(s.key)/2], "")
			}
		}
	}
	for path, body := range map[string]map[string]any{
		"config":                 {"private_key": []string{s.key}},
		"config ":                {"key_id": s.key, "private_key": "none"},
		"config  ":               {"wallet_address": s.key},
		"config   ":              {"ca_cert": s.key},
		"grants/mistyped":        {"access_token": map[string]any{"value": token}},
		"grants/mistyped-2":      {"access_token": token, "manage_url": given["continue_url"]},
		"grants/mistyped-3":      {"access_token": token, "manage_url": []any{manage}},
		"grants/mistyped-4":      {"token": token, "manage_url": manage},
		"grants/mistyped-5":      {"access": token, "wallet_address": manage},
		"grants/mistyped-6":      {"access_token": manage, "manage_url": token},
		"grants/mistyped-7":      {"access": []any{map[string]any{"type": token, "actions": []any{token}}}, "auth_server": manage},
		"rotate/shop-income":     {"access_token": token},
		"grants/shop-income":     {"ttl": token},
		"grants/shop-income/":    {"access_token": token},
		"sign/shop-income":       {"access_token": token, "method": "GET", "url": manage},
		"sign/shop-income ":      {"access_token": manage, "method": token, "url": token},
		"sign/shop-income  ":     {"access_token": token, "method": "POST", "url": s.wallet.ResourceServer(), "body": token},
		"creds/till/sign":        {"access_token": token, "signing_ticket": manage, "method": "GET", "url": token},
		"creds/till/sign ":       {"access_token": manage, "signing_ticket": []any{token}},
		"roles/mistyped":         {"access": token, "auth_server": manage},
		"roles/mistyped-2":       {"access": access, "wallet_address": manage},
		"keys/rotate":            {"key_id": s.key},
		"grants/polled/continue": {"interact_ref": token, "hash": manage},
	} {
		s.request(400, "POST", strings.TrimRight(path, " "), asJSON(s.t, body))
	}
}

// dumpGoroutines has the plugin print what each of its goroutines does, with all arguments, and crash,
// while it rotates, asks and signs.
func (s *spy) dumpGoroutines() {
	s.t.Helper()
	s.ask("dumped", nil)
	s.writeRole()
	ctx, hangUp := context.WithCancel(s.t.Context())
	defer hangUp()
	rotation, asking := s.hold("rotate", true), s.hold("grant", true)
	results := []<-chan result{s.startRead(ctx, "dumped"), s.startRequest(ctx, "GET", "creds/till", "")}
	rotation.await(s.t)
	asking.await(s.t)
	hangUp()
	for _, one := range results {
		s.awaitResult(one)
	}
	s.signalPlugin(syscall.SIGQUIT)
	s.eventually("the stacks of the goroutines", func() bool {
		return strings.Contains(s.Log(), "SIGQUIT: quit") && strings.Contains(s.Log(), "backend.(*attempt)")
	})
	s.eventually("a new process", func() bool {
		got, err := s.send(s.t.Context(), "GET", "config", "")
		return err == nil && got.status == http.StatusOK
	})
	s.any("GET", "token/dumped", nil)
}

// specified is a path of the mount and the methods that it takes.
type specified struct {
	template string
	methods  []string
}

// paths returns the paths that Vault's OpenAPI document has for the mount.
func (s *spy) paths() (all []specified) {
	s.t.Helper()
	secret, err := s.vault.Logical().ReadRaw("sys/internal/specs/openapi")
	if err != nil {
		s.t.Fatal(err)
	}
	defer secret.Body.Close()
	var document struct {
		Paths map[string]map[string]any
	}
	if err := secret.DecodeJSON(&document); err != nil {
		s.t.Fatal(err)
	}
	for path, members := range document.Paths {
		template, ours := strings.CutPrefix(path, "/"+s.mount+"/")
		if !ours {
			continue
		}
		one := specified{template: s.mount + "/" + template}
		for member := range members {
			method := strings.ToUpper(member)
			switch {
			case member != "get" && member != "post" && member != "patch" && member != "delete":
				continue
			case member == "get" && strings.HasSuffix(template, "/"):
				method = "LIST"
			}
			one.methods = append(one.methods, method)
		}
		all = append(all, one)
	}
	return all
}

// checkEveryPathWasUsed checks that each operation of each path has succeeded and failed.
func (s *spy) checkEveryPathWasUsed() {
	s.t.Helper()
	paths, all := s.paths(), s.api.all()
	if len(paths) < 12 {
		s.t.Errorf("the OpenAPI document has only %d paths of the mount", len(paths))
	}
	for _, path := range paths {
		pattern := strings.ReplaceAll(regexp.QuoteMeta(strings.TrimSuffix(path.template, "/")), `\{name\}`, "[^/]+")
		is := regexp.MustCompile("^" + pattern + "/?$")
		for _, method := range path.methods {
			succeeded, failed := false, false
			for _, x := range all {
				if is.MatchString(x.path) && (x.method == method || x.method == "PUT" && method == "POST") {
					succeeded = succeeded || x.status < http.StatusBadRequest
					failed = failed || x.status >= http.StatusBadRequest
				}
			}
			if !succeeded || !failed {
				s.t.Errorf("%s %s was not used: succeeded %t, failed %t", method, path.template, succeeded, failed)
			}
		}
	}
}

// checkKindsOfSecrets checks that there were secrets of each kind to be found.
func (s *spy) checkKindsOfSecrets() {
	s.t.Helper()
	kinds := map[string]int{}
	for _, what := range s.wire.secretsSoFar() {
		kinds[what]++
	}
	for what, least := range map[string]int{
		"an access token": 100, "a manage URL": 100, "a continue URL": 50, "a continue token": 50,
		"the server's nonce": 3, "the client's nonce": 3, "an interaction reference": 2, "the hash of an interaction": 2,
		"an interaction URL": 3, "the proxy's password": 1, "words of a malicious server": 1, "a signing ticket": 2, "a ticket key": 2,
	} {
		if kinds[what] < least {
			s.t.Errorf("of %s there were %d, fewer than %d", what, kinds[what], least)
		}
	}
	if len(s.keys) < 3 {
		s.t.Errorf("there were %d private keys", len(s.keys))
	}
}
