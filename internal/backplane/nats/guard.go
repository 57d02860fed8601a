package nats

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"pubsub/internal/backplane/nats/layout"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// checkInterval is the time between two checks of the broker's streams in NATS; it varies
	// by a tenth.
	checkInterval = 2 * time.Second
	// checkPause is the pause after a check, however many requests for one arrive meanwhile.
	checkPause = 100 * time.Millisecond
	// silentAfter is how long a stream may give no answer before that is a fault. The election
	// of a leader takes up to 9 s.
	silentAfter = 10 * time.Second
	// reportInterval is the time between two reports of a lasting fault.
	reportInterval = time.Minute
)

// guard checks the two streams of the broker every checkInterval. It reports each fault of a
// stream, makes all calls that need the stream return it, and starts the repair.
type guard struct {
	// immutable
	client       *client
	stream       *stream
	keysReplaced *listeners // notified when all keys must be read again

	// owned by run's goroutine
	retained, keys streamState
}

// streamState is the guard's state of one stream.
type streamState struct {
	want     jetstream.StreamConfig
	created  time.Time
	last     uint64    // its last sequence number
	subjects uint64    // the number of its subjects with messages
	conn     uint64    // the connection in use, as client.reconnects counts them
	silent   time.Time // when it stopped answering on conn; zero if it answers
	began    time.Time // when the present fault began; zero if there is none
	reported time.Time // when that fault was last reported
	event    string    // the Event of that fault
}

func newGuard(s *stream) *guard {
	names := s.client.names
	return &guard{
		client:       s.client,
		stream:       s,
		keysReplaced: newListeners(),
		retained:     streamState{want: layout.RetainedStream(names, 1, 0)},
		keys:         streamState{want: layout.KeyStream(names, 0)},
	}
}

// run checks the streams from the end of setUp until Close.
func (g *guard) run() {
	c := g.client
	select {
	case <-c.ready:
	case <-c.life.Done():
		return
	}
	if c.await(c.life) != nil {
		return
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-c.life.Done():
			return
		case <-c.faults.suspected:
		case <-timer.C:
		}
		if c.isUp() {
			g.checkRetained()
			g.checkKeys()
			if c.o.checked != nil {
				c.o.checked()
			}
		}
		if !sleep(c.life, checkPause) {
			return
		}
		d := c.o.checkInterval
		if c.faults.count() > 0 || !g.retained.silent.IsZero() || !g.keys.silent.IsZero() {
			d = min(d, checkInterval)
		}
		timer.Reset(d - d/10 + rand.N(d/5))
	}
}

// check requests the state of a stream, and sets and reports its fault. A fault ends only if adopt
// accepts the state. check returns nil if the state is unknown, refused or a fault.
func (g *guard) check(st *streamState, adopt func(*jetstream.StreamInfo) bool) *jetstream.StreamInfo {
	c := g.client
	conn := c.reconnects.Load()
	if conn != st.conn { // silence on an earlier connection says nothing about this one
		st.conn, st.silent = conn, time.Time{}
	}
	info, err := c.streamInfo(c.life, st.want.Name)
	if c.life.Err() != nil || !c.isUp() || err != nil && c.reconnects.Load() != conn {
		st.silent = time.Time{}
		return nil // the loss of the connection has its own report
	}
	fault := diagnose(c.names, &st.want, info, err)
	switch {
	case fault != nil:
		st.silent = time.Time{}
	case err != nil:
		if st.silent.IsZero() {
			st.silent = time.Now()
		}
		silent := time.Since(st.silent)
		if silent < silentAfter {
			return nil // an earlier fault remains
		}
		fault = &Fault{
			Event: "stream unavailable in NATS", Stream: st.want.Name,
			Err:    fmt.Errorf("no answer for %v: %w", silent.Round(time.Second), err),
			Action: "check the NATS servers: most of those that keep the stream must run and reach each other",
		}
	default:
		st.silent = time.Time{}
		if !adopt(info) {
			return nil // an earlier fault remains
		}
	}
	c.faults.set(st.want.Name, fault)
	g.report(st, fault)
	if fault != nil {
		return nil
	}
	return info
}

// report reports a fault when it begins, every reportInterval while it lasts, and when it ends.
func (g *guard) report(st *streamState, fault *Fault) {
	events, now := &g.client.o.Events, time.Now()
	switch {
	case fault == nil && st.began.IsZero():
		return
	case fault == nil:
		lasted := now.Sub(st.began)
		st.began, st.reported = time.Time{}, time.Time{}
		if events.Recovered != nil {
			events.Recovered(st.want.Name, lasted)
		}
		return
	case st.began.IsZero():
		st.began = now
	case fault.Event == st.event && now.Sub(st.reported) < reportInterval:
		return
	}
	st.reported, st.event = now, fault.Event
	if events.Fault != nil {
		events.Fault(fault)
	}
}

// checkRetained checks the stream of retained messages. A resync recreates a missing stream.
func (g *guard) checkRetained() {
	c, s := g.client, g.stream
	seen, hadFault := s.epoch.seen.Load(), c.faults.of(s.name()) != nil
	replaced := false
	info := g.check(&g.retained, func(info *jetstream.StreamInfo) bool {
		// A stream without any message has lost even the record of its generation.
		if replaced = s.isReplaced(info) || info.State.Msgs == 0; !replaced {
			return true
		}
		return g.adoptGeneration()
	})
	switch {
	case replaced:
		c.resyncs.request(causeReplaced)
	case info == nil:
		if errors.Is(c.faults.of(s.name()), ErrMissing) {
			c.resyncs.request(causeMissing)
		}
	case hadFault:
		c.resyncs.request(causeRecovered)
	case info.State.LastSeq < seen:
		c.resyncs.request(causeShorter)
	}
}

// adoptGeneration adopts the generation of the stream. Until then the stream must not be used,
// because its acknowledgements carry no generation: a message would get the earlier one.
func (g *guard) adoptGeneration() (ok bool) {
	ctx, cancel := context.WithTimeout(g.client.life, changeTimeout)
	defer cancel()
	err := g.stream.renew(ctx, false)
	if err != nil && !isTransient(err) {
		g.client.report("generation change failed", err)
	}
	return err == nil
}

// adoptAny accepts every usable state.
func adoptAny(*jetstream.StreamInfo) bool { return true }

// checkKeys checks the bucket of signing keys. All keys are read again if the bucket may have
// been recreated, restored or purged.
func (g *guard) checkKeys() {
	c, st := g.client, &g.keys
	hadFault := c.faults.of(st.want.Name) != nil
	info := g.check(st, adoptAny)
	if info == nil {
		return
	}
	replaced := false
	if leaderHasQuorum(info.Cluster) { // otherwise the numbers may be old
		replaced = !st.created.IsZero() && (!info.Created.Equal(st.created) ||
			info.State.LastSeq < st.last || info.State.NumSubjects < st.subjects)
		st.created, st.last, st.subjects = info.Created, info.State.LastSeq, info.State.NumSubjects
	}
	if replaced && c.o.Events.KeysReplaced != nil {
		c.o.Events.KeysReplaced(st.want.Name)
	}
	if hadFault || replaced {
		g.keysReplaced.notify()
	}
}
