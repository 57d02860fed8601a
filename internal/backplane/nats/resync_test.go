package nats

import (
	"fmt"
	"testing"
	"time"

	"pubsub"
	"pubsub/internal/testkit"

	"github.com/nats-io/nats.go/jetstream"
)

// withoutAnnouncements calls f while the stream announces nothing, as if its announcements were
// lost.
func (n *node) withoutAnnouncements(f func()) {
	n.t.Helper()
	change := func(c jetstream.StreamConfig) {
		n.t.Helper()
		testkit.Eventually(n.t, "a change of the stream's settings", func() bool { return n.client.updateStream(testContext(n.t), c) == nil })
	}
	config := n.streamConfig()
	silent := config
	silent.RePublish = nil
	change(silent)
	f()
	change(config)
}

// pair starts a server and two nodes on it. The second resyncs after interval.
func pair(t testing.TB, interval time.Duration) (a, b *node) {
	t.Helper()
	url := newServer(t).url()
	return newNode(t, Options{URLs: []string{url}}), newNode(t, Options{URLs: []string{url}, SyncInterval: interval})
}

// The next resync finds messages that were never announced, including a clear.
func TestLostAnnouncements(t *testing.T) {
	t.Parallel()
	a, b := pair(t, 100*time.Millisecond)
	b.subscribe("t", "u", "v")
	a.publishTo(b, "t", "one")
	a.publishTo(b, "u", "one")
	var v, w pubsub.Version
	a.withoutAnnouncements(func() {
		a.put("t", "not announced")
		v = a.put("t", "two")
		w = a.put("u", "")
		a.put("not subscribed", "two")
	})
	b.awaitLast("t", "two", v)
	b.awaitLast("u", "", w)
	if n := b.count("v", "not subscribed"); n != 0 {
		t.Errorf("%d messages of topics without changes were delivered", n)
	}
	b.checkOrder()
}

// A gap in the sequence numbers of a topic starts a resync, because announcements of other topics
// may be lost, too.
func TestGapStartsResync(t *testing.T) {
	t.Parallel()
	a, b := pair(t, time.Hour)
	b.subscribe("quiet", "busy")
	a.publishTo(b, "busy", "one")
	b.awaitResync()
	var v pubsub.Version
	a.withoutAnnouncements(func() {
		v = a.put("quiet", "missed")
		a.put("busy", "missed")
	})
	before := b.Stats().Resyncs
	a.publishTo(b, "busy", "two")
	b.awaitLast("quiet", "missed", v)
	if b.Stats().Resyncs == before {
		t.Error("there was no resync")
	}
	b.checkOrder()
}

// A node delivers no message from before its subscription. It does deliver one that was stored
// after its own server and before another server had the subscription.
func TestReadAfterSubscription(t *testing.T) {
	t.Parallel()
	url := newServer(t).url()
	a := newNode(t, Options{URLs: []string{url}})
	b := newNode(t, Options{URLs: []string{url}, SyncInterval: time.Hour, settleTime: settleTime})
	a.put("old", "one")
	var v pubsub.Version
	b.subscribe("old", "new")
	a.withoutAnnouncements(func() { v = a.put("new", "two") })
	b.awaitLast("new", "two", v)
	if n := b.count("old"); n != 0 {
		t.Errorf("%d messages from before the subscription were delivered", n)
	}
}

