package hub

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"

	"pubsub"
)

// The backlog counts the memory in use: each message once, in however many logs it is,
// and every encoding, whenever it is made.
func TestBacklogCountsMemory(t *testing.T) {
	h := New(Options{Backplane: newBackplane(), Shards: 4})
	var peers []*peer
	for range 8 { // two in each shard
		p := newPeer(h, "")
		p.resume(t, "t")
		p.drain()
		peers = append(peers, p)
	}
	p := plain("t", "content")
	h.Deliver(p)
	const entries = 4
	want := p.Size() + entries*entrySize
	if got := h.Stats().BacklogBytes; got != want {
		t.Errorf("BacklogBytes = %d, want %d", got, want)
	}
	before := p.Size()
	p.Encoded(0, encode(5000))
	p.Encoded(1, encode(7000))
	if grown := p.Size() - before; grown < 12_000 || grown > 15_000 {
		t.Errorf("encodings of 12,000 bytes count as %d", grown)
	}
	if got := h.Stats().BacklogBytes; got != p.Size()+entries*entrySize {
		t.Errorf("BacklogBytes = %d after encoding, want %d", got, p.Size()+entries*entrySize)
	}
	h.check(t)
	h.pump()
	for _, p := range peers {
		p.drain()
	}
	if got := h.Stats().BacklogBytes; got != 0 {
		t.Errorf("BacklogBytes = %d after all have read", got)
	}
	p.Encoded(2, encode(100))
	if got := h.Stats().BacklogBytes; got != 0 {
		t.Errorf("BacklogBytes = %d after encoding a message that has no holder", got)
	}
}

// Encodings made while the messages were unread are trimmed by the next Read, because
// there may be no further Deliver.
func TestEncodingsAreTrimmed(t *testing.T) {
	const limit = 200_000
	h := New(Options{Backplane: newBackplane(), Shards: 1, BacklogMemory: limit})
	slow, fast := newPeer(h, ""), newPeer(h, "")
	slow.resume(t, "t")
	fast.resume(t, "t")
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
		t.Errorf("BacklogBytes = %d, the limit is %d", n, limit)
	}
	h.check(t)
}

// bytesOf returns the size of the log of p's n-th subscription.
func bytesOf(p *peer, n int) int { return int(p.subs[n].log.size()) }

// sized returns content for a message that takes n bytes of memory in a log.
func sized(n int) string {
	return strings.Repeat("x", n-int(plain("t", "").Size()+entrySize))
}

// The largest logs are cut to a common size. Smaller ones lose nothing.
func TestTrimCutsTheLongest(t *testing.T) {
	const message = 1000
	data := sized(message)
	h := New(Options{Backplane: newBackplane(), Shards: 1, BacklogMemory: 100 * message})
	p := newPeer(h, "")
	topics := []pubsub.Topic{"a", "b", "c", "d"}
	for _, topic := range topics {
		p.resume(t, topic)
	}
	for i, n := range []int{10, 20, 30, 40} { // together exactly the limit
		for range n {
			h.Deliver(plain(topics[i], data))
		}
	}
	for i, n := range []int{10, 20, 30, 40} {
		if got := bytesOf(p, i); got != n*message {
			t.Errorf("%s: %d bytes at the limit, want %d", topics[i], got, n*message)
		}
	}
	// One more in the shortest makes 101. The target is 87, seven eighths of 100. The
	// longest loses 10 until it is as long as the next, and then both lose 2.
	h.Deliver(plain("a", data))
	for i, n := range []int{11, 20, 28, 28} {
		if got := bytesOf(p, i); got != n*message {
			t.Errorf("%s: %d bytes, want %d", topics[i], got, n*message)
		}
	}
	h.check(t)
	h.pump()
	lost, got := map[pubsub.Topic]uint64{}, map[pubsub.Topic]int{}
	for _, d := range p.drain() {
		lost[d.Sub.Topic()] += d.Dropped
		got[d.Sub.Topic()]++
	}
	if want := "map[c:2 d:12]"; fmt.Sprint(nonZero(lost)) != want {
		t.Errorf("lost %v, want %s", lost, want)
	}
	if want := "map[a:11 b:20 c:28 d:28]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
	closeAll(t, h, p)
}

func nonZero(m map[pubsub.Topic]uint64) map[pubsub.Topic]uint64 {
	for k, v := range m {
		if v == 0 {
			delete(m, k)
		}
	}
	return m
}

