package backplanetest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"pubsub"
)

// versionsGrow checks that a Put which begins after another one to its topic has ended has
// the greater version, that no version is used twice, and that the message with the
// greatest version is retained.
func versionsGrow(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	const writers, each = 16, 25
	topics := []pubsub.Topic{"a", "b"}
	type kept struct {
		v    pubsub.Version
		data string
	}
	var mu sync.Mutex
	all := map[pubsub.Topic][]kept{}
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			var prev pubsub.Version
			for i := range each {
				topic := topics[w%len(topics)]
				m := retained(topic, fmt.Sprint(w, "/", i))
				v, err := b.Put(ctx, m)()
				if err != nil {
					t.Errorf("Put: %v", err)
					return
				}
				if !v.Newer(prev) || !prev.IsZero() && v.Generation != prev.Generation {
					t.Errorf("version %v follows %v", v, prev)
				}
				prev = v
				mu.Lock()
				all[topic] = append(all[topic], kept{v, string(m.Data)})
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for topic, l := range all {
		slices.SortFunc(l, func(a, b kept) int { return int(int64(a.v.Seq) - int64(b.v.Seq)) })
		for i := 1; i < len(l); i++ {
			if l[i].v == l[i-1].v {
				t.Errorf("version %v of %q was used twice", l[i].v, topic)
			}
		}
		newest := l[len(l)-1]
		m, ok, err := b.Last(ctx, topic, pubsub.Version{})
		if err != nil || !ok || m.Version != newest.v || string(m.Data) != newest.data {
			t.Errorf("Last(%q) = %q %v, ok %v, error %v, want %q %v", topic, m.Data, m.Version, ok, err, newest.data, newest.v)
		}
	}
}

// putDecidesOrder checks that the order of messages is that of the calls of Put, not of
// their wait functions.
func putDecidesOrder(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	m := retained("t", "second")
	first := b.Put(ctx, retained("t", "first"))
	second := b.Put(ctx, m)
	w, err := second()
	if err != nil {
		t.Fatal(err)
	}
	wantLast(ctx, t, b, pubsub.Version{}, m, w)
	v, err := first()
	if err != nil {
		t.Fatal(err)
	}
	if !w.Newer(v) || v.Newer(w) && v.Generation == w.Generation {
		t.Errorf("the later Put has version %v, the earlier %v", w, v)
	}
	wantLast(ctx, t, b, v, m, w)
}

func pipeline(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	const n = 200
	var waits []func() (pubsub.Version, error)
	var m pubsub.Message
	for i := range n {
		m = retained("t", fmt.Sprint(i))
		waits = append(waits, b.Put(ctx, m))
	}
	var prev pubsub.Version
	for i, wait := range waits {
		v, err := wait()
		if err != nil {
			t.Fatal(err)
		}
		if i > 0 && (v.Generation != prev.Generation || v.Seq <= prev.Seq) {
			t.Fatalf("Put %d has version %v, the one before %v", i, v, prev)
		}
		prev = v
	}
	wantLast(ctx, t, b, pubsub.Version{}, m, prev)
}

// lastNeverGoesBack checks that Last never returns an older version than before, nor an
// older one than a Put that has ended.
func lastNeverGoesBack(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	const puts, readers = 100, 4
	v := put(ctx, t, b, retained("t", "0"))
	var mu sync.Mutex
	ended := v // the newest version whose Put has ended
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range readers {
		wg.Go(func() {
			var seen pubsub.Version
			for {
				select {
				case <-stop:
					return
				default:
				}
				mu.Lock()
				atLeast := ended
				mu.Unlock()
				m, ok, err := b.Last(ctx, "t", pubsub.Version{})
				if err != nil || !ok {
					t.Errorf("Last = ok %v, error %v", ok, err)
					return
				}
				if m.Version.Seq < atLeast.Seq || m.Version.Seq < seen.Seq {
					t.Errorf("Last = version %v; before it Put returned %v and Last %v", m.Version, atLeast, seen)
					return
				}
				seen = m.Version
			}
		})
	}
	for i := range puts {
		w := put(ctx, t, b, retained("t", fmt.Sprint(i)))
		mu.Lock()
		ended = w
		mu.Unlock()
	}
	close(stop)
	wg.Wait()
}
