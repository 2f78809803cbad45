// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/sandbox"
)

// maliciousWords is what a malicious server says wherever it can.
const maliciousWords = "W0rds-0f-A-Mal1ci0us-S3rv3r"

// fault is a server that does something wrong, or otherwise than others.
type fault struct {
	sandbox.Misbehaviour
	dialect sandbox.Dialect
}

// faults returns a row for each kind of fault. checkEveryFault says what is missing here.
func faults() []fault {
	words := `{"error":{"code":"` + maliciousWords + `","description":"` + maliciousWords + `"},` +
		`"access_token":{"value":{"` + maliciousWords + `":1}},"` + maliciousWords + `":"` + maliciousWords + `"}`
	everywhere := []string{"grant", "continue", "cancel", "rotate", "revoke", "wallet", "keys"}
	var all []fault
	for _, m := range []sandbox.Misbehaviour{
		{Status: 401}, {Status: 401, JSON: `{"error":{"code":"invalid_client"}}`}, {Status: 403}, {Status: 404},
		{Status: 429, Header: map[string]string{"Retry-After": "1"}}, {Status: 500}, {Status: 500, After: true},
		{Status: 204, After: true},
		{Status: 302, Header: map[string]string{"Location": "https://elsewhere.example/" + maliciousWords}},
		{Status: 200, JSON: words, On: everywhere}, {Status: 400, JSON: words, On: everywhere},
		{Status: 400, Text: maliciousWords, Header: map[string]string{"Content-Type": maliciousWords}, On: everywhere},
		{NotJSON: true}, {NotJSON: true, After: true}, {ReadOnly: true}, {Pool: 2, PoolTimeout: time.Second},
		{KeysDown: true}, {Killed: true}, {Drop: true}, {Reset: true}, {Reset: true, After: true}, {Silent: true},
		{Delay: time.Second},
	} {
		all = append(all, fault{Misbehaviour: m})
	}
	for _, name := range sandbox.WireNames() {
		all = append(all, fault{Misbehaviour: sandbox.Misbehaviour{Wire: name}})
	}
	for _, d := range []sandbox.Dialect{
		{Client: sandbox.ClientString, TokenList: true, NewContinue: true},
		{Client: sandbox.ClientObject, Manage: sandbox.ManageObject, ExpiresIn: sandbox.ExpiresString},
		{Manage: sandbox.ManageMissing, ExpiresIn: sandbox.ExpiresMissing, Continue: sandbox.ContinueMissing},
		{Manage: sandbox.ManageForeign, Continue: sandbox.ContinueForeign},
		{Continue: sandbox.ContinueOtherPath, KeyCache: time.Minute, UnknownKey: http.StatusUnauthorized},
		{Aliases: map[string]string{"/vanity": "alice"}, Redirects: map[string]string{"/moved": "alice"}},
	} {
		all = append(all, fault{dialect: d})
	}
	return all
}

// checkEveryFault checks that the rows have each kind of misbehaviour and each member of a dialect.
func (s *spy) checkEveryFault(rows []fault) {
	s.t.Helper()
	seen := map[string]bool{}
	note := func(prefix string, value any) {
		v := reflect.ValueOf(value)
		for i := range v.NumField() {
			if !v.Field(i).IsZero() {
				seen[prefix+strings.Split(v.Type().Field(i).Tag.Get("json"), ",")[0]] = true
				seen[prefix+v.Type().Field(i).Name] = true
			}
		}
	}
	for _, row := range rows {
		note("", row.Misbehaviour)
		note("dialect ", row.dialect)
	}
	for _, kind := range sandbox.MisbehaviourKinds() {
		if !seen[kind] {
			s.t.Errorf("no server is %s", kind)
		}
	}
	dialect := reflect.TypeFor[sandbox.Dialect]()
	for i := range dialect.NumField() {
		if name := dialect.Field(i).Name; !seen["dialect "+name] {
			s.t.Errorf("no server has the dialect %s", name)
		}
	}
}

// sufferEveryFault does with a grant of each faulty server all that can be done with one.
func (s *spy) sufferEveryFault() {
	s.t.Helper()
	s.wire.addSecret("words of a malicious server", maliciousWords)
	rows := faults()
	s.checkEveryFault(rows)
	var all sync.WaitGroup
	for i, row := range rows {
		server, err := sandbox.Start(sandbox.Options{Wait: time.Second, Wrap: s.wire.wrap, Dialect: row.dialect})
		if err != nil {
			s.t.Fatal(err)
		}
		s.t.Cleanup(server.Close)
		all.Go(func() { s.suffer(fmt.Sprintf("fault-%d", i), server, row.Misbehaviour) })
	}
	all.Wait()
}

// suffer uses grants of a server before and while it misbehaves. Nothing of it needs to succeed.
func (s *spy) suffer(name string, server *sandbox.Server, m sandbox.Misbehaviour) {
	ask := func(what, wallet string, more map[string]any) {
		fields := map[string]any{"wallet_address": server.WalletAddress(wallet), "access": access}
		for field, value := range more {
			fields[field] = value
		}
		s.any("POST", what, fields)
	}
	consented := map[string]any{"access": strings.ReplaceAll(s.outgoing(), s.wallet.URL(), server.URL())}
	for _, use := range []string{"read", "renew", "revoke", "rotate", "delete", "ask"} {
		ask("grants/"+name+"-"+use, "shop", nil)
	}
	ask("roles/"+name, "shop", nil)
	ask("grants/"+name+"-poll", "alice", consented)
	lease := func(path string) *api.Secret {
		secret, _ := s.vault.Logical().Read(s.at(path))
		if secret == nil {
			secret = &api.Secret{LeaseID: "none"}
		}
		return secret
	}
	renewed, revoked := lease("token/"+name+"-renew"), lease("token/"+name+"-revoke")
	own, end := lease("creds/"+name), lease("creds/"+name)

	server.Misbehave(m)
	var uses sync.WaitGroup
	sys := s.vault.Sys()
	revoke := func(lease *api.Secret) {
		_ = sys.RevokeWithOptions(&api.RevokeOptions{LeaseID: lease.LeaseID, Sync: true})
	}
	for _, use := range []func(){
		func() { s.any("GET", "token/"+name+"-read", nil) },
		func() { _, _ = sys.Renew(renewed.LeaseID, 60) },
		func() { _, _ = sys.Renew(own.LeaseID, 60) },
		func() { revoke(revoked) },
		func() { revoke(end) },
		func() { s.any("POST", "rotate/"+name+"-rotate", nil) },
		func() { s.any("DELETE", "grants/"+name+"-delete", nil) },
		func() { ask("grants/"+name+"-ask", "shop", map[string]any{"ask_again": true}) },
		func() {
			s.any("POST", "grants/"+name+"-new", map[string]any{"auth_server": server.AuthServer(), "access": access})
		},
		func() { ask("grants/"+name+"-owner", "alice", consented) },
		func() { s.any("POST", "grants/"+name+"-poll/continue", nil) },
		func() { s.any("GET", "creds/"+name, nil) },
	} {
		uses.Go(use)
	}
	if m.Silent {
		s.eventually("requests to a silent server", func() bool {
			return server.Count("rotate") > 2 && server.Count("grant") > 8 && server.Count("continue") > 0
		})
		server.Close() // otherwise each answer is waited for, for 80 s
	}
	uses.Wait()
	server.Misbehave()
	s.any("GET", "token/"+name+"-read", nil)
	s.any("GET", "grants/"+name+"-read", nil)
}
