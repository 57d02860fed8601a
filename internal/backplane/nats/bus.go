package nats

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"pubsub"
	"pubsub/internal/backplane/nats/layout"

	natsgo "github.com/nats-io/nats.go"
)

// The headers of JetStream's announcements: the sequence number of the message, and that of the
// message before it of the same subject.
const (
	headerSequence = "Nats-Sequence"
	headerPrevious = "Nats-Last-Sequence"
)

// bus is the [pubsub.Bus].
type bus struct {
	// immutable
	client   *client
	stream   *stream
	interest *interest
	resyncer *resyncer
	nodes    *nodes

	mu       sync.RWMutex
	receiver *pubsub.Receiver // guarded by mu: nil unless Run is running
	ran      bool             // guarded by mu: Run has been called
	calls    sync.WaitGroup   // calls of receiver; grows only while receiver is set
}

func newBus(s *stream, i *interest, r *reader) *bus {
	b := &bus{client: s.client, stream: s, interest: i, nodes: newNodes(s.client)}
	b.resyncer = newResyncer(s, r, i, b.deliver)
	return b
}

var errRunTwice = errors.New("nats: Run was called before")

func (b *bus) isRunning() bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.receiver != nil
}

// call calls f with the receiver, if Run is running.
func (b *bus) call(f func(r *pubsub.Receiver)) {
	b.mu.RLock()
	r := b.receiver
	if r != nil {
		b.calls.Add(1)
	}
	b.mu.RUnlock()
	if r != nil {
		defer b.calls.Done()
		f(r)
	}
}

// deliver hands m to the receiver.
func (b *bus) deliver(m pubsub.Message) {
	b.call(func(r *pubsub.Receiver) { r.Deliver(pubsub.NewPreparedMessage(m)) })
}

// stopDelivery prevents new calls of the receiver and waits for the running ones.
func (b *bus) stopDelivery() {
	b.mu.Lock()
	b.receiver = nil
	b.mu.Unlock()
	b.calls.Wait()
}

// Send implements [pubsub.Bus]. It sends only plain messages, because JetStream announces the
// retained ones when it has stored them.
func (b *bus) Send(ctx context.Context, m pubsub.Message) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if b.client.life.Err() != nil {
		return pubsub.ErrClosed
	}
	if m.Retain {
		return nil
	}
	out := &natsgo.Msg{
		Subject: b.client.names.Live(0, m.Topic),
		Data:    layout.AppendMessage(make([]byte, 0, layout.MaxMessageBytes(&m)), &m),
	}
	return b.publish(ctx, func() error { return b.client.nc.PublishMsg(out) })
}

// publish calls send until it succeeds, within the bound of a call.
func (b *bus) publish(ctx context.Context, send func() error) error {
	bounded, cancel := b.client.bound(ctx)
	defer cancel()
	return b.client.callError(ctx, b.client.retry(bounded, send))
}

// Subscribe implements [pubsub.Bus]. It returns when this node's NATS server has the
// subscription. The resyncer reads the topic again after settleTime, for messages that were
// published before the other servers had it.
func (b *bus) Subscribe(ctx context.Context, t pubsub.Topic) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	bounded, cancel := b.client.bound(ctx)
	defer cancel()
	return b.client.callError(ctx, b.interest.subscribe(bounded, t))
}

// Unsubscribe implements [pubsub.Bus]. It panics without an earlier Subscribe.
func (b *bus) Unsubscribe(t pubsub.Topic) { b.interest.unsubscribe(t) }

// Run implements [pubsub.Bus]. When it returns, no call of r is running.
func (b *bus) Run(ctx context.Context, r pubsub.Receiver) error {
	c := b.client
	if c.life.Err() != nil {
		return pubsub.ErrClosed
	}
	b.mu.Lock()
	if b.ran {
		b.mu.Unlock()
		return errRunTwice
	}
	b.ran = true
	b.mu.Unlock()
	bounded, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(c.life, stop)()
	err := b.run(bounded, r)
	switch {
	case c.life.Err() != nil:
		return pubsub.ErrClosed
	case ctx.Err() != nil:
		return nil
	}
	return err
}

