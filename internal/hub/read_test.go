package hub

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pubsub"
)

// Notify makes the holder call Read once more, at any time.
func TestNotify(t *testing.T) {
	h := New(Options{Backplane: newBackplane(), Shards: 1})
	p := newPeer(h, "")
	p.Notify()
	if p.wakes.Load() != 1 {
		t.Fatal("Notify did not wake the holder")
	}
	p.Notify()
	if p.wakes.Load() != 1 {
		t.Error("woken twice without sleeping in between")
	}
	read := func(want bool) {
		t.Helper()
		if _, asleep := p.Read(make([]Delivery, 0, 2), 0, time.Now()); asleep != want {
			t.Errorf("asleep = %v, want %v", asleep, want)
		}
	}
	read(false) // because of Notify
	p.Notify()  // between the last Read and sleep
	read(false)
	read(true)
	p.Notify()
	if p.wakes.Load() != 2 {
		t.Error("Notify did not wake a sleeping subscriber")
	}
	// Notify is not lost if there are messages as well.
	p.resume(t, "t")
	deliver(h, "t", "a")
	h.pump()
	if p.wakes.Load() != 2 {
		t.Error("woken although awake")
	}
	read(false) // the message
	read(false) // because of Notify
	read(true)
	// A message arrives between the last Read and sleep.
	deliver(h, "t", "b")
	h.pump()
	if p.wakes.Load() != 3 {
		t.Error("a message did not wake the subscriber")
	}
	read(false)
	deliver(h, "t", "c")
	h.pump()
	read(false)
	read(true)
}

// A subscriber reads a bounded piece of one topic before it turns to the next.
func TestRoundRobin(t *testing.T) {
	h := New(Options{Backplane: newBackplane(), Shards: 1})
	p := newPeer(h, "")
	for _, topic := range []pubsub.Topic{"a", "b", "c"} {
		p.resume(t, topic)
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
			order = append(order, render(ds))
		}
	}
	if got, want := strings.Join(order, "|"), "a0 a1|b0 b1|c0|a2 a3|b2|a4"; got != want {
		t.Errorf("read %s, want %s", got, want)
	}

	// A piece is bounded in bytes, even if dst has more room.
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

// Read makes progress with room for two deliveries, also for an initial message, the
// newest one and a loss.
func TestMinimumRoom(t *testing.T) {
	h := New(Options{Backplane: newBackplane(), Shards: 1, SubscriberBuffer: room(1)})
	p := newPeer(h, "")
	s := p.subscribe(t, "t")
	deliver(h, "t", "a r2 b c")
	s.Resume(retained("t", 1), pubsub.Version{})
	dst := make([]Delivery, 0, 2)
	var got []Delivery
	for {
		ds, asleep := p.Read(dst, 0, time.Now())
		if cap(ds) != 2 {
			t.Error("Read has reallocated dst")
		}
		got = append(got, ds...)
		if asleep {
			break
		}
	}
	expect(t, got, "*r1 -2r2 c")
}

// A piece is bounded by the encoded length of its messages, including their heads.
func TestPieceIsBoundedByEncodedBytes(t *testing.T) {
	const wire = 3000
	for _, head := range []int{0, 1000, 31_000} {
		h := New(Options{Backplane: newBackplane(), Shards: 1, MaxEncodedSize: func(*pubsub.Message) int { return wire }})
		p := newPeer(h, "")
		p.resume(t, "t")
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
				t.Errorf("a piece of %d bytes with heads of %d bytes", n, head)
			}
			if asleep {
				break
			}
		}
		if got != 40 {
			t.Errorf("read %d messages of 40", got)
		}
		p.Close()
	}
}

