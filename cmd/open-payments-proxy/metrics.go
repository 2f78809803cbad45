// SPDX-License-Identifier: MPL-2.0

package main

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what /metrics shows, beside what the library tells of the process.
type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	inFlight prometheus.Gauge
	replaced *prometheus.CounterVec
}

func newMetrics(registry prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "open_payments_proxy_requests_total",
			Help: "Requests by grant, status, and the code of the proxy's own errors.",
		}, []string{"grant", "status", "error"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "open_payments_proxy_request_duration_seconds",
			Help: "How long requests took, from their headers to the end of the answer.",
		}, []string{"grant"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "open_payments_proxy_requests_in_flight",
			Help: "Requests in progress.",
		}),
		replaced: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "open_payments_proxy_token_replaced_total",
			Help: "How often another reader has replaced the token of a grant.",
		}, []string{"grant"}),
	}
	registry.MustRegister(m.requests, m.duration, m.inFlight, m.replaced)
	return m
}

func (m *metrics) count(x *exchange, took time.Duration) {
	m.requests.WithLabelValues(x.grant, strconv.Itoa(x.status), x.code).Inc()
	m.duration.WithLabelValues(x.grant).Observe(took.Seconds())
}
