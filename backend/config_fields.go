// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/authserver"
)

// configFields is the schema of what a write of config takes.
var configFields = map[string]*framework.FieldSchema{
	"wallet_address": stringField(
		"Wallet address",
		"Wallet address of the client: an https URL or a payment pointer ($host/path).",
	),
	"key_id": stringField(
		"Key ID",
		"Key id (kid) under which the client's wallet publishes the public key in jwks.json.",
	),
	"private_key": {
		Type: framework.TypeString,
		Description: "Ed25519 private key: PEM (PKCS#8), or base64 of that PEM. Never read back. " +
			"Left out of the first write: Vault generates one and returns its public key.",
		DisplayAttrs: &framework.DisplayAttributes{Name: "Private key", Sensitive: true, EditType: "file"},
	},
	"request_timeout": {
		Type:    framework.TypeDurationSecond,
		Default: int(defaultRequestTimeout / time.Second),
		Description: "Time limit, 1s to 60s, of requests that may be repeated (documents, key sets, cancelling). " +
			"The answer to a rotation is waited for up to 80s.",
		DisplayAttrs: &framework.DisplayAttributes{Name: "Request timeout"},
	},
	"ca_cert": {
		Type:         framework.TypeString,
		Description:  "PEM certificates to trust in addition to the system's.",
		DisplayAttrs: &framework.DisplayAttributes{Name: "CA certificates", EditType: "file"},
	},
	"default_grant": stringField("Default grant", "Name of the grant that a read of token (without a name) uses."),
	"allowed_auth_servers": {
		Type: framework.TypeCommaStringSlice,
		Description: "Origins of the authorization servers that grants may come from, such as " +
			"https://auth.wallet.example. " +
			"Empty: any public one.",
		DisplayAttrs: &framework.DisplayAttributes{Name: "Allowed authorization servers"},
	},
	"max_requests_per_server": {
		Type:    framework.TypeInt,
		Default: defaultMaxRequests,
		Description: "How many requests that change something (rotating, asking, continuing, cancelling, revoking) this " +
			"mount sends to one server at once, 1 to 100. Ten at once block a Rafiki and destroy grants: the sum over all " +
			"mounts should stay under ten.",
		DisplayAttrs: &framework.DisplayAttributes{Name: "Maximum requests per server"},
	},
	"verify": {
		Type:    framework.TypeBool,
		Default: true,
		Description: "Before storing, fetch the wallet address and its jwks.json, and refuse a public key that is " +
			"not there " +
			"under key_id.",
		DisplayAttrs: &framework.DisplayAttributes{Name: "Verify"},
	},
}

var configResponse = map[string]*framework.FieldSchema{
	"wallet_address": {Type: framework.TypeString, Required: true, Description: "Wallet address of the client."},
	"key_id":         {Type: framework.TypeString, Required: true, Description: "Key id of the client's key."},
	"public_key": {
		Type:        framework.TypeMap,
		Required:    true,
		Description: "The public key as a JWK, as the wallet's jwks.json has to hold it.",
	},
	"request_timeout": {Type: framework.TypeInt, Required: true, Description: "Seconds."},
	"ca_cert":         {Type: framework.TypeString, Required: true, Description: "Additional certificates (PEM)."},
	"default_grant": {
		Type:        framework.TypeString,
		Required:    true,
		Description: "Grant that a read of token uses.",
	},
	"allowed_auth_servers": {
		Type:        framework.TypeStringSlice,
		Required:    true,
		Description: "Origins that grants may come from; empty: any public one.",
	},
	"max_requests_per_server": {
		Type: framework.TypeInt, Required: true, Description: "Requests that are sent to one server at once.",
	},
	"verify": {
		Type:        framework.TypeBool,
		Required:    true,
		Description: "Whether the published key is checked on writes.",
	},
}

// generatedKey is returned where the engine has generated the key.
var generatedKey = map[string]*framework.FieldSchema{
	"key_id": {Type: framework.TypeString, Description: "Key id of the key that was generated."},
	"public_key": {
		Type:        framework.TypeMap,
		Description: "Its public key as a JWK, as the wallet's jwks.json has to hold it.",
	},
}

// apply merges a request into the config and checks the whole.
func (c *config) apply(d *framework.FieldData) (err error) {
	if err := c.applyIdentity(d); err != nil {
		return err
	}
	if given(d, "request_timeout") {
		c.RequestTimeout = seconds(d, "request_timeout")
		if c.RequestTimeout < time.Second || c.RequestTimeout > time.Minute {
			return userErrorf("request_timeout: must be between 1s and 60s")
		}
	}
	if given(d, "ca_cert") {
		if c.CACert, err = authserver.NormalizeCACert(value[string](d, "ca_cert")); err != nil {
			return fieldError("ca_cert", err)
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
		for _, s := range value[[]string](d, "allowed_auth_servers") {
			o, err := authserver.ParseOrigin(s)
			if err != nil {
				return fieldError("allowed_auth_servers", err)
			}
			c.AllowedAuthServers = append(c.AllowedAuthServers, o)
		}
	}
	if given(d, "max_requests_per_server") {
		c.MaxRequests = value[int](d, "max_requests_per_server")
		if c.MaxRequests < 1 || c.MaxRequests > maxMaxRequests {
			return userErrorf("max_requests_per_server: must be between 1 and %d", maxMaxRequests)
		}
	}
	if given(d, "verify") {
		c.Verify = value[bool](d, "verify")
	}
	return nil
}

// applyIdentity merges what a client cannot be without.
func (c *config) applyIdentity(d *framework.FieldData) (err error) {
	for _, field := range []string{"wallet_address", "key_id", "private_key"} {
		if given(d, field) && d.Raw[field] == nil {
			return userErrorf("%s: cannot be null; it has no default", field)
		}
	}
	if given(d, "wallet_address") || c.WalletAddress == "" {
		if c.WalletAddress, err = authserver.ParseWalletAddress(value[string](d, "wallet_address")); err != nil {
			return fieldError("wallet_address", err)
		}
	}
	if given(d, "key_id") || c.KeyID == "" {
		c.KeyID = value[string](d, "key_id")
		if err := authserver.CheckKeyID(c.KeyID); err != nil {
			return fieldError("key_id", err)
		}
	}
	if given(d, "private_key") || c.PrivateKey == "" {
		if c.PrivateKey, err = authserver.NormalizePrivateKey(value[string](d, "private_key")); err != nil {
			return fieldError("private_key", err)
		}
	}
	return nil
}
