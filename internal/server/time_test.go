package server

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"strconv"
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
	"pubsub/internal/session"
	"pubsub/internal/sse"
	"pubsub/internal/ws"
)

// inTime runs f with a server in a bubble in which time passes only while nobody
// has anything to do.
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
	pieces []piece // what came, and when
	ended  time.Duration
}

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

// times returns when pieces with text in them came.
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

func (p *peer) end() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ended
}

var loopback = parseAddr("127.0.0.1")

// grain is how late the hub's wheel may be.
const grain = 100 * time.Millisecond

func near(t *testing.T, what string, got, want time.Duration) {
	t.Helper()
	if got < want || got > want+grain {
		t.Errorf("%s after %v, want %v", what, got, want)
	}
}

// openStream starts a stream of the topic t.
func openStream(t *testing.T, s *Server, expires time.Time) *peer {
	t.Helper()
	client, _ := connectStream(t, s, expires)
	return newPeer(client)
}

// connectStream is openStream for a client of another kind.
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

// openSocket starts an MQTT connection and sends what is given.
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

func TestKeepAliveEventAfterSilence(t *testing.T) {
	inTime(t, nil, func(t *testing.T, s *Server) {
		p := openStream(t, s, time.Time{})
		time.Sleep(10 * time.Second)
		publish(t, s, "t", "a message") // begins the silence anew
		time.Sleep(60 * time.Second)
		got := p.times("event: keep-alive\ndata: \n\n")
		if len(got) != 2 {
			t.Fatalf("keep-alive events at %v, want 2", got)
		}
		near(t, "the first keep-alive", got[0], 35*time.Second)
		near(t, "the second keep-alive", got[1], got[0]+25*time.Second)
		p.Close()
		synctest.Wait()
		if n := s.o.Hub.Stats().Subscribers; n != 0 {
			t.Errorf("%d members after the client has gone", n)
		}
	})
}

func publish(t *testing.T, s *Server, topic pubsub.Topic, data string) {
	t.Helper()
	m := pubsub.Message{Topic: topic, Data: []byte(data), Published: time.Now()}
	if _, err := pubsub.Publish(t.Context(), s.o.Backplane, m)(); err != nil {
		t.Fatal(err)
	}
}

func TestStreamEndsWhenTokenExpires(t *testing.T) {
	inTime(t, nil, func(t *testing.T, s *Server) {
		p := openStream(t, s, time.Now().Add(90*time.Second))
		time.Sleep(89 * time.Second)
		if p.end() != 0 {
			t.Errorf("ended after %v", p.end())
		}
		time.Sleep(2 * time.Second)
		got := p.times(`data: {"condition":"token-expired","text":"Token expired"}`)
		if len(got) != 1 {
			t.Fatalf("token-expired %d times, want once: %+v", len(got), p.pieces)
		}
		near(t, "token-expired", got[0], 90*time.Second)
		near(t, "the end of the stream", p.end(), 90*time.Second)
	})
}

// A WebSocket ping would be more usual, but Paho's Python client answers one with a
// frame that is an error, and its Java client hangs up.
func TestEmptyFrameAfterSilence(t *testing.T) {
	inTime(t, func(o *Options) { o.WSKeepAlive = 7 * time.Second }, func(t *testing.T, s *Server) {
		p := openSocket(t, s, connect("c", 0))
		time.Sleep(10 * time.Second)
		p.send(&mqtt.Pingreq{}) // begins the silence anew
		time.Sleep(15 * time.Second)
		got := p.times("\x82\x00")
		if len(got) != 3 || len(p.pieces) != 5 { // CONNACK, PINGRESP
			t.Fatalf("empty frames at %v, want 3: %+v", got, p.pieces)
		}
		near(t, "the first empty frame", got[0], 7*time.Second)
		near(t, "the second empty frame", got[1], 17*time.Second)
		near(t, "the third empty frame", got[2], got[1]+7*time.Second)
	})
}

