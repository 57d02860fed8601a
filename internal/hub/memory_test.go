package hub

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"pubsub"
)

// encode makes an encoding of so many bytes.
func encode(n int) func([]byte, *pubsub.Message) []byte {
	return func(dst []byte, _ *pubsub.Message) []byte { return append(dst, make([]byte, n)...) }
}

// The backlog counts the memory in use: each message once, however many logs have it, and
// every encoding, whenever it is made.
func TestBacklogCountsWhatIsHeld(t *testing.T) {
	h := New(Options{Backplane: newPlane(), Shards: 4})
	var peers []*peer
	for range 8 { // some of each shard
		p := newPeer(h, "")
		p.open(t, "t")
		p.drain()
		peers = append(peers, p)
	}
	p := plain("t", "content")
	h.Deliver(p)
	const places = 4
	want := p.Size() + places*entrySize
	if got := h.Stats().BacklogBytes; got != want {
		t.Errorf("%d bytes are kept, want %d", got, want)
	}
	before := p.Size()
	p.Encoded(0, encode(5000))
	p.Encoded(1, encode(7000))
	if grown := p.Size() - before; grown < 12_000 || grown > 15_000 {
		t.Errorf("encodings of 12,000 bytes count as %d", grown)
	}
	if got := h.Stats().BacklogBytes; got != p.Size()+places*entrySize {
		t.Errorf("%d bytes are kept after it was encoded, want %d", got, p.Size()+places*entrySize)
	}
	h.check(t)
	h.pump()
	for _, p := range peers {
		p.drain()
	}
	if got := h.Stats().BacklogBytes; got != 0 {
		t.Errorf("%d bytes are kept of what all have read", got)
	}
	p.Encoded(2, encode(100))
	if got := h.Stats().BacklogBytes; got != 0 {
		t.Errorf("%d bytes are kept of what nobody keeps", got)
	}
}

// A message does not keep alive the request that its topic was a part of.
func TestDeliveredTopicIsTheHubs(t *testing.T) {
	h := New(Options{Backplane: newPlane(), Shards: 1})
	p := newPeer(h, "")
	p.open(t, "t")
	const n, size = 100, 100 << 10
	live := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := live()
	for range n {
		request := strings.Repeat("t", size)
		h.Deliver(plain(pubsub.Topic(request[:1]), "x"))
	}
	if more := live() - before; more > n*size/10 {
		t.Errorf("%d messages keep %d bytes alive", n, more)
	}
	runtime.KeepAlive(p)
}

// The next reader trims encodings that were made while the messages were unread, because
// nothing else may be published.
func TestEncodingsAreTrimmed(t *testing.T) {
	const limit = 200_000
	h := New(Options{Backplane: newPlane(), Shards: 1, BacklogMemory: limit})
	slow, fast := newPeer(h, ""), newPeer(h, "")
	slow.open(t, "t")
	fast.open(t, "t")
	slow.drain()
	fast.drain()
	var ps []*pubsub.PreparedMessage
	for range 100 {
		p := plain("t", strings.Repeat("\n", 100))
		ps = append(ps, p)
		h.Deliver(p)
	}
	for _, p := range ps {
		p.Encoded(0, encode(10_000))
	}
	h.pump()
	fast.drain()
	if n := h.Stats().BacklogBytes; n > limit {
		t.Errorf("%d bytes are kept, the limit is %d", n, limit)
	}
	h.check(t)
}

