package hub

import (
	"context"
	"errors"
	"math"
	"slices"
	"testing"
	"time"
	"unsafe"

	"pubsub"
)

func version(seq uint64) pubsub.Version { return pubsub.Version{Generation: gen, Seq: seq} }

// What Open is given, what was published before it, and what is read. Of what is
// published in these tests each is a second younger than the one before; initial
// is older than all of it, or as old as the message of its version.
func TestOpen(t *testing.T) {
	other := pubsub.Version{Generation: gen + 1, Seq: 9}
	for _, c := range []struct {
		name    string
		initial uint64 // the version of what is retained, 0 for none
		seen    pubsub.Version
		before  string // published between Subscribe and Open
		after   string
		want    string
	}{
		{"nothing", 0, pubsub.Version{}, "", "", ""},
		{"nothing retained", 0, pubsub.Version{}, "a r2", "b", "a r2 b"},
		{"initial", 1, pubsub.Version{}, "", "", "*r1"},
		{"initial, seen as Last says", 3, version(3), "", "r3 r4", "*r3 r4"},
		// The client may know already that it subscribes: nothing may be missing.
		{"initial from before", 1, pubsub.Version{}, "a b", "c", "*r1 a b c"},
		{"initial from before, and a newer one", 1, pubsub.Version{}, "a r2", "b", "*r1 a r2 b"},
		{"initial comes through the log too", 2, pubsub.Version{}, "a r2 b", "r3", "a *r2 b r3"},
		{"initial comes through the log, and a newer one", 2, pubsub.Version{}, "a r2 b r3 c", "d", "a *r2 b r3 c d"},
		{"the log brings older ones", 2, pubsub.Version{}, "r1 a r2", "b", "r1 a *r2 b"},
		// Whoever passes seen has not told the client.
		{"behind what was seen", 0, version(5), "a r4 b r5 c", "r6", "c r6"},
		{"what was seen is from before", 0, version(5), "a b", "c r6", "c r6"},
		{"what was seen is from before, a newer one came", 0, version(5), "a r6 b", "c", "r6 b c"},
		{"what was seen is still to come", 0, version(5), "a r4", "r5 b", "b"},
		{"seen in another generation", 1, other, "", "r2", "*r1 r2"},
		{"seen in another generation, nothing retained", 0, other, "", "r2", "r2"},
		{"newer than seen", 6, version(5), "r5 a r6", "b", "a *r6 b"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := New(Options{Backplane: newPlane(), Shards: 1})
			p := newPeer(h, "")
			s := p.subscribe(t, "t")
			clock := time.Now()
			var initial *pubsub.PreparedMessage
			if c.initial > 0 {
				initial = retained("t", c.initial)
				initial.Published = clock
			}
			publish := func(script string) {
				for _, parcel := range parse("t", script) {
					clock = clock.Add(time.Second)
					parcel.Published = clock
					if initial != nil && parcel.Version == initial.Version {
						initial.Published = clock
					}
					h.Deliver(parcel)
				}
				h.pump()
			}
			publish(c.before)
			if p.isAwake() || p.wakes.Load() != 0 {
				t.Error("woken for a subscription that is held")
			}
			s.Resume(initial, c.seen)
			h.check(t)
			if !p.isAwake() || p.wakes.Load() != 1 {
				t.Error("Open did not wake")
			}
			publish(c.after)
			expect(t, p.drain(), c.want)
			h.check(t)
			p.Close()
			h.checkEmpty(t)
		})
	}
}

// What is retained was stored but had not come here when the member joined: what
// its publisher published before that keeps its place.
func TestOpenBeforeInitialCame(t *testing.T) {
	h := New(Options{Backplane: newPlane(), Shards: 1})
	p := newPeer(h, "")
	s := p.subscribe(t, "t")
	start := time.Now()
	at := func(p *pubsub.PreparedMessage, seconds int) *pubsub.PreparedMessage {
		p.Published = start.Add(time.Duration(seconds) * time.Second)
		return p
	}
	h.Deliver(at(plain("t", "a"), 1))
	s.Resume(at(retained("t", 2), 2), pubsub.Version{})
	h.Deliver(at(retained("t", 2), 2))
	h.Deliver(at(plain("t", "b"), 3))
	h.pump()
	expect(t, p.drain(), "a *r2 b")
	h.check(t)
}

