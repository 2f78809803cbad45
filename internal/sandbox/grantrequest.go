// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"encoding/json"
	"net/http"
	"slices"
)

// The types of access rights.
const (
	typeIncoming = "incoming-payment"
	typeOutgoing = "outgoing-payment"
	typeQuote    = "quote"
)

// grantRequest is the body of a grant request, as far as the sandbox reads it.
type grantRequest struct {
	client         client
	access         []json.RawMessage
	hasInteract    bool
	finish         finish
	hasSubject     bool
	needsConsent   bool // the rights include one that needs the owner's consent
	listsAnyWallet bool // the rights include list-all of incoming payments without an identifier
	twoAmounts     bool // a right is limited by debitAmount and receiveAmount
}

// parseGrantRequest validates a grant request against the OpenAPI document; clientForm is
// Dialect.Client. Its errors are sentences for the client that name the member at fault and never
// its value.
func parseGrantRequest(body, clientForm string) (grantRequest, error) {
	var request grantRequest
	top, err := asObject(json.RawMessage(body), "the body")
	if err != nil {
		return request, err
	}
	if request.client, err = parseClient(top["client"], clientForm); err != nil {
		return request, err
	}
	_, request.hasInteract = top["interact"]
	if request.hasInteract {
		if request.finish, err = parseInteract(top["interact"]); err != nil {
			return request, err
		}
	}
	_, request.hasSubject = top["subject"]
	if accessToken, ok := top["access_token"]; ok {
		return request, request.parseAccess(accessToken)
	}
	if !request.hasSubject || !request.hasInteract {
		return request, memberError("access_token", "is required")
	}
	return request, nil
}

// refuseUnsupported returns an error for a request that matches the schema and that the server does
// not grant.
func (g *grantRequest) refuseUnsupported() error {
	refuse := func(description string) error {
		return codedError(http.StatusBadRequest, codeInvalidRequest, description)
	}
	switch {
	case g.hasSubject:
		return refuse("the sandbox does not grant subject information")
	case len(g.access) == 0:
		return refuse("access_token.access is empty")
	case g.listsAnyWallet:
		return refuse("list-all of incoming payments needs an identifier")
	case g.needsConsent && !g.hasInteract:
		return refuse("missing required request field 'interact'")
	}
	return nil
}

// parseClient parses the three forms in which a client may name itself, or only those of one
// dialect.
func parseClient(raw json.RawMessage, form string) (client, error) {
	switch {
	case raw == nil:
		return client{}, memberError("client", "is required")
	case form == ClientString && raw[0] != '"':
		return client{}, memberError("client", "must be a string")
	case form == ClientObject && raw[0] != '{':
		return client{}, memberError("client", "must be an object")
	}
	if raw[0] == '"' {
		wallet, err := members{"client": raw}.uri("client", "")
		return client{wallet: wallet}, err
	}
	named, err := asObject(raw, "client")
	if err != nil {
		return client{}, err
	}
	if err := named.allowOnly("client", "walletAddress", "jwk"); err != nil {
		return client{}, err
	}
	if len(named) != 1 {
		return client{}, memberError("client", "must have walletAddress or jwk, not both")
	}
	if named["walletAddress"] != nil {
		wallet, err := named.uri("walletAddress", "client.")
		return client{wallet: wallet}, err
	}
	var key jwk
	if json.Unmarshal(named["jwk"], &key) != nil || key.check() != nil {
		return client{}, memberError("client.jwk", "must be an Ed25519 public key")
	}
	return client{key: &key}, nil
}

// parseInteract parses how the client wants to be called back.
func parseInteract(raw json.RawMessage) (finish, error) {
	var f finish
	interact, err := asObject(raw, "interact")
	if err != nil {
		return f, err
	}
	if _, err := interact.words("start", "interact.", "redirect"); err != nil {
		return f, err
	}
	if interact["finish"] == nil {
		return f, nil
	}
	back, err := asObject(interact["finish"], "interact.finish")
	if err != nil {
		return f, err
	}
	if method, err := back.text("method", "interact.finish."); err != nil || method != "redirect" {
		return f, memberError("interact.finish.method", `must be "redirect"`)
	}
	if f.uri, err = back.uri("uri", "interact.finish."); err != nil {
		return f, err
	}
	f.nonce, err = back.text("nonce", "interact.finish.")
	return f, err
}

