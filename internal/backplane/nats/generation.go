package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// epoch is the generation of the stream of retained messages, as this node knows
// it. What belongs to another generation is never delivered: versions of two
// generations have no order, so the older one could replace the newer.
//
// A generation is a record in the stream itself, changed by compare-and-set, and
// comes with every read of it. JetStream's announcements carry it in their
// subject, which is one of the stream's settings.
type epoch struct {
	mu         sync.RWMutex        // held for reading while something is delivered
	generation uint64              // guarded by mu: 0 until it is known
	born       time.Time           // guarded by mu: when the stream was created
	retired    map[uint64]struct{} // guarded by mu: generations that were, and must not be again

	// seen is the greatest sequence number that is known to be of the generation.
	seen atomic.Uint64
}

// see notes that the stream has come to seq.
func (e *epoch) see(seq uint64) {
	for {
		seen := e.seen.Load()
		if seq <= seen || e.seen.CompareAndSwap(seen, seq) {
			return
		}
	}
}

// current returns the generation.
func (e *epoch) current() uint64 {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.generation
}

// within calls f unless g is not the generation; while f runs it does not change.
func (e *epoch) within(g uint64, f func()) bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.generation != g {
		return false
	}
	f()
	return true
}

// begin makes g the generation of a stream that was created at born and has reached seq.
// It reports whether g is a new generation.
func (e *epoch) begin(g, seq uint64, born time.Time) (before uint64, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	before = e.generation
	if before == g {
		e.born = born
		return g, true
	}
	if _, was := e.retired[g]; was {
		return before, false
	}
	if e.retired == nil {
		e.retired = map[uint64]struct{}{}
	}
	if before != 0 {
		e.retired[before] = struct{}{}
	}
	e.generation, e.born = g, born
	e.seen.Store(seq)
	return before, true
}

// truncatedAfter is how long the stream must have been shorter than it was before
// that is believed: a new leader may be about to catch up.
const truncatedAfter = 2 * time.Second

// missingAfter is how long the stream must have been missing before it is made
// anew.
const missingAfter = 2 * time.Second

// info asks the leader of the stream of retained messages for its state.
func (l *link) info(ctx context.Context) (*jetstream.StreamInfo, error) {
	return l.infoOf(ctx, l.names.stream())
}

const (
	// infoTimeout is how long the leader of a stream has to answer.
	infoTimeout = time.Second
	// changeTimeout is how long a cluster has to make or change a stream.
	changeTimeout = 5 * time.Second
)

func (l *link) infoOf(ctx context.Context, stream string, options ...jetstream.StreamInfoOpt) (*jetstream.StreamInfo, error) {
	soon, cancel := l.request(ctx, infoTimeout)
	defer cancel()
	s, err := l.js.Stream(soon, stream)
	if err != nil {
		return nil, err
	}
	info := s.CachedInfo()
	if len(options) > 0 {
		if info, err = s.Info(ctx, options...); err != nil {
			return nil, err
		}
	}
	if info.Cluster != nil && info.Cluster.Leader == "" {
		return nil, errNoLeader
	}
	return info, nil
}

// position returns how far the stream has come: all that was acknowledged before the
// call is at most that. It makes a stream anew that is missing, and begins a new
// generation if the stream is shorter than it was. It waits for what may pass until
// ctx is done.
func (l *link) position(ctx context.Context) (last uint64, err error) {
	var missing, short time.Time // since when
	for {
		info, err := l.info(ctx)
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
			if missing.IsZero() {
				missing = time.Now()
			}
			if time.Since(missing) >= missingAfter {
				if _, err := l.makeStream(ctx, retainedSettings(l.names, randomNumber(), l.o.Replicas)); err != nil {
					l.report("stream recreation failed", err)
					return 0, err
				}
				if err := l.renew(ctx, false); err != nil {
					return 0, err
				}
				l.doubt() // the fault is over
				continue
			}
		case err != nil:
			if !passing(err) || ctx.Err() != nil {
				return 0, err
			}
		case l.isAnother(info):
			if err := l.renew(ctx, false); err != nil {
				return 0, err
			}
			continue
		default:
			last := info.State.LastSeq
			if !isLed(info.Cluster) {
				if last, err = l.committed(ctx); err != nil {
					break
				}
			}
			if last >= l.epoch.seen.Load() {
				return last, nil
			}
			if short.IsZero() {
				short = time.Now()
			}
			if time.Since(short) >= truncatedAfter {
				if err := l.renew(ctx, true); err != nil {
					return 0, err
				}
				continue
			}
		}
		if !pause(ctx, 50*time.Millisecond) {
			if err == nil {
				err = errStale
			}
			return 0, fmt.Errorf("%w: %w", err, context.Cause(ctx))
		}
	}
}

