//go:build linux

package fault_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// history is what publishers were told and what followers were given, checked as it
// comes. It holds the cluster to these promises:
//
//   - content: what is delivered was published, to that topic, and a version is that
//     of one message;
//   - order: of each topic a stream is never given anything that is not newer than
//     what it had, over all its connections, and a session neither, on each of its
//     connections; on a new one it begins with nothing older. What one publisher
//     publishes on one connection is kept in that order;
//   - version: an acknowledgement names a newer version than those before it, there
//     is one generation, and an id names what the follower has of every topic;
//   - convergence (see behind): when nothing is published and all has healed, what is
//     acknowledged is retained, unless something newer is, and all followers have
//     just what is retained.
//
// Others add what they see of connections and processes.
type history struct {
	mu sync.Mutex
	// guarded by mu
	generation string
	topics     map[string]*topic
	followers  map[string]*followed
	faults     []string
	counts     counts
}

// counts say what a run was.
type counts struct {
	begun, acknowledged, clears, delivered, connections, refused int
}

// topic is what is known of a topic.
type topic struct {
	name         string
	published    map[string]*publish // by content, which no two have in common
	clears       int                 // begun
	contents     map[uint64]string   // by version, as far as that is known
	newest       uint64              // the newest of those
	acknowledged uint64              // the newest that was acknowledged
	lines        map[string][]placed // by line, in the order of their numbers
}

// publish is one retained message. Those of one line are published one after the
// other, over one connection and each when the one before has its place; after one
// of which nobody knows whether it was kept, a new line begins.
type publish struct {
	topic, data string // no data is a clear
	line        string
	number      int    // in the line, from 1
	seq         uint64 // 0 while it is not known
}

// placed is a message of a line with a version.
type placed struct {
	number int
	seq    uint64
}

// followed is a follower.
type followed struct {
	name   string
	ids    bool // it is told versions
	where  string
	topics map[string]*progress
}

// progress is how far a follower has come in a topic.
type progress struct {
	// seq is the newest version that it has had, as far as is known of a session.
	seq uint64

	// Of this connection, for sessions.
	got  bool
	last string // the last content
}

func newHistory() *history {
	return &history{topics: map[string]*topic{}, followers: map[string]*followed{}}
}

// fault notes that a promise was broken.
func (h *history) fault(kind, format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.find(kind, format, args...)
}

// find is fault with mu held.
func (h *history) find(kind, format string, args ...any) {
	h.faults = append(h.faults, kind+": "+fmt.Sprintf(format, args...))
}

// found returns the faults.
func (h *history) found() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.faults)
}

// add has a topic be known.
func (h *history) add(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.topics[name] = &topic{name: name, published: map[string]*publish{}, contents: map[uint64]string{}, lines: map[string][]placed{}}
}

// follow has a follower be known; ids says that it is told versions.
func (h *history) follow(name string, ids bool, topics []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f := &followed{name: name, ids: ids, topics: map[string]*progress{}}
	for _, t := range topics {
		f.topics[t] = &progress{}
	}
	h.followers[name] = f
}

// begin says that p is about to be published.
func (h *history) begin(p *publish) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.topics[p.topic]
	h.counts.begun++
	if p.data == "" {
		t.clears++
		h.counts.clears++
	} else {
		t.published[p.data] = p
	}
}

// acknowledge says that p was answered with that version.
func (h *history) acknowledge(p *publish, v version) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.counts.acknowledged++
	if !h.known(v) {
		return
	}
	t := h.topics[p.topic]
	if v.seq <= t.acknowledged {
		h.find("version", "%s of topic %s is acknowledged as version %d, after version %d", shown(p.data), t.name, v.seq, t.acknowledged)
	}
	t.acknowledged = max(t.acknowledged, v.seq)
	h.identify(t, p.data, v.seq)
	h.place(t, p, v.seq)
}

// known reports whether v is of the one generation; mu is held.
func (h *history) known(v version) bool {
	if h.generation == "" {
		h.generation = v.generation
	}
	if v.generation != h.generation {
		h.find("version", "the generation is %s, and was %s", v.generation, h.generation)
		return false
	}
	return true
}

// identify notes that a version is that of some content; mu is held.
func (h *history) identify(t *topic, data string, seq uint64) {
	if before, ok := t.contents[seq]; ok && before != data {
		h.find("content", "version %d of topic %s is %s, and was %s", seq, t.name, shown(data), shown(before))
	}
	t.contents[seq], t.newest = data, max(t.newest, seq)
	if p := t.published[data]; p != nil {
		h.place(t, p, seq)
	}
}

// place notes the version of p, and holds it against the others of its line; mu is
// held.
func (h *history) place(t *topic, p *publish, seq uint64) {
	if p.seq == seq {
		return
	}
	if p.seq != 0 {
		h.find("content", "%s of topic %s is version %d, and is version %d, too", shown(p.data), t.name, seq, p.seq)
		return
	}
	p.seq = seq
	line := t.lines[p.line]
	i, _ := slices.BinarySearchFunc(line, p.number, func(o placed, number int) int { return o.number - number })
	wrong := func(o placed) {
		h.find("order", "of topic %s, number %d of %s is version %d, and number %d is version %d", t.name, p.number, p.line, seq, o.number, o.seq)
	}
	if i > 0 && line[i-1].seq >= seq {
		wrong(line[i-1])
	}
	if i < len(line) && line[i].seq <= seq {
		wrong(line[i])
	}
	t.lines[p.line] = slices.Insert(line, i, placed{p.number, seq})
}

