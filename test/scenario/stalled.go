package scenario

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pubsub/internal/config"
	"pubsub/internal/mqtt"
	"pubsub/internal/testkit/wire"
)

// ballast is the size of a message that fills the socket of a stalled reader, in bytes.
const ballast = 4 << 10

// stalled opens a connection that reads nothing after it has subscribed to topics. It fills the
// socket with messages of the first topic, to which no other client of the node may subscribe, and
// returns when the socket accepts no more. An SSE stream is durable.
func (n *node) stalled(tr transport, topics ...string) (s stalledReader) {
	n.t.Helper()
	if tr.name == "SSE" {
		pairs := []string{"durable", "true"}
		for _, t := range topics {
			pairs = append(pairs, "topic", t)
		}
		s.c = n.adminEvents(pairs...)
	} else {
		s.m = n.adminClient(topics...)
	}
	p := n.adminClient()
	// A few messages at a time, so that all of them go to the socket while it accepts any.
	delivered := -1.0
	for end, idle := time.Now().Add(patience), 0; idle < 3; {
		if time.Now().After(end) {
			n.t.Fatal("the socket of a stalled reader accepts everything")
		}
		for range 32 {
			n.publishBallast(p, topics[0], 2)
			s.published += 2
		}
		now := n.metric("pubsub_messages_delivered_total")
		if idle++; now != delivered {
			delivered, idle = now, 0
		}
	}
	p.Conn.Close()
	return s
}

// publishBallast publishes count messages of ballast, and returns when the node has received them.
func (n *node) publishBallast(p *wire.MQTT, topic string, count int) {
	n.t.Helper()
	var ps []mqtt.Packet
	for range count {
		ps = append(ps, &mqtt.Publish{Topic: topic, Payload: []byte(strings.Repeat("x", ballast))})
	}
	p.Send(ps...)
	p.Ping()
}

// stalledReader is a client that has stopped reading. Either c or m is nil.
type stalledReader struct {
	c         *wire.SSE
	m         *wire.MQTT
	published int // messages of ballast so far
}

// numbered returns the content of message number i of a topic.
func numbered(topic string, i int, retain bool, size int) string {
	s := fmt.Sprintf("%s %d %t ", topic, i, retain)
	return s + strings.Repeat("x", max(0, size-len(s)))
}

// nextOrError returns the content of the next message, for other goroutines than the test's.
func nextOrError(s subscriber) (string, error) {
	if s, ok := s.(sseSubscriber); ok {
		e, err := s.c.Read()
		return e.Data, err
	}
	p, err := s.(mqttSubscriber).m.Read()
	if err != nil {
		return "", err
	}
	pub, ok := p.(*mqtt.Publish)
	if !ok {
		return "", fmt.Errorf("not a PUBLISH: %s %+v", p.Type(), p)
	}
	return string(pub.Payload), nil
}

