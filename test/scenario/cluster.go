package scenario

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"pubsub/internal/config"
	"pubsub/internal/mqtt"
	"pubsub/internal/testkit/natsserver"
)

// cluster starts nodes that are one broker on a NATS server, and waits until they are ready. They
// have one signing key.
func cluster(t testing.TB, s *natsserver.Server, count int, settings ...func(*config.Config)) []*node {
	t.Helper()
	settings = append([]func(*config.Config){ownBroker(s)}, settings...)
	nodes := []*node{start(t, settings...)}
	for len(nodes) < count {
		n := launch(t, settings...)
		n.key = nodes[0].key
		nodes = append(nodes, n)
	}
	for _, n := range nodes {
		n.ready(200, "ready\n")
	}
	return nodes
}

// A message published on one node reaches the subscribers of the others, by both protocols, with
// its version and properties.
func TestClusterDelivery(t *testing.T) {
	nodes := cluster(t, shared(), 3)
	a, b, c := nodes[0], nodes[1], nodes[2]
	s, d, m := b.adminEvents("topic", "t"), b.adminEvents("topic", "t", "durable", "1"), c.adminClient("t")
	p := a.adminClient()
	check := func(data, version string) {
		t.Helper()
		s.Expect("event: message\ndata: " + data + "\n")
		if version == "" {
			d.Expect("event: message\ndata: " + data + "\n")
		} else if e := d.Next(); e.Data != data || !strings.HasPrefix(e.ID, "t:"+version) {
			t.Fatalf("durable: %q, not %q of version %s", e.Raw, data, version)
		}
		m.Expect("t", data)
	}
	a.publish("t", "plain")
	check("plain", "")
	check("kept", a.publish("t", "kept", "retain=true"))
	check("kept for a while", c.publish("t", "kept for a while", "retain=true", "ttl=60"))
	p.Publish("t", "plain, by MQTT", false)
	check("plain, by MQTT", "")
	kept := mqtt.Publish{Topic: "t", Payload: []byte("kept, by MQTT"), Retain: true, Properties: properties}
	p.Send(&kept)
	s.Expect("event: message\ndata: kept, by MQTT\n")
	if e := d.Next(); e.Data != "kept, by MQTT" || !e.HasID {
		t.Fatalf("durable: %q", e.Raw)
	}
	if got := m.Expect("t", "kept, by MQTT"); string(got.Properties) != string(properties) {
		t.Errorf("properties: % x", got.Properties)
	}
	if got := b.adminClient("t").Expect("t", "kept, by MQTT"); string(got.Properties) != string(properties) || !got.Retain {
		t.Errorf("properties of the retained copy: % x, retain %v", got.Properties, got.Retain)
	}

	// The will of a client is published on all nodes.
	w := b.connect(b.token("t"), mqtt.Connect{Will: &mqtt.Will{Topic: "t", Payload: []byte("will")}})
	w.Conn.Close()
	check("will", "")
}

// A durable subscriber resumes on another node, and gets a clear there.
func TestClusterResume(t *testing.T) {
	nodes := cluster(t, shared(), 2)
	a, b := nodes[0], nodes[1]
	old := a.publish("t", "old", "retain=true")
	gone := a.publish("gone", "x", "retain=true")
	now := b.publish("t", "now", "retain=true")
	a.do("DELETE", a.url("/admin/topics/gone/retained"), asAdmin(), "")
	c := b.adminEvents("topic", "t", "topic", "gone", "durable", "1", "lastEventId", "t:"+old+",gone:"+gone)
	if e := c.Next(); e.Data != "" || !strings.HasPrefix(e.ID, "gone:") {
		t.Errorf("clear: %q", e.Raw)
	}
	e := c.Next()
	if e.Data != "now" || !strings.HasSuffix(e.ID, ",t:"+now) {
		t.Errorf("the retained message: %q, want version %s", e.Raw, now)
	}
	for _, n := range nodes {
		c := n.adminEvents("topic", "t", "topic", "gone", "durable", "1", "lastEventId", e.ID)
		n.publish("t", "next")
		c.Expect("event: message\ndata: next\n")
	}
}

