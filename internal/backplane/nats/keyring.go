package nats

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"pubsub"
	"pubsub/internal/backplane/nats/layout"

	"github.com/nats-io/nats.go/jetstream"
)

// keyring is the [pubsub.Keyring], in a key-value bucket.
type keyring struct {
	// immutable
	client   *client
	replaced *listeners // notified when all keys must be read again
}

// call calls f with the bucket, within the bound of a call, again after each transient error.
func (k *keyring) call(ctx context.Context, f func(ctx context.Context, kv jetstream.KeyValue) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c := k.client
	bounded, cancel := c.bound(ctx)
	defer cancel()
	for {
		if err := c.awaitStream(bounded, c.names.KeyStream()); err != nil {
			return c.callError(ctx, err)
		}
		err := k.attempt(bounded, f)
		if errors.Is(err, jetstream.ErrBucketNotFound) {
			c.faults.suspect()
		}
		if err == nil || !isTransient(err) || !sleep(bounded, pollInterval) {
			return c.callError(ctx, err)
		}
	}
}

// attempt calls f once, with a bound of its own, because a bucket without a leader does not
// answer.
func (k *keyring) attempt(ctx context.Context, f func(ctx context.Context, kv jetstream.KeyValue) error) error {
	ctx, cancel := k.client.request(ctx, readTimeout)
	defer cancel()
	kv, err := k.client.js.KeyValue(ctx, k.client.names.KeyBucket())
	if err != nil {
		return err
	}
	return f(ctx, kv)
}

// PutKey implements [pubsub.Keyring].
func (k *keyring) PutKey(ctx context.Context, key pubsub.Key) error {
	value := layout.AppendKey(nil, key)
	repeated := false
	return k.call(ctx, func(ctx context.Context, kv jetstream.KeyValue) error {
		_, err := kv.Create(ctx, layout.Encode(key.ID), value)
		if errors.Is(err, jetstream.ErrKeyExists) {
			if repeated { // an earlier attempt may have stored it
				r, err := k.read(ctx, key.ID)
				if err != nil || r != nil && string(r.data) == string(value) {
					return err
				}
			}
			return pubsub.ErrKeyExists
		}
		repeated = true
		return err
	})
}

// read reads the record of a key at the bucket's leader. It returns nil if there is none.
func (k *keyring) read(ctx context.Context, id string) (*record, error) {
	c := k.client
	r, err := c.readAtLeader(ctx, c.names.KeyStream(), c.names.Key(id))
	switch {
	case err != nil:
		return nil, err
	case r == nil:
		info, err := c.streamInfo(ctx, c.names.KeyStream())
		if err == nil && !leaderHasQuorum(info.Cluster) {
			err = errNoQuorum // another leader may have stored the key
		}
		return nil, err
	case isDeletion(r):
		return nil, nil
	}
	return r, nil
}

// isDeletion reports whether r, a record of the bucket, marks a deleted key.
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
		if key, err = layout.ParseKey(id, r.data); err != nil {
			k.client.unreadable.report("key", id, r.seq, err)
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
	records, _, err := k.readAll(ctx)
	if err != nil {
		return nil, err
	}
	keys := []pubsub.Key{}
	for id, r := range records {
		if isDeletion(&r) {
			continue
		}
		key, err := layout.ParseKey(id, r.data)
		if err != nil {
			k.client.unreadable.report("key", id, r.seq, err)
			continue
		}
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b pubsub.Key) int { return strings.Compare(a.ID, b.ID) })
	return keys, nil
}

// readAll reads the last record of every key, including deleted ones, by id. The records contain
// everything that was acknowledged before the call, up to at least the revision upTo.
func (k *keyring) readAll(ctx context.Context) (records map[string]record, upTo uint64, err error) {
	c := k.client
	info, err := c.streamInfo(ctx, c.names.KeyStream(), jetstream.WithSubjectFilter(c.names.AllKeys()))
	if err != nil {
		return nil, 0, err
	}
	if !leaderHasQuorum(info.Cluster) {
		return nil, 0, errNoQuorum
	}
	subjects := slices.Collect(maps.Keys(info.State.Subjects))
	records = make(map[string]record, len(subjects))
	for batch := range slices.Chunk(subjects, maxBatch) {
		found, _, err := c.readLast(ctx, c.names.KeyStream(), batch, info.State.LastSeq)
		if err != nil {
			return nil, 0, err
		}
		for subject, r := range found {
			if id, ok := c.names.ParseKey(subject); ok {
				records[id] = r
			} else {
				c.unreadable.report("key", id, r.seq, layout.ErrForeign)
			}
		}
	}
	return records, info.State.LastSeq, nil
}

// DeleteKey implements [pubsub.Keyring]. It erases everything about the key but its id.
func (k *keyring) DeleteKey(ctx context.Context, id string) error {
	repeated := false
	return k.call(ctx, func(ctx context.Context, kv jetstream.KeyValue) error {
		for {
			r, err := k.read(ctx, id)
			switch {
			case err != nil:
				return err
			case r == nil && repeated: // the first attempt deleted it
				return nil
			case r == nil:
				return pubsub.ErrKeyNotFound
			}
			err = kv.Purge(ctx, layout.Encode(id), jetstream.LastRevision(r.seq))
			if isWrongSequence(err) || errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
				continue // the key has just changed
			}
			repeated = true
			return err
		}
	})
}
