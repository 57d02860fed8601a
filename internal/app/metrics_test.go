package app

import (
	"testing"

	"pubsub/internal/backplane/local"
	"pubsub/internal/backplane/nats"
	"pubsub/internal/hub"
	"pubsub/internal/server"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

// TestMetricNames checks the names and help texts of all metrics against the conventions
// of Prometheus. None of the sources is running.
func TestMetricNames(t *testing.T) {
	m := newMetrics("test")
	m.observeOutput(NewOutput(t.Output()))
	m.observeHub(hub.New(hub.Options{}))
	m.observeSockets(server.NewSockets(server.SocketOptions{}))
	b, err := local.Open(local.Options{InMemory: true})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	m.observeLocal(b)
	n, err := nats.Open(nats.Options{URLs: []string{"nats://127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	m.observeNATS(n)
	m.connections.WithLabelValues("sse")
	m.opened.WithLabelValues("sse")
	m.refused.WithLabelValues("sse", "forbidden")
	m.responses.WithLabelValues("/events", "POST", "200")
	m.accepted("http", 1, true, 1)
	m.unaccepted.WithLabelValues("rate-limit")
	m.dropped.WithLabelValues("packet-too-large")
	m.errors.WithLabelValues("publish")
	m.unreadable.WithLabelValues("key")
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	if len(families) < 60 {
		t.Errorf("%d metrics: too few to be all", len(families))
	}
}
