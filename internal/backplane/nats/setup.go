package nats

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// setUpTimeout bounds one attempt to set up.
const setUpTimeout = 10 * time.Second

// setUp makes in NATS what is missing there, then closes ready. It tries until it
// succeeds, or finds something that only an operator can change.
func (l *link) setUp() {
	defer close(l.ready)
	for {
		ctx, cancel := context.WithTimeout(l.life, setUpTimeout)
		err := l.setUpOnce(ctx)
		cancel()
		switch {
		case err == nil || l.life.Err() != nil:
			return
		case errors.Is(err, ErrSettings), errors.Is(err, ErrServer), errors.Is(err, ErrNewerFormat), errors.Is(err, ErrNoRecord):
			l.mu.Lock()
			l.failed = err
			l.mu.Unlock()
			return
		}
		l.waits(err)
		if !pause(l.life, 200*time.Millisecond) {
			return
		}
	}
}

func (l *link) setUpOnce(ctx context.Context) error {
	if err := l.awaitConnection(ctx); err != nil {
		return err
	}
	if err := checkServer(l.nc.ConnectedServerVersion(), l.nc.MaxPayload(), l.o.MaxMessageSize); err != nil {
		return err
	}
	if err := l.makeStreams(ctx); err != nil {
		return err
	}
	return l.renew(ctx, false)
}

// makeStreams makes the streams that are missing, and checks those that are there. It
// never recreates a lost bucket of signing keys, because that would hide the loss of the
// keys.
func (l *link) makeStreams(ctx context.Context) error {
	retained := retainedSettings(l.names, randomNumber(), l.o.Replicas)
	keys := keysSettings(l.names, l.o.Replicas)
	// The bucket is created before the stream of retained messages and checked after it.
	// So if the stream exists without the bucket, the bucket was lost.
	haveRetained, err := l.existing(ctx, retained.Name)
	if err != nil {
		return err
	}
	// If neither exists but a node runs, both were lost.
	lost := haveRetained != nil || l.othersRun(ctx)
	haveKeys, err := l.existing(ctx, keys.Name)
	if err != nil {
		return err
	}
	switch {
	case haveKeys == nil && lost:
		l.setFault(keys.Name, l.judge(&keys, nil, jetstream.ErrStreamNotFound))
		l.doubt()
	case haveKeys == nil:
		if haveKeys, err = l.makeStream(ctx, keys); err != nil {
			return err
		}
	}
	if haveRetained == nil {
		if haveRetained, err = l.makeStream(ctx, retained); err != nil {
			return err
		}
	}
	found := differences(l.names, &retained, &haveRetained.Config, l.o.Replicas)
	if haveKeys != nil {
		found = append(found, differences(l.names, &keys, &haveKeys.Config, l.o.Replicas)...)
	}
	if len(found) > 0 {
		return &SettingsError{found}
	}
	return nil
}

// othersRun reports whether another node of this broker runs. Such a node has created or
// found both streams.
func (l *link) othersRun(ctx context.Context) bool {
	ctx, cancel := l.request(ctx, replyWithin)
	defer cancel()
	_, err := l.nc.RequestWithContext(ctx, l.names.control(), appendControl(nil, l.node, 0, controlWho, nil))
	return err == nil
}

// existing returns the state of a stream, or nil if it is missing.
func (l *link) existing(ctx context.Context, stream string) (*jetstream.StreamInfo, error) {
	info, err := l.infoOf(ctx, stream)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("cannot look at stream %s: %w", stream, err)
	}
	return info, nil
}

// codeNoReplicas is JetStream's error for more than one replica on a server that
// is in no cluster.
const codeNoReplicas = 10074

