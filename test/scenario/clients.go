package scenario

import (
	"pubsub/internal/mqtt"
	"pubsub/internal/testkit/wire"
)

// events begins GET /events with the query that pairs make, and reads past
// stream-open.
func (n *node) events(pairs ...string) *wire.SSE {
	n.t.Helper()
	c := n.getEvents(pairs...)
	c.ExpectOpen()
	return c
}

func (n *node) getEvents(pairs ...string) *wire.SSE {
	n.t.Helper()
	return wire.Get(n.t, dial(n.t, n.addr), "/events"+wire.Query(pairs...))
}

// adminEvents is events with the admin token in a header.
func (n *node) adminEvents(pairs ...string) *wire.SSE {
	n.t.Helper()
	c := wire.Get(n.t, dial(n.t, n.addr), "/events"+wire.Query(pairs...), "Fastly-Key: "+adminToken)
	c.ExpectOpen()
	return c
}

// upgrade opens a WebSocket.
func (n *node) upgrade(header ...string) *wire.MQTT {
	n.t.Helper()
	return wire.Upgrade(n.t, dial(n.t, n.addr), header...)
}

// connect opens a session with the token and the other fields of c.
func (n *node) connect(token string, c mqtt.Connect) *wire.MQTT {
	n.t.Helper()
	m := n.upgrade("Sec-WebSocket-Protocol: mqtt")
	m.Connect(token, c)
	return m
}

// adminClient opens a session with all permissions and subscribes to topics.
func (n *node) adminClient(topics ...string) *wire.MQTT {
	n.t.Helper()
	m := n.connect(adminToken, mqtt.Connect{})
	if len(topics) > 0 {
		m.Subscribe(topics...)
	}
	return m
}

// connectWith returns a CONNECT with the token as password.
func connectWith(token string) []byte {
	c := mqtt.Connect{Password: []byte(token), HasPassword: true}
	return c.Append(nil)
}
