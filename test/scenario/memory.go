package scenario

import (
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"

	"pubsub/internal/config"
	"pubsub/internal/mqtt"
	"pubsub/internal/testkit"
	"pubsub/internal/testkit/wire"
)

// TestMemory measures each row of ARCHITECTURE.md's table "What bounds memory" that a client can
// fill, with the worst content that the row allows. Each row has a subtest of its name. The tests
// compare live memory, which does not depend on the load. The clients run in the same process and
// take 1 or 2 KiB each.
func TestMemory(t *testing.T) {
	if testkit.Race {
		t.Skip("memory cannot be measured with the race detector, which allocates and empties pools")
	}
	t.Run("unread messages", memoryOfUnread)
	t.Run("stalled stream", memoryOfStreams)
	t.Run("ids of a stalled stream", memoryOfIDs)
	t.Run("stalled session", memoryOfSessions)
	t.Run("unread responses", memoryOfAnswers)
	t.Run("packet in parts", memoryOfPackets)
	t.Run("body in parts", memoryOfBodies)
	t.Run("will", memoryOfWills)
	t.Run("subscription", memoryOfSubscriptions)
	t.Run("connection without a stream or session", memoryOfConnections)
}

const (
	longest = 32512 // the default of max-message-size
	// worst is the maximum length of the encoding of a byte, namely a newline, or a control
	// character in an envelope.
	worst = 7
)

// connOverhead returns the most memory that a connection takes besides the memory under test, its
// client included. The portable holder has two goroutines for each connection and, while one of
// them waits for the client to read, a writer.
func connOverhead() int64 {
	if mode.Holder == "portable" {
		return 48 << 10
	}
	return 16 << 10
}

// each opens clients and returns how many bytes of memory each of them takes once the node is idle.
func (n *node) each(clients int, open func(i int)) int64 {
	n.t.Helper()
	n.awaitIdle()
	before := memoryInUse()
	for i := range clients {
		open(i)
	}
	n.awaitIdle()
	return (memoryInUse() - before) / int64(clients)
}

// awaitIdle returns once the node delivers nothing any more.
func (n *node) awaitIdle() {
	n.t.Helper()
	last, same := -1.0, 0
	if !within(func() bool {
		now := n.metric("pubsub_messages_delivered_total") + n.metric("pubsub_connections{") + n.metric("pubsub_subscriptions")
		if same++; now != last {
			last, same = now, 0
		}
		return same == 5
	}) {
		n.t.Fatal("the node does not become idle")
	}
}

// atMost checks that each object of the kind takes at most most bytes.
func atMost(t *testing.T, kind string, got, most int64) {
	t.Helper()
	t.Logf("%d bytes for each %s, at most %d", got, kind, most)
	if got > most {
		t.Errorf("each %s takes %d bytes, more than %d", kind, got, most)
	}
}

// stalledConn opens a connection, sends bytes and reads nothing.
func (n *node) stalledConn(request string) net.Conn {
	n.t.Helper()
	c := dial(n.t, n.addr)
	c.SetReadBuffer(4 << 10)
	if _, err := io.WriteString(c, request); err != nil {
		n.t.Fatal(err)
	}
	return c
}

// stalledStream begins a stream and reads nothing.
func (n *node) stalledStream(pairs ...string) net.Conn {
	n.t.Helper()
	return n.stalledConn("GET /events" + wire.Query(pairs...) + " HTTP/1.1\r\nHost: broker\r\nFastly-Key: " + adminToken + "\r\n\r\n")
}

// webSocket is the request for a WebSocket.
const webSocket = "GET /mqtt HTTP/1.1\r\nHost: broker\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + wire.Key + "\r\n\r\n"

// stalledSession opens a session, sends packets and reads nothing.
func (n *node) stalledSession(c mqtt.Connect, ps ...mqtt.Packet) net.Conn {
	n.t.Helper()
	c.Password, c.HasPassword = []byte(adminToken), true
	ps = append([]mqtt.Packet{&c}, ps...)
	return n.stalledConn(webSocket + string(wire.AppendFrame(nil, wire.FIN|wire.OpBinary, wire.AppendPackets(nil, ps...))))
}

// quietNode starts a node without timeouts that affect a test.
func quietNode(t *testing.T, settings ...func(*config.Config)) *node {
	return start(t, append(settings, func(c *config.Config) {
		c.WriteTimeout, c.LogLevel = 4*patience, "error"
	})...)
}

