package nats

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pubsub"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// journal keeps what a node reports.
type journal struct {
	mu    sync.Mutex
	lines []string // guarded by mu
}

func (j *journal) add(words ...string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, strings.Join(words, " "))
}

func (j *journal) count(line string) (n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, l := range j.lines {
		if l == line {
			n++
		}
	}
	return n
}

func (j *journal) all() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.lines)
}

// events are those that j keeps.
func (j *journal) events() Events {
	return Events{
		Fault:             func(f *Fault) { j.add(f.Event, f.Stream) },
		Recovered:         func(stream string, _ time.Duration) { j.add("mended", stream) },
		StreamCreated:     func(stream string) { j.add("made", stream) },
		StreamPurged:      func(stream string) { j.add("purged", stream) },
		KeysReplaced:      func(stream string) { j.add("replaced", stream) },
		GenerationChanged: func(uint64, uint64) { j.add("generation") },
		Unreadable:        func(kind, name string, _ error) { j.add("unreadable", kind, name) },
	}
}

// watched opens a node that keeps a journal, and looks ten times as often as others.
func watched(t testing.TB, urls ...string) (*node, *journal) {
	j := new(journal)
	return newNode(t, Options{URLs: urls, SyncInterval: time.Hour, lookEvery: lookEvery / 10, Events: j.events()}), j
}

// soon waits for what must happen within the time that is promised.
func soon(t testing.TB, d time.Duration, what string, ok func() bool) {
	t.Helper()
	if !within(d, ok) {
		t.Fatalf("%s: not within %v", what, d)
	}
}

// refusal returns the error of a Put, and fails the test if that took long.
func (n *node) refusal(topic pubsub.Topic) error {
	n.t.Helper()
	began := time.Now()
	_, err := n.Put(ctxFor(n.t), retainedMessage(topic, "refused"))()
	if took := time.Since(began); took > 2*time.Second {
		n.t.Errorf("Put took %v, and then said %v", took, err)
	}
	return err
}

// Nodes without publishers notice and report that the stream was deleted, and recreate
// it, once, without waiting for a sweep. Subscribers get later messages, and old versions
// do not count.
func TestStreamLost(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	var nodes []*node
	var journals []*journal
	for range 3 {
		n, j := watched(t, c.urls()...)
		nodes, journals = append(nodes, n), append(journals, j)
	}
	stream := nodes[0].link.names.stream()
	nodes[2].want("t")
	old := nodes[0].put("t", "old")
	nodes[2].ends("t", "old", old)
	if err := nodes[0].link.js.DeleteStream(ctxFor(t), stream); err != nil {
		t.Fatal(err)
	}
	for i, n := range nodes {
		soon(t, 10*time.Second, "that the loss is reported", func() bool { return journals[i].count("stream missing in NATS "+stream) == 1 })
		if err := n.Health(ctxFor(t)); err != nil && !errors.Is(err, ErrMissing) {
			t.Errorf("Health = %v", err)
		}
	}
	for i, n := range nodes {
		soon(t, 15*time.Second, "health", func() bool { return n.Health(ctxFor(t)) == nil })
		soon(t, 15*time.Second, "that the end is reported", func() bool { return journals[i].count("mended "+stream) == 1 })
	}
	v := nodes[1].put("t", "new")
	nodes[2].ends("t", "new", v)
	if v.Generation == old.Generation {
		t.Errorf("version %v after %v, want another generation", v, old)
	}
	made := 0
	for i, n := range nodes {
		made += journals[i].count("made " + stream)
		if g := n.link.epoch.current(); g != v.Generation {
			t.Errorf("node %d has generation %x, want %x", i, g, v.Generation)
		}
		if m, ok, err := n.Last(ctxFor(t), "t", old); err != nil || !ok || m.Version != v {
			t.Errorf("node %d: Last after an old version = %v, %v, %v, want %v", i, m.Version, ok, err, v)
		}
		if k := journals[i].count("generation"); k != 1 {
			t.Errorf("node %d has seen %d new generations, want 1: %q", i, k, journals[i].all())
		}
	}
	if made != 2 { // one of them at the first start
		t.Errorf("the stream was made %d times, want 2", made)
	}
	nodes[2].neverBack()
}

