package server

import (
	"context"
	"sync"
	"time"

	"pubsub"
	"pubsub/internal/mqtt"
	"pubsub/internal/session"
)

// maxPublishes is how many messages of a connection may wait for the backplane before
// nothing more is read from the client. It is also the client's Receive Maximum. If all
// waiting messages are unacknowledged, one more packet is read, because a PUBLISH then ends
// the session (MQTT 5.0 section 3.3.4).
const maxPublishes = session.ReceiveMaximum

// maxPublishBytes is how many bytes the waiting messages of a connection may take together
// before nothing more is read from the client. maxAllPublishBytes is the same for all
// connections together, but each connection may still have one message.
const (
	maxPublishBytes    = 1 << 20
	maxAllPublishBytes = 64 << 20
)

// publishQueue publishes the messages of one connection in order and acknowledges those of
// QoS 1 in the same order. Later messages are started while a retained message waits for the
// store or, over a network, while any message waits.
type publishQueue struct {
	mu sync.Mutex
	// guarded by mu
	queue   []publishing         // in order; the first entry is being completed
	bytes   int                  // of the messages in queue
	running bool                 // a goroutine completes the entries
	unacked int                  // entries of QoS 1 whose PUBACK has not been sent
	blocks  map[pubsub.Topic]int // entries that a later retained message must wait for before it is started
	changed chan struct{}        // closed when queue becomes shorter; nil unless wait waits

	// end is the event that ends the session when the queue reaches its mark, or at endBy.
	// It is nil if the session is not ending.
	end   session.Event
	endBy time.Time
}

// publishing is an entry of the queue: a message, a rejected message whose PUBACK must wait
// for its turn, or the mark of the session's end.
type publishing struct {
	message  pubsub.Message // without data once it has started
	size     int
	held     int // bytes of memory while the message waits
	arrived  time.Time
	ctx      context.Context
	cancel   context.CancelFunc             // nil if there is none
	finish   func() (pubsub.Version, error) // nil until the message has started
	packetID uint16                         // of a PUBLISH of QoS 1, else 0
	rejected mqtt.ReasonCode                // Success unless the message was rejected
	ends     bool                           // this is the mark
}

// add publishes a message and returns at once. It starts a retained message now, so that many
// share one wait for the disk, unless a plain message to the same topic has not been sent
// yet: new subscribers get a retained message as soon as it is stored, so the earlier plain
// message must not follow it.
//
// The answer is nil if the message waits. The queue then passes the answer to m itself.
func (q *publishQueue) add(m *mqttConn, e session.Publish) (answer session.Event) {
	s, msg := m.s, e.Message
	p := publishing{
		message: msg, size: len(msg.Data), held: len(msg.Topic) + len(msg.Data) + len(msg.Properties),
		packetID: e.PacketID, arrived: s.o.Now(), ctx: context.Background(),
	}
	if s.o.BackplaneMayWait {
		p.ctx, p.cancel = context.WithTimeout(p.ctx, backplaneWait)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.running && !p.message.Retain && !s.o.BackplaneMayWait {
		p.start(s)
		return p.answer(p.complete(s)) // nothing to wait for
	}
	if waits := p.message.Retain && q.blocks[p.message.Topic] > 0; !waits {
		p.start(s)
	}
	if !p.message.Retain || p.finish == nil {
		if q.blocks == nil {
			q.blocks = make(map[pubsub.Topic]int)
		}
		q.blocks[p.message.Topic]++
	}
	q.push(m, p)
	return nil
}

// reject answers a PUBLISH of QoS 1 that is not published. The answer is nil if it must wait
// for earlier ones. The queue then passes it to m itself.
func (q *publishQueue) reject(m *mqttConn, packetID uint16, reason mqtt.ReasonCode) (answer session.Event) {
	p := publishing{packetID: packetID, rejected: reason}
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.running {
		return p.answer(reason)
	}
	q.push(m, p)
	return nil
}

// endAfter makes the queue pass e, which ends the session, once its present messages are
// acknowledged. It reports whether there are any. If that takes longer than endWait,
// overdueEnd returns e.
func (q *publishQueue) endAfter(m *mqttConn, e session.Event) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.unacked == 0 {
		return false
	}
	if q.end == nil {
		q.end, q.endBy = e, m.s.o.Now().Add(endWait)
		q.push(m, publishing{ends: true})
	}
	return true
}

// overdueEnd returns the event that ends the session if it is due at now. Otherwise it
// returns the time when the event is due, which is zero if the session is not ending.
func (q *publishQueue) overdueEnd(now time.Time) (session.Event, time.Time) {
	if !q.mu.TryLock() { // a message is being started, and the store may wait for its disk
		return nil, now.Add(recheckInterval)
	}
	defer q.mu.Unlock()
	if q.end == nil || now.Before(q.endBy) {
		return nil, q.endBy
	}
	return q.end, time.Time{}
}

