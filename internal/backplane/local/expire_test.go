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

// TestExpiry follows messages and a marker through their ends, by a clock of its
// own.
func TestExpiry(t *testing.T) {
	start := time.Date(2026, 1, 1, 12, 0, 0, 500_000_000, time.UTC)
	var now atomic.Int64 // since start
	var swept, sweptBytes int64
	b := open(t, Options{InMemory: true,
		Now:    func() time.Time { return start.Add(time.Duration(now.Load())) },
		Events: Events{Expired: func(n, bytes int64) { swept += n; sweptBytes += bytes }},
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
	// at sweeps when so much time has passed and checks what is left.
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
	put("made lasting", "x", 2)
	put("made lasting", "y", 0)
	put("cleared", "x", 2)
	put("cleared", "", 0)
	put("clear", "", 0)
	at(0, 5, 2)
	at(1999*time.Millisecond, 5, 2)
	if _, ok, err := b.Last(ctx, "short", pubsub.Version{}); !ok || err != nil {
		t.Errorf("Last just before the end: ok %v, error %v", ok, err)
	}
	now.Store(int64(2 * time.Second))
	if _, ok, err := b.Last(ctx, "short", pubsub.Version{}); ok || err != nil {
		t.Errorf("Last at the end: ok %v, error %v", ok, err)
	}
	at(3*time.Second, 4, 2)
	if swept != 1 || sweptBytes <= 0 {
		t.Errorf("%d messages of %d bytes were swept, want 1", swept, sweptBytes)
	}
	at(101*time.Second, 2, 2)
	old := pubsub.Version{Generation: b.generation, Seq: 1}
	if m, ok, err := b.Last(ctx, "clear", old); !ok || err != nil || len(m.Data) != 0 {
		t.Errorf("Last of a clear: %q, ok %v, error %v", m.Data, ok, err)
	}
	at(24*time.Hour-time.Second, 2, 2) // the 24 h of the contract, whatever pubsub.ClearMarkerTTL says
	now.Store(int64(24 * time.Hour))
	if _, ok, err := b.Last(ctx, "clear", old); ok || err != nil {
		t.Errorf("Last of a clear after its time: ok %v, error %v", ok, err)
	}
	at(24*time.Hour+time.Second, 2, 0)
	if s := b.Stats(); s.Expired != 5 || s.ExpiredBytes != sweptBytes || swept != 5 {
		t.Errorf("Stats = %+v, the events said %d messages of %d bytes, want 5", s, swept, sweptBytes)
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
	if fmt.Sprint(left) != "[g h mforever mmade lasting]" {
		t.Errorf("the database has the keys %q", left)
	}
}

// TestExpireManyWhilePublishing removes many batches of messages that end while they are
// being overwritten by ones which do not: no newer message is lost.
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
		t.Errorf("Stats = %+v, want %d messages and at least as many swept", s, topics/2)
	}
	checkStats(t, b)
}

// TestPutAfterExpiry checks that a put does not take for there what was put before it
// and has been swept since.
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
		t.Errorf("Stats = %+v, want three messages swept", s)
	}
}

// TestExpiresAtIntervals checks that the sweeper works by itself, every interval.
func TestExpiresAtIntervals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		swept := make(chan int64, 10)
		b := open(t, Options{InMemory: true, ExpireInterval: time.Minute, Events: Events{
			Expired: func(n, _ int64) { swept <- n },
		}})
		start := time.Now()
		m := message("t", "x")
		m.HasTTL, m.TTL = true, 90
		if _, err := b.Put(t.Context(), m)(); err != nil {
			t.Fatal(err)
		}
		if n := <-swept; n != 1 {
			t.Errorf("swept %d messages, want 1", n)
		}
		if passed := time.Since(start); passed != 2*time.Minute {
			t.Errorf("swept after %v, want 2m", passed)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
}
