package nats

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"pubsub"
	"pubsub/internal/backplane/nats/layout"
	"pubsub/internal/testkit"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func (n *node) putKey(id, value string) {
	n.t.Helper()
	if err := n.PutKey(testContext(n.t), pubsub.Key{ID: id, Value: value}); err != nil {
		n.t.Fatalf("PutKey(%q): %v", id, err)
	}
}

func (n *node) deleteKey(id string) {
	n.t.Helper()
	if err := n.DeleteKey(testContext(n.t), id); err != nil {
		n.t.Fatalf("DeleteKey(%q): %v", id, err)
	}
}

// wantNoBucket checks that no call works that needs the bucket.
func (n *node) wantNoBucket() {
	n.t.Helper()
	ctx := testContext(n.t)
	_, keysError := n.Keys(ctx)
	_, keyError := n.Key(ctx, "a")
	errs := map[string]error{
		"Health": n.Health(ctx), "Keys": keysError, "Key": keyError,
		"PutKey":    n.PutKey(ctx, pubsub.Key{ID: "c", Value: "v"}),
		"DeleteKey": n.DeleteKey(ctx, "a"),
	}
	wantErrors(n.t, errs, ErrMissing)
	for name, err := range errs {
		if !strings.Contains(err.Error(), n.client.names.KeyStream()) {
			n.t.Errorf("%s does not name the bucket: %v", name, err)
		}
	}
}

// A lost bucket of signing keys is reported, and no node recreates it: neither a running node,
// which keeps its keys, nor one that starts. Nodes use a restored bucket.
func TestKeyBucketLost(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n, j := newWatchedNode(t, s.url())
	ctx := testContext(t)
	n.putKey("a", "v")
	n.putKey("b", "v")
	events := watchKeys(t, n.Backplane)
	for range 3 {
		events.next()
	}
	bucket := n.client.names.KeyStream()
	n.deleteStream(bucket)
	j.await("key bucket missing in NATS " + bucket)
	n.wantNoBucket()
	n.put("t", "retained messages still work")
	another, itsJournal := newWatchedNode(t, s.url())
	itsJournal.await("key bucket missing in NATS " + bucket)
	another.wantNoBucket()
	itsEvents := watchKeys(t, another.Backplane)
	if _, err := n.client.js.Stream(ctx, bucket); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Fatalf("the bucket: %v, want it missing", err)
	}
	if events.pending() {
		t.Errorf("event %q while the bucket is missing", events.next())
	}

	// An operator restores a backup that lacks one of the keys.
	if _, err := n.client.js.CreateStream(ctx, layout.KeyStream(n.client.names, 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := n.client.js.Publish(ctx, n.client.names.Key("a"), layout.AppendKey(nil, pubsub.Key{Value: "v"})); err != nil {
		t.Fatal(err)
	}
	n.awaitHealth()
	another.awaitHealth()
	for event := ""; event != "b deleted"; {
		// The node may have read the bucket before the key was there.
		if event = events.next(); !slices.Contains([]string{"a deleted", "a=v", "b deleted"}, event) {
			t.Errorf("event %q, want the deletion of b", event)
		}
	}
	for event := ""; event != "a=v"; {
		if event = itsEvents.next(); event != "a=v" && event != "synced" {
			t.Errorf("event %q at the second node", event)
		}
	}
	n.putKey("c", "v")
	j.want("recovered "+bucket, 1)
	j.want("replaced "+bucket, 1)
}

// A node that starts when both streams are missing creates no bucket while another node runs,
// because that node knows keys. Without another node, this is a new broker.
func TestBothStreamsLost(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n := newNode(t, Options{URLs: []string{s.url()}})
	ctx := testContext(t)
	keys := n.client.names.KeyStream()
	n.deleteStream(n.stream.name())
	n.deleteStream(keys)
	another, j := newWatchedNode(t, s.url())
	if _, err := another.client.js.Stream(ctx, keys); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("the bucket: %v, want it missing", err)
	}
	j.await("key bucket missing in NATS " + keys)
	j.want("created "+keys, 0)
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
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteStream(ctx, n.stream.name()); err != nil {
		t.Fatal(err)
	}
	last, _ := newWatchedNode(t, s.url())
	if l, err := last.Keys(ctx); err != nil || len(l) != 0 {
		t.Errorf("Keys = %v, %v, want none", l, err)
	}
}