// Of nodes that start at the same time, one creates each stream, and reports it.
func TestStreamsAreMadeOnce(t *testing.T) {
	t.Parallel()
	url, j := newServer(t).url(), new(journal)
	var all []*Backplane
	for range 4 {
		all = append(all, open(t, Options{URLs: []string{url}, Events: j.events()}))
	}
	for _, b := range all {
		defer b.Close()
		if _, err := b.Keys(ctxFor(t)); err != nil {
			t.Fatal(err)
		}
	}
	lines := j.all()
	if slices.Sort(lines); !slices.Equal(lines, []string{"made KV_pubsub_keys", "made pubsub_retained"}) {
		t.Errorf("reported: %q", lines)
	}
}

// While the stream is missing, publishing and reading fail at once, and Health returns
// the reason. Keys and plain messages still work.
func TestCallsWhileStreamIsLost(t *testing.T) {
	t.Parallel()
	n, j := watched(t, newServer(t).url())
	ctx := ctxFor(t)
	n.want("t")
	n.put("t", "old")
	if err := n.link.js.DeleteStream(ctx, n.link.names.stream()); err != nil {
		t.Fatal(err)
	}
	if err := n.refusal("t"); !errors.Is(err, pubsub.ErrUnavailable) || !errors.Is(err, ErrMissing) {
		t.Errorf("Put = %v", err)
	}
	if j.count("stream missing in NATS "+n.link.names.stream()) != 1 {
		t.Errorf("reported: %q", j.all())
	}
	for name, call := range map[string]func() error{
		"Last":   func() error { _, _, err := n.Last(ctx, "t", pubsub.Version{}); return err },
		"List":   func() error { _, err := n.List(ctx, "", "", 1); return err },
		"Health": func() error { return n.Health(ctx) },
	} {
		if err := call(); !errors.Is(err, ErrMissing) || !errors.Is(err, pubsub.ErrUnavailable) {
			t.Errorf("%s = %v", name, err)
		}
	}
	if k := n.Stats().Faults; k != 1 {
		t.Errorf("%d faults, want 1", k)
	}
	if err := n.PutKey(ctx, pubsub.Key{ID: "k", Value: "v"}); err != nil {
		t.Errorf("PutKey: %v", err)
	}
	if err := n.Send(ctx, pubsub.Message{Topic: "t", Data: []byte("plain"), Published: time.Now()}); err != nil {
		t.Errorf("Send: %v", err)
	}
	n.ends("t", "plain", pubsub.Version{})
	eventually(t, "health", func() bool { return n.Health(ctx) == nil })
	n.ends("t", "new", n.put("t", "new"))
}

// A stream that somebody has recreated with other settings is not used. The error names
// the differences until the settings are right.
func TestStreamReplacedByAnother(t *testing.T) {
	t.Parallel()
	n, j := watched(t, newServer(t).url())
	ctx := ctxFor(t)
	n.want("t")
	old := n.put("t", "old")
	stream := n.link.names.stream()
	info, err := n.link.info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	config := info.Config
	config.MaxMsgsPerSubject, config.RePublish = 5, nil
	if err := n.link.js.DeleteStream(ctx, stream); err != nil {
		t.Fatal(err)
	}
	if _, err := n.link.js.CreateStream(ctx, config); err != nil {
		t.Fatal(err)
	}
	soon(t, 10*time.Second, "that it is reported", func() bool { return j.count("stream settings unusable in NATS "+stream) == 1 })
	for name, err := range map[string]error{"Health": n.Health(ctx), "Put": n.refusal("t")} {
		if !errors.Is(err, ErrSettings) || !errors.Is(err, pubsub.ErrUnavailable) ||
			!strings.Contains(err.Error(), "max_msgs_per_subject of "+stream+" is 5 and must be 1") || !strings.Contains(err.Error(), "republish") {
			t.Errorf("%s = %v", name, err)
		}
	}
	if info, err = n.link.info(ctx); err != nil || info.State.Msgs != 0 || info.Config.RePublish != nil {
		t.Errorf("the stream has %d messages and is announced to %v, %v: it was used", info.State.Msgs, info.Config.RePublish, err)
	}
	config.MaxMsgsPerSubject, config.RePublish = 1, retainedSettings(n.link.names, old.Generation, 1).RePublish
	if _, err := n.link.js.UpdateStream(ctx, config); err != nil {
		t.Fatal(err)
	}
	soon(t, 10*time.Second, "health", func() bool { return n.Health(ctx) == nil })
	v := n.put("t", "new")
	n.ends("t", "new", v)
	if v.Generation == old.Generation {
		t.Errorf("version %v after %v, want another generation", v, old)
	}
}

