package server

import (
	"context"
	"sync"
	"time"

	"pubsub"
)

// maxPublishes is how many messages of a connection may wait for the backplane
// before nothing more is read from it.
const maxPublishes = 256

// maxPublishBytes is how many bytes the messages of a connection that wait may have
// together before nothing more is read from it, and maxAllPublishBytes how many those
// of all connections may have; each connection may have one message all the same.
const (
	maxPublishBytes    = 1 << 20
	maxAllPublishBytes = 64 << 20
)

// publishQueue publishes the messages of one connection in their order. A
// retained one, and over a network any, waits while the next are begun.
type publishQueue struct {
	mu sync.Mutex
	// guarded by mu
	queue   []publishing         // in order; the first one is being finished
	bytes   int                  // of the messages in queue
	running bool                 // a goroutine finishes them
	behind  map[pubsub.Topic]int // of queue, those that a later retained one has to wait for before it is begun
	changed chan struct{}        // closed when queue has become shorter; nil until somebody waits
}

// publishing is a message that has its place in the queue.
type publishing struct {
	message pubsub.Message // without data once it has been begun
	size    int
	held    int // bytes that it takes while it waits
	came    time.Time
	ctx     context.Context
	cancel  context.CancelFunc             // nil if there is none
	finish  func() (pubsub.Version, error) // nil until it has been begun
}

// add publishes m and returns at once, as long as there is room for another one. A retained message is begun now, so that many share one wait for the disk,
// unless one to the same topic that is not retained has not been sent yet. Whoever
// subscribes is given what is retained as soon as that is stored; what was
// published before it must not come after it.
func (q *publishQueue) add(s *Server, m pubsub.Message) {
	p := publishing{message: m, size: len(m.Data), held: len(m.Topic) + len(m.Data) + len(m.Properties), came: s.o.Now(), ctx: context.Background()}
	if s.o.BackplaneMayWait {
		p.ctx, p.cancel = context.WithTimeout(p.ctx, backplaneWait)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.running && !m.Retain && !s.o.BackplaneMayWait {
		p.begin(s)
		p.end(s) // nothing to wait for
		return
	}
	if waits := m.Retain && q.behind[m.Topic] > 0; !waits {
		p.begin(s)
	}
	if !m.Retain || p.finish == nil {
		if q.behind == nil {
			q.behind = make(map[pubsub.Topic]int)
		}
		q.behind[m.Topic]++
	}
	q.queue = append(q.queue, p)
	q.bytes += p.held
	s.publishing.Add(int64(p.held))
	if !q.running {
		q.running = true
		s.registry.goroutines.Add(1)
		go q.run(s)
	}
	for q.full(s) {
		q.wait()
	}
}

// full reports whether nothing more is to be added; mu is held.
func (q *publishQueue) full(s *Server) bool {
	return len(q.queue) >= maxPublishes || q.bytes >= maxPublishBytes ||
		len(q.queue) > 0 && s.publishing.Load() >= maxAllPublishBytes
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
func (q *publishQueue) run(s *Server) {
	defer s.registry.goroutines.Done()
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.queue) > 0 {
		p := q.queue[0] // it is begun: nothing is before it
		q.mu.Unlock()
		p.end(s)
		q.mu.Lock()
		if !p.message.Retain {
			q.sent(s)
		}
		q.bytes -= p.held
		s.publishing.Add(-int64(p.held))
		q.queue[0] = publishing{}
		q.queue = q.queue[1:]
		q.wake()
	}
	q.queue, q.running = nil, false
}

// begin gives p its place in the store, if it is to be kept.
func (p *publishing) begin(s *Server) {
	p.finish = pubsub.Publish(p.ctx, s.o.Backplane, p.message)
	p.message.Data, p.message.Properties = nil, nil
}

// end finishes p and tells what became of it.
func (p *publishing) end(s *Server) {
	_, err := p.finish()
	if p.cancel != nil {
		p.cancel()
	}
	if err != nil {
		s.o.Events.PublishDropped("backplane", string(p.message.Topic))
		s.o.Events.Failed("publish failed", err)
		return
	}
	s.o.Events.Published(transportMQTT, p.size, p.message.Retain, s.o.Now().Sub(p.came))
}
