package nats

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"pubsub"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// sweepTimeout bounds one sweep; one that fails is tried again after
	// sweepAgain.
	sweepTimeout = 30 * time.Second
	sweepAgain   = 500 * time.Millisecond
	// staleAgain is when a sweep is repeated that did not come to the end of the
	// stream, which may be because a server was behind; staleTimes is how often.
	staleAgain = time.Second
	staleTimes = 3
	// sweepPiece is how many names of changed topics are asked for at once.
	sweepPiece = 4096
)

// sweeper finds what announcements have missed: it runs through the stream from
// where it was last, without the messages, and reads those of wanted topics that
// this node has not been told of.
type sweeper struct {
	// immutable
	link     *link
	reads    *reads
	interest *interest
	deliver  func(pubsub.Message)
	kicked   chan struct{} // one slot: there is a cause

	mu    sync.Mutex
	cause string // guarded by mu: why it was kicked
	whole bool   // guarded by mu: all wanted topics are to be read

	// owned by run's goroutine
	synced uint64 // of what is up to here, nothing is missed
	epoch  uint64 // the generation that synced is of
	stale  int    // sweeps in a row that did not come to the end
}

func newSweeper(l *link, r *reads, w *interest, deliver func(pubsub.Message)) *sweeper {
	return &sweeper{link: l, reads: r, interest: w, deliver: deliver, kicked: make(chan struct{}, 1)}
}

// kick asks for a sweep; why names the cause.
func (s *sweeper) kick(why string) {
	s.mu.Lock()
	s.cause = why
	s.mu.Unlock()
	kick(s.kicked)
}

// everything asks for all wanted topics to be read: the generation has changed.
func (s *sweeper) everything() {
	s.mu.Lock()
	s.whole = true
	s.mu.Unlock()
	s.kick("another generation")
}

// begin finds out where the stream is; what was before needs no sweep.
func (s *sweeper) begin(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, setUpTimeout)
	defer cancel()
	// Topics that were wanted before have been told from where they began.
	last, err := s.link.position(ctx)
	if err != nil {
		return err
	}
	s.synced, s.epoch = last, s.link.epoch.current()
	return nil
}

// run sweeps when there is a cause, until ctx is done.
func (s *sweeper) run(ctx context.Context) {
	connected := make(chan struct{}, 1)
	defer s.link.connections.add(connected)()
	interval := time.NewTimer(s.nextInterval())
	defer interval.Stop()
	again, second, joined := stoppedTimer(), stoppedTimer(), stoppedTimer()
	defer again.Stop()
	defer second.Stop()
	defer joined.Stop()
	for {
		why := ""
		select {
		case <-ctx.Done():
			return
		case <-s.interest.joined:
			joined.Reset(s.lookAgain(ctx))
			continue
		case <-joined.C:
			joined.Reset(s.lookAgain(ctx))
			continue
		case <-s.kicked:
			s.mu.Lock()
			why = s.cause
			s.mu.Unlock()
		case <-connected:
			why = "connected"
			// A server that does not know of this connection yet announces to it what
			// it stores meanwhile in vain, and no gap shows it.
			second.Reset(lookAgainAfter)
		case <-second.C:
			why = "second look"
		case <-again.C:
			why = "again"
		case <-interval.C:
			why = "interval"
			interval.Reset(s.nextInterval())
		}
		if f := s.link.fault(s.link.names.stream()); f != nil && !errors.Is(f, ErrMissing) {
			continue // the guard requests a sweep when the fault is over
		}
		bounded, cancel := context.WithTimeout(ctx, sweepTimeout)
		n, err := s.sweep(bounded)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			// Trouble may be transient, such as the election of a leader; the guard
			// reports it if it lasts.
			if s.link.fault(s.link.names.stream()) == nil && !passing(err) {
				s.link.report("resync failed", err)
			}
			again.Reset(sweepAgain)
		case s.stale > 0 && s.stale <= staleTimes:
			again.Reset(staleAgain)
		default:
			again.Stop() // what an earlier one has left is done
		}
		if err == nil {
			s.link.sweeps.Add(1)
			s.link.repaired.Add(uint64(n))
			if s.link.o.Events.Resynced != nil {
				s.link.o.Events.Resynced(why, n)
			}
		}
	}
}

func stoppedTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// nextInterval varies, so that the nodes of a cluster do not sweep all at once.
func (s *sweeper) nextInterval() time.Duration {
	d := s.link.o.SyncInterval
	return d - d/10 + rand.N(d/5+1)
}

// lookAgain reads the topics again that this node has begun to want a while ago,
// and returns when there will be more.
func (s *sweeper) lookAgain(ctx context.Context) time.Duration {
	topics, next := s.interest.lookAgain(time.Now())
	if len(topics) > 0 {
		bounded, cancel := context.WithTimeout(ctx, sweepTimeout)
		defer cancel()
		n, err := s.repair(bounded, topics)
		s.link.repaired.Add(uint64(n))
		if err != nil && ctx.Err() == nil {
			s.kick("look again") // which comes to the same
		}
	}
	if next == 0 {
		next = time.Hour
	}
	return next
}

