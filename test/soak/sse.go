//go:build linux

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// handshakeTimeout bounds how long a client waits to be let in: thousands may come
// at once.
const handshakeTimeout = 60 * time.Second

// stream is a stream of server-sent events.
type stream struct {
	nc net.Conn
	r  *bufio.Reader
}

// event is one event of a stream.
type event struct {
	name, id string
	data     []byte
}

// openStream returns once the subscription is live.
func openStream(nc net.Conn, s *subscriber) (*stream, error) {
	q := make(url.Values)
	q["topic"] = s.topics
	if s.history.kind == durableStream {
		q.Set("durable", "true")
	}
	if s.envelope {
		q.Set("envelope", "true")
	}
	nc.SetDeadline(time.Now().Add(handshakeTimeout))
	head := "GET /events?" + q.Encode() + " HTTP/1.1\r\nHost: soak\r\nAuthorization: Bearer " + s.token + "\r\n"
	if s.lastID != "" {
		head += "Last-Event-ID: " + s.lastID + "\r\n"
	}
	if _, err := nc.Write([]byte(head + "\r\n")); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET /events: %s", resp.Status)
	}
	c := &stream{nc: nc, r: bufio.NewReader(resp.Body)}
	e, err := c.next()
	if err != nil {
		return nil, err
	}
	if e.name != "stream-open" || len(e.data) > 0 {
		return nil, fmt.Errorf("the first event is %q: %.200q", e.name, e.data)
	}
	return c, nc.SetDeadline(time.Time{})
}

// next returns the next event; keep-alives are passed over.
func (c *stream) next() (e event, err error) {
	for lines := 0; ; {
		line, err := c.r.ReadBytes('\n')
		if err != nil {
			return e, err
		}
		line = line[:len(line)-1]
		if len(line) == 0 {
			if e.name != "keep-alive" && lines > 0 {
				return e, nil
			}
			e, lines = event{}, 0
			continue
		}
		lines++
		name, value, _ := strings.Cut(string(line[:min(len(line), 16)]), ": ")
		rest := line[min(len(line), len(name)+2):]
		switch name {
		case "event":
			e.name = string(rest)
		case "id":
			e.id = string(rest)
		case "data":
			if e.data != nil { // nothing that is published has several lines
				return e, fmt.Errorf("a second line of data: %.80q", line)
			}
			e.data = rest
		default:
			return e, fmt.Errorf("not a field of an event here: %.80q: %q", line, value)
		}
	}
}

// read hands the next event to the history.
func (c *stream) read(s *subscriber) error {
	e, err := c.next()
	if err != nil {
		return err
	}
	switch e.name {
	case "message":
	case "messages-dropped":
		count, ok := strings.CutPrefix(string(e.data), `{"count":`)
		n, err := strconv.ParseUint(strings.TrimSuffix(count, "}"), 10, 64)
		if !ok || err != nil {
			return unexpected{fmt.Errorf("messages-dropped: %.80q", e.data)}
		}
		s.history.dropped(n)
		return nil
	default:
		return unexpected{fmt.Errorf("an event %q: %.200q", e.name, e.data)}
	}
	data, topic, version := e.data, "", ""
	if s.envelope {
		var env struct{ Topic, Data, Version string }
		if err := json.Unmarshal(e.data, &env); err != nil {
			return unexpected{fmt.Errorf("envelope %.200q: %w", e.data, err)}
		}
		data, topic, version = []byte(env.Data), env.Topic, env.Version
	}
	m := message{topic: topic}
	if len(data) == 0 {
		s.history.clear(topic, e.id)
	} else {
		if m, err = parseMessage(data); err != nil {
			return unexpected{err}
		}
		s.history.message(m, e.id)
	}
	if e.id != "" {
		s.lastID = e.id
	}
	if s.envelope {
		return checkEnvelope(topic, version, &m, e.id)
	}
	return nil
}

// checkEnvelope compares what an envelope says with what is in it, and with the
// event's id.
func checkEnvelope(topic, version string, m *message, id string) error {
	if m.topic != topic {
		return unexpected{fmt.Errorf("the envelope says topic %q, and it is of %q", topic, m.topic)}
	}
	if id == "" {
		return nil
	}
	versions, err := parseID(id)
	if err != nil {
		return unexpected{err}
	}
	if got := versions[topic].String(); got != version {
		return unexpected{fmt.Errorf("the envelope says version %q of %s, and the id %s", version, topic, id)}
	}
	return nil
}

func (c *stream) leave() { c.nc.Close() }

// unexpected is an error that is the broker's fault, whatever became of the
// connection.
type unexpected struct{ error }

func isUnexpected(err error) bool {
	var u unexpected
	return errors.As(err, &u)
}
