package hub

import (
	"sync"
	"time"
	"unsafe"

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

	nextQueued *topicLog // guarded by shard.mu: the job after it
	queued bool      // guarded by shard.mu: it is among the shard's jobs

	// guarded by mu; here, for they fit in what is left of a word
	forgotNewest   bool  // newest was forgotten
	walkAt   int32 // the next member to be woken
	walkLeft int32 // how many more are to be woken, going round
	atEnd    int32 // members that have read everything

	mu sync.Mutex
	// guarded by mu
	subscriptions []*Subscription
	subsArray           [1]*Subscription // the array of members while there is no other
	entries       []entry          // what somebody has not read and nobody has cut
	base          uint64           // the position of entries[0]
	bytes         int              // what entries count against a member's buffer
	plainTotal         uint64           // the ordinal that the next plain message gets
	newestVersion       pubsub.Version
	// newest is the newest retained parcel and newestAt its position. It outlives its
	// entry while a member may not have read it. If memory is short, it is forgotten and
	// only its position is kept. Members that have not read it then get the topic's
	// retained message from the store.
	newest   *pubsub.PreparedMessage
	newestAt uint64
}

type entry struct {
	msg *pubsub.PreparedMessage
	// plainBefore is the parcel's own ordinal or, for a retained one, that of the next
	// plainBefore message.
	plainBefore uint64
}

// entryOverhead is the cost of a message against a member's buffer beyond its bytes, so
// that many short messages do not count as nothing.
const entryOverhead = 128

// cost is the cost of p against a member's buffer: the bytes that its publisher sent. The
// memory of p, encodings included, counts against the bound of all logs; see backlog.
func cost(p *pubsub.PreparedMessage) int {
	return len(p.Data) + len(p.Properties) + entryOverhead
}

// entrySize is the size of a place in a log, with the spare room of a growing array.
const entrySize = 2 * int64(unsafe.Sizeof(entry{}))

func (l *topicLog) end() uint64 { return l.base + uint64(len(l.entries)) }

// plainAtBase is the ordinal of the first plain message that was not cut.
func (l *topicLog) plainAtBase() uint64 { return l.plainAt(l.base) }

// plainAt is the ordinal of the first plain message from the position pos on that
// was not cut.
func (l *topicLog) plainAt(pos uint64) uint64 {
	if pos = max(pos, l.base); pos < l.end() {
		return l.entries[pos-l.base].plainBefore
	}
	return l.plainTotal
}

// append puts p at the end and cuts the oldest beyond limit bytes. It is false
// if nobody is to be woken: no members, or a retained message older than one
// before it.
func (l *topicLog) append(p *pubsub.PreparedMessage, b *backlog, limit int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.subscriptions) == 0 {
		return false
	}
	if p.Retain && !p.Version.Newer(l.newestVersion) {
		return false
	}
	added := entrySize + p.Hold()
	if p.Retain {
		l.newestVersion = p.Version
		added += p.Hold() - l.releaseNewest()
		l.newest, l.newestAt, l.forgotNewest = p, l.end(), false
	}
	l.entries = append(l.entries, entry{p, l.plainTotal})
	if !p.Retain {
		l.plainTotal++
	}
	l.bytes += cost(p)
	b.bytes.Add(added)
	l.cut(limit, 1, b)
	l.atEnd = 0
	l.walkLeft = int32(len(l.subscriptions))
	return true
}

// cut drops the oldest entries until those left hold at most limit bytes or are
// no more than keep; mu is held.
func (l *topicLog) cut(limit, keep int, b *backlog) {
	n := 0
	for l.bytes > limit && n < len(l.entries)-keep {
		l.bytes -= cost(l.entries[n].msg)
		n++
	}
	l.dropOldest(n, b)
}

