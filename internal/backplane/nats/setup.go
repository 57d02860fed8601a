package nats

import (
	"context"
	"errors"
	"fmt"
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
		l.waits(fmt.Errorf("waiting for NATS: %w", err))
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

// makeStreams makes the streams that are missing, and checks those that are there.
func (l *link) makeStreams(ctx context.Context) error {
	var found []Difference
	for _, want := range []jetstream.StreamConfig{
		retainedSettings(l.names, randomNumber(), l.o.Replicas),
		keysSettings(l.names, l.o.Replicas),
	} {
		have, err := l.infoOf(ctx, want.Name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			if err := l.makeStream(ctx, want); err != nil {
				return fmt.Errorf("cannot make stream %s: %w", want.Name, err)
			}
			have, err = l.infoOf(ctx, want.Name)
		}
		if err != nil {
			return fmt.Errorf("cannot look at stream %s: %w", want.Name, err)
		}
		found = append(found, differences(l.names, &want, &have.Config, l.o.Replicas)...)
	}
	if len(found) > 0 {
		return &SettingsError{found}
	}
	return nil
}

// codeNoReplicas is JetStream's error for more than one replica on a server that
// is in no cluster.
const codeNoReplicas = 10074

// makeStream makes a stream, with three replicas if their number is not set and
// there is a cluster. It is no error if another node was faster.
func (l *link) makeStream(ctx context.Context, c jetstream.StreamConfig) error {
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
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		return nil
	}
	return err
}

// Check compares what a broker with the settings o has in NATS with what it must
// be, without changing anything; what is missing, and would be made at start, is
// no difference. The error says why that cannot be told, or that the server cannot
// be used ([ErrServer]).
func Check(ctx context.Context, o Options) ([]Difference, error) {
	setDefaults(&o)
	options, err := connectOptions(&o)
	if err != nil {
		return nil, err
	}
	l := newLink(o)
	l.missed = func(string) {}
	if err := l.connect(options); err != nil {
		return nil, err
	}
	defer func() {
		l.end()
		l.nc.Close()
	}()
	ctx, cancel := l.bound(ctx)
	defer cancel()
	if err := l.awaitConnection(ctx); err != nil {
		return nil, err
	}
	if err := checkServer(l.nc.ConnectedServerVersion(), l.nc.MaxPayload(), o.MaxMessageSize); err != nil {
		return nil, err
	}
	var found []Difference
	for _, want := range []jetstream.StreamConfig{retainedSettings(l.names, 1, o.Replicas), keysSettings(l.names, o.Replicas)} {
		have, err := l.infoOf(ctx, want.Name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot look at stream %s: %w", want.Name, err)
		}
		found = append(found, differences(l.names, &want, &have.Config, o.Replicas)...)
	}
	return found, nil
}
