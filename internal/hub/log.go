package hub

import (
	"sync"
	"time"

	"pubsub"
)

// topicLog is what the members of one shard have not all read of a topic, oldest
// first. A position numbers everything ever appended; a plain ordinal numbers
// the messages that are not retained, so that whoever missed some knows how
// many.
type topicLog struct {
	// immutable
	shard *shard
	topic *topic

	nextLog *topicLog // guarded by the index's stripe

	nextIn *topicLog // guarded by shard.mu: the job after it
	queued bool      // guarded by shard.mu: it is among the shard's jobs

	// guarded by mu; here, for they fit in what is left of a word
	walkAt   int32 // the next member to be woken
	walkLeft int32 // how many more are to be woken, going round
	atEnd    int32 // members that have read everything

	mu sync.Mutex
	// guarded by mu
	members []*Subscription
	one     [1]*Subscription // the array of members while there is no other
	entries []entry          // what somebody has not read and nobody has cut
	base    uint64           // the position of entries[0]
	bytes   int              // held by entries
	plain   uint64           // the ordinal that the next plain message gets
	version pubsub.Version
	// newest is the newest retained parcel and newestAt its position. It outlives
	// its entry while a member may not have read it.
	newest   *pubsub.Parcel
	newestAt uint64
}

type entry struct {
	parcel *pubsub.Parcel
	// plain is the parcel's own ordinal or, for a retained one, that of the next
	// plain message.
	plain uint64
}

// entryOverhead is what a parcel and its place in a log take beyond the bytes of
// the message itself.
const entryOverhead = 128

func cost(p *pubsub.Parcel) int {
	return len(p.Data) + len(p.Properties) + entryOverhead
}

func (l *topicLog) end() uint64 { return l.base + uint64(len(l.entries)) }

// plainAtBase is the ordinal of the first plain message that was not cut.
func (l *topicLog) plainAtBase() uint64 {
	if len(l.entries) > 0 {
		return l.entries[0].plain
	}
	return l.plain
}

// append puts p at the end and cuts the oldest beyond limit bytes. It is false
// if nobody is to be woken: no members, or a retained message older than one
// before it.
func (l *topicLog) append(p *pubsub.Parcel, b *backlog, limit int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.members) == 0 {
		return false
	}
	if p.Retain {
		if !p.Version.Newer(l.version) {
			return false
		}
		l.version = p.Version
		l.newest, l.newestAt = p, l.end()
	}
	l.entries = append(l.entries, entry{p, l.plain})
	if !p.Retain {
		l.plain++
	}
	l.bytes += cost(p)
	b.bytes.Add(int64(cost(p)))
	l.cut(limit, 1, b)
	l.atEnd = 0
	l.walkLeft = int32(len(l.members))
	return true
}

// cut drops the oldest entries until those left hold at most limit bytes or are
// no more than keep; mu is held.
func (l *topicLog) cut(limit, keep int, b *backlog) {
	n, before := 0, l.bytes
	for l.bytes > limit && n < len(l.entries)-keep {
		l.bytes -= cost(l.entries[n].parcel)
		n++
	}
	if n == 0 {
		return
	}
	b.bytes.Add(int64(l.bytes - before))
	l.base += uint64(n)
	// Few are resliced away, so that cutting one after another does not move all
	// the rest each time; many make room at once, and append need not grow.
	if n*2 >= len(l.entries) {
		kept := copy(l.entries, l.entries[n:])
		clear(l.entries[kept:])
		l.entries = l.entries[:kept]
	} else {
		clear(l.entries[:n])
		l.entries = l.entries[n:]
	}
}

// settle empties the log if everybody has read everything; mu is held.
func (l *topicLog) settle(b *backlog) {
	if int(l.atEnd) < len(l.members) || l.newest == nil && len(l.entries) == 0 {
		return
	}
	l.base = l.end()
	l.entries = nil
	b.bytes.Add(-int64(l.bytes))
	l.bytes = 0
	l.newest = nil
}

func (l *topicLog) join(s *Subscription) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.log = l
	s.index = int32(len(l.members))
	l.members = append(l.members, s)
	if len(l.members) > 1 {
		l.one[0] = nil // they have another array, and who leaves that is not to be kept here
	}
	s.pos, s.plain = l.end(), l.plain
	l.atEnd++
	if l.walkLeft > 0 {
		l.walkLeft++ // a walk that goes round now comes by s as well
	}
}

// leave takes s out and returns how many plain messages it had lost without
// having been told.
func (l *topicLog) leave(s *Subscription, b *backlog) (lost uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.pos == l.end() {
		l.atEnd--
	}
	if s.pos < l.base {
		lost = l.plainAtBase() - s.plain
	}
	// The hole is filled so that no member is passed over by a walk under way:
	// one that was visited moves into it, and the last one takes that one's
	// place in front of the walk, which becomes longer by it.
	hole, last := s.index, int32(len(l.members)-1)
	if hole < l.walkAt {
		l.walkAt--
		if l.walkLeft > 0 {
			l.walkLeft++
		}
		l.seat(l.members[l.walkAt], hole)
		hole = l.walkAt
	}
	if hole < last {
		l.seat(l.members[last], hole)
	}
	s.index, s.initial = -1, nil
	l.members[last] = nil
	l.members = l.members[:last]
	l.walkLeft = min(l.walkLeft, last)
	l.settle(b)
	return lost
}

func (l *topicLog) seat(s *Subscription, i int32) {
	l.members[i] = s
	s.index = i
}

