package nats

import (
	"context"
	"errors"
	"fmt"
	"time"

	"pubsub/internal/backplane/nats/layout"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// renew reads the generation of the stream and makes it the epoch of this node. It begins a new
// generation, for all nodes, if the stream has none, if its generation is retired, or, with
// truncated, if it still is the one that this node knows. It leaves a stream with unusable
// settings alone and returns a [*SettingsError].
func (s *stream) renew(ctx context.Context, truncated bool) error {
	s.renewing.Lock()
	defer s.renewing.Unlock()
	for {
		done, err := s.renewOnce(ctx, &truncated)
		if done || err != nil {
			return err
		}
	}
}

// renewOnce is an attempt of renew. It reports whether that is done; otherwise another node has
// changed the generation at the same time. It clears truncated, for later attempts as well, if
// the stream is as long as before.
func (s *stream) renewOnce(ctx context.Context, truncated *bool) (done bool, err error) {
	c := s.client
	info, err := s.info(ctx)
	if err != nil {
		return false, err
	}
	want := layout.RetainedStream(c.names, 1, 0)
	if found := layout.Differences(c.names, &want, &info.Config, 0); len(found) > 0 {
		c.faults.suspect()
		return false, &SettingsError{Differences: found}
	}
	last := info.State.LastSeq
	if last >= s.epoch.seen.Load() {
		*truncated = false // another node has dealt with it
	}
	stored, at, err := s.readGeneration(ctx)
	if err != nil {
		return false, err
	}
	announced, _ := c.names.AnnouncedGeneration(&info.Config)
	g, isNew, purged := s.chooseGeneration(info, stored, at, announced, *truncated)
	if isNew {
		seq, err := s.writeGeneration(ctx, g, at)
		if isWrongSequence(err) {
			return false, nil // another node was faster
		}
		if err != nil {
			return false, err
		}
		last = max(last, seq)
		if purged && c.o.Events.StreamPurged != nil {
			c.o.Events.StreamPurged(s.name())
		}
	}
	if g != announced {
		config := info.Config
		config.RePublish = layout.Announce(c.names, g)
		if err := c.updateStream(ctx, config); err != nil {
			return false, fmt.Errorf("cannot change the generation in the settings of stream %s: %w", config.Name, err)
		}
	}
	before, ok := s.epoch.begin(g, last, info.Created)
	if !ok {
		return false, nil
	}
	if before != g && before != 0 {
		if c.o.Events.GenerationChanged != nil {
			c.o.Events.GenerationChanged(before, g)
		}
		c.resyncs.add(task{at: time.Now(), cause: causeGeneration, all: true})
	}
	return true, nil
}

// chooseGeneration returns the generation that the stream must have, and reports whether its
// record must be written. stored is the generation in the record with sequence number at, and
// announced the one in the settings.
func (s *stream) chooseGeneration(info *jetstream.StreamInfo, stored, at, announced uint64, truncated bool) (g uint64, isNew, purged bool) {
	known := s.epoch.current()
	g = stored
	switch {
	case at == 0 && !truncated && announced == known && s.epoch.createdAgain(info):
		// The stream was recreated with the same settings, so JetStream will assign the same
		// sequence numbers again.
		g, isNew = randomNumber(), true
	case at == 0 && !truncated: // recreated or purged
		g, isNew, purged = announced, true, announced == known
	case truncated && (g == known || at == 0), g == 0:
		g, isNew = randomNumber(), true
	}
	if s.epoch.isRetired(g) {
		g, isNew = randomNumber(), true
	}
	return g, isNew, purged
}

// readGeneration reads the record of the generation from the stream's leader; at is its sequence
// number. Without a record, g and at are 0. If the record is unreadable, g is 0, but a node that
// starts returns an error, so that it does not overwrite the record of a later release.
func (s *stream) readGeneration(ctx context.Context) (g, at uint64, err error) {
	m, err := s.client.readAtLeader(ctx, s.name(), s.client.names.Generation())
	if err != nil || m == nil {
		return 0, 0, err
	}
	g, err = layout.ParseGeneration(m.data)
	if err != nil && (errors.Is(err, layout.ErrForeign) || s.epoch.current() != 0) {
		s.client.unreadable.report("generation", "", m.seq, err)
		return 0, m.seq, nil
	}
	return g, m.seq, err
}

// writeGeneration writes the record of the generation if the existing record has the sequence
// number at.
func (s *stream) writeGeneration(ctx context.Context, g, at uint64) (seq uint64, err error) {
	m := natsgo.NewMsg(s.client.names.Generation())
	m.Data = layout.AppendGeneration(nil, g)
	ctx, cancel := s.client.request(ctx, readTimeout)
	defer cancel()
	ack, err := s.client.js.PublishMsg(ctx, m, jetstream.WithExpectLastSequencePerSubject(at))
	if err != nil {
		return 0, err
	}
	return ack.Sequence, nil
}

func isWrongSequence(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) &&
		(api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}
