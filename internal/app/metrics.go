package app

import (
	"net/http"
	"runtime"
	"strconv"
	"time"

	"pubsub/internal/backplane/local"
	"pubsub/internal/hub"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics are what /metrics shows. No label takes a value that a client can
// choose.
type metrics struct {
	registry *prometheus.Registry

	connections *prometheus.GaugeVec
	connected   *prometheus.CounterVec
	refused     *prometheus.CounterVec
	responses   *prometheus.CounterVec
	published   *prometheus.CounterVec
	bytes       *prometheus.CounterVec
	publishing  *prometheus.HistogramVec
	dropped     *prometheus.CounterVec
	undelivered *prometheus.CounterVec
	failures    prometheus.Counter
}

func newMetrics(version string) *metrics {
	m := &metrics{
		registry:    prometheus.NewRegistry(),
		connections: gaugeVec("connections", "Streams and sessions now.", "transport"),
		connected:   counterVec("connections_total", "Streams and sessions begun.", "transport"),
		refused:     counterVec("connections_refused_total", "Streams and sessions refused.", "transport", "reason"),
		responses:   counterVec("http_responses_total", "Responses to requests that are no streams.", "route", "method", "status"),
		published:   counterVec("messages_published_total", "Messages accepted.", "transport", "retain"),
		bytes:       counterVec("published_bytes_total", "Bytes of content of messages accepted.", "transport"),
		publishing: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "pubsub", Name: "publish_seconds",
			Help:    "Time that the backplane took to accept a message.",
			Buckets: prometheus.ExponentialBuckets(25e-6, 4, 10),
		}, []string{"retain"}),
		undelivered: counterVec("deliveries_dropped_total", "Messages not handed to a client for a reason other than its being slow.", "reason"),
		dropped:     counterVec("publishes_dropped_total", "Messages of MQTT clients that were not accepted.", "reason"),
		failures:    prometheus.NewCounter(prometheus.CounterOpts{Namespace: "pubsub", Name: "failures_total", Help: "Things that failed and were logged as errors."}),
	}
	m.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		m.connections, m.connected, m.refused, m.responses, m.published, m.bytes, m.publishing, m.dropped, m.undelivered, m.failures,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "pubsub", Name: "build_info", Help: "1, with the version.",
			ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()},
		}, func() float64 { return 1 }),
	)
	return m
}

func gaugeVec(name, help string, labels ...string) *prometheus.GaugeVec {
	return prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "pubsub", Name: name, Help: help}, labels)
}

func counterVec(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "pubsub", Name: name, Help: help}, labels)
}

// observe adds what the hub and the store count themselves.
func (m *metrics) observe(h *hub.Hub, b *local.Backplane) {
	add := func(counter bool, name, help string, value func() float64) {
		o := prometheus.Opts{Namespace: "pubsub", Name: name, Help: help}
		if counter {
			m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts(o), value))
		} else {
			m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts(o), value))
		}
	}
	gauge := func(name, help string, value func() float64) { add(false, name, help, value) }
	counter := func(name, help string, value func() float64) { add(true, name, help, value) }

	gauge("subscriptions", "Topics subscribed to now, over all clients.", func() float64 { return float64(h.Stats().Subscriptions) })
	gauge("backlog_bytes", "Messages that some subscriber has not read yet.", func() float64 { return float64(h.Stats().BacklogBytes) })
	counter("messages_delivered_total", "Messages handed to subscribers.", func() float64 { return float64(h.Stats().Delivered) })
	counter("messages_dropped_total", "Messages, not retained, that a slow subscriber lost.", func() float64 { return float64(h.Stats().Dropped) })
	counter("messages_expired_total", "Messages not handed to a subscriber because they had expired.", func() float64 { return float64(h.Stats().Expired) })

	gauge("retained_messages", "Retained messages.", func() float64 { return float64(b.Stats().Retained) })
	gauge("retained_bytes", "Size of the retained messages.", func() float64 { return float64(b.Stats().RetainedBytes) })
	gauge("retained_markers", "Markers of topics cleared lately.", func() float64 { return float64(b.Stats().Markers) })
	gauge("signing_keys", "Signing keys.", func() float64 { return float64(b.Stats().Keys) })
	counter("retained_swept_total", "Expired messages and old markers removed.", func() float64 { return float64(b.Stats().Swept) })
	counter("retained_swept_bytes_total", "Size of what was removed.", func() float64 { return float64(b.Stats().SweptBytes) })
	gauge("disk_free_bytes", "Free space on the data directory's disk, -1 if there is none.", func() float64 { return float64(b.Stats().DiskFree) })
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

func (m *metrics) accepted(transport string, size int, retain bool, took time.Duration) {
	m.published.WithLabelValues(transport, strconv.FormatBool(retain)).Inc()
	m.bytes.WithLabelValues(transport).Add(float64(size))
	m.publishing.WithLabelValues(strconv.FormatBool(retain)).Observe(took.Seconds())
}