// With many topics and several shards, all logs together stay within the limit, losses
// are reported exactly, and no memory is left in the end.
func TestBacklogIsBounded(t *testing.T) {
	rnd := newRand(t)
	const limit = 200_000
	h := New(Options{Backplane: newBackplane(), Shards: 3, BacklogMemory: limit, SubscriberBuffer: 50_000})
	var peers []*peer
	published := map[pubsub.Topic]uint64{}
	for i := range 40 {
		p := newPeer(h, "")
		for j := range 3 {
			p.resume(t, pubsub.Topic(fmt.Sprint("t", (i+j*7)%20)))
		}
		p.drain()
		peers = append(peers, p)
	}
	got := make([]map[pubsub.Topic]uint64, len(peers))
	for i := range got {
		got[i] = map[pubsub.Topic]uint64{}
	}
	seq := uint64(0)
	for range 5000 {
		topic := pubsub.Topic(fmt.Sprint("t", rnd.IntN(rnd.IntN(20)+1))) // some topics more often than others
		if rnd.IntN(10) == 0 {
			seq++
			h.Deliver(retained(topic, seq))
		} else {
			h.Deliver(plain(topic, strings.Repeat("x", rnd.IntN(2000))))
			published[topic]++
		}
		if n := h.Stats().BacklogBytes; n > limit {
			t.Fatalf("BacklogBytes = %d, the limit is %d", n, limit)
		}
		if rnd.IntN(20) == 0 {
			h.pump()
			i := rnd.IntN(len(peers))
			tally(peers[i].drain(), got[i])
		}
	}
	h.check(t)
	h.pump()
	for i, p := range peers {
		tally(p.drain(), got[i])
		for _, s := range p.subs {
			if topic := s.Topic(); got[i][topic] != published[topic] {
				t.Errorf("%s: %d messages were delivered or reported as dropped, want %d", topic, got[i][topic], published[topic])
			}
		}
	}
	if n := h.Stats().BacklogBytes; n != 0 {
		t.Errorf("BacklogBytes = %d after all have read", n)
	}
	if h.Stats().Dropped == 0 {
		t.Error("nothing was dropped, so the test has tested nothing")
	}
	closeAll(t, h, peers...)
}

// tally counts the plain messages that were delivered or lost, by topic.
func tally(ds []Delivery, n map[pubsub.Topic]uint64) {
	for _, d := range ds {
		n[d.Sub.Topic()] += d.Dropped
		if d.Message != nil && !d.Message.Retain {
			n[d.Sub.Topic()]++
		}
	}
}

// Subscribers that leave without having read free the messages that were kept for them.
func TestLeavingFreesTheBacklog(t *testing.T) {
	h := New(Options{Backplane: newBackplane(), Shards: 2})
	slow, fast := newPeer(h, ""), newPeer(h, "")
	alone := newPeer(h, "")
	for _, p := range []*peer{slow, fast, alone} {
		p.resume(t, "t")
		p.drain()
	}
	deliver(h, "t", "a r1 b")
	h.pump()
	fast.drain()
	alone.drain()
	h.check(t)
	slow.Close()
	h.check(t)
	if n := h.Stats().BacklogBytes; n != 0 {
		t.Errorf("BacklogBytes = %d after the slow subscriber has left", n)
	}
	closeAll(t, h, fast, alone)
}

// All logs are within the limit after concurrent Delivers, although only one of them
// trims at a time.
func TestBacklogIsBoundedConcurrently(t *testing.T) {
	const publishers = 4
	data := strings.Repeat("x", 1000)
	for _, limit := range []int64{4_000, 100_000} {
		h := New(Options{Backplane: newBackplane(), Shards: 2, BacklogMemory: limit})
		var peers []*peer
		for i := range 32 {
			p := newPeer(h, "")
			p.resume(t, pubsub.Topic(fmt.Sprint("t", i%publishers)))
			peers = append(peers, p)
		}
		for range 500 {
			var wg sync.WaitGroup
			for i := range publishers {
				wg.Go(func() {
					for range 10 {
						h.Deliver(plain(pubsub.Topic(fmt.Sprint("t", i)), data))
					}
				})
			}
			wg.Wait()
			if n := h.Stats().BacklogBytes; n > limit {
				t.Fatalf("BacklogBytes = %d after all Delivers, the limit is %d", n, limit)
			}
		}
		h.check(t)
		closeAll(t, h, peers...)
	}
}

// Trimming is repeated if a message is delivered meanwhile to a log that trimming has
// already passed.
func TestTrimmingIsRepeated(t *testing.T) {
	const limit = 100_000
	h := New(Options{Backplane: newBackplane(), Shards: 1, BacklogMemory: limit, SubscriberBuffer: 10 * limit})
	// Trimming passes the empty log in the first stripe, and then blocks on the lock of
	// the last stripe.
	first, last := &h.index.stripes[0], &h.index.stripes[len(h.index.stripes)-1]
	var early, middle pubsub.Topic
	for i := 0; early == "" || middle == ""; i++ {
		topic := pubsub.Topic(fmt.Sprint("t", i))
		switch h.index.stripe(topic) {
		case first:
			early = topic
		case last:
		default:
			middle = topic
		}
	}
	p := newPeer(h, "")
	p.resume(t, early)
	p.resume(t, middle)
	h.Deliver(plain(middle, strings.Repeat("x", limit/2)))
	last.mu.Lock()
	// publish returns once the message is in the log. A Deliver that trims is still blocked.
	var publishing sync.WaitGroup
	publish := func(topic pubsub.Topic, size int) {
		pm := plain(topic, strings.Repeat("x", size))
		before := h.backlog.bytes.Load()
		publishing.Go(func() { h.Deliver(pm) })
		for h.backlog.bytes.Load() == before {
			runtime.Gosched()
		}
	}
	publish(middle, limit/2)
	for range 1000 { // let it reach the last stripe; if it does not, the test is only weaker
		runtime.Gosched()
	}
	publish(early, limit*3/4)
	last.mu.Unlock()
	publishing.Wait()
	if n := h.Stats().BacklogBytes; n > limit {
		t.Errorf("BacklogBytes = %d, the limit is %d", n, limit)
	}
	h.check(t)
	closeAll(t, h, p)
}
