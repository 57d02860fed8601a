package scenario

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"pubsub/internal/mqtt"
	"pubsub/internal/testkit/wire"
)

// churner is a client that connects and leaves. Its methods panic where test helpers end a test.
type churner struct {
	testing.TB
	c    *churn
	rand *rand.Rand
	conn *net.TCPConn // nil without a connection
}

func (c *churn) newChurner(stream uint64) *churner {
	return &churner{TB: c.n.t, c: c, rand: newRand(stream)}
}

// Helper does nothing: many goroutines call it all the time.
func (w *churner) Helper() {}

// failure is the value with which a churner panics.
type failure string

func (w *churner) Fatal(args ...any)                 { panic(failure(fmt.Sprint(args...))) }
func (w *churner) Fatalf(format string, args ...any) { panic(failure(fmt.Sprintf(format, args...))) }

// try calls f, closes the connection, and fails the test if f panicked with a failure.
func (w *churner) try(name string, f func()) {
	defer func() {
		w.close()
		if why, ok := recover().(failure); ok {
			w.Errorf("%s: %s", name, string(why))
		}
	}()
	f()
}

// dial connects from a random one of 32 addresses, because one does not have enough ports.
func (w *churner) dial() *net.TCPConn {
	from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(1+w.rand.IntN(32)))}}
	conn, err := from.Dial("tcp", w.c.n.addr)
	if err != nil {
		w.Fatal(err)
	}
	w.c.made.Add(1)
	w.c.held.Add(1)
	w.conn = conn.(*net.TCPConn)
	deadline(conn)
	return w.conn
}

func (w *churner) close() {
	if w.conn != nil {
		w.conn.Close()
		w.c.held.Add(-1)
		w.conn = nil
	}
}

// some returns one to three of the topics that are published to.
func (w *churner) some() []string {
	topics := slices.Clone(churnTopics[:8])
	w.rand.Shuffle(len(topics), func(i, j int) { topics[i], topics[j] = topics[j], topics[i] })
	return topics[:1+w.rand.IntN(3)]
}

// comeAndGo makes one connection, uses it and leaves.
func (w *churner) comeAndGo() {
	defer w.close()
	topics := w.some()
	switch w.rand.IntN(4) {
	case 0:
		// A random part of all bytes that a client can send without waiting.
		all := w.sseHead(topics)
		if w.rand.IntN(2) == 0 {
			all = w.mqttBytes(topics)
		}
		w.write(all[:w.rand.IntN(len(all)+1)])
		w.leave()
	case 1:
		w.write(w.sseHead(topics))
		w.streamOf(topics)
	default:
		w.sessionOf(topics)
	}
}

func (w *churner) write(b []byte) {
	if w.conn == nil {
		w.dial()
	}
	if _, err := w.conn.Write(b); err != nil {
		w.Fatal(err)
	}
}

// sseHead returns a request for a stream.
func (w *churner) sseHead(topics []string) []byte {
	pairs := []string{"auth", w.c.token}
	for _, t := range topics {
		pairs = append(pairs, "topic", t)
	}
	if w.rand.IntN(2) == 0 {
		pairs = append(pairs, "durable", "true")
	}
	return []byte("GET /events" + wire.Query(pairs...) + " HTTP/1.1\r\nHost: broker\r\n\r\n")
}

// connectPacket returns a CONNECT. Some have a will, and some take over another churner's session.
func (w *churner) connectPacket() *mqtt.Connect {
	c := &mqtt.Connect{Password: []byte(w.c.token), HasPassword: true}
	if w.rand.IntN(4) == 0 {
		c.Will = &mqtt.Will{Topic: "churn/left", Payload: []byte("churn/left will"), Retain: w.rand.IntN(2) == 0}
	}
	if w.rand.IntN(4) == 0 {
		c.ClientID = fmt.Sprint("shared", w.rand.IntN(8))
	}
	return c
}

func subscribePacket(topics []string) *mqtt.Subscribe {
	s := &mqtt.Subscribe{PacketID: 1}
	for _, t := range topics {
		s.Filters = append(s.Filters, mqtt.Filter{Topic: t})
	}
	return s
}

// lastWords is a retained message from a client that does not wait for a response.
var lastWords = &mqtt.Publish{Topic: "churn/left", Payload: []byte("churn/left words"), Retain: true}

