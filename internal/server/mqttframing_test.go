package server

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"

	"pubsub"
	"pubsub/internal/conn"
	"pubsub/internal/mqtt"
	"pubsub/internal/session"
)

// rawConn is an MQTT session without any framing, as over TCP.
type rawConn struct{ mqttConn }

func (c *rawConn) receive(b []byte) (more bool)                       { return c.packets(b) }
func (c *rawConn) appendHeader(dst []byte, _ int) []byte              { return dst }
func (c *rawConn) appendClose(dst []byte, _ session.CloseCode) []byte { return dst }
func (c *rawConn) message(shared []byte) []byte                       { return packetOf(shared) }
func (c *rawConn) keepAlive() []byte                                  { return nil }

// An MQTT session needs nothing of WebSocket.
func TestSessionWithoutWebSocket(t *testing.T) {
	inTime(t, nil, func(t *testing.T, s *Server) {
		c := &rawConn{mqttConn{s: s, pending: &loopback, session: session.New(&s.sessions, s.o.Now())}}
		slot, _ := s.acquire(s.pending, loopback)
		c.Init(s.registry, c, slot, false)
		if !c.Register() {
			t.Fatal("Register = false")
		}
		client, nc := net.Pipe()
		c.StartGoroutines(conn.NetTransport{Conn: nc}, nil)
		go c.read(nc, nil)

		msg := pubsub.Message{Topic: "t", Data: []byte("the content")}
		pub := mqttPublish(&msg, false)
		for _, step := range []struct {
			send mqtt.Packet
			want []byte // a part of what the client then reads
		}{
			{connect("c", 10), []byte{byte(mqtt.TypeConnack) << 4}},
			{&mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Filter{{Topic: "t"}}}, []byte{byte(mqtt.TypeSuback) << 4}},
			{&pub, pub.Append(nil)},
		} {
			client.Write(step.send.Append(nil))
			time.Sleep(time.Second)
			b := make([]byte, 1024)
			n, err := client.Read(b)
			if err != nil || !bytes.HasPrefix(b[:n], step.want) {
				t.Fatalf("%T: read %q, %v, want %q first", step.send, b[:n], err, step.want)
			}
		}
		// The client stays silent from now on, until its keep-alive is over.
		if b, err := io.ReadAll(client); err != nil || mqtt.TypeOf(b[0]) != mqtt.TypeDisconnect {
			t.Errorf("at the end: %q, %v", b, err)
		}
		client.Close()
	})
}

func TestPacketOf(t *testing.T) {
	// The header becomes longer at 126 and 65,536 bytes.
	for n := range 66000 {
		if 200 < n && n < 65500 {
			continue
		}
		m := pubsub.Message{Topic: "t", Data: make([]byte, n)}
		want := mqttPublish(&m, false)
		if got := packetOf(appendMessage(nil, &m)); !bytes.Equal(got, want.Append(nil)) {
			t.Errorf("%d bytes: got %d, want %d", n, len(got), want.Size())
		}
	}
}
