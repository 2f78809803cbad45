// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

const (
	configSynopsis    = `The Open Payments client that this mount acts as, and how it reaches servers.`
	configDescription = `
One mount is one client: a wallet address, a key id and an Ed25519 private key.
Mount the engine again for another client.

Writing fetches the wallet address and its jwks.json and refuses a key that is
not published there under key_id; verify=false leaves that out. A field that is
left out of a later write stays as it is. The private key is never read back;
a read answers the public key as a JWK. If no private key is given, one is made.

A grant belongs to the client that obtained it: while grants are stored, the
wallet address cannot be changed and the config cannot be deleted.
`
)

func (b *Backend) pathConfig() *framework.Path {
	return &framework.Path{
		Pattern: "config",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix,
		},
		Fields: map[string]*framework.FieldSchema{
			"wallet_address": {
				Type:         framework.TypeString,
				Description:  "Wallet address of the client: an https URL or a payment pointer ($host/path).",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Wallet address"},
			},
			"key_id": {
				Type:         framework.TypeString,
				Description:  "Key id (kid) under which the client's wallet publishes the public key in jwks.json.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Key ID"},
			},
			"private_key": {
				Type:         framework.TypeString,
				Description:  "Ed25519 private key: PEM (PKCS#8), or base64 of that PEM. Never read back. Left out of the first write: one is made, and its public key answered.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Private key", Sensitive: true, EditType: "file"},
			},
			"request_timeout": {
				Type:         framework.TypeDurationSecond,
				Default:      int(defaultRequestTimeout / time.Second),
				Description:  "How long requests that may be repeated are waited for (documents, key sets, cancelling). A rotation is waited for up to 60s.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Request timeout"},
			},
			"ca_cert": {
				Type:         framework.TypeString,
				Description:  "PEM certificates that are trusted besides the system's when talking to servers.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "CA certificates", EditType: "file"},
			},
			"default_grant": {
				Type:         framework.TypeString,
				Description:  "Name of the grant that a read of token (without a name) uses.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Default grant"},
			},
			"allowed_auth_servers": {
				Type:         framework.TypeCommaStringSlice,
				Description:  "Origins of the authorization servers that grants may come from, such as https://auth.wallet.example. Empty: any public one.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Allowed authorization servers"},
			},
			"verify": {
				Type:         framework.TypeBool,
				Default:      true,
				Description:  "Fetch the wallet address and its jwks.json and check that the public key is there under key_id before storing.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Verify"},
			},
		},
		ExistenceCheck: func(ctx context.Context, req *logical.Request, _ *framework.FieldData) (bool, error) {
			c, err := loadConfig(ctx, req.Storage)
			return c != nil, err
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.CreateOperation: b.configOperation("Configure the client.", "configure", http.StatusOK, generatedKey, b.writeConfig),
			logical.UpdateOperation: b.configOperation("Configure the client.", "configure", http.StatusOK, generatedKey, b.writeConfig),
			logical.PatchOperation:  b.configOperation("Change parts of the client's configuration; null restores a default.", "patch", http.StatusNoContent, nil, b.patchConfig),
			logical.ReadOperation:   b.configOperation("Read the client's configuration and its public key.", "read", http.StatusOK, configResponse, b.readConfig),
			logical.DeleteOperation: b.configOperation("Forget the client and its key.", "delete", http.StatusNoContent, nil, b.deleteConfig),
		},
		HelpSynopsis:    configSynopsis,
		HelpDescription: configDescription,
	}
}

var configResponse = map[string]*framework.FieldSchema{
	"wallet_address":       {Type: framework.TypeString, Required: true, Description: "Wallet address of the client."},
	"key_id":               {Type: framework.TypeString, Required: true, Description: "Key id of the client's key."},
	"public_key":           {Type: framework.TypeMap, Required: true, Description: "The public key as a JWK, as the wallet's jwks.json has to hold it."},
	"request_timeout":      {Type: framework.TypeInt, Required: true, Description: "Seconds."},
	"ca_cert":              {Type: framework.TypeString, Required: true, Description: "Additional certificates (PEM)."},
	"default_grant":        {Type: framework.TypeString, Required: true, Description: "Grant that a read of token uses."},
	"allowed_auth_servers": {Type: framework.TypeStringSlice, Required: true, Description: "Origins."},
	"verify":               {Type: framework.TypeBool, Required: true, Description: "Whether the published key is checked on writes."},
}

