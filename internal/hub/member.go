package hub

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"pubsub"
)

// Holder holds the connection of a member.
type Holder interface {
	// Wake says that the member, which was asleep, has something to read. One
	// goroutine must then call Member.Read until that says asleep. Wake is called
	// by the shard's goroutine and by whoever calls Open or Notify; it must not block
	// and not call Read itself on that stack.
	Wake()
	// StoreFailed reports that the store could not be read for the member. Its connection must
	// end, because it does not get the messages that it was promised. StoreFailed must not
	// block.
	StoreFailed(err error)
	// DeadlineReached reports that the member's deadline has come, whether the member sleeps or
	// not. It is called by the shard's goroutine and must not block.
	DeadlineReached()
}

// ShardHolder is a Holder that never blocks: its members are served by their
// shard's goroutine, one after the other, and it is not woken.
type ShardHolder interface {
	Holder
	// Serve calls Member.Read until that says asleep, or stops before; then it
	// has Member.Run called when it can go on. What it writes may go through the
	// shard's outbox, if it has one.
	Serve(Outbox)
}

// Outbox gathers what the members of a shard write, so that it is sent in one
// piece. Only the shard's goroutine uses it.
type Outbox interface {
	// Flush sends what was gathered. It is called before the shard turns to
	// anything else than members that it serves.
	Flush()
}

// Subscriber is one connection's place in the hub.
type Subscriber struct {
	// immutable
	shard  *shard
	holder Holder
	name   string // see pubsub.Message.Sender

	nextScheduled *Subscriber // guarded by shard.mu: the one to be served after it

	timer timer // guarded by the shard's wheel

	mu sync.Mutex
	// guarded by mu
	subs []*Subscription // by topic
	// first is the subscription that is made first, and one the array of subs while
	// there is no other: most members have one topic, and need nothing else.
	first Subscription
	subsArray   [1]*Subscription
	// readyTail is the last of those with something unread; its next is the first, so
	// that one pointer finds both ends.
	readyTail    *Subscription
	awake    bool // a goroutine of the holder reads, or is about to
	notified bool // it must look again before it sleeps
	closed   bool

	// Here, for they fit in what is left of a word.
	scheduled bool   // guarded by shard.mu: it is among those that are to be served
	dueTick  uint32 // guarded by the shard's wheel: the tick of its deadline, 0 if there is none
}

// SubscriptionOptions are what a subscriber asked for. The hub minds NoLocal,
// the others are for whoever encodes (MQTT 5.0 section 3.8.3.1).
type SubscriptionOptions struct {
	// NoLocal leaves out what the member itself published.
	NoLocal bool
	// RetainAsPublished keeps the RETAIN flag of live messages.
	RetainAsPublished bool
	// ID is the Subscription Identifier, 0 for none.
	ID uint32
}

// Subscription is a member's interest in one topic, and its cursor in the log.
type Subscription struct {
	// immutable
	subscriber *Subscriber
	log    *topicLog

	// guarded by log.mu
	pos     uint64 // the position that is read next
	plainSeen   uint64 // the ordinal of the plain message that is expected next
	opts    SubscriptionOptions
	seen    pubsub.Version // of the newest retained message that was delivered
	initial *initial       // nil if there is none, or no more
	index   int32          // in log.members; -1 once it has left

	// guarded by member.mu
	paused   bool // joined and not yet opened, or left
	queued   bool // in the list of ready subscriptions
	pendingFetch     fetchKind
	fetching bool // the store is being read for it; it is the first ready subscription
	next     *Subscription
}

// fetchKind says what must be read from the store before a subscription's log is read.
type fetchKind uint8

const (
	fetchNothing fetchKind = iota
	fetchRetained         // the retained message, whatever version the client has
	fetchNewer        // the retained message, if it is newer than the client's version
	fetchForgotten       // as lateNewer, because a log has forgotten it
)

// initial is a topic's retained message, as it was read from the store. It is delivered
// once the cursor has reached at.
type initial struct {
	msg *pubsub.PreparedMessage
	at     uint64
	// asLive says that the message does not answer a subscription, but replaces one that
	// the log has forgotten.
	asLive bool
}

