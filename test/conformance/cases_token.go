// SPDX-License-Identifier: MPL-2.0

package conformance

import (
	"bytes"
	"crypto/ed25519"
	"net/http"
	"strings"
	"sync"
	"time"
)

// tokenCases are about rotating and revoking.
var tokenCases = map[string]func(s *suite){
	"rotating replaces the token": func(s *suite) {
		old := s.granted()
		fresh := s.rotate(old)
		s.token(fresh)
		if fresh.Token.Value == old.Token.Value || fresh.Token.Manage == old.Token.Manage {
			s.Error("the value or the manage URL is the old one")
		}
		if fresh.Continue != nil || !bytes.Equal(fresh.Token.Access, old.Token.Access) {
			s.Error("there is a continue, or the rights have changed")
		}
		s.dead(old)
		s.token(s.rotate(fresh))
		s.cancel(old)
	},
	"revoking ends the token": func(s *suite) {
		a := s.granted()
		s.want(s.revoke(a), 204, "", "")
		s.dead(a)
		s.cancel(a)
	},
	"the token's value is not compared": func(s *suite) {
		a := s.granted()
		s.want(s.send(http.MethodDelete, a.Token.Manage, "another-token", nil), 204, "", "")
		s.dead(a)
		s.cancel(a)
	},
	"a manage id that is no uuid": func(s *suite) {
		a := s.granted()
		manage := a.Token.Manage[:strings.LastIndex(a.Token.Manage, "/")+1] + "mine"
		if answer := s.send(http.MethodPost, manage, a.Token.Value, nil); answer.status != 500 || answer.text == "" {
			s.Errorf("%d, want 500 text/plain", answer.status)
		}
		s.cancel(a)
	},
	"unsigned": func(s *suite) {
		a := s.granted()
		unsigned := s.request(http.MethodPost, a.Token.Manage, a.Token.Value, nil)
		s.want(s.do(unsigned, http.DefaultClient.Do), 401, "invalid_client", "invalid signature headers")
		s.token(s.rotate(a))
		s.cancel(a)
	},
	"signed with a key that is not published": func(s *suite) {
		a := s.granted()
		s.want(s.as(s.KeyID, s.newKey()).rotate(a), 401, "invalid_client", "invalid signature")
		s.want(s.as("another-key-of-the-suite", s.newKey()).rotate(a),
			400, "invalid_client", "could not determine client")
		fresh := s.rotate(a) // it was not affected
		s.token(fresh)
		s.want(s.as(s.KeyID, s.newKey()).rotate(a), 401, "invalid_client", "invalid access token")
		s.cancel(a)
	},
	"rotations of one token at once": func(s *suite) {
		a := s.granted()
		answers := make([]answer, 4)
		var all sync.WaitGroup
		for i := range answers {
			request := s.request(http.MethodPost, a.Token.Manage, a.Token.Value, nil)
			all.Go(func() {
				if response, err := s.sdk.DoSigned(request); err == nil {
					answers[i] = readAnswer(response)
				}
			})
		}
		all.Wait()
		done := 0
		for _, one := range answers {
			switch one.status {
			case 200:
				done++
			case 404:
				s.want(one, 404, "invalid_rotation", "invalid access token")
			default:
				s.want(one, 401, "invalid_client", "invalid access token")
			}
		}
		if done != 1 {
			s.Errorf("%d rotations were done, want 1", done)
		}
		s.cancel(a)
	},
	"a rotation while the database is read-only": func(s *suite) {
		if s.ReadOnly == nil {
			return
		}
		a := s.granted()
		s.ReadOnly(true)
		for range 3 {
			s.want(s.rotate(a), 404, "invalid_rotation", "")
		}
		if revoked := s.revoke(a); revoked.status != 500 || revoked.text == "" {
			s.Errorf("revoking: %d, want 500 text/plain", revoked.status)
		}
		s.ReadOnly(false)
		s.token(s.rotate(a))
		s.cancel(a)
	},
	"a new key while the server caches the key set": func(s *suite) {
		if s.Publish == nil || s.KeysKept == 0 {
			return
		}
		s.Publish("other", s.newKey().Public().(ed25519.PublicKey))
		s.Pass(s.KeysKept + time.Second)
		a := s.granted() // the server caches the key set from now on
		replaced, added := s.newKey(), s.newKey()
		s.Publish("other", replaced.Public().(ed25519.PublicKey))
		s.Publish("added", added.Public().(ed25519.PublicKey))
		s.want(s.as("other", replaced).rotate(a), 401, "invalid_client", "invalid signature")
		s.want(s.as("added", added).rotate(a), 400, "invalid_client", "could not determine client")
		s.Pass(s.KeysKept + time.Second)
		a = s.as("other", replaced).rotate(a)
		s.token(a)
		s.token(s.as("added", added).rotate(a))
	},
}
