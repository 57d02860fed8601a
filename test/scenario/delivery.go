package scenario

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"pubsub/internal/config"
	"pubsub/internal/mqtt"
	"pubsub/internal/testkit/wire"
)

// A message published after a client has seen stream-open or SUBACK reaches it, while other
// messages are published all the time. None is missing in between.
func TestNothingIsLostAfterSubscribing(t *testing.T) {
	mixed := func(i int64) bool { return i%3 == 0 }
	if !mode.NATS {
		forEachTransport(t, func(t *testing.T, tr transport) { nothingIsLost(t, tr, mixed) })
		return
	}
	// In NATS, plain and retained messages each have an order of their own.
	for name, retained := range map[string]func(int64) bool{
		"plain":    func(int64) bool { return false },
		"retained": func(int64) bool { return true },
	} {
		t.Run(name, func(t *testing.T) {
			forEachTransport(t, func(t *testing.T, tr transport) { nothingIsLost(t, tr, retained) })
		})
	}
}

func nothingIsLost(t *testing.T, tr transport, retained func(i int64) bool) {
	n := start(t)
	var begun atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		p := n.adminClient()
		for {
			select {
			case <-stop:
				return
			default:
			}
			i := begun.Add(1)
			p.Publish("busy", strconv.FormatInt(i, 10), retained(i))
			p.Ping() // the broker has received the message
		}
	})
	defer wg.Wait()
	defer close(stop)
	token := n.token("busy")
	for range 30 {
		s := tr.subscribe(n, token, "busy")
		before := begun.Load()
		nextPlain := func(i int64) int64 {
			for i++; retained(i); i++ {
			}
			return i
		}
		var last, plain int64 // numbers of the last retained and the last plain message
		for k := range 4 {
			i, err := strconv.ParseInt(s.next(), 10, 64)
			switch {
			case err != nil:
				t.Fatal(err)
			case k == 0 && retained(i) && i > before+1:
				t.Fatalf("subscribed after the start of %d, but %d is the first message", before, i)
			// MQTT begins with the retained message, which may be newer than plain messages
			// published since the subscription. Older retained messages are skipped.
			case retained(i) && i <= last:
				t.Fatalf("retained message %d after %d", last, i)
			case retained(i):
				last = i
				continue
			case plain == 0 && i > nextPlain(before), plain > 0 && i != nextPlain(plain):
				t.Fatalf("subscribed after the start of %d: plain message %d is followed by %d", before, plain, i)
			}
			plain = i
		}
		s.leave()
	}
}

// Messages published in any way reach the subscribers of both protocols, with their content
// unchanged.
func TestEveryPublicationReachesBothProtocols(t *testing.T) {
	n := start(t)
	s := n.adminEvents("topic", "t")
	m := n.adminClient("t")
	p := n.adminClient()
	long := strings.Repeat("x", 32512)
	for i, publish := range []func(data string){
		func(d string) { n.publish("t", d) },
		func(d string) { n.publish("t", d, "retain=true") },
		func(d string) { n.publish("t", d, "ttl=60") },
		func(d string) { n.publish("t", d, "retain=1", "ttl=60") },
		func(d string) { n.publish("t", d, "ttl=0") },
		func(d string) { n.publish("t", d, "retain=true", "ttl=0") },
		func(d string) { p.Publish("t", d, false) },
		func(d string) { p.Publish("t", d, true) },
		func(d string) { p.Send(&mqtt.Publish{Topic: "t", Payload: []byte(d), HasExpiry: true, Expiry: 60}) },
		func(d string) {
			p.Send(&mqtt.Publish{Topic: "t", Payload: []byte(d), Retain: true, HasExpiry: true, Expiry: 60})
		},
	} {
		for _, d := range []string{"", fmt.Sprintf("message %d é\n\n two lines", i), long} {
			publish(d)
			m.Expect("t", d)
			if e := s.Next(); e.Name != "message" || e.Data != d || e.HasID {
				t.Fatalf("publication %d: event %.200q", i, e.Raw)
			}
		}
	}
}

