//go:build linux

package fault_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"strings"

	"pubsub/internal/testkit/history"
	"pubsub/internal/testkit/wire"
)

// openStream opens a durable stream that resumes where the follower's last one ended.
func openStream(f *follower, conn net.Conn, where string) (read func() error, err error) {
	q := url.Values{"topic": f.topics, "durable": {"true"}, "envelope": {"true"}}
	s, err := wire.RequestEvents(conn, q, f.token, f.lastID)
	if err != nil {
		return nil, err
	}
	e, err := s.Read()
	switch {
	case err != nil:
		return nil, err
	case e.Name == "stream-error" && strings.Contains(e.Data, `"internal-server-error"`), wire.IsDrain(e):
		return nil, refusal("%q", e.Raw)
	case e.Name != "stream-open":
		return nil, fmt.Errorf("the first event is %q", e.Raw)
	}
	f.checker.opened(f.name, where)
	return func() error { return f.readEvent(s) }, nil
}

// readEvent reads one event.
func (f *follower) readEvent(s *wire.Stream) error {
	e, err := s.Read()
	if err != nil {
		return err
	}
	switch e.Name {
	case "keep-alive":
		return nil
	case "message":
	default:
		return fmt.Errorf("unexpected event %q", e.Raw)
	}
	var m struct{ Topic, Data, Version string }
	if err := json.Unmarshal([]byte(e.Data), &m); err != nil {
		return fmt.Errorf("envelope %.200q: %w", e.Data, err)
	}
	v, err := history.ParseVersion(m.Version)
	if err != nil {
		return err
	}
	f.lastID = e.ID
	f.checker.event(f.name, m.Topic, m.Data, v, e.ID)
	return nil
}
