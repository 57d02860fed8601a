package nats

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"pubsub"

	"github.com/nats-io/nats.go/jetstream"
)

// keyring is the pubsub.Keyring, in a key-value bucket.
type keyring struct {
	// immutable
	link *link
}

// call runs f within the bound of a call, with the bucket.
func (k *keyring) call(ctx context.Context, f func(ctx context.Context, kv jetstream.KeyValue) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	l := k.link
	bounded, cancel := l.bound(ctx)
	defer cancel()
	for {
		err := l.await(bounded)
		if err == nil {
			err = k.attempt(bounded, f)
		}
		if err == nil || !passing(err) || !pause(bounded, 50*time.Millisecond) {
			return l.failure(ctx, err)
		}
	}
}

// attempt runs f once. While the bucket has no leader nobody answers, so it does
// not take all the time there is.
func (k *keyring) attempt(ctx context.Context, f func(ctx context.Context, kv jetstream.KeyValue) error) error {
	ctx, cancel := k.link.request(ctx, readTimeout)
	defer cancel()
	kv, err := k.link.js.KeyValue(ctx, k.link.names.bucket())
	if err != nil {
		return err
	}
	return f(ctx, kv)
}

// PutKey implements [pubsub.Keyring].
func (k *keyring) PutKey(ctx context.Context, key pubsub.Key) error {
	value := appendKey(nil, key)
	again := false
	return k.call(ctx, func(ctx context.Context, kv jetstream.KeyValue) error {
		_, err := kv.Create(ctx, encode(key.ID), value)
		if errors.Is(err, jetstream.ErrKeyExists) {
			if again { // it may be what was put the first time
				if r, _, err := k.read(ctx, key.ID); err == nil && r != nil && string(r.data) == string(value) {
					return nil
				}
			}
			return pubsub.ErrKeyExists
		}
		again = true
		return err
	})
}

// read reads the record of a key at the bucket's leader; nil if there is none.
func (k *keyring) read(ctx context.Context, id string) (*record, pubsub.Key, error) {
	n := k.link.names
	r, err := k.link.readAtLeader(ctx, n.keysStream(), "$KV."+n.bucket()+"."+encode(id))
	if err != nil || r == nil || r.header.Get("KV-Operation") != "" {
		return nil, pubsub.Key{}, err
	}
	key, err := parseKey(id, r.data)
	return r, key, err
}

// Key implements [pubsub.Keyring].
func (k *keyring) Key(ctx context.Context, id string) (key pubsub.Key, err error) {
	err = k.call(ctx, func(ctx context.Context, _ jetstream.KeyValue) error {
		r, found, err := k.read(ctx, id)
		if err == nil && r == nil {
			return fmt.Errorf("%w: %q", pubsub.ErrKeyNotFound, id)
		}
		key = found
		return err
	})
	return key, err
}

// Keys implements [pubsub.Keyring].
func (k *keyring) Keys(ctx context.Context) (keys []pubsub.Key, err error) {
	err = k.call(ctx, func(ctx context.Context, _ jetstream.KeyValue) error {
		keys, err = k.list(ctx)
		return err
	})
	return keys, err
}

func (k *keyring) list(ctx context.Context) ([]pubsub.Key, error) {
	l := k.link
	prefix := "$KV." + l.names.bucket() + "."
	info, err := l.infoOf(ctx, l.names.keysStream(), jetstream.WithSubjectFilter(prefix+">"))
	if err != nil {
		return nil, err
	}
	var subjects []string
	for s := range info.State.Subjects {
		subjects = append(subjects, s)
	}
	keys := []pubsub.Key{}
	for part := range slices.Chunk(subjects, maxBatch) {
		found, _, err := l.readLast(ctx, l.names.keysStream(), part, info.State.LastSeq)
		if err != nil {
			return nil, err
		}
		for subject, r := range found {
			id, ok := decode(strings.TrimPrefix(subject, prefix))
			if !ok || r.header.Get("KV-Operation") != "" {
				continue // deleted, or none of ours
			}
			key, err := parseKey(id, r.data)
			if err != nil {
				return nil, err
			}
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, func(a, b pubsub.Key) int { return strings.Compare(a.ID, b.ID) })
	return keys, nil
}

// DeleteKey implements [pubsub.Keyring]. Of the key nothing is left but its id.
func (k *keyring) DeleteKey(ctx context.Context, id string) error {
	again := false
	return k.call(ctx, func(ctx context.Context, kv jetstream.KeyValue) error {
		for {
			r, _, err := k.read(ctx, id)
			switch {
			case err != nil:
				return err
			case r == nil && again: // it was deleted the first time
				return nil
			case r == nil:
				return pubsub.ErrKeyNotFound
			}
			err = kv.Purge(ctx, encode(id), jetstream.LastRevision(r.seq))
			if isWrongSequence(err) || errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
				continue // it has just been changed
			}
			again = true
			return err
		}
	})
}

