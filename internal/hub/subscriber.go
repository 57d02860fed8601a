package hub

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"pubsub"
)

// Subscriber is a connection that is registered with the hub. See the package
// documentation for its states.
type Subscriber struct {
	// immutable
	shard  *shard
	holder Holder
	sender string // see pubsub.Message.Sender

	nextScheduled *Subscriber // guarded by shard.mu: the next in the shard's queue

	timer timer // guarded by the shard's wheel

	mu sync.Mutex
	// guarded by mu
	subs []*Subscription // sorted by topic
	// first is the first subscription, and subsArray the array of subs as long as there
	// is no other. Most subscribers have one topic and so need no further allocation.
	first     Subscription
	subsArray [1]*Subscription
	// readyTail is the last of the ready subscriptions, a circular list. Its next is the
	// first one, so that one pointer gives access to both ends.
	readyTail *Subscription
	awake     bool // a goroutine of the holder calls Read, or will do so soon
	notified  bool // Read must be called once more before the subscriber sleeps
	closed    bool

	// These two are here because they fit into the rest of the word.
	scheduled bool   // guarded by shard.mu: it is in the shard's queue
	dueTick   uint32 // guarded by the shard's wheel: the tick of its deadline, or 0
}

// Add registers s with the hub. s must be the zero value; it is usually a field of the
// holder's connection. sender is the [pubsub.Message.Sender] of the subscriber's own
// messages, for NoLocal. s begins asleep and is registered until Close.
func (h *Hub) Add(s *Subscriber, holder Holder, sender string) {
	h.counts.subscribers.Add(1)
	s.shard = h.shards[h.next.Add(1)%uint32(len(h.shards))]
	s.holder, s.sender = holder, sender
}

// SetSender sets the sender if it was not known when Add was called. It must be called
// before the first Subscribe.
func (s *Subscriber) SetSender(sender string) { s.sender = sender }

// Has reports whether s subscribes to t.
func (s *Subscriber) Has(t pubsub.Topic) bool { return s.find(t) != nil }

// Subscribe subscribes s to t and returns once every message published to t from now on
// will reach s. A new subscription is paused until Resume or ResumeAndFetch. If s has
// subscribed to t already, Subscribe sets the options of that subscription and returns
// it. After an error nothing has changed.
func (s *Subscriber) Subscribe(ctx context.Context, t pubsub.Topic, o SubscriptionOptions) (*Subscription, error) {
	if sub := s.find(t); sub != nil {
		sub.setOptions(o)
		return sub, nil
	}
	sub := s.newSubscription(o)
	if err := s.shard.hub.index.join(ctx, sub, t); err != nil {
		return nil, err
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		s.shard.hub.index.leave(sub)
		return nil, context.Canceled
	}
	i, exists := s.search(sub.Topic())
	if exists { // a concurrent call for the same topic was faster
		first := s.subs[i]
		s.mu.Unlock()
		s.shard.hub.index.leave(sub)
		first.setOptions(o)
		return first, nil
	}
	s.subs = slices.Insert(s.subs, i, sub)
	s.mu.Unlock()
	s.shard.hub.counts.subscriptions.Add(1)
	return sub, nil
}

// newSubscription returns a subscription that has not joined a topic yet. It uses s.first
// only once, because the shard may still access a subscription that has left.
func (s *Subscriber) newSubscription(o SubscriptionOptions) *Subscription {
	s.mu.Lock()
	defer s.mu.Unlock()
	sub := &s.first
	if sub.subscriber != nil {
		sub = new(Subscription)
	} else {
		s.subs = s.subsArray[:0]
	}
	sub.subscriber, sub.opts, sub.paused = s, o, true
	return sub
}

// Unsubscribe ends the subscription of s to t and reports whether there was one.
func (s *Subscriber) Unsubscribe(t pubsub.Topic) bool {
	s.mu.Lock()
	i, ok := s.search(t)
	if !ok {
		s.mu.Unlock()
		return false
	}
	sub := s.subs[i]
	s.subs = slices.Delete(s.subs, i, i+1)
	s.mu.Unlock()
	s.leave(sub)
	return true
}

// Close removes s from the hub. Afterwards Read returns nothing, and the holder is not
// called any more, except by a call that is already under way. Further calls of Close do
// nothing.
func (s *Subscriber) Close() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.closed = true
	subs := s.subs
	s.subs = nil
	s.mu.Unlock()
	for _, sub := range subs {
		s.leave(sub)
	}
	s.shard.wheel.remove(s)
	s.shard.hub.counts.subscribers.Add(-1)
}

func (s *Subscriber) leave(sub *Subscription) {
	s.mu.Lock()
	sub.paused = true // it may be in the ready list: dequeue then passes over it
	s.mu.Unlock()
	s.shard.hub.index.leave(sub)
	s.shard.hub.counts.subscriptions.Add(-1)
}

// search returns the index of t in subs, or where to insert it; mu must be held.
func (s *Subscriber) search(t pubsub.Topic) (i int, found bool) {
	return slices.BinarySearchFunc(s.subs, t, func(sub *Subscription, t pubsub.Topic) int {
		return strings.Compare(string(sub.Topic()), string(t))
	})
}

func (s *Subscriber) find(t pubsub.Topic) *Subscription {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i, ok := s.search(t); ok {
		return s.subs[i]
	}
	return nil
}

// SetDeadline makes the hub call the holder's DeadlineReached at t or at most a tenth of
// a second later. It replaces the previous deadline. The zero time means never.
func (s *Subscriber) SetDeadline(t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed { // otherwise the wheel would keep s in memory
		s.shard.wheel.set(s, t)
	}
}

// reachDeadline calls the holder's DeadlineReached, unless s has been closed.
func (s *Subscriber) reachDeadline() {
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if !closed {
		s.holder.DeadlineReached()
	}
}
