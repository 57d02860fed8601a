package nats

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"pubsub"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// lookEvery is the time between two checks of the broker's streams in NATS; it varies
	// by a tenth.
	lookEvery = 2 * time.Second
	// lookLeast is the pause after a check, however many hints arrive meanwhile.
	lookLeast = 100 * time.Millisecond
	// silentAfter is how long a stream may give no answer before that is a fault. The
	// election of a leader takes up to 9 s.
	silentAfter = 10 * time.Second
	// reportAgain is the time between two reports of a lasting fault.
	reportAgain = time.Minute
)

var (
	// ErrMissing reports that a stream that a broker needs is missing in NATS.
	ErrMissing = errors.New("missing in NATS")
	// ErrNoJetStream reports that JetStream is disabled for the broker's account.
	ErrNoJetStream = errors.New("JetStream is not enabled for the account")
)

// Fault describes a problem with a stream of the broker in NATS. It is a
// [pubsub.ErrUnavailable], because everything works again as soon as the problem is
// solved.
type Fault struct {
	// Event names the fault in a few constant words.
	Event string
	// Stream is the name of the stream.
	Stream string
	// Err is [ErrMissing], [ErrNoJetStream], a [*SettingsError], or the reason why
	// the stream gives no answer.
	Err error
	// Action says what an operator must do, or what a node does by itself.
	Action string
}

func (f *Fault) Error() string { return "stream " + f.Stream + ": " + f.Err.Error() }

// Unwrap makes the error a [pubsub.ErrUnavailable].
func (f *Fault) Unwrap() []error { return []error{pubsub.ErrUnavailable, f.Err} }

// guard checks the two streams of the broker every lookEvery. It reports each fault of a
// stream, makes all calls that need the stream return it, and starts the repair.
type guard struct {
	// immutable
	link *link

	// owned by run's goroutine
	retained, keys guarded
}

// guarded is the guard's state of one stream.
type guarded struct {
	want     jetstream.StreamConfig
	born     time.Time // when it was created
	last     uint64    // its last sequence number
	subjects uint64    // how many subjects it had messages of
	conn     uint64    // the connection in use, as link.reconnects counts them
	silent   time.Time // when it stopped answering on conn; zero if it answers
	began    time.Time // when the present fault began; zero if there is none
	reported time.Time // when that fault was reported last
	event    string    // its Event
}

func newGuard(l *link) *guard {
	return &guard{
		link:     l,
		retained: guarded{want: retainedSettings(l.names, 1, 0)},
		keys:     guarded{want: keysSettings(l.names, 0)},
	}
}

// run checks the streams from the end of the setup until Close.
func (g *guard) run() {
	l := g.link
	select {
	case <-l.ready:
	case <-l.life.Done():
		return
	}
	if l.await(l.life) != nil {
		return
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-l.life.Done():
			return
		case <-l.doubted:
		case <-timer.C:
		}
		if l.isUp() {
			g.lookAtRetained()
			g.lookAtKeys()
			if l.o.looked != nil {
				l.o.looked()
			}
		}
		if !pause(l.life, lookLeast) {
			return
		}
		d := l.o.lookEvery
		if l.faultCount() > 0 || !g.retained.silent.IsZero() || !g.keys.silent.IsZero() {
			d = min(d, lookEvery)
		}
		timer.Reset(d - d/10 + rand.N(d/5))
	}
}

// look requests the state of a stream, and sets and reports its fault. It returns nil if
// the state is unknown or there is a fault.
func (g *guard) look(one *guarded) *jetstream.StreamInfo {
	l := g.link
	conn := l.reconnects.Load()
	if conn != one.conn { // silence on an earlier connection says nothing about this one
		one.conn, one.silent = conn, time.Time{}
	}
	info, err := l.infoOf(l.life, one.want.Name)
	if l.life.Err() != nil || !l.isUp() || err != nil && l.reconnects.Load() != conn {
		one.silent = time.Time{}
		return nil // the loss of the connection has its own report
	}
	fault := l.judge(&one.want, info, err)
	switch {
	case fault != nil:
		one.silent = time.Time{}
	case err != nil:
		if one.silent.IsZero() {
			one.silent = time.Now()
		}
		silent := time.Since(one.silent)
		if silent < silentAfter {
			return nil // an earlier fault remains
		}
		fault = &Fault{
			Event: "stream unavailable in NATS", Stream: one.want.Name,
			Err:    fmt.Errorf("no answer for %v: %w", silent.Round(time.Second), err),
			Action: "check the NATS servers: most of those that keep the stream must run and reach each other",
		}
	default:
		one.silent = time.Time{}
	}
	l.setFault(one.want.Name, fault)
	g.report(one, fault)
	if fault != nil {
		return nil
	}
	return info
}

