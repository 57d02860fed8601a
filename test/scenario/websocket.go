package scenario

import (
	"io"
	"strings"
	"testing"
	"time"

	"pubsub/internal/config"
	"pubsub/internal/mqtt"
	"pubsub/internal/testkit/wire"
)

// The subprotocol mqtt is selected if the client offers it, and not required.
func TestSubprotocol(t *testing.T) {
	n := start(t)
	for _, tt := range []struct {
		offered string
		want    string
	}{
		{"", ""},
		{"Sec-WebSocket-Protocol: mqtt", "mqtt"},
		{"Sec-WebSocket-Protocol: foo, mqtt , bar", "mqtt"},
		{"Sec-WebSocket-Protocol: mqttv3.1", ""},
	} {
		var header []string
		if tt.offered != "" {
			header = append(header, tt.offered)
		}
		m := n.upgrade(header...)
		if got := m.Header.Get("Sec-Websocket-Protocol"); got != tt.want {
			t.Errorf("offered %q, selected %q, want %q", tt.offered, got, tt.want)
		}
		m.Connect(adminToken, mqtt.Connect{})
	}
}

// MQTT packets may begin and end anywhere in frames, and a frame may have several.
func TestPacketsSplitAcrossFrames(t *testing.T) {
	n := start(t)
	sub := mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Filter{{Topic: "t"}}}
	long := strings.Repeat("x", 32000)
	pub := mqtt.Publish{Topic: "t", Payload: []byte(long)}
	packets := append(connectWith(adminToken), wire.AppendPackets(nil, &sub, &mqtt.Pingreq{}, &pub, &mqtt.Pingreq{})...)
	check := func(t *testing.T, m *wire.MQTT) {
		if ack, ok := m.Next().(*mqtt.Connack); !ok || ack.Reason != 0 {
			t.Fatalf("CONNACK is %+v", ack)
		}
		if ack, ok := m.Next().(*mqtt.Suback); !ok || len(ack.Reasons) != 1 {
			t.Fatalf("SUBACK is %+v", ack)
		}
		// The message may overtake the second PINGRESP.
		pings, messages := 0, 0
		for pings < 2 || messages < 1 {
			switch p := m.Next().(type) {
			case *mqtt.Pingresp:
				pings++
			case *mqtt.Publish:
				if messages++; string(p.Payload) != long {
					t.Fatalf("payload %.100q", p.Payload)
				}
			default:
				t.Fatalf("unexpected %s", p.Type())
			}
		}
	}
	for name, frames := range map[string]func() []byte{
		"all in one frame": func() []byte { return wire.AppendFrame(nil, wire.FIN|wire.OpBinary, packets) },
		"frames of one byte": func() (b []byte) {
			for i := range packets {
				b = wire.AppendFrame(b, wire.FIN|wire.OpBinary, packets[i:i+1])
			}
			return b
		},
		"frames of 7 bytes, empty ones between": func() (b []byte) {
			for p := packets; len(p) > 0; {
				k := min(7, len(p))
				b = wire.AppendFrame(wire.AppendFrame(b, wire.FIN|wire.OpBinary, p[:k]), wire.FIN|wire.OpBinary, nil)
				p = p[k:]
			}
			return b
		},
		"one message in fragments, control frames between": func() []byte {
			b := wire.AppendFrame(nil, wire.OpBinary, packets[:5])
			b = wire.AppendFrame(b, wire.FIN|wire.OpPong, []byte("unasked"))
			b = wire.AppendFrame(b, wire.OpContinuation, packets[5:100])
			b = wire.AppendFrame(b, wire.OpContinuation, nil)
			return wire.AppendFrame(b, wire.FIN|wire.OpContinuation, packets[100:])
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := n.upgrade()
			go m.Conn.Write(frames())
			check(t, m)
		})
	}
	t.Run("bytes one by one", func(t *testing.T) {
		m := n.upgrade()
		for _, c := range wire.AppendFrame(nil, wire.FIN|wire.OpBinary, packets[:120]) {
			m.Write([]byte{c})
		}
		m.WriteFrame(wire.FIN|wire.OpBinary, packets[120:])
		check(t, m)
	})
	t.Run("together with the request", func(t *testing.T) {
		conn := dial(t, n.addr)
		io.WriteString(conn, "GET /mqtt HTTP/1.1\r\nHost: broker\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "+wire.Key+"\r\n\r\n"+
			string(wire.AppendFrame(nil, wire.FIN|wire.OpBinary, packets)))
		r := wire.Response(t, conn)
		if r.Status != "HTTP/1.1 101 Switching Protocols" {
			t.Fatalf("upgrade: %s", r.Status)
		}
		check(t, &wire.MQTT{T: t, Session: wire.Session{Conn: conn, R: r.Body}})
	})
}

