package hub

import (
	"slices"
	"sync"

	"pubsub"
)

const (
	// recentMinBytes is the minimum length of a message that is cached: encoding a shorter
	// one costs no more than the lookup.
	recentMinBytes = 512
	// recentMaxCount is the maximum number of cached messages.
	recentMaxCount = 256
	// recentDivisor gives the maximum size of the cache, as a part of the backlog limit.
	recentDivisor = 8
)

// recent caches the retained messages that were last read from the store, as long as
// their topics have subscribers, so that new subscribers share the encodings. A message
// is looked up by the version that the store has returned, so it cannot be out of date.
// It counts against the backlog limit.
type recent struct {
	mu sync.Mutex
	// guarded by mu
	messages map[pubsub.Topic]*pubsub.PreparedMessage
	order    []pubsub.Topic // the keys of messages, oldest first
}

// prepared returns m, the store's message for t, as a prepared message that other
// subscribers may share.
func (r *recent) prepared(h *Hub, t *topic, m pubsub.Message) *pubsub.PreparedMessage {
	m.Topic = t.name
	if len(m.Data) < recentMinBytes {
		return h.prepare(pubsub.NewPreparedMessage(m))
	}
	st := h.index.stripe(t.name)
	st.mu.RLock()
	defer st.mu.RUnlock()
	if st.topics[t.name] != t { // all subscribers have left meanwhile
		return h.prepare(pubsub.NewPreparedMessage(m))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	pm := r.messages[t.name]
	if pm == nil || pm.Version != m.Version {
		pm = h.prepare(pubsub.NewPreparedMessage(m))
		r.put(pm, &h.backlog)
	}
	r.evict(&h.backlog)
	return pm
}

// put replaces the cached message of pm's topic by pm; mu must be held.
func (r *recent) put(pm *pubsub.PreparedMessage, b *backlog) {
	if r.messages == nil {
		r.messages = make(map[pubsub.Topic]*pubsub.PreparedMessage)
	}
	added := pm.Hold()
	if old := r.messages[pm.Topic]; old != nil {
		added -= old.Release()
	} else {
		r.order = append(r.order, pm.Topic)
	}
	r.messages[pm.Topic] = pm
	b.bytes.Add(added)
}

// remove removes the message of a topic whose last subscriber leaves. The topic's stripe
// is locked.
func (r *recent) remove(name pubsub.Topic, b *backlog) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pm := r.messages[name]
	if pm == nil {
		return
	}
	b.bytes.Add(-pm.Release())
	delete(r.messages, name)
	i := slices.Index(r.order, name)
	r.order = slices.Delete(r.order, i, i+1)
}

// evict removes the oldest messages until the others are within the limits; mu must be held.
func (r *recent) evict(b *backlog) {
	var size int64
	for _, pm := range r.messages {
		size += pm.Size()
	}
	n := 0
	for n < len(r.order) && (size > b.limit/recentDivisor || len(r.order)-n > recentMaxCount) {
		pm := r.messages[r.order[n]]
		size -= pm.Size()
		b.bytes.Add(-pm.Release())
		delete(r.messages, r.order[n])
		n++
	}
	r.order = append(r.order[:0], r.order[n:]...)
}

// clear removes all messages and returns the number of bytes freed.
func (r *recent) clear(b *backlog) (freed int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, pm := range r.messages {
		freed += pm.Release()
	}
	r.messages, r.order = nil, nil
	b.bytes.Add(-freed)
	return freed
}
