package hub

import (
	"fmt"
	"testing"

	"pubsub"
)

// All new members of a topic share one parcel of its retained message, if it is long
// enough and there is room. A newer message takes its place.
func TestRetainedIsShared(t *testing.T) {
	plane := newBackplane()
	h := New(Options{Backplane: plane, Shards: 1, BacklogMemory: 1 << 20})
	p := newPeer(h, "")
	last := func(topic pubsub.Topic) *pubsub.PreparedMessage {
		t.Helper()
		s := p.find(topic)
		if s == nil {
			s = p.resume(t, topic)
		}
		parcel, _, err := s.Last(t.Context(), pubsub.Version{})
		if err != nil {
			t.Fatal(err)
		}
		return parcel
	}
	retain := func(topic pubsub.Topic, seq uint64, size int) {
		plane.retain(pubsub.Message{Topic: topic, Data: make([]byte, size), Retain: true, Version: pubsub.Version{Generation: gen, Seq: seq}})
	}
	retain("t", 1, 1000)
	first := last("t")
	if last("t") != first {
		t.Error("it is made anew for each")
	}
	first.Encoded(0, encode(5000))
	h.check(t)
	retain("t", 2, 1000)
	second := last("t")
	if second == first || second.Version.Seq != 2 {
		t.Errorf("after a newer one, version %d is given", second.Version.Seq)
	}
	h.check(t)
	for i := range 1000 {
		topic := pubsub.Topic(fmt.Sprint(i))
		retain(topic, uint64(i+3), 1000)
		last(topic).Encoded(0, encode(2000))
		if n := len(h.recent.messages); n > recentMaxCount || n != len(h.recent.order) {
			t.Fatalf("%d are kept, in an order of %d", n, len(h.recent.order))
		}
		if n := h.Stats().BacklogBytes; n > h.backlog.limit/recentDivisor+5000 {
			t.Fatalf("%d bytes are kept", n)
		}
	}
	h.check(t)
	if h.trimBacklog(); h.Stats().BacklogBytes != 0 {
		t.Errorf("%d bytes are kept where memory is short", h.Stats().BacklogBytes)
	}
	last("t")
	if h.Stats().BacklogBytes == 0 {
		t.Error("what was read is not kept")
	}
	p.Unsubscribe("t")
	if n := h.Stats().BacklogBytes; n != 0 || len(h.recent.order) != 0 {
		t.Errorf("%d bytes are kept of a topic that nobody subscribes to", n)
	}
	p.Close()
	h.checkEmpty(t)
}
