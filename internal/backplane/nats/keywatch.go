package nats

import (
	"context"
	"time"

	"pubsub"
	"pubsub/internal/backplane/nats/layout"

	"github.com/nats-io/nats.go/jetstream"
)

// WatchKeys implements [pubsub.Keyring]. After each new connection, and when it has noticed that
// it is behind, it reads all keys again and reports what has changed meanwhile.
func (k *keyring) WatchKeys(ctx context.Context, changed func(pubsub.KeyEvent)) error {
	c := k.client
	if c.life.Err() != nil {
		return pubsub.ErrClosed
	}
	w := keyWatch{keyring: k, known: map[string]string{}, changed: changed, restart: make(chan struct{}, 1)}
	defer c.connections.add(w.restart)()
	defer k.replaced.add(w.restart)()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.life, cancel)()
	for {
		err := w.watch(ctx)
		switch {
		case c.life.Err() != nil:
			return pubsub.ErrClosed
		case ctx.Err() != nil:
			return nil
		case err != nil && !isTransient(err):
			return err
		}
		sleep(ctx, 100*time.Millisecond)
	}
}

// keyWatch is one call of WatchKeys, owned by its goroutine.
//
// It first reads all keys, with everything that was acknowledged before, and takes only newer
// revisions from the library's watch. That watch may read a replica that has not caught up, so
// its initial values could lack existing keys, whose connections would then be closed, and
// contain deleted ones.
type keyWatch struct {
	*keyring
	known   map[string]string // the values that changed has received, by id
	synced  bool              // KeyEvent.Synced has been reported
	changed func(pubsub.KeyEvent)
	restart chan struct{} // notified of each new connection, and when the bucket may be replaced

	revisions  map[string]uint64 // the last revision that was applied, by id
	upTo, seen uint64            // the position of the bucket when all keys were read, and now
}

// watch watches until ctx is done or the watch may have missed a change.
func (w *keyWatch) watch(ctx context.Context) error {
	c := w.client
	if err := c.await(ctx); err != nil {
		return err
	}
	drain(w.restart)
	if c.faults.of(c.names.KeyStream()) != nil {
		// The node keeps its keys, because the loss of the bucket says nothing about them.
		select {
		case <-w.restart:
		case <-ctx.Done():
		}
		return nil
	}
	kv, err := c.js.KeyValue(ctx, c.names.KeyBucket())
	if err != nil {
		c.faults.suspect()
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
	check := time.NewTicker(min(c.o.SyncInterval, c.o.checkInterval))
	defer check.Stop()
	var last uint64 // the position of the bucket at the last check
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.restart:
			return nil
		case <-check.C:
			info, err := c.streamInfo(ctx, c.names.KeyStream())
			switch {
			case err != nil && !isTransient(err):
				return err
			case err != nil:
				continue
			case last > w.seen && len(watcher.Updates()) == 0:
				return nil // the library may have lost its consumer
			}
			last = info.State.LastSeq
		case e, ok := <-watcher.Updates():
			if !ok {
				return nil
			}
			if e == nil {
				continue // the end of the initial values
			}
			if w.update(e) {
				return nil
			}
		}
	}
}

// readAll applies the last revision of every key in the bucket.
func (w *keyWatch) readAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, w.client.o.Wait)
	defer cancel()
	records, upTo, err := w.keyring.readAll(ctx)
	if err != nil {
		return err
	}
	for id := range w.known {
		if _, ok := records[id]; !ok {
			w.revoke(id)
		}
	}
	w.upTo, w.seen, w.revisions = upTo, upTo, make(map[string]uint64, len(records))
	for id, r := range records {
		w.apply(id, r.seq, r.data, isDeletion(&r))
	}
	if !w.synced {
		w.synced = true
		w.changed(pubsub.KeyEvent{Synced: true})
	}
	return nil
}

// update applies an update of the library's watch if it is new. It reports whether the bucket has
// been replaced or restored: the update is an old revision that the bucket did not contain.
func (w *keyWatch) update(e jetstream.KeyValueEntry) (replaced bool) {
	id, ok := layout.Decode(e.Key())
	revision := e.Revision()
	w.seen = max(w.seen, revision)
	switch {
	case !ok:
		w.client.unreadable.report("key", e.Key(), revision, layout.ErrForeign)
		return false
	case revision <= w.revisions[id]:
		return false
	case revision <= w.upTo:
		return true
	}
	w.apply(id, revision, e.Value(), e.Operation() != jetstream.KeyValuePut)
	return false
}

// apply applies a revision of a key. An unreadable revision leaves the key unchanged.
func (w *keyWatch) apply(id string, revision uint64, value []byte, deleted bool) {
	w.revisions[id] = revision
	before, known := w.known[id]
	if deleted {
		// This watch may never have seen a key that was deleted soon after it was made, or while
		// there was no connection, but the node may have looked it up. So the deletion of an
		// unknown key is reported, too, and may be reported twice.
		if known || w.synced {
			w.revoke(id)
		}
		return
	}
	key, err := layout.ParseKey(id, value)
	if err != nil {
		w.client.unreadable.report("key", id, revision, err)
		return
	}
	if !known || before != string(value) {
		if known { // the value of a key never changes, so this is a new key, made after a deletion
			w.revoke(id)
		}
		w.known[id] = string(value)
		w.changed(pubsub.KeyEvent{Key: key})
	}
}

func (w *keyWatch) revoke(id string) {
	delete(w.known, id)
	w.changed(pubsub.KeyEvent{Key: pubsub.Key{ID: id}, Deleted: true})
}
