package nats

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"pubsub"

	natsgo "github.com/nats-io/nats.go"
)

// The headers that JetStream gives to what it announces: the number of the message
// in the stream, and that of the one before it of the same subject.
const (
	headerSequence = "Nats-Sequence"
	headerBefore   = "Nats-Last-Sequence"
)

// bus is the pubsub.Bus.
type bus struct {
	// immutable
	link     *link
	interest *interest
	sweeper  *sweeper
	nodes    *nodes

	mu       sync.RWMutex
	receiver *pubsub.Receiver // guarded by mu: nil unless Run is under way
	ran      bool             // guarded by mu: Run has been called
	calls    sync.WaitGroup   // calls of receiver; grows only while receiver is set
}

func newBus(l *link, w *interest, r *reads) *bus {
	b := &bus{link: l, interest: w, nodes: newNodes(l)}
	b.sweeper = newSweeper(l, r, w, b.deliver)
	return b
}

var errRunTwice = errors.New("nats: Run was called before")

func (b *bus) isRunning() bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.receiver != nil
}

// call calls f with the receiver, if there is one.
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

// deliver passes m on.
func (b *bus) deliver(m pubsub.Message) {
	b.call(func(r *pubsub.Receiver) { r.Deliver(pubsub.NewPreparedMessage(m)) })
}

// Send implements [pubsub.Bus]. What a Put has stored is announced by JetStream, so
// there is nothing to be sent.
func (b *bus) Send(ctx context.Context, m pubsub.Message) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if b.link.life.Err() != nil {
		return pubsub.ErrClosed
	}
	if m.Retain {
		return nil
	}
	out := &natsgo.Msg{
		Subject: b.link.names.live(0, m.Topic),
		Data:    appendRecord(make([]byte, 0, recordSize(&m)), &m),
	}
	return b.send(ctx, func() error { return b.link.nc.PublishMsg(out) })
}

// send calls publish until that works.
func (b *bus) send(ctx context.Context, publish func() error) error {
	bounded, cancel := b.link.bound(ctx)
	defer cancel()
	return b.link.failure(ctx, b.link.retry(bounded, publish))
}

// Subscribe implements [pubsub.Bus]. It returns when the NATS server that this node is
// connected to has the subscription; what is retained, and published before the
// other servers know of it, is found 2 s later.
func (b *bus) Subscribe(ctx context.Context, t pubsub.Topic) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	bounded, cancel := b.link.bound(ctx)
	defer cancel()
	return b.link.failure(ctx, b.interest.want(bounded, t))
}

// Unsubscribe implements [pubsub.Bus]. It panics if there were more Drops than Wants.
func (b *bus) Unsubscribe(t pubsub.Topic) { b.interest.drop(t) }

// Broadcast implements [pubsub.Bus].
func (b *bus) Broadcast(ctx context.Context, c pubsub.ControlMessage) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return b.send(ctx, func() error { return b.nodes.tell("", c.Kind, c.Body) })
}

// Gather implements [pubsub.Bus]. It returns as soon as all nodes have replied that
// this one knows of.
func (b *bus) Gather(ctx context.Context, c pubsub.ControlMessage) ([][]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l := b.link
	bounded, cancel := l.bound(ctx)
	defer cancel()
	replies, err := b.ask(bounded, c)
	if err != nil && (l.life.Err() != nil || ctx.Err() == nil) {
		return nil, l.failure(ctx, err)
	}
	return replies, nil // those that came before ctx was done
}

// replyWithin is how long a node has to reply before it is taken to be gone.
const replyWithin = 500 * time.Millisecond

func (b *bus) ask(ctx context.Context, c pubsub.ControlMessage) (replies [][]byte, err error) {
	l := b.link
	inbox := l.nc.NewRespInbox()
	sub, err := l.nc.SubscribeSync(inbox)
	if err != nil {
		return nil, err
	}
	defer sub.Unsubscribe()
	missing, began := b.nodes.known(), time.Now()
	if err := l.retry(ctx, func() error { return b.nodes.tell(inbox, c.Kind, c.Body) }); err != nil {
		return nil, err
	}
	for len(missing) > 0 {
		m, err := sub.NextMsgWithContext(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			if time.Since(began) >= replyWithin {
				b.nodes.forget(missing)
			}
			return replies, nil
		}
		if err != nil {
			return replies, err
		}
		if m.Header.Get("Status") == "503" {
			return nil, fmt.Errorf("%w: no node listens", pubsub.ErrUnavailable)
		}
		node, _, kind, body, err := parseControl(m.Data)
		if err != nil {
			l.report("control message unreadable", err)
			continue
		}
		if kind == controlReply {
			replies = append(replies, body)
		}
		delete(missing, node)
		b.nodes.replied(node)
	}
	return replies, nil
}