// sweep delivers what was missed, n messages.
func (s *sweeper) sweep(ctx context.Context) (n int, err error) {
	l := s.link
	last, err := l.position(ctx)
	if err != nil {
		return 0, err
	}
	generation := l.epoch.current()
	s.mu.Lock()
	whole := s.whole || generation != s.epoch
	s.whole = false
	s.mu.Unlock()
	if whole {
		n, err = s.repair(ctx, s.interest.all(generation != s.epoch))
		if err != nil {
			s.mu.Lock()
			s.whole = true
			s.mu.Unlock()
			return n, err
		}
		s.synced, s.epoch, s.stale = last, generation, 0
		return n, nil
	}
	if last <= s.synced {
		s.stale = 0
		return 0, nil
	}
	topics, upTo, err := s.changed(ctx, s.synced+1)
	if err != nil {
		return 0, err
	}
	if n, err = s.repair(ctx, topics); err != nil {
		return n, err
	}
	if l.epoch.current() != generation {
		return n, nil // everything is due anyway
	}
	s.synced = max(s.synced, upTo)
	if s.synced < last { // what is missing has expired, or the server was behind
		s.stale++
	} else {
		s.stale = 0
	}
	return n, nil
}

// repair reads topics and delivers what is news of them.
func (s *sweeper) repair(ctx context.Context, topics []pubsub.Topic) (n int, err error) {
	s.reads.many(ctx, topics, func(_ []pubsub.Topic, v *view, failed error) {
		if failed != nil {
			err = failed
			return
		}
		for t, r := range v.topics {
			m := kept(r.message)
			if !r.ok || m.Expired(time.Now()) {
				continue
			}
			s.link.epoch.within(v.generation, func() {
				if news, _ := s.interest.told(t, 0, m.Version.Seq); news {
					n++
					s.deliver(m)
				}
			})
		}
	})
	return n, err
}

// changed returns the wanted topics of which the stream has news from the sequence
// number from on, and how far it looked.
func (s *sweeper) changed(ctx context.Context, from uint64) (topics []pubsub.Topic, upTo uint64, err error) {
	l := s.link
	soon, cancel := l.request(ctx, readTimeout)
	defer cancel()
	consumer, err := l.js.CreateConsumer(soon, l.names.stream(), jetstream.ConsumerConfig{
		Description:       "pubsub: looking for missed messages",
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       from,
		AckPolicy:         jetstream.AckNonePolicy,
		FilterSubject:     l.names.allStored(),
		HeadersOnly:       true,
		MemoryStorage:     true,
		Replicas:          1,
		InactiveThreshold: 10 * time.Second,
	})
	if err != nil {
		return nil, 0, err
	}
	defer func() {
		// Who fails here leaves it to its threshold.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = l.js.DeleteConsumer(ctx, l.names.stream(), consumer.CachedInfo().Name)
	}()
	pending := consumer.CachedInfo().NumPending
	var next uint64 = 1 // the consumer's own number of the next message
	for pending > 0 {
		began := next
		if next, pending, err = s.piece(ctx, consumer, next, pending, func(t pubsub.Topic, seq uint64) {
			upTo = seq
			if s.interest.newer(t, seq) {
				topics = append(topics, t)
			}
		}); err != nil {
			return nil, 0, err
		}
		if next == began {
			return nil, 0, fmt.Errorf("%w: the sweep has come to a stop", errStale)
		}
	}
	return topics, upTo, nil
}

// piece fetches the next messages of a sweep, of which the consumer has as many as
// pending, and calls found for each; rest is what the consumer has left. A message
// that was lost shows in the consumer's numbers.
func (s *sweeper) piece(ctx context.Context, consumer jetstream.Consumer, next, pending uint64, found func(pubsub.Topic, uint64)) (after, rest uint64, err error) {
	ctx, cancel := s.link.request(ctx, readTimeout)
	defer cancel()
	batch, err := consumer.Fetch(int(min(pending, sweepPiece)), jetstream.FetchContext(ctx))
	if err != nil {
		return next, pending, err
	}
	for m := range batch.Messages() {
		d, err := m.Metadata()
		if err != nil {
			return next, pending, err
		}
		if d.Sequence.Consumer != next {
			return next, pending, fmt.Errorf("%w: messages of the sweep were lost", errStale)
		}
		next++
		pending = d.NumPending
		t, _ := s.link.names.parseStored(m.Subject()) // what is no topic is not wanted
		found(t, d.Sequence.Stream)
	}
	return next, pending, batch.Error()
}
