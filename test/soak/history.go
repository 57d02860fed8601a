//go:build linux

package main

import (
	"maps"
	"slices"
	"sync"
)

// kind is what a subscriber is.
type kind int

const (
	plainStream   kind = iota // server-sent events
	durableStream             // with ids, and resumed
	session                   // MQTT
	kinds
)

func (k kind) String() string { return [...]string{"SSE", "durable SSE", "MQTT"}[k] }

// history is what one subscriber was given, checked as it comes. Its order of
// calls is that of what the client sees: open, then message, clear and dropped in
// any order, then closed, and open again.
type history struct {
	// immutable
	who    string
	kind   kind
	truth  *truth
	faults *faults

	mu sync.Mutex
	// guarded by mu
	topics   map[string]*progress
	received uint64

	// guarded by mu, of this connection
	announced uint64 // lost, as the broker says
	missing   uint64 // lost, as the numbers say
	exact     bool   // announced must be missing in the end

	// guarded by mu, of the connections before
	announcedBefore, missingBefore uint64
	// unseen is how many messages may have been lost to connections that were closed
	// while much was unread, and that the client cannot know of.
	unseen uint64

	// guarded by mu
	accounted bool // in the end, a loss was announced to the last message
	excused   bool // it was closed at the end, because it did not read: it has lost what is not retained
}

// progress is how far a subscriber has come in a topic.
type progress struct {
	truth *topicTruth

	version  version // of durable streams
	retained string  // the name of the last retained message

	// by publisher
	seq  []uint64 // of the last message
	next []uint64 // the plain message that is to come next on this connection; 0 before the first
	base []uint64 // plain messages begun when the connection was opened
	// offset is that of the last message on this connection, or of the first that is
	// to come on it.
	offset []uint64
}

func newHistory(who string, k kind, topics []string, t *truth, f *faults) *history {
	h := &history{who: who, kind: k, truth: t, faults: f, topics: make(map[string]*progress)}
	for _, topic := range topics {
		h.topics[topic] = &progress{
			truth: t.topics[topic],
			seq:   make([]uint64, t.publishers),
			next:  make([]uint64, t.publishers),
			base:  make([]uint64, t.publishers),

			offset: make([]uint64, t.publishers),
		}
	}
	return h
}

func (h *history) fault(k faultKind, format string, args ...any) {
	h.faults.add(k, "%s: "+format, append([]any{h.who}, args...)...)
}

// open says that the subscription is live: what is published from now on reaches
// the client, on this connection.
func (h *history) open() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.announced, h.missing, h.exact = 0, 0, true
	for _, p := range h.topics {
		clear(p.next)
		for i := range p.base {
			p.offset[i] = p.truth.offset.Load()
			p.base[i] = p.truth.begun[i].Load()
		}
		if h.kind != durableStream {
			clear(p.seq) // what is retained comes again
			p.retained = ""
		}
	}
}

// message says that the client has got m, with that id if the event had one. Of a
// session, initial says that the message was retained before.
func (h *history) message(m message, id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.received++
	p := h.topics[m.topic]
	if p == nil || m.publisher < 0 || m.publisher >= h.truth.publishers {
		h.fault(faultContent, "a message of topic %q and publisher %d, which it has not subscribed to", m.topic, m.publisher)
		return
	}
	if last := p.seq[m.publisher]; m.seq <= last {
		h.fault(faultOrder, "number %d of publisher %d to %s comes after number %d", m.seq, m.publisher, m.topic, last)
	}
	p.seq[m.publisher] = max(m.seq, p.seq[m.publisher])
	h.count(p, &m)
	p.offset[m.publisher] = max(p.offset[m.publisher], m.offset)
	if m.retain {
		p.retained = m.name()
	}
	if h.kind != durableStream {
		return
	}
	switch {
	case m.retain && id == "":
		h.fault(faultVersion, "%s to %s is retained and has no id", m.name(), m.topic)
	case !m.retain && id != "":
		h.fault(faultVersion, "%s to %s is not retained and has the id %s", m.name(), m.topic, id)
	case m.retain:
		h.identify(id, m.topic, m.name())
	}
}

