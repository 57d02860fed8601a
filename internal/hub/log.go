package hub

import (
	"sync"
	"unsafe"

	"pubsub"
)

// topicLog holds the messages of a topic that not all subscribers of one shard have read,
// oldest first. The position of a message counts all messages that were ever appended
// before it. Plain messages, which are not retained, are also counted separately, so that
// a subscription knows how many it has lost.
type topicLog struct {
	// immutable
	shard *shard
	topic *topic

	nextLog *topicLog // guarded by the index's stripe: the topic's log of another shard

	nextQueued *topicLog // guarded by shard.mu: the next in the shard's queue
	queued     bool      // guarded by shard.mu: it is in the shard's queue

	// guarded by mu; here because they fit into the rest of the word
	forgotNewest bool  // newest was released to save memory
	walkAt       int32 // index of the next subscription to wake
	walkLeft     int32 // number of subscriptions still to wake, wrapping around
	atEnd        int32 // number of subscriptions that have read everything

	mu sync.Mutex
	// guarded by mu
	subscriptions []*Subscription
	subsArray     [1]*Subscription // the array of subscriptions as long as there is only one
	entries       []entry          // neither read by all nor cut
	base          uint64           // the position of entries[0]
	bytes         int              // sum of the costs of entries
	plainTotal    uint64           // plain messages appended so far
	newestVersion pubsub.Version
	// newest is the newest retained message and newestAt its position. It outlives its
	// entry as long as a subscription may not have read it. If memory is short, it is
	// released and only its position is kept. Subscriptions that have not read it then
	// get the topic's retained message from the store.
	newest   *pubsub.PreparedMessage
	newestAt uint64
}

type entry struct {
	msg *pubsub.PreparedMessage
	// plainBefore is the number of plain messages appended before msg.
	plainBefore uint64
}

// entryOverhead is what a message costs besides its bytes, so that many short messages
// reach the limit as well.
const entryOverhead = 128

// cost returns what pm counts against Options.SubscriberBuffer: the bytes sent by its
// publisher. The memory of pm, encodings included, counts against Options.BacklogMemory.
func cost(pm *pubsub.PreparedMessage) int {
	return len(pm.Data) + len(pm.Properties) + entryOverhead
}

// entrySize is the memory of an entry, including the spare capacity of a growing slice.
const entrySize = 2 * int64(unsafe.Sizeof(entry{}))

// end returns the position of the next message to be appended; mu must be held.
func (l *topicLog) end() uint64 { return l.base + uint64(len(l.entries)) }

// plainBefore returns the number of plain messages appended before pos or, if that part
// of the log was cut, before base; mu must be held.
func (l *topicLog) plainBefore(pos uint64) uint64 {
	if pos = max(pos, l.base); pos < l.end() {
		return l.entries[pos-l.base].plainBefore
	}
	return l.plainTotal
}

// append adds pm at the end and cuts the oldest entries beyond limit. It reports whether
// subscriptions must be woken. If the log has no subscriptions, or if pm is a retained
// message and not newer than the previous one, it does nothing.
func (l *topicLog) append(pm *pubsub.PreparedMessage, b *backlog, limit int) (wake bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.subscriptions) == 0 {
		return false
	}
	if pm.Retain && !pm.Version.Newer(l.newestVersion) {
		return false
	}
	added := entrySize + pm.Hold()
	if pm.Retain {
		l.newestVersion = pm.Version
		added += pm.Hold() - l.releaseNewest()
		l.newest, l.newestAt, l.forgotNewest = pm, l.end(), false
	}
	l.entries = append(l.entries, entry{pm, l.plainTotal})
	if !pm.Retain {
		l.plainTotal++
	}
	l.bytes += cost(pm)
	b.bytes.Add(added)
	l.cut(limit, 1, b)
	l.atEnd = 0
	l.walkLeft = int32(len(l.subscriptions))
	return true
}

// cut drops the oldest entries until the others cost at most limit bytes or are no more
// than keep; mu must be held.
func (l *topicLog) cut(limit, keep int, b *backlog) {
	n := 0
	for l.bytes > limit && n < len(l.entries)-keep {
		l.bytes -= cost(l.entries[n].msg)
		n++
	}
	l.dropOldest(n, b)
}

