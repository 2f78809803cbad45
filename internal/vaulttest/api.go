// SPDX-License-Identifier: MPL-2.0

package vaulttest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// API is an http.Handler that implements enough of Vault's HTTP API to serve a secrets engine at op/
// in the test's own process: the engine's paths and, like Vault, the leases of its responses.
type API struct {
	// Engine handles the requests to the engine.
	Engine func(context.Context, *logical.Request) (*logical.Response, error)
	// Refuse returns the status of a request that Vault itself refuses, by its token; 0 if it does
	// not. If nil, no request is refused.
	Refuse func(token string) int

	mu     sync.Mutex
	leases map[string]*logical.Response
	number int
}

func (v *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if v.Refuse != nil {
		if status := v.Refuse(r.Header.Get("X-Vault-Token")); status != 0 {
			writeErrors(w, status, "refused")
			return
		}
	}
	req := &logical.Request{Operation: logical.ReadOperation, Data: map[string]any{}, MountPoint: "op/"}
	if r.Method != http.MethodGet {
		req.Operation = logical.UpdateOperation
		_ = json.NewDecoder(r.Body).Decode(&req.Data)
	}
	id, _ := req.Data["lease_id"].(string)
	lease := v.lease(id)
	switch path := strings.TrimPrefix(r.URL.Path, "/v1/"); {
	case strings.HasPrefix(path, "op/"):
		req.Path = strings.TrimPrefix(path, "op/")
	case lease == nil:
		writeErrors(w, http.StatusBadRequest, "lease not found")
		return
	case path == "sys/leases/renew":
		req.Operation, req.Secret, req.Data = logical.RenewOperation, lease.Secret, lease.Data
	case path == "sys/leases/revoke":
		req.Operation, req.Secret, req.Data = logical.RevokeOperation, lease.Secret, lease.Data
	}
	resp, err := v.Engine(r.Context(), req)
	if resp == nil {
		resp = &logical.Response{}
	}
	coded := logical.HTTPCodedError(nil)
	switch {
	case errors.As(err, &coded):
		writeErrors(w, coded.Code(), err.Error())
	case resp.IsError():
		writeErrors(w, http.StatusBadRequest, resp.Error().Error())
	case err != nil:
		writeErrors(w, http.StatusBadRequest, err.Error())
	case req.Operation == logical.RevokeOperation:
		v.forget(id)
		w.WriteHeader(http.StatusNoContent)
	default:
		answer := map[string]any{"data": resp.Data}
		if resp.Secret != nil {
			answer["lease_id"] = v.store(req, id, resp)
			answer["lease_duration"] = int(resp.Secret.TTL.Seconds())
			answer["renewable"] = resp.Secret.Renewable
		}
		_ = json.NewEncoder(w).Encode(answer) //nolint:errchkjson // what the engine returns is JSON
	}
}

func (v *API) store(req *logical.Request, id string, resp *logical.Response) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	if id == "" {
		v.number++
		id = fmt.Sprintf("op/%s/%dLeaseSecret", req.Path, v.number)
		resp.Secret.IssueTime = time.Now()
	}
	if v.leases == nil {
		v.leases = map[string]*logical.Response{}
	}
	v.leases[id] = resp
	return id
}

func (v *API) forget(id string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.leases, id)
}

func (v *API) lease(id string) *logical.Response {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.leases[id]
}

func writeErrors(w http.ResponseWriter, status int, text string) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string][]string{"errors": {text}}) //nolint:errchkjson // strings are JSON
}
