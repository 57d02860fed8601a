package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pubsub"
	"pubsub/internal/conn"
	"pubsub/internal/mqtt"
	"pubsub/internal/park"
	"pubsub/internal/session"
	"pubsub/internal/testkit"
	"pubsub/internal/ws"

	gobwas "github.com/gobwas/ws"
)

// trickle reads a byte a second and stores when the connection ended.
func trickle(c net.Conn, ended *atomic.Int64) {
	began := time.Now()
	var b [1]byte
	for {
		time.Sleep(time.Second)
		if _, err := c.Read(b[:]); err != nil {
			ended.Store(int64(time.Since(began)))
			return
		}
	}
}

// runningLot returns a lot that runs until the test has ended.
func runningLot(t *testing.T) *park.Lot {
	t.Helper()
	lot, err := park.New(park.Options{WriteTimeout: 30 * time.Second})
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip("connections are not parked on this system")
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { lot.Run(ctx); close(ended) }()
	t.Cleanup(func() { stop(); <-ended })
	return lot
}

// pings are twice as many as the server answers to a client that does not read; see
// [conn.Conn.WaitRoom].
var pings = bytes.Repeat(clientFrame(gobwas.OpPing, make([]byte, ws.MaxControlPayload)), 2*(16<<10)/ws.MaxControlPayload)

// When the server ends a connection for any reason, the client has 5 s to take the last
// words, even if it reads a little all the time and has much to read before them.
func TestTrickleIsClosedAfterFiveSeconds(t *testing.T) {
	const at = 20 * time.Second // when the server ends the connection
	revoked := func(_ *Server, c *conn.Conn, _ net.Conn) { c.Protocol().End(conn.KeyRevoked) }
	drained := func(s *Server, _ *conn.Conn, _ net.Conn) { go s.Drain(context.Background()) }
	subscribe := &mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Filter{{Topic: "t"}}}
	for _, tt := range []struct {
		name    string
		stream  bool // not a session
		expires bool // the token expires then
		now     func(s *Server, c *conn.Conn, client net.Conn)
	}{
		{name: "MQTT, handshake timeout"},
		{name: "MQTT, token expired", expires: true},
		{name: "MQTT, key deleted", now: revoked},
		{name: "MQTT, drained", now: drained},
		{name: "MQTT, taken over", now: func(_ *Server, c *conn.Conn, _ net.Conn) { c.Protocol().(*webSocketConn).endWith(session.TakenOver{}) }},
		{name: "MQTT, protocol error", now: func(_ *Server, _ *conn.Conn, client net.Conn) {
			client.Write(clientFrame(ws.OpBinary, (&mqtt.Auth{}).Append(nil)))
		}},
		{name: "MQTT, text frame", now: func(_ *Server, _ *conn.Conn, client net.Conn) { client.Write(clientFrame(gobwas.OpText, nil)) }},
		{name: "MQTT, close frame", now: func(_ *Server, _ *conn.Conn, client net.Conn) { client.Write(clientFrame(ws.OpClose, nil)) }},
		{name: "SSE, token expired", stream: true, expires: true},
		{name: "SSE, key deleted", stream: true, now: revoked},
		{name: "SSE, drained", stream: true, now: drained},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inTime(t, func(o *Options) {
				o.DrainTimeout = time.Millisecond
				o.HandshakeTimeout = at
			}, func(t *testing.T, s *Server) {
				key := pubsub.Key{ID: "k", Value: "v", Created: time.Now()}
				if err := s.o.Backplane.PutKey(t.Context(), key); err != nil {
					t.Fatal(err)
				}
				claims := map[string]any{"x-fastly-read": []string{"t"}}
				var expires time.Time
				if tt.expires {
					expires = time.Now().Add(at)
					claims["exp"] = expires.Add(-30 * time.Second).Unix()
				}
				began := time.Now()
				var client net.Conn
				var c *conn.Conn
				var ended atomic.Int64
				if tt.stream {
					client, c = connectStream(t, s, expires)
					go trickle(client, &ended)
				} else {
					var m *webSocketConn
					client, m = connectSocket(t, s)
					c = &m.Conn
					go trickle(client, &ended)
					if tt.name == "MQTT, handshake timeout" {
						go client.Write(pings)
					} else {
						con := connect("c", 0)
						con.Password = []byte(testkit.Sign(key, claims))
						client.Write(clientFrame(ws.OpBinary, con.Append(nil)))
						client.Write(clientFrame(ws.OpBinary, subscribe.Append(nil)))
					}
				}
				time.Sleep(time.Second)
				for range 10 {
					s.o.Hub.Deliver(pubsub.NewPreparedMessage(pubsub.Message{Topic: "t", Data: make([]byte, 1000)}))
				}
				time.Sleep(at - time.Since(began))
				if got := ended.Load(); got != 0 {
					t.Errorf("closed after %v already", time.Duration(got))
				}
				if tt.now != nil {
					tt.now(s, c, client)
				}
				time.Sleep(10 * time.Second)
				if got := time.Duration(ended.Load()); got < at+5*time.Second || got > at+6*time.Second {
					t.Errorf("closed after %v, want 5 s after %v", got, at)
				}
				client.Close()
			})
		})
	}
}