func (g *grantRequest) parseAccess(raw json.RawMessage) error {
	accessToken, err := asObject(raw, "access_token")
	if err != nil {
		return err
	}
	if json.Unmarshal(accessToken["access"], &g.access) != nil || g.access == nil || len(g.access) > 3 {
		return memberError("access_token.access", "must be a list of at most 3 rights")
	}
	for i, item := range g.access {
		if slices.ContainsFunc(g.access[:i], func(o json.RawMessage) bool { return string(o) == string(item) }) {
			return memberError("access_token.access", "must not name a right twice")
		}
		if err := g.parseRight(item); err != nil {
			return err
		}
	}
	return nil
}

func (g *grantRequest) parseRight(raw json.RawMessage) error {
	const at = "access_token.access."
	right, err := asObject(raw, "access_token.access")
	if err != nil {
		return err
	}
	kind, err := right.text("type", at)
	if err != nil {
		return err
	}
	allowed := []string{"type", "actions"}
	actions := []string{"create", "read", "read-all"}
	switch kind {
	case typeIncoming:
		allowed, actions = append(allowed, "identifier"), append(actions, "complete", "list", "list-all")
	case typeOutgoing:
		allowed, actions = append(allowed, "identifier", "limits"), append(actions, "list", "list-all")
	case typeQuote:
	default:
		return memberError(at+"type", "must be incoming-payment, outgoing-payment or quote")
	}
	if err := right.allowOnly("access_token.access", allowed...); err != nil {
		return err
	}
	wanted, err := right.words("actions", at, actions...)
	if err != nil {
		return err
	}
	if right["identifier"] != nil || kind == typeOutgoing {
		if _, err := right.uri("identifier", at); err != nil {
			return err
		}
	}
	switch kind {
	case typeOutgoing:
		g.needsConsent = true
		return g.parseLimits(right["limits"])
	case typeIncoming:
		// Only the owner may let a client see what other clients asked for.
		g.needsConsent = g.needsConsent || slices.Contains(wanted, "list-all") || slices.Contains(wanted, "read-all")
		g.listsAnyWallet = g.listsAnyWallet || slices.Contains(wanted, "list-all") && right["identifier"] == nil
	}
	return nil
}

func (g *grantRequest) parseLimits(raw json.RawMessage) error {
	if raw == nil {
		return nil
	}
	const at = "access_token.access.limits."
	limits, err := asObject(raw, "access_token.access.limits")
	if err != nil {
		return err
	}
	if limits["receiver"] != nil {
		if receiver, err := limits.uri("receiver", at); err != nil || !isReceiver(receiver) {
			return memberError(at+"receiver", "must be the URL of an incoming payment")
		}
	}
	if limits["interval"] != nil {
		if _, err := limits.text("interval", at); err != nil {
			return err
		}
	}
	for _, name := range []string{"debitAmount", "receiveAmount"} {
		if limits[name] != nil {
			if _, err := parseAmount(limits[name], at+name); err != nil {
				return err
			}
		}
	}
	g.twoAmounts = g.twoAmounts || (limits["debitAmount"] != nil && limits["receiveAmount"] != nil)
	return nil
}

// parseContinueRequest parses the body of a continue request. A client that sends no body polls.
func parseContinueRequest(body string) (reference string, polls bool, err error) {
	top, err := asObject(json.RawMessage(body), "the body")
	if err != nil {
		return "", false, err
	}
	if top["interact_ref"] != nil {
		if reference, err = top.text("interact_ref", ""); err != nil {
			return "", false, err
		}
	}
	return reference, len(top) == 0, nil
}
