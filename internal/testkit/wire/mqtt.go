package wire

import (
	"errors"
	"io"
	"net"
	"testing"

	"pubsub/internal/mqtt"
)

// MQTT is a Session of a test.
type MQTT struct {
	T testing.TB
	Session

	id uint16 // of the last packet that has one
}

// Upgrade upgrades a connection to a WebSocket. header are further lines of the
// request.
func Upgrade(t testing.TB, conn net.Conn, header ...string) *MQTT {
	t.Helper()
	deadline(conn)
	s, err := Dial(conn, header...)
	if err != nil {
		t.Fatal(err)
	}
	return &MQTT{T: t, Session: *s}
}

// Connect opens the session with the token as password.
func (m *MQTT) Connect(token string, c mqtt.Connect) *mqtt.Connack {
	m.T.Helper()
	deadline(m.Conn)
	ack, err := m.Session.Connect(token, c)
	if err != nil {
		m.T.Fatal(err)
	}
	if ack.Reason != mqtt.Success {
		m.T.Fatalf("CONNACK is %+v", ack)
	}
	return ack
}

// Write sends bytes as they are.
func (m *MQTT) Write(b []byte) {
	m.T.Helper()
	deadline(m.Conn)
	if _, err := m.Conn.Write(b); err != nil {
		m.T.Fatalf("sending: %v", err)
	}
}

// WriteFrame sends one frame. first is its first byte, with FIN and opcode.
func (m *MQTT) WriteFrame(first byte, payload []byte) {
	m.T.Helper()
	m.Write(AppendFrame(nil, first, payload))
}

// Send sends packets in one binary frame.
func (m *MQTT) Send(ps ...mqtt.Packet) {
	m.T.Helper()
	m.WriteFrame(FIN|OpBinary, AppendPackets(nil, ps...))
}

// ReadFrame reads one frame.
func (m *MQTT) ReadFrame() (op byte, payload []byte, err error) {
	deadline(m.Conn)
	return ReadFrame(m.R)
}

// Read returns the next packet, or an error. Another goroutine may call it.
func (m *MQTT) Read() (mqtt.Packet, error) {
	deadline(m.Conn)
	return m.Session.Read()
}

// Next returns the next packet.
func (m *MQTT) Next() mqtt.Packet {
	m.T.Helper()
	p, err := m.Read()
	if err != nil {
		m.T.Fatalf("next packet: %v", err)
	}
	return p
}

// NextPublish returns the next packet, which must be a PUBLISH.
func (m *MQTT) NextPublish() *mqtt.Publish {
	m.T.Helper()
	p := m.Next()
	pub, ok := p.(*mqtt.Publish)
	if !ok {
		m.T.Fatalf("not a PUBLISH: %s %+v", p.Type(), p)
	}
	return pub
}

// Expect checks that the next packet is a PUBLISH of data to topic, and returns it.
func (m *MQTT) Expect(topic, data string) *mqtt.Publish {
	m.T.Helper()
	p := m.NextPublish()
	if p.Topic != topic || string(p.Payload) != data {
		m.T.Fatalf("PUBLISH of %.100q to %q, not of %.100q to %q", p.Payload, p.Topic, data, topic)
	}
	return p
}

// Subscribe subscribes to topics, all of which must be granted.
func (m *MQTT) Subscribe(topics ...string) {
	m.T.Helper()
	var fs []mqtt.Filter
	for _, t := range topics {
		fs = append(fs, mqtt.Filter{Topic: t})
	}
	for i, r := range m.SubscribeWith(0, fs...) {
		if r != mqtt.Success {
			m.T.Fatalf("SUBACK of %q: %s", topics[i], r)
		}
	}
}

// SubscribeWith subscribes with a Subscription Identifier, unless it is 0, and options.
// It returns the reasons of the SUBACK, which must be the next packet.
func (m *MQTT) SubscribeWith(id uint32, filters ...mqtt.Filter) []mqtt.ReasonCode {
	m.T.Helper()
	m.id++
	m.Send(&mqtt.Subscribe{PacketID: m.id, SubscriptionID: id, Filters: filters})
	p := m.Next()
	ack, ok := p.(*mqtt.Suback)
	if !ok || ack.PacketID != m.id || len(ack.Reasons) != len(filters) {
		m.T.Fatalf("not the SUBACK of packet %d: %s %+v", m.id, p.Type(), p)
	}
	return ack.Reasons
}

// Publish sends a PUBLISH.
func (m *MQTT) Publish(topic, data string, retain bool) {
	m.T.Helper()
	m.Send(&mqtt.Publish{Topic: topic, Payload: []byte(data), Retain: retain})
}

// Ping sends a PINGREQ and checks that the next packet is the PINGRESP. Then no other
// packet was on its way, and the broker has read all that was sent before.
func (m *MQTT) Ping() {
	m.T.Helper()
	m.Send(&mqtt.Pingreq{})
	if p := m.Next(); p.Type() != mqtt.TypePingresp {
		m.T.Fatalf("%s %+v before PINGRESP", p.Type(), p)
	}
}

// ExpectEnd checks that the broker ends the session: with a DISCONNECT (or a CONNACK,
// before the session) of the reason, a close frame of the code, and the end of the
// connection.
func (m *MQTT) ExpectEnd(reason mqtt.ReasonCode, code int) {
	m.T.Helper()
	p, err := m.Read()
	if err != nil {
		m.T.Fatalf("waiting for the end with %s: %v", reason, err)
	}
	var got mqtt.ReasonCode
	switch p := p.(type) {
	case *mqtt.Disconnect:
		got = p.Reason
	case *mqtt.Connack:
		got = p.Reason
	default:
		m.T.Fatalf("instead of %s: %s %+v", reason, p.Type(), p)
	}
	if got != reason {
		m.T.Fatalf("%s with %s, not %s", p.Type(), got, reason)
	}
	m.ExpectClose(code)
}

// ExpectClose checks that the next frame is a close frame of the code, and the last.
func (m *MQTT) ExpectClose(code int) {
	m.T.Helper()
	p, err := m.Read()
	if c := (Closed{}); !errors.As(err, &c) || c.Code != code {
		m.T.Fatalf("instead of a close with %d: %v, %v", code, p, err)
	}
	deadline(m.Conn)
	if b, err := io.ReadAll(m.R); len(b) > 0 || err != nil {
		m.T.Fatalf("after the close: % x, %v", b, err)
	}
}
