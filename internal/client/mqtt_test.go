package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"pubsub/internal/mqtt"
)

// serveMQTT starts a server that accepts WebSockets and calls h for each.
func serveMQTT(t *testing.T, h func(conn *peer)) *Client {
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/mqtt" {
			refuse(w, 404, "Not Found")
			return
		}
		ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"mqtt"}})
		if err != nil {
			return
		}
		if ws.Subprotocol() != "mqtt" {
			t.Errorf("subprotocol %q", ws.Subprotocol())
		}
		conn := websocket.NetConn(r.Context(), ws, websocket.MessageBinary)
		defer conn.Close()
		h(&peer{t: t, conn: conn})
	})
}

// peer is the server's end of a connection.
type peer struct {
	t    *testing.T
	conn net.Conn
	buf  []byte
}

// next returns the next packet, or nil at the end of the connection.
func (p *peer) next() mqtt.Packet {
	for {
		packet, n, err := mqtt.Parse(p.buf)
		if err == nil {
			p.buf = p.buf[n:]
			return packet
		}
		if !errors.Is(err, mqtt.ErrIncomplete) {
			p.t.Errorf("the client sent %q: %v", p.buf, err)
			return nil
		}
		b := make([]byte, 4096)
		n, err = p.conn.Read(b)
		if err != nil {
			return nil
		}
		p.buf = append(p.buf, b[:n]...)
	}
}

func (p *peer) send(packets ...mqtt.Packet) {
	var b []byte
	for _, packet := range packets {
		b = packet.Append(b)
	}
	if _, err := p.conn.Write(b); err != nil {
		p.t.Logf("the client has disconnected: %v", err)
	}
}

// accept reads CONNECT and SUBSCRIBE and grants both. It returns a description of them.
func (p *peer) accept() string {
	connect, ok := p.next().(*mqtt.Connect)
	if !ok {
		return "no CONNECT"
	}
	p.send(&mqtt.Connack{HasServerKeepAlive: true, ServerKeepAlive: 1})
	subscribe, ok := p.next().(*mqtt.Subscribe)
	if !ok {
		return "no SUBSCRIBE"
	}
	reasons := make([]mqtt.ReasonCode, len(subscribe.Filters))
	p.send(&mqtt.Suback{PacketID: subscribe.PacketID, Reasons: reasons})
	return fmt.Sprintf("clean %t, password %s, client %q, filters %v", connect.CleanStart, connect.Password, connect.ClientID, subscribe.Filters)
}

func TestSubscribeMQTT(t *testing.T) {
	connections := 0
	var accepted []string
	c := serveMQTT(t, func(p *peer) {
		connections++
		accepted = append(accepted, p.accept())
		big := make([]byte, 100_000)
		switch connections {
		case 1:
			// A packet may begin and end anywhere in a frame.
			b := (&mqtt.Publish{Topic: "a", Payload: []byte("x"), Retain: true}).Append(nil)
			b = (&mqtt.Publish{Topic: "b", Payload: []byte{0, 0xff}}).Append(b)
			for i := range b {
				p.conn.Write(b[i : i+1])
			}
			p.send(&mqtt.Publish{Topic: "a", Payload: big}, &mqtt.Publish{Topic: "a"})
			p.send(&mqtt.Disconnect{Reason: mqtt.ServerShuttingDown})
		case 2:
			if packet, ok := p.next().(*mqtt.Pingreq); !ok {
				t.Errorf("got %v, want a ping", packet)
			}
			p.send(&mqtt.Pingresp{}, &mqtt.Publish{Topic: "b", Payload: []byte("y")})
			p.send(&mqtt.Disconnect{Reason: mqtt.NotAuthorized})
		}
	})
	var got []string
	note := func(format string, args ...any) { got = append(got, fmt.Sprintf(format, args...)) }
	err := c.SubscribeMQTT(t.Context(), Subscription{
		Topics: []string{"a", "b"}, Token: "tok",
		Message: func(m Message) error {
			if len(m.Data) > 10 {
				note("message %s of %d bytes%s", m.Topic, len(m.Data), m.ID)
			} else {
				note("message %s %q%s", m.Topic, m.Data, m.ID)
			}
			return nil
		},
		Open:        func() { note("open") },
		Interrupted: func(err error, _ time.Duration) { note("interrupted: %v", err) },
	})
	wantError(t, err, Error{0, TokenExpired, "Token expired or revoked"})
	wantLines(t, got,
		"open",
		`message a "x"`,
		`message b "\x00\xff"`,
		"message a of 100000 bytes",
		`message a ""`,
		"interrupted: the server ended the session: 0x8B server shutting down",
		"open",
		`message b "y"`,
	)
	want := `clean true, password tok, client "", filters [{a 0 false false 0} {b 0 false false 0}]`
	wantLines(t, accepted, want, want)
}