// push appends p to the queue; mu must be held.
func (q *publishQueue) push(m *mqttConn, p publishing) {
	q.queue = append(q.queue, p)
	q.bytes += p.held
	m.s.publishing.Add(int64(p.held))
	if p.packetID != 0 {
		q.unacked++
	}
	if !q.running {
		q.running = true
		m.s.registry.Go(func() { q.run(m) })
	}
}

// unacknowledged returns the number of PUBLISH packets that have no PUBACK yet.
func (q *publishQueue) unacknowledged() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.unacked
}

// waitRoom waits until there is room for another message.
func (q *publishQueue) waitRoom(s *Server) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.full(s) {
		q.wait()
	}
}

// full reports whether reading must stop; mu must be held. As many unacknowledged messages as the
// Receive Maximum are allowed.
func (q *publishQueue) full(s *Server) bool {
	n := len(q.queue)
	return n > maxPublishes || n == maxPublishes && q.unacked < maxPublishes ||
		q.bytes >= maxPublishBytes || n > 0 && s.publishing.Load() >= maxAllPublishBytes
}

// sent records that the first message of the queue, a plain one, has been sent. It starts the
// retained messages to the same topic that waited for it. mu must be held, which keeps them in
// order with messages that are added.
func (q *publishQueue) sent(s *Server) {
	t := q.queue[0].message.Topic
	q.unblock(t)
	for i := 1; i < len(q.queue) && q.blocks[t] > 0; i++ {
		p := &q.queue[i]
		switch {
		case p.message.Topic != t:
		case !p.message.Retain:
			return
		case p.finish == nil:
			p.start(s)
			q.unblock(t)
		}
	}
}

// unblock removes an entry from blocks; mu must be held.
func (q *publishQueue) unblock(t pubsub.Topic) {
	if q.blocks[t]--; q.blocks[t] == 0 {
		delete(q.blocks, t)
	}
}

// wait blocks until wake is called; mu must be held; wait releases it while it waits.
func (q *publishQueue) wait() {
	if q.changed == nil {
		q.changed = make(chan struct{})
	}
	changed := q.changed
	q.mu.Unlock()
	<-changed
	q.mu.Lock()
}

// wake ends all calls of wait; mu must be held.
func (q *publishQueue) wake() {
	if q.changed != nil {
		close(q.changed)
		q.changed = nil
	}
}

// run completes the entries in order until the queue is empty.
func (q *publishQueue) run(m *mqttConn) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.queue) > 0 {
		p := q.queue[0] // started, because no entry is before it
		q.mu.Unlock()
		reason := p.rejected
		if p.finish != nil {
			reason = p.complete(m.s)
		}
		if p.packetID != 0 {
			q.acknowledge(m, p.answer(reason))
		}
		if p.ends {
			m.step(q.end)
		}
		q.mu.Lock()
		if p.finish != nil && !p.message.Retain {
			q.sent(m.s)
		}
		q.bytes -= p.held
		m.s.publishing.Add(-int64(p.held))
		q.queue[0] = publishing{}
		q.queue = q.queue[1:]
		q.wake()
	}
	q.queue, q.running = nil, false
}

// acknowledge makes m send a PUBACK. The message stops counting before that, because a client
// at its Receive Maximum may send the next message as soon as it gets the PUBACK.
func (q *publishQueue) acknowledge(m *mqttConn, answer session.Event) {
	q.mu.Lock()
	q.unacked--
	q.mu.Unlock()
	m.step(answer)
}

// start starts to publish p. A retained message gets its place in the order of the store.
func (p *publishing) start(s *Server) {
	p.finish = pubsub.Publish(p.ctx, s.o.Backplane, p.message)
	p.message.Data, p.message.Properties = nil, nil
}

// complete waits until p is published, reports the outcome to Events, and returns the reason
// code for the client.
func (p *publishing) complete(s *Server) mqtt.ReasonCode {
	_, err := p.finish()
	if p.cancel != nil {
		p.cancel()
	}
	if err != nil {
		s.o.Events.PublishDropped("backplane", string(p.message.Topic))
		s.o.Events.Failed("publish failed", err)
		return mqtt.ImplementationSpecificError // the client may try again
	}
	s.o.Events.Published(transportMQTT, p.size, p.message.Retain, s.o.Now().Sub(p.arrived))
	return mqtt.Success
}

// answer returns the event that acknowledges p, or nil if p needs no acknowledgement.
func (p *publishing) answer(reason mqtt.ReasonCode) session.Event {
	if p.packetID == 0 {
		return nil
	}
	return session.Published{PacketID: p.packetID, Reason: reason}
}
