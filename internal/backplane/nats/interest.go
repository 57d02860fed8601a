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

const (
	// inboxMessages is how many messages may wait for this node to take them; with
	// more, it is slow and they are lost.
	inboxMessages = 8192
	// lookAgainAfter is when a topic is read once more after this node has begun to
	// want it: meanwhile the interest has reached all servers.
	lookAgainAfter = 2 * time.Second
)

// interest keeps which topics this node wants to be told of, and how far it has
// been told. All of them are subscribed to on one channel.
type interest struct {
	// immutable
	link     *link
	messages chan *natsgo.Msg
	more     chan struct{} // one slot: somebody waits, or something was dropped
	joined   chan struct{} // one slot: there is a topic to be looked at again

	// count is the number of topics. mu is held while the library subscribes, which
	// waits while the library connects.
	count atomic.Int64

	mu      sync.Mutex
	topics  map[pubsub.Topic]*wanted // guarded by mu
	waiting *flush                   // guarded by mu: for those who come now; nil if there is nobody
	dropped []timed                  // guarded by mu: topics dropped, the first one first
	again   []timed                  // guarded by mu: topics to be looked at again
}

// wanted is a topic that this node is told of; it is guarded by interest.mu.
type wanted struct {
	sub       *natsgo.Subscription
	wants     int
	confirmed bool // a flush has shown that the server knows of the subscription
	// last is the sequence number of the newest retained message that this node has
	// delivered, or that was there before it wanted the topic.
	last uint64
}

// timed is a topic, and when something is due for it.
type timed struct {
	topic pubsub.Topic
	at    time.Time
}

// flush is a round trip that those share who want topics at the same time.
type flush struct {
	topics []pubsub.Topic // guarded by interest.mu until it has begun
	done   chan struct{}  // closed when err is set
	err    error
}

func newInterest(l *link) *interest {
	return &interest{
		link:     l,
		messages: make(chan *natsgo.Msg, inboxMessages),
		more:     make(chan struct{}, 1),
		joined:   make(chan struct{}, 1),
		topics:   map[pubsub.Topic]*wanted{},
	}
}

// want subscribes to t and returns once the server knows of it, trying again until
// ctx is done.
func (w *interest) want(ctx context.Context, t pubsub.Topic) error {
	if err := w.link.await(ctx); err != nil {
		return err
	}
	w.mu.Lock()
	one := w.topics[t]
	if one == nil {
		sub, err := w.link.nc.ChanSubscribe(w.link.names.wanted(t), w.messages)
		if err != nil {
			w.mu.Unlock()
			return err
		}
		one = &wanted{sub: sub}
		w.topics[t] = one
		w.count.Add(1)
	}
	one.wants++
	confirmed := one.confirmed
	w.mu.Unlock()
	for !confirmed {
		err := w.flush(ctx, t)
		if err == nil {
			break
		}
		if !passing(err) || !pause(ctx, 20*time.Millisecond) {
			w.drop(t)
			return err
		}
	}
	return nil
}

// flush waits for the next round trip that begins.
func (w *interest) flush(ctx context.Context, t pubsub.Topic) error {
	w.mu.Lock()
	f := w.waiting
	if f == nil {
		f = &flush{done: make(chan struct{})}
		w.waiting = f
		kick(w.more)
	}
	f.topics = append(f.topics, t)
	w.mu.Unlock()
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return fmt.Errorf("subscribing in NATS: %w", context.Cause(ctx))
	}
}

// drop undoes one want.
func (w *interest) drop(t pubsub.Topic) {
	w.mu.Lock()
	defer w.mu.Unlock()
	one := w.topics[t]
	if one == nil || one.wants == 0 {
		panic("nats: Unsubscribe without Subscribe")
	}
	if one.wants--; one.wants == 0 {
		w.dropped = append(w.dropped, timed{t, time.Now().Add(w.link.o.Linger)})
		if len(w.dropped) == 1 {
			kick(w.more)
		}
	}
}