// mqttBytes returns all bytes that a session may send without waiting, in frames and fragments.
func (w *churner) mqttBytes(topics []string) []byte {
	b := []byte("GET /mqtt HTTP/1.1\r\nHost: broker\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + wire.Key + "\r\n\r\n")
	b = wire.AppendFrame(b, wire.FIN|wire.OpBinary, w.connectPacket().Append(nil))
	p := wire.AppendPackets(nil, subscribePacket(topics), lastWords)
	b = wire.AppendFrame(b, wire.OpBinary, p[:len(p)/2])
	b = wire.AppendFrame(b, wire.FIN|wire.OpPing, []byte("between"))
	return wire.AppendFrame(b, wire.FIN|wire.OpContinuation, p[len(p)/2:])
}

// streamOf reads a few events of a stream.
func (w *churner) streamOf(topics []string) {
	if w.rand.IntN(4) > 0 {
		c := wire.Response(w, w.conn)
		if c.Status != "HTTP/1.1 200 OK" {
			w.Fatalf("stream: %q", c.Status)
		}
		c.ExpectOpen()
		var seen order
		for range w.rand.IntN(3) {
			e := c.Next()
			if e.Name != "message" {
				w.Fatalf("not a message: %q", e.Raw)
			}
			seen.check(w, e.Data, topics)
		}
	}
	w.leave()
}

// sessionOf reads a few messages of a session. Another client with the same identifier may end it
// at any moment.
func (w *churner) sessionOf(topics []string) {
	m := wire.Upgrade(w, w.dial())
	hello := w.connectPacket()
	m.Send(hello, subscribePacket(topics))
	if w.rand.IntN(4) > 0 {
		var seen order
		for messages := w.rand.IntN(3); messages >= 0; {
			p, err := m.Read()
			if d, ok := p.(*mqtt.Disconnect); ok && hello.ClientID != "" && d.Reason == mqtt.SessionTakenOver {
				m.ExpectClose(1000)
				return
			}
			if err != nil {
				w.Fatal(err)
			}
			switch p := p.(type) {
			case *mqtt.Connack:
				// No reason of a CONNACK means a takeover (MQTT 5.0 section 3.2.2.2).
				if hello.ClientID != "" && p.Reason == mqtt.UnspecifiedError {
					m.ExpectClose(1000)
					return
				}
				if p.Reason != mqtt.Success {
					w.Fatalf("CONNACK is %+v", p)
				}
			case *mqtt.Suback:
				messages--
			case *mqtt.Publish:
				messages--
				seen.check(w, string(p.Payload), topics)
			default:
				w.Fatalf("unexpected %s %+v", p.Type(), p)
			}
		}
	}
	// The session may end before the server reads the last packet.
	var last []byte
	switch w.rand.IntN(4) {
	case 0:
		last = wire.AppendFrame(nil, wire.FIN|wire.OpBinary, lastWords.Append(nil))
	case 1:
		last = wire.AppendFrame(nil, wire.FIN|wire.OpBinary, lastWords.Append(nil))
		last = last[:w.rand.IntN(len(last))]
	case 2:
		last = wire.AppendFrame(nil, wire.FIN|wire.OpBinary, (&mqtt.Disconnect{}).Append(nil))
	}
	w.conn.Write(last)
	w.leave()
}

// leave ends the connection in a random way.
func (w *churner) leave() {
	if w.conn == nil {
		return
	}
	switch w.rand.IntN(3) {
	case 0:
		w.conn.SetLinger(0) // a reset
	case 1:
		w.conn.CloseWrite()
		// The node must close its side, too. Anything that it sends before is ignored.
		deadline(w.conn)
		if _, err := io.Copy(io.Discard, w.conn); err != nil && !isEnd(err) {
			w.Fatalf("after closing one side: %v", err)
		}
	}
	w.close()
}

// order holds the number of the last message of each publisher to a topic.
type order map[string]int

// check checks that data is a message to one of the topics, and later than the previous one of its
// publisher.
func (o *order) check(t testing.TB, data string, topics []string) {
	var topic, publisher string
	var i int
	if _, err := fmt.Sscan(data, &topic, &publisher, &i); err != nil || !slices.Contains(topics, topic) {
		t.Fatalf("a subscriber of %q gets %.100q", topics, data)
	}
	if *o == nil {
		*o = make(order)
	}
	from := topic + " " + publisher
	if last, ok := (*o)[from]; ok && i <= last {
		t.Fatalf("%s: number %d after %d", from, i, last)
	}
	(*o)[from] = i
}

// publishUntil publishes to one topic after another until stop is closed, and then once to each.
func (w *churner) publishUntil(stop <-chan struct{}, name string) {
	m := wire.Upgrade(w, w.dial())
	m.Connect(adminToken, mqtt.Connect{})
	pace := time.NewTicker(5 * time.Millisecond)
	defer pace.Stop()
	for i := 0; ; i++ {
		topic := churnTopics[i%8]
		m.Publish(topic, fmt.Sprint(topic, " ", name, " ", i/8), false)
		select {
		case <-pace.C:
			continue
		case <-stop:
		}
		break
	}
	for _, topic := range churnTopics[:8] {
		m.Publish(topic, topic+" "+name+" "+endOfChurn, false)
	}
	m.Ping()
}

// endOfChurn is the number of each publisher's last message.
const endOfChurn = "1000000000"

// stay subscribes to all topics and checks that no message of a publisher is missing.
func (w *churner) stay(mode string, ready chan struct{}) {
	var next func() string
	if mode == "SSE" {
		c := wire.Get(w, w.dial(), "/events"+wire.Query("auth", w.c.token, "topic", churnTopics[0], "topic", churnTopics[1], "topic", churnTopics[2],
			"topic", churnTopics[3], "topic", churnTopics[4], "topic", churnTopics[5], "topic", churnTopics[6], "topic", churnTopics[7]))
		c.ExpectOpen()
		next = func() string {
			e := c.Next()
			for ; e.Name == "keep-alive"; e = c.Next() {
			}
			if e.Name != "message" {
				w.Fatalf("not a message: %q", e.Raw)
			}
			return e.Data
		}
	} else {
		m := wire.Upgrade(w, w.dial())
		m.Connect(adminToken, mqtt.Connect{})
		m.Subscribe(churnTopics[:8]...)
		next = func() string { return string(m.NextPublish().Payload) }
	}
	close(ready)
	seen := make(map[string]int)
	for ended := 0; ended < 16; {
		var topic, publisher string
		var i int
		data := next()
		if _, err := fmt.Sscan(data, &topic, &publisher, &i); err != nil {
			w.Fatalf("unknown message %.100q", data)
		}
		from := topic + " " + publisher
		switch {
		case strings.HasSuffix(data, " "+endOfChurn):
			ended++
		case i != seen[from]:
			w.Fatalf("%s: number %d after %d", from, i, seen[from]-1)
		}
		seen[from]++
	}
}
