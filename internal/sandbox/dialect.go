// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// What the members of a Dialect can be.
const (
	// ClientString is Dialect.Client of a server that wants a client's wallet address as a string, as all did up to
	// spring 2026.
	ClientString = "string"
	// ClientObject is Dialect.Client of a server that wants a client as an object.
	ClientObject = "object"

	// ManageObject is Dialect.Manage of RFC 9635 section 3.2.1: {"uri":…,"access_token":{"value":…}}.
	ManageObject = "object"
	// ManageMissing is Dialect.Manage of a server whose tokens cannot be managed.
	ManageMissing = "missing"
	// ManageForeign is Dialect.Manage of a server that manages tokens at another origin.
	ManageForeign = "foreign"

	// ExpiresString is Dialect.ExpiresIn of a server that writes the number as a string.
	ExpiresString = "string"
	// ExpiresMissing is Dialect.ExpiresIn of a server that does not tell when tokens expire.
	ExpiresMissing = "missing"

	// ContinueMissing is Dialect.Continue of a server that gives no continuation.
	ContinueMissing = "missing"
	// ContinueOtherPath is Dialect.Continue of a server whose continue URIs have no "continue/" in their path.
	ContinueOtherPath = "other_path"
	// ContinueForeign is Dialect.Continue of a server that continues grants at another origin.
	ContinueForeign = "foreign"
)

// Dialect is what servers differ in without misbehaving. The zero value does as Rafiki does today, except that it keeps
// no key sets. Foreign origins are the sandbox's own under another name of this machine, so that a client that goes
// there is counted.
type Dialect struct {
	// Client is the only form in which a grant request may name its client: ClientString, ClientObject, or empty for
	// either. The other one gets a 400 without a code.
	Client string `json:"client,omitempty"`
	// TokenList answers with access_token as a list of one token (RFC 9635 section 3.2.2).
	TokenList bool `json:"token_list,omitempty"`
	// Manage is how a token's manage URL is told: ManageObject, ManageMissing, ManageForeign, or empty for a string.
	Manage string `json:"manage,omitempty"`
	// ExpiresIn is how a token's life is told: ExpiresString, ExpiresMissing, or empty for a number.
	ExpiresIn string `json:"expires_in,omitempty"`
	// Continue is how a grant's continuation is told: ContinueMissing, ContinueOtherPath, ContinueForeign, or empty.
	Continue string `json:"continue,omitempty"`
	// NewContinue gives a grant a new continue URI and token with each answer to a continue request, and ends the old.
	NewContinue bool `json:"new_continue,omitempty"`
	// KeyCache is how long the key set of a client is kept once it was fetched, by Options.Now: a key published
	// meanwhile is not known. Zero fetches it for each request and forgets those that were kept. In JSON it is
	// "key_cache", a Go duration such as "1m".
	KeyCache time.Duration `json:"-"`
	// UnknownKey is the status of the answer to a request signed with a key id that the client's key set does not have:
	// 401, or 400 if zero. Both have the code invalid_client.
	UnknownKey int `json:"unknown_key,omitempty"`
	// Aliases are more paths at which wallet addresses are found, such as {"/vanity":"alice"}. The document has the id
	// of the wallet address that it is about.
	Aliases map[string]string `json:"aliases,omitempty"`
	// Redirects are paths that redirect to wallet addresses (302).
	Redirects map[string]string `json:"redirects,omitempty"`
}

// members of a Dialect that JSON has in another form; the others are as their tags say.
type (
	taggedDialect Dialect
	dialectJSON   struct {
		*taggedDialect
		KeyCache jsonDuration `json:"key_cache,omitempty"`
	}
)

// MarshalJSON writes what UnmarshalJSON reads.
func (d Dialect) MarshalJSON() ([]byte, error) {
	tagged := taggedDialect(d)
	return json.Marshal(dialectJSON{&tagged, jsonDuration(d.KeyCache)})
}

// UnmarshalJSON refuses unknown members and what cannot be, with a sentence.
func (d *Dialect) UnmarshalJSON(text []byte) error {
	in := dialectJSON{taggedDialect: &taggedDialect{}}
	if err := decodeStrictly(text, &in); err != nil {
		return fmt.Errorf("the dialect could not be read: %w", err)
	}
	read := Dialect(*in.taggedDialect)
	read.KeyCache = time.Duration(in.KeyCache)
	if err := read.check(); err != nil {
		return err
	}
	*d = read
	return nil
}

