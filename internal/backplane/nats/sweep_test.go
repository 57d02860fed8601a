package nats

import (
	"fmt"
	"testing"
	"time"

	"pubsub"

	"github.com/nats-io/nats.go/jetstream"
)

// silently has the stream announce nothing while f runs, as if what it announces
// were lost.
func silently(t testing.TB, b *Backplane, f func()) {
	t.Helper()
	var info *jetstream.StreamInfo
	eventually(t, "the stream's settings", func() (ok bool) {
		var err error
		info, err = b.link.info(ctxFor(t))
		return err == nil
	})
	change := func(c jetstream.StreamConfig) {
		t.Helper()
		eventually(t, "other settings of the stream", func() bool { return b.link.updateStream(ctxFor(t), c) == nil })
	}
	quiet := info.Config
	quiet.RePublish = nil
	change(quiet)
	f()
	change(info.Config)
}

// What was never announced is found by the next sweep, a clear included.
func TestLostAnnouncements(t *testing.T) {
	s := newServer(t)
	a := newNode(t, Options{URLs: []string{s.url()}})
	b := newNode(t, Options{URLs: []string{s.url()}, SyncInterval: 100 * time.Millisecond})
	b.want("t", "u", "v")
	a.put("t", "one")
	a.put("u", "one")
	b.ends("t", "one", pubsub.Version{})
	b.ends("u", "one", pubsub.Version{})
	var v, w pubsub.Version
	silently(t, a.Backplane, func() {
		a.put("t", "not announced")
		v = a.put("t", "two")
		w = a.put("u", "")
		a.put("unwanted", "two")
	})
	b.ends("t", "two", v)
	b.ends("u", "", w)
	if n := b.count("v") + b.count("unwanted"); n != 0 {
		t.Errorf("%d messages of topics without news", n)
	}
	b.neverBack()
}

// A number that is missing in a topic's announcements shows that others may be
// missing, too.
func TestGapStartsSweep(t *testing.T) {
	s := newServer(t)
	a := newNode(t, Options{URLs: []string{s.url()}})
	b := newNode(t, Options{URLs: []string{s.url()}, SyncInterval: time.Hour})
	b.want("quiet", "busy")
	a.put("busy", "one")
	b.ends("busy", "one", pubsub.Version{})
	b.settled()
	var v pubsub.Version
	silently(t, a.Backplane, func() {
		v = a.put("quiet", "missed")
		a.put("busy", "missed")
	})
	before := b.Stats().Resyncs
	a.put("busy", "two")
	b.ends("busy", "two", pubsub.Version{})
	b.ends("quiet", "missed", v)
	if b.Stats().Resyncs == before {
		t.Error("there was no sweep")
	}
	b.neverBack()
}

// What a topic retained before a node wanted it is not news for the node, and what
// came between the interest's first server and its last one is.
func TestSecondLook(t *testing.T) {
	s := newServer(t)
	a := newNode(t, Options{URLs: []string{s.url()}})
	b := newNode(t, Options{URLs: []string{s.url()}, SyncInterval: time.Hour})
	a.put("old", "one")
	var v pubsub.Version
	b.want("old", "new")
	silently(t, a.Backplane, func() { v = a.put("new", "two") })
	b.ends("new", "two", v)
	if n := b.count("old"); n != 0 {
		t.Errorf("what was there before was delivered %d times", n)
	}
}

// A node that takes no messages for a while loses announcements, is told so, and
// has the newest of every topic afterwards.
func TestSlowNode(t *testing.T) {
	s := newServer(t)
	a := newNode(t, Options{URLs: []string{s.url()}})
	b := newNode(t, Options{URLs: []string{s.url()}, SyncInterval: time.Hour})
	b.want("t", "u")
	b.settled()
	release := make(chan struct{})
	b.blocked.Store(&release)
	v := a.put("t", "first")
	for i := range inboxMessages + 100 {
		m := pubsub.Message{Topic: "u", Data: fmt.Append(nil, i), Published: time.Now()}
		if err := a.Send(ctxFor(t), m); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "that the node is slow", func() bool { return b.Stats().SlowConsumer > 0 })
	w := a.put("t", "lost")
	b.blocked.Store(nil)
	close(release)
	b.ends("t", "lost", w)
	if !w.Newer(v) {
		t.Errorf("version %v after %v", w, v)
	}
	b.neverBack()
}