// cutToSize drops the oldest entries until the others take at most limit bytes of memory.
// It returns the number of bytes freed; mu must be held.
func (l *topicLog) cutToSize(limit int64, b *backlog) (freed int64) {
	n, size := 0, l.size()
	for size > limit && n < len(l.entries) {
		pm := l.entries[n].msg
		size -= l.entryBytes(pm)
		l.bytes -= cost(pm)
		n++
	}
	return l.dropOldest(n, b)
}

// size returns the memory that the entries take, in bytes; mu must be held.
func (l *topicLog) size() (n int64) {
	for i := range l.entries {
		n += l.entryBytes(l.entries[i].msg)
	}
	return n
}

// entryBytes returns the memory that dropping the entry of pm would free. The newest
// retained message stays in memory without its entry. mu must be held.
func (l *topicLog) entryBytes(pm *pubsub.PreparedMessage) int64 {
	if pm == l.newest {
		return entrySize
	}
	return pm.Size() + entrySize
}

// dropOldest drops the n oldest entries, whose cost the caller has already subtracted
// from bytes. It returns the number of bytes freed; mu must be held.
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
	// Dropping a few reslices, so that dropping one after another does not move all
	// others each time. Dropping many moves the rest, so that append need not grow.
	if n*2 >= len(l.entries) {
		rest := copy(l.entries, l.entries[n:])
		clear(l.entries[rest:])
		l.entries = l.entries[:rest]
	} else {
		clear(l.entries[:n])
		l.entries = l.entries[n:]
	}
	return freed
}

// releaseNewest releases newest and returns the number of bytes freed; mu must be held.
func (l *topicLog) releaseNewest() (freed int64) {
	if l.newest != nil {
		freed = l.newest.Release()
		l.newest = nil
	}
	return freed
}

// forgetNewest releases newest if its entry was cut. It returns the number of bytes
// freed; mu must be held.
func (l *topicLog) forgetNewest(b *backlog) (freed int64) {
	if l.newest != nil && l.newestAt < l.base {
		freed = l.releaseNewest()
		b.bytes.Add(-freed)
		l.forgotNewest = true
	}
	return freed
}

// compact empties the log if all subscriptions have read everything; mu must be held.
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

// join adds sub, with its cursor at the end.
func (l *topicLog) join(sub *Subscription) {
	l.mu.Lock()
	defer l.mu.Unlock()
	sub.log = l
	sub.index = int32(len(l.subscriptions))
	l.subscriptions = append(l.subscriptions, sub)
	if len(l.subscriptions) > 1 {
		l.subsArray[0] = nil // it is unused now and must not keep a subscription in memory
	}
	sub.pos, sub.plainSeen = l.end(), l.plainTotal
	l.atEnd++
	if l.walkLeft > 0 {
		l.walkLeft++ // a walk that wraps around passes sub as well
	}
}

// leave removes sub. It returns the number of plain messages that sub has lost and that
// were not reported to it.
func (l *topicLog) leave(sub *Subscription, b *backlog) (lost uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if sub.pos == l.end() {
		l.atEnd--
	}
	lost = l.plainBefore(sub.pos) - sub.plainSeen
	// Fill the gap so that the current walk misses no subscription. If the walk has
	// passed the gap, the last subscription that it has passed moves there. The last of
	// all then moves to the freed index, where the walk will pass it (again).
	gap, last := sub.index, int32(len(l.subscriptions)-1)
	if gap < l.walkAt {
		l.walkAt--
		if l.walkLeft > 0 {
			l.walkLeft++
		}
		l.moveTo(l.subscriptions[l.walkAt], gap)
		gap = l.walkAt
	}
	if gap < last {
		l.moveTo(l.subscriptions[last], gap)
	}
	sub.index = -1
	sub.setInitial(nil, b)
	l.subscriptions[last] = nil
	l.subscriptions = l.subscriptions[:last]
	l.walkLeft = min(l.walkLeft, last)
	l.compact(b)
	return lost
}

func (l *topicLog) moveTo(sub *Subscription, i int32) {
	l.subscriptions[i] = sub
	sub.index = i
}

func (l *topicLog) empty() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.subscriptions) == 0
}

// walk appends the next subscriptions to wake to batch, up to its capacity. It reports
// whether more are left.
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
