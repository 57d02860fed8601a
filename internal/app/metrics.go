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

// metrics holds the metrics of /metrics. No label has a value that a client can choose.
type metrics struct {
	registry *prometheus.Registry

	connections *prometheus.GaugeVec
	opened      *prometheus.CounterVec
	refused     *prometheus.CounterVec
	responses   *prometheus.CounterVec
	published   *prometheus.CounterVec
	bytes       *prometheus.CounterVec
	publishing  *prometheus.HistogramVec
	unaccepted  *prometheus.CounterVec
	dropped     *prometheus.CounterVec
	errors      *prometheus.CounterVec
	unreadable  *prometheus.CounterVec
	generations prometheus.Counter // only in a cluster
}

func newMetrics(version string) *metrics {
	m := &metrics{
		registry:    prometheus.NewRegistry(),
		connections: gaugeVec("connections", "Open event streams (sse) and MQTT sessions (mqtt).", "transport"),
		opened:      counterVec("connections_opened_total", "Event streams and MQTT sessions opened.", "transport"),
		refused:     counterVec("connections_refused_total", "Event streams and MQTT sessions refused, by reason.", "transport", "reason"),
		responses:   counterVec("http_responses_total", "HTTP responses, without those that open an event stream or MQTT session.", "route", "method", "status"),
		published:   counterVec("messages_published_total", "Messages accepted from publishers.", "transport", "retain"),
		bytes:       counterVec("published_bytes_total", "Size of the content of messages accepted from publishers.", "transport"),
		publishing: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "pubsub", Name: "publish_duration_seconds",
			Help:    "Time that the backplane took to accept a message.",
			Buckets: prometheus.ExponentialBuckets(25e-6, 4, 10),
		}, []string{"retain"}),
		unaccepted: counterVec("publishes_dropped_total", "Messages from MQTT clients that were not accepted, by reason.", "reason"),
		dropped:    counterVec("messages_dropped_total", "Messages not delivered to a subscriber, by reason.", "reason"),
		errors:     counterVec("errors_total", "Errors, by the operation or part that failed.", "op"),
		unreadable: counterVec("unreadable_records_total", "Stored records that this release cannot read, by kind: key, message or generation.", "kind"),
		generations: prometheus.NewCounter(counterOpts("nats_generation_changes_total",
			"Changes of the generation of the stream of retained messages, which was recreated or restored, or lost messages.")),
	}
	m.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		m.connections, m.opened, m.refused, m.responses, m.published, m.bytes, m.publishing, m.unaccepted, m.errors, m.unreadable,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "pubsub", Name: "build_info", Help: "Always 1; the labels are the versions of the broker and of Go.",
			ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()},
		}, func() float64 { return 1 }),
	)
	return m
}

func gaugeVec(name, help string, labels ...string) *prometheus.GaugeVec {
	return prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "pubsub", Name: name, Help: help}, labels)
}

func counterVec(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(counterOpts(name, help), labels)
}

func counterOpts(name, help string) prometheus.CounterOpts {
	return prometheus.CounterOpts{Namespace: "pubsub", Name: name, Help: help}
}

// gauge registers a gauge whose value another part of the node keeps.
func (m *metrics) gauge(name, help string, value func() float64) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "pubsub", Name: name, Help: help}, value))
}

// counter registers a counter whose value another part of the node keeps.
func (m *metrics) counter(name, help string, value func() float64) {
	m.registry.MustRegister(prometheus.NewCounterFunc(counterOpts(name, help), value))
}

// labelled registers a counter like [metrics.counter] for one value of a label.
func (m *metrics) labelled(name, help, label, labelValue string, value func() float64) {
	o := counterOpts(name, help)
	o.ConstLabels = prometheus.Labels{label: labelValue}
	m.registry.MustRegister(prometheus.NewCounterFunc(o, value))
}

// observeOutput registers the metrics of the log.
func (m *metrics) observeOutput(o *Output) {
	m.counter("log_lines_dropped_total", "Log lines dropped because standard error was not read in time.", func() float64 { return float64(o.Dropped()) })
}

