package server

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pubsub"
)

// keyringStub is the part of a keyring that a cache uses, with faults that a real
// one cannot be brought to have.
type keyringStub struct {
	pubsub.Keyring
	watch func(ctx context.Context, changed func(pubsub.KeyEvent)) error
	key   func(ctx context.Context, id string) (pubsub.Key, error)
}

func (k keyringStub) WatchKeys(ctx context.Context, changed func(pubsub.KeyEvent)) error {
	return k.watch(ctx, changed)
}

func (k keyringStub) Key(ctx context.Context, id string) (pubsub.Key, error) { return k.key(ctx, id) }

// runCache runs c until the test, in a bubble, ends.
func runCache(t *testing.T, c *keyCache, heard *journal) {
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { c.run(ctx, heard.events().Failed) })
	t.Cleanup(func() { stop(); running.Wait() })
}

func noKey(context.Context, string) (pubsub.Key, error) {
	return pubsub.Key{}, fmt.Errorf("it: %w", pubsub.ErrKeyNotFound)
}

func told(ids ...string) []pubsub.KeyEvent {
	var cs []pubsub.KeyEvent
	for _, id := range ids {
		cs = append(cs, pubsub.KeyEvent{Key: pubsub.Key{ID: id, Value: "value of " + id}})
	}
	return cs
}

var ready = pubsub.KeyEvent{Synced: true}

// tellAll passes cs to changed, then waits for ctx.
func tellAll(cs ...pubsub.KeyEvent) func(context.Context, func(pubsub.KeyEvent)) error {
	return func(ctx context.Context, changed func(pubsub.KeyEvent)) error {
		for _, c := range cs {
			changed(c)
		}
		<-ctx.Done()
		return nil
	}
}

func TestKeysAreToldByTheWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := &journal{}
		changes := append(told("a", "b", "c"), ready, pubsub.KeyEvent{Key: pubsub.Key{ID: "b"}, Deleted: true})
		c := newKeyCache(keyringStub{watch: tellAll(changes...), key: func(context.Context, string) (pubsub.Key, error) {
			return pubsub.Key{}, errors.New("asked for what was told")
		}}, func(id string) { gone.note("%s", id) })
		runCache(t, c, &journal{})
		synctest.Wait()
		for _, id := range []string{"a", "c"} {
			if v, err := c.value(t.Context(), id); v != "value of "+id || err != nil {
				t.Errorf("%s: %q, %v", id, v, err)
			}
		}
		if _, err := c.value(t.Context(), "b"); !errors.Is(err, pubsub.ErrKeyNotFound) {
			t.Errorf("b: %v", err)
		}
		if !slices.Equal(gone.all(), []string{"b"}) || !c.isRevoked("b") || c.isRevoked("a") || c.isRevoked("x") {
			t.Errorf("gone: %q", gone.all())
		}
	})
}

// Until all keys have been told, an unknown one is waited for, but not for ever.
func TestKeysNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tell := make(chan struct{})
		c := newKeyCache(keyringStub{key: noKey, watch: func(ctx context.Context, changed func(pubsub.KeyEvent)) error {
			changed(told("early")[0])
			<-tell
			return tellAll(append(told("late"), ready)...)(ctx, changed)
		}}, func(string) {})
		runCache(t, c, &journal{})
		synctest.Wait()
		if v, err := c.value(t.Context(), "early"); v != "value of early" || err != nil {
			t.Errorf("early: %q, %v", v, err)
		}
		began := time.Now()
		if _, err := c.value(t.Context(), "late"); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != keyWait {
			t.Errorf("late: %v after %v", err, time.Since(began))
		}
		if c.isReady() {
			t.Error("is ready")
		}
		time.AfterFunc(time.Second, func() { close(tell) })
		if v, err := c.value(t.Context(), "late"); v != "" || !errors.Is(err, pubsub.ErrKeyNotFound) {
			// Told in the same breath as ready, or looked up: it must be known.
			if v != "value of late" || err != nil {
				t.Errorf("late: %q, %v", v, err)
			}
		}
		synctest.Wait()
		if v, err := c.value(t.Context(), "late"); v != "value of late" || err != nil || !c.isReady() {
			t.Errorf("late, told: %q, %v", v, err)
		}
	})
}

// An id that has not been told of is looked up: another node may have made it
// just now.
func TestUnknownKeyIsLookedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		exists := true
		c := newKeyCache(keyringStub{watch: tellAll(ready), key: func(_ context.Context, id string) (pubsub.Key, error) {
			asked++
			if id == "new" && exists {
				return pubsub.Key{ID: id, Value: "v"}, nil
			}
			return noKey(context.Background(), id)
		}}, func(string) {})
		runCache(t, c, &journal{})
		for range 2 {
			if v, err := c.value(t.Context(), "new"); v != "v" || err != nil {
				t.Errorf("got %q, %v", v, err)
			}
		}
		exists = false // deleted elsewhere: what was looked up is not believed any longer
		if _, err := c.value(t.Context(), "new"); !errors.Is(err, pubsub.ErrKeyNotFound) {
			t.Errorf("deleted: %v", err)
		}
		if asked != 3 {
			t.Errorf("asked %d times", asked)
		}

		asked = 0
		for range 3 { // the same stranger again and again
			if _, err := c.value(t.Context(), "x"); !errors.Is(err, pubsub.ErrKeyNotFound) {
				t.Errorf("x: %v", err)
			}
		}
		if asked != 1 {
			t.Errorf("asked %d times for one id", asked)
		}
		time.Sleep(negativeFor)
		c.value(t.Context(), "x")
		if asked != 2 {
			t.Errorf("a miss is believed for ever")
		}
		if _, err := c.value(t.Context(), strings.Repeat("x", maxKeyID+1)); !errors.Is(err, pubsub.ErrKeyNotFound) || asked != 2 {
			t.Errorf("a long id: %v, asked %d times", err, asked)
		}
		c.add(pubsub.Key{ID: "x", Value: "now there"})
		if v, err := c.value(t.Context(), "x"); v != "now there" || err != nil {
			t.Errorf("added: %q, %v", v, err)
		}
	})
}