// Delivery is one thing that a member is to be given.
type Delivery struct {
	// Message is the message; nil if there is none and only Dropped counts.
	Message *pubsub.PreparedMessage
	Sub     *Subscription
	// Options are those of Sub.
	Options SubscriptionOptions
	// Initial says that it is what the topic retained when the member subscribed.
	Initial bool
	// Dropped is how many messages of the topic, not retained ones, the member
	// has lost before this one.
	Dropped uint64
}

// Add makes m, which has its zero value and lies in what its holder has for the
// connection, a member. Its name identifies it as a publisher, for NoLocal. It is
// asleep; it ends with Close.
func (h *Hub) Add(m *Subscriber, holder Holder, name string) {
	h.counts.subscribers.Add(1)
	m.shard = h.shards[h.next.Add(1)%uint32(len(h.shards))]
	m.holder, m.name = holder, name
}

// Schedule has the shard serve m, whose holder is a ShardHolder.
func (m *Subscriber) Schedule() { m.shard.schedule(m) }

// wake has m read, which has just been roused.
func (m *Subscriber) wake() {
	if _, served := m.holder.(ShardHolder); served {
		m.Schedule()
	} else {
		m.holder.Wake()
	}
}

// SetSender says how the member is known as a publisher, for NoLocal, if Add
// could not. It must come before the first Subscribe.
func (m *Subscriber) SetSender(name string) { m.name = name }

// Has reports whether m subscribes to t.
func (m *Subscriber) Has(t pubsub.Topic) bool { return m.find(t) != nil }

// Topic is the topic subscribed to.
func (s *Subscription) Topic() pubsub.Topic { return s.log.topic.name }

// Subscribe joins m to t, or changes the options if it has joined before. It
// returns once everything that is published to t from now on will reach m. A
// new subscription is held, and nothing is read from it, until Open. After an
// error nothing has changed.
func (m *Subscriber) Subscribe(ctx context.Context, t pubsub.Topic, o SubscriptionOptions) (*Subscription, error) {
	if s := m.find(t); s != nil {
		s.setOptions(o)
		return s, nil
	}
	s := m.newSubscription(o)
	if err := m.shard.hub.index.join(ctx, s, t); err != nil {
		return nil, err
	}
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		m.shard.hub.index.leave(s)
		return nil, context.Canceled
	}
	i, twin := m.search(s.Topic())
	if twin { // another call for the same topic was faster
		first := m.subs[i]
		m.mu.Unlock()
		m.shard.hub.index.leave(s)
		first.setOptions(o)
		return first, nil
	}
	m.subs = slices.Insert(m.subs, i, s)
	m.mu.Unlock()
	m.shard.hub.counts.subscriptions.Add(1)
	return s, nil
}

// newSubscription returns one of m that has not joined. That in m serves once: the
// shard may still look at one that has left.
func (m *Subscriber) newSubscription(o SubscriptionOptions) *Subscription {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := &m.first
	if s.subscriber != nil {
		s = new(Subscription)
	} else {
		m.subs = m.subsArray[:0]
	}
	s.subscriber, s.opts, s.paused = m, o, true
	return s
}

func (s *Subscription) setOptions(o SubscriptionOptions) {
	s.log.mu.Lock()
	s.opts = o
	s.log.mu.Unlock()
}

// Last returns what s's topic retains, or nil, if it is newer than after (see
// [pubsub.Store]), and the version that the subscriber has once it has been
// given that. Read after Subscribe, it leaves no gap: whatever is newer comes
// through the log.
func (s *Subscription) Last(ctx context.Context, after pubsub.Version) (*pubsub.PreparedMessage, pubsub.Version, error) {
	msg, ok, err := s.subscriber.shard.hub.opts.Backplane.Last(ctx, s.Topic(), after)
	if err != nil || !ok {
		return nil, msg.Version, err
	}
	h := s.subscriber.shard.hub
	return h.recent.prepared(h, s.log.topic, msg), msg.Version, nil
}

