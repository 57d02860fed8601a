package scenario

import (
	"fmt"
	"testing"

	"pubsub/internal/config"
)

// message returns the content of the next message; what is said of those that were
// lost is passed over.
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

// left reads until the last of count numbered messages has come of each topic, and
// returns how many have come of those that were published last, each and in order.
func (s stalledReader) left(t *testing.T, count map[string]int) map[string]int {
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
			t.Fatalf("of topic %s comes number %d after %d", topic, i, next[topic]-1)
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
	// bulk is how long a numbered message is of which there are many, and overhead
	// the most that keeping one may take beside its bytes.
	bulk, overhead = 1 << 10, 256
	// late is what the socket of one who does not read may still take when it seems
	// to be full.
	late = 256 << 10
)

// "A subscriber with more than subscriber-buffer of one topic unread loses the
// oldest of them first": what is left to it is as much as the setting says, and of
// each topic.
func TestSubscriberBuffer(t *testing.T) {
	const count = 2500
	forEachTransport(t, func(t *testing.T, m transport) {
		for _, buffer := range []config.Size{64 << 10, 1 << 20} {
			n := start(t, func(c *config.Config) { c.SubscriberBuffer, c.WriteTimeout, c.LogLevel = buffer, 4*patience, "error" })
			s := n.stalled(m, "ballast", "a", "b", "c")
			p := n.adminClient()
			few := int(buffer) / (bulk + overhead)
			for i := range count {
				p.Publish("a", numbered("a", i, false, bulk), false)
				p.Publish("b", numbered("b", i, false, bulk), false)
				if i < few {
					p.Publish("c", numbered("c", i, false, bulk), false)
				}
			}
			p.Ping()
			left := s.left(t, map[string]int{"a": count, "b": count, "c": few})
			if left["c"] != few {
				t.Errorf("with %s, %d of %d messages are left of a topic that has less", buffer, left["c"], few)
			}
			for _, topic := range []string{"a", "b"} {
				if got := left[topic]; got < few || got*bulk > int(buffer)+late {
					t.Errorf("with %s, %d messages of %d bytes are left of topic %s", buffer, got, bulk, topic)
				}
			}
		}
	})
}

// "backlog-memory bounds all backlogs of a node together, the longest cut first":
// a topic of which little is unread loses nothing, whatever there is of others.
func TestBacklogMemory(t *testing.T) {
	const many, few = 4000, 100
	forEachTransport(t, func(t *testing.T, m transport) {
		for _, memory := range []config.Size{512 << 10, 2 << 20} {
			n := start(t, func(c *config.Config) {
				c.BacklogMemory, c.SubscriberBuffer, c.WriteTimeout, c.LogLevel = memory, 1<<30, 4*patience, "error"
			})
			s := n.stalled(m, "ballast", "short", "long")
			p := n.adminClient()
			for i := range many {
				if i < few {
					p.Publish("short", numbered("short", i, false, bulk), false)
				}
				p.Publish("long", numbered("long", i, false, bulk), false)
			}
			p.Ping()
			// Over NATS some are still on their way: each is kept before another is cut.
			var kept float64
			if !within(func() bool {
				kept = n.metric("pubsub_backlog_bytes")
				return kept <= float64(memory) && kept >= float64(memory)/2
			}) {
				t.Errorf("with %s, %v bytes are kept", memory, kept)
			}
			left := s.left(t, map[string]int{"short": few, "long": many})
			if left["short"] != few {
				t.Errorf("with %s, %d of %d messages are left of the short topic", memory, left["short"], few)
			}
			// What is not the short one's, the long one shares with the ballast.
			rest := int(memory) - few*bulk
			if got := left["long"]; got*bulk > rest+late || got*(bulk+overhead) < rest/4 {
				t.Errorf("with %s, %d messages of %d bytes are left of the long topic", memory, got, bulk)
			}
		}
	})
}
