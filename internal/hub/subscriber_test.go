package hub

import (
	"context"
	"errors"
	"testing"
	"time"
	"unsafe"

	"pubsub"
)

// Unsubscribe and Close end a subscription in every state.
func TestLeave(t *testing.T) {
	states := []struct {
		name string
		to   func(h *Hub, p *peer, s *Subscription)
	}{
		{"paused", func(*Hub, *peer, *Subscription) {}},
		{"paused, with messages", func(h *Hub, p *peer, s *Subscription) { deliver(h, "t", "a r1"); h.pump() }},
		{"resumed", func(h *Hub, p *peer, s *Subscription) { s.Resume(retained("t", 1), pubsub.Version{}) }},
		{"asleep", func(h *Hub, p *peer, s *Subscription) { s.Resume(nil, pubsub.Version{}); p.drain() }},
		{"messages, not woken", func(h *Hub, p *peer, s *Subscription) {
			s.Resume(nil, pubsub.Version{})
			p.drain()
			deliver(h, "t", "a r1")
		}},
		{"awake", func(h *Hub, p *peer, s *Subscription) {
			s.Resume(nil, pubsub.Version{})
			p.drain()
			deliver(h, "t", "a r1")
			h.pump()
		}},
		{"partly read", func(h *Hub, p *peer, s *Subscription) {
			s.Resume(nil, pubsub.Version{})
			deliver(h, "t", "a b c d")
			h.pump()
			p.Read(make([]Delivery, 0, 2), 0, time.Now())
		}},
		{"cut", func(h *Hub, p *peer, s *Subscription) {
			s.Resume(nil, pubsub.Version{})
			deliver(h, "t", "a r1 b c")
			s.log.cut(0, 0, &h.backlog)
			h.pump()
		}},
	}
	for _, st := range states {
		for _, others := range []int{0, 1, 3} {
			t.Run(st.name, func(t *testing.T) {
				h := New(Options{Backplane: newBackplane(), Shards: 1})
				var rest []*peer
				for range others {
					p := newPeer(h, "")
					p.resume(t, "t")
					rest = append(rest, p)
				}
				p := newPeer(h, "")
				p.resume(t, "other")
				p.drain()
				s := p.subscribe(t, "t")
				st.to(h, p, s)
				if !p.Unsubscribe("t") || p.Unsubscribe("t") {
					t.Error("Unsubscribe must report true exactly once")
				}
				h.check(t)
				s.Resume(retained("t", 9), pubsub.Version{}) // too late
				deliver(h, "t", "x")
				deliver(h, "other", "y")
				h.pump()
				expect(t, p.drain(), "y")
				h.check(t)

				// Subscribe again, then Close.
				st.to(h, p, p.subscribe(t, "t"))
				p.Close()
				p.Close()
				h.check(t)
				wakes := p.wakes.Load()
				deliver(h, "t", "x")
				deliver(h, "other", "y")
				h.pump()
				p.Notify()
				p.SetDeadline(time.Now())
				s.Resume(retained("t", 9), pubsub.Version{})
				if p.wakes.Load() != wakes {
					t.Error("woken after Close")
				}
				for range 3 {
					ds, _ := p.Read(make([]Delivery, 0, 4), 0, time.Now())
					expect(t, ds, "")
				}
				if _, asleep := p.Read(nil, 0, time.Now()); !asleep {
					t.Error("a closed subscriber is not asleep")
				}
				if _, err := p.Subscribe(t.Context(), "t", SubscriptionOptions{}); err == nil {
					t.Error("Subscribe succeeds after Close")
				}
				for _, p := range rest {
					p.drain()
					p.Close()
				}
				h.checkEmpty(t)
			})
		}
	}
}

// One of several ready subscriptions ends. The others are still read.
func TestUnsubscribeAmongReady(t *testing.T) {
	for _, removed := range []pubsub.Topic{"a", "b", "c"} {
		h := New(Options{Backplane: newBackplane(), Shards: 1})
		p := newPeer(h, "")
		want := ""
		for _, topic := range []pubsub.Topic{"a", "b", "c"} {
			p.resume(t, topic)
		}
		p.drain()
		for _, topic := range []pubsub.Topic{"a", "b", "c"} {
			deliver(h, topic, string(topic))
			if topic != removed {
				want += " " + string(topic)
			}
		}
		h.pump()
		p.Unsubscribe(removed)
		expect(t, p.drain(), want[1:])
		h.pump()
		if p.isAwake() {
			t.Error("awake with nothing to read")
		}
	}
}

// A walk has passed a subscription just before it ends. The subscriber is not woken.
func TestUnsubscribeDuringWalk(t *testing.T) {
	h, p, s := oneSubscriber(t, Options{})
	deliver(h, "t", "a")
	batch, _ := s.log.walk(make([]*Subscription, 0, 1))
	p.Unsubscribe("t")
	p.queueUnread(batch[0])
	if p.isAwake() {
		t.Error("woken for a subscription that has ended")
	}
	h.check(t)
}

