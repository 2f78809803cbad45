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

// The values of the members of a Dialect.
const (
	// ClientString accepts the client's wallet address only as a string, as servers did until
	// spring 2026.
	ClientString = "string"
	// ClientObject accepts the client only as an object.
	ClientObject = "object"

	// ManageObject writes manage as RFC 9635 section 3.2.1 does:
	// {"uri":…,"access_token":{"value":…}}.
	ManageObject = "object"
	// ManageMissing leaves out manage.
	ManageMissing = "missing"
	// ManageForeign writes a manage URL on another origin.
	ManageForeign = "foreign"

	// ExpiresString writes expires_in as a string.
	ExpiresString = "string"
	// ExpiresMissing leaves out expires_in.
	ExpiresMissing = "missing"

	// ContinueMissing leaves out continue.
	ContinueMissing = "missing"
	// ContinueOtherPath writes a continue URI whose path does not contain "continue/".
	ContinueOtherPath = "other_path"
	// ContinueForeign writes a continue URI on another origin.
	ContinueForeign = "foreign"
)

// Dialect is how servers differ from each other without misbehaving. The zero value behaves as
// Rafiki does today, except that it caches no key sets. Foreign origins are the sandbox under
// another host name of this machine, so Count shows whether a client went there.
type Dialect struct {
	// Client is the only form in which a grant request may name its client: ClientString or
	// ClientObject. The other form gets a 400 without a code. Empty accepts both.
	Client string `json:"client,omitempty"`
	// TokenList writes access_token as a list of one token (RFC 9635 section 3.2.2).
	TokenList bool `json:"token_list,omitempty"`
	// Manage is ManageObject, ManageMissing, ManageForeign, or empty for a URL as a string.
	Manage string `json:"manage,omitempty"`
	// ExpiresIn is ExpiresString, ExpiresMissing, or empty for a number.
	ExpiresIn string `json:"expires_in,omitempty"`
	// Continue is ContinueMissing, ContinueOtherPath, ContinueForeign, or empty for Rafiki's URI.
	Continue string `json:"continue,omitempty"`
	// NewContinue issues a new continue URI and token with each answer to a continue request; the
	// old ones stop working.
	NewContinue bool `json:"new_continue,omitempty"`
	// KeyCache is how long, by Options.Now, the server keeps a client's key set after it fetched
	// it. It does not see keys that are published meanwhile. Zero fetches the key set for each
	// request and drops cached ones. In JSON it is "key_cache", a Go duration such as "1m".
	KeyCache time.Duration `json:"-"`
	// UnknownKey is the status for a request signed with a key id that is not in the client's key
	// set: 400 or 401, 400 if zero. The code is invalid_client.
	UnknownKey int `json:"unknown_key,omitempty"`
	// Aliases are additional paths of wallet addresses, such as {"/vanity":"alice"}. The wallet
	// document there names its true id.
	Aliases map[string]string `json:"aliases,omitempty"`
	// Redirects are paths that redirect to wallet addresses (302).
	Redirects map[string]string `json:"redirects,omitempty"`
}

// dialectJSON is the JSON form of a Dialect: its tags, except for members of another type.
type (
	taggedDialect Dialect
	dialectJSON   struct {
		*taggedDialect
		KeyCache jsonDuration `json:"key_cache,omitempty"`
	}
)

// MarshalJSON implements json.Marshaler.
func (d Dialect) MarshalJSON() ([]byte, error) {
	tagged := taggedDialect(d)
	return json.Marshal(dialectJSON{&tagged, jsonDuration(d.KeyCache)})
}

// UnmarshalJSON implements json.Unmarshaler. It rejects unknown members and values that are not
// allowed; its errors are sentences.
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

// check returns an error that says what is not allowed.
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

// dialects holds the current dialect.
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

// SetDialect changes the dialect. It applies to answers from now on; what was granted before stays
// valid. SetDialect panics on values for which the HTTP endpoint answers 400.
func (s *Server) SetDialect(d Dialect) {
	if err := d.check(); err != nil {
		panic("sandbox: " + err.Error())
	}
	s.changeDialect(d)
}

func (s *Server) changeDialect(d Dialect) {
	s.dialect.set(d)
	if d.KeyCache == 0 {
		s.keyCache.forget()
	}
}

// Alias serves a wallet address at an additional path, such as "/vanity". The wallet document names
// its true id. The key set is served below that path as well.
func (s *Server) Alias(path, walletName string) {
	d := s.dialect.get()
	d.Aliases = withPath(d.Aliases, path, walletName)
	s.SetDialect(d)
}

// Redirect redirects a path to a wallet address (302).
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

// resolvingAliases replaces an alias in a request by the path of its wallet address before anything
// else looks at the request.
func (s *Server) resolvingAliases(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d := s.dialect.get()
		path, tail := strings.TrimSuffix(r.URL.Path, "/jwks.json"), ""
		if path != r.URL.Path {
			tail = "/jwks.json"
		}
		if name, ok := d.Redirects[r.URL.Path]; ok {
			s.counts.add(opWallet)
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
	writeJSON(w, http.StatusOK, s.dialect.get())
	return nil
}

func (s *Server) putDialect(w http.ResponseWriter, r *http.Request) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return textError(http.StatusBadRequest, "the body could not be read\n")
	}
	var d Dialect
	if err := json.Unmarshal(body, &d); err != nil {
		return textError(http.StatusBadRequest, err.Error()+"\n")
	}
	s.changeDialect(d)
	writeJSON(w, http.StatusOK, d)
	return nil
}

func (s *Server) endDialect(w http.ResponseWriter, _ *http.Request) error {
	s.changeDialect(Dialect{})
	w.WriteHeader(http.StatusNoContent)
	return nil
}
