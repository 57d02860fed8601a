package scenario

import (
	"bytes"
	"testing"
	"time"

	"pubsub/internal/mqtt"
	"pubsub/internal/testkit/wire"
)

// A will is published as the client's own message when its connection ends without DISCONNECT 0x00,
// if its token still permits it: not after the token has expired or its key has been deleted.
func TestWill(t *testing.T) {
	for _, tt := range []struct {
		name  string
		token func(n *node) string
		end   func(n *node, m *wire.MQTT)
		want  bool
	}{
		{"the connection is lost", nil, func(_ *node, m *wire.MQTT) { m.Conn.Close() }, true},
		{"close frame alone", nil, func(_ *node, m *wire.MQTT) { m.WriteFrame(wire.FIN|wire.OpClose, []byte{3, 0xe8}); m.ExpectClose(1000) }, true},
		{"DISCONNECT 0x00", nil, func(_ *node, m *wire.MQTT) { m.Send(&mqtt.Disconnect{}); m.ExpectClose(1000) }, false},
		{"DISCONNECT 0x00, then lost", nil, func(_ *node, m *wire.MQTT) { m.Send(&mqtt.Disconnect{}); m.Conn.Close() }, false},
		{"DISCONNECT 0x04", nil, func(_ *node, m *wire.MQTT) { m.Send(&mqtt.Disconnect{Reason: 4}); m.ExpectClose(1000) }, true},
		{"DISCONNECT 0x81", nil, func(_ *node, m *wire.MQTT) { m.Send(&mqtt.Disconnect{Reason: 0x81}); m.ExpectClose(1000) }, true},
		{"protocol error", nil, func(_ *node, m *wire.MQTT) { m.Send(&mqtt.Auth{}); m.ExpectEnd(mqtt.ProtocolError, 1002) }, true},
		{"text frame", nil, func(_ *node, m *wire.MQTT) { m.WriteFrame(wire.FIN|wire.OpText, nil); m.ExpectClose(1003) }, true},
		{"keep-alive", nil, func(_ *node, m *wire.MQTT) { m.ExpectEnd(mqtt.KeepAliveTimeout, 1000) }, true},
		{"taken over", nil, func(n *node, m *wire.MQTT) {
			n.connect(n.token("w", "will"), mqtt.Connect{ClientID: "c"})
			m.ExpectEnd(mqtt.SessionTakenOver, 1000)
		}, true},
		{"without permission", func(n *node) string { return n.token("w") }, func(_ *node, m *wire.MQTT) { m.Conn.Close() }, false},
		{"token expired", func(n *node) string { return n.key.token(nil, []string{"will"}, expiring(500*time.Millisecond)) },
			func(_ *node, m *wire.MQTT) { m.ExpectEnd(mqtt.NotAuthorized, 1000) }, false},
		{"key deleted", nil, func(n *node, m *wire.MQTT) { n.deleteKey(n.key); m.ExpectEnd(mqtt.NotAuthorized, 1000) }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			n := start(t)
			watch := n.adminClient("will", "end")
			stream := n.adminEvents("topic", "will", "topic", "end")
			token := n.token("will")
			if tt.token != nil {
				token = tt.token(n)
			}
			c := mqtt.Connect{ClientID: "c", Will: &mqtt.Will{Topic: "will", Payload: []byte("gone"), Delay: 100}}
			if tt.name == "keep-alive" {
				c.KeepAlive = 1
			}
			m := n.connect(token, c)
			tt.end(n, m)
			if tt.want {
				watch.Expect("will", "gone")
				stream.Expect("event: message\ndata: gone\n")
			}
			// The connection counts until its will has been published.
			if !within(func() bool { return n.metric("pubsub_connections{transport=\"mqtt\"}") <= 2 }) {
				t.Error("the connection is still counted")
			}
			n.publish("end", "of the test")
			watch.Expect("end", "of the test")
			stream.Expect("event: message\ndata: of the test\n")
		})
	}
}

// A will has its properties, its expiry and its RETAIN flag.
func TestWillProperties(t *testing.T) {
	n := start(t)
	watch := n.adminClient()
	watch.SubscribeWith(0, mqtt.Filter{Topic: "will", RetainAsPublished: true})
	m := n.connect(n.token("will"), mqtt.Connect{Will: &mqtt.Will{
		Topic: "will", Payload: []byte("gone"), Retain: true, HasExpiry: true, Expiry: 100, Properties: properties,
	}})
	m.Conn.Close()
	for i, w := range []*wire.MQTT{watch, nil} {
		if w == nil {
			w = n.adminClient("will")
		}
		p := w.Expect("will", "gone")
		if !p.Retain || !p.HasExpiry || p.Expiry > 100 || p.Expiry < 70 || !bytes.Equal(p.Properties, properties) {
			t.Errorf("will %d: %+v", i, p)
		}
	}
}

// A CONNECT whose will has an invalid topic is refused. A will to a reserved topic is dropped and
// counted when it is due.
func TestWillTopics(t *testing.T) {
	n := start(t)
	for topic, want := range map[string]mqtt.ReasonCode{"a/+": mqtt.TopicNameInvalid, "#": mqtt.TopicNameInvalid, "": mqtt.TopicNameInvalid} {
		m := n.upgrade()
		m.Send(&mqtt.Connect{Password: []byte(adminToken), HasPassword: true, Will: &mqtt.Will{Topic: topic}})
		m.ExpectEnd(want, 1000)
	}
	n.connect(n.token("t"), mqtt.Connect{Will: &mqtt.Will{Topic: "$SYS/x"}}).Conn.Close()
	if !within(func() bool { return n.metric(`pubsub_publishes_dropped_total{reason="reserved-topic"}`) == 1 }) {
		t.Error("the dropped will is not counted")
	}
}