// A stream that somebody has recreated with the same settings is a new generation, even
// if it has outgrown the old one by the time it is noticed.
func TestStreamReplacedByItsLike(t *testing.T) {
	t.Parallel()
	n, _ := watched(t, newServer(t).url())
	ctx := ctxFor(t)
	n.want("t")
	old := n.put("t", "old")
	info, err := n.link.info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.link.js.DeleteStream(ctx, n.link.names.stream()); err != nil {
		t.Fatal(err)
	}
	if _, err := n.link.js.CreateStream(ctx, info.Config); err != nil {
		t.Fatal(err)
	}
	m := retainedMessage("t", "new")
	for range 10 { // as another node would, that has not noticed either
		if _, err := n.link.js.Publish(ctx, n.link.names.stored("t"), appendRecord(nil, &m)); err != nil {
			t.Fatal(err)
		}
	}
	soon(t, 10*time.Second, "another generation", func() bool { return n.link.epoch.current() != old.Generation })
	if m, ok, err := n.Last(ctx, "t", old); err != nil || !ok || string(m.Data) != "new" || m.Version.Generation == old.Generation {
		t.Errorf("Last after an old version = %q %v, %v, %v", m.Data, m.Version, ok, err)
	}
	n.neverBack()
}

// A purge of the stream is reported. The stream still works, and its numbers continue.
func TestStreamPurged(t *testing.T) {
	t.Parallel()
	n, j := watched(t, newServer(t).url())
	ctx := ctxFor(t)
	n.want("t")
	old := n.put("t", "old")
	stream, err := n.link.js.Stream(ctx, n.link.names.stream())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(ctx); err != nil {
		t.Fatal(err)
	}
	soon(t, 10*time.Second, "that it is reported", func() bool { return j.count("purged "+n.link.names.stream()) == 1 })
	if _, ok, err := n.Last(ctx, "t", pubsub.Version{}); ok || err != nil {
		t.Errorf("Last = %v, %v, want none", ok, err)
	}
	v := n.put("t", "new")
	n.ends("t", "new", v)
	if !v.Newer(old) {
		t.Errorf("version %v after %v", v, old)
	}
	if err := n.Health(ctx); err != nil {
		t.Errorf("Health = %v", err)
	}
}

// Disabled JetStream is reported as such, and everything works when it is enabled again.
func TestJetStreamDisabled(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n, j := watched(t, s.url())
	ctx := ctxFor(t)
	n.want("t")
	n.put("t", "old")
	account, err := s.s.LookupAccount("$G")
	if err != nil {
		t.Fatal(err)
	}
	if err := account.DisableJetStream(); err != nil {
		t.Fatal(err)
	}
	for _, stream := range []string{n.link.names.stream(), n.link.names.keysStream()} {
		soon(t, 10*time.Second, "that it is reported", func() bool { return j.count("JetStream disabled in NATS "+stream) == 1 })
	}
	for name, err := range map[string]error{"Health": n.Health(ctx), "Put": n.refusal("t")} {
		if !errors.Is(err, ErrNoJetStream) || !errors.Is(err, pubsub.ErrUnavailable) {
			t.Errorf("%s = %v", name, err)
		}
	}
	if err := account.EnableJetStream(nil, nil); err != nil {
		t.Fatal(err)
	}
	soon(t, 10*time.Second, "health", func() bool { return n.Health(ctx) == nil })
	n.ends("t", "new", n.put("t", "new"))
}