// A retained message from another node reaches a subscriber that has just subscribed, even if it is
// the first one of the topic on its node.
func TestClusterNothingIsLostAfterSubscribing(t *testing.T) {
	nodes := cluster(t, shared(), 2)
	forEachTransport(t, func(t *testing.T, tr transport) {
		for i := range 50 {
			topic := fmt.Sprint(tr.name, i)
			s := tr.subscribe(nodes[0], "", topic)
			nodes[1].publish(topic, topic, "retain=true")
			expectMessages(t, s, topic)
			s.leave()
		}
	})
}

// A second connection with the same client identifier takes over the session, on another node, too.
// Clients of another key or subject may have the same identifier.
func TestClusterTakeover(t *testing.T) {
	nodes := cluster(t, shared(), 2)
	a, b := nodes[0], nodes[1]
	first := a.connect(a.token("t"), mqtt.Connect{ClientID: "c"})
	other := a.connect(a.key.token(nil, nil, claims{"sub": "other"}), mqtt.Connect{ClientID: "c"})
	second := b.connect(b.token("t"), mqtt.Connect{ClientID: "c"})
	first.ExpectEnd(mqtt.SessionTakenOver, 1000)
	third := a.connect(a.token("t"), mqtt.Connect{ClientID: "c"})
	second.ExpectEnd(mqtt.SessionTakenOver, 1000)
	other.Ping()
	third.Ping()
}

// Two connections of one client were made while their nodes could not reach each other. The later
// one stays, on either node.
func TestClusterTakeoverDuringNATSOutage(t *testing.T) {
	s := startNATS(t)
	nodes := cluster(t, s, 2)
	a, b := nodes[0], nodes[1]
	first := a.connect(a.token("t"), mqtt.Connect{ClientID: "c"})
	alone := a.connect(a.token("t"), mqtt.Connect{ClientID: "alone"})
	s.Stop()
	for _, n := range nodes {
		n.ready(503, "backplane unavailable: ")
	}
	second := b.connect(b.token("t"), mqtt.Connect{ClientID: "c"})
	s.MustStart(t)
	first.ExpectEnd(mqtt.SessionTakenOver, 1000)
	alone.Ping()
	second.Ping()
}

// A key made on one node is valid on the others at once. Deleting a key ends the connections of its
// tokens within 5 s, on every node that is connected to NATS.
func TestClusterKeys(t *testing.T) {
	nodes := cluster(t, shared(), 2)
	a, b := nodes[0], nodes[1]
	forEachTransport(t, func(t *testing.T, tr transport) {
		topic := tr.name
		key := a.newKey()
		token := key.token([]string{topic}, []string{topic}, nil)
		here, there := tr.subscribe(a, token, topic), tr.subscribe(b, token, topic)
		stays := tr.subscribe(b, "", topic)
		b.publish(topic, "x")
		for _, s := range []subscriber{here, there, stays} {
			expectMessages(t, s, "x")
		}
		a.deleteKey(key)
		deleted := time.Now()
		here.ends(revoked)
		there.ends(revoked)
		if took := time.Since(deleted); took > 5*time.Second {
			t.Errorf("all ended after %v", took)
		}
		for _, n := range nodes {
			resp, body := n.do("POST", n.url("/events?topic="+topic), map[string]string{"Authorization": "Bearer " + token}, "y")
			if resp.StatusCode != 403 || body != "Invalid token\n" {
				t.Errorf("with the deleted key: %s %q", resp.Status, body)
			}
		}
		a.publish(topic, "z")
		expectMessages(t, stays, "z")
		stays.leave()
	})
}

