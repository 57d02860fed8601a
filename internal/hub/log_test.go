package hub

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pubsub"
)

// room is a SubscriberBuffer that has room for n messages of a few bytes; n is at
// most 15.
func room(n int) int { return n * (entryOverhead + 8) }

// parse makes a message of each word of script: "rN" is retained and of version
// N, anything else plain.
func parse(topic pubsub.Topic, script string) (ps []*pubsub.PreparedMessage) {
	for _, w := range strings.Fields(script) {
		var seq uint64
		if n, _ := fmt.Sscanf(w, "r%d", &seq); n == 1 {
			ps = append(ps, retained(topic, seq))
		} else {
			ps = append(ps, plain(topic, w))
		}
	}
	return ps
}

// deliver publishes script.
func deliver(h *Hub, topic pubsub.Topic, script string) {
	for _, p := range parse(topic, script) {
		h.Deliver(p)
	}
}

// A member that read nothing while a script was published is given the rest of
// it, told how many plain messages it lost, and given the newest retained one
// even if that was cut off.
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
		// Older than one before: left out, and not counted.
		{9, "r5 r4 a r5 r6 r1", "r5 a r6"},
	} {
		t.Run(c.script, func(t *testing.T) {
			h := New(Options{Backplane: newPlane(), Shards: 1, SubscriberBuffer: room(c.room)})
			p := newPeer(h, "")
			p.open(t, "t")
			p.drain()
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
				t.Errorf("stats %+v, want %d delivered, %d dropped, nothing in logs", s, delivered, dropped)
			}
			p.Close()
			h.checkEmpty(t)
		})
	}
}

// What trimming leaves of a log may be nothing at all: the loss is told alone, or
// with the newest retained message.
func TestCutToNothing(t *testing.T) {
	for _, c := range []struct{ script, want, then string }{
		{"a b c", "-3", "d"},
		{"a r1 c", "-2r1", "d"},
		{"r1 r2", "r2", "d"},
	} {
		h := New(Options{Backplane: newPlane(), Shards: 1})
		p, other := newPeer(h, ""), newPeer(h, "")
		s := p.open(t, "t")
		other.open(t, "t")
		p.drain()
		other.drain()
		deliver(h, "t", c.script)
		h.pump()
		if got := show(other.drain()); got != c.script {
			t.Fatalf("the fast member got %q", got)
		}
		s.log.cut(0, 0, &h.backlog)
		h.check(t)
		left := int64(0)
		if s.log.newest != nil {
			left = s.log.newest.Size()
		}
		if n := h.Stats().BacklogBytes; n != left {
			t.Errorf("%d bytes are left of a log without entries, want %d", n, left)
		}
		// Who has read everything is at the end still; who has not is not.
		expect(t, p.drain(), c.want)
		h.check(t)
		deliver(h, "t", c.then)
		h.pump()
		expect(t, p.drain(), c.then)
		expect(t, other.drain(), c.then)
		h.check(t)
	}
}

// The same, when the member was not even looking as more was appended.
func TestCutToNothingThenMore(t *testing.T) {
	h := New(Options{Backplane: newPlane(), Shards: 1})
	p := newPeer(h, "")
	s := p.open(t, "t")
	p.drain()
	deliver(h, "t", "a r1 b")
	s.log.cut(0, 0, &h.backlog)
	deliver(h, "t", "c d")
	s.log.cut(cost(plain("t", "d")), 0, &h.backlog)
	h.pump()
	expect(t, p.drain(), "-3r1 d")
	h.check(t)
}

func TestLossOfOneWhoLeavesIsCounted(t *testing.T) {
	h := New(Options{Backplane: newPlane(), Shards: 1, SubscriberBuffer: room(2)})
	p := newPeer(h, "")
	p.open(t, "t")
	deliver(h, "t", "a b r1 c d")
	p.Close()
	if s := h.Stats(); s.Dropped != 2 || s.Delivered != 0 {
		t.Errorf("stats %+v, want 2 dropped", s)
	}
	h.checkEmpty(t)
}

