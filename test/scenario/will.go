package scenario

import (
	"bytes"
	"testing"
	"time"

	"pubsub/internal/mqtt"
)

// The will is "published as that client's own message when the connection ends
// without DISCONNECT 0x00, if its token still has the right (not after its expiry or
// its key's deletion)".
func TestWill(t *testing.T) {
	for _, tt := range []struct {
		name  string
		token func(n *node) string
		end   func(n *node, m *mqttClient)
		want  bool
	}{
		{"the connection is lost", nil, func(_ *node, m *mqttClient) { m.conn.Close() }, true},
		{"close frame alone", nil, func(_ *node, m *mqttClient) { m.frame(0x80|opClose, []byte{3, 0xe8}); m.closes(1000) }, true},
		{"DISCONNECT 0x00", nil, func(_ *node, m *mqttClient) { m.send(&mqtt.Disconnect{}); m.closes(1000) }, false},
		{"DISCONNECT 0x00, then lost", nil, func(_ *node, m *mqttClient) { m.send(&mqtt.Disconnect{}); m.conn.Close() }, false},
		{"DISCONNECT 0x04", nil, func(_ *node, m *mqttClient) { m.send(&mqtt.Disconnect{Reason: 4}); m.closes(1000) }, true},
		{"DISCONNECT 0x81", nil, func(_ *node, m *mqttClient) { m.send(&mqtt.Disconnect{Reason: 0x81}); m.closes(1000) }, true},
		{"protocol error", nil, func(_ *node, m *mqttClient) { m.send(&mqtt.Auth{}); m.ended(mqtt.ProtocolError, 1002) }, true},
		{"text frame", nil, func(_ *node, m *mqttClient) { m.frame(0x80|opText, nil); m.closes(1003) }, true},
		{"keep-alive", nil, func(_ *node, m *mqttClient) { m.ended(mqtt.KeepAliveTimeout, 1000) }, true},
		{"taken over", nil, func(n *node, m *mqttClient) {
			n.connect(n.token("w", "will"), mqtt.Connect{ClientID: "c"})
			m.ended(mqtt.SessionTakenOver, 1000)
		}, true},
		{"without the right", func(n *node) string { return n.token("w") }, func(_ *node, m *mqttClient) { m.conn.Close() }, false},
		{"token expired", func(n *node) string { return n.key.token(nil, []string{"will"}, expiring(500*time.Millisecond)) },
			func(_ *node, m *mqttClient) { m.ended(mqtt.NotAuthorized, 1000) }, false},
		{"key deleted", nil, func(n *node, m *mqttClient) { n.deleteKey(n.key); m.ended(mqtt.NotAuthorized, 1000) }, false},
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
				watch.expect("will", "gone")
				stream.expect("event: message\ndata: gone\n")
			}
			// The connection is forgotten only when its will has been published.
			if !within(func() bool { return n.metric("pubsub_connections{transport=\"mqtt\"}") <= 2 }) {
				t.Error("the connection stays")
			}
			n.publish("end", "of the test")
			watch.expect("end", "of the test")
			stream.expect("event: message\ndata: of the test\n")
		})
	}
}

// A will has its properties, its expiry and its RETAIN, and is local to its client.
func TestWillIsAMessageOfItsClient(t *testing.T) {
	n := start(t)
	watch := n.adminClient()
	watch.subscribeWith(0, mqtt.Filter{Topic: "will", RetainAsPublished: true})
	m := n.connect(n.token("will"), mqtt.Connect{Will: &mqtt.Will{
		Topic: "will", Payload: []byte("gone"), Retain: true, HasExpiry: true, Expiry: 100, Properties: properties,
	}})
	m.conn.Close()
	for i, w := range []*mqttClient{watch, nil} {
		if w == nil {
			w = n.adminClient("will")
		}
		p := w.expect("will", "gone")
		if !p.Retain || !p.HasExpiry || p.Expiry > 100 || p.Expiry < 70 || !bytes.Equal(p.Properties, properties) {
			t.Errorf("%d: %+v", i, p)
		}
	}
}

// A will that nobody may publish to is refused with CONNECT, one without a right
// counts when its time comes.
func TestWillTopics(t *testing.T) {
	n := start(t)
	for topic, want := range map[string]mqtt.ReasonCode{"a/+": mqtt.TopicNameInvalid, "#": mqtt.TopicNameInvalid, "": mqtt.TopicNameInvalid} {
		m := n.upgrade()
		m.send(&mqtt.Connect{Password: []byte(adminToken), HasPassword: true, Will: &mqtt.Will{Topic: topic}})
		m.ended(want, 1000)
	}
	n.connect(n.token("t"), mqtt.Connect{Will: &mqtt.Will{Topic: "$SYS/x"}}).conn.Close()
	if !within(func() bool { return n.metric(`pubsub_publishes_dropped_total{reason="reserved-topic"}`) == 1 }) {
		t.Error("not counted")
	}
}
