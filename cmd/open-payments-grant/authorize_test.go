// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// visit opens a page in the owner's browser.
func visit(t *testing.T, target string) (int, string) {
	response, err := http.Get(target)
	if err != nil {
		t.Error(err)
		return 0, ""
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	return response.StatusCode, string(body)
}

// returnWith makes the fake require consent, and the owner's browser return with a query as soon as
// it is sent to the page.
func returnWith(t *testing.T, r *runner, query string) {
	var finish string
	r.vault.write = func(name string, data map[string]any) answer {
		finish, _ = data["finish_uri"].(string)
		return r.vault.put(name, asking("pending"))
	}
	r.openBrowser = func(_ context.Context, target string) error {
		r.opened = append(r.opened, target)
		status, body := visit(t, finish+"&"+query)
		if status != http.StatusOK || !strings.Contains(body, "You can close this window") {
			t.Errorf("the browser got %d, %s", status, body)
		}
		return nil
	}
}

func TestRedirect(t *testing.T) {
	r := newRunner(t)
	r.neverTimeOut()
	returnWith(t, r, "interact_ref="+secret+"&hash=a+b%2F")
	r.vault.proceed = func(name, _ string) answer { return r.vault.put(name, stored("active", nil)) }
	r.check(t, r.authorize(t.Context()), statusDone, "ask", "continue FINISH&interact_ref="+secret+"&hash=a+b%2F")
	r.says(t, page, "NAME      STATUS  WALLET", "payments  active  "+wallet, "outgoing-payment create,read 5.00 USD",
		"Waiting for the owner: 0:00, until ")
	if len(r.opened) != 1 || r.opened[0] != page {
		t.Errorf("the browser was sent to %q", r.opened)
	}
}

// A redirect arrives only once, so it is kept while Vault or the server fails.
func TestRedirectIsKept(t *testing.T) {
	r := newRunner(t)
	returnWith(t, r, "interact_ref="+secret+"&hash=h")
	troubles := []answer{{502, "the authorization server https://auth.example answered 500"}, {503, "Vault is sealed"},
		{400, "the authorization server wants a pause"}}
	r.vault.proceed = func(name, _ string) answer {
		if len(troubles) > 0 {
			next := troubles[0]
			troubles = troubles[1:]
			return next
		}
		return r.vault.put(name, stored("active", nil))
	}
	// The first wait is for the browser, which has returned already.
	first := true
	goOn := r.after
	r.after = func(d time.Duration) <-chan time.Time {
		if first {
			first = false
			return nil
		}
		return goOn(d)
	}
	again := "continue FINISH&interact_ref=" + secret + "&hash=h"
	r.check(t, r.authorize(t.Context()), statusDone, "ask", again, again, again, again)
	r.says(t, "Vault answered 502: the authorization server", "Vault is sealed", "wants a pause")
}

// A request that the engine has completed counts, even if its response was lost.
func TestAnswerLost(t *testing.T) {
	r := newRunner(t)
	r.vault.write = func(name string, _ map[string]any) answer { return r.vault.put(name, asking("pending")) }
	calls := 0
	r.vault.proceed = func(name, _ string) answer {
		if calls++; calls == 1 {
			r.vault.put(name, stored("active", nil))
			return answer{504, "gateway timeout"}
		}
		return answer{400, `grant "payments" does not wait for anybody's consent`}
	}
	r.check(t, r.authorize(t.Context(), "-poll"), statusDone, "ask", "continue", "continue")
}

func TestDeclined(t *testing.T) {
	for name, status := range map[string]string{"a new grant": "lost", "a grant in use": "active"} {
		t.Run(name, func(t *testing.T) {
			r := newRunner(t)
			r.neverTimeOut()
			returnWith(t, r, "result=grant_rejected")
			r.vault.proceed = func(name, _ string) answer {
				r.vault.put(name, stored(status, nil))
				return answer{400, "its owner declined: the owner has to be asked again"}
			}
			r.check(t, r.authorize(t.Context(), "-replace"), statusDeclined, "ask", "continue FINISH&result=grant_rejected")
			r.says(t, "open-payments-grant: its owner declined: run the same command again to ask the owner again\n")
		})
	}
}

func TestPoll(t *testing.T) {
	r := newRunner(t)
	r.vault.write = func(name string, data map[string]any) answer {
		if data["finish_uri"] != nil || data["wallet_address"] != wallet || data["access"] == nil || data["ask_again"] != true {
			t.Errorf("it writes %v", data)
		}
		return r.vault.put(name, asking("pending"))
	}
	var at []time.Duration
	r.vault.proceed = func(name, _ string) answer {
		if at = append(at, r.now().Sub(start)); len(at) < 3 {
			return r.vault.put(name, asking("pending"))
		}
		return r.vault.put(name, stored("active", nil))
	}
	r.check(t, r.authorize(t.Context(), "-poll", "-no-browser", "-format=json"), statusDone, "ask", "continue", "continue",
		"continue")
	r.says(t, `"name": "payments"`, `"status": "active"`)
	if len(at) != 3 || at[1] != r.pollInterval || at[2] != 2*r.pollInterval {
		t.Errorf("it polls at %s", at)
	}
	if r.opened != nil {
		t.Error("a browser was opened")
	}
}

func TestTimeout(t *testing.T) {
	for name, row := range map[string]struct {
		flags []string
		ends  bool // the engine ends the expired interaction on the next request
		want  int
		last  string
	}{
		"polling, -timeout":      {[]string{"-poll", "-timeout=7s"}, false, statusPending, "continue"},
		"redirect, -timeout":     {[]string{"-timeout=7s"}, false, statusPending, "ask"},
		"polling, its time":      {[]string{"-poll"}, true, statusDeclined, "continue"},
		"redirect, its time":     {nil, false, statusPending, "ask"},
		"polling, clocks apart":  {[]string{"-poll", "-timeout=1h"}, false, statusPending, "continue"},
		"redirect, clocks apart": {[]string{"-timeout=1h"}, false, statusPending, "ask"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRunner(t)
			r.vault.write = func(name string, _ map[string]any) answer { return r.vault.put(name, asking("pending")) }
			r.vault.proceed = func(name, _ string) answer {
				if row.ends && r.now().Sub(start) >= 10*time.Minute {
					r.vault.put(name, stored("lost", nil))
					return answer{400, "its owner was not asked, or did not decide, in time"}
				}
				return answer{200, r.vault.grants[name]}
			}
			if got := r.authorize(t.Context(), row.flags...); got != row.want {
				t.Errorf("the exit status is %d: %s", got, r.stderr.String())
			}
			if last := r.vault.asked[len(r.vault.asked)-1]; !strings.HasSuffix(last, row.last) {
				t.Errorf("the last request is %q", last)
			}
		})
	}
}

