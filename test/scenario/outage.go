package scenario

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"pubsub/internal/config"
	"pubsub/internal/mqtt"
	"pubsub/internal/testkit/wire"
)

// ready waits until /readyz answers with the status and a body that begins with body.
func (n *node) ready(status int, body string) {
	n.t.Helper()
	var got *http.Response
	var text string
	if !within(func() bool {
		got, text = n.do("GET", "http://"+n.ops+"/readyz", nil, "")
		return got.StatusCode == status && strings.HasPrefix(text, body)
	}) {
		n.t.Fatalf("/readyz: %s %q, want %d %q", got.Status, text, status, body)
	}
}

// healthy checks that /healthz answers 200.
func (n *node) healthy() {
	n.t.Helper()
	if resp, body := n.do("GET", "http://"+n.ops+"/healthz", nil, ""); resp.StatusCode != 200 || body != "ok\n" {
		n.t.Errorf("/healthz: %s %q", resp.Status, body)
	}
}

// refuses sends requests concurrently and checks that all of them fail for lack of a backplane: a
// GET /events with an event, others with 503 "Backplane unavailable". Each response must say when
// to retry.
func (n *node) refuses(requests ...[2]string) {
	n.t.Helper()
	var wg sync.WaitGroup
	for _, r := range requests {
		wg.Go(func() {
			resp, body, err := n.request(r[0], n.url(r[1]), asAdmin(), "x")
			if err != nil {
				n.t.Errorf("%q: %v", r, err)
				return
			}
			after := resp.Header.Get("Retry-After")
			wait, _ := strconv.Atoi(after)
			ok := resp.StatusCode == 503 && body == "Backplane unavailable\n" && wait >= 1 && wait <= 60
			if r[0] == "GET" && strings.HasPrefix(r[1], "/events") {
				event, complete := strings.CutSuffix(body, "\n")
				ok = resp.StatusCode == 200 && complete && wire.IsError(event, "internal-server-error", "Failed to read message from storage")
			}
			if !ok {
				n.t.Errorf("%q: %s %q, Retry-After %q", r, resp.Status, body, after)
			}
		})
	}
	wg.Wait()
}

// During an outage of NATS, streams stay open with keep-alives, and /readyz is 503. A POST gets 503
// with Retry-After, an MQTT publish is dropped and counted, and a new stream is refused with a
// retry. All of it recovers by itself, and no client has to reconnect.
func TestClusterNATSOutage(t *testing.T) {
	s := startNATS(t)
	nodes := cluster(t, s, 2, func(c *config.Config) { c.SSEKeepAlive = 200 * time.Millisecond })
	a, b := nodes[0], nodes[1]
	d, plain, m := b.adminEvents("topic", "t", "durable", "1"), b.adminEvents("topic", "t"), b.adminClient("t")
	p := b.adminClient()
	expect := func(data, version string) {
		t.Helper()
		if e := d.NextMessage(); e.Data != data || e.ID != "t:"+version {
			t.Fatalf("durable: %q, want %q of version %s", e.Raw, data, version)
		}
		if e := plain.NextMessage(); e.Data != data {
			t.Fatalf("plain: %q, want %q", e.Raw, data)
		}
		m.Expect("t", data)
	}
	expect("before", a.publish("t", "before", "retain=true"))
	connected := b.metric("pubsub_connections_opened_total")
	if got := b.metric("pubsub_nats_connected"); got != 1 {
		t.Errorf("pubsub_nats_connected is %v", got)
	}

	s.Stop()
	for _, n := range nodes {
		n.ready(503, "backplane unavailable: ")
		n.healthy()
	}
	if got := b.metric("pubsub_nats_connected"); got != 0 {
		t.Errorf("pubsub_nats_connected is %v", got)
	}
	const dropped = `pubsub_publishes_dropped_total{reason="backplane"}`
	before := b.metric(dropped)
	p.Publish("t", "plain, lost", false)
	p.Publish("t", "retained, lost", true)
	p.Publish("u", "plain, lost", false)
	p.Ping() // the outage does not delay it
	m.Ping()
	b.refuses([][2]string{
		{"GET", "/events?topic=t&durable=1"}, // the node has subscribed to t already
		{"GET", "/events?topic=new&durable=1"}, {"GET", "/events?topic=new"},
		{"POST", "/events?topic=t"}, {"POST", "/events?topic=t&retain=true"}, {"POST", "/events?topic=u"},
		{"POST", "/admin/keys"}, {"GET", "/admin/keys"}, {"DELETE", "/admin/keys/" + b.key.ID},
		{"GET", "/admin/topics"}, {"DELETE", "/admin/topics/t/retained"},
	}...)
	if !within(func() bool { return b.metric(dropped) == before+3 }) {
		t.Errorf("%v publishes are counted as dropped, not 3", b.metric(dropped)-before)
	}
	for _, c := range []*wire.SSE{d, plain} {
		if e := c.Next(); e.Raw != "event: keep-alive\ndata: \n" {
			t.Errorf("during the outage: %q", e.Raw)
		}
	}
	if log := b.log.String(); !strings.Contains(log, `level=WARN msg="NATS connection lost"`) {
		t.Error("the lost connection is not logged")
	}

	s.MustStart(t)
	for _, n := range nodes {
		n.ready(200, "ready\n")
	}
	expect("after", a.publish("t", "after", "retain=true"))
	p.Publish("t", "by MQTT", false)
	for _, c := range []*wire.SSE{d, plain} {
		if e := c.NextMessage(); e.Data != "by MQTT" {
			t.Errorf("after the outage: %q", e.Raw)
		}
	}
	m.Expect("t", "by MQTT")
	if got := b.metric("pubsub_connections_opened_total"); got != connected {
		t.Errorf("%v clients reconnected", got-connected)
	}
	if got := b.metric("pubsub_nats_reconnects_total"); got < 1 {
		t.Errorf("%v reconnects", got)
	}
}