// A sweep of more topics than one request takes finds each.
func TestManyMissed(t *testing.T) {
	const n = 3 * maxBatch
	s := newServer(t, withoutSync)
	a := newNode(t, Options{URLs: []string{s.url()}})
	b := newNode(t, Options{URLs: []string{s.url()}, SyncInterval: 200 * time.Millisecond})
	topic := func(i int) pubsub.Topic { return pubsub.Topic(fmt.Sprintf("many/%d", i)) }
	for i := range n {
		b.want(topic(i))
	}
	silently(t, a.Backplane, func() {
		var waits []func() (pubsub.Version, error)
		for i := range n {
			waits = append(waits, a.Put(ctxFor(t), retainedMessage(topic(i), "missed")))
		}
		for _, wait := range waits {
			if _, err := wait(); err != nil {
				t.Fatal(err)
			}
		}
	})
	for i := range n {
		b.ends(topic(i), "missed", pubsub.Version{})
	}
}

// What no release of this node can read keeps it from nothing else.
func TestForeignRecords(t *testing.T) {
	s := newServer(t)
	a := newNode(t, Options{URLs: []string{s.url()}})
	b := newNode(t, Options{URLs: []string{s.url()}, SyncInterval: 100 * time.Millisecond})
	b.want("newer", "garbage", "t")
	var v pubsub.Version
	ctx := ctxFor(t)
	silently(t, a.Backplane, func() {
		for subject, data := range map[string]string{
			a.link.names.stored("newer"):   string([]byte{recordVersion + 1, 0}),
			a.link.names.stored("garbage"): "",
			a.link.names.prefix + ".s.é=":  "no topic",
		} {
			if _, err := a.link.js.Publish(ctx, subject, []byte(data)); err != nil {
				t.Fatal(err)
			}
		}
		v = a.put("t", "ours")
	})
	b.ends("t", "ours", v)
	for _, topic := range []pubsub.Topic{"newer", "garbage"} {
		if _, ok, err := b.Last(ctx, topic, pubsub.Version{}); ok || err != nil {
			t.Errorf("Last(%q): %v, %v, want none", topic, ok, err)
		}
	}
	if l, err := b.List(ctx, "", "", 10); err != nil || len(l) != 1 || l[0].Topic != "t" {
		t.Errorf("List = %v, %v, want our topic", l, err)
	}
	if m, ok, err := b.Last(ctx, "t", pubsub.Version{}); err != nil || !ok || m.Version != v {
		t.Errorf("Last = %v, %v, %v", m.Version, ok, err)
	}
}

// What is stored after the sweep that follows a connection, and announced by a
// server that does not know of the connection yet, is found 2 s later: there is no
// gap that would show it.
func TestSecondLookAfterConnection(t *testing.T) {
	s := newServer(t)
	p := newProxy(t, s)
	a := newNode(t, Options{URLs: []string{s.url()}})
	swept, stored := make(chan struct{}, 1), make(chan struct{})
	b := newNode(t, Options{URLs: []string{natsURL(p)}, SyncInterval: time.Hour, Events: Events{Resynced: func(why string, _ int) {
		if why == "connected" { // the sweeper stands still until the message is stored
			kick(swept)
			<-stored
		}
	}}})
	b.want("t")
	b.settled()
	p.SetCut(true)
	eventually(t, "that the node is cut off", func() bool { return !b.Stats().Connected })
	var v pubsub.Version
	silently(t, a.Backplane, func() {
		defer close(stored)
		p.SetCut(false)
		select {
		case <-swept:
		case <-time.After(patience):
			t.Fatal("there is no sweep after the connection")
		}
		if b.count("t") != 0 {
			t.Fatal("something was delivered before it was stored")
		}
		v = a.put("t", "between")
	})
	if !within(*find, func() bool { m, ok := b.last("t"); return ok && m.Version == v }) {
		t.Error("the second look does not find what is between it and the first")
	}
}