// Two members of one log lose each what it has not read.
func TestLossIsEachMembersOwn(t *testing.T) {
	h := New(Options{Backplane: newPlane(), Shards: 1, SubscriberBuffer: room(3)})
	fast, slow := newPeer(h, ""), newPeer(h, "")
	fast.open(t, "t")
	slow.open(t, "t")
	slow.drain()
	got := fast.drain()
	for _, w := range strings.Fields("a b r1 c d e r2 f g") {
		deliver(h, "t", w)
		h.pump()
		got = append(got, fast.drain()...)
		h.check(t)
	}
	late := newPeer(h, "")
	late.open(t, "t")
	deliver(h, "t", "h")
	h.pump()
	expect(t, append(got, fast.drain()...), "a b r1 c d e r2 f g h")
	expect(t, slow.drain(), "-5r2 f g h")
	expect(t, late.drain(), "h")
	h.check(t)
}

func TestNoLocal(t *testing.T) {
	h := New(Options{Backplane: newPlane(), Shards: 1, SubscriberBuffer: room(3)})
	me, you, anon := newPeer(h, "me"), newPeer(h, "you"), newPeer(h, "")
	from := func(p *pubsub.PreparedMessage, sender string) *pubsub.PreparedMessage { p.Sender = sender; return p }
	initial := from(retained("t", 1), "me")
	for _, p := range []*peer{me, you, anon} {
		s, err := p.Subscribe(t.Context(), "t", SubscriptionOptions{NoLocal: true})
		if err != nil {
			t.Fatal(err)
		}
		s.Resume(initial, pubsub.Version{})
		s.Resume(nil, pubsub.Version{})
	}
	// A retained message, too, is an Application Message (MQTT 5.0, 3.8.3.1).
	expect(t, me.drain(), "")
	expect(t, you.drain(), "*r1")
	expect(t, anon.drain(), "*r1")
	h.Deliver(from(plain("t", "a"), "me"))
	h.Deliver(from(plain("t", "b"), ""))
	h.Deliver(from(retained("t", 2), "me"))
	h.pump()
	expect(t, me.drain(), "b")
	expect(t, you.drain(), "a b r2")
	expect(t, anon.drain(), "a b r2")
	// The newest retained one, cut off, is not given to its own publisher either.
	h.Deliver(from(retained("t", 3), "me"))
	deliver(h, "t", "c d e f")
	h.pump()
	expect(t, me.drain(), "-1d e f")
	expect(t, you.drain(), "-1r3 d e f")
	// Without NoLocal from now on.
	if _, err := me.Subscribe(t.Context(), "t", SubscriptionOptions{ID: 7}); err != nil {
		t.Fatal(err)
	}
	h.Deliver(from(plain("t", "g"), "me"))
	h.pump()
	ds := me.drain()
	expect(t, ds, "g")
	if len(ds) == 1 && ds[0].Options != (SubscriptionOptions{ID: 7}) {
		t.Errorf("options %+v, want those of the later Subscribe", ds[0].Options)
	}
}

func TestExpiry(t *testing.T) {
	h := New(Options{Backplane: newPlane(), Shards: 1, SubscriberBuffer: room(4)})
	now := time.Now()
	p := newPeer(h, "")
	s := p.open(t, "t")
	p.drain()
	with := func(p *pubsub.PreparedMessage, ttl uint32) *pubsub.PreparedMessage {
		p.HasTTL, p.TTL, p.Published = true, ttl, now
		return p
	}
	read := func(at time.Time) string {
		h.pump()
		var all []Delivery
		for {
			ds, asleep := p.Read(make([]Delivery, 0, 4), 0, at)
			all = append(all, ds...)
			if asleep {
				return show(all)
			}
		}
	}
	publish := func() {
		h.Deliver(with(plain("t", "10s"), 10))
		h.Deliver(with(plain("t", "20s"), 20))
		h.Deliver(with(plain("t", "0s"), 0)) // live subscribers get it, whenever that is
		h.Deliver(plain("t", "ever"))
	}
	publish()
	if got := read(now.Add(9999 * time.Millisecond)); got != "10s 20s 0s ever" {
		t.Errorf("in time: %q", got)
	}
	publish()
	if got := read(now.Add(10 * time.Second)); got != "20s 0s ever" {
		t.Errorf("at the end of the first one's life: %q", got)
	}
	publish()
	if got := read(now.Add(time.Hour)); got != "0s ever" {
		t.Errorf("late: %q", got)
	}
	if n := h.Stats().Expired; n != 3 {
		t.Errorf("%d expired, want 3", n)
	}
	// The newest retained one, cut off and expired.
	h.Deliver(with(retained("t", 1), 10))
	deliver(h, "t", "a b c d e")
	if got := read(now.Add(time.Hour)); got != "-1b c d e" {
		t.Errorf("cut off and expired: %q", got)
	}
	// What was retained and expired before it could be given.
	s.Resume(with(retained("t", 2), 10), pubsub.Version{})
	if got := read(now.Add(10 * time.Second)); got != "" {
		t.Errorf("initial and expired: %q", got)
	}
	s.Resume(with(retained("t", 3), 10), pubsub.Version{})
	if got := read(now.Add(9 * time.Second)); got != "*r3" {
		t.Errorf("initial in time: %q", got)
	}
	if n := h.Stats().Expired; n != 5 {
		t.Errorf("%d expired, want 5", n)
	}
	h.check(t)
}