// cutTo drops the oldest entries until the rest keeps at most limit bytes in memory, and
// returns how many bytes that frees; mu is held.
func (l *topicLog) cutTo(limit int64, b *backlog) (freed int64) {
	n, kept := 0, l.size()
	for kept > limit && n < len(l.entries) {
		p := l.entries[n].msg
		kept -= l.sizeOf(p)
		l.bytes -= cost(p)
		n++
	}
	return l.dropOldest(n, b)
}

// size is how many bytes the entries keep in memory; mu is held.
func (l *topicLog) size() (n int64) {
	for i := range l.entries {
		n += l.sizeOf(l.entries[i].msg)
	}
	return n
}

// sizeOf is how many bytes the entry of p keeps in memory: the newest retained
// message stays without it. mu is held.
func (l *topicLog) sizeOf(p *pubsub.PreparedMessage) int64 {
	if p == l.newest {
		return entrySize
	}
	return p.Size() + entrySize
}

// dropOldest drops the n oldest entries, which bytes no longer counts, and returns how much
// memory that frees; mu is held.
func (l *topicLog) dropOldest(n int, b *backlog) (freed int64) {
	if n == 0 {
		return 0
	}
	freed = int64(n) * entrySize
	for _, e := range l.entries[:n] {
		freed += e.msg.Release()
	}
	b.bytes.Add(-freed)
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
	return freed
}

// releaseNewest gives up newest and returns how many bytes that frees; mu is held.
func (l *topicLog) releaseNewest() (freed int64) {
	if l.newest != nil {
		freed = l.newest.Release()
		l.newest = nil
	}
	return freed
}

// forgetNewest gives up newest if its entry was cut, and returns how many bytes that
// frees; mu is held.
func (l *topicLog) forgetNewest(b *backlog) (freed int64) {
	if l.newest != nil && l.newestAt < l.base {
		freed = l.releaseNewest()
		b.bytes.Add(-freed)
		l.forgotNewest = true
	}
	return freed
}

// compact empties the log if everybody has read everything; mu is held.
func (l *topicLog) compact(b *backlog) {
	if int(l.atEnd) < len(l.subscriptions) {
		return
	}
	l.forgotNewest = false
	if l.newest == nil && len(l.entries) == 0 {
		return
	}
	freed := l.releaseNewest() + int64(len(l.entries))*entrySize
	for i := range l.entries {
		freed += l.entries[i].msg.Release()
	}
	l.base = l.end()
	l.entries = nil
	l.bytes = 0
	b.bytes.Add(-freed)
}

func (l *topicLog) join(s *Subscription) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.log = l
	s.index = int32(len(l.subscriptions))
	l.subscriptions = append(l.subscriptions, s)
	if len(l.subscriptions) > 1 {
		l.subsArray[0] = nil // they have another array, and who leaves that is not to be kept here
	}
	s.pos, s.plainSeen = l.end(), l.plainTotal
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
	lost = l.plainAt(s.pos) - s.plainSeen
	// The hole is filled so that no member is passed over by a walk under way:
	// one that was visited moves into it, and the last one takes that one's
	// place in front of the walk, which becomes longer by it.
	hole, last := s.index, int32(len(l.subscriptions)-1)
	if hole < l.walkAt {
		l.walkAt--
		if l.walkLeft > 0 {
			l.walkLeft++
		}
		l.moveTo(l.subscriptions[l.walkAt], hole)
		hole = l.walkAt
	}
	if hole < last {
		l.moveTo(l.subscriptions[last], hole)
	}
	s.index = -1
	s.setInitial(nil, b)
	l.subscriptions[last] = nil
	l.subscriptions = l.subscriptions[:last]
	l.walkLeft = min(l.walkLeft, last)
	l.compact(b)
	return lost
}

func (l *topicLog) moveTo(s *Subscription, i int32) {
	l.subscriptions[i] = s
	s.index = i
}

func (l *topicLog) empty() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.subscriptions) == 0
}

// walk appends the next members to be woken to batch, as far as it has room;
// more says that there are others left.
func (l *topicLog) walk(batch []*Subscription) (_ []*Subscription, more bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.walkLeft > 0 && len(batch) < cap(batch) {
		if int(l.walkAt) >= len(l.subscriptions) {
			l.walkAt = 0
		}
		batch = append(batch, l.subscriptions[l.walkAt])
		l.walkAt++
		l.walkLeft--
	}
	return batch, l.walkLeft > 0
}

