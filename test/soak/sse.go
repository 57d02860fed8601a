//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"pubsub/internal/testkit/history"
	"pubsub/internal/testkit/wire"
)

// handshakeTimeout bounds how long a client waits until it is subscribed. It is long because
// thousands may connect at once.
const handshakeTimeout = 60 * time.Second

// stream is a stream of server-sent events.
type stream struct{ *wire.Stream }

// openStream returns once the subscription is live.
func openStream(nc net.Conn, s *subscriber) (*stream, error) {
	q := url.Values{"topic": s.topics}
	if s.checker.kind == durableStream {
		q.Set("durable", "true")
	}
	if s.envelope {
		q.Set("envelope", "true")
	}
	nc.SetDeadline(time.Now().Add(handshakeTimeout))
	ws, err := wire.RequestEvents(nc, q, s.token, s.lastID)
	if err != nil {
		return nil, err
	}
	e, err := ws.Read()
	if err != nil {
		return nil, err
	}
	if e.Name != "stream-open" || e.Data != "" {
		return nil, fmt.Errorf("the first event is %.200q", e.Raw)
	}
	return &stream{ws}, nc.SetDeadline(time.Time{})
}

// read passes the next event to the checker. It skips keep-alives.
func (c *stream) read(s *subscriber) error {
	e, err := c.Read()
	for err == nil && e.Name == "keep-alive" {
		e, err = c.Read()
	}
	if err != nil {
		return err
	}
	switch e.Name {
	case "message":
	case "messages-dropped":
		count, ok := strings.CutPrefix(e.Data, `{"count":`)
		n, err := strconv.ParseUint(strings.TrimSuffix(count, "}"), 10, 64)
		if !ok || err != nil {
			return unexpected{fmt.Errorf("messages-dropped: %.80q", e.Data)}
		}
		s.checker.dropped(n)
		return nil
	default:
		return unexpected{fmt.Errorf("event %.200q", e.Raw)}
	}
	data, topic, version := e.Data, "", ""
	if s.envelope {
		var env struct{ Topic, Data, Version string }
		if err := json.Unmarshal([]byte(e.Data), &env); err != nil {
			return unexpected{fmt.Errorf("envelope %.200q: %w", e.Data, err)}
		}
		data, topic, version = env.Data, env.Topic, env.Version
	}
	m := message{topic: topic}
	if data == "" {
		s.checker.clear(topic, e.ID)
	} else {
		if m, err = parseMessage([]byte(data)); err != nil {
			return unexpected{err}
		}
		s.checker.message(m, e.ID)
	}
	if e.ID != "" {
		s.lastID = e.ID
	}
	if s.envelope {
		return checkEnvelope(topic, version, &m, e.ID)
	}
	return nil
}

// checkEnvelope compares an envelope with the message in it, and with the event's id.
func checkEnvelope(topic, version string, m *message, id string) error {
	if m.topic != topic {
		return unexpected{fmt.Errorf("the envelope of a message to %q has the topic %q", m.topic, topic)}
	}
	if id == "" {
		return nil
	}
	versions, err := history.ParseID(id)
	if err != nil {
		return unexpected{err}
	}
	if got := versions[topic].String(); got != version {
		return unexpected{fmt.Errorf("the envelope has version %q of %s, and the id %s", version, topic, id)}
	}
	return nil
}

func (c *stream) leave() { c.Conn.Close() }

// unexpected is an error of the broker even if the connection was ending, such as content that was
// never published.
type unexpected struct{ error }

func isUnexpected(err error) bool {
	var u unexpected
	return errors.As(err, &u)
}