// A stream that gives no answer for longer than an election takes is a fault, which
// ends by itself. Until then only the stream of retained messages counts for Health.
func TestStreamUnavailable(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	j := new(journal)
	n := newNode(t, Options{URLs: []string{c.servers[0].url()}, SyncInterval: time.Hour, Events: j.events()})
	n.put("t", "x")
	for _, s := range c.servers[1:] {
		s.stop()
	}
	g := newGuard(n.link)
	keys := n.link.names.keysStream()
	soon(t, patience, "that the bucket gives no answer", func() bool { return g.look(&g.keys) == nil && !g.keys.silent.IsZero() })
	if len(j.all()) != 2 { // both streams were made
		t.Errorf("reported at once: %q", j.all())
	}
	g.keys.silent = g.keys.silent.Add(-silentAfter)
	if g.look(&g.keys); j.count("stream unavailable in NATS "+keys) != 1 {
		t.Errorf("reported: %q", j.all())
	}
	if _, err := n.Keys(ctxFor(t)); !errors.Is(err, pubsub.ErrUnavailable) || !strings.Contains(err.Error(), "no answer for") {
		t.Errorf("Keys = %v", err)
	}
	for _, s := range c.servers[1:] {
		s.start()
	}
	soon(t, patience, "an answer", func() bool { return g.look(&g.keys) != nil })
	if j.count("mended "+keys) != 1 || n.link.fault(keys) != nil {
		t.Errorf("reported: %q", j.all())
	}
}

// A lost bucket of signing keys is reported, and no node recreates it: neither a running
// node, which keeps its keys, nor one that starts. Nodes use a restored bucket.
func TestKeyBucketLost(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n, j := watched(t, s.url())
	ctx := ctxFor(t)
	for _, id := range []string{"a", "b"} {
		if err := n.PutKey(ctx, pubsub.Key{ID: id, Value: "v"}); err != nil {
			t.Fatal(err)
		}
	}
	changes := keyWatcher(t, n.Backplane)
	for range 3 {
		next(t, changes)
	}
	bucket := n.link.names.keysStream()
	config := keysSettings(n.link.names, 1)
	if err := n.link.js.DeleteStream(ctx, bucket); err != nil {
		t.Fatal(err)
	}
	soon(t, 10*time.Second, "that it is reported", func() bool { return j.count("key bucket missing in NATS "+bucket) == 1 })
	wantLost := func(n *node) {
		t.Helper()
		for name, call := range map[string]func() error{
			"Health":    func() error { return n.Health(ctx) },
			"Keys":      func() error { _, err := n.Keys(ctx); return err },
			"Key":       func() error { _, err := n.Key(ctx, "a"); return err },
			"PutKey":    func() error { return n.PutKey(ctx, pubsub.Key{ID: "c", Value: "v"}) },
			"DeleteKey": func() error { return n.DeleteKey(ctx, "a") },
		} {
			if err := call(); !errors.Is(err, ErrMissing) || !errors.Is(err, pubsub.ErrUnavailable) || !strings.Contains(err.Error(), bucket) {
				t.Errorf("%s = %v", name, err)
			}
		}
	}
	wantLost(n)
	n.put("t", "what is retained goes on")
	another, its := watched(t, s.url())
	soon(t, 10*time.Second, "that the second node reports it", func() bool { return its.count("key bucket missing in NATS "+bucket) == 1 })
	wantLost(another)
	others := keyWatcher(t, another.Backplane)
	if _, err := n.link.js.Stream(ctx, bucket); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Fatalf("the bucket: %v, want it missing", err)
	}
	if len(changes) > 0 {
		t.Errorf("told of %s while the bucket is lost", keyChange(<-changes))
	}

	// It comes back from a backup in which one of the keys is not yet.
	if _, err := n.link.js.CreateStream(ctx, config); err != nil {
		t.Fatal(err)
	}
	if _, err := n.link.js.Publish(ctx, "$KV."+n.link.names.bucket()+".a", appendKey(nil, pubsub.Key{Value: "v"})); err != nil {
		t.Fatal(err)
	}
	for _, one := range []*node{n, another} {
		soon(t, 10*time.Second, "health", func() bool { return one.Health(ctx) == nil })
	}
	for {
		// The node may have read the bucket before the key was there.
		if line := keyChange(next(t, changes)); line == "b deleted" {
			break
		} else if line != "a deleted" && line != "a=v" {
			t.Errorf("told of %s, want that b is gone", line)
		}
	}
	for line := ""; line != "a=v"; {
		if line = keyChange(next(t, others)); line != "a=v" && line != "ready" {
			t.Errorf("the second node is told of %s", line)
		}
	}
	if err := n.PutKey(ctx, pubsub.Key{ID: "c", Value: "v"}); err != nil {
		t.Errorf("PutKey: %v", err)
	}
	if j.count("mended "+bucket) != 1 || j.count("replaced "+bucket) != 1 {
		t.Errorf("reported: %q", j.all())
	}
}

