// SPDX-License-Identifier: MPL-2.0

package interop

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/backend"
)

// engine is the secrets engine, called as Vault calls it.
type engine struct {
	*world
	b       logical.Backend
	storage logical.Storage
}

func (w *world) newEngine() *engine {
	w.Helper()
	e := &engine{world: w, storage: &logical.InmemStorage{}}
	var err error
	e.b, err = backend.Factory("v0.0.1")(w.Context(), &logical.BackendConfig{
		Logger: hclog.NewNullLogger(), System: logical.TestSystemView(), StorageView: e.storage,
	})
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { e.b.Cleanup(w.Context()) })
	return e
}

func grantPath(n int) string { return fmt.Sprintf("grants/row-%d", n) }

func (e *engine) do(op logical.Operation, path string, data map[string]any) (*logical.Response, error) {
	req := &logical.Request{Operation: op, Path: path, Data: data, Storage: e.storage, MountPoint: "op/"}
	if op == logical.UpdateOperation {
		found, exists, err := e.b.HandleExistenceCheck(e.Context(), req)
		if err != nil && !errors.Is(err, logical.ErrUnsupportedPath) {
			return nil, err
		}
		if found && !exists {
			req.Operation = logical.CreateOperation
		}
	}
	return e.b.HandleRequest(e.Context(), req)
}

// step sends a request to the engine, and records its exchanges under its path. The engine's errors
// contain no secrets.
func (e *engine) step(op logical.Operation, path string, data map[string]any) *logical.Response {
	e.Helper()
	e.record.step(fmt.Sprintf("engine: %s %s", op, path))
	resp, err := e.do(op, path, data)
	return e.succeeded(resp, err)
}

// fails is a step that the server rejects.
func (e *engine) fails(op logical.Operation, path string, data map[string]any) {
	e.Helper()
	e.record.step(fmt.Sprintf("engine: %s %s, refused", op, path))
	if resp, err := e.do(op, path, data); err == nil && !resp.IsError() {
		e.Fatalf("%s %s succeeded", op, path)
	}
}

// lease renews or revokes the lease of a response.
func (e *engine) lease(op logical.Operation, lease *logical.Response) *logical.Response {
	e.Helper()
	e.record.step(fmt.Sprintf("engine: %s", op))
	secret := *lease.Secret
	secret.IssueTime = time.Now()
	resp, err := e.b.HandleRequest(e.Context(), &logical.Request{
		Operation: op, Path: "token/x", Data: lease.Data, Secret: &secret, Storage: e.storage, MountPoint: "op/",
	})
	return e.succeeded(resp, err)
}

func (e *engine) succeeded(resp *logical.Response, err error) *logical.Response {
	e.Helper()
	if err == nil && resp.IsError() {
		err = resp.Error()
	}
	if err != nil {
		e.Fatal(err)
	}
	return resp
}

func (e *engine) configure() {
	e.Helper()
	e.step(logical.UpdateOperation, "config", map[string]any{
		"wallet_address": e.sandbox.WalletAddress("client"), "key_id": keyID, "private_key": e.pem,
	})
}

