package hub

import (
	"context"
	"errors"
	"testing"
	"time"
	"unsafe"

	"pubsub"
)

// Unsubscribe and Close in every state that a subscription can be in.
func TestLeave(t *testing.T) {
	states := []struct {
		name string
		to   func(h *Hub, p *peer, s *Subscription)
	}{
		{"held", func(*Hub, *peer, *Subscription) {}},
		{"held with news", func(h *Hub, p *peer, s *Subscription) { deliver(h, "t", "a r1"); h.pump() }},
		{"opened", func(h *Hub, p *peer, s *Subscription) { s.Resume(retained("t", 1), pubsub.Version{}) }},
		{"asleep", func(h *Hub, p *peer, s *Subscription) { s.Resume(nil, pubsub.Version{}); p.drain() }},
		{"news, not walked", func(h *Hub, p *peer, s *Subscription) {
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
		{"mid-read", func(h *Hub, p *peer, s *Subscription) {
			s.Resume(nil, pubsub.Version{})
			deliver(h, "t", "a b c d")
			h.pump()
			p.Read(make([]Delivery, 0, 2), 0, time.Now())
		}},
		{"cut off", func(h *Hub, p *peer, s *Subscription) {
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
					t.Error("Unsubscribe says true once")
				}
				h.check(t)
				s.Resume(retained("t", 9), pubsub.Version{}) // too late
				deliver(h, "t", "x")
				deliver(h, "other", "y")
				h.pump()
				expect(t, p.drain(), "y")
				h.check(t)

				// Back again, and gone by Close.
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
					t.Error("a closed member has something to do")
				}
				if _, err := p.Subscribe(t.Context(), "t", SubscriptionOptions{}); err == nil {
					t.Error("a closed member could subscribe")
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

// One of several ready subscriptions leaves; the others are read.
func TestUnsubscribeAmongReady(t *testing.T) {
	for _, gone := range []pubsub.Topic{"a", "b", "c"} {
		h := New(Options{Backplane: newBackplane(), Shards: 1})
		p := newPeer(h, "")
		want := ""
		for _, topic := range []pubsub.Topic{"a", "b", "c"} {
			p.resume(t, topic)
		}
		p.drain()
		for _, topic := range []pubsub.Topic{"a", "b", "c"} {
			deliver(h, topic, string(topic))
			if topic != gone {
				want += " " + string(topic)
			}
		}
		h.pump()
		p.Unsubscribe(gone)
		expect(t, p.drain(), want[1:])
		h.pump()
		if p.isAwake() {
			t.Error("awake with nothing to read")
		}
	}
}

// A walk that came by just before a member left does not wake it for nothing.
func TestUnsubscribeDuringWalk(t *testing.T) {
	h := New(Options{Backplane: newBackplane(), Shards: 1})
	p := newPeer(h, "")
	s := p.resume(t, "t")
	p.drain()
	deliver(h, "t", "a")
	batch, _ := s.log.walk(make([]*Subscription, 0, 1))
	p.Unsubscribe("t")
	p.queueUnread(batch[0])
	if p.isAwake() {
		t.Error("woken for a subscription that it has left")
	}
	h.check(t)
}

// The first subscription lies in the member, and no other one takes its place when
// it has left: the shard may have it in its hands.
func TestFirstSubscription(t *testing.T) {
	h := New(Options{Backplane: newBackplane(), Shards: 1})
	p := newPeer(h, "")
	first := p.resume(t, "t")
	if first != &p.first {
		t.Error("it does not lie in the member")
	}
	p.drain()
	deliver(h, "t", "a")
	batch, _ := first.log.walk(make([]*Subscription, 0, 1))
	p.Unsubscribe("t")
	second := p.resume(t, "u")
	if second == first {
		t.Error("another one has taken its place")
	}
	p.drain()
	p.queueUnread(batch[0])
	if p.isAwake() {
		t.Error("woken for a subscription that it has left")
	}
	deliver(h, "u", "b")
	h.pump()
	expect(t, p.drain(), "b")
	h.check(t)
	p.Close()
	h.checkEmpty(t)
}

// The first log lies in the topic, and no other one takes its place when it has been
// emptied; it keeps nobody who has left.
func TestFirstLog(t *testing.T) {
	h := New(Options{Backplane: newBackplane(), Shards: 2})
	a, b, c := newPeer(h, ""), newPeer(h, ""), newPeer(h, "") // a and c are of one shard, b is not
	first, other := a.resume(t, "t").log, b.resume(t, "t").log
	if first != &first.topic.firstLog || other == first {
		t.Error("the first log, and only that, is to lie in the topic")
	}
	a.Close()
	if again := c.resume(t, "t").log; again == first {
		t.Error("another log has taken its place")
	}
	a, _, c = newPeer(h, ""), newPeer(h, ""), newPeer(h, "")
	l := a.resume(t, "u").log
	if l.subsArray[0] == nil {
		t.Error("one member needs an array of its own")
	}
	if s := c.resume(t, "u"); s.log != l || l.subsArray[0] != nil {
		t.Error("of two members the first is kept")
	}
	h.check(t)
}

// The name of a topic must not keep the request alive that it was a part of.
func TestTopicIsACopy(t *testing.T) {
	h := New(Options{Backplane: newBackplane()})
	topic := pubsub.Topic("topic=demo&auth=x")[6:10]
	s := newPeer(h, "").subscribe(t, topic)
	if s.Topic() != topic {
		t.Errorf("Topic() = %q", s.Topic())
	}
	if unsafe.StringData(string(s.Topic())) == unsafe.StringData(string(topic)) {
		t.Error("the topic is a part of the request")
	}
}

func TestSubscribeAfterCloseLeavesNothing(t *testing.T) {
	b := newBackplane()
	h := New(Options{Backplane: b})
	p := newPeer(h, "")
	b.onSubscribe = func(context.Context, pubsub.Topic) error { p.Close(); return nil }
	if _, err := p.Subscribe(t.Context(), "t", SubscriptionOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Subscribe of a member that closes meanwhile: %v", err)
	}
	h.checkEmpty(t)
	if wants, drops := b.counts("t"); wants != 1 || drops != 1 {
		t.Errorf("%d wants, %d drops", wants, drops)
	}
}

// Two calls for one topic at once make one subscription.
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
		t.Error("one topic, two subscriptions")
	}
	h.check(t)
	if n := h.Stats().Subscriptions; n != 1 {
		t.Errorf("%d subscriptions, want 1", n)
	}
	p.Close()
	h.checkEmpty(t)
}

// What one idle subscriber of one topic costs. To grow it is a decision: it is
// paid a million times.
func TestSizes(t *testing.T) {
	for _, c := range []struct {
		what      string
		size, max uintptr
	}{
		{"Member", unsafe.Sizeof(Subscriber{}), 200}, // with its first Subscription
		{"Subscription", unsafe.Sizeof(Subscription{}), 80},
		{"topicLog", unsafe.Sizeof(topicLog{}), 176},
		{"topic", unsafe.Sizeof(topic{}), 208}, // with its first log
	} {
		t.Logf("%s: %d bytes", c.what, c.size)
		if c.size > c.max {
			t.Errorf("%s takes %d bytes, more than %d", c.what, c.size, c.max)
		}
	}
}