// A node that processes no messages for a while loses announcements, notices that, and delivers
// the last message of every topic.
func TestSlowConsumer(t *testing.T) {
	t.Parallel()
	a, b := pair(t, time.Hour)
	b.subscribe("t", "u")
	b.awaitResync()
	release := make(chan struct{})
	b.block.Store(&release)
	v := a.put("t", "first")
	for i := range inboxMessages + 100 {
		m := pubsub.Message{Topic: "u", Data: fmt.Append(nil, i), Published: time.Now()}
		if err := a.Send(testContext(t), m); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Eventually(t, "a slow consumer", func() bool { return b.Stats().SlowConsumer > 0 })
	w := a.put("t", "lost")
	b.block.Store(nil)
	close(release)
	b.awaitLast("t", "lost", w)
	if !w.Newer(v) {
		t.Errorf("version %v after %v", w, v)
	}
	b.checkOrder()
}

// A resync finds more topics than one request reads.
func TestManyMissed(t *testing.T) {
	t.Parallel()
	const n = 3 * maxBatch
	url := newServer(t, withoutSync).url()
	a := newNode(t, Options{URLs: []string{url}})
	b := newNode(t, Options{URLs: []string{url}, SyncInterval: 200 * time.Millisecond})
	topic := func(i int) pubsub.Topic { return pubsub.Topic(fmt.Sprintf("many/%d", i)) }
	for i := range n {
		b.subscribe(topic(i))
	}
	a.withoutAnnouncements(func() {
		var waits []func() (pubsub.Version, error)
		for i := range n {
			waits = append(waits, a.Put(testContext(t), retainedMessage(topic(i), "missed")))
		}
		for _, wait := range waits {
			if _, err := wait(); err != nil {
				t.Fatal(err)
			}
		}
	})
	for i := range n {
		b.awaitLast(topic(i), "missed", pubsub.Version{})
	}
}

// Records that no release has written, or a later one, do not disturb a resync.
func TestResyncPassesUnreadableRecords(t *testing.T) {
	t.Parallel()
	a, b := pair(t, 100*time.Millisecond)
	b.subscribe("newer", "garbage", "t")
	var v pubsub.Version
	ctx := testContext(t)
	a.withoutAnnouncements(func() {
		for subject, data := range map[string]string{
			a.client.names.Stored("newer"):   "\x63of a later release",
			a.client.names.Stored("garbage"): "",
			a.client.names.Prefix + ".s.é=":  "no topic",
		} {
			if _, err := a.client.js.Publish(ctx, subject, []byte(data)); err != nil {
				t.Fatal(err)
			}
		}
		v = a.put("t", "ours")
	})
	b.awaitLast("t", "ours", v)
	b.wantNone("newer")
	b.wantNone("garbage")
	if l, err := b.List(ctx, "", "", 10); err != nil || len(l) != 1 || l[0].Topic != "t" {
		t.Errorf("List = %v, %v, want only topic t", l, err)
	}
	b.wantLast("t", pubsub.Version{}, "ours", v)
}

// After a connection there are two resyncs. The second finds a message that is stored after the
// first and that no server sends to the node, because it does not know of the connection yet.
func TestResyncAfterSettleTime(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	p := newProxy(t, s)
	a := newNode(t, Options{URLs: []string{s.url()}})
	resynced, stored := make(chan struct{}, 1), make(chan struct{})
	b := newNode(t, Options{URLs: []string{natsURL(p)}, SyncInterval: time.Hour, Events: Events{Resynced: func(cause string, _ int) {
		if cause == causeConnection { // the resyncer waits until the message is stored
			notify(resynced)
			<-stored
		}
	}}})
	b.subscribe("t")
	b.awaitResync()
	p.SetCut(true)
	b.awaitDisconnected()
	var v pubsub.Version
	a.withoutAnnouncements(func() {
		defer close(stored)
		p.SetCut(false)
		select {
		case <-resynced:
		case <-time.After(patience):
			t.Fatal("there is no resync after the connection")
		}
		if b.count("t") != 0 {
			t.Fatal("a message was delivered before one was stored")
		}
		v = a.put("t", "between")
	})
	if !testkit.Within(*find, func() bool { m, ok := b.last("t"); return ok && m.Version == v }) {
		t.Error("no resync finds the message that was stored after the first")
	}
}

// A node that was disconnected delivers the last message of every topic when it is back,
// including a clear, and its subscriptions continue.
func TestDisconnected(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	p := newProxy(t, s)
	a := newNode(t, Options{URLs: []string{s.url()}})
	b := newNode(t, Options{URLs: []string{natsURL(p)}, SyncInterval: time.Hour})
	b.subscribe("t", "u")
	a.publishTo(b, "t", "one")
	a.publishTo(b, "u", "one")
	b.awaitResync()
	p.SetCut(true)
	b.awaitDisconnected()
	v, w := a.put("t", "two"), a.put("u", "")
	p.SetCut(false)
	b.awaitLast("t", "two", v)
	b.awaitLast("u", "", w)
	a.publishTo(b, "t", "three")
	b.checkOrder()
}
