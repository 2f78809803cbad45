// SPDX-License-Identifier: MPL-2.0

package main

import (
	"net/http"
	"testing"
)

// Host may name loopback in every form that clients send, with a port or without one: the PHP SDK
// leaves the port out. It may name nothing else, because a web page's own name can resolve to
// loopback.
func TestHost(t *testing.T) {
	for host, allowed := range map[string]bool{
		"127.0.0.1": true, "127.0.0.1:9700": true, "127.1.2.3:80": true, "localhost": true, "LocalHost:9700": true,
		"[::1]": true, "[::1]:9700": true,
		"": false, "::1": false, "127.0.0.1.evil.example": false, "evil.example": false, "evil.example:9700": false,
		"localhost.evil.example": false, "127.0.0.1:port": false, "127.0.0.1@evil.example": false, "10.0.0.1": false,
	} {
		if f := refuseBrowser(&http.Request{Host: host}); (f == nil) != allowed {
			t.Errorf("Host %q: %v, allowed should be %t", host, f, allowed)
		}
	}
}
