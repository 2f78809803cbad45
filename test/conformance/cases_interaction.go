// SPDX-License-Identifier: MPL-2.0

package conformance

import "time"

// interactionCases are about grants that need their owner's consent.
var interactionCases = map[string]func(s *suite){
	"approved, finished by redirect": func(s *suite) {
		a := s.pending(byRedirect())
		back := s.decide(a, Accept)
		ref := s.only(back, "interact_ref")
		s.wantHash(a, s.only(back, "hash"), ref)
		s.want(s.proceed(a, ref), 400, "too_fast", "")
		s.waitOut()
		s.want(s.proceed(a, "another"), 404, "invalid_continuation", "")
		s.waitOut()
		done := s.proceed(a, ref) // sending it too early did not use it up
		s.token(done)
		if done.Continue == nil || done.Continue.URI != a.Continue.URI || done.Continue.Wait != nil {
			s.Error("want continue unchanged, without wait")
		}
		s.waitOut()
		s.want(s.proceed(a, ref), 401, "request_denied", "")
		s.want(s.cancel(a), 204, "", "")
		s.dead(done)
	},
	"declined": func(s *suite) {
		s.wantResult(s.decide(s.pending(byRedirect()), Decline), "grant_rejected")
	},
	"undecided": func(s *suite) {
		s.wantResult(s.decide(s.pending(byRedirect()), Leave), "grant_invalid")
	},
	"cancelled before the owner has opened the page": func(s *suite) {
		a := s.pending(byRedirect())
		s.want(s.cancel(a), 204, "", "")
		s.wantResult(s.decide(a, Accept), "invalid_interaction")
	},
	"expired": func(s *suite) {
		if s.InteractionLife == 0 {
			return
		}
		a, polled := s.pending(byRedirect()), s.pending(byPolling())
		s.Pass(s.InteractionLife + time.Second)
		s.wantResult(s.decide(a, Accept), "invalid_interaction")
		still := s.proceed(polled, "")
		s.want(still, 200, "", "")
		if still.Token != nil || still.Continue == nil || still.Continue.Wait == nil {
			s.Error("want continue with wait, and no token, for who polls an expired interaction")
		}
	},
	"rights on others' incoming payments need consent": func(s *suite) {
		right := s.right("incoming-payment", nil)
		for _, action := range []string{"list-all", "read-all"} {
			right["actions"], right["identifier"] = []string{action}, s.Owner
			a := s.ask(right, byPolling())
			s.want(a, 200, "", "")
			if a.Token != nil || a.Interact == nil {
				s.Fatalf("%s: want interact, and no token", action)
			}
			s.cancel(a)
		}
		right["actions"] = []string{"list-all"}
		delete(right, "identifier")
		s.want(s.ask(right, byPolling()), 400, "invalid_request", "")
	},
	"polled, approved": func(s *suite) {
		a := s.pending(byPolling())
		early := s.proceed(a, "")
		s.want(early, 400, "too_fast", "")
		if early.header.Get("Retry-After") != "" {
			s.Error("there is a Retry-After")
		}
		s.waitOut()
		still := s.proceed(a, "")
		s.want(still, 200, "", "")
		if still.Token != nil || still.Continue == nil || still.Continue.Wait == nil {
			s.Fatal("want continue with wait, and no token")
		}
		s.decide(a, Accept)
		s.waitOut()
		s.token(s.proceed(still, ""))
		s.waitOut()
		s.want(s.proceed(still, ""), 401, "request_denied", "")
		s.cancel(still)
	},
	"polled, declined": func(s *suite) {
		a := s.pending(byPolling())
		s.decide(a, Decline)
		s.waitOut()
		s.want(s.proceed(a, ""), 401, "request_denied", "")
	},
	"polling what has a finish": func(s *suite) {
		a := s.pending(byRedirect())
		s.waitOut()
		s.want(s.proceed(a, ""), 401, "request_denied", "grant cannot be polled")
		s.cancel(a)
	},
}