// makeStream makes a stream, with three replicas if their number is not set and there is
// a cluster, and returns its state. It is not an error if another node was faster.
func (l *link) makeStream(ctx context.Context, c jetstream.StreamConfig) (*jetstream.StreamInfo, error) {
	// The difference makes JetStream refuse the second of two nodes that create the
	// stream. Otherwise each would take itself for the creator.
	c.Metadata = map[string]string{"pubsub-made-by": strconv.FormatUint(l.node, 16)}
	err := l.create(ctx, c)
	switch {
	case errors.Is(err, jetstream.ErrStreamNameAlreadyInUse):
	case err != nil:
		return nil, fmt.Errorf("cannot make stream %s: %w", c.Name, err)
	case l.o.Events.StreamCreated != nil:
		l.o.Events.StreamCreated(c.Name)
	}
	info, err := l.infoOf(ctx, c.Name)
	if err != nil {
		return nil, fmt.Errorf("cannot look at stream %s: %w", c.Name, err)
	}
	return info, nil
}

func (l *link) create(ctx context.Context, c jetstream.StreamConfig) error {
	ctx, cancel := l.request(ctx, changeTimeout)
	defer cancel()
	chosen := c.Replicas != 0
	if !chosen {
		c.Replicas = 3
	}
	_, err := l.js.CreateStream(ctx, c)
	var api *jetstream.APIError
	if !chosen && errors.As(err, &api) && api.ErrorCode == codeNoReplicas {
		c.Replicas = 1
		_, err = l.js.CreateStream(ctx, c)
	}
	return err
}

// Check compares what a broker with the settings o has in NATS with what it must be,
// without changing anything. Before the first start neither stream exists: none is then
// true, and there is no difference. The error says why the comparison failed, or that the
// server is unusable ([ErrServer]).
func Check(ctx context.Context, o Options) (found []Difference, none bool, err error) {
	err = briefly(ctx, o, func(ctx context.Context, l *link) error {
		retained, keys := retainedSettings(l.names, 1, l.o.Replicas), keysSettings(l.names, l.o.Replicas)
		missing := 0
		for _, want := range []struct {
			jetstream.StreamConfig
			fix string
		}{
			{retained, "nothing: a node that runs or starts recreates it; the retained messages are lost until they are published again"},
			{keys, restoreKeys},
		} {
			have, err := l.existing(ctx, want.Name)
			switch {
			case err != nil:
				return err
			case have == nil:
				missing++
				found = append(found, Difference{Stream: want.Name, Setting: "stream", Want: "there", Have: "missing", Fix: want.fix})
			default:
				found = append(found, differences(l.names, &want.StreamConfig, &have.Config, l.o.Replicas)...)
			}
		}
		if none = missing == 2; none {
			found = nil
		}
		return nil
	})
	return found, none, err
}

// ErrBucketExists reports that the bucket of signing keys is not missing.
var ErrBucketExists = errors.New("the bucket of signing keys exists")

// MakeKeyBucket recreates a lost bucket of signing keys, without any key. Running nodes
// notice it, and end the connections that the lost keys have admitted. The error is
// [ErrBucketExists] if the bucket is not missing.
func MakeKeyBucket(ctx context.Context, o Options) error {
	return briefly(ctx, o, func(ctx context.Context, l *link) error {
		keys := keysSettings(l.names, l.o.Replicas)
		switch have, err := l.existing(ctx, keys.Name); {
		case err != nil:
			return err
		case have != nil:
			return ErrBucketExists
		}
		return l.create(ctx, keys)
	})
}

// briefly connects to NATS with the options o while f runs.
func briefly(ctx context.Context, o Options, f func(context.Context, *link) error) error {
	setDefaults(&o)
	options, err := connectOptions(&o)
	if err != nil {
		return err
	}
	l := newLink(o)
	l.missed = func(string) {}
	if err := l.connect(options); err != nil {
		return err
	}
	defer func() {
		l.end()
		l.nc.Close()
	}()
	ctx, cancel := l.bound(ctx)
	defer cancel()
	if err := l.awaitConnection(ctx); err != nil {
		return err
	}
	if err := checkServer(l.nc.ConnectedServerVersion(), l.nc.MaxPayload(), o.MaxMessageSize); err != nil {
		return err
	}
	return f(ctx, l)
}