// heardWithin is how recently the leader of a stream must have heard from most of the
// servers that keep it. They hear from it every 2 s at least, and none of them stands
// for election who has within 4 s.
const heardWithin = 3 * time.Second

// isLed reports whether the server that has answered as the leader of a stream can be
// believed to be. One that is cut off from the others goes on to answer for 10 s,
// while they may have elected another, and acknowledge what it knows nothing of.
func isLed(c *jetstream.ClusterInfo) bool {
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

// committed finds out how far the stream has come by storing something that nobody
// reads: most of the servers must have agreed to that, and to all that was
// acknowledged before. Its errors are passing.
func (l *link) committed(ctx context.Context) (last uint64, err error) {
	ctx, cancel := l.request(ctx, readTimeout)
	defer cancel()
	ack, err := l.js.PublishMsg(ctx, natsgo.NewMsg(l.names.fence()), jetstream.WithExpectStream(l.names.stream()))
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errDeposed, err)
	}
	return ack.Sequence, nil
}

// isAnother reports whether the stream announces another generation than this node
// knows, or was created at another time.
func (l *link) isAnother(info *jetstream.StreamInfo) bool {
	g, ok := l.names.generationOf(&info.Config)
	l.epoch.mu.RLock()
	defer l.epoch.mu.RUnlock()
	return ok && g != l.epoch.generation || !info.Created.Equal(l.epoch.born)
}

// isNew reports whether the stream was created after this node began to know it.
func (e *epoch) isNew(info *jetstream.StreamInfo) bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return !e.born.IsZero() && !info.Created.Equal(e.born)
}

// renew finds out the stream's generation and takes it up. It begins a new one,
// for all nodes, if there is none, if the one that is there was another one's
// predecessor, or, with lost, if it is still the one that this node knows. A stream
// that a broker cannot work with is left alone: renew returns a [*SettingsError].
func (l *link) renew(ctx context.Context, lost bool) error {
	l.renewing.Lock()
	defer l.renewing.Unlock()
	for {
		info, err := l.info(ctx)
		if err != nil {
			return err
		}
		want := retainedSettings(l.names, 1, 0)
		if found := differences(l.names, &want, &info.Config, 0); len(found) > 0 {
			l.doubt()
			return &SettingsError{found}
		}
		last := info.State.LastSeq
		if lost && last >= l.epoch.seen.Load() {
			lost = false // somebody has been here before
		}
		g, at, err := l.readGeneration(ctx)
		if err != nil {
			return err
		}
		known := l.epoch.current()
		announced, _ := l.names.generationOf(&info.Config)
		fresh, purged := false, false
		switch {
		case at == 0 && !lost && announced == known && l.epoch.isNew(info):
			// Somebody has recreated the stream with the same settings, so numbers that
			// were given before would be given again.
			g, fresh = randomNumber(), true
		case at == 0 && !lost: // made anew, or purged
			g, fresh, purged = announced, true, announced == known
		case lost && (g == known || at == 0), g == 0:
			g, fresh = randomNumber(), true
		}
		if l.epoch.wasRetired(g) {
			g, fresh = randomNumber(), true
		}
		if fresh {
			seq, err := l.writeGeneration(ctx, g, at)
			if isWrongSequence(err) {
				continue // another node was faster
			}
			if err != nil {
				return err
			}
			last = max(last, seq)
			if purged && l.o.Events.StreamPurged != nil {
				l.o.Events.StreamPurged(l.names.stream())
			}
		}
		if g != announced {
			config := info.Config
			config.RePublish = &jetstream.RePublish{Source: l.names.allStored(), Destination: l.names.liveAll(g)}
			if err := l.updateStream(ctx, config); err != nil {
				return fmt.Errorf("cannot change the generation in the settings of stream %s: %w", config.Name, err)
			}
		}
		before, ok := l.epoch.begin(g, last, info.Created)
		if !ok {
			continue
		}
		if before != g && before != 0 {
			if l.o.Events.GenerationChanged != nil {
				l.o.Events.GenerationChanged(before, g)
			}
			l.generationChanged()
		}
		return nil
	}
}