// Ctrl-C, and then the same command again.
func TestInterruptAndResume(t *testing.T) {
	r := newRunner(t)
	r.vault.write = func(name string, _ map[string]any) answer { return r.vault.put(name, asking("pending")) }
	ctx, interrupt := context.WithCancel(t.Context())
	r.vault.proceed = func(name, _ string) answer {
		interrupt()
		return answer{200, r.vault.grants[name]}
	}
	r.neverTimeOut()
	r.check(t, r.authorize(ctx, "-poll"), statusInterrupted, "ask", "continue")
	r.says(t, "interrupted")

	r.stderr.Reset()
	r.vault.proceed = func(name, _ string) answer { return r.vault.put(name, stored("active", nil)) }
	r.check(t, r.authorize(t.Context(), "-poll"), statusDone, "ask", "continue", "continue")
	r.says(t, "waits for its owner already", page)

	r.stderr.Reset()
	r.check(t, r.authorize(t.Context(), "-poll"), statusDone, "ask", "continue", "continue")
	r.says(t, "active with these rights already; -replace")
}

func TestInterruptRedirect(t *testing.T) {
	r := newRunner(t)
	r.neverTimeOut()
	r.vault.write = func(name string, _ map[string]any) answer { return r.vault.put(name, asking("pending")) }
	ctx, interrupt := context.WithCancel(t.Context())
	r.openBrowser = func(context.Context, string) error { interrupt(); return nil }
	r.check(t, r.authorize(ctx), statusInterrupted, "ask")
	r.openBrowser = func(context.Context, string) error { return io.EOF }
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	r.check(t, r.authorize(ctx), statusInterrupted, "ask", "ask")
	r.says(t, "No browser could be opened")
}

