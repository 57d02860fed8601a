//go:build linux

package fault_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"pubsub/internal/testkit/history"
)

// checker records the events of publishers and followers, and checks them at once against
// these promises:
//
//   - content: each delivered message was published, to its topic, and each version belongs
//     to one message;
//   - order: a stream receives only messages that are newer than the last one of the topic,
//     over all its connections. So does a session on each connection; a new connection may
//     begin with the last one again. Messages that one publisher publishes over one
//     connection are stored in that order;
//   - version: an acknowledgement has a newer version than those before it, there is one
//     generation, and an id names the version that the stream has of every topic;
//   - convergence (see behind): when publishing has paused and all faults have healed, each
//     acknowledged message is retained, unless a newer one is, and all followers have exactly
//     the retained messages.
//
// Others add violations by connections and processes.
type checker struct {
	history.Violations

	mu sync.Mutex
	// guarded by mu
	generation string
	topics     map[string]*topic
	followers  map[string]*received
	counts     counts
}

// counts describe a run.
type counts struct {
	begun, acknowledged, clears, delivered, connections, refused int
}

// topic is the state of a topic, as far as it is known.
type topic struct {
	name         string
	published    map[string]*message // by content, which is unique
	clears       int                 // begun
	contents     map[uint64]string   // by version
	newest       uint64              // version in contents
	acknowledged uint64              // newest version that was acknowledged
	sequences    map[string][]placed // by sequence, in the order of their numbers
}

// message is one retained message. The messages of a sequence are published over one
// connection, each after the one before has its version. After a message with unknown outcome
// a new sequence begins.
type message struct {
	topic, data string // no data is a clear
	sequence    string
	number      int    // in the sequence, from 1
	seq         uint64 // of its version; 0 while that is not known
}

// placed is a message of a sequence whose version is known.
type placed struct {
	number int
	seq    uint64
}

// received is the state of a follower.
type received struct {
	name      string
	positions history.Positions // of a stream; nil for a session, which receives no versions
	where     string            // node
	topics    map[string]*progress
}

// progress is the state of a follower in a topic.
type progress struct {
	// seq is the newest version, as far as it is known of a session.
	seq uint64

	// These are of a session's current connection.
	any  bool
	last string // content
}

func newChecker() *checker {
	return &checker{topics: map[string]*topic{}, followers: map[string]*received{}}
}

// ok reports whether there is no violation so far.
func (c *checker) ok() bool { return !c.Any() }

// addTopic makes a topic known.
func (c *checker) addTopic(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.topics[name] = &topic{name: name, published: map[string]*message{}, contents: map[uint64]string{}, sequences: map[string][]placed{}}
}

// addFollower makes a follower known, which is a stream or a session.
func (c *checker) addFollower(name string, stream bool, topics []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := &received{name: name, topics: map[string]*progress{}}
	if stream {
		f.positions = history.NewPositions(topics)
	}
	for _, t := range topics {
		f.topics[t] = &progress{}
	}
	c.followers[name] = f
}

// begin notes that m is about to be published.
func (c *checker) begin(m *message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.topics[m.topic]
	c.counts.begun++
	if m.data == "" {
		t.clears++
		c.counts.clears++
	} else {
		t.published[m.data] = m
	}
}

// acknowledge notes that m was acknowledged with the version v.
func (c *checker) acknowledge(m *message, v history.Version) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts.acknowledged++
	if !c.checkGeneration(v) {
		return
	}
	t := c.topics[m.topic]
	if v.Seq <= t.acknowledged {
		c.Add(history.Versions, "%s of topic %s is acknowledged as version %d, after version %d", shown(m.data), t.name, v.Seq, t.acknowledged)
	}
	t.acknowledged = max(t.acknowledged, v.Seq)
	c.identify(t, m.data, v.Seq)
	c.place(t, m, v.Seq)
}

// checkGeneration reports whether v is of the one generation. mu must be held.
func (c *checker) checkGeneration(v history.Version) bool {
	if c.generation == "" {
		c.generation = v.Generation
	}
	if v.Generation != c.generation {
		c.Add(history.Versions, "the generation is %s, and was %s", v.Generation, c.generation)
		return false
	}
	return true
}

// identify notes the content of a version. mu must be held.
func (c *checker) identify(t *topic, data string, seq uint64) {
	if before, ok := t.contents[seq]; ok && before != data {
		c.Add(history.Content, "version %d of topic %s is %s, and was %s", seq, t.name, shown(data), shown(before))
	}
	t.contents[seq], t.newest = data, max(t.newest, seq)
	if m := t.published[data]; m != nil {
		c.place(t, m, seq)
	}
}

// place notes the version of m and compares it with the others of its sequence. mu must be held.
func (c *checker) place(t *topic, m *message, seq uint64) {
	if m.seq == seq {
		return
	}
	if m.seq != 0 {
		c.Add(history.Content, "%s of topic %s is version %d, and is version %d, too", shown(m.data), t.name, seq, m.seq)
		return
	}
	m.seq = seq
	sequence := t.sequences[m.sequence]
	i, _ := slices.BinarySearchFunc(sequence, m.number, func(o placed, number int) int { return o.number - number })
	wrong := func(o placed) {
		c.Add(history.Order, "topic %s: number %d of %s is version %d, and number %d is version %d", t.name, m.number, m.sequence, seq, o.number, o.seq)
	}
	if i > 0 && sequence[i-1].seq >= seq {
		wrong(sequence[i-1])
	}
	if i < len(sequence) && sequence[i].seq <= seq {
		wrong(sequence[i])
	}
	t.sequences[m.sequence] = slices.Insert(sequence, i, placed{m.number, seq})
}

