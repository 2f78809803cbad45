// SPDX-License-Identifier: MPL-2.0

package conformance

import (
	"bytes"
	"net/http"
)

// grantCases are about grant requests, and about grants that need no consent.
var grantCases = map[string]func(s *suite){
	"incoming payments and quotes are granted at once": func(s *suite) {
		for _, kind := range []string{"incoming-payment", "quote"} {
			a := s.ask(s.right(kind, nil), nil)
			s.token(a)
			if a.Continue == nil || a.Continue.URI == "" || a.Continue.Wait != nil {
				s.Errorf("%s: want continue, without wait", kind)
			}
			s.cancel(a)
		}
	},
	"outgoing payments need interaction": func(s *suite) {
		s.want(s.ask(s.right("outgoing-payment", nil), nil),
			400, "invalid_request", "missing required request field 'interact'")
		s.cancel(s.pending(byRedirect()))
		s.cancel(s.pending(byPolling()))
	},
	"one amount only": func(s *suite) {
		both := map[string]any{"debitAmount": amount("1"), "receiveAmount": amount("1")}
		s.want(s.ask(s.right("outgoing-payment", both), byPolling()),
			400, "invalid_request", "only one access amount allowed")
	},
	"schema errors have no code": func(s *suite) {
		s.want(s.ask(map[string]any{"type": "incoming-payment"}, nil), 400, "", "")
	},
	"a client named by a string": func(s *suite) {
		a := s.askAs(s.Client, s.right("incoming-payment", nil), nil)
		s.token(a)
		s.cancel(a)
	},
	"bodies as JavaScript writes them": func(s *suite) {
		body := map[string]any{
			"client":       s.Client,
			"access_token": map[string]any{"access": []any{s.right("incoming-payment", nil)}},
			"note":         "a&b",
		}
		text := inJSON(s, body)
		a := s.do(s.request(http.MethodPost, s.AuthServer, "", text), s.sdk.DoSigned)
		s.token(a)
		s.cancel(a)
		text = bytes.Replace(text, []byte("&"), []byte(`\u0026`), 1)
		s.want(s.do(s.request(http.MethodPost, s.AuthServer, "", text), s.sdk.DoSigned), 401, "invalid_client", "")
	},
	"client with a trailing slash": func(s *suite) {
		s.Client += "/"
		s.want(s.ask(s.right("incoming-payment", nil), nil), 400, "invalid_client", "could not determine client")
	},
	"cancelling ends every token": func(s *suite) {
		a := s.granted()
		wrong := a
		other := *a.Continue
		other.Token.Value = "another-token"
		wrong.Continue = &other
		s.want(s.cancel(wrong), 401, "invalid_continuation", "")
		s.want(s.cancel(a), 204, "", "")
		s.dead(a)
		s.want(s.cancel(a), 401, "invalid_continuation", "")
	},
	"continuing what needed no interaction": func(s *suite) {
		a := s.granted()
		s.want(s.proceed(a, ""), 400, "too_fast", "")
		s.waitOut()
		s.token(s.proceed(a, ""))
		s.waitOut()
		s.want(s.proceed(a, ""), 401, "request_denied", "")
		s.cancel(a)
	},
}
