package app

import (
	"net/http"
	"runtime"
	"strconv"
	"time"

	"pubsub/internal/backplane/local"
	"pubsub/internal/backplane/nats"
	"pubsub/internal/hub"
	"pubsub/internal/server"

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
	errors      *prometheus.CounterVec
	unreadable  *prometheus.CounterVec
	generations prometheus.Counter // of a cluster only
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
		errors:      counterVec("errors_total", "Errors logged, by operation.", "op"),
		unreadable:  counterVec("unreadable_records_total", "Stored records that this release cannot read, by kind: key, message or generation.", "kind"),
		generations: prometheus.NewCounter(prometheus.CounterOpts{Namespace: "pubsub", Name: "nats_generation_changes_total", Help: "Times that the stream of retained messages was recreated or restored, or lost messages."}),
	}
	m.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		m.connections, m.connected, m.refused, m.responses, m.published, m.bytes, m.publishing, m.dropped, m.undelivered, m.errors, m.unreadable,
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

// gauge adds what somebody else knows.
func (m *metrics) gauge(name, help string, value func() float64) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "pubsub", Name: name, Help: help}, value))
}

// counter adds what somebody else counts.
func (m *metrics) counter(name, help string, value func() float64) {
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "pubsub", Name: name, Help: help}, value))
}

// observeOutput adds the metrics of the log.
func (m *metrics) observeOutput(o *Output) {
	m.counter("log_dropped_total", "Log lines dropped because nobody read them.", func() float64 { return float64(o.Dropped()) })
}

// observeHub adds what the hub counts itself.
func (m *metrics) observeHub(h *hub.Hub) {
	m.gauge("subscriptions", "Topics subscribed to now, over all clients.", func() float64 { return float64(h.Stats().Subscriptions) })
	m.gauge("backlog_bytes", "Memory for messages that some subscriber has not read yet.", func() float64 { return float64(h.Stats().BacklogBytes) })
	m.counter("messages_delivered_total", "Messages handed to subscribers.", func() float64 { return float64(h.Stats().Delivered) })
	m.counter("messages_dropped_total", "Messages, not retained, that a slow subscriber lost.", func() float64 { return float64(h.Stats().Dropped) })
	m.counter("messages_expired_total", "Messages not handed to a subscriber because they had expired.", func() float64 { return float64(h.Stats().Expired) })
}

// observeSockets adds the metrics of the public listener's connections.
func (m *metrics) observeSockets(s *server.Sockets) {
	m.gauge("sockets", "TCP connections open now, idle ones included.", func() float64 { return float64(s.Stats().Open) })
	m.gauge("sockets_max", "TCP connections that may be open, by max-sockets; 0 is no limit.", func() float64 { return float64(s.Stats().Max) })
	m.counter("sockets_closed_total", "Idle TCP connections closed for new ones because max-sockets was reached.", func() float64 { return float64(s.Stats().Closed) })
	m.counter("sockets_closed_per_ip_total", "TCP connections closed because max-connections-per-ip was reached.", func() float64 { return float64(s.Stats().ClosedPerIP) })
	m.counter("sockets_waits_total", "Times that accepting paused because max-sockets was reached and no connection idled.", func() float64 { return float64(s.Stats().Waits) })
}

// observeLocal adds what the embedded store counts itself.
func (m *metrics) observeLocal(b *local.Backplane) {
	m.gauge("retained_messages", "Retained messages.", func() float64 { return float64(b.Stats().Retained) })
	m.gauge("retained_bytes", "Size of the retained messages.", func() float64 { return float64(b.Stats().RetainedBytes) })
	m.gauge("retained_markers", "Markers of topics cleared lately.", func() float64 { return float64(b.Stats().Markers) })
	m.gauge("signing_keys", "Signing keys.", func() float64 { return float64(b.Stats().Keys) })
	m.counter("retained_swept_total", "Expired messages and old markers removed.", func() float64 { return float64(b.Stats().Expired) })
	m.counter("retained_swept_bytes_total", "Size of what was removed.", func() float64 { return float64(b.Stats().ExpiredBytes) })
	m.gauge("disk_free_bytes", "Free space on the data directory's disk, -1 if there is none.", func() float64 { return float64(b.Stats().DiskFree) })
}

// observeNATS adds what the backplane of a cluster counts itself.
func (m *metrics) observeNATS(b *nats.Backplane) {
	m.registry.MustRegister(m.generations)
	m.gauge("nats_connected", "1 if this node is connected to NATS, else 0.", func() float64 {
		if b.Stats().Connected {
			return 1
		}
		return 0
	})
	m.gauge("nats_stream_faults", "Streams in NATS that are missing or unusable, 0 to 2.", func() float64 { return float64(b.Stats().Faults) })
	m.gauge("nats_nodes", "Nodes of the cluster that this node knows, including itself.", func() float64 { return float64(b.Stats().Nodes) })
	m.gauge("nats_subscribed_topics", "Topics that this node is subscribed to in NATS, including those left in the last seconds.", func() float64 { return float64(b.Stats().Subscribed) })
	m.counter("nats_reconnects_total", "Connections to NATS after the first.", func() float64 { return float64(b.Stats().Reconnects) })
	m.counter("nats_resyncs_total", "Searches of the stream for retained messages that this node missed.", func() float64 { return float64(b.Stats().Resyncs) })
	m.counter("nats_missed_messages_total", "Missed retained messages that a search found and delivered.", func() float64 { return float64(b.Stats().Missed) })
	m.counter("nats_slow_consumer_total", "Times that messages from NATS were dropped because this node was slow to process them.", func() float64 { return float64(b.Stats().SlowConsumer) })
	m.counter("nats_publish_retries_total", "Retained messages sent to NATS again because no acknowledgement arrived.", func() float64 { return float64(b.Stats().PublishRetries) })
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

func (m *metrics) accepted(transport string, size int, retain bool, took time.Duration) {
	m.published.WithLabelValues(transport, strconv.FormatBool(retain)).Inc()
	m.bytes.WithLabelValues(transport).Add(float64(size))
	m.publishing.WithLabelValues(strconv.FormatBool(retain)).Observe(took.Seconds())
}