func memoryOfUnread(t *testing.T) {
	const limit = 8 << 20
	for _, c := range []struct {
		name, topic, data string
		count             int // of messages, which take several times the limit
	}{
		{"one byte, long topics", strings.Repeat(":", 1000), "x", 2500},
		{"one byte, long topics to be escaped", strings.Repeat(`"`, 1000), "x", 2500},
		{"newlines", "t", strings.Repeat("\n", longest), 60},
		{"control characters", "t", strings.Repeat("\x01", longest), 60},
		{"short newlines", "t", strings.Repeat("\n", 50), 20_000},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := quietNode(t, func(c *config.Config) { c.BacklogMemory, c.SubscriberBuffer = limit, 1<<30 })
			topics := []string{"ballast"}
			for i := range 4 {
				topics = append(topics, fmt.Sprint(c.topic, i))
			}
			s := n.stalled(transports[0], topics...)
			defer runtime.KeepAlive(s)
			// These clients read, so every encoding is made.
			for _, topic := range topics[1:] {
				for _, params := range [][]string{{}, {"durable", "true"}, {"envelope", "true"}, {"durable", "true", "envelope", "true"}} {
					fast := n.adminEvents(append(params, "topic", topic)...)
					go io.Copy(io.Discard, fast.Conn)
				}
				fast := n.adminClient(topic)
				go io.Copy(io.Discard, fast.Conn)
			}
			p := n.adminClient()
			n.awaitIdle()
			before := memoryInUse()
			for i := range c.count {
				p.Publish(topics[1+i%4], c.data, i%8 < 4)
			}
			p.Ping()
			n.awaitIdle()
			more := memoryInUse() - before
			t.Logf("%d KiB, the node counts %v", more>>10, int(n.metric("pubsub_backlog_bytes"))>>10)
			if more > limit*3/2 {
				t.Errorf("unread messages take %d KiB, backlog-memory is %d KiB", more>>10, limit>>10)
			}
			if more < limit/4 {
				t.Errorf("unread messages take only %d KiB", more>>10)
			}
		})
	}
}

// retainWorst retains a message with the longest encoding in each of count topics.
func (n *node) retainWorst(count int) (topics []string) {
	n.t.Helper()
	for i := range count {
		topic := fmt.Sprint("t", i)
		n.publish(topic, strings.Repeat("\x01", longest), "retain=true")
		topics = append(topics, topic)
	}
	return topics
}

func memoryOfStreams(t *testing.T) {
	n := quietNode(t)
	pairs := []string{"durable", "true", "envelope", "true"}
	for _, topic := range n.retainWorst(10) {
		pairs = append(pairs, "topic", topic)
	}
	n.stalledStream(pairs...) // makes the encodings that all share
	got := n.each(20, func(int) { n.stalledStream(pairs...) })
	atMost(t, "stream", got, 16<<10+worst*longest+connOverhead())
}

func memoryOfIDs(t *testing.T) {
	n := quietNode(t)
	pairs := []string{"durable", "true"}
	var topics []string
	for i := range 10 {
		topic := fmt.Sprint(strings.Repeat(":", 1000), i)
		n.publish(topic, "abc", "retain=true") // so that an id names all topics
		topics = append(topics, topic)
		pairs = append(pairs, "topic", topic)
	}
	p := n.adminClient()
	const longestID = 10 * (3*1000 + 40)
	got := n.each(20, func(i int) {
		n.stalledStream(pairs...)
		if i == 19 {
			n.awaitIdle()
			for j := range 300 {
				p.Publish(topics[j%10], "abc", true)
			}
			p.Ping()
		}
	})
	// The ids of 300 messages would take 9 MB.
	atMost(t, "stream", got, (16<<10+longestID)*3/2+connOverhead()) // a buffer that grows has spare capacity
}

func memoryOfSessions(t *testing.T) {
	n := quietNode(t)
	sub := mqtt.Subscribe{PacketID: 1}
	for _, topic := range n.retainWorst(30) {
		sub.Filters = append(sub.Filters, mqtt.Filter{Topic: topic})
	}
	// With a Subscription Identifier each packet has a head of its own.
	sub.SubscriptionID = 1
	n.stalledSession(mqtt.Connect{}, &sub)
	got := n.each(20, func(int) { n.stalledSession(mqtt.Connect{}, &sub) })
	atMost(t, "session", got, 16<<10+longest+1024+connOverhead())
}

