package hub

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"pubsub"
)

// If the newest retained messages alone take too much memory, they are forgotten, and
// read from the store for subscribers that have not received them. Losses are reported as
// usual. Trimming ends even if it can free nothing.
func TestForgottenNewestComesFromTheStore(t *testing.T) {
	const topics, limit = 50, 10_000
	store := newBackplane()
	h := New(Options{Backplane: store, Shards: 1, BacklogMemory: limit})
	p := newPeer(h, "")
	var single *peer
	for i := range topics {
		topic := pubsub.Topic(fmt.Sprintf("t%02d", i))
		p.resume(t, topic)
		if i == 0 {
			single = newPeer(h, "")
			single.resume(t, topic)
		}
	}
	p.drain()
	single.drain()
	for i := range topics {
		topic := pubsub.Topic(fmt.Sprintf("t%02d", i))
		r := retained(topic, uint64(i+1))
		r.Data = []byte(fmt.Sprintf("r%d", i+1))
		store.retain(r.Message)
		h.Deliver(plain(topic, "lost"))
		h.Deliver(r)
	}
	for i := range topics { // so that everything else is cut
		h.Deliver(plain(pubsub.Topic(fmt.Sprintf("t%02d", i)), strings.Repeat("x", 2000)))
	}
	if n := h.Stats().BacklogBytes; n > limit {
		t.Errorf("BacklogBytes = %d, the limit is %d", n, limit)
	}
	forgot := 0
	for _, s := range p.subs {
		if s.log.forgotNewest {
			forgot++
		}
	}
	if forgot < topics/2 {
		t.Fatalf("only %d of %d newest messages are forgotten, so the test tests nothing", forgot, topics)
	}
	h.pump()
	got, newest := map[pubsub.Topic]uint64{}, map[pubsub.Topic]string{}
	for _, d := range drainAll(h, p) {
		topic := d.Sub.Topic()
		got[topic] += d.Dropped
		if d.Message != nil && d.Message.Retain {
			if d.Initial {
				t.Errorf("%s: the replacement of a live message is marked as initial", topic)
			}
			newest[topic] = string(d.Message.Data)
		} else if d.Message != nil {
			got[topic]++
		}
	}
	for i := range topics {
		topic := pubsub.Topic(fmt.Sprintf("t%02d", i))
		if want := fmt.Sprintf("r%d", i+1); newest[topic] != want {
			t.Errorf("%s: newest retained message %q, want %q", topic, newest[topic], want)
		}
		if got[topic] != 2 {
			t.Errorf("%s: %d messages delivered or dropped, want 2", topic, got[topic])
		}
	}
	drainAll(h, single)
	h.check(t)
	closeAll(t, h, p, single)
}

// The store is read again if a newer message is forgotten while the store is read for the
// previous one.
func TestForgottenAgainDuringFetch(t *testing.T) {
	store := newBackplane()
	h, p, s := oneSubscriber(t, Options{Backplane: store})
	publish := func(seq uint64) {
		deliver(h, "t", fmt.Sprintf("a r%d b", seq))
		s.log.forgetAll(&h.backlog)
	}
	publish(1)
	store.retain(retained("t", 1).Message)
	store.onLast = func(context.Context) {
		if store.lastCalls.Load() == 1 {
			publish(2) // during the read
			return
		}
		store.retain(retained("t", 2).Message)
	}
	h.pump()
	expect(t, drainAll(h, p), "-4r2")
	if n := store.lastCalls.Load(); n != 2 {
		t.Errorf("the store is read %d times, want 2", n)
	}
	h.check(t)
	closeAll(t, h, p)
}

// If the store does not have the forgotten message any more, for example because it has
// expired, the loss is reported and the next message is delivered.
func TestForgottenAndNotInStore(t *testing.T) {
	store := newBackplane()
	h, p, s := oneSubscriber(t, Options{Backplane: store})
	deliver(h, "t", "a r1 b")
	s.log.forgetAll(&h.backlog)
	deliver(h, "t", "c")
	h.pump()
	expect(t, drainAll(h, p), "-2c")
	if n := store.lastCalls.Load(); n != 1 {
		t.Errorf("the store is read %d times, want 1", n)
	}
	h.check(t)
	closeAll(t, h, p)
}

// forgetAll makes l forget all messages, as trimming does if memory is short.
func (l *topicLog) forgetAll(b *backlog) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cutToSize(0, b)
	l.forgetNewest(b)
}