// A node that starts when both streams are missing makes no bucket while another node
// runs, because that node knows keys. Without another node, this is a new broker.
func TestBothStreamsLost(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n := newNode(t, Options{URLs: []string{s.url()}})
	ctx := ctxFor(t)
	js, keys := n.link.js, n.link.names.keysStream()
	for _, stream := range []string{n.link.names.stream(), keys} {
		if err := js.DeleteStream(ctx, stream); err != nil {
			t.Fatal(err)
		}
	}
	another, its := watched(t, s.url())
	if _, err := another.link.js.Stream(ctx, keys); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("the bucket: %v, want it missing", err)
	}
	soon(t, 10*time.Second, "that it is reported", func() bool { return its.count("key bucket missing in NATS "+keys) == 1 })
	if its.count("made "+keys) != 0 {
		t.Errorf("reported: %q", its.all())
	}
	for _, one := range []*node{n, another} {
		if err := one.Close(); err != nil {
			t.Fatal(err)
		}
	}
	nc, err := natsgo.Connect(s.url())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteStream(ctx, n.link.names.stream()); err != nil {
		t.Fatal(err)
	}
	last, _ := watched(t, s.url())
	if l, err := last.Keys(ctx); err != nil || len(l) != 0 {
		t.Errorf("Keys = %v, %v", l, err)
	}
}

// MakeKeyBucket makes an empty bucket only in place of a lost one. Keys that are not in
// it are revoked.
func TestMakeKeyBucket(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n, _ := watched(t, s.url())
	ctx := ctxFor(t)
	o := Options{URLs: []string{s.url()}}
	if err := n.PutKey(ctx, pubsub.Key{ID: "a", Value: "v"}); err != nil {
		t.Fatal(err)
	}
	changes := keyWatcher(t, n.Backplane)
	for range 2 {
		next(t, changes)
	}
	if err := MakeKeyBucket(ctx, o); !errors.Is(err, ErrBucketExists) {
		t.Errorf("MakeKeyBucket where there is one = %v", err)
	}
	if ds, none, err := Check(ctx, o); len(ds) != 0 || none || err != nil {
		t.Errorf("Check = %+v, %v, %v", ds, none, err)
	}
	if err := n.link.js.DeleteStream(ctx, n.link.names.keysStream()); err != nil {
		t.Fatal(err)
	}
	ds, none, err := Check(ctx, o)
	if len(ds) != 1 || none || err != nil || ds[0].Stream != "KV_pubsub_keys" || ds[0].Have != "missing" || !strings.Contains(ds[0].Fix, "make-key-bucket") {
		t.Errorf("Check of a lost bucket = %+v, %v, %v", ds, none, err)
	}
	if err := MakeKeyBucket(ctx, o); err != nil {
		t.Fatal(err)
	}
	if line := keyChange(next(t, changes)); line != "a deleted" {
		t.Errorf("told of %s", line)
	}
	eventually(t, "that keys can be made", func() bool { return n.PutKey(ctx, pubsub.Key{ID: "b", Value: "v"}) == nil })
	if line := keyChange(next(t, changes)); line != "b=v" {
		t.Errorf("told of %s", line)
	}
}

