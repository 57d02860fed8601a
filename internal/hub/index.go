package hub

import (
	"context"
	"hash/maphash"
	"slices"
	"strings"
	"sync"

	"pubsub"
)

// index finds a topic's logs. It is striped, so that joining members and
// publishers rarely wait for one another. A stripe's lock is taken before a
// log's.
type index struct {
	seed    maphash.Seed
	stripes [64]stripe
}

type stripe struct {
	mu     sync.RWMutex
	topics map[pubsub.Topic]*topic // guarded by mu
}

// topic is what a node has of a topic while it has members there.
type topic struct {
	name pubsub.Topic // immutable

	// guarded by the stripe's mu
	logs  *topicLog // one for each shard with members, linked by nextLog
	joins int       // members that have joined or are joining
	call  *subscribeCall     // nil if Subscribe must be called

	// firstLog is the log that is made firstLog: most topics have no other.
	firstLog topicLog // minds its fields itself
}

// newLog puts a log of a shard to those that t has; the stripe's mu is held. The one
// that lies in t serves once: a shard may still look at one that has been emptied.
func (t *topic) newLog(s *shard) *topicLog {
	l := &t.firstLog
	if l.shard != nil {
		l = new(topicLog)
	}
	l.shard, l.topic, l.nextLog = s, t, t.logs
	l.subscriptions = l.subsArray[:0]
	t.logs = l
	return l
}

// subscribeCall is a call of Subscribe.
type subscribeCall struct {
	done chan struct{} // immutable; closed when it has returned
	err      error         // set before answered is closed
}

// subscribed takes the place of a topic's own call once that has succeeded: a million
// topics need no million of them.
var subscribed = func() *subscribeCall {
	w := &subscribeCall{done: make(chan struct{})}
	close(w.done)
	return w
}()

func (x *index) init() {
	x.seed = maphash.MakeSeed()
	for i := range x.stripes {
		x.stripes[i].topics = make(map[pubsub.Topic]*topic)
	}
}

func (x *index) stripe(name pubsub.Topic) *stripe {
	return &x.stripes[maphash.String(x.seed, string(name))%uint64(len(x.stripes))]
}

// deliver appends p to the topic's logs, if there are any.
func (x *index) deliver(p *pubsub.PreparedMessage, h *Hub) {
	st := x.stripe(p.Topic)
	st.mu.RLock()
	defer st.mu.RUnlock()
	t := st.topics[p.Topic]
	if t == nil {
		return
	}
	// The topic's own string may be part of a whole request.
	p.Topic = t.name
	h.prepare(p)
	for l := t.logs; l != nil; l = l.nextLog {
		if l.append(p, &h.backlog, h.opts.SubscriberBuffer) {
			l.shard.enqueueLog(l)
		}
	}
}

// join puts s at the end of its shard's log of name, and returns when the
// backplane delivers the topic to this node. After an error s has not joined.
func (x *index) join(ctx context.Context, s *Subscription, name pubsub.Topic) error {
	h := s.subscriber.shard.hub
	st := x.stripe(name)
	st.mu.Lock()
	t := st.topics[name]
	if t == nil {
		// A name must not keep alive the request that it was part of.
		t = &topic{name: pubsub.Topic(strings.Clone(string(name)))}
		st.topics[t.name] = t
	}
	t.joins++
	l := t.logs
	for l != nil && l.shard != s.subscriber.shard {
		l = l.nextLog
	}
	if l == nil {
		l = t.newLog(s.subscriber.shard)
	}
	l.join(s)
	first := t.call == nil
	if first {
		t.call = &subscribeCall{done: make(chan struct{})}
	}
	w := t.call
	st.mu.Unlock()

	if first {
		// Not bound to ctx: others wait for the same answer.
		wctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), h.opts.SubscribeTimeout)
		w.err = h.opts.Backplane.Subscribe(wctx, t.name)
		cancel()
		st.mu.Lock()
		t.call = subscribed
		if w.err != nil {
			t.call = nil // whoever joins next asks again
		}
		st.mu.Unlock()
		close(w.done)
	} else {
		select {
		case <-w.done:
		case <-ctx.Done():
			x.leave(s)
			return ctx.Err()
		}
	}
	if w.err != nil {
		x.leave(s)
	}
	return w.err
}

// leave undoes join. The last member of a topic to leave drops it.
func (x *index) leave(s *Subscription) {
	h := s.subscriber.shard.hub
	name := s.Topic()
	st := x.stripe(name)
	st.mu.Lock()
	defer st.mu.Unlock()
	h.counts.dropped.Add(s.log.leave(s, &h.backlog))
	t := st.topics[name]
	t.joins--
	if s.log.empty() {
		for p := &t.logs; ; p = &(*p).nextLog {
			if *p == s.log {
				*p = s.log.nextLog
				break
			}
		}
	}
	if t.joins > 0 {
		return
	}
	delete(st.topics, name)
	h.recent.remove(name, &h.backlog)
	// With the stripe locked, so that a Subscribe for the same topic comes after.
	if t.call != nil {
		h.opts.Backplane.Unsubscribe(name)
	}
}

// TopicCount says how many members of this node subscribe to a topic.
type TopicCount struct {
	Topic       pubsub.Topic
	Subscribers int
}

// Topics returns, in byte order, up to limit topics that have subscribers on
// this node, begin with prefix and come after the topic after.
func (h *Hub) Topics(prefix string, after pubsub.Topic, limit int) []TopicCount {
	var found []TopicCount
	cut := func() {
		slices.SortFunc(found, func(a, b TopicCount) int { return strings.Compare(string(a.Topic), string(b.Topic)) })
		found = found[:min(len(found), limit)]
	}
	for i := range h.index.stripes {
		st := &h.index.stripes[i]
		st.mu.RLock()
		for name, t := range st.topics {
			if name > after && strings.HasPrefix(string(name), prefix) {
				found = append(found, TopicCount{name, t.joins})
			}
			if len(found) >= 4*limit+1024 {
				cut() // so that a million topics need no list of a million
			}
		}
		st.mu.RUnlock()
	}
	cut()
	return found
}