// maxPiece bounds what a member reads of one topic before it turns to another.
const maxPiece = 16 << 10

// resume places p, the initial one, where it belongs among what s has not read.
// Without one, a subscription that has just joined passes over all that comes
// before the version seen: whoever has that has had the publisher's messages
// before it, or was not promised them.
//
// With again, p is delivered as if it had come from the log, and only if it is newer than
// the last message of s.
func (l *topicLog) resume(s *Subscription, joined bool, p *pubsub.PreparedMessage, again bool, seen pubsub.Version, b *backlog) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.index < 0 { // it has left
		return
	}
	switch {
	case p != nil:
		s.setInitial(&initial{p, l.initialPos(p, s), again}, b)
	case joined && !seen.IsZero():
		at, _ := l.findVersion(seen, s)
		l.skipTo(s, at, b)
	}
	if !seen.IsZero() && seen.Newer(s.seen) {
		s.seen = seen
	}
}

// findVersion returns where, in what s has not read, the retained version v stands; else
// where the first newer one does; else the end, for v itself may be still to come.
func (l *topicLog) findVersion(v pubsub.Version, s *Subscription) (at uint64, exact bool) {
	if l.missesNewest(s) {
		if l.newestVersion == v {
			return l.base, true
		}
		if l.newestVersion.Newer(v) {
			return s.pos, false
		}
	}
	from := max(s.pos, l.base)
	for i, e := range l.entries[from-l.base:] {
		if e.msg.Retain && (e.msg.Version == v || e.msg.Version.Newer(v)) {
			return from + uint64(i), e.msg.Version == v
		}
	}
	return l.end(), false
}

// initialPos returns where p, which the topic retained when s asked for it, belongs in
// what s has not read, so that a publisher's messages keep their order. A p that
// is not there may be from before s joined: then all that was published later
// comes behind it.
func (l *topicLog) initialPos(p *pubsub.PreparedMessage, s *Subscription) uint64 {
	at, exact := l.findVersion(p.Version, s)
	for i := max(s.pos, l.base); i < at && !exact; i++ {
		if l.entries[i-l.base].msg.Published.After(p.Published) {
			at = i
		}
	}
	if at <= l.base {
		return s.pos // of what comes before, there is nothing left
	}
	return at
}

// skipTo has s go on at the position at, as if it had read what comes before; mu
// is held.
func (l *topicLog) skipTo(s *Subscription, at uint64, b *backlog) {
	if at <= s.pos {
		return
	}
	s.pos, s.plainSeen = at, l.plainTotal
	if at < l.end() {
		s.plainSeen = l.entries[at-l.base].plainBefore
		return
	}
	l.atEnd++
	l.compact(b)
}

// missesNewest reports whether the newest retained message, whose version is l.version,
// was cut off before s has read it; mu is held.
func (l *topicLog) missesNewest(s *Subscription) bool {
	return (l.newest != nil || l.forgotNewest) && s.pos <= l.newestAt && l.newestAt < l.base
}

// replaceForgotten gives s the store's message p, which may be nil, in place of the newest retained
// message, which had the version forgotten when the store was read. done reports whether
// that is enough: a newer message may have been retained and forgotten meanwhile.
func (l *topicLog) replaceForgotten(s *Subscription, p *pubsub.PreparedMessage, forgotten pubsub.Version, b *backlog) (done bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.index < 0 || !l.forgotNewest || !l.missesNewest(s) {
		return true
	}
	if l.newestVersion != forgotten {
		return false
	}
	s.pos = l.newestAt + 1
	if p != nil {
		s.setInitial(&initial{p, s.pos, true}, b)
	}
	if s.pos == l.end() {
		l.atEnd++
		l.compact(b)
	}
	return true
}

