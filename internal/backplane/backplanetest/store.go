package backplanetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pubsub"
)

func (k kit) store(t *testing.T) {
	k.each(t, []test{
		{"NothingKept", nothingKept},
		{"RoundTrip", roundTrip},
		{"Sizes", sizes},
		{"VersionsGrow", versionsGrow},
		{"PlaceIsTakenByPut", placeIsTakenByPut},
		{"Pipeline", pipeline},
		{"LastAfter", lastAfter},
		{"Clear", clearByEmpty},
		{"ClearByTTL0", clearByTTL0},
		{"ClearOfNothing", clearOfNothing},
		{"ClearWithTTL", clearWithTTL},
		{"TTL", ttl},
		{"ReadersSeeNoStepBack", readersSeeNoStepBack},
		{"SlicesMayBeReused", slicesMayBeReused},
		{"List", list},
		{"ListPages", listPages},
		{"ListHides", listHides},
		{"ContextDone", storeContextDone},
	})
}

func nothingKept(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	wantNone(ctx, t, b, "never", pubsub.Version{})
	wantNone(ctx, t, b, "never", pubsub.Version{Generation: 7, Seq: 7})
	if l, err := b.List(ctx, "", "", 10); err != nil || len(l) != 0 {
		t.Fatalf("List of nothing = %v, %v", l, err)
	}
	put(ctx, t, b, retained("neverland", "x"))
	wantNone(ctx, t, b, "never", pubsub.Version{})
}

func roundTrip(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	for _, m := range []pubsub.Message{
		retained("plain", "hello"),
		{Topic: "binary", Data: []byte("\x00\xff\r\n\x80"), Retain: true, Published: time.Now()},
		{Topic: "ttl", Data: []byte("x"), Retain: true, Published: time.Now(), HasTTL: true, TTL: 1<<32 - 1},
		{Topic: "all", Data: []byte("x"), Retain: true, Published: time.Now(), HasTTL: true, TTL: 3600,
			Sender: "key\x00sub\xffclient", Properties: []byte("\x01\x01\x26\x00\x01k\x00\x01v")},
	} {
		v := put(ctx, t, b, m)
		wantLast(ctx, t, b, pubsub.Version{}, m, v)
		m.Data = []byte("again")
		w := put(ctx, t, b, m)
		wantLast(ctx, t, b, v, m, w)
	}
}

func sizes(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	for _, n := range []int{1, 127, 128, 32512, 100_000} {
		m := retained("t", strings.Repeat("d", n))
		m.Properties = []byte(strings.Repeat("p", n/2))
		m.Sender = strings.Repeat("s", min(n, 65535))
		wantLast(ctx, t, b, pubsub.Version{}, m, put(ctx, t, b, m))
	}
	m := retained(pubsub.Topic(strings.Repeat("é", pubsub.MaxTopicBytes/2)), "longest")
	wantLast(ctx, t, b, pubsub.Version{}, m, put(ctx, t, b, m))
}

// versionsGrow checks that of any two Puts to a topic of which one ended before
// the other began, the later one has the greater version, that no version is
// given twice, and that the greatest is what remains.
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
				t.Errorf("version %v of %q was given twice", l[i].v, topic)
			}
		}
		newest := l[len(l)-1]
		m, ok, err := b.Last(ctx, topic, pubsub.Version{})
		if err != nil || !ok || m.Version != newest.v || string(m.Data) != newest.data {
			t.Errorf("Last(%q) = %q %v, ok %v, error %v, want %q %v", topic, m.Data, m.Version, ok, err, newest.data, newest.v)
		}
	}
}

