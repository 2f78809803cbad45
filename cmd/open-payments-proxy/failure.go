// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/dunglas/httpsfv"
	"github.com/hashicorp/vault/api"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/client"
)

// Error types of the Proxy-Status header (RFC 9209, section 2.3).
const (
	requestError    = "http_request_error"
	requestDenied   = "http_request_denied"
	unavailable     = "destination_unavailable"
	dnsError        = "dns_error"
	refused         = "connection_refused"
	terminated      = "connection_terminated"
	connectTimeout  = "connection_timeout"
	responseTimeout = "http_response_timeout"
	tlsError        = "tls_protocol_error"
)

// failure is an answer of the proxy's own. Nothing was sent to the wallet, unless its code is
// outcome_unknown.
type failure struct {
	status      int
	code        string
	description string // a sentence without any secret
	proxyError  string
	retryAfter  time.Duration // zero: the answer does not say when to try again
}

func (f *failure) Error() string { return f.description }

// codeUnknown is the code of a request that was sent, and whose answer did not arrive.
const codeUnknown = "outcome_unknown"

// statusGone is what the log says of callers who hung up before anything was sent (nginx's number);
// nobody receives it.
const statusGone = 499

func badRequest(code, description string) *failure {
	return &failure{status: http.StatusBadRequest, code: code, description: description, proxyError: requestError}
}

func notAuthorized(description string) *failure {
	return &failure{
		status: http.StatusUnauthorized, code: "caller", proxyError: requestDenied,
		description: "the request " + description,
	}
}

func forbidden(code, description string) *failure {
	return &failure{status: http.StatusForbidden, code: code, description: description, proxyError: requestDenied}
}

func noSuchGrant() *failure {
	return &failure{
		status: http.StatusNotFound, code: "no_such_grant", proxyError: requestError,
		description: "the token in Authorization does not name a grant or a role of this proxy: " +
			"it has the form NAME.SECRET",
	}
}

func noSuchPath() *failure {
	return &failure{
		status: http.StatusNotFound, code: "no_such_path", proxyError: requestError,
		description: "the path is neither an operation of the resource server, such as /incoming-payments, " +
			"nor that of the wallet address of a grant",
	}
}

// unavailableFor returns the failure of a request that has to wait for something.
func unavailableFor(code, description string) *failure {
	return &failure{
		status: http.StatusServiceUnavailable, code: code, description: description, proxyError: unavailable,
		retryAfter: time.Second,
	}
}

// write sends the failure, in the form of the resource server's errors, which the SDKs read.
func (f *failure) write(w http.ResponseWriter) {
	status := httpsfv.NewItem(httpsfv.Token("open-payments-proxy"))
	status.Params.Add("error", httpsfv.Token(f.proxyError))
	status.Params.Add("details", f.code)
	if text, err := httpsfv.Marshal(httpsfv.List{status}); err == nil {
		w.Header().Set("Proxy-Status", text)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if f.status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "GNAP")
	}
	if f.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(f.retryAfter.Seconds())))
	}
	w.WriteHeader(f.status)
	// Nobody is left to be told that the caller does not read it.
	_ = json.NewEncoder(w).Encode(map[string]map[string]string{ //nolint:errchkjson // as above
		"error": {"code": f.code, "description": f.description},
	})
}

// explain returns what to answer if there is no answer of the wallet's. cause is why the sending was
// given up, nil if it was not; sent says that the request went out and was not refused.
func explain(err, cause error, sent bool, method string) *failure {
	var known *failure
	var wallet walletError
	var answer *api.ResponseError
	switch {
	case sent:
		return outcomeUnknown(method, err)
	case errors.As(err, &known):
		return known
	case errors.Is(cause, errCallerGone):
		return &failure{status: statusGone, code: "caller_gone", description: cause.Error(), proxyError: terminated}
	case errors.Is(cause, errWaited):
		return unavailableFor("no_token_yet", cause.Error())
	case errors.As(err, &wallet):
		return unreachable(wallet)
	case errors.As(err, &answer):
		return refusedByVault(answer)
	case errors.Is(err, client.ErrClosed):
		return unavailableFor("stopping", "the proxy is stopping")
	}
	return unavailableFor("vault_unreachable",
		"Vault cannot be reached, or its answer cannot be read; nothing was sent")
}

func outcomeUnknown(method string, err error) *failure {
	f := &failure{
		status: http.StatusGatewayTimeout, code: codeUnknown, proxyError: terminated,
		description: "the request was sent and the wallet's answer did not arrive, so it may have been carried out: " +
			"look before you repeat it",
	}
	if method == http.MethodGet {
		f.description = "the request was sent and the wallet's answer did not arrive; a GET can be repeated"
	}
	if errors.Is(err, context.Canceled) || isTimeout(err) {
		f.proxyError = responseTimeout
	}
	return f
}

func isTimeout(err error) bool {
	var network net.Error
	return errors.As(err, &network) && network.Timeout()
}

// unreachable returns the failure of a connection to the wallet.
func unreachable(err walletError) *failure {
	f := &failure{
		status: http.StatusBadGateway, code: "wallet_unreachable", proxyError: refused,
		description: "there is no connection to the wallet's resource server; nothing was sent",
	}
	var dns *net.DNSError
	var network *net.OpError
	switch {
	case errors.As(err, &dns):
		f.proxyError = dnsError
	case isTimeout(err):
		f.proxyError = connectTimeout
	case !errors.As(err, &network):
		f.proxyError = tlsError
	}
	return f
}

// refusedByVault returns the failure for an error that Vault has answered. Only what op/sign says of
// the request itself is the caller's mistake: a 403 of Vault's is about the proxy's own token.
func refusedByVault(answer *api.ResponseError) *failure {
	said := ""
	if !answer.RawError { // otherwise a page of something in between
		said = strings.TrimSpace(strings.TrimPrefix(
			strings.Join(strings.Fields(strings.Join(answer.Errors, "; ")), " "), "1 error occurred: *"))
	}
	signing := answer.HTTPMethod != http.MethodGet
	switch {
	case signing && (strings.HasPrefix(said, "access_token:") || strings.HasPrefix(said, "signing_ticket:")):
		return unavailableFor("token_replaced", "the token was replaced or has expired, and so was the next one: does "+
			"another reader use the grant? Nothing was sent")
	case signing && answer.StatusCode == http.StatusBadRequest && said != "":
		return badRequest("not_signed", said)
	case answer.StatusCode == http.StatusServiceUnavailable:
		return unavailableFor("vault_unavailable", "Vault is sealed or has no active node; nothing was sent")
	}
	description := fmt.Sprintf("Vault answered %d; nothing was sent", answer.StatusCode)
	if said != "" {
		description += ": " + said
	}
	return unavailableFor("vault_refused", description)
}