// One stalled reader beside a thousand fast ones on the same two topics does not affect the fast
// ones, which lose nothing. The stalled reader loses the oldest messages first and learns how many
// (SSE). It may miss older retained messages of a topic, but never the newest. A durable event is
// never older than one that was delivered before. MQTT delivers no retained message older than one
// that the subscriber has received, and after an overload the newest.
func TestStalledReader(t *testing.T) {
	const (
		readers  = 1000
		buffer   = 8 << 10
		size     = 1 << 10
		rounds   = 3
		batch    = 4                          // messages of each topic in a round: less than the buffer
		flood    = 4096                       // messages of ballast, for the stalled reader only
		heapMore = flood * ballast / 4        // far less than all of them
		lost     = rounds*batch*size > buffer // of each topic
	)
	if !lost {
		t.Fatal("too little is published")
	}
	for _, tr := range transports {
		t.Run(tr.name, func(t *testing.T) {
			n := start(t, func(c *config.Config) {
				c.SubscriberBuffer = buffer
				c.WriteTimeout = 4 * patience
				c.LogLevel = "error"
			})
			topics := []string{"a", "b"}
			s := n.stalled(tr, "ballast", "a", "b")

			var got atomic.Int64
			var failed atomic.Bool
			var wg sync.WaitGroup
			token := n.token(topics...)
			for i := range readers {
				r := tr.subscribe(n, token, topics...)
				wg.Go(func() {
					next := map[string]int{}
					for range rounds*batch*len(topics) + len(topics) {
						var topic string
						var k int
						data, err := nextOrError(r)
						if err == nil {
							_, err = fmt.Sscan(data, &topic, &k)
						}
						if err != nil || k != next[topic] {
							if !failed.Swap(true) { // report one only
								t.Errorf("reader %d: number %d of topic %s after %d (%v)", i, k, topic, next[topic]-1, err)
							}
							return
						}
						next[topic]++
						got.Add(1)
					}
				})
			}
			p := n.adminClient()
			heap() // sync.Pool drops its items with the second collection
			before := heap()
			for s.published < flood {
				n.publishBallast(p, "ballast", 128)
				s.published += 128
			}
			plain, newest, count := s.published, map[string]int{}, 0
			// Every fast reader has received all earlier messages before the next one is published.
			await := func() {
				if !within(func() bool { return got.Load() == int64(count*readers) || failed.Load() }) || failed.Load() {
					failed.Store(true) // do not report the readers' errors as well
					t.Fatalf("the fast readers have received %d of %d messages", got.Load(), count*readers)
				}
			}
			for round := range rounds {
				for _, topic := range topics {
					for k := range batch {
						i := round*batch + k
						// The newest retained message of a is among those that the stalled reader
						// loses, that of b among those that it still gets.
						retain := k%2 == 1 && (round == 0 || topic == "b")
						p.Publish(topic, numbered(topic, i, retain, size), retain)
						if retain {
							newest[topic] = i
						} else {
							plain++
						}
						count++
						if mode.NATS { // plain and retained messages have no common order
							await()
						}
					}
				}
				await()
			}
			heap()
			if more := heap() - before; more > heapMore {
				t.Errorf("%d KiB of heap for a stalled reader, more than %d", more>>10, heapMore>>10)
			}
			ends := append([]string{"ballast"}, topics...)
			for _, topic := range ends {
				p.Publish(topic, numbered(topic, rounds*batch, false, 0), false)
				plain++
			}
			count += len(topics)
			await()
			wg.Wait()

			// The stalled reader reads again.
			last, retained := map[string]int{}, map[string]int{}
			received, dropped := 0, 0
			take := func(data string) {
				received++
				var topic string
				var i int
				var retain bool
				if _, err := fmt.Sscan(data, &topic, &i, &retain); err != nil {
					return // ballast
				}
				if before, ok := last[topic]; ok && i <= before {
					t.Errorf("topic %s: number %d after %d", topic, i, before)
				}
				last[topic] = i
				if retain {
					received--
					retained[topic] = i
				}
			}
			for last["a"]+last["b"]+last["ballast"] < 3*rounds*batch {
				if s.m != nil {
					take(string(s.m.NextPublish().Payload))
					continue
				}
				switch e := s.c.Next(); e.Name {
				case "message":
					take(e.Data)
				case "messages-dropped":
					c, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(e.Data, `{"count":`), "}"))
					if err != nil || c < 1 {
						t.Fatalf("not a count: %q", e.Raw)
					}
					dropped += c
				default:
					t.Fatalf("unexpected event: %q", e.Raw)
				}
			}
			for _, topic := range topics {
				if retained[topic] != newest[topic] {
					t.Errorf("the newest retained message of %s is number %d, not %d", topic, retained[topic], newest[topic])
				}
			}
			if received >= plain {
				t.Errorf("nothing was lost: the reader was not slow")
			}
			if s.c != nil && received+dropped != plain {
				t.Errorf("%d plain messages received and %d dropped, of %d published", received, dropped, plain)
			}
			// Nothing else is pending: the reader is like any other now.
			n.publish("a", "next")
			if s.m != nil {
				s.m.Expect("a", "next")
			} else {
				s.c.Expect("event: message\ndata: next\n")
			}
			if got := n.metric(`pubsub_messages_dropped_total{reason="slow-subscriber"}`); got != float64(plain-received) {
				t.Errorf("%v messages counted as dropped, want %d", got, plain-received)
			}
		})
	}
}

// A subscriber that accepts no byte for write-timeout is closed.
func TestStalledReaderIsClosed(t *testing.T) {
	forEachTransport(t, func(t *testing.T, tr transport) {
		n := start(t, func(c *config.Config) { c.WriteTimeout = 500 * time.Millisecond })
		fast := tr.subscribe(n, n.token("t"), "t")
		n.stalled(tr, "ballast", "t")
		for i := 0; ; i++ {
			n.publish("t", strconv.Itoa(i))
			if got := fast.next(); got != strconv.Itoa(i) {
				t.Fatalf("the fast reader gets %q, not %d", got, i)
			}
			if n.metric("pubsub_connections{") == 1 {
				break
			}
			if i == 5000 {
				t.Fatal("the stalled reader is still connected")
			}
		}
		if got := n.metric("pubsub_subscriptions"); got != 1 {
			t.Errorf("%v subscriptions", got)
		}
	})
}
