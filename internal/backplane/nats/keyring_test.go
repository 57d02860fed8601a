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
	"pubsub/internal/backplane/nats/layout"
)

// keyEvents are the events of a call of WatchKeys.
type keyEvents struct {
	t testing.TB
	c chan pubsub.KeyEvent
}

// watchKeys calls WatchKeys until the end of the test.
func watchKeys(t testing.TB, b *Backplane) *keyEvents {
	t.Helper()
	events := &keyEvents{t, make(chan pubsub.KeyEvent, 100)}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.WatchKeys(ctx, func(e pubsub.KeyEvent) { events.c <- e }) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil && !errors.Is(err, pubsub.ErrClosed) {
			t.Errorf("WatchKeys = %v", err)
		}
	})
	return events
}

// next waits for the next event and returns it as text.
func (e *keyEvents) next() string {
	e.t.Helper()
	select {
	case c := <-e.c:
		return formatKeyEvent(c)
	case <-time.After(patience):
		e.t.Fatal("no key event")
		panic("not reached")
	}
}

// want checks the next event.
func (e *keyEvents) want(event string) {
	e.t.Helper()
	if got := e.next(); got != event {
		e.t.Errorf("key event %q, want %q", got, event)
	}
}

func (e *keyEvents) pending() bool { return len(e.c) > 0 }

func formatKeyEvent(e pubsub.KeyEvent) string {
	switch {
	case e.Synced:
		return "synced"
	case e.Deleted:
		return e.Key.ID + " deleted"
	}
	return e.Key.ID + "=" + e.Key.Value
}

// A watch continues after a lost connection and reports what has changed meanwhile. It reports no
// existing key twice, and the deletion of a key that it has never reported.
func TestWatchKeysWhileDisconnected(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	p := newProxy(t, s)
	a := newNode(t, Options{URLs: []string{s.url()}})
	b := newNode(t, Options{URLs: []string{natsURL(p)}})
	a.putKey("stays", "v")
	a.putKey("goes", "v")
	a.putKey("changes", "v")
	events := watchKeys(t, b.Backplane)
	for range 3 {
		events.next()
	}
	events.want("synced")
	p.SetCut(true)
	b.awaitDisconnected()
	a.deleteKey("goes")
	a.deleteKey("changes")
	a.putKey("changes", "w")
	a.putKey("comes", "v")
	a.putKey("comes and goes", "v")
	a.deleteKey("comes and goes")
	p.SetCut(false)
	want := []string{"changes deleted", "changes=w", "comes and goes deleted", "comes=v", "goes deleted"}
	var got []string
	for len(got) < len(want) {
		// The library's watch may continue, and report this deletion, before the node reads all
		// keys again.
		if event := events.next(); event != "comes and goes deleted" || !slices.Contains(got, event) {
			got = append(got, event)
		}
	}
	// The connections of the old key must end before the new key is valid.
	if slices.Index(got, "changes deleted") > slices.Index(got, "changes=w") {
		t.Errorf("key events %q: a new key before the deletion of the old one", got)
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("key events %q, want %q", got, want)
	}
	a.putKey("last", "v")
	for event := ""; event != "last=v"; {
		if event = events.next(); event != "last=v" && event != "comes and goes deleted" {
			t.Errorf("key event %q, want the last key", event)
		}
	}
}

// The value of a deleted key is erased.
func TestDeletedKeyIsErased(t *testing.T) {
	t.Parallel()
	n := newNode(t, Options{URLs: []string{newServer(t).url()}})
	ctx := testContext(t)
	n.putKey("a/b", "secret")
	n.deleteKey("a/b")
	stream, err := n.client.js.Stream(ctx, n.client.names.KeyStream())
	if err != nil {
		t.Fatal(err)
	}
	last := stream.CachedInfo().State.LastSeq
	for seq := uint64(1); seq <= last; seq++ {
		if m, err := stream.GetMsg(ctx, seq); err == nil && strings.Contains(string(m.Data), "secret") {
			t.Errorf("message %d still contains the value", seq)
		}
	}
	if last < 2 {
		t.Errorf("the bucket is at %d, want the key and its deletion", last)
	}
}