// If the newest retained messages alone take too much, they are forgotten, and read from
// the store again for members that have not had them. The number of lost messages is
// reported as usual. Trimming ends even if nothing can be freed.
func TestForgottenNewestComesFromTheStore(t *testing.T) {
	const topics, limit = 50, 10_000
	plane := newPlane()
	h := New(Options{Backplane: plane, Shards: 1, BacklogMemory: limit})
	p := newPeer(h, "")
	var own *peer
	for i := range topics {
		topic := pubsub.Topic(fmt.Sprintf("t%02d", i))
		p.open(t, topic)
		if i == 0 {
			own = newPeer(h, "")
			own.open(t, topic)
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

// retain keeps m as its topic's retained message.
func (p *plane) retain(m pubsub.Message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last[m.Topic] = m
}

// drainAll is drain, which waits for what is read from the store.
func drainAll(h *Hub, p *peer) (all []Delivery) {
	for {
		all = append(all, p.drain()...)
		h.fetches.goroutines.Wait()
		if !p.isAwake() {
			return all
		}
	}
}

// Late subscriptions are read from the store when the member reads, in the order in
// which they were opened, a piece at a time; nothing else is read for it meanwhile.
func TestLateSubscriptions(t *testing.T) {
	for _, atOnce := range []int{1, 4} {
		t.Run(fmt.Sprint(atOnce, " at once"), func(t *testing.T) {
			const topics = 20
			plane := newPlane()
			h := New(Options{Backplane: plane, Shards: 1, FetchConcurrency: atOnce})
			p := newPeer(h, "")
			var want []string
			for i := range topics {
				topic := pubsub.Topic(fmt.Sprintf("t%02d", topics-i)) // not in byte order
				plane.retain(pubsub.Message{
					Topic: topic, Data: []byte(strings.Repeat(string(topic), 1000)), Retain: true,
					Version: pubsub.Version{Generation: gen, Seq: uint64(i + 1)},
				})
				p.subscribe(t, topic).ResumeAndFetch(pubsub.Version{})
				want = append(want, string(topic))
			}
			plane.reads.Store(0)
			var got []string
			for len(got) < topics {
				if !p.isAwake() {
					t.Fatalf("asleep after %d topics", len(got))
				}
				for asleep := false; !asleep; { // up to where the store must be read
					if n := int(plane.reads.Load()) - len(got); atOnce == 1 && n > maxPiece/3000+1 {
						t.Fatalf("%d messages are read that the member has not taken", n)
					}
					var ds []Delivery
					ds, asleep = p.Read(make([]Delivery, 0, 8), 0, time.Now())
					for _, d := range ds {
						if !d.Initial {
							t.Error("what is retained is not marked as that")
						}
						got = append(got, string(d.Sub.Topic()))
					}
				}
				h.fetches.goroutines.Wait()
				h.check(t)
			}
			if n := plane.reads.Load(); n > 2*topics {
				t.Errorf("the store is read %d times", n)
			}
			if !slices.Equal(got, want) {
				t.Errorf("they come as %v, want %v", got, want)
			}
			p.Close()
			h.recent.clear(&h.backlog)
			h.checkEmpty(t)
		})
	}
}

// The message that a late subscription finds in the store is delivered in its place among
// later messages. Nothing older than the client's version is delivered.
func TestLateSubscriptionKeepsOrder(t *testing.T) {
	began := time.Now()
	message := func(data string, seq uint64, age time.Duration) pubsub.Message {
		m := pubsub.Message{Topic: "t", Data: []byte(data), Published: began.Add(-age)}
		if seq > 0 {
			m.Retain, m.Version = true, pubsub.Version{Generation: gen, Seq: seq}
		}
		return m
	}
	for _, c := range []struct {
		name      string
		stored    pubsub.Message
		published []pubsub.Message
		has       uint64
		want      string
	}{
		{"old", message("r1", 1, time.Hour), []pubsub.Message{message("a", 0, 0)}, 0, "*r1 a"},
		{"live", message("r2", 2, 0), []pubsub.Message{message("a", 0, 0), message("r2", 2, 0), message("b", 0, 0)}, 0, "a *r2 b"},
		{"replaced", message("r1", 1, time.Hour), []pubsub.Message{message("a", 0, 0), message("r2", 2, 0)}, 0, "*r1 a r2"},
		{"nothing newer", message("r1", 1, time.Hour), []pubsub.Message{message("a", 0, 0)}, 1, "a"},
		{"newer", message("r2", 2, time.Hour), []pubsub.Message{message("a", 0, 0)}, 1, "r2 a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			plane := newPlane()
			h := New(Options{Backplane: plane, Shards: 1})
			p := newPeer(h, "")
			s := p.subscribe(t, "t")
			var has pubsub.Version
			if c.has > 0 {
				has = pubsub.Version{Generation: gen, Seq: c.has}
			}
			plane.retain(c.stored)
			s.ResumeAndFetch(has)
			for _, m := range c.published {
				h.Deliver(pubsub.NewPreparedMessage(m))
			}
			h.pump()
			expect(t, drainAll(h, p), c.want)
			p.Close()
			h.checkEmpty(t)
		})
	}
}

// A member for which the store cannot be read is ended by its holder; one that left
// meanwhile is not.
func TestLateSubscriptionFails(t *testing.T) {
	plane := newPlane()
	plane.err = errors.New("no disk")
	h := New(Options{Backplane: plane, Shards: 1})
	p, left := newPeer(h, ""), newPeer(h, "")
	for _, p := range []*peer{p, left} {
		p.subscribe(t, "t").ResumeAndFetch(pubsub.Version{})
	}
	left.subscribe(t, "other").Resume(nil, pubsub.Version{})
	plane.mu.Lock() // the store is being read
	p.drain()
	left.drain()
	left.Unsubscribe("t")
	plane.mu.Unlock()
	h.fetches.goroutines.Wait()
	if p.failed.Load() == nil {
		t.Error("the holder is not told")
	}
	if left.failed.Load() != nil {
		t.Error("the holder of one that has left the topic is told")
	}
	deliver(h, "other", "a")
	h.pump()
	expect(t, left.drain(), "a")
	p.Close()
	left.Close()
	h.checkEmpty(t)
}

// All new members of a topic share one parcel of its retained message, if it is long
// enough and there is room. A newer message takes its place.
func TestRetainedIsShared(t *testing.T) {
	plane := newPlane()
	h := New(Options{Backplane: plane, Shards: 1, BacklogMemory: 1 << 20})
	p := newPeer(h, "")
	last := func(topic pubsub.Topic) *pubsub.PreparedMessage {
		t.Helper()
		s := p.find(topic)
		if s == nil {
			s = p.open(t, topic)
		}
		parcel, _, err := s.Last(t.Context(), pubsub.Version{})
		if err != nil {
			t.Fatal(err)
		}
		return parcel
	}
	retain := func(topic pubsub.Topic, seq uint64, size int) {
		plane.retain(pubsub.Message{Topic: topic, Data: make([]byte, size), Retain: true, Version: pubsub.Version{Generation: gen, Seq: seq}})
	}
	retain("t", 1, 1000)
	first := last("t")
	if last("t") != first {
		t.Error("it is made anew for each")
	}
	first.Encoded(0, encode(5000))
	h.check(t)
	retain("t", 2, 1000)
	second := last("t")
	if second == first || second.Version.Seq != 2 {
		t.Errorf("after a newer one, version %d is given", second.Version.Seq)
	}
	h.check(t)
	for i := range 1000 {
		topic := pubsub.Topic(fmt.Sprint(i))
		retain(topic, uint64(i+3), 1000)
		last(topic).Encoded(0, encode(2000))
		if n := len(h.recent.messages); n > recentMaxCount || n != len(h.recent.order) {
			t.Fatalf("%d are kept, in an order of %d", n, len(h.recent.order))
		}
		if n := h.Stats().BacklogBytes; n > h.backlog.limit/recentDivisor+5000 {
			t.Fatalf("%d bytes are kept", n)
		}
	}
	h.check(t)
	if h.trimBacklog(); h.Stats().BacklogBytes != 0 {
		t.Errorf("%d bytes are kept where memory is short", h.Stats().BacklogBytes)
	}
	last("t")
	if h.Stats().BacklogBytes == 0 {
		t.Error("what was read is not kept")
	}
	p.Unsubscribe("t")
	if n := h.Stats().BacklogBytes; n != 0 || len(h.recent.order) != 0 {
		t.Errorf("%d bytes are kept of a topic that nobody subscribes to", n)
	}
	p.Close()
	h.checkEmpty(t)
}

// A piece is bounded by the encoded length of its messages, with the head of each.
func TestPieceIsBoundedByEncodedBytes(t *testing.T) {
	const wire = 3000
	for _, head := range []int{0, 1000, 31_000} {
		h := New(Options{Backplane: newPlane(), Shards: 1, MaxEncodedSize: func(*pubsub.Message) int { return wire }})
		p := newPeer(h, "")
		p.open(t, "t")
		p.drain()
		for range 40 {
			h.Deliver(plain("t", "x"))
		}
		h.pump()
		got := 0
		for {
			ds, asleep := p.Read(make([]Delivery, 0, 64), head, time.Now())
			got += len(ds)
			if n := len(ds) * (wire + head); n > maxPiece+wire+head {
				t.Errorf("a piece of %d bytes, with a head of %d", n, head)
			}
			if asleep {
				break
			}
		}
		if got != 40 {
			t.Errorf("%d messages of 40", got)
		}
		p.Close()
	}
}

// The end of the hub does not wait for a store that does not answer.
func TestRunEndsWhileTheStoreIsRead(t *testing.T) {
	plane := newPlane()
	reading := make(chan struct{})
	plane.wait = func(ctx context.Context) { close(reading); <-ctx.Done() }
	h := New(Options{Backplane: plane, Shards: 1, SubscribeTimeout: time.Hour})
	p := newPeer(h, "")
	p.subscribe(t, "t").ResumeAndFetch(pubsub.Version{})
	p.drain()
	<-reading
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	h.Run(ctx)
}

// While the store is read for a member, nothing else is read for it, and messages to
// its other topics do not wake it.
func TestNothingIsReadWhileTheStoreIs(t *testing.T) {
	plane := newPlane()
	goOn := make(chan struct{})
	plane.wait = func(context.Context) { <-goOn }
	h := New(Options{Backplane: plane, Shards: 1})
	p := newPeer(h, "")
	p.open(t, "other")
	p.drain()
	plane.retain(retained("t", 1).Message)
	p.subscribe(t, "t").ResumeAndFetch(pubsub.Version{})
	if ds := p.drain(); len(ds) != 0 {
		t.Fatalf("%q is delivered", show(ds))
	}
	deliver(h, "other", "a b")
	wakes := p.wakes.Load()
	h.pump()
	if p.wakes.Load() != wakes || p.isAwake() {
		t.Error("it is woken")
	}
	p.Notify() // it may have other things to do
	if ds := p.drain(); len(ds) != 0 {
		t.Errorf("%q is delivered", show(ds))
	}
	close(goOn)
	h.fetches.goroutines.Wait()
	expect(t, drainAll(h, p), "*r1 a b")
	p.Close()
	h.checkEmpty(t)
}

// A newer message that is forgotten as well, while the store is read for the one
// before it, is read again.
func TestForgottenAgainMeanwhile(t *testing.T) {
	plane := newPlane()
	h := New(Options{Backplane: plane, Shards: 1})
	p := newPeer(h, "")
	s := p.open(t, "t")
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
	plane.wait = func(context.Context) {
		if plane.reads.Load() == 1 {
			publish(2) // behind the back of the read
			return
		}
		plane.retain(retained("t", 2).Message)
	}
	h.pump()
	expect(t, drainAll(h, p), "-4r2")
	if n := plane.reads.Load(); n != 2 {
		t.Errorf("the store is read %d times, want 2", n)
	}
	h.check(t)
	p.Close()
	h.checkEmpty(t)
}

// The store may have nothing in place of a forgotten message, for example because it has
// expired. The loss is reported, and the next message is delivered.
func TestForgottenAndGone(t *testing.T) {
	plane := newPlane()
	h := New(Options{Backplane: plane, Shards: 1})
	p := newPeer(h, "")
	s := p.open(t, "t")
	p.drain()
	deliver(h, "t", "a r1 b")
	s.log.mu.Lock()
	s.log.cutToSize(0, &h.backlog)
	s.log.forgetNewest(&h.backlog)
	s.log.mu.Unlock()
	deliver(h, "t", "c")
	h.pump()
	expect(t, drainAll(h, p), "-2c")
	if n := plane.reads.Load(); n != 1 {
		t.Errorf("the store is read %d times, want 1", n)
	}
	h.check(t)
	p.Close()
	h.checkEmpty(t)
}
