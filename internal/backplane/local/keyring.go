package local

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"pubsub"

	"github.com/cockroachdb/pebble/v2"
)

// keyring implements [pubsub.Keyring]. It also keeps all keys in memory: they are few, and
// every token needs one.
type keyring struct {
	// immutable
	engine *engine

	change chan struct{} // one slot: taken from the start of a change until it is durable

	mu       sync.Mutex
	keys     map[string]pubsub.Key // the durable ones
	bad      map[string]error      // errors of keys whose records cannot be read, by id
	watchers map[*watcher]struct{}
}

// watcher is one call of WatchKeys. It queues changes, so a slow watcher delays no other
// call and misses no change.
type watcher struct {
	changes []pubsub.KeyEvent // not yet reported; guarded by keyring.mu
	more    chan struct{}     // one slot: changes is not empty
}

func newKeyring(e *engine, keys []pubsub.Key, bad map[string]error) *keyring {
	k := &keyring{
		engine: e, change: make(chan struct{}, 1),
		keys: map[string]pubsub.Key{}, bad: bad, watchers: map[*watcher]struct{}{},
	}
	for _, key := range keys {
		k.keys[key.ID] = key
	}
	return k
}

// enter enters the engine for a call that only reads.
func (k *keyring) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return k.engine.enter()
}

// PutKey implements [pubsub.Keyring]. Keys may use most of the disk reserve.
func (k *keyring) PutKey(ctx context.Context, key pubsub.Key) error {
	if err := k.begin(ctx, int64(len(key.ID)+len(key.Value))); err != nil {
		return err
	}
	defer k.engine.leave()
	if _, ok := k.get(key.ID); ok {
		<-k.change
		return pubsub.ErrKeyExists
	}
	record := appendKey(nil, key)
	key, err := parseKey(key.ID, record) // the same value as after a restart
	if err != nil {
		<-k.change
		return err
	}
	return k.commit(pubsub.KeyEvent{Key: key}, func(b *pebble.Batch) error {
		return b.Set(append([]byte{prefixKey}, key.ID...), record, nil)
	})
}

// DeleteKey implements [pubsub.Keyring].
func (k *keyring) DeleteKey(ctx context.Context, id string) error {
	if err := k.begin(ctx, int64(len(id))); err != nil {
		return err
	}
	defer k.engine.leave()
	key, ok := k.get(id)
	if !ok {
		<-k.change
		return pubsub.ErrKeyNotFound
	}
	key.Value = ""
	return k.commit(pubsub.KeyEvent{Key: key, Deleted: true}, func(b *pebble.Batch) error {
		return b.Delete(append([]byte{prefixKey}, id...), nil)
	})
}

// begin enters the engine and acquires change, to write a record of n bytes.
func (k *keyring) begin(ctx context.Context, n int64) error {
	if err := k.enter(ctx); err != nil {
		return err
	}
	err := k.engine.disk.take(n, k.engine.disk.forKeys())
	if err == nil {
		err = k.engine.log.stalled()
	}
	if err == nil {
		select {
		case k.change <- struct{}{}:
			return nil
		case <-ctx.Done():
			err = ctx.Err()
		case <-*k.engine.log.stall.Load():
			err = errStalled
		}
	}
	k.engine.leave()
	return err
}

// commit makes a change durable, then notifies the watchers and releases change. If it
// gives up because the disk is stalled, the watchers are notified when the disk recovers.
func (k *keyring) commit(c pubsub.KeyEvent, fill func(*pebble.Batch) error) error {
	w := k.engine.log.newWrite()
	if err := fill(w.batch); err != nil {
		k.engine.log.abandon(w)
		<-k.change
		return err
	}
	done := func() {
		k.changed(c)
		<-k.change
	}
	w.late = done
	k.engine.log.commit(w, nil)
	if err := w.wait(); err != nil {
		return err
	}
	done()
	return nil
}

// changed notifies the watchers of a durable change.
func (k *keyring) changed(c pubsub.KeyEvent) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if c.Deleted {
		delete(k.keys, c.Key.ID)
		delete(k.bad, c.Key.ID)
	} else {
		k.keys[c.Key.ID] = c.Key
	}
	for w := range k.watchers {
		w.changes = append(w.changes, c)
		signal(w.more)
	}
}

// get returns the key with that id. It has no value if its record cannot be read.
func (k *keyring) get(id string) (pubsub.Key, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.bad[id] != nil {
		return pubsub.Key{ID: id}, true
	}
	key, ok := k.keys[id]
	return key, ok
}

// sorted returns the keys in byte order of their ids. The caller holds mu.
func (k *keyring) sorted() []pubsub.Key {
	list := make([]pubsub.Key, 0, len(k.keys))
	for _, id := range slices.Sorted(maps.Keys(k.keys)) {
		list = append(list, k.keys[id])
	}
	return list
}

func (k *keyring) count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.keys)
}

// Keys implements [pubsub.Keyring].
func (k *keyring) Keys(ctx context.Context) ([]pubsub.Key, error) {
	if err := k.enter(ctx); err != nil {
		return nil, err
	}
	defer k.engine.leave()
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.sorted(), nil
}

// Key implements [pubsub.Keyring].
func (k *keyring) Key(ctx context.Context, id string) (pubsub.Key, error) {
	if err := k.enter(ctx); err != nil {
		return pubsub.Key{}, err
	}
	defer k.engine.leave()
	k.mu.Lock()
	defer k.mu.Unlock()
	key, ok := k.keys[id]
	switch {
	case k.bad[id] != nil:
		return pubsub.Key{}, fmt.Errorf("signing key %q: %w", id, k.bad[id])
	case !ok:
		return pubsub.Key{}, fmt.Errorf("%w: %q", pubsub.ErrKeyNotFound, id)
	}
	return key, nil
}

// WatchKeys implements [pubsub.Keyring].
func (k *keyring) WatchKeys(ctx context.Context, changed func(pubsub.KeyEvent)) error {
	if err := k.engine.enter(); err != nil {
		return err
	}
	k.engine.leave()
	w := &watcher{more: make(chan struct{}, 1)}
	k.mu.Lock()
	for _, key := range k.sorted() {
		w.changes = append(w.changes, pubsub.KeyEvent{Key: key})
	}
	w.changes = append(w.changes, pubsub.KeyEvent{Synced: true})
	w.more <- struct{}{}
	k.watchers[w] = struct{}{}
	k.mu.Unlock()
	defer func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.watchers, w)
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-k.engine.closed:
			return pubsub.ErrClosed
		case <-w.more:
		}
		k.mu.Lock()
		changes := w.changes
		w.changes = nil
		k.mu.Unlock()
		for _, c := range changes {
			if ctx.Err() != nil {
				return nil
			}
			changed(c)
		}
	}
}
