package hub

import (
	"context"
	"hash/maphash"
	"slices"
	"strings"
	"sync"

	"pubsub"
)

// index finds the logs of a topic. It has stripes so that subscribers and publishers
// rarely wait for one another.
//
// The order of locks is stripe, then log or recent; and subscriber, then wheel. The locks
// of a log and of a subscriber are never held at the same time.
type index struct {
	seed    maphash.Seed
	stripes [64]stripe
}

type stripe struct {
	mu     sync.RWMutex
	topics map[pubsub.Topic]*topic // guarded by mu
}

// topic is the state of a topic that has subscriptions on this node.
type topic struct {
	name pubsub.Topic // immutable

	// guarded by the stripe's mu
	logs  *topicLog      // one for each shard with subscriptions, linked by nextLog
	joins int            // number of subscriptions that have joined or are joining
	call  *subscribeCall // nil if Backplane.Subscribe must be called

	// firstLog is the first log. Most topics have no other.
	firstLog topicLog
}

// newLog adds a log of sh to t; the stripe's mu must be held. It uses t.firstLog only once,
// because the shard may still access a log that has become empty.
func (t *topic) newLog(sh *shard) *topicLog {
	l := &t.firstLog
	if l.shard != nil {
		l = new(topicLog)
	}
	l.shard, l.topic, l.nextLog = sh, t, t.logs
	l.subscriptions = l.subsArray[:0]
	t.logs = l
	return l
}

// subscribeCall is a call of Backplane.Subscribe, which concurrent joins share.
type subscribeCall struct {
	done chan struct{} // immutable; closed when the call has returned
	err  error         // set before done is closed
}

// subscribed replaces the calls that have succeeded, so that a million topics do not need
// a million of them.
var subscribed = func() *subscribeCall {
	c := &subscribeCall{done: make(chan struct{})}
	close(c.done)
	return c
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

// deliver appends pm to the logs of its topic.
func (x *index) deliver(pm *pubsub.PreparedMessage, h *Hub) {
	st := x.stripe(pm.Topic)
	st.mu.RLock()
	defer st.mu.RUnlock()
	t := st.topics[pm.Topic]
	if t == nil {
		return
	}
	pm.Topic = t.name // the message's own string may keep a whole request in memory
	h.prepare(pm)
	for l := t.logs; l != nil; l = l.nextLog {
		if l.append(pm, &h.backlog, h.opts.SubscriberBuffer) {
			l.shard.enqueueLog(l)
		}
	}
}

// join adds sub to its shard's log of the topic name. It returns once the backplane
// delivers the topic to this node. After an error sub has not joined.
func (x *index) join(ctx context.Context, sub *Subscription, name pubsub.Topic) error {
	sh := sub.subscriber.shard
	st := x.stripe(name)
	st.mu.Lock()
	t := st.topics[name]
	if t == nil {
		// The clone does not keep the request that name is a part of in memory.
		t = &topic{name: pubsub.Topic(strings.Clone(string(name)))}
		st.topics[t.name] = t
	}
	t.joins++
	l := t.logs
	for l != nil && l.shard != sh {
		l = l.nextLog
	}
	if l == nil {
		l = t.newLog(sh)
	}
	l.join(sub)
	first := t.call == nil
	if first {
		t.call = &subscribeCall{done: make(chan struct{})}
	}
	c := t.call
	st.mu.Unlock()

	if first {
		// The call is not bound to ctx, because other joins wait for it, too.
		callCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sh.hub.opts.SubscribeTimeout)
		c.err = sh.hub.opts.Backplane.Subscribe(callCtx, t.name)
		cancel()
		st.mu.Lock()
		t.call = subscribed
		if c.err != nil {
			t.call = nil // the next join tries again
		}
		st.mu.Unlock()
		close(c.done)
	} else {
		select {
		case <-c.done:
		case <-ctx.Done():
			x.leave(sub)
			return ctx.Err()
		}
	}
	if c.err != nil {
		x.leave(sub)
	}
	return c.err
}

// leave undoes join. After the last subscription it removes the topic.
func (x *index) leave(sub *Subscription) {
	h := sub.subscriber.shard.hub
	name := sub.Topic()
	st := x.stripe(name)
	st.mu.Lock()
	defer st.mu.Unlock()
	h.counts.dropped.Add(sub.log.leave(sub, &h.backlog))
	t := st.topics[name]
	t.joins--
	if sub.log.empty() {
		for l := &t.logs; ; l = &(*l).nextLog {
			if *l == sub.log {
				*l = sub.log.nextLog
				break
			}
		}
	}
	if t.joins > 0 {
		return
	}
	delete(st.topics, name)
	h.recent.remove(name, &h.backlog)
	// The stripe is still locked, so that a later Subscribe to the topic comes after this.
	if t.call != nil {
		h.opts.Backplane.Unsubscribe(name)
	}
}

// TopicCount is the number of subscribers that a topic has on this node.
type TopicCount struct {
	Topic       pubsub.Topic
	Subscribers int
}

// Topics returns, in byte order, up to limit topics that have subscribers on this node,
// begin with prefix and sort after the topic after.
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
				cut() // bounds the list, because there may be a million topics
			}
		}
		st.mu.RUnlock()
	}
	cut()
	return found
}
