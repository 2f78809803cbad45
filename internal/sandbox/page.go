// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
)

// defaultPage is how many payments a list contains if the request does not say.
const defaultPage = 20

// pageRequest is the part of a list that a request asks for.
type pageRequest struct {
	wallet string
	cursor string
	size   int
	before bool // the payments before the cursor, not those after it
}

func parsePage(query url.Values) (pageRequest, error) {
	asked := pageRequest{wallet: query.Get("wallet-address"), cursor: query.Get("cursor"), size: defaultPage}
	if asked.wallet == "" {
		return asked, memberError("wallet-address", "is required")
	}
	if query.Has("cursor") && asked.cursor == "" {
		return asked, memberError("cursor", "must not be empty")
	}
	if query.Has("first") && query.Has("last") {
		return asked, memberError("first", "and last must not be asked for at once")
	}
	for _, name := range []string{"first", "last"} {
		if !query.Has(name) {
			continue
		}
		n, err := strconv.Atoi(query.Get(name))
		if err != nil || n < 1 || n > 100 {
			return asked, memberError(name, "must be an integer from 1 to 100")
		}
		asked.size, asked.before = n, name == "last"
	}
	if asked.before && asked.cursor == "" {
		return asked, memberError("last", "needs a cursor")
	}
	return asked, nil
}

// authorizeList parses and authorizes a request for a list. The list contains the payments of one
// client only, unless client is empty.
func (s *Server) authorizeList(r *http.Request, kind string) (asked pageRequest, client string, err error) {
	body, err := readResourceRequest(r)
	if err != nil {
		return asked, "", err
	}
	if asked, err = parsePage(r.URL.Query()); err != nil {
		return asked, "", resourceError(http.StatusBadRequest, err.Error())
	}
	allowed, err := s.authorize(r, body, kind, "list", asked.wallet)
	if err != nil {
		return asked, "", err
	}
	if !s.isWallet(asked.wallet) {
		return asked, "", resourceError(http.StatusNotFound, "wallet-address is not one of the sandbox's")
	}
	if allowed.all {
		return asked, "", nil
	}
	return asked, allowed.client, nil
}

// page is one part of a list, as the OpenAPI document defines it.
type page[T any] struct {
	Pagination struct {
		StartCursor     string `json:"startCursor,omitempty"`
		EndCursor       string `json:"endCursor,omitempty"`
		HasNextPage     bool   `json:"hasNextPage"`
		HasPreviousPage bool   `json:"hasPreviousPage"`
	} `json:"pagination"`
	Result []T `json:"result"`
}

// paginate returns a page of the whole list; key returns an item's cursor. It reports false if the
// cursor is not in the list.
func paginate[T any](all []T, asked pageRequest, key func(T) string) (page[T], bool) {
	start, end := 0, len(all)
	if asked.cursor != "" {
		at := slices.IndexFunc(all, func(item T) bool { return key(item) == asked.cursor })
		if at < 0 {
			return page[T]{}, false
		}
		start = at + 1
		if asked.before {
			start, end = 0, at
		}
	}
	if asked.before {
		start = max(start, end-asked.size)
	} else {
		end = min(end, start+asked.size)
	}
	var p page[T]
	p.Result = all[start:end]
	p.Pagination.HasPreviousPage, p.Pagination.HasNextPage = start > 0, end < len(all)
	if len(p.Result) > 0 {
		p.Pagination.StartCursor, p.Pagination.EndCursor = key(p.Result[0]), key(p.Result[len(p.Result)-1])
	}
	return p, true
}
