package local

import (
	"context"
	"sync"

	"pubsub"
)

// announcer sends subscribers the messages that became durable after their publishers had
// given up. Such a message is retained now, and its publisher no longer sends it.
type announcer struct {
	// set before the first message is put
	store *store
	bus   *bus

	mu     sync.Mutex
	topics map[pubsub.Topic]struct{} // guarded by mu; nil while run is not running
	done   sync.WaitGroup
}

// add queues the retained message of t for sending. It does not block.
func (a *announcer) add(t pubsub.Topic) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.topics == nil {
		a.topics = make(map[pubsub.Topic]struct{})
		a.done.Go(a.run)
	}
	a.topics[t] = struct{}{}
}

// run sends messages until none is queued.
func (a *announcer) run() {
	for {
		a.mu.Lock()
		if len(a.topics) == 0 {
			a.topics = nil
			a.mu.Unlock()
			return
		}
		var topic pubsub.Topic
		for topic = range a.topics {
			break
		}
		delete(a.topics, topic)
		a.mu.Unlock()
		if err := a.send(topic); err != nil {
			a.store.engine.report("late announcement failed", err)
		}
	}
}

// send sends the retained message of t. If a newer message is not durable yet, its own
// publisher or a later call sends it.
func (a *announcer) send(t pubsub.Topic) error {
	if err := a.store.engine.enter(); err != nil {
		return nil // closed: a later subscriber reads the message from the store
	}
	defer a.store.engine.leave()
	m, h, ok, err := a.store.read(t)
	if err != nil || !ok || a.store.log.synced.Load() < h.seq {
		return err
	}
	_ = a.bus.Send(context.Background(), m) // it fails only if there are no subscribers
	return nil
}

// wait waits until all added messages have been sent.
func (a *announcer) wait() { a.done.Wait() }
