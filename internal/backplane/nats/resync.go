package nats

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"pubsub"
	"pubsub/internal/backplane/nats/layout"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// resyncTimeout bounds one task.
	resyncTimeout = 30 * time.Second
	// retryAfter is the pause before the next attempt after a resync that failed.
	retryAfter = 500 * time.Millisecond
	// incompleteAfter is the pause before the next attempt after a resync that did not reach the
	// end of the stream, because the last messages have expired or a replica was behind.
	// maxIncomplete is the number of such attempts.
	incompleteAfter = time.Second
	maxIncomplete   = 3
	// maxFetch is how many changed topics one request of a resync returns.
	maxFetch = 4096
)

// resyncer performs the tasks of a schedule: it reads the stream, and delivers the retained
// messages of subscribed topics whose announcements this node has missed.
type resyncer struct {
	// immutable
	client   *client
	stream   *stream
	reader   *reader
	interest *interest
	deliver  func(pubsub.Message)

	resyncs, missed atomic.Uint64 // for Stats

	// owned by run's goroutine
	synced     uint64 // this node has missed nothing up to here
	generation uint64 // of synced
	incomplete int    // resyncs in succession that did not reach the end of the stream
}

func newResyncer(s *stream, r *reader, i *interest, deliver func(pubsub.Message)) *resyncer {
	return &resyncer{client: s.client, stream: s, reader: r, interest: i, deliver: deliver}
}

// begin finds out the position of the stream. Earlier messages need no resync, because the
// subscriptions that exist already have positions of their own.
func (r *resyncer) begin(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, setUpTimeout)
	defer cancel()
	last, err := r.stream.position(ctx)
	if err != nil {
		return err
	}
	r.synced, r.generation = last, r.stream.epoch.current()
	return nil
}

// run performs the tasks that are due, one at a time, until ctx is done.
func (r *resyncer) run(ctx context.Context) {
	connected := make(chan struct{}, 1)
	defer r.client.connections.add(connected)()
	r.scheduleInterval()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-connected:
			r.scheduleAfterConnection()
		case <-r.client.resyncs.added:
		case <-timer.C:
		}
		t, ok, wait := r.client.resyncs.take(time.Now())
		if ok {
			r.perform(ctx, t)
		}
		timer.Reset(wait)
	}
}

// scheduleInterval schedules the next resync without another cause. The time varies, so that the
// nodes of a cluster do not resync all at once.
func (r *resyncer) scheduleInterval() {
	d := r.client.o.SyncInterval
	d += rand.N(d/5+1) - d/10
	r.client.resyncs.add(task{at: time.Now().Add(d), cause: causeInterval})
}

// scheduleAfterConnection schedules two resyncs: at once, for messages that this node missed while
// it was not connected, and after settleTime, because until then a server that does not know of the
// connection yet sends it no announcement, and there is no gap that shows that.
func (r *resyncer) scheduleAfterConnection() {
	now := time.Now()
	r.client.resyncs.add(task{at: now, cause: causeConnection})
	r.client.resyncs.add(task{at: now.Add(r.client.o.settleTime), cause: causeSettled})
}

// perform performs t, and schedules another attempt if it fails.
func (r *resyncer) perform(ctx context.Context, t task) {
	c := r.client
	bounded, cancel := context.WithTimeout(ctx, resyncTimeout)
	defer cancel()
	if t.topics != nil {
		n, err := r.read(bounded, t.topics)
		r.missed.Add(uint64(n))
		if err != nil {
			c.resyncs.request(causeSubscription) // a resync finds the same messages
		}
		return
	}
	if t.cause == causeInterval {
		r.scheduleInterval()
	}
	if f := c.faults.of(r.stream.name()); f != nil && !errors.Is(f, ErrMissing) {
		if t.all { // the guard requests a resync when the fault is over, but not of every topic
			c.resyncs.add(task{at: time.Now().Add(retryAfter), cause: causeRetry, all: true})
		}
		return
	}
	n, err := r.resync(bounded, t.all)
	switch {
	case ctx.Err() != nil:
		return
	case err != nil:
		// A transient error, such as the election of a leader, is reported by the guard if it
		// lasts.
		if c.faults.of(r.stream.name()) == nil && !isTransient(err) {
			c.report("resync failed", err)
		}
		c.resyncs.add(task{at: time.Now().Add(retryAfter), cause: causeRetry, all: t.all})
		return
	case r.incomplete > 0 && r.incomplete <= maxIncomplete:
		c.resyncs.add(task{at: time.Now().Add(incompleteAfter), cause: causeRetry})
	default:
		c.resyncs.removeRetry(t.all)
	}
	r.resyncs.Add(1)
	r.missed.Add(uint64(n))
	if c.o.Events.Resynced != nil {
		c.o.Events.Resynced(t.cause, n)
	}
}