// GET /admin/topics lists the topics of the whole cluster that have subscribers or a retained
// message, in byte order, page by page, and the same on every node.
func TestClusterTopics(t *testing.T) {
	nodes := cluster(t, shared(), 3)
	version := nodes[0].publish("b", "kept", "retain=true")
	var leaving []subscriber
	for i, n := range nodes {
		for range i + 1 {
			n.adminEvents("topic", "a", "topic", "b")
		}
		leaving = append(leaving, subscribeMQTT(n, "", "a", fmt.Sprint("only ", i)))
	}
	type page struct {
		Topics []struct {
			Topic, Version string
			Subscribers    int
		}
		Next string
	}
	list := func(n *node) (found []string) {
		for after := ""; ; {
			resp, body := n.do("GET", n.url("/admin/topics?limit=2&after="+url.QueryEscape(after)), asAdmin(), "")
			var p page
			if err := json.Unmarshal([]byte(body), &p); err != nil || resp.StatusCode != 200 || len(p.Topics) > 2 {
				t.Fatalf("page of topics: %s %q, %v", resp.Status, body, err)
			}
			for _, e := range p.Topics {
				found = append(found, fmt.Sprintf("%s %d %s", e.Topic, e.Subscribers, e.Version))
			}
			if after = p.Next; after == "" {
				return found
			}
		}
	}
	check := func(want ...string) {
		t.Helper()
		for i, n := range nodes {
			var got []string
			// Nodes learn a moment later of clients that have come or left.
			if !within(func() bool { got = list(n); return strings.Join(got, ",") == strings.Join(want, ",") }) {
				t.Errorf("node %d lists %q, not %q", i, got, want)
			}
		}
	}
	check("a 9 ", "b 6 "+version, "only 0 1 ", "only 1 1 ", "only 2 1 ")
	for _, s := range leaving {
		s.leave()
	}
	check("a 6 ", "b 6 "+version)
	// A node that has stopped does not count any more.
	nodes[2].stop()
	nodes = nodes[:2]
	check("a 3 ", "b 3 "+version)
}

// jetStream returns a connection to a NATS server, like an operator's.
func jetStream(t testing.TB, s *natsserver.Server) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	nc, err := nats.Connect(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return nc, js
}

// prefix returns the prefix of all names of the node's broker in NATS.
func (n *node) prefix() string { return string(n.next.Load().NATSPrefix) }

// The stream of retained messages is deleted while nodes run. /readyz is 503 at once and 200 within
// 15 s. Until then publishing is refused, and the log gives the reason. SSE streams stay open and
// receive later messages, which have a new generation.
func TestClusterStreamLost(t *testing.T) {
	s := startNATS(t)
	nodes := cluster(t, s, 2)
	a, b := nodes[0], nodes[1]
	old := a.publish("t", "old", "retain=true")
	c := b.adminEvents("topic", "t", "durable", "1")
	c.Expect("event: message\nid: t:" + old + "\ndata: old\n")
	_, js := jetStream(t, s)
	stream := a.prefix() + "_retained"
	began := time.Now()
	if err := js.DeleteStream(t.Context(), stream); err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		n.ready(503, "backplane unavailable: stream "+stream+": missing in NATS\n")
	}
	asked := time.Now()
	got, body := a.do("POST", a.url("/events?topic=t&retain=true"), asAdmin(), "refused")
	if got.StatusCode != 503 || body != "Backplane unavailable\n" || time.Since(asked) > 2*time.Second {
		t.Errorf("retained publish: %s %q after %v", got.Status, body, time.Since(asked))
	}
	for _, n := range nodes {
		n.ready(200, "ready\n")
		if log := n.log.String(); !strings.Contains(log, `level=ERROR msg="stream missing in NATS" stream=`+stream) {
			t.Errorf("the log does not name the missing stream: %s", log)
		}
	}
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("ready after %v", took)
	}
	now := a.publish("t", "new", "retain=true")
	if e := c.Next(); e.Data != "new" || e.ID != "t:"+now || now[:16] == old[:16] {
		t.Errorf("%q, want version %s, of another generation than %s", e.Raw, now, old)
	}
	d := a.adminEvents("topic", "t", "durable", "1", "lastEventId", "t:"+old)
	d.Expect("event: message\nid: t:" + now + "\ndata: new\n")
}

