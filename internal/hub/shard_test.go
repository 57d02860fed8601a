package hub

import (
	"context"
	"fmt"
	"testing"
	"time"

	"pubsub"
)

// sleepers returns n sleeping subscribers of topic.
func sleepers(t testing.TB, h *Hub, topic pubsub.Topic, n int) []*peer {
	peers := make([]*peer, n)
	for i := range peers {
		peers[i] = newPeer(h, "")
		peers[i].resume(t, topic)
		peers[i].drain()
	}
	return peers
}

func countAwake(peers []*peer) (n int) {
	for _, p := range peers {
		if p.isAwake() {
			n++
		}
	}
	return n
}

// The subscribers of a small topic are woken within a few slices, while a large topic or
// many deadlines keep the shard busy. The test counts slices, not time.
func TestSmallTopicDoesNotWait(t *testing.T) {
	h := New(Options{Backplane: newBackplane(), Shards: 1})
	s := h.shards[0]
	large := sleepers(t, h, "large", 100_000)
	small := sleepers(t, h, "small", 10)
	other := sleepers(t, h, "other", 10)
	for _, p := range large {
		p.SetDeadline(s.wheel.start.Add(tick))
	}
	slices := 0
	for round := range 20 {
		h.Deliver(plain("large", "x")) // repeatedly, in the middle of its walk
		if round == 5 {
			s.wheel.advance(s.wheel.start.Add(tick))
		}
		for range round {
			s.slice()
			slices++
		}
		h.Deliver(plain("small", "x"))
		h.Deliver(plain("other", "x"))
		for i := 1; countAwake(small) < len(small) || countAwake(other) < len(other); i++ {
			if i > 3 {
				t.Fatalf("round %d: not awake after 3 slices", round)
			}
			s.slice()
			slices++
		}
		for _, p := range append(small, other...) {
			p.drain()
		}
		if n := countAwake(large); n > 2*sliceSize*slices {
			t.Fatalf("%d subscribers of the large topic were woken in %d slices", n, slices)
		}
	}
	for s.slice() {
		slices++
	}
	if n := countAwake(large); n != len(large) {
		t.Errorf("%d of %d subscribers of the large topic were woken", n, len(large))
	}
	if most := len(large)/sliceSize*2 + 200; slices > most {
		t.Errorf("%d slices, want no more than %d", slices, most)
	}
}

// Topics with new messages take turns, a slice each.
func TestTopicsTakeTurns(t *testing.T) {
	h := New(Options{Backplane: newBackplane(), Shards: 1})
	topics := map[pubsub.Topic][]*peer{}
	for i := range 5 {
		topic := pubsub.Topic(fmt.Sprint("t", i))
		topics[topic] = sleepers(t, h, topic, 10*sliceSize)
		h.Deliver(plain(topic, "x"))
	}
	for turn := 1; turn <= 10; turn++ {
		for range 5 {
			h.shards[0].slice()
		}
		for topic, peers := range topics {
			if n := countAwake(peers); n != turn*sliceSize {
				t.Errorf("turn %d: %d subscribers of %s awake, want %d", turn, n, topic, turn*sliceSize)
			}
		}
	}
	if h.shards[0].slice() {
		t.Error("a slice without work reports work")
	}
}

// Subscribers are spread over the shards, and each shard has its own log.
func TestShards(t *testing.T) {
	for _, n := range []int{1, 2, 7, 1000} {
		h := New(Options{Backplane: newBackplane(), Shards: n})
		want := min(n, 256)
		if len(h.shards) != want {
			t.Errorf("%d shards, want %d", len(h.shards), want)
		}
		peers := sleepers(t, h, "t", 3*want)
		subscribers := map[*shard]int{}
		for _, p := range peers {
			subscribers[p.shard]++
		}
		for _, s := range h.shards {
			if subscribers[s] != 3 {
				t.Errorf("one of %d shards has %d subscribers, want 3", want, subscribers[s])
			}
		}
		h.Deliver(plain("t", "a"))
		h.check(t)
		h.pump()
		for i, p := range peers {
			expect(t, p.drain(), "a")
			if i%2 == 0 {
				p.Close()
			}
			h.check(t)
		}
		closeAll(t, h, peers...)
	}
}

