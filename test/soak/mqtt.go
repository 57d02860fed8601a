//go:build linux

package main

import (
	"errors"
	"fmt"
	"net"
	"time"

	"pubsub/internal/mqtt"
	"pubsub/internal/testkit/wire"
)

// mqttConn is an MQTT session.
type mqttConn struct{ *wire.Session }

// openSession opens an MQTT session.
func openSession(nc net.Conn, token, clientID string) (*mqttConn, error) {
	nc.SetDeadline(time.Now().Add(handshakeTimeout))
	s, err := wire.Dial(nc, "Sec-WebSocket-Protocol: mqtt")
	if err != nil {
		return nil, err
	}
	ack, err := s.Connect(token, mqtt.Connect{CleanStart: true, ClientID: clientID})
	if err != nil {
		return nil, err
	}
	if ack.Reason != mqtt.Success {
		return nil, fmt.Errorf("CONNACK: %s", ack.Reason)
	}
	return &mqttConn{s}, nc.SetDeadline(time.Time{})
}

// subscribe subscribes to topics, all of which must be granted.
func (c *mqttConn) subscribe(topics []string) error {
	c.Conn.SetDeadline(time.Now().Add(handshakeTimeout))
	sub := mqtt.Subscribe{PacketID: 1}
	for _, t := range topics {
		sub.Filters = append(sub.Filters, mqtt.Filter{Topic: t, RetainAsPublished: true})
	}
	if err := c.Send(&sub); err != nil {
		return err
	}
	p, err := c.Read()
	if err != nil {
		return err
	}
	ack, ok := p.(*mqtt.Suback)
	if !ok || len(ack.Reasons) != len(topics) {
		return fmt.Errorf("instead of SUBACK: %s %+v", p.Type(), p)
	}
	for _, r := range ack.Reasons {
		if r != mqtt.Success {
			return fmt.Errorf("SUBACK: %s", r)
		}
	}
	return c.Conn.SetDeadline(time.Time{})
}

// read passes the next packet, which must be a PUBLISH, to the checker.
func (c *mqttConn) read(s *subscriber) error {
	p, err := c.Read()
	if errors.Is(err, wire.ErrProtocol) {
		return unexpected{err}
	}
	if err != nil {
		return err
	}
	pub, ok := p.(*mqtt.Publish)
	if !ok {
		return unexpected{fmt.Errorf("%s %+v", p.Type(), p)}
	}
	if len(pub.Payload) == 0 && pub.Retain {
		s.checker.clear(pub.Topic, "")
		return nil
	}
	m, err := parseMessage(pub.Payload)
	if err != nil {
		return unexpected{err}
	}
	if m.topic != pub.Topic || m.retain != pub.Retain {
		return unexpected{fmt.Errorf("PUBLISH to %q, retained %t, has the content of a message to %q, retained %t", pub.Topic, pub.Retain, m.topic, m.retain)}
	}
	s.checker.message(m, "")
	return nil
}

// leave sends a DISCONNECT and closes the connection.
func (c *mqttConn) leave() {
	c.Conn.SetWriteDeadline(time.Now().Add(time.Second))
	c.Send(&mqtt.Disconnect{})
	c.Conn.Close()
}
