package server

import (
	"context"
	"errors"
	"fmt"
	"pubsub/internal/testkit"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pubsub"
)

// keyringStub implements the methods of a keyring that a cache uses, with faults that a real
// keyring cannot be made to have.
type keyringStub struct {
	pubsub.Keyring
	watch func(ctx context.Context, changed func(pubsub.KeyEvent)) error
	key   func(ctx context.Context, id string) (pubsub.Key, error)
}

func (k keyringStub) WatchKeys(ctx context.Context, changed func(pubsub.KeyEvent)) error {
	return k.watch(ctx, changed)
}

func (k keyringStub) Key(ctx context.Context, id string) (pubsub.Key, error) { return k.key(ctx, id) }

// runCache runs c until the test ends.
func runCache(t *testing.T, c *keyCache, log *eventLog) {
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { c.run(ctx, log.events().Failed) })
	t.Cleanup(func() { stop(); running.Wait() })
}

func noKey(context.Context, string) (pubsub.Key, error) {
	return pubsub.Key{}, fmt.Errorf("it: %w", pubsub.ErrKeyNotFound)
}

// keyEvents returns the events of keys with these ids.
func keyEvents(ids ...string) []pubsub.KeyEvent {
	var cs []pubsub.KeyEvent
	for _, id := range ids {
		cs = append(cs, pubsub.KeyEvent{Key: pubsub.Key{ID: id, Value: "value of " + id}})
	}
	return cs
}

// synced is the event after all present keys.
var synced = pubsub.KeyEvent{Synced: true}

// report returns a watch that passes events to changed, then waits for ctx.
func report(events ...pubsub.KeyEvent) func(context.Context, func(pubsub.KeyEvent)) error {
	return func(ctx context.Context, changed func(pubsub.KeyEvent)) error {
		for _, e := range events {
			changed(e)
		}
		<-ctx.Done()
		return nil
	}
}

func TestKeysFromTheWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		deleted := &eventLog{}
		changes := append(keyEvents("a", "b", "c"), synced, pubsub.KeyEvent{Key: pubsub.Key{ID: "b"}, Deleted: true})
		c := newKeyCache(keyringStub{watch: report(changes...), key: func(context.Context, string) (pubsub.Key, error) {
			return pubsub.Key{}, errors.New("a reported key was looked up")
		}}, func(id string) { deleted.record("%s", id) })
		runCache(t, c, &eventLog{})
		synctest.Wait()
		for _, id := range []string{"a", "c"} {
			if v, err := c.value(t.Context(), id); v != "value of "+id || err != nil {
				t.Errorf("value of key %s: %q, %v", id, v, err)
			}
		}
		if _, err := c.value(t.Context(), "b"); !errors.Is(err, pubsub.ErrKeyNotFound) {
			t.Errorf("b: %v", err)
		}
		if !slices.Equal(deleted.all(), []string{"b"}) || !c.isRevoked("b") || c.isRevoked("a") || c.isRevoked("x") {
			t.Errorf("deleted: %q", deleted.all())
		}
	})
}

// Until the watch has reported all keys, value waits for an unknown one, but not for ever.
func TestKeysNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sync := make(chan struct{})
		c := newKeyCache(keyringStub{key: noKey, watch: func(ctx context.Context, changed func(pubsub.KeyEvent)) error {
			changed(keyEvents("early")[0])
			<-sync
			return report(append(keyEvents("late"), synced)...)(ctx, changed)
		}}, func(string) {})
		runCache(t, c, &eventLog{})
		synctest.Wait()
		if v, err := c.value(t.Context(), "early"); v != "value of early" || err != nil {
			t.Errorf("early: %q, %v", v, err)
		}
		began := time.Now()
		if _, err := c.value(t.Context(), "late"); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != keyWait {
			t.Errorf("late: %v after %v", err, time.Since(began))
		}
		if c.isReady() {
			t.Error("isReady = true")
		}
		time.AfterFunc(time.Second, func() { close(sync) })
		if v, err := c.value(t.Context(), "late"); v != "" || !errors.Is(err, pubsub.ErrKeyNotFound) {
			// Reported at the same time as ready, or looked up.
			if v != "value of late" || err != nil {
				t.Errorf("late: %q, %v", v, err)
			}
		}
		synctest.Wait()
		if v, err := c.value(t.Context(), "late"); v != "value of late" || err != nil || !c.isReady() {
			t.Errorf("late, reported: %q, %v", v, err)
		}
	})
}

