package nats

import (
	"context"
	"errors"
	"fmt"

	"pubsub"
	"pubsub/internal/backplane/nats/layout"

	"github.com/nats-io/nats.go/jetstream"
)

// Health returns nil if the Bus is running, JetStream answers, and both streams exist and are
// usable.
func (b *Backplane) Health(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c := b.client
	bounded, cancel := c.bound(ctx)
	defer cancel()
	if !c.isReady() && c.life.Err() == nil {
		return fmt.Errorf("%w: the broker has not been set up in NATS yet", pubsub.ErrUnavailable)
	}
	if err := c.await(bounded); err != nil {
		return c.callError(ctx, err)
	}
	if !b.bus.isRunning() {
		return pubsub.ErrUnavailable
	}
	if err := b.stream.health(bounded); err != nil {
		return c.callError(ctx, err)
	}
	return c.callError(ctx, b.keyring.health(bounded))
}

// health returns nil if the stream is usable and most of its replicas are in touch.
func (s *stream) health(ctx context.Context) error {
	want := layout.RetainedStream(s.client.names, 1, 0)
	info, err := s.client.usableInfo(ctx, &want)
	if err != nil || leaderHasQuorum(info.Cluster) {
		return err
	}
	if _, err := s.committed(ctx); err != nil {
		return fmt.Errorf("stream %s: %w", want.Name, err)
	}
	return nil
}

// health returns nil if the bucket of signing keys is usable, or does not answer now: the node
// knows the keys, and the guard reports a lasting silence as a fault.
func (k *keyring) health(ctx context.Context) error {
	want := layout.KeyStream(k.client.names, 0)
	_, err := k.client.usableInfo(ctx, &want)
	var fault *Fault
	if err != nil && !errors.As(err, &fault) && isTransient(err) && ctx.Err() == nil {
		return nil
	}
	return err
}

// usableInfo returns the state of a stream. The error is a [*Fault] if the stream has one.
func (c *client) usableInfo(ctx context.Context, want *jetstream.StreamConfig) (*jetstream.StreamInfo, error) {
	if err := c.faults.of(want.Name); err != nil {
		return nil, err
	}
	info, err := c.streamInfo(ctx, want.Name)
	if f := diagnose(c.names, want, info, err); f != nil {
		c.faults.suspect()
		return nil, f
	}
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", want.Name, err)
	}
	return info, nil
}