// check says what is wrong, in a sentence.
func (d Dialect) check() error {
	for _, one := range []struct {
		member, value string
		allowed       []string
	}{
		{"client", d.Client, []string{ClientString, ClientObject}},
		{"manage", d.Manage, []string{ManageObject, ManageMissing, ManageForeign}},
		{"expires_in", d.ExpiresIn, []string{ExpiresString, ExpiresMissing}},
		{"continue", d.Continue, []string{ContinueMissing, ContinueOtherPath, ContinueForeign}},
	} {
		if one.value != "" && !slices.Contains(one.allowed, one.value) {
			return fmt.Errorf("%q must be one of %s", one.member, strings.Join(one.allowed, ", "))
		}
	}
	if d.KeyCache < 0 {
		return errors.New(`"key_cache" must not be negative`)
	}
	if d.UnknownKey != 0 && d.UnknownKey != http.StatusBadRequest && d.UnknownKey != http.StatusUnauthorized {
		return errors.New(`"unknown_key" must be 400 or 401`)
	}
	for _, paths := range []map[string]string{d.Aliases, d.Redirects} {
		for path, name := range paths {
			if err := checkAlias(path, name); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkAlias(path, name string) error {
	if !strings.HasPrefix(path, "/") || path == "/" || !isClean(path) {
		return fmt.Errorf(`an alias must be a path such as "/vanity", not %q`, path)
	}
	if walletNames[name] == "" {
		return fmt.Errorf("there is no wallet address with the name %q", name)
	}
	return nil
}

// dialects holds the dialect that is spoken.
type dialects struct {
	mu  sync.Mutex
	now Dialect
}

func (d *dialects) get() Dialect {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.now
}

func (d *dialects) set(now Dialect) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now.Aliases, now.Redirects = maps.Clone(now.Aliases), maps.Clone(now.Redirects)
	d.now = now
}

// SetDialect has the servers speak a dialect from now on. What they have granted before stays as it is. It panics if d
// cannot be, as the HTTP endpoint would answer 400.
func (s *Server) SetDialect(d Dialect) {
	if err := d.check(); err != nil {
		panic("sandbox: " + err.Error())
	}
	s.speak(d)
}

func (s *Server) speak(d Dialect) {
	s.dialect.set(d)
	if d.KeyCache == 0 {
		s.keyCache.forget()
	}
}

// Alias has a wallet address found at one more path, such as "/vanity", with its true id in the document. Its key set is
// found there, too.
func (s *Server) Alias(path, walletName string) {
	d := s.dialect.get()
	d.Aliases = withPath(d.Aliases, path, walletName)
	s.SetDialect(d)
}

// Redirect has a path redirect to a wallet address (302).
func (s *Server) Redirect(path, walletName string) {
	d := s.dialect.get()
	d.Redirects = withPath(d.Redirects, path, walletName)
	s.SetDialect(d)
}

func withPath(paths map[string]string, path, walletName string) map[string]string {
	more := map[string]string{}
	maps.Copy(more, paths)
	more[path] = walletName
	return more
}

// renaming gives a request for an alias the path of its wallet address, before anything else looks at it.
func (s *Server) renaming(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d := s.dialect.get()
		path, tail := strings.TrimSuffix(r.URL.Path, "/jwks.json"), ""
		if path != r.URL.Path {
			tail = "/jwks.json"
		}
		if name, ok := d.Redirects[r.URL.Path]; ok {
			http.Redirect(w, r, s.WalletAddress(name), http.StatusFound)
			return
		}
		if name, ok := d.Aliases[path]; ok {
			r = r.Clone(r.Context())
			r.URL.Path, r.URL.RawPath = "/"+name+tail, ""
		}
		next.ServeHTTP(w, r)
	})
}

func (s *Server) showDialect(w http.ResponseWriter, _ *http.Request) error {
	answer(w, http.StatusOK, s.dialect.get())
	return nil
}

func (s *Server) putDialect(w http.ResponseWriter, r *http.Request) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return plain(http.StatusBadRequest, "the body could not be read\n")
	}
	var d Dialect
	if err := json.Unmarshal(body, &d); err != nil {
		return plain(http.StatusBadRequest, err.Error()+"\n")
	}
	s.speak(d)
	answer(w, http.StatusOK, d)
	return nil
}

func (s *Server) endDialect(w http.ResponseWriter, _ *http.Request) error {
	s.speak(Dialect{})
	w.WriteHeader(http.StatusNoContent)
	return nil
}
