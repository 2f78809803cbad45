// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/authserver"
)

func TestLanding(t *testing.T) {
	for _, row := range []struct {
		finish, landed string
		want           bool
	}{
		{"https://h/b?a=1&b=2", "https://h/b?b=2&x=3&a=1&hash=h", true},
		{"https://h/b?a=1", "https://h/b", false},
		{"https://h/b?a=1", "https://h/b?a=2", false},
		{"https://h/b?a=1", "https://h/b?A=1", false},
		{"https://h/b?a=1&a=1", "https://h/b?a=1", false},
		{"https://h/b?a=1&a=2", "https://h/b?a=2&a=1", true},
		{"https://h/b?a=%20~", "https://h/b?a=+%7E", true},
		{"https://h/b?x", "https://h/b?x=", true},
		{"https://h/b?a=1;b=2", "https://h/b?a=1%3Bb%3D2", true},
		{"https://h/b?a=%FF%FF", "https://h/b?a=%EF%BF%BD", true},
		{"https://h/b?hash=1&interact_ref=2&result=3&message=4", "https://h/b?hash=5", true},
		{"https://h/b", "https://h/b?a=1#x", true},
		{"https://h", "https://h/?a", true},
		{"https://H:443/a/../b", "https://h/b", true},
		{"https://h/b", "https://h/b/", false},
		{"https://h/b", "http://h/b", false},
		{"https://h/b", "https://h:8443/b", false},
		{"https://h/b", "https://h.evil.example/b", false},
		{"https://h/b", "https://h/B", false},
		{"app:/b?a=1", "app:/b?a=1&hash=h", true},
		{"app:/b", "app2:/b", false},
		{"app://b", "app://c", false},
	} {
		finish, err := parseLanding(row.finish)
		if err != nil {
			t.Fatal(err)
		}
		landed, err := parseLanding(" " + row.landed + "\n")
		if err != nil {
			t.Fatal(err)
		}
		if got := landed.isAt(finish); got != row.want {
			t.Errorf("%s is at %s: %t", row.landed, row.finish, got)
		}
	}
	for _, s := range []string{"", "/b?a=1", "b", "app:b", "https://%zz", "interact_ref=1&hash=2"} {
		if _, err := parseLanding(s); err == nil {
			t.Errorf("%q is taken for a URL", s)
		}
	}
}

func TestUnguessable(t *testing.T) {
	for value, want := range map[string]bool{
		"0b6f2d1e9c8a47f3":                     true, // 64 bits
		"0f8fad5b-d9cb-469f-a165-70867728950e": true,
		"Zm9vYmFyYmF6cXV1eDEyMw":               true,
		"aGVsbG8gd29ybGQ/+w==":                 true,
		"eyJhbGciOiJub25lIn0.eyJzIjoiMTIifQ.x": true,
		"GEZDGNBVGY3TQOJQGEZDGNBVGY":           true,
		"KRSXGDTJNYQHGQLMKRSXGDTJNY":           true, // base32 without a digit
		"":                                     false,
		"1":                                    false,
		"0b6f2d1e9c8a47f":                      false, // 15 characters
		"1111111111111111a":                    false,
		"1234567890123456":                     false, // a number
		"order-confirmation":                   false, // words
		"ORDER_CONFIRMATION_":                  false,
		"2026-0504-1234-5678":                  false,
		"https://shop.example/orders/1A":       false,
		"2026-05-04T12:00:00Z":                 false,
		"Order 2026 of Alice":                  false,
	} {
		if got := unguessable(value); got != want {
			t.Errorf("%q: %t", value, got)
		}
	}
}