func TestMQTTKeepAlive(t *testing.T) {
	inTime(t, nil, func(t *testing.T, s *Server) {
		p := openSocket(t, s, connect("c", 10))
		time.Sleep(12 * time.Second)
		p.send(&mqtt.Pingreq{})
		synctest.Wait()
		time.Sleep(14 * time.Second)
		if p.end() != 0 {
			t.Errorf("ended after %v although it had sent a packet", p.end())
		}
		time.Sleep(2 * time.Second)
		got := p.times(string((&mqtt.Disconnect{Reason: mqtt.KeepAliveTimeout}).Append(nil)))
		if len(got) != 1 {
			t.Fatalf("DISCONNECT 0x8D %d times, want once", len(got))
		}
		near(t, "DISCONNECT 0x8D", got[0], 27*time.Second)
	})
}

func TestConnectWithinHandshakeTimeout(t *testing.T) {
	inTime(t, nil, func(t *testing.T, s *Server) {
		p := openSocket(t, s)
		time.Sleep(12 * time.Second)
		near(t, "the end of a silent connection", p.end(), 10*time.Second)
		p.mu.Lock()
		defer p.mu.Unlock()
		want := string(ws.AppendClose(nil, ws.CodeProtocolError, ""))
		if len(p.pieces) != 1 || p.pieces[0].data != want {
			t.Errorf("got %+v, want only %q", p.pieces, want)
		}
	})
}

func TestDrainIsSpread(t *testing.T) {
	inTime(t, func(o *Options) { o.DrainTimeout = 20 * time.Second }, func(t *testing.T, s *Server) {
		var peers []*peer
		for range 20 {
			peers = append(peers, openStream(t, s, time.Time{}))
		}
		will := &mqtt.Will{Topic: "t", Payload: []byte("the will")}
		c := connect("c", 0)
		c.Will = will
		socket := openSocket(t, s, c)
		time.Sleep(time.Second) // so that no end is at 0, which is none
		began := time.Now()
		s.Drain(t.Context())
		synctest.Wait()
		if took := time.Since(began); took < 15*time.Second || took > 22*time.Second {
			t.Errorf("draining took %v, want about 20 s", took)
		}
		half := 0
		retries := map[int]bool{}
		for _, p := range peers {
			if p.end() == 0 {
				t.Error("a stream has not ended")
			}
			if p.end() < 11*time.Second {
				half++
			}
			p.mu.Lock()
			last := p.pieces[len(p.pieces)-1].data
			p.mu.Unlock()
			_, text, _ := strings.Cut(last, "retry: ")
			text, _, _ = strings.Cut(text, "\n")
			ms, err := strconv.Atoi(text)
			if err != nil || ms < 1000 || ms > 10_000 {
				t.Errorf("last piece %q, want a retry field of 1 to 10 s", last)
			}
			retries[ms] = true
			if len(p.times("the will")) > 0 {
				t.Error("a will was published")
			}
		}
		if len(retries) < 10 { // of 9,000 numbers
			t.Errorf("20 streams are told to come back after %d times: they would all come at once", len(retries))
		}
		if half < 5 || half > 15 {
			t.Errorf("%d of 20 streams ended in the first half", half)
		}
		if len(socket.times(string((&mqtt.Disconnect{Reason: mqtt.ServerShuttingDown}).Append(nil)))) != 1 {
			t.Error("no DISCONNECT 0x8B")
		}
	})
}

// Who goes by itself while the server drains, perhaps because it does, leaves no
// will behind either.
func TestWillOfOneWhoGoesDuringDrain(t *testing.T) {
	inTime(t, func(o *Options) { o.DrainTimeout = 20 * time.Second }, func(t *testing.T, s *Server) {
		var peers []*peer
		for _, id := range []string{"a", "b", "c"} {
			c := connect(id, 0)
			c.Will = &mqtt.Will{Topic: "t", Payload: []byte("the will"), Retain: true}
			peers = append(peers, openSocket(t, s, c))
		}
		synctest.Wait()
		drained := make(chan struct{})
		go func() {
			defer close(drained)
			s.Drain(t.Context())
		}()
		time.Sleep(time.Second) // one has been sent away by now
		for _, p := range peers {
			p.Close()
		}
		<-drained
		if m, ok, err := s.o.Backplane.Last(t.Context(), "t", pubsub.Version{}); ok || err != nil {
			t.Errorf("a will was published: %q, %v", m.Data, err)
		}
	})
}

