package hub

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"pubsub"
)

// A subscriber that has read nothing while messages were cut receives the number of lost
// plain messages, the newest retained message even if it was cut, and the rest.
func TestCut(t *testing.T) {
	for _, c := range []struct {
		room         int
		script, want string
	}{
		{9, "a b c", "a b c"},
		{9, "a r1 b r2 c", "a r1 b r2 c"},
		{3, "a b c", "a b c"},
		{3, "a b c d", "-1b c d"},
		{3, "a b c d e f g", "-4e f g"},
		{3, "r1 a b c", "r1 a b c"},
		{3, "r1 r2 a b c", "r2 a b c"},
		{3, "r1 a r2 b c d", "-1r2 b c d"},
		{3, "a r1 b c d", "-1r1 b c d"},
		{3, "a r1 b c d e f", "-3r1 d e f"},
		{3, "a r1 b r2 c d e f", "-3r2 d e f"},
		{3, "a r1 b c r2 d", "-2c r2 d"},
		{3, "a b r1 r2 r3", "-2r1 r2 r3"},
		{3, "r1 r2 r3 r4", "r2 r3 r4"},
		{3, "a r1 r2 r3 r4", "-1r2 r3 r4"},
		{3, "r1 r2 r3 r4 a b c", "r4 a b c"},
		{1, "a b c", "-2c"},
		{1, "a r1 b", "-1r1 b"},
		{1, "a b r1", "-2r1"},
		// A retained message that is not newer than the previous one is omitted and not counted.
		{9, "r5 r4 a r5 r6 r1", "r5 a r6"},
	} {
		t.Run(c.script, func(t *testing.T) {
			h, p, _ := oneSubscriber(t, Options{SubscriberBuffer: room(c.room)})
			deliver(h, "t", c.script)
			h.check(t)
			h.pump()
			ds := p.drain()
			expect(t, ds, c.want)
			h.check(t)
			var delivered, dropped uint64
			for _, d := range ds {
				dropped += d.Dropped
				if d.Message != nil {
					delivered++
				}
			}
			if s := h.Stats(); s.Delivered != delivered || s.Dropped != dropped || s.BacklogBytes != 0 {
				t.Errorf("stats %+v, want %d delivered, %d dropped, no backlog", s, delivered, dropped)
			}
			closeAll(t, h, p)
		})
	}
}

// Trimming may cut the whole log. The loss is then reported alone or with the newest
// retained message.
func TestCutToNothing(t *testing.T) {
	for _, c := range []struct{ script, want, then string }{
		{"a b c", "-3", "d"},
		{"a r1 c", "-2r1", "d"},
		{"r1 r2", "r2", "d"},
	} {
		h := New(Options{Backplane: newBackplane(), Shards: 1})
		p, other := newPeer(h, ""), newPeer(h, "")
		s := p.resume(t, "t")
		other.resume(t, "t")
		p.drain()
		other.drain()
		deliver(h, "t", c.script)
		h.pump()
		if got := render(other.drain()); got != c.script {
			t.Fatalf("delivered %q to the fast subscriber", got)
		}
		s.log.cut(0, 0, &h.backlog)
		h.check(t)
		left := int64(0)
		if s.log.newest != nil {
			left = s.log.newest.Size()
		}
		if n := h.Stats().BacklogBytes; n != left {
			t.Errorf("BacklogBytes = %d with an empty log, want %d", n, left)
		}
		expect(t, p.drain(), c.want)
		h.check(t)
		deliver(h, "t", c.then)
		h.pump()
		expect(t, p.drain(), c.then)
		expect(t, other.drain(), c.then)
		h.check(t)
	}
}

// The log is cut to nothing, and more messages are appended before the subscriber reads.
func TestCutToNothingThenAppend(t *testing.T) {
	h, p, s := oneSubscriber(t, Options{})
	deliver(h, "t", "a r1 b")
	s.log.cut(0, 0, &h.backlog)
	deliver(h, "t", "c d")
	s.log.cut(cost(plain("t", "d")), 0, &h.backlog)
	h.pump()
	expect(t, p.drain(), "-3r1 d")
	h.check(t)
}

