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
	// keyLookups is how many ids that are not in the cache are looked up at once. It is
	// small, because anyone can make up ids.
	keyLookups = 4
	// negativeFor is how long an unknown id is refused without another look-up, and
	// negativeMax how many of them the cache holds.
	negativeFor = 5 * time.Second
	negativeMax = 4096
	// maxKeyID is the length of the longest id that is looked up, in bytes.
	maxKeyID = 128
	// rewatchAfter is the pause before a failed watch is started again.
	rewatchAfter = time.Second
)

// keyCache holds all signing keys. A watch of the keyring reports them; an id that the
// watch has not reported is looked up.
type keyCache struct {
	// immutable
	ring    pubsub.Keyring
	deleted func(id string) // called for each key that is deleted
	lookups chan struct{}   // holds a token for each look-up under way
	ready   chan struct{}   // closed when the watch has reported all keys that existed at its start

	// guarded by mu
	mu       sync.RWMutex
	keys     map[string]string    // id to value
	revoked  map[string]struct{}  // ids of deleted keys
	negative map[string]time.Time // ids that the keyring did not have, and when that expires
}

func newKeyCache(ring pubsub.Keyring, deleted func(id string)) *keyCache {
	return &keyCache{
		ring:     ring,
		deleted:  deleted,
		lookups:  make(chan struct{}, keyLookups),
		ready:    make(chan struct{}),
		keys:     make(map[string]string),
		revoked:  make(map[string]struct{}),
		negative: make(map[string]time.Time),
	}
}

// value returns the secret of the key id. The error is [pubsub.ErrKeyNotFound], or says why
// the key cannot be looked up now.
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
	// The key is not added to the cache: only the watch knows the order of changes.
	return k.Value, err
}

// found returns the error of a look-up that returned value. An empty value counts as no
// key, because anyone could sign with it.
func found(value string) error {
	if value == "" {
		return pubsub.ErrKeyNotFound
	}
	return nil
}

// isReady reports whether the watch has reported all keys.
func (c *keyCache) isReady() bool {
	select {
	case <-c.ready:
		return true
	default:
		return false
	}
}

// cached returns the value of the key id, which is empty if there is no such key, and
// whether the cache knows that.
func (c *keyCache) cached(id string) (value string, known bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if v, ok := c.keys[id]; ok {
		return v, true
	}
	if _, ok := c.revoked[id]; ok {
		return "", true
	}
	until, ok := c.negative[id]
	return "", ok && time.Now().Before(until)
}

func (c *keyCache) miss(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.negative) >= negativeMax {
		clear(c.negative)
	}
	c.negative[id] = time.Now().Add(negativeFor)
}

// isRevoked reports whether the key id was deleted. It must be called again after a stream
// or session is registered, because the key may have been deleted since the token was
// checked.
func (c *keyCache) isRevoked(id string) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	_, ok := c.revoked[id]
	return ok
}

func (c *keyCache) add(k pubsub.Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keys[k.ID] = k.Value
	delete(c.revoked, k.ID)
	delete(c.negative, k.ID)
}

// revoke removes the key id, then ends the connections that it admitted.
func (c *keyCache) revoke(id string) {
	c.mu.Lock()
	delete(c.keys, id)
	delete(c.negative, id)
	c.revoked[id] = struct{}{}
	c.mu.Unlock()
	c.deleted(id)
}

// run watches the keyring until ctx is done.
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

// watch runs one watch of the keyring. Keys in the cache that the watch does not report
// were deleted since the watch before.
func (c *keyCache) watch(ctx context.Context) error {
	reported := make(map[string]struct{}) // nil once all keys have been reported
	return c.ring.WatchKeys(ctx, func(ch pubsub.KeyEvent) {
		switch {
		case ch.Synced:
			for _, id := range c.except(reported) {
				c.revoke(id)
			}
			reported = nil
			if !c.isReady() { // a later watch becomes ready again
				close(c.ready)
			}
		case ch.Deleted:
			delete(reported, ch.Key.ID)
			c.revoke(ch.Key.ID)
		default:
			if reported != nil {
				reported[ch.Key.ID] = struct{}{}
			}
			c.add(ch.Key)
		}
	})
}

// except returns the ids of the cached keys that are not in ids.
func (c *keyCache) except(ids map[string]struct{}) (others []string) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for id := range c.keys {
		if _, ok := ids[id]; !ok {
			others = append(others, id)
		}
	}
	return others
}
