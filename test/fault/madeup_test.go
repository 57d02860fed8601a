//go:build linux

package fault_test

import (
	"strings"
	"testing"
)

// madeUp is a history that nobody has lived through: of topics a and b, a stream and
// a session that follow both, and a publisher of two lines.
type madeUp struct {
	*history
	retained map[string]version
}

const (
	life      = "00000000000000aa"
	otherLife = "00000000000000bb"
)

// begun has a message be published and nobody know whether it was kept; the content
// names it.
func (m madeUp) begun(topic, data, line string, number int) *publish {
	p := &publish{topic: topic, data: data, line: line, number: number}
	m.begin(p)
	return p
}

// kept has a message be published and acknowledged, and be retained.
func (m madeUp) kept(topic, data, line string, number int, seq uint64) {
	m.acknowledge(m.begun(topic, data, line, number), version{life, seq})
	if m.retained[topic] = (version{life, seq}); data == "" {
		delete(m.retained, topic)
	}
}

// streamed gives the stream a message, with an id that names the versions of a and b.
func (m madeUp) streamed(topic, data string, seq, a, b uint64) {
	id := map[string]version{}
	for t, s := range map[string]uint64{"a": a, "b": b} {
		if s != 0 {
			id[t] = version{life, s}
		}
	}
	m.event("stream", topic, data, version{life, seq}, id)
}

// given gives the session a message.
func (m madeUp) given(topic, data string) { m.message("session", topic, data) }