// opened says that a follower begins a new connection.
func (h *history) opened(name, where string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.counts.connections++
	f := h.followers[name]
	f.where = where
	for _, p := range f.topics {
		p.got, p.last = false, ""
	}
}

// refused says that a follower was not let in.
func (h *history) refused() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.counts.refused++
}

// delivered returns what a follower is given something of; nil if that must not be.
// mu is held.
func (h *history) delivered(f *followed, topic, data string) (*topic, *progress) {
	h.counts.delivered++
	t, p := h.topics[topic], f.topics[topic]
	switch {
	case t == nil || p == nil:
		h.find("content", "%s is given a message of topic %s, which it does not follow", f.name, topic)
		return nil, nil
	case data == "" && t.clears == 0 || data != "" && t.published[data] == nil:
		h.find("content", "%s is given %s of topic %s, which nobody has published", f.name, shown(data), topic)
		return nil, nil
	}
	return t, p
}

// event says that a stream was given a message of that version, and with it the
// versions that the id names.
func (h *history) event(name, topic, data string, v version, id map[string]version) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f := h.followers[name]
	t, p := h.delivered(f, topic, data)
	if t == nil || !h.known(v) {
		return
	}
	if v.seq <= p.seq {
		h.find("order", "%s is given version %d of topic %s after version %d", name, v.seq, topic, p.seq)
	}
	p.seq, p.got, p.last = max(v.seq, p.seq), true, data
	h.identify(t, data, v.seq)
	for _, other := range slices.Sorted(maps.Keys(f.topics)) {
		if has := f.topics[other].seq; id[other].seq != has {
			h.find("version", "%s has version %d of topic %s, and the id of version %d of topic %s names version %d", name, has, other, v.seq, topic, id[other].seq)
			return
		}
	}
}

// message says that a session was given a message, of which it is not told the
// version.
func (h *history) message(name, topic, data string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f := h.followers[name]
	t, p := h.delivered(f, topic, data)
	if t == nil {
		return
	}
	had, again := p.last, !p.got
	p.got, p.last = true, data
	if data == "" {
		return // there is no telling which clear it is
	}
	this := t.published[data]
	if prev := t.published[had]; prev != nil { // on this connection
		if prev.line == this.line && this.number <= prev.number {
			h.find("order", "%s is given %s of topic %s after %s", name, shown(data), topic, shown(had))
			return
		}
		p.seq = max(p.seq, prev.seq)
	}
	if this.seq == 0 {
		return
	}
	if this.seq < p.seq || this.seq == p.seq && !again {
		h.find("order", "%s is given %s of topic %s, which is version %d, after version %d", name, shown(data), topic, this.seq, p.seq)
	}
	p.seq = max(p.seq, this.seq)
}

// behind says what differs from what is retained, by topic; there is no version of a
// topic that retains nothing. It says nothing if all is well.
func (h *history) behind(retained map[string]version) (differences []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	differ := func(format string, args ...any) { differences = append(differences, fmt.Sprintf(format, args...)) }
	for _, name := range slices.Sorted(maps.Keys(h.topics)) {
		t, v := h.topics[name], retained[name]
		if v != (version{}) && h.known(v) && v.seq < t.acknowledged {
			differ("topic %s retains version %d, and version %d was acknowledged", name, v.seq, t.acknowledged)
		}
		cleared := t.clearedAt()
		if v == (version{}) && cleared < t.acknowledged {
			differ("topic %s retains nothing, and version %d, no clear, was acknowledged", name, t.acknowledged)
		}
	}
	for _, who := range slices.Sorted(maps.Keys(h.followers)) {
		f := h.followers[who]
		for _, name := range slices.Sorted(maps.Keys(f.topics)) {
			t, p, v := h.topics[name], f.topics[name], retained[name]
			content, known := t.contents[v.seq]
			switch {
			case v == (version{}) && f.ids && p.seq != 0 && p.seq != t.clearedAt():
				differ("%s on %s has version %d of topic %s, which was cleared by version %d", who, f.where, p.seq, name, t.clearedAt())
			case v == (version{}) && !f.ids && p.last != "":
				differ("%s on %s has %s of topic %s, which retains nothing", who, f.where, shown(p.last), name)
			case v != (version{}) && f.ids && p.seq != v.seq:
				differ("%s on %s has version %d of topic %s, which retains version %d", who, f.where, p.seq, name, v.seq)
			// What is not known no stream has, and that is said of the stream.
			case v != (version{}) && !f.ids && (!p.got || known && p.last != content):
				differ("%s on %s has %s of topic %s, which retains version %d, %s", who, f.where, shown(p.last), name, v.seq, shown(content))
			}
		}
	}
	return differences
}

// clearedAt returns the newest version of a topic that is known, if that is a clear,
// else 0.
func (t *topic) clearedAt() (seq uint64) {
	if t.contents[t.newest] != "" {
		return 0
	}
	return t.newest
}

// shown is content as it is told to a reader.
func shown(data string) string {
	if data == "" {
		return "a clear or nothing"
	}
	return "\"" + strings.TrimRight(data[:min(len(data), 60)], ".") + "\""
}
