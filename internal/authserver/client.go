// SPDX-License-Identifier: MPL-2.0

package authserver

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"time"

	openpayments "github.com/interledger/open-payments-go"
	as "github.com/interledger/open-payments-go/generated/authserver"
	"github.com/jonboulle/clockwork"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/deadline"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/uri"
)

// AnswerTimeout is how long the engine waits for an answer that it cannot request a second time. A
// Rafiki whose database is overloaded waits for 60 s itself, and answers just after that.
const AnswerTimeout = 80 * time.Second

// Identity is the Open Payments client that requests are made as, and how it reaches servers.
type Identity struct {
	WalletAddress      string
	KeyID              string
	PrivateKey         string        // PEM, PKCS#8
	CACert             string        // PEM; trusted alongside the system's certificates
	AllowedAuthServers []string      // origins; empty: any public one
	RequestTimeout     time.Duration // of requests that may be repeated

	MaxRequestsPerServer int // at once, to one origin, that change something
}

// SameOrigin reports whether a URL is on the origin home or on one that the operator allows.
func (i Identity) SameOrigin(target, home string) bool {
	o := uri.OriginOf(target)
	return o != "" && (o == home || slices.Contains(i.AllowedAuthServers, o))
}

// Network holds the connections of one mount to servers. Its zero value is not usable; NewNetwork
// makes one.
type Network struct {
	clock       clockwork.Clock
	transports  transports
	clientForms clientForms
	places      places
}

// NewNetwork returns a network whose time limits run on clock.
func NewNetwork(clock clockwork.Clock) *Network {
	return &Network{clock: clock}
}

// Client makes requests as one identity. It holds no connection, so it costs nothing to make one
// for each grant.
type Client struct {
	Identity
	network       *Network
	operatorHosts []string
}

// Client returns a client for an identity. Hosts that an operator typed may be reached wherever
// they are: those named in the identity, and operatorHosts.
func (n *Network) Client(i Identity, operatorHosts ...string) *Client {
	hosts := slices.Concat(operatorHosts, HostsOf(i.WalletAddress), HostsOf(i.AllowedAuthServers...))
	return &Client{Identity: i, network: n, operatorHosts: hosts}
}

// Continuation is where a grant is continued or cancelled (RFC 9635 section 3.1).
type Continuation struct {
	URL   string `json:"url,omitempty"`
	Token string `json:"token,omitempty"`
}

// completed returns a continuation with what it lacks of the former one; the zero value if a part
// is still missing, because without it nothing can be continued or cancelled.
func (c Continuation) completed(former Continuation) Continuation {
	if c == (Continuation{}) {
		return c
	}
	c = Continuation{URL: cmp.Or(c.URL, former.URL), Token: cmp.Or(c.Token, former.Token)}
	if c.URL == "" || c.Token == "" {
		return Continuation{}
	}
	return c
}

// Rotate requests a new token (OpenAPI post-token). The request is sent once. The outcome is
// TokenIssued, TokenRejected or RequestFailed.
func (c *Client) Rotate(ctx context.Context, manage, token string) Outcome {
	x := c.exchange(ctx, manage, AnswerTimeout)
	defer x.stop()
	x.send(func(sdk *openpayments.AuthenticatedClient) error {
		_, err := sdk.Token.Rotate(x.ctx, openpayments.TokenRotateParams{URL: manage, AccessToken: token})
		return err
	})
	switch out := x.outcome(Continuation{}).(type) {
	case ConsentRequired, ConsentPending: // not answers to a rotation
		return x.failure()
	default:
		return out
	}
}

// RequestGrant requests a new grant (OpenAPI post-request). The request always says how the owner
// could be asked, which only matters to a server that wants to; a nil finish leaves out where the
// owner's browser goes afterwards. The outcome is TokenIssued, ConsentRequired or RequestFailed.
//
// The answer is waited for as long as a rotation's, because a grant whose answer is missed could
// not be cancelled by anybody.
//
// Where the server refuses the request without saying why, it is sent once more with the client in
// the other form that servers take.
func (c *Client) RequestGrant(ctx context.Context, endpoint string, access json.RawMessage, finish *Finish) Outcome {
	ctx, stop := deadline.After(ctx, c.network.clock, AnswerTimeout)
	defer stop()
	origin := uri.OriginOf(endpoint)
	form := c.network.clientForms.of(origin)
	out := c.requestGrant(ctx, endpoint, access, finish, form)
	refused, failed := out.(RequestFailed)
	if failed && refused.Status == http.StatusBadRequest && !refused.HasCode && ctx.Err() == nil {
		form = form.other()
		second := c.requestGrant(ctx, endpoint, access, finish, form)
		f, failed := second.(RequestFailed)
		if failed && !f.HasCode && !f.MaybeHeard() {
			return refused // the form is not the reason
		}
		out = second
	}
	if _, failed := out.(RequestFailed); !failed {
		c.network.clientForms.remember(origin, form)
	}
	return out
}

