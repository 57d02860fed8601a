package pubsub_test

import (
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pubsub"
)

var published = time.Unix(1750000000, 0)

func TestMessageExpiry(t *testing.T) {
	for _, tt := range []struct {
		name      string
		hasTTL    bool
		ttl       uint32
		after     time.Duration
		expired   bool
		remaining uint32
	}{
		{"fresh", true, 10, 0, false, 10},
		{"part of a second", true, 10, time.Second - 1, false, 10},
		{"a second", true, 10, time.Second, false, 9},
		{"the last moment", true, 10, 10*time.Second - 1, false, 1},
		{"over", true, 10, 10 * time.Second, true, 0},
		{"long over", true, 10, 1000 * time.Hour, true, 0},
		{"from a clock that is ahead", true, 10, -time.Hour, false, 10},
		{"longest", true, math.MaxUint32, 0, false, math.MaxUint32},
		{"longest, over", true, math.MaxUint32, math.MaxUint32 * time.Second, true, 0},
		{"zero never expires on its way", true, 0, time.Hour, false, 0},
		{"none never expires", false, 0, time.Duration(math.MaxInt64), false, 0},
		{"a TTL that does not count", false, 5, time.Hour, false, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := pubsub.Message{Published: published, HasTTL: tt.hasTTL, TTL: tt.ttl}
			now := published.Add(tt.after)
			if m.Expired(now) != tt.expired {
				t.Errorf("expired: %v", !tt.expired)
			}
			if tt.hasTTL && m.RemainingTTL(now) != tt.remaining {
				t.Errorf("remaining %d, want %d", m.RemainingTTL(now), tt.remaining)
			}
			at, ok := m.Expires()
			if want := tt.hasTTL && tt.ttl > 0; ok != want {
				t.Errorf("expires: %v, want %v", ok, want)
			}
			if ok && !at.Equal(published.Add(time.Duration(tt.ttl)*time.Second)) {
				t.Errorf("expires at %v", at)
			}
		})
	}
}

func TestClears(t *testing.T) {
	for _, tt := range []struct {
		m    pubsub.Message
		want bool
	}{
		{pubsub.Message{Retain: true}, true},
		{pubsub.Message{Retain: true, Data: []byte{}}, true},
		{pubsub.Message{Retain: true, Data: []byte("x")}, false},
		{pubsub.Message{Retain: true, Data: []byte("x"), HasTTL: true}, true},
		{pubsub.Message{Retain: true, Data: []byte("x"), HasTTL: true, TTL: 1}, false},
		{pubsub.Message{Retain: true, Data: []byte("x"), TTL: 0}, false},
		{pubsub.Message{}, false},
		{pubsub.Message{HasTTL: true}, false},
	} {
		if tt.m.Clears() != tt.want {
			t.Errorf("%+v clears: %v", tt.m, !tt.want)
		}
	}
}

// A message has expired exactly when a subscriber would be told 0 seconds.
func FuzzMessageExpiry(f *testing.F) {
	f.Add(uint32(1), int64(time.Second))
	f.Add(uint32(10), int64(10*time.Second-1))
	f.Add(uint32(math.MaxUint32), int64(math.MaxInt64))
	f.Add(uint32(7), int64(math.MinInt64))
	f.Fuzz(func(t *testing.T, ttl uint32, after int64) {
		if ttl == 0 {
			return
		}
		m := pubsub.Message{Published: published, HasTTL: true, TTL: ttl}
		now := published.Add(time.Duration(after))
		left := m.RemainingTTL(now)
		if m.Expired(now) != (left == 0) || left > ttl {
			t.Fatalf("TTL %d after %v: expired %v, remaining %d", ttl, time.Duration(after), m.Expired(now), left)
		}
	})
}

func TestFrameIsMadeOnceForEachShape(t *testing.T) {
	p := pubsub.NewPreparedMessage(pubsub.Message{Topic: "t", Data: []byte("x")})
	if p.Topic != "t" || string(p.Data) != "x" {
		t.Errorf("parcel of %+v", p.Message)
	}
	var calls [pubsub.NumEncodings]atomic.Int32
	var frames [pubsub.NumEncodings][8][]byte
	var wg sync.WaitGroup
	for s := range pubsub.NumEncodings {
		for i := range frames[s] {
			wg.Go(func() {
				frames[s][i] = p.Encoded(pubsub.Encoding(s), func(dst []byte, m *pubsub.Message) []byte {
					calls[s].Add(1)
					if len(dst) != 0 {
						t.Errorf("encode was given %q", dst)
					}
					return append(append(dst, m.Topic...), m.Data[0], byte('0'+s))
				})
			})
		}
	}
	wg.Wait()
	for s := range frames {
		if n := calls[s].Load(); n != 1 {
			t.Errorf("shape %d was made %d times", s, n)
		}
		for _, f := range frames[s] {
			if string(f) != "tx"+string(rune('0'+s)) || &f[0] != &frames[s][0][0] {
				t.Errorf("shape %d: %q, or it is not shared", s, f)
			}
		}
	}
}

// A shape that has no bytes is made once, too.
func TestEmptyFrame(t *testing.T) {
	p := pubsub.NewPreparedMessage(pubsub.Message{})
	calls := 0
	for range 2 {
		if f := p.Encoded(0, func([]byte, *pubsub.Message) []byte { calls++; return nil }); len(f) != 0 {
			t.Errorf("frame %q", f)
		}
	}
	if calls != 1 {
		t.Errorf("made %d times", calls)
	}
}

func TestFrameAllocatesNothingOnceMade(t *testing.T) {
	p := pubsub.NewPreparedMessage(pubsub.Message{Topic: "t", Data: []byte("x")})
	encode := func(dst []byte, m *pubsub.Message) []byte { return append(dst, m.Data...) }
	p.Encoded(0, encode)
	if n := testing.AllocsPerRun(100, func() { p.Encoded(0, encode) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Hold returns the size of a parcel once, and encodings that are made while it is held
// count as soon as they exist.
func TestPreparedMessageCountsWhatItTakes(t *testing.T) {
	const keepers, rounds = 8, 200
	for range 20 {
		var total atomic.Int64
		p := pubsub.NewPreparedMessage(pubsub.Message{Topic: "t", Data: make([]byte, 100), Properties: make([]byte, 10), Sender: "sender"})
		p.SetByteCounter(&total)
		if n := p.Size(); n < 116 || n > 116+500 {
			t.Errorf("a message of 116 bytes takes %d", n)
		}
		var wg sync.WaitGroup
		for i := range keepers {
			wg.Go(func() {
				for range rounds {
					total.Add(p.Hold())
					p.Encoded(pubsub.Encoding(i%pubsub.NumEncodings), func(dst []byte, m *pubsub.Message) []byte { return append(dst, m.Data...) })
					total.Add(-p.Release())
				}
			})
		}
		wg.Wait()
		if n := total.Load(); n != 0 {
			t.Fatalf("%d bytes are kept by nobody", n)
		}
		if n := p.Size(); n < 116+pubsub.NumEncodings*100 {
			t.Errorf("with %d encodings of 100 bytes it takes %d", pubsub.NumEncodings, n)
		}
		total.Add(p.Hold())
		total.Add(p.Hold())
		if n := total.Load(); n != p.Size() {
			t.Errorf("%d bytes are kept, want %d", n, p.Size())
		}
	}
}
