package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"pubsub"
)

// probeTopic is a topic that clients cannot publish to. An import begins by clearing it.
const probeTopic pubsub.Topic = "$pubsub/import"

// Import puts the keys and messages of the export r into b while it reads r. If r may be
// damaged, call [Check] first. An import that failed or was interrupted can be repeated,
// with the same file or a later one.
//
// A message is put into the store if the topic has no message there, or one that was
// published earlier. So an import never replaces a newer message or a newer clear, and a
// message that is already in the store keeps its version. There are two exceptions: a
// clear older than [pubsub.ClearMarkerTTL] is unknown, and a message from another writer
// is replaced if it arrives between the check of its topic and the write.
//
// A signing key is added if the store has none with its id. A key that was deleted since
// the export is added again.
//
// Each message is read back after it was acknowledged. The error is one of Check or of the
// store, in a [*LineError], or [ErrKeyDiffers] or [ErrNotStored]. The Result counts
// everything that was done until then.
func Import(ctx context.Context, r io.Reader, b Store, o Options) (Result, error) {
	im := &importer{store: b, o: o}
	// This Put returns a version of the store, which Last needs to report clears. It also
	// shows whether the store accepts messages, before anything else is changed.
	v, err := b.Put(ctx, pubsub.Message{Topic: probeTopic, Retain: true, Published: o.now()})()
	if err != nil {
		return Result{}, fmt.Errorf("writing to the store: %w", err)
	}
	im.origin = pubsub.Version{Generation: v.Generation}
	sum, err := scan(ctx, r, visitor{
		key: func(line int, k pubsub.Key) error {
			if o.WithoutKeys {
				return nil
			}
			return im.key(ctx, line, k)
		},
		message: func(line int, m pubsub.Message, read int64) error {
			im.batch = append(im.batch, step{line: line, m: m})
			im.batchBytes += len(m.Data) + len(m.Properties)
			if len(im.batch) < maxBatch && im.batchBytes < paceBytes {
				return nil
			}
			return im.flush(ctx, read)
		},
	})
	if err == nil {
		err = im.flush(ctx, sum.Bytes)
	}
	if err == nil {
		im.result.Summary = sum
	}
	return im.result, err
}

// maxBatch is the number of messages that are imported concurrently, so that they share a
// write to the disk, or a round trip to a remote store.
const maxBatch = 256

// importer is the state of an Import. Its fields belong to the goroutine that called it.
type importer struct {
	store  Store
	o      Options
	origin pubsub.Version // older than all versions of the store

	batch      []step
	batchBytes int
	result     Result
	messages   int // in all batches so far
}

// step is the import of one message.
type step struct {
	line    int
	m       pubsub.Message
	outcome outcome
	err     error
}

// outcome is the outcome of a step without an error.
type outcome int

const (
	imported outcome = iota
	present
	newer
	expired
)

// key adds a key.
func (im *importer) key(ctx context.Context, line int, k pubsub.Key) error {
	err := im.store.PutKey(ctx, k)
	switch {
	case err == nil:
		im.result.KeysImported++
		return nil
	case !errors.Is(err, pubsub.ErrKeyExists):
		return &LineError{line, fmt.Errorf("signing key %q: %w", pubsub.Printable(k.ID), err)}
	}
	have, err := im.store.Key(ctx, k.ID)
	switch {
	case err != nil:
		return &LineError{line, fmt.Errorf("signing key %q: %w", pubsub.Printable(k.ID), err)}
	case have.Value != k.Value:
		return &LineError{line, fmt.Errorf("signing key %q: %w; delete one of the two, or import without keys", pubsub.Printable(k.ID), ErrKeyDiffers)}
	}
	im.result.KeysPresent++
	return nil
}

// flush imports the batch. read is the number of bytes of the file that were read.
func (im *importer) flush(ctx context.Context, read int64) error {
	var wg sync.WaitGroup
	for i := range im.batch {
		wg.Go(func() {
			s := &im.batch[i]
			s.outcome, s.err = im.message(ctx, &s.m)
		})
	}
	wg.Wait()
	var failed error
	for i := range im.batch {
		s := &im.batch[i]
		switch {
		case s.err != nil && failed == nil:
			failed = &LineError{s.line, fmt.Errorf("topic %q: %w", pubsub.Printable(string(s.m.Topic)), s.err)}
		case s.err != nil:
		case s.outcome == imported:
			im.result.Imported++
		case s.outcome == present:
			im.result.Present++
		case s.outcome == newer:
			im.result.Newer++
		case s.outcome == expired:
			im.result.Expired++
		}
	}
	im.messages += len(im.batch)
	clear(im.batch)
	im.batch, im.batchBytes = im.batch[:0], 0
	if failed == nil {
		im.o.progress(Progress{Messages: im.messages, Bytes: read})
	}
	return failed
}

// message imports m, unless it has expired or the store has a message as new.
func (im *importer) message(ctx context.Context, m *pubsub.Message) (outcome, error) {
	if m.Expired(im.o.now()) {
		return expired, nil
	}
	have, ok, err := im.store.Last(ctx, m.Topic, im.origin)
	switch {
	case err != nil:
		return 0, err
	case ok && same(&have, m):
		return present, nil
	case ok && !have.Published.Before(m.Published):
		return newer, nil
	}
	v, err := im.store.Put(ctx, *m)()
	if err != nil {
		return 0, err
	}
	have, ok, err = im.store.Last(ctx, m.Topic, im.origin)
	switch {
	case err != nil:
		return 0, fmt.Errorf("reading back: %w", err)
	case ok && have.Version == v && same(&have, m):
		return imported, nil
	case ok && have.Version != v && have.Version.Newer(v):
		return imported, nil // and replaced by another writer since
	case m.Expired(im.o.now()):
		return expired, nil
	}
	return 0, ErrNotStored
}

// same reports whether the store has the message m of the file. Versions do not count.
func same(have, m *pubsub.Message) bool {
	return have.Published.Equal(m.Published) && have.HasTTL == m.HasTTL && have.TTL == m.TTL &&
		have.Sender == m.Sender && bytes.Equal(have.Properties, m.Properties) && bytes.Equal(have.Data, m.Data)
}
