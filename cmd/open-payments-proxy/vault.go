// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/cli"
)

// vaultTimeout is longer than the engine may take to rotate a grant, which is 80 s.
const vaultTimeout = 2 * time.Minute

// vaultLink is the connection to Vault: it adds the token of a file to each request, and knows when
// Vault has last answered.
type vaultLink struct {
	base      http.RoundTripper
	tokenFile string // empty: requests have the API client's own token
	client    *api.Client

	mu       sync.Mutex
	seen     os.FileInfo // the file when it was last read
	token    string
	answered time.Time
}

// connectVault returns the connection that the environment describes.
func connectVault(tokenFile string) (*vaultLink, error) {
	server, err := cli.ChooseServer()
	if err != nil {
		return nil, err
	}
	if err := server.CheckAddress(); err != nil {
		return nil, err
	}
	config := api.DefaultConfig()
	if config.Error != nil {
		return nil, fmt.Errorf("read the environment: %w", config.Error)
	}
	if os.Getenv(api.EnvVaultClientTimeout) == "" {
		config.Timeout = vaultTimeout
	}
	link := &vaultLink{tokenFile: tokenFile}
	if link.client, err = api.NewClient(config); err != nil {
		return nil, fmt.Errorf("read the environment: %w", err)
	}
	link.base, config.HttpClient.Transport = config.HttpClient.Transport, link
	if tokenFile == "" && link.client.Token() == "" {
		token, err := server.ReadTokenFile(cli.TokenFile)
		if err != nil {
			return nil, err
		}
		link.client.SetToken(token)
	}
	return link, nil
}

// RoundTrip sends a request with the newest token. One that Vault refuses is sent again if the file
// holds another token by then: whoever replaces a token may revoke the old one while requests with
// it are on their way.
func (v *vaultLink) RoundTrip(r *http.Request) (*http.Response, error) {
	if v.tokenFile == "" {
		return v.note(v.base.RoundTrip(r))
	}
	body, err := readAll(r.Body)
	if err != nil {
		return nil, err
	}
	for token := v.current(); ; {
		resp, err := v.note(v.base.RoundTrip(withToken(r, body, token)))
		if err != nil || resp.StatusCode != http.StatusForbidden {
			return resp, err
		}
		next := v.reread()
		if next == token {
			return resp, nil
		}
		_ = resp.Body.Close()
		token = next
	}
}

func readAll(body io.ReadCloser) ([]byte, error) {
	if body == nil {
		return nil, nil
	}
	defer body.Close()
	return io.ReadAll(body)
}

func withToken(r *http.Request, body []byte, token string) *http.Request {
	out := r.Clone(r.Context())
	out.Body = http.NoBody
	if len(body) > 0 {
		out.Body = io.NopCloser(bytes.NewReader(body))
	}
	out.Header.Set(api.AuthHeaderName, token)
	return out
}

// note remembers when Vault has last answered. A Vault that is sealed answers everything with 503.
func (v *vaultLink) note(resp *http.Response, err error) (*http.Response, error) {
	if err == nil && resp.StatusCode != http.StatusServiceUnavailable {
		v.mu.Lock()
		v.answered = time.Now()
		v.mu.Unlock()
	}
	return resp, err
}

// current returns the token in the file, which it reads if the file has changed. The token that was
// read before stays in use while the file is missing, empty or unreadable.
func (v *vaultLink) current() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	now, err := os.Stat(v.tokenFile)
	if err == nil && (v.seen == nil || !os.SameFile(now, v.seen) || now.ModTime() != v.seen.ModTime() ||
		now.Size() != v.seen.Size()) {
		v.read(now)
	}
	return v.token
}

// reread returns the token in the file, whether the file seems to have changed or not: times are
// coarse.
func (v *vaultLink) reread() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	if now, err := os.Stat(v.tokenFile); err == nil {
		v.read(now)
	}
	return v.token
}

// read reads the file. The caller holds the lock.
func (v *vaultLink) read(now os.FileInfo) {
	text, err := os.ReadFile(v.tokenFile)
	if token := strings.TrimSpace(string(text)); err == nil && token != "" {
		v.seen, v.token = now, token
	}
}

// checkTokenFile returns an error if the file with the token exists and cannot be read. It may be
// written later.
func (v *vaultLink) checkTokenFile() error {
	if v.tokenFile == "" {
		return nil
	}
	if _, err := os.ReadFile(v.tokenFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("-token-file: %w", err)
	}
	return nil
}

// hasToken reports whether there is a Vault token. Without a file there may be none on purpose: a
// Vault Agent or Vault Proxy adds its own.
func (v *vaultLink) hasToken() bool { return v.tokenFile == "" || v.current() != "" }

// recent is how long an answer of Vault's counts as a sign of life.
const recent = 10 * time.Second

// reachable returns an error unless Vault has answered within the last ten seconds. If nothing has
// been asked for so long, it asks for Vault's health, which needs no token and changes nothing.
func (v *vaultLink) reachable(ctx context.Context) error {
	if v.hasAnswered() {
		return nil
	}
	// Not Sys().Health, which takes a standby for an error and reads a body that may be long.
	resp, err := v.client.Logical().ReadRawWithContext(ctx, "sys/health")
	if resp != nil {
		_ = resp.Body.Close()
	}
	if !v.hasAnswered() {
		return errors.Join(errors.New("vault has not answered within 10 s"), err)
	}
	return nil
}

func (v *vaultLink) hasAnswered() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return time.Since(v.answered) < recent
}
