package server

import (
	"net"
	"sync/atomic"
	"testing"
	"time"

	"pubsub/internal/conn"
	"pubsub/internal/mqtt"
)

// inputTransport is a transport whose Unread the test controls.
type inputTransport struct {
	conn.NetTransport
	unread atomic.Bool
}

func (l *inputTransport) Unread() bool { return l.unread.Load() }

// openWithInput starts an MQTT connection over an inputTransport.
func openWithInput(t *testing.T, s *Server) (*peer, *inputTransport, *webSocketConn) {
	t.Helper()
	m := newSocket(t, s)
	client, nc := net.Pipe()
	l := &inputTransport{NetTransport: conn.NetTransport{Conn: nc}}
	m.StartGoroutines(l, nil)
	go m.read(nc, nil)
	return newPeer(client), l, m
}

// Unread input is read before a client counts as silent, because after a pause of this process
// the timers fire first. But bytes that never become a packet do not keep a connection open.
func TestUnreadBytesComeBeforeSilence(t *testing.T) {
	t.Run("a packet", func(t *testing.T) {
		inTime(t, nil, func(t *testing.T, s *Server) {
			p, l, _ := openWithInput(t, s)
			l.unread.Store(true)
			time.Sleep(10*time.Second + 500*time.Millisecond)
			p.send(connect("c", 10))
			l.unread.Store(false)
			time.Sleep(14 * time.Second)
			l.unread.Store(true)
			time.Sleep(3 * time.Second)
			p.send(&mqtt.Pingreq{})
			l.unread.Store(false)
			time.Sleep(14 * time.Second)
			if p.end() != 0 {
				t.Errorf("ended after %v", p.end())
			}
			time.Sleep(2 * time.Second) // without input
			near(t, "the end of the silent client", p.end(), 42*time.Second+500*time.Millisecond)
		})
	})
	for _, c := range []struct {
		name           string
		packet         mqtt.Packet // if not nil, sent first
		least, longest time.Duration
		want           string
	}{
		{"no CONNECT", nil, 11 * time.Second, 12 * time.Second, "1 s after the handshake timeout of 10 s"},
		{"no packet", connect("c", 10), 21 * time.Second, 27 * time.Second, "6 s after the keep-alive of 15 s"},
	} {
		t.Run(c.name, func(t *testing.T) {
			inTime(t, nil, func(t *testing.T, s *Server) {
				p, l, _ := openWithInput(t, s)
				if c.packet != nil {
					p.send(c.packet)
				}
				l.unread.Store(true)
				time.Sleep(30 * time.Second)
				if p.end() < c.least || p.end() > c.longest+grain {
					t.Errorf("ended after %v, want %s", p.end(), c.want)
				}
			})
		})
	}
	t.Run("a packet that is being served", func(t *testing.T) {
		inTime(t, nil, func(t *testing.T, s *Server) {
			p, _, m := openWithInput(t, s)
			p.send(connect("c", 2))
			time.Sleep(time.Second)
			m.SetServing(true) // its PUBLISH waits for the backplane
			time.Sleep(backplaneWait)
			m.SetServing(false)
			if p.end() != 0 {
				t.Errorf("ended after %v", p.end())
			}
			time.Sleep(2 * grain)
			near(t, "the end of the silent client", p.end(), 6*time.Second)
		})
	})
	t.Run("pings that are not read", func(t *testing.T) {
		inTime(t, nil, func(t *testing.T, s *Server) {
			client, _ := connectSocket(t, s)
			go client.Write(pings)
			var ended atomic.Int64
			go trickle(client, &ended)
			time.Sleep(20 * time.Second)
			// The handshake timeout is 10 s, and LastWords 5 s.
			if got := time.Duration(ended.Load()); got < 15*time.Second || got > 16*time.Second {
				t.Errorf("ended after %v", got)
			}
		})
	})
}