// A subscriber receives the messages of one publisher's connection to a topic in order, retained
// and plain ones, however fast they come. It may miss a retained message that another publisher's
// message has replaced.
func TestOrderOfOnePublisher(t *testing.T) {
	forEachTransport(t, func(t *testing.T, tr transport) {
		n := start(t)
		const publishers, messages = 4, 240
		token := n.token("order")
		s := tr.subscribe(n, token, "order")
		retained := func(i, k int) bool { return k%4 == i }
		for i := range publishers {
			p := n.adminClient()
			go func() {
				var burst []byte
				for k := range messages {
					pub := mqtt.Publish{Topic: "order", Payload: fmt.Appendf(nil, "%d %d", i, k), Retain: retained(i, k)}
					burst = pub.Append(burst)
				}
				p.Conn.Write(wire.AppendFrame(nil, wire.FIN|wire.OpBinary, burst))
			}()
		}
		var next, nextRetained [publishers]int
		for plain := 0; plain < publishers*messages*3/4; {
			var i, k int
			got := s.next()
			if _, err := fmt.Sscan(got, &i, &k); err != nil {
				t.Fatalf("%q: %v", got, err)
			}
			if mode.NATS && retained(i, k) { // plain and retained messages have no common order
				if k < nextRetained[i] {
					t.Fatalf("publisher %d: retained message %d before %d", i, nextRetained[i]-1, k)
				}
				nextRetained[i] = k + 1
				continue
			}
			for ; next[i] < k && retained(i, next[i]); next[i]++ {
			}
			if k != next[i] {
				t.Fatalf("publisher %d: message %d, want %d", i, k, next[i])
			}
			next[i]++
			if !retained(i, k) {
				plain++
			}
		}
	})
}

// All retained messages of one publisher arrive, in order, although each waits for the disk while
// the next one is being published. So do the plain messages between them, except over NATS.
func TestPipelinedRetainedPublishesKeepTheirOrder(t *testing.T) {
	forEachTransport(t, func(t *testing.T, tr transport) {
		n := start(t, func(c *config.Config) { c.InMemory, c.DataDir = false, config.Dir(t.TempDir()) })
		s := tr.subscribe(n, n.token("t"), "t")
		p := n.adminClient()
		contents := numbers(300)
		var ps []mqtt.Packet
		for i, c := range contents {
			ps = append(ps, &mqtt.Publish{Topic: "t", Payload: []byte(c), Retain: i%10 != 0 || mode.NATS})
		}
		p.Send(ps...)
		expectMessages(t, s, contents...)
	})
}

// A POST is answered only after the earlier ones of its connection have been sent, so they keep
// their order too.
func TestOrderOfPosts(t *testing.T) {
	forEachTransport(t, func(t *testing.T, tr transport) {
		n := start(t)
		s := tr.subscribe(n, n.token("posts"), "posts")
		contents := numbers(50)
		for i, c := range contents {
			n.publish("posts", c, "retain="+strconv.FormatBool(i%2 == 0))
		}
		expectMessages(t, s, contents...)
	})
}

// numbers returns the numbers below n as texts.
func numbers(n int) (texts []string) {
	for i := range n {
		texts = append(texts, strconv.Itoa(i))
	}
	return texts
}

// Topics are opaque and case-sensitive: a subscriber receives messages of its own topic only.
func TestTopicsAreOpaque(t *testing.T) {
	forEachTransport(t, func(t *testing.T, tr transport) {
		n := start(t)
		topics := []string{"a", "A", "a/", "/a", "a/b", " ", "%61", "ä", "a,b:c", ".."}
		s := tr.subscribe(n, n.token(topics...), topics...)
		for _, topic := range []string{"a/b/c", "b", "a%", "Ä", "."} {
			n.publish(topic, "to "+topic)
		}
		for _, topic := range topics { // one by one, because there is no order between topics
			n.publish(topic, "to "+topic)
			expectMessages(t, s, "to "+topic)
		}
	})
}

// After clients have left, the node has no more connections, subscriptions and topics than before.
func TestClientsThatLeaveAreForgotten(t *testing.T) {
	forEachTransport(t, func(t *testing.T, tr transport) {
		n := start(t)
		var ss []subscriber
		for range 20 {
			ss = append(ss, tr.subscribe(n, "", "t", "u"))
		}
		if got := n.metric("pubsub_connections{"); got != 20 {
			t.Fatalf("%v connections", got)
		}
		for _, s := range ss {
			s.leave()
		}
		if !within(func() bool { return n.metric("pubsub_connections{") == 0 && n.metric("pubsub_subscriptions") == 0 }) {
			t.Fatalf("%v connections and %v subscriptions are left", n.metric("pubsub_connections{"), n.metric("pubsub_subscriptions"))
		}
		if _, body := n.do("GET", n.url("/admin/topics"), asAdmin(), ""); body != "{\"topics\":[]}\n" && body != `{"topics":[]}` {
			t.Fatalf("topics: %q", body)
		}
	})
}