func TestHistory(t *testing.T) {
	for _, c := range []struct {
		name  string
		lived func(m madeUp)
		says  string // the one fault or difference; empty if all is well
	}{
		{"nothing", func(m madeUp) {}, ""},
		{"all that is published comes", func(m madeUp) {
			m.kept("a", "1", "x", 1, 5)
			m.streamed("a", "1", 5, 5, 0)
			m.given("a", "1")
			m.kept("b", "2", "x", 2, 6)
			m.given("b", "2")
			m.streamed("b", "2", 6, 5, 6)
		}, ""},
		{"it comes before it is acknowledged", func(m madeUp) {
			p := m.begun("a", "1", "x", 1)
			m.streamed("a", "1", 5, 5, 0)
			m.given("a", "1")
			m.acknowledge(p, version{life, 5})
			m.retained["a"] = version{life, 5}
		}, ""},
		{"what is replaced need not come", func(m madeUp) {
			m.kept("a", "1", "x", 1, 5)
			m.kept("a", "2", "x", 2, 7)
			m.streamed("a", "2", 7, 7, 0)
			m.given("a", "2")
		}, ""},
		{"what nobody knows of is kept", func(m madeUp) {
			m.kept("a", "1", "x", 1, 5)
			m.begun("a", "2", "x", 2)
			m.streamed("a", "2", 8, 8, 0)
			m.given("a", "2")
			m.retained["a"] = version{life, 8}
		}, ""},
		{"what nobody knows of is not kept", func(m madeUp) {
			m.kept("a", "1", "x", 1, 5)
			m.begun("a", "2", "x", 2)
			m.streamed("a", "1", 5, 5, 0)
			m.given("a", "1")
		}, ""},
		{"what nobody knows of is kept late", func(m madeUp) {
			m.begun("a", "1", "x", 1)
			m.kept("a", "2", "y", 1, 5)
			m.streamed("a", "2", 5, 5, 0)
			m.given("a", "2")
			m.streamed("a", "1", 6, 6, 0)
			m.given("a", "1")
			m.retained["a"] = version{life, 6}
		}, ""},
		{"a clear comes", func(m madeUp) {
			m.kept("a", "1", "x", 1, 5)
			m.streamed("a", "1", 5, 5, 0)
			m.given("a", "1")
			m.kept("a", "", "x", 2, 6)
			m.streamed("a", "", 6, 6, 0)
			m.given("a", "")
		}, ""},
		{"a session comes after a clear", func(m madeUp) {
			m.kept("a", "1", "x", 1, 5)
			m.given("a", "1")
			m.kept("a", "", "x", 2, 6)
			m.streamed("a", "", 6, 6, 0)
			m.opened("session", "elsewhere")
		}, ""},
		{"a session comes back", func(m madeUp) {
			m.kept("a", "1", "x", 1, 5)
			m.streamed("a", "1", 5, 5, 0)
			m.given("a", "1")
			m.opened("session", "elsewhere")
			m.given("a", "1")
		}, ""},

		{"content that nobody has published", func(m madeUp) {
			m.streamed("a", "1", 5, 5, 0)
		}, `content: stream is given "1" of topic a, which nobody has published`},
		{"content of another topic", func(m madeUp) {
			m.begun("b", "1", "x", 1)
			m.given("a", "1")
		}, `content: session is given "1" of topic a, which nobody has published`},
		{"a clear that nobody has published", func(m madeUp) {
			m.given("a", "")
		}, "content: session is given a clear or nothing of topic a, which nobody has published"},
		{"a topic that is not followed", func(m madeUp) {
			m.add("c")
			m.begun("c", "1", "x", 1)
			m.given("c", "1")
		}, "content: session is given a message of topic c, which it does not follow"},
		{"a version of two messages", func(m madeUp) {
			m.kept("a", "1", "x", 1, 5)
			m.begun("a", "2", "y", 1)
			m.streamed("a", "2", 5, 5, 0)
		}, `content: version 5 of topic a is "2", and was "1"`},
		{"a message of two versions", func(m madeUp) {
			m.kept("a", "1", "x", 1, 5)
			m.streamed("a", "1", 5, 5, 0)
			m.streamed("a", "1", 6, 6, 0)
		}, `content: "1" of topic a is version 6, and is version 5, too`},
		{"a stream steps back", func(m madeUp) {
			m.kept("a", "1", "x", 1, 5)
			m.kept("a", "2", "x", 2, 6)
			m.streamed("a", "2", 6, 6, 0)
			m.streamed("a", "1", 5, 6, 0)
		}, "order: stream is given version 5 of topic a after version 6"},
		{"a stream that resumes is given what it had", func(m madeUp) {
			m.kept("a", "1", "x", 1, 5)
			m.streamed("a", "1", 5, 5, 0)
			m.opened("stream", "elsewhere")
			m.streamed("a", "1", 5, 5, 0)
		}, "order: stream is given version 5 of topic a after version 5"},
		{"a session steps back", func(m madeUp) {
			m.kept("a", "1", "x", 1, 5)
			m.kept("a", "2", "y", 1, 6)
			m.given("a", "2")
			m.given("a", "1")
		}, `order: session is given "1" of topic a, which is version 5, after version 6`},
		{"a session steps back to what has a version only afterwards", func(m madeUp) {
			one, two := m.begun("a", "1", "x", 1), m.begun("a", "2", "y", 1)
			m.given("a", "2")
			m.acknowledge(one, version{life, 5})
			m.acknowledge(two, version{life, 6})
			m.given("a", "1")
		}, `order: session is given "1" of topic a, which is version 5, after version 6`},
		{"a session steps back in a line without versions", func(m madeUp) {
			m.begun("a", "1", "x", 1)
			m.begun("a", "2", "x", 2)
			m.given("a", "2")
			m.given("a", "1")
		}, `order: session is given "1" of topic a after "2"`},
		{"a session is given something twice", func(m madeUp) {
			m.kept("a", "1", "x", 1, 5)
			m.given("a", "1")
			m.given("a", "1")
		}, `order: session is given "1" of topic a after "1"`},
		{"a session that comes back steps back", func(m madeUp) {
			m.kept("a", "1", "x", 1, 5)
			m.kept("a", "2", "y", 1, 6)
			m.given("a", "2")
			m.opened("session", "elsewhere")
			m.given("a", "1")
		}, `order: session is given "1" of topic a, which is version 5, after version 6`},
		{"a line is kept in another order", func(m madeUp) {
			m.begun("a", "1", "x", 1)
			m.begun("a", "2", "x", 2)
			m.streamed("a", "2", 5, 5, 0)
			m.streamed("a", "1", 6, 6, 0)
		}, "order: of topic a, number 1 of x is version 6, and number 2 is version 5"},
		{"a line is acknowledged in another order", func(m madeUp) {
			m.begun("a", "1", "x", 1)
			two := m.begun("a", "2", "x", 2)
			m.streamed("a", "1", 6, 6, 0)
			m.acknowledge(two, version{life, 5})
		}, "order: of topic a, number 2 of x is version 5, and number 1 is version 6"},
		{"an acknowledgement goes back", func(m madeUp) {
			m.kept("a", "1", "x", 1, 5)
			m.acknowledge(m.begun("a", "2", "y", 1), version{life, 4})
		}, `version: "2" of topic a is acknowledged as version 4, after version 5`},
		{"another generation", func(m madeUp) {
			m.kept("a", "1", "x", 1, 5)
			m.acknowledge(m.begun("a", "2", "x", 2), version{otherLife, 6})
		}, "version: the generation is " + otherLife + ", and was " + life},
		{"an id forgets a topic", func(m madeUp) {
			m.kept("a", "1", "x", 1, 5)
			m.streamed("a", "1", 5, 5, 0)
			m.kept("b", "2", "x", 2, 6)
			m.streamed("b", "2", 6, 0, 6)
		}, "version: stream has version 5 of topic a, and the id of version 6 of topic b names version 0"},
		{"an id names what has not come", func(m madeUp) {
			m.kept("a", "1", "x", 1, 5)
			m.kept("b", "2", "x", 2, 6)
			m.streamed("b", "2", 6, 5, 6)
		}, "version: stream has version 0 of topic a, and the id of version 6 of topic b names version 5"},

		{"what was acknowledged is lost", func(m madeUp) {
			m.kept("a", "1", "x", 1, 5)
			m.streamed("a", "1", 5, 5, 0)
			m.given("a", "1")
			m.acknowledge(m.begun("a", "2", "x", 2), version{life, 6})
		}, "topic a retains version 5, and version 6 was acknowledged"},
		{"what was acknowledged is lost, and nothing is left", func(m madeUp) {
			m.kept("a", "1", "x", 1, 5)
			delete(m.retained, "a")
		}, "topic a retains nothing, and version 5, no clear, was acknowledged"},
		{"a stream misses the newest", func(m madeUp) {
			m.kept("a", "1", "x", 1, 5)
			m.streamed("a", "1", 5, 5, 0)
			m.kept("a", "2", "x", 2, 6)
			m.given("a", "2")
		}, "stream on nowhere has version 5 of topic a, which retains version 6"},
		{"a stream misses a clear", func(m madeUp) {
			m.kept("a", "1", "x", 1, 5)
			m.streamed("a", "1", 5, 5, 0)
			m.kept("a", "", "x", 2, 6)
		}, "stream on nowhere has version 5 of topic a, which was cleared by version 6"},
		{"a session misses the newest", func(m madeUp) {
			m.kept("a", "1", "x", 1, 5)
			m.given("a", "1")
			m.kept("a", "2", "x", 2, 6)
			m.streamed("a", "2", 6, 6, 0)
		}, `session on nowhere has "1" of topic a, which retains version 6, "2"`},
		{"a session misses a clear", func(m madeUp) {
			m.kept("a", "1", "x", 1, 5)
			m.given("a", "1")
			m.kept("a", "", "x", 2, 6)
			m.streamed("a", "", 6, 6, 0)
		}, `session on nowhere has "1" of topic a, which retains nothing`},
		{"a session that comes back is not given what is retained", func(m madeUp) {
			m.kept("a", "1", "x", 1, 5)
			m.streamed("a", "1", 5, 5, 0)
			m.given("a", "1")
			m.opened("session", "elsewhere")
		}, `session on elsewhere has a clear or nothing of topic a, which retains version 5, "1"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := madeUp{newHistory(), map[string]version{}}
			m.add("a")
			m.add("b")
			for _, f := range []string{"stream", "session"} {
				m.follow(f, f == "stream", []string{"a", "b"})
				m.opened(f, "nowhere")
			}
			c.lived(m)
			said := m.found()
			if len(said) == 0 {
				said = m.behind(m.retained)
			}
			if got := strings.Join(said, "\n"); got != c.says {
				t.Errorf("it says\n%s\nand not\n%s", got, c.says)
			}
		})
	}
}
