// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"maps"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/errgroup"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/authserver"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/pasted"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/rights"
)

const (
	batchField = "batch_input"
	maxBatch   = 250

	signSynopsis    = `Sign an HTTP request to the resource server with the client's key.`
	signDescription = `
An access token is good only on requests that the client's key has signed. Write
access_token (from a read of token/NAME), method, url and, where there is one, the
body, as JSON text or as an object; the response holds the headers to send, and
body, the exact bytes to send with them.

Only what the grant allows is signed: the URL must be the grant's resource_server
followed by one of the operations on incoming-payments, quotes, outgoing-payments
and outgoing-payment-grant that the grant's rights include, for the wallet address
that a right is for. Nothing is signed for the authorization server. Nothing is
stored, and nothing is sent.

batch_input signs up to 250 requests at once: a list of objects with method, url,
body, access_token (left out: the one alongside the list) and, if you like, a
reference. batch_results has one object for each, in order: headers and body, or an
error; and the reference.
`
)

func (b *Backend) pathSign() *framework.Path {
	fields := maps.Clone(signParams)
	fields["name"] = nameField
	return &framework.Path{
		Pattern: "sign/(?P<name>.+)",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix,
			OperationVerb:   "sign",
			OperationSuffix: "request",
		},
		Fields:          fields,
		Operations:      signOperations(b.signForGrant),
		HelpSynopsis:    signSynopsis,
		HelpDescription: signDescription,
	}
}

// signParams are the fields of a request to be signed, and of a batch.
var signParams = map[string]*framework.FieldSchema{
	accessTokenField: secretField(
		"Access token",
		"The current access token, as the read or a renewal of its lease returned it.",
	),
	"method":  stringField("Method", "GET or POST."),
	"url":     stringField("URL", "The whole URL that the request will be sent to, query included."),
	bodyField: stringField("Body", "The body, for operations that have one: its JSON text, or the JSON object."),
	batchField: {
		Type:         framework.TypeSlice,
		Description:  "Up to 250 requests: objects with these fields and reference, as JSON or as its text.",
		DisplayAttrs: &framework.DisplayAttributes{Name: "Batch input"},
	},
}

func signOperations(call framework.OperationFunc) map[logical.Operation]framework.OperationHandler {
	return map[logical.Operation]framework.OperationHandler{
		// Not forwarded by itself: a standby can sign, and whether it is one would be one more
		// question to Vault for each request.
		logical.UpdateOperation: &framework.PathOperation{
			Callback:  call,
			Summary:   "Sign a request to the resource server.",
			Responses: map[int][]framework.Response{http.StatusOK: {{Description: "OK", Fields: signFields}}},
		},
	}
}

var signFields = map[string]*framework.FieldSchema{
	"headers": {
		Type:         framework.TypeMap,
		Description:  "Headers to send, by name.",
		DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
	},
	"body": {Type: framework.TypeString, Description: "The exact bytes to send, where there is a body."},
	"batch_results": {
		Type:         framework.TypeSlice,
		Description:  "For each request of the batch, in order: headers and body, or an error; and its reference.",
		DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
	},
}

// signForGrant signs what a stored grant allows. It takes no lock and writes nothing, so a rotation of
// the grant that waits for its server does not hold it up.
func (b *Backend) signForGrant(
	ctx context.Context, req *logical.Request, d *framework.FieldData,
) (*logical.Response, error) {
	return b.sign(ctx, req, d, func(c *config) (permits, error) {
		return grantPermits(ctx, req.Storage, c, d.Get("name").(string))
	})
}

// permits returns what may be signed with the token of a request; an error if nothing may.
type permits func(presented) (rights.Scope, error)

// sign signs one request, or a batch, as config's client. find returns what may be signed.
func (b *Backend) sign(
	ctx context.Context, req *logical.Request, d *framework.FieldData, find func(*config) (permits, error),
) (*logical.Response, error) {
	one, batch, err := parseUnsigned(d)
	if err != nil {
		return errorResponse(err)
	}
	c, err := b.signer(ctx, req.Storage)
	if err != nil {
		return b.signingError(err)
	}
	allowed, err := find(c.config)
	if err != nil {
		return b.signingError(err)
	}
	if batch == nil {
		signed, err := c.sign(ctx, one, allowed)
		if err != nil {
			return b.signingError(err)
		}
		return &logical.Response{Data: signed}, nil
	}
	results, refused := c.signBatch(ctx, batch, allowed)
	if refused && !b.WriteSafeReplicationState() {
		return nil, logical.ErrReadOnly
	}
	return &logical.Response{Data: map[string]any{"batch_results": results}}, nil
}

// signingError returns why nothing is signed. A standby signs by itself, but may know an older
// token, older rights or older ticket keys than are stored: what it would refuse is decided by the
// active node, to which Vault forwards the request.
func (b *Backend) signingError(err error) (*logical.Response, error) {
	if !b.WriteSafeReplicationState() {
		return nil, logical.ErrReadOnly
	}
	return errorResponse(err)
}

// grantPermits returns what may be signed for a grant.
func grantPermits(ctx context.Context, s logical.Storage, c *config, name string) (permits, error) {
	g, err := loadGrant(ctx, s, name)
	if err != nil {
		return nil, err
	}
	if err := checkSignable(ctx, g, c, name); err != nil {
		return nil, err
	}
	if g.Token != "" && !authserver.IsToken(g.Token) {
		return nil, logical.CodedError(
			http.StatusBadGateway,
			"the authorization server "+g.AuthOrigin+" issued a token that no header can hold",
		)
	}
	scope, err := g.signingScope()
	if err != nil {
		return nil, err
	}
	return func(p presented) (rights.Scope, error) {
		if g.Token == "" || subtle.ConstantTimeCompare([]byte(p.token), []byte(g.Token)) != 1 {
			return rights.Scope{}, notCurrent(p.token)
		}
		return scope, nil
	}, nil
}

