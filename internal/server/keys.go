package server

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"pubsub"
)

const (
	// keyWait bounds how long a request waits for a signing key.
	keyWait = 5 * time.Second
	// keyLookups is how many ids that the cache does not know are looked up at
	// once: strangers can make up any number of them.
	keyLookups = 4
	// absentFor is how long an id stays refused without a look-up, and absentMax
	// how many of them are remembered.
	absentFor = 5 * time.Second
	absentMax = 4096
	// maxKeyID is the length of the longest id that is looked up, in bytes.
	maxKeyID = 128
	// rewatchAfter is the pause before a lost watch is begun again.
	rewatchAfter = time.Second
)

// keyCache knows all signing keys: it is told of them by the keyring, and asks it
// for an id that it has not been told of.
type keyCache struct {
	// immutable
	ring    pubsub.Keyring
	deleted func(id string) // called for each id that is no key any more
	lookups chan struct{}   // holds a token for each look-up under way
	ready   chan struct{}   // closed by the watch when the first keys are all told

	// guarded by mu
	mu     sync.RWMutex
	keys   map[string]string    // id to value
	gone   map[string]struct{}  // ids that were keys and are no more
	absent map[string]time.Time // ids that the keyring did not know, and until when that is believed
}

func newKeyCache(ring pubsub.Keyring, deleted func(id string)) *keyCache {
	return &keyCache{
		ring:    ring,
		deleted: deleted,
		lookups: make(chan struct{}, keyLookups),
		ready:   make(chan struct{}),
		keys:    make(map[string]string),
		gone:    make(map[string]struct{}),
		absent:  make(map[string]time.Time),
	}
}

// value returns the secret of the key id. Its error is [pubsub.ErrKeyNotFound],
// or says why that cannot be told now.
func (c *keyCache) value(ctx context.Context, id string) (string, error) {
	if v, known := c.cached(id); known {
		return v, found(v)
	}
	if len(id) > maxKeyID {
		return "", pubsub.ErrKeyNotFound
	}
	ctx, cancel := context.WithTimeout(ctx, keyWait)
	defer cancel()
	select {
	case <-c.ready:
	case <-ctx.Done():
		return "", fmt.Errorf("signing keys are not known yet: %w", ctx.Err())
	}
	select {
	case c.lookups <- struct{}{}:
		defer func() { <-c.lookups }()
	case <-ctx.Done():
		return "", fmt.Errorf("too many unknown key ids are being looked up: %w", ctx.Err())
	}
	if v, known := c.cached(id); known { // while waiting
		return v, found(v)
	}
	k, err := c.ring.Key(ctx, id)
	if err == nil {
		err = found(k.Value)
	}
	if errors.Is(err, pubsub.ErrKeyNotFound) {
		c.miss(id)
	}
	// What was found is not kept: only the watch knows the order of changes.
	return k.Value, err
}

// found is the error of a look-up that came to value. Everybody could sign with
// an empty one.
func found(value string) error {
	if value == "" {
		return pubsub.ErrKeyNotFound
	}
	return nil
}

// isReady reports whether all keys are known.
func (c *keyCache) isReady() bool {
	select {
	case <-c.ready:
		return true
	default:
		return false
	}
}

// cached returns what is known of id: its value, or none if it is no key.
func (c *keyCache) cached(id string) (value string, known bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if v, ok := c.keys[id]; ok {
		return v, true
	}
	if _, ok := c.gone[id]; ok {
		return "", true
	}
	until, ok := c.absent[id]
	return "", ok && time.Now().Before(until)
}

func (c *keyCache) miss(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.absent) >= absentMax {
		clear(c.absent)
	}
	c.absent[id] = time.Now().Add(absentFor)
}

// isGone reports whether id was deleted. Who has registered a stream or session
// asks once more: the key may have gone between the check of the token and then.
func (c *keyCache) isGone(id string) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	_, ok := c.gone[id]
	return ok
}

func (c *keyCache) add(k pubsub.Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keys[k.ID] = k.Value
	delete(c.gone, k.ID)
	delete(c.absent, k.ID)
}

// revoke makes id no key, then ends what it admitted.
func (c *keyCache) revoke(id string) {
	c.mu.Lock()
	delete(c.keys, id)
	delete(c.absent, id)
	c.gone[id] = struct{}{}
	c.mu.Unlock()
	c.deleted(id)
}

// run is told of the keys until ctx is done.
func (c *keyCache) run(ctx context.Context, failed func(event string, err error)) {
	for {
		err := c.watch(ctx)
		if ctx.Err() != nil {
			return
		}
		failed("key watch failed", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(rewatchAfter):
		}
	}
}

// watch is one watch of the keyring. Keys that were known before, and that the
// watch does not tell of, were deleted in between.
func (c *keyCache) watch(ctx context.Context) error {
	told := make(map[string]struct{}) // nil once ready
	return c.ring.WatchKeys(ctx, func(ch pubsub.KeyEvent) {
		switch {
		case ch.Synced:
			for _, id := range c.except(told) {
				c.revoke(id)
			}
			told = nil
			if !c.isReady() { // a watch that was begun again is ready again
				close(c.ready)
			}
		case ch.Deleted:
			delete(told, ch.Key.ID)
			c.revoke(ch.Key.ID)
		default:
			if told != nil {
				told[ch.Key.ID] = struct{}{}
			}
			c.add(ch.Key)
		}
	})
}

// except returns the ids of the keys that are not in told.
func (c *keyCache) except(told map[string]struct{}) (ids []string) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for id := range c.keys {
		if _, ok := told[id]; !ok {
			ids = append(ids, id)
		}
	}
	return ids
}