// generatedKey is answered where the engine has made the key.
var generatedKey = map[string]*framework.FieldSchema{
	"key_id":     {Type: framework.TypeString, Description: "Key id of the key that was made."},
	"public_key": {Type: framework.TypeMap, Description: "Its public key as a JWK, as the wallet's jwks.json has to hold it."},
}

func (b *Backend) configOperation(summary, verb string, status int, fields map[string]*framework.FieldSchema, call framework.OperationFunc) *framework.PathOperation {
	op := operation(summary, status, fields, call)
	op.DisplayAttrs = &framework.DisplayAttributes{OperationVerb: verb, OperationSuffix: "configuration"}
	return op
}

func (b *Backend) writeConfig(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	return b.changeConfig(ctx, req, d, true)
}

func (b *Backend) patchConfig(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	return b.changeConfig(ctx, req, d, false)
}

func (b *Backend) changeConfig(ctx context.Context, req *logical.Request, d *framework.FieldData, create bool) (*logical.Response, error) {
	b.configMu.Lock()
	defer b.configMu.Unlock()
	old, err := loadConfig(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	next := newConfig()
	switch {
	case old != nil:
		*next = *old
	case !create:
		return answerError(refuse("no client is configured: there is nothing to patch; write %sconfig first", req.MountPoint))
	}
	generated := next.PrivateKey == "" && !given(d, "private_key")
	if generated {
		if next.PrivateKey, err = newPrivateKey(); err != nil {
			return nil, err
		}
		next.KeyID = newKeyID() // unless the request names one
	}
	if generated || given(d, "private_key") {
		next.KeyCreatedAt = b.clock.Now()
	}
	if err := next.apply(d); err != nil {
		return answerError(err)
	}
	resp := &logical.Response{}
	switch identity := given(d, "wallet_address") || given(d, "key_id") || given(d, "private_key") || given(d, "verify"); {
	case generated:
		err = b.announce(ctx, next, resp)
	case next.Verify && identity:
		err = b.verify(ctx, next, resp)
	}
	if err != nil {
		return answerError(err)
	}
	if old != nil && old.WalletAddress != next.WalletAddress {
		if err := refuseWhileGrants(ctx, req, "wallet_address cannot be changed"); err != nil {
			return answerError(err)
		}
	}
	err = next.store(ctx, req.Storage)
	b.clientChanged()
	if err != nil {
		return nil, err
	}
	if len(resp.Warnings) == 0 && resp.Data == nil {
		return nil, nil
	}
	return resp, nil
}

// announce answers the public half of a key that was made here, which the
// client's wallet cannot have published yet.
func (b *Backend) announce(ctx context.Context, c *config, resp *logical.Response) error {
	jwk, err := publicJWK(c.KeyID, c.PrivateKey)
	if err != nil {
		return err
	}
	resp.Data = map[string]any{"key_id": c.KeyID, "public_key": jwk}
	if c.Verify {
		if err := b.verify(ctx, c, resp); err != nil {
			resp.AddWarning(err.Error())
		}
	}
	resp.AddWarning("a key was made: publish public_key in " + c.WalletAddress + "/jwks.json, else servers refuse every request")
	return nil
}

// apply merges what the request says into the config and checks the whole.
func (c *config) apply(d *framework.FieldData) (err error) {
	for _, field := range []string{"wallet_address", "key_id", "private_key"} {
		if given(d, field) && d.Raw[field] == nil {
			return refuse("%s: cannot be null; it has no default", field)
		}
	}
	if given(d, "wallet_address") || c.WalletAddress == "" {
		if c.WalletAddress, err = parseWalletAddress("wallet_address", value[string](d, "wallet_address")); err != nil {
			return err
		}
	}
	if given(d, "key_id") || c.KeyID == "" {
		c.KeyID = value[string](d, "key_id")
		if err := checkKeyID("key_id", c.KeyID); err != nil {
			return err
		}
	}
	if given(d, "private_key") || c.PrivateKey == "" {
		if c.PrivateKey, err = normalizePrivateKey("private_key", value[string](d, "private_key")); err != nil {
			return err
		}
	}
	if given(d, "request_timeout") {
		c.RequestTimeout = seconds(d, "request_timeout")
		if c.RequestTimeout < time.Second || c.RequestTimeout > time.Minute {
			return refuse("request_timeout: must be between 1s and 60s")
		}
	}
	if given(d, "ca_cert") {
		c.CACert = value[string](d, "ca_cert")
		if err := checkCACert("ca_cert", c.CACert); err != nil {
			return err
		}
	}
	if given(d, "default_grant") {
		c.DefaultGrant = value[string](d, "default_grant")
		if c.DefaultGrant != "" {
			if err := checkGrantName("default_grant", c.DefaultGrant); err != nil {
				return err
			}
		}
	}
	if given(d, "allowed_auth_servers") {
		c.AllowedAuthServers = nil
		for _, text := range value[[]string](d, "allowed_auth_servers") {
			o, err := parseOrigin("allowed_auth_servers", text)
			if err != nil {
				return err
			}
			c.AllowedAuthServers = append(c.AllowedAuthServers, o)
		}
	}
	if given(d, "verify") {
		c.Verify = value[bool](d, "verify")
	}
	return nil
}

// verify checks that the client's wallet publishes the key, and warns where
// the wallet is good for less than everything.
func (b *Backend) verify(ctx context.Context, c *config, resp *logical.Response) error {
	p := b.port(c)
	wallet, err := p.wallet(ctx, c.WalletAddress)
	if err != nil {
		return refuse("wallet_address: %s (verify=false stores without asking)", err)
	}
	published, err := p.keyPublished(ctx)
	if err != nil {
		return refuse("wallet_address: %s (verify=false stores without asking)", err)
	}
	if !published {
		return refuse("key_id: %s/jwks.json does not hold this private key's public key under this key id; publish it first (verify=false stores without asking)", c.WalletAddress)
	}
	if wallet.PublicName == "" {
		resp.AddWarning("the wallet address has no publicName; authorization servers refuse interactive grants to such clients")
	}
	return nil
}

func (b *Backend) readConfig(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	c, err := loadConfig(ctx, req.Storage)
	if err != nil || c == nil {
		return nil, err
	}
	jwk, err := publicJWK(c.KeyID, c.PrivateKey)
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: map[string]any{
		"wallet_address":       c.WalletAddress,
		"key_id":               c.KeyID,
		"public_key":           jwk,
		"request_timeout":      int64(c.RequestTimeout / time.Second),
		"ca_cert":              c.CACert,
		"default_grant":        c.DefaultGrant,
		"allowed_auth_servers": append([]string{}, c.AllowedAuthServers...),
		"verify":               c.Verify,
	}}, nil
}

func (b *Backend) deleteConfig(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	b.configMu.Lock()
	defer b.configMu.Unlock()
	if err := refuseWhileGrants(ctx, req, "the config cannot be deleted"); err != nil {
		return answerError(err)
	}
	if err := logical.ClearView(ctx, logical.NewStorageView(req.Storage, keysPrefix)); err != nil {
		return nil, fmt.Errorf("forget the client's keys: %w", err)
	}
	err := req.Storage.Delete(ctx, configKey)
	b.clientChanged()
	return nil, err
}

func refuseWhileGrants(ctx context.Context, req *logical.Request, what string) error {
	names, err := req.Storage.List(ctx, grantsPrefix)
	if err != nil {
		return fmt.Errorf("list the stored grants: %w", err)
	}
	if len(names) > 0 {
		return refuse("%s while grants are stored, for they belong to this client (%d under %sgrants/): delete them first, or mount the engine again for another client", what, len(names), req.MountPoint)
	}
	return nil
}