// What was cut off while a subscription was held is told, and the newest one takes
// the place of the initial one.
func TestOpenAfterCut(t *testing.T) {
	for _, c := range []struct {
		initial uint64
		seen    pubsub.Version
		before  string
		want    string
	}{
		{1, pubsub.Version{}, "a b c d e", "*r1 -2c d e"},
		{1, pubsub.Version{}, "a r2 b c d e", "*r1 -2r2 c d e"},
		{2, pubsub.Version{}, "a r2 b c d e", "*r2 -2c d e"},
		{0, version(2), "a r2 b c d e", "c d e"},
		{0, version(1), "a r2 b c d e", "-2r2 c d e"},
		{0, version(1), "a b c d e", ""},
	} {
		h := New(Options{Backplane: newPlane(), Shards: 1, SubscriberBuffer: room(3)})
		p := newPeer(h, "")
		s := p.subscribe(t, "t")
		for i, parcel := range parse("t", c.before) {
			parcel.Published = time.Unix(int64(100+i), 0)
			h.Deliver(parcel)
		}
		var initial *pubsub.PreparedMessage
		if c.initial > 0 {
			initial = retained("t", c.initial)
			initial.Published = time.Unix(int64(98+c.initial), 0)
		}
		s.Resume(initial, c.seen)
		h.check(t)
		expect(t, p.drain(), c.want)
		h.check(t)
	}
}

// Who subscribes again is given again what is retained, but never anything older
// than it has had (MQTT 5.0 section 3.8.4, Retain Handling 0).
func TestOpenAgain(t *testing.T) {
	h := New(Options{Backplane: newPlane(), Shards: 1})
	p := newPeer(h, "")
	s := p.open(t, "t")
	again := func(initial *pubsub.PreparedMessage, want string) {
		t.Helper()
		if p.subscribe(t, "t") != s {
			t.Fatal("subscribing again made another subscription")
		}
		s.Resume(initial, pubsub.Version{})
		expect(t, p.drain(), want)
	}
	again(retained("t", 3), "*r3")
	again(retained("t", 3), "*r3")
	again(nil, "")
	deliver(h, "t", "r4")
	again(retained("t", 3), "*r3 r4") // not read yet when it subscribed again
	again(retained("t", 3), "")       // read before the new one came from the store
	again(retained("t", 4), "*r4")
	h.Deliver(retained("t", 4))
	h.pump()
	expect(t, p.drain(), "") // a repair brings it again
	restored := pubsub.NewPreparedMessage(pubsub.Message{Topic: "t", Data: []byte("new life"), Retain: true,
		Version: pubsub.Version{Generation: gen + 1, Seq: 1}})
	again(restored, "*new life")
	if n := h.Stats().Subscriptions; n != 1 {
		t.Errorf("%d subscriptions, want 1", n)
	}
}

func TestLast(t *testing.T) {
	b := newPlane()
	b.last["t"] = retained("t", 5).Message
	h := New(Options{Backplane: b})
	s := newPeer(h, "").subscribe(t, "t")
	if p, v, err := s.Last(t.Context(), pubsub.Version{}); err != nil || p == nil || string(p.Data) != "r5" || v != version(5) {
		t.Errorf("Last = %v, %v, %v; want r5", p, v, err)
	}
	if p, v, err := s.Last(t.Context(), version(5)); err != nil || p != nil || v != version(5) {
		t.Errorf("Last after the newest = %v, %v, %v; want nothing newer", p, v, err)
	}
	b.err = errors.New("no store")
	if p, _, err := s.Last(t.Context(), pubsub.Version{}); !errors.Is(err, b.err) || p != nil {
		t.Errorf("Last = %v, %v; want the store's error", p, err)
	}
}

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
				h := New(Options{Backplane: newPlane(), Shards: 1})
				var rest []*peer
				for range others {
					p := newPeer(h, "")
					p.open(t, "t")
					rest = append(rest, p)
				}
				p := newPeer(h, "")
				p.open(t, "other")
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
		h := New(Options{Backplane: newPlane(), Shards: 1})
		p := newPeer(h, "")
		want := ""
		for _, topic := range []pubsub.Topic{"a", "b", "c"} {
			p.open(t, topic)
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
	h := New(Options{Backplane: newPlane(), Shards: 1})
	p := newPeer(h, "")
	s := p.open(t, "t")
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
	h := New(Options{Backplane: newPlane(), Shards: 1})
	p := newPeer(h, "")
	first := p.open(t, "t")
	if first != &p.first {
		t.Error("it does not lie in the member")
	}
	p.drain()
	deliver(h, "t", "a")
	batch, _ := first.log.walk(make([]*Subscription, 0, 1))
	p.Unsubscribe("t")
	second := p.open(t, "u")
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
	h := New(Options{Backplane: newPlane(), Shards: 2})
	a, b, c := newPeer(h, ""), newPeer(h, ""), newPeer(h, "") // a and c are of one shard, b is not
	first, other := a.open(t, "t").log, b.open(t, "t").log
	if first != &first.topic.firstLog || other == first {
		t.Error("the first log, and only that, is to lie in the topic")
	}
	a.Close()
	if again := c.open(t, "t").log; again == first {
		t.Error("another log has taken its place")
	}
	a, _, c = newPeer(h, ""), newPeer(h, ""), newPeer(h, "")
	l := a.open(t, "u").log
	if l.subsArray[0] == nil {
		t.Error("one member needs an array of its own")
	}
	if s := c.open(t, "u"); s.log != l || l.subsArray[0] != nil {
		t.Error("of two members the first is kept")
	}
	h.check(t)
}