func TestResume(t *testing.T) {
	other := stored("active", map[string]any{"access": []any{map[string]any{"type": "quote"}}})
	for name, row := range map[string]struct {
		before map[string]any
		first  answer // to the first poll; afterwards the grant is active
		flags  []string
		want   int
		asked  []string
	}{
		"asked for with a finish URI": {asking("pending"), answer{400, "such grants cannot be polled"}, []string{"-poll"},
			statusDone, []string{"continue", "ask", "continue"}},
		"alongside an active grant": {asking("active"), answer{200, stored("active", nil)}, []string{"-poll", "-replace"},
			statusDone, []string{"continue"}},
		"it was for other rights": {asking("active"), answer{200, other}, []string{"-poll"}, statusFailed,
			[]string{"continue"}},
		"Vault in trouble": {asking("pending"), answer{503, "sealed"}, []string{"-poll"}, statusDone,
			[]string{"continue", "continue"}},
		"its time has run out": {stored("pending",
			map[string]any{"interact_url": page, "pending_until": "2026-05-04T11:00:00Z"}), answer{200, stored("active", nil)},
			[]string{"-poll"}, statusDone, []string{"ask", "continue"}},
		"other rights": {stored("active", map[string]any{"access": []any{}}),
			answer{200, stored("active", nil)}, []string{"-poll"}, statusDone, []string{"ask", "continue"}},
		"another wallet": {stored("active", map[string]any{"wallet_address": "https://wallet.example/bob"}),
			answer{200, stored("active", nil)}, []string{"-poll"}, statusDone, []string{"ask", "continue"}},
		"the same, replaced": {stored("active", nil), answer{200, stored("active", nil)},
			[]string{"-poll", "-replace"}, statusDone, []string{"ask", "continue"}},
		"the same": {stored("active", nil), answer{}, nil, statusDone, nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRunner(t)
			r.vault.grants["payments"] = row.before
			r.vault.write = func(name string, _ map[string]any) answer { return r.vault.put(name, asking("pending")) }
			polled := false
			r.vault.proceed = func(name, _ string) answer {
				if !polled {
					polled = true
					return row.first
				}
				return r.vault.put(name, stored("active", nil))
			}
			r.check(t, r.authorize(t.Context(), row.flags...), row.want, row.asked...)
		})
	}
}

func TestNoConsentNeeded(t *testing.T) {
	r := newRunner(t)
	r.vault.write = func(name string, _ map[string]any) answer { return r.vault.put(name, stored("active", nil)) }
	r.check(t, r.authorize(t.Context()), statusDone, "ask")
	r.says(t, "payments  active")
	if r.opened != nil {
		t.Error("a browser was opened")
	}
}

func TestFails(t *testing.T) {
	t.Run("refused", func(t *testing.T) {
		r := newRunner(t)
		r.vault.write = func(string, map[string]any) answer { return answer{400, "access[0]: has no type"} }
		r.check(t, r.authorize(t.Context()), statusFailed, "ask")
		r.says(t, "open-payments-grant: access[0]: has no type\n")
	})
	t.Run("no policy for continue", func(t *testing.T) {
		r := newRunner(t)
		r.vault.write = func(name string, _ map[string]any) answer { return r.vault.put(name, asking("pending")) }
		r.vault.proceed = func(string, string) answer { return answer{403, "permission denied"} }
		r.check(t, r.authorize(t.Context(), "-poll"), statusFailed, "ask", "continue")
		r.says(t, "open-payments-grant: Vault answered 403: permission denied\n")
	})
	t.Run("no token", func(t *testing.T) {
		r := newRunner(t)
		t.Setenv("VAULT_TOKEN", "")
		r.check(t, r.authorize(t.Context()), statusFailed)
		r.says(t, "there is no token")
	})
	t.Run("nobody there", func(t *testing.T) {
		r := newRunner(t)
		t.Setenv("VAULT_ADDR", "http://127.0.0.1:1")
		r.check(t, r.authorize(t.Context()), statusFailed)
		r.says(t, "Vault at http://127.0.0.1:1 cannot be reached: dial tcp")
	})
	t.Run("no file", func(t *testing.T) {
		r := newRunner(t)
		r.check(t, r.run(t.Context(), []string{"authorize", "x", "-access", "missing.json", "-wallet", wallet}), statusFailed)
	})
	t.Run("not a list", func(t *testing.T) {
		r := newRunner(t)
		r.check(t, r.run(t.Context(), []string{"authorize", "x", "-access", accessFile(t, `{}`), "-wallet", wallet}),
			statusFailed)
		r.says(t, "must hold the JSON list of rights")
	})
}

