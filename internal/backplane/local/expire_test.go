package local

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pubsub"
)

// TestExpiry checks with a fake clock when messages and markers of clears expire.
func TestExpiry(t *testing.T) {
	start := time.Date(2026, 1, 1, 12, 0, 0, 500_000_000, time.UTC)
	var now atomic.Int64 // since start
	var expired, expiredBytes int64
	b := open(t, Options{InMemory: true,
		Now:    func() time.Time { return start.Add(time.Duration(now.Load())) },
		Events: Events{Expired: func(n, bytes int64) { expired += n; expiredBytes += bytes }},
	})
	defer b.Close()
	ctx := t.Context()
	put := func(topic pubsub.Topic, data string, ttl uint32) {
		t.Helper()
		m := pubsub.Message{Topic: topic, Data: []byte(data), Published: b.now(), HasTTL: ttl > 0, TTL: ttl}
		if _, err := b.Put(ctx, m)(); err != nil {
			t.Fatal(err)
		}
	}
	// at removes expired records after the given time and checks the number of those left.
	at := func(passed time.Duration, retained, markers int64) {
		t.Helper()
		now.Store(int64(passed))
		if err := b.expire(ctx, b.now()); err != nil {
			t.Fatal(err)
		}
		if s := b.Stats(); s.Retained != retained || s.Markers != markers {
			t.Errorf("after %v there are %d messages and %d markers, want %d and %d", passed, s.Retained, s.Markers, retained, markers)
		}
		checkStats(t, b)
	}
	put("forever", "x", 0)
	put("short", "x", 2)
	put("long", "x", 100)
	put("renewed", "x", 2)
	put("renewed", "y", 100)
	put("made permanent", "x", 2)
	put("made permanent", "y", 0)
	put("cleared", "x", 2)
	put("cleared", "", 0)
	put("clear", "", 0)
	at(0, 5, 2)
	at(1999*time.Millisecond, 5, 2)
	if _, ok, err := b.Last(ctx, "short", pubsub.Version{}); !ok || err != nil {
		t.Errorf("Last just before the message expires: ok %v, error %v", ok, err)
	}
	now.Store(int64(2 * time.Second))
	if _, ok, err := b.Last(ctx, "short", pubsub.Version{}); ok || err != nil {
		t.Errorf("Last when the message expires: ok %v, error %v", ok, err)
	}
	at(3*time.Second, 4, 2)
	if expired != 1 || expiredBytes <= 0 {
		t.Errorf("Expired reported %d messages of %d bytes, want 1 message", expired, expiredBytes)
	}
	at(101*time.Second, 2, 2)
	old := pubsub.Version{Generation: b.generation, Seq: 1}
	if m, ok, err := b.Last(ctx, "clear", old); !ok || err != nil || len(m.Data) != 0 {
		t.Errorf("Last of a clear: %q, ok %v, error %v", m.Data, ok, err)
	}
	at(24*time.Hour-time.Second, 2, 2) // 24 h is a promise: not pubsub.ClearMarkerTTL
	now.Store(int64(24 * time.Hour))
	if _, ok, err := b.Last(ctx, "clear", old); ok || err != nil {
		t.Errorf("Last of a clear after its time: ok %v, error %v", ok, err)
	}
	at(24*time.Hour+time.Second, 2, 0)
	if s := b.Stats(); s.Expired != 5 || s.ExpiredBytes != expiredBytes || expired != 5 {
		t.Errorf("Stats = %+v, Expired reported %d messages of %d bytes, want 5 messages", s, expired, expiredBytes)
	}
	it, err := b.db.NewIter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer it.Close()
	var left []string
	for it.First(); it.Valid(); it.Next() {
		left = append(left, string(it.Key()))
	}
	if fmt.Sprint(left) != "[g h mforever mmade permanent]" {
		t.Errorf("the database has the keys %q", left)
	}
}

// TestExpireManyWhilePublishing removes many batches of expired messages while publishers
// replace them by messages without a TTL. No newer message is lost.
func TestExpireManyWhilePublishing(t *testing.T) {
	const topics = 5 * expiryBatch
	b := open(t, Options{InMemory: true})
	defer b.Close()
	ctx := t.Context()
	topic := func(i int) pubsub.Topic { return pubsub.Topic(fmt.Sprint("t/", i)) }
	put := func(m pubsub.Message) {
		if _, err := b.Put(ctx, m)(); err != nil {
			t.Error(err)
		}
	}
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := w; i < topics; i += 4 {
				m := message(topic(i), "ends")
				m.HasTTL, m.TTL = true, 60
				m.Published = m.Published.Add(-2 * time.Minute)
				put(m)
			}
		})
	}
	wg.Wait()
	for w := range 4 {
		wg.Go(func() {
			for i := w; i < topics; i += 8 {
				put(message(topic(i), "stays"))
			}
		})
	}
	for range 2 {
		wg.Go(func() {
			if err := b.expire(ctx, time.Now()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i := range topics {
		m, ok, err := b.Last(ctx, topic(i), pubsub.Version{})
		if stays := i%8 < 4; err != nil || ok != stays || ok && string(m.Data) != "stays" {
			t.Errorf("%q: %q, ok %v, error %v, want ok %v", topic(i), m.Data, ok, err, stays)
		}
	}
	if s := b.Stats(); s.Retained != topics/2 || s.Expired < topics/2 {
		t.Errorf("Stats = %+v, want %d messages and at least as many expired", s, topics/2)
	}
	checkStats(t, b)
}

// TestPutAfterExpiry checks that a Put does not count a removed message as replaced.
func TestPutAfterExpiry(t *testing.T) {
	b := open(t, Options{InMemory: true})
	defer b.Close()
	for range 3 {
		m := message("t", "ends")
		m.HasTTL, m.TTL = true, 60
		if _, err := b.Put(t.Context(), m)(); err != nil {
			t.Fatal(err)
		}
		if s := b.Stats(); s.Retained != 1 {
			t.Errorf("Stats = %+v, want one message", s)
		}
		checkStats(t, b)
		if err := b.expire(t.Context(), time.Now().Add(2*time.Minute)); err != nil {
			t.Fatal(err)
		}
		checkStats(t, b)
	}
	if s := b.Stats(); s.Expired != 3 {
		t.Errorf("Stats = %+v, want three messages expired", s)
	}
}

// TestExpiresAtIntervals checks that expired messages are removed at every interval.
func TestExpiresAtIntervals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		expired := make(chan int64, 10)
		b := open(t, Options{InMemory: true, ExpireInterval: time.Minute, Events: Events{
			Expired: func(n, _ int64) { expired <- n },
		}})
		start := time.Now()
		m := message("t", "x")
		m.HasTTL, m.TTL = true, 90
		if _, err := b.Put(t.Context(), m)(); err != nil {
			t.Fatal(err)
		}
		if n := <-expired; n != 1 {
			t.Errorf("%d messages expired, want 1", n)
		}
		if passed := time.Since(start); passed != 2*time.Minute {
			t.Errorf("removed after %v, want 2m", passed)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
}