// Resume lets m read s. A retained message of the version seen, or older, is not
// delivered by it. If initial is not nil it is given in its place among what was
// published since Subscribe, unless something newer has been read since. Nothing
// of that is left out: the client may have been told already that it subscribes.
//
// Without initial, a new subscription begins behind the version seen: what was
// published before that is left out. The client must not have been told yet.
func (s *Subscription) Resume(initial *pubsub.PreparedMessage, seen pubsub.Version) {
	m := s.subscriber
	m.mu.Lock()
	joined := s.paused
	m.mu.Unlock()
	s.log.resume(s, joined, initial, false, seen, &m.shard.hub.backlog)
	s.makeReady(fetchNothing)
}

// ResumeAndFetch is Open for a client that must take other bytes first; the topic's retained
// message is read after that. A member's late subscriptions are read one after the other,
// in the order in which they were opened, and meanwhile nothing else is read for it. With
// a version in seen, only a newer message is read and delivered.
func (s *Subscription) ResumeAndFetch(seen pubsub.Version) {
	if seen.IsZero() {
		s.makeReady(fetchRetained)
		return
	}
	s.log.resume(s, false, nil, false, seen, &s.subscriber.shard.hub.backlog)
	s.makeReady(fetchNewer)
}

// makeReady lets the member read s, after its late messages.
func (s *Subscription) makeReady(l fetchKind) {
	m := s.subscriber
	m.mu.Lock()
	s.paused = false
	if l != fetchNothing {
		s.pendingFetch = l
	}
	m.enqueue(s)
	wake := m.markAwakeLocked()
	m.mu.Unlock()
	if wake {
		m.wake()
	}
}

// Unsubscribe takes m out of t; false if it is not in it.
func (m *Subscriber) Unsubscribe(t pubsub.Topic) bool {
	m.mu.Lock()
	i, ok := m.search(t)
	if !ok {
		m.mu.Unlock()
		return false
	}
	s := m.subs[i]
	m.subs = slices.Delete(m.subs, i, i+1)
	m.mu.Unlock()
	m.leave(s)
	return true
}

// Close takes m out of the hub. Afterwards Read returns nothing, and the holder
// is not woken any more, unless a Wake was under way. It may be called again.
func (m *Subscriber) Close() {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return
	}
	m.closed = true
	subs := m.subs
	m.subs = nil
	m.mu.Unlock()
	for _, s := range subs {
		m.leave(s)
	}
	m.shard.wheel.remove(m)
	m.shard.hub.counts.subscribers.Add(-1)
}

func (m *Subscriber) leave(s *Subscription) {
	m.mu.Lock()
	s.paused = true // should it be in the list of the ready ones, it is passed over
	m.mu.Unlock()
	m.shard.hub.index.leave(s)
	m.shard.hub.counts.subscriptions.Add(-1)
}

func (m *Subscriber) search(t pubsub.Topic) (int, bool) {
	return slices.BinarySearchFunc(m.subs, t, func(s *Subscription, t pubsub.Topic) int {
		return strings.Compare(string(s.Topic()), string(t))
	})
}

func (m *Subscriber) find(t pubsub.Topic) *Subscription {
	m.mu.Lock()
	defer m.mu.Unlock()
	if i, ok := m.search(t); ok {
		return m.subs[i]
	}
	return nil
}

// Notify has the holder read at least once more, even if nothing is unread: it has
// something else to do, such as to send a control packet.
func (m *Subscriber) Notify() {
	m.mu.Lock()
	m.notified = true
	wake := m.markAwakeLocked()
	m.mu.Unlock()
	if wake {
		m.wake()
	}
}

// MarkAwake records that the holder has begun to call Read without having been woken, so that
// it is not woken a second time.
func (m *Subscriber) MarkAwake() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.markAwakeLocked()
}

// queueUnread says that s has something unread.
func (m *Subscriber) queueUnread(s *Subscription) {
	m.mu.Lock()
	m.enqueue(s)
	wake := m.readyTail != nil && !m.readyTail.next.fetching && m.markAwakeLocked()
	m.mu.Unlock()
	if !wake {
		return
	}
	if h, served := m.holder.(ShardHolder); served {
		h.Serve(m.shard.outbox) // this is the shard's goroutine
	} else {
		m.holder.Wake()
	}
}

