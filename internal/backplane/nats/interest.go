package nats

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"pubsub"

	natsgo "github.com/nats-io/nats.go"
)

// inboxMessages is how many messages may wait until this node processes them. Above that the
// library drops messages and reports a slow consumer.
const inboxMessages = 8192

// interest is the set of topics that this node is subscribed to in NATS, and how far each has
// been delivered. All subscriptions share one channel.
type interest struct {
	// immutable
	client   *client
	stream   *stream
	messages chan *natsgo.Msg
	wake     chan struct{} // one slot: a call waits, or a topic has begun to linger

	count atomic.Int64 // of topics

	// mu is held during ChanSubscribe, which blocks while the library connects.
	mu        sync.Mutex
	topics    map[pubsub.Topic]*subscription // guarded by mu
	next      *roundTrip                     // guarded by mu: the one that has not begun; may be nil
	lingering []lingerer                     // guarded by mu: the first one first
}

// subscription is this node's subscription to a topic. It is guarded by interest.mu.
type subscription struct {
	sub       *natsgo.Subscription
	users     int  // calls of Subscribe without an Unsubscribe
	confirmed bool // the server has the subscription
	// last is the sequence number of the last retained message that this node has delivered, or
	// a position of the stream before the subscription.
	last uint64
}

// lingerer is a topic whose last user has gone.
type lingerer struct {
	topic pubsub.Topic
	until time.Time
}

// roundTrip confirms the subscriptions of all calls that wait at the same time.
type roundTrip struct {
	topics []pubsub.Topic // guarded by interest.mu until it begins
	done   chan struct{}  // closed when err is set
	err    error
}

func newInterest(s *stream) *interest {
	return &interest{
		client:   s.client,
		stream:   s,
		messages: make(chan *natsgo.Msg, inboxMessages),
		wake:     make(chan struct{}, 1),
		topics:   map[pubsub.Topic]*subscription{},
	}
}

// subscribe subscribes to t and returns when the server has the subscription. It retries after
// transient errors until ctx is done.
func (i *interest) subscribe(ctx context.Context, t pubsub.Topic) error {
	if err := i.client.await(ctx); err != nil {
		return err
	}
	i.mu.Lock()
	s := i.topics[t]
	if s == nil {
		sub, err := i.client.nc.ChanSubscribe(i.client.names.Subscription(t), i.messages)
		if err != nil {
			i.mu.Unlock()
			return err
		}
		s = &subscription{sub: sub}
		i.topics[t] = s
		i.count.Add(1)
	}
	s.users++
	confirmed := s.confirmed
	i.mu.Unlock()
	for !confirmed {
		err := i.awaitRoundTrip(ctx, t)
		if err == nil {
			break
		}
		if !isTransient(err) || !sleep(ctx, 20*time.Millisecond) {
			i.unsubscribe(t)
			return err
		}
	}
	return nil
}

// awaitRoundTrip waits for the next round trip, with t among its topics.
func (i *interest) awaitRoundTrip(ctx context.Context, t pubsub.Topic) error {
	i.mu.Lock()
	r := i.next
	if r == nil {
		r = &roundTrip{done: make(chan struct{})}
		i.next = r
		notify(i.wake)
	}
	r.topics = append(r.topics, t)
	i.mu.Unlock()
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return fmt.Errorf("subscribing in NATS: %w", context.Cause(ctx))
	}
}

// unsubscribe undoes one call of subscribe. The subscription lingers after the last one.
func (i *interest) unsubscribe(t pubsub.Topic) {
	i.mu.Lock()
	defer i.mu.Unlock()
	s := i.topics[t]
	if s == nil || s.users == 0 {
		panic("nats: Unsubscribe without Subscribe")
	}
	if s.users--; s.users == 0 {
		i.lingering = append(i.lingering, lingerer{t, time.Now().Add(i.client.o.Linger)})
		if len(i.lingering) == 1 {
			notify(i.wake)
		}
	}
}

