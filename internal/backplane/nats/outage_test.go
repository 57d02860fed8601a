package nats

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pubsub"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A node that was cut off has the newest of every topic once it is back, a clear
// included, and what it wanted is still wanted.
func TestCutOff(t *testing.T) {
	s := newServer(t)
	p := newProxy(t, s)
	a := newNode(t, Options{URLs: []string{s.url()}})
	b := newNode(t, Options{URLs: []string{natsURL(p)}, SyncInterval: time.Hour})
	b.want("t", "u")
	a.put("t", "one")
	a.put("u", "one")
	b.ends("t", "one", pubsub.Version{})
	b.ends("u", "one", pubsub.Version{})
	b.settled()
	p.SetCut(true)
	eventually(t, "that the node is cut off", func() bool { return !b.Stats().Connected })
	v, w := a.put("t", "two"), a.put("u", "")
	p.SetCut(false)
	b.ends("t", "two", v)
	b.ends("u", "", w)
	v = a.put("t", "three")
	b.ends("t", "three", v)
	b.neverBack()
}

// While NATS is away calls fail within their bound, and say why; it heals by
// itself.
func TestServerAway(t *testing.T) {
	s := newServer(t)
	b := newNode(t, Options{URLs: []string{s.url()}, Wait: 300 * time.Millisecond, SyncInterval: time.Hour})
	ctx := ctxFor(t)
	b.want("t")
	first := b.put("t", "one")
	b.ends("t", "one", first)
	s.stop()
	eventually(t, "that the node has noticed", func() bool { return !b.Stats().Connected })
	for name, call := range map[string]func() error{
		"Put":       func() error { _, err := b.Put(ctx, retainedMessage("t", "x"))(); return err },
		"Last":      func() error { _, _, err := b.Last(ctx, "t", pubsub.Version{}); return err },
		"List":      func() error { _, err := b.List(ctx, "", "", 1); return err },
		"PutKey":    func() error { return b.PutKey(ctx, pubsub.Key{ID: "a", Value: "v"}) },
		"Keys":      func() error { _, err := b.Keys(ctx); return err },
		"Key":       func() error { _, err := b.Key(ctx, "a"); return err },
		"DeleteKey": func() error { return b.DeleteKey(ctx, "a") },
		"Send":      func() error { return b.Send(ctx, pubsub.Message{Topic: "t", Published: time.Now()}) },
		"Subscribe": func() error { return b.Subscribe(ctx, "another") },
		"Broadcast": func() error { return b.Broadcast(ctx, pubsub.ControlMessage{Kind: "k"}) },
		"Gather":    func() error { _, err := b.Gather(ctx, pubsub.ControlMessage{Kind: "k"}); return err },
		"Health":    func() error { return b.Health(ctx) },
	} {
		if err := call(); !errors.Is(err, pubsub.ErrUnavailable) {
			t.Errorf("%s: error %v, want %v", name, err, pubsub.ErrUnavailable)
		}
	}
	s.start()
	eventually(t, "health", func() bool { return b.Health(ctx) == nil })
	m, ok, err := b.Last(ctx, "t", pubsub.Version{})
	if err != nil || !ok || m.Version != first || string(m.Data) != "one" {
		t.Errorf("Last = %q %v, %v, %v, want what was there before", m.Data, m.Version, ok, err)
	}
	v := b.put("t", "two")
	b.ends("t", "two", v)
	if v.Generation != first.Generation {
		t.Errorf("version %v after %v: a restart is no new generation", v, first)
	}
	b.neverBack()
}

// The figures of a node, which metrics are made of, are there at once while the
// library tries to connect, for which it holds a lock that others wait for.
func TestStatsDoNotWait(t *testing.T) {
	s := newServer(t)
	p := newProxy(t, s)
	b := newNode(t, Options{URLs: []string{natsURL(p)}})
	b.want("t")
	p.SetSilent(true, false) // the server's first word does not come, until the attempt is given up
	p.SetCut(true)
	eventually(t, "that the node has noticed", func() bool { return !b.Stats().Connected })
	p.SetCut(false)
	defer p.SetSilent(false, false)
	eventually(t, "figures during an attempt to connect", func() bool {
		eventually(t, "an attempt to connect", p.InUse)
		begun, done := make(chan struct{}), make(chan struct{})
		go func() {
			close(begun)
			b.link.nc.Stats() // waits
			close(done)
		}()
		defer func() { <-done }()
		<-begun
		stats := b.Stats()
		select {
		case <-done: // and so would Stats be, had it waited for the same
			return false
		case <-time.After(100 * time.Millisecond):
			return stats.Subscribed == 1 && !stats.Connected
		}
	})
}