// Run implements [pubsub.Bus]. When it returns, no call of r is under way.
func (b *bus) Run(ctx context.Context, r pubsub.Receiver) error {
	l := b.link
	if l.life.Err() != nil {
		return pubsub.ErrClosed
	}
	b.mu.Lock()
	if b.ran {
		b.mu.Unlock()
		return errRunTwice
	}
	b.ran = true
	b.mu.Unlock()
	run, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(l.life, stop)()
	err := b.run(run, r)
	switch {
	case l.life.Err() != nil:
		return pubsub.ErrClosed
	case ctx.Err() != nil:
		return nil
	}
	return err
}

func (b *bus) run(ctx context.Context, r pubsub.Receiver) error {
	l := b.link
	if err := l.await(ctx); err != nil {
		return err
	}
	b.mu.Lock()
	b.receiver = &r
	b.mu.Unlock()
	control, err := l.nc.Subscribe(l.names.control(), b.controlled)
	if err != nil {
		return err
	}
	defer control.Unsubscribe()
	for {
		if err = b.sweeper.begin(ctx); err == nil {
			break
		}
		if !passing(err) {
			return err
		}
		l.waits(err)
		if !pause(ctx, 200*time.Millisecond) {
			return nil
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() { b.receive(ctx) })
	wg.Go(func() { b.sweeper.run(ctx) })
	wg.Go(func() { b.nodes.run(ctx) })
	wg.Go(func() { b.rejoin(ctx) })
	r.Ready()
	wg.Wait()
	b.drain()
	return nil
}

// rejoin tells the receiver of each new connection but the first, as soon as all
// servers know that this node listens, and when something from another node never came.
func (b *bus) rejoin(ctx context.Context) {
	connected := make(chan struct{}, 1)
	defer b.link.connections.add(connected)()
	for {
		select {
		case <-ctx.Done():
			return
		case <-connected:
		case <-b.nodes.missed:
		}
		if !pause(ctx, lookAgainAfter) {
			return
		}
		unkick(connected)
		unkick(b.nodes.missed)
		b.call(func(r *pubsub.Receiver) {
			if r.Rejoined != nil {
				r.Rejoined(ctx)
			}
		})
	}
}

// drain lets nothing be delivered any more and waits for what is.
func (b *bus) drain() {
	b.mu.Lock()
	b.receiver = nil
	b.mu.Unlock()
	b.calls.Wait()
}

// receive takes what comes of the wanted topics, in its order.
func (b *bus) receive(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-b.interest.messages:
			if ctx.Err() != nil {
				return
			}
			if err := b.received(m); err != nil {
				b.link.report("message unreadable", err)
			}
		}
	}
}

// received takes one message.
func (b *bus) received(in *natsgo.Msg) error {
	l := b.link
	generation, t, ok := l.names.parseLive(in.Subject)
	if !ok {
		return fmt.Errorf("a message on subject %s is %w", pubsub.Printable(in.Subject), ErrNoRecord)
	}
	if generation == 0 {
		m, err := parseRecord(t, pubsub.Version{}, in.Data)
		if err != nil {
			return fmt.Errorf("a message to topic %q: %w", pubsub.Printable(string(t)), err)
		}
		b.deliver(m)
		return nil
	}
	seq, err := strconv.ParseUint(in.Header.Get(headerSequence), 10, 64)
	if err != nil || seq == 0 {
		return fmt.Errorf("an announcement of topic %q is %w", pubsub.Printable(string(t)), ErrNoRecord)
	}
	// What was announced by a node, not by JetStream, has no such header.
	before, _ := strconv.ParseUint(in.Header.Get(headerBefore), 10, 64)
	m, err := parseRecord(t, pubsub.Version{Generation: generation, Seq: seq}, in.Data)
	if err != nil {
		l.unreadable("message", string(t), seq, err)
		return nil
	}
	if !l.epoch.within(generation, func() {
		l.epoch.see(seq)
		news, gap := b.interest.told(t, before, seq)
		if gap {
			b.sweeper.kick("gap")
		}
		if news {
			b.deliver(m)
		}
	}) {
		b.sweeper.kick("another generation")
	}
	return nil
}

const (
	controlReply = "+reply" // a node's reply
	controlNone  = "+none"  // a node has nothing to reply
	controlHello = "+hello" // a node is there
	controlBye   = "+bye"   // a node leaves
	controlWho   = "+who"   // a node asks whether others run; all reply
)

// controlled takes a control message. Kinds that begin with '+' are the bus's own.
func (b *bus) controlled(in *natsgo.Msg) {
	node, number, kind, body, err := parseControl(in.Data)
	if err != nil {
		b.link.report("control message unreadable", err)
		return
	}
	news := b.nodes.heard(node, number)
	switch kind {
	case controlHello:
		if news { // it may not know this one
			kick(b.nodes.greet)
		}
		return
	case controlBye:
		b.nodes.forget(map[uint64]uint64{node: number})
		return
	}
	b.call(func(r *pubsub.Receiver) {
		reply := r.Control(pubsub.ControlMessage{Kind: kind, Body: body})
		if in.Reply == "" {
			return
		}
		answer := controlReply
		if reply == nil {
			answer = controlNone
		}
		if err := in.Respond(appendControl(nil, b.link.node, 0, answer, reply)); err != nil && !passing(err) {
			b.link.report("control reply failed", err)
		}
	})
}
