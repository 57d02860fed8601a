package scenario

import (
	"fmt"
	"strings"
	"testing"

	"pubsub/internal/config"
	"pubsub/internal/testkit/wire"
)

// From the first event on, the id names topic:VERSION for every topic of which a version was
// delivered on this stream or given by Last-Event-ID, so that a client that loses the connection
// right after that event loses nothing.
func TestFirstIDIncludesGivenVersions(t *testing.T) {
	n := start(t)
	topics := []string{"a", "b", "c", "d"}
	old, id := map[string]string{}, ""
	for _, topic := range topics {
		old[topic] = n.publish(topic, topic+"1", "retain=true")
		id += "," + topic + ":" + old[topic]
	}
	now := map[string]string{}
	for _, topic := range []string{"a", "b", "d"} {
		now[topic] = n.publish(topic, topic+"2", "retain=true")
	}
	pairs := []string{"durable", "true", "lastEventId", id[1:]}
	// The version of d belongs to another life of the store, so it counts as none.
	pairs[3] = strings.Replace(pairs[3], "d:"+old["d"], "d:0000000000000001-1", 1)
	for _, topic := range topics {
		pairs = append(pairs, "topic", topic)
	}
	c := n.adminEvents(pairs...)
	c.Expect("event: message\nid: a:" + now["a"] + ",b:" + old["b"] + ",c:" + old["c"] + "\ndata: a2\n")
	c.Conn.Close()

	pairs[3] = "a:" + now["a"] + ",b:" + old["b"] + ",c:" + old["c"]
	c = n.adminEvents(pairs...)
	c.Expect("event: message\nid: a:" + now["a"] + ",b:" + now["b"] + ",c:" + old["c"] + "\ndata: b2\n")
	c.Expect("event: message\nid: a:" + now["a"] + ",b:" + now["b"] + ",c:" + old["c"] + ",d:" + now["d"] + "\ndata: d2\n")
	n.publish("c", "plain")
	c.Expect("event: message\ndata: plain\n")
}

// The retained messages of a stream's topics may exceed the memory for one client. Then they are
// sent in pieces, in the same order and with the same ids. A message that the client has is not
// sent again, a newer message replaces one that has not been sent yet, and live messages are
// delivered as usual.
func TestLargeRetainedMessagesOfAStream(t *testing.T) {
	n := start(t, func(c *config.Config) { c.WriteTimeout = 4 * patience })
	const topics = 10
	content := func(topic string, i int) string {
		return topic + strings.Repeat("\x01", 32_000) + fmt.Sprint(i)
	}
	name := func(i int) string { return fmt.Sprint("t", i) }
	old, now := make([]string, topics), make([]string, topics)
	pairs := []string{"durable", "true", "envelope", "true"}
	for i := range topics {
		old[i] = n.publish(name(i), content(name(i), 1), "retain=true")
		now[i] = old[i]
		if i%3 == 1 {
			now[i] = n.publish(name(i), content(name(i), 2), "retain=true")
		}
		pairs = append(pairs, "topic", name(i))
	}
	// The client has received the current messages of 3 and 6, and an older one of 7.
	pairs = append(pairs, "lastEventId", "t3:"+now[3]+",t6:"+now[6]+",t7:"+old[7]+",t8:0000000000000001-1")
	has := map[int]string{3: now[3], 6: now[6], 7: old[7]}
	conn := dial(t, n.addr)
	conn.SetReadBuffer(64 << 10) // the messages take 2 MB
	c := wire.Get(t, conn, "/events"+wire.Query(pairs...), "Fastly-Key: "+adminToken)
	c.ExpectOpen()
	n.publish(name(0), "plain")
	before := now[9]
	now[9] = n.publish(name(9), content(name(9), 3), "retain=true") // a parked client has not received the previous one
	n.publish(name(9), "plain")

	id := func() string {
		var parts []string
		for i := range topics {
			if v, ok := has[i]; ok {
				parts = append(parts, name(i)+":"+v)
			}
		}
		return strings.Join(parts, ",")
	}
	next, plain, given := 0, 0, false
	for next < topics || plain < 2 {
		e := c.Next()
		if !e.HasID {
			if !strings.Contains(e.Data, `"data":"plain"`) {
				t.Fatalf("an event without an id: %.200q", e.Raw)
			}
			plain++
			continue
		}
		for next == 3 || next == 6 {
			next++
		}
		if has[9] = before; next == 9 && !given && e.ID == id() {
			given = true // the kernel has more room for clients that are not parked
			continue
		}
		delete(has, 9)
		if has[next] = now[next]; e.ID != id() {
			t.Fatalf("the id of number %d is %q, not %q", next, e.ID, id())
		}
		if want := fmt.Sprintf(`{"topic":"t%d","data":"t%d`, next, next); !strings.HasPrefix(e.Data, want) || !strings.Contains(e.Data, now[next]) {
			t.Fatalf("number %d is %.60q…%q", next, e.Data, e.Data[len(e.Data)-60:])
		}
		next++
	}
	last := n.publish(name(4), "live", "retain=true")
	has[4] = last
	if e := c.Next(); e.ID != id() || !strings.Contains(e.Data, "live") {
		t.Fatalf("the last event is %.200q", e.Raw)
	}
}
