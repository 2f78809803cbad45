// SPDX-License-Identifier: MPL-2.0

package main

import (
	"fmt"
	"net/url"
	"strings"
)

// collections are where the resource server's operations begin (OpenAPI document of the resource
// server). What may be done below them is up to op/sign.
var collections = map[string]bool{
	"incoming-payments": true, "quotes": true, "outgoing-payments": true, "outgoing-payment-grant": true,
}

// isOperation reports whether a path, as it is escaped in a URL, begins with a collection.
func isOperation(path string) bool {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return strings.HasPrefix(path, "/") && collections[first]
}

// operationPath returns the path of a request below a resource server, and reports whether it is one
// of an operation. A caller may also send the resource server's own path: that is what is left of
// an id when its origin has been swapped.
func operationPath(resourceServer *url.URL, path string) (string, bool) {
	own := strings.TrimSuffix(resourceServer.EscapedPath(), "/")
	if below, ok := strings.CutPrefix(path, own); ok && isOperation(below) {
		path = below
	}
	// Some SDKs end every path with a slash, or complete a payment at its id, a slash, and the path
	// of the operation.
	path = strings.TrimSuffix(path, "/")
	if payment, ok := strings.CutSuffix(path, "//complete"); ok {
		path = payment + "/complete"
	}
	return path, isOperation(path)
}

// targetURL returns the URL of a request below the resource server, and reports whether it is one of
// an operation. path is escaped, as in a URL.
func targetURL(resourceServer, path, query string) (*url.URL, bool, error) {
	base, err := url.Parse(resourceServer)
	if err != nil {
		return nil, false, fmt.Errorf("read the grant's resource_server: %w", err)
	}
	below, ok := operationPath(base, path)
	if !ok {
		return nil, false, nil
	}
	target := resourceServer + below // not JoinPath, which would resolve ".."
	if query != "" {
		target += "?" + query
	}
	u, err := url.Parse(target)
	return u, err == nil, err
}