// Before the first start neither stream exists, which is not a fault. If only the stream
// of retained messages is missing, Check reports it.
func TestCheckWhatIsMissing(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	o := Options{URLs: []string{s.url()}}
	ctx := ctxFor(t)
	if ds, none, err := Check(ctx, o); len(ds) != 0 || !none || err != nil {
		t.Errorf("Check of nothing = %+v, %v, %v", ds, none, err)
	}
	b := open(t, o)
	if _, err := b.Keys(ctx); err != nil {
		t.Fatal(err)
	}
	js := b.link.js
	defer func() { b.Close() }()
	b.link.end() // it must not recreate the stream that is deleted next
	if err := js.DeleteStream(ctx, b.link.names.stream()); err != nil {
		t.Fatal(err)
	}
	if ds, none, err := Check(ctx, o); len(ds) != 1 || none || err != nil || ds[0].Stream != "pubsub_retained" || ds[0].Have != "missing" {
		t.Errorf("Check = %+v, %v, %v", ds, none, err)
	}
}

// Keys that somebody has purged from the bucket are revoked, without waiting for a new
// connection.
func TestKeyBucketPurged(t *testing.T) {
	t.Parallel()
	n, j := watched(t, newServer(t).url())
	ctx := ctxFor(t)
	if err := n.PutKey(ctx, pubsub.Key{ID: "a", Value: "v"}); err != nil {
		t.Fatal(err)
	}
	changes := keyWatcher(t, n.Backplane)
	for range 2 {
		next(t, changes)
	}
	bucket := n.link.names.keysStream()
	// Until the guard has seen the key, it does not miss it.
	eventually(t, "that the guard has looked", func() bool {
		n.link.doubt()
		info, err := n.link.infoOf(ctx, bucket)
		return err == nil && info.State.NumSubjects == 1
	})
	stream, err := n.link.js.Stream(ctx, bucket)
	if err != nil {
		t.Fatal(err)
	}
	pause(ctx, 2*lookLeast)
	if err := stream.Purge(ctx); err != nil {
		t.Fatal(err)
	}
	if line := keyChange(next(t, changes)); line != "a deleted" {
		t.Errorf("told of %s", line)
	}
	if j.count("replaced "+bucket) != 1 {
		t.Errorf("reported: %q", j.all())
	}
}

// A watch of keys whose consumer is deleted begins again, sooner than the library
// notices.
func TestConsumersDeleted(t *testing.T) {
	t.Parallel()
	n, _ := watched(t, newServer(t).url())
	ctx := ctxFor(t)
	changes := keyWatcher(t, n.Backplane)
	next(t, changes)
	stream, err := n.link.js.Stream(ctx, n.link.names.keysStream())
	if err != nil {
		t.Fatal(err)
	}
	deleted := 0
	eventually(t, "a consumer", func() bool {
		names := stream.ConsumerNames(ctx)
		for name := range names.Name() {
			if err := stream.DeleteConsumer(ctx, name); err == nil {
				deleted++
			}
		}
		return deleted > 0
	})
	if err := n.PutKey(ctx, pubsub.Key{ID: "a", Value: "v"}); err != nil {
		t.Fatal(err)
	}
	soon(t, 5*time.Second, "that the key is told", func() bool { return len(changes) > 0 })
	if line := keyChange(next(t, changes)); line != "a=v" {
		t.Errorf("told of %s", line)
	}
}