// newKeyWatch returns a watch of n and the events that it has reported.
func newKeyWatch(n *node) (w *keyWatch, events *[]string) {
	events = new([]string)
	return &keyWatch{
		keyring: n.keyring, known: map[string]string{},
		changed: func(e pubsub.KeyEvent) { *events = append(*events, formatKeyEvent(e)) },
	}, events
}

// A watch that finds a key only after its deletion reports the deletion, because the node may
// have looked the key up before.
func TestDeletionOfUnknownKey(t *testing.T) {
	t.Parallel()
	n := newNode(t, Options{URLs: []string{newServer(t).url()}})
	n.putKey("a", "v")
	n.deleteKey("a")
	w, events := newKeyWatch(n)
	read := func(when string, want ...string) {
		t.Helper()
		*events = nil
		if err := w.readAll(testContext(t)); err != nil || !slices.Equal(*events, want) {
			t.Errorf("%s: key events %q, %v, want %q", when, *events, err, want)
		}
	}
	read("at first", "synced")
	read("after a reconnection", "a deleted")
	n.putKey("a", "w")
	w.known["a"] = "the value of the first key"
	read("after it was made again", "a deleted", "a=w")
}

// An update of the library's watch that is older than the last reading of all keys is not new. If
// that reading did not contain its key, the bucket was replaced.
func TestKeyUpdates(t *testing.T) {
	t.Parallel()
	n := newNode(t, Options{URLs: []string{newServer(t).url()}})
	n.putKey("a", "v")
	n.putKey("b", "v")
	n.deleteKey("b")
	w, events := newKeyWatch(n)
	if err := w.readAll(testContext(t)); err != nil {
		t.Fatal(err)
	}
	value := layout.AppendKey(nil, pubsub.Key{Value: "w"})
	for _, tt := range []struct {
		update   update
		replaced bool
		events   []string
	}{
		{update{id: "b", revision: 2, value: value}, false, nil}, // from a replica that is behind
		{update{id: "a", revision: 1, op: jetstream.KeyValuePurge}, false, nil},
		{update{id: "c", revision: 1, value: value}, true, nil},
		{update{id: "c", revision: 4, value: value}, false, []string{"c=w"}},
		{update{id: "a", revision: 5, op: jetstream.KeyValuePurge}, false, []string{"a deleted"}},
		{update{id: "c", revision: 4, value: value}, false, nil},
	} {
		*events = nil
		if replaced := w.update(tt.update); replaced != tt.replaced || !slices.Equal(*events, tt.events) {
			t.Errorf("%+v: replaced %v, key events %q, want %v, %q", tt.update, replaced, *events, tt.replaced, tt.events)
		}
	}
}

// update is an update of the library's watch.
type update struct {
	jetstream.KeyValueEntry // nil: the other methods are not called
	id                      string
	revision                uint64
	value                   []byte
	op                      jetstream.KeyValueOp
}

func (u update) Key() string                     { return layout.Encode(u.id) }
func (u update) Revision() uint64                { return u.revision }
func (u update) Value() []byte                   { return u.value }
func (u update) Operation() jetstream.KeyValueOp { return u.op }

// Keys returns more keys than one request reads.
func TestManyKeys(t *testing.T) {
	t.Parallel()
	const count = maxBatch + 50
	n := newNode(t, Options{URLs: []string{newServer(t, withoutSync).url()}})
	want := []string{}
	for i := range count {
		id := strings.Repeat("k", i%7) + string(rune('a'+i%26)) + time.Duration(i).String()
		want = append(want, id)
		n.putKey(id, "v")
	}
	slices.Sort(want)
	keys, err := n.Keys(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, k := range keys {
		got = append(got, k.ID)
	}
	if !slices.Equal(got, want) {
		t.Errorf("Keys has %d ids, want %d", len(got), count)
	}
}
