package hub

import (
	"slices"
	"sync"

	"pubsub"
)

const (
	// recentMinBytes is the length of the shortest message that is kept: encoding a shorter
	// one costs no more than the lookup.
	recentMinBytes = 512
	// recentMaxCount is how many messages are kept.
	recentMaxCount = 256
	// recentDivisor is the divisor of the bound of all logs that gives the bound of recent.
	recentDivisor = 8
)

// recent keeps the retained messages that were read from the store last, while their
// topics have members, so that new members share the encodings. A message is looked up by
// the version that the store has returned, so it cannot be out of date. It counts against
// the bound of all logs.
type recent struct {
	mu sync.Mutex
	// guarded by mu
	messages map[pubsub.Topic]*pubsub.PreparedMessage
	order   []pubsub.Topic // of parcels, oldest first
}

// prepared returns m, the store's message for t, as a prepared that other members may share.
func (r *recent) prepared(h *Hub, t *topic, m pubsub.Message) *pubsub.PreparedMessage {
	m.Topic = t.name
	if len(m.Data) < recentMinBytes {
		return h.prepare(pubsub.NewPreparedMessage(m))
	}
	st := h.index.stripe(t.name)
	st.mu.RLock()
	defer st.mu.RUnlock()
	if st.topics[t.name] != t { // all members have left meanwhile
		return h.prepare(pubsub.NewPreparedMessage(m))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.messages[t.name]
	if p == nil || p.Version != m.Version {
		p = h.prepare(pubsub.NewPreparedMessage(m))
		r.put(p, &h.backlog)
	}
	r.bound(&h.backlog)
	return p
}

// put keeps p in place of the previous parcel of its topic; mu is held.
func (r *recent) put(p *pubsub.PreparedMessage, b *backlog) {
	if r.messages == nil {
		r.messages = make(map[pubsub.Topic]*pubsub.PreparedMessage)
	}
	added := p.Hold()
	if old := r.messages[p.Topic]; old != nil {
		added -= old.Release()
	} else {
		r.order = append(r.order, p.Topic)
	}
	r.messages[p.Topic] = p
	b.bytes.Add(added)
}

// remove drops the parcel of the topic name, whose last member leaves. The topic's stripe
// is locked.
func (r *recent) remove(name pubsub.Topic, b *backlog) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.messages[name]
	if p == nil {
		return
	}
	b.bytes.Add(-p.Release())
	delete(r.messages, name)
	i := slices.Index(r.order, name)
	r.order = slices.Delete(r.order, i, i+1)
}

// bound drops the oldest parcels until the rest are within the bounds; mu is held.
func (r *recent) bound(b *backlog) {
	var size int64
	for _, p := range r.messages {
		size += p.Size()
	}
	n := 0
	for n < len(r.order) && (size > b.limit/recentDivisor || len(r.order)-n > recentMaxCount) {
		p := r.messages[r.order[n]]
		size -= p.Size()
		b.bytes.Add(-p.Release())
		delete(r.messages, r.order[n])
		n++
	}
	r.order = append(r.order[:0], r.order[n:]...)
}

// clear drops all parcels, and returns how many bytes that frees.
func (r *recent) clear(b *backlog) (freed int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.messages {
		freed += p.Release()
	}
	r.messages, r.order = nil, nil
	b.bytes.Add(-freed)
	return freed
}