func TestLossOfLeavingSubscriberIsCounted(t *testing.T) {
	h := New(Options{Backplane: newBackplane(), Shards: 1, SubscriberBuffer: room(2)})
	p := newPeer(h, "")
	p.resume(t, "t")
	deliver(h, "t", "a b r1 c d")
	p.Close()
	if s := h.Stats(); s.Dropped != 2 || s.Delivered != 0 {
		t.Errorf("stats %+v, want 2 dropped", s)
	}
	h.checkEmpty(t)
}

// Each subscriber of a log loses only messages that it has not read itself.
func TestLossIsPerSubscription(t *testing.T) {
	h := New(Options{Backplane: newBackplane(), Shards: 1, SubscriberBuffer: room(3)})
	fast, slow := newPeer(h, ""), newPeer(h, "")
	fast.resume(t, "t")
	slow.resume(t, "t")
	slow.drain()
	got := fast.drain()
	for _, w := range strings.Fields("a b r1 c d e r2 f g") {
		deliver(h, "t", w)
		h.pump()
		got = append(got, fast.drain()...)
		h.check(t)
	}
	late := newPeer(h, "")
	late.resume(t, "t")
	deliver(h, "t", "h")
	h.pump()
	expect(t, append(got, fast.drain()...), "a b r1 c d e r2 f g h")
	expect(t, slow.drain(), "-5r2 f g h")
	expect(t, late.drain(), "h")
	h.check(t)
}

// A walk misses no subscription with unread messages, even if others join and leave
// between its slices.
func TestWalkMissesNoSubscription(t *testing.T) {
	rnd := newRand(t)
	for range 3000 {
		h := New(Options{Backplane: newBackplane(), Shards: 1})
		var peers []*peer
		join := func() {
			p := newPeer(h, "")
			p.resume(t, "t")
			p.drain()
			peers = append(peers, p)
		}
		for range 1 + rnd.IntN(12) {
			join()
		}
		l := peers[0].subs[0].log
		batch := make([]*Subscription, 0, 1+rnd.IntN(4))
		unread := map[*peer]bool{}
		slice := func() (more bool) {
			b, more := l.walk(batch)
			for _, s := range b {
				s.subscriber.queueUnread(s)
			}
			return more
		}
		for range rnd.IntN(40) {
			switch rnd.IntN(6) {
			case 0:
				h.Deliver(plain("t", "x"))
				for _, p := range peers {
					unread[p] = true
				}
			case 1:
				join()
			case 2:
				if i := rnd.IntN(len(peers)); len(peers) > 1 {
					peers[i].Close()
					peers[i] = peers[len(peers)-1]
					peers = peers[:len(peers)-1]
				}
			case 3:
				p := peers[rnd.IntN(len(peers))]
				if p.isAwake() {
					p.drain()
					unread[p] = false
				}
			default:
				slice()
			}
			h.check(t)
		}
		for slice() {
		}
		for i, p := range peers {
			if unread[p] && !p.isAwake() {
				t.Fatalf("subscriber %d of %d was not woken", i, len(peers))
			}
		}
	}
}

// Entries that were read or cut are not kept in memory.
func TestCutFreesMemory(t *testing.T) {
	h := New(Options{Backplane: newBackplane(), Shards: 1, SubscriberBuffer: room(10)})
	p := newPeer(h, "")
	s := p.resume(t, "t")
	for i := range 1000 {
		h.Deliver(plain("t", fmt.Sprint(i)))
		if i%100 == 99 {
			s.log.cut(room(3), 0, &h.backlog) // many at once, as trimming does
		}
		if n := cap(s.log.entries); n > 64 {
			t.Fatalf("a log of at most 10 entries has capacity %d", n)
		}
		for _, e := range s.log.entries[len(s.log.entries):cap(s.log.entries)] {
			if e.msg != nil {
				t.Fatal("an entry that was cut is still referenced")
			}
		}
	}
	p.drain()
	if s.log.entries != nil || s.log.newest != nil {
		t.Error("the log is not empty after all have read")
	}
}

// A delivered message does not keep the request that its topic is a part of in memory.
func TestDeliverReplacesTopicString(t *testing.T) {
	h := New(Options{Backplane: newBackplane(), Shards: 1})
	p := newPeer(h, "")
	p.resume(t, "t")
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
		t.Errorf("%d messages keep %d bytes in memory", n, more)
	}
	runtime.KeepAlive(p)
}
