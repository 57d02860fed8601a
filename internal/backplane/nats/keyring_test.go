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
func keyWatcher(t testing.TB, b *Backplane) <-chan pubsub.KeyEvent {
	t.Helper()
	changes := make(chan pubsub.KeyEvent, 100)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.WatchKeys(ctx, func(c pubsub.KeyEvent) { changes <- c }) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil && !errors.Is(err, pubsub.ErrClosed) {
			t.Errorf("WatchKeys = %v", err)
		}
	})
	return changes
}

func next(t testing.TB, changes <-chan pubsub.KeyEvent) pubsub.KeyEvent {
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
	b := newNode(t, Options{URLs: []string{natsURL(p)}})
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
	if c := next(t, changes); !c.Synced {
		t.Fatalf("told of %+v, want Ready", c)
	}
	p.SetCut(true)
	eventually(t, "that the node is cut off", func() bool { return !b.Stats().Connected })
	remove("goes")
	remove("changes")
	put("changes", "w")
	put("comes", "v")
	put("comes and goes", "v")
	remove("comes and goes")
	p.SetCut(false)
	want := []string{"changes deleted", "changes=w", "comes and goes deleted", "comes=v", "goes deleted"}
	var told []string
	for len(told) < len(want) {
		// The library's watch may go on before ours begins anew, and tell of it first.
		if line := keyChange(next(t, changes)); line != "comes and goes deleted" || !slices.Contains(told, line) {
			told = append(told, line)
		}
	}
	// What the old key of that id has admitted ends, before the new one counts.
	if slices.Index(told, "changes deleted") > slices.Index(told, "changes=w") {
		t.Errorf("told in this order: %q", told)
	}
	if slices.Sort(told); !slices.Equal(told, want) {
		t.Errorf("told of %q", told)
	}
	put("last", "v")
	for line := ""; line != "last=v"; {
		if line = keyChange(next(t, changes)); line != "last=v" && line != "comes and goes deleted" {
			t.Errorf("told of %q, want the last key", line)
		}
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
	var told []string
	w := keyWatch{keyring: b.keyring, known: map[string]string{}, changed: func(c pubsub.KeyEvent) { told = append(told, keyChange(c)) }}
	read := func(what string, want ...string) {
		t.Helper()
		told = nil
		if err := w.readAll(ctx); err != nil || !slices.Equal(told, want) {
			t.Errorf("%s: told of %q, %v, want %q", what, told, err, want)
		}
	}
	read("at first", "ready")
	read("after a cut", "a deleted")
	again := pubsub.Key{ID: "a", Value: "w"}
	if err := b.PutKey(ctx, again); err != nil {
		t.Fatal(err)
	}
	w.known["a"] = "what the first one was"
	read("if it has been made anew by then", "a deleted", "a=w")
}

// What the library's watch has to say of what was read before is no news; of what the
// bucket did not have then, it says that the bucket is another.
func TestKeyUpdates(t *testing.T) {
	b := newNode(t, Options{URLs: []string{newServer(t).url()}})
	ctx := ctxFor(t)
	for _, id := range []string{"a", "b"} {
		if err := b.PutKey(ctx, pubsub.Key{ID: id, Value: "v"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.DeleteKey(ctx, "b"); err != nil {
		t.Fatal(err)
	}
	var told []string
	w := keyWatch{keyring: b.keyring, known: map[string]string{}, changed: func(c pubsub.KeyEvent) { told = append(told, keyChange(c)) }}
	if err := w.readAll(ctx); err != nil {
		t.Fatal(err)
	}
	value := appendKey(nil, pubsub.Key{Value: "w"})
	for _, tt := range []struct {
		update  entry
		another bool
		told    []string
	}{
		{entry{id: "b", revision: 2, value: value}, false, nil}, // from a replica that has not caught up
		{entry{id: "a", revision: 1, op: jetstream.KeyValuePurge}, false, nil},
		{entry{id: "c", revision: 1, value: value}, true, nil},
		{entry{id: "c", revision: 4, value: value}, false, []string{"c=w"}},
		{entry{id: "a", revision: 5, op: jetstream.KeyValuePurge}, false, []string{"a deleted"}},
		{entry{id: "c", revision: 4, value: value}, false, nil},
	} {
		told = nil
		if another := w.update(tt.update); another != tt.another || !slices.Equal(told, tt.told) {
			t.Errorf("%+v: another %v, told of %q", tt.update, another, told)
		}
	}
}

// entry is what the library's watch says.
type entry struct {
	jetstream.KeyValueEntry // what is not asked for
	id                      string
	revision                uint64
	value                   []byte
	op                      jetstream.KeyValueOp
}

func (e entry) Key() string                     { return encode(e.id) }
func (e entry) Revision() uint64                { return e.revision }
func (e entry) Value() []byte                   { return e.value }
func (e entry) Operation() jetstream.KeyValueOp { return e.op }

// keyChange is c in a word.
func keyChange(c pubsub.KeyEvent) string {
	switch {
	case c.Synced:
		return "ready"
	case c.Deleted:
		return c.Key.ID + " deleted"
	}
	return c.Key.ID + "=" + c.Key.Value
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