// observeHub registers the metrics of the hub.
func (m *metrics) observeHub(h *hub.Hub) {
	m.gauge("subscriptions", "Current subscriptions of all event streams and MQTT sessions.", func() float64 { return float64(h.Stats().Subscriptions) })
	m.gauge("backlog_bytes", "Memory taken up by messages that at least one subscriber has not read yet.", func() float64 { return float64(h.Stats().BacklogBytes) })
	m.counter("messages_delivered_total", "Messages delivered to subscribers.", func() float64 { return float64(h.Stats().Delivered) })
	m.registry.MustRegister(&dropped{m.dropped, h})
}

// dropped collects the messages that a subscriber did not get. The hub counts the messages
// that slow subscribers lost or that had expired. The CounterVec counts all others.
type dropped struct {
	*prometheus.CounterVec
	hub *hub.Hub
}

// Collect implements [prometheus.Collector].
func (d *dropped) Collect(to chan<- prometheus.Metric) {
	d.CounterVec.Collect(to)
	desc := make(chan *prometheus.Desc, 1)
	d.Describe(desc)
	of := <-desc
	s := d.hub.Stats()
	to <- prometheus.MustNewConstMetric(of, prometheus.CounterValue, float64(s.Dropped), "slow-subscriber")
	to <- prometheus.MustNewConstMetric(of, prometheus.CounterValue, float64(s.Expired), "expired")
}

// observeSockets registers the metrics of the public listener's connections.
func (m *metrics) observeSockets(s *server.Sockets) {
	const closed, closedHelp = "sockets_closed_total", "TCP connections closed by the broker to keep within a limit, by the setting of the limit."
	m.gauge("sockets", "Open TCP connections of clients, idle ones included.", func() float64 { return float64(s.Stats().Open) })
	m.gauge("sockets_max", "Limit on the TCP connections of clients (max-sockets), or 0 for no limit.", func() float64 { return float64(s.Stats().Max) })
	m.labelled(closed, closedHelp, "limit", "max-sockets", func() float64 { return float64(s.Stats().Closed) })
	m.labelled(closed, closedHelp, "limit", "max-connections-per-ip", func() float64 { return float64(s.Stats().ClosedPerIP) })
	m.counter("accept_pauses_total", "Pauses in accepting TCP connections because max-sockets was reached and no connection was idle.", func() float64 { return float64(s.Stats().Waits) })
}

// observeLocal registers the metrics of the embedded store.
func (m *metrics) observeLocal(b *local.Backplane) {
	m.gauge("retained_messages", "Retained messages in the store.", func() float64 { return float64(b.Stats().Retained) })
	m.gauge("retained_bytes", "Size of the retained messages in the store, before compression.", func() float64 { return float64(b.Stats().RetainedBytes) })
	m.gauge("retained_markers", "Markers of topics that were cleared in the last 24 hours.", func() float64 { return float64(b.Stats().Markers) })
	m.gauge("signing_keys", "Signing keys in the store.", func() float64 { return float64(b.Stats().Keys) })
	m.counter("retained_expired_total", "Expired messages and markers removed from the store.", func() float64 { return float64(b.Stats().Expired) })
	m.counter("retained_expired_bytes_total", "Size of the expired messages and markers removed from the store.", func() float64 { return float64(b.Stats().ExpiredBytes) })
	m.gauge("disk_free_bytes", "Free space on the disk of the data directory, or -1 if it is unknown or everything is in memory.", func() float64 { return float64(b.Stats().DiskFree) })
}

// observeNATS registers the metrics of the backplane of a cluster.
func (m *metrics) observeNATS(b *nats.Backplane) {
	m.registry.MustRegister(m.generations)
	m.gauge("nats_connected", "1 if this node is connected to NATS, otherwise 0.", func() float64 {
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
	m.counter("nats_slow_consumer_total", "Losses of messages from NATS because this node was too slow to process them.", func() float64 { return float64(b.Stats().SlowConsumer) })
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
