package hub

import (
	"context"
	"sync"
	"testing"
	"time"
)

// countingOutbox is an outbox that counts.
type countingOutbox struct {
	// owned by the shard's goroutine
	gathered, most int

	sent func(n int)
}

func (o *countingOutbox) Flush() {
	o.most = max(o.most, o.gathered)
	o.sent(o.gathered)
	o.gathered = 0
}

// servedPeer is a peer that its shard serves.
type servedPeer struct{ peer }

func (p *servedPeer) Serve(o Outbox) { o.(*countingOutbox).gathered += len(p.drain()) }

// Whatever the members of a shard gather in its outbox is flushed, and no later
// than after two slices: of those who are to be served and of a topic.
func TestOutboxIsFlushed(t *testing.T) {
	const members, messages = 10 * sliceSize, 20
	var all sync.WaitGroup
	trays := []*countingOutbox{{sent: func(n int) { all.Add(-n) }}, {sent: func(n int) { all.Add(-n) }}}
	h := New(Options{Backplane: newBackplane(), Outboxes: []Outbox{trays[0], trays[1]}})
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { h.Run(ctx) })
	defer running.Wait()
	defer stop()
	for range members {
		p := new(servedPeer)
		p.Subscriber = newSubscriber(h, p, "")
		p.resume(t, "t")
	}
	all.Add(members * messages)
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
		t.Fatal("something is gathered and not flushed")
	}
	stop()
	running.Wait()
	for _, o := range trays {
		if o.gathered > 0 || o.most == 0 || o.most > 2*sliceSize*messages {
			t.Errorf("%d left, at most %d at once", o.gathered, o.most)
		}
	}
}
