//go:build linux

package fault_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// openStream begins a durable stream, where the last one of the follower ended.
func openStream(f *follower, conn net.Conn, where string) (read func() error, err error) {
	q := url.Values{"topic": f.topics, "durable": {"true"}, "envelope": {"true"}}
	head := "GET /events?" + q.Encode() + " HTTP/1.1\r\nHost: fault\r\nAuthorization: Bearer " + f.token + "\r\n"
	if f.lastID != "" {
		head += "Last-Event-ID: " + f.lastID + "\r\n"
	}
	if _, err := conn.Write([]byte(head + "\r\n")); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return nil, fmt.Errorf("GET /events: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET /events: %s", resp.Status)
	}
	r := bufio.NewReader(resp.Body)
	e, err := readEvent(r)
	switch {
	case err != nil:
		return nil, err
	case e.name == "stream-error" && strings.Contains(e.data, `"internal-server-error"`), e.name == "keep-alive" && e.retry:
		return nil, refusal("%+v", e)
	case e.name != "stream-open":
		return nil, fmt.Errorf("the first event is %+v", e)
	}
	f.history.opened(f.name, where)
	return func() error { return f.readStream(r) }, nil
}

// readStream reads one event.
func (f *follower) readStream(r *bufio.Reader) error {
	e, err := readEvent(r)
	if err != nil {
		return err
	}
	switch e.name {
	case "keep-alive":
		return nil
	case "message":
	default:
		return fmt.Errorf("an event %+v", e)
	}
	var m struct{ Topic, Data, Version string }
	if err := json.Unmarshal([]byte(e.data), &m); err != nil {
		return fmt.Errorf("an envelope %.200q: %w", e.data, err)
	}
	v, err := parseVersion(m.Version)
	if err != nil {
		return err
	}
	id, err := parseID(e.id)
	if err != nil {
		return err
	}
	f.lastID = e.id
	f.history.event(f.name, m.Topic, m.Data, v, id)
	return nil
}

// event is one event of a stream.
type event struct {
	name, data, id string
	retry          bool
}

func readEvent(r *bufio.Reader) (e event, err error) {
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return e, err
		}
		if line == "\n" {
			return e, nil
		}
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch name {
		case "event":
			e.name = value
		case "data":
			e.data += value // an envelope is one line
		case "id":
			e.id = value
		case "retry":
			e.retry = true
		default:
			return e, fmt.Errorf("no field of an event: %.100q", line)
		}
	}
}