// The broker accepts pings and fragments as in RFC 6455, and closes with these codes.
func TestWebSocket(t *testing.T) {
	n := start(t)
	t.Run("ping", func(t *testing.T) {
		m := n.upgrade() // before CONNECT, too
		for _, payload := range []string{"", "hello", strings.Repeat("x", 125)} {
			m.WriteFrame(wire.FIN|wire.OpPing, []byte(payload))
			if op, b, err := m.ReadFrame(); op != wire.OpPong || string(b) != payload || err != nil {
				t.Fatalf("opcode %d, %q, %v", op, b, err)
			}
		}
		m.WriteFrame(wire.FIN|wire.OpPong, []byte("unasked"))
		m.Connect(adminToken, mqtt.Connect{})
	})
	for name, tt := range map[string]struct {
		bytes []byte
		code  int
	}{
		"text frame":             {wire.AppendFrame(nil, wire.FIN|wire.OpText, []byte("hello")), 1003},
		"unmasked frame":         {[]byte{0x82, 2, 0xc0, 0}, 1002},
		"reserved bit":           {wire.AppendFrame(nil, 0xc0|wire.OpBinary, []byte{0xc0, 0}), 1002},
		"reserved opcode":        {wire.AppendFrame(nil, 0x83, nil), 1002},
		"fragmented ping":        {wire.AppendFrame(nil, wire.OpPing, nil), 1002},
		"long ping":              {wire.AppendFrame(nil, wire.FIN|wire.OpPing, make([]byte, 126)), 1002},
		"stray continuation":     {wire.AppendFrame(nil, wire.FIN|wire.OpContinuation, []byte{0xc0, 0}), 1002},
		"message in a message":   {wire.AppendFrame(wire.AppendFrame(nil, wire.OpBinary, []byte{0xc0}), wire.FIN|wire.OpBinary, []byte{0}), 1002},
		"close of one byte":      {wire.AppendFrame(nil, wire.FIN|wire.OpClose, []byte{3}), 1002},
		"close with 1005":        {wire.AppendFrame(nil, wire.FIN|wire.OpClose, []byte{0x03, 0xed}), 1002},
		"close, reason no UTF-8": {wire.AppendFrame(nil, wire.FIN|wire.OpClose, []byte{0x03, 0xe8, 0xff}), 1007},
		"close with 1000":        {wire.AppendFrame(nil, wire.FIN|wire.OpClose, []byte{0x03, 0xe8}), 1000},
		"close with 1001":        {wire.AppendFrame(nil, wire.FIN|wire.OpClose, []byte("\x03\xe9bye")), 1001},
		"close with 4000":        {wire.AppendFrame(nil, wire.FIN|wire.OpClose, []byte{0x0f, 0xa0}), 4000},
		"close without code":     {wire.AppendFrame(nil, wire.FIN|wire.OpClose, nil), 1005},
		"2^63 bytes":             {[]byte{0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}, 1002},
		"2^62 bytes":             {[]byte{0x82, 0xff, 0x40, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}, 1009},
	} {
		t.Run(name, func(t *testing.T) {
			m := n.adminClient()
			m.Write(tt.bytes)
			m.ExpectClose(tt.code)
		})
	}
}

// After ws-keep-alive without a frame from the broker, it sends an empty binary frame.
func TestWebSocketKeepAlive(t *testing.T) {
	n := start(t, func(c *config.Config) { c.WSKeepAlive = 150 * time.Millisecond })
	m := n.adminClient()
	for range 3 {
		if op, b, err := m.ReadFrame(); op != wire.OpBinary || len(b) != 0 || err != nil {
			t.Fatalf("opcode %d, %q, %v", op, b, err)
		}
	}
	m.Ping()
}
