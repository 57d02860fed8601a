package nats

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pubsub"
	"pubsub/internal/testkit"
)

// While NATS is down, calls fail within their bound with ErrUnavailable. Everything works again
// when NATS is back.
func TestServerDown(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n := newNode(t, Options{URLs: []string{s.url()}, Wait: 300 * time.Millisecond, SyncInterval: time.Hour})
	ctx := testContext(t)
	n.subscribe("t")
	first := n.publishTo(n, "t", "one")
	s.stop()
	n.awaitDisconnected()
	var wg sync.WaitGroup
	for name, call := range map[string]func() error{
		"Put":       func() error { _, err := n.tryPut("t", "x"); return err },
		"Last":      func() error { _, _, err := n.Last(ctx, "t", pubsub.Version{}); return err },
		"List":      func() error { _, err := n.List(ctx, "", "", 1); return err },
		"PutKey":    func() error { return n.PutKey(ctx, pubsub.Key{ID: "a", Value: "v"}) },
		"Keys":      func() error { _, err := n.Keys(ctx); return err },
		"Key":       func() error { _, err := n.Key(ctx, "a"); return err },
		"DeleteKey": func() error { return n.DeleteKey(ctx, "a") },
		"Send":      func() error { return n.Send(ctx, pubsub.Message{Topic: "t", Published: time.Now()}) },
		"Subscribe": func() error { return n.Subscribe(ctx, "another") },
		"Broadcast": func() error { return n.Broadcast(ctx, pubsub.ControlMessage{Kind: "k"}) },
		"Gather":    func() error { _, err := n.Gather(ctx, pubsub.ControlMessage{Kind: "k"}); return err },
		"Health":    func() error { return n.Health(ctx) },
	} {
		wg.Go(func() {
			if err := call(); !errors.Is(err, pubsub.ErrUnavailable) {
				t.Errorf("%s: error %v, want %v", name, err, pubsub.ErrUnavailable)
			}
		})
	}
	wg.Wait()
	s.start()
	n.awaitHealth()
	n.wantLast("t", pubsub.Version{}, "one", first)
	v := n.publishTo(n, "t", "two")
	if v.Generation != first.Generation {
		t.Errorf("version %v after %v: a restart must not begin a new generation", v, first)
	}
	n.checkOrder()
}

// Stats returns at once while the library tries to connect, although the library then holds a
// lock.
func TestStatsDoNotWait(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	p := newProxy(t, s)
	n := newNode(t, Options{URLs: []string{natsURL(p)}})
	n.subscribe("t")
	p.SetSilent(true, false) // the library waits for the server's INFO, until the attempt times out
	p.SetCut(true)
	n.awaitDisconnected()
	p.SetCut(false)
	defer p.SetSilent(false, false)
	testkit.Eventually(t, "figures during an attempt to connect", func() bool {
		testkit.Eventually(t, "an attempt to connect", p.InUse)
		begun, done := make(chan struct{}), make(chan struct{})
		go func() {
			close(begun)
			n.client.nc.Stats() // waits for the lock
			close(done)
		}()
		defer func() { <-done }()
		<-begun
		stats := n.Stats()
		select {
		case <-done: // there was no attempt, so the lock was free
			return false
		case <-time.After(100 * time.Millisecond):
			return stats.Subscribed == 1 && !stats.Connected
		}
	})
}

// A node may start before NATS. It reports that it waits.
func TestStartBeforeNATS(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.stop()
	waiting := make(chan struct{}, 1)
	b := open(t, Options{URLs: []string{s.url()}, Events: Events{Waiting: func(err error) {
		t.Logf("waiting: %v", err)
		notify(waiting)
	}}})
	defer b.Close()
	ready, done := make(chan struct{}), make(chan error, 1)
	ctx, stop := context.WithCancel(testContext(t))
	go func() {
		done <- b.Run(ctx, pubsub.Receiver{
			Ready:   func() { close(ready) },
			Deliver: func(*pubsub.PreparedMessage) {},
			Control: func(pubsub.ControlMessage) []byte { return nil },
		})
	}()
	select {
	case <-waiting:
	case <-ready:
		t.Fatal("ready without NATS")
	case <-ctx.Done():
		t.Fatal("the node does not report that it waits")
	}
	s.start()
	select {
	case <-ready:
	case err := <-done:
		t.Fatalf("Run = %v", err)
	}
	if err := b.Health(ctx); err != nil {
		t.Errorf("Health = %v", err)
	}
	stop()
	if err := <-done; err != nil {
		t.Errorf("Run = %v", err)
	}
}

// The leader of the stream is stopped, and then the next one. Publishing continues, and no
// acknowledged message is lost.
func TestLeaderMoves(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	urls := c.urls()
	a := newNode(t, Options{URLs: urls})
	b := newNode(t, Options{URLs: []string{urls[2], urls[0], urls[1]}, SyncInterval: time.Second})
	b.subscribe("t")
	var acknowledged atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := int64(1); !isClosed(stop); i++ {
			// A Put may fail, because the next one is newer.
			if _, err := a.tryPut("t", fmt.Sprintf("%06d", i)); err == nil {
				acknowledged.Store(i)
			}
		}
	})
	progress := func() {
		t.Helper()
		before := acknowledged.Load()
		testkit.Eventually(t, "progress", func() bool { return acknowledged.Load() > before+10 })
	}
	progress()
	for range 2 {
		leader := c.leader(a.stream.name())
		leader.stop()
		progress()
		leader.start()
		progress()
	}
	close(stop)
	wg.Wait()
	newest := fmt.Sprintf("%06d", acknowledged.Load())
	testkit.Eventually(t, "the newest message", func() bool {
		m, ok := b.last("t")
		return ok && string(m.Data) >= newest
	})
	m, ok, err := b.Last(testContext(t), "t", pubsub.Version{})
	if err != nil || !ok || string(m.Data) < newest {
		t.Errorf("Last = %q, %v, %v, acknowledged was %s", m.Data, ok, err, newest)
	}
	b.checkOrder()
}
