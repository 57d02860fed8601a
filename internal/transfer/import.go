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

// probe is a topic that nobody can publish to. An import clears it to begin with.
const probe pubsub.Topic = "$pubsub/import"

// Import puts into b what the export r holds, as it reads it: whoever does not
// trust r calls [Check] before. An import that failed or was cut off can be run
// again, with the same file or a later one.
//
// A message is put into the store if its topic has none there, or one that was
// published earlier. So an import never goes back: a topic that has had a message
// since, or was cleared, keeps that; what is there already stays as it is, with
// its version. Two things are not known: a clear that is more than
// [pubsub.ClearMarkerTTL] old, and, if b has other writers, what they publish to a
// topic in the moment between the look at it and the write.
//
// A signing key is added if there is none of its id. A key that was deleted since
// the export is added again.
//
// Each message is read back once it has been acknowledged. The error is one that
// Check has, or one of the store's, in a [*LineError]; [ErrKeyDiffers] and
// [ErrNotKept] are its own. What was done until then is in the Result.
func Import(ctx context.Context, r io.Reader, b Store, o Options) (Result, error) {
	im := &importer{store: b, o: o}
	// A version of the store, without which Last does not tell of clears; and the
	// store is found to take messages before anything is changed.
	v, err := b.Put(ctx, pubsub.Message{Topic: probe, Retain: true, Published: o.now()})()
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

// maxBatch is how many messages are imported at once: they share a write to the
// disk, or a way to a store that is far away.
const maxBatch = 256

// importer is one Import. Its fields belong to the goroutine that called it.
type importer struct {
	store  Store
	o      Options
	origin pubsub.Version // older than all of the store's

	batch      []step
	batchBytes int
	result     Result
	messages   int // of all batches
}

// step is a message on its way into the store.
type step struct {
	line int
	m    pubsub.Message
	did  outcome
	err  error
}

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

// flush imports the batch. read is how much of the file has been.
func (im *importer) flush(ctx context.Context, read int64) error {
	var wg sync.WaitGroup
	for i := range im.batch {
		wg.Go(func() {
			s := &im.batch[i]
			s.did, s.err = im.message(ctx, &s.m)
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
		case s.did == imported:
			im.result.Imported++
		case s.did == present:
			im.result.Present++
		case s.did == newer:
			im.result.Newer++
		case s.did == expired:
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

// message imports m, if that is to be.
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
		return imported, nil // and replaced since
	case m.Expired(im.o.now()):
		return expired, nil
	}
	return 0, ErrNotKept
}

// same reports whether a message of the store is that of the file.
func same(have, m *pubsub.Message) bool {
	return have.Published.Equal(m.Published) && have.HasTTL == m.HasTTL && have.TTL == m.TTL &&
		have.Sender == m.Sender && bytes.Equal(have.Properties, m.Properties) && bytes.Equal(have.Data, m.Data)
}
