package nats

import (
	"context"
	"errors"
	"fmt"
	"time"

	"pubsub"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

var (
	// errNoLeader reports that the replicas of a stream have no leader now.
	errNoLeader = errors.New("the stream has no leader now")
	// errNoQuorum reports that the leader of a stream has not heard from most of its replicas
	// lately, so that another may have been elected.
	errNoQuorum = errors.New("the leader of the stream does not hear from the other servers")
	// errStale reports an answer that is older than the state this node knows.
	errStale = errors.New("no server that has caught up has answered")
)

// transientErrors are the errors that can disappear by themselves.
var transientErrors = []error{
	context.DeadlineExceeded, context.Canceled, natsgo.ErrTimeout, natsgo.ErrNoResponders, natsgo.ErrDisconnected,
	natsgo.ErrConnectionReconnecting, natsgo.ErrReconnectBufExceeded, natsgo.ErrStaleConnection, natsgo.ErrConnectionClosed,
	natsgo.ErrNoServers, jetstream.ErrNoStreamResponse, jetstream.ErrStreamNotFound, jetstream.ErrBucketNotFound,
	natsgo.ErrStreamNotFound, // from a key watch, for which the library uses older calls
	errNoLeader, errNoQuorum, errStale, pubsub.ErrUnavailable,
}

// isTransient reports whether err can disappear by itself.
func isTransient(err error) bool {
	for _, e := range transientErrors {
		if errors.Is(err, e) {
			return true
		}
	}
	var api *jetstream.APIError
	return errors.As(err, &api) && (api.Code == 503 || api.Code == 429)
}

// awaitConnection waits for a connection.
func (c *client) awaitConnection(ctx context.Context) error {
	c.mu.Lock()
	up := c.up
	c.mu.Unlock()
	if isClosed(up) {
		return nil
	}
	select {
	case <-up:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("there is no connection to NATS: %w", context.Cause(ctx))
	}
}

// await waits until the broker has been set up and there is a connection.
func (c *client) await(ctx context.Context) error {
	if c.life.Err() != nil {
		return pubsub.ErrClosed
	}
	if !c.isReady() {
		select {
		case <-c.ready:
		case <-ctx.Done():
			return fmt.Errorf("the broker has not been set up in NATS yet: %w", context.Cause(ctx))
		}
	}
	if err := c.failure(); err != nil {
		return err
	}
	return c.awaitConnection(ctx)
}

// awaitStream is await for a call that needs a stream. It returns the known fault of the stream.
func (c *client) awaitStream(ctx context.Context, stream string) error {
	if err := c.await(ctx); err != nil {
		return err
	}
	return c.faults.of(stream)
}

// bound returns the context of a call, which ends after Options.Wait and when Close begins.
func (c *client) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, c.o.Wait)
	stop := context.AfterFunc(c.life, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

// request returns the context of one request, which ends after d and with the connection: a
// stream without a leader does not answer, and no answer crosses a lost connection.
func (c *client) request(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, d)
	stop := context.AfterFunc(c.connection(), cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

// callError returns the error of a call whose context is ctx and that failed with err: ErrClosed
// after Close, an error that wraps that of ctx if it is done, or else err, which becomes an
// ErrUnavailable if it is transient.
func (c *client) callError(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case c.life.Err() != nil:
		return pubsub.ErrClosed
	case errors.Is(err, ctx.Err()): // false while ctx.Err is nil
		return err // it names what the call was waiting for
	case ctx.Err() != nil:
		return ctx.Err()
	case isTransient(err) && !errors.Is(err, pubsub.ErrUnavailable):
		return fmt.Errorf("%w: %w", pubsub.ErrUnavailable, err)
	}
	return err
}

// retry calls publish while there is a connection, again after each transient error, until ctx
// is done.
func (c *client) retry(ctx context.Context, publish func() error) error {
	for {
		if err := c.await(ctx); err != nil {
			return err
		}
		err := publish()
		if err == nil || !isTransient(err) || !sleep(ctx, 10*time.Millisecond) {
			return err
		}
	}
}
