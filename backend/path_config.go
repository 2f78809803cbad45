// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"fmt"
	"net/http"
	"reflect"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/authserver"
)

const (
	configSynopsis    = `The Open Payments client that this mount acts as, and how it reaches servers.`
	configDescription = `
One mount is one client: a wallet address, a key id and an Ed25519 private key.
Mount the engine again for another client.

Writing fetches the wallet address and its jwks.json and refuses a key that is
not published there under key_id; verify=false leaves that out. A field that is
left out of a later write stays as it is. The private key is never read back;
a read returns the public key as a JWK. If no private key is given, Vault
generates one.

A grant belongs to the client that obtained it: while grants are stored, the
wallet address cannot be changed and the config cannot be deleted.
`
)

func (b *Backend) pathConfig() *framework.Path {
	write := b.configOperation("Configure the client.", "configure", http.StatusOK, generatedKey, b.writeConfig)
	return &framework.Path{
		Pattern:      configKey,
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix},
		Fields:       configFields,
		ExistenceCheck: func(ctx context.Context, req *logical.Request, _ *framework.FieldData) (bool, error) {
			c, err := loadConfig(ctx, req.Storage)
			return exists(c != nil, err)
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.CreateOperation: write,
			logical.UpdateOperation: write,
			logical.PatchOperation: b.configOperation(
				"Change parts of the client's configuration; null restores a default.",
				"patch",
				http.StatusNoContent,
				nil,
				b.patchConfig,
			),
			logical.ReadOperation: b.configOperation("Read the client's configuration and its public key.",
				"read", http.StatusOK, configResponse, b.readConfig),
			logical.DeleteOperation: b.configOperation("Forget the client and its key.",
				"delete", http.StatusNoContent, nil, b.deleteConfig),
		},
		HelpSynopsis:    configSynopsis,
		HelpDescription: configDescription,
	}
}

func (b *Backend) configOperation(
	summary, verb string, status int, fields map[string]*framework.FieldSchema, call framework.OperationFunc,
) *framework.PathOperation {
	op := operation(summary, status, fields, call)
	op.DisplayAttrs = &framework.DisplayAttributes{OperationVerb: verb, OperationSuffix: "configuration"}
	return op
}

func (b *Backend) writeConfig(
	ctx context.Context, req *logical.Request, d *framework.FieldData,
) (*logical.Response, error) {
	return b.changeConfig(ctx, req, d, true)
}

func (b *Backend) patchConfig(
	ctx context.Context, req *logical.Request, d *framework.FieldData,
) (*logical.Response, error) {
	return b.changeConfig(ctx, req, d, false)
}

func (b *Backend) changeConfig(
	ctx context.Context, req *logical.Request, d *framework.FieldData, create bool,
) (*logical.Response, error) {
	for range changeTries {
		resp := &logical.Response{}
		stored, err := b.tryChangeConfig(ctx, req, d, create, resp)
		switch {
		case err != nil:
			return errorResponse(err)
		case stored && len(resp.Warnings) == 0 && resp.Data == nil:
			return nil, nil
		case stored:
			return resp, nil
		}
	}
	return nil, logical.CodedError(http.StatusServiceUnavailable, "the config is being changed by others; try again")
}

// changeTries is how often a change is tried while others change the config.
const changeTries = 3

// tryChangeConfig stores the config that a request makes of the stored one, and reports whether the
// stored one was still the same after the client's wallet had been asked: no lock is held meanwhile.
func (b *Backend) tryChangeConfig(
	ctx context.Context, req *logical.Request, d *framework.FieldData, create bool, resp *logical.Response,
) (stored bool, err error) {
	old, err := loadConfig(ctx, req.Storage)
	if err != nil {
		return false, err
	}
	if old == nil && !create {
		return false, userErrorf(
			"no client is configured: there is nothing to patch; write %s first",
			mountPath(ctx, configKey),
		)
	}
	next, err := b.nextConfig(ctx, old, d, resp)
	if err != nil {
		return false, err
	}
	unlock, err := b.configMu.write(ctx)
	if err != nil {
		return false, err
	}
	defer unlock()
	if now, err := loadConfig(ctx, req.Storage); err != nil || !reflect.DeepEqual(now, old) {
		return false, err
	}
	if old != nil && old.WalletAddress != next.WalletAddress {
		if err := refuseWhileGrants(ctx, req, "wallet_address cannot be changed"); err != nil {
			return false, err
		}
		warnLiveLeases(ctx, req.Storage, resp)
	}
	err = next.store(ctx, req.Storage)
	b.clientChanged()
	return err == nil, err
}

// nextConfig returns the config that a request makes of the old one (nil: there is none), verified.
func (b *Backend) nextConfig(
	ctx context.Context, old *config, d *framework.FieldData, resp *logical.Response,
) (*config, error) {
	next := newConfig()
	if old != nil {
		*next = *old
	}
	generated := next.PrivateKey == "" && !given(d, "private_key")
	if generated {
		var err error
		if next.PrivateKey, err = authserver.NewPrivateKey(); err != nil {
			return nil, err
		}
		next.KeyID = newKeyID() // unless the request names one
	}
	if err := next.apply(d); err != nil {
		return nil, err
	}
	if old != nil && old.putsBack(next) {
		next.KeyID, next.PrivateKey = old.KeyID, old.PrivateKey
		resp.AddWarning("key_id, private_key: keys/rotate has replaced this key, and it is not put back")
	}
	if old == nil || old.PrivateKey != next.PrivateKey {
		next.KeyCreatedAt, next.Unpublished = b.clock.Now(), generated
	}
	if old != nil && (old.PrivateKey != next.PrivateKey || old.KeyID != next.KeyID) {
		next.KeyChangedAt = b.clock.Now()
	}
	changed := old == nil || old.WalletAddress != next.WalletAddress || old.KeyID != next.KeyID ||
		old.PrivateKey != next.PrivateKey || !old.Verify
	switch {
	case changed && next.Unpublished:
		return next, b.announce(ctx, next, resp)
	case changed && next.Verify:
		if err := b.verify(ctx, next, resp); err != nil {
			return nil, userErrorf("%s (verify=false stores without asking)", err)
		}
	}
	return next, nil
}

