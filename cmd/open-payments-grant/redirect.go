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

// landing is the page on loopback on which the owner's browser lands after the
// decision. Its path is known only to who was asked, so that no other page can
// send a browser here.
type landing struct {
	uri    string
	came   chan string // whole URLs: secrets
	server *http.Server
}

const landingPage = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>%[1]s</title>
<h1>%[1]s</h1>
<p>%[2]s</p>
</html>
`

func land() (*landing, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen on loopback for the owner's browser (-poll does without): %w", err)
	}
	path := "/" + rand.Text()
	to := &landing{uri: "http://" + l.Addr().String() + path, came: make(chan string, 1)}
	to.server = &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != l.Addr().String() || r.URL.Path != path || r.Method != http.MethodGet {
			http.NotFound(w, r)
			return
		}
		to.answer(w, r)
	})}
	go func() { _ = to.server.Serve(l) }() // ends with close
	return to, nil
}

func (to *landing) answer(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	q := r.URL.Query()
	if !q.Has("interact_ref") && !q.Has("result") {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, landingPage, "Something is missing", "The address of this page does not hold a wallet's answer.")
		return
	}
	select {
	case to.came <- to.uri + "?" + r.URL.RawQuery:
	default: // one is being dealt with
	}
	fmt.Fprintf(w, landingPage, "You can close this window", "How it went is said where open-payments-grant was started.")
}

// close lets the browser have its page first.
func (to *landing) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if to.server.Shutdown(ctx) != nil {
		_ = to.server.Close()
	}
}
