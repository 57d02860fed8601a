package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"pubsub"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// putAgain is how long an acknowledgement is waited for before a message is
	// sent again, and putCheck how often that is looked at.
	putAgain = time.Second
	putCheck = 100 * time.Millisecond
)

const (
	// fenceLife is for how long a message that was given up is fenced off (see
	// fence): longer than a server hangs, or a link carries nothing, and then goes on.
	fenceLife = time.Minute
	// fencesAtOnce is how many fences are sent again at a time.
	fencesAtOnce = 256
	// maxFences is how many there may be. Publishers that were faster than that
	// while a link was silent must not hold up what they publish afterwards.
	maxFences = 1 << 14
)

// errFenced says that it is not known whether a message was kept, and that it will
// not be from now on.
var errFenced = errors.New("not acknowledged before the connection was lost, and a later message of the topic was sent: send it again if it is to be the newest")

// errSuperseded says that it is not known whether a message was kept, and that a
// later one of the same topic has been.
var errSuperseded = errors.New("not acknowledged, and a later message of the topic was: send it again if it is to be the newest")

// puts are the retained messages on their way to JetStream.
//
// Messages are sent as they come, without waiting for one another, and
// acknowledged in that order. What is not acknowledged is sent again with the same
// id, which JetStream knows; but only the newest of its topic, since an older one
// that had not been kept the first time would now be kept after it.
//
// What was sent and is not sent again may still be on its way: in a server that
// hangs, or in a link that carries nothing for a while, while this node has gone to
// another server. So that it does not come after what is sent there, it is fenced
// off first: its id is used up by a message that nobody reads, and when it comes
// JetStream takes it for a duplicate.
type puts struct {
	// immutable
	link *link
	more chan struct{} // one slot: there is something to be looked at

	mu     sync.Mutex
	inbox  string                // guarded by mu: where acknowledgements come; empty until all is set up
	next   uint64                // guarded by mu: the number of the next put
	byID   map[string]*put       // guarded by mu: those that are not done
	newest map[pubsub.Topic]*put // guarded by mu: of those, the last of each topic
	unsent []*put                // guarded by mu: those that were never sent, in order
	fences map[string]*fence     // guarded by mu: by id, of those that may still come
	sentBy context.Context       // guarded by mu: the connection by which was sent what is to go before all else
	shutUp bool                  // guarded by mu: nothing is taken any more
	empty  chan struct{}         // guarded by mu: closed when byID is empty, after shut
}

// fence keeps a message that was sent from being stored after what was sent later.
type fence struct {
	// guarded by puts.mu
	again    time.Time // when it is sent again
	deadline time.Time
}

// fenceSuffix is that of the id in the reply subject of a fence.
const fenceSuffix = "_fence"

// put is one retained message on its way.
type put struct {
	// immutable
	id       string
	msg      *natsgo.Msg
	topic    pubsub.Topic
	seen     uint64 // how far the stream was known to have come
	epoch    uint64 // the generation it was known to be of
	deadline time.Time

	done chan struct{} // closed when v and err are set
	v    pubsub.Version
	err  error

	// guarded by puts.mu
	older *put // the one of the same topic before it that was not done
	newer bool // there is a later one of the same topic
	sent  bool
	seq   uint64    // not 0: it is stored, and its generation is to be found out
	again time.Time // when it is sent again
	cause error     // why it had to be, the last time
}

func newPuts(l *link) *puts {
	return &puts{
		link:   l,
		more:   make(chan struct{}, 1),
		byID:   map[string]*put{},
		newest: map[pubsub.Topic]*put{},
		fences: map[string]*fence{},
		empty:  make(chan struct{}),
	}
}

// begin gives m its place behind those of its topic that were begun before.
func (p *puts) begin(ctx context.Context, m *pubsub.Message) (*put, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l := p.link
	if err := l.fault(l.names.stream()); err != nil {
		return nil, err
	}
	now := time.Now()
	one := &put{
		topic:    m.Topic,
		msg:      natsgo.NewMsg(l.names.stored(m.Topic)),
		epoch:    l.epoch.current(),
		seen:     l.epoch.seen.Load(),
		deadline: now.Add(l.o.Wait),
		done:     make(chan struct{}),
	}
	if d, ok := ctx.Deadline(); ok && d.Before(one.deadline) {
		one.deadline = d
	}
	one.msg.Data = appendRecord(make([]byte, 0, recordSize(m)), m)
	if life := lifeOf(m, now); life > 0 {
		one.msg.Header.Set(jetstream.MsgTTLHeader, strconv.FormatInt(life, 10)+"s")
	}
	one.msg.Header.Set(jetstream.ExpectedStreamHeader, l.names.stream())

	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shutUp {
		return nil, pubsub.ErrClosed
	}
	p.next++
	one.id = strconv.FormatUint(l.node, 36) + "-" + strconv.FormatUint(p.next, 36)
	one.msg.Header.Set(jetstream.MsgIDHeader, one.id)
	if one.older = p.newest[m.Topic]; one.older != nil {
		one.older.newer = true
	}
	p.newest[m.Topic] = one
	p.byID[one.id] = one
	p.unsent = append(p.unsent, one)
	p.sendFirst(now)
	kick(p.more)
	return one, nil
}

