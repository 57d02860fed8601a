package pubsub_test

import (
	"math"
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
		{"expired", true, 10, 10 * time.Second, true, 0},
		{"long expired", true, 10, 1000 * time.Hour, true, 0},
		{"published by a clock that is ahead", true, 10, -time.Hour, false, 10},
		{"longest", true, math.MaxUint32, 0, false, math.MaxUint32},
		{"longest, expired", true, math.MaxUint32, math.MaxUint32 * time.Second, true, 0},
		{"zero does not expire in transit", true, 0, time.Hour, false, 0},
		{"without TTL", false, 0, time.Duration(math.MaxInt64), false, 0},
		{"TTL without HasTTL", false, 5, time.Hour, false, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := pubsub.Message{Published: published, HasTTL: tt.hasTTL, TTL: tt.ttl}
			now := published.Add(tt.after)
			if m.Expired(now) != tt.expired {
				t.Errorf("Expired = %v, want %v", !tt.expired, tt.expired)
			}
			if tt.hasTTL && m.RemainingTTL(now) != tt.remaining {
				t.Errorf("RemainingTTL = %d, want %d", m.RemainingTTL(now), tt.remaining)
			}
			at, ok := m.Expires()
			if want := tt.hasTTL && tt.ttl > 0; ok != want {
				t.Errorf("Expires: ok = %v, want %v", ok, want)
			}
			if ok && !at.Equal(published.Add(time.Duration(tt.ttl)*time.Second)) {
				t.Errorf("Expires = %v", at)
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
			t.Errorf("%+v: Clears = %v, want %v", tt.m, !tt.want, tt.want)
		}
	}
}

// A message has expired exactly when its remaining TTL is 0.
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
			t.Fatalf("TTL %d after %v: Expired = %v, RemainingTTL = %d", ttl, time.Duration(after), m.Expired(now), left)
		}
	})
}
