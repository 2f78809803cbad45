// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"net/http"
	"path"
	"strings"
	"sync"
)

// The paths below the origin at which the two servers live, as facts about real wallets have it:
// the authorization server may share an origin with the resource server.
const (
	authPath     = "/auth"
	resourcePath = "/op"

	continuePath = authPath + "/continue/"
	otherPath    = authPath + "/grants/" // ContinueOtherPath
)

// The operations that requests are counted by and that can be made to misbehave.
const (
	opGrant    = "grant"
	opContinue = "continue"
	opCancel   = "cancel"
	opRotate   = "rotate"
	opRevoke   = "revoke"
	opInteract = "interact"
	opKeys     = "keys"
	opWallet   = "wallet"
	opResource = "resource"
)

var operations = []string{opGrant, opContinue, opCancel, opRotate, opRevoke, opInteract, opKeys, opWallet, opResource}

// route connects a request pattern to its operation and handler. The requests that control the
// sandbox have no operation.
type route struct {
	pattern   string
	operation string
	serve     func(*Server, http.ResponseWriter, *http.Request) error
}

// routeTable returns the table behind routing, Operation, Count and Misbehave.
func routeTable() []route {
	table := []route{
		{"POST " + authPath, opGrant, (*Server).requestGrant},
		{"POST " + authPath + "/{$}", opGrant, (*Server).requestGrant},
		{"POST " + continuePath + "{id}", opContinue, (*Server).continueGrant},
		{"DELETE " + continuePath + "{id}", opCancel, (*Server).cancelGrant},
		{"POST " + otherPath + "{id}", opContinue, (*Server).continueGrant},
		{"DELETE " + otherPath + "{id}", opCancel, (*Server).cancelGrant},
		{"POST " + authPath + "/token/{id}", opRotate, (*Server).rotateToken},
		{"DELETE " + authPath + "/token/{id}", opRevoke, (*Server).revokeToken},
		{"GET " + authPath + "/interact/{id}/{nonce}", opInteract, (*Server).showConsentPage},
		{"POST " + authPath + "/interact/{id}/{nonce}", opInteract, (*Server).receiveDecision},
		{"GET " + authPath + "/interact/{id}/{nonce}/finish", opInteract, (*Server).finishInteraction},

		{"POST " + resourcePath + "/incoming-payments", opResource, (*Server).createIncomingPayment},
		{"GET " + resourcePath + "/incoming-payments", opResource, (*Server).listIncomingPayments},
		{"GET " + resourcePath + "/incoming-payments/{id}", opResource, (*Server).readIncomingPayment},
		{"POST " + resourcePath + "/incoming-payments/{id}/complete", opResource, (*Server).completeIncomingPayment},
		{"POST " + resourcePath + "/quotes", opResource, (*Server).createQuote},
		{"GET " + resourcePath + "/quotes/{id}", opResource, (*Server).readQuote},
		{"POST " + resourcePath + "/outgoing-payments", opResource, (*Server).createOutgoingPayment},
		{"GET " + resourcePath + "/outgoing-payments", opResource, (*Server).listOutgoingPayments},
		{"GET " + resourcePath + "/outgoing-payments/{id}", opResource, (*Server).readOutgoingPayment},
		{"GET " + resourcePath + "/outgoing-payment-grant", opResource, (*Server).showSpent},

		{"PUT " + clientKeysPath, "", (*Server).putClientKeys},
		{"GET /misbehave", "", (*Server).showMisbehaviour},
		{"PUT /misbehave", "", (*Server).putMisbehaviour},
		{"DELETE /misbehave", "", (*Server).endMisbehaviour},
		{"GET /dialect", "", (*Server).showDialect},
		{"PUT /dialect", "", (*Server).putDialect},
		{"DELETE /dialect", "", (*Server).endDialect},
		{"/", "", (*Server).unrouted},
	}
	for name := range walletNames {
		table = append(table,
			route{"GET /" + name, opWallet, (*Server).walletDocument},
			route{"GET /" + name + "/jwks.json", opKeys, (*Server).walletKeys})
	}
	return table
}

// patterns finds the pattern of a request without serving the request.
var patterns, operationOf = func() (*http.ServeMux, map[string]string) {
	mux, operation := http.NewServeMux(), make(map[string]string)
	for _, r := range routeTable() {
		mux.Handle(r.pattern, http.NotFoundHandler())
		operation[r.pattern] = r.operation
	}
	return mux, operation
}()

// Operation returns what a request asks for: "grant", "continue", "cancel", "rotate", "revoke",
// "interact" (the owner's browser), "keys", "wallet" or "resource"; or an empty string for any
// other request.
func Operation(r *http.Request) string {
	if !isClean(r.URL.Path) {
		return ""
	}
	_, pattern := patterns.Handler(r)
	return operationOf[pattern]
}

// isClean reports whether http.ServeMux would serve a path without redirecting to a cleaned one.
// Real servers do not redirect: such a path is unknown to them.
func isClean(p string) bool {
	cleaned := path.Clean(p)
	return !strings.Contains(p, "//") && (p == cleaned || p == cleaned+"/")
}

// routes returns the handler for all of routeTable.
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	for _, r := range routeTable() {
		mux.HandleFunc(r.pattern, func(w http.ResponseWriter, req *http.Request) {
			if err := r.serve(s, w, req); err != nil {
				s.writeError(w, err)
			}
		})
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isClean(r.URL.Path) {
			s.writeError(w, s.unrouted(w, r))
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func (s *Server) unrouted(http.ResponseWriter, *http.Request) error {
	return textError(http.StatusNotFound, "Not Found")
}

// counts counts the requests of each operation.
type counts struct {
	mu sync.Mutex
	of map[string]int
}

func (c *counts) add(operation string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of == nil {
		c.of = make(map[string]int)
	}
	c.of[operation]++
}

// Count returns how many requests of an operation have arrived so far, whatever became of them. The
// sandbox's own fetches of a client's keys are requests over HTTP and count as "keys".
func (s *Server) Count(op string) int {
	s.counts.mu.Lock()
	defer s.counts.mu.Unlock()
	return s.counts.of[op]
}

// countingRequests counts each request when it arrives and logs the status of the answer.
func (s *Server) countingRequests(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		operation := Operation(r)
		s.counts.add(operation)
		seen := &statusWriter{ResponseWriter: w}
		defer func() { s.log.Debug("request", "operation", operation, "method", r.Method, "status", seen.status) }()
		next.ServeHTTP(seen, r)
	})
}

// statusWriter records the status for the log: 0 if the connection was closed without an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// acceptsJSON reports whether the answer may be JSON, which Rafiki checks before anything else.
func acceptsJSON(r *http.Request) bool {
	header := strings.Join(r.Header.Values("Accept"), ",")
	if strings.TrimSpace(header) == "" {
		return true
	}
	for media := range strings.SplitSeq(header, ",") {
		name, parameters, _ := strings.Cut(media, ";")
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "*/*", "application/*", "application/json":
			if strings.ReplaceAll(parameters, " ", "") != "q=0" {
				return true
			}
		}
	}
	return false
}
