package nats

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"pubsub"
	"pubsub/internal/backplane/nats/layout"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// ackTimeout is how long a message waits for its acknowledgement until it is sent again, and
	// ackCheckInterval the time between two checks of that.
	ackTimeout       = time.Second
	ackCheckInterval = 100 * time.Millisecond
)

var (
	// errFenced reports a message without an acknowledgement, which may be stored or not, and
	// will not be stored from now on.
	errFenced = errors.New("not acknowledged before the connection was lost, and a later message of the topic was sent: publish it again if it must be the newest")
	// errSuperseded reports a message that may be stored or not, while a later message of the
	// topic is stored.
	errSuperseded = errors.New("not acknowledged, and a later message of the topic was: publish it again if it must be the newest")
)

// puts are the retained messages on their way to JetStream.
//
// Messages are sent as they come, without waiting for one another, and acknowledged in that
// order. A message without an acknowledgement is sent again with the same id, which JetStream
// remembers, but only if it is the newest of its topic: an older one that was not stored the
// first time would be stored after the newer one.
//
// A message that was sent and given up may still be on its way, in a server that hangs or in a
// connection that transmits nothing for a while, when this node has moved to another server. Its
// fence keeps it from being stored after later messages.
type puts struct {
	// immutable
	client *client
	stream *stream
	wake   chan struct{} // one slot: there is something to check

	retries atomic.Uint64 // for Stats

	mu     sync.Mutex
	inbox  string                // guarded by mu: where acknowledgements arrive; empty before setUp
	number uint64                // guarded by mu: of the last put
	byID   map[string]*put       // guarded by mu: the pending puts
	newest map[pubsub.Topic]*put // guarded by mu: the last pending put of each topic
	unsent []*put                // guarded by mu: the puts that were never sent, in order
	fences map[string]*fence     // guarded by mu: by the ids of their messages
	// conn is the connection on which all fences and retries have been sent, so that new messages
	// may follow; guarded by mu.
	conn    context.Context
	refused bool          // guarded by mu: no more puts begin
	empty   chan struct{} // guarded by mu: closed when no put is pending, after refuse
}

// put is one retained message on its way.
type put struct {
	// immutable
	id         string
	msg        *natsgo.Msg
	topic      pubsub.Topic
	seen       uint64 // the known position of the stream when the put began
	generation uint64 // of seen
	deadline   time.Time

	done chan struct{} // closed when v and err are set
	v    pubsub.Version
	err  error

	// guarded by puts.mu
	older    *put // the pending put of the same topic before this one
	hasNewer bool // there is a later put of the same topic
	sent     bool
	seq      uint64    // if not 0, the message is stored, in a generation that is not known yet
	retryAt  time.Time // when it is sent again
	cause    error     // why it was not acknowledged the last time
}

func newPuts(s *stream) *puts {
	return &puts{
		client: s.client,
		stream: s,
		wake:   make(chan struct{}, 1),
		byID:   map[string]*put{},
		newest: map[pubsub.Topic]*put{},
		fences: map[string]*fence{},
		empty:  make(chan struct{}),
	}
}

// begin adds a put of m, after those of its topic that began before.
func (p *puts) begin(ctx context.Context, m *pubsub.Message) (*put, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c, epoch := p.client, &p.stream.epoch
	if err := c.faults.of(p.stream.name()); err != nil {
		return nil, err
	}
	now := time.Now()
	one := &put{
		topic:      m.Topic,
		msg:        natsgo.NewMsg(c.names.Stored(m.Topic)),
		generation: epoch.current(),
		seen:       epoch.seen.Load(),
		deadline:   now.Add(c.o.Wait),
		done:       make(chan struct{}),
	}
	if d, ok := ctx.Deadline(); ok && d.Before(one.deadline) {
		one.deadline = d
	}
	one.msg.Data = layout.AppendMessage(make([]byte, 0, layout.MaxMessageBytes(m)), m)
	if ttl := layout.StreamTTL(m, now); ttl > 0 {
		one.msg.Header.Set(jetstream.MsgTTLHeader, strconv.FormatInt(ttl, 10)+"s")
	}
	one.msg.Header.Set(jetstream.ExpectedStreamHeader, p.stream.name())

	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refused {
		return nil, pubsub.ErrClosed
	}
	p.number++
	one.id = putID(c.node, p.number)
	one.msg.Header.Set(jetstream.MsgIDHeader, one.id)
	if one.older = p.newest[m.Topic]; one.older != nil {
		one.older.hasNewer = true
	}
	p.newest[m.Topic] = one
	p.byID[one.id] = one
	p.unsent = append(p.unsent, one)
	p.sendUnsent(now)
	notify(p.wake)
	return one, nil
}

// putID returns the message id of a node's put.
func putID(node, number uint64) string {
	return strconv.FormatUint(node, 36) + "-" + strconv.FormatUint(number, 36)
}

// sendUnsent sends the puts that were never sent, in their order, as far as that works; mu is
// held.
func (p *puts) sendUnsent(now time.Time) {
	if p.inbox == "" || p.conn != p.client.connection() {
		return
	}
	for len(p.unsent) > 0 {
		one := p.unsent[0]
		if _, pending := p.byID[one.id]; pending && !p.send(one, now) {
			return
		}
		p.unsent[0] = nil
		p.unsent = p.unsent[1:]
	}
	p.unsent = nil
}

