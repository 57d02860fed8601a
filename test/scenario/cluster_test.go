package scenario_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"pubsub/internal/config"
	"pubsub/internal/mqtt"
)

// cluster starts nodes that are one broker on a NATS server, and ready. All have the
// first one's key.
func cluster(t testing.TB, s *natsServer, count int, settings ...func(*config.Config)) []*node {
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

// Whatever is published on one node reaches the subscribers of the others, by
// either protocol, with all that travels with it.
func TestClusterDelivery(t *testing.T) {
	nodes := cluster(t, shared(), 3)
	a, b, c := nodes[0], nodes[1], nodes[2]
	s, d, m := b.adminEvents("topic", "t"), b.adminEvents("topic", "t", "durable", "1"), c.adminClient("t")
	p := a.adminClient()
	check := func(data, version string) {
		t.Helper()
		s.expect("event: message\ndata: " + data + "\n")
		if version == "" {
			d.expect("event: message\ndata: " + data + "\n")
		} else if e := d.next(); e.data != data || !strings.HasPrefix(e.id, "t:"+version) {
			t.Fatalf("durable: %q, not %q of version %s", e.raw, data, version)
		}
		m.expect("t", data)
	}
	a.publish("t", "plain")
	check("plain", "")
	check("kept", a.publish("t", "kept", "retain=true"))
	check("kept for a while", c.publish("t", "kept for a while", "retain=true", "ttl=60"))
	p.publish("t", "plain, by MQTT", false)
	check("plain, by MQTT", "")
	kept := mqtt.Publish{Topic: "t", Payload: []byte("kept, by MQTT"), Retain: true, Properties: properties}
	p.send(&kept)
	s.expect("event: message\ndata: kept, by MQTT\n")
	if e := d.next(); e.data != "kept, by MQTT" || !e.hasID {
		t.Fatalf("durable: %q", e.raw)
	}
	if got := m.expect("t", "kept, by MQTT"); string(got.Properties) != string(properties) {
		t.Errorf("properties: % x", got.Properties)
	}
	if got := b.adminClient("t").expect("t", "kept, by MQTT"); string(got.Properties) != string(properties) || !got.Retain {
		t.Errorf("properties of the retained copy: % x, retain %v", got.Properties, got.Retain)
	}

	// A will of one node's client is published for all.
	w := b.connect(b.token("t"), mqtt.Connect{Will: &mqtt.Will{Topic: "t", Payload: []byte("will")}})
	w.conn.Close()
	check("will", "")
}

// A durable subscriber goes on at another node where it was, and learns there of a
// clear.
func TestClusterResume(t *testing.T) {
	nodes := cluster(t, shared(), 2)
	a, b := nodes[0], nodes[1]
	old := a.publish("t", "old", "retain=true")
	gone := a.publish("gone", "x", "retain=true")
	now := b.publish("t", "now", "retain=true")
	a.do("DELETE", a.url("/admin/topics/gone/retained"), asAdmin(), "")
	c := b.adminEvents("topic", "t", "topic", "gone", "durable", "1", "lastEventId", "t:"+old+",gone:"+gone)
	if e := c.next(); e.data != "" || !strings.HasPrefix(e.id, "gone:") {
		t.Errorf("the clear: %q", e.raw)
	}
	e := c.next()
	if e.data != "now" || !strings.HasSuffix(e.id, ",t:"+now) {
		t.Errorf("%q", e.raw)
	}
	for _, n := range nodes {
		c := n.adminEvents("topic", "t", "topic", "gone", "durable", "1", "lastEventId", e.id)
		n.publish("t", "next")
		c.expect("event: message\ndata: next\n")
	}
}

// "What is published after a client has seen it, reaches it": a retained message
// from another node, however soon, when a topic is new on a node.
func TestClusterNothingIsLostAfterTheSubscription(t *testing.T) {
	nodes := cluster(t, shared(), 2)
	forEachMode(t, func(t *testing.T, m mode) {
		for i := range 50 {
			topic := fmt.Sprint(m.name, i)
			s := m.subscribe(nodes[0], "", topic)
			nodes[1].publish(topic, topic, "retain=true")
			if got := s.next(); got != topic {
				t.Fatalf("%q", got)
			}
			s.leave()
		}
	})
}

// "A second connection of the same one takes over": on another node, too. "Other
// owners' live side by side."
func TestClusterTakeOver(t *testing.T) {
	nodes := cluster(t, shared(), 2)
	a, b := nodes[0], nodes[1]
	first := a.connect(a.token("t"), mqtt.Connect{ClientID: "c"})
	other := a.connect(a.key.token(nil, nil, claims{"sub": "other"}), mqtt.Connect{ClientID: "c"})
	second := b.connect(b.token("t"), mqtt.Connect{ClientID: "c"})
	first.ended(mqtt.SessionTakenOver, 1000)
	third := a.connect(a.token("t"), mqtt.Connect{ClientID: "c"})
	second.ended(mqtt.SessionTakenOver, 1000)
	other.ping()
	third.ping()
}

// Of two connections that were made while their nodes did not hear of each other, the
// later one stays, whichever node it is on.
func TestClusterTakeOverWhileNATSIsAway(t *testing.T) {
	t.Parallel()
	s := startNATS(t)
	nodes := cluster(t, s, 2)
	a, b := nodes[0], nodes[1]
	first := a.connect(a.token("t"), mqtt.Connect{ClientID: "c"})
	alone := a.connect(a.token("t"), mqtt.Connect{ClientID: "alone"})
	s.stop()
	for _, n := range nodes {
		n.ready(503, "backplane unavailable\n")
	}
	second := b.connect(b.token("t"), mqtt.Connect{ClientID: "c"})
	s.start(t)
	first.ended(mqtt.SessionTakenOver, 1000)
	alone.ping()
	second.ping()
}

// A key that one node has made is good at once on the others. "Deleting a key ends
// what it admitted, on every node that is connected, within 5 s": the one time that
// the contract gives for something that takes none.
func TestClusterKeys(t *testing.T) {
	nodes := cluster(t, shared(), 2)
	a, b := nodes[0], nodes[1]
	forEachMode(t, func(t *testing.T, m mode) {
		key := a.newKey()
		token := key.token([]string{"t"}, []string{"t"}, nil)
		here, there := m.subscribe(a, token, "t"), m.subscribe(b, token, "t")
		stays := m.subscribe(b, "", "t")
		b.publish("t", "x")
		for _, s := range []subscriber{here, there, stays} {
			if got := s.next(); got != "x" {
				t.Fatalf("%q", got)
			}
		}
		a.deleteKey(key)
		deleted := time.Now()
		here.ends(revoked)
		there.ends(revoked)
		if took := time.Since(deleted); took > 5*time.Second {
			t.Errorf("all have ended after %v", took)
		}
		for _, n := range nodes {
			resp, body := n.do("POST", n.url("/events?topic=t"), map[string]string{"Authorization": "Bearer " + token}, "y")
			if resp.StatusCode != 403 || body != "Invalid token\n" {
				t.Errorf("with the deleted key: %s %q", resp.Status, body)
			}
		}
		a.publish("t", "z")
		if got := stays.next(); got != "z" {
			t.Fatalf("%q", got)
		}
		stays.leave()
	})
}

// GET /admin/topics is "cluster-wide, in byte order: every topic that has
// subscribers or a retained message", page by page, and the same on every node.
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
				t.Fatalf("%s %q: %v", resp.Status, body, err)
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
			// A node that has just come is known a moment later, and so is who has left.
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
	// A node that stops is asked no more.
	nodes[2].stop()
	nodes = nodes[:2]
	check("a 3 ", "b 3 "+version)
}
