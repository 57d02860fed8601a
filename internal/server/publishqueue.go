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
// nothing more is read from it. It is also how many unacknowledged messages a client may
// have. If all that wait are such messages, one more is read, because it ends the
// session.
const maxPublishes = session.ReceiveMaximum

// maxPublishBytes is how many bytes the waiting messages of a connection may have
// together before nothing more is read from it. maxAllPublishBytes is the same for all
// connections; each connection may still have one message.
const (
	maxPublishBytes    = 1 << 20
	maxAllPublishBytes = 64 << 20
)

// publishQueue publishes the messages of one connection in their order and acknowledges
// those of QoS 1 in the same order. Later messages are begun while a retained message
// waits; over a network, while any message waits.
type publishQueue struct {
	mu sync.Mutex
	// guarded by mu
	queue   []publishing         // in order; the first one is being finished
	bytes   int                  // of the messages in queue
	running bool                 // a goroutine finishes them
	unacked int                  // of queue, those whose PUBACK has not been sent
	behind  map[pubsub.Topic]int // of queue, those that a later retained one has to wait for before it is begun
	changed chan struct{}        // closed when queue has become shorter; nil until somebody waits

	// end is the event that ends the session once its mark in queue is reached, or at
	// endBy. It is nil if the session is not ending.
	end   session.Event
	endBy time.Time
}

// publishing is an entry of the queue: a message, a refused message whose PUBACK must
// wait for its turn, or the mark of the session's end.
type publishing struct {
	message  pubsub.Message // without data once its publishing has begun
	size     int
	held     int // bytes that it takes while it waits
	came     time.Time
	ctx      context.Context
	cancel   context.CancelFunc             // nil if there is none
	finish   func() (pubsub.Version, error) // nil until its publishing has begun; always nil without a message
	packetID uint16                         // of a PUBLISH of QoS 1, else 0
	refused  mqtt.ReasonCode                // Success unless it was refused
	ends     bool                           // it is the mark
}

// add publishes a message and returns at once. Publishing a retained message begins now,
// so that many share one wait for the disk, unless a plain message to the same topic has
// not been sent yet. New subscribers get a retained message as soon as it is stored, so
// the earlier plain message must not follow it.
//
// The answer is nil if the message waits: the queue then passes it to m itself.
func (q *publishQueue) add(m *mqttConn, e session.Publish) (answer session.Event) {
	s, msg := m.s, e.Message
	p := publishing{
		message: msg, size: len(msg.Data), held: len(msg.Topic) + len(msg.Data) + len(msg.Properties),
		packetID: e.PacketID, came: s.o.Now(), ctx: context.Background(),
	}
	if s.o.BackplaneMayWait {
		p.ctx, p.cancel = context.WithTimeout(p.ctx, backplaneWait)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.running && !p.message.Retain && !s.o.BackplaneMayWait {
		p.begin(s)
		return p.answer(p.complete(s)) // nothing to wait for
	}
	if waits := p.message.Retain && q.behind[p.message.Topic] > 0; !waits {
		p.begin(s)
	}
	if !p.message.Retain || p.finish == nil {
		if q.behind == nil {
			q.behind = make(map[pubsub.Topic]int)
		}
		q.behind[p.message.Topic]++
	}
	q.push(m, p)
	return nil
}

// reject answers a PUBLISH of QoS 1 that is not published. The answer is nil if it must
// wait for earlier ones.
func (q *publishQueue) reject(m *mqttConn, packetID uint16, reason mqtt.ReasonCode) (answer session.Event) {
	p := publishing{packetID: packetID, refused: reason}
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.running {
		return p.answer(reason)
	}
	q.push(m, p)
	return nil
}

// endAfter passes e to m once the present messages of the queue have been acknowledged.
// It reports whether there are any. e must end the session. It is passed after endWait in
// any case; see overdueEnd.
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

// overdueEnd returns the event that ends the session if it has waited for too long.
// Otherwise it returns nil and the time when the event is due, which is zero if the
// session is not ending.
func (q *publishQueue) overdueEnd(now time.Time) (session.Event, time.Time) {
	if !q.mu.TryLock() { // a message is being begun: the store may wait for its disk
		return nil, now.Add(lookAgain)
	}
	defer q.mu.Unlock()
	if q.end == nil || now.Before(q.endBy) {
		return nil, q.endBy
	}
	return q.end, time.Time{}
}

// push appends p to the queue; mu is held.
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

// unacknowledged is the number of PUBLISH packets that have no PUBACK yet.
func (q *publishQueue) unacknowledged() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.unacked
}

// waitRoom returns when there is room for another message.
func (q *publishQueue) waitRoom(s *Server) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.full(s) {
		q.wait()
	}
}

// full reports whether reading must stop; mu is held. A full window of unacknowledged
// messages is allowed.
func (q *publishQueue) full(s *Server) bool {
	n := len(q.queue)
	return n > maxPublishes || n == maxPublishes && q.unacked < maxPublishes ||
		q.bytes >= maxPublishBytes || n > 0 && s.publishing.Load() >= maxAllPublishBytes
}

// sent notes that the first of the queue, which is not retained, has been sent, and
// begins the retained ones to its topic that waited for it. mu is held, which keeps
// them in order with what is added meanwhile.
func (q *publishQueue) sent(s *Server) {
	t := q.queue[0].message.Topic
	q.less(t)
	for i := 1; i < len(q.queue) && q.behind[t] > 0; i++ {
		p := &q.queue[i]
		switch {
		case p.message.Topic != t:
		case !p.message.Retain:
			return
		case p.finish == nil:
			p.begin(s)
			q.less(t)
		}
	}
}

// less counts one less to be waited for; mu is held.
func (q *publishQueue) less(t pubsub.Topic) {
	if q.behind[t]--; q.behind[t] == 0 {
		delete(q.behind, t)
	}
}

// wait waits for wake; mu is held, but not meanwhile.
func (q *publishQueue) wait() {
	if q.changed == nil {
		q.changed = make(chan struct{})
	}
	changed := q.changed
	q.mu.Unlock()
	<-changed
	q.mu.Lock()
}

// wake wakes whoever waits; mu is held.
func (q *publishQueue) wake() {
	if q.changed != nil {
		close(q.changed)
		q.changed = nil
	}
}

// run finishes what was added.
func (q *publishQueue) run(m *mqttConn) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.queue) > 0 {
		p := q.queue[0] // it is begun: nothing is before it
		q.mu.Unlock()
		reason := p.refused
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

// acknowledge makes m send a PUBACK. The message stops counting before the PUBACK is
// sent. Otherwise a client that uses its whole window could appear to exceed it.
func (q *publishQueue) acknowledge(m *mqttConn, answer session.Event) {
	q.mu.Lock()
	q.unacked--
	q.mu.Unlock()
	m.step(answer)
}

// begin gives p its place in the store, if it is to be kept.
func (p *publishing) begin(s *Server) {
	p.finish = pubsub.Publish(p.ctx, s.o.Backplane, p.message)
	p.message.Data, p.message.Properties = nil, nil
}

// complete finishes p, reports the outcome to Events, and returns the reason code for the
// client.
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
	s.o.Events.Published(transportMQTT, p.size, p.message.Retain, s.o.Now().Sub(p.came))
	return mqtt.Success
}

// answer returns the event that acknowledges p, or nil if p needs no acknowledgement.
func (p *publishing) answer(reason mqtt.ReasonCode) session.Event {
	if p.packetID == 0 {
		return nil
	}
	return session.Published{PacketID: p.packetID, Reason: reason}
}
