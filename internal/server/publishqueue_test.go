package server

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pubsub"
	"pubsub/internal/session"
)

// slowDisk is a backplane whose writes become durable when the test lets them. It records its
// calls.
type slowDisk struct {
	pubsub.Backplane
	mu sync.Mutex
	// guarded by mu
	durable chan struct{} // closed when writes that start now become durable
	calls   []string
}

func (d *slowDisk) record(call string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, call)
}

func (d *slowDisk) called() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.calls)
}

func (d *slowDisk) Put(_ context.Context, m pubsub.Message) func() (pubsub.Version, error) {
	d.record("put " + string(m.Data))
	d.mu.Lock()
	durable := d.durable
	d.mu.Unlock()
	return func() (pubsub.Version, error) {
		<-durable
		return pubsub.Version{Generation: 1, Seq: 1}, nil
	}
}

func (d *slowDisk) Send(_ context.Context, m pubsub.Message) error {
	d.record("send " + string(m.Data))
	return nil
}

// Retained messages of one connection are stored together, without waiting for one another.
// But a retained message that follows a plain one to the same topic must not be stored before
// the plain one is sent. Otherwise a client that subscribes meanwhile would get the two in
// the wrong order.
func TestPublishOrderForNewSubscribers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &slowDisk{durable: make(chan struct{})}
		s := New(Options{Backplane: d})
		var q publishQueue
		c := &mqttConn{s: s}
		go func() {
			for _, m := range []pubsub.Message{
				{Topic: "t", Data: []byte("1"), Retain: true},
				{Topic: "t", Data: []byte("2"), Retain: true},
				{Topic: "t", Data: []byte("3")},
				{Topic: "other", Data: []byte("4"), Retain: true},
				{Topic: "t", Data: []byte("5"), Retain: true},
			} {
				q.add(c, session.Publish{Message: m})
			}
		}()
		synctest.Wait()
		if want := []string{"put 1", "put 2", "put 4"}; !slices.Equal(d.called(), want) {
			t.Errorf("before anything is durable: %q, want %q", d.called(), want)
		}
		close(d.durable)
		synctest.Wait()
		s.registry.Wait()
		at := func(call string) int { return slices.Index(d.called(), call) }
		if !slices.IsSortedFunc([]string{"send 1", "send 2", "send 3", "put 5", "send 5"}, func(a, b string) int { return at(a) - at(b) }) || at("put 5") < 0 || at("send 4") < at("send 3") {
			t.Errorf("in the end: %q", d.called())
		}
		if len(q.blocks) != 0 {
			t.Errorf("left over in blocks: %v", q.blocks)
		}
	})
}

// unreachable is a backplane over a network that does not answer.
type unreachable struct{ slowDisk }

func (d *unreachable) Put(ctx context.Context, m pubsub.Message) func() (pubsub.Version, error) {
	d.record("put " + string(m.Data))
	return func() (pubsub.Version, error) {
		<-ctx.Done()
		return pubsub.Version{}, ctx.Err()
	}
}

func (d *unreachable) Send(ctx context.Context, m pubsub.Message) error {
	d.record("send " + string(m.Data))
	<-ctx.Done()
	return ctx.Err()
}

// Only messages wait for the backplane, not the connection, which answers pings and starts
// messages to other topics. Each message is given up backplaneWait after it arrived,
// regardless of the messages before it.
func TestUnreachableBackplaneBlocksNoConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &unreachable{}
		var dropped []time.Duration
		began := time.Now()
		s := New(Options{Backplane: d, BackplaneMayWait: true, Events: Events{
			PublishDropped: func(string, string) { dropped = append(dropped, time.Since(began)) },
		}})
		var q publishQueue
		c := &mqttConn{s: s}
		for _, m := range []pubsub.Message{
			{Topic: "t", Data: []byte("1")},
			{Topic: "t", Data: []byte("2"), Retain: true},
			{Topic: "t", Data: []byte("3"), Retain: true},
			{Topic: "t", Data: []byte("4")},
			{Topic: "t", Data: []byte("5"), Retain: true},
			{Topic: "other", Data: []byte("6"), Retain: true},
		} {
			q.add(c, session.Publish{Message: m})
		}
		if passed := time.Since(began); passed != 0 {
			t.Errorf("add blocked for %v", passed)
		}
		synctest.Wait()
		if want := []string{"put 6", "send 1"}; !slices.Equal(slices.Sorted(slices.Values(d.called())), want) {
			t.Errorf("at first: %q, want %q", d.called(), want)
		}
		s.registry.Wait()
		if len(dropped) != 6 || dropped[5] != backplaneWait {
			t.Errorf("dropped after %v, want 6 after %v", dropped, backplaneWait)
		}
	})
}