// run flushes for those who wait, and ends the subscriptions of topics that nobody
// has wanted for a while, until Close.
func (w *interest) run() {
	linger := time.NewTimer(0)
	defer linger.Stop()
	for {
		select {
		case <-w.link.life.Done():
			return
		case <-w.more:
		case <-linger.C:
		}
		w.mu.Lock()
		f := w.waiting
		w.waiting = nil
		w.mu.Unlock()
		if f != nil {
			w.roundTrip(f)
		}
		next := w.link.o.Linger
		if w.link.isUp() { // the library does not wait for a connection
			next = w.forgetDropped(time.Now())
		}
		if next > 0 {
			linger.Reset(next)
		}
	}
}

// roundTrip shows that the server has the subscriptions of f, and finds out what
// was there before.
func (w *interest) roundTrip(f *flush) {
	ctx, cancel := context.WithTimeout(w.link.life, readTimeout)
	defer cancel()
	defer close(f.done)
	if f.err = w.link.await(ctx); f.err != nil {
		return
	}
	soon, cancel := w.link.request(ctx, readTimeout)
	defer cancel()
	if f.err = w.link.nc.FlushWithContext(soon); f.err != nil {
		return
	}
	var last uint64
	generation := w.link.epoch.current()
	if last, f.err = w.link.position(ctx); f.err != nil {
		return
	}
	if !w.link.epoch.within(generation, func() { w.confirm(f.topics, last) }) {
		f.err = errStale // last is a number of another generation
	}
}

// confirm notes that the server has the subscriptions of topics, and that what the
// stream has up to last is no news of them.
func (w *interest) confirm(topics []pubsub.Topic, last uint64) {
	at := time.Now().Add(lookAgainAfter)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range topics {
		one := w.topics[t]
		if one == nil || one.confirmed {
			continue
		}
		one.confirmed = true
		one.last = max(one.last, last)
		w.again = append(w.again, timed{t, at})
	}
	kick(w.joined)
}

// dropPiece is how many topics are forgotten before others get a turn.
const dropPiece = 256

// forgetDropped ends the subscriptions that are due, and returns when the next one
// is; 0 if there is none.
func (w *interest) forgetDropped(now time.Time) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range due(&w.dropped, now, dropPiece) {
		one := w.topics[t]
		if one == nil || one.wants > 0 {
			continue
		}
		if err := one.sub.Unsubscribe(); err != nil && w.link.life.Err() == nil && !passing(err) {
			w.link.report("unsubscribe failed", err)
		}
		delete(w.topics, t)
		w.count.Add(-1)
	}
	if len(w.dropped) == 0 {
		w.dropped = nil
		return 0
	}
	return max(1, w.dropped[0].at.Sub(now))
}

// lookAgain returns the topics that are to be looked at again, and when there will
// be more; 0 if there will be none.
func (w *interest) lookAgain(now time.Time) ([]pubsub.Topic, time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	topics := due(&w.again, now, len(w.again))
	if len(w.again) == 0 {
		w.again = nil
		return topics, 0
	}
	return topics, max(1, w.again[0].at.Sub(now))
}

// due takes from the beginning of queue up to limit topics whose time has come.
func due(queue *[]timed, now time.Time, limit int) (topics []pubsub.Topic) {
	n := 0
	for n < len(*queue) && n < limit && !now.Before((*queue)[n].at) {
		topics = append(topics, (*queue)[n].topic)
		n++
	}
	*queue = (*queue)[n:]
	return topics
}

// all returns the wanted topics. With forget, all that they retain is to be
// delivered again, because it is of a new generation.
func (w *interest) all(forget bool) []pubsub.Topic {
	w.mu.Lock()
	defer w.mu.Unlock()
	topics := make([]pubsub.Topic, 0, len(w.topics))
	for t, one := range w.topics {
		topics = append(topics, t)
		if forget {
			one.last = 0
		}
	}
	return topics
}

// newer reports whether t is wanted and seq would be news of it.
func (w *interest) newer(t pubsub.Topic, seq uint64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	one := w.topics[t]
	return one != nil && seq > one.last
}

// told notes that the retained message seq of t is about to be delivered, and that
// the one before it was before. It is not to be if it is no news; gap says that the
// one before it never came.
func (w *interest) told(t pubsub.Topic, before, seq uint64) (news, gap bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	one := w.topics[t]
	if one == nil || seq <= one.last {
		return false, false
	}
	gap = one.confirmed && before > one.last
	one.last = seq
	return true, gap
}
