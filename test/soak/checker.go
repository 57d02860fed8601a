//go:build linux

package main

import (
	"maps"
	"slices"
	"sync"

	"pubsub/internal/testkit/history"
)

// kind is the kind of a subscriber.
type kind int

const (
	plainStream   kind = iota // server-sent events
	durableStream             // with ids; resumes
	session                   // MQTT
	kinds
)

func (k kind) String() string { return [...]string{"SSE", "durable SSE", "MQTT"}[k] }

// checker checks the messages that one subscriber receives. Its methods are called in the
// order in which the client sees the events: open, then message, clear and dropped in any order,
// then closed, and open again.
type checker struct {
	// immutable
	who        string
	kind       kind
	truth      *truth
	violations *history.Violations

	mu sync.Mutex
	// guarded by mu
	topics    map[string]*progress
	positions history.Positions // of durable streams
	received  uint64
	losses    losses
	// excused reports whether the broker closed the connection at the end because the client did
	// not read: the client has lost all messages but the retained ones.
	excused bool
}

// progress is the state of a subscriber in a topic.
type progress struct {
	truth *topicTruth

	retained string // name of the last retained message

	// By publisher.
	seq  []uint64 // of the last message
	next []uint64 // the plain message that must come next on this connection; 0 before the first
	base []uint64 // plain messages begun when the connection was opened
	// offset is that of the last message on this connection, or of the connection's first possible
	// message.
	offset []uint64
}

func newChecker(who string, k kind, topics []string, t *truth, v *history.Violations) *checker {
	c := &checker{who: who, kind: k, truth: t, violations: v, topics: make(map[string]*progress), positions: history.NewPositions(topics)}
	for _, topic := range topics {
		c.topics[topic] = &progress{
			truth: t.topics[topic],
			seq:   make([]uint64, t.publishers),
			next:  make([]uint64, t.publishers),
			base:  make([]uint64, t.publishers),

			offset: make([]uint64, t.publishers),
		}
	}
	return c
}

func (c *checker) add(k history.Kind, format string, args ...any) {
	c.violations.Add(k, "%s: "+format, append([]any{c.who}, args...)...)
}

// open notes that the subscription is live: each message that is published from now on reaches
// the client, on this connection.
func (c *checker) open() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.losses.open()
	for _, p := range c.topics {
		clear(p.next)
		for i := range p.base {
			p.offset[i] = p.truth.offset.Load()
			p.base[i] = p.truth.begun[i].Load()
		}
		if c.kind != durableStream {
			clear(p.seq) // retained messages come again
			p.retained = ""
		}
	}
}

// message notes that the client has received m. id is the event's, or empty.
func (c *checker) message(m message, id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.received++
	p := c.topics[m.topic]
	if p == nil || m.publisher < 0 || m.publisher >= c.truth.publishers {
		c.add(history.Content, "a message of topic %q and publisher %d, which it has not subscribed to", m.topic, m.publisher)
		return
	}
	if last := p.seq[m.publisher]; m.seq <= last {
		c.add(history.Order, "number %d of publisher %d to %s comes after number %d", m.seq, m.publisher, m.topic, last)
	}
	p.seq[m.publisher] = max(m.seq, p.seq[m.publisher])
	c.count(p, &m)
	p.offset[m.publisher] = max(p.offset[m.publisher], m.offset)
	if m.retain {
		p.retained = m.name()
	}
	if c.kind != durableStream {
		return
	}
	switch {
	case m.retain && id == "":
		c.add(history.Versions, "%s to %s is retained and has no id", m.name(), m.topic)
	case !m.retain && id != "":
		c.add(history.Versions, "%s to %s is not retained and has the id %s", m.name(), m.topic, id)
	case m.retain:
		c.identify(id, m.topic, m.name())
	}
}

// clear notes that the client has received a message of no bytes. topic is empty for a stream
// without envelopes.
func (c *checker) clear(topic, id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.received++
	switch c.kind {
	case plainStream: // the client cannot see the topic
	case durableStream:
		c.identify(id, "", cleared)
	case session:
		p := c.topics[topic]
		if p == nil {
			c.add(history.Content, "a clear of topic %q, which it has not subscribed to", topic)
			return
		}
		p.retained = cleared
	}
}

// identify checks the id of a retained message and notes its version. topic is empty for a clear.
func (c *checker) identify(id, topic, name string) {
	topic, v, err := c.positions.Advance(id, topic)
	if err != nil {
		c.add(history.Versions, "%s: %v", name, err)
	}
	p := c.topics[topic]
	if p == nil || v == (history.Version{}) {
		return
	}
	p.retained = name
	if other := p.truth.versionOf(v, name); other != name {
		c.add(history.Versions, "the version %v of %s is that of %s, and was that of %s", v, topic, name, other)
	}
}

// converged reports whether the client has everything that it must have in the end.
func (c *checker) converged() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for topic := range c.topics {
		if c.missing(topic) != "" {
			return false
		}
	}
	return true
}

// missing names a message of a topic that the client still misses. It returns "" if there is none.
func (c *checker) missing(topic string) string {
	p := c.topics[topic]
	p.truth.mu.Lock()
	defer p.truth.mu.Unlock()
	for i, last := range p.truth.last {
		if p.seq[i] < last && !c.excused {
			return "the last message of a publisher"
		}
	}
	switch {
	case c.kind == plainStream && (p.truth.newest == cleared || c.excused): // see clear
	case p.retained != p.truth.newest:
		return "the newest retained message"
	case c.kind == durableStream && c.positions[topic] != p.truth.final:
		return "the newest version"
	}
	return ""
}

// end checks, when no more messages will come, that the client has the newest messages, and that
// each of its losses was announced.
func (c *checker) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, topic := range slices.Sorted(maps.Keys(c.topics)) {
		p := c.topics[topic]
		if what := c.missing(topic); what != "" {
			c.add(history.Convergence, "%s of %s is missing: the last retained is %q (%v), and should be %q (%v)",
				what, topic, p.retained, c.positions[topic], p.truth.newest, p.truth.final)
		}
	}
	if c.kind == session || !c.losses.exact || c.excused {
		return
	}
	if l := &c.losses; l.missing != l.announced {
		c.add(history.Account, "%d messages are missing, and %d were announced", l.missing, l.announced)
	}
	c.losses.accounted = c.losses.announced > 0
}