// sendFirst sends those that were never sent, in their order, as far as that
// works; mu is held.
func (p *puts) sendFirst(now time.Time) {
	if p.inbox == "" || p.sentBy != p.link.connection() {
		return
	}
	for len(p.unsent) > 0 {
		one := p.unsent[0]
		if _, open := p.byID[one.id]; open && !p.send(one, now) {
			return
		}
		p.unsent[0] = nil
		p.unsent = p.unsent[1:]
	}
	p.unsent = nil
}

// send sends one, for the first time or again; mu is held, which keeps the order.
// It is false if one may be sent later.
func (p *puts) send(one *put, now time.Time) bool {
	if !p.link.isUp() {
		one.cause = natsgo.ErrDisconnected
		return false
	}
	one.msg.Reply = p.inbox + "." + one.id
	one.again = now.Add(putAgain)
	err := p.link.nc.PublishMsg(one.msg)
	switch {
	case err == nil:
		one.sent = true
	case passing(err):
		one.cause = err
		return false
	default:
		p.finish(one, pubsub.Version{}, err)
	}
	return true
}

// finish ends one; mu is held. When a later message of a topic has been
// acknowledged, an older one will not be.
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
			if _, open := p.byID[older.id]; open {
				older.older = nil
				p.giveUp(older, errSuperseded, time.Now())
			}
			older = before
		}
	}
	p.drained()
}

// giveUp ends one that was not acknowledged, and fences it off if it may still come;
// mu is held.
func (p *puts) giveUp(one *put, err error, now time.Time) {
	if one.sent && len(p.fences) < maxFences {
		p.fences[one.id] = &fence{again: now, deadline: now.Add(fenceLife)}
	}
	p.finish(one, pubsub.Version{}, fmt.Errorf("%w: %w", pubsub.ErrUnavailable, err))
}

// sendFences sends the fences that are due, or all; mu is held.
func (p *puts) sendFences(now time.Time, all bool) {
	if !p.link.isUp() {
		return
	}
	sent := 0
	for id, f := range p.fences {
		if now.After(f.deadline) {
			delete(p.fences, id)
			continue
		}
		if !all && (now.Before(f.again) || sent == fencesAtOnce) {
			continue
		}
		sent++
		m := natsgo.NewMsg(p.link.names.fence())
		m.Reply = p.inbox + "." + id + fenceSuffix
		m.Header.Set(jetstream.MsgIDHeader, id)
		m.Header.Set(jetstream.ExpectedStreamHeader, p.link.names.stream())
		if err := p.link.nc.PublishMsg(m); err == nil {
			f.again = now.Add(putAgain)
		}
	}
}

// fenced takes the acknowledgement of a fence: what it fences off has been stored, or
// will not be any more.
func (p *puts) fenced(id string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		delete(p.fences, id)
	}
}

// shut takes nothing more.
func (p *puts) shut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shutUp = true
	p.drained()
}

// drained closes empty once, if that is due; mu is held.
func (p *puts) drained() {
	if !p.shutUp || len(p.byID) > 0 {
		return
	}
	select {
	case <-p.empty:
	default:
		close(p.empty)
	}
}

// drain waits for those that were begun.
func (p *puts) drain() { <-p.empty }

// run receives acknowledgements and sends again what gets none, until the
// connection is gone.
func (p *puts) run() {
	connected := make(chan struct{}, 1)
	defer p.link.connections.add(connected)()
	var ticks <-chan time.Time
	ticker := time.NewTicker(putCheck)
	defer ticker.Stop()
	for {
		all := false
		select {
		case <-p.link.gone:
			return
		case <-p.more:
		case <-connected:
			all = true // what was under way is lost
		case <-ticks:
		}
		ticks = nil
		if p.check(time.Now(), all) {
			ticks = ticker.C
		}
	}
}

