package scenario

import (
	"errors"
	"io"
	"strings"
	"testing"

	"pubsub/internal/mqtt"
	"pubsub/internal/testkit/wire"
)

// subscriber is a client of any transport.
type subscriber interface {
	// next returns the content of the next message.
	next() string
	// ends checks that the server now ends the stream or session, for that reason.
	ends(ending)
	// leave ends the connection from the client's side.
	leave()
}

// ending is the reason why a server ends a stream or session.
type ending int

const (
	expired ending = iota
	revoked
	drained
)

// transport is a protocol for subscribers.
type transport struct {
	name string
	// subscribe subscribes with a token, or as the administrator if it is empty.
	subscribe func(n *node, token string, topics ...string) subscriber
	// refused checks that the node refuses another client because it has too many connections.
	refused func(n *node, token, topic string)
}

var transports = []transport{
	{"SSE", subscribeSSE, refusedSSE},
	{"MQTT", subscribeMQTT, refusedMQTT},
}

// forEachTransport runs f as a parallel subtest for each transport.
func forEachTransport(t *testing.T, f func(t *testing.T, tr transport)) {
	for _, tr := range transports {
		t.Run(tr.name, func(t *testing.T) {
			t.Parallel()
			f(t, tr)
		})
	}
}

// expectMessages checks the contents of the next messages of s.
func expectMessages(t *testing.T, s subscriber, contents ...string) {
	t.Helper()
	for i, want := range contents {
		if got := s.next(); got != want {
			t.Fatalf("message %d is %.100q, want %.100q", i, got, want)
		}
	}
}

type sseSubscriber struct{ c *wire.SSE }

func subscribeSSE(n *node, token string, topics ...string) subscriber {
	n.t.Helper()
	if token == "" {
		token = n.key.token(topics, nil, nil)
	}
	pairs := []string{"auth", token}
	for _, t := range topics {
		pairs = append(pairs, "topic", t)
	}
	return sseSubscriber{n.events(pairs...)}
}

func (s sseSubscriber) next() string {
	s.c.T.Helper()
	e := s.c.Next()
	if e.Name != "message" || e.HasID {
		s.c.T.Fatalf("not a message without id: %q", e.Raw)
	}
	return e.Data
}

func (s sseSubscriber) ends(why ending) {
	s.c.T.Helper()
	switch why {
	case expired:
		s.c.ExpectError("token-expired", "Token expired")
	case revoked:
		s.c.ExpectError("token-revoked", "Token revoked")
	case drained:
		s.c.ExpectDrain()
	}
	s.c.ExpectEnd()
}

func (s sseSubscriber) leave() { s.c.Conn.Close() }

func refusedSSE(n *node, token, topic string) {
	n.t.Helper()
	c := wire.Get(n.t, dial(n.t, n.addr), "/events"+wire.Query("topic", topic, "auth", token), "Connection: close")
	c.ExpectError("too-many-connections", "Too many connections")
	c.ExpectEnd()
}

type mqttSubscriber struct{ m *wire.MQTT }

func subscribeMQTT(n *node, token string, topics ...string) subscriber {
	n.t.Helper()
	if token == "" {
		token = adminToken
	}
	m := n.connect(token, mqtt.Connect{})
	m.Subscribe(topics...)
	return mqttSubscriber{m}
}

func (s mqttSubscriber) next() string {
	s.m.T.Helper()
	return string(s.m.NextPublish().Payload)
}

func (s mqttSubscriber) ends(why ending) {
	s.m.T.Helper()
	switch why {
	case expired, revoked:
		s.m.ExpectEnd(mqtt.NotAuthorized, 1000)
	case drained:
		s.m.ExpectEnd(mqtt.ServerShuttingDown, 1000)
	}
}

func (s mqttSubscriber) leave() { s.m.Conn.Close() }

func refusedMQTT(n *node, token, _ string) {
	n.t.Helper()
	m := n.upgrade()
	m.Send(&mqtt.Connect{Password: []byte(token), HasPassword: true})
	m.ExpectEnd(mqtt.QuotaExceeded, 1000)
	m.Conn.Close()
}

// isEnd reports whether err means that the other side closed or reset the connection.
func isEnd(err error) bool {
	return errors.Is(err, io.EOF) || err != nil && (strings.Contains(err.Error(), "reset by peer") || strings.Contains(err.Error(), "broken pipe"))
}
