// SPDX-License-Identifier: MPL-2.0

package main

import (
	"mime"
	"net"
	"net/http"
	"net/url"
)

// refuseBrowser returns a failure if a page in a browser may have sent the request. A page reaches
// loopback in two ways: across origins, which the browser says in Origin or Sec-Fetch-Site, and
// through a name of its own that resolves to loopback (DNS rebinding), which then stands in Host.
// What a page can send without either is a GET, whose answer it cannot read, and a POST of a type
// that a form can have. Sec-Fetch-Mode is no sign of a browser: Node.js sends it.
func refuseBrowser(r *http.Request) *failure {
	if !isLoopback((&url.URL{Host: r.Host}).Hostname()) || !hasValidPort(r.Host) {
		return forbidden("not_loopback", "the Host header must name loopback, such as 127.0.0.1 or localhost: "+
			"another name may be a web page's")
	}
	if len(r.Header.Values("Origin")) > 0 {
		return forbidden("browser", "requests of web pages (with an Origin header) are refused")
	}
	for _, site := range r.Header.Values("Sec-Fetch-Site") {
		if site != "none" {
			return forbidden("browser", "requests of web pages (with a Sec-Fetch-Site other than none) are refused")
		}
	}
	return nil
}

func hasValidPort(host string) bool {
	if ip := net.ParseIP(host); ip != nil && ip.To4() == nil { // IPv6 without brackets
		return false
	}
	_, err := url.Parse("http://" + host)
	return err == nil
}

// refuseType returns a failure for a POST whose body is not JSON, which is the only type that a page
// cannot send to another origin without asking first.
func refuseType(method string, types []string, body []byte) *failure {
	if method != http.MethodPost || len(body) == 0 {
		return nil
	}
	if len(types) == 1 {
		if kind, _, err := mime.ParseMediaType(types[0]); err == nil && kind == "application/json" {
			return nil
		}
	}
	return &failure{
		status: http.StatusUnsupportedMediaType, code: "content_type", proxyError: requestDenied,
		description: "a POST with a body must have Content-Type: application/json",
	}
}
