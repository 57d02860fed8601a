package nats

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"pubsub"
	"pubsub/internal/backplane/nats/layout"
	"pubsub/internal/testkit"

	natsgo "github.com/nats-io/nats.go"
)

// A deleted stream is recreated with a new generation. Messages published then reach clients that
// have a version of the old one, and old announcements are not delivered.
func TestStreamDeleted(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	changed := make(chan [2]uint64, 10)
	a := newNode(t, Options{URLs: []string{s.url()}})
	b := newNode(t, Options{URLs: []string{s.url()}, SyncInterval: 100 * time.Millisecond,
		Events: Events{GenerationChanged: func(from, to uint64) { changed <- [2]uint64{from, to} }}})
	b.subscribe("t")
	var old pubsub.Version
	for i := range 10 {
		old = a.put("t", fmt.Sprint(i))
	}
	b.awaitLast("t", "9", old)
	b.deleteStream(b.stream.name())
	v := a.putEventually("t", "new") // when a node has recreated the stream
	b.awaitLast("t", "new", pubsub.Version{})
	got := <-changed
	if got[0] != old.Generation || got[1] == old.Generation {
		t.Errorf("generation %x became %x, want a change from %x", got[0], got[1], old.Generation)
	}
	b.wantLast("t", old, "new", pubsub.Version{Generation: got[1], Seq: v.Seq})
	a.publishTo(b, "t", "newer")
	m := retainedMessage("t", "late")
	late := &put{topic: "t", msg: &natsgo.Msg{Data: layout.AppendMessage(nil, &m)}}
	a.client.announce(late, pubsub.Version{Generation: old.Generation, Seq: old.Seq + 100})
	a.publishTo(b, "t", "newest")
	b.checkOrder()
}

// A stream that was restored from a backup has lost its newest messages. It becomes a new
// generation, because its next sequence numbers were used before.
func TestStreamRestored(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	a := newNode(t, Options{URLs: []string{s.url()}})
	b := newNode(t, Options{URLs: []string{s.url()}, SyncInterval: 200 * time.Millisecond})
	b.subscribe("t", "kept")
	kept := a.put("kept", "kept")
	a.publishTo(b, "t", "in the backup")
	copyTo := func(dst, src string) {
		t.Helper()
		if err := os.CopyFS(dst, os.DirFS(src)); err != nil {
			t.Fatal(err)
		}
	}
	s.stop()
	backup := t.TempDir()
	copyTo(backup, s.Options.StoreDir)
	s.start()
	var lost pubsub.Version
	for i := range 10 {
		lost = a.put("t", fmt.Sprint("lost ", i))
	}
	b.awaitLast("t", "lost 9", lost)
	s.stop()
	if err := os.RemoveAll(s.Options.StoreDir); err != nil {
		t.Fatal(err)
	}
	copyTo(s.Options.StoreDir, backup)
	s.start()
	b.awaitLast("t", "in the backup", pubsub.Version{})
	m, _ := b.last("t")
	if m.Version.Generation == lost.Generation {
		t.Errorf("version %v after %v, want another generation", m.Version, lost)
	}
	testkit.Eventually(t, "two nodes that agree", func() bool { return a.stream.epoch.current() == b.stream.epoch.current() })
	v := a.publishTo(b, "t", "new")
	if v.Generation != m.Version.Generation {
		t.Errorf("version %v, want the generation of %v", v, m.Version)
	}
	// A client with a version of a lost message gets the present one.
	b.wantLast("kept", lost, "kept", pubsub.Version{Generation: v.Generation, Seq: kept.Seq})
	b.checkOrder()
}

// The nodes notice and report that the stream was deleted, without a publish, and recreate it,
// once, without waiting for a resync. Subscribers get later messages, and old versions no longer
// count.
func TestStreamLost(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	var nodes []*node
	var journals []*journal
	for range 3 {
		n, j := newWatchedNode(t, c.urls()...)
		nodes, journals = append(nodes, n), append(journals, j)
	}
	stream := nodes[0].stream.name()
	nodes[2].subscribe("t")
	old := nodes[0].publishTo(nodes[2], "t", "old")
	nodes[0].deleteStream(stream)
	for i, n := range nodes {
		journals[i].await("stream missing in NATS " + stream)
		if err := n.Health(testContext(t)); err != nil && !errors.Is(err, ErrMissing) {
			t.Errorf("Health = %v, want nil or %v", err, ErrMissing)
		}
	}
	for i, n := range nodes {
		n.awaitHealth()
		journals[i].await("recovered " + stream)
	}
	v := nodes[1].publishTo(nodes[2], "t", "new")
	if v.Generation == old.Generation {
		t.Errorf("version %v after %v, want another generation", v, old)
	}
	created := 0
	for i, n := range nodes {
		created += journals[i].count("created " + stream)
		if g := n.stream.epoch.current(); g != v.Generation {
			t.Errorf("node %d has generation %x, want %x", i, g, v.Generation)
		}
		n.wantLast("t", old, "new", v)
		journals[i].want("generation changed", 1)
	}
	if created != 2 { // once at the first start
		t.Errorf("the stream was created %d times, want 2", created)
	}
	nodes[2].checkOrder()
}

// Of nodes that start at the same time, one creates each stream, and reports it.
func TestStreamsAreCreatedOnce(t *testing.T) {
	t.Parallel()
	url, j := newServer(t).url(), &journal{t: t}
	var all []*Backplane
	for range 4 {
		all = append(all, open(t, Options{URLs: []string{url}, Events: j.events()}))
	}
	for _, b := range all {
		defer b.Close()
		if _, err := b.Keys(testContext(t)); err != nil {
			t.Fatal(err)
		}
	}
	lines := j.all()
	if slices.Sort(lines); !slices.Equal(lines, []string{"created KV_pubsub_keys", "created pubsub_retained"}) {
		t.Errorf("reported: %q", lines)
	}
}

// A node that believed the stream to be truncated, and found it as long as before, does not
// change its mind while it competes with another node for the record of the generation: sequence
// numbers that it learns meanwhile belong to messages that are newer than the answer.
func TestTruncationIsDecidedOnce(t *testing.T) {
	t.Parallel()
	url := newServer(t).url()
	other := newNode(t, Options{URLs: []string{url}})
	known := other.put("t", "v").Generation
	var n *node
	var once sync.Once
	n = newNode(t, Options{URLs: []string{url}, SyncInterval: time.Hour, checkInterval: time.Hour, Events: Events{
		Unreadable: func(string, string, error) { // before this node replaces the record
			once.Do(func() {
				other.store(other.client.names.Generation(), string(layout.AppendGeneration(nil, known)))
				n.stream.epoch.observe(1000)
			})
		}}})
	other.store(other.client.names.Generation(), garbage)
	if err := n.stream.renew(testContext(t), true); err != nil {
		t.Fatal(err)
	}
	if g := n.stream.epoch.current(); g != known {
		t.Errorf("generation %x, want %x as before", g, known)
	}
}
