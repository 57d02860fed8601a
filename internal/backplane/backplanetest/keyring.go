package backplanetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pubsub"
)

var keyringTests = []test{
	{"Keys", keys},
	{"OneIDOneKey", oneIDOneKey},
	{"Watch", watchKeys},
	{"WatchSlowly", watchKeysSlowly},
	{"ContextDone", keyringContextDone},
}

// newKey returns a key that was created a day ago.
func newKey(id, value string) pubsub.Key {
	return pubsub.Key{ID: id, Value: value, Created: time.Now().Add(-24 * time.Hour).Truncate(time.Second)}
}

func sameKey(a, b pubsub.Key) bool {
	return a.ID == b.ID && a.Value == b.Value && a.Created.Equal(b.Created)
}

// mustPut puts keys.
func mustPut(ctx context.Context, t *testing.T, b pubsub.Backplane, keys ...pubsub.Key) {
	t.Helper()
	for _, key := range keys {
		if err := b.PutKey(ctx, key); err != nil {
			t.Fatalf("PutKey(%q): %v", key.ID, err)
		}
	}
}

func keys(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	if l, err := b.Keys(ctx); err != nil || len(l) != 0 {
		t.Fatalf("Keys of a new broker = %d keys, error %v", len(l), err)
	}
	if _, err := b.Key(ctx, "a"); !errors.Is(err, pubsub.ErrKeyNotFound) {
		t.Errorf("Key of an unknown id: error %v", err)
	}
	if err := b.DeleteKey(ctx, "a"); !errors.Is(err, pubsub.ErrKeyNotFound) {
		t.Errorf("DeleteKey of an unknown id: error %v", err)
	}
	a, c, B := newKey("a", "6869"), newKey("c", "any \x00\xff bytes"), newKey("B", "6869")
	mustPut(ctx, t, b, c, a, B)
	want := []pubsub.Key{B, a, c}
	got, err := b.Keys(ctx)
	if err != nil || !slices.EqualFunc(got, want, sameKey) {
		t.Errorf("Keys = %v, error %v, want %v", got, err, want)
	}
	for _, key := range want {
		if got, err := b.Key(ctx, key.ID); err != nil || !sameKey(got, key) {
			t.Errorf("Key(%q) = %v, %v, want %v", key.ID, got, err, key)
		}
	}
	if err := b.DeleteKey(ctx, "a"); err != nil {
		t.Errorf("DeleteKey: %v", err)
	}
	if _, err := b.Key(ctx, "a"); !errors.Is(err, pubsub.ErrKeyNotFound) {
		t.Errorf("Key of a deleted key: error %v", err)
	}
	if err := b.DeleteKey(ctx, "a"); !errors.Is(err, pubsub.ErrKeyNotFound) {
		t.Errorf("DeleteKey of a deleted key: error %v", err)
	}
	if got, err := b.Keys(ctx); err != nil || !slices.EqualFunc(got, []pubsub.Key{B, c}, sameKey) {
		t.Errorf("Keys after a deletion = %v, error %v", got, err)
	}
	again := newKey("a", "another")
	mustPut(ctx, t, b, again)
	if got, err := b.Key(ctx, "a"); err != nil || !sameKey(got, again) {
		t.Errorf("Key after it was put again = %v, %v", got, err)
	}
	wantNone(ctx, t, b, "a", pubsub.Version{}) // keys are not topics
	if l, err := b.List(ctx, "", "", 10); err != nil || len(l) != 0 {
		t.Errorf("List with only keys in the store = %v, %v", l, err)
	}
}

func oneIDOneKey(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	const n = 8
	var won atomic.Int32
	var winner atomic.Value
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			key := newKey("id", fmt.Sprint(i))
			switch err := b.PutKey(ctx, key); {
			case err == nil:
				won.Add(1)
				winner.Store(key)
			case !errors.Is(err, pubsub.ErrKeyExists):
				t.Errorf("PutKey of an id in use: error %v", err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Fatalf("%d of %d keys with one id were put, want 1", won.Load(), n)
	}
	if got, err := b.Key(ctx, "id"); err != nil || !sameKey(got, winner.Load().(pubsub.Key)) {
		t.Errorf("Key = %v, %v, want %v", got, err, winner.Load())
	}
}

// watch starts a WatchKeys and returns a channel of the events it reports. Each call of
// changed blocks until its event is received.
func watch(ctx context.Context, t *testing.T, b pubsub.Backplane) <-chan pubsub.KeyEvent {
	t.Helper()
	changes := make(chan pubsub.KeyEvent)
	var calling atomic.Bool
	run, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		done <- b.WatchKeys(run, func(c pubsub.KeyEvent) {
			if calling.Swap(true) {
				t.Error("calls of changed overlap")
			}
			defer calling.Store(false)
			select {
			case changes <- c:
			case <-run.Done():
			}
		})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("WatchKeys = %v after its context was done, want nil", err)
		}
	})
	return changes
}

