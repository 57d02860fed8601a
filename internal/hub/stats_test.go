package hub

import (
	"math"
	"slices"
	"testing"

	"pubsub"
)

func TestStatsAndTopics(t *testing.T) {
	h := New(Options{Backplane: newBackplane()})
	var want []TopicCount
	var peers []*peer
	for i := range 3000 {
		topic := pubsub.Topic("x/" + string(rune('a'+i%26)) + "/" + string(rune('a'+i/26%26)) + string(rune('a'+i/676)))
		n := 1 + i%3
		for range n {
			p := newPeer(h, "")
			p.resume(t, topic)
			peers = append(peers, p)
		}
		want = append(want, TopicCount{topic, n})
	}
	peers[0].resume(t, "y")
	slices.SortFunc(want, func(a, b TopicCount) int {
		if a.Topic < b.Topic {
			return -1
		}
		return 1
	})
	var got []TopicCount
	after := pubsub.Topic("")
	for {
		page := h.Topics("x/", after, 100)
		if len(page) == 0 {
			break
		}
		got = append(got, page...)
		after = page[len(page)-1].Topic
	}
	if !slices.Equal(got, want) {
		t.Errorf("the pages have %d topics, want %d in byte order", len(got), len(want))
	}
	if got := h.Topics("y", "", 10); len(got) != 1 || got[0] != (TopicCount{"y", 1}) {
		t.Errorf("Topics(y) = %v", got)
	}
	if got := h.Topics("", "x/", math.MaxInt32); len(got) != 3001 {
		t.Errorf("Topics returns %d topics, want 3001", len(got))
	}
	st := h.Stats()
	if st.Subscribers != int64(len(peers)) || st.Subscriptions != int64(len(peers)+1) {
		t.Errorf("stats %+v, want %d subscribers", st, len(peers))
	}
	closeAll(t, h, peers...)
}