func TestSubscribeMQTTRefused(t *testing.T) {
	connack := func(r mqtt.ReasonCode) func(*peer) {
		return func(p *peer) { p.next(); p.send(&mqtt.Connack{Reason: r}) }
	}
	suback := func(r mqtt.ReasonCode) func(*peer) {
		return func(p *peer) {
			p.next()
			p.send(&mqtt.Connack{})
			p.next()
			p.send(&mqtt.Suback{PacketID: 1, Reasons: []mqtt.ReasonCode{mqtt.Success, r}})
		}
	}
	for _, tt := range []struct {
		name string
		h    func(*peer)
		want Error
	}{
		{"token", connack(mqtt.NotAuthorized), Error{0, Forbidden, "Invalid token"}},
		{"too many", connack(mqtt.QuotaExceeded), Error{0, "too-many-connections", "Too many connections"}},
		{"busy", connack(mqtt.ServerBusy), Error{0, "", "the server refused the connection: 0x89 server busy"}},
		{"our fault", connack(mqtt.ProtocolError), Error{0, BadRequest, "the server refused the connection: 0x82 protocol error"}},
		{"topic", suback(mqtt.NotAuthorized), Error{0, Forbidden, "Cannot subscribe to topic: b"}},
		{"no topic", suback(mqtt.WildcardSubscriptionsNotSupported), Error{0, BadRequest, "Invalid topic: b"}},
		{"unspecified", suback(mqtt.UnspecifiedError), Error{0, "", "the server refused the subscription: 0x80 unspecified error"}},
		{"taken over", func(p *peer) { p.accept(); p.send(&mqtt.Disconnect{Reason: mqtt.SessionTakenOver}) }, Error{0, TakenOver, "another client has taken over"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := serveMQTT(t, tt.h)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			err := c.SubscribeMQTT(ctx, Subscription{
				Topics:      []string{"a", "b"},
				Message:     func(Message) error { t.Error("unexpected message"); return nil },
				Interrupted: func(err error, _ time.Duration) { t.Errorf("interrupted by %v", err); cancel() },
			})
			wantError(t, err, tt.want)
		})
	}
	c := serve(t, func(w http.ResponseWriter, r *http.Request) { refuse(w, 404, "Not Found") })
	wantError(t, c.SubscribeMQTT(t.Context(), Subscription{Topics: []string{"a"}}), Error{404, "", "Not Found"})
	c = serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "<html>Welcome") })
	wantError(t, c.SubscribeMQTT(t.Context(), Subscription{Topics: []string{"a"}}),
		Error{200, Foreign, c.base.String() + " is not a Pub/Sub server: it answers 200 OK (text/html)"})
}

// TestMQTTSilence checks how long a client waits for the next packet: for the time of a
// request before it has subscribed, and then for one and a half keep-alives.
func TestMQTTSilence(t *testing.T) {
	for opened, want := range map[bool]time.Duration{false: requestTimeout, true: 90 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			ours, theirs := net.Pipe()
			defer theirs.Close()
			m := &mqttConn{conn: ours, keepAlive: mqttKeepAlive * time.Second, attempt: attempt{opened: opened}}
			began := time.Now()
			if _, _, err := m.read(nil); err != errNoAnswer || time.Since(began) != want {
				t.Errorf("opened %t: %v after %v, want %v after %v", opened, err, time.Since(began), errNoAnswer, want)
			}
		})
	}
}

// TestSubscribeMQTTEnds checks that the client sends DISCONNECT when its subscription ends,
// and that invalid packets end it.
func TestSubscribeMQTTEnds(t *testing.T) {
	last := make(chan mqtt.Packet, 1)
	publish := func(p *peer) {
		p.accept()
		p.send(&mqtt.Publish{Topic: "a"})
		for {
			packet := p.next()
			if _, ok := packet.(*mqtt.Pingreq); !ok {
				last <- packet
				return
			}
		}
	}
	enough := errors.New("enough")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, tt := range []struct {
		message func(Message) error
		want    error
	}{
		{func(Message) error { return enough }, enough},
		{func(Message) error { cancel(); return nil }, nil},
	} {
		c := serveMQTT(t, publish)
		if err := c.SubscribeMQTT(ctx, Subscription{Topics: []string{"a"}, Message: tt.message}); err != tt.want {
			t.Errorf("got %v, want %v", err, tt.want)
		}
		if p, ok := (<-last).(*mqtt.Disconnect); !ok || p.Reason != mqtt.Success {
			t.Errorf("the server received %v, want DISCONNECT", p)
		}
	}
	for name, bytes := range map[string]string{
		"an endless length": "\x30\xff\xff\xff\xff\xff",
		"256 MiB":           "\x30\xff\xff\xff\x7f",
		"malformed":         "\x20\x01\x00",
		"a client's packet": "\xc0\x00",
		"an early end":      "",
	} {
		c := serveMQTT(t, func(p *peer) { p.next(); p.conn.Write([]byte(bytes)) })
		err := c.SubscribeMQTT(t.Context(), Subscription{Topics: []string{"a"}, Message: func(Message) error { return nil }})
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