// The same over TCP: parked, portable, over TLS, and over HTTP/2. The client takes a few
// bytes all the time, which counts as progress for the kernel and for write timeouts.
func TestSlowReaderIsClosedOverTheNetwork(t *testing.T) {
	const wait = 300 * time.Millisecond
	for _, tt := range []struct {
		name        string
		parked, tls bool
	}{{"parked", true, false}, {"portable", false, false}, {"TLS", false, true}} {
		t.Run(tt.name, func(t *testing.T) {
			var open atomic.Int64
			n := newNode(t, func(o *Options) {
				o.HandshakeTimeout, o.LastWords = wait, wait
				o.Events.Connected = func(string) { open.Add(1) }
				o.Events.Disconnected = func(string) { open.Add(-1) }
				if tt.parked {
					o.Lot = runningLot(t)
				}
			})
			dial := func(head string) net.Conn {
				srv := n.h1
				if tt.tls {
					srv = n.h2
				}
				c, err := net.Dial("tcp", srv.Listener.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { c.Close() })
				c.(*net.TCPConn).SetReadBuffer(4 << 10)
				if tt.tls {
					c = tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
				}
				if _, err := io.WriteString(c, head); err != nil {
					t.Fatal(err)
				}
				return c
			}
			pending := dial("GET /mqtt HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
				"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
			stream := dial("GET /events?topic=t HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " +
				n.token(map[string]any{"x-fastly-read": []string{"t"}}) + "\r\n\r\n")
			var b [1]byte
			for _, c := range []net.Conn{pending, stream} {
				if _, err := io.ReadFull(c, b[:]); err != nil {
					t.Fatal(err)
				}
			}
			go func() {
				for err := error(nil); err == nil; {
					_, err = pending.Write(pings)
				}
			}()
			for range 200 { // more than the buffers of both kernels
				n.hub.Deliver(pubsub.NewPreparedMessage(pubsub.Message{Topic: "t", Data: make([]byte, 32<<10)}))
				time.Sleep(time.Millisecond)
			}
			n.registry.EndKey(n.key.ID)
			began := time.Now()
			for open.Load() > 0 {
				if time.Since(began) > 10*time.Second {
					t.Fatalf("%d connections are still open", open.Load())
				}
				for _, c := range []net.Conn{pending, stream} {
					c.Read(b[:])
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	t.Run("HTTP/2", func(t *testing.T) {
		var open atomic.Int64
		n := newNode(t, func(o *Options) {
			o.LastWords = wait
			o.Events.Connected = func(string) { open.Add(1) }
			o.Events.Disconnected = func(string) { open.Add(-1) }
		})
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.h2.URL+"/events?topic=t", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+n.token(map[string]any{"x-fastly-read": []string{"t"}}))
		res, err := n.h2.Client().Do(req)
		if err != nil || res.ProtoMajor != 2 {
			t.Fatalf("HTTP/%d, %v", res.ProtoMajor, err)
		}
		defer res.Body.Close()
		for range 400 { // more than the window of a stream, which is 4 MiB
			n.hub.Deliver(pubsub.NewPreparedMessage(pubsub.Message{Topic: "t", Data: make([]byte, 32<<10)}))
			time.Sleep(time.Millisecond)
		}
		n.registry.EndKey(n.key.ID)
		var b [1]byte
		for began := time.Now(); open.Load() > 0; time.Sleep(10 * time.Millisecond) {
			if time.Since(began) > 10*time.Second {
				t.Fatal("the stream is still open")
			}
			res.Body.Read(b[:])
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
		time.Sleep(time.Second) // so that no connection ends at 0, which means it has not ended
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
		if len(retries) < 10 { // of 9,000 possible ones
			t.Errorf("20 streams have %d different retry fields", len(retries))
		}
		if half < 5 || half > 15 {
			t.Errorf("%d of 20 streams ended in the first half", half)
		}
		if len(socket.times(string((&mqtt.Disconnect{Reason: mqtt.ServerShuttingDown}).Append(nil)))) != 1 {
			t.Error("no DISCONNECT 0x8B")
		}
	})
}

// A client that disconnects while the server drains, perhaps because of that, leaves no will.
func TestNoWillDuringDrain(t *testing.T) {
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
		time.Sleep(time.Second) // one connection has ended by now
		for _, p := range peers {
			p.Close()
		}
		<-drained
		if m, ok, err := s.o.Backplane.Last(t.Context(), "t", pubsub.Version{}); ok || err != nil {
			t.Errorf("a will was published: %q, %v", m.Data, err)
		}
	})
}

// Drain returns when the last connection has ended, before the drain timeout.
func TestDrainEndsWithTheLastConnection(t *testing.T) {
	inTime(t, func(o *Options) { o.DrainTimeout = time.Hour }, func(t *testing.T, s *Server) {
		peers := []*peer{openStream(t, s, time.Time{}), openSocket(t, s, connect("c", 0)), openStream(t, s, time.Time{})}
		began := time.Now()
		go func() {
			time.Sleep(time.Minute) // one connection has ended by now
			for _, p := range peers {
				p.Close()
			}
		}()
		s.Drain(t.Context())
		if took := time.Since(began); took != time.Minute {
			t.Errorf("draining took %v, want 1m", took)
		}
	})
}

func TestDrainWithoutConnections(t *testing.T) {
	inTime(t, nil, func(t *testing.T, s *Server) {
		began := time.Now()
		s.Drain(t.Context())
		if took := time.Since(began); took != 0 {
			t.Errorf("draining took %v, want 0", took)
		}
	})
}