// A record that cannot be read hides no other record, and is reported once.
func TestUnreadableRecords(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n, j := watched(t, s.url())
	ctx := ctxFor(t)
	n.want("good", "bad", "late")
	n.put("good", "v")
	store := func(subject string, data string) {
		t.Helper()
		m := natsgo.NewMsg(subject)
		m.Data = []byte(data)
		if _, err := n.link.js.PublishMsg(ctx, m); err != nil {
			t.Fatal(err)
		}
	}
	keys := "$KV." + n.link.names.bucket() + "."
	for _, id := range []string{"a", "z"} {
		if err := n.PutKey(ctx, pubsub.Key{ID: id, Value: "v"}); err != nil {
			t.Fatal(err)
		}
	}
	const garbage, later, short = "garbage", "\x63" + "of a later release", "\x01"
	store(keys+"bad", garbage)
	store(keys+"late", later)
	store(keys+"short", short)
	store(keys+"=2e=", garbage) // no id is called so
	store(n.link.names.stored("bad"), "\x00garbage")
	store(n.link.names.stored("late"), later)
	store(strings.TrimSuffix(n.link.names.allStored(), ">")+"=2e=", garbage) // nor any topic

	another, its := watched(t, s.url()) // one that starts now
	for _, one := range []struct {
		node    *node
		journal *journal
	}{{n, j}, {another, its}} {
		if keys, err := one.node.Keys(ctx); err != nil || len(keys) != 2 || keys[0].ID != "a" || keys[1].ID != "z" {
			t.Errorf("Keys = %+v, %v", keys, err)
		}
		changes := keyWatcher(t, one.node.Backplane)
		var told []string
		for len(told) < 3 {
			told = append(told, keyChange(next(t, changes)))
		}
		if slices.Sort(told); !slices.Equal(told, []string{"a=v", "ready", "z=v"}) {
			t.Errorf("told of %q", told)
		}
		if l, err := one.node.List(ctx, "", "", 10); err != nil || len(l) != 1 || l[0].Topic != "good" {
			t.Errorf("List = %+v, %v", l, err)
		}
		for _, topic := range []pubsub.Topic{"bad", "late"} {
			if _, ok, err := one.node.Last(ctx, topic, pubsub.Version{}); ok || err != nil {
				t.Errorf("Last(%q) = %v, %v, want none", topic, ok, err)
			}
		}
		if m, ok, err := one.node.Last(ctx, "good", pubsub.Version{}); !ok || err != nil || string(m.Data) != "v" {
			t.Errorf("Last = %q, %v, %v", m.Data, ok, err)
		}
		for _, name := range []string{"key bad", "key late", "key short", "key =2e=", "message bad", "message late"} {
			if k := one.journal.count("unreadable " + name); k != 1 {
				t.Errorf("%s was reported %d times: %q", name, k, one.journal.all())
			}
		}
	}
	n.settled() // a sweep comes by them
	n.ends("good", "w", n.put("good", "w"))
	// Whoever has the id taken away gets rid of it.
	for _, id := range []string{"bad", "late"} {
		if err := n.PutKey(ctx, pubsub.Key{ID: id, Value: "v"}); !errors.Is(err, pubsub.ErrKeyExists) {
			t.Errorf("PutKey(%q) = %v", id, err)
		}
		if err := n.DeleteKey(ctx, id); err != nil {
			t.Errorf("DeleteKey(%q) = %v", id, err)
		}
	}
	n.ends("bad", "good", n.put("bad", "good"))
	// Garbage in the place of the generation's record makes a new one.
	before := n.link.epoch.current()
	store(n.link.names.generation(), "garbage")
	eventually(t, "another generation", func() bool {
		_, _, err := n.Last(ctx, "good", pubsub.Version{})
		return err == nil && n.link.epoch.current() != before
	})
	n.ends("good", "x", n.putAgain("good", "x"))
}