// An id that the watch has not reported is looked up, because another node may have created
// the key just now.
func TestUnknownKeyIsLookedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lookups := 0
		exists := true
		c := newKeyCache(keyringStub{watch: report(synced), key: func(_ context.Context, id string) (pubsub.Key, error) {
			lookups++
			if id == "new" && exists {
				return pubsub.Key{ID: id, Value: "v"}, nil
			}
			return noKey(context.Background(), id)
		}}, func(string) {})
		runCache(t, c, &eventLog{})
		for range 2 {
			if v, err := c.value(t.Context(), "new"); v != "v" || err != nil {
				t.Errorf("got %q, %v", v, err)
			}
		}
		exists = false // deleted elsewhere: the result of the look-up was not cached
		if _, err := c.value(t.Context(), "new"); !errors.Is(err, pubsub.ErrKeyNotFound) {
			t.Errorf("deleted: %v", err)
		}
		if lookups != 3 {
			t.Errorf("%d look-ups", lookups)
		}

		lookups = 0
		for range 3 {
			if _, err := c.value(t.Context(), "x"); !errors.Is(err, pubsub.ErrKeyNotFound) {
				t.Errorf("x: %v", err)
			}
		}
		if lookups != 1 {
			t.Errorf("%d look-ups of one id", lookups)
		}
		time.Sleep(negativeFor)
		c.value(t.Context(), "x")
		if lookups != 2 {
			t.Errorf("a negative entry does not expire")
		}
		if _, err := c.value(t.Context(), strings.Repeat("x", maxKeyID+1)); !errors.Is(err, pubsub.ErrKeyNotFound) || lookups != 2 {
			t.Errorf("a long id: %v, %d look-ups", err, lookups)
		}
		c.add(pubsub.Key{ID: "x", Value: "added"})
		if v, err := c.value(t.Context(), "x"); v != "added" || err != nil {
			t.Errorf("added: %q, %v", v, err)
		}
	})
}

func TestEmptyKeyValueIsNoKey(t *testing.T) {
	c := newKeyCache(keyringStub{key: func(_ context.Context, id string) (pubsub.Key, error) { return pubsub.Key{ID: id}, nil }}, nil)
	c.add(pubsub.Key{ID: "reported"})
	close(c.ready)
	for _, id := range []string{"reported", "looked up"} {
		if _, err := c.value(t.Context(), id); !errors.Is(err, pubsub.ErrKeyNotFound) {
			t.Errorf("%s: %v", id, err)
		}
	}
}

// Clients that make up ids cannot overload the keyring, nor fill the memory.
func TestUnknownKeysAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		now, most := 0, 0
		c := newKeyCache(keyringStub{watch: report(append(keyEvents("a"), synced)...), key: func(ctx context.Context, id string) (pubsub.Key, error) {
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			time.Sleep(time.Millisecond)
			mu.Lock()
			now--
			mu.Unlock()
			return noKey(ctx, id)
		}}, func(string) {})
		runCache(t, c, &eventLog{})
		var clients sync.WaitGroup
		for i := range 1000 {
			clients.Go(func() {
				if _, err := c.value(t.Context(), fmt.Sprint("unknown", i)); !errors.Is(err, pubsub.ErrKeyNotFound) {
					t.Errorf("%d: %v", i, err)
				}
			})
		}
		clients.Wait()
		if most > keyLookups {
			t.Errorf("%d look-ups at once", most)
		}
		for i := range 2 * negativeMax {
			c.miss(fmt.Sprint(i))
		}
		if len(c.negative) > negativeMax {
			t.Errorf("%d negative entries", len(c.negative))
		}
		if v, err := c.value(t.Context(), "a"); v != "value of a" || err != nil {
			t.Errorf("a: %q, %v", v, err)
		}
	})
}