func (l *link) updateStream(ctx context.Context, c jetstream.StreamConfig) error {
	ctx, cancel := l.request(ctx, changeTimeout)
	defer cancel()
	_, err := l.js.UpdateStream(ctx, c)
	return err
}

// wasRetired reports whether g was the generation before.
func (e *epoch) wasRetired(g uint64) bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	_, was := e.retired[g]
	return was
}

// readGeneration reads the record of the generation at the stream's leader; at is its
// sequence number, 0 if there is none. If the record cannot be read, g is 0; but a node
// that starts does not touch a record of a later release.
func (l *link) readGeneration(ctx context.Context) (g, at uint64, err error) {
	m, err := l.readAtLeader(ctx, l.names.stream(), l.names.generation())
	if err != nil || m == nil {
		return 0, 0, err
	}
	g, err = parseGenerationRecord(m.data)
	if err != nil && (errors.Is(err, ErrNoRecord) || l.epoch.current() != 0) {
		l.unreadable("generation", "", m.seq, err)
		return 0, m.seq, nil
	}
	return g, m.seq, err
}

// writeGeneration writes the record of the generation, if the one that is there
// has the sequence number at.
func (l *link) writeGeneration(ctx context.Context, g, at uint64) (seq uint64, err error) {
	m := natsgo.NewMsg(l.names.generation())
	m.Data = appendGeneration(nil, g)
	ctx, cancel := l.request(ctx, readTimeout)
	defer cancel()
	ack, err := l.js.PublishMsg(ctx, m, jetstream.WithExpectLastSequencePerSubject(at))
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

// record is a message of a stream.
type record struct {
	subject string
	seq     uint64
	header  natsgo.Header
	data    []byte
}

// readAtLeader reads the last message of a subject at the leader of a stream; nil
// if there is none.
func (l *link) readAtLeader(ctx context.Context, stream, subject string) (*record, error) {
	request, err := json.Marshal(struct {
		LastFor string `json:"last_by_subj"`
	}{subject})
	if err != nil {
		return nil, err
	}
	soon, cancel := l.request(ctx, infoTimeout)
	defer cancel()
	reply, err := l.nc.RequestWithContext(soon, "$JS.API.STREAM.MSG.GET."+stream, request)
	if err != nil {
		return nil, err
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message *struct {
			Subject string `json:"subject"`
			Seq     uint64 `json:"seq"`
			Header  []byte `json:"hdrs"`
			Data    []byte `json:"data"`
		} `json:"message"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return nil, fmt.Errorf("reading a message of stream %s: %w", stream, err)
	}
	switch {
	case answer.Error != nil && answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return nil, nil
	case answer.Error != nil:
		return nil, answer.Error
	case answer.Message == nil:
		return nil, fmt.Errorf("reading a message of stream %s: %w", stream, errStale)
	}
	m := answer.Message
	r := &record{subject: m.Subject, seq: m.Seq, data: m.Data}
	if len(m.Header) > 0 {
		if r.header, err = natsgo.DecodeHeadersMsg(m.Header); err != nil {
			return nil, err
		}
	}
	return r, nil
}
