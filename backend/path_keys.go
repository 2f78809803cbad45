// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

const (
	keysSynopsis    = `The client's keys: which is in use, which is to be published, which retires.`
	keysDescription = `
The active key signs. A pending one was made by keys/rotate and is used as soon as
the client's wallet publishes it, which is looked up on every read and in the
background. A retiring one is not used any more; it should be published until it
is gone from here, for the sake of requests under way. No private key is shown.
`
	keysRotateSynopsis    = `Replace the client's key.`
	keysRotateDescription = `
Makes a pending key and answers its public JWK. Publish it at the client's wallet
besides the one in use; the engine signs with it as soon as it is there. Writing
again looks it up once more and makes no second one. force=true uses it at once,
published or not. The key before it retires for retire_after and is destroyed then.
`
	jwksSynopsis    = `The client's public keys as a JWK Set, for anybody.`
	jwksDescription = `
What the client's wallet has to answer at <wallet address>/jwks.json: a wallet can
be pointed at this URL. It needs no token, and says nothing else about the mount.
`
)

func (b *Backend) pathKeys() *framework.Path {
	return &framework.Path{
		Pattern:      "keys",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "keys"},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: operation("Read the client's keys.", http.StatusOK, map[string]*framework.FieldSchema{
				"keys": {Type: framework.TypeSlice, Required: true, Description: "Each key's key_id, state (pending, active, retiring), times and public_key."},
			}, b.readKeys),
		},
		HelpSynopsis:    keysSynopsis,
		HelpDescription: keysDescription,
	}
}

func (b *Backend) pathKeysRotate() *framework.Path {
	op := operation("Make a new key, or use the one that was made.", http.StatusOK, keyFields, b.rotateKey)
	return &framework.Path{
		Pattern:      "keys/rotate",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "rotate", OperationSuffix: "keys"},
		Fields: map[string]*framework.FieldSchema{
			"key_id":       {Type: framework.TypeString, Description: "Key id (kid) of the new key. Left out: one is made up.", DisplayAttrs: &framework.DisplayAttributes{Name: "Key ID"}},
			"force":        {Type: framework.TypeBool, Description: "Use the new key at once, whether or not the client's wallet publishes it.", DisplayAttrs: &framework.DisplayAttributes{Name: "Force"}},
			"retire_after": {Type: framework.TypeDurationSecond, Default: int(defaultRetireAfter / time.Second), Description: "How long the key before it is kept once the new one is used.", DisplayAttrs: &framework.DisplayAttributes{Name: "Retire after"}},
		},
		Operations:      map[logical.Operation]framework.OperationHandler{logical.UpdateOperation: op},
		HelpSynopsis:    keysRotateSynopsis,
		HelpDescription: keysRotateDescription,
	}
}

func (b *Backend) pathJWKS() *framework.Path {
	return &framework.Path{
		Pattern:      `jwks\.json`,
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "key-set"},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback:  b.readJWKS,
				Summary:   "Read the public keys as a JWK Set.",
				Responses: map[int][]framework.Response{http.StatusOK: {{Description: "A JWK Set (RFC 7517), not in Vault's envelope.", MediaType: "application/json"}}},
			},
		},
		HelpSynopsis:    jwksSynopsis,
		HelpDescription: jwksDescription,
	}
}

var keyFields = map[string]*framework.FieldSchema{
	"key_id":     {Type: framework.TypeString, Required: true, Description: "Key id of the new key."},
	"state":      {Type: framework.TypeString, Required: true, Description: "pending, until the client's wallet publishes it; then active."},
	"public_key": {Type: framework.TypeMap, Required: true, Description: "The public key as a JWK, as the wallet's jwks.json has to hold it."},
}

