package hub

import (
	"context"
	"sync"
	"testing"
	"time"
)

// countingOutbox is an outbox that only counts messages.
type countingOutbox struct {
	// owned by the shard's goroutine
	collected, most int

	sent func(n int)
}

func (o *countingOutbox) Flush() {
	o.most = max(o.most, o.collected)
	o.sent(o.collected)
	o.collected = 0
}

// servedPeer is a peer that is served by its shard.
type servedPeer struct{ peer }

func (p *servedPeer) Serve(o Outbox) { o.(*countingOutbox).collected += len(p.drain()) }

// An outbox is flushed at least once in a slice of the shard, which serves up to
// sliceSize scheduled subscribers and as many of a topic.
func TestOutboxIsFlushed(t *testing.T) {
	const subscribers, messages = 10 * sliceSize, 20
	var all sync.WaitGroup
	outboxes := []*countingOutbox{{sent: func(n int) { all.Add(-n) }}, {sent: func(n int) { all.Add(-n) }}}
	h := New(Options{Backplane: newBackplane(), Outboxes: []Outbox{outboxes[0], outboxes[1]}})
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { h.Run(ctx) })
	defer running.Wait()
	defer stop()
	for range subscribers {
		p := new(servedPeer)
		p.Subscriber = newSubscriber(h, p, "")
		p.resume(t, "t")
	}
	all.Add(subscribers * messages)
	for range messages {
		h.Deliver(plain("t", "x"))
	}
	flushed := make(chan struct{})
	go func() {
		defer close(flushed)
		all.Wait()
	}()
	select {
	case <-flushed:
	case <-time.After(20 * time.Second):
		t.Fatal("collected messages are not flushed")
	}
	stop()
	running.Wait()
	for _, o := range outboxes {
		if o.collected > 0 || o.most == 0 || o.most > 2*sliceSize*messages {
			t.Errorf("%d messages are not flushed, at most %d were flushed at once", o.collected, o.most)
		}
	}
}