// opened notes that a follower has a new connection.
func (c *checker) opened(name, where string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts.connections++
	f := c.followers[name]
	f.where = where
	for _, p := range f.topics {
		p.any, p.last = false, ""
	}
}

// refused notes that a follower could not connect.
func (c *checker) refused() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts.refused++
}

// delivered returns the topic of a delivered message and the follower's progress in it. Both
// are nil if the message must not be delivered. mu must be held.
func (c *checker) delivered(f *received, topic, data string) (*topic, *progress) {
	c.counts.delivered++
	t, p := c.topics[topic], f.topics[topic]
	switch {
	case t == nil || p == nil:
		c.Add(history.Content, "%s receives a message of topic %s, which it does not follow", f.name, topic)
		return nil, nil
	case data == "" && t.clears == 0 || data != "" && t.published[data] == nil:
		c.Add(history.Content, "%s receives %s of topic %s, which was never published", f.name, shown(data), topic)
		return nil, nil
	}
	return t, p
}

// event notes a message of a stream, with its version and id.
func (c *checker) event(name, topic, data string, v history.Version, id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.followers[name]
	t, p := c.delivered(f, topic, data)
	if t == nil || !c.checkGeneration(v) {
		return
	}
	_, named, err := f.positions.Advance(id, topic)
	switch {
	case v.Seq <= p.seq:
		c.Add(history.Order, "%s receives version %d of topic %s after version %d", name, v.Seq, topic, p.seq)
	case err != nil:
		c.Add(history.Versions, "%s: %v", name, err)
	case named != v:
		c.Add(history.Versions, "%s: version %d of topic %s has the id %s", name, v.Seq, topic, id)
	}
	p.seq = max(v.Seq, p.seq)
	c.identify(t, data, v.Seq)
}

// message notes a message of a session, whose version the client does not learn.
func (c *checker) message(name, topic, data string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.followers[name]
	t, p := c.delivered(f, topic, data)
	if t == nil {
		return
	}
	before, again := p.last, !p.any
	p.any, p.last = true, data
	if data == "" {
		return // it may be any clear of the topic
	}
	m := t.published[data]
	if prev := t.published[before]; prev != nil { // on this connection
		if prev.sequence == m.sequence && m.number <= prev.number {
			c.Add(history.Order, "%s receives %s of topic %s after %s", name, shown(data), topic, shown(before))
			return
		}
		p.seq = max(p.seq, prev.seq)
	}
	if m.seq == 0 {
		return
	}
	if m.seq < p.seq || m.seq == p.seq && !again {
		c.Add(history.Order, "%s receives %s of topic %s, which is version %d, after version %d", name, shown(data), topic, m.seq, p.seq)
	}
	p.seq = max(p.seq, m.seq)
}

// behind compares the acknowledged messages, and the state of each follower, with the versions
// of the retained messages by topic. It returns the differences.
func (c *checker) behind(retained map[string]history.Version) (differences []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	differ := func(format string, args ...any) { differences = append(differences, fmt.Sprintf(format, args...)) }
	none := history.Version{}
	for _, name := range slices.Sorted(maps.Keys(c.topics)) {
		t, v := c.topics[name], retained[name]
		if v != none && c.checkGeneration(v) && v.Seq < t.acknowledged {
			differ("topic %s retains version %d, and version %d was acknowledged", name, v.Seq, t.acknowledged)
		}
		if v == none && t.clearedAt() < t.acknowledged {
			differ("topic %s retains nothing, and version %d, no clear, was acknowledged", name, t.acknowledged)
		}
	}
	for _, follower := range slices.Sorted(maps.Keys(c.followers)) {
		f := c.followers[follower]
		stream := f.positions != nil
		for _, name := range slices.Sorted(maps.Keys(f.topics)) {
			t, p, v := c.topics[name], f.topics[name], retained[name]
			content, known := t.contents[v.Seq]
			switch {
			case v == none && stream && p.seq != 0 && p.seq != t.clearedAt():
				differ("%s on %s has version %d of topic %s, which was cleared by version %d", follower, f.where, p.seq, name, t.clearedAt())
			case v == none && !stream && p.last != "":
				differ("%s on %s has %s of topic %s, which retains nothing", follower, f.where, shown(p.last), name)
			case v != none && stream && p.seq != v.Seq:
				differ("%s on %s has version %d of topic %s, which retains version %d", follower, f.where, p.seq, name, v.Seq)
			// If the content is not known, no stream has it, which is a difference of the stream.
			case v != none && !stream && (!p.any || known && p.last != content):
				differ("%s on %s has %s of topic %s, which retains version %d, %s", follower, f.where, shown(p.last), name, v.Seq, shown(content))
			}
		}
	}
	return differences
}

// clearedAt returns the newest known version of a topic if that is a clear, otherwise 0.
func (t *topic) clearedAt() (seq uint64) {
	if t.contents[t.newest] != "" {
		return 0
	}
	return t.newest
}

// shown returns content for a report.
func shown(data string) string {
	if data == "" {
		return "a clear or nothing"
	}
	return "\"" + strings.TrimRight(data[:min(len(data), 60)], ".") + "\""
}
