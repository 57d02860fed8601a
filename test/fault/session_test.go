//go:build linux

package fault_test

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"

	"pubsub/internal/mqtt"
)

// session is an MQTT session over a WebSocket.
type session struct {
	conn    net.Conn
	r       *bufio.Reader
	packets []byte // of frames read, not yet cut into packets
}

// The opcodes of RFC 6455 section 5.2.
const (
	opBinary = 0x2
	opClose  = 0x8
)

// dialSession returns once CONNACK has come.
func dialSession(conn net.Conn, token, clientID string) (*session, error) {
	_, err := io.WriteString(conn, "GET /mqtt HTTP/1.1\r\nHost: fault\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n")
	if err != nil {
		return nil, err
	}
	s := &session{conn: conn, r: bufio.NewReader(conn)}
	tp := textproto.NewReader(s.r)
	line, err := tp.ReadLine()
	if err != nil {
		return nil, err
	}
	if line != "HTTP/1.1 101 Switching Protocols" {
		return nil, fmt.Errorf("GET /mqtt: %q", line)
	}
	if _, err := tp.ReadMIMEHeader(); err != nil {
		return nil, err
	}
	if err := s.send(&mqtt.Connect{CleanStart: true, ClientID: clientID, Password: []byte(token), HasPassword: true}); err != nil {
		return nil, err
	}
	p, err := s.next()
	if err != nil {
		return nil, err
	}
	ack, ok := p.(*mqtt.Connack)
	switch {
	case ok && (ack.Reason == mqtt.UnspecifiedError || ack.Reason == mqtt.ServerUnavailable):
		return nil, refusal("%s", ack.Reason)
	case !ok || ack.Reason != mqtt.Success:
		return nil, fmt.Errorf("instead of CONNACK: %s %+v", p.Type(), p)
	}
	return s, nil
}

// openSession begins a session that subscribes to what the follower follows.
func openSession(f *follower, conn net.Conn, where string) (read func() error, err error) {
	s, err := dialSession(conn, f.token, f.name)
	if err != nil {
		return nil, err
	}
	f.history.opened(f.name, where)
	subscribe := mqtt.Subscribe{PacketID: 1}
	for _, t := range f.topics {
		subscribe.Filters = append(subscribe.Filters, mqtt.Filter{Topic: t})
	}
	if err := s.send(&subscribe); err != nil {
		return nil, err
	}
	for {
		p, err := s.next()
		if err != nil {
			return nil, err
		}
		ack, ok := p.(*mqtt.Suback)
		if !ok { // messages of a topic may be faster than what is said of all
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
			p, err := s.next()
			if err != nil {
				return err
			}
			return f.take(p)
		}, nil
	}
}

// take hands a packet, a PUBLISH, to the history.
func (f *follower) take(p mqtt.Packet) error {
	m, ok := p.(*mqtt.Publish)
	if !ok {
		return fmt.Errorf("%s %+v", p.Type(), p)
	}
	f.history.message(f.name, m.Topic, string(m.Payload))
	return nil
}

func (s *session) send(ps ...mqtt.Packet) error {
	var b []byte
	for _, p := range ps {
		b = p.Append(b)
	}
	_, err := s.conn.Write(appendFrame(nil, opBinary, b))
	return err
}

// appendFrame appends a frame with a mask of zeros, which RFC 6455 allows.
func appendFrame(dst []byte, op byte, payload []byte) []byte {
	dst = append(dst, 0x80|op)
	if n := len(payload); n < 126 {
		dst = append(dst, 0x80|byte(n))
	} else {
		dst = binary.BigEndian.AppendUint16(append(dst, 0x80|126), uint16(n))
	}
	return append(append(dst, 0, 0, 0, 0), payload...)
}

// next returns the next packet.
func (s *session) next() (mqtt.Packet, error) {
	for {
		if len(s.packets) > 0 {
			p, n, err := mqtt.Parse(s.packets)
			if err == nil {
				s.packets = s.packets[n:]
				return p, nil
			}
			if !errors.Is(err, mqtt.ErrIncomplete) {
				return nil, err
			}
		}
		op, payload, err := s.frame()
		switch {
		case err != nil:
			return nil, err
		case op == opBinary && len(payload) == 0: // the server's keep-alive
			deadline(s.conn)
		case op == opBinary:
			// A new array: what was parsed of the old one is still in use.
			s.packets = append(s.packets[:len(s.packets):len(s.packets)], payload...)
		default:
			return nil, fmt.Errorf("a frame of opcode %d: % x", op, payload)
		}
	}
}

// frame reads a frame.
func (s *session) frame() (op byte, payload []byte, err error) {
	var head [8]byte
	if _, err := io.ReadFull(s.r, head[:2]); err != nil {
		return 0, nil, err
	}
	op, n := head[0]&0xf, uint64(head[1])
	if head[0]&0xf0 != 0x80 || n > 127 {
		return 0, nil, fmt.Errorf("a frame that begins with % x", head[:2])
	}
	switch n {
	case 126:
		_, err = io.ReadFull(s.r, head[:2])
		n = uint64(binary.BigEndian.Uint16(head[:]))
	case 127:
		_, err = io.ReadFull(s.r, head[:8])
		n = binary.BigEndian.Uint64(head[:])
	}
	if err != nil || n > 16<<20 {
		return 0, nil, fmt.Errorf("a frame of %d bytes: %v", n, err)
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(s.r, payload)
	return op, payload, err
}
