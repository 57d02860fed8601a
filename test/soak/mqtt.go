//go:build linux

package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"pubsub/internal/mqtt"
)

// mqttConn is an MQTT session over a WebSocket.
type mqttConn struct {
	nc      net.Conn
	r       *bufio.Reader
	packets []byte // that have come and were not taken yet
}

// opBinary is an opcode of RFC 6455 section 5.2.
const opBinary = 0x2

// openSession returns once CONNACK has come.
func openSession(nc net.Conn, token, clientID string) (*mqttConn, error) {
	nc.SetDeadline(time.Now().Add(handshakeTimeout))
	_, err := io.WriteString(nc, "GET /mqtt HTTP/1.1\r\nHost: soak\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n")
	if err != nil {
		return nil, err
	}
	c := &mqttConn{nc: nc, r: bufio.NewReader(nc)}
	for i := 0; ; i++ {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return nil, err
		}
		if i == 0 && line != "HTTP/1.1 101 Switching Protocols\r\n" {
			return nil, fmt.Errorf("GET /mqtt: %q", line)
		}
		if line == "\r\n" {
			break
		}
	}
	if err := c.send(&mqtt.Connect{CleanStart: true, ClientID: clientID, Password: []byte(token), HasPassword: true}); err != nil {
		return nil, err
	}
	p, err := c.next()
	if err != nil {
		return nil, err
	}
	if ack, ok := p.(*mqtt.Connack); !ok || ack.Reason != mqtt.Success {
		return nil, fmt.Errorf("instead of CONNACK: %s %+v", p.Type(), p)
	}
	return c, nc.SetDeadline(time.Time{})
}

// subscribe returns once SUBACK has come, which must grant everything.
func (c *mqttConn) subscribe(topics []string) error {
	c.nc.SetDeadline(time.Now().Add(handshakeTimeout))
	sub := mqtt.Subscribe{PacketID: 1}
	for _, t := range topics {
		sub.Filters = append(sub.Filters, mqtt.Filter{Topic: t, RetainAsPublished: true})
	}
	if err := c.send(&sub); err != nil {
		return err
	}
	p, err := c.next()
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
	return c.nc.SetDeadline(time.Time{})
}

func (c *mqttConn) send(ps ...mqtt.Packet) error {
	var b []byte
	for _, p := range ps {
		b = p.Append(b)
	}
	_, err := c.nc.Write(appendFrame(nil, opBinary, b))
	return err
}

// appendFrame appends a frame with a mask of zeros, which RFC 6455 allows.
func appendFrame(dst []byte, op byte, payload []byte) []byte {
	dst = append(dst, 0x80|op)
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, 0x80|byte(n))
	case n < 1<<16:
		dst = binary.BigEndian.AppendUint16(append(dst, 0x80|126), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, 0x80|127), uint64(n))
	}
	dst = append(dst, 0, 0, 0, 0)
	return append(dst, payload...)
}

// next returns the next packet.
func (c *mqttConn) next() (mqtt.Packet, error) {
	for {
		if len(c.packets) > 0 {
			p, n, err := mqtt.Parse(c.packets)
			if err == nil {
				c.packets = c.packets[n:]
				return p, nil
			}
			if !errors.Is(err, mqtt.ErrIncomplete) {
				return nil, unexpected{err}
			}
		}
		op, payload, err := c.frame()
		switch {
		case err != nil:
			return nil, err
		case op == opBinary:
			// A new array: what was parsed of the old one is still in use.
			c.packets = append(c.packets[:len(c.packets):len(c.packets)], payload...)
		default:
			return nil, fmt.Errorf("a frame of opcode %d: % x", op, payload)
		}
	}
}

// frame reads a frame.
func (c *mqttConn) frame() (op byte, payload []byte, err error) {
	var head [8]byte
	if _, err := io.ReadFull(c.r, head[:2]); err != nil {
		return 0, nil, err
	}
	op, n := head[0]&0xf, uint64(head[1])
	if head[0]&0xf0 != 0x80 || n > 127 {
		return 0, nil, unexpected{fmt.Errorf("a frame that begins with % x", head[:2])}
	}
	switch n {
	case 126:
		_, err = io.ReadFull(c.r, head[:2])
		n = uint64(binary.BigEndian.Uint16(head[:]))
	case 127:
		_, err = io.ReadFull(c.r, head[:8])
		n = binary.BigEndian.Uint64(head[:])
	}
	if err != nil {
		return 0, nil, err
	}
	if n > 16<<20 {
		return 0, nil, unexpected{fmt.Errorf("a frame of %d bytes", n)}
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(c.r, payload)
	return op, payload, err
}

// read hands the next packet, a PUBLISH, to the history.
func (c *mqttConn) read(s *subscriber) error {
	p, err := c.next()
	if err != nil {
		return err
	}
	pub, ok := p.(*mqtt.Publish)
	if !ok {
		return unexpected{fmt.Errorf("%s %+v", p.Type(), p)}
	}
	if len(pub.Payload) == 0 && pub.Retain {
		s.history.clear(pub.Topic, "")
		return nil
	}
	m, err := parseMessage(pub.Payload)
	if err != nil {
		return unexpected{err}
	}
	if m.topic != pub.Topic || m.retain != pub.Retain {
		return unexpected{fmt.Errorf("PUBLISH to %q, retained %t, has the content of a message to %q, retained %t", pub.Topic, pub.Retain, m.topic, m.retain)}
	}
	s.history.message(m, "")
	return nil
}

func (c *mqttConn) leave() {
	c.nc.SetWriteDeadline(time.Now().Add(time.Second))
	c.send(&mqtt.Disconnect{})
	c.nc.Close()
}