func (c *Client) requestGrant(
	ctx context.Context, endpoint string, access json.RawMessage, finish *Finish, form clientForm,
) Outcome {
	x := c.exchange(ctx, endpoint, AnswerTimeout)
	defer x.stop()
	x.clientForm = form
	x.send(func(sdk *openpayments.AuthenticatedClient) error {
		body, err := grantRequest(access, finish)
		if err != nil {
			return err
		}
		_, err = sdk.Grant.Request(x.ctx, openpayments.GrantRequestParams{URL: endpoint, RequestBody: body})
		return err
	})
	switch out := x.outcome(Continuation{}).(type) {
	case TokenRejected: // there is no token yet that it could reject
		return out.RequestFailed
	case ConsentPending:
		f := x.failure()
		f.Begun = out.Continue
		return f
	case RequestFailed:
		out.Redirect = x.redirect()
		return out
	default:
		return out
	}
}

func grantRequest(access json.RawMessage, finish *Finish) (body as.GrantRequest, err error) {
	interact := map[string]any{"start": []as.InteractRequestStart{as.InteractRequestStartRedirect}}
	if finish != nil {
		interact["finish"] = finish
	}
	encoded, err := json.Marshal(map[string]any{"access_token": map[string]any{"access": access}, "interact": interact})
	if err != nil {
		return body, err
	}
	return body, body.UnmarshalJSON(encoded)
}

// Finish is where the owner's browser goes after the interaction (OpenAPI interact-request).
type Finish struct {
	Method as.InteractRequestFinishMethod `json:"method"`
	URI    string                         `json:"uri"`
	Nonce  string                         `json:"nonce"`
}

// FinishAt returns a finish that redirects the owner's browser.
func FinishAt(finishURI, nonce string) *Finish {
	return &Finish{Method: as.InteractRequestFinishMethodRedirect, URI: finishURI, Nonce: nonce}
}

// Continue continues an interactive grant with the reference that the owner's browser brought, or
// polls it without one (OpenAPI post-continue). The outcome is TokenIssued, ConsentPending or
// RequestFailed.
func (c *Client) Continue(ctx context.Context, at Continuation, interactRef string) Outcome {
	x := c.exchange(ctx, at.URL, AnswerTimeout)
	defer x.stop()
	x.send(func(sdk *openpayments.AuthenticatedClient) error {
		_, err := sdk.Grant.Continue(
			x.ctx,
			openpayments.GrantContinueParams{URL: at.URL, AccessToken: at.Token, InteractRef: interactRef},
		)
		return err
	})
	switch out := x.outcome(at).(type) {
	case TokenRejected:
		return out.RequestFailed
	case ConsentRequired: // a further question, which nobody is asked; what counts is the continuation
		return ConsentPending{cmp.Or(out.Continue, at), out.Wait}
	case ConsentPending:
		return ConsentPending{cmp.Or(out.Continue, at), out.Wait}
	default:
		return out
	}
}

// Cancel ends a grant and all its tokens (OpenAPI delete-continue). It may be repeated. Where the
// server did not do it, the error is a RequestFailed, whose Gone says whether it was done before.
func (c *Client) Cancel(ctx context.Context, at Continuation) error {
	x := c.exchange(ctx, at.URL, c.RequestTimeout)
	defer x.stop()
	return x.delete(func(sdk *openpayments.AuthenticatedClient) error {
		return sdk.Grant.Cancel(x.ctx, openpayments.GrantCancelParams{URL: at.URL, AccessToken: at.Token})
	}, grantGone)
}

// Revoke ends one token (OpenAPI delete-token). It may be repeated. Where the server did not do it,
// the error is a RequestFailed, whose Gone says whether it was done before.
func (c *Client) Revoke(ctx context.Context, manage, token string) error {
	x := c.exchange(ctx, manage, c.RequestTimeout)
	defer x.stop()
	return x.delete(func(sdk *openpayments.AuthenticatedClient) error {
		return sdk.Token.Revoke(x.ctx, openpayments.TokenRevokeParams{URL: manage, AccessToken: token})
	}, tokenGone)
}
