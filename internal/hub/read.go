package hub

import (
	"time"

	"pubsub"
)

// Delivery is a message for a subscriber, or a report of lost messages.
type Delivery struct {
	// Message is the message, or nil if the Delivery only reports Dropped.
	Message *pubsub.PreparedMessage
	Sub     *Subscription
	// Options are the options of Sub.
	Options SubscriptionOptions
	// Initial reports that Message is the topic's retained message at the time of
	// subscribing, not a live message.
	Initial bool
	// Dropped is the number of plain messages of the topic that the subscriber has lost
	// before Message.
	Dropped uint64
}

// Read reads a bounded piece of one ready subscription and appends it to dst, which must
// have room for two deliveries at least. A piece has up to 16 KiB and one message,
// measured by the encoded length of its messages plus head bytes for each. The ready
// subscriptions take turns.
//
// If Read has appended nothing, asleep reports whether the subscriber is asleep now. If
// it is not, Read must be called again. After asleep, Read must not be called until the
// subscriber wakes up.
func (s *Subscriber) Read(dst []Delivery, head int, now time.Time) (_ []Delivery, asleep bool) {
	h := s.shard.hub
	h.enforceBacklogLimit() // encodings may have been made since the last Deliver
	s.mu.Lock()
	sub := s.dequeue()
	switch {
	case sub == nil:
		asleep = !s.notified
		s.notified = false
		s.awake = !asleep
		s.mu.Unlock()
		return dst, asleep
	case sub.pendingFetch != fetchNothing:
		f := fetch{sub, sub.pendingFetch}
		sub.pendingFetch, sub.fetching = fetchNothing, true
		s.enqueueFirst(sub)
		s.mu.Unlock()
		h.fetches.add(h, f)
		return dst, false
	}
	s.mu.Unlock()

	n := len(dst)
	dst, unread, forgotten, expired := sub.log.read(sub, dst, head, now, &h.backlog)
	h.count(dst[n:], expired)
	if unread {
		s.mu.Lock()
		if forgotten {
			if sub.pendingFetch == fetchNothing { // it may have been resumed again meanwhile
				sub.pendingFetch = fetchForgotten
			}
			s.enqueueFirst(sub)
		} else {
			s.enqueue(sub)
		}
		s.mu.Unlock()
	}
	return dst, false
}

// Notify makes the holder call Read at least once more, even if nothing is unread,
// because it has something else to do, such as sending a control packet.
func (s *Subscriber) Notify() {
	s.mu.Lock()
	s.notified = true
	wake := s.markAwakeLocked()
	s.mu.Unlock()
	if wake {
		s.wake()
	}
}

// MarkAwake records that the holder calls Read without having been woken, so that the hub
// does not wake it as well.
func (s *Subscriber) MarkAwake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.markAwakeLocked()
}

// markAwakeLocked marks s as awake and reports whether it was asleep; mu must be held.
func (s *Subscriber) markAwakeLocked() bool {
	if s.awake || s.closed {
		return false
	}
	s.awake = true
	return true
}

// Schedule makes the shard serve s, whose holder must be a ShardHolder.
func (s *Subscriber) Schedule() { s.shard.schedule(s) }

// wake makes the holder read. The caller has just marked s as awake.
func (s *Subscriber) wake() {
	if _, ok := s.holder.(ShardHolder); ok {
		s.Schedule()
	} else {
		s.holder.Wake()
	}
}

// queueUnread adds sub, which has something unread, to the ready subscriptions and makes
// the holder read. It is called by the shard's goroutine.
func (s *Subscriber) queueUnread(sub *Subscription) {
	s.mu.Lock()
	s.enqueue(sub)
	wake := s.readyTail != nil && !s.readyTail.next.fetching && s.markAwakeLocked()
	s.mu.Unlock()
	if !wake {
		return
	}
	if h, ok := s.holder.(ShardHolder); ok {
		h.Serve(s.shard.outbox)
	} else {
		s.holder.Wake()
	}
}

// enqueue adds sub to the end of the ready subscriptions, unless it is among them or
// paused; mu must be held.
func (s *Subscriber) enqueue(sub *Subscription) {
	if sub.queued || sub.paused {
		return
	}
	sub.queued = true
	if tail := s.readyTail; tail == nil {
		sub.next = sub
	} else {
		tail.next, sub.next = sub, tail.next
	}
	s.readyTail = sub
}

// enqueueFirst adds sub to the front of the ready subscriptions; mu must be held.
func (s *Subscriber) enqueueFirst(sub *Subscription) {
	tail := s.readyTail
	if s.enqueue(sub); tail != nil && s.readyTail == sub {
		s.readyTail = tail
	}
}

// dequeue removes and returns the first ready subscription. It returns nil if there is
// none or if the first one is being fetched; mu must be held.
func (s *Subscriber) dequeue() *Subscription {
	for s.readyTail != nil {
		sub := s.readyTail.next
		if sub.fetching && !sub.paused {
			return nil
		}
		if sub == s.readyTail {
			s.readyTail = nil
		} else {
			s.readyTail.next = sub.next
		}
		sub.next, sub.queued = nil, false
		if !sub.paused {
			return sub
		}
	}
	return nil
}
