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

// publishQueue publishes the messages of one connection in their order. A
// retained one, and over a network any, waits while the next are begun.
type publishQueue struct {
	mu sync.Mutex
	// guarded by mu
	begun   []publishing         // in order
	running bool                 // a goroutine finishes them
	unsent  map[pubsub.Topic]int // messages that are not retained among begun, and among those being finished
	changed chan struct{}        // closed when begun or unsent has become less; nil until somebody waits
}

// publishing is a message that has its place in the store.
type publishing struct {
	topic  pubsub.Topic
	size   int
	retain bool
	began  time.Time
	finish func() (pubsub.Version, error)
	cancel context.CancelFunc // nil if there is none
}

// add begins to publish m and returns, as soon as fewer than maxPublishes are
// under way.
func (q *publishQueue) add(s *Server, m pubsub.Message) {
	if m.Retain {
		q.waitSent(m.Topic)
	}
	p := publishing{topic: m.Topic, size: len(m.Data), retain: m.Retain, began: s.o.Now()}
	ctx := context.Background()
	waits := m.Retain || s.o.BackplaneMayWait
	if s.o.BackplaneMayWait {
		ctx, p.cancel = context.WithTimeout(ctx, backplaneWait)
	}
	p.finish = pubsub.Publish(ctx, s.o.Backplane, m)

	q.mu.Lock()
	if !q.running && !waits {
		q.mu.Unlock()
		p.end(s) // nothing to wait for
		return
	}
	q.begun = append(q.begun, p)
	if !m.Retain {
		if q.unsent == nil {
			q.unsent = make(map[pubsub.Topic]int)
		}
		q.unsent[m.Topic]++
	}
	if !q.running {
		q.running = true
		s.registry.goroutines.Add(1)
		go q.run(s)
	}
	for len(q.begun) >= maxPublishes {
		q.wait()
	}
	q.mu.Unlock()
}

// waitSent returns when no message to t that is not retained waits for the disk with
// those before it. Whoever subscribes is given what is retained as soon as that is
// stored; what was published before it must not come after it.
func (q *publishQueue) waitSent(t pubsub.Topic) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.unsent[t] > 0 {
		q.wait()
	}
}

// sent notes that a message to t that is not retained has been sent.
func (q *publishQueue) sent(t pubsub.Topic) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.unsent[t]--; q.unsent[t] == 0 {
		delete(q.unsent, t)
	}
	q.wake()
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

// run finishes what was begun.
func (q *publishQueue) run(s *Server) {
	defer s.registry.goroutines.Done()
	for {
		q.mu.Lock()
		ps := q.begun
		q.begun = nil
		q.wake()
		if len(ps) == 0 {
			q.running = false
			q.mu.Unlock()
			return
		}
		q.mu.Unlock()
		for i := range ps {
			ps[i].end(s)
			if !ps[i].retain {
				q.sent(ps[i].topic)
			}
		}
	}
}

// end finishes p and tells what became of it.
func (p *publishing) end(s *Server) {
	_, err := p.finish()
	if p.cancel != nil {
		p.cancel()
	}
	if err != nil {
		s.o.Events.PublishDropped("backplane", string(p.topic))
		s.o.Events.Failed("publishing over MQTT", err)
		return
	}
	s.o.Events.Published(transportMQTT, p.size, p.retain, s.o.Now().Sub(p.began))
}