// driveEngine makes the engine send every kind of request that it can send.
func (w *world) driveEngine() {
	w.Helper()
	e := w.newEngine()
	e.configure()
	shop := w.sandbox.WalletAddress("shop")
	ask := func(access string) map[string]any { return map[string]any{"wallet_address": shop, "access": access} }

	e.step(logical.UpdateOperation, "grants/income",
		ask(`[{"type":"incoming-payment","actions":["create","read"]},{"type":"quote","actions":["read"]}]`))
	lease := e.step(logical.ReadOperation, "token/income", nil)
	renewed := e.lease(logical.RenewOperation, lease)
	if renewed.Data["access_token"] == lease.Data["access_token"] {
		w.Error("a renewal did not rotate")
	}
	e.lease(logical.RevokeOperation, renewed)
	e.step(logical.UpdateOperation, "rotate/income", nil)
	e.step(logical.DeleteOperation, "grants/income", nil)

	// json.Marshal would write & < > and U+2028 differently from JavaScript, whose form is signed.
	e.step(logical.UpdateOperation, "grants/escapes",
		ask(fmt.Sprintf(`[{"type":"incoming-payment","actions":["list"],"identifier":"%s/a&b=%%3C%%3E&c=%%C3%%BC"}]`,
			shop)))
	odd := ask(fmt.Sprintf(
		`[{"type":"outgoing-payment","actions":["create"],"identifier":"%s/a&b=2","limits":{"debitAmount":`+
			`{"value":"1","assetCode":"<ü> & \u2028 \"€\" \\ 💶","assetScale":2.0}}}]`, shop))
	// The owner consents, once by redirect and once while the engine polls.
	for _, finish := range []string{"https://shop.example/back?a=1&b=2", ""} {
		data, back := maps.Clone(odd), map[string]any{}
		data["ask_again"] = true // else the second ask only repeats the first
		if finish != "" {
			data["finish_uri"] = finish
		}
		pending := e.step(logical.UpdateOperation, "grants/odd", data)
		redirect, err := w.sandbox.Consent(pending.Data["interact_url"].(string), true)
		if err != nil {
			w.Fatal(err)
		}
		if finish != "" {
			back["redirect"] = redirect
		}
		w.pass()
		e.step(logical.UpdateOperation, "grants/odd/continue", back)
	}
	e.step(logical.DeleteOperation, "grants/odd", nil)

	// Deleting a grant without a continuation revokes its token.
	token := w.newGrant()
	e.step(logical.UpdateOperation, "grants/brought", map[string]any{
		"access_token": token.AccessToken.Value, "manage_url": token.AccessToken.Manage, "expires_in": 600,
	})
	e.step(logical.ReadOperation, "token/brought", nil)
	e.step(logical.DeleteOperation, "grants/brought", nil)

	// A role's lease has a grant of its own.
	e.step(logical.UpdateOperation, "roles/till", ask(incomingAccess))
	creds := e.step(logical.ReadOperation, "creds/till", nil)
	e.lease(logical.RevokeOperation, e.lease(logical.RenewOperation, creds))

	e.heal()
	e.wrongKeys()
}

// heal makes the server reject a rotation, so that the engine asks for a new grant and cancels the
// old one.
func (e *engine) heal() {
	e.Helper()
	old := e.newGrant()
	e.step(logical.UpdateOperation, "grants/heals", map[string]any{
		"access_token": old.AccessToken.Value, "manage_url": old.AccessToken.Manage, "expires_in": 600,
		"continue_url": old.Continue.Uri, "continue_token": old.Continue.AccessToken.Value,
		"interactive": false, "auth_server": e.sandbox.AuthServer(), "access": incomingAccess,
	})
	e.record.step("stand-in: revoke")
	e.mustSDK("revoke", e.revoke(old))
	e.step(logical.UpdateOperation, "rotate/heals", nil)
	if got := e.step(logical.ReadOperation, "grants/heals", nil).Data["status"]; got != "active" {
		e.Errorf("the grant is %v", got)
	}
}

// wrongKeys makes the engine send requests to a server that finds no key of the client's, and then
// another client's key.
func (e *engine) wrongKeys() {
	e.Helper()
	e.sandbox.UnpublishKeys()
	e.fails(logical.UpdateOperation, "rotate/heals", nil)
	e.fails(logical.DeleteOperation, "grants/heals", nil)
	e.sandbox.PublishKey(keyID, publicOf(newKey(e.T)))
	e.fails(logical.DeleteOperation, "grants/heals", nil)
	e.publishKey()
	e.step(logical.DeleteOperation, "grants/heals", nil)
	names := e.step(logical.ListOperation, "grants/", nil).Data["keys"].([]string)
	if strings.Join(names, " ") != "escapes" {
		e.Errorf("the engine still has %q", names)
	}
}