// run makes the round trips and ends the subscriptions that have lingered, until Close.
func (i *interest) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-i.client.life.Done():
			return
		case <-i.wake:
		case <-timer.C:
		}
		i.mu.Lock()
		r := i.next
		i.next = nil
		i.mu.Unlock()
		if r != nil {
			i.makeRoundTrip(r)
		}
		wait := i.client.o.Linger
		if i.client.isUp() { // otherwise the library forgets the UNSUB
			wait = i.endLingering(time.Now())
		}
		if wait > 0 {
			timer.Reset(wait)
		}
	}
}

// makeRoundTrip confirms the subscriptions of r, after the server has answered a ping, and finds
// out the position of the stream before them.
func (i *interest) makeRoundTrip(r *roundTrip) {
	c := i.client
	ctx, cancel := context.WithTimeout(c.life, readTimeout)
	defer cancel()
	defer close(r.done)
	if r.err = c.await(ctx); r.err != nil {
		return
	}
	soon, cancel := c.request(ctx, readTimeout)
	defer cancel()
	if r.err = c.nc.FlushWithContext(soon); r.err != nil {
		return
	}
	var last uint64
	generation := i.stream.epoch.current()
	if last, r.err = i.stream.position(ctx); r.err != nil {
		return
	}
	if !i.stream.epoch.during(generation, func() { i.confirm(r.topics, last) }) {
		r.err = errStale // last is a number of another generation
	}
}

// confirm marks the subscriptions to topics as confirmed. Messages up to last are older than the
// subscriptions and are never delivered. The topics are read again after settleTime.
func (i *interest) confirm(topics []pubsub.Topic, last uint64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	var confirmed []pubsub.Topic
	for _, t := range topics {
		s := i.topics[t]
		if s == nil || s.confirmed {
			continue
		}
		s.confirmed = true
		s.last = max(s.last, last)
		confirmed = append(confirmed, t)
	}
	if len(confirmed) > 0 {
		i.client.resyncs.add(task{at: time.Now().Add(i.client.o.settleTime), cause: causeSubscription, topics: confirmed})
	}
}

// maxEnded is how many subscriptions end before waiting calls get a turn.
const maxEnded = 256

// endLingering ends the subscriptions that have lingered, and returns the time until the next
// one must end, or 0 if none lingers.
func (i *interest) endLingering(now time.Time) time.Duration {
	i.mu.Lock()
	defer i.mu.Unlock()
	for n := 0; n < maxEnded && len(i.lingering) > 0 && !now.Before(i.lingering[0].until); n++ {
		t := i.lingering[0].topic
		i.lingering = i.lingering[1:]
		s := i.topics[t]
		if s == nil || s.users > 0 {
			continue
		}
		if err := s.sub.Unsubscribe(); err != nil && i.client.life.Err() == nil && !isTransient(err) {
			i.client.report("unsubscribe failed", err)
		}
		delete(i.topics, t)
		i.count.Add(-1)
	}
	if len(i.lingering) == 0 {
		i.lingering = nil
		return 0
	}
	return max(1, i.lingering[0].until.Sub(now))
}

// all returns the subscribed topics. With newGeneration, it also forgets how far each has been
// delivered, because the numbers are of the old generation.
func (i *interest) all(newGeneration bool) []pubsub.Topic {
	i.mu.Lock()
	defer i.mu.Unlock()
	topics := make([]pubsub.Topic, 0, len(i.topics))
	for t, s := range i.topics {
		topics = append(topics, t)
		if newGeneration {
			s.last = 0
		}
	}
	return topics
}

// isNew reports whether t is subscribed to and the message seq has not been delivered.
func (i *interest) isNew(t pubsub.Topic, seq uint64) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	s := i.topics[t]
	return s != nil && seq > s.last
}

// advance records that the retained message seq of t is about to be delivered, if isNew, and
// that previous is the number of the message before it. gap reports whether that one was missed.
func (i *interest) advance(t pubsub.Topic, previous, seq uint64) (isNew, gap bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	s := i.topics[t]
	if s == nil || seq <= s.last {
		return false, false
	}
	gap = s.confirmed && previous > s.last
	s.last = seq
	return true, gap
}
