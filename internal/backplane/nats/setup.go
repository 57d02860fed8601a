package nats

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"pubsub/internal/backplane/nats/layout"

	"github.com/nats-io/nats.go/jetstream"
)

// Errors that [layout] defines and calls of this package return.
var (
	// ErrSettings reports a stream in NATS with settings that a broker cannot use. See
	// [SettingsError].
	ErrSettings = layout.ErrSettings
	// ErrServer reports a NATS server that is too old, or whose max_payload is too small.
	ErrServer = layout.ErrServer
)

type (
	// Difference is a setting of a stream in NATS that differs from the required value.
	Difference = layout.Difference
	// SettingsError is an [ErrSettings] that lists every difference.
	SettingsError = layout.SettingsError
)

// setUpTimeout bounds one attempt to set up the broker in NATS.
const setUpTimeout = 10 * time.Second

// setUp creates the missing streams and finds out the generation, then closes ready. It retries
// until it succeeds, fails with an error that only an operator can remove, or Close begins.
func (s *stream) setUp() {
	c := s.client
	defer close(c.ready)
	for {
		ctx, cancel := context.WithTimeout(c.life, setUpTimeout)
		err := s.setUpOnce(ctx)
		cancel()
		switch {
		case err == nil || c.life.Err() != nil:
			return
		case errors.Is(err, ErrSettings), errors.Is(err, ErrServer), errors.Is(err, layout.ErrNewerFormat), errors.Is(err, layout.ErrForeign):
			c.mu.Lock()
			c.failed = err
			c.mu.Unlock()
			return
		}
		c.reportWaiting(err)
		if !sleep(c.life, 200*time.Millisecond) {
			return
		}
	}
}

func (s *stream) setUpOnce(ctx context.Context) error {
	c := s.client
	if err := c.awaitConnection(ctx); err != nil {
		return err
	}
	if err := layout.CheckServer(c.nc.ConnectedServerVersion(), c.nc.MaxPayload(), c.o.MaxMessageSize); err != nil {
		return err
	}
	if err := c.ensureStreams(ctx); err != nil {
		return err
	}
	return s.renew(ctx, false)
}

// ensureStreams creates missing streams, and checks the settings of the existing ones. It never
// recreates a lost bucket of signing keys, because that would hide the loss of the keys.
func (c *client) ensureStreams(ctx context.Context) error {
	retained := layout.RetainedStream(c.names, randomNumber(), c.o.Replicas)
	keys := layout.KeyStream(c.names, c.o.Replicas)
	// The bucket is created before the stream of retained messages and checked after it. So if
	// the stream exists without the bucket, the bucket was lost.
	haveRetained, err := c.existing(ctx, retained.Name)
	if err != nil {
		return err
	}
	// If neither exists but a node runs, both were lost.
	lost := haveRetained != nil || c.otherNodesRun(ctx)
	haveKeys, err := c.existing(ctx, keys.Name)
	if err != nil {
		return err
	}
	switch {
	case haveKeys == nil && lost:
		c.faults.set(keys.Name, diagnose(c.names, &keys, nil, jetstream.ErrStreamNotFound))
		c.faults.suspect()
	case haveKeys == nil:
		if haveKeys, err = c.ensureStream(ctx, keys); err != nil {
			return err
		}
	}
	if haveRetained == nil {
		if haveRetained, err = c.ensureStream(ctx, retained); err != nil {
			return err
		}
	}
	found := layout.Differences(c.names, &retained, &haveRetained.Config, c.o.Replicas)
	if haveKeys != nil {
		found = append(found, layout.Differences(c.names, &keys, &haveKeys.Config, c.o.Replicas)...)
	}
	if len(found) > 0 {
		return &SettingsError{Differences: found}
	}
	return nil
}

// otherNodesRun reports whether another node of this broker runs. Such a node has created or found
// both streams.
func (c *client) otherNodesRun(ctx context.Context) bool {
	ctx, cancel := c.request(ctx, replyTimeout)
	defer cancel()
	hello := layout.AppendControl(nil, layout.Control{Node: c.node, Kind: controlWho})
	_, err := c.nc.RequestWithContext(ctx, c.names.Control(), hello)
	return err == nil
}

// existing returns the state of a stream, or nil if it is missing.
func (c *client) existing(ctx context.Context, stream string) (*jetstream.StreamInfo, error) {
	info, err := c.streamInfo(ctx, stream)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("cannot read the state of stream %s: %w", stream, err)
	}
	return info, nil
}

