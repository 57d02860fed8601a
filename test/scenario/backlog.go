package scenario

import (
	"fmt"
	"testing"

	"pubsub/internal/config"
)

// message returns the content of the next message. It skips messages-dropped events.
func (s stalledReader) message() string {
	if s.m != nil {
		return string(s.m.NextPublish().Payload)
	}
	for {
		if e := s.c.Next(); e.Name != "messages-dropped" {
			return e.Data
		}
	}
}

// readToEnd reads until the last of count numbered messages has arrived of each topic. Of each
// topic, it returns the length of the run of consecutive messages that ends with the last one.
func (s stalledReader) readToEnd(t *testing.T, count map[string]int) map[string]int {
	t.Helper()
	next, left := map[string]int{}, map[string]int{}
	for missing := len(count); missing > 0; {
		var topic string
		var i int
		var retain bool
		if _, err := fmt.Sscan(s.message(), &topic, &i, &retain); err != nil {
			continue // ballast
		}
		switch {
		case i < next[topic]:
			t.Fatalf("topic %s: number %d after %d", topic, i, next[topic]-1)
		case i > next[topic]:
			left[topic] = 0
		}
		left[topic]++
		next[topic] = i + 1
		if i+1 == count[topic] {
			missing--
		}
	}
	return left
}

const (
	// bulk is the size of a numbered message in bytes, and overhead the most memory that the
	// broker may use for one besides its content.
	bulk, overhead = 1 << 10, 256
	// lateBytes is how much a stalled socket that seems full may still accept, in bytes.
	lateBytes = 256 << 10
)

// A subscriber with more than subscriber-buffer unread in one topic loses the oldest messages
// first. It keeps as much as the setting says, of each topic.
func TestSubscriberBuffer(t *testing.T) {
	const count = 2500
	forEachTransport(t, func(t *testing.T, tr transport) {
		for _, buffer := range []config.Size{64 << 10, 1 << 20} {
			n := start(t, func(c *config.Config) { c.SubscriberBuffer, c.WriteTimeout, c.LogLevel = buffer, 4*patience, "error" })
			s := n.stalled(tr, "ballast", "a", "b", "c")
			other := stalledReader{m: n.adminClient("a", "b", "c")}
			p := n.adminClient()
			few := int(buffer) / (bulk + overhead)
			counts := map[string]int{"a": count, "b": count, "c": few}
			for i := range count {
				p.Publish("a", numbered("a", i, false, bulk), false)
				p.Publish("b", numbered("b", i, false, bulk), false)
				if i < few {
					p.Publish("c", numbered("c", i, false, bulk), false)
				}
			}
			p.Ping()
			other.readToEnd(t, counts) // over NATS, messages are delivered after the PINGRESP
			left := s.readToEnd(t, counts)
			if left["c"] != few {
				t.Errorf("with %s, %d of %d messages are left of a topic below the limit", buffer, left["c"], few)
			}
			for _, topic := range []string{"a", "b"} {
				if got := left[topic]; got < few || got*bulk > int(buffer)+lateBytes {
					t.Errorf("with %s, %d messages of %d bytes are left of topic %s", buffer, got, bulk, topic)
				}
			}
		}
	})
}

// backlog-memory bounds all backlogs of a node together, and the longest backlog is cut first. A
// topic with a short backlog loses nothing, however long the others are.
func TestBacklogMemory(t *testing.T) {
	const many, few = 4000, 100
	forEachTransport(t, func(t *testing.T, tr transport) {
		for _, memory := range []config.Size{512 << 10, 2 << 20} {
			n := start(t, func(c *config.Config) {
				c.BacklogMemory, c.SubscriberBuffer, c.WriteTimeout, c.LogLevel = memory, 1<<30, 4*patience, "error"
			})
			s := n.stalled(tr, "ballast", "short", "long")
			p := n.adminClient()
			for i := range many {
				if i < few {
					p.Publish("short", numbered("short", i, false, bulk), false)
				}
				p.Publish("long", numbered("long", i, false, bulk), false)
			}
			p.Ping()
			// Over NATS some messages are still on their way. Each is stored before another is cut.
			var kept float64
			if !within(func() bool {
				kept = n.metric("pubsub_backlog_bytes")
				return kept <= float64(memory) && kept >= float64(memory)/2
			}) {
				t.Errorf("with %s, the backlog is %v bytes", memory, kept)
			}
			left := s.readToEnd(t, map[string]int{"short": few, "long": many})
			if left["short"] != few {
				t.Errorf("with %s, %d of %d messages are left of the short topic", memory, left["short"], few)
			}
			// The long topic shares the rest of the limit with the ballast.
			rest := int(memory) - few*bulk
			if got := left["long"]; got*bulk > rest+lateBytes || got*(bulk+overhead) < rest/4 {
				t.Errorf("with %s, %d messages of %d bytes are left of the long topic", memory, got, bulk)
			}
		}
	})
}
