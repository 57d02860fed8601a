package hub

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"pubsub"
)

// If the newest retained messages alone take too much, they are forgotten, and read from
// the store again for members that have not had them. The number of lost messages is
// reported as usual. Trimming ends even if nothing can be freed.
func TestForgottenNewestComesFromTheStore(t *testing.T) {
	const topics, limit = 50, 10_000
	plane := newBackplane()
	h := New(Options{Backplane: plane, Shards: 1, BacklogMemory: limit})
	p := newPeer(h, "")
	var own *peer
	for i := range topics {
		topic := pubsub.Topic(fmt.Sprintf("t%02d", i))
		p.resume(t, topic)
		if i == 0 {
			own = newPeer(h, "")
			own.resume(t, topic)
		}
	}
	p.drain()
	own.drain()
	for i := range topics {
		topic := pubsub.Topic(fmt.Sprintf("t%02d", i))
		r := retained(topic, uint64(i+1))
		r.Data = []byte(fmt.Sprintf("r%d", i+1))
		plane.retain(r.Message)
		h.Deliver(plain(topic, "lost"))
		h.Deliver(r)
	}
	for i := range topics { // more and more, so that all else is cut
		h.Deliver(plain(pubsub.Topic(fmt.Sprintf("t%02d", i)), strings.Repeat("x", 2000)))
	}
	if n := h.Stats().BacklogBytes; n > limit {
		t.Errorf("%d bytes are kept, the limit is %d", n, limit)
	}
	forgot := 0
	for _, s := range p.subs {
		if s.log.forgotNewest {
			forgot++
		}
	}
	if forgot < topics/2 {
		t.Fatalf("%d newest messages of %d are forgotten: the test does not test", forgot, topics)
	}
	h.pump()
	got, newest := map[pubsub.Topic]uint64{}, map[pubsub.Topic]string{}
	for _, d := range drainAll(h, p) {
		topic := d.Sub.Topic()
		got[topic] += d.Dropped
		if d.Message != nil && d.Message.Retain {
			if d.Initial {
				t.Errorf("%s: what replaces a live message is given as what was retained", topic)
			}
			newest[topic] = string(d.Message.Data)
		} else if d.Message != nil {
			got[topic]++
		}
	}
	for i := range topics {
		topic := pubsub.Topic(fmt.Sprintf("t%02d", i))
		if want := fmt.Sprintf("r%d", i+1); newest[topic] != want {
			t.Errorf("%s: the newest retained message is %q, want %q", topic, newest[topic], want)
		}
		if got[topic] != 2 {
			t.Errorf("%s: %d messages came or were said to be lost, want 2", topic, got[topic])
		}
	}
	drainAll(h, own)
	h.check(t)
	p.Close()
	own.Close()
	h.checkEmpty(t)
}

// A newer message that is forgotten as well, while the store is read for the one
// before it, is read again.
func TestForgottenAgainDuringFetch(t *testing.T) {
	plane := newBackplane()
	h := New(Options{Backplane: plane, Shards: 1})
	p := newPeer(h, "")
	s := p.resume(t, "t")
	p.drain()
	publish := func(seq uint64) {
		deliver(h, "t", fmt.Sprintf("a r%d b", seq))
		s.log.mu.Lock()
		s.log.cutToSize(0, &h.backlog)
		s.log.forgetNewest(&h.backlog)
		s.log.mu.Unlock()
	}
	publish(1)
	plane.retain(retained("t", 1).Message)
	plane.onLast = func(context.Context) {
		if plane.lastCalls.Load() == 1 {
			publish(2) // behind the back of the read
			return
		}
		plane.retain(retained("t", 2).Message)
	}
	h.pump()
	expect(t, drainAll(h, p), "-4r2")
	if n := plane.lastCalls.Load(); n != 2 {
		t.Errorf("the store is read %d times, want 2", n)
	}
	h.check(t)
	p.Close()
	h.checkEmpty(t)
}

// The store may have nothing in place of a forgotten message, for example because it has
// expired. The loss is reported, and the next message is delivered.
func TestForgottenAndNotInStore(t *testing.T) {
	plane := newBackplane()
	h := New(Options{Backplane: plane, Shards: 1})
	p := newPeer(h, "")
	s := p.resume(t, "t")
	p.drain()
	deliver(h, "t", "a r1 b")
	s.log.mu.Lock()
	s.log.cutToSize(0, &h.backlog)
	s.log.forgetNewest(&h.backlog)
	s.log.mu.Unlock()
	deliver(h, "t", "c")
	h.pump()
	expect(t, drainAll(h, p), "-2c")
	if n := plane.lastCalls.Load(); n != 1 {
		t.Errorf("the store is read %d times, want 1", n)
	}
	h.check(t)
	p.Close()
	h.checkEmpty(t)
}