// Retained messages that wait for a plain one are stored together once it is sent, but not
// those after the next plain one.
func TestDelayedRetainedPublishesAreStoredTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, later := make(chan struct{}), make(chan struct{})
		d := &slowDisk{durable: first}
		s := New(Options{Backplane: d})
		var q publishQueue
		c := &mqttConn{s: s}
		for i, retain := range []bool{true, false, true, true, false, true} {
			q.add(c, session.Publish{Message: pubsub.Message{Topic: "t", Data: []byte{byte('1' + i)}, Retain: retain}})
		}
		synctest.Wait()
		d.mu.Lock()
		d.durable = later
		d.mu.Unlock()
		close(first)
		synctest.Wait()
		if want := []string{"put 1", "send 1", "send 2", "put 3", "put 4"}; !slices.Equal(d.called(), want) {
			t.Errorf("when the first is durable: %q, want %q", d.called(), want)
		}
		close(later)
		s.registry.Wait()
		if want := []string{"send 3", "send 4", "send 5", "put 6", "send 6"}; !slices.Equal(d.called()[5:], want) {
			t.Errorf("in the end: %q, want %q at the end", d.called(), want)
		}
	})
}

// The bytes of waiting messages are bounded for a connection, and for all connections, of which
// each may have one message. All messages are published in the end.
func TestPendingPublishesAreBounded(t *testing.T) {
	for _, connections := range []int{1, 70} {
		synctest.Test(t, func(t *testing.T) {
			const size, each = 32 << 10, 40
			d := &slowDisk{durable: make(chan struct{})}
			s := New(Options{Backplane: d})
			message := pubsub.Message{Topic: "t", Data: make([]byte, size), Retain: true}
			var publishers sync.WaitGroup
			for range connections {
				publishers.Go(func() {
					var q publishQueue
					c := &mqttConn{s: s}
					for range each {
						q.add(c, session.Publish{Message: message})
						q.waitRoom(s)
					}
				})
			}
			synctest.Wait()
			most := min(connections*maxPublishBytes, maxAllPublishBytes) + connections*2*size
			if n := len(d.called()) * size; n > most || n < most/2 {
				t.Errorf("%d bytes of %d connections wait, want at most %d", n, connections, most)
			}
			close(d.durable)
			publishers.Wait()
			s.registry.Wait()
			if n := len(d.called()); n != 2*connections*each { // a Put and a Send each
				t.Errorf("%d calls for %d messages", n, connections*each)
			}
			if n := s.publishing.Load(); n != 0 {
				t.Errorf("%d bytes are counted when no message waits", n)
			}
		})
	}
}

// blockingPut is a backplane whose Put blocks until out is closed.
type blockingPut struct {
	pubsub.Backplane
	in, out chan struct{}
}

func (b *blockingPut) Put(context.Context, pubsub.Message) func() (pubsub.Version, error) {
	close(b.in)
	<-b.out
	return func() (pubsub.Version, error) { return pubsub.Version{}, nil }
}

func (b *blockingPut) Send(context.Context, pubsub.Message) error { return nil }

// Tick runs in the shard's goroutine and must not wait for a store that hangs.
func TestTickDoesNotWaitForTheStore(t *testing.T) {
	b := &blockingPut{in: make(chan struct{}), out: make(chan struct{})}
	s := New(Options{Backplane: b})
	m := &mqttConn{s: s, session: session.New(&s.sessions, time.Now())}
	published := make(chan struct{})
	go func() {
		m.publish(session.Publish{Message: pubsub.Message{Topic: "t", Retain: true, Data: []byte("x")}})
		close(published)
	}()
	<-b.in
	m.Tick(time.Now(), time.Now()) // the test hangs if it waits
	close(b.out)
	<-published
	s.registry.Wait()
}
