package nats

import (
	"context"
	"fmt"
	"sync"
	"time"

	"pubsub"
	"pubsub/internal/backplane/nats/layout"
)

const (
	// maxBatch is how many subjects one request reads. JetStream accepts up to 1,024.
	maxBatch = 1000
	// maxBatchBytes bounds the length of the subjects of one request.
	maxBatchBytes = 256 << 10
	// readTimeout bounds one attempt to read a batch.
	readTimeout = 2 * time.Second
)

// retained is the state of a topic in the stream.
type retained struct {
	message pubsub.Message // as its record holds it
	ok      bool           // there is a record that this release can read
}

// snapshot is the state of some topics at one time, read from a replica that had everything that
// the leader had acknowledged before.
type snapshot struct {
	generation uint64
	last       uint64 // the position of the stream
	topics     map[pubsub.Topic]retained
}

// reader reads the retained messages of topics, for all calls that wait at the same time in one
// request. Many calls for one topic cost one read, and a thousand subscribers that reconnect
// together with a topic each cost one request.
type reader struct {
	// immutable
	client *client
	stream *stream
	wake   chan struct{} // one slot: waiting is not empty

	mu      sync.Mutex
	waiting map[pubsub.Topic]*read // guarded by mu
}

// read is the read of one topic, for all calls that came before it began.
type read struct {
	done chan struct{} // closed when the other fields are set
	err  error
	retained
	generation, last uint64
}

func newReader(s *stream) *reader {
	return &reader{client: s.client, stream: s, wake: make(chan struct{}, 1), waiting: map[pubsub.Topic]*read{}}
}

// run reads until Close.
func (r *reader) run() {
	for {
		select {
		case <-r.client.life.Done():
			return
		case <-r.wake:
		}
		r.mu.Lock()
		waiting := r.waiting
		r.waiting = map[pubsub.Topic]*read{}
		r.mu.Unlock()
		topics := make([]pubsub.Topic, 0, len(waiting))
		for t := range waiting {
			topics = append(topics, t)
		}
		ctx, cancel := context.WithTimeout(r.client.life, readTimeout)
		r.readMany(ctx, topics, func(part []pubsub.Topic, s *snapshot, err error) {
			for _, t := range part {
				one := waiting[t]
				if err != nil {
					one.err = err
				} else {
					one.retained, one.generation, one.last = s.topics[t], s.generation, s.last
				}
				close(one.done)
			}
		})
		cancel()
	}
}

// readOne reads one topic. It retries after transient errors until ctx is done.
func (r *reader) readOne(ctx context.Context, t pubsub.Topic) (*read, error) {
	for {
		if err := r.client.awaitStream(ctx, r.stream.name()); err != nil {
			return nil, err
		}
		r.mu.Lock()
		one := r.waiting[t]
		if one == nil {
			one = &read{done: make(chan struct{})}
			r.waiting[t] = one
			notify(r.wake)
		}
		r.mu.Unlock()
		select {
		case <-one.done:
		case <-ctx.Done():
			return nil, fmt.Errorf("reading a retained message: %w", context.Cause(ctx))
		}
		if one.err == nil || !isTransient(one.err) || !sleep(ctx, 20*time.Millisecond) {
			return one, one.err
		}
	}
}

// readMany reads topics in batches and calls f for each batch. Each snapshot is of a time after
// the call. After an error, the rest of the topics is one batch with that error.
func (r *reader) readMany(ctx context.Context, topics []pubsub.Topic, f func(part []pubsub.Topic, s *snapshot, err error)) {
	for len(topics) > 0 {
		n, size := 0, 0
		for n < len(topics) && n < maxBatch && size < maxBatchBytes {
			size += len(topics[n]) + 64
			n++
		}
		s, err := r.readBatch(ctx, topics[:n])
		if err != nil {
			n = len(topics)
		}
		f(topics[:n], s, err)
		topics = topics[n:]
	}
}

// readBatch reads as many topics as fit into a request.
func (r *reader) readBatch(ctx context.Context, topics []pubsub.Topic) (*snapshot, error) {
	c, epoch := r.client, &r.stream.epoch
	subjects := make([]string, 0, len(topics)+1)
	for _, t := range topics {
		subjects = append(subjects, c.names.Stored(t))
	}
	// The record of the generation always exists, so there always is an answer with the
	// position of the replica.
	subjects = append(subjects, c.names.Generation())
	for {
		last, err := r.stream.position(ctx)
		if err != nil {
			return nil, err
		}
		generation := epoch.current()
		found, upTo, err := c.readLast(ctx, r.stream.name(), subjects, max(last, epoch.seen.Load()))
		if err != nil {
			return nil, err
		}
		record, ok := found[c.names.Generation()]
		if ok {
			g, err := layout.ParseGeneration(record.data)
			ok = err == nil && g == generation // renew replaces an unreadable record
		}
		if !ok || generation != epoch.current() {
			if err := r.stream.renew(ctx, false); err != nil {
				return nil, err
			}
			if !sleep(ctx, 10*time.Millisecond) {
				return nil, context.Cause(ctx)
			}
			continue
		}
		s := &snapshot{generation: generation, last: max(last, upTo), topics: make(map[pubsub.Topic]retained, len(topics))}
		for _, t := range topics {
			record, ok := found[c.names.Stored(t)]
			if !ok {
				continue
			}
			m, err := layout.ParseMessage(t, pubsub.Version{Generation: generation, Seq: record.seq}, record.data)
			if err != nil {
				c.unreadable.report("message", string(t), record.seq, err)
			}
			s.topics[t] = retained{m, err == nil}
		}
		return s, nil
	}
}