// WatchKeys implements [pubsub.Keyring]. After a lost connection, and when it has
// noticed that it is behind, it looks at all keys again, and tells what has changed
// meanwhile.
func (k *keyring) WatchKeys(ctx context.Context, changed func(pubsub.KeyChange)) error {
	l := k.link
	if l.life.Err() != nil {
		return pubsub.ErrClosed
	}
	w := keyWatch{link: l, known: map[string]string{}, changed: changed, connected: make(chan struct{}, 1)}
	defer l.watchConnections(w.connected)()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.life, cancel)()
	for {
		err := w.once(ctx)
		switch {
		case l.life.Err() != nil:
			return pubsub.ErrClosed
		case ctx.Err() != nil:
			return nil
		case err != nil && !passing(err):
			return err
		}
		pause(ctx, 100*time.Millisecond)
	}
}

// keyWatch is one WatchKeys; it is owned by its goroutine.
type keyWatch struct {
	link      *link
	known     map[string]string // the values that were told, by id
	ready     bool              // Ready has been told
	changed   func(pubsub.KeyChange)
	connected chan struct{} // told of each new connection
}

// once watches until ctx is done or the watch may have missed something.
func (w *keyWatch) once(ctx context.Context) error {
	l := w.link
	if err := l.await(ctx); err != nil {
		return err
	}
	unkick(w.connected) // by this one
	kv, err := l.js.KeyValue(ctx, l.names.bucket())
	if err != nil {
		return err
	}
	watcher, err := kv.WatchAll(ctx)
	if err != nil {
		return err
	}
	defer watcher.Stop()
	check := time.NewTicker(l.o.SyncInterval)
	defer check.Stop()
	listed := map[string]struct{}{} // nil once the keys that there were have been told
	var seen uint64
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.connected:
			return nil
		case <-check.C:
			info, err := l.infoOf(ctx, l.names.keysStream())
			if err != nil {
				return err
			}
			if info.State.LastSeq > seen && len(watcher.Updates()) == 0 {
				return nil // it is behind; or it has just been told, which costs little
			}
		case e, ok := <-watcher.Updates():
			switch {
			case !ok:
				return nil
			case e == nil:
				for id := range w.known {
					if _, ok := listed[id]; !ok {
						w.gone(id)
					}
				}
				listed = nil
				if !w.ready {
					w.ready = true
					w.changed(pubsub.KeyChange{Ready: true})
				}
			default:
				seen = max(seen, e.Revision())
				if err := w.entry(e, listed); err != nil {
					l.report(err)
				}
			}
		}
	}
}

// entry takes what the bucket has to say of a key.
func (w *keyWatch) entry(e jetstream.KeyValueEntry, listed map[string]struct{}) error {
	id, ok := decode(e.Key())
	if !ok {
		return fmt.Errorf("the bucket of signing keys holds an entry that is %w", ErrNoRecord)
	}
	if e.Operation() != jetstream.KeyValuePut {
		delete(listed, id)
		// A key that is deleted soon after it was made, or while the watch was cut
		// off, is perhaps never told: the bucket keeps only the end. Somebody may have
		// looked it up all the same. A deletion may so be told twice.
		if _, known := w.known[id]; known || w.ready {
			w.gone(id)
		}
		return nil
	}
	if listed != nil {
		listed[id] = struct{}{}
	}
	key, err := parseKey(id, e.Value())
	if err != nil {
		return err
	}
	if value, known := w.known[id]; !known || value != string(e.Value()) {
		if known { // a key has one value: this is another one, and the deletion between is gone
			w.gone(id)
		}
		w.known[id] = string(e.Value())
		w.changed(pubsub.KeyChange{Key: key})
	}
	return nil
}

func (w *keyWatch) gone(id string) {
	delete(w.known, id)
	w.changed(pubsub.KeyChange{Key: pubsub.Key{ID: id}, Deleted: true})
}