func TestJudgeRefusal(t *testing.T) {
	byRef, byPoll, byRedirect := &pending{FinishURI: "https://h/", Ref: "r"}, &pending{}, &pending{FinishURI: "https://h/"}
	for _, row := range []struct {
		code     authserver.ErrorCode
		status   int
		p        *pending
		answered bool
		want     ruling
		words    string
	}{
		{authserver.TooFast, 400, byRef, true, rulingPause, ""},
		{authserver.InvalidRequest, 400, byRef, true, rulingUnclear, ""},
		{authserver.UserDenied, 400, byPoll, true, rulingOver, "declined"},
		{authserver.RequestDenied, 401, byRedirect, false, rulingUnclear, ""},
		{authserver.RequestDenied, 401, byRedirect, true, rulingUnclear, ""},
		{authserver.RequestDenied, 401, byPoll, false, rulingOver, "declined"},
		{authserver.RequestDenied, 401, byPoll, true, rulingOver, "was lost"},
		{authserver.RequestDenied, 401, byRef, false, rulingOver, "used already"},
		{authserver.RequestDenied, 401, byRef, true, rulingOver, "was lost"},
		{authserver.InvalidContinuation, 404, byRef, false, rulingUnknown, ""},
		{authserver.InvalidContinuation, 404, byRef, true, rulingOver, "was lost"},
		{authserver.InvalidContinuation, 404, byPoll, false, rulingOver, "no longer knows"},
		{authserver.InvalidContinuation, 401, byRef, false, rulingOver, "no longer knows"},
		{authserver.InvalidContinuation, 401, byRef, true, rulingOver, "was lost"},
		{authserver.UnknownInteraction, 400, byPoll, false, rulingOver, "no longer knows"},
	} {
		got, cause := judgeRefusal(authserver.RequestFailed{Code: row.code, Status: row.status}, row.p, row.answered)
		if got != row.want || !strings.Contains(cause, row.words) || (cause == "") != (got != rulingOver) {
			t.Errorf("%s %d %+v %t: %d %q", row.code, row.status, row.p, row.answered, got, cause)
		}
	}
}

func TestInteractionDue(t *testing.T) {
	now := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	end := now.Add(pendingTTL + time.Hour)
	for name, row := range map[string]struct {
		p    *pending
		want time.Time
	}{
		"nobody is asked":               {nil, time.Time{}},
		"undecided":                     {&pending{Since: now}, end},
		"undecided, a last poll failed": {&pending{Since: now, TryAt: end.Add(time.Hour)}, end.Add(time.Hour)},
		"consented":                     {&pending{Since: now, Ref: "r", TryAt: now.Add(time.Minute)}, now.Add(time.Minute)},
		"consented, a pause": {
			&pending{Since: now, Ref: "r", TryAt: now.Add(time.Minute), NotBefore: now.Add(time.Hour), Wait: time.Hour},
			now.Add(time.Hour),
		},
		"and the clock was set back since": {&pending{Since: now, Ref: "r", NotBefore: now.Add(2 * time.Hour), Wait: time.Hour}, now},
		"consented long ago":               {&pending{Since: now.Add(-time.Hour), Ref: "r"}, now.Add(-time.Hour)},
		"the clock was 29 days ahead":      {&pending{Since: now.Add(29 * 24 * time.Hour), Ref: "r"}, now},
		"and so was the back-off":          {&pending{Since: now, Ref: "r", TryAt: now.Add(29 * 24 * time.Hour)}, now},
	} {
		if got := interactionDue(&grant{Pending: row.p}, now); !got.Equal(row.want) {
			t.Errorf("%s: %s, want %s", name, got, row.want)
		}
	}
}

// A further question is not asked, but its continuation counts.
func TestFurtherQuestion(t *testing.T) {
	r := configured(t)
	redirect := r.decided(r.asked("payer", finishURI), true)
	asked := false
	r.on("continue", func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if !asked {
			asked = true
			_, _ = w.Write([]byte(`{"interact":{"redirect":"https://h/","finish":"f"}}`))
			return
		}
		next.ServeHTTP(w, req)
	})
	if resp := r.continueWith(redirect); resp.Data["status"] != statusPending {
		t.Fatalf("status %v", resp.Data["status"])
	}
	r.continueWith(redirect)
	r.granted()
}