func (b *Backend) readKeys(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	b.configMu.Lock()
	defer b.configMu.Unlock()
	c, err := client(ctx, req.Storage, req.MountPoint)
	if err != nil {
		return answerError(err)
	}
	resp := &logical.Response{}
	if err := b.tend(ctx, req.Storage, c, false); err != nil {
		resp.AddWarning(err.Error())
	}
	keys, err := loadKeys(ctx, req.Storage, c)
	if err != nil {
		return nil, err
	}
	list := []any{}
	for _, k := range append([]*clientKey{{KeyID: c.KeyID, PrivateKey: c.PrivateKey, State: keyActive, CreatedAt: c.KeyCreatedAt}}, keys...) {
		one, err := k.describe()
		if err != nil {
			return nil, err
		}
		list = append(list, one)
	}
	resp.Data = map[string]any{"keys": list}
	return resp, nil
}

func (k *clientKey) describe() (map[string]any, error) {
	jwk, err := publicJWK(k.KeyID, k.PrivateKey)
	if err != nil {
		return nil, err
	}
	data := map[string]any{"key_id": k.KeyID, "state": k.State, "public_key": jwk}
	for name, at := range map[string]time.Time{"created_at": k.CreatedAt, "retires_at": k.RetiresAt} {
		if !at.IsZero() {
			data[name] = at.UTC().Format(time.RFC3339)
		}
	}
	return data, nil
}

func (b *Backend) rotateKey(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	b.configMu.Lock()
	defer b.configMu.Unlock()
	c, err := client(ctx, req.Storage, req.MountPoint)
	if err != nil {
		return answerError(err)
	}
	keys, err := loadKeys(ctx, req.Storage, c)
	if err != nil {
		return nil, err
	}
	k := pendingKey(keys)
	if k == nil {
		if k, err = b.makeKey(ctx, req.Storage, c, keys, d); err != nil {
			return answerError(err)
		}
	} else if given(d, "key_id") || given(d, "retire_after") {
		return answerError(refuse("key_id: the key %q is pending already; publish it, or use it with force=true, before the next one is made", k.KeyID))
	}
	resp := &logical.Response{Data: map[string]any{"key_id": k.KeyID, "state": keyPending}}
	if resp.Data["public_key"], err = publicJWK(k.KeyID, k.PrivateKey); err != nil {
		return nil, err
	}
	if err := b.tend(ctx, req.Storage, c, value[bool](d, "force")); err != nil {
		resp.AddWarning(err.Error())
	}
	if c.KeyID == k.KeyID {
		resp.Data["state"] = keyActive
	} else {
		resp.AddWarning("publish public_key in " + c.WalletAddress + "/jwks.json, besides the keys that are there: until then, the key before it signs")
	}
	return resp, nil
}

func (b *Backend) makeKey(ctx context.Context, s logical.Storage, c *config, keys []*clientKey, d *framework.FieldData) (*clientKey, error) {
	k := &clientKey{Version: keyVersion, KeyID: newKeyID(), State: keyPending, CreatedAt: b.clock.Now(), RetireAfter: seconds(d, "retire_after")}
	if given(d, "key_id") {
		k.KeyID = value[string](d, "key_id")
		if err := checkKeyID("key_id", k.KeyID); err != nil {
			return nil, err
		}
	}
	for _, other := range append(keys, &clientKey{KeyID: c.KeyID}) {
		if other.KeyID == k.KeyID {
			return nil, refuse("key_id: there is a key with this id; take another one")
		}
	}
	var err error
	if k.PrivateKey, err = newPrivateKey(); err != nil {
		return nil, err
	}
	return k, k.store(ctx, s)
}

// readJWKS answers without a token: it must not tell more than the keys.
func (b *Backend) readJWKS(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	set := []any{}
	c, err := loadConfig(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	if c != nil {
		keys, err := loadKeys(ctx, req.Storage, c)
		if err != nil {
			return nil, err
		}
		for _, k := range append([]*clientKey{{KeyID: c.KeyID, PrivateKey: c.PrivateKey}}, keys...) {
			jwk, err := publicJWK(k.KeyID, k.PrivateKey)
			if err != nil {
				return nil, err
			}
			set = append(set, jwk)
		}
	}
	body, err := json.Marshal(map[string]any{"keys": set})
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: map[string]any{
		logical.HTTPStatusCode:         http.StatusOK,
		logical.HTTPContentType:        "application/json",
		logical.HTTPCacheControlHeader: "public, max-age=60",
		logical.HTTPRawBody:            body,
	}}, nil
}