// report reports a fault when it begins, every reportAgain while it lasts, and when it is
// over.
func (g *guard) report(one *guarded, fault *Fault) {
	events, now := &g.link.o.Events, time.Now()
	switch {
	case fault == nil && one.began.IsZero():
		return
	case fault == nil:
		lasted := now.Sub(one.began)
		one.began, one.reported = time.Time{}, time.Time{}
		if events.Recovered != nil {
			events.Recovered(one.want.Name, lasted)
		}
		return
	case one.began.IsZero():
		one.began = now
	case fault.Event == one.event && now.Sub(one.reported) < reportAgain:
		return
	}
	one.reported, one.event = now, fault.Event
	if events.Fault != nil {
		events.Fault(fault)
	}
}

// lookAtRetained checks the stream of retained messages. The sweeper recreates a missing
// stream.
func (g *guard) lookAtRetained() {
	l := g.link
	seen, hadFault := l.epoch.seen.Load(), l.fault(l.names.stream()) != nil
	info := g.look(&g.retained)
	switch {
	case info == nil:
		if errors.Is(l.fault(l.names.stream()), ErrMissing) {
			l.missed("the stream is missing")
		}
	case l.isAnother(info), info.State.Msgs == 0:
		// A stream without any message has lost even the record of its generation.
		ctx, cancel := context.WithTimeout(l.life, changeTimeout)
		defer cancel()
		if err := l.renew(ctx, false); err != nil && !passing(err) {
			l.report("generation change failed", err)
		}
		l.missed("another stream")
	case hadFault:
		l.missed("the stream works again")
	case info.State.LastSeq < seen:
		l.missed("the stream was longer before")
	}
}

// lookAtKeys checks the bucket of signing keys. All keys are read again if the bucket may
// have been recreated, restored or purged.
func (g *guard) lookAtKeys() {
	l, one := g.link, &g.keys
	hadFault := l.fault(one.want.Name) != nil
	info := g.look(one)
	if info == nil {
		return
	}
	replaced := false
	if isLed(info.Cluster) { // otherwise the numbers may be old
		replaced = !one.born.IsZero() && (!info.Created.Equal(one.born) ||
			info.State.LastSeq < one.last || info.State.NumSubjects < one.subjects)
		one.born, one.last, one.subjects = info.Created, info.State.LastSeq, info.State.NumSubjects
	}
	if replaced && l.o.Events.KeysReplaced != nil {
		l.o.Events.KeysReplaced(one.want.Name)
	}
	if hadFault || replaced {
		l.keysChanged.kick()
	}
}

// judge returns the fault that an answer about a stream shows. It returns nil if there is
// none, or if err may be transient.
func (l *link) judge(want *jetstream.StreamConfig, info *jetstream.StreamInfo, err error) *Fault {
	f := &Fault{Stream: want.Name}
	var api *jetstream.APIError
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		f.Event, f.Err = "stream missing in NATS", ErrMissing
		f.Action = "none: a node recreates it; the retained messages are lost until they are published again"
		if want.Name == l.names.keysStream() {
			f.Event, f.Action = "key bucket missing in NATS", restoreKeys
		}
	case errors.As(err, &api) &&
		(api.ErrorCode == jetstream.JSErrCodeJetStreamNotEnabled || api.ErrorCode == jetstream.JSErrCodeJetStreamNotEnabledForAccount):
		f.Event, f.Err = "JetStream disabled in NATS", ErrNoJetStream
		f.Action = "enable JetStream for the account of the broker"
	case err != nil:
		return nil
	default:
		// The operator may change the number of replicas while nodes run.
		found := differences(l.names, want, &info.Config, 0)
		if len(found) == 0 {
			return nil
		}
		f.Event, f.Err = "stream settings unusable in NATS", &SettingsError{found}
		f.Action = "put the settings right, as `pubsub cluster check` shows them"
	}
	return f
}

// restoreKeys is the advice for a lost bucket of signing keys.
const restoreKeys = "restore the bucket from a backup with `nats stream restore`; or, if the keys are lost for good, make an empty one with `pubsub cluster make-key-bucket`"

// setFault makes all calls that need the stream return f, which may be nil.
func (l *link) setFault(stream string, f *Fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if f == nil {
		delete(l.faults, stream)
	} else {
		l.faults[stream] = f
	}
}

// fault returns the known fault of a stream, or nil.
func (l *link) fault(stream string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if f := l.faults[stream]; f != nil {
		return f
	}
	return nil
}

func (l *link) faultCount() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.faults)
}

// doubt makes the guard check at once, because an answer has shown that a stream may be
// missing.
func (l *link) doubt() { kick(l.doubted) }
