// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/cli"
)

// requestTimeout is longer than the engine takes to continue a grant: it may wait until the server
// accepts a request, and then for the response.
const requestTimeout = 2 * time.Minute

// engine is a client of the secrets engine at one mount.
type engine struct {
	client *api.Client
	mount  string
	server cli.Server
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
// file: tokenFile in the home directory, or the one that OpenBao's environment names.
func connect(mount, tokenFile string) (*engine, error) {
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
		// Without a token, a Vault Agent or Proxy may still add its own.
		token, err := server.ReadTokenFile(tokenFile)
		if err != nil {
			return nil, err
		}
		client.SetToken(token)
	}
	return &engine{client: client, mount: mount, server: server}, nil
}

// names returns the names of the stored grants, and what the list says about each.
func (e *engine) names(ctx context.Context) ([]string, map[string]any, error) {
	secret, err := e.get(ctx, e.mount+"/grants", url.Values{"list": {"true"}})
	var answer vaultError
	switch {
	case errors.As(err, &answer) && answer.status == http.StatusForbidden && e.client.Token() != "":
		why := fmt.Sprintf("%s; is the engine mounted at %s/? %s", err, e.mount, mountAdvice)
		return nil, nil, vaultError{answer.status, why}
	case err != nil:
		return nil, nil, err
	case secret == nil || secret.Data["keys"] == nil:
		return nil, nil, e.checkMount(ctx)
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
	secret, err := e.get(ctx, e.mount+"/grants/"+name, nil)
	if err != nil {
		return nil, err
	}
	if secret == nil || secret.Data["status"] == nil { // which every grant has
		return nil, e.checkMount(ctx)
	}
	return newGrant(name, secret.Data), nil
}

// get reads a path; nil if there is nothing. api.Logical takes a mount that does not exist for an
// empty one.
func (e *engine) get(ctx context.Context, path string, query url.Values) (*api.Secret, error) {
	resp, err := e.client.Logical().ReadRawWithDataWithContext(ctx, path, query)
	if resp != nil {
		defer resp.Body.Close()
	}
	var answer *api.ResponseError
	if errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound && !answer.RawError {
		if len(answer.Errors) == 0 {
			return nil, nil
		}
		return nil, e.noEngine(answer)
	}
	if err != nil {
		return nil, e.explain(err)
	}
	secret, err := api.ParseSecret(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return secret, nil
}

// mountAdvice says how to name another mount.
const mountAdvice = "-mount, or OPEN_PAYMENTS_MOUNT, names its path"

func (e *engine) noEngine(answer *api.ResponseError) error {
	return vaultError{answer.StatusCode, fmt.Sprintf(
		"there is no Open Payments secrets engine at %s/: %s (%s answered %d: %s)",
		e.mount, mountAdvice, e.server.Name, answer.StatusCode, messageOf(answer))}
}

// checkMount returns an error if another secrets engine than ours is at the mount: it may also say
// that there is nothing at a path of ours. Everybody may read our key set.
func (e *engine) checkMount(ctx context.Context) error {
	keys, err := e.client.Logical().ReadRawWithContext(ctx, e.mount+"/jwks.json")
	if keys != nil {
		defer keys.Body.Close()
	}
	if err == nil {
		return nil
	}
	// Whoever has access to a path of a mount may read what it is.
	about, err := e.client.Logical().ReadWithContext(ctx, "sys/internal/ui/mounts/"+e.mount)
	if err != nil || about == nil || about.Data["type"] == nil {
		return nil
	}
	path, kind := fmt.Sprint(about.Data["path"]), fmt.Sprint(about.Data["type"])
	return vaultError{http.StatusNotFound, printable(path + " is a mount of " + kind +
		", not of the Open Payments secrets engine: " + mountAdvice)}
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
	return vaultError{0, fmt.Sprintf("%s at %s cannot be reached: %s%s",
		e.server.Name, e.client.Address(), oneLine(err.Error()), e.server.AdviceFor(err))}
}

// messageOf returns the errors of a response in one line, without the heading that Vault gives to a
// list of one.
func messageOf(answer *api.ResponseError) string {
	return strings.TrimPrefix(oneLine(strings.Join(answer.Errors, "; ")), "1 error occurred: * ")
}

func (e *engine) explainStatus(answer *api.ResponseError) string {
	message := messageOf(answer)
	speaksTLS := answer.RawError && strings.Contains(message, "HTTPS") // Vault's own words and nginx's
	if answer.RawError || message == "" {                              // a proxy's page, or none
		message = http.StatusText(answer.StatusCode)
	}
	switch {
	case answer.StatusCode == http.StatusBadRequest && speaksTLS && strings.HasPrefix(e.client.Address(), "http:"):
		return fmt.Sprintf("%s at %s cannot be reached: the port speaks TLS: %s must begin with https://",
			e.server.Name, e.client.Address(), e.server.Variable("ADDR"))
	case answer.StatusCode == http.StatusBadRequest && !answer.RawError:
		return message
	case answer.StatusCode == http.StatusForbidden && e.client.Token() == "":
		return fmt.Sprintf("%s answered 403: there is no token; log in with %s login, or set %s",
			e.server.Name, e.server.Command, e.server.Variable("TOKEN"))
	}
	return fmt.Sprintf("%s answered %d: %s", e.server.Name, answer.StatusCode, message)
}