// send sends a put, for the first time or again; mu is held, which keeps the order. It returns
// false if the put must be sent later, and true if it was sent or has failed for good.
func (p *puts) send(one *put, now time.Time) bool {
	if !p.client.isUp() {
		one.cause = natsgo.ErrDisconnected
		return false
	}
	one.msg.Reply = p.inbox + "." + one.id
	one.retryAt = now.Add(ackTimeout)
	err := p.client.nc.PublishMsg(one.msg)
	switch {
	case err == nil:
		one.sent = true
	case isTransient(err):
		one.cause = err
		return false
	default:
		p.finish(one, pubsub.Version{}, err)
	}
	return true
}

// finish ends a put; mu must be held. If it was acknowledged, older puts of its topic no longer can
// be.
func (p *puts) finish(one *put, v pubsub.Version, err error) {
	one.v, one.err = v, err
	close(one.done)
	delete(p.byID, one.id)
	if p.newest[one.topic] == one {
		delete(p.newest, one.topic)
	}
	older := one.older
	one.older = nil
	if err == nil {
		for older != nil {
			before := older.older
			if _, pending := p.byID[older.id]; pending {
				older.older = nil
				p.giveUp(older, errSuperseded, time.Now())
			}
			older = before
		}
	}
	p.closeIfEmpty()
}

// giveUp ends a put without an acknowledgement, and fences it if it was sent; mu must be held.
func (p *puts) giveUp(one *put, err error, now time.Time) {
	if one.sent && len(p.fences) < maxFences {
		p.fences[one.id] = &fence{retryAt: now, deadline: now.Add(fenceLifetime)}
	}
	p.finish(one, pubsub.Version{}, fmt.Errorf("%w: %w", pubsub.ErrUnavailable, err))
}

// refuse makes begin return ErrClosed from now on.
func (p *puts) refuse() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refused = true
	p.closeIfEmpty()
}

// closeIfEmpty closes empty, once, if no put is pending after refuse; mu must be held.
func (p *puts) closeIfEmpty() {
	if p.refused && len(p.byID) == 0 && !isClosed(p.empty) {
		close(p.empty)
	}
}

// wait waits, after refuse, for the pending puts.
func (p *puts) wait() { <-p.empty }

// run sends messages again that were not acknowledged in time, until the connection is closed.
func (p *puts) run() {
	connected := make(chan struct{}, 1)
	defer p.client.connections.add(connected)()
	var ticks <-chan time.Time
	ticker := time.NewTicker(ackCheckInterval)
	defer ticker.Stop()
	for {
		reconnected := false
		select {
		case <-p.client.closed:
			return
		case <-p.wake:
		case <-connected:
			reconnected = true // everything under way is lost
		case <-ticks:
		}
		ticks = nil
		if p.check(time.Now(), reconnected) {
			ticks = ticker.C
		}
	}
}

// check sends the overdue puts again, or all on a new connection, and gives up the
// ones that have waited for too long. It reports whether anything is left to check.
func (p *puts) check(now time.Time, reconnected bool) (more bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.client
	ready, failed := c.isReady(), c.failure()
	if ready && p.inbox == "" && failed == nil {
		inbox := c.nc.NewRespInbox()
		if _, err := c.nc.Subscribe(inbox+".*", p.acknowledged); err != nil {
			c.report("acknowledgement subscription failed", err)
			return true
		}
		p.inbox = inbox
	}
	conn := c.connection()
	reconnected = reconnected || conn != p.conn
	due := p.triage(now, reconnected, failed)
	if p.inbox != "" {
		p.sendFences(now, reconnected)
		p.conn = conn
	}
	for _, one := range due {
		if p.send(one, now) {
			p.retries.Add(1)
		}
	}
	p.sendUnsent(now)
	return len(p.byID) > 0 || len(p.fences) > 0
}

// triage ends the puts that cannot succeed any more and returns those that must be sent again;
// mu must be held.
func (p *puts) triage(now time.Time, reconnected bool, failed error) (due []*put) {
	fault := p.client.faults.of(p.stream.name())
	for _, one := range p.byID {
		expired := !now.Before(one.deadline)
		switch {
		case failed != nil:
			p.finish(one, pubsub.Version{}, failed)
		case fault != nil:
			p.giveUp(one, fault, now)
		case one.seq > 0:
			if g := p.stream.epoch.current(); g != one.generation || expired {
				p.finish(one, pubsub.Version{Generation: g, Seq: one.seq}, nil)
			}
		case expired:
			cause := one.cause
			if cause == nil {
				cause = context.DeadlineExceeded
			}
			p.giveUp(one, fmt.Errorf("not acknowledged by JetStream: %w", cause), now)
		case one.sent && one.hasNewer && reconnected:
			p.giveUp(one, errFenced, now)
		case one.sent && !one.hasNewer && (reconnected || !now.Before(one.retryAt)):
			due = append(due, one)
		}
	}
	return due
}
