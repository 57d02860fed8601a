package server

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pubsub"
	"pubsub/internal/backplane/local"
	"pubsub/internal/conn"
	"pubsub/internal/hub"
	"pubsub/internal/mqtt"
	"pubsub/internal/sse"
	"pubsub/internal/ws"
)

// inTime runs f with a server in a synctest bubble.
func inTime(t *testing.T, change func(*Options), f func(t *testing.T, s *Server)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		store, err := local.Open(local.Options{InMemory: true})
		if err != nil {
			t.Fatal(err)
		}
		h := hub.New(hub.Options{Backplane: store, Shards: 2})
		o := Options{Backplane: store, Hub: h, SSE: true, MQTT: true, EnforceExpiry: true, AdminToken: adminToken}
		if change != nil {
			change(&o)
		}
		s := New(o)
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { h.Run(ctx) })
		running.Go(func() { s.Run(ctx) })
		running.Go(func() {
			store.Run(ctx, pubsub.Receiver{Ready: func() {}, Deliver: h.Deliver, Control: s.Control})
		})
		f(t, s)
		s.Drain(t.Context())
		stop()
		running.Wait()
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
}

// peer is the client's end of a connection in memory.
type peer struct {
	net.Conn
	began time.Time

	mu     sync.Mutex
	pieces []piece // in the order in which they arrived
	ended  time.Duration
}

// piece is the result of one Read.
type piece struct {
	at   time.Duration
	data string
}

func newPeer(client net.Conn) *peer {
	p := &peer{Conn: client, began: time.Now()}
	go p.read()
	return p
}

func (p *peer) read() {
	var b [4096]byte
	for {
		n, err := p.Conn.Read(b[:])
		p.mu.Lock()
		if n > 0 {
			p.pieces = append(p.pieces, piece{time.Since(p.began), string(b[:n])})
		}
		if err != nil {
			p.ended = time.Since(p.began)
			p.mu.Unlock()
			p.Conn.Close()
			return
		}
		p.mu.Unlock()
	}
}

// times returns the arrival times of the pieces that contain text.
func (p *peer) times(text string) (ds []time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, pc := range p.pieces {
		if strings.Contains(pc.data, text) {
			ds = append(ds, pc.at)
		}
	}
	return ds
}

// end returns when the server closed the connection, or 0.
func (p *peer) end() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ended
}

var loopback = parseAddr("127.0.0.1")

// grain is the resolution of the hub's timers.
const grain = 100 * time.Millisecond

// near checks that something happened within grain after want.
func near(t *testing.T, what string, got, want time.Duration) {
	t.Helper()
	if got < want || got > want+grain {
		t.Errorf("%s after %v, want %v", what, got, want)
	}
}

// openStream starts a durable stream of the topic t.
func openStream(t *testing.T, s *Server, expires time.Time) *peer {
	t.Helper()
	client, _ := connectStream(t, s, expires)
	return newPeer(client)
}

// connectStream is openStream without a peer.
func connectStream(t *testing.T, s *Server, expires time.Time) (client net.Conn, c *conn.Conn) {
	t.Helper()
	req := &sseRequest{topics: []pubsub.Topic{"t"}, durable: true}
	req.since = sse.ParseLastEventID("", req.topics)
	st := &sseStream{s: s, durable: true, chunked: true}
	if !expires.IsZero() {
		st.expires = expires.UnixMilli()
	}
	initConn(t, s, &st.Conn, st, false)
	opening, err := st.subscribe(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if !st.Register() {
		t.Fatal("the server drains")
	}
	client, nc := net.Pipe()
	st.StartGoroutines(conn.NetTransport{Conn: nc}, opening)
	go st.watch(nc)
	return client, &st.Conn
}

// openSocket starts an MQTT connection and sends packets.
func openSocket(t *testing.T, s *Server, send ...mqtt.Packet) *peer {
	t.Helper()
	client, _ := connectSocket(t, s)
	p := newPeer(client)
	for _, packet := range send {
		p.send(packet)
	}
	return p
}

// connectSocket starts an MQTT connection.
func connectSocket(t *testing.T, s *Server) (client net.Conn, m *webSocketConn) {
	t.Helper()
	client, nc := net.Pipe()
	m = newSocket(t, s)
	m.StartGoroutines(conn.NetTransport{Conn: nc}, nil)
	go m.read(nc, nil)
	return client, m
}

// newSocket returns an MQTT connection that is registered and not started.
func newSocket(t *testing.T, s *Server) *webSocketConn {
	t.Helper()
	m := s.newWebSocketConn(loopback)
	slot, _ := s.acquire(s.pending, loopback)
	m.Init(s.registry, m, slot, false)
	if !m.Register() {
		t.Fatal("the server drains")
	}
	return m
}

// initConn makes c a connection with a slot among the streams and sessions.
func initConn(t *testing.T, s *Server, c *conn.Conn, p conn.Protocol, parked bool) {
	t.Helper()
	slot, ok := s.acquire(s.conns, loopback)
	if !ok {
		t.Fatal("too many connections")
	}
	c.Init(s.registry, p, slot, parked)
}

// send sends a packet.
func (p *peer) send(packet mqtt.Packet) { p.Conn.Write(clientFrame(ws.OpBinary, packet.Append(nil))) }

// clientFrame returns a frame with a mask of zeros.
func clientFrame(op ws.Opcode, payload []byte) []byte {
	frame := ws.AppendHeader(nil, op, len(payload))
	frame[1] |= 0x80
	return append(append(frame, 0, 0, 0, 0), payload...)
}

func connect(id string, keepAlive uint16) *mqtt.Connect {
	return &mqtt.Connect{ClientID: id, CleanStart: true, KeepAlive: keepAlive, HasPassword: true, Password: []byte(adminToken)}
}

func publish(t *testing.T, s *Server, topic pubsub.Topic, data string) {
	t.Helper()
	m := pubsub.Message{Topic: topic, Data: []byte(data), Published: time.Now()}
	if _, err := pubsub.Publish(t.Context(), s.o.Backplane, m)(); err != nil {
		t.Fatal(err)
	}
}