// markAwakeLocked marks m as awake and reports whether it slept; mu is held.
func (m *Subscriber) markAwakeLocked() bool {
	if m.awake || m.closed {
		return false
	}
	m.awake = true
	return true
}

// enqueue puts s behind the ready ones; mu is held.
func (m *Subscriber) enqueue(s *Subscription) {
	if s.queued || s.paused {
		return
	}
	s.queued = true
	if last := m.readyTail; last == nil {
		s.next = s
	} else {
		last.next, s.next = s, last.next
	}
	m.readyTail = s
}

// enqueueFirst puts s before the other ready subscriptions; mu is held.
func (m *Subscriber) enqueueFirst(s *Subscription) {
	last := m.readyTail
	if m.enqueue(s); last != nil && m.readyTail == s {
		m.readyTail = last
	}
}

// dequeue takes the first ready subscription, if it can be read; mu is held.
func (m *Subscriber) dequeue() *Subscription {
	for m.readyTail != nil {
		s := m.readyTail.next
		if s.fetching && !s.paused {
			return nil
		}
		if s == m.readyTail {
			m.readyTail = nil
		} else {
			m.readyTail.next = s.next
		}
		s.next, s.queued = nil, false
		if !s.paused {
			return s
		}
	}
	return nil
}

// Read appends to dst, as far as it has room (for two at least), a bounded piece of what
// m has not read of one of its topics, round-robin: 16 KiB and one message as they are
// encoded, with head bytes on top for each. If nothing was appended, asleep reports
// whether there is nothing left to do and the holder will be woken; otherwise it must
// call Read again. Only one goroutine at a time may be between Wake and asleep.
func (m *Subscriber) Read(dst []Delivery, head int, now time.Time) (_ []Delivery, asleep bool) {
	h := m.shard.hub
	h.enforceBacklogLimit() // other reads may have made encodings since
	m.mu.Lock()
	s := m.dequeue()
	switch {
	case s == nil:
		asleep = !m.notified
		m.notified = false
		m.awake = !asleep
		m.mu.Unlock()
		return dst, asleep
	case s.pendingFetch != fetchNothing:
		f := fetch{s, s.pendingFetch}
		s.pendingFetch, s.fetching = fetchNothing, true
		m.enqueueFirst(s)
		m.mu.Unlock()
		h.fetches.add(h, f)
		return dst, false
	}
	m.mu.Unlock()

	n := len(dst)
	dst, unread, missed, expired := s.log.read(s, dst, head, now, &h.backlog)
	h.count(dst[n:], expired)
	if unread {
		m.mu.Lock()
		if missed {
			if s.pendingFetch == fetchNothing { // it may have been opened again meanwhile
				s.pendingFetch = fetchForgotten
			}
			m.enqueueFirst(s)
		} else {
			m.enqueue(s)
		}
		m.mu.Unlock()
	}
	return dst, false
}

// reachDeadline calls the holder's Due, unless m has been closed.
func (m *Subscriber) reachDeadline() {
	m.mu.Lock()
	closed := m.closed
	m.mu.Unlock()
	if !closed {
		m.holder.DeadlineReached()
	}
}

// accept decides whether s is given p, and notes that it is; log.mu is held.
// Whoever subscribes again is given again, as the initial one, what its topic
// retains, but never anything older than it has had.
func (s *Subscription) accept(p *pubsub.PreparedMessage, initial bool, now time.Time, expired *uint64) bool {
	if s.opts.NoLocal && p.Sender != "" && p.Sender == s.subscriber.name {
		return false
	}
	if p.Retain && !p.Version.Newer(s.seen) && !(initial && p.Version == s.seen) {
		return false
	}
	if p.Expired(now) {
		*expired++
		return false
	}
	if p.Retain {
		s.seen = p.Version
	}
	return true
}

// SetDeadline makes the shard call the holder's Due at t, to a tenth of a second; the
// zero time means never. It replaces an earlier deadline.
func (m *Subscriber) SetDeadline(t time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.closed { // the wheel would keep it
		m.shard.wheel.set(m, t)
	}
}