// announce returns the public half of a key that Vault has generated, and what keeps it from being of
// use: the client's wallet cannot have published it before the first write, and that may have named the
// wrong wallet.
func (b *Backend) announce(ctx context.Context, c *config, resp *logical.Response) error {
	jwk, err := authserver.PublicJWK(c.KeyID, c.PrivateKey)
	if err != nil {
		return err
	}
	resp.Data = map[string]any{"key_id": c.KeyID, "public_key": jwk}
	if c.Verify {
		err := b.verify(ctx, c, resp)
		if err == nil {
			c.Unpublished = false
			return nil
		}
		resp.AddWarning(err.Error())
	}
	resp.AddWarning(
		"Vault has generated a key: publish public_key in " + c.WalletAddress + "/jwks.json, else servers " +
			"refuse every request; a wrong wallet_address is corrected with another write",
	)
	return nil
}

// verify checks that the client's wallet publishes the key, and warns where the wallet is of
// limited use.
func (b *Backend) verify(ctx context.Context, c *config, resp *logical.Response) error {
	client := b.clientFor(c)
	wallet, err := client.Wallet(ctx, c.WalletAddress)
	if err != nil {
		return fieldError("wallet_address", err)
	}
	published, err := client.KeyPublished(ctx)
	if err != nil {
		return fieldError("wallet_address", err)
	}
	if !published {
		return userErrorf(
			"key_id: %s/jwks.json does not hold the client's public key under this key id; publish it first",
			c.WalletAddress,
		)
	}
	if wallet.PublicName == "" {
		resp.AddWarning(
			"the wallet address has no publicName; authorization servers refuse interactive grants to such clients",
		)
	}
	return nil
}

func (b *Backend) readConfig(
	ctx context.Context, req *logical.Request, _ *framework.FieldData,
) (*logical.Response, error) {
	c, err := loadConfig(ctx, req.Storage)
	if err != nil || c == nil {
		return nil, err
	}
	jwk, err := authserver.PublicJWK(c.KeyID, c.PrivateKey)
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: map[string]any{
		"wallet_address":       c.WalletAddress,
		"key_id":               c.KeyID,
		"public_key":           jwk,
		"request_timeout":      int64(c.RequestTimeout / time.Second),
		"ca_cert":              c.CACert,
		"egress_proxy":         authserver.RedactProxy(c.EgressProxy),
		"default_grant":        c.DefaultGrant,
		"allowed_auth_servers": append([]string{}, c.AllowedAuthServers...),
		"verify":               c.Verify,

		"max_requests_per_server": c.maxRequests(),
	}}, nil
}

func (b *Backend) deleteConfig(
	ctx context.Context, req *logical.Request, _ *framework.FieldData,
) (*logical.Response, error) {
	unlock, err := b.configMu.write(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, err := loadConfig(ctx, req.Storage); err != nil && !isDamaged(err) {
		return nil, err
	}
	if err := refuseWhileGrants(ctx, req, "the config cannot be deleted"); err != nil {
		return errorResponse(err)
	}
	if err := refuseNewerKeys(ctx, req.Storage); err != nil {
		return nil, err
	}
	if err := logical.ClearView(ctx, logical.NewStorageView(req.Storage, keysPrefix)); err != nil {
		return nil, fmt.Errorf("forget the client's keys: %w", err)
	}
	err = req.Storage.Delete(ctx, configKey)
	b.clientChanged()
	resp := &logical.Response{}
	if warnLiveLeases(ctx, req.Storage, resp); err != nil || len(resp.Warnings) == 0 {
		return nil, err
	}
	return resp, nil
}

// warnLiveLeases warns that leases of roles outlive the client that can end them. Nothing says whether
// there are any: Vault keeps them.
func warnLiveLeases(ctx context.Context, s logical.Storage, resp *logical.Response) {
	if roles, err := s.List(ctx, rolesPrefix); err == nil && len(roles) > 0 {
		resp.AddWarning(
			"leases of " + mountPath(ctx, credsPrefix) + " that are out were obtained by the client before, " +
				"and can no longer be renewed or cancelled; their tokens expire",
		)
	}
}

func refuseWhileGrants(ctx context.Context, req *logical.Request, what string) error {
	names, err := req.Storage.List(ctx, grantsPrefix)
	if err != nil {
		return fmt.Errorf("list the stored grants: %w", err)
	}
	if len(names) > 0 {
		return userErrorf(
			"%s while grants are stored, because they belong to this client (%d under %s): delete them first, or "+
				"mount the engine again for another client",
			what,
			len(names),
			mountPath(ctx, grantsPrefix),
		)
	}
	return nil
}
