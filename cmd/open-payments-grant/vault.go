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

// requestTimeout is longer than the engine takes for a continuation: it may wait
// for the time at which the server may be asked, and then for the server.
const requestTimeout = 2 * time.Minute

// engine is the secrets engine at one mount.
type engine struct {
	client *api.Client
	mount  string
}

// vaultError is a failure in one sentence. Status is 0 where Vault did not answer.
type vaultError struct {
	status int
	why    string
}

func (e vaultError) Error() string { return e.why }

// temporary tells whether the same request may do better later.
func (e vaultError) temporary() bool {
	return e.status == 0 || e.status == http.StatusTooManyRequests || e.status >= http.StatusInternalServerError
}

func connect(mount, tokenFile string) (*engine, error) {
	if err := adoptOpenBao(); err != nil {
		return nil, err
	}
	config := api.DefaultConfig()
	if config.Error != nil {
		return nil, fmt.Errorf("read the environment: %w", config.Error)
	}
	// What fails is said at once: a wait tries again by itself.
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
			// Without one, a Vault Agent or Proxy may still add its own.
			if token, err := os.ReadFile(filepath.Join(home, tokenFile)); err == nil {
				client.SetToken(strings.TrimSpace(string(token)))
			}
		}
	}
	return &engine{client: client, mount: mount}, nil
}

// adoptOpenBao takes OpenBao's variables for Vault's, all or none: a token of
// the one is not to be sent to the other.
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

// names lists the stored grants.
func (e *engine) names(ctx context.Context) ([]string, map[string]any, error) {
	secret, err := e.client.Logical().ListWithContext(ctx, e.mount+"/grants")
	if err != nil || secret == nil {
		return nil, nil, e.sentence(err)
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

// read describes a grant; nil if there is none.
func (e *engine) read(ctx context.Context, name string) (grant, error) {
	secret, err := e.client.Logical().ReadWithContext(ctx, e.mount+"/grants/"+name)
	if err != nil || secret == nil {
		return nil, e.sentence(err)
	}
	return newGrant(name, secret.Data), nil
}

// write answers the grant as it is afterwards, and warnings.
func (e *engine) write(ctx context.Context, name, below string, data map[string]any) (grant, []string, error) {
	secret, err := e.client.Logical().WriteWithContext(ctx, e.mount+"/grants/"+name+below, data)
	if err != nil {
		return nil, nil, e.sentence(err)
	}
	if secret == nil {
		return nil, nil, vaultError{http.StatusNoContent, "Vault answered nothing: is the engine of open-payments-grant mounted at " + e.mount + "/?"}
	}
	return newGrant(name, secret.Data), secret.Warnings, nil
}

// sentence makes one sentence of what the client says in many lines.
func (e *engine) sentence(err error) error {
	var answer *api.ResponseError
	var transport *url.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &answer):
		return vaultError{answer.StatusCode, e.refusal(answer)}
	case errors.As(err, &transport):
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			err = errors.New("no answer in time")
		} else {
			err = transport.Err
		}
	}
	return vaultError{0, fmt.Sprintf("Vault at %s cannot be reached: %s", e.client.Address(), oneLine(err.Error()))}
}

func (e *engine) refusal(answer *api.ResponseError) string {
	said := oneLine(strings.Join(answer.Errors, "; "))
	if answer.RawError || said == "" { // a proxy's page, or nothing
		said = http.StatusText(answer.StatusCode)
	}
	switch {
	case answer.StatusCode == http.StatusBadRequest:
		return said
	case answer.StatusCode == http.StatusForbidden && e.client.Token() == "":
		return "Vault answered 403: there is no token; log in with vault login, or set VAULT_TOKEN"
	}
	return fmt.Sprintf("Vault answered %d: %s", answer.StatusCode, said)
}

func oneLine(text string) string {
	return printable(strings.Join(strings.Fields(text), " "))
}