// check sends again what is due, or all, and ends what has waited for too long. It
// is true if there is something left to be looked at.
func (p *puts) check(now time.Time, all bool) (more bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.link
	ready := l.isReady()
	l.mu.Lock()
	failed := l.failed
	l.mu.Unlock()
	fault := l.fault(l.names.stream())
	if ready && p.inbox == "" && failed == nil {
		inbox := l.nc.NewRespInbox()
		if _, err := l.nc.Subscribe(inbox+".*", p.acknowledged); err != nil {
			l.report("acknowledgement subscription failed", err)
			return true
		}
		p.inbox = inbox
	}
	connection := l.connection()
	all = all || connection != p.sentBy
	var due []*put
	for _, one := range p.byID {
		switch {
		case failed != nil:
			p.finish(one, pubsub.Version{}, failed)
		case fault != nil:
			p.giveUp(one, fault, now)
		case one.seq > 0:
			if g := l.epoch.current(); g != one.epoch || !now.Before(one.deadline) {
				p.finish(one, pubsub.Version{Generation: g, Seq: one.seq}, nil)
			}
		case !now.Before(one.deadline):
			cause := one.cause
			if cause == nil {
				cause = context.DeadlineExceeded
			}
			p.giveUp(one, fmt.Errorf("not acknowledged by JetStream: %w", cause), now)
		case one.sent && one.newer && one.seq == 0 && all:
			p.giveUp(one, errFenced, now)
		case one.sent && !one.newer && one.seq == 0 && (all || !now.Before(one.again)):
			due = append(due, one)
		}
	}
	if p.inbox != "" {
		p.sendFences(now, all)
		p.sentBy = connection
	}
	for _, one := range due {
		if p.send(one, now) {
			l.putsAgain.Add(1)
		}
	}
	p.sendFirst(now)
	return len(p.byID) > 0 || len(p.fences) > 0
}

// acknowledged takes an acknowledgement.
func (p *puts) acknowledged(m *natsgo.Msg) {
	id := m.Subject[strings.LastIndexByte(m.Subject, '.')+1:]
	var ack struct {
		Error     *jetstream.APIError `json:"error"`
		Seq       uint64              `json:"seq"`
		Duplicate bool                `json:"duplicate"`
	}
	var err error
	switch {
	case len(m.Data) == 0: // nobody listens: there is no stream, or it has no leader
		p.link.doubt()
		err = jetstream.ErrNoStreamResponse
	case json.Unmarshal(m.Data, &ack) != nil:
		err = fmt.Errorf("an acknowledgement that cannot be read: %w", errStale)
	case ack.Error != nil:
		err = ack.Error
	}
	if id, ok := strings.CutSuffix(id, fenceSuffix); ok {
		p.fenced(id, err)
		return
	}
	l := p.link
	p.mu.Lock()
	one := p.byID[id]
	if one == nil {
		p.mu.Unlock()
		return
	}
	if err != nil {
		if (passing(err) || isConflict(err)) && !isFull(err) {
			one.cause = err
			one.again = time.Now().Add(putCheck)
		} else {
			p.finish(one, pubsub.Version{}, err)
		}
		p.mu.Unlock()
		return
	}
	v := pubsub.Version{Generation: l.epoch.current(), Seq: ack.Seq}
	if v.Generation == one.epoch && ack.Seq <= one.seen && !ack.Duplicate {
		// The stream was longer before: it is another, or has lost messages.
		one.seq = ack.Seq
		p.mu.Unlock()
		l.missed("the stream was longer before")
		return
	}
	p.finish(one, v, nil)
	p.mu.Unlock()
	l.epoch.within(v.Generation, func() { l.epoch.see(ack.Seq) })
	if ack.Duplicate {
		// JetStream may have announced it the first time, or not.
		l.announce(one, v)
	}
}

// codeConflict is JetStream's error for an id that it is just about to store.
const codeConflict = 10158

func isConflict(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == codeConflict
}

// codeStoreFailed is JetStream's error for a store that does not take a message,
// and storeFull its text if that is because the stream has as many bytes as it may.
const (
	codeStoreFailed = 10077
	storeFull       = "maximum bytes exceeded"
)

// isFull reports whether err says that a stream that is bounded is full, which does
// not go away while one waits.
func isFull(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == codeStoreFailed && api.Description == storeFull
}

// announce tells the nodes that want the topic of a message that is stored, as
// JetStream would.
func (l *link) announce(one *put, v pubsub.Version) {
	m := natsgo.NewMsg(l.names.live(v.Generation, one.topic))
	m.Data = one.msg.Data
	m.Header.Set(headerSequence, strconv.FormatUint(v.Seq, 10))
	if err := l.nc.PublishMsg(m); err != nil {
		l.report("announcement failed", err)
	}
}
