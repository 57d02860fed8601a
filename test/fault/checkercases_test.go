//go:build linux

package fault_test

import (
	"fmt"
	"strings"
	"testing"

	"pubsub/internal/testkit/history"
)

// fakeHistory is a made-up history of topics a and b, a stream and a session that follow both,
// and a publisher of sequences x and y.
type fakeHistory struct {
	*checker
	retained map[string]history.Version
}

const (
	generation      = "00000000000000aa"
	otherGeneration = "00000000000000bb"
)

// publish publishes a message with unknown outcome.
func (m fakeHistory) publish(topic, data, sequence string, number int) *message {
	p := &message{topic: topic, data: data, sequence: sequence, number: number}
	m.begin(p)
	return p
}

// ack acknowledges a message.
func (m fakeHistory) ack(p *message, seq uint64) {
	m.acknowledge(p, history.Version{Generation: generation, Seq: seq})
}

// retain publishes a message, which is acknowledged and retained.
func (m fakeHistory) retain(topic, data, sequence string, number int, seq uint64) {
	m.ack(m.publish(topic, data, sequence, number), seq)
	m.keep(topic, seq)
	if data == "" {
		delete(m.retained, topic)
	}
}

// keep makes a version the retained one.
func (m fakeHistory) keep(topic string, seq uint64) {
	m.retained[topic] = history.Version{Generation: generation, Seq: seq}
}

// stream delivers a message to the stream, with an id that names the versions of a and b.
func (m fakeHistory) stream(topic, data string, seq, a, b uint64) {
	var id []string
	if a != 0 {
		id = append(id, fmt.Sprintf("a:%s-%d", generation, a))
	}
	if b != 0 {
		id = append(id, fmt.Sprintf("b:%s-%d", generation, b))
	}
	m.event("stream", topic, data, history.Version{Generation: generation, Seq: seq}, strings.Join(id, ","))
}

// session delivers a message to the session.
func (m fakeHistory) session(topic, data string) { m.message("session", topic, data) }

