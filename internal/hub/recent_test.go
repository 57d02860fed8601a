package hub

import (
	"fmt"
	"testing"

	"pubsub"
)

// New subscribers of a topic share its retained message and the encodings, if the message
// is long enough and the cache has room. A newer message replaces it.
func TestRetainedIsShared(t *testing.T) {
	store := newBackplane()
	h := New(Options{Backplane: store, Shards: 1, BacklogMemory: 1 << 20})
	p := newPeer(h, "")
	last := func(topic pubsub.Topic) *pubsub.PreparedMessage {
		t.Helper()
		s := p.find(topic)
		if s == nil {
			s = p.resume(t, topic)
		}
		pm, _, err := s.Last(t.Context(), pubsub.Version{})
		if err != nil {
			t.Fatal(err)
		}
		return pm
	}
	retain := func(topic pubsub.Topic, seq uint64, size int) {
		store.retain(pubsub.Message{Topic: topic, Data: make([]byte, size), Retain: true, Version: pubsub.Version{Generation: gen, Seq: seq}})
	}
	retain("t", 1, 1000)
	first := last("t")
	if last("t") != first {
		t.Error("a second read does not return the cached message")
	}
	first.Encoded(0, encode(5000))
	h.check(t)
	retain("t", 2, 1000)
	second := last("t")
	if second == first || second.Version.Seq != 2 {
		t.Errorf("version %d after a newer one was retained", second.Version.Seq)
	}
	h.check(t)
	for i := range 1000 {
		topic := pubsub.Topic(fmt.Sprint(i))
		retain(topic, uint64(i+3), 1000)
		last(topic).Encoded(0, encode(2000))
		if n := len(h.recent.messages); n > recentMaxCount || n != len(h.recent.order) {
			t.Fatalf("%d messages in the cache, %d in its order", n, len(h.recent.order))
		}
		if n := h.Stats().BacklogBytes; n > h.backlog.limit/recentDivisor+5000 {
			t.Fatalf("the cache takes %d bytes", n)
		}
	}
	h.check(t)
	if h.trimBacklog(); h.Stats().BacklogBytes != 0 {
		t.Errorf("the cache takes %d bytes after trimming", h.Stats().BacklogBytes)
	}
	last("t")
	if h.Stats().BacklogBytes == 0 {
		t.Error("the message is not cached")
	}
	p.Unsubscribe("t")
	if n := h.Stats().BacklogBytes; n != 0 || len(h.recent.order) != 0 {
		t.Errorf("the cache takes %d bytes after the last subscriber has left", n)
	}
	closeAll(t, h, p)
}
