package nats

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"pubsub"
	"pubsub/internal/backplane/nats/layout"
	"pubsub/internal/testkit"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// behindProxy starts a server and two nodes on it, the first of them behind a proxy.
func behindProxy(t testing.TB) (p *testkit.Proxy, a, b *node) {
	t.Helper()
	s := newServer(t)
	p = newProxy(t, s)
	return p, newNode(t, Options{URLs: []string{natsURL(p)}}), newNode(t, Options{URLs: []string{s.url()}, SyncInterval: time.Hour})
}

// replaceConnection closes the connection of a silent proxy, with everything that is on its way,
// and accepts a new one.
func replaceConnection(p *testkit.Proxy) {
	p.SetCut(true)
	p.SetSilent(false, false)
	p.SetCut(false)
}

// A message whose acknowledgement is lost is sent again, stored once and delivered once.
func TestAcknowledgementLost(t *testing.T) {
	t.Parallel()
	p, a, b := behindProxy(t)
	b.subscribe("t")
	first := a.publishTo(b, "t", "one")
	p.SetSilent(true, false)
	wait := a.Put(testContext(t), retainedMessage("t", "two"))
	b.awaitLast("t", "two", pubsub.Version{Generation: first.Generation, Seq: first.Seq + 1})
	replaceConnection(p)
	v, err := wait()
	if err != nil || v.Seq != first.Seq+1 {
		t.Fatalf("Put = %v, %v, want the version after %v", v, err, first)
	}
	if a.Stats().PublishRetries == 0 {
		t.Error("the message was not sent again")
	}
	w := a.publishTo(b, "t", "three")
	if w.Seq != v.Seq+1 {
		t.Errorf("version %v after %v", w, v)
	}
	if n := b.count("t"); n != 3 {
		t.Errorf("%d messages were delivered, want 3", n)
	}
}

// A node announces a message that JetStream has stored and not announced, when it learns from
// the acknowledgement that its second copy is a duplicate.
func TestDuplicateIsAnnounced(t *testing.T) {
	t.Parallel()
	p, a, b := behindProxy(t)
	b.subscribe("t")
	b.awaitResync()
	var wait func() (pubsub.Version, error)
	b.withoutAnnouncements(func() {
		p.SetSilent(true, false)
		wait = a.Put(testContext(t), retainedMessage("t", "unannounced"))
		testkit.Eventually(t, "the stored message", func() bool {
			_, ok, err := b.Last(testContext(t), "t", pubsub.Version{})
			return err == nil && ok
		})
	})
	replaceConnection(p)
	v, err := wait()
	if err != nil {
		t.Fatal(err)
	}
	b.awaitLast("t", "unannounced", v)
}

// Of several messages of a topic that are lost on the way, only the newest is sent again, so that
// none can be stored after it. The publishers of the others get an error.
func TestOlderIsNotSentAgain(t *testing.T) {
	t.Parallel()
	p, a, _ := behindProxy(t)
	first := a.put("t", "zero")
	other := a.put("other", "zero")
	p.SetSilent(false, true)
	var waits []func() (pubsub.Version, error)
	ctx := testContext(t)
	const n = 5
	for i := range n {
		waits = append(waits, a.Put(ctx, retainedMessage("t", fmt.Sprint(i))))
	}
	waitOther := a.Put(ctx, retainedMessage("other", "one"))
	replaceConnection(p)
	var newest pubsub.Version
	for i, wait := range waits {
		v, err := wait()
		if i < n-1 && !errors.Is(err, pubsub.ErrUnavailable) {
			t.Errorf("Put %d = %v, %v, want %v", i, v, err, pubsub.ErrUnavailable)
		}
		if i == n-1 && (err != nil || !v.Newer(first)) {
			t.Errorf("the newest Put = %v, %v", v, err)
		}
		newest = v
	}
	if v, err := waitOther(); err != nil || !v.Newer(other) {
		t.Errorf("Put to another topic = %v, %v", v, err)
	}
	a.wantLast("t", pubsub.Version{}, fmt.Sprint(n-1), newest)
	info, err := a.stream.info(ctx)
	if want := other.Seq + 2 + n - 1; err != nil || info.State.LastSeq != want { // 2 messages, n-1 fences
		t.Errorf("the stream is at %d, %v, want %d", info.State.LastSeq, err, want)
	}
}

// A message that was given up is not stored when it arrives after a later one.
func TestGivenUpIsNotStoredLate(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	p := newProxy(t, s)
	a := newNode(t, Options{URLs: []string{natsURL(p)}, Wait: time.Second})
	a.put("t", "first")
	p.SetSilent(false, true)
	if v, err := a.tryPut("t", "given up"); !errors.Is(err, pubsub.ErrUnavailable) {
		t.Fatalf("Put = %v, %v, want %v", v, err, pubsub.ErrUnavailable)
	}
	replaceConnection(p)
	newest := a.putEventually("t", "newest")
	late := retainedMessage("t", "given up")
	m := natsgo.NewMsg(a.client.names.Stored("t"))
	m.Data = layout.AppendMessage(nil, &late)
	m.Header.Set(jetstream.MsgIDHeader, putID(a.client.node, 2)) // the second Put
	ack, err := a.client.js.PublishMsg(testContext(t), m)
	if err != nil || !ack.Duplicate {
		t.Errorf("the late message is acknowledged with %+v, %v, want a duplicate", ack, err)
	}
	a.wantLast("t", pubsub.Version{}, "newest", newest)
}

// Calls that wait for a connection succeed when there is one, and retained messages keep their
// order.
func TestCallsWaitForConnection(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n := newNode(t, Options{URLs: []string{s.url()}})
	ctx := testContext(t)
	s.stop()
	n.awaitDisconnected()
	var wg sync.WaitGroup
	var waits []func() (pubsub.Version, error)
	for i := range 20 {
		waits = append(waits, n.Put(ctx, retainedMessage("t", fmt.Sprint(i))))
	}
	for name, call := range map[string]func() error{
		"Subscribe": func() error { return n.Subscribe(ctx, "u") },
		"Send":      func() error { return n.Send(ctx, pubsub.Message{Topic: "t", Published: time.Now()}) },
		"PutKey":    func() error { return n.PutKey(ctx, pubsub.Key{ID: "a", Value: "v"}) },
		"Broadcast": func() error { return n.Broadcast(ctx, pubsub.ControlMessage{Kind: "k"}) },
	} {
		wg.Go(func() {
			if err := call(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	s.start()
	wg.Wait()
	var prev pubsub.Version
	for i, wait := range waits {
		v, err := wait()
		if err != nil || !v.Newer(prev) {
			t.Fatalf("Put %d = %v, %v, after %v", i, v, err, prev)
		}
		prev = v
	}
	n.wantLast("t", pubsub.Version{}, "19", prev)
}