// A member reads a bounded piece of one topic before it turns to the next.
func TestRoundRobin(t *testing.T) {
	h := New(Options{Backplane: newPlane(), Shards: 1})
	p := newPeer(h, "")
	for _, topic := range []pubsub.Topic{"a", "b", "c"} {
		p.open(t, topic)
	}
	p.drain()
	for i := range 5 {
		h.Deliver(plain("a", fmt.Sprint("a", i)))
	}
	deliver(h, "b", "b0 b1 b2")
	deliver(h, "c", "c0")
	h.pump()
	var order []string
	for {
		ds, asleep := p.Read(make([]Delivery, 0, 2), 0, time.Now())
		if asleep {
			break
		}
		if len(ds) > 0 {
			order = append(order, show(ds))
		}
	}
	if got, want := strings.Join(order, "|"), "a0 a1|b0 b1|c0|a2 a3|b2|a4"; got != want {
		t.Errorf("read %s, want %s", got, want)
	}

	// However much room there is, a piece is bounded in bytes.
	big := strings.Repeat("x", maxPiece*5/16)
	for range 8 {
		h.Deliver(plain("a", big))
	}
	deliver(h, "b", "b3")
	h.pump()
	order = nil
	for {
		ds, asleep := p.Read(make([]Delivery, 0, 100), 0, time.Now())
		if asleep {
			break
		}
		if len(ds) > 0 {
			order = append(order, fmt.Sprint(ds[0].Sub.Topic(), len(ds)))
		}
	}
	if got, want := strings.Join(order, " "), "a4 b1 a4"; got != want {
		t.Errorf("pieces %s, want %s", got, want)
	}
	h.check(t)
}

// An initial message, the newest one and a loss fit into the least room that Read
// asks for.
func TestLeastRoom(t *testing.T) {
	h := New(Options{Backplane: newPlane(), Shards: 1, SubscriberBuffer: room(1)})
	p := newPeer(h, "")
	s := p.subscribe(t, "t")
	deliver(h, "t", "a r2 b c")
	s.Resume(retained("t", 1), pubsub.Version{})
	dst := make([]Delivery, 0, 2)
	var got []Delivery
	for {
		ds, asleep := p.Read(dst, 0, time.Now())
		if cap(ds) != 2 {
			t.Error("Read grew its argument")
		}
		got = append(got, ds...)
		if asleep {
			break
		}
	}
	expect(t, got, "*r1 -2r2 c")
}

// Whatever joins and leaves between two slices of a walk, nobody who has
// something unread is passed over.
func TestWalkPassesNobody(t *testing.T) {
	rnd := seeded(t)
	for range 3000 {
		h := New(Options{Backplane: newPlane(), Shards: 1})
		var peers []*peer
		join := func() {
			p := newPeer(h, "")
			p.open(t, "t")
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
				t.Fatalf("member %d of %d was passed over", i, len(peers))
			}
		}
	}
}

// The room that read and cut entries took is not kept.
func TestCutKeepsNothingAlive(t *testing.T) {
	h := New(Options{Backplane: newPlane(), Shards: 1, SubscriberBuffer: room(10)})
	p := newPeer(h, "")
	s := p.open(t, "t")
	for i := range 1000 {
		h.Deliver(plain("t", fmt.Sprint(i)))
		if i%100 == 99 {
			s.log.cut(room(3), 0, &h.backlog) // as trimming does, many at once
		}
		if n := cap(s.log.entries); n > 64 {
			t.Fatalf("a log of at most 10 entries has room for %d", n)
		}
		for _, e := range s.log.entries[len(s.log.entries):cap(s.log.entries)] {
			if e.msg != nil {
				t.Fatal("an entry that was cut is still referred to")
			}
		}
	}
	p.drain()
	if s.log.entries != nil || s.log.newest != nil {
		t.Error("a log that all have read is not empty")
	}
}
