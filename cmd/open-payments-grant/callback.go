// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/http"
	"time"
)

// callback is the page on loopback to which the owner's browser is redirected after the decision.
// Its path and state are random and known only to the authorization server and the owner's browser,
// so that no other web page can send a browser here. The engine takes a refusal for the owner's word
// because of the state.
type callback struct {
	uri       string      // the finish URI
	redirects chan string // the URLs at which the browser arrived: secrets
	state     string
	server    *http.Server
}

const callbackPage = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>%[1]s</title>
<h1>%[1]s</h1>
<p>%[2]s</p>
</html>
`

func startCallback() (*callback, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen on loopback for the owner's browser (-poll needs no port): %w", err)
	}
	path, state := "/"+rand.Text(), rand.Text()
	c := &callback{
		uri:       "http://" + l.Addr().String() + path + "?state=" + state,
		redirects: make(chan string, 1),
		state:     state,
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != l.Addr().String() || r.URL.Path != path || r.Method != http.MethodGet {
			http.NotFound(w, r)
			return
		}
		c.serve(w, r)
	})
	c.server = &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: handler}
	go func() { _ = c.server.Serve(l) }() // until close
	return c, nil
}

func (c *callback) serve(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	q := r.URL.Query()
	if q.Get("state") != c.state || !q.Has("interact_ref") && !q.Has("result") {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(
			w,
			callbackPage,
			"Something is missing",
			"The URL of this page does not contain the wallet's answer.",
		)
		return
	}
	select {
	case c.redirects <- "http://" + r.Host + r.URL.RequestURI(): // as it came
	default: // an earlier one has not been taken yet
	}
	fmt.Fprintf(w, callbackPage, "You can close this window",
		"open-payments-grant prints the result where it was started.")
}

// close stops the server, and gives the browser a second to load its page.
func (c *callback) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if c.server.Shutdown(ctx) != nil {
		_ = c.server.Close()
	}
}