// Run returns when its context is done, even with work left.
func TestRunEnds(t *testing.T) {
	h := New(Options{Backplane: newBackplane(), Shards: 2})
	sleepers(t, h, "t", 10*sliceSize)
	h.Deliver(plain("t", "x"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	h.Run(ctx)
}

// The allocations of a delivery do not depend on the number of subscribers: Deliver and
// waking allocate a constant, and Read nothing.
func TestDeliveryDoesNotAllocate(t *testing.T) {
	const subscribers, rounds = 1000, 50
	h := New(Options{Backplane: newBackplane(), Shards: 1})
	peers := sleepers(t, h, "t", subscribers)
	var msgs []*pubsub.PreparedMessage
	for i := range rounds + 1 { // AllocsPerRun makes one run more
		msgs = append(msgs, plain("t", "x"), retained("t", uint64(i+1)))
	}
	dst := make([]Delivery, 0, 8)
	now := time.Now()
	next, read := 0, 0
	perRound := testing.AllocsPerRun(rounds, func() {
		h.Deliver(msgs[next])
		h.Deliver(msgs[next+1])
		next += 2
		for h.shards[0].slice() {
		}
		for _, p := range peers {
			for asleep := false; !asleep; {
				var ds []Delivery
				ds, asleep = p.Read(dst, 0, now)
				read += len(ds)
			}
		}
	})
	if read != 2*subscribers*(rounds+1) {
		t.Fatalf("read %d messages, want %d", read, 2*subscribers*(rounds+1))
	}
	if perRound > 2 { // the log's entries: a new slice, which then grows
		t.Errorf("%v allocations for 2 messages to %d subscribers", perRound, subscribers)
	}
}

// Ticks do not allocate, whether deadlines are set, due or neither.
func TestTicksDoNotAllocate(t *testing.T) {
	h := New(Options{Backplane: newBackplane(), Shards: 1})
	w := h.shards[0].wheel
	var peers []*peer
	for i := range 1000 {
		p := newPeer(h, "")
		p.SetDeadline(w.start.Add(time.Hour + time.Duration(i)*time.Second))
		peers = append(peers, p)
	}
	now := w.start
	if n := testing.AllocsPerRun(2*wheelSlots, func() {
		now = now.Add(tick)
		w.advance(now)
		h.shards[0].slice()
	}); n != 0 {
		t.Errorf("an idle tick makes %v allocations", n)
	}
	dst := make([]Delivery, 0, 2)
	w.due = make([]*Subscriber, 0, len(peers)) // the capacity that it has after a busy tick
	if n := testing.AllocsPerRun(20, func() {
		for _, p := range peers {
			p.SetDeadline(now.Add(tick))
		}
		now = now.Add(tick)
		w.advance(now)
		for h.shards[0].slice() {
		}
		for _, p := range peers {
			for asleep := false; !asleep; {
				_, asleep = p.Read(dst, 0, now)
			}
		}
	}); n != 0 {
		t.Errorf("%d deadlines make %v allocations", len(peers), n)
	}
}

// reader is a minimal holder. Wake adds it to a list; the benchmark then calls Read.
type reader struct {
	*Subscriber
	awake *[]*reader
}

func (r *reader) Wake() { *r.awake = append(*r.awake, r) }

func (r *reader) StoreFailed(error) {}

func (r *reader) DeadlineReached() { r.Notify() }

// BenchmarkFanOut delivers one message to 10,000 subscribers of one topic.
func BenchmarkFanOut(b *testing.B) {
	const subscribers = 10_000
	h := New(Options{Backplane: newBackplane(), Shards: 1})
	awake := make([]*reader, 0, subscribers)
	for range subscribers {
		r := &reader{awake: &awake}
		r.Subscriber = newSubscriber(h, r, "")
		s, err := r.Subscribe(b.Context(), "t", SubscriptionOptions{})
		if err != nil {
			b.Fatal(err)
		}
		s.Resume(nil, pubsub.Version{})
	}
	dst := make([]Delivery, 0, 8)
	now := time.Now()
	read := func() {
		for _, r := range awake {
			for asleep := false; !asleep; {
				_, asleep = r.Read(dst, 0, now)
			}
		}
		awake = awake[:0]
	}
	read()
	p := plain("t", string(make([]byte, 128)))
	b.ReportAllocs()
	for b.Loop() {
		h.Deliver(p)
		for h.shards[0].slice() {
			read()
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/subscribers, "ns/subscriber")
}
