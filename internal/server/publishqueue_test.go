package server

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"pubsub"
)

// slowDisk is a backplane whose writes are durable only once that is let happen. It
// notes what is asked of it.
type slowDisk struct {
	pubsub.Backplane
	durable chan struct{} // closed when writes are

	mu sync.Mutex
	// guarded by mu
	calls []string
}

func (d *slowDisk) note(call string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, call)
}

func (d *slowDisk) Put(_ context.Context, m pubsub.Message) func() (pubsub.Version, error) {
	d.note("put " + string(m.Data))
	return func() (pubsub.Version, error) {
		<-d.durable
		return pubsub.Version{Generation: 1, Seq: 1}, nil
	}
}

func (d *slowDisk) Send(_ context.Context, m pubsub.Message) error {
	d.note("send " + string(m.Data))
	return nil
}

// Retained messages of one connection are stored together, without waiting for one
// another. But one that comes after a message that is not retained, to the same
// topic, must not be seen in the store before that has been sent: a client that
// subscribes in between would have the two in the wrong order.
func TestPublishesKeepTheirOrderForWhoSubscribesMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &slowDisk{durable: make(chan struct{})}
		s := New(Options{Backplane: d})
		var q publishQueue
		go func() {
			for _, m := range []pubsub.Message{
				{Topic: "t", Data: []byte("1"), Retain: true},
				{Topic: "t", Data: []byte("2"), Retain: true},
				{Topic: "t", Data: []byte("3")},
				{Topic: "other", Data: []byte("4"), Retain: true},
				{Topic: "t", Data: []byte("5"), Retain: true},
			} {
				q.add(s, m)
			}
		}()
		synctest.Wait()
		if want := []string{"put 1", "put 2", "put 4"}; !slices.Equal(d.calls, want) {
			t.Errorf("before anything is durable: %q, want %q", d.calls, want)
		}
		close(d.durable)
		synctest.Wait()
		s.registry.goroutines.Wait()
		at := func(call string) int { return slices.Index(d.calls, call) }
		if !slices.IsSortedFunc([]string{"send 1", "send 2", "send 3", "put 5", "send 5"}, func(a, b string) int { return at(a) - at(b) }) || at("put 5") < 0 || at("send 4") < at("send 3") {
			t.Errorf("in the end: %q", d.calls)
		}
		if len(q.unsent) != 0 {
			t.Errorf("%v are counted as not sent", q.unsent)
		}
	})
}
