package nats

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"pubsub"
)

// keyWatcher collects what a WatchKeys tells.
func keyWatcher(t testing.TB, b *Backplane) <-chan pubsub.KeyChange {
	t.Helper()
	changes := make(chan pubsub.KeyChange, 100)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.WatchKeys(ctx, func(c pubsub.KeyChange) { changes <- c }) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil && !errors.Is(err, pubsub.ErrClosed) {
			t.Errorf("WatchKeys = %v", err)
		}
	})
	return changes
}

func next(t testing.TB, changes <-chan pubsub.KeyChange) pubsub.KeyChange {
	t.Helper()
	select {
	case c := <-changes:
		return c
	case <-time.After(patience):
		t.Fatal("no change of a key")
		panic("not reached")
	}
}

// A watch outlives a lost connection: what happened meanwhile is told afterwards. Of
// what is there nothing is told twice, and a deletion only if nobody knows of the key.
func TestWatchKeysWhileCutOff(t *testing.T) {
	s := newServer(t)
	p := newProxy(t, s)
	a := newNode(t, Options{URLs: []string{s.url()}})
	b := newNode(t, Options{URLs: []string{p.url()}})
	ctx := ctxFor(t)
	put := func(id, value string) {
		t.Helper()
		if err := a.PutKey(ctx, pubsub.Key{ID: id, Value: value, Created: time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	remove := func(id string) {
		t.Helper()
		if err := a.DeleteKey(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	put("stays", "v")
	put("goes", "v")
	put("changes", "v")
	changes := keyWatcher(t, b.Backplane)
	for range 3 {
		next(t, changes)
	}
	if c := next(t, changes); !c.Ready {
		t.Fatalf("told of %+v, want Ready", c)
	}
	p.setCut(true)
	eventually(t, "that the node is cut off", func() bool { return !b.Stats().Connected })
	remove("goes")
	remove("changes")
	put("changes", "w")
	put("comes", "v")
	put("comes and goes", "v")
	remove("comes and goes")
	p.setCut(false)
	put("last", "v")
	var told []string
	for {
		c := next(t, changes)
		if c.Key.ID == "last" {
			break
		}
		line := c.Key.ID + "=" + c.Key.Value
		if c.Deleted {
			line = c.Key.ID + " deleted"
		}
		// The library's watch may go on before ours begins anew, and tell of it first.
		if line != "comes and goes deleted" || !slices.Contains(told, line) {
			told = append(told, line)
		}
	}
	// What the old key of that id has admitted ends, before the new one counts.
	if slices.Index(told, "changes deleted") > slices.Index(told, "changes=w") {
		t.Errorf("told in this order: %q", told)
	}
	slices.Sort(told)
	if got := strings.Join(told, ", "); got != "changes deleted, changes=w, comes and goes deleted, comes=v, goes deleted" {
		t.Errorf("told of %s", got)
	}
}

// Of a deleted key the value is nowhere any more.
func TestDeletedKeyIsErased(t *testing.T) {
	s := newServer(t)
	a := newNode(t, Options{URLs: []string{s.url()}})
	ctx := ctxFor(t)
	if err := a.PutKey(ctx, pubsub.Key{ID: "a/b", Value: "secret"}); err != nil {
		t.Fatal(err)
	}
	if err := a.DeleteKey(ctx, "a/b"); err != nil {
		t.Fatal(err)
	}
	stream, err := a.link.js.Stream(ctx, a.link.names.keysStream())
	if err != nil {
		t.Fatal(err)
	}
	for seq := uint64(1); seq <= stream.CachedInfo().State.LastSeq; seq++ {
		if m, err := stream.GetMsg(ctx, seq); err == nil && strings.Contains(string(m.Data), "secret") {
			t.Errorf("message %d still has the value", seq)
		}
	}
	if stream.CachedInfo().State.LastSeq < 2 {
		t.Errorf("the bucket has come to %d, want the key and its deletion", stream.CachedInfo().State.LastSeq)
	}
}

// A watch that gets to a key only when that has been deleted tells that it is gone:
// the node may have looked it up meanwhile.
func TestDeletionOfAnUntoldKeyIsTold(t *testing.T) {
	b := newNode(t, Options{URLs: []string{newServer(t).url()}})
	ctx := ctxFor(t)
	if err := b.PutKey(ctx, pubsub.Key{ID: "a", Value: "v", Created: time.Now()}); err != nil {
		t.Fatal(err)
	}
	if err := b.DeleteKey(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	kv, err := b.link.js.KeyValue(ctx, b.link.names.bucket())
	if err != nil {
		t.Fatal(err)
	}
	all, err := kv.WatchAll(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer all.Stop()
	e := <-all.Updates()
	if e == nil || e.Operation() == jetstream.KeyValuePut {
		t.Fatalf("what is left of the key: %v", e)
	}
	var told []pubsub.KeyChange
	w := keyWatch{link: b.link, known: map[string]string{}, changed: func(c pubsub.KeyChange) { told = append(told, c) }}
	if err := w.entry(e, map[string]struct{}{}); err != nil || len(told) > 0 {
		t.Errorf("among what there was: %v, %v", told, err)
	}
	w.ready = true
	if err := w.entry(e, map[string]struct{}{}); err != nil || len(told) != 1 {
		t.Errorf("among what there is after a cut: %v, %v", told, err)
	}
	told = nil
	if err := w.entry(e, nil); err != nil || !slices.Equal(told, []pubsub.KeyChange{{Key: pubsub.Key{ID: "a"}, Deleted: true}}) {
		t.Errorf("as news: %v, %v", told, err)
	}

	// As much is told if it has been made anew by then.
	again := pubsub.Key{ID: "a", Value: "w"}
	if err := b.PutKey(ctx, again); err != nil {
		t.Fatal(err)
	}
	if e, err = kv.Get(ctx, encode("a")); err != nil {
		t.Fatal(err)
	}
	told, w.known["a"] = nil, "what the first one was"
	if err := w.entry(e, nil); err != nil || len(told) != 2 || !told[0].Deleted || told[1].Deleted || told[1].Key.Value != "w" {
		t.Errorf("of another key with its id: %v, %v", told, err)
	}
}

// There may be more keys than one request reads.
func TestManyKeys(t *testing.T) {
	const n = maxBatch + 50
	s := newServer(t, withoutSync)
	a := newNode(t, Options{URLs: []string{s.url()}})
	ctx := ctxFor(t)
	want := []string{}
	for i := range n {
		id := strings.Repeat("k", i%7) + string(rune('a'+i%26)) + time.Duration(i).String()
		want = append(want, id)
		if err := a.PutKey(ctx, pubsub.Key{ID: id, Value: "v"}); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(want)
	keys, err := a.Keys(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, k := range keys {
		got = append(got, k.ID)
	}
	if !slices.Equal(got, want) {
		t.Errorf("Keys has %d ids, want %d", len(got), n)
	}
}