// A client that publishes by MQTT during an outage of NATS is served as usual. Its messages are
// dropped in time, however many there are.
func TestClusterMQTTPublishDuringNATSOutage(t *testing.T) {
	s := startNATS(t)
	n := cluster(t, s, 1)[0]
	p := n.adminClient()
	s.Stop()
	n.ready(503, "backplane unavailable: ")
	const many = 2000
	var ps []mqtt.Packet
	for i := range many {
		ps = append(ps, &mqtt.Publish{Topic: "t", Payload: []byte(strconv.Itoa(i)), Retain: i%2 == 0})
	}
	go p.Conn.Write(wire.AppendFrame(nil, wire.FIN|wire.OpBinary, wire.AppendPackets(nil, ps...)))
	s.MustStart(t)
	n.ready(200, "ready\n")
	accepted := func() float64 { return n.metric(`pubsub_messages_published_total{retain="`) }
	const dropped = `pubsub_publishes_dropped_total{reason="backplane"}`
	if !within(func() bool { return accepted()+n.metric(dropped) == many }) {
		t.Fatalf("of %d messages %v were accepted and %v dropped", many, accepted(), n.metric(dropped))
	}
	p.Ping()
}

// A node that starts during an outage of NATS logs it and serves: it is healthy, not ready, and
// refuses publishes with 503. It becomes ready when NATS is back.
func TestClusterStartsBeforeNATS(t *testing.T) {
	s, err := newNATS(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	n := launch(t, ownBroker(s))
	n.healthy()
	n.ready(503, "signing keys not known yet: the broker has not been set up in NATS yet\n")
	n.refuses([][2]string{
		{"POST", "/events?topic=t"}, {"POST", "/events?topic=t&retain=1"}, {"POST", "/admin/keys"}, {"GET", "/admin/topics"}, {"GET", "/events?topic=t"},
	}...)
	// The node does not know the token's key yet.
	token := signingKey{"0123456789abcdef", "value"}.token(nil, []string{"t"}, nil)
	if resp, body := n.do("POST", n.url("/events?topic=t"), map[string]string{"Authorization": "Bearer " + token}, "x"); resp.StatusCode != 503 || body != "Backplane unavailable\n" {
		t.Errorf("with a token: %s %q", resp.Status, body)
	}
	log := n.log.String()
	if !strings.Contains(log, `level=WARN msg="waiting for NATS" error="cannot connect to NATS: `) || strings.Contains(log, "cluster ready") {
		t.Errorf("the log: %s", log)
	}
	if lines := strings.Count(log, "waiting for NATS"); lines > 3 {
		t.Errorf("the log says %d times that the node waits for NATS", lines)
	}

	s.MustStart(t)
	n.ready(200, "ready\n")
	n.key = n.newKey()
	v := n.publish("t", "x", "retain=true")
	n.events("topic", "t", "durable", "1", "auth", n.token("t")).Expect("event: message\nid: t:" + v + "\ndata: x\n")
	if !strings.Contains(n.log.String(), `msg="cluster ready"`) {
		t.Error("the ready cluster is not logged")
	}
}

// A node that waits for NATS can be stopped.
func TestClusterStopsBeforeNATS(t *testing.T) {
	s, err := newNATS(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	n := launch(t, ownBroker(s))
	n.stop()
}