func TestNoLocal(t *testing.T) {
	h := New(Options{Backplane: newBackplane(), Shards: 1, SubscriberBuffer: room(3)})
	publisher, other, anonymous := newPeer(h, "publisher"), newPeer(h, "other"), newPeer(h, "")
	from := func(p *pubsub.PreparedMessage, sender string) *pubsub.PreparedMessage { p.Sender = sender; return p }
	initial := from(retained("t", 1), "publisher")
	for _, p := range []*peer{publisher, other, anonymous} {
		s, err := p.Subscribe(t.Context(), "t", SubscriptionOptions{NoLocal: true})
		if err != nil {
			t.Fatal(err)
		}
		s.Resume(initial, pubsub.Version{})
		s.Resume(nil, pubsub.Version{})
	}
	// No Local applies to retained messages as well (MQTT 5.0 section 3.8.3.1).
	expect(t, publisher.drain(), "")
	expect(t, other.drain(), "*r1")
	expect(t, anonymous.drain(), "*r1")
	h.Deliver(from(plain("t", "a"), "publisher"))
	h.Deliver(from(plain("t", "b"), ""))
	h.Deliver(from(retained("t", 2), "publisher"))
	h.pump()
	expect(t, publisher.drain(), "b")
	expect(t, other.drain(), "a b r2")
	expect(t, anonymous.drain(), "a b r2")
	// Its own publisher does not receive the newest retained message if it was cut, either.
	h.Deliver(from(retained("t", 3), "publisher"))
	deliver(h, "t", "c d e f")
	h.pump()
	expect(t, publisher.drain(), "-1d e f")
	expect(t, other.drain(), "-1r3 d e f")
	// Subscribing again removes NoLocal.
	if _, err := publisher.Subscribe(t.Context(), "t", SubscriptionOptions{ID: 7}); err != nil {
		t.Fatal(err)
	}
	h.Deliver(from(plain("t", "g"), "publisher"))
	h.pump()
	ds := publisher.drain()
	expect(t, ds, "g")
	if len(ds) == 1 && ds[0].Options != (SubscriptionOptions{ID: 7}) {
		t.Errorf("options %+v, want those of the later Subscribe", ds[0].Options)
	}
}

func TestExpiry(t *testing.T) {
	h := New(Options{Backplane: newBackplane(), Shards: 1, SubscriberBuffer: room(4)})
	now := time.Now()
	p := newPeer(h, "")
	s := p.resume(t, "t")
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
				return render(all)
			}
		}
	}
	publish := func() {
		h.Deliver(with(plain("t", "10s"), 10))
		h.Deliver(with(plain("t", "20s"), 20))
		h.Deliver(with(plain("t", "0s"), 0)) // does not expire on its way to live subscribers
		h.Deliver(plain("t", "ever"))
	}
	publish()
	if got := read(now.Add(9999 * time.Millisecond)); got != "10s 20s 0s ever" {
		t.Errorf("before any expires: %q", got)
	}
	publish()
	if got := read(now.Add(10 * time.Second)); got != "20s 0s ever" {
		t.Errorf("when the first expires: %q", got)
	}
	publish()
	if got := read(now.Add(time.Hour)); got != "0s ever" {
		t.Errorf("after both have expired: %q", got)
	}
	if n := h.Stats().Expired; n != 3 {
		t.Errorf("Expired = %d, want 3", n)
	}
	// The newest retained message was cut and has expired.
	h.Deliver(with(retained("t", 1), 10))
	deliver(h, "t", "a b c d e")
	if got := read(now.Add(time.Hour)); got != "-1b c d e" {
		t.Errorf("cut and expired: %q", got)
	}
	// An initial message expires before it is read.
	s.Resume(with(retained("t", 2), 10), pubsub.Version{})
	if got := read(now.Add(10 * time.Second)); got != "" {
		t.Errorf("initial and expired: %q", got)
	}
	s.Resume(with(retained("t", 3), 10), pubsub.Version{})
	if got := read(now.Add(9 * time.Second)); got != "*r3" {
		t.Errorf("initial and not expired: %q", got)
	}
	if n := h.Stats().Expired; n != 5 {
		t.Errorf("Expired = %d, want 5", n)
	}
	h.check(t)
}
