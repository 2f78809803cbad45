// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
)

// requestTimeout is longer than the engine takes to continue a grant: it may wait until the server
// accepts a request, and then for the response.
const requestTimeout = 2 * time.Minute

// engine is a client of the secrets engine at one mount.
type engine struct {
	client *api.Client
	mount  string
}

// vaultError is a failed request to Vault, in one sentence.
type vaultError struct {
	status int // 0 if there was no response
	why    string
}

func (e vaultError) Error() string { return e.why }

// temporary reports whether the same request may succeed later.
func (e vaultError) temporary() bool {
	return e.status == 0 || e.status == http.StatusTooManyRequests || e.status >= http.StatusInternalServerError
}

// temporary reports whether the same request to Vault may succeed later.
func temporary(err error) bool {
	var answer vaultError
	return errors.As(err, &answer) && answer.temporary()
}

// rejected reports whether the engine rejected a request, with a sentence that says why.
func rejected(err error) bool {
	var answer vaultError
	return errors.As(err, &answer) && answer.status == http.StatusBadRequest
}

// connect returns a client with the address and token of the environment, or else the token in a
// file of the home directory.
func connect(mount, tokenFile string) (*engine, error) {
	if err := adoptOpenBao(); err != nil {
		return nil, err
	}
	config := api.DefaultConfig()
	if config.Error != nil {
		return nil, fmt.Errorf("read the environment: %w", config.Error)
	}
	// A failure is reported at once; consentWait retries on its own.
	config.MaxRetries = 0
	if os.Getenv(api.EnvVaultClientTimeout) == "" {
		config.Timeout = requestTimeout
	}
	client, err := api.NewClient(config)
	if err != nil {
		return nil, fmt.Errorf("read the environment: %w", err)
	}
	if client.Token() == "" {
		if home, err := os.UserHomeDir(); err == nil {
			// Without a token, a Vault Agent or Proxy may still add its own.
			if token, err := os.ReadFile(filepath.Join(home, tokenFile)); err == nil {
				client.SetToken(strings.TrimSpace(string(token)))
			}
		}
	}
	return &engine{client: client, mount: mount}, nil
}

// adoptOpenBao uses OpenBao's environment variables as Vault's, either all or none of them: one
// server's token must not be sent to the other.
func adoptOpenBao() error {
	if os.Getenv(api.EnvVaultAddress) != "" || os.Getenv(api.EnvVaultToken) != "" {
		return nil
	}
	for _, v := range os.Environ() {
		name, value, _ := strings.Cut(v, "=")
		rest, isBao := strings.CutPrefix(name, "BAO_")
		if !isBao || os.Getenv("VAULT_"+rest) != "" {
			continue
		}
		if err := os.Setenv("VAULT_"+rest, value); err != nil {
			return fmt.Errorf("take %s from the environment: %w", name, err)
		}
	}
	return nil
}

// names returns the names of the stored grants, and what the list says about each.
func (e *engine) names(ctx context.Context) ([]string, map[string]any, error) {
	secret, err := e.client.Logical().ListWithContext(ctx, e.mount+"/grants")
	if err != nil || secret == nil {
		return nil, nil, e.explain(err)
	}
	var names []string
	keys, _ := secret.Data["keys"].([]any)
	for _, k := range keys {
		if name, ok := k.(string); ok {
			names = append(names, name)
		}
	}
	info, _ := secret.Data["key_info"].(map[string]any)
	return names, info, nil
}

// read returns a grant; nil if there is none.
func (e *engine) read(ctx context.Context, name string) (grant, error) {
	secret, err := e.client.Logical().ReadWithContext(ctx, e.mount+"/grants/"+name)
	if err != nil || secret == nil {
		return nil, e.explain(err)
	}
	return newGrant(name, secret.Data), nil
}

// write writes a grant, or a path below it, and returns the grant as it is afterwards and warnings.
func (e *engine) write(ctx context.Context, name, below string, data map[string]any) (grant, []string, error) {
	secret, err := e.client.Logical().WriteWithContext(ctx, e.mount+"/grants/"+name+below, data)
	if err != nil {
		return nil, nil, e.explain(err)
	}
	if secret == nil {
		return nil, nil, vaultError{http.StatusNoContent,
			"the response is empty: is the Open Payments secrets engine mounted at " + e.mount + "/?"}
	}
	return newGrant(name, secret.Data), secret.Warnings, nil
}

// explain returns an error of the API client as one sentence: its own has many lines.
func (e *engine) explain(err error) error {
	var answer *api.ResponseError
	var transport *url.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &answer):
		return vaultError{answer.StatusCode, e.explainStatus(answer)}
	case errors.As(err, &transport):
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			err = errors.New("no answer in time")
		} else {
			err = transport.Err
		}
	}
	return vaultError{0, fmt.Sprintf("Vault at %s cannot be reached: %s", e.client.Address(), oneLine(err.Error()))}
}

func (e *engine) explainStatus(answer *api.ResponseError) string {
	message := oneLine(strings.Join(answer.Errors, "; "))
	if answer.RawError || message == "" { // a proxy's page, or none
		message = http.StatusText(answer.StatusCode)
	}
	switch {
	case answer.StatusCode == http.StatusBadRequest:
		return message
	case answer.StatusCode == http.StatusForbidden && e.client.Token() == "":
		return "Vault answered 403: there is no token; log in with vault login, or set VAULT_TOKEN"
	}
	return fmt.Sprintf("Vault answered %d: %s", answer.StatusCode, message)
}