// piece is the part of a topic that a member gets at once: at most maxPiece bytes, and
// one message.
type piece struct {
	ds    []Delivery
	head  int // bytes of each message beside its shared encoding
	bytes int
}

func (p *piece) hasRoom() bool { return len(p.ds) < cap(p.ds) && p.bytes < maxPiece }

func (p *piece) add(d Delivery) {
	p.ds = append(p.ds, d)
	if d.Message != nil {
		p.bytes += d.Message.MaxEncodedSize + p.head
	}
}

// read appends to dst the unread messages of s, its initial message included, as far as
// dst has room; each message takes head bytes beside its shared encoding. unread reports
// whether there is more, missed whether the store must be read first: see resume. Only
// the goroutine that reads for the member calls read.
func (l *topicLog) read(s *Subscription, dst []Delivery, head int, now time.Time, b *backlog) (_ []Delivery, unread, missed bool, expired uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.index < 0 { // it has left
		return dst, false, false, 0
	}
	to := piece{ds: dst, head: head}
	at := l.plainAt(s.pos)
	if i := s.initial; i != nil && s.pos >= i.at {
		lost := uint64(0)
		if i.asLive { // the lost messages were before it
			lost = at - s.plainSeen
		}
		if s.readInitial(&to, lost, now, &expired, b) && i.asLive {
			s.plainSeen = at
		}
	}
	end := l.end()
	wasAtEnd := s.pos == end
	switch {
	case l.missesNewest(s) && l.forgotNewest:
		return to.ds, true, true, expired
	case wasAtEnd && s.plainSeen == l.plainTotal:
		return to.ds, false, false, expired
	case !to.hasRoom():
		return to.ds, true, false, expired
	}
	lost := at - s.plainSeen
	if s.pos < l.base {
		if l.missesNewest(s) && s.accept(l.newest, false, now, &expired) {
			to.add(Delivery{Message: l.newest, Sub: s, Options: s.opts, Dropped: lost})
			lost = 0
		}
		s.pos = l.base
	}
	s.plainSeen = at
	for s.pos < end && to.hasRoom() {
		if s.initial != nil && s.pos >= s.initial.at {
			s.readInitial(&to, 0, now, &expired, b)
			continue
		}
		e := &l.entries[s.pos-l.base]
		s.pos++
		if !e.msg.Retain {
			s.plainSeen = e.plainBefore + 1
		}
		if !s.accept(e.msg, false, now, &expired) {
			continue
		}
		to.add(Delivery{Message: e.msg, Sub: s, Options: s.opts, Dropped: lost})
		lost = 0
	}
	if lost > 0 {
		to.add(Delivery{Sub: s, Options: s.opts, Dropped: lost})
	}
	if s.pos < end {
		return to.ds, true, false, expired
	}
	if !wasAtEnd {
		l.atEnd++
		l.compact(b)
	}
	if s.initial != nil && !to.hasRoom() {
		return to.ds, true, false, expired
	}
	s.readInitial(&to, 0, now, &expired, b)
	return to.ds, false, false, expired
}

// readInitial appends the initial message of s, if there is one, to to, with the number
// of messages that s has lost before it. It reports whether there was one.
func (s *Subscription) readInitial(to *piece, lost uint64, now time.Time, expired *uint64, b *backlog) (given bool) {
	i := s.initial
	if i == nil {
		return false
	}
	if given = s.accept(i.msg, !i.asLive, now, expired); given {
		to.add(Delivery{Message: i.msg, Sub: s, Options: s.opts, Initial: !i.asLive, Dropped: lost})
	}
	s.setInitial(nil, b)
	return given
}

// setInitial sets the initial message of s; log.mu is held.
func (s *Subscription) setInitial(i *initial, b *backlog) {
	var added int64
	if i != nil {
		added += i.msg.Hold()
	}
	if s.initial != nil {
		added -= s.initial.msg.Release()
	}
	if added != 0 {
		b.bytes.Add(added)
	}
	s.initial = i
}
