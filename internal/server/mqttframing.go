package server

import (
	"errors"
	"net/netip"

	"pubsub/internal/session"
	"pubsub/internal/ws"
)

// framing is how a transport carries MQTT packets. The Protocol of an [mqttConn]
// implements it.
type framing interface {
	// receive takes bytes from the client and passes the packets in them to
	// [mqttConn.packets]. It reports whether it takes more. The bytes may be changed.
	receive(b []byte) (more bool)
	// appendHeader appends the bytes that precede n bytes of packets.
	appendHeader(dst []byte, n int) []byte
	// appendClose appends the bytes that follow the last packet.
	appendClose(dst []byte, code session.CloseCode) []byte
	// message returns shared, a WebSocket message of [appendMessage], in the framing of this
	// transport.
	message(shared []byte) []byte
	// keepAlive returns bytes that keep an idle connection open and that the client
	// ignores. It returns nil if the transport has none.
	keepAlive() []byte
}

// framing returns the framing of m's packets.
func (m *mqttConn) framing() framing { return m.Protocol().(framing) }

// webSocketConn is an MQTT session over a WebSocket (MQTT 5.0 section 6).
type webSocketConn struct {
	mqttConn
	decoder ws.Decoder // owned by the goroutine that reads
}

// newWebSocketConn returns the connection of a client from addr, before Init.
func (s *Server) newWebSocketConn(addr netip.Addr) *webSocketConn {
	return &webSocketConn{
		mqttConn: mqttConn{s: s, pending: &addr, session: session.New(&s.sessions, s.o.Now())},
		decoder:  ws.Decoder{MaxFrame: uint32(max(ws.DefaultMaxFrame, s.sessions.MaxPacketSize()))},
	}
}

func (c *webSocketConn) receive(b []byte) (more bool) {
	for len(b) > 0 {
		ev, n, err := c.decoder.Next(b)
		b = b[n:]
		if bad := (*ws.CloseError)(nil); errors.As(err, &bad) {
			c.closeWebSocket(bad.Code, bad.Text)
			return false
		}
		switch ev.Kind {
		case ws.Data:
			if !c.packets(ev.Payload) {
				return false
			}
		case ws.Ping:
			if !c.WaitRoom() {
				return false
			}
			c.Send(ws.AppendPong(nil, ev.Payload))
		case ws.Close:
			c.closeWebSocket(ev.Code, "")
			return false
		}
	}
	return true
}

// closeWebSocket sends a close frame as the last bytes, without any MQTT packet.
func (c *webSocketConn) closeWebSocket(code ws.Code, reason string) {
	c.SendLast(ws.AppendClose(nil, code, reason))
	c.step(session.TransportClosed{})
}

func (c *webSocketConn) appendHeader(dst []byte, n int) []byte {
	return ws.AppendHeader(dst, ws.OpBinary, n)
}

func (c *webSocketConn) appendClose(dst []byte, code session.CloseCode) []byte {
	return ws.AppendClose(dst, ws.Code(code), "")
}

func (c *webSocketConn) message(shared []byte) []byte { return shared }

func (c *webSocketConn) keepAlive() []byte { return emptyFrame }

// emptyFrame keeps proxies from cutting an idle WebSocket, and clients ignore it. Pings
// are not used, because some MQTT clients cannot answer a ping and others disconnect.
var emptyFrame = ws.AppendHeader(nil, ws.OpBinary, 0)