// The first subscription is a field of the subscriber. The field is not used again after
// it has ended, because the shard may still access it.
func TestFirstSubscription(t *testing.T) {
	h := New(Options{Backplane: newBackplane(), Shards: 1})
	p := newPeer(h, "")
	first := p.resume(t, "t")
	if first != &p.first {
		t.Error("the first subscription is not the field")
	}
	p.drain()
	deliver(h, "t", "a")
	batch, _ := first.log.walk(make([]*Subscription, 0, 1))
	p.Unsubscribe("t")
	second := p.resume(t, "u")
	if second == first {
		t.Error("the second subscription uses the same memory")
	}
	p.drain()
	p.queueUnread(batch[0])
	if p.isAwake() {
		t.Error("woken for a subscription that has ended")
	}
	deliver(h, "u", "b")
	h.pump()
	expect(t, p.drain(), "b")
	h.check(t)
	closeAll(t, h, p)
}

// The first log is a field of the topic. The field is not used again after the log has
// become empty. Its array does not keep subscribers that have left in memory.
func TestFirstLog(t *testing.T) {
	h := New(Options{Backplane: newBackplane(), Shards: 2})
	a, b, c := newPeer(h, ""), newPeer(h, ""), newPeer(h, "") // a and c are in one shard, b in the other
	first, other := a.resume(t, "t").log, b.resume(t, "t").log
	if first != &first.topic.firstLog || other == first {
		t.Error("the first log must be the field, the second must not")
	}
	a.Close()
	if again := c.resume(t, "t").log; again == first {
		t.Error("the third log uses the same memory")
	}
	a, _, c = newPeer(h, ""), newPeer(h, ""), newPeer(h, "")
	l := a.resume(t, "u").log
	if l.subsArray[0] == nil {
		t.Error("the log of one subscriber has allocated an array")
	}
	if s := c.resume(t, "u"); s.log != l || l.subsArray[0] != nil {
		t.Error("the array still refers to a subscriber")
	}
	h.check(t)
}

// A topic does not keep the request that its name was a part of in memory.
func TestTopicIsACopy(t *testing.T) {
	h := New(Options{Backplane: newBackplane()})
	topic := pubsub.Topic("topic=demo&auth=x")[6:10]
	s := newPeer(h, "").subscribe(t, topic)
	if s.Topic() != topic {
		t.Errorf("Topic() = %q", s.Topic())
	}
	if unsafe.StringData(string(s.Topic())) == unsafe.StringData(string(topic)) {
		t.Error("the topic shares the memory of the request")
	}
}

func TestSubscribeAfterCloseLeavesNothing(t *testing.T) {
	b := newBackplane()
	h := New(Options{Backplane: b})
	p := newPeer(h, "")
	b.onSubscribe = func(context.Context, pubsub.Topic) error { p.Close(); return nil }
	if _, err := p.Subscribe(t.Context(), "t", SubscriptionOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Subscribe during Close: %v", err)
	}
	h.checkEmpty(t)
	b.expectCalls(t, "t", 1, 1)
}

// Concurrent calls of Subscribe for the same topic return the same subscription.
func TestConcurrentSubscribesMakeOneSubscription(t *testing.T) {
	b := newBackplane()
	h := New(Options{Backplane: b})
	p := newPeer(h, "")
	entered, leave := make(chan struct{}), make(chan struct{})
	b.onSubscribe = func(context.Context, pubsub.Topic) error { close(entered); <-leave; return nil }
	subs := make(chan *Subscription)
	subscribe := func(id uint32) {
		s, err := p.Subscribe(t.Context(), "t", SubscriptionOptions{ID: id})
		if err != nil {
			t.Errorf("Subscribe: %v", err)
		}
		subs <- s
	}
	go subscribe(1)
	<-entered
	go subscribe(2)
	awaitJoins(t, h, "t", 2)
	close(leave)
	if a, b := <-subs, <-subs; a != b {
		t.Error("two subscriptions to one topic")
	}
	h.check(t)
	if n := h.Stats().Subscriptions; n != 1 {
		t.Errorf("%d subscriptions, want 1", n)
	}
	closeAll(t, h, p)
}

// The sizes bound the memory of an idle subscriber of one topic. They are small on
// purpose, because there may be a million of them.
func TestSizes(t *testing.T) {
	for _, c := range []struct {
		name      string
		size, max uintptr
	}{
		{"Subscriber", unsafe.Sizeof(Subscriber{}), 200}, // with its first Subscription
		{"Subscription", unsafe.Sizeof(Subscription{}), 80},
		{"topicLog", unsafe.Sizeof(topicLog{}), 176},
		{"topic", unsafe.Sizeof(topic{}), 208}, // with its first log
	} {
		t.Logf("%s: %d bytes", c.name, c.size)
		if c.size > c.max {
			t.Errorf("%s has %d bytes, want at most %d", c.name, c.size, c.max)
		}
	}
}