func (b *bus) run(ctx context.Context, r pubsub.Receiver) error {
	c := b.client
	if err := c.await(ctx); err != nil {
		return err
	}
	b.mu.Lock()
	b.receiver = &r
	b.mu.Unlock()
	control, err := c.nc.Subscribe(c.names.Control(), b.receiveControl)
	if err != nil {
		return err
	}
	defer control.Unsubscribe()
	for {
		if err = b.resyncer.begin(ctx); err == nil {
			break
		}
		if !isTransient(err) {
			return err
		}
		c.reportWaiting(err)
		if !sleep(ctx, 200*time.Millisecond) {
			return nil
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() { b.receiveMessages(ctx) })
	wg.Go(func() { b.resyncer.run(ctx) })
	wg.Go(func() { b.nodes.run(ctx) })
	wg.Go(func() { b.reportRejoins(ctx) })
	r.Ready()
	wg.Wait()
	b.stopDelivery()
	return nil
}

// reportRejoins calls Receiver.Rejoined after control messages may have been lost: after each
// new connection, and after a gap in the numbers of another node, in both cases when all servers
// know of this node's subscriptions.
func (b *bus) reportRejoins(ctx context.Context) {
	connected := make(chan struct{}, 1)
	defer b.client.connections.add(connected)()
	for {
		select {
		case <-ctx.Done():
			return
		case <-connected:
		case <-b.nodes.gaps:
		}
		if !sleep(ctx, b.client.o.settleTime) {
			return
		}
		drain(connected)
		drain(b.nodes.gaps)
		b.call(func(r *pubsub.Receiver) {
			if r.Rejoined != nil {
				r.Rejoined(ctx)
			}
		})
	}
}

// receiveMessages handles messages of the subscribed topics, in their order, until ctx is done.
func (b *bus) receiveMessages(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-b.interest.messages:
			if ctx.Err() != nil {
				return
			}
			if err := b.receive(m); err != nil {
				b.client.report("message unreadable", err)
			}
		}
	}
}

// receive handles a plain message, or the announcement of a retained one.
func (b *bus) receive(in *natsgo.Msg) error {
	c := b.client
	generation, t, ok := c.names.ParseLive(in.Subject)
	if !ok {
		return fmt.Errorf("a message on subject %s is %w", pubsub.Printable(in.Subject), layout.ErrForeign)
	}
	if generation == 0 {
		m, err := layout.ParseMessage(t, pubsub.Version{}, in.Data)
		if err != nil {
			return fmt.Errorf("a message to topic %q: %w", pubsub.Printable(string(t)), err)
		}
		b.deliver(m)
		return nil
	}
	seq, err := strconv.ParseUint(in.Header.Get(headerSequence), 10, 64)
	if err != nil || seq == 0 {
		return fmt.Errorf("an announcement of topic %q is %w", pubsub.Printable(string(t)), layout.ErrForeign)
	}
	// The announcement of a node, instead of JetStream, lacks this header.
	previous, _ := strconv.ParseUint(in.Header.Get(headerPrevious), 10, 64)
	m, err := layout.ParseMessage(t, pubsub.Version{Generation: generation, Seq: seq}, in.Data)
	if err != nil {
		c.unreadable.report("message", string(t), seq, err)
		return nil
	}
	if !b.stream.epoch.during(generation, func() {
		b.stream.epoch.observe(seq)
		isNew, gap := b.interest.advance(t, previous, seq)
		if gap {
			c.resyncs.request(causeGap)
		}
		if isNew {
			b.deliver(m)
		}
	}) {
		c.resyncs.request(causeGeneration)
	}
	return nil
}