// count notes which plain messages before m are missing, and m itself.
func (h *history) count(p *progress, m *message) {
	next := p.next[m.publisher]
	switch {
	case next == 0 && m.retain:
		return // it may be from before the subscription
	case next == 0:
		// All that was begun after the subscription had to come.
		next = p.base[m.publisher] + 1
		if h.announced > 0 {
			h.exact = false // something from before that may have been lost, too
		}
		if m.plain < next {
			next = m.plain
		}
	}
	came := m.plain // the number that m shows to be next
	if m.retain {
		came++
	}
	if came > next {
		h.lose(came-next, p, m)
	}
	p.next[m.publisher] = max(next, m.plain+1) // what came too late is not to come again
}

// maySlip is how much may have been published to a topic in another order than
// that of its offsets: a large message of each of the others who do.
const maySlip = 64 << 10

// mayOverflow reports whether, since the last message of a publisher came, so much
// may have been unread of the topic that the broker dropped the oldest.
func (p *progress) mayOverflow(publisher int) bool {
	return p.unread(publisher)+maySlip >= subscriberBuffer
}

// unread is how much was begun since the last message of a publisher came.
func (p *progress) unread(publisher int) uint64 {
	return p.truth.offset.Load() - p.offset[publisher]
}

// lose notes that n plain messages before m are missing. That must have been
// announced, to whom it can be, and there must have been a reason: more than the
// subscriber's buffer was published since the publisher's last message came.
func (h *history) lose(n uint64, p *progress, m *message) {
	h.missing += n
	if !p.mayOverflow(m.publisher) {
		h.fault(faultLoss, "%d messages before number %d of publisher %d to %s are missing, and no more than %d bytes can have been unread",
			n, m.seq, m.publisher, m.topic, p.unread(m.publisher))
		return
	}
	if h.kind != session && h.missing > h.announced {
		h.fault(faultLoss, "%d messages before number %d of publisher %d to %s are missing, %d on this connection, and %d were announced",
			n, m.seq, m.publisher, m.topic, h.missing, h.announced)
	}
}

// clear says that the client has got a message of no bytes: of the topic that a
// session is told, or an id names.
func (h *history) clear(topic, id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.received++
	switch h.kind {
	case plainStream: // which topic was cleared cannot be seen
	case durableStream:
		h.identify(id, "", cleared)
	case session:
		p := h.topics[topic]
		if p == nil {
			h.fault(faultContent, "a clear of topic %q, which it has not subscribed to", topic)
			return
		}
		p.retained = cleared
	}
}

// identify checks the id of a retained message: it names the versions of all
// topics that the client has, of this one a newer. Of a clear the topic is the one
// with a newer version.
func (h *history) identify(id, topic, name string) {
	versions, err := parseID(id)
	if err != nil {
		h.fault(faultVersion, "%v", err)
		return
	}
	for _, t := range slices.Sorted(maps.Keys(versions)) {
		if h.topics[t] == nil {
			h.fault(faultVersion, "the id %s names the topic %s, which it has not subscribed to", id, t)
			return
		}
		if topic == "" && versions[t] != h.topics[t].version {
			topic = t
		}
	}
	p := h.topics[topic]
	if p == nil {
		h.fault(faultVersion, "the id %s of %s is that of an older message", id, name)
		return
	}
	for t, other := range h.topics {
		v, ok := versions[t]
		switch {
		case t == topic && !ok:
			h.fault(faultVersion, "the id %s of %s to %s does not name that", id, name, t)
			return
		case t == topic:
		case !ok && other.version != (version{}):
			h.fault(faultVersion, "the id %s forgets the version %v of %s", id, other.version, t)
		case v != other.version:
			h.fault(faultVersion, "the id %s of a message to %s changes the version %v of %s", id, topic, other.version, t)
		}
	}
	v := versions[topic]
	switch {
	case p.version == version{}:
	case v.generation != p.version.generation:
		h.fault(faultVersion, "the generation of %s goes from %v to %v", topic, p.version, v)
	case v.seq <= p.version.seq:
		h.fault(faultVersion, "the version of %s goes from %v to %v", topic, p.version, v)
	}
	p.version = v
	p.retained = name
	if other := p.truth.versionOf(v, name); other != name {
		h.fault(faultVersion, "the version %v of %s is that of %s, and was that of %s", v, topic, name, other)
	}
}

