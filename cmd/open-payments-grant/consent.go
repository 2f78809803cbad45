// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

// errNotPollable is returned when a grant was asked for with a finish URI, so that it cannot be
// polled.
var errNotPollable = errors.New("the grant was asked for with a finish URI and cannot be polled")

// consentWait waits for an owner's decision, and has the engine continue the grant.
type consentWait struct {
	*app
	vault     *engine
	name      string
	timeout   time.Duration // 0: until the grant's pending_until
	finishURI string        // where the owner's browser returns to; empty if polling
	redirects <-chan string // the URLs at which the browser arrived
	resumed   bool          // an earlier run asked for the grant

	before   grant
	deadline time.Time
	redirect string      // the URL to continue with; empty if polling, or if none has arrived
	decided  atomic.Bool // the browser has brought a reference: the owner has consented
	last     bool        // the deadline has passed: this is the last attempt
	unsure   bool        // a request may have been done although its response did not arrive
	printed  string      // the last message
}

// run waits for the decision and returns the grant. It retries after temporary failures: a redirect
// arrives only once, and retrying is safe.
func (w *consentWait) run(ctx context.Context, g grant) (grant, error) {
	started := w.now()
	if err := w.setDeadline(started, g); err != nil {
		return nil, err
	}
	defer w.terminal.showStatus(func() string {
		if w.decided.Load() {
			return decidedLine
		}
		return waitingLine(started, w.now(), w.deadline)
	})()
	for first := true; ; first = false {
		if !w.last && !w.canContinue() {
			if err := w.awaitRedirect(ctx, w.timeLeft()); err != nil {
				return nil, err
			}
		}
		if w.canContinue() {
			g, done, err := w.attempt(ctx)
			switch {
			case done:
				return g, err
			case err != nil && first && w.resumed && !temporary(err):
				return nil, errNotPollable
			case err == nil && w.redirect != "" && !w.decided.Load():
				if err := w.takeHint(g); err != nil {
					return nil, err
				}
			}
			w.printNew(err)
			if !w.last {
				if err := w.awaitRedirect(ctx, min(w.pollInterval, w.timeLeft())); err != nil {
					return nil, err
				}
			}
		}
		if w.now().Before(w.deadline) {
			continue
		}
		if w.last || !w.canContinue() || w.deadline.Before(w.before.pendingUntil()) {
			return nil, w.stillPending()
		}
		w.last = true // one more request, after the owner's time
	}
}

// setDeadline makes the wait end when the owner's time is over, or after the timeout.
func (w *consentWait) setDeadline(started time.Time, g grant) error {
	w.before, w.deadline = g, g.pendingUntil()
	if w.deadline.IsZero() {
		return errors.New("the engine does not say until when the owner may decide: is it newer than this command?")
	}
	if end := started.Add(w.timeout); w.timeout > 0 && end.Before(w.deadline) {
		w.deadline = end
	}
	return nil
}

func (w *consentWait) timeLeft() time.Duration { return w.deadline.Sub(w.now()) }

// canContinue reports whether there is something to send to the engine: a poll, or a redirect.
func (w *consentWait) canContinue() bool { return w.redirect != "" || w.finishURI == "" }

// takeHint handles a redirect without a reference that has not made the engine end the interaction.
// Where the owner may still decide, it prints what the engine says and forgets the redirect: the
// browser may return once more. The callback has checked that the redirect is genuine.
func (w *consentWait) takeHint(g grant) error {
	switch result := queryOf(w.redirect).Get("result"); result {
	case "invalid_interaction", "unknown_interaction":
		return noGrantError{statusDeclined, "the wallet says that the request has expired or was cancelled: " + again}
	}
	w.redirect = ""
	w.printNew(errors.New(oneLine(g.text("next"))))
	return nil
}

const again = "run the same command again to ask the owner again"

func queryOf(redirect string) url.Values {
	u, err := url.Parse(redirect)
	if err != nil {
		return nil
	}
	return u.Query()
}

// awaitRedirect waits for a redirect, for at most d. Without one, the earlier redirect is used
// again; so is one with a reference whatever comes after it.
func (w *consentWait) awaitRedirect(ctx context.Context, d time.Duration) error {
	select {
	case redirect := <-w.redirects:
		switch brings := queryOf(redirect).Has("interact_ref"); {
		case brings && !w.decided.Swap(true):
			w.terminal.printStatus(decidedLine)
		case !brings && w.decided.Load():
			return nil
		}
		w.redirect = redirect
		return nil
	case <-w.after(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// attempt has the engine continue the grant. It is done if there is a grant, or if none can come
// any more; otherwise an error may be temporary.
func (w *consentWait) attempt(ctx context.Context) (g grant, done bool, err error) {
	data := map[string]any{}
	requestCtx := ctx
	if w.redirect != "" {
		data["redirect"] = w.redirect
	} else if !w.last {
		// The engine may delay a poll until the server accepts one. Hanging up has no effect on it.
		var cancel context.CancelFunc
		requestCtx, cancel = context.WithTimeout(ctx, w.timeLeft())
		defer cancel()
	}
	g, _, err = w.vault.write(requestCtx, w.name, "/continue", data)
	switch {
	case err == nil:
		return g, !g.pending(), nil
	case requestCtx.Err() != nil:
		w.unsure = true
		return nil, ctx.Err() != nil, ctx.Err()
	case temporary(err):
		w.unsure = true
		return nil, false, err
	case !rejected(err):
		return nil, true, err
	}
	return w.afterRejection(ctx, err)
}

// afterRejection finds out whether the grant is still pending after the engine rejected a request
// to continue it.
func (w *consentWait) afterRejection(ctx context.Context, rejection error) (g grant, done bool, err error) {
	g, err = w.vault.read(ctx, w.name)
	switch {
	case err != nil:
		return nil, !temporary(err), err
	case g.pending():
		return nil, false, rejection
	case w.unsure && g.active() && g.generation() > w.before.generation():
		return g, true, nil // an earlier request, whose response was lost, has succeeded
	}
	return nil, true, noGrantError{statusDeclined, askAgain(g, rejection)}
}

// askAgain returns why there is no grant, and what helps in this program.
func askAgain(g grant, rejection error) string {
	why := g.text("last_failure_cause")
	if why == "" || !strings.HasPrefix(rejection.Error(), why) {
		why, _, _ = strings.Cut(rejection.Error(), ": the owner has to be asked again")
	}
	return oneLine(why) + ": " + again
}

// printNew prints an error, unless it was the last one printed.
func (w *consentWait) printNew(err error) {
	if err != nil && err.Error() != w.printed {
		w.printed = err.Error()
		w.terminal.printf("%s", err)
	}
}

func (w *consentWait) stillPending() error {
	what := "run the same command again to resume"
	switch {
	case w.decided.Load():
		what = "the owner has consented, and Vault goes on asking the authorization server; see open-payments-grant " +
			"status " + w.name
	case w.finishURI != "":
		what = again
	}
	return noGrantError{statusPending, fmt.Sprintf("grant %q is still pending: %s", w.name, what)}
}