// MakeKeyBucket makes an empty bucket only in place of a lost one. Keys that are not in it are
// revoked.
func TestMakeKeyBucket(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n, _ := newWatchedNode(t, s.url())
	ctx := testContext(t)
	o := Options{URLs: []string{s.url()}}
	n.putKey("a", "v")
	events := watchKeys(t, n.Backplane)
	for range 2 {
		events.next()
	}
	if err := MakeKeyBucket(ctx, o); !errors.Is(err, ErrBucketExists) {
		t.Errorf("MakeKeyBucket with an existing bucket = %v", err)
	}
	if ds, none, err := Check(ctx, o); len(ds) != 0 || none || err != nil {
		t.Errorf("Check = %+v, %v, %v", ds, none, err)
	}
	n.deleteStream(n.client.names.KeyStream())
	ds, none, err := Check(ctx, o)
	if len(ds) != 1 || none || err != nil || ds[0].Stream != "KV_pubsub_keys" || ds[0].Have != "missing" || !strings.Contains(ds[0].Fix, "make-key-bucket") {
		t.Errorf("Check of a lost bucket = %+v, %v, %v", ds, none, err)
	}
	if err := MakeKeyBucket(ctx, o); err != nil {
		t.Fatal(err)
	}
	events.want("a deleted")
	testkit.Eventually(t, "a new key", func() bool { return n.PutKey(ctx, pubsub.Key{ID: "b", Value: "v"}) == nil })
	events.want("b=v")
}

// Before the first start neither stream exists, which is not a fault. If only the stream of
// retained messages is missing, Check reports it.
func TestCheckMissingStreams(t *testing.T) {
	t.Parallel()
	o := Options{URLs: []string{newServer(t).url()}}
	ctx := testContext(t)
	if ds, none, err := Check(ctx, o); len(ds) != 0 || !none || err != nil {
		t.Errorf("Check before the first start = %+v, %v, %v", ds, none, err)
	}
	b := open(t, o)
	defer b.Close()
	if _, err := b.Keys(ctx); err != nil {
		t.Fatal(err)
	}
	b.client.end() // so that it does not recreate the stream
	if err := b.client.js.DeleteStream(ctx, b.stream.name()); err != nil {
		t.Fatal(err)
	}
	if ds, none, err := Check(ctx, o); len(ds) != 1 || none || err != nil || ds[0].Stream != "pubsub_retained" || ds[0].Have != "missing" {
		t.Errorf("Check = %+v, %v, %v", ds, none, err)
	}
}

// Keys that were purged from the bucket are revoked, without a new connection.
func TestKeyBucketPurged(t *testing.T) {
	t.Parallel()
	n, j := newWatchedNode(t, newServer(t).url())
	ctx := testContext(t)
	n.putKey("a", "v")
	events := watchKeys(t, n.Backplane)
	for range 2 {
		events.next()
	}
	bucket := n.client.names.KeyStream()
	// The guard can miss only a key that it has seen.
	testkit.Eventually(t, "a check that sees the key", func() bool {
		n.client.faults.suspect()
		info, err := n.client.streamInfo(ctx, bucket)
		return err == nil && info.State.NumSubjects == 1
	})
	sleep(ctx, 2*checkPause)
	n.purgeStream(bucket)
	events.want("a deleted")
	j.want("replaced "+bucket, 1)
}

// A watch whose consumer was deleted starts again before the library notices.
func TestConsumersDeleted(t *testing.T) {
	t.Parallel()
	n, _ := newWatchedNode(t, newServer(t).url())
	ctx := testContext(t)
	events := watchKeys(t, n.Backplane)
	events.want("synced")
	stream, err := n.client.js.Stream(ctx, n.client.names.KeyStream())
	if err != nil {
		t.Fatal(err)
	}
	deleted := 0
	testkit.Eventually(t, "a consumer", func() bool {
		names := stream.ConsumerNames(ctx)
		for name := range names.Name() {
			if err := stream.DeleteConsumer(ctx, name); err == nil {
				deleted++
			}
		}
		return deleted > 0
	})
	n.putKey("a", "v")
	eventuallyWithin(t, noticeTime, "an event of the key", events.pending)
	events.want("a=v")
}