// A look-up that hangs fails, instead of refusing the key.
func TestKeyLookupHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newKeyCache(keyringStub{watch: report(synced), key: func(ctx context.Context, _ string) (pubsub.Key, error) {
			<-ctx.Done()
			return pubsub.Key{}, ctx.Err()
		}}, func(string) {})
		runCache(t, c, &eventLog{})
		var clients sync.WaitGroup
		began := time.Now()
		for i := range 3 * keyLookups {
			clients.Go(func() {
				if _, err := c.value(t.Context(), fmt.Sprint(i)); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%d: %v", i, err)
				}
			})
		}
		clients.Wait()
		if took := time.Since(began); took != keyWait {
			t.Errorf("took %v", took)
		}
	})
}

// Changes during a failed watch are detected by the next one.
func TestKeyWatchRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		watches := 0
		deleted := &eventLog{}
		c := newKeyCache(keyringStub{key: noKey, watch: func(ctx context.Context, changed func(pubsub.KeyEvent)) error {
			watches++
			switch watches {
			case 1:
				for _, ch := range append(keyEvents("a", "b"), synced) {
					changed(ch)
				}
				return errors.New("lost it")
			case 2:
				changed(keyEvents("a")[0])
				return errors.New("lost it again") // before it has reported all keys
			default:
				return report(append(keyEvents("a", "c"), synced)...)(ctx, changed)
			}
		}}, func(id string) { deleted.record("%s", id) })
		log := &eventLog{}
		runCache(t, c, log)
		time.Sleep(rewatchAfter + rewatchAfter/2)
		synctest.Wait()
		if _, err := c.value(t.Context(), "b"); err != nil || len(deleted.all()) > 0 {
			t.Errorf("a watch that was not complete has removed b: %v, %q", err, deleted.all())
		}
		time.Sleep(rewatchAfter)
		synctest.Wait()
		if _, err := c.value(t.Context(), "b"); !errors.Is(err, pubsub.ErrKeyNotFound) || !slices.Equal(deleted.all(), []string{"b"}) {
			t.Errorf("b: %v, deleted %q", err, deleted.all())
		}
		if v, err := c.value(t.Context(), "c"); v != "value of c" || err != nil {
			t.Errorf("c: %q, %v", v, err)
		}
		if lines := log.all(); len(lines) != 2 || lines[0] != "key watch failed: lost it" {
			t.Errorf("logged %q", lines)
		}
	})
}

// With a real keyring, a key is valid from its creation to its deletion.
func TestKeyLifetime(t *testing.T) {
	n := newNode(t, nil)
	k := pubsub.Key{ID: "0123456789abcdef", Value: "v"}
	raw := testkit.Sign(k, map[string]any{"sub": "x"})
	if err := n.backplane.PutKey(t.Context(), k); err != nil {
		t.Fatal(err)
	}
	if _, err := n.authenticateToken(t.Context(), raw); err != nil {
		t.Fatalf("created: %v", err)
	}
	// Another node deletes the key and broadcasts that, after the watch has reported it here.
	for patience := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
		if _, known := n.keys.cached(k.ID); known {
			break
		}
		if time.Now().After(patience) {
			t.Fatal("the watch does not report the key")
		}
	}
	n.Control(pubsub.ControlMessage{Kind: controlRevoke, Body: []byte(k.ID)})
	if _, err := n.authenticateToken(t.Context(), raw); err == nil || err.kind != authInvalid {
		t.Fatalf("revoked: %v", err)
	}
	if got := n.Control(pubsub.ControlMessage{Kind: "of a later release", Body: []byte("x")}); got != nil {
		t.Errorf("reply to an unknown kind: %q", got)
	}
}