func memoryOfAnswers(t *testing.T) {
	const answers = 16 << 10
	n := quietNode(t)
	// Pings have the longest responses for their length. The sockets hold as much as the client
	// can send.
	flood := func(c net.Conn, b []byte) {
		done := make(chan struct{})
		t.Cleanup(func() { c.Close(); <-done })
		go func() {
			defer close(done)
			for range 64 << 20 / len(b) {
				if _, err := c.Write(b); err != nil {
					return
				}
			}
		}()
	}
	ping := wire.AppendFrame(nil, wire.FIN|wire.OpPing, make([]byte, 125))
	pings := []byte(strings.Repeat(string(ping), 64))
	got := n.each(20, func(i int) {
		c := n.stalledSession(mqtt.Connect{})
		if i == 19 {
			n.awaitIdle()
		}
		flood(c, pings)
		if i == 19 {
			n.awaitStableMemory()
		}
	})
	// Twice: the pending responses, and those being written that the socket has not accepted. Then
	// the bytes being read with their goroutine, and the client's own memory.
	atMost(t, "session", got, 2*answers+16<<10+8<<10+connOverhead()+8<<10)
}

// awaitStableMemory returns once the memory of the process does not change any more.
func (n *node) awaitStableMemory() {
	n.t.Helper()
	last, same := int64(-1), 0
	if !within(func() bool {
		now := memoryInUse() >> 16
		if same++; now != last {
			last, same = now, 0
		}
		return same == 10
	}) {
		n.t.Fatal("the process does not become idle")
	}
}

func memoryOfPackets(t *testing.T) {
	n := quietNode(t)
	packet := wire.AppendPackets(nil, &mqtt.Publish{Topic: "t", Payload: make([]byte, longest)})
	got := n.each(50, func(int) {
		c := n.stalledSession(mqtt.Connect{})
		const step = 1000 // a buffer that grows in steps may have spare capacity
		for b := wire.AppendFrame(nil, wire.FIN|wire.OpBinary, packet); len(b) > step; b = b[step:] {
			if _, err := c.Write(b[:step]); err != nil {
				t.Fatal(err)
			}
		}
	})
	atMost(t, "session", got, longest*5/4+connOverhead())
}

func memoryOfBodies(t *testing.T) {
	n := quietNode(t)
	request := func(sent int) string {
		return fmt.Sprintf("POST /events?topic=t HTTP/1.1\r\nHost: broker\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s",
			adminToken, longest, strings.Repeat("x", sent))
	}
	// An HTTP connection takes that much while it serves a request.
	const http = 24 << 10
	announced := n.each(50, func(int) { n.stalledConn(request(0)) })
	atMost(t, "body that is only announced", announced, http+8<<10)
	sent := n.each(50, func(int) { n.stalledConn(request(longest - 1)) })
	atMost(t, "body without its last byte", sent, http+longest+8<<10)
}

func memoryOfWills(t *testing.T) {
	n := quietNode(t)
	const name = 1000
	got := n.each(50, func(i int) {
		n.stalledSession(mqtt.Connect{
			ClientID: fmt.Sprint(strings.Repeat("c", name), i),
			Will:     &mqtt.Will{Topic: strings.Repeat("t", 1024), Payload: make([]byte, longest-2000)},
		})
	})
	atMost(t, "session", got, longest+256+2*name+connOverhead())
}

func memoryOfSubscriptions(t *testing.T) {
	n := quietNode(t)
	const topics, atOnce = 2000, 20
	got := n.each(1, func(int) {
		c := n.stalledSession(mqtt.Connect{})
		for i := range topics / atOnce {
			sub := mqtt.Subscribe{PacketID: uint16(i + 1)}
			for j := range atOnce {
				sub.Filters = append(sub.Filters, mqtt.Filter{Topic: fmt.Sprintf("%s%4d", strings.Repeat("t", 1020), i*atOnce+j)})
			}
			if _, err := c.Write(wire.AppendFrame(nil, wire.FIN|wire.OpBinary, wire.AppendPackets(nil, &sub))); err != nil {
				t.Fatal(err)
			}
		}
		if !within(func() bool { return n.metric("pubsub_subscriptions") == topics }) {
			t.Fatalf("%v subscriptions", n.metric("pubsub_subscriptions"))
		}
	})
	const cursor, topic, inMap = 80, 208, 200 // the map and the client's lists have spare capacity
	atMost(t, "topic of its own", got/topics, 1024+cursor+topic+inMap)
}
