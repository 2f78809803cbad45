// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"net/http"
	"runtime"
	"slices"
	"sync"
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
	text := func(name, description string) *framework.FieldSchema {
		return &framework.FieldSchema{
			Type:         framework.TypeString,
			Description:  description,
			DisplayAttrs: &framework.DisplayAttributes{Name: name},
		}
	}
	token := text(
		"Access token",
		"The grant's current access token, as a read of token/NAME or a renewal returned it.",
	)
	token.DisplayAttrs.Sensitive = true
	return &framework.Path{
		Pattern: "sign/(?P<name>.+)",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix,
			OperationVerb:   "sign",
			OperationSuffix: "request",
		},
		Fields: map[string]*framework.FieldSchema{
			"name":         nameField,
			"access_token": token,
			"method":       text("Method", "GET or POST."),
			"url":          text("URL", "The whole URL that the request will be sent to, query included."),
			"body": text("Body", "The body, for operations that have one: its JSON text, or the JSON "+
				"object."),
			batchField: {
				Type: framework.TypeSlice,
				Description: "Up to 250 requests: objects with access_token, method, url, body and reference, as " +
					"JSON or as its text.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Batch input"},
			},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			// Not forwarded by itself: a standby can sign, and whether it is one would be one more
			// question to Vault for each request.
			logical.UpdateOperation: &framework.PathOperation{
				Callback:  b.signRequest,
				Summary:   "Sign a request to the resource server.",
				Responses: map[int][]framework.Response{http.StatusOK: {{Description: "OK", Fields: signFields}}},
			},
		},
		HelpSynopsis:    signSynopsis,
		HelpDescription: signDescription,
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

// signRequest signs one request, or a batch. It takes no lock and writes nothing, so a rotation of
// the grant that waits for its server does not hold it up.
func (b *Backend) signRequest(
	ctx context.Context, req *logical.Request, d *framework.FieldData,
) (*logical.Response, error) {
	one, batch, err := parseUnsigned(d)
	if err != nil {
		return errorResponse(err)
	}
	s, err := b.signing(ctx, req, d.Get("name").(string))
	if err != nil {
		return b.signingError(err)
	}
	if batch == nil {
		signed, err := s.sign(ctx, one)
		if err != nil {
			return b.signingError(err)
		}
		return &logical.Response{Data: signed}, nil
	}
	results := make([]any, len(batch))
	var refused atomic.Bool
	var work errgroup.Group
	work.SetLimit(runtime.GOMAXPROCS(0))
	for i, item := range batch {
		work.Go(func() error {
			signed, err := s.sign(ctx, item)
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
	if refused.Load() && !b.WriteSafeReplicationState() {
		return nil, logical.ErrReadOnly
	}
	return &logical.Response{Data: map[string]any{"batch_results": results}}, nil
}

// signingError returns why nothing is signed. A standby signs by itself, but may know an older
// token or older rights than are stored: what it would refuse is decided by the active node, to
// which Vault forwards the request.
func (b *Backend) signingError(err error) (*logical.Response, error) {
	if !b.WriteSafeReplicationState() {
		return nil, logical.ErrReadOnly
	}
	return errorResponse(err)
}

// signing holds what is needed to sign for a grant.
type signing struct {
	signer authserver.Signer
	scope  rights.Scope
	token  string // the grant's
}

func (b *Backend) signing(ctx context.Context, req *logical.Request, name string) (s signing, err error) {
	c, err := b.signers.get(ctx, req)
	if err != nil {
		return s, err
	}
	g, err := loadGrant(ctx, req.Storage, name)
	if err != nil {
		return s, err
	}
	if err := checkSignable(ctx, g, c.config, name); err != nil {
		return s, err
	}
	if g.Token != "" && !authserver.IsToken(g.Token) {
		return s, logical.CodedError(
			http.StatusBadGateway,
			"the authorization server "+g.AuthOrigin+" issued a token that no header can hold",
		)
	}
	s.signer, s.token = c.signer, g.Token
	s.scope, err = g.signingScope()
	return s, err
}

// sign returns a signed request's headers and body, or why it is not signed.
func (s signing) sign(ctx context.Context, p presented) (map[string]any, error) {
	if p.malformed != nil {
		return nil, p.malformed
	}
	if s.token == "" || subtle.ConstantTimeCompare([]byte(p.token), []byte(s.token)) != 1 {
		return nil, notCurrent(p.token)
	}
	body, err := s.scope.Allow(p.Request)
	if err != nil {
		return nil, userErrorf("%s", err)
	}
	p.Body = body
	headers, err := s.signer.Headers(ctx, p.Method, p.URL, p.Body, s.token)
	if err != nil {
		return nil, err
	}
	signed := map[string]any{"headers": headers}
	if body != "" {
		signed["body"] = body
	}
	return signed, nil
}

// signers remembers the client and its key, ready to sign. To read them anew would be one more
// question to Vault for each request. (Of a grant nothing is remembered: storage says which token
// is the current one.)
type signers struct {
	mu      sync.Mutex
	changes int // a client that was read before a change is not remembered after it
	known   *knownClient
}

type knownClient struct {
	config *config
	signer authserver.Signer
}

func (s *signers) get(ctx context.Context, req *logical.Request) (*knownClient, error) {
	s.mu.Lock()
	known, changes := s.known, s.changes
	s.mu.Unlock()
	if known != nil {
		return known, nil
	}
	c, err := loadClient(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	known = &knownClient{config: c}
	if known.signer, err = authserver.NewSigner(c.identity()); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if changes == s.changes {
		s.known = known
	}
	return known, nil
}

func (s *signers) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changes++
	s.known = nil
}

// presented is a request to be signed, with the token that the caller holds.
type presented struct {
	rights.Request
	token     string
	reference string // a batch's own name for it
	malformed error
}

// parseUnsigned reads what is to be signed: one request, or a batch (nil: none).
func parseUnsigned(d *framework.FieldData) (presented, []presented, error) {
	one := presented{
		token: value[string](d, "access_token"),
		Request: rights.Request{
			Method: value[string](d, "method"), URL: value[string](d, "url"), Body: value[string](d, "body"),
		},
	}
	if !given(d, batchField) {
		return one, nil, nil
	}
	if slices.ContainsFunc([]string{"method", "url", "body"}, func(field string) bool { return given(d, field) }) {
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
		batch[i] = parseItem(item, one.token)
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

// parseItem reads one request of a batch. What is wrong with it is its own result and not the
// batch's.
func parseItem(item any, token string) presented {
	p := presented{token: token}
	members, ok := item.(map[string]any)
	if !ok {
		p.malformed = userErrorf("must be an object with method, url, body and access_token")
	}
	into := map[string]*string{
		"access_token": &p.token, "method": &p.Method, "url": &p.URL, "body": &p.Body, "reference": &p.reference,
	}
	for name, raw := range members {
		if name != "reference" {
			raw = readValue(name, framework.TypeString, raw)
		}
		text, isString := raw.(string)
		content := checkContent(name, raw)
		switch field := into[name]; {
		case field == nil:
			p.malformed = userErrorf("unknown member: a request has access_token, method, url, body and reference")
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