// knownClient is the client and its key, ready to sign. (Of a grant nothing is remembered: storage
// says which token is the current one.)
type knownClient struct {
	config *config
	signer authserver.Signer
}

func (b *Backend) signer(ctx context.Context, s logical.Storage) (*knownClient, error) {
	return b.signers.get(func() (*knownClient, error) {
		c, err := loadClient(ctx, s)
		if err != nil {
			return nil, err
		}
		signer, err := authserver.NewSigner(c.identity())
		return &knownClient{c, signer}, err
	})
}

// sign returns a signed request's headers and body, or why it is not signed.
func (c *knownClient) sign(ctx context.Context, p presented, allowed permits) (map[string]any, error) {
	if p.malformed != nil {
		return nil, p.malformed
	}
	scope, err := allowed(p)
	if err != nil {
		return nil, err
	}
	body, err := scope.Allow(p.Request)
	if err != nil {
		return nil, userErrorf("%s", err)
	}
	headers, err := c.signer.Headers(ctx, p.Method, p.URL, body, p.token)
	if err != nil {
		return nil, err
	}
	signed := map[string]any{"headers": headers}
	if body != "" {
		signed["body"] = body
	}
	return signed, nil
}

// signBatch returns the result of each request, and reports whether one was refused.
func (c *knownClient) signBatch(ctx context.Context, batch []presented, allowed permits) ([]any, bool) {
	results := make([]any, len(batch))
	var refused atomic.Bool
	var work errgroup.Group
	work.SetLimit(runtime.GOMAXPROCS(0))
	for i, item := range batch {
		work.Go(func() error {
			signed, err := c.sign(ctx, item, allowed)
			if err != nil {
				signed = map[string]any{"error": err.Error()}
				refused.Store(true)
			}
			if item.reference != "" {
				signed["reference"] = item.reference
			}
			results[i] = signed
			return nil
		})
	}
	_ = work.Wait() // each result has its own error
	return results, refused.Load()
}

// presented is a request to be signed, with the token that the caller holds.
type presented struct {
	rights.Request
	token     string
	ticket    string // of a lease of a role
	reference string // a batch's own name for it
	malformed error
}

// parseUnsigned reads what is to be signed: one request, or a batch (nil: none).
func parseUnsigned(d *framework.FieldData) (presented, []presented, error) {
	one := presented{
		token: value[string](d, accessTokenField),
		Request: rights.Request{
			Method: value[string](d, "method"), URL: value[string](d, "url"), Body: value[string](d, bodyField),
		},
	}
	takesTicket := d.Schema[ticketField] != nil
	if takesTicket {
		one.ticket = value[string](d, ticketField)
	}
	if !given(d, batchField) {
		return one, nil, nil
	}
	if slices.ContainsFunc([]string{"method", "url", bodyField}, func(field string) bool { return given(d, field) }) {
		return one, nil, userErrorf(
			"%s: holds the requests' method, url and body; do not give them alongside it",
			batchField,
		)
	}
	items, err := batchItems(d.Raw[batchField])
	if err != nil {
		return one, nil, err
	}
	batch := make([]presented, len(items))
	for i, item := range items {
		batch[i] = parseItem(item, one, takesTicket)
	}
	return one, batch, nil
}

// batchItems returns the requests of a batch, which is a list or the JSON text of one.
func batchItems(raw any) ([]any, error) {
	items, ok := raw.([]any)
	if text, isText := raw.(string); isText {
		if fault := pasted.FindJSONFault(text); fault != nil {
			return nil, userErrorf("%s: must be a JSON list of requests; %s", batchField, fault)
		}
		ok = json.Unmarshal([]byte(text), &items) == nil
	}
	if !ok || len(items) == 0 || len(items) > maxBatch {
		return nil, userErrorf("%s: must be a JSON list of 1 to %d requests", batchField, maxBatch)
	}
	return items, nil
}

// parseItem reads one request of a batch; beside holds the token and the ticket that are given
// alongside the list. What is wrong with it is its own result and not the batch's.
func parseItem(item any, beside presented, takesTicket bool) presented {
	p := presented{token: beside.token, ticket: beside.ticket}
	into := map[string]*string{
		accessTokenField: &p.token, "method": &p.Method, "url": &p.URL, bodyField: &p.Body, "reference": &p.reference,
	}
	if takesTicket {
		into[ticketField] = &p.ticket
	}
	known := strings.Join(slices.Sorted(maps.Keys(into)), ", ")
	members, ok := item.(map[string]any)
	if !ok {
		p.malformed = userErrorf("must be an object with %s", known)
	}
	for name, raw := range members {
		if name != "reference" {
			raw = readValue(name, framework.TypeString, raw)
		}
		text, isString := raw.(string)
		content := checkContent(name, raw)
		switch field := into[name]; {
		case field == nil:
			p.malformed = userErrorf("unknown member: a request has %s", known)
		case !isString:
			p.malformed = userErrorf("%s: must be a string", name)
		case content != nil:
			p.malformed = content
		default:
			*field = text
		}
	}
	return p
}
