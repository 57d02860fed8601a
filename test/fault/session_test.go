//go:build linux

package fault_test

import (
	"fmt"
	"net"

	"pubsub/internal/mqtt"
	"pubsub/internal/testkit/wire"
)

// dialSession opens an MQTT session.
func dialSession(conn net.Conn, token, clientID string) (*wire.Session, error) {
	s, err := wire.Dial(conn, "Sec-WebSocket-Protocol: mqtt")
	if err != nil {
		return nil, err
	}
	s.Silence = silence
	ack, err := s.Connect(token, mqtt.Connect{CleanStart: true, ClientID: clientID})
	switch {
	case err != nil:
		return nil, err
	case ack.Reason == mqtt.UnspecifiedError || ack.Reason == mqtt.ServerUnavailable:
		return nil, refusal("%s", ack.Reason)
	case ack.Reason != mqtt.Success:
		return nil, fmt.Errorf("CONNACK: %s", ack.Reason)
	}
	return s, nil
}

// openSession opens a session that subscribes to the follower's topics.
func openSession(f *follower, conn net.Conn, where string) (read func() error, err error) {
	s, err := dialSession(conn, f.token, f.name)
	if err != nil {
		return nil, err
	}
	f.checker.opened(f.name, where)
	subscribe := mqtt.Subscribe{PacketID: 1}
	for _, t := range f.topics {
		subscribe.Filters = append(subscribe.Filters, mqtt.Filter{Topic: t})
	}
	if err := s.Send(&subscribe); err != nil {
		return nil, err
	}
	for {
		p, err := s.Read()
		if err != nil {
			return nil, err
		}
		ack, ok := p.(*mqtt.Suback)
		if !ok { // messages of a topic may come before the SUBACK for all topics
			if err := f.take(p); err != nil {
				return nil, err
			}
			continue
		}
		for _, reason := range ack.Reasons {
			switch reason {
			case mqtt.Success:
			case mqtt.UnspecifiedError:
				return nil, refusal("SUBACK: %s", reason)
			default:
				return nil, fmt.Errorf("SUBACK: %s", reason)
			}
		}
		return func() error {
			p, err := s.Read()
			if err != nil {
				return err
			}
			return f.take(p)
		}, nil
	}
}

// take passes a packet, which must be a PUBLISH, to the checker.
func (f *follower) take(p mqtt.Packet) error {
	m, ok := p.(*mqtt.Publish)
	if !ok {
		return fmt.Errorf("unexpected %s %+v", p.Type(), p)
	}
	f.checker.message(f.name, m.Topic, string(m.Payload))
	return nil
}
