package backplanetest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pubsub"
)

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
					if m.Version != versions[m.Topic] || len(m.Data) != 0 || !m.HasTTL || m.TTL != 3600 || time.Since(m.Published).Abs() > timeout {
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
		t.Errorf("the pages contain %d topics %q, want %d", len(got), got, len(want))
	}
}

// listOmitsCleared checks that List omits cleared topics and expired messages, and does not
// count them towards the limit.
func listOmitsCleared(ctx context.Context, t *testing.T, b pubsub.Backplane) {
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
