package local

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"pubsub"
)

// keyring is the pubsub.Keyring. All keys are also in memory: there are few, and
// every token needs one.
type keyring struct {
	// immutable
	engine *engine

	change sync.Mutex // held while a key is changed, until that is durable

	mu       sync.Mutex
	keys     map[string]pubsub.Key // what is durable
	bad      map[string]error      // why the record of a key cannot be read, by id
	watchers map[*watcher]struct{}
}

// watcher is one WatchKeys. What it has not been told yet waits here: a watcher
// that is slow holds nobody up and misses nothing.
type watcher struct {
	changes []pubsub.KeyChange // guarded by keyring.mu
	more    chan struct{}      // one slot: changes is not empty
}

func newKeyring(e *engine, keys []pubsub.Key, bad map[string]error) *keyring {
	k := &keyring{engine: e, keys: map[string]pubsub.Key{}, bad: bad, watchers: map[*watcher]struct{}{}}
	for _, key := range keys {
		k.keys[key.ID] = key
	}
	return k
}

// enter lets a call in that neither waits nor writes.
func (k *keyring) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return k.engine.enter()
}

// PutKey implements [pubsub.Keyring]. Keys may use the disk reserve.
func (k *keyring) PutKey(ctx context.Context, key pubsub.Key) error {
	if err := k.enter(ctx); err != nil {
		return err
	}
	defer k.engine.leave()
	k.change.Lock()
	defer k.change.Unlock()
	if _, ok := k.get(key.ID); ok {
		return pubsub.ErrKeyExists
	}
	record := appendKey(nil, key)
	key, err := parseKey(key.ID, record) // as it is after a restart
	if err != nil {
		return err
	}
	w := k.engine.log.newWrite()
	if err := w.batch.Set(append([]byte{prefixKey}, key.ID...), record, nil); err != nil {
		return err
	}
	return k.commit(w, pubsub.KeyChange{Key: key})
}

// DeleteKey implements [pubsub.Keyring].
func (k *keyring) DeleteKey(ctx context.Context, id string) error {
	if err := k.enter(ctx); err != nil {
		return err
	}
	defer k.engine.leave()
	k.change.Lock()
	defer k.change.Unlock()
	key, ok := k.get(id)
	if !ok {
		return pubsub.ErrKeyNotFound
	}
	w := k.engine.log.newWrite()
	if err := w.batch.Delete(append([]byte{prefixKey}, id...), nil); err != nil {
		return err
	}
	key.Value = ""
	return k.commit(w, pubsub.KeyChange{Key: key, Deleted: true})
}

// commit makes a change durable, and then known.
func (k *keyring) commit(w *write, c pubsub.KeyChange) error {
	k.engine.log.commit(w, nil)
	if err := w.wait(); err != nil {
		return err
	}
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
		select {
		case w.more <- struct{}{}:
		default:
		}
	}
	return nil
}

// get returns the key id, or just its id if its record cannot be read.
func (k *keyring) get(id string) (pubsub.Key, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.bad[id] != nil {
		return pubsub.Key{ID: id}, true
	}
	key, ok := k.keys[id]
	return key, ok
}

// sorted returns the keys in byte order of their ids. mu is held.
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
func (k *keyring) WatchKeys(ctx context.Context, changed func(pubsub.KeyChange)) error {
	if err := k.engine.enter(); err != nil {
		return err
	}
	k.engine.leave()
	w := &watcher{more: make(chan struct{}, 1)}
	k.mu.Lock()
	for _, key := range k.sorted() {
		w.changes = append(w.changes, pubsub.KeyChange{Key: key})
	}
	w.changes = append(w.changes, pubsub.KeyChange{Ready: true})
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
