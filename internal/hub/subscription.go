package hub

import (
	"context"
	"time"

	"pubsub"
)

// SubscriptionOptions are the options of a subscription (MQTT 5.0 section 3.8.3.1). The
// hub itself uses only NoLocal.
type SubscriptionOptions struct {
	// NoLocal omits messages that the subscriber itself has published.
	NoLocal bool
	// RetainAsPublished keeps the RETAIN flag of live messages.
	RetainAsPublished bool
	// ID is the Subscription Identifier, or 0.
	ID uint32
}

// Subscription subscribes a subscriber to one topic. See the package documentation for
// its states.
type Subscription struct {
	// immutable
	subscriber *Subscriber
	log        *topicLog

	// guarded by log.mu
	pos       uint64 // the cursor: the position to read next
	plainSeen uint64 // plain messages read or reported as dropped; compare entry.plainBefore
	opts      SubscriptionOptions
	seen      pubsub.Version // of the newest retained message that was delivered
	initial   *initial       // nil if there is none, or it has been delivered
	index     int32          // in log.subscriptions; -1 after it has left

	// guarded by subscriber.mu
	paused       bool // not resumed yet, or ended
	queued       bool // in the list of ready subscriptions
	pendingFetch fetchKind
	fetching     bool // the store is being read; it is then the first ready subscription
	next         *Subscription
}

// fetchKind says which message must be read from the store before the subscription's log
// can be read.
type fetchKind uint8

const (
	fetchNothing   fetchKind = iota
	fetchRetained            // the retained message
	fetchNewer               // the retained message, if it is newer than the client's version
	fetchForgotten           // as fetchNewer, in place of a message that the log has forgotten
)

// initial is a topic's retained message as read from the store.
type initial struct {
	msg *pubsub.PreparedMessage
	at  uint64 // it is delivered once the cursor has reached this position
	// asLive makes it a live message for the client, not an initial one. It is set if the
	// client catches up: it has resumed with a version, or the log has forgotten a message.
	asLive bool
}

// Topic returns the topic subscribed to.
func (sub *Subscription) Topic() pubsub.Topic { return sub.log.topic.name }

func (sub *Subscription) setOptions(o SubscriptionOptions) {
	sub.log.mu.Lock()
	sub.opts = o
	sub.log.mu.Unlock()
}

// Last returns the retained message of the topic if it is newer than after, otherwise
// nil; see [pubsub.Store]. It also returns the version that the subscriber has after
// that message. If Last is called after Subscribe, no message is missed, because all
// newer ones come through the log.
func (sub *Subscription) Last(ctx context.Context, after pubsub.Version) (*pubsub.PreparedMessage, pubsub.Version, error) {
	h := sub.subscriber.shard.hub
	msg, ok, err := h.opts.Backplane.Last(ctx, sub.Topic(), after)
	if err != nil || !ok {
		return nil, msg.Version, err
	}
	return h.recent.prepared(h, sub.log.topic, msg), msg.Version, nil
}

// Resume ends the pause of sub. Except for initial, the subscriber will not receive
// retained messages of the version seen or an older one.
//
// A non-nil initial is the topic's retained message. It is delivered at its position
// among the messages published since Subscribe, unless the subscriber has received a
// newer one meanwhile. None of those messages is skipped, because the client may already
// know that it subscribes.
//
// If initial is nil, a new subscription skips the messages published before the version
// seen. The client must then not know yet that it subscribes.
func (sub *Subscription) Resume(initial *pubsub.PreparedMessage, seen pubsub.Version) {
	s := sub.subscriber
	s.mu.Lock()
	isNew := sub.paused
	s.mu.Unlock()
	sub.log.resume(sub, isNew, initial, false, seen, &s.shard.hub.backlog)
	sub.makeReady(fetchNothing)
}

// ResumeAndFetch ends the pause of sub like Resume, but makes the hub read the retained
// message from the store, once the client has taken everything that is sent before it.
// The hub reads for a subscriber's subscriptions in the order in which they were resumed,
// and delivers nothing else meanwhile. If seen is not zero, only a newer message is read
// and delivered.
func (sub *Subscription) ResumeAndFetch(seen pubsub.Version) {
	if seen.IsZero() {
		sub.makeReady(fetchRetained)
		return
	}
	sub.log.resume(sub, false, nil, false, seen, &sub.subscriber.shard.hub.backlog)
	sub.makeReady(fetchNewer)
}

// makeReady adds sub to the ready subscriptions and wakes the subscriber.
func (sub *Subscription) makeReady(kind fetchKind) {
	s := sub.subscriber
	s.mu.Lock()
	sub.paused = false
	if kind != fetchNothing {
		sub.pendingFetch = kind
	}
	s.enqueue(sub)
	wake := s.markAwakeLocked()
	s.mu.Unlock()
	if wake {
		s.wake()
	}
}

// accept decides whether the subscriber receives pm, and records its version if so;
// log.mu must be held. A client that subscribes again receives the retained message again, as
// an initial one, but never an older message than it already has.
func (sub *Subscription) accept(pm *pubsub.PreparedMessage, isInitial bool, now time.Time, expired *uint64) bool {
	if sub.opts.NoLocal && pm.Sender != "" && pm.Sender == sub.subscriber.sender {
		return false
	}
	if pm.Retain && !pm.Version.Newer(sub.seen) && !(isInitial && pm.Version == sub.seen) {
		return false
	}
	if pm.Expired(now) {
		*expired++
		return false
	}
	if pm.Retain {
		sub.seen = pm.Version
	}
	return true
}

// setInitial sets the initial message of sub; log.mu must be held.
func (sub *Subscription) setInitial(i *initial, b *backlog) {
	var added int64
	if i != nil {
		added += i.msg.Hold()
	}
	if sub.initial != nil {
		added -= sub.initial.msg.Release()
	}
	if added != 0 {
		b.bytes.Add(added)
	}
	sub.initial = i
}