// Once all have gone there is nothing to wait for, however long the draining may
// take.
func TestDrainEndsWithTheLastOne(t *testing.T) {
	inTime(t, func(o *Options) { o.DrainTimeout = time.Hour }, func(t *testing.T, s *Server) {
		peers := []*peer{openStream(t, s, time.Time{}), openSocket(t, s, connect("c", 0)), openStream(t, s, time.Time{})}
		began := time.Now()
		go func() {
			time.Sleep(time.Minute) // one has been sent away by now
			for _, p := range peers {
				p.Close()
			}
		}()
		s.Drain(t.Context())
		if took := time.Since(began); took != time.Minute {
			t.Errorf("draining took %v, and all had gone after a minute", took)
		}
	})
}

// Of each client identifier the latest claim stays, whoever has it.
func TestClaimsAreCompared(t *testing.T) {
	inTime(t, nil, func(t *testing.T, s *Server) {
		const sessions = 2000 // more than are asked about at once
		peers := make([]*peer, sessions)
		for i := range peers {
			peers[i] = openSocket(t, s, connect(fmt.Sprintf("%0100d", i), 0))
			time.Sleep(time.Millisecond)
		}
		synctest.Wait()
		s.CompareClaims(t.Context()) // this node hears itself, and takes nothing over
		var batch []byte
		var earlier, later int
		for i, m := range s.clients.all() {
			owner := m.session.ClientHash()
			_, c := s.claimOf(owner)
			switch i % 3 {
			case 0: // the same
			case 1:
				later++
				c.at, c.id = c.at+int64(i%2), c.id+1
			case 2:
				earlier++
				c.at, c.id = c.at-1, c.id+1
			}
			batch = appendClaim(batch, c, owner)
			batch = appendClaim(batch, c, strings.Repeat("u", session.ClientHashBytes))
		}
		batch = append(batch, 1, 'x') // of another release
		reply := s.answerClaims(batch)
		synctest.Wait()
		told := 0
		for one := range eachClaim(reply) {
			c, owner, ok := parseClaim(one)
			if m, ours := s.claimOf(owner); !ok || m == nil || ours != c {
				t.Fatalf("%q is told, and not as it is", one)
			}
			told++
		}
		if told != earlier {
			t.Errorf("%d claims are told, not the %d that are later", told, earlier)
		}
		if left := len(s.clients.all()); left != sessions-later {
			t.Errorf("%d sessions are left, not %d", left, sessions-later)
		}
		s.answerClaims([]byte{200, 1, 'x'}) // cut off
		// What others answer counts here as well.
		for _, m := range s.clients.all() {
			s.Control(pubsub.ControlMessage{Kind: controlTakeOver, Body: claim{m.claimed.at, 1}.append(nil, m.session.ClientHash())})
		}
		synctest.Wait()
		if left := len(s.clients.all()); left != 0 {
			t.Errorf("%d sessions are left in the end", left)
		}
	})
}

func TestDrainOfNothingTakesNoTime(t *testing.T) {
	inTime(t, nil, func(t *testing.T, s *Server) {
		began := time.Now()
		s.Drain(t.Context())
		if took := time.Since(began); took != 0 {
			t.Errorf("draining nobody took %v", took)
		}
	})
}

func TestMessageExpiresWhileItWaits(t *testing.T) {
	inTime(t, nil, func(t *testing.T, s *Server) {
		p := openSocket(t, s, connect("c", 0), &mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Filter{{Topic: "t"}}})
		synctest.Wait()
		m := pubsub.Message{Topic: "t", Data: []byte("old"), Published: time.Now().Add(-3 * time.Second), HasTTL: true, TTL: 3}
		s.o.Hub.Deliver(pubsub.NewPreparedMessage(m))
		m.Data, m.TTL = []byte("young"), 10
		s.o.Hub.Deliver(pubsub.NewPreparedMessage(m))
		synctest.Wait()
		p.mu.Lock()
		defer p.mu.Unlock()
		all := ""
		for _, pc := range p.pieces {
			all += pc.data
		}
		if strings.Contains(all, "old") {
			t.Error("an expired message was delivered")
		}
		// Message Expiry Interval is property 2: 10 s less the 3 that it waited.
		if !bytes.Contains([]byte(all), []byte("\x02\x00\x00\x00\x07young")) {
			t.Errorf("%q: want an expiry of 7 s", all)
		}
	})
}
