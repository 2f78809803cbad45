// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	_ "embed" // the page and its style
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
)

var (
	//go:embed consent.html
	consentHTML string
	//go:embed consent.css
	consentCSS string
)

// consentTemplates are "ask", the question to the owner, and "notice", a page with a message.
var consentTemplates = template.Must(template.New("consent").
	//nolint:gosec // G203: the style is a file of ours.
	Funcs(template.FuncMap{"style": func() template.CSS { return template.CSS(consentCSS) }}).
	Parse(consentHTML))

// styleHash allows the page's own style and no other.
var styleHash = func() string {
	sum := sha256.Sum256([]byte(consentCSS))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}()

const (
	consentCookie = "consent"
	nonceField    = "nonce"
)

// consentPage is the data of "ask".
type consentPage struct {
	ClientName, ClientWallet string
	Summary                  string
	Wallets                  []string
	Rights                   []shownRight
	Ends                     string
	Nonce                    string
}

// notice is the data of "notice".
type notice struct{ Title, Text string }

// showConsentPage shows the owner which client asks for which rights. Whoever opens the page counts
// as the owner, because the sandbox has no accounts.
func (s *Server) showConsentPage(w http.ResponseWriter, r *http.Request) error {
	i, ok := s.store.byInteraction(r.PathValue("id"), r.PathValue("nonce"))
	if !ok {
		return unknownInteraction(w)
	}
	if s.store.openPage(i, s.now()) != outcomeUndecided {
		return s.finish(w, r, i)
	}
	nonce := newSecret()
	if cookie, err := r.Cookie(consentCookie); err == nil && cookie.Value != "" {
		nonce = cookie.Value // a new one would invalidate the form in another window
	}
	//nolint:gosec // G124: it cannot be Secure, since the sandbox speaks plain http, on loopback.
	http.SetCookie(w, &http.Cookie{
		Name: consentCookie, Value: nonce, Path: i.path(), MaxAge: int(interactionLifetime.Seconds()),
		HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
	rights, wallets := showRights(i.grant.access)
	return showPage(w, http.StatusOK, "ask", formTargets(i.finish.uri), consentPage{
		ClientName: i.clientName, ClientWallet: i.grant.client.wallet, Summary: summary(i.grant.access),
		Wallets: wallets, Rights: rights, Ends: i.expires.UTC().Format(timeOfDay), Nonce: nonce,
	})
}

// receiveDecision accepts the page's form and nothing else. The client knows the page's address and
// could have the owner's browser post to it from a page of its own. So the browser must say that
// the form came from this origin, or say nothing, and the form must contain the value of the page's
// cookie, which another origin can neither read nor set.
func (s *Server) receiveDecision(w http.ResponseWriter, r *http.Request) error {
	i, ok := s.store.byInteraction(r.PathValue("id"), r.PathValue("nonce"))
	if !ok {
		return unknownInteraction(w)
	}
	cookie, err := r.Cookie(consentCookie)
	if err != nil || cookie.Value == "" || http.NewCrossOriginProtection().Check(r) != nil ||
		subtle.ConstantTimeCompare([]byte(cookie.Value), []byte(r.PostFormValue(nonceField))) != 1 {
		return showPage(w, http.StatusForbidden, "notice", "", notice{
			"Nothing was decided",
			"This decision did not come from the page of this wallet. Open the link of the client again.",
		})
	}
	switch r.PostFormValue("decision") {
	case "accept":
		s.store.decide(i, outcomeAccepted, s.now())
	case "decline":
		s.store.decide(i, outcomeDeclined, s.now())
	default:
		return showPage(w, http.StatusBadRequest, "notice", "", notice{
			"Nothing was decided", "The request neither accepts nor declines.",
		})
	}
	w.Header().Set("Cache-Control", "no-store")
	http.Redirect(w, r, s.origin+i.path()+"/finish", http.StatusSeeOther)
	return nil
}

// finishInteraction serves the page to which the owner's browser is redirected after the decision.
func (s *Server) finishInteraction(w http.ResponseWriter, r *http.Request) error {
	i, ok := s.store.byInteraction(r.PathValue("id"), r.PathValue("nonce"))
	if !ok {
		return unknownInteraction(w)
	}
	return s.finish(w, r, i)
}

// finish redirects the owner to the client, or shows a notice if the client gave no finish URI.
func (s *Server) finish(w http.ResponseWriter, r *http.Request, i *interaction) error {
	o := s.store.finish(i, s.now())
	if location := i.finishLocation(o, s.AuthServer()); location != "" {
		secure(w, "")
		w.Header().Set("Location", location)
		w.WriteHeader(http.StatusFound)
		return nil
	}
	switch o {
	case outcomeAccepted:
		return showPage(w, http.StatusOK, "notice", "", notice{
			"You have accepted", "The client learns of it when it next asks this wallet. You may close this window.",
		})
	case outcomeDeclined:
		return showPage(w, http.StatusOK, "notice", "", notice{
			"You have declined",
			"The client gets nothing, and learns of it when it next asks this wallet. You may close this window.",
		})
	case outcomeUndecided:
		http.Redirect(w, r, s.origin+i.path(), http.StatusSeeOther)
		return nil
	default:
		return showPage(w, http.StatusGone, "notice", "", notice{
			"This request has ended", "It has expired, or the client has withdrawn it. You may close this window.",
		})
	}
}

func unknownInteraction(w http.ResponseWriter) error {
	return showPage(w, http.StatusNotFound, "notice", "", notice{
		"There is no such request", "The link is wrong or incomplete. Open the link of the client again.",
	})
}

// showPage writes a whole page or nothing.
func showPage(w http.ResponseWriter, status int, name, targets string, data any) error {
	var page bytes.Buffer
	if err := consentTemplates.ExecuteTemplate(&page, name, data); err != nil {
		return fmt.Errorf("writing the page: %w", err)
	}
	secure(w, targets)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(page.Bytes())
	return nil
}

// secure sets headers so that a page loads nothing, cannot be framed, and does not leak its
// address, which contains a secret.
func secure(w http.ResponseWriter, formTargets string) {
	if formTargets == "" {
		formTargets = "'none'"
	}
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src "+styleHash+
		"; form-action "+formTargets+"; base-uri 'none'; frame-ancestors 'none'")
	w.Header().Set("Referrer-Policy", "same-origin")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
}

// sourceOrigin matches an origin that can be written into a Content-Security-Policy unchanged.
var sourceOrigin = regexp.MustCompile(`^https?://[A-Za-z0-9.-]+(:[0-9]+)?$`)

// formTargets returns where the form may lead, because browsers also apply form-action to the
// redirects that follow a form.
func formTargets(finishURI string) string {
	if finishURI == "" {
		return "'self'"
	}
	u, err := url.Parse(finishURI)
	if err != nil {
		return "'self'"
	}
	if origin := u.Scheme + "://" + u.Host; sourceOrigin.MatchString(origin) {
		return "'self' " + origin
	}
	// For an IPv6 address or the URI of an application the policy can only name the scheme, whose
	// characters url.Parse has checked.
	return "'self' " + u.Scheme + ":"
}

var (
	errNoInteractURL = errors.New("not an interact URL of this sandbox")
	nonceInPage      = regexp.MustCompile(`name="` + nonceField + `" value="([A-Z0-9]+)"`)
)

// Consent acts as an owner who opens the URL in the answer to a grant request (interact.redirect)
// and accepts or declines: it loads the page, sends the form and follows the redirects, all over
// HTTP. It returns the URL where the browser would end up, which is the client's finish URI with
// the outcome in its query; it does not request that URL. The URL is empty if the client gave no
// finish URI. For an interaction that has already ended it returns the URL to which the owner would
// be redirected. Errors never contain a URL of the interaction.
func (s *Server) Consent(interactRedirect string, accept bool) (location string, err error) {
	page, _, _ := strings.Cut(interactRedirect, "?")
	if !strings.HasPrefix(page, s.AuthServer()+"/interact/") {
		return "", errNoInteractURL
	}
	seen, err := s.browse(http.MethodGet, page, nil, nil)
	if err != nil {
		return "", fmt.Errorf("opening the page: %w", err)
	}
	if nonce := nonceInPage.FindStringSubmatch(seen.body); seen.status == http.StatusOK && nonce != nil {
		form := url.Values{nonceField: {nonce[1]}, "decision": {"decline"}}
		if accept {
			form.Set("decision", "accept")
		}
		if seen, err = s.browse(http.MethodPost, page, form, seen.cookies); err != nil {
			return "", fmt.Errorf("sending the decision: %w", err)
		}
	}
	for seen.status == http.StatusSeeOther {
		if seen, err = s.browse(http.MethodGet, seen.location, nil, nil); err != nil {
			return "", fmt.Errorf("following the redirect: %w", err)
		}
	}
	if seen.status != http.StatusOK && seen.status != http.StatusFound {
		return "", fmt.Errorf("the owner sees an error page, of status %d", seen.status)
	}
	return seen.location, nil
}

// browserPage is the answer that a browser received.
type browserPage struct {
	status   int
	location string
	cookies  []*http.Cookie
	body     string
}

// browse makes one request as a browser does, without following redirects.
func (s *Server) browse(method, page string, form url.Values, cookies []*http.Cookie) (browserPage, error) {
	request, err := http.NewRequestWithContext(s.running, method, page, strings.NewReader(form.Encode()))
	if err != nil {
		return browserPage{}, errNoInteractURL // err contains the URL
	}
	if form != nil {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for _, cookie := range cookies {
		request.AddCookie(cookie)
	}
	response, err := s.fetcher.Do(request)
	if err != nil {
		var holder *url.Error
		if errors.As(err, &holder) {
			err = holder.Err // without the URL
		}
		return browserPage{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxBody))
	return browserPage{response.StatusCode, response.Header.Get("Location"), response.Cookies(), string(body)}, err
}
