package nats

import (
	"context"
	"errors"
	"fmt"
	"maps"
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
		if err := l.awaitStream(bounded, l.names.keysStream()); err != nil {
			return l.failure(ctx, err)
		}
		err := k.attempt(bounded, f)
		if errors.Is(err, jetstream.ErrBucketNotFound) {
			l.doubt()
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
				if r, err := k.read(ctx, key.ID); err == nil && r != nil && string(r.data) == string(value) {
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
func (k *keyring) read(ctx context.Context, id string) (*record, error) {
	n := k.link.names
	r, err := k.link.readAtLeader(ctx, n.keysStream(), "$KV."+n.bucket()+"."+encode(id))
	switch {
	case err != nil:
		return nil, err
	case r == nil:
		info, err := k.link.infoOf(ctx, n.keysStream())
		if err == nil && !isLed(info.Cluster) {
			err = errDeposed // it may not know of the key
		}
		return nil, err
	case isDeletion(r):
		return nil, nil
	}
	return r, nil
}

// isDeletion reports whether r, of the bucket, says that the key is gone.
func isDeletion(r *record) bool { return r.header.Get("KV-Operation") != "" }

// Key implements [pubsub.Keyring].
func (k *keyring) Key(ctx context.Context, id string) (key pubsub.Key, err error) {
	err = k.call(ctx, func(ctx context.Context, _ jetstream.KeyValue) error {
		r, err := k.read(ctx, id)
		switch {
		case err != nil:
			return err
		case r == nil:
			return fmt.Errorf("%w: %q", pubsub.ErrKeyNotFound, id)
		}
		if key, err = parseKey(id, r.data); err != nil {
			k.link.unreadable("key", id, r.seq, err)
		}
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
	all, _, err := k.all(ctx)
	if err != nil {
		return nil, err
	}
	keys := []pubsub.Key{}
	for id, r := range all {
		if isDeletion(&r) {
			continue
		}
		key, err := parseKey(id, r.data)
		if err != nil {
			k.link.unreadable("key", id, r.seq, err)
			continue
		}
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b pubsub.Key) int { return strings.Compare(a.ID, b.ID) })
	return keys, nil
}

// all reads what the bucket has of each key that there is or was, by its id, as new
// as revision upTo at least, which is as new as what was acknowledged before.
func (k *keyring) all(ctx context.Context) (records map[string]record, upTo uint64, err error) {
	l := k.link
	prefix := "$KV." + l.names.bucket() + "."
	info, err := l.infoOf(ctx, l.names.keysStream(), jetstream.WithSubjectFilter(prefix+">"))
	if err != nil {
		return nil, 0, err
	}
	if !isLed(info.Cluster) {
		return nil, 0, errDeposed
	}
	subjects := slices.Collect(maps.Keys(info.State.Subjects))
	records = make(map[string]record, len(subjects))
	for part := range slices.Chunk(subjects, maxBatch) {
		found, _, err := l.readLast(ctx, l.names.keysStream(), part, info.State.LastSeq)
		if err != nil {
			return nil, 0, err
		}
		for subject, r := range found {
			name := strings.TrimPrefix(subject, prefix)
			if id, ok := decode(name); ok {
				records[id] = r
			} else {
				l.unreadable("key", name, r.seq, ErrNoRecord)
			}
		}
	}
	return records, info.State.LastSeq, nil
}

// DeleteKey implements [pubsub.Keyring]. Of the key nothing is left but its id.
func (k *keyring) DeleteKey(ctx context.Context, id string) error {
	again := false
	return k.call(ctx, func(ctx context.Context, kv jetstream.KeyValue) error {
		for {
			r, err := k.read(ctx, id)
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
func (k *keyring) WatchKeys(ctx context.Context, changed func(pubsub.KeyEvent)) error {
	l := k.link
	if l.life.Err() != nil {
		return pubsub.ErrClosed
	}
	w := keyWatch{keyring: k, known: map[string]string{}, changed: changed, again: make(chan struct{}, 1)}
	defer l.connections.add(w.again)()
	defer l.keysChanged.add(w.again)()
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
//
// All keys are read first, as new as what was acknowledged before, and only what is
// newer is taken from the library's watch. That may read a replica that has not caught
// up: believed in what there is, it would have keys be gone that are there, and all
// that they have admitted be ended, or keys be there that are gone.
type keyWatch struct {
	*keyring
	known   map[string]string // the values that the watcher received, by id
	ready   bool              // Ready has been reported
	changed func(pubsub.KeyEvent)
	again   chan struct{} // notified of each new connection, and when the bucket may be another

	at         map[string]uint64 // the revision that was told last, by id
	upTo, seen uint64            // how far the bucket had come when all was read, and has come since
}

// once watches until ctx is done or the watch may have missed something.
func (w *keyWatch) once(ctx context.Context) error {
	l := w.link
	if err := l.await(ctx); err != nil {
		return err
	}
	unkick(w.again) // by this one
	if l.fault(l.names.keysStream()) != nil {
		// The watcher keeps its keys, because the loss of the bucket says nothing about
		// them.
		select {
		case <-w.again:
		case <-ctx.Done():
		}
		return nil
	}
	kv, err := l.js.KeyValue(ctx, l.names.bucket())
	if err != nil {
		l.doubt()
		return err
	}
	if err := w.readAll(ctx); err != nil {
		return err
	}
	watcher, err := kv.WatchAll(ctx, jetstream.IncludeHistory(), jetstream.ResumeFromRevision(w.upTo+1))
	if err != nil {
		return err
	}
	defer watcher.Stop()
	check := time.NewTicker(min(l.o.SyncInterval, l.o.lookEvery))
	defer check.Stop()
	var last uint64 // the bucket's last sequence number at the last check
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.again:
			return nil
		case <-check.C:
			info, err := l.infoOf(ctx, l.names.keysStream())
			switch {
			case err != nil && !passing(err):
				return err
			case err != nil:
				continue
			case last > w.seen && len(watcher.Updates()) == 0:
				return nil // the watch is behind: the library may have lost its consumer
			}
			last = info.State.LastSeq
		case e, ok := <-watcher.Updates():
			if !ok {
				return nil
			}
			if e == nil {
				continue // the library says that there is no more for now
			}
			if w.update(e) {
				return nil
			}
		}
	}
}

// readAll takes what the bucket has.
func (w *keyWatch) readAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, w.link.o.Wait)
	defer cancel()
	records, upTo, err := w.all(ctx)
	if err != nil {
		return err
	}
	for id := range w.known {
		if _, ok := records[id]; !ok {
			w.gone(id)
		}
	}
	w.upTo, w.seen, w.at = upTo, upTo, make(map[string]uint64, len(records))
	for id, r := range records {
		w.take(id, r.seq, r.data, isDeletion(&r))
	}
	if !w.ready {
		w.ready = true
		w.changed(pubsub.KeyEvent{Synced: true})
	}
	return nil
}

// update takes what is news of a key. It is true if the bucket is another, or
// restored: it says something of long ago that it did not have.
func (w *keyWatch) update(e jetstream.KeyValueEntry) (another bool) {
	id, ok := decode(e.Key())
	revision := e.Revision()
	w.seen = max(w.seen, revision)
	switch {
	case !ok:
		w.link.unreadable("key", e.Key(), revision, ErrNoRecord)
		return false
	case revision <= w.at[id]:
		return false
	case revision <= w.upTo:
		return true
	}
	w.take(id, revision, e.Value(), e.Operation() != jetstream.KeyValuePut)
	return false
}

// take applies a revision of a key. A revision that cannot be read leaves the key
// unchanged.
func (w *keyWatch) take(id string, revision uint64, value []byte, deleted bool) {
	w.at[id] = revision
	was, known := w.known[id]
	if deleted {
		// A key that is deleted soon after it was made, or while the watch was cut
		// off, is perhaps never told: the bucket keeps only the end. Somebody may have
		// looked it up all the same. A deletion may so be told twice.
		if known || w.ready {
			w.gone(id)
		}
		return
	}
	key, err := parseKey(id, value)
	if err != nil {
		w.link.unreadable("key", id, revision, err)
		return
	}
	if !known || was != string(value) {
		if known { // a key has one value: this is another one, and the deletion between is gone
			w.gone(id)
		}
		w.known[id] = string(value)
		w.changed(pubsub.KeyEvent{Key: key})
	}
}

func (w *keyWatch) gone(id string) {
	delete(w.known, id)
	w.changed(pubsub.KeyEvent{Key: pubsub.Key{ID: id}, Deleted: true})
}