// ensureStream creates a stream, unless another node is faster, and returns its state.
func (c *client) ensureStream(ctx context.Context, config jetstream.StreamConfig) (*jetstream.StreamInfo, error) {
	// The difference makes JetStream refuse the second of two nodes that create the stream.
	// Otherwise each would report that it has created it.
	config.Metadata = map[string]string{"pubsub-made-by": strconv.FormatUint(c.node, 16)}
	err := c.createStream(ctx, config)
	switch {
	case errors.Is(err, jetstream.ErrStreamNameAlreadyInUse):
	case err != nil:
		return nil, fmt.Errorf("cannot create stream %s: %w", config.Name, err)
	case c.o.Events.StreamCreated != nil:
		c.o.Events.StreamCreated(config.Name)
	}
	info, err := c.streamInfo(ctx, config.Name)
	if err != nil {
		return nil, fmt.Errorf("cannot read the state of stream %s: %w", config.Name, err)
	}
	return info, nil
}

// codeNoReplicas is JetStream's error for more than one replica on a server without a cluster.
const codeNoReplicas = 10074

// createStream creates a stream. If the number of replicas is 0, it is 3 in a cluster, else 1.
func (c *client) createStream(ctx context.Context, config jetstream.StreamConfig) error {
	ctx, cancel := c.request(ctx, changeTimeout)
	defer cancel()
	automatic := config.Replicas == 0
	if automatic {
		config.Replicas = 3
	}
	_, err := c.js.CreateStream(ctx, config)
	var api *jetstream.APIError
	if automatic && errors.As(err, &api) && api.ErrorCode == codeNoReplicas {
		config.Replicas = 1
		_, err = c.js.CreateStream(ctx, config)
	}
	return err
}

// Check compares the streams of the broker that o describes with the required settings, and
// changes nothing. Before the first start neither stream exists, which none reports. The error
// says why the comparison failed, or that the server is unusable ([ErrServer]).
func Check(ctx context.Context, o Options) (found []Difference, none bool, err error) {
	err = withClient(ctx, o, func(ctx context.Context, c *client) error {
		missing := 0
		for _, want := range []struct {
			jetstream.StreamConfig
			fix string
		}{
			{
				layout.RetainedStream(c.names, 1, c.o.Replicas),
				"nothing: a node that runs or starts recreates it; the retained messages are lost until they are published again",
			},
			{layout.KeyStream(c.names, c.o.Replicas), restoreKeys},
		} {
			have, err := c.existing(ctx, want.Name)
			switch {
			case err != nil:
				return err
			case have == nil:
				missing++
				found = append(found, Difference{Stream: want.Name, Setting: "stream", Want: "there", Have: "missing", Fix: want.fix})
			default:
				found = append(found, layout.Differences(c.names, &want.StreamConfig, &have.Config, c.o.Replicas)...)
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

// MakeKeyBucket recreates a lost bucket of signing keys, without any key. Running nodes notice
// it, and end the connections that the lost keys have admitted. The error is [ErrBucketExists]
// if the bucket is not missing.
func MakeKeyBucket(ctx context.Context, o Options) error {
	return withClient(ctx, o, func(ctx context.Context, c *client) error {
		keys := layout.KeyStream(c.names, c.o.Replicas)
		switch have, err := c.existing(ctx, keys.Name); {
		case err != nil:
			return err
		case have != nil:
			return ErrBucketExists
		}
		return c.createStream(ctx, keys)
	})
}

// withClient connects to NATS with the options o, calls f, and disconnects.
func withClient(ctx context.Context, o Options, f func(context.Context, *client) error) error {
	setDefaults(&o)
	options, err := connectOptions(&o)
	if err != nil {
		return err
	}
	c := newClient(o)
	if err := c.connect(options); err != nil {
		return err
	}
	defer func() {
		c.end()
		c.nc.Close()
	}()
	ctx, cancel := c.bound(ctx)
	defer cancel()
	if err := c.awaitConnection(ctx); err != nil {
		return err
	}
	if err := layout.CheckServer(c.nc.ConnectedServerVersion(), c.nc.MaxPayload(), o.MaxMessageSize); err != nil {
		return err
	}
	return f(ctx, c)
}