// wantChange checks the next event that a watcher reports.
func wantChange(ctx context.Context, t *testing.T, changes <-chan pubsub.KeyEvent, want pubsub.KeyEvent) {
	t.Helper()
	got := receive(ctx, t, changes, "a change of a key")
	if got.Synced != want.Synced || got.Deleted != want.Deleted || got.Key.ID != want.Key.ID || got.Key.Value != want.Key.Value {
		t.Fatalf("event %+v, want %+v", got, want)
	}
	if !got.Synced && !got.Deleted && !got.Key.Created.Equal(want.Key.Created) {
		t.Fatalf("event says that %q was created at %v, want %v", got.Key.ID, got.Key.Created, want.Key.Created)
	}
}

func watchKeys(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	empty := watch(ctx, t, b)
	wantChange(ctx, t, empty, pubsub.KeyEvent{Synced: true})

	a, c := newKey("a", "va"), newKey("c", "vc")
	mustPut(ctx, t, b, a, c)
	wantChange(ctx, t, empty, pubsub.KeyEvent{Key: a})
	wantChange(ctx, t, empty, pubsub.KeyEvent{Key: c})

	// The existing keys are reported in any order, before Synced.
	full := watch(ctx, t, b)
	first := receive(ctx, t, full, "a key")
	second := receive(ctx, t, full, "a key")
	if ids := []string{first.Key.ID, second.Key.ID}; !slices.Contains(ids, "a") || !slices.Contains(ids, "c") || first.Synced || second.Synced {
		t.Fatalf("first events %+v and %+v, want the keys a and c", first, second)
	}
	wantChange(ctx, t, full, pubsub.KeyEvent{Synced: true})

	if err := b.DeleteKey(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	again := newKey("a", "another")
	mustPut(ctx, t, b, again)
	for _, changes := range []<-chan pubsub.KeyEvent{empty, full} {
		wantChange(ctx, t, changes, pubsub.KeyEvent{Key: pubsub.Key{ID: "a"}, Deleted: true})
		wantChange(ctx, t, changes, pubsub.KeyEvent{Key: again})
	}
}

// watchKeysSlowly checks that a watcher that is stuck in changed delays no PutKey and
// misses no change.
func watchKeysSlowly(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	const n = 50
	changes := watch(ctx, t, b)
	wantChange(ctx, t, changes, pubsub.KeyEvent{Synced: true})
	for i := range n { // without receiving from changes
		mustPut(ctx, t, b, newKey(fmt.Sprint(i), "v"))
	}
	for i := range n {
		if got := receive(ctx, t, changes, "a change of a key"); got.Key.ID != fmt.Sprint(i) {
			t.Fatalf("change %d is of the key %q", i, got.Key.ID)
		}
	}
}

func keyringContextDone(ctx context.Context, t *testing.T, b pubsub.Backplane) {
	done := cancelled(ctx)
	if err := b.PutKey(done, newKey("a", "v")); !errors.Is(err, context.Canceled) {
		t.Errorf("PutKey with a context that is done: error %v", err)
	}
	if _, err := b.Key(ctx, "a"); !errors.Is(err, pubsub.ErrKeyNotFound) {
		t.Errorf("Key of the refused PutKey: error %v", err)
	}
	mustPut(ctx, t, b, newKey("b", "v"))
	if err := b.DeleteKey(done, "b"); !errors.Is(err, context.Canceled) {
		t.Errorf("DeleteKey with a context that is done: error %v", err)
	}
	if _, err := b.Key(ctx, "b"); err != nil {
		t.Errorf("Key of the refused DeleteKey: error %v", err)
	}
	if err := b.WatchKeys(done, func(pubsub.KeyEvent) {}); err != nil {
		t.Errorf("WatchKeys with a context that is done = %v, want nil", err)
	}
}
