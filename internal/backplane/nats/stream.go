package nats

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"pubsub/internal/backplane/nats/layout"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// truncatedAfter is how long the stream must have been shorter than before until this node
	// begins a new generation. A new leader may be about to catch up.
	truncatedAfter = 2 * time.Second
	// missingAfter is how long the stream must have been missing until this node recreates it.
	missingAfter = 2 * time.Second
	// pollInterval is the pause between two requests for the state of a stream.
	pollInterval = 50 * time.Millisecond
)

// stream is the stream of retained messages: its position and its generation. It recreates a
// missing stream and begins a new generation where one is needed.
type stream struct {
	client *client // immutable
	epoch  epoch

	renewing sync.Mutex // held while the generation is read or changed
}

// name returns the name of the stream.
func (s *stream) name() string { return s.client.names.RetainedStream() }

// info requests the state of the stream from its leader.
func (s *stream) info(ctx context.Context) (*jetstream.StreamInfo, error) {
	return s.client.streamInfo(ctx, s.name())
}

// position returns a sequence number that no message has exceeded that was acknowledged before
// the call. It recreates a missing stream, begins a new generation if the stream is shorter than
// before, and retries after transient errors until ctx is done.
func (s *stream) position(ctx context.Context) (last uint64, err error) {
	var missing, short time.Time // since when
	for {
		info, err := s.info(ctx)
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
			if missing.IsZero() {
				missing = time.Now()
			}
			if time.Since(missing) >= missingAfter {
				if err := s.recreate(ctx); err != nil {
					return 0, err
				}
				continue
			}
		case err != nil:
			if !isTransient(err) || ctx.Err() != nil {
				return 0, err
			}
		case s.isReplaced(info):
			if err := s.renew(ctx, false); err != nil {
				return 0, err
			}
			continue
		default:
			last := info.State.LastSeq
			if !leaderHasQuorum(info.Cluster) {
				if last, err = s.committed(ctx); err != nil {
					break
				}
			}
			if last >= s.epoch.seen.Load() {
				return last, nil
			}
			if short.IsZero() {
				short = time.Now()
			}
			if time.Since(short) >= truncatedAfter {
				if err := s.renew(ctx, true); err != nil {
					return 0, err
				}
				continue
			}
		}
		if !sleep(ctx, pollInterval) {
			if err == nil {
				err = errStale
			}
			return 0, fmt.Errorf("%w: %w", err, context.Cause(ctx))
		}
	}
}

// recreate creates the missing stream, with a new generation.
func (s *stream) recreate(ctx context.Context) error {
	c := s.client
	if _, err := c.ensureStream(ctx, layout.RetainedStream(c.names, randomNumber(), c.o.Replicas)); err != nil {
		c.report("stream recreation failed", err)
		return err
	}
	if err := s.renew(ctx, false); err != nil {
		return err
	}
	c.faults.suspect() // the fault is over
	return nil
}

// heardWithin is how recently the leader of a stream must have heard from most of its replicas.
// It hears from each of them every 2 s at least, and no replica that has heard from the leader
// within 4 s stands for election.
const heardWithin = 3 * time.Second

// leaderHasQuorum reports whether the server that answered as the leader of a stream must still
// be its leader. A leader that is cut off from the other servers answers for 10 s more, while
// they may have elected another one and acknowledged messages that it does not know.
func leaderHasQuorum(c *jetstream.ClusterInfo) bool {
	if c == nil { // there is only one server
		return true
	}
	servers, heard := 1, 1
	for _, r := range c.Replicas {
		servers++
		if r.Active > 0 && r.Active < heardWithin {
			heard++
		}
	}
	return heard > servers/2
}

// committed returns the position of the stream, found by storing a message that nothing reads:
// most servers must have agreed to that message and to all that were acknowledged before it. Its
// errors are transient.
func (s *stream) committed(ctx context.Context) (last uint64, err error) {
	ctx, cancel := s.client.request(ctx, readTimeout)
	defer cancel()
	ack, err := s.client.js.PublishMsg(ctx, natsgo.NewMsg(s.client.names.Fence()), jetstream.WithExpectStream(s.name()))
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errNoQuorum, err)
	}
	return ack.Sequence, nil
}

// isReplaced reports whether the stream announces another generation than this node knows, or
// was created at another time.
func (s *stream) isReplaced(info *jetstream.StreamInfo) bool {
	g, ok := s.client.names.AnnouncedGeneration(&info.Config)
	s.epoch.mu.RLock()
	defer s.epoch.mu.RUnlock()
	return ok && g != s.epoch.generation || !info.Created.Equal(s.epoch.created)
}
