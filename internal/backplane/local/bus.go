package local

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"pubsub"
)

// bus implements [pubsub.Bus] for one process: it delivers a message before Send returns.
// It keeps no list of subscribed topics, because the receiver looks the topic up anyway
// and a million topics would be stored twice.
type bus struct {
	// immutable
	closed <-chan struct{}

	subscribed atomic.Int64 // calls of Subscribe less those of Unsubscribe

	mu       sync.RWMutex
	receiver *pubsub.Receiver // nil unless Run is under way
	ran      bool             // Run has been called
	calls    sync.WaitGroup   // calls of receiver; grows only while receiver is set
}

func newBus(closed <-chan struct{}) *bus { return &bus{closed: closed} }

var errRunTwice = errors.New("local: Run was called before")

// begin returns the receiver for one call. If there is no error, the caller must call end
// afterwards. The error is [pubsub.ErrUnavailable] while Run is not running, and
// [pubsub.ErrClosed] after Close.
func (b *bus) begin(ctx context.Context) (*pubsub.Receiver, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := b.open(); err != nil {
		return nil, err
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.receiver == nil {
		return nil, pubsub.ErrUnavailable
	}
	b.calls.Add(1)
	return b.receiver, nil
}

func (b *bus) end() { b.calls.Done() }

func (b *bus) open() error {
	select {
	case <-b.closed:
		return pubsub.ErrClosed
	default:
		return nil
	}
}

// health returns nil if messages can be sent.
func (b *bus) health() error {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.receiver == nil {
		return pubsub.ErrUnavailable
	}
	return nil
}

// Send implements [pubsub.Bus]. It calls Deliver itself.
func (b *bus) Send(ctx context.Context, m pubsub.Message) error {
	r, err := b.begin(ctx)
	if err != nil {
		return err
	}
	defer b.end()
	r.Deliver(pubsub.NewPreparedMessage(m))
	return nil
}

// Subscribe implements [pubsub.Bus]. It also works before Run.
func (b *bus) Subscribe(ctx context.Context, _ pubsub.Topic) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := b.open(); err != nil {
		return err
	}
	b.subscribed.Add(1)
	return nil
}

// Unsubscribe implements [pubsub.Bus]. It panics if it is called more often than
// Subscribe.
func (b *bus) Unsubscribe(pubsub.Topic) {
	if b.subscribed.Add(-1) < 0 {
		panic("local: Unsubscribe without Subscribe")
	}
}

// Broadcast implements [pubsub.Bus].
func (b *bus) Broadcast(ctx context.Context, c pubsub.ControlMessage) error {
	_, err := b.Gather(ctx, c)
	return err
}

// Gather implements [pubsub.Bus]: this node is the only one.
func (b *bus) Gather(ctx context.Context, c pubsub.ControlMessage) ([][]byte, error) {
	r, err := b.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer b.end()
	if reply := r.Control(c); reply != nil {
		return [][]byte{reply}, nil
	}
	return nil, nil
}

// Run implements [pubsub.Bus]. When it returns, no call of r is under way.
func (b *bus) Run(ctx context.Context, r pubsub.Receiver) error {
	if err := b.open(); err != nil {
		return err
	}
	b.mu.Lock()
	if b.ran {
		b.mu.Unlock()
		return errRunTwice
	}
	b.ran = true
	b.receiver = &r
	b.mu.Unlock()
	r.Ready()
	defer b.drain()
	select {
	case <-ctx.Done():
		return nil
	case <-b.closed:
		return pubsub.ErrClosed
	}
}

// drain makes Send and Gather fail and waits for the calls of the receiver under way.
func (b *bus) drain() {
	b.mu.Lock()
	b.receiver = nil
	b.mu.Unlock()
	b.calls.Wait()
}