func (l *topicLog) empty() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.members) == 0
}

// walk appends the next members to be woken to batch, as far as it has room;
// more says that there are others left.
func (l *topicLog) walk(batch []*Subscription) (_ []*Subscription, more bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.walkLeft > 0 && len(batch) < cap(batch) {
		if int(l.walkAt) >= len(l.members) {
			l.walkAt = 0
		}
		batch = append(batch, l.members[l.walkAt])
		l.walkAt++
		l.walkLeft--
	}
	return batch, l.walkLeft > 0
}

// maxPiece bounds what a member reads of one topic before it turns to another.
const maxPiece = 16 << 10

// open places p, the initial one, where it belongs among what s has not read.
// Without one, a subscription that has just joined passes over all that comes
// before the version seen: whoever has that has had the publisher's messages
// before it, or was not promised them.
func (l *topicLog) open(s *Subscription, joined bool, p *pubsub.Parcel, seen pubsub.Version, b *backlog) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.index < 0 { // it has left
		return
	}
	switch {
	case p != nil:
		s.initial = &initial{p, l.place(p, s)}
	case joined && !seen.IsZero():
		at, _ := l.find(seen, s)
		l.skip(s, at, b)
	}
	if !seen.IsZero() && seen.Newer(s.seen) {
		s.seen = seen
	}
}

// find returns where, in what s has not read, the retained version v stands; else
// where the first newer one does; else the end, for v itself may be still to come.
func (l *topicLog) find(v pubsub.Version, s *Subscription) (at uint64, exact bool) {
	if l.newest != nil && s.pos <= l.newestAt && l.newestAt < l.base { // it was cut off
		if l.newest.Version == v {
			return l.base, true
		}
		if l.newest.Version.Newer(v) {
			return s.pos, false
		}
	}
	from := max(s.pos, l.base)
	for i, e := range l.entries[from-l.base:] {
		if e.parcel.Retain && (e.parcel.Version == v || e.parcel.Version.Newer(v)) {
			return from + uint64(i), e.parcel.Version == v
		}
	}
	return l.end(), false
}

// place returns where p, which the topic retained when s asked for it, belongs in
// what s has not read, so that a publisher's messages keep their order. A p that
// is not there may be from before s joined: then all that was published later
// comes behind it.
func (l *topicLog) place(p *pubsub.Parcel, s *Subscription) uint64 {
	at, exact := l.find(p.Version, s)
	for i := max(s.pos, l.base); i < at && !exact; i++ {
		if l.entries[i-l.base].parcel.Published.After(p.Published) {
			at = i
		}
	}
	if at <= l.base {
		return s.pos // of what comes before, there is nothing left
	}
	return at
}

// skip has s go on at the position at, as if it had read what comes before; mu
// is held.
func (l *topicLog) skip(s *Subscription, at uint64, b *backlog) {
	if at <= s.pos {
		return
	}
	s.pos, s.plain = at, l.plain
	if at < l.end() {
		s.plain = l.entries[at-l.base].plain
		return
	}
	l.atEnd++
	l.settle(b)
}

// read appends to dst what s has not read, and what it is to be given of the
// past, as far as dst has room; unread says that there is more. It is called by
// the one goroutine that reads for the member.
func (l *topicLog) read(s *Subscription, dst []Delivery, now time.Time, b *backlog) (_ []Delivery, unread bool, expired uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.index < 0 { // it has left
		return dst, false, 0
	}
	if s.initial != nil && s.pos >= s.initial.at {
		dst = s.readInitial(dst, now, &expired)
	}
	end := l.end()
	if s.pos == end {
		return dst, false, expired
	}
	var lost uint64
	if s.pos < l.base {
		at := l.plainAtBase()
		lost = at - s.plain
		if l.newest != nil && s.pos <= l.newestAt && l.newestAt < l.base && s.takes(l.newest, false, now, &expired) {
			dst = append(dst, Delivery{Parcel: l.newest, Sub: s, Options: s.opts, Dropped: lost})
			lost = 0
		}
		s.pos, s.plain = l.base, at
	}
	piece := 0
	for s.pos < end && len(dst) < cap(dst) && piece < maxPiece {
		if s.initial != nil && s.pos >= s.initial.at {
			dst = s.readInitial(dst, now, &expired)
			continue
		}
		e := &l.entries[s.pos-l.base]
		s.pos++
		if !e.parcel.Retain {
			s.plain = e.plain + 1
		}
		if !s.takes(e.parcel, false, now, &expired) {
			continue
		}
		dst = append(dst, Delivery{Parcel: e.parcel, Sub: s, Options: s.opts, Dropped: lost})
		piece += cost(e.parcel)
		lost = 0
	}
	if lost > 0 {
		dst = append(dst, Delivery{Sub: s, Options: s.opts, Dropped: lost})
	}
	if s.pos < end {
		return dst, true, expired
	}
	l.atEnd++
	l.settle(b)
	if s.initial != nil && len(dst) == cap(dst) {
		return dst, true, expired
	}
	return s.readInitial(dst, now, &expired), false, expired
}

// readInitial appends to dst what s is to be given of the past.
func (s *Subscription) readInitial(dst []Delivery, now time.Time, expired *uint64) []Delivery {
	i := s.initial
	s.initial = nil
	if i != nil && s.takes(i.parcel, true, now, expired) {
		dst = append(dst, Delivery{Parcel: i.parcel, Sub: s, Options: s.opts, Initial: true})
	}
	return dst
}