// resync delivers n missed messages of the topics that have changed since the last resync, or,
// with all, or in a new generation, of all subscribed topics.
func (r *resyncer) resync(ctx context.Context, all bool) (n int, err error) {
	last, err := r.stream.position(ctx)
	if err != nil {
		return 0, err
	}
	generation := r.stream.epoch.current()
	if isNew := generation != r.generation; all || isNew {
		if n, err = r.read(ctx, r.interest.all(isNew)); err != nil {
			return n, err
		}
		r.synced, r.generation, r.incomplete = last, generation, 0
		return n, nil
	}
	if last <= r.synced {
		r.incomplete = 0
		return 0, nil
	}
	topics, upTo, err := r.changed(ctx, r.synced+1)
	if err != nil {
		return 0, err
	}
	if n, err = r.read(ctx, topics); err != nil {
		return n, err
	}
	if r.stream.epoch.current() != generation {
		return n, nil // the resync for the new generation is scheduled
	}
	r.synced = max(r.synced, upTo)
	if r.synced < last {
		r.incomplete++
	} else {
		r.incomplete = 0
	}
	return n, nil
}

// read reads topics and delivers their n missed messages.
func (r *resyncer) read(ctx context.Context, topics []pubsub.Topic) (n int, err error) {
	r.reader.readMany(ctx, topics, func(_ []pubsub.Topic, s *snapshot, failed error) {
		if failed != nil {
			err = failed
			return
		}
		for t, found := range s.topics {
			m := layout.AsRetained(found.message)
			if !found.ok || m.Expired(time.Now()) {
				continue
			}
			r.stream.epoch.during(s.generation, func() {
				if isNew, _ := r.interest.advance(t, 0, m.Version.Seq); isNew {
					n++
					r.deliver(m)
				}
			})
		}
	})
	return n, err
}

// changed returns the subscribed topics with undelivered messages from the sequence number from
// on, and the last sequence number that it has seen. An ephemeral consumer lists the messages
// without their data.
func (r *resyncer) changed(ctx context.Context, from uint64) (topics []pubsub.Topic, upTo uint64, err error) {
	c := r.client
	soon, cancel := c.request(ctx, readTimeout)
	defer cancel()
	consumer, err := c.js.CreateConsumer(soon, r.stream.name(), jetstream.ConsumerConfig{
		Description:       "pubsub: looking for missed messages",
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       from,
		AckPolicy:         jetstream.AckNonePolicy,
		FilterSubject:     c.names.AllStored(),
		HeadersOnly:       true,
		MemoryStorage:     true,
		Replicas:          1,
		InactiveThreshold: 10 * time.Second,
	})
	if err != nil {
		return nil, 0, err
	}
	defer func() {
		// If this fails, NATS deletes the consumer after its threshold.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = c.js.DeleteConsumer(ctx, r.stream.name(), consumer.CachedInfo().Name)
	}()
	pending := consumer.CachedInfo().NumPending
	var next uint64 = 1 // the consumer's own number of the next message
	for pending > 0 {
		began := next
		if next, pending, err = r.fetch(ctx, consumer, next, pending, func(t pubsub.Topic, seq uint64) {
			upTo = seq
			if r.interest.isNew(t, seq) {
				topics = append(topics, t)
			}
		}); err != nil {
			return nil, 0, err
		}
		if next == began {
			return nil, 0, fmt.Errorf("%w: the resync makes no progress", errStale)
		}
	}
	return topics, upTo, nil
}

// fetch fetches the next of the pending messages of a consumer and calls found for each; rest is
// how many are left. A lost message shows as a gap in the consumer's numbers.
func (r *resyncer) fetch(ctx context.Context, consumer jetstream.Consumer, next, pending uint64, found func(pubsub.Topic, uint64)) (after, rest uint64, err error) {
	ctx, cancel := r.client.request(ctx, readTimeout)
	defer cancel()
	batch, err := consumer.Fetch(int(min(pending, maxFetch)), jetstream.FetchContext(ctx))
	if err != nil {
		return next, pending, err
	}
	for m := range batch.Messages() {
		d, err := m.Metadata()
		if err != nil {
			return next, pending, err
		}
		if d.Sequence.Consumer != next {
			return next, pending, fmt.Errorf("%w: messages of the resync were lost", errStale)
		}
		next++
		pending = d.NumPending
		t, _ := r.client.names.ParseStored(m.Subject()) // a fence has no topic
		found(t, d.Sequence.Stream)
	}
	return next, pending, batch.Error()
}
