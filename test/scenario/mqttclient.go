package scenario

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"testing"
	"time"

	"pubsub/internal/mqtt"
)

// The opcodes of RFC 6455 section 5.2.
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xA
)

// mqttClient is a WebSocket of the tests' own, with MQTT packets in it.
type mqttClient struct {
	t      testing.TB
	conn   net.Conn
	r      *bufio.Reader
	header textproto.MIMEHeader // of the upgrade's response

	packets []byte // of frames read, not yet cut into packets
	id      uint16 // of the last packet that has one
}

const wsKey = "dGhlIHNhbXBsZSBub25jZQ=="

// upgrade opens a WebSocket.
func (n *node) upgrade(header ...string) *mqttClient {
	n.t.Helper()
	return upgradeOn(n.t, dial(n.t, n.addr), header...)
}

func upgradeOn(t testing.TB, conn net.Conn, header ...string) *mqttClient {
	t.Helper()
	header = append([]string{"Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + wsKey}, header...)
	h := get(t, conn, "/mqtt", header...)
	if h.status != "HTTP/1.1 101 Switching Protocols" {
		t.Fatalf("upgrade: %s", h.status)
	}
	sum := sha1.Sum([]byte(wsKey + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	if got, want := h.header.Get("Sec-Websocket-Accept"), base64.StdEncoding.EncodeToString(sum[:]); got != want {
		t.Fatalf("Sec-WebSocket-Accept is %q, not %q", got, want)
	}
	return &mqttClient{t: t, conn: conn, r: h.r, header: h.header}
}

// connect opens a session with the token, an identifier, and what else is set in
// c.
func (n *node) connect(token string, c mqtt.Connect) *mqttClient {
	n.t.Helper()
	m := n.upgrade("Sec-WebSocket-Protocol: mqtt")
	m.connect(token, c)
	return m
}

func (m *mqttClient) connect(token string, c mqtt.Connect) *mqtt.Connack {
	m.t.Helper()
	c.Password, c.HasPassword = []byte(token), true
	m.send(&c)
	ack, ok := m.next().(*mqtt.Connack)
	if !ok || ack.Reason != mqtt.Success {
		m.t.Fatalf("CONNACK is %+v", ack)
	}
	return ack
}

// adminClient is a session that may do everything.
func (n *node) adminClient(topics ...string) *mqttClient {
	n.t.Helper()
	m := n.connect(adminToken, mqtt.Connect{})
	if len(topics) > 0 {
		m.subscribe(topics...)
	}
	return m
}

// appendFrame appends a masked frame.
func appendFrame(dst []byte, first byte, payload []byte) []byte {
	dst = append(dst, first)
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, 0x80|byte(n))
	case n < 1<<16:
		dst = binary.BigEndian.AppendUint16(append(dst, 0x80|126), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, 0x80|127), uint64(n))
	}
	mask := [4]byte{0x12, 0x34, 0x56, 0x78}
	dst = append(dst, mask[:]...)
	for i, c := range payload {
		dst = append(dst, c^mask[i%4])
	}
	return dst
}

// frame sends one frame; first is its first byte, with FIN and opcode.
func (m *mqttClient) frame(first byte, payload []byte) {
	m.t.Helper()
	m.raw(appendFrame(nil, first, payload))
}

// raw sends bytes as they are.
func (m *mqttClient) raw(b []byte) {
	m.t.Helper()
	deadline(m.conn)
	if _, err := m.conn.Write(b); err != nil {
		m.t.Fatalf("sending: %v", err)
	}
}

// send sends packets in one binary frame.
func (m *mqttClient) send(ps ...mqtt.Packet) {
	m.t.Helper()
	m.frame(0x80|opBinary, appendPackets(nil, ps...))
}

func appendPackets(dst []byte, ps ...mqtt.Packet) []byte {
	for _, p := range ps {
		dst = p.Append(dst)
	}
	return dst
}

// readFrame reads one frame, which must be whole and unmasked.
func (m *mqttClient) readFrame() (op byte, payload []byte, err error) {
	deadline(m.conn)
	var head [2]byte
	if _, err := io.ReadFull(m.r, head[:]); err != nil {
		return 0, nil, err
	}
	if head[0]&0xf0 != 0x80 || head[1]&0x80 != 0 {
		return 0, nil, fmt.Errorf("frame header % x", head)
	}
	n := uint64(head[1])
	switch n {
	case 126:
		var b [2]byte
		_, err = io.ReadFull(m.r, b[:])
		n = uint64(binary.BigEndian.Uint16(b[:]))
	case 127:
		var b [8]byte
		_, err = io.ReadFull(m.r, b[:])
		n = binary.BigEndian.Uint64(b[:])
	}
	if err != nil {
		return 0, nil, err
	}
	if n > 32<<20 {
		return 0, nil, fmt.Errorf("frame of %d bytes", n)
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(m.r, payload)
	return head[0] & 0xf, payload, err
}

// closed is the end of a WebSocket by a close frame.
type closed struct{ code int }

func (c closed) Error() string { return fmt.Sprintf("closed with %d", c.code) }

// read returns the next packet. Empty frames are passed over, and make nobody wait
// longer. The broker sends no WebSocket ping.
func (m *mqttClient) read() (mqtt.Packet, error) {
	for begun := time.Now(); ; {
		if time.Since(begun) > patience {
			return nil, errors.New("empty frames, and no packet")
		}
		if len(m.packets) > 0 {
			p, n, err := mqtt.Parse(m.packets)
			if err == nil {
				m.packets = m.packets[n:]
				return p, nil
			}
			if !errors.Is(err, mqtt.ErrIncomplete) {
				return nil, fmt.Errorf("%w in % .60x", err, m.packets)
			}
		}
		op, payload, err := m.readFrame()
		switch {
		case err != nil:
			return nil, err
		case op == opBinary:
			m.packets = append(m.packets, payload...)
		case op == opClose && len(payload) == 0:
			return nil, closed{1005}
		case op == opClose && len(payload) >= 2:
			return nil, closed{int(binary.BigEndian.Uint16(payload))}
		default:
			return nil, fmt.Errorf("frame of opcode %d", op)
		}
	}
}

// next returns the next packet.
func (m *mqttClient) next() mqtt.Packet {
	m.t.Helper()
	p, err := m.read()
	if err != nil {
		m.t.Fatalf("next packet: %v", err)
	}
	return p
}

// publication returns the next packet, a PUBLISH.
func (m *mqttClient) publication() *mqtt.Publish {
	m.t.Helper()
	p := m.next()
	pub, ok := p.(*mqtt.Publish)
	if !ok {
		m.t.Fatalf("not a PUBLISH: %s %+v", p.Type(), p)
	}
	return pub
}

// expect fails the test unless the next packet is a PUBLISH of that content.
func (m *mqttClient) expect(topic, data string) *mqtt.Publish {
	m.t.Helper()
	p := m.publication()
	if p.Topic != topic || string(p.Payload) != data {
		m.t.Fatalf("PUBLISH of %.100q to %q, not of %.100q to %q", p.Payload, p.Topic, data, topic)
	}
	return p
}

// subscribe subscribes to topics, all of which must be granted.
func (m *mqttClient) subscribe(topics ...string) {
	m.t.Helper()
	var fs []mqtt.Filter
	for _, t := range topics {
		fs = append(fs, mqtt.Filter{Topic: t})
	}
	for i, r := range m.subscribeWith(0, fs...) {
		if r != mqtt.Success {
			m.t.Fatalf("SUBACK of %q: %s", topics[i], r)
		}
	}
}

// subscribeWith subscribes with options and returns what SUBACK, which must come
// next, says.
func (m *mqttClient) subscribeWith(id uint32, filters ...mqtt.Filter) []mqtt.ReasonCode {
	m.t.Helper()
	m.id++
	m.send(&mqtt.Subscribe{PacketID: m.id, SubscriptionID: id, Filters: filters})
	ack, ok := m.next().(*mqtt.Suback)
	if !ok || ack.PacketID != m.id || len(ack.Reasons) != len(filters) {
		m.t.Fatalf("SUBACK is %+v", ack)
	}
	return ack.Reasons
}

// publish sends a PUBLISH.
func (m *mqttClient) publish(topic, data string, retain bool) {
	m.t.Helper()
	m.send(&mqtt.Publish{Topic: topic, Payload: []byte(data), Retain: retain})
}

// ping fails the test unless the next packet answers a PINGREQ: nothing else was
// on its way, and all that was sent before has been taken.
func (m *mqttClient) ping() {
	m.t.Helper()
	m.send(&mqtt.Pingreq{})
	if p := m.next(); p.Type() != mqtt.TypePingresp {
		m.t.Fatalf("before PINGRESP comes %s %+v", p.Type(), p)
	}
}

// ended reads to the end of the connection and fails the test unless it is a
// DISCONNECT (or a CONNACK, before the session) of the reason, a close frame of
// the code, and the end of the bytes.
func (m *mqttClient) ended(reason mqtt.ReasonCode, code int) {
	m.t.Helper()
	p, err := m.read()
	if err != nil {
		m.t.Fatalf("instead of %s: %v", reason, err)
	}
	var got mqtt.ReasonCode
	switch p := p.(type) {
	case *mqtt.Disconnect:
		got = p.Reason
	case *mqtt.Connack:
		got = p.Reason
	default:
		m.t.Fatalf("instead of %s: %s %+v", reason, p.Type(), p)
	}
	if got != reason {
		m.t.Fatalf("%s with %s, not %s", p.Type(), got, reason)
	}
	m.closes(code)
}

// closes fails the test unless a close frame of the code is next, and the last.
func (m *mqttClient) closes(code int) {
	m.t.Helper()
	p, err := m.read()
	if c := (closed{}); !errors.As(err, &c) || c.code != code {
		m.t.Fatalf("instead of a close with %d: %v, %v", code, p, err)
	}
	deadline(m.conn)
	if b, err := io.ReadAll(m.r); len(b) > 0 || err != nil {
		m.t.Fatalf("after the close: % x, %v", b, err)
	}
}

// connectWith is a CONNECT with that password.
func connectWith(token string) []byte {
	c := mqtt.Connect{Password: []byte(token), HasPassword: true}
	return c.Append(nil)
}