func TestEmptyKeyValueIsNoKey(t *testing.T) {
	c := newKeyCache(keyringStub{key: func(_ context.Context, id string) (pubsub.Key, error) { return pubsub.Key{ID: id}, nil }}, nil)
	c.add(pubsub.Key{ID: "told"})
	close(c.ready)
	for _, id := range []string{"told", "looked up"} {
		if _, err := c.value(t.Context(), id); !errors.Is(err, pubsub.ErrKeyNotFound) {
			t.Errorf("%s: %v", id, err)
		}
	}
}

// Strangers with ids of their own making cannot keep the keyring busy, nor fill
// the memory.
func TestUnknownKeysAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		now, most := 0, 0
		c := newKeyCache(keyringStub{watch: tellAll(append(told("a"), ready)...), key: func(ctx context.Context, id string) (pubsub.Key, error) {
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
		runCache(t, c, &journal{})
		var strangers sync.WaitGroup
		for i := range 1000 {
			strangers.Go(func() {
				if _, err := c.value(t.Context(), fmt.Sprint("stranger", i)); !errors.Is(err, pubsub.ErrKeyNotFound) {
					t.Errorf("%d: %v", i, err)
				}
			})
		}
		strangers.Wait()
		if most > keyLookups {
			t.Errorf("%d look-ups at once", most)
		}
		for i := range 2 * negativeMax {
			c.miss(fmt.Sprint(i))
		}
		if len(c.negative) > negativeMax {
			t.Errorf("remembers %d strangers", len(c.negative))
		}
		if v, err := c.value(t.Context(), "a"); v != "value of a" || err != nil {
			t.Errorf("a: %q, %v", v, err)
		}
	})
}

// Look-ups that hang end in a failure, not in a refusal.
func TestKeyLookupHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newKeyCache(keyringStub{watch: tellAll(ready), key: func(ctx context.Context, _ string) (pubsub.Key, error) {
			<-ctx.Done()
			return pubsub.Key{}, ctx.Err()
		}}, func(string) {})
		runCache(t, c, &journal{})
		var strangers sync.WaitGroup
		began := time.Now()
		for i := range 3 * keyLookups {
			strangers.Go(func() {
				if _, err := c.value(t.Context(), fmt.Sprint(i)); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%d: %v", i, err)
				}
			})
		}
		strangers.Wait()
		if took := time.Since(began); took != keyWait {
			t.Errorf("took %v", took)
		}
	})
}

// What changed while the watch was lost is found out.
func TestWatchIsBegunAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		watches := 0
		gone := &journal{}
		c := newKeyCache(keyringStub{key: noKey, watch: func(ctx context.Context, changed func(pubsub.KeyEvent)) error {
			watches++
			switch watches {
			case 1:
				for _, ch := range append(told("a", "b"), ready) {
					changed(ch)
				}
				return errors.New("lost it")
			case 2:
				changed(told("a")[0])
				return errors.New("lost it again") // before it has told all
			default:
				return tellAll(append(told("a", "c"), ready)...)(ctx, changed)
			}
		}}, func(id string) { gone.note("%s", id) })
		heard := &journal{}
		runCache(t, c, heard)
		time.Sleep(rewatchAfter + rewatchAfter/2)
		synctest.Wait()
		if _, err := c.value(t.Context(), "b"); err != nil || len(gone.all()) > 0 {
			t.Errorf("a watch that told nothing whole has taken b away: %v, %q", err, gone.all())
		}
		time.Sleep(rewatchAfter)
		synctest.Wait()
		if _, err := c.value(t.Context(), "b"); !errors.Is(err, pubsub.ErrKeyNotFound) || !slices.Equal(gone.all(), []string{"b"}) {
			t.Errorf("b: %v, gone %q", err, gone.all())
		}
		if v, err := c.value(t.Context(), "c"); v != "value of c" || err != nil {
			t.Errorf("c: %q, %v", v, err)
		}
		if lines := heard.all(); len(lines) != 2 || lines[0] != "key watch failed: lost it" {
			t.Errorf("heard %q", lines)
		}
	})
}

// On the real keyring: a key counts as soon as it is made, and no longer than it
// is there, on every node.
func TestKeyComesAndGoes(t *testing.T) {
	n := newNode(t, nil)
	k := pubsub.Key{ID: "0123456789abcdef", Value: "v"}
	raw := sign(k, map[string]any{"sub": "x"})
	if err := n.backplane.PutKey(t.Context(), k); err != nil {
		t.Fatal(err)
	}
	if _, err := n.authenticateToken(t.Context(), raw); err != nil {
		t.Fatalf("made: %v", err)
	}
	// Another node deletes it and tells this one, which has heard of it by then.
	for patience := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
		if _, known := n.keys.cached(k.ID); known {
			break
		}
		if time.Now().After(patience) {
			t.Fatal("the watch does not tell of the key")
		}
	}
	n.Control(pubsub.ControlMessage{Kind: controlRevoke, Body: []byte(k.ID)})
	if _, err := n.authenticateToken(t.Context(), raw); err == nil || err.kind != authInvalid {
		t.Fatalf("revoked: %v", err)
	}
	if got := n.Control(pubsub.ControlMessage{Kind: "of a later release", Body: []byte("x")}); got != nil {
		t.Errorf("an unknown kind is answered: %q", got)
	}
}
