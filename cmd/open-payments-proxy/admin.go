// SPDX-License-Identifier: MPL-2.0

package main

import (
	"net/http"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// admin answers probes and shows metrics.
type admin struct {
	vault    *vaultLink
	registry *prometheus.Registry
	draining atomic.Bool
}

func (a *admin) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { say(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", a.ready)
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.registry, promhttp.HandlerOpts{}))
	return mux
}

// ready reports whether requests can be served. It rotates nothing, and dials no wallet.
func (a *admin) ready(w http.ResponseWriter, r *http.Request) {
	switch {
	case a.draining.Load():
		say(w, http.StatusServiceUnavailable, "the proxy is stopping")
	case !a.vault.hasToken():
		say(w, http.StatusServiceUnavailable, "there is no Vault token yet")
	case a.vault.reachable(r.Context()) != nil:
		say(w, http.StatusServiceUnavailable, "Vault has not answered within 10 s")
	default:
		say(w, http.StatusOK, "ok")
	}
}

func say(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text + "\n"))
}