func placeIsTakenByPut(ctx context.Context, t *testing.T, b pubsub.Backplane) {
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

func lastAfter(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	old := put(ctx, t, b, retained("t", "old"))
	m := retained("t", "new")
	v := put(ctx, t, b, m)
	wantLast(ctx, t, b, pubsub.Version{}, m, v)
	wantLast(ctx, t, b, old, m, v)
	wantNone(ctx, t, b, "t", v)
	other := v
	other.Generation ^= 1
	wantLast(ctx, t, b, other, m, v)
	ahead := v
	ahead.Seq += 1 << 40
	wantLast(ctx, t, b, ahead, m, v)
	wantLast(ctx, t, b, pubsub.Version{Generation: v.Generation, Seq: 1<<64 - 1}, m, v)
}

// wantCleared checks that topic has a marker of version v, and old is a version
// from before it.
func wantCleared(ctx context.Context, t *testing.T, b pubsub.Backplane, topic pubsub.Topic, old, v pubsub.Version) {
	t.Helper()
	if !v.Newer(old) || v.Generation != old.Generation {
		t.Fatalf("the clear has version %v, what it cleared %v", v, old)
	}
	wantNone(ctx, t, b, topic, pubsub.Version{})
	wantNone(ctx, t, b, topic, v)
	wantNone(ctx, t, b, topic, pubsub.Version{Generation: v.Generation ^ 1, Seq: 1})
	wantNone(ctx, t, b, topic, pubsub.Version{Generation: v.Generation, Seq: 1<<64 - 1})
	m, ok, err := b.Last(ctx, topic, old)
	if err != nil || !ok {
		t.Fatalf("Last(%q, %v) = ok %v, error %v, want the clear", topic, old, ok, err)
	}
	if len(m.Data) != 0 || m.Version != v || m.Topic != topic || m.Expired(time.Now()) {
		t.Fatalf("the clear of %q reads topic %q, data %q, version %v, expired %v; want no data, version %v", topic, m.Topic, m.Data, m.Version, m.Expired(time.Now()), v)
	}
}

func clearByEmpty(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	old := put(ctx, t, b, retained("t", "old"))
	v := put(ctx, t, b, retained("t", ""))
	wantCleared(ctx, t, b, "t", old, v)
	again := put(ctx, t, b, retained("t", ""))
	wantCleared(ctx, t, b, "t", v, again)
	m := retained("t", "new")
	w := put(ctx, t, b, m)
	wantLast(ctx, t, b, pubsub.Version{}, m, w)
	wantLast(ctx, t, b, again, m, w)
}

func clearByTTL0(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	old := put(ctx, t, b, retained("t", "old"))
	m := retained("t", "for the living")
	m.HasTTL = true
	wantCleared(ctx, t, b, "t", old, put(ctx, t, b, m))
}

func clearOfNothing(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	v := put(ctx, t, b, retained("t", ""))
	wantNone(ctx, t, b, "t", pubsub.Version{})
	wantNone(ctx, t, b, "t", v)
	m := retained("t", "new")
	wantLast(ctx, t, b, v, m, put(ctx, t, b, m))
}

// clearWithTTL checks that a clear is kept for its own time, not for that of the
// message which it was.
func clearWithTTL(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	old := put(ctx, t, b, retained("t", "old"))
	m := retained("t", "")
	m.HasTTL, m.TTL = true, 1
	m.Published = m.Published.Add(-time.Hour)
	wantCleared(ctx, t, b, "t", old, put(ctx, t, b, m))
}

func ttl(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	v := put(ctx, t, b, retained("t", "old"))
	m := retained("t", "short")
	m.HasTTL, m.TTL = true, 60
	m.Published = time.Now().Add(-time.Minute)
	w := put(ctx, t, b, m)
	if !w.Newer(v) || w.Generation != v.Generation {
		t.Errorf("version %v follows %v", w, v)
	}
	wantNone(ctx, t, b, "t", pubsub.Version{})
	wantNone(ctx, t, b, "t", v)
	m.Published = time.Now()
	wantLast(ctx, t, b, pubsub.Version{}, m, put(ctx, t, b, m))
	m.HasTTL, m.TTL = false, 0
	m.Published = time.Now().Add(-10 * 365 * 24 * time.Hour)
	wantLast(ctx, t, b, pubsub.Version{}, m, put(ctx, t, b, m))
}

// readersSeeNoStepBack checks that what Last returns goes forward only, and is
// at least as new as every Put that has ended.
func readersSeeNoStepBack(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	const puts, readers = 100, 4
	v := put(ctx, t, b, retained("t", "0"))
	var mu sync.Mutex
	ended := v // the newest version of which the Put has ended
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
					t.Errorf("Last = version %v; put was %v, seen was %v", m.Version, atLeast, seen)
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

func slicesMayBeReused(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	m := retained("t", "data")
	m.Properties = []byte("properties")
	v := put(ctx, t, b, m)
	copy(m.Data, "XXXX")
	copy(m.Properties, "XXXXXXXXXX")
	want := retained("t", "data")
	want.Published, want.Properties = m.Published, []byte("properties")
	wantLast(ctx, t, b, pubsub.Version{}, want, v)
}

// weirdTopics are valid and in byte order.
var weirdTopics = []pubsub.Topic{
	" ", "!", "$sys", "%41", "*", ".", "..", "/", "//", "/a", ">", "A", "\\", "a", "a b", "a.b", "a/", "a/b", "a/b/c", "aa",
	"b", "~", "\u00a0", "é", "\u2028", "\ud7ff", "\uffff", "\U0001f600", "\U0010ffff", "\U0010ffff\U0010ffff",
}

func topicsOf(l []pubsub.Message) []pubsub.Topic {
	topics := []pubsub.Topic{}
	for _, m := range l {
		topics = append(topics, m.Topic)
	}
	return topics
}

func list(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	versions := map[pubsub.Topic]pubsub.Version{}
	for i := range weirdTopics { // not in order
		topic := weirdTopics[(i*7+3)%len(weirdTopics)]
		if _, err := pubsub.ParseTopic(string(topic)); err != nil {
			t.Fatalf("%q: %v", topic, err)
		}
		m := retained(topic, "data of "+string(topic))
		m.HasTTL, m.TTL = true, 3600
		versions[topic] = put(ctx, t, b, m)
	}
	for _, prefix := range []string{"", "a", "a/", "a/b", "/", "\U0010ffff", "é", "zzz", " ", "\xc3", "\xf4\x8f\xbf\xbf"} {
		for _, after := range []pubsub.Topic{"", " ", "A", "a", "a/", "a/b", "b", "é", "\U0010ffff", "\U0010ffff\U0010ffff"} {
			for _, limit := range []int{1, 2, 5, 1000} {
				want := []pubsub.Topic{}
				for _, topic := range weirdTopics {
					if strings.HasPrefix(string(topic), prefix) && topic > after && len(want) < limit {
						want = append(want, topic)
					}
				}
				got, err := b.List(ctx, prefix, after, limit)
				if err != nil {
					t.Fatalf("List(%q, %q, %d): %v", prefix, after, limit, err)
				}
				if topics := topicsOf(got); !slices.Equal(topics, want) {
					t.Errorf("List(%q, %q, %d) = %q, want %q", prefix, after, limit, topics, want)
				}
				for _, m := range got {
					if m.Version != versions[m.Topic] || len(m.Data) != 0 || !m.HasTTL || m.TTL != 3600 || time.Since(m.Published).Abs() > patience {
						t.Errorf("List has %q as %+v, want version %v, its expiry and no data", m.Topic, m, versions[m.Topic])
					}
				}
			}
		}
	}
}

func listPages(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	const n, limit = 250, 100
	var waits []func() (pubsub.Version, error)
	var want []pubsub.Topic
	for i := range n {
		topic := pubsub.Topic(fmt.Sprintf("p/%03d", i))
		want = append(want, topic)
		waits = append(waits, b.Put(ctx, retained(topic, "x")))
	}
	waits = append(waits, b.Put(ctx, retained("o", "x")), b.Put(ctx, retained("p", "x")), b.Put(ctx, retained("p0", "x")))
	for _, wait := range waits {
		if _, err := wait(); err != nil {
			t.Fatal(err)
		}
	}
	var got []pubsub.Topic
	var after pubsub.Topic
	for {
		page, err := b.List(ctx, "p/", after, limit)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, topicsOf(page)...)
		if len(page) < limit {
			break
		}
		after = page[len(page)-1].Topic
	}
	if !slices.Equal(got, want) {
		t.Errorf("the pages hold %d topics %q, want %d", len(got), got, len(want))
	}
}

func listHides(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	for _, topic := range []pubsub.Topic{"a", "b", "c", "d", "e"} {
		put(ctx, t, b, retained(topic, "x"))
	}
	put(ctx, t, b, retained("a", ""))
	gone := retained("b", "x")
	gone.HasTTL = true
	put(ctx, t, b, gone)
	gone = retained("d", "x")
	gone.HasTTL, gone.TTL, gone.Published = true, 60, time.Now().Add(-time.Minute)
	put(ctx, t, b, gone)
	for limit, want := range map[int][]pubsub.Topic{1: {"c"}, 2: {"c", "e"}, 10: {"c", "e"}} {
		got, err := b.List(ctx, "", "", limit)
		if err != nil {
			t.Fatal(err)
		}
		if topics := topicsOf(got); !slices.Equal(topics, want) {
			t.Errorf("List with limit %d = %q, want %q", limit, topics, want)
		}
	}
}

func storeContextDone(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	m := retained("t", "kept")
	v := put(ctx, t, b, m)
	done := cancelled(ctx)
	if w, err := b.Put(done, retained("t", "refused"))(); !errors.Is(err, context.Canceled) {
		t.Errorf("Put with a context that is done = %v, %v", w, err)
	}
	if _, _, err := b.Last(done, "t", pubsub.Version{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Last with a context that is done: error %v", err)
	}
	if _, err := b.List(done, "", "", 1); !errors.Is(err, context.Canceled) {
		t.Errorf("List with a context that is done: error %v", err)
	}
	wantLast(ctx, t, b, pubsub.Version{}, m, v)
}
