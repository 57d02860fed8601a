package nats

import (
	"errors"
	"sync"

	"pubsub"
	"pubsub/internal/backplane/nats/layout"

	"github.com/nats-io/nats.go/jetstream"
)

var (
	// ErrMissing reports that a stream that a broker needs is missing in NATS.
	ErrMissing = errors.New("missing in NATS")
	// ErrNoJetStream reports that JetStream is disabled for the broker's account.
	ErrNoJetStream = errors.New("JetStream is not enabled for the account")
)

// Fault describes a problem with a stream of the broker in NATS. It is a
// [pubsub.ErrUnavailable], because everything works again as soon as the problem is solved.
type Fault struct {
	// Event names the fault in a few constant words.
	Event string
	// Stream is the name of the stream.
	Stream string
	// Err is [ErrMissing], [ErrNoJetStream], a [*SettingsError], or the reason why the stream
	// does not answer.
	Err error
	// Action says what an operator must do, or what a node does by itself.
	Action string
}

func (f *Fault) Error() string { return "stream " + f.Stream + ": " + f.Err.Error() }

// Unwrap makes the error a [pubsub.ErrUnavailable].
func (f *Fault) Unwrap() []error { return []error{pubsub.ErrUnavailable, f.Err} }

// restoreKeys is the advice for a lost bucket of signing keys.
const restoreKeys = "restore the bucket from a backup with `nats stream restore`; or, if the keys are lost for good, make an empty one with `pubsub cluster make-key-bucket`"

// diagnose returns the fault that an answer about a stream with the required settings want
// shows. It returns nil if there is none, or if err may be transient.
func diagnose(n layout.Names, want *jetstream.StreamConfig, info *jetstream.StreamInfo, err error) *Fault {
	f := &Fault{Stream: want.Name}
	var api *jetstream.APIError
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		f.Event, f.Err = "stream missing in NATS", ErrMissing
		f.Action = "none: a node recreates it; the retained messages are lost until they are published again"
		if want.Name == n.KeyStream() {
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
		found := layout.Differences(n, want, &info.Config, 0)
		if len(found) == 0 {
			return nil
		}
		f.Event, f.Err = "stream settings unusable in NATS", &SettingsError{Differences: found}
		f.Action = "set the values that `pubsub cluster check` shows"
	}
	return f
}

// faults are the present faults of the broker's streams. The guard maintains them.
type faults struct {
	// suspected has one slot, which is full if the guard must check the streams at once.
	suspected chan struct{}

	mu       sync.Mutex
	byStream map[string]*Fault // guarded by mu
}

func newFaults() *faults {
	return &faults{suspected: make(chan struct{}, 1), byStream: map[string]*Fault{}}
}

// suspect makes the guard check the streams at once, because one may have a fault, or no longer.
func (f *faults) suspect() { notify(f.suspected) }

// set records the fault of a stream. A nil fault removes it.
func (f *faults) set(stream string, fault *Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fault == nil {
		delete(f.byStream, stream)
	} else {
		f.byStream[stream] = fault
	}
}

// of returns the fault of a stream, or nil.
func (f *faults) of(stream string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fault := f.byStream[stream]; fault != nil {
		return fault
	}
	return nil
}

func (f *faults) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.byStream)
}