// dropped says that the broker has told of n messages that the client lost.
func (h *history) dropped(n uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n == 0 || h.kind == session {
		h.fault(faultAccount, "told of %d lost messages", n)
	}
	h.announced += n
}

// primed reports whether a plain message of every publisher has come on this
// connection, so that from now on every loss can be counted.
func (h *history) primed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.topics {
		for i, n := range p.next {
			if n == 0 && p.truth.begun[i].Load() > 0 {
				return false
			}
		}
	}
	return true
}

// caughtUp reports whether little of any topic is unread.
func (h *history) caughtUp() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.topics {
		if p.truth.offset.Load()-slices.Max(p.offset) > 2*maySlip {
			return false
		}
	}
	return true
}

// closed says that the connection has ended; atEnd that the broker has closed it,
// because the client did not read, and that this may be after the last messages.
func (h *history) closed(atEnd bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.announcedBefore += h.announced
	h.missingBefore += h.missing
	h.announced, h.missing = 0, 0
	h.excused = h.excused || atEnd
	for _, p := range h.topics {
		for i := range p.next {
			if !p.mayOverflow(i) {
				continue
			}
			next := p.next[i]
			if next == 0 {
				next = p.base[i] + 1
			}
			if begun := p.truth.begun[i].Load(); begun >= next {
				h.unseen += begun - next + 1
			}
		}
	}
}

// converged reports whether the client has all that it is to have in the end.
func (h *history) converged() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.topics {
		if h.lacks(p) != "" {
			return false
		}
	}
	return true
}

// lacks says what a topic lacks, if anything.
func (h *history) lacks(p *progress) string {
	p.truth.mu.Lock()
	defer p.truth.mu.Unlock()
	for i, last := range p.truth.last {
		if p.seq[i] < last && !h.excused {
			return "the last message of a publisher"
		}
	}
	switch {
	case h.kind == plainStream && (p.truth.newest == cleared || h.excused): // see clear
	case p.retained != p.truth.newest:
		return "the newest retained message"
	case h.kind == durableStream && p.version != p.truth.final:
		return "the newest version"
	}
	return ""
}

// end checks, when nothing more will come, that the client has the newest of
// everything and that what it has lost is what it was told.
func (h *history) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, topic := range slices.Sorted(maps.Keys(h.topics)) {
		p := h.topics[topic]
		if what := h.lacks(p); what != "" {
			h.fault(faultConvergence, "%s of %s is not there: the last retained is %q (%v), and should be %q (%v)",
				what, topic, p.retained, p.version, p.truth.newest, p.truth.final)
		}
	}
	if h.kind == session || !h.exact || h.excused {
		return
	}
	if h.missing != h.announced {
		h.fault(faultAccount, "%d messages are missing, and %d were announced", h.missing, h.announced)
	}
	h.accounted = h.announced > 0
}

// account is what histories add up to.
type account struct {
	received, announced, missing, unseen uint64
	accounted                            int // streams that lost something and knew exactly how much
}

func (a *account) add(h *history) {
	h.mu.Lock()
	defer h.mu.Unlock()
	a.received += h.received
	if h.kind == session {
		a.missing += h.missing + h.missingBefore
	} else {
		a.announced += h.announced + h.announcedBefore
	}
	if h.accounted {
		a.accounted++
	}
	a.unseen += h.unseen
}

// check compares with what the broker has counted, which is also what was lost to
// connections that were closed before their clients could know.
func (a *account) check(dropped uint64, f *faults) {
	if known := a.announced + a.missing; dropped < known || dropped > known+a.unseen {
		f.add(faultAccount, "the broker has counted %d lost messages; %d were announced and %d found missing, and at most %d lost unseen",
			dropped, a.announced, a.missing, a.unseen)
	}
}