// What waits for a connection is done once there is one again.
func TestWaitsForConnection(t *testing.T) {
	s := newServer(t)
	b := newNode(t, Options{URLs: []string{s.url()}, Wait: patience})
	ctx := ctxFor(t)
	s.stop()
	eventually(t, "that the node has noticed", func() bool { return !b.Stats().Connected })
	var wg sync.WaitGroup
	var waits []func() (pubsub.Version, error)
	for i := range 20 { // all of them are kept, in this order
		waits = append(waits, b.Put(ctx, retainedMessage("t", fmt.Sprint(i))))
	}
	for name, call := range map[string]func() error{
		"Subscribe": func() error { return b.Subscribe(ctx, "u") },
		"Send":      func() error { return b.Send(ctx, pubsub.Message{Topic: "t", Published: time.Now()}) },
		"PutKey":    func() error { return b.PutKey(ctx, pubsub.Key{ID: "a", Value: "v"}) },
		"Broadcast": func() error { return b.Broadcast(ctx, pubsub.ControlMessage{Kind: "k"}) },
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
	if m, ok, err := b.Last(ctx, "t", pubsub.Version{}); err != nil || !ok || string(m.Data) != "19" {
		t.Errorf("Last = %q, %v, %v", m.Data, ok, err)
	}
}

// A node may be started before NATS is: it says that it waits.
func TestStartBeforeNATS(t *testing.T) {
	s := newServer(t)
	s.stop()
	waiting := make(chan error, 100)
	b := open(t, Options{URLs: []string{s.url()}, Events: Events{Waiting: func(err error) { kickError(waiting, err) }}})
	defer b.Close()
	ready, done := make(chan struct{}), make(chan error, 1)
	run, stop := context.WithCancel(ctxFor(t))
	go func() {
		done <- b.Run(run, pubsub.Receiver{Ready: func() { close(ready) }, Deliver: func(*pubsub.PreparedMessage) {}, Control: func(pubsub.ControlMessage) []byte { return nil }})
	}()
	select {
	case err := <-waiting:
		t.Logf("it waits: %v", err)
	case <-ready:
		t.Fatal("ready without NATS")
	case <-run.Done():
		t.Fatal("it does not say that it waits")
	}
	s.start()
	select {
	case <-ready:
	case err := <-done:
		t.Fatalf("Run = %v", err)
	}
	if err := b.Health(run); err != nil {
		t.Errorf("Health = %v", err)
	}
	stop()
	if err := <-done; err != nil {
		t.Errorf("Run = %v", err)
	}
}

func kickError(c chan<- error, err error) {
	select {
	case c <- err:
	default:
	}
}

// A message whose acknowledgement is lost is sent again and applied once; who
// wants its topic gets it, once.
func TestAcknowledgementLost(t *testing.T) {
	s := newServer(t)
	p := newProxy(t, s)
	a := newNode(t, Options{URLs: []string{natsURL(p)}, Wait: patience})
	b := newNode(t, Options{URLs: []string{s.url()}})
	b.want("t")
	first := a.put("t", "one")
	b.ends("t", "one", first)
	p.SetSilent(true, false)
	wait := a.Put(ctxFor(t), retainedMessage("t", "two"))
	b.ends("t", "two", pubsub.Version{Generation: first.Generation, Seq: first.Seq + 1})
	p.SetCut(true)
	p.SetSilent(false, false)
	p.SetCut(false)
	v, err := wait()
	if err != nil || v.Seq != first.Seq+1 {
		t.Fatalf("Put = %v, %v, want the number after %v", v, err, first)
	}
	if a.Stats().PublishRetries == 0 {
		t.Error("nothing was sent again")
	}
	w := a.put("t", "three")
	if w.Seq != v.Seq+1 {
		t.Errorf("the next version is %v, after %v", w, v)
	}
	b.ends("t", "three", w)
	if n := b.count("t"); n != 3 {
		t.Errorf("%d messages were delivered, want 3", n)
	}
}

// A message that JetStream has stored and not announced is announced by its node
// when it learns that it was a duplicate.
func TestDuplicateIsAnnounced(t *testing.T) {
	s := newServer(t)
	p := newProxy(t, s)
	a := newNode(t, Options{URLs: []string{natsURL(p)}, Wait: patience})
	b := newNode(t, Options{URLs: []string{s.url()}, SyncInterval: time.Hour})
	b.want("t")
	b.settled()
	var wait func() (pubsub.Version, error)
	silently(t, b.Backplane, func() {
		p.SetSilent(true, false)
		wait = a.Put(ctxFor(t), retainedMessage("t", "unannounced"))
		eventually(t, "that it is stored", func() bool {
			_, ok, err := b.Last(ctxFor(t), "t", pubsub.Version{})
			return err == nil && ok
		})
	})
	p.SetCut(true)
	p.SetSilent(false, false)
	p.SetCut(false)
	v, err := wait()
	if err != nil {
		t.Fatal(err)
	}
	b.ends("t", "unannounced", v)
}

// Of several messages of one topic that are lost on the way only the newest is sent
// again: none can come after it. The fate of the others is not known.
func TestOlderIsNotSentAgain(t *testing.T) {
	s := newServer(t)
	p := newProxy(t, s)
	a := newNode(t, Options{URLs: []string{natsURL(p)}, Wait: patience})
	first := a.put("t", "zero")
	other := a.put("other", "zero")
	p.SetSilent(false, true)
	var waits []func() (pubsub.Version, error)
	ctx := ctxFor(t)
	const n = 5
	for i := range n {
		waits = append(waits, a.Put(ctx, retainedMessage("t", fmt.Sprint(i))))
	}
	lone := a.Put(ctx, retainedMessage("other", "one"))
	p.SetCut(true)
	p.SetSilent(false, false)
	p.SetCut(false)
	for i, wait := range waits {
		v, err := wait()
		if i < n-1 && !errors.Is(err, pubsub.ErrUnavailable) {
			t.Errorf("Put %d = %v, %v, want %v", i, v, err, pubsub.ErrUnavailable)
		}
		if i == n-1 && (err != nil || !v.Newer(first)) {
			t.Errorf("the newest: %v, %v", v, err)
		}
	}
	if v, err := lone(); err != nil || !v.Newer(other) {
		t.Errorf("of another topic: %v, %v", v, err)
	}
	m, ok, err := a.Last(ctx, "t", pubsub.Version{})
	if err != nil || !ok || string(m.Data) != fmt.Sprint(n-1) {
		t.Errorf("Last = %q %v, %v, %v, want the newest", m.Data, m.Version, ok, err)
	}
	info, err := a.link.info(ctx)
	if want := other.Seq + 2 + n - 1; err != nil || info.State.LastSeq != want {
		t.Errorf("the stream has come to %d, %v, want %d", info.State.LastSeq, err, want)
	}
}

// A message that was given up, and that comes when a later one has been kept, is not
// kept any more.
func TestGivenUpIsNotKeptLate(t *testing.T) {
	s := newServer(t)
	p := newProxy(t, s)
	a := newNode(t, Options{URLs: []string{natsURL(p)}, Wait: 2 * time.Second})
	a.put("t", "first")
	p.SetSilent(false, true)
	ctx := ctxFor(t)
	if v, err := a.Put(ctx, retainedMessage("t", "given up"))(); !errors.Is(err, pubsub.ErrUnavailable) {
		t.Fatalf("Put = %v, %v, want %v", v, err, pubsub.ErrUnavailable)
	}
	p.SetCut(true)
	p.SetSilent(false, false)
	p.SetCut(false)
	var newest pubsub.Version
	eventually(t, "that a message is kept", func() (kept bool) {
		v, err := a.Put(ctx, retainedMessage("t", "newest"))()
		newest = v
		return err == nil
	})
	late := retainedMessage("t", "given up")
	m := natsgo.NewMsg(a.link.names.stored("t"))
	m.Data = appendRecord(nil, &late)
	m.Header.Set(jetstream.MsgIDHeader, strconv.FormatUint(a.link.node, 36)+"-2") // the second Put
	ack, err := a.link.js.PublishMsg(ctx, m)
	if err != nil || !ack.Duplicate {
		t.Errorf("what is late is answered %+v, %v", ack, err)
	}
	if got, ok, err := a.Last(ctx, "t", pubsub.Version{}); err != nil || !ok || got.Version != newest {
		t.Errorf("Last = %q %v, %v, %v, want version %v", got.Data, got.Version, ok, err, newest)
	}
}

// A stream that was deleted is made anew, with a new generation; what is published
// then reaches those who have a version of the old one, and nothing old comes back.
func TestStreamDeleted(t *testing.T) {
	s := newServer(t)
	changed := make(chan [2]uint64, 10)
	a := newNode(t, Options{URLs: []string{s.url()}, Wait: patience})
	b := newNode(t, Options{URLs: []string{s.url()}, SyncInterval: 100 * time.Millisecond,
		Events: Events{GenerationChanged: func(from, to uint64) { changed <- [2]uint64{from, to} }}})
	b.want("t")
	var old pubsub.Version
	for i := range 10 {
		old = a.put("t", fmt.Sprint(i))
	}
	b.ends("t", "9", old)
	if err := b.link.js.DeleteStream(ctxFor(t), b.link.names.stream()); err != nil {
		t.Fatal(err)
	}
	v := a.putAgain("t", "new") // until a node has made it
	b.ends("t", "new", pubsub.Version{})
	if got := <-changed; got[0] != old.Generation || got[1] == old.Generation {
		t.Errorf("generation %x became %x, want from %x", got[0], got[1], old.Generation)
	}
	m, ok, err := b.Last(ctxFor(t), "t", old)
	if err != nil || !ok || string(m.Data) != "new" || m.Version.Generation == old.Generation {
		t.Errorf("Last after an old version = %q %v, %v, %v", m.Data, m.Version, ok, err)
	}
	if m.Version.Seq != v.Seq {
		t.Errorf("Put gave %v, stored is %v", v, m.Version)
	}
	w := a.put("t", "newer")
	b.ends("t", "newer", w)
	// What was announced before and comes late is of no use any more.
	late := natsgo.NewMsg(b.link.names.live(old.Generation, "t"))
	message := retainedMessage("t", "late")
	late.Data = appendRecord(nil, &message)
	late.Header.Set(headerSequence, fmt.Sprint(old.Seq+100))
	if err := a.link.nc.PublishMsg(late); err != nil {
		t.Fatal(err)
	}
	w = a.put("t", "newest")
	b.ends("t", "newest", w)
	b.neverBack()
}

// A stream that was restored from a backup, and so has lost its newest messages,
// is of a new generation: its numbers have been given before.
func TestStreamRestored(t *testing.T) {
	s := newServer(t)
	a := newNode(t, Options{URLs: []string{s.url()}, Wait: patience})
	b := newNode(t, Options{URLs: []string{s.url()}, SyncInterval: 200 * time.Millisecond})
	b.want("t", "kept")
	a.put("kept", "kept")
	a.put("t", "in the backup")
	b.ends("t", "in the backup", pubsub.Version{})
	s.stop()
	backup := t.TempDir()
	if err := os.CopyFS(backup, os.DirFS(s.options.StoreDir)); err != nil {
		t.Fatal(err)
	}
	s.start()
	var lost pubsub.Version
	for i := range 10 {
		lost = a.put("t", fmt.Sprint("lost ", i))
	}
	b.ends("t", "lost 9", lost)
	s.stop()
	if err := os.RemoveAll(s.options.StoreDir); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(s.options.StoreDir, os.DirFS(backup)); err != nil {
		t.Fatal(err)
	}
	s.start()
	b.ends("t", "in the backup", pubsub.Version{})
	m, _ := b.last("t")
	if m.Version.Generation == lost.Generation {
		t.Errorf("version %v after %v, want another generation", m.Version, lost)
	}
	eventually(t, "that both nodes agree", func() bool { return a.link.epoch.current() == b.link.epoch.current() })
	v := a.put("t", "new")
	if v.Generation != m.Version.Generation {
		t.Errorf("version %v, want the generation of %v", v, m.Version)
	}
	b.ends("t", "new", v)
	// Who has a version of the future that was lost gets what there is.
	if m, ok, err := b.Last(ctxFor(t), "kept", lost); err != nil || !ok || string(m.Data) != "kept" {
		t.Errorf("Last = %q, %v, %v", m.Data, ok, err)
	}
	b.neverBack()
}

// The leader of the stream stops, and then the next one: publishing goes on, and
// nothing that was acknowledged is lost.
func TestLeaderMoves(t *testing.T) {
	c := newCluster(t, 3)
	urls := c.urls()
	a := newNode(t, Options{URLs: urls, Wait: patience})
	b := newNode(t, Options{URLs: []string{urls[2], urls[0], urls[1]}, SyncInterval: time.Second, Wait: patience})
	b.want("t")
	var acknowledged atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := int64(1); ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			// A Put may fail; the next one is newer.
			if _, err := a.Put(ctxFor(t), retainedMessage("t", fmt.Sprintf("%06d", i)))(); err == nil {
				acknowledged.Store(i)
			}
		}
	})
	progress := func() {
		t.Helper()
		before := acknowledged.Load()
		eventually(t, "progress", func() bool { return acknowledged.Load() > before+10 })
	}
	progress()
	for range 2 {
		leader := c.leader(a.link.names.stream())
		leader.stop()
		progress()
		leader.start()
		progress()
	}
	close(stop)
	wg.Wait()
	newest := fmt.Sprintf("%06d", acknowledged.Load())
	eventually(t, "the newest", func() bool {
		m, ok := b.last("t")
		return ok && string(m.Data) >= newest
	})
	m, ok, err := b.Last(ctxFor(t), "t", pubsub.Version{})
	if err != nil || !ok || string(m.Data) < newest {
		t.Errorf("Last = %q, %v, %v, acknowledged was %s", m.Data, ok, err, newest)
	}
	b.neverBack()
}