// The name of a topic must not keep the request alive that it was a part of.
func TestTopicIsACopy(t *testing.T) {
	h := New(Options{Backplane: newPlane()})
	topic := pubsub.Topic("topic=demo&auth=x")[6:10]
	s := newPeer(h, "").subscribe(t, topic)
	if s.Topic() != topic {
		t.Errorf("Topic() = %q", s.Topic())
	}
	if unsafe.StringData(string(s.Topic())) == unsafe.StringData(string(topic)) {
		t.Error("the topic is a part of the request")
	}
}

// A kick at any moment has the holder look once more before it sleeps.
func TestKick(t *testing.T) {
	h := New(Options{Backplane: newPlane(), Shards: 1})
	p := newPeer(h, "")
	p.Notify()
	if p.wakes.Load() != 1 {
		t.Fatal("a kick did not wake")
	}
	p.Notify()
	if p.wakes.Load() != 1 {
		t.Error("woken twice without having slept")
	}
	read := func(want bool) {
		t.Helper()
		if _, asleep := p.Read(make([]Delivery, 0, 2), 0, time.Now()); asleep != want {
			t.Errorf("asleep is %v, want %v", asleep, want)
		}
	}
	read(false) // the kicks
	p.Notify()  // between the last look and sleep
	read(false)
	read(true)
	p.Notify()
	if p.wakes.Load() != 2 {
		t.Error("a kick of one who sleeps did not wake")
	}
	// A kick while there are messages is not lost among them.
	p.open(t, "t")
	deliver(h, "t", "a")
	h.pump()
	if p.wakes.Load() != 2 {
		t.Error("woken without having slept")
	}
	read(false) // the message
	read(false) // the kick
	read(true)
	// News between the last look and sleep.
	deliver(h, "t", "b")
	h.pump()
	if p.wakes.Load() != 3 {
		t.Error("news did not wake")
	}
	read(false)
	deliver(h, "t", "c")
	h.pump()
	read(false)
	read(true)
}

func TestSubscribeAfterCloseLeavesNothing(t *testing.T) {
	b := newPlane()
	h := New(Options{Backplane: b})
	p := newPeer(h, "")
	b.want = func(context.Context, pubsub.Topic) error { p.Close(); return nil }
	if _, err := p.Subscribe(t.Context(), "t", SubscriptionOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Subscribe of a member that closes meanwhile: %v", err)
	}
	h.checkEmpty(t)
	if wants, drops := b.counts("t"); wants != 1 || drops != 1 {
		t.Errorf("%d wants, %d drops", wants, drops)
	}
}

// Two calls for one topic at once make one subscription.
func TestSubscribeTwin(t *testing.T) {
	b := newPlane()
	h := New(Options{Backplane: b})
	p := newPeer(h, "")
	entered, leave := make(chan struct{}), make(chan struct{})
	b.want = func(context.Context, pubsub.Topic) error { close(entered); <-leave; return nil }
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

func TestStatsAndTopics(t *testing.T) {
	h := New(Options{Backplane: newPlane()})
	var want []TopicCount
	var peers []*peer
	for i := range 3000 {
		topic := pubsub.Topic("x/" + string(rune('a'+i%26)) + "/" + string(rune('a'+i/26%26)) + string(rune('a'+i/676)))
		n := 1 + i%3
		for range n {
			p := newPeer(h, "")
			p.open(t, topic)
			peers = append(peers, p)
		}
		want = append(want, TopicCount{topic, n})
	}
	peers[0].open(t, "y")
	slices.SortFunc(want, func(a, b TopicCount) int {
		if a.Topic < b.Topic {
			return -1
		}
		return 1
	})
	var got []TopicCount
	after := pubsub.Topic("")
	for {
		page := h.Topics("x/", after, 100)
		if len(page) == 0 {
			break
		}
		got = append(got, page...)
		after = page[len(page)-1].Topic
	}
	if !slices.Equal(got, want) {
		t.Errorf("pages of topics give %d topics, want %d in byte order", len(got), len(want))
	}
	if got := h.Topics("y", "", 10); len(got) != 1 || got[0] != (TopicCount{"y", 1}) {
		t.Errorf("Topics(y) = %v", got)
	}
	if got := h.Topics("", "x/", math.MaxInt32); len(got) != 3001 {
		t.Errorf("all topics: %d, want 3001", len(got))
	}
	st := h.Stats()
	if st.Subscribers != int64(len(peers)) || st.Subscriptions != int64(len(peers)+1) {
		t.Errorf("stats %+v, want %d members", st, len(peers))
	}
	for _, p := range peers {
		p.Close()
	}
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