// The bucket of signing keys is deleted while nodes run. /readyz is 503 until it is restored.
// Tokens of known keys stay valid, and keys can be neither made nor deleted.
func TestClusterKeyBucketLost(t *testing.T) {
	s := startNATS(t)
	nodes := cluster(t, s, 2)
	a, b := nodes[0], nodes[1]
	c := b.events("topic", "t", "auth", b.token("t"))
	nc, js := jetStream(t, s)
	bucket := "KV_" + a.prefix() + "_keys"
	info, err := js.Stream(t.Context(), bucket)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := info.GetLastMsgForSubject(t.Context(), "$KV."+a.prefix()+"_keys.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteStream(t.Context(), bucket); err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		n.ready(503, "backplane unavailable: stream "+bucket+": missing in NATS\n")
	}
	for _, request := range [][2]string{{"GET", "/admin/keys"}, {"POST", "/admin/keys"}, {"DELETE", "/admin/keys/x"}} {
		asked := time.Now()
		if got, body := a.do(request[0], a.url(request[1]), asAdmin(), ""); got.StatusCode != 503 || time.Since(asked) > 2*time.Second {
			t.Errorf("%s %s: %s %q after %v", request[0], request[1], got.Status, body, time.Since(asked))
		}
	}
	a.publish("t", "goes on", "retain=true")
	c.Expect("event: message\ndata: goes on\n")
	b.events("topic", "t", "auth", b.token("t"))
	if !within(func() bool {
		return strings.Contains(b.log.String(), `level=ERROR msg="key bucket missing in NATS" stream=`+bucket)
	}) {
		t.Errorf("the log does not name the missing bucket: %s", b.log)
	}
	if _, err := js.Stream(t.Context(), bucket); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("the nodes made a new bucket: %v", err)
	}

	// An operator restores the bucket.
	restored := info.CachedInfo().Config
	if _, err := js.CreateStream(t.Context(), restored); err != nil {
		t.Fatal(err)
	}
	if err := nc.Publish(kept.Subject, kept.Data); err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		n.ready(200, "ready\n")
		if got, body := n.do("GET", n.url("/admin/keys"), asAdmin(), ""); got.StatusCode != 200 || !strings.Contains(body, a.key.ID) {
			t.Errorf("GET /admin/keys: %s %q", got.Status, body)
		}
	}
}

// A message in NATS is hardly longer than its content, however long the client identifier is.
func TestClusterSendsNoClientIdentifiers(t *testing.T) {
	s := startNATS(t)
	n := cluster(t, s, 1)[0]
	nc, _ := jetStream(t, s)
	heard, err := nc.SubscribeSync(">")
	if err == nil {
		err = nc.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	m := n.connect(n.token("t"), mqtt.Connect{ClientID: strings.Repeat("c", 1000)})
	m.Subscribe("t")
	const content = "7 bytes"
	m.Publish("t", content, false)
	m.Expect("t", content)
	m.Publish("t", content, true)
	m.Expect("t", content)
	for retained := false; !retained; {
		in, err := heard.NextMsg(patience)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(in.Subject, n.prefix()+".") || strings.HasPrefix(in.Subject, n.prefix()+".i.") {
			continue // NATS's own messages, and replies
		}
		if len(in.Data) > 100 || strings.Contains(string(in.Data), "ccc") {
			t.Errorf("%d bytes sent on %s: %q", len(in.Data), in.Subject, in.Data)
		}
		retained = strings.HasPrefix(in.Subject, n.prefix()+".l.") && in.Header.Get("Nats-Sequence") != ""
	}
}