func TestHistory(t *testing.T) {
	for _, c := range []struct {
		name  string
		lived func(m fakeHistory)
		want  string // the one violation or difference; empty if all is well
	}{
		{"nothing", func(m fakeHistory) {}, ""},
		{"everything arrives", func(m fakeHistory) {
			m.retain("a", "1", "x", 1, 5)
			m.stream("a", "1", 5, 5, 0)
			m.session("a", "1")
			m.retain("b", "2", "x", 2, 6)
			m.session("b", "2")
			m.stream("b", "2", 6, 5, 6)
		}, ""},
		{"a message arrives before its acknowledgement", func(m fakeHistory) {
			p := m.publish("a", "1", "x", 1)
			m.stream("a", "1", 5, 5, 0)
			m.session("a", "1")
			m.ack(p, 5)
			m.keep("a", 5)
		}, ""},
		{"a replaced message need not arrive", func(m fakeHistory) {
			m.retain("a", "1", "x", 1, 5)
			m.retain("a", "2", "x", 2, 7)
			m.stream("a", "2", 7, 7, 0)
			m.session("a", "2")
		}, ""},
		{"a message with unknown outcome is stored", func(m fakeHistory) {
			m.retain("a", "1", "x", 1, 5)
			m.publish("a", "2", "x", 2)
			m.stream("a", "2", 8, 8, 0)
			m.session("a", "2")
			m.keep("a", 8)
		}, ""},
		{"a message with unknown outcome is not stored", func(m fakeHistory) {
			m.retain("a", "1", "x", 1, 5)
			m.publish("a", "2", "x", 2)
			m.stream("a", "1", 5, 5, 0)
			m.session("a", "1")
		}, ""},
		{"a message with unknown outcome is stored late", func(m fakeHistory) {
			m.publish("a", "1", "x", 1)
			m.retain("a", "2", "y", 1, 5)
			m.stream("a", "2", 5, 5, 0)
			m.session("a", "2")
			m.stream("a", "1", 6, 6, 0)
			m.session("a", "1")
			m.keep("a", 6)
		}, ""},
		{"a clear arrives", func(m fakeHistory) {
			m.retain("a", "1", "x", 1, 5)
			m.stream("a", "1", 5, 5, 0)
			m.session("a", "1")
			m.retain("a", "", "x", 2, 6)
			m.stream("a", "", 6, 6, 0)
			m.session("a", "")
		}, ""},
		{"a session connects after a clear", func(m fakeHistory) {
			m.retain("a", "1", "x", 1, 5)
			m.session("a", "1")
			m.retain("a", "", "x", 2, 6)
			m.stream("a", "", 6, 6, 0)
			m.opened("session", "elsewhere")
		}, ""},
		{"a session connects again", func(m fakeHistory) {
			m.retain("a", "1", "x", 1, 5)
			m.stream("a", "1", 5, 5, 0)
			m.session("a", "1")
			m.opened("session", "elsewhere")
			m.session("a", "1")
		}, ""},

		{"content that was never published", func(m fakeHistory) {
			m.stream("a", "1", 5, 5, 0)
		}, `content: stream receives "1" of topic a, which was never published`},
		{"content of another topic", func(m fakeHistory) {
			m.publish("b", "1", "x", 1)
			m.session("a", "1")
		}, `content: session receives "1" of topic a, which was never published`},
		{"a clear that was never published", func(m fakeHistory) {
			m.session("a", "")
		}, "content: session receives a clear or nothing of topic a, which was never published"},
		{"a topic that is not followed", func(m fakeHistory) {
			m.addTopic("c")
			m.publish("c", "1", "x", 1)
			m.session("c", "1")
		}, "content: session receives a message of topic c, which it does not follow"},
		{"a version of two messages", func(m fakeHistory) {
			m.retain("a", "1", "x", 1, 5)
			m.publish("a", "2", "y", 1)
			m.stream("a", "2", 5, 5, 0)
		}, `content: version 5 of topic a is "2", and was "1"`},
		{"a message of two versions", func(m fakeHistory) {
			m.retain("a", "1", "x", 1, 5)
			m.stream("a", "1", 5, 5, 0)
			m.stream("a", "1", 6, 6, 0)
		}, `content: "1" of topic a is version 6, and is version 5, too`},
		{"a stream goes back", func(m fakeHistory) {
			m.retain("a", "1", "x", 1, 5)
			m.retain("a", "2", "x", 2, 6)
			m.stream("a", "2", 6, 6, 0)
			m.stream("a", "1", 5, 6, 0)
		}, "order: stream receives version 5 of topic a after version 6"},
		{"a resumed stream receives a message again", func(m fakeHistory) {
			m.retain("a", "1", "x", 1, 5)
			m.stream("a", "1", 5, 5, 0)
			m.opened("stream", "elsewhere")
			m.stream("a", "1", 5, 5, 0)
		}, "order: stream receives version 5 of topic a after version 5"},
		{"a session goes back", func(m fakeHistory) {
			m.retain("a", "1", "x", 1, 5)
			m.retain("a", "2", "y", 1, 6)
			m.session("a", "2")
			m.session("a", "1")
		}, `order: session receives "1" of topic a, which is version 5, after version 6`},
		{"a session goes back, to a version that is known later", func(m fakeHistory) {
			one, two := m.publish("a", "1", "x", 1), m.publish("a", "2", "y", 1)
			m.session("a", "2")
			m.ack(one, 5)
			m.ack(two, 6)
			m.session("a", "1")
		}, `order: session receives "1" of topic a, which is version 5, after version 6`},
		{"a session goes back in a sequence, without versions", func(m fakeHistory) {
			m.publish("a", "1", "x", 1)
			m.publish("a", "2", "x", 2)
			m.session("a", "2")
			m.session("a", "1")
		}, `order: session receives "1" of topic a after "2"`},
		{"a session receives a message twice", func(m fakeHistory) {
			m.retain("a", "1", "x", 1, 5)
			m.session("a", "1")
			m.session("a", "1")
		}, `order: session receives "1" of topic a after "1"`},
		{"a session connects again and goes back", func(m fakeHistory) {
			m.retain("a", "1", "x", 1, 5)
			m.retain("a", "2", "y", 1, 6)
			m.session("a", "2")
			m.opened("session", "elsewhere")
			m.session("a", "1")
		}, `order: session receives "1" of topic a, which is version 5, after version 6`},
		{"a sequence is stored in another order", func(m fakeHistory) {
			m.publish("a", "1", "x", 1)
			m.publish("a", "2", "x", 2)
			m.stream("a", "2", 5, 5, 0)
			m.stream("a", "1", 6, 6, 0)
		}, "order: topic a: number 1 of x is version 6, and number 2 is version 5"},
		{"a sequence is acknowledged in another order", func(m fakeHistory) {
			m.publish("a", "1", "x", 1)
			two := m.publish("a", "2", "x", 2)
			m.stream("a", "1", 6, 6, 0)
			m.ack(two, 5)
		}, "order: topic a: number 2 of x is version 5, and number 1 is version 6"},
		{"an acknowledgement goes back", func(m fakeHistory) {
			m.retain("a", "1", "x", 1, 5)
			m.ack(m.publish("a", "2", "y", 1), 4)
		}, `version: "2" of topic a is acknowledged as version 4, after version 5`},
		{"another generation", func(m fakeHistory) {
			m.retain("a", "1", "x", 1, 5)
			m.acknowledge(m.publish("a", "2", "x", 2), history.Version{Generation: otherGeneration, Seq: 6})
		}, "version: the generation is " + otherGeneration + ", and was " + generation},
		{"an id forgets a topic", func(m fakeHistory) {
			m.retain("a", "1", "x", 1, 5)
			m.stream("a", "1", 5, 5, 0)
			m.retain("b", "2", "x", 2, 6)
			m.stream("b", "2", 6, 0, 6)
		}, "version: stream: the id b:" + generation + "-6 of a message to b does not name the version " + generation + "-5 of a"},
		{"an id names a version that has not arrived", func(m fakeHistory) {
			m.retain("a", "1", "x", 1, 5)
			m.retain("b", "2", "x", 2, 6)
			m.stream("b", "2", 6, 5, 6)
		}, "version: stream: the id a:" + generation + "-5,b:" + generation + "-6 of a message to b does not name the version -0 of a"},

		{"an acknowledged message is lost", func(m fakeHistory) {
			m.retain("a", "1", "x", 1, 5)
			m.stream("a", "1", 5, 5, 0)
			m.session("a", "1")
			m.ack(m.publish("a", "2", "x", 2), 6)
		}, "topic a retains version 5, and version 6 was acknowledged"},
		{"an acknowledged message is lost, and none is left", func(m fakeHistory) {
			m.retain("a", "1", "x", 1, 5)
			delete(m.retained, "a")
		}, "topic a retains nothing, and version 5, no clear, was acknowledged"},
		{"a stream misses the newest", func(m fakeHistory) {
			m.retain("a", "1", "x", 1, 5)
			m.stream("a", "1", 5, 5, 0)
			m.retain("a", "2", "x", 2, 6)
			m.session("a", "2")
		}, "stream on nowhere has version 5 of topic a, which retains version 6"},
		{"a stream misses a clear", func(m fakeHistory) {
			m.retain("a", "1", "x", 1, 5)
			m.stream("a", "1", 5, 5, 0)
			m.retain("a", "", "x", 2, 6)
		}, "stream on nowhere has version 5 of topic a, which was cleared by version 6"},
		{"a session misses the newest", func(m fakeHistory) {
			m.retain("a", "1", "x", 1, 5)
			m.session("a", "1")
			m.retain("a", "2", "x", 2, 6)
			m.stream("a", "2", 6, 6, 0)
		}, `session on nowhere has "1" of topic a, which retains version 6, "2"`},
		{"a session misses a clear", func(m fakeHistory) {
			m.retain("a", "1", "x", 1, 5)
			m.session("a", "1")
			m.retain("a", "", "x", 2, 6)
			m.stream("a", "", 6, 6, 0)
		}, `session on nowhere has "1" of topic a, which retains nothing`},
		{"a session connects again and misses the retained message", func(m fakeHistory) {
			m.retain("a", "1", "x", 1, 5)
			m.stream("a", "1", 5, 5, 0)
			m.session("a", "1")
			m.opened("session", "elsewhere")
		}, `session on elsewhere has a clear or nothing of topic a, which retains version 5, "1"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := fakeHistory{newChecker(), map[string]history.Version{}}
			m.addTopic("a")
			m.addTopic("b")
			for _, f := range []string{"stream", "session"} {
				m.addFollower(f, f == "stream", []string{"a", "b"})
				m.opened(f, "nowhere")
			}
			c.lived(m)
			found := m.List()
			if len(found) == 0 {
				found = m.behind(m.retained)
			}
			if got := strings.Join(found, "\n"); got != c.want {
				t.Errorf("found\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}