// A redirect that the engine does not take for the owner's word: the browser may return once more.
func TestHint(t *testing.T) {
	const next = "the redirect says that the owner has not decided"
	t.Run("undecided, then consented", func(t *testing.T) {
		r := newRunner(t)
		r.neverTimeOut()
		returnWith(t, r, "result=grant_invalid")
		var finish string
		write := r.vault.write
		r.vault.write = func(name string, data map[string]any) answer {
			finish, _ = data["finish_uri"].(string)
			return write(name, data)
		}
		r.vault.proceed = func(name, redirect string) answer {
			if strings.Contains(redirect, "interact_ref") {
				return r.vault.put(name, stored("active", nil))
			}
			go visit(t, finish+"&interact_ref="+secret+"&hash=h")
			hint := asking("pending")
			hint["next"] = next
			return answer{200, hint}
		}
		r.check(t, r.authorize(t.Context()), statusDone, "ask", "continue FINISH&result=grant_invalid",
			"continue FINISH&interact_ref="+secret+"&hash=h")
		r.says(t, next, "The owner has consented. Waiting for the authorization server")
	})
	for _, result := range []string{"invalid_interaction", "unknown_interaction"} {
		t.Run(result, func(t *testing.T) {
			r := newRunner(t)
			r.neverTimeOut()
			returnWith(t, r, "result="+result)
			r.vault.proceed = func(string, string) answer { return answer{200, asking("pending")} }
			r.check(t, r.authorize(t.Context()), statusDeclined, "ask", "continue FINISH&result="+result)
			r.says(t, "has expired or was cancelled: run the same command again")
		})
	}
}

// Once the owner has consented, the command says what it waits for, and that Vault goes on.
func TestConsentedButNotGranted(t *testing.T) {
	r := newRunner(t)
	returnWith(t, r, "interact_ref="+secret+"&hash=h")
	first, goOn := true, r.after
	r.after = func(d time.Duration) <-chan time.Time {
		if first { // the first wait is for the browser, which has returned already
			first = false
			return nil
		}
		return goOn(d)
	}
	r.vault.proceed = func(name, _ string) answer { return answer{200, r.vault.grants[name]} }
	if got := r.authorize(t.Context()); got != statusPending {
		t.Errorf("the exit status is %d", got)
	}
	r.says(t, "The owner has consented. Waiting for the authorization server", "Vault goes on asking")
	if strings.Contains(r.stderr.String(), secret) {
		t.Error("it prints the reference")
	}
}

// Only the owner's browser counts.
func TestCallback(t *testing.T) {
	callback, err := startCallback()
	if err != nil {
		t.Fatal(err)
	}
	defer callback.close()
	base := callback.uri[:strings.LastIndex(callback.uri, "/")]
	bare, _, _ := strings.Cut(callback.uri, "?")
	for target, want := range map[string]int{
		base + "/?interact_ref=1&hash=2": http.StatusNotFound,
		base + "/favicon.ico":            http.StatusNotFound,
		callback.uri:                     http.StatusBadRequest,
		callback.uri + "&code=1":         http.StatusBadRequest,
		bare + "?result=grant_rejected":  http.StatusBadRequest, // without the state
		bare + "?state=x&result=x":       http.StatusBadRequest,
		strings.Replace(callback.uri, "127.0.0.1", "localhost", 1) + "&result=x": http.StatusNotFound,
	} {
		if status, _ := visit(t, target); status != want {
			t.Errorf("%s returns %d", strings.Replace(target, callback.uri, "FINISH", 1), status)
		}
	}
	select {
	case <-callback.redirects:
		t.Error("one of them was taken for the owner's browser")
	default:
	}
	// Servers write the query anew, in an order of their own.
	back := bare + "?result=grant_rejected&" + callback.uri[len(bare)+1:]
	for range 2 { // reloading the page does not block
		if status, _ := visit(t, back); status != http.StatusOK {
			t.Errorf("it returns %d", status)
		}
	}
	if got := <-callback.redirects; got != back {
		t.Error("the URL is not complete")
	}
}
