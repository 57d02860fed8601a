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

// "What is published after a client has seen it, reaches it", while others
// publish all the time: nothing begun after stream-open or SUBACK is missing, and
// nothing is missing in between.
func TestNothingIsLostAfterSubscribing(t *testing.T) {
	mixed := func(i int64) bool { return i%3 == 0 }
	if !mode.NATS {
		forEachTransport(t, func(t *testing.T, m transport) { nothingIsLost(t, m, mixed) })
		return
	}
	// There each kind has an order of its own.
	for name, retained := range map[string]func(int64) bool{
		"plain":    func(int64) bool { return false },
		"retained": func(int64) bool { return true },
	} {
		t.Run(name, func(t *testing.T) {
			forEachTransport(t, func(t *testing.T, m transport) { nothingIsLost(t, m, retained) })
		})
	}
}

func nothingIsLost(t *testing.T, m transport, retained func(i int64) bool) {
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
			p.Ping() // the messages before have been taken
		}
	})
	defer wg.Wait()
	defer close(stop)
	token := n.token("busy")
	for range 30 {
		s := m.subscribe(n, token, "busy")
		before := begun.Load()
		nextPlain := func(i int64) int64 {
			for i++; retained(i); i++ {
			}
			return i
		}
		var last, plain int64 // the last retained and the last plain one
		for k := range 4 {
			i, err := strconv.ParseInt(s.next(), 10, 64)
			switch {
			case err != nil:
				t.Fatal(err)
			case k == 0 && retained(i) && i > before+1:
				t.Fatalf("subscribed after %d was begun, and %d comes first", before, i)
			// MQTT begins with what is retained, which may be newer than plain ones that
			// have come since the subscription; retained ones older than it are left out.
			case retained(i) && i <= last:
				t.Fatalf("after the retained %d comes %d", last, i)
			case retained(i):
				last = i
				continue
			case plain == 0 && i > nextPlain(before), plain > 0 && i != nextPlain(plain):
				t.Fatalf("subscribed after %d was begun, and after the plain %d comes %d", before, plain, i)
			}
			plain = i
		}
		s.leave()
	}
}

// Every kind of publication reaches the subscribers of both protocols, with the
// content as it was.
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

// "Per topic, a subscriber sees one publisher connection's messages in the order
// published", retained ones among plain ones, however fast they come. Of retained
// values some may be missing that another publisher's have replaced meanwhile.
func TestOrderOfOnePublisher(t *testing.T) {
	forEachTransport(t, func(t *testing.T, m transport) {
		n := start(t)
		const publishers, messages = 4, 240
		token := n.token("order")
		s := m.subscribe(n, token, "order")
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
			if mode.NATS && retained(i, k) { // plain ones and these have no order among them
				if k < nextRetained[i] {
					t.Fatalf("of the retained ones of publisher %d comes %d before %d", i, nextRetained[i]-1, k)
				}
				nextRetained[i] = k + 1
				continue
			}
			for ; next[i] < k && retained(i, next[i]); next[i]++ {
			}
			if k != next[i] {
				t.Fatalf("of publisher %d comes %d, not %d", i, k, next[i])
			}
			next[i]++
			if !retained(i, k) {
				plain++
			}
		}
	})
}

// All retained values of one publisher arrive, in order, though each waits for the
// disk and the next is begun meanwhile; plain ones among them, where they have an
// order.
func TestPipelinedRetainedPublishesKeepTheirOrder(t *testing.T) {
	forEachTransport(t, func(t *testing.T, m transport) {
		n := start(t, func(c *config.Config) { c.InMemory, c.DataDir = false, config.Dir(t.TempDir()) })
		s := m.subscribe(n, n.token("t"), "t")
		p := n.adminClient()
		var ps []mqtt.Packet
		for i := range 300 {
			ps = append(ps, &mqtt.Publish{Topic: "t", Payload: []byte(strconv.Itoa(i)), Retain: i%10 != 0 || mode.NATS})
		}
		p.Send(ps...)
		for i := range 300 {
			if got := s.next(); got != strconv.Itoa(i) {
				t.Fatalf("message %d is %q", i, got)
			}
		}
	})
}

// A POST is answered after the ones before it on its connection are under way, so
// its order holds too.
func TestOrderOfPosts(t *testing.T) {
	forEachTransport(t, func(t *testing.T, m transport) {
		n := start(t)
		s := m.subscribe(n, n.token("posts"), "posts")
		for i := range 50 {
			retain := "retain=" + strconv.FormatBool(i%2 == 0)
			n.publish("posts", strconv.Itoa(i), retain)
		}
		for i := range 50 {
			if got := s.next(); got != strconv.Itoa(i) {
				t.Fatalf("message %d is %q", i, got)
			}
		}
	})
}

// Topics are opaque and case-sensitive: a subscriber gets its own and no other.
func TestTopicsAreOpaque(t *testing.T) {
	forEachTransport(t, func(t *testing.T, m transport) {
		n := start(t)
		topics := []string{"a", "A", "a/", "/a", "a/b", " ", "%61", "ä", "a,b:c", ".."}
		s := m.subscribe(n, n.token(topics...), topics...)
		for _, topic := range []string{"a/b/c", "b", "a%", "Ä", "."} {
			n.publish(topic, "to "+topic)
		}
		for _, topic := range topics { // one by one: topics have no order among them
			n.publish(topic, "to "+topic)
			if got := s.next(); got != "to "+topic {
				t.Fatalf("instead of %q comes %q", "to "+topic, got)
			}
		}
	})
}

// Whoever leaves is forgotten: connections and subscriptions are as before.
func TestClientsThatLeaveAreForgotten(t *testing.T) {
	forEachTransport(t, func(t *testing.T, m transport) {
		n := start(t)
		var ss []subscriber
		for range 20 {
			ss = append(ss, m.subscribe(n, "", "t", "u"))
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
